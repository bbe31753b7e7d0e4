//! Pods that are to be spread over zones or hosts go where fewest of them are.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Toleration, TopologySpreadConstraint};
use skiff_client::LabelMatcher;

use super::{node_affinity, taint_toleration};
use crate::counters::{Asking, Counter, Eligible, Question, Select};
use crate::framework::{
    Cycle, Happening, IGNORED, NOTHING, Normal, Plugin, PreFilter, Rejection, Score, View, event,
};
use crate::profile::Profile;
use crate::rows::{NodeWants, PodRow};
use crate::terms::{Labels, Namespaces, matcher, with_label_keys};
use crate::topology::{Domain, NONE};
use crate::world::World;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "PodTopologySpread",
    weight: 2,
    pre_filter: Some(pre_filter),
    filter: Some(filter),
    score: Some(Score {
        prepare,
        score,
        normal: Normal::Fewest,
    }),
    wakes_on: event::POD_REMOVED
        | event::POD_ADDED
        | event::POD_CHANGED
        | event::NODE_ADDED
        | event::NODE_LABELS
        | event::NODE_TAINTS,
    hint: Some(hint),
    ..NOTHING
};

const HOSTNAME: &str = "kubernetes.io/hostname";

/// One constraint, made ready.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// The topology key.
    pub key: Box<str>,
    /// How uneven it may be.
    pub max_skew: i64,
    /// Whether it must hold.
    pub hard: bool,
    /// With fewer domains than this the emptiest counts as empty.
    pub min_domains: usize,
    /// Whether the pod is one of those that are counted.
    pub counts_itself: bool,
    matcher: LabelMatcher,
    asking: Asking,
}

/// The pod whose constraints are made ready.
pub struct Owner<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a Labels,
    /// The nodes it wants.
    pub wants: &'a Arc<NodeWants>,
    /// The taints it bears.
    pub tolerations: &'a Arc<[Toleration]>,
}

impl Owner<'_> {
    /// The pod's own constraints.
    #[must_use]
    pub fn constraints(&self, stated: &[TopologySpreadConstraint]) -> Vec<Constraint> {
        let make = |constraint: &TopologySpreadConstraint| {
            let selector = with_label_keys(
                constraint.label_selector.as_ref(),
                self.labels,
                constraint.match_label_keys.as_deref(),
                None,
            );
            self.one(constraint, matcher(selector.as_ref()), stated, true)
        };
        stated.iter().map(make).collect()
    }

    /// Constraints that hold for pods without any of their own; `matcher` finds the pods of the same kind. Nodes
    /// that lack a topology key count all the same unless `all_keys` says otherwise.
    #[must_use]
    pub fn by_default(
        &self,
        stated: &[TopologySpreadConstraint],
        matcher: &LabelMatcher,
        all_keys: bool,
    ) -> Vec<Constraint> {
        let make = |found| self.one(found, matcher.clone(), stated, all_keys);
        stated.iter().map(make).collect()
    }

    fn one(
        &self,
        constraint: &TopologySpreadConstraint,
        matcher: LabelMatcher,
        all: &[TopologySpreadConstraint],
        all_keys: bool,
    ) -> Constraint {
        let same_kind = all
            .iter()
            .filter(|other| other.when_unsatisfiable == constraint.when_unsatisfiable);
        let hard = constraint.when_unsatisfiable == "DoNotSchedule";
        let keys = same_kind.map(|other| other.topology_key.as_str().into());
        let by_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
        let by_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
        let restricted = by_affinity && !self.wants.any_node();
        // A selector that selects everything counts nothing.
        let counted = if matcher.is_everything() {
            LabelMatcher::nothing()
        } else {
            matcher.clone()
        };
        let question = Question {
            key: constraint.topology_key.as_str().into(),
            select: Select {
                terms: vec![(Namespaces::only(self.namespace), counted)],
                only_staying: true,
            },
            eligible: Eligible {
                keys: if hard || all_keys {
                    keys.collect()
                } else {
                    Vec::new()
                },
                allowed_by: restricted.then(|| self.wants.clone()),
                borne_by: by_taints.then(|| self.tolerations.clone()),
            },
        };
        Constraint {
            key: constraint.topology_key.as_str().into(),
            max_skew: i64::from(constraint.max_skew),
            hard,
            min_domains: usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1),
            counts_itself: matcher.matches(Some(self.labels)),
            matcher,
            asking: Asking::new(question),
        }
    }
}

