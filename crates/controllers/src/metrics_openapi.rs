//! The OpenAPI document of `metrics.k8s.io/v1beta1`, for `kubectl explain`.

use serde_json::{Value, json};

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
const SCHEMAS: &str = "io.k8s.metrics.pkg.apis.metrics.v1beta1.";

/// What `/openapi/v3` says: where the one document is.
pub(crate) fn index() -> Value {
    let path = format!("apis/{GROUP}/{VERSION}");
    json!({"paths": {(&path): {"serverRelativeURL": format!("/openapi/v3/{path}?hash=1")}}})
}

/// The document.
pub(crate) fn document() -> Value {
    let gvk = |kind: &str| json!({"group": GROUP, "version": VERSION, "kind": kind});
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{SCHEMAS}{name}")});
    let get = |kind: &str, action: &str, answer: &str| {
        json!({"get": {
            "operationId": format!("{action}MetricsV1beta1{answer}"),
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk(kind),
            "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference(answer)}}}},
        }})
    };
    let root = format!("/apis/{GROUP}/{VERSION}");
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
        json!({"type": "object", "properties": properties, "x-kubernetes-group-version-kind": [gvk(name)]})
    };
    let list = |of: &str| {
        json!({"type": "object", "required": ["items"], "properties": {
            "apiVersion": text("The version of the object's schema."), "kind": text("The kind of the object."),
            "metadata": {"type": "object", "description": "Standard list metadata."},
            "items": {"type": "array", "items": reference(of)},
        }, "x-kubernetes-group-version-kind": [gvk(&format!("{of}List"))]})
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
                json!({"containers": {"type": "array", "items": reference("ContainerMetrics")}}),
            ),
        ),
        ("PodMetricsList", list("PodMetrics")),
        (
            "ContainerMetrics",
            json!({"type": "object", "properties": {"name": text("The container."), "usage": usage}}),
        ),
    ];
    let schemas = schemas.map(|(name, schema)| (format!("{SCHEMAS}{name}"), schema));
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes metrics", "version": VERSION},
        "paths": {
            (format!("{root}/nodes")): get("NodeMetrics", "list", "NodeMetricsList"),
            (format!("{root}/nodes/{{name}}")): get("NodeMetrics", "get", "NodeMetrics"),
            (format!("{root}/pods")): get("PodMetrics", "list", "PodMetricsList"),
            (&pods): get("PodMetrics", "list", "PodMetricsList"),
            (format!("{pods}/{{name}}")): get("PodMetrics", "get", "PodMetrics"),
        },
        "components": {"schemas": serde_json::Map::from_iter(schemas)},
    })
}
