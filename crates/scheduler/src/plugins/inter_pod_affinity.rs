//! Pods that want to be near other pods, or far from them.

use crate::counters::Counter;
use crate::framework::{
    Cycle, Happening, NOTHING, Normal, Plugin, PreFilter, Rejection, Score, View, event,
};
use crate::profile::Profile;
use crate::rows::PodRow;
use crate::terms::{NamespaceLabels, Term};
use crate::topology::NONE;
use crate::wishes::{Strength, Wish};
use crate::world::World;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "InterPodAffinity",
    weight: 2,
    pre_filter: Some(pre_filter),
    filter: Some(filter),
    score: Some(Score {
        prepare,
        score,
        normal: Normal::BetweenExtremes,
    }),
    wakes_on: event::POD_REMOVED
        | event::POD_ADDED
        | event::POD_CHANGED
        | event::NODE_ADDED
        | event::NODE_LABELS
        | event::NAMESPACE,
    hint: Some(hint),
    ..NOTHING
};

/// The counters that answer a pod's terms, by number.
#[derive(Clone, Debug, Default)]
pub struct AllAsked {
    near: Vec<usize>,
    far: Vec<usize>,
    soft: Vec<(i64, usize)>,
}

/// Asks the counters for what the pod's terms are about.
pub fn ask(world: &mut World, pod: &PodRow) -> AllAsked {
    let terms = &pod.shape.terms;
    if terms.is_empty() {
        return AllAsked::default();
    }
    AllAsked {
        near: terms
            .near_asks
            .iter()
            .map(|asking| world.counter(asking))
            .collect(),
        far: terms
            .far_asks
            .iter()
            .map(|asking| world.counter(asking))
            .collect(),
        soft: terms
            .soft
            .iter()
            .zip(&terms.soft_asks)
            .map(|((weight, _), asking)| (*weight, world.counter(asking)))
            .collect(),
    }
}

/// The wishes of pods on nodes that are about a pod.
#[derive(Default)]
pub struct About<'a> {
    never: Vec<&'a Wish>,
    weighed: Vec<(i64, &'a Wish)>,
}

/// Finds the wishes that are about the pod.
pub fn about<'a>(pod: &'a PodRow, world: &'a World, profile: &Profile) -> About<'a> {
    let mut found = About::default();
    if world.wishes.is_empty() {
        return found;
    }
    let ignores = profile.args.ignore_preferred_of_others && pod.shape.terms.soft.is_empty();
    for wish in world.wishes.about(pod, &world.cluster.namespaces) {
        match wish.strength {
            Strength::Never => found.never.push(wish),
            _ if ignores => {}
            Strength::Needed if profile.args.hard_pod_affinity_weight == 0 => {}
            Strength::Needed => found
                .weighed
                .push((profile.args.hard_pod_affinity_weight, wish)),
            Strength::Liked(weight) => found.weighed.push((weight, wish)),
        }
    }
    found
}

fn pre_filter(cycle: &Cycle) -> PreFilter {
    let terms = &cycle.pod.shape.terms;
    if terms.near.is_empty() && terms.far.is_empty() && cycle.wishes.never.is_empty() {
        PreFilter::Skip
    } else {
        PreFilter::All
    }
}

/// What a counter says of the node's domain, with what is supposed to move there. None where the node lacks the key.
fn count(cycle: &Cycle, view: &View, counter: &Counter) -> Option<i64> {
    let domain = cycle.world.topologies.domain(counter.key(), view.index);
    (domain != NONE).then(|| counter.count(domain) + moved(cycle, view, counter))
}

fn moved(cycle: &Cycle, view: &View, counter: &Counter) -> i64 {
    let known = &cycle.world.cluster.namespaces;
    let counted = view
        .moved
        .iter()
        .filter(|(pod, _)| counter.counts(pod, view.index, known));
    counted.map(|(_, by)| by).sum()
}

/// Whether the pods that the pod must be near to are there. The first of its kind may go to any labelled node.
fn is_near(cycle: &Cycle, view: &View) -> bool {
    let (mut all_there, mut none_anywhere) = (true, true);
    for counter in &cycle.asked.affinity.near {
        let Some(counter) = cycle.world.counters.get(*counter) else {
            return false;
        };
        let Some(there) = count(cycle, view, counter) else {
            return false;
        };
        all_there &= there > 0;
        none_anywhere &= counter.total() + moved(cycle, view, counter) == 0;
    }
    all_there || (none_anywhere && is_first_of_its_kind(cycle))
}

