//! `Scale` (autoscaling/v1): a body of subresources, never stored.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use serde_json::Value;

use crate::kind::{Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The kind's entry beside the table of resources.
pub const KIND: Kind = Kind {
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
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
    schema: "io.k8s.api.autoscaling.v1.Scale",
    conversion: None,
    ops: &Typed::<ScaleStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Desired", "integer", "How many pods are asked for."),
    Column::new("Available", "integer", "How many pods there are."),
    Column::AGE,
];

/// What is special about this kind.
pub struct ScaleStrategy;

impl Strategy for ScaleStrategy {
    type Object = Scale;

    fn row(object: &Scale, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            object
                .spec
                .as_ref()
                .and_then(|spec| spec.replicas)
                .unwrap_or(0)
                .into(),
            object
                .status
                .as_ref()
                .map_or(0, |status| status.replicas)
                .into(),
            printing::age(&object.metadata, now),
        ]
    }
}
