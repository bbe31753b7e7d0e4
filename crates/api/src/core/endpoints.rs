//! `Endpoints` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Endpoints;
use serde_json::Value;

use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/services/endpoints",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.core.v1.Endpoints",
    conversion: None,
    ops: &Typed::<EndpointsStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// What is special about this kind.
pub struct EndpointsStrategy;

impl Strategy for EndpointsStrategy {
    type Object = Endpoints;
    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn row(object: &Endpoints, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
