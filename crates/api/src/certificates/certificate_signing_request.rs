//! `CertificateSigningRequest` (certificates.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{
    ALL_VERBS, Column, Kind, STATUS_VERBS, Scope, Strategy, Subresource, Typed, WriteContext,
};
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

    /// Who asks is said by the server.
    fn prepare_create(object: &mut CertificateSigningRequest, context: &WriteContext) {
        object.status = Some(Default::default());
        let spec = &mut object.spec;
        spec.username = Some(context.user.clone());
        spec.uid = Some(context.uid.clone()).filter(|uid| !uid.is_empty());
        spec.groups = Some(context.groups.clone()).filter(|groups| !groups.is_empty());
        spec.extra = Some(context.extra.clone()).filter(|extra| !extra.is_empty());
    }

    /// A request never changes; what becomes of it is said by the subresources.
    fn prepare_update(
        new: &mut CertificateSigningRequest,
        old: &CertificateSigningRequest,
        _: &WriteContext,
    ) {
        new.spec.clone_from(&old.spec);
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(
        new: &mut CertificateSigningRequest,
        old: &CertificateSigningRequest,
        context: &WriteContext,
    ) {
        new.spec.clone_from(&old.spec);
        let before = old.status.as_ref();
        let before = before.and_then(|status| status.conditions.as_deref());
        let status = new.status.get_or_insert_default();
        let mut conditions = status.conditions.take().unwrap_or_default();
        keep_verdicts(&mut conditions, before.unwrap_or_default());
        stamp(&mut conditions, before.unwrap_or_default(), context.now);
        status.conditions = Some(conditions).filter(|list| !list.is_empty());
    }

    fn validate_create(object: &CertificateSigningRequest) -> ErrorList {
        crate::validation::certificates::validate_certificate_signing_request(object)
    }

    fn validate_status_update(
        new: &CertificateSigningRequest,
        old: &CertificateSigningRequest,
    ) -> ErrorList {
        crate::validation::certificates::validate_certificate_signing_request_status_update(
            new,
            old,
            crate::validation::certificates::Settable::Certificate,
        )
    }

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

/// Takes over the old conditions Approved and Denied where the new object has them too: a signer that sends them back with
/// less in them changes nothing. Where they come or go, validation refuses it.
fn keep_verdicts(
    new: &mut [CertificateSigningRequestCondition],
    old: &[CertificateSigningRequestCondition],
) {
    for kind in ["Approved", "Denied"] {
        let before: Vec<_> = old.iter().filter(|found| found.type_ == kind).collect();
        let mut after: Vec<_> = new.iter_mut().filter(|found| found.type_ == kind).collect();
        if before.len() == after.len() {
            for (after, before) in after.iter_mut().zip(before) {
                (**after).clone_from(before);
            }
        }
    }
}

/// Gives conditions the times that the client left out.
pub fn stamp(
    new: &mut [CertificateSigningRequestCondition],
    old: &[CertificateSigningRequestCondition],
    now: Timestamp,
) {
    for condition in new {
        condition.last_update_time.get_or_insert(Time(now));
        if condition.last_transition_time.is_none() {
            let mut same = old.iter();
            let same = same
                .find(|other| other.type_ == condition.type_ && other.status == condition.status);
            condition.last_transition_time = same
                .and_then(|same| same.last_transition_time.clone())
                .or(Some(Time(now)));
        }
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
