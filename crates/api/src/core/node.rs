//! `Node` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::Value;

use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed, Verb};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource {
            name: "proxy",
            kind: ("", "v1", "NodeProxyOptions"),
            verbs: &[
                Verb::Create,
                Verb::Delete,
                Verb::Get,
                Verb::Patch,
                Verb::Update,
            ],
        },
        Subresource::status("", "v1", "Node"),
    ],
    storage: "/registry/minions",
    columns: COLUMNS,
    fields: &[("spec.unschedulable", "/spec/unschedulable")],
    schema: "io.k8s.api.core.v1.Node",
    conversion: None,
    ops: &Typed::<NodeStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// What is special about this kind.
pub struct NodeStrategy;

impl Strategy for NodeStrategy {
    type Object = Node;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = false;

    fn row(object: &Node, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
