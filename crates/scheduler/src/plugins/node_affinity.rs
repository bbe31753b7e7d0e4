//! Pods choose nodes by labels: the node selector, and required and preferred affinity.

use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
};

use crate::framework::{
    Cycle, Happening, NOTHING, Normal, Plugin, PreFilter, Rejection, Score, View, event,
};
use crate::nodes::NodeFacts;
use crate::profile::Profile;
use crate::rows::{NodeWants, PodRow};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeAffinity",
    weight: 2,
    pre_filter: Some(pre_filter),
    filter: Some(filter),
    score: Some(Score {
        prepare,
        score,
        normal: Normal::ByHighest,
    }),
    wakes_on: event::NODE_ADDED | event::NODE_LABELS,
    hint: Some(hint),
    ..NOTHING
};

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
fn term_matches(term: &NodeSelectorTerm, name: &str, facts: &NodeFacts) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| facts.labels.get(key).map(String::as_str);
    expressions
        .iter()
        .all(|found| meets(found, label(&found.key)))
        && fields
            .iter()
            .all(|found| found.key == "metadata.name" && meets(found, Some(name)))
}

/// Whether the node matches one of the selector's terms.
#[must_use]
pub fn selects(selector: &NodeSelector, name: &str, facts: &NodeFacts) -> bool {
    let mut terms = selector.node_selector_terms.iter();
    terms.any(|term| term_matches(term, name, facts))
}

fn required(affinity: &NodeAffinity) -> Option<&NodeSelector> {
    affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()
}

/// Whether a pod's selector and required affinity allow the node.
#[must_use]
pub fn allows(wants: &NodeWants, name: &str, facts: &NodeFacts) -> bool {
    let mut selector = wants.selector.iter();
    selector.all(|(key, value)| facts.labels.get(key) == Some(value))
        && wants
            .affinity
            .as_ref()
            .and_then(required)
            .is_none_or(|found| selects(found, name, facts))
}

/// Nodes that are named by field are the only ones to look at.
fn pre_filter(cycle: &Cycle) -> PreFilter {
    let wants = &cycle.pod.shape.wants;
    let added = cycle
        .profile
        .args
        .added_affinity
        .as_ref()
        .and_then(required);
    let Some(own) = wants.affinity.as_ref().and_then(required) else {
        return if wants.selector.is_empty() && added.is_none() {
            PreFilter::Skip
        } else {
            PreFilter::All
        };
    };
    let mut names: Vec<&str> = Vec::new();
    for term in &own.node_selector_terms {
        let Some(of_term) = named(term) else {
            return PreFilter::All;
        };
        names.extend(of_term);
    }
    if own.node_selector_terms.is_empty() {
        return PreFilter::All;
    }
    if names.is_empty() {
        return PreFilter::Reject(Rejection::unresolvable("pod affinity terms conflict"));
    }
    names.sort_unstable();
    names.dedup();
    let known = names
        .iter()
        .filter_map(|name| cycle.world.cluster.find(name));
    PreFilter::Nodes(known.collect())
}

/// The nodes that a term names; none where it names none.
fn named(term: &NodeSelectorTerm) -> Option<Vec<&str>> {
    let mut names: Option<Vec<&str>> = None;
    for field in term.match_fields.iter().flatten() {
        if field.key != "metadata.name" || field.operator != "In" {
            continue;
        }
        let listed: Vec<&str> = field.values.iter().flatten().map(String::as_str).collect();
        names = Some(match names {
            None => listed,
            Some(so_far) => so_far
                .into_iter()
                .filter(|name| listed.contains(name))
                .collect(),
        });
    }
    names
}

/// Refuses nodes that the pod, or the configuration, does not want.
fn filter(cycle: &Cycle, view: &View) -> Result<(), Rejection> {
    let added = cycle
        .profile
        .args
        .added_affinity
        .as_ref()
        .and_then(required);
    if added.is_some_and(|added| !selects(added, &view.node.name, view.facts)) {
        return Err(Rejection::unresolvable(
            "node(s) didn't match scheduler-enforced node affinity",
        ));
    }
    if allows(&cycle.pod.shape.wants, &view.node.name, view.facts) {
        return Ok(());
    }
    Err(Rejection::unresolvable(
        "node(s) didn't match Pod's node affinity/selector",
    ))
}

fn preferred<'a>(cycle: &'a Cycle) -> impl Iterator<Item = &'a NodeAffinity> {
    let own = cycle.pod.shape.wants.affinity.iter();
    own.chain(cycle.profile.args.added_affinity.iter())
}

fn prepare(cycle: &mut Cycle, _: &[usize]) -> bool {
    preferred(cycle).any(|affinity| {
        let terms = &affinity.preferred_during_scheduling_ignored_during_execution;
        terms.as_ref().is_some_and(|terms| !terms.is_empty())
    })
}

/// The sum of the weights of the preferences that the node meets.
fn score(cycle: &Cycle, view: &View) -> i64 {
    let terms = preferred(cycle).flat_map(|affinity| {
        let terms = &affinity.preferred_during_scheduling_ignored_during_execution;
        terms.iter().flatten()
    });
    terms
        .filter(|found| found.weight != 0 && prefers(&found.preference, view))
        .map(|found| i64::from(found.weight))
        .sum()
}

/// An empty preference is met by all nodes alike and counts for none.
fn prefers(term: &NodeSelectorTerm, view: &View) -> bool {
    term_matches(term, &view.node.name, view.facts)
}

/// A node helps that does now and did not before.
fn hint(profile: &Profile, pod: &PodRow, what: Happening) -> bool {
    let Happening::Node(old, name, new) = what else {
        return true;
    };
    let added = profile.args.added_affinity.as_ref().and_then(required);
    if added.is_some_and(|added| !selects(added, name, new)) {
        return false;
    }
    let wants = &pod.shape.wants;
    allows(wants, name, new) && !old.is_some_and(|old| allows(wants, name, old))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operators_table() {
        let facts = NodeFacts {
            labels: [("disk", "ssd"), ("cores", "16")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..NodeFacts::default()
        };
        for (key, operator, values, expected) in [
            ("disk", "In", vec!["ssd", "hdd"], true),
            ("disk", "In", vec!["hdd"], false),
            ("disk", "NotIn", vec!["hdd"], true),
            ("gpu", "NotIn", vec!["hdd"], true),
            ("disk", "Exists", vec![], true),
            ("gpu", "DoesNotExist", vec![], true),
            ("disk", "DoesNotExist", vec![], false),
            ("cores", "Gt", vec!["8"], true),
            ("cores", "Lt", vec!["8"], false),
            ("disk", "Gt", vec!["8"], false),
            ("gpu", "Lt", vec!["8"], false),
        ] {
            let selector = serde_json::from_value(json!({"nodeSelectorTerms": [
                {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}))
            .unwrap();
            assert_eq!(
                selects(&selector, "n", &facts),
                expected,
                "{key} {operator} {values:?}"
            );
        }
    }

    #[test]
    fn named_nodes() {
        let field =
            |names: &[&str]| json!({"key": "metadata.name", "operator": "In", "values": names});
        for (fields, expected) in [
            (json!([]), None),
            (json!([field(&["a", "b"])]), Some(vec!["a", "b"])),
            (
                json!([field(&["a", "b"]), field(&["b", "c"])]),
                Some(vec!["b"]),
            ),
        ] {
            let term = serde_json::from_value(json!({"matchFields": fields})).unwrap();
            assert_eq!(named(&term), expected);
        }
    }
}
