//! `Event` (events.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use serde_json::Value;

use crate::conversion;
use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

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
        ("regarding.kind", "/regarding/kind"),
        ("regarding.namespace", "/regarding/namespace"),
        ("regarding.name", "/regarding/name"),
        ("regarding.uid", "/regarding/uid"),
        ("regarding.apiVersion", "/regarding/apiVersion"),
        ("regarding.resourceVersion", "/regarding/resourceVersion"),
        ("regarding.fieldPath", "/regarding/fieldPath"),
        ("reason", "/reason"),
        ("reportingController", "/reportingController"),
        ("type", "/type"),
    ],
    schema: "io.k8s.api.events.v1.Event",
    conversion: Some(conversion::EVENTS_V1),
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

    fn validate_create(object: &Event) -> ErrorList {
        crate::validation::events::validate_new_event(object)
    }

    fn validate_update(new: &Event, old: &Event) -> ErrorList {
        crate::validation::events::validate_new_event_update(new, old)
    }

    fn row(object: &Event, now: Timestamp) -> Vec<Value> {
        let first = match &object.deprecated_first_timestamp {
            Some(time) => printing::since(Some(time), now),
            None => printing::since_micro(object.event_time.as_ref(), now),
        };
        let (mut last, mut count) = match &object.deprecated_last_timestamp {
            Some(time) => (
                printing::since(Some(time), now),
                object.deprecated_count.unwrap_or(0),
            ),
            None => (first.clone(), object.deprecated_count.unwrap_or(0)),
        };
        if let Some(series) = &object.series {
            last = printing::since_micro(Some(&series.last_observed_time), now);
            count = series.count;
        } else if count == 0 {
            // Events that happened once have no count.
            count = 1;
        }
        let about = object.regarding.as_ref();
        let source = object.deprecated_source.as_ref();
        vec![
            last.into(),
            object.type_.clone().unwrap_or_default().into(),
            object.reason.clone().unwrap_or_default().into(),
            printing::kind_and_name(
                about.and_then(|about| about.kind.as_deref()),
                about.and_then(|about| about.name.as_deref()),
            )
            .into(),
            about
                .and_then(|about| about.field_path.clone())
                .unwrap_or_default()
                .into(),
            printing::event_source(
                [
                    source.and_then(|source| source.component.as_ref()),
                    object.reporting_controller.as_ref(),
                ],
                [
                    source.and_then(|source| source.host.as_ref()),
                    object.reporting_instance.as_ref(),
                ],
            )
            .into(),
            object.note.as_deref().unwrap_or_default().trim().into(),
            first.into(),
            count.into(),
            object.metadata.name.clone().into(),
        ]
    }
}
