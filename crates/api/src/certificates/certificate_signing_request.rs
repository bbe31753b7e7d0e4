//! `CertificateSigningRequest` (certificates.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::Value;

use crate::kind::{ALL_VERBS, Column, Kind, STATUS_VERBS, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "certificates.k8s.io",
    version: "v1",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource {
            name: "approval",
            kind: ("certificates.k8s.io", "v1", "CertificateSigningRequest"),
            verbs: STATUS_VERBS,
        },
        Subresource::status("certificates.k8s.io", "v1", "CertificateSigningRequest"),
    ],
    storage: "/registry/certificatesigningrequests",
    columns: COLUMNS,
    fields: &[("spec.signerName", "/spec/signerName")],
    schema: "io.k8s.api.certificates.v1.CertificateSigningRequest",
    conversion: None,
    ops: &Typed::<CertificateSigningRequestStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// What is special about this kind.
pub struct CertificateSigningRequestStrategy;

impl Strategy for CertificateSigningRequestStrategy {
    type Object = CertificateSigningRequest;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = false;

    fn row(object: &CertificateSigningRequest, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
