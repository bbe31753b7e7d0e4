//! `CSINode` (storage.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::CSINode;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "storage.k8s.io",
    version: "v1",
    kind: "CSINode",
    plural: "csinodes",
    singular: "csinode",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/csinodes",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.storage.v1.CSINode",
    conversion: None,
    ops: &Typed::<CSINodeStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Drivers", "integer", "How many drivers the node has."),
    Column::AGE,
];

/// What is special about this kind.
pub struct CSINodeStrategy;

impl Strategy for CSINodeStrategy {
    type Object = CSINode;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn validate_create(object: &CSINode) -> ErrorList {
        crate::validation::attachments::validate_csi_node(object)
    }

    fn validate_update(new: &CSINode, old: &CSINode) -> ErrorList {
        crate::validation::attachments::validate_csi_node_update(new, old)
    }

    fn row(object: &CSINode, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            object.spec.drivers.len().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
