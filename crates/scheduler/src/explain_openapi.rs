//! The OpenAPI document of `scheduling.skiff.local/v1`, for `kubectl explain`.

use serde_json::{Value, json};

const PATH: &str = "apis/scheduling.skiff.local/v1";
const SCHEMAS: &str = "local.skiff.scheduling.v1.";

/// What `/openapi/v3` says: where the one document is.
pub(crate) fn index() -> Value {
    json!({"paths": {PATH: {"serverRelativeURL": format!("/openapi/v3/{PATH}?hash=1")}}})
}

/// The document.
pub(crate) fn document() -> Value {
    let gvk = json!({"group": "scheduling.skiff.local", "version": "v1", "kind": "PodExplanation"});
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{SCHEMAS}{name}")});
    let text = |what: &str| json!({"type": "string", "description": what});
    let list =
        |items: Value, what: &str| json!({"type": "array", "items": items, "description": what});
    let refusal = json!({"type": "object", "description": "What one plugin says.", "properties": {
        "plugin": text("The plugin."),
        "reasons": list(json!({"type": "string"}), "Its reasons, as in events."),
        "help": text("What would change its mind."),
    }});
    let node = json!({"type": "object", "description": "What all plugins say of one node.", "properties": {
        "node": text("The node."),
        "refusals": list(reference("Refusal"), "Those that refuse it; none where the pod would fit."),
        "victims": list(json!({"type": "string"}), "Pods that could be pushed out so that it fits."),
    }});
    let explanation = json!({"type": "object", "description": "Why a pod is pending.", "properties": {
        "apiVersion": text("The version of the object's schema."),
        "kind": text("The kind of the object."),
        "metadata": {"type": "object", "description": "The pod's name and namespace."},
        "state": text("Unscheduled, Gated, Scheduled or NotOurs."),
        "node": text("The node it has, or that room is being made on."),
        "message": text("What was told last."),
        "everywhere": list(reference("Refusal"), "What holds for all nodes alike."),
        "nodes": list(reference("NodeAnswer"), "What holds for each."),
    }, "x-kubernetes-group-version-kind": [gvk]});
    let path = format!("/{PATH}/namespaces/{{namespace}}/podexplanations/{{name}}");
    let answer = json!({"description": "OK", "content": {"application/json": {"schema": reference("PodExplanation")}}});
    json!({
        "openapi": "3.0.0", "info": {"title": "Why pods are pending", "version": "v1"},
        "paths": {path: {"get": {
            "operationId": "readSchedulingV1NamespacedPodExplanation", "x-kubernetes-action": "get",
            "x-kubernetes-group-version-kind": gvk, "responses": {"200": answer},
        }}},
        "components": {"schemas": {
            (format!("{SCHEMAS}PodExplanation")): explanation,
            (format!("{SCHEMAS}NodeAnswer")): node,
            (format!("{SCHEMAS}Refusal")): refusal,
        }},
    })
}
