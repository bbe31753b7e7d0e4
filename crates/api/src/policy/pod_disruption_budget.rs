//! `PodDisruptionBudget` (policy/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "policy",
    version: "v1",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("policy", "v1", "PodDisruptionBudget")],
    storage: "/registry/poddisruptionbudgets",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.policy.v1.PodDisruptionBudget",
    conversion: None,
    ops: &Typed::<PodDisruptionBudgetStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Min Available",
        "string",
        "How many pods must be available.",
    ),
    Column::new(
        "Max Unavailable",
        "string",
        "How many pods may be unavailable.",
    ),
    Column::new(
        "Allowed Disruptions",
        "integer",
        "How many pods may be evicted now.",
    ),
    Column::AGE,
];

/// What is special about this kind.
pub struct PodDisruptionBudgetStrategy;

impl Strategy for PodDisruptionBudgetStrategy {
    type Object = PodDisruptionBudget;
    const HAS_STATUS: bool = true;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn default(object: &mut PodDisruptionBudget) {
        crate::defaults::other::default_pod_disruption_budget(object);
    }

    crate::kind::keep_status!();

    fn validate_create(object: &PodDisruptionBudget) -> ErrorList {
        crate::validation::policy::validate_pod_disruption_budget(object)
    }

    fn validate_update(new: &PodDisruptionBudget, old: &PodDisruptionBudget) -> ErrorList {
        crate::validation::policy::validate_pod_disruption_budget_update(new, old)
    }

    fn validate_status_update(new: &PodDisruptionBudget, old: &PodDisruptionBudget) -> ErrorList {
        crate::validation::policy::validate_pod_disruption_budget_status_update(new, old)
    }

    fn row(object: &PodDisruptionBudget, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.as_ref();
        let text = |value: Option<&IntOrString>| match value {
            None => "N/A".to_owned(),
            Some(IntOrString::Int(number)) => number.to_string(),
            Some(IntOrString::String(text)) => text.clone(),
        };
        vec![
            object.metadata.name.clone().into(),
            text(spec.and_then(|spec| spec.min_available.as_ref())).into(),
            text(spec.and_then(|spec| spec.max_unavailable.as_ref())).into(),
            object
                .status
                .as_ref()
                .and_then(|status| status.disruptions_allowed)
                .unwrap_or(0)
                .into(),
            printing::age(&object.metadata, now),
        ]
    }
}
