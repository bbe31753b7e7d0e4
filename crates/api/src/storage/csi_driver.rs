//! `CSIDriver` (storage.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::CSIDriver;
use serde_json::Value;

use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "storage.k8s.io",
    version: "v1",
    kind: "CSIDriver",
    plural: "csidrivers",
    singular: "csidriver",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/csidrivers",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.storage.v1.CSIDriver",
    conversion: None,
    ops: &Typed::<CSIDriverStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// What is special about this kind.
pub struct CSIDriverStrategy;

impl Strategy for CSIDriverStrategy {
    type Object = CSIDriver;
    const HAS_GENERATION: bool = true;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn row(object: &CSIDriver, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
