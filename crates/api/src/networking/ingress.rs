//! `Ingress` (networking.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::Ingress;
use serde_json::Value;

use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "networking.k8s.io",
    version: "v1",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("networking.k8s.io", "v1", "Ingress")],
    storage: "/registry/ingress",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.networking.v1.Ingress",
    conversion: None,
    ops: &Typed::<IngressStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// What is special about this kind.
pub struct IngressStrategy;

impl Strategy for IngressStrategy {
    type Object = Ingress;
    const HAS_STATUS: bool = true;

    fn row(object: &Ingress, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