/// A constraint with the counter that answers it.
#[derive(Clone, Debug)]
pub struct Asked {
    max_skew: i64,
    min_domains: usize,
    counts_itself: bool,
    hostname: bool,
    counter: usize,
}

/// All constraints of a pod.
#[derive(Clone, Debug, Default)]
pub struct AllAsked {
    hard: Vec<Asked>,
    soft: Vec<Asked>,
    /// Whether nodes that lack a key of the soft ones are left out.
    all_keys: bool,
}

/// Asks the counters for what the pod's constraints are about.
pub fn ask(world: &mut World, pod: &PodRow, profile: &Profile) -> AllAsked {
    let own = &pod.shape.spread;
    if !own.is_empty() {
        return ask_for(world, own, true);
    }
    let defaults = &profile.args.spread_defaults;
    if defaults.is_empty() {
        return AllAsked::default();
    }
    let matcher = world.kin.matcher(pod);
    if matcher.is_everything() {
        return AllAsked::default();
    }
    let owner = Owner {
        namespace: pod.namespace(),
        labels: pod.labels(),
        wants: &pod.shape.wants,
        tolerations: &pod.shape.tolerations,
    };
    let all_keys = !profile.args.spread_by_system;
    let constraints = owner.by_default(defaults, &matcher, all_keys);
    ask_for(world, &constraints, all_keys)
}

fn ask_for(world: &mut World, constraints: &[Constraint], all_keys: bool) -> AllAsked {
    let mut all = AllAsked {
        all_keys,
        ..AllAsked::default()
    };
    for constraint in constraints {
        let asked = Asked {
            max_skew: constraint.max_skew,
            min_domains: constraint.min_domains,
            counts_itself: constraint.counts_itself,
            hostname: &*constraint.key == HOSTNAME,
            counter: world.counter(&constraint.asking),
        };
        if constraint.hard {
            all.hard.push(asked);
        } else {
            all.soft.push(asked);
        }
    }
    all
}

fn pre_filter(cycle: &Cycle) -> PreFilter {
    if cycle.asked.spread.hard.is_empty() {
        PreFilter::Skip
    } else {
        PreFilter::All
    }
}

/// How much the pods that are supposed to move change what a counter says of the node's domain.
fn moved(cycle: &Cycle, view: &View, counter: &Counter) -> i64 {
    let known = &cycle.world.cluster.namespaces;
    let counted = view
        .moved
        .iter()
        .filter(|(pod, _)| counter.counts(pod, view.index, known));
    counted.map(|(_, by)| by).sum()
}

/// Refuses nodes where the pod would make the spread too uneven.
fn filter(cycle: &Cycle, view: &View) -> Result<(), Rejection> {
    for asked in &cycle.asked.spread.hard {
        let Some(counter) = cycle.world.counters.get(asked.counter) else {
            continue;
        };
        let domain = cycle.world.topologies.domain(counter.key(), view.index);
        if domain == NONE {
            return Err(Rejection::unresolvable(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            ));
        }
        let by = if view.moved.is_empty() {
            0
        } else {
            moved(cycle, view, counter)
        };
        let least = if counter.domains() < asked.min_domains {
            0
        } else {
            counter.least(domain, by)
        };
        let skew = counter.count(domain) + by + i64::from(asked.counts_itself) - least;
        if skew > asked.max_skew {
            return Err(Rejection::resolvable(
                "node(s) didn't match pod topology spread constraints",
            ));
        }
    }
    Ok(())
}

