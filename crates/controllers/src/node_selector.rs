//! Whether a node is one that a selector, a pod or a volume means.

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec,
};

use crate::ownership::label;

fn meets(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|found| found == value);
    let compared = || {
        let wanted = values.first()?.parse::<i64>().ok()?;
        Some(value?.parse::<i64>().ok()?.cmp(&wanted))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(std::cmp::Ordering::is_gt),
        "Lt" => compared().is_some_and(std::cmp::Ordering::is_lt),
        _ => false,
    }
}

/// Whether the node meets all of the term; an empty term matches no node.
fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = node.metadata.name.as_deref();
    !(labels.is_empty() && fields.is_empty())
        && labels
            .iter()
            .all(|found| meets(found, label(&node.metadata, &found.key)))
        && fields
            .iter()
            .all(|found| found.key == "metadata.name" && meets(found, name))
}

/// Whether the node matches one of the selector's terms.
#[must_use]
pub fn matches(selector: &NodeSelector, node: &Node) -> bool {
    let mut terms = selector.node_selector_terms.iter();
    terms.any(|term| term_matches(term, node))
}

/// Whether the pod's node selector and required affinity allow the node.
#[must_use]
pub fn allows(pod: &PodSpec, node: &Node) -> bool {
    let mut selector = pod.node_selector.iter().flatten();
    let affinity = pod
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|found| {
        found
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    selector.all(|(key, value)| label(&node.metadata, key) == Some(value))
        && required.is_none_or(|required| matches(required, node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn terms_and_operators() {
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cores": "8"}}}),
        )
        .unwrap();
        let by = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let named = |name: &str| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
        let cases: Vec<(Vec<Value>, bool)> = vec![
            (vec![by("zone", "In", &["a", "b"])], true),
            (vec![by("zone", "NotIn", &["a"])], false),
            (vec![by("rack", "NotIn", &["a"])], true),
            (vec![by("zone", "Exists", &[])], true),
            (vec![by("zone", "DoesNotExist", &[])], false),
            (vec![by("cores", "Gt", &["4"])], true),
            (vec![by("cores", "Lt", &["8"])], false),
            (vec![by("zone", "Gt", &["4"])], false),
            (vec![json!({})], false),
            (vec![], false),
            (vec![named("n1")], true),
            (vec![named("n2")], false),
            (vec![named("n2"), by("zone", "In", &["a"])], true),
        ];
        for (terms, expected) in cases {
            let selector = serde_json::from_value(json!({"nodeSelectorTerms": terms})).unwrap();
            assert_eq!(matches(&selector, &node), expected, "{selector:?}");
        }
        let pod: PodSpec =
            serde_json::from_value(json!({"containers": [], "nodeSelector": {"zone": "b"}}))
                .unwrap();
        assert!(!allows(&pod, &node) && allows(&PodSpec::default(), &node));
    }
}
