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

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::AGE,
    Column::new("SignerName", "string", "Who shall sign."),
    Column::new("Requestor", "string", "Who asks for the certificate."),
    Column::new(
        "RequestedDuration",
        "string",
        "For how long it shall be valid.",
    ),
    Column::new("Condition", "string", "How far the request is."),
];

/// What is special about this kind.
pub struct CertificateSigningRequestStrategy;

impl Strategy for CertificateSigningRequestStrategy {
    type Object = CertificateSigningRequest;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = false;

    fn default(object: &mut CertificateSigningRequest) {
        crate::defaults::other::default_certificate_signing_request(object);
    }

    crate::kind::keep_status!();

    fn row(object: &CertificateSigningRequest, now: Timestamp) -> Vec<Value> {
        let signer = Some(&object.spec.signer_name);
        let duration = object.spec.expiration_seconds.map_or_else(
            || "<none>".to_owned(),
            |seconds| printing::human_duration(i128::from(seconds) * 1_000_000_000),
        );
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
            printing::text_or(signer, "<none>"),
            object.spec.username.clone().unwrap_or_default().into(),
            duration.into(),
            state(object).into(),
        ]
    }
}

fn state(request: &CertificateSigningRequest) -> String {
    let status = request.status.as_ref();
    let conditions = status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let has = |kind: &str| conditions.iter().any(|condition| condition.type_ == kind);
    let mut state = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if status
        .and_then(|status| status.certificate.as_ref())
        .is_some_and(|certificate| !certificate.0.is_empty())
    {
        state.push_str(",Issued");
    }
    state
}