fn is_first_of_its_kind(cycle: &Cycle) -> bool {
    let (pod, known) = (cycle.pod, &cycle.world.cluster.namespaces);
    let near = &pod.shape.terms.near;
    near.iter()
        .all(|term| term.matches(pod.namespace(), pod.labels(), known))
}

fn is_far(cycle: &Cycle, view: &View) -> bool {
    cycle.asked.affinity.far.iter().all(|counter| {
        let counter = cycle.world.counters.get(*counter);
        let there = counter.and_then(|counter| count(cycle, view, counter));
        there.is_none_or(|there| there <= 0)
    })
}

/// Whether nobody there must be far from the pod.
fn is_welcome(cycle: &Cycle, view: &View) -> bool {
    let known = &cycle.world.cluster.namespaces;
    let unwished = cycle.wishes.never.iter().all(|wish| {
        let domain = cycle.world.topologies.domain(wish.key(), view.index);
        let stated = |(pod, by): &(&PodRow, i64)| wish.stated_by(&pod.shape) * by;
        let by: i64 = view.moved.iter().map(stated).sum();
        domain == NONE || wish.count(domain) + by <= 0
    });
    // Pods that are supposed to come may wish what nobody on a node does.
    unwished
        && !view
            .moved
            .iter()
            .any(|(other, by)| *by > 0 && repels(other, cycle.pod, view, known))
}

fn repels(other: &PodRow, pod: &PodRow, view: &View, known: &NamespaceLabels) -> bool {
    let far = other.shape.terms.far.iter();
    far.filter(|term| view.facts.labels.contains_key(&*term.key))
        .any(|term| term.matches(pod.namespace(), pod.labels(), known))
}

/// Refuses nodes that are too far from what the pod wants, or too near to what it or others shun.
fn filter(cycle: &Cycle, view: &View) -> Result<(), Rejection> {
    if !is_near(cycle, view) {
        return Err(Rejection::unresolvable(
            "node(s) didn't match pod affinity rules",
        ));
    }
    if !is_far(cycle, view) {
        return Err(Rejection::resolvable(
            "node(s) didn't match pod anti-affinity rules",
        ));
    }
    if !is_welcome(cycle, view) {
        return Err(Rejection::resolvable(
            "node(s) didn't satisfy existing pods anti-affinity rules",
        ));
    }
    Ok(())
}

fn prepare(cycle: &mut Cycle, _: &[usize]) -> bool {
    !cycle.asked.affinity.soft.is_empty() || !cycle.wishes.weighed.is_empty()
}

/// The sum of the weights of the node's domains.
fn score(cycle: &Cycle, view: &View) -> i64 {
    let domain = |key| cycle.world.topologies.domain(key, view.index);
    let own = cycle.asked.affinity.soft.iter().map(|(weight, counter)| {
        let counter = cycle.world.counters.get(*counter);
        counter.map_or(0, |counter| counter.count(domain(counter.key())) * weight)
    });
    let wished = cycle.wishes.weighed.iter();
    let wished = wished.map(|(weight, wish)| wish.count(domain(wish.key())) * weight);
    own.chain(wished).sum()
}

/// Pods that the pod looks for, or that it or they shun, make a difference where they come and go; nodes that have
/// the keys.
fn hint(_: &Profile, pod: &PodRow, what: Happening) -> bool {
    // The labels of namespaces are not at hand here: a term that needs them may be about anybody.
    let is_about = |term: &Term, other: &PodRow| {
        (term.namespaces.selector.is_some()
            || term
                .namespaces
                .names
                .iter()
                .any(|name| **name == *other.namespace()))
            && term.matcher.matches(Some(other.labels()))
    };
    let terms = &pod.shape.terms;
    let sought = |other: &PodRow| {
        !terms.near.is_empty() && terms.near.iter().all(|term| is_about(term, other))
    };
    let shunned = |other: &PodRow| {
        terms.far.iter().any(|term| is_about(term, other))
            || other.shape.terms.far.iter().any(|term| is_about(term, pod))
    };
    match what {
        Happening::Pod(old, new) => old.is_some_and(shunned) || new.is_some_and(sought),
        Happening::Node(old, _, new) => {
            let mut keys = terms.near.iter().chain(&terms.far).map(|term| &*term.key);
            let Some(old) = old else {
                return terms
                    .near
                    .iter()
                    .all(|term| new.labels.contains_key(&*term.key));
            };
            keys.any(|key| old.labels.get(key) != new.labels.get(key))
                || (terms.near.is_empty() && terms.far.is_empty() && old.labels != new.labels)
        }
        Happening::Claim(..)
        | Happening::DeviceClaim(_)
        | Happening::DeviceClass
        | Happening::Other => true,
    }
}
