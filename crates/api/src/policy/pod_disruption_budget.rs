//! `PodDisruptionBudget` (policy/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::Value;

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

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// What is special about this kind.
pub struct PodDisruptionBudgetStrategy;

impl Strategy for PodDisruptionBudgetStrategy {
    type Object = PodDisruptionBudget;
    const HAS_STATUS: bool = true;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn row(object: &PodDisruptionBudget, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
