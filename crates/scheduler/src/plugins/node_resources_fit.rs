//! A pod goes where there is room for what it asks; which of those nodes is best is a matter of strategy.

use crate::devices::extended::may_be_devices;
use crate::framework::{
    Cycle, Happening, MAX_SCORE, NOTHING, Normal, Plugin, Rejection, Score, View, event,
};
use crate::nodes::{NodeFacts, Usage};
use crate::profile::{Args, Kind, Profile, Strategy, Weighted};
use crate::resources::Resources;
use crate::rows::PodRow;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeResourcesFit",
    weight: 1,
    filter: Some(filter),
    score: Some(Score {
        prepare: |_, _| true,
        score,
        normal: Normal::As,
    }),
    wakes_on: event::POD_REMOVED
        | event::POD_SHRUNK
        | event::NODE_ADDED
        | event::NODE_ALLOCATABLE
        | event::DEVICE_CLASS,
    hint: Some(hint),
    ..NOTHING
};

/// Refuses nodes without room.
fn filter(cycle: &Cycle, view: &View) -> Result<(), Rejection> {
    match lacks(
        &cycle.pod.requests,
        view.facts,
        view.usage,
        &cycle.profile.args,
        &|name| cycle.world.devices.class_for(name).is_some(),
    ) {
        None => Ok(()),
        Some(rejection) => Err(rejection),
    }
}

/// What is lacking. Resources that `by_devices` are left to others where the node itself has none.
fn lacks(
    wanted: &Resources,
    facts: &NodeFacts,
    usage: &Usage,
    args: &Args,
    by_devices: &dyn Fn(&str) -> bool,
) -> Option<Rejection> {
    let mut rejection: Option<Rejection> = None;
    let mut add = |reason: std::borrow::Cow<'static, str>, unresolvable: bool| match &mut rejection
    {
        Some(known) => {
            known.more.push(reason);
            known.unresolvable |= unresolvable;
        }
        None => {
            rejection = Some(Rejection {
                unresolvable,
                ..Rejection::resolvable(reason)
            });
        }
    };
    if usage.pods >= facts.max_pods {
        add("Too many pods".into(), false);
    }
    let (used, all) = (&usage.requested, &facts.allocatable);
    if wanted.cpu > 0 && wanted.cpu > all.cpu - used.cpu {
        add("Insufficient cpu".into(), wanted.cpu > all.cpu);
    }
    if wanted.memory > 0 && wanted.memory > all.memory - used.memory {
        add("Insufficient memory".into(), wanted.memory > all.memory);
    }
    if wanted.ephemeral > 0 && wanted.ephemeral > all.ephemeral - used.ephemeral {
        let never = wanted.ephemeral > all.ephemeral;
        add("Insufficient ephemeral-storage".into(), never);
    }
    for (name, wanted) in &wanted.others {
        if *wanted == 0 || args.ignores(name) {
            continue;
        }
        let all = all.other(name);
        if all == 0 && by_devices(name) {
            continue;
        }
        if *wanted > all - used.other(name) {
            add(format!("Insufficient {name}").into(), *wanted > all);
        }
    }
    rejection
}

/// What a node has, and what it would give with the pod.
fn amounts(cycle: &Cycle, view: &View, resource: &Weighted) -> (i64, i64) {
    let (pod, usage, all) = (cycle.pod, view.usage, &view.facts.allocatable);
    match resource.kind {
        Kind::Cpu => (all.cpu, usage.compared.0 + pod.compared.0),
        Kind::Memory => (all.memory, usage.compared.1 + pod.compared.1),
        Kind::Other => {
            let wanted = resource.of(&pod.requests);
            if wanted == 0 && &*resource.name != "ephemeral-storage" {
                return (0, 0);
            }
            (resource.of(all), resource.of(&usage.requested) + wanted)
        }
    }
}

/// How well the node fits by the configured strategy.
fn score(cycle: &Cycle, view: &View) -> i64 {
    let args = &cycle.profile.args;
    let (mut sum, mut weights) = (0_i64, 0_i64);
    for resource in &args.fit_resources {
        let (all, used) = amounts(cycle, view, resource);
        if all == 0 {
            continue;
        }
        let score = rate(&args.strategy, used, all);
        if matches!(args.strategy, Strategy::Ratio(_)) && score <= 0 {
            continue;
        }
        sum += score * resource.weight;
        weights += resource.weight;
    }
    match (weights, &args.strategy) {
        (0, _) => 0,
        (_, Strategy::Ratio(_)) => (sum as f64 / weights as f64).round() as i64,
        _ => sum / weights,
    }
}

