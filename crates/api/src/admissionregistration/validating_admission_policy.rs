//! `ValidatingAdmissionPolicy` (admissionregistration.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed, WriteContext};
use crate::printing;
use crate::validation::admissionregistration::{policies, rules};
use crate::validation::expressions::{ExpressionChecker, Unchecked};

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "admissionregistration.k8s.io",
    version: "v1",
    kind: "ValidatingAdmissionPolicy",
    plural: "validatingadmissionpolicies",
    singular: "validatingadmissionpolicy",
    short_names: &[],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicy",
    )],
    storage: "/registry/validatingadmissionpolicies",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
    conversion: None,
    ops: &Typed::<ValidatingAdmissionPolicyStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Validations",
        "integer",
        "How many validations the policy has.",
    ),
    Column::new(
        "ParamKind",
        "string",
        "The kind of the objects that parametrise the policy.",
    ),
    Column::AGE,
];

/// What is special about this kind.
pub struct ValidatingAdmissionPolicyStrategy;

impl Strategy for ValidatingAdmissionPolicyStrategy {
    type Object = ValidatingAdmissionPolicy;
    const HAS_STATUS: bool = true;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn default(object: &mut ValidatingAdmissionPolicy) {
        crate::defaults::admissionregistration::default_validating_admission_policy(object);
    }

    fn prepare_create(object: &mut ValidatingAdmissionPolicy, _: &WriteContext) {
        object.status = Some(Default::default());
    }

    fn prepare_update(
        new: &mut ValidatingAdmissionPolicy,
        old: &ValidatingAdmissionPolicy,
        _: &WriteContext,
    ) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(
        new: &mut ValidatingAdmissionPolicy,
        old: &ValidatingAdmissionPolicy,
        _: &WriteContext,
    ) {
        new.spec.clone_from(&old.spec);
        new.metadata.labels.clone_from(&old.metadata.labels);
        let (meta, old) = (&mut new.metadata, &old.metadata);
        meta.annotations.clone_from(&old.annotations);
        meta.finalizers.clone_from(&old.finalizers);
        meta.owner_references.clone_from(&old.owner_references);
    }

    fn validate_create(object: &ValidatingAdmissionPolicy) -> ErrorList {
        Self::validate_create_with(object, &Unchecked)
    }

    fn validate_create_with(
        object: &ValidatingAdmissionPolicy,
        checker: &dyn ExpressionChecker,
    ) -> ErrorList {
        policies::validate_validating(object, None, checker)
    }

    fn validate_update_with(
        new: &ValidatingAdmissionPolicy,
        old: &ValidatingAdmissionPolicy,
        checker: &dyn ExpressionChecker,
    ) -> ErrorList {
        policies::validate_validating(new, Some(old), checker)
    }

    fn warnings(
        new: &ValidatingAdmissionPolicy,
        _: Option<&ValidatingAdmissionPolicy>,
    ) -> Vec<String> {
        rules::name_warnings(&new.metadata.name)
    }

    fn validate_status_update(
        new: &ValidatingAdmissionPolicy,
        _: &ValidatingAdmissionPolicy,
    ) -> ErrorList {
        policies::validate_status(new)
    }

    fn row(object: &ValidatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
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
            spec.and_then(|spec| spec.validations.as_ref())
                .map_or(0, Vec::len)
                .into(),
            kind.unwrap_or_else(|| "<unset>".to_owned()).into(),
            printing::age(&object.metadata, now),
        ]
    }
}
