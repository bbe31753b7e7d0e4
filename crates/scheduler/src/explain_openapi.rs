//! The OpenAPI document of `scheduling.skiff.local/v1`, for `kubectl explain`.

use serde_json::{Value, json};

use crate::explain_api::API;

/// The document.
pub(crate) fn document() -> Value {
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
        "refusals": list(API.reference("Refusal"), "Those that refuse it; none where the pod would fit."),
        "victims": list(json!({"type": "string"}), "Pods that could be pushed out so that it fits."),
    }});
    let explanation = json!({"type": "object", "description": "Why a pod is pending.", "properties": {
        "apiVersion": text("The version of the object's schema."),
        "kind": text("The kind of the object."),
        "metadata": {"type": "object", "description": "The pod's name and namespace."},
        "state": text("Unscheduled, Gated, Scheduled or NotOurs."),
        "node": text("The node it has, or that room is being made on."),
        "message": text("What was told last."),
        "everywhere": list(API.reference("Refusal"), "What holds for all nodes alike."),
        "nodes": list(API.reference("NodeAnswer"), "What holds for each."),
    }, "x-kubernetes-group-version-kind": [API.kind("PodExplanation")]});
    let path = format!(
        "{}/namespaces/{{namespace}}/podexplanations/{{name}}",
        API.root()
    );
    let id = "readSchedulingV1NamespacedPodExplanation";
    let paths = json!({path: API.reading(id, "get", "PodExplanation", "PodExplanation")});
    let schemas = [
        ("PodExplanation", explanation),
        ("NodeAnswer", node),
        ("Refusal", refusal),
    ];
    API.document(paths, schemas)
}
