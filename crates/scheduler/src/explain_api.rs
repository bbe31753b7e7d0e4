//! The API that answers "why is it pending?": `kubectl get why <pod>`.
//!
//! It is served behind the aggregation layer without a socket: [`answer`] is called in process, for requests that were
//! authorized already. Nothing is kept; each answer is worked out from what the scheduler knows.

use http::StatusCode;
use serde_json::{Value, json};
use skiff_client::own_api::{Answer, OwnApi, failure, no_such_path};

use crate::explain::{Explainer, Explanation, NodeAnswer, Refusal};
use crate::explain_openapi;

/// The service that is stood in for, in `kube-system`.
pub const SERVICE: &str = "skiff-scheduler";

pub(crate) const API: OwnApi = OwnApi {
    group: "scheduling.skiff.local",
    version: "v1",
    service: SERVICE,
    title: "Why pods are pending",
    schemas: "local.skiff.scheduling.v1.",
};
const RESOURCE: &str = "podexplanations";

/// Answers a request: code and JSON body. `table`: as kubectl prints it, one row for each node and plugin.
#[must_use]
pub fn answer(explainer: &Explainer, method: &str, path: &str, table: bool) -> Answer {
    if let Some(answer) = API.common(method, path, explain_openapi::document) {
        return answer;
    }
    let Some(rest) = path.strip_prefix(&API.root()) else {
        return no_such_path();
    };
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [] => API.resources(json!([{
            "name": RESOURCE, "singularName": "podexplanation", "namespaced": true, "kind": "PodExplanation",
            "verbs": ["get"], "shortNames": ["why"],
        }])),
        ["namespaces", namespace, RESOURCE, name] => match explainer.explain(namespace, name) {
            Some(found) if table => (200, shown_as_table(&found, namespace, name)),
            Some(found) => (200, shown(found, namespace, name)),
            None if !explainer.knows() => {
                let text = "the scheduler of this server does not work now: it starts, or stands by for the one that the Lease kube-system/kube-scheduler names";
                let code = StatusCode::SERVICE_UNAVAILABLE;
                failure(code, "ServiceUnavailable", text, Value::Null)
            }
            None => API.not_found(RESOURCE, name),
        },
        _ => no_such_path(),
    }
}

fn shown(mut found: Explanation, namespace: &str, name: &str) -> Value {
    for node in &mut found.nodes {
        node.victims = victims(node, namespace);
    }
    let mut object = json!({"kind": "PodExplanation", "apiVersion": API.group_version(),
        "metadata": {"name": name, "namespace": namespace}});
    let said = serde_json::to_value(found).unwrap_or_default();
    if let (Value::Object(object), Value::Object(said)) = (&mut object, said) {
        object.extend(said.into_iter().filter(|(field, _)| field != "pod"));
    }
    object
}

/// Who would have to go. Whoever may ask about a namespace's pods need not know those of others.
fn victims(node: &NodeAnswer, namespace: &str) -> Vec<String> {
    let own = format!("{namespace}/");
    let (mut known, others): (Vec<_>, Vec<_>) = node
        .victims
        .iter()
        .cloned()
        .partition(|victim| victim.starts_with(&own));
    if !others.is_empty() {
        known.push(format!("{} of other namespaces", others.len()));
    }
    known
}

fn shown_as_table(found: &Explanation, namespace: &str, name: &str) -> Value {
    let meta = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"name": name, "namespace": namespace}});
    let row = |node: &str, plugin: &str, reason: &str, help: &str| json!({"cells": [node, plugin, reason, help], "object": meta});
    let refused = |node: &str, refusal: &Refusal| {
        row(
            node,
            refusal.plugin,
            &refusal.reasons.join(", "),
            &refusal.help,
        )
    };
    let mut rows: Vec<Value> = Vec::new();
    if found.state != "Unscheduled" {
        rows.push(row(&found.node, "", found.state, ""));
    }
    rows.extend(found.everywhere.iter().map(|refusal| refused("*", refusal)));
    for node in &found.nodes {
        if node.refusals.is_empty() {
            rows.push(row(&node.node, "", "the pod fits", ""));
        }
        rows.extend(
            node.refusals
                .iter()
                .map(|refusal| refused(&node.node, refusal)),
        );
        let victims = victims(node, namespace);
        if !victims.is_empty() {
            let help = format!("preemption of {}", victims.join(", "));
            rows.push(row(&node.node, "DefaultPreemption", "", &help));
        }
    }
    let column = |name: &str, what: &str| json!({"name": name, "type": "string", "format": "", "description": what, "priority": 0});
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": [
        column("Node", "The node, or * for what holds for all of them."),
        column("Plugin", "Who refuses the pod there."),
        column("Reason", "Why, as in events."),
        column("Help", "What would change that."),
    ], "rows": rows})
}

