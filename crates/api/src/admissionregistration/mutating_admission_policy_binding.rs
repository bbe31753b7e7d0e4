//! `MutatingAdmissionPolicyBinding` (admissionregistration.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicyBinding;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;
use crate::validation::admissionregistration::{bindings, rules};

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "admissionregistration.k8s.io",
    version: "v1",
    kind: "MutatingAdmissionPolicyBinding",
    plural: "mutatingadmissionpolicybindings",
    singular: "mutatingadmissionpolicybinding",
    short_names: &[],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/mutatingadmissionpolicybindings",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding",
    conversion: None,
    ops: &Typed::<MutatingAdmissionPolicyBindingStrategy>::new(),
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
pub struct MutatingAdmissionPolicyBindingStrategy;

impl Strategy for MutatingAdmissionPolicyBindingStrategy {
    type Object = MutatingAdmissionPolicyBinding;
    const HAS_GENERATION: bool = true;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn default(object: &mut MutatingAdmissionPolicyBinding) {
        crate::defaults::admissionregistration::default_mutating_admission_policy_binding(object);
    }

    fn validate_create(object: &MutatingAdmissionPolicyBinding) -> ErrorList {
        bindings::validate_mutating(object)
    }

    fn warnings(
        new: &MutatingAdmissionPolicyBinding,
        _: Option<&MutatingAdmissionPolicyBinding>,
    ) -> Vec<String> {
        rules::name_warnings(&new.metadata.name)
    }

    fn row(object: &MutatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.as_ref();
        let parameters = spec
            .and_then(|spec| spec.param_ref.as_ref())
            .and_then(|parameters| {
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
            spec.and_then(|spec| spec.policy_name.clone())
                .unwrap_or_default()
                .into(),
            parameters.unwrap_or_else(|| "<unset>".to_owned()).into(),
            printing::age(&object.metadata, now),
        ]
    }
}
