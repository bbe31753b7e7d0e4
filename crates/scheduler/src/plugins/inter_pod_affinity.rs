//! Pods that want to be near other pods, or far from them.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::PodAffinityTerm;
use skiff_client::LabelMatcher;

use crate::framework::{Cycle, Rejection};
use crate::rows::{NodeFacts, NodeRow, PodRow};

/// The plugin's name.
pub const NAME: &str = "InterPodAffinity";

type Domain = (String, String);

/// A term that can be matched.
struct Term {
    key: String,
    namespaces: Option<Vec<String>>,
    matcher: LabelMatcher,
}

impl Term {
    fn of(owner: &PodRow, term: &PodAffinityTerm) -> Self {
        let mut selector = term.label_selector.clone();
        for key in term.match_label_keys.iter().flatten() {
            if let (Some(selector), Some(value)) = (&mut selector, owner.labels.get(key)) {
                let labels = selector.match_labels.get_or_insert_default();
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        let listed = term.namespaces.clone().unwrap_or_default();
        // A namespace selector that selects everything opens all namespaces; the labels of namespaces
        // are not watched, so that any other selector adds none.
        let everywhere = term.namespace_selector.as_ref().is_some_and(|selector| {
            LabelMatcher::from_selector(Some(selector)).is_ok_and(|found| found.is_everything())
        });
        let own = vec![owner.key.namespace().to_owned()];
        let namespaces = if listed.is_empty() && term.namespace_selector.is_none() {
            own
        } else {
            listed
        };
        Self {
            key: term.topology_key.clone(),
            namespaces: (!everywhere).then_some(namespaces),
            matcher: LabelMatcher::from_selector(selector.as_ref())
                .unwrap_or_else(|_| LabelMatcher::nothing()),
        }
    }

    fn matches(&self, pod: &PodRow) -> bool {
        let namespace = pod.key.namespace();
        self.namespaces
            .as_ref()
            .is_none_or(|all| all.iter().any(|found| found == namespace))
            && self.matcher.matches(Some(&pod.labels))
    }
}

fn required_affinity(pod: &PodRow) -> &[PodAffinityTerm] {
    let found = pod
        .affinity
        .as_ref()
        .and_then(|all| all.pod_affinity.as_ref());
    let found = found.and_then(|all| {
        all.required_during_scheduling_ignored_during_execution
            .as_deref()
    });
    found.unwrap_or_default()
}

fn required_anti_affinity(pod: &PodRow) -> &[PodAffinityTerm] {
    let found = pod
        .affinity
        .as_ref()
        .and_then(|all| all.pod_anti_affinity.as_ref());
    let found = found.and_then(|all| {
        all.required_during_scheduling_ignored_during_execution
            .as_deref()
    });
    found.unwrap_or_default()
}

/// Preferred terms, those of anti-affinity with negative weights.
fn preferred(pod: &PodRow) -> Vec<(i64, &PodAffinityTerm)> {
    let Some(affinity) = &pod.affinity else {
        return Vec::new();
    };
    let near = affinity.pod_affinity.as_ref();
    let near = near.and_then(|all| {
        all.preferred_during_scheduling_ignored_during_execution
            .as_deref()
    });
    let far = affinity.pod_anti_affinity.as_ref();
    let far = far.and_then(|all| {
        all.preferred_during_scheduling_ignored_during_execution
            .as_deref()
    });
    let near = near
        .unwrap_or_default()
        .iter()
        .map(|term| (i64::from(term.weight), &term.pod_affinity_term));
    let far = far
        .unwrap_or_default()
        .iter()
        .map(|term| (-i64::from(term.weight), &term.pod_affinity_term));
    near.chain(far).collect()
}

/// Whether other pods must take care of this one.
#[must_use]
pub fn has_anti_affinity(pod: &PodRow) -> bool {
    pod.affinity
        .as_ref()
        .is_some_and(|all| all.pod_anti_affinity.is_some() || all.pod_affinity.is_some())
}

/// What counts for one pod.
#[derive(Default)]
pub struct Counts {
    /// For each required term its topology key and the domains with a matching pod.
    near: Vec<(String, HashMap<String, usize>)>,
    /// Whether the pod itself matches all its terms: the first of its kind may go anywhere.
    first_of_its_kind: bool,
    /// Domains with pods that the pod must be far from.
    far: HashMap<Domain, usize>,
    /// Domains with pods that must be far from the pod.
    repelled: HashMap<Domain, usize>,
    /// The weights of domains.
    weights: HashMap<Domain, i64>,
}

/// Counts pods by domain. `any` says whether any bound pod has affinity of its own.
#[must_use]
pub fn count(pod: &PodRow, nodes: &[NodeRow], any: bool) -> Counts {
    let near: Vec<Term> = required_affinity(pod)
        .iter()
        .map(|term| Term::of(pod, term))
        .collect();
    let far: Vec<Term> = required_anti_affinity(pod)
        .iter()
        .map(|term| Term::of(pod, term))
        .collect();
    let soft: Vec<(i64, Term)> = preferred(pod)
        .into_iter()
        .map(|(weight, term)| (weight, Term::of(pod, term)))
        .collect();
    let mut counts = Counts {
        near: near
            .iter()
            .map(|term| (term.key.clone(), HashMap::new()))
            .collect(),
        first_of_its_kind: near.iter().all(|term| term.matches(pod)),
        ..Counts::default()
    };
    if near.is_empty() && far.is_empty() && soft.is_empty() && !any {
        return counts;
    }
    for node in nodes.iter().filter(|node| node.facts.is_some()) {
        let domain = |key: &str| {
            node.label(key)
                .map(|value| (key.to_owned(), value.to_owned()))
        };
        for other in node.pods.values() {
            // A pod counts as near only where it matches all terms.
            if !near.is_empty() && near.iter().all(|term| term.matches(other)) {
                for (key, domains) in &mut counts.near {
                    if let Some(value) = node.label(key) {
                        *domains.entry(value.to_owned()).or_default() += 1;
                    }
                }
            }
            for term in far.iter().filter(|term| term.matches(other)) {
                domain(&term.key)
                    .into_iter()
                    .for_each(|found| *counts.far.entry(found).or_default() += 1);
            }
            for (weight, term) in soft.iter().filter(|(_, term)| term.matches(other)) {
                domain(&term.key)
                    .into_iter()
                    .for_each(|found| *counts.weights.entry(found).or_default() += weight);
            }
            if any {
                count_wishes_of(other, pod, &domain, &mut counts);
            }
        }
    }
    counts
}

fn count_wishes_of(
    other: &PodRow,
    pod: &PodRow,
    domain: &dyn Fn(&str) -> Option<Domain>,
    counts: &mut Counts,
) {
    for term in required_anti_affinity(other) {
        if Term::of(other, term).matches(pod) {
            domain(&term.topology_key)
                .into_iter()
                .for_each(|found| *counts.repelled.entry(found).or_default() += 1);
        }
    }
    let hard = required_affinity(other).iter().map(|term| (1, term));
    for (weight, term) in preferred(other).into_iter().chain(hard) {
        if Term::of(other, term).matches(pod) {
            domain(&term.topology_key)
                .into_iter()
                .for_each(|found| *counts.weights.entry(found).or_default() += weight);
        }
    }
}

fn hits(domains: &HashMap<Domain, usize>, node: &NodeRow) -> bool {
    domains
        .keys()
        .any(|(key, value)| node.label(key) == Some(value))
}

/// Refuses nodes that are too far from what the pod wants, or too near to what it or others shun.
pub fn filter(cycle: &Cycle, node: &NodeRow, _: &NodeFacts) -> Result<(), Rejection> {
    let counts = &cycle.affinity;
    let near = counts.near.iter().all(|(key, domains)| {
        node.label(key)
            .is_some_and(|value| domains.contains_key(value))
    });
    if !near {
        let labelled = counts.near.iter().all(|(key, _)| node.label(key).is_some());
        let nobody = counts.near.iter().all(|(_, domains)| domains.is_empty());
        if !(labelled && nobody && counts.first_of_its_kind) {
            return Err(Rejection::unresolvable(
                "node(s) didn't match pod affinity rules",
            ));
        }
    }
    if hits(&counts.far, node) {
        return Err(Rejection::resolvable(
            "node(s) didn't match pod anti-affinity rules",
        ));
    }
    if hits(&counts.repelled, node) {
        return Err(Rejection::resolvable(
            "node(s) didn't satisfy existing pods anti-affinity rules",
        ));
    }
    Ok(())
}

/// The sum of the weights of the node's domains.
#[must_use]
pub fn score(cycle: &Cycle, node: &NodeRow, _: &NodeFacts) -> i64 {
    let weights = cycle.affinity.weights.iter();
    weights
        .filter(|((key, value), _)| node.label(key) == Some(value))
        .map(|(_, weight)| weight)
        .sum()
}
