//! The OpenAPI document of `metrics.k8s.io/v1beta1`, for `kubectl explain`.

use serde_json::{Value, json};

use crate::metrics_server::API;

/// The document.
pub(crate) fn document() -> Value {
    let read = |kind: &str, action: &str, answer: &str| {
        let id = format!("{action}MetricsV1beta1{answer}");
        API.reading(&id, action, kind, answer)
    };
    let root = API.root();
    let pods = format!("{root}/namespaces/{{namespace}}/pods");
    let text = |what: &str| json!({"type": "string", "description": what});
    let kind = |name: &str, own: Value| {
        let mut properties = json!({
            "apiVersion": text("The version of the object's schema."), "kind": text("The kind of the object."),
            "metadata": {"type": "object", "description": "Standard object's metadata."},
            "timestamp": {"type": "string", "format": "date-time", "description": "When the measuring ended."},
            "window": text("Over how long was measured, before the timestamp."),
        });
        if let (Value::Object(all), Value::Object(own)) = (&mut properties, own) {
            all.extend(own);
        }
        json!({"type": "object", "properties": properties, "x-kubernetes-group-version-kind": [API.kind(name)]})
    };
    let list = |of: &str| {
        json!({"type": "object", "required": ["items"], "properties": {
            "apiVersion": text("The version of the object's schema."), "kind": text("The kind of the object."),
            "metadata": {"type": "object", "description": "Standard list metadata."},
            "items": {"type": "array", "items": API.reference(of)},
        }, "x-kubernetes-group-version-kind": [API.kind(&format!("{of}List"))]})
    };
    let usage = json!({"type": "object", "additionalProperties": {"type": "string"},
        "description": "What is used: cpu in cores, memory (the working set) in bytes."});
    let schemas = [
        ("NodeMetrics", kind("NodeMetrics", json!({"usage": usage}))),
        ("NodeMetricsList", list("NodeMetrics")),
        (
            "PodMetrics",
            kind(
                "PodMetrics",
                json!({"containers": {"type": "array", "items": API.reference("ContainerMetrics")}}),
            ),
        ),
        ("PodMetricsList", list("PodMetrics")),
        (
            "ContainerMetrics",
            json!({"type": "object", "properties": {"name": text("The container."), "usage": usage}}),
        ),
    ];
    let paths = json!({
        (format!("{root}/nodes")): read("NodeMetrics", "list", "NodeMetricsList"),
        (format!("{root}/nodes/{{name}}")): read("NodeMetrics", "get", "NodeMetrics"),
        (format!("{root}/pods")): read("PodMetrics", "list", "PodMetricsList"),
        (&pods): read("PodMetrics", "list", "PodMetricsList"),
        (format!("{pods}/{{name}}")): read("PodMetrics", "get", "PodMetrics"),
    });
    API.document(paths, schemas)
}
