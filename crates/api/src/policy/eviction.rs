//! `Eviction` (policy/v1): a body of subresources, never stored.

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::Eviction;
use serde_json::Value;

use crate::kind::{Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The kind's entry beside the table of resources.
pub const KIND: Kind = Kind {
    group: "policy",
    version: "v1",
    kind: "Eviction",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: &[],
    subresources: &[],
    storage: "",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.policy.v1.Eviction",
    conversion: None,
    ops: &Typed::<EvictionStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::CREATED_AT];

/// What is special about this kind.
pub struct EvictionStrategy;

impl Strategy for EvictionStrategy {
    type Object = Eviction;

    fn row(object: &Eviction, _: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::created_at(&object.metadata),
        ]
    }
}
