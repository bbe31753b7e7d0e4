//! `MutatingAdmissionPolicy` (admissionregistration.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicy;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;
use crate::validation::admissionregistration::{policies, rules};
use crate::validation::expressions::{ExpressionChecker, Unchecked};

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "admissionregistration.k8s.io",
    version: "v1",
    kind: "MutatingAdmissionPolicy",
    plural: "mutatingadmissionpolicies",
    singular: "mutatingadmissionpolicy",
    short_names: &[],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/mutatingadmissionpolicies",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy",
    conversion: None,
    ops: &Typed::<MutatingAdmissionPolicyStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Mutations", "integer", "How many mutations the policy has."),
    Column::new(
        "ParamKind",
        "string",
        "The kind of the objects that parametrise the policy.",
    ),
    Column::AGE,
];

/// What is special about this kind.
pub struct MutatingAdmissionPolicyStrategy;

impl Strategy for MutatingAdmissionPolicyStrategy {
    type Object = MutatingAdmissionPolicy;
    const HAS_GENERATION: bool = true;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn default(object: &mut MutatingAdmissionPolicy) {
        crate::defaults::admissionregistration::default_mutating_admission_policy(object);
    }

    fn validate_create(object: &MutatingAdmissionPolicy) -> ErrorList {
        Self::validate_create_with(object, &Unchecked)
    }

    fn validate_create_with(
        object: &MutatingAdmissionPolicy,
        checker: &dyn ExpressionChecker,
    ) -> ErrorList {
        policies::validate_mutating(object, None, checker)
    }

    fn validate_update_with(
        new: &MutatingAdmissionPolicy,
        old: &MutatingAdmissionPolicy,
        checker: &dyn ExpressionChecker,
    ) -> ErrorList {
        policies::validate_mutating(new, Some(old), checker)
    }

    fn warnings(new: &MutatingAdmissionPolicy, _: Option<&MutatingAdmissionPolicy>) -> Vec<String> {
        rules::name_warnings(&new.metadata.name)
    }

    fn row(object: &MutatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.as_ref();
        let kind = spec.and_then(|spec| spec.param_kind.as_ref()).map(|kind| {
            format!(
                "{}/{}",
                kind.api_version.as_deref().unwrap_or_default(),
                kind.kind.as_deref().unwrap_or_default()
            )
        });
        vec![
            object.metadata.name.clone().into(),
            spec.and_then(|spec| spec.mutations.as_ref())
                .map_or(0, Vec::len)
                .into(),
            kind.unwrap_or_else(|| "<unset>".to_owned()).into(),
            printing::age(&object.metadata, now),
        ]
    }
}
