//! The flow schemas and priority levels that every cluster has, under upstream's names and with its numbers.

use serde_json::{Value, json};

/// Name, precedence, priority level, how requests are told apart, who they are from.
const SCHEMAS: &[(&str, u32, &str, &str, &[&str])] = &[
    ("exempt", 1, "exempt", "", &["g:system:masters"]),
    ("probes", 2, "exempt", "", EVERYBODY),
    (
        "system-leader-election",
        100,
        "leader-election",
        "ByUser",
        &[
            "u:system:kube-controller-manager",
            "u:system:kube-scheduler",
            "s:kube-system",
        ],
    ),
    ("system-node-high", 400, "node-high", "ByUser", NODES),
    ("system-nodes", 500, "system", "ByUser", NODES),
    (
        "kube-controller-manager",
        800,
        "workload-high",
        "ByNamespace",
        &["u:system:kube-controller-manager"],
    ),
    (
        "kube-scheduler",
        800,
        "workload-high",
        "ByNamespace",
        &["u:system:kube-scheduler"],
    ),
    (
        "kube-system-service-accounts",
        900,
        "workload-high",
        "ByNamespace",
        &["s:kube-system"],
    ),
    (
        "service-accounts",
        9000,
        "workload-low",
        "ByUser",
        &["g:system:serviceaccounts"],
    ),
    (
        "global-default",
        9900,
        "global-default",
        "ByUser",
        EVERYBODY,
    ),
    ("catch-all", 10000, "catch-all", "ByUser", EVERYBODY),
];

const EVERYBODY: &[&str] = &["g:system:unauthenticated", "g:system:authenticated"];
const NODES: &[&str] = &["g:system:nodes"];

/// Name, shares, per cent that may be lent, queues and hand size (no queues: requests are refused when there is no room).
const LEVELS: &[(&str, u32, u32, u32, u32)] = &[
    ("catch-all", 5, 0, 0, 0),
    ("global-default", 20, 50, 128, 6),
    ("leader-election", 10, 0, 16, 4),
    ("node-high", 40, 25, 64, 6),
    ("system", 30, 33, 64, 6),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
];

const QUEUE_LENGTH: u32 = 50;

/// The objects.
pub(super) fn objects() -> Vec<Value> {
    let exempt =
        json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let mut objects = vec![object("PriorityLevelConfiguration", "exempt", &exempt)];
    for (name, shares, lendable, queues, hand) in LEVELS {
        let response = match queues {
            0 => json!({"type": "Reject"}),
            queues => json!({"type": "Queue", "queuing": {
                "queues": queues, "handSize": hand, "queueLengthLimit": QUEUE_LENGTH}}),
        };
        let spec = json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response}});
        objects.push(object("PriorityLevelConfiguration", name, &spec));
    }
    for (name, precedence, level, by, subjects) in SCHEMAS {
        let mut rule = rules(name);
        rule["subjects"] = subjects.iter().map(|text| subject(text)).collect();
        let mut spec = json!({
            "matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": level}, "rules": [rule],
        });
        if !by.is_empty() {
            spec["distinguisherMethod"] = json!({"type": by});
        }
        objects.push(object("FlowSchema", name, &spec));
    }
    objects
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind, "spec": spec,
        "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}},
    })
}

/// What a schema is about: everything, but for three.
fn rules(name: &str) -> Value {
    match name {
        "probes" => json!({"nonResourceRules": [
            {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]}),
        "system-leader-election" => json!({"resourceRules": [
            {"verbs": ["get", "create", "update"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"]}]}),
        "system-node-high" => json!({"resourceRules": [
            {"verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "clusterScope": true, "namespaces": ["*"]},
            {"verbs": ["*"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"]}]}),
        _ => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}),
    }
}

/// `g:` a group, `u:` a user, `s:` all service accounts of a namespace.
fn subject(text: &str) -> Value {
    let (kind, name) = text.split_once(':').unwrap_or_default();
    match kind {
        "g" => json!({"kind": "Group", "group": {"name": name}}),
        "u" => json!({"kind": "User", "user": {"name": name}}),
        _ => json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": name, "name": "*"}}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_leads_to_a_level_that_is_there() {
        let objects = objects();
        let levels: Vec<&Value> = objects
            .iter()
            .filter(|object| object["kind"] == "PriorityLevelConfiguration")
            .map(|object| &object["metadata"]["name"])
            .collect();
        let schemas = objects
            .iter()
            .filter(|object| object["kind"] == "FlowSchema");
        for schema in schemas {
            let level = &schema["spec"]["priorityLevelConfiguration"]["name"];
            assert!(levels.contains(&level), "{level}");
        }
        assert_eq!((levels.len(), objects.len()), (8, 19));
    }
}
