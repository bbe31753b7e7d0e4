//! The objects that a new cluster starts with: namespaces, priority classes, RBAC policy.

pub mod policy;

use serde_json::{Value, json};

/// Namespaces that always exist.
pub const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// Everything that the server makes at its start when it is missing, in order: each comes after what it needs.
#[must_use]
pub fn objects() -> Vec<Value> {
    let mut objects: Vec<Value> = NAMESPACES
        .iter()
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .collect();
    objects.extend(policy::objects());
    objects.push(priority_class("system-cluster-critical", 2_000_000_000, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."));
    objects.push(priority_class(
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ));
    objects
}

fn priority_class(name: &str, value: i32, description: &str) -> Value {
    json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
        "value": value, "description": description, "globalDefault": false, "preemptionPolicy": "PreemptLowerPriority",
    })
}