/// What scores go by: the weight of each soft constraint.
#[derive(Clone, Debug, Default)]
pub struct Scale {
    weights: Vec<f64>,
}

fn key_of(cycle: &Cycle, asked: &Asked) -> Option<usize> {
    cycle.world.counters.get(asked.counter).map(Counter::key)
}

fn is_ignored(cycle: &Cycle, node: usize) -> bool {
    let asked = &cycle.asked.spread;
    asked.all_keys
        && asked.soft.iter().any(|asked| {
            key_of(cycle, asked).is_none_or(|key| cycle.world.topologies.domain(key, node) == NONE)
        })
}

/// Weighs finer topologies more, as they have more domains.
fn prepare(cycle: &mut Cycle, feasible: &[usize]) -> bool {
    let soft = &cycle.asked.spread.soft;
    if soft.is_empty() {
        return false;
    }
    let counted: Vec<usize> = feasible
        .iter()
        .copied()
        .filter(|node| !is_ignored(cycle, *node))
        .collect();
    let weight = |asked: &Asked| {
        let size = if asked.hostname {
            counted.len()
        } else {
            let key = key_of(cycle, asked);
            let domains = counted
                .iter()
                .map(|node| key.map_or(NONE, |key| cycle.world.topologies.domain(key, *node)));
            distinct(domains)
        };
        ((size + 2) as f64).ln()
    };
    cycle.spread.weights = soft.iter().map(weight).collect();
    true
}

fn distinct(domains: impl Iterator<Item = Domain>) -> usize {
    let mut all: Vec<Domain> = domains.collect();
    all.sort_unstable();
    all.dedup();
    all.len()
}

/// How many matching pods are in the node's domains; fewer are better.
fn score(cycle: &Cycle, view: &View) -> i64 {
    if is_ignored(cycle, view.index) {
        return IGNORED;
    }
    let mut sum = 0.0;
    for (asked, weight) in cycle.asked.spread.soft.iter().zip(&cycle.spread.weights) {
        let Some(counter) = cycle.world.counters.get(asked.counter) else {
            continue;
        };
        let domain = cycle.world.topologies.domain(counter.key(), view.index);
        if domain != NONE {
            sum += counter.count(domain) as f64 * weight + (asked.max_skew - 1) as f64;
        }
    }
    sum.round() as i64
}

/// Pods that are counted make a difference where they come and go, and nodes that have the keys.
fn hint(_: &Profile, pod: &PodRow, what: Happening) -> bool {
    let hard = || pod.shape.spread.iter().filter(|constraint| constraint.hard);
    let counted = |other: &PodRow| {
        other.namespace() == pod.namespace()
            && hard().any(|constraint| constraint.matcher.matches(Some(other.labels())))
    };
    match what {
        Happening::Pod(old, new) => old.is_some_and(counted) || new.is_some_and(counted),
        Happening::Node(old, name, new) => {
            let has_keys = hard().all(|constraint| new.labels.contains_key(&*constraint.key));
            let Some(old) = old else {
                return has_keys;
            };
            let had_keys = hard().all(|constraint| old.labels.contains_key(&*constraint.key));
            let moved = hard().any(|constraint| {
                old.labels.get(&*constraint.key) != new.labels.get(&*constraint.key)
            });
            let wants = &pod.shape.wants;
            let allowed =
                node_affinity::allows(wants, name, old) != node_affinity::allows(wants, name, new);
            let borne = taint_toleration::bears(&pod.shape.tolerations, &old.taints)
                != taint_toleration::bears(&pod.shape.tolerations, &new.taints);
            (had_keys || has_keys) && (moved || allowed || borne)
        }
        Happening::Claim(..)
        | Happening::DeviceClaim(_)
        | Happening::DeviceClass
        | Happening::Other => true,
    }
}
