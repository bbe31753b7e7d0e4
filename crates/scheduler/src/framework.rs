//! The framework: which plugins there are, in which order they are asked, and what their answers amount to.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::plugins::{
    balanced_allocation, image_locality, inter_pod_affinity, node_affinity, node_name, node_ports,
    node_resources_fit, node_unschedulable, pod_topology_spread, taint_toleration,
};
use crate::rows::{NodeFacts, NodeRow, PodRow};

/// The best score of a plugin.
pub const MAX_SCORE: i64 = 100;
/// Below so many nodes all are looked at.
const ALWAYS_LOOK_AT: usize = 100;

/// What happens in the cluster that may let a waiting pod in.
pub mod event {
    /// A node came, or its labels changed.
    pub const NODE_LABELS: u8 = 1;
    /// Taints or schedulability of a node changed.
    pub const NODE_TAINTS: u8 = 2;
    /// What a node offers changed.
    pub const NODE_ALLOCATABLE: u8 = 4;
    /// A bound pod went, or needs less.
    pub const POD_REMOVED: u8 = 8;
    /// A pod was bound, or its labels changed.
    pub const POD_ADDED: u8 = 16;
    /// A node came.
    pub const NODE_ADDED: u8 = NODE_LABELS | NODE_TAINTS | NODE_ALLOCATABLE;
}

/// Why a node does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The reasons, in upstream's words.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether taking other pods away would not help.
    pub unresolvable: bool,
}

impl Rejection {
    /// One reason that taking other pods away may remove.
    #[must_use]
    pub fn resolvable(reason: &'static str) -> Self {
        Self {
            reasons: vec![Cow::Borrowed(reason)],
            unresolvable: false,
        }
    }

    /// One reason that stays whatever pods go.
    #[must_use]
    pub fn unresolvable(reason: &'static str) -> Self {
        Self {
            unresolvable: true,
            ..Self::resolvable(reason)
        }
    }
}

/// One attempt to find a node for one pod.
pub struct Cycle<'a> {
    /// The pod.
    pub pod: &'a PodRow,
    /// All nodes.
    pub nodes: &'a [NodeRow],
    /// What plugins count once for all nodes.
    pub spread: pod_topology_spread::Counts,
    /// The same, for affinity between pods.
    pub affinity: inter_pod_affinity::Counts,
}

type Filter = fn(&Cycle, &NodeRow, &NodeFacts) -> Result<(), Rejection>;
type Score = fn(&Cycle, &NodeRow, &NodeFacts) -> i64;

/// How the scores of all nodes become comparable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Normal {
    /// They are already.
    As,
    /// The highest becomes 100.
    ByHighest,
    /// The lowest becomes 100, the highest 0.
    Reversed,
    /// The lowest becomes 0, the highest 100.
    BetweenExtremes,
}

/// The filters, in the order in which they are asked, and what lets a pod that they refused try again.
const FILTERS: &[(&str, Filter, u8)] = &[
    (
        node_unschedulable::NAME,
        node_unschedulable::filter,
        event::NODE_TAINTS,
    ),
    (node_name::NAME, node_name::filter, event::NODE_LABELS),
    (
        taint_toleration::NAME,
        taint_toleration::filter,
        event::NODE_TAINTS,
    ),
    (
        node_affinity::NAME,
        node_affinity::filter,
        event::NODE_LABELS,
    ),
    (
        node_ports::NAME,
        node_ports::filter,
        event::POD_REMOVED | event::NODE_LABELS,
    ),
    (
        node_resources_fit::NAME,
        node_resources_fit::filter,
        event::POD_REMOVED | event::NODE_ALLOCATABLE,
    ),
    (
        pod_topology_spread::NAME,
        pod_topology_spread::filter,
        event::POD_REMOVED | event::POD_ADDED | event::NODE_LABELS | event::NODE_TAINTS,
    ),
    (
        inter_pod_affinity::NAME,
        inter_pod_affinity::filter,
        event::POD_REMOVED | event::POD_ADDED | event::NODE_LABELS,
    ),
];

/// The scores with their weights.
const SCORES: &[(&str, Score, i64, Normal)] = &[
    (
        taint_toleration::NAME,
        taint_toleration::score,
        3,
        Normal::Reversed,
    ),
    (
        node_affinity::NAME,
        node_affinity::score,
        2,
        Normal::ByHighest,
    ),
    (
        node_resources_fit::NAME,
        node_resources_fit::score,
        1,
        Normal::As,
    ),
    (
        pod_topology_spread::NAME,
        pod_topology_spread::score,
        2,
        Normal::Reversed,
    ),
    (
        inter_pod_affinity::NAME,
        inter_pod_affinity::score,
        2,
        Normal::BetweenExtremes,
    ),
    (
        balanced_allocation::NAME,
        balanced_allocation::score,
        1,
        Normal::As,
    ),
    (image_locality::NAME, image_locality::score, 1, Normal::As),
];

/// What an attempt came to.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// The index of the node.
    Fits(usize),
    /// No node does.
    Unfit(Diagnosis),
}

/// Why no node does.
#[derive(Debug, Default, PartialEq)]
pub struct Diagnosis {
    /// The text of event and condition.
    pub message: String,
    /// Which events may help.
    pub wakes_on: u8,
    /// Nodes where taking pods away may help.
    pub resolvable: Vec<usize>,
}

impl<'a> Cycle<'a> {
    /// Counts what plugins need for this pod.
    #[must_use]
    pub fn new(pod: &'a PodRow, nodes: &'a [NodeRow], any_anti_affinity: bool) -> Self {
        Self {
            pod,
            nodes,
            spread: pod_topology_spread::count(pod, nodes),
            affinity: inter_pod_affinity::count(pod, nodes, any_anti_affinity),
        }
    }

