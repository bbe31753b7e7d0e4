//! Events, written to the core group (lenient, for compatibility) or to events.k8s.io.

use k8s_openapi::api::core::v1::{Event, ObjectReference};
use k8s_openapi::api::events::v1::Event as NewEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use serde::Serialize;

use super::absent::text;
use super::names;
use super::values::{IMMUTABLE, all_invalid, json, required};
use crate::field::{ErrorList, FieldError, Path};

const LONGEST: usize = 128;
const LONGEST_NOTE: usize = 1024;

/// The parts of an event of either version that both are judged by.
struct Parts<'a> {
    namespace: &'a str,
    about: Option<&'a ObjectReference>,
    timed: bool,
    /// The field's name differs between the versions.
    controller: (&'static str, &'a str),
    instance: &'a str,
    action: &'a str,
    reason: &'a str,
    note: &'a str,
}

fn shared(errors: &mut ErrorList, event: &Parts<'_>) {
    let about = event.about.map_or("", |about| text(&about.namespace));
    let stray = match (event.timed, about.is_empty()) {
        (false, true) => !matches!(event.namespace, "" | "default"),
        (false, false) => event.namespace != about,
        (true, true) => !matches!(event.namespace, "default" | "kube-system"),
        (true, false) => false,
    };
    if stray {
        let path = Path::new("involvedObject").child("namespace");
        errors.push(FieldError::invalid(
            &path,
            about,
            "does not match event.namespace",
        ));
    }
    if event.timed {
        let (field, controller) = event.controller;
        required(errors, &Path::new(field), controller);
        all_invalid(
            errors,
            &Path::new(field),
            controller,
            names::qualified_name(controller),
        );
        for (field, value) in [
            ("reportingInstance", event.instance),
            ("action", event.action),
            ("reason", event.reason),
        ] {
            required(errors, &Path::new(field), value);
            length(errors, field, value, LONGEST);
        }
        length(errors, "message", event.note, LONGEST_NOTE);
    }
    let path = Path::new("namespace");
    all_invalid(
        errors,
        &path,
        event.namespace,
        names::dns_subdomain(event.namespace),
    );
}

fn length(errors: &mut ErrorList, field: &str, value: &str, most: usize) {
    if value.len() > most {
        let detail = format!("can have at most {most} characters");
        errors.push(FieldError::invalid(&Path::new(field), "", &detail));
    }
}

/// What is wrong with an Event of the core group. Its metadata is not judged but for the namespace.
#[must_use]
pub fn validate_event(event: &Event) -> ErrorList {
    let mut errors = ErrorList::new();
    shared(
        &mut errors,
        &Parts {
            namespace: text(&event.metadata.namespace),
            about: Some(&event.involved_object),
            timed: event.event_time.is_some(),
            controller: ("reportingComponent", text(&event.reporting_component)),
            instance: text(&event.reporting_instance),
            action: text(&event.action),
            reason: text(&event.reason),
            note: text(&event.message),
        },
    );
    errors
}

/// What is wrong with a changed Event of the core group.
#[must_use]
pub fn validate_event_update(new: &Event, _old: &Event) -> ErrorList {
    validate_event(new)
}

fn new_parts(errors: &mut ErrorList, event: &NewEvent) {
    shared(
        errors,
        &Parts {
            namespace: text(&event.metadata.namespace),
            about: event.regarding.as_ref(),
            timed: event.event_time.is_some(),
            controller: ("reportingController", text(&event.reporting_controller)),
            instance: text(&event.reporting_instance),
            action: text(&event.action),
            reason: text(&event.reason),
            note: text(&event.note),
        },
    );
}

fn series(errors: &mut ErrorList, event: &NewEvent) {
    if let Some(series) = &event.series
        && series.count < 2
    {
        let path = Path::new("series.count");
        errors.push(FieldError::invalid(&path, "", "should be at least 2"));
    }
}

/// What is wrong with a new Event of events.k8s.io, its metadata aside.
#[must_use]
pub fn validate_new_event(event: &NewEvent) -> ErrorList {
    let mut errors = ErrorList::new();
    new_parts(&mut errors, event);
    series(&mut errors, event);
    if event.event_time.is_none() {
        errors.push(FieldError::required(&Path::new("eventTime"), ""));
    }
    let kind = text(&event.type_);
    if !matches!(kind, "Normal" | "Warning") {
        let detail = format!("has invalid value: {kind}");
        errors.push(FieldError::invalid(&Path::new("type"), "", &detail));
    }
    let source = event.deprecated_source.as_ref();
    for (field, there) in [
        ("firstTimestamp", event.deprecated_first_timestamp.is_some()),
        ("lastTimestamp", event.deprecated_last_timestamp.is_some()),
        ("count", event.deprecated_count.unwrap_or(0) != 0),
        (
            "source",
            source.is_some_and(|s| !text(&s.component).is_empty() || !text(&s.host).is_empty()),
        ),
    ] {
        if there {
            errors.push(FieldError::invalid(
                &Path::new(field),
                "",
                "needs to be unset",
            ));
        }
    }
    errors
}

