//! `IngressClass` (networking.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::IngressClass;
use serde_json::Value;

use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "networking.k8s.io",
    version: "v1",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/ingressclasses",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.networking.v1.IngressClass",
    conversion: None,
    ops: &Typed::<IngressClassStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// What is special about this kind.
pub struct IngressClassStrategy;

impl Strategy for IngressClassStrategy {
    type Object = IngressClass;
    const HAS_GENERATION: bool = true;

    fn row(object: &IngressClass, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
