//! Versions that are served but not stored, and how they relate to the stored ones.

use serde_json::{Map, Value, json};

use crate::kind::Conversion;

/// `events.k8s.io/v1` events are stored as core events.
pub const EVENTS_V1: Conversion = Conversion {
    storage_version: "v1",
    to_storage: |event| rename_fields(event, "v1", false),
    from_storage: |event| rename_fields(event, "events.k8s.io/v1", true),
};

/// `autoscaling/v1` autoscalers are stored as `autoscaling/v2`.
pub const AUTOSCALING_V1: Conversion = Conversion {
    storage_version: "autoscaling/v2",
    to_storage: autoscaler_to_v2,
    from_storage: autoscaler_to_v1,
};

/// Fields of a core event, and what they are called in `events.k8s.io/v1`.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename_fields(mut event: Value, api_version: &str, from_core: bool) -> Value {
    if let Value::Object(fields) = &mut event {
        for (core, new) in EVENT_FIELDS {
            let (from, to) = if from_core {
                (*core, *new)
            } else {
                (*new, *core)
            };
            if let Some(value) = fields.remove(from) {
                fields.insert(to.to_owned(), value);
            }
        }
        fields.insert("apiVersion".to_owned(), api_version.into());
    }
    event
}

// What v1 has no fields for travels in these annotations, as upstream does it: (annotation, path in v2).
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
pub(crate) const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

pub(crate) fn object<'a>(parent: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    parent.get_mut(key)?.as_object_mut()
}

pub(crate) fn take_annotation(object_value: &mut Value, key: &str) -> Option<Value> {
    let annotations = object(object_value.get_mut("metadata")?, "annotations")?;
    let text = annotations.remove(key)?;
    if annotations.is_empty() {
        object(object_value, "metadata")?.remove("annotations");
    }
    // An annotation that is no JSON is a user's own; upstream drops it, too.
    serde_json::from_str(text.as_str()?).ok()
}

pub(crate) fn put_annotation(object_value: &mut Value, key: &str, value: &Value) {
    let Some(root) = object_value.as_object_mut() else {
        return;
    };
    let metadata = root.entry("metadata").or_insert_with(|| json!({}));
    if let Some(metadata) = metadata.as_object_mut() {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(key.to_owned(), value.to_string().into());
        }
    }
}

fn is_cpu_utilization(metric: &Value, side: &str) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"][side]["averageUtilization"].is_number()
}

fn autoscaler_to_v2(mut hpa: Value) -> Value {
    hpa["apiVersion"] = "autoscaling/v2".into();
    let metrics = take_annotation(&mut hpa, METRICS);
    let current = take_annotation(&mut hpa, CURRENT_METRICS);
    let conditions = take_annotation(&mut hpa, CONDITIONS);
    let behavior = take_annotation(&mut hpa, BEHAVIOR);
    if let Some(spec) = object(&mut hpa, "spec") {
        let mut list: Vec<Value> = Vec::new();
        if let Some(target) = spec.remove("targetCPUUtilizationPercentage") {
            list.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}}));
        }
        if let Some(Value::Array(others)) = metrics {
            list.extend(others);
        }
        if !list.is_empty() {
            spec.insert("metrics".to_owned(), list.into());
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".to_owned(), behavior);
        }
    }
    if let Some(status) = object(&mut hpa, "status") {
        let mut list: Vec<Value> = Vec::new();
        if let Some(value) = status.remove("currentCPUUtilizationPercentage") {
            list.push(json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": value}}}));
        }
        if let Some(Value::Array(others)) = current {
            // The utilisation is in its own field; the annotation may add its average value.
            list.retain(|_| {
                !others
                    .iter()
                    .any(|metric| is_cpu_utilization(metric, "current"))
            });
            list.extend(others);
        }
        if !list.is_empty() {
            status.insert("currentMetrics".to_owned(), list.into());
        }
        if let Some(conditions) = conditions {
            status.insert("conditions".to_owned(), conditions);
        }
    }
    hpa
}

fn autoscaler_to_v1(mut hpa: Value) -> Value {
    hpa["apiVersion"] = "autoscaling/v1".into();
    let mut annotations: Vec<(&str, Value)> = Vec::new();
    if let Some(spec) = object(&mut hpa, "spec") {
        if let Some(Value::Array(mut metrics)) = spec.remove("metrics") {
            if let Some(index) = metrics
                .iter()
                .position(|metric| is_cpu_utilization(metric, "target"))
            {
                let metric = metrics.remove(index);
                spec.insert(
                    "targetCPUUtilizationPercentage".to_owned(),
                    metric["resource"]["target"]["averageUtilization"].clone(),
                );
            }
            if !metrics.is_empty() {
                annotations.push((METRICS, metrics.into()));
            }
        }
        if let Some(behavior) = spec.remove("behavior") {
            annotations.push((BEHAVIOR, behavior));
        }
    }
    if let Some(status) = object(&mut hpa, "status") {
        // v1 has no way to leave these out.
        for count in ["currentReplicas", "desiredReplicas"] {
            status.entry(count).or_insert_with(|| 0.into());
        }
        if let Some(Value::Array(metrics)) = status.remove("currentMetrics") {
            if let Some(metric) = metrics
                .iter()
                .find(|metric| is_cpu_utilization(metric, "current"))
            {
                let value = metric["resource"]["current"]["averageUtilization"].clone();
                status.insert("currentCPUUtilizationPercentage".to_owned(), value);
            }
            if !metrics.is_empty() {
                annotations.push((CURRENT_METRICS, metrics.into()));
            }
        }
        if let Some(conditions) = status.remove("conditions") {
            annotations.push((CONDITIONS, conditions));
        }
    }
    for (key, value) in annotations {
        put_annotation(&mut hpa, key, &value);
    }
    hpa
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_the_way_to_the_store_and_back() {
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a"}, "regarding": {"kind": "Pod"},
            "note": "hello", "deprecatedCount": 3, "reportingController": "x",
        });
        let stored = (EVENTS_V1.to_storage)(event.clone());
        assert_eq!(stored["involvedObject"]["kind"], "Pod");
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(stored["message"], "hello");
        assert_eq!((EVENTS_V1.from_storage)(stored), event);
    }

    #[test]
    fn an_autoscaler_survives_the_way_to_version_1_and_back() {
        let hpa = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {
                "maxReplicas": 3,
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                ],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}},
            },
            "status": {"currentReplicas": 1, "desiredReplicas": 2, "conditions": [{"type": "AbleToScale", "status": "True"}], "currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 7, "averageValue": "3m"}}}]},
        });
        let served = (AUTOSCALING_V1.from_storage)(hpa.clone());
        assert_eq!(served["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(served["status"]["currentCPUUtilizationPercentage"], 7);
        assert!(served["metadata"]["annotations"][METRICS].is_string());
        assert_eq!((AUTOSCALING_V1.to_storage)(served), hpa);
    }
}