/// What is wrong with a changed Event of events.k8s.io: only its series may change.
#[must_use]
pub fn validate_new_event_update(new: &NewEvent, old: &NewEvent) -> ErrorList {
    let mut errors = ErrorList::new();
    new_parts(&mut errors, new);
    if new.series != old.series {
        series(&mut errors, new);
    }
    let seconds = |time: &Option<Time>| time.as_ref().map(|time| time.0.as_second());
    let micros = |time: &Option<MicroTime>| time.as_ref().map(|time| time.0.as_microsecond());
    let mut kept = |field: &str, same: bool, value: String| {
        if !same {
            let shown = super::values::Bare(value);
            errors.push(FieldError::invalid(&Path::new(field), shown, IMMUTABLE));
        }
    };
    fn printed<T: Serialize + ?Sized>(value: &T) -> String {
        json(value).0
    }
    let texts: [(&str, &Option<String>, &Option<String>); 2] = [
        ("reason", &new.reason, &old.reason),
        ("message", &new.note, &old.note),
    ];
    kept(
        "involvedObject",
        new.regarding == old.regarding,
        printed(&new.regarding),
    );
    for (field, new, old) in texts {
        kept(field, text(new) == text(old), printed(text(new)));
    }
    let source = |event: &NewEvent| event.deprecated_source.clone().unwrap_or_default();
    kept("source", source(new) == source(old), printed(&source(new)));
    for (field, new, old) in [
        (
            "firstTimestamp",
            &new.deprecated_first_timestamp,
            &old.deprecated_first_timestamp,
        ),
        (
            "lastTimestamp",
            &new.deprecated_last_timestamp,
            &old.deprecated_last_timestamp,
        ),
    ] {
        kept(field, seconds(new) == seconds(old), printed(new));
    }
    let count = |event: &NewEvent| event.deprecated_count.unwrap_or(0);
    kept("count", count(new) == count(old), count(new).to_string());
    kept(
        "reason",
        text(&new.reason) == text(&old.reason),
        printed(text(&new.reason)),
    );
    kept(
        "type",
        text(&new.type_) == text(&old.type_),
        printed(text(&new.type_)),
    );
    let same_time = micros(&new.event_time) == micros(&old.event_time);
    kept("eventTime", same_time, printed(&new.event_time));
    kept(
        "action",
        text(&new.action) == text(&old.action),
        printed(text(&new.action)),
    );
    kept("related", new.related == old.related, printed(&new.related));
    for (field, new, old) in [
        (
            "reportingController",
            &new.reporting_controller,
            &old.reporting_controller,
        ),
        (
            "reportingInstance",
            &new.reporting_instance,
            &old.reporting_instance,
        ),
    ] {
        kept(field, text(new) == text(old), printed(text(new)));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_versions() {
        let texts = |errors: ErrorList| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        let old: Event =
            serde_json::from_value(json!({"metadata": {"namespace": "a", "name": "e"},
            "involvedObject": {"namespace": "b"}}))
            .unwrap_or_default();
        assert_eq!(
            texts(validate_event(&old)),
            ["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"]
        );
        let new: NewEvent = serde_json::from_value(json!({"metadata": {"namespace": "a", "name": "e"},
            "eventTime": "2026-01-02T03:04:05.000006Z", "regarding": {"namespace": "a"}, "type": "Odd",
            "reportingController": "example.com/c", "reportingInstance": "c-1", "action": "Act"}))
        .unwrap_or_default();
        assert_eq!(
            texts(validate_new_event(&new)),
            [
                "reason: Required value",
                "type: Invalid value: \"\": has invalid value: Odd"
            ]
        );
        let mut changed = new.clone();
        changed.note = Some("else".into());
        assert_eq!(
            texts(validate_new_event_update(&changed, &new)),
            [
                "reason: Required value",
                "message: Invalid value: \"else\": field is immutable"
            ]
        );
    }
}
