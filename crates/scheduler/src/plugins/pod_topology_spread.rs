//! Pods that are to be spread over zones or hosts go where fewest of them are.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Taint, TopologySpreadConstraint};
use skiff_client::LabelMatcher;

use super::node_affinity::allows;
use super::taint_toleration::tolerates;
use crate::framework::{Cycle, Rejection};
use crate::rows::{NodeFacts, NodeRow, PodRow};

/// The plugin's name.
pub const NAME: &str = "PodTopologySpread";

/// One constraint with the number of matching pods in each domain.
pub struct Constraint {
    key: String,
    max_skew: i64,
    hard: bool,
    counts_itself: bool,
    domains: HashMap<String, i64>,
    least: i64,
}

/// All constraints of the pod.
pub type Counts = Vec<Constraint>;

/// Counts the pods that each constraint is about.
#[must_use]
pub fn count(pod: &PodRow, nodes: &[NodeRow]) -> Counts {
    pod.spread
        .iter()
        .map(|constraint| count_one(pod, constraint, nodes))
        .collect()
}

fn matcher(pod: &PodRow, constraint: &TopologySpreadConstraint) -> LabelMatcher {
    let mut selector = constraint.label_selector.clone();
    for key in constraint.match_label_keys.iter().flatten() {
        if let (Some(selector), Some(value)) = (&mut selector, pod.labels.get(key)) {
            let labels = selector.match_labels.get_or_insert_default();
            labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    LabelMatcher::from_selector(selector.as_ref()).unwrap_or_else(|_| LabelMatcher::nothing())
}

fn is_counted(pod: &PodRow, constraint: &TopologySpreadConstraint, node: &NodeRow) -> bool {
    let Some(facts) = &node.facts else {
        return false;
    };
    let hard = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    let by_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let by_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    (!by_affinity || allows(pod, node))
        && (!by_taints
            || facts
                .taints
                .iter()
                .filter(hard)
                .all(|taint| pod.tolerations.iter().any(|found| tolerates(found, taint))))
}

fn count_one(pod: &PodRow, constraint: &TopologySpreadConstraint, nodes: &[NodeRow]) -> Constraint {
    let matcher = matcher(pod, constraint);
    let mut domains: HashMap<String, i64> = HashMap::new();
    for node in nodes
        .iter()
        .filter(|node| is_counted(pod, constraint, node))
    {
        // Nodes that lack one of the keys are in no domain at all.
        if !pod
            .spread
            .iter()
            .all(|other| node.label(&other.topology_key).is_some())
        {
            continue;
        }
        let Some(domain) = node.label(&constraint.topology_key) else {
            continue;
        };
        let matching = node.pods.values().filter(|other| {
            !other.deleting
                && other.key.namespace() == pod.key.namespace()
                && matcher.matches(Some(&other.labels))
        });
        *domains.entry(domain.to_owned()).or_default() +=
            i64::try_from(matching.count()).unwrap_or(i64::MAX);
    }
    let wanted = usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1);
    let least = if domains.len() < wanted {
        0
    } else {
        domains.values().min().copied().unwrap_or(0)
    };
    Constraint {
        key: constraint.topology_key.clone(),
        max_skew: i64::from(constraint.max_skew),
        hard: constraint.when_unsatisfiable == "DoNotSchedule",
        counts_itself: matcher.matches(Some(&pod.labels)),
        domains,
        least,
    }
}

/// Refuses nodes where the pod would make the spread too uneven.
pub fn filter(cycle: &Cycle, node: &NodeRow, _: &NodeFacts) -> Result<(), Rejection> {
    for constraint in cycle.spread.iter().filter(|constraint| constraint.hard) {
        let Some(domain) = node.label(&constraint.key) else {
            return Err(Rejection::unresolvable(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            ));
        };
        let there = constraint.domains.get(domain).copied().unwrap_or(0);
        let skew = there + i64::from(constraint.counts_itself) - constraint.least;
        if skew > constraint.max_skew {
            return Err(Rejection::resolvable(
                "node(s) didn't match pod topology spread constraints",
            ));
        }
    }
    Ok(())
}

/// How many matching pods are in the node's domains; fewer are better.
#[must_use]
pub fn score(cycle: &Cycle, node: &NodeRow, _: &NodeFacts) -> i64 {
    let soft = cycle.spread.iter().filter(|constraint| !constraint.hard);
    soft.map(|constraint| {
        let domain = node.label(&constraint.key);
        let there = domain
            .and_then(|domain| constraint.domains.get(domain))
            .copied();
        // Finer domains weigh more, as there are more of them; a node outside all of them comes last.
        let weight = ((constraint.domains.len() + 2) as f64).ln();
        let most = constraint.domains.values().max().copied().unwrap_or(0) + 1;
        (there.unwrap_or(most) as f64 * weight * 10.0) as i64 + constraint.max_skew - 1
    })
    .sum()
}
