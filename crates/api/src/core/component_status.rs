//! `ComponentStatus` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ComponentStatus;
use serde_json::Value;

use crate::kind::{Column, Kind, Scope, Strategy, Typed, Verb};

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ComponentStatus",
    plural: "componentstatuses",
    singular: "componentstatus",
    short_names: &["cs"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: &[Verb::Get, Verb::List],
    subresources: &[],
    storage: "",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.core.v1.ComponentStatus",
    conversion: None,
    ops: &Typed::<ComponentStatusStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Status", "string", "What state it is in."),
    Column::new("Message", "string", "Message"),
    Column::new("Error", "string", "Error"),
];

/// What is special about this kind.
pub struct ComponentStatusStrategy;

impl Strategy for ComponentStatusStrategy {
    type Object = ComponentStatus;

    fn row(object: &ComponentStatus, _: Timestamp) -> Vec<Value> {
        let healthy = object
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "Healthy");
        let status = match healthy {
            None => "Unknown",
            Some(condition) if condition.status == "True" => "Healthy",
            Some(_) => "Unhealthy",
        };
        let text = |text: Option<&String>| text.cloned().unwrap_or_default();
        vec![
            object.metadata.name.clone().into(),
            status.into(),
            text(healthy.and_then(|condition| condition.message.as_ref())).into(),
            text(healthy.and_then(|condition| condition.error.as_ref())).into(),
        ]
    }
}
