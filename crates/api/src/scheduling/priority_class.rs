//! `PriorityClass` (scheduling.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "scheduling.k8s.io",
    version: "v1",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/priorityclasses",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.scheduling.v1.PriorityClass",
    conversion: None,
    ops: &Typed::<PriorityClassStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Value", "integer", "The priority."),
    Column::new(
        "Global-Default",
        "boolean",
        "Whether pods without a class get this one.",
    ),
    Column::AGE,
    Column::new(
        "PreemptionPolicy",
        "string",
        "Whether pods of the class push others out.",
    ),
];

/// What is special about this kind.
pub struct PriorityClassStrategy;

impl Strategy for PriorityClassStrategy {
    type Object = PriorityClass;
    const HAS_GENERATION: bool = true;

    fn default(object: &mut PriorityClass) {
        crate::defaults::other::default_priority_class(object);
    }

    fn validate_create(object: &PriorityClass) -> ErrorList {
        crate::validation::policy::validate_priority_class(object)
    }

    fn validate_update(new: &PriorityClass, old: &PriorityClass) -> ErrorList {
        crate::validation::policy::validate_priority_class_update(new, old)
    }

    fn is_new_generation(_: &PriorityClass, _: &PriorityClass) -> Option<bool> {
        // Upstream never counts on, though a description may change.
        Some(false)
    }

    fn row(object: &PriorityClass, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            object.value.into(),
            object.global_default.unwrap_or(false).into(),
            printing::age(&object.metadata, now),
            object.preemption_policy.clone().unwrap_or_default().into(),
        ]
    }
}
