//! `ReplicaSet` (apps/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::Value;

use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource::SCALE,
        Subresource::status("apps", "v1", "ReplicaSet"),
    ],
    storage: "/registry/replicasets",
    columns: COLUMNS,
    fields: &[("status.replicas", "/status/replicas")],
    schema: "io.k8s.api.apps.v1.ReplicaSet",
    conversion: None,
    ops: &Typed::<ReplicaSetStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// What is special about this kind.
pub struct ReplicaSetStrategy;

impl Strategy for ReplicaSetStrategy {
    type Object = ReplicaSet;
    const HAS_STATUS: bool = true;

    fn row(object: &ReplicaSet, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
