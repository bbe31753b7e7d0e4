//! Where no node does, room is made for a more important pod by taking less important ones away: as few, and as
//! unimportant, as will do.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::diagnosis::{Diagnosis, histogram};
use crate::framework::{Cycle, Moved, NOTHING, Plugin, Rejection, View};
use crate::metrics::{self, Point};
use crate::rows::PodRow;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "DefaultPreemption",
    post_filter: true,
    ..NOTHING
};

/// Pods that would have to go from a node.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The number of the node.
    pub node: usize,
    /// The pods, the most important first.
    pub victims: Vec<Arc<PodRow>>,
    /// How many of them a budget protects.
    pub violations: usize,
}

/// What came of looking for room.
#[derive(Debug)]
pub enum Outcome {
    /// Nodes where it can be made.
    Candidates(Vec<Candidate>),
    /// The pod is not to try; what was made for it before stands.
    NotEligible(&'static str),
    /// There is none: why, in upstream's words.
    None(String),
}

/// Looks for nodes where room can be made. `pick` chooses where to begin among so many.
pub fn look(cycle: &Cycle, diagnosis: &Diagnosis, pick: impl Fn(usize) -> usize) -> Outcome {
    let measured = &cycle.profile.measured;
    let since = measured.now();
    measured.looked_for_room();
    let outcome = candidates(cycle, diagnosis, pick);
    let status = match outcome {
        Outcome::Candidates(_) => metrics::Outcome::Scheduled,
        Outcome::NotEligible(_) | Outcome::None(_) => metrics::Outcome::Unschedulable,
    };
    measured.asked(Point::PostFilter, status, since);
    outcome
}

fn candidates(cycle: &Cycle, diagnosis: &Diagnosis, pick: impl Fn(usize) -> usize) -> Outcome {
    if let Some(why) = not_eligible(cycle, diagnosis) {
        return Outcome::NotEligible(why);
    }
    let nodes = diagnosis.resolvable();
    let args = &cycle.profile.args;
    let share = nodes.len() * args.min_candidates_percentage / 100;
    let wanted = share.max(args.min_candidates_absolute).min(nodes.len());
    let offset = if nodes.is_empty() {
        0
    } else {
        pick(nodes.len())
    };
    let (mut free, mut costly, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for index in nodes.iter().cycle().skip(offset).take(nodes.len()) {
        match victims(cycle, *index) {
            Ok(found) if found.violations == 0 => free.push(found),
            Ok(found) => costly.push(found),
            Err(rejection) => refused.push(rejection),
        }
        if !free.is_empty() && free.len() + costly.len() >= wanted {
            break;
        }
    }
    free.append(&mut costly);
    if !free.is_empty() {
        return Outcome::Candidates(free);
    }
    let reasons = refused.iter().flat_map(Rejection::reasons);
    let hopeless = diagnosis.total.saturating_sub(refused.len());
    let hopeless = std::iter::repeat_n("Preemption is not helpful for scheduling", hopeless);
    Outcome::None(format!(
        "0/{} nodes are available: {}.",
        diagnosis.total,
        histogram(reasons.chain(hopeless))
    ))
}

fn not_eligible(cycle: &Cycle, diagnosis: &Diagnosis) -> Option<&'static str> {
    let pod = cycle.pod;
    if !pod.preempts {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let index = Some(&*pod.nominated)
        .filter(|name| !name.is_empty())
        .and_then(|name| cycle.world.cluster.find(name))?;
    if !diagnosis.resolvable().contains(&index) {
        return None;
    }
    let node = cycle.world.cluster.nodes.get(index)?;
    let mut pods = node.pods.values();
    pods.any(|other| other.priority < pod.priority && other.preempted)
        .then_some("not eligible due to a terminating pod on the nominated node.")
}

/// More important pods first: those of higher priority, then those that have run for longer.
fn importance(pod: &PodRow) -> (Reverse<i32>, i64) {
    (Reverse(pod.priority), pod.started.unwrap_or(i64::MAX))
}

/// The pods that have to go from a node so that the pod fits: all less important ones but those that can stay.
/// Those that a budget protects are spared first.
pub fn victims(cycle: &Cycle, index: usize) -> Result<Candidate, Rejection> {
    let nothing = || Rejection::unresolvable("No preemption victims found for incoming pod");
    let view = View::of(cycle.world, index).ok_or_else(nothing)?;
    let lesser = |other: &&Arc<PodRow>| other.priority < cycle.pod.priority;
    let mut lesser: Vec<&Arc<PodRow>> = view.node.pods.values().filter(lesser).collect();
    if lesser.is_empty() {
        return Err(nothing());
    }
    let mut usage = view.usage.clone();
    lesser.iter().for_each(|other| usage.subtract(other));
    let mut moved: Vec<Moved> = lesser.iter().map(|other| (&***other, -1)).collect();
    let fits = |usage: &crate::nodes::Usage, moved: &[Moved]| {
        cycle.check_with_nominated(&View {
            usage,
            moved,
            ..view
        })
    };
    fits(&usage, &moved).map_err(|(_, rejection)| rejection)?;
    lesser.sort_by_key(|other| importance(other));
    let rows: Vec<&PodRow> = lesser.iter().map(|other| &***other).collect();
    let protected = cycle.world.budgets.overdrawn(&rows);
    let mut order: Vec<(&Arc<PodRow>, bool)> = lesser.iter().copied().zip(protected).collect();
    order.sort_by_key(|(_, protected)| !protected);
    let (mut victims, mut violations) = (Vec::new(), 0);
    for (other, protected) in order {
        usage.add(other);
        let at = moved.iter().position(|(gone, _)| gone.uid == other.uid);
        let entry = at.map(|at| moved.swap_remove(at));
        if fits(&usage, &moved).is_ok() {
            continue;
        }
        usage.subtract(other);
        moved.extend(entry);
        victims.push(other.clone());
        violations += usize::from(protected);
    }
    if victims.is_empty() {
        return Err(nothing());
    }
    victims.sort_by_key(|other| importance(other));
    Ok(Candidate {
        node: index,
        victims,
        violations,
    })
}

/// The candidate that costs least: by broken budgets, then by the most important victim, by all victims' importance,
/// by their number, and then the one whose most important victims have run for the shortest time.
#[must_use]
pub fn cheapest(candidates: Vec<Candidate>) -> Option<Candidate> {
    let cost = |candidate: &Candidate| {
        let highest = candidate.victims.iter().map(|pod| pod.priority).max();
        let highest = highest.unwrap_or(i32::MIN);
        let sum: i64 = candidate
            .victims
            .iter()
            .map(|pod| i64::from(pod.priority) + (1 << 31))
            .sum();
        let most = candidate
            .victims
            .iter()
            .filter(|pod| pod.priority == highest);
        let earliest = most.map(|pod| pod.started.unwrap_or(i64::MAX)).min();
        (
            candidate.violations,
            highest,
            sum,
            candidate.victims.len(),
            Reverse(earliest),
        )
    };
    candidates.into_iter().min_by_key(cost)
}
