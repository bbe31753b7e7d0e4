//! `autoscaling/v2beta1`: metrics and their targets have fields of their own instead of objects.

use serde_json::{Map, Value, json};

use super::convert::reversioned;
use crate::conversion::{BEHAVIOR, object, put_annotation, take_annotation};

/// The sources of metrics, with the name of the field that holds the selector of what is measured.
const SOURCES: &[(&str, &str)] = &[
    ("resource", ""),
    ("containerResource", ""),
    ("pods", "selector"),
    ("object", "selector"),
    ("external", "metricSelector"),
];

/// The fields of amounts: in the old version of a spec, of a status, in the new one, and the type of such a target.
const AMOUNTS: &[(&str, &str, &str, &str)] = &[
    (
        "targetAverageUtilization",
        "currentAverageUtilization",
        "averageUtilization",
        "Utilization",
    ),
    (
        "targetAverageValue",
        "currentAverageValue",
        "averageValue",
        "AverageValue",
    ),
    (
        "averageValue",
        "averageValue",
        "averageValue",
        "AverageValue",
    ),
    ("targetValue", "currentValue", "value", "Value"),
];

fn source_to_v2(fields: &mut Map<String, Value>, selector: &str, is_status: bool) {
    if !selector.is_empty() {
        let mut metric = json!({"name": fields.remove("metricName").unwrap_or_default()});
        if let Some(selector) = fields.remove(selector) {
            metric["selector"] = selector;
        }
        fields.insert("metric".to_owned(), metric);
        if let Some(target) = fields.remove("target") {
            fields.insert("describedObject".to_owned(), target);
        }
    }
    let mut amounts = Map::new();
    for (in_spec, in_status, new, kind) in AMOUNTS {
        let old = if is_status { in_status } else { in_spec };
        let Some(amount) = fields.remove(*old) else {
            continue;
        };
        // The value of an object's metric is required, and nothing where an average is meant.
        if *new == "value" && amounts.contains_key("averageValue") && !is_status {
            continue;
        }
        amounts.insert((*new).to_owned(), amount);
        if !is_status {
            amounts.insert("type".to_owned(), (*kind).into());
        }
    }
    let place = if is_status { "current" } else { "target" };
    fields.insert(place.to_owned(), amounts.into());
}

fn source_from_v2(fields: &mut Map<String, Value>, source: &str, selector: &str, is_status: bool) {
    let place = if is_status { "current" } else { "target" };
    let amounts = fields.remove(place).unwrap_or_default();
    if let Some(mut metric) = fields.remove("metric") {
        fields.insert("metricName".to_owned(), metric["name"].take());
        if let Some(found) = metric.get_mut("selector").map(Value::take) {
            fields.insert(selector.to_owned(), found);
        }
    }
    if let Some(target) = fields.remove("describedObject") {
        fields.insert("target".to_owned(), target);
    }
    for (in_spec, in_status, new, _) in AMOUNTS {
        let old = if is_status { *in_status } else { *in_spec };
        // Only objects call their average so.
        let plain = old == "averageValue";
        if *new == "averageValue" && plain != (source == "object") {
            continue;
        }
        if let Some(amount) = amounts.get(*new) {
            fields.insert(old.to_owned(), amount.clone());
        }
    }
    if source == "object" {
        let value = if is_status {
            "currentValue"
        } else {
            "targetValue"
        };
        fields.entry(value).or_insert_with(|| "0".into());
    }
}

fn each_source(hpa: &mut Value, mut change: impl FnMut(&mut Map<String, Value>, &str, &str, bool)) {
    for (part, list, is_status) in [
        ("spec", "metrics", false),
        ("status", "currentMetrics", true),
    ] {
        let metrics = hpa.get_mut(part).and_then(|part| part.get_mut(list));
        for metric in metrics.and_then(Value::as_array_mut).into_iter().flatten() {
            for (source, selector) in SOURCES {
                if let Some(fields) = object(metric, source) {
                    change(fields, source, selector, is_status);
                }
            }
        }
    }
}

pub(super) fn to_storage(hpa: Value) -> Value {
    let mut hpa = reversioned(hpa, "autoscaling/v2");
    let behavior = take_annotation(&mut hpa, BEHAVIOR);
    each_source(&mut hpa, |fields, _, selector, is_status| {
        source_to_v2(fields, selector, is_status);
    });
    if let (Some(behavior), Some(spec)) = (behavior, object(&mut hpa, "spec")) {
        spec.insert("behavior".to_owned(), behavior);
    }
    hpa
}

pub(super) fn from_storage(hpa: Value) -> Value {
    let mut hpa = reversioned(hpa, "autoscaling/v2beta1");
    each_source(&mut hpa, source_from_v2);
    let behavior = object(&mut hpa, "spec").and_then(|spec| spec.remove("behavior"));
    if let Some(behavior) = behavior {
        put_annotation(&mut hpa, BEHAVIOR, &behavior);
    }
    hpa
}
