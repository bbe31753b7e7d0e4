//! The objects that a new cluster starts with: namespaces, priority classes, RBAC policy, flow control.

mod flow_control;
pub mod policy;
pub mod reconcile;

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
    objects.extend(dns_policy());
    objects.extend(dir_provisioner_policy());
    objects.extend(flow_control::objects());
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

/// A cluster role that one subject has: the role and its binding.
#[must_use]
pub fn role_of(subject: &Value, name: &str, rules: Value) -> [Value; 2] {
    let metadata = json!({"name": name});
    let group = "rbac.authorization.k8s.io";
    [
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": metadata, "rules": rules}),
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name}, "subjects": [subject]}),
    ]
}

fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "name": name, "namespace": "kube-system"})
}

/// Our DNS server reads endpoint slices and namespaces beside the services that upstream's role for it allows.
fn dns_policy() -> [Value; 2] {
    let rules = json!([
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["namespaces", "services"], "verbs": ["list", "watch"]}]);
    role_of(&account("kube-dns"), "skiff:dns", rules)
}

/// The provisioner of volumes in nodes' directories makes and deletes volumes, and asks nodes to remove directories.
fn dir_provisioner_policy() -> [Value; 2] {
    let rules = json!([
        {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["get", "list", "watch", "create", "update", "delete"]},
        {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get", "list", "watch", "update"]},
        {"apiGroups": [""], "resources": ["persistentvolumeclaims/status"], "verbs": ["update"]},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch", "update"]}]);
    role_of(&account("dir-provisioner"), "skiff:dir-provisioner", rules)
}
