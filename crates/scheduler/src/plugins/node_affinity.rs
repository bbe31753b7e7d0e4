//! Pods choose nodes by labels: the node selector, and required and preferred affinity.

use k8s_openapi::api::core::v1::{NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm};

use crate::framework::{Cycle, Rejection};
use crate::rows::{NodeFacts, NodeRow, PodRow};

/// The plugin's name.
pub const NAME: &str = "NodeAffinity";

fn meets(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|found| found == value);
    let numbers = || {
        let wanted = values.first()?.parse::<i64>().ok()?;
        Some((value?.parse::<i64>().ok()?, wanted))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, wanted)| value > wanted),
        "Lt" => numbers().is_some_and(|(value, wanted)| value < wanted),
        _ => false,
    }
}

/// Whether the node meets all of the term; an empty term matches no node.
fn term_matches(term: &NodeSelectorTerm, node: &NodeRow) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions
        .iter()
        .all(|found| meets(found, node.label(&found.key)))
        && fields
            .iter()
            .all(|found| found.key == "metadata.name" && meets(found, Some(&node.name)))
}

fn affinity(pod: &PodRow) -> Option<&NodeAffinity> {
    pod.affinity.as_ref()?.node_affinity.as_ref()
}

/// Whether the pod's selector and required affinity allow the node.
#[must_use]
pub fn allows(pod: &PodRow, node: &NodeRow) -> bool {
    let selector = pod.node_selector.iter();
    if !selector
        .into_iter()
        .all(|(key, value)| node.label(key) == Some(value))
    {
        return false;
    }
    let required = affinity(pod).and_then(|found| {
        found
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    required.is_none_or(|found| {
        found
            .node_selector_terms
            .iter()
            .any(|term| term_matches(term, node))
    })
}

/// Refuses nodes that the pod does not want.
pub fn filter(cycle: &Cycle, node: &NodeRow, _: &NodeFacts) -> Result<(), Rejection> {
    if allows(cycle.pod, node) {
        return Ok(());
    }
    Err(Rejection::unresolvable(
        "node(s) didn't match Pod's node affinity/selector",
    ))
}

/// The sum of the weights of the preferences that the node meets.
#[must_use]
pub fn score(cycle: &Cycle, node: &NodeRow, _: &NodeFacts) -> i64 {
    let preferred = affinity(cycle.pod).and_then(|found| {
        found
            .preferred_during_scheduling_ignored_during_execution
            .as_deref()
    });
    preferred
        .unwrap_or_default()
        .iter()
        .filter(|found| term_matches(&found.preference, node))
        .map(|found| i64::from(found.weight))
        .sum()
}