/// What a cluster needs for this API to be served. Namespaces' administrators may ask: answers tell of nodes.
#[must_use]
pub fn objects() -> Vec<Value> {
    vec![
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "skiff:pod-explanations", "labels": {"rbac.authorization.k8s.io/aggregate-to-admin": "true"}},
            "rules": [{"apiGroups": [API.group], "resources": [RESOURCE], "verbs": ["get"]}]}),
        API.api_service(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explanation() -> Explanation {
        let refusal = Refusal {
            plugin: "NodePorts",
            reasons: vec!["taken".to_owned()],
            help: "free it".to_owned(),
        };
        Explanation {
            pod: "a/p".to_owned(),
            state: "Unscheduled",
            node: String::new(),
            message: "0/2 nodes".to_owned(),
            everywhere: Vec::new(),
            nodes: vec![
                NodeAnswer {
                    node: "n1".to_owned(),
                    refusals: vec![refusal],
                    victims: vec!["a/q".to_owned(), "b/r".to_owned(), "b/s".to_owned()],
                },
                NodeAnswer {
                    node: "n2".to_owned(),
                    refusals: Vec::new(),
                    victims: Vec::new(),
                },
            ],
        }
    }

    #[test]
    fn it_is_told_without_naming_pods_of_other_namespaces() {
        let object = shown(explanation(), "a", "p");
        assert_eq!(object["kind"], "PodExplanation");
        assert_eq!(object["metadata"], json!({"name": "p", "namespace": "a"}));
        assert_eq!(object.get("pod"), None);
        assert_eq!(
            object["nodes"][0]["victims"],
            json!(["a/q", "2 of other namespaces"])
        );
        assert_eq!(object["nodes"][0]["refusals"][0]["help"], "free it");
    }

    #[test]
    fn a_table_has_a_row_for_each_node_and_plugin() {
        let table = shown_as_table(&explanation(), "a", "p");
        let rows: Vec<&Value> = table["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| &row["cells"])
            .collect();
        assert_eq!(
            rows,
            [
                &json!(["n1", "NodePorts", "taken", "free it"]),
                &json!([
                    "n1",
                    "DefaultPreemption",
                    "",
                    "preemption of a/q, 2 of other namespaces"
                ]),
                &json!(["n2", "", "the pod fits", ""]),
            ]
        );
    }

    #[test]
    fn other_requests_are_refused() {
        let ask = |method, path: &str| answer(&Explainer::default(), method, path, false);
        let root = API.root();
        assert_eq!(ask("GET", &root).1["resources"][0]["shortNames"][0], "why");
        assert_eq!(ask("DELETE", &root).0, 405);
        assert_eq!(ask("GET", "/openapi/v2").0, 404);
        let index = ask("GET", "/openapi/v3").1;
        let document =
            index["paths"]["apis/scheduling.skiff.local/v1"]["serverRelativeURL"].as_str();
        let (path, _) = document.unwrap().split_once('?').unwrap();
        assert_eq!(ask("GET", path).0, 200);
        let path = "/apis/scheduling.skiff.local/v1/namespaces/a/podexplanations/p";
        let (code, status) = ask("GET", path);
        assert_eq!(
            (code, &status["reason"]),
            (503, &json!("ServiceUnavailable"))
        );
        let working = Explainer::default();
        working.set(Some(crate::fixtures::scene().state.clone()));
        let (code, status) = answer(&working, "GET", path, false);
        assert_eq!((code, &status["reason"]), (404, &json!("NotFound")));
        assert_eq!(
            status["message"],
            "podexplanations.scheduling.skiff.local \"p\" not found"
        );
    }
}
