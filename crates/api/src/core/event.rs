//! `Event` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

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

const COLUMNS: &[Column] = &[
    Column::new("Last Seen", "string", "When it happened last."),
    Column::new("Type", "string", "Normal or Warning."),
    Column::new("Reason", "string", "Why, in one word."),
    Column::new("Object", "string", "What it is about."),
    Column::new(
        "Subobject",
        "string",
        "What part of the object it is about.",
    )
    .wide(),
    Column::new("Source", "string", "Who reported it.").wide(),
    Column::new("Message", "string", "What happened."),
    Column::new("First Seen", "string", "When it happened first.").wide(),
    Column::new("Count", "string", "How often it happened.").wide(),
    Column::new("Name", "string", "The name of the event itself.")
        .name()
        .wide(),
];

/// What is special about this kind.
pub struct EventStrategy;

impl Strategy for EventStrategy {
    type Object = Event;
    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn default(object: &mut Event) {
        crate::defaults::core::default_event(object);
    }

    fn validate_create(object: &Event) -> ErrorList {
        crate::validation::events::validate_event(object)
    }

    fn validate_update(new: &Event, old: &Event) -> ErrorList {
        crate::validation::events::validate_event_update(new, old)
    }

    fn row(object: &Event, now: Timestamp) -> Vec<Value> {
        let first = match &object.first_timestamp {
            Some(time) => printing::since(Some(time), now),
            None => printing::since_micro(object.event_time.as_ref(), now),
        };
        let (mut last, mut count) = match &object.last_timestamp {
            Some(time) => (printing::since(Some(time), now), object.count.unwrap_or(0)),
            None => (first.clone(), object.count.unwrap_or(0)),
        };
        if let Some(series) = &object.series {
            last = printing::since_micro(series.last_observed_time.as_ref(), now);
            count = series.count.unwrap_or(0);
        } else if count == 0 {
            // Events of the new API that happened once have no count.
            count = 1;
        }
        let about = &object.involved_object;
        let source = object.source.as_ref();
        vec![
            last.into(),
            object.type_.clone().unwrap_or_default().into(),
            object.reason.clone().unwrap_or_default().into(),
            printing::kind_and_name(about.kind.as_deref(), about.name.as_deref()).into(),
            about.field_path.clone().unwrap_or_default().into(),
            printing::event_source(
                [
                    source.and_then(|source| source.component.as_ref()),
                    object.reporting_component.as_ref(),
                ],
                [
                    source.and_then(|source| source.host.as_ref()),
                    object.reporting_instance.as_ref(),
                ],
            )
            .into(),
            object.message.as_deref().unwrap_or_default().trim().into(),
            first.into(),
            count.into(),
            object.metadata.name.clone().into(),
        ]
    }
}
