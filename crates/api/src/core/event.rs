//! `Event` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;

use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/events",
    columns: COLUMNS,
    fields: &[
        ("involvedObject.kind", "/involvedObject/kind"),
        ("involvedObject.namespace", "/involvedObject/namespace"),
        ("involvedObject.name", "/involvedObject/name"),
        ("involvedObject.uid", "/involvedObject/uid"),
        ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
        (
            "involvedObject.resourceVersion",
            "/involvedObject/resourceVersion",
        ),
        ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
        ("reason", "/reason"),
        ("reportingComponent", "/reportingComponent"),
        ("source", "/source/component"),
        ("type", "/type"),
    ],
    schema: "io.k8s.api.core.v1.Event",
    conversion: None,
    ops: &Typed::<EventStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::new("Name", "string", "Name").name().wide()];

/// What is special about this kind.
pub struct EventStrategy;

impl Strategy for EventStrategy {
    type Object = Event;
    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn row(object: &Event, _: Timestamp) -> Vec<Value> {
        vec![object.metadata.name.clone().into()]
    }
}
