//! `ValidatingAdmissionPolicyBinding` (admissionregistration.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;
use crate::validation::admissionregistration::{bindings, rules};

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "admissionregistration.k8s.io",
    version: "v1",
    kind: "ValidatingAdmissionPolicyBinding",
    plural: "validatingadmissionpolicybindings",
    singular: "validatingadmissionpolicybinding",
    short_names: &[],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/validatingadmissionpolicybindings",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
    conversion: None,
    ops: &Typed::<ValidatingAdmissionPolicyBindingStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("PolicyName", "string", "The policy that is bound."),
    Column::new(
        "ParamRef",
        "string",
        "The object that parametrises the policy.",
    ),
    Column::AGE,
];

/// What is special about this kind.
pub struct ValidatingAdmissionPolicyBindingStrategy;

impl Strategy for ValidatingAdmissionPolicyBindingStrategy {
    type Object = ValidatingAdmissionPolicyBinding;
    const HAS_GENERATION: bool = true;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn default(object: &mut ValidatingAdmissionPolicyBinding) {
        crate::defaults::admissionregistration::default_validating_admission_policy_binding(object);
    }

    fn validate_create(object: &ValidatingAdmissionPolicyBinding) -> ErrorList {
        bindings::validate_validating(object)
    }

    fn warnings(
        new: &ValidatingAdmissionPolicyBinding,
        _: Option<&ValidatingAdmissionPolicyBinding>,
    ) -> Vec<String> {
        rules::name_warnings(&new.metadata.name)
    }

    fn row(object: &ValidatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
        let spec = &object.spec;
        let parameters = spec.param_ref.as_ref().and_then(|parameters| {
            match (parameters.name.as_deref(), parameters.namespace.as_deref()) {
                // Whether the parameter is in a namespace cannot be told from here.
                (Some(name), None | Some("")) if !name.is_empty() => Some(format!("*/{name}")),
                (Some(name), Some(namespace)) if !name.is_empty() => {
                    Some(format!("{namespace}/{name}"))
                }
                _ => parameters
                    .selector
                    .as_ref()
                    .map(|selector| printing::selector(Some(selector))),
            }
        });
        vec![
            object.metadata.name.clone().into(),
            spec.policy_name.clone().into(),
            parameters.unwrap_or_else(|| "<unset>".to_owned()).into(),
            printing::age(&object.metadata, now),
        ]
    }
}