/// The score of one resource of which `used` of `all` would be given.
fn rate(strategy: &Strategy, used: i64, all: i64) -> i64 {
    match strategy {
        Strategy::LeastAllocated if used > all => 0,
        Strategy::LeastAllocated => share(all - used, all),
        Strategy::MostAllocated => share(used.min(all), all),
        Strategy::Ratio(shape) => along(shape, if used > all { 100 } else { share(used, all) }),
    }
}

fn share(part: i64, whole: i64) -> i64 {
    match part.checked_mul(MAX_SCORE) {
        Some(product) => product / whole,
        None => {
            i64::try_from(i128::from(part) * i128::from(MAX_SCORE) / i128::from(whole)).unwrap_or(0)
        }
    }
}

/// The height of a line through points (of use in percent, and score) at `at`.
fn along(points: &[(i64, i64)], at: i64) -> i64 {
    let mut before: Option<(i64, i64)> = None;
    for (use_, score) in points {
        if at <= *use_ {
            return match before {
                None => *score,
                Some((x, y)) if *use_ > x => y + (score - y) * (at - x) / (use_ - x),
                Some((_, y)) => y,
            };
        }
        before = Some((*use_, *score));
    }
    before.map_or(0, |(_, score)| score)
}

/// A node helps that has room when it is empty, and more than it had.
fn hint(profile: &Profile, pod: &PodRow, what: Happening) -> bool {
    match what {
        Happening::Node(old, _, new) => {
            let empty = Usage::default();
            // Whether devices stand for a resource is not known here: they may.
            let by_devices = |name: &str| pod.devices.is_some() && may_be_devices(name);
            if lacks(&pod.requests, new, &empty, &profile.args, &by_devices).is_some() {
                return false;
            }
            pod.devices.is_some() || old.is_none_or(|old| has_more(&pod.requests, old, new))
        }
        Happening::Pod(Some(old), Some(new)) => {
            let wanted = &pod.requests;
            let freed = |name: &str| {
                wanted.get(name) > 0 && old.requests.get(name) > new.requests.get(name)
            };
            ["cpu", "memory", "ephemeral-storage"]
                .into_iter()
                .any(freed)
                || wanted.others.iter().any(|(name, _)| freed(name))
        }
        Happening::DeviceClass => pod.devices.is_some(),
        _ => true,
    }
}

fn has_more(wanted: &Resources, old: &NodeFacts, new: &NodeFacts) -> bool {
    let more =
        |name: &str| wanted.get(name) > 0 && new.allocatable.get(name) > old.allocatable.get(name);
    new.max_pods > old.max_pods
        || ["cpu", "memory", "ephemeral-storage"].into_iter().any(more)
        || wanted.others.iter().any(|(name, _)| more(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies() {
        let line = Strategy::Ratio(vec![(0, 0), (50, 100), (100, 20)]);
        for (strategy, used, all, expected) in [
            (&Strategy::LeastAllocated, 25, 100, 75),
            (&Strategy::LeastAllocated, 101, 100, 0),
            (&Strategy::MostAllocated, 25, 100, 25),
            (&Strategy::MostAllocated, 200, 100, 100),
            (&line, 25, 100, 50),
            (&line, 50, 100, 100),
            (&line, 75, 100, 60),
            (&line, 300, 100, 20),
        ] {
            assert_eq!(rate(strategy, used, all), expected, "{strategy:?} {used}");
        }
        assert_eq!(share(i64::MAX / 2, i64::MAX), 49);
    }

    #[test]
    fn what_is_lacking_is_listed_in_order() {
        let facts = NodeFacts {
            allocatable: Resources {
                cpu: 1000,
                memory: 100,
                others: vec![("x.io/gpu".into(), 1)],
                ..Resources::default()
            },
            max_pods: 1,
            ..NodeFacts::default()
        };
        let usage = Usage {
            pods: 1,
            requested: Resources {
                cpu: 600,
                ..Resources::default()
            },
            ..Usage::default()
        };
        let wanted = Resources {
            cpu: 500,
            memory: 200,
            ephemeral: 0,
            others: vec![("x.io/gpu".into(), 1), ("y.io/tpu".into(), 1)],
        };
        let args = Args::default();
        let rejection = lacks(&wanted, &facts, &usage, &args, &|_| false).unwrap();
        assert_eq!(
            rejection.reasons().collect::<Vec<_>>(),
            [
                "Too many pods",
                "Insufficient cpu",
                "Insufficient memory",
                "Insufficient y.io/tpu"
            ]
        );
        assert!(rejection.unresolvable);
        let ignoring = Args {
            ignored_groups: vec!["y.io".into()],
            ..Args::default()
        };
        let little = Resources {
            others: vec![("y.io/tpu".into(), 1)],
            ..Resources::default()
        };
        let free = Usage::default();
        assert_eq!(lacks(&little, &facts, &free, &ignoring, &|_| false), None);
        assert_eq!(lacks(&little, &facts, &free, &args, &|_| true), None);
    }
}
