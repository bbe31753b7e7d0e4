//! `RuntimeClass` (node.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "node.k8s.io",
    version: "v1",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/runtimeclasses",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.node.v1.RuntimeClass",
    conversion: None,
    ops: &Typed::<RuntimeClassStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Handler", "string", "What the container runtime calls it."),
    Column::AGE,
];

/// What is special about this kind.
pub struct RuntimeClassStrategy;

impl Strategy for RuntimeClassStrategy {
    type Object = RuntimeClass;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;
    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn default(object: &mut RuntimeClass) {
        crate::defaults::other::default_runtime_class(object);
    }

    fn validate_create(object: &RuntimeClass) -> ErrorList {
        crate::validation::runtime_class::validate_runtime_class(object)
    }

    fn validate_update(new: &RuntimeClass, old: &RuntimeClass) -> ErrorList {
        crate::validation::runtime_class::validate_runtime_class_update(new, old)
    }

    fn warnings(new: &RuntimeClass, _: Option<&RuntimeClass>) -> Vec<String> {
        crate::validation::warnings::warnings_runtime_class(new)
    }

    fn row(object: &RuntimeClass, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            object.handler.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
