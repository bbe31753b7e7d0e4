//! `Event` (events.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use serde_json::Value;

use crate::conversion;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "events.k8s.io",
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
        ("involvedObject.kind", "/regarding/kind"),
        ("involvedObject.namespace", "/regarding/namespace"),
        ("involvedObject.name", "/regarding/name"),
        ("involvedObject.uid", "/regarding/uid"),
        ("involvedObject.apiVersion", "/regarding/apiVersion"),
        (
            "involvedObject.resourceVersion",
            "/regarding/resourceVersion",
        ),
        ("involvedObject.fieldPath", "/regarding/fieldPath"),
        ("reason", "/reason"),
        ("reportingComponent", "/reportingController"),
        ("source", "/deprecatedSource/component"),
        ("type", "/type"),
    ],
    schema: "io.k8s.api.events.v1.Event",
    conversion: Some(conversion::EVENTS_V1),
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