    /// Whether the pod may go to that node.
    pub fn check(&self, node: &NodeRow, facts: &NodeFacts) -> Result<(), (Rejection, u8)> {
        for (_, filter, wakes_on) in FILTERS {
            filter(self, node, facts).map_err(|rejection| (rejection, *wakes_on))?;
        }
        Ok(())
    }
}

/// Looks for the best node. `start` is where to begin to look; `pick` chooses among so many equals.
pub fn schedule(cycle: &Cycle, start: usize, pick: impl Fn(usize) -> usize) -> (Verdict, usize) {
    let total = cycle
        .nodes
        .iter()
        .filter(|node| node.facts.is_some())
        .count();
    if total == 0 {
        let diagnosis = Diagnosis {
            message: "no nodes available to schedule pods".to_owned(),
            wakes_on: event::NODE_ADDED,
            resolvable: Vec::new(),
        };
        return (Verdict::Unfit(diagnosis), 0);
    }
    let enough = enough(total);
    let mut feasible: Vec<usize> = Vec::new();
    let mut rejected: Vec<(usize, Rejection)> = Vec::new();
    let (mut wakes_on, mut looked_at) = (event::NODE_ADDED, 0);
    for offset in 0..cycle.nodes.len() {
        let index = (start + offset) % cycle.nodes.len();
        let Some((node, facts)) = cycle
            .nodes
            .get(index)
            .and_then(|n| Some((n, n.facts.as_ref()?)))
        else {
            continue;
        };
        looked_at = offset + 1;
        match cycle.check(node, facts) {
            Ok(()) => feasible.push(index),
            Err((rejection, wakes)) => {
                wakes_on |= wakes;
                rejected.push((index, rejection));
            }
        }
        if feasible.len() >= enough {
            break;
        }
    }
    let next = (start + looked_at) % cycle.nodes.len();
    let verdict = match feasible.as_slice() {
        [] => Verdict::Unfit(diagnose(cycle.pod, total, &rejected, wakes_on)),
        [only] => Verdict::Fits(*only),
        _ => Verdict::Fits(best(cycle, &feasible, pick)),
    };
    (verdict, next)
}

/// How many feasible nodes are enough: in a large cluster a share of it.
fn enough(total: usize) -> usize {
    if total < ALWAYS_LOOK_AT {
        return total;
    }
    let percent = 50_usize.saturating_sub(total / 125).max(5);
    (total * percent / 100).max(ALWAYS_LOOK_AT)
}

fn best(cycle: &Cycle, feasible: &[usize], pick: impl Fn(usize) -> usize) -> usize {
    let mut totals = vec![0_i64; feasible.len()];
    for (_, score, weight, normal) in SCORES {
        let mut scores: Vec<i64> = feasible
            .iter()
            .filter_map(|index| cycle.nodes.get(*index))
            .map(|node| {
                node.facts
                    .as_ref()
                    .map_or(0, |facts| score(cycle, node, facts))
            })
            .collect();
        normalise(&mut scores, *normal);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * weight;
        }
    }
    let highest = totals.iter().max().copied().unwrap_or(0);
    let winners: Vec<usize> = feasible
        .iter()
        .zip(&totals)
        .filter(|(_, total)| **total == highest)
        .map(|(index, _)| *index)
        .collect();
    winners
        .get(pick(winners.len()))
        .or(winners.first())
        .copied()
        .unwrap_or(0)
}

fn normalise(scores: &mut [i64], how: Normal) {
    let highest = scores.iter().max().copied().unwrap_or(0);
    let lowest = scores.iter().min().copied().unwrap_or(0);
    for score in scores {
        *score = match how {
            Normal::As => *score,
            Normal::ByHighest if highest == 0 => 0,
            Normal::ByHighest => *score * MAX_SCORE / highest,
            Normal::Reversed if highest == 0 => MAX_SCORE,
            Normal::Reversed => MAX_SCORE - *score * MAX_SCORE / highest,
            Normal::BetweenExtremes if highest == lowest => 0,
            Normal::BetweenExtremes => (*score - lowest) * MAX_SCORE / (highest - lowest),
        };
    }
}

fn diagnose(
    pod: &PodRow,
    total: usize,
    rejected: &[(usize, Rejection)],
    wakes_on: u8,
) -> Diagnosis {
    let reasons = rejected
        .iter()
        .flat_map(|(_, rejection)| &rejection.reasons);
    let why = histogram(reasons.map(AsRef::as_ref));
    let resolvable = rejected
        .iter()
        .filter(|(_, rejection)| !rejection.unresolvable);
    let resolvable: Vec<usize> = resolvable.map(|(index, _)| *index).collect();
    let preemption = if pod.preempts {
        let hopeless = rejected.len() - resolvable.len();
        let texts = std::iter::repeat_n("Preemption is not helpful for scheduling", hopeless)
            .chain(std::iter::repeat_n(
                "No preemption victims found for incoming pod",
                resolvable.len(),
            ));
        format!("0/{total} nodes are available: {}.", histogram(texts))
    } else {
        "not eligible due to preemptionPolicy=Never.".to_owned()
    };
    Diagnosis {
        message: format!(
            "0/{total} nodes are available: {why}. no new claims to deallocate, preemption: {preemption}"
        ),
        wakes_on,
        resolvable,
    }
}

/// `1 this, 2 that`, sorted as text.
fn histogram<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut texts: Vec<String> = counts
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    texts.sort();
    texts.join(", ")
}

#[cfg(test)]
#[path = "framework_tests.rs"]
mod tests;
