//! Finds a node for a pod: those that do, and the best among them.

use crate::diagnosis::Diagnosis;
use crate::framework::{Cycle, IGNORED, MAX_SCORE, Normal, PreFilter, View, plugin};
use crate::metrics::{Outcome, Point};

/// Below so many nodes all are looked at.
const ALWAYS_LOOK_AT: usize = 100;

/// The nodes that do.
#[derive(Debug, PartialEq)]
pub struct Search {
    /// Their numbers, in the order in which they were looked at.
    pub feasible: Vec<usize>,
    /// Why the others do not.
    pub diagnosis: Diagnosis,
    /// Where the next search begins.
    pub next: usize,
}

/// Looks for nodes that do, beginning at `start`, until there are enough.
pub fn find(cycle: &mut Cycle, start: usize) -> Search {
    let mut search = Search {
        feasible: Vec::new(),
        diagnosis: Diagnosis::new(cycle.world.cluster.ready),
        next: start,
    };
    if search.diagnosis.total == 0 {
        return search;
    }
    let measured = &cycle.profile.measured;
    let since = measured.now();
    let Some(only) = pre_filter(cycle, &mut search.diagnosis) else {
        measured.asked(Point::PreFilter, Outcome::Unschedulable, since);
        return search;
    };
    measured.asked(Point::PreFilter, Outcome::Scheduled, since);
    let since = measured.now();
    filter(cycle, start, only, &mut search);
    let status = match search.feasible.as_slice() {
        [] => Outcome::Unschedulable,
        _ => Outcome::Scheduled,
    };
    measured.asked(Point::Filter, status, since);
    search
}

/// Looks at `only` those nodes, or at all beginning at `start`.
fn filter(cycle: &Cycle, start: usize, only: Option<Vec<usize>>, search: &mut Search) {
    if let Some(index) = nominated(cycle) {
        search.feasible.push(index);
        return;
    }
    if let Some(only) = only {
        for index in &only {
            look_at(cycle, *index, search);
        }
        return;
    }
    let all = cycle.world.cluster.nodes.len();
    let enough = enough(search.diagnosis.total, cycle.profile.percentage);
    let mut looked_at = 0;
    for offset in 0..all {
        looked_at = offset + 1;
        look_at(cycle, (start + offset) % all, search);
        if search.feasible.len() >= enough {
            break;
        }
    }
    search.next = (start + looked_at) % all;
}

/// Asks the plugins about all nodes at once. None if one of them refuses; else the nodes to look at, if not all.
fn pre_filter(cycle: &mut Cycle, diagnosis: &mut Diagnosis) -> Option<Option<Vec<usize>>> {
    let mut only: Option<Vec<usize>> = None;
    let mut restricting = 0_u32;
    for number in &cycle.profile.pre_filters {
        let Some(ask) = plugin(*number).and_then(|plugin| plugin.pre_filter) else {
            continue;
        };
        match ask(cycle) {
            PreFilter::All => {}
            PreFilter::Skip => cycle.skipped |= 1 << number,
            PreFilter::Nodes(nodes) => {
                restricting |= 1 << number;
                only = Some(match only {
                    None => nodes,
                    Some(mut so_far) => {
                        so_far.retain(|index| nodes.contains(index));
                        so_far
                    }
                });
            }
            PreFilter::Reject(rejection) => {
                diagnosis.refuse_all(*number, rejection);
                return None;
            }
        }
    }
    if only.is_some() {
        diagnosis.restrict(restricting);
    }
    Some(only)
}

/// The node that room was made on for this pod, if it does.
fn nominated(cycle: &Cycle) -> Option<usize> {
    let name = Some(&*cycle.pod.nominated).filter(|name| !name.is_empty())?;
    let index = cycle.world.cluster.find(name)?;
    let view = View::of(cycle.world, index)?;
    cycle.check_with_nominated(&view).ok().map(|()| index)
}

fn look_at(cycle: &Cycle, index: usize, search: &mut Search) {
    let Some(view) = View::of(cycle.world, index) else {
        return;
    };
    match cycle.check_with_nominated(&view) {
        Ok(()) => search.feasible.push(index),
        Err((number, rejection)) => search.diagnosis.refuse(number, index, rejection),
    }
}

/// How many nodes that do are enough: in a large cluster a share of it.
fn enough(total: usize, percentage: u32) -> usize {
    if total < ALWAYS_LOOK_AT {
        return total;
    }
    let percent = match percentage {
        0 => 50_usize.saturating_sub(total / 125).max(5),
        stated => stated as usize,
    };
    (total * percent / 100).max(ALWAYS_LOOK_AT)
}

/// The scores of nodes that do, summed over all plugins.
pub fn scores(cycle: &mut Cycle, feasible: &[usize]) -> Vec<i64> {
    let measured = &cycle.profile.measured;
    let since = measured.now();
    let mut totals = vec![0_i64; feasible.len()];
    let mut own: Vec<i64> = Vec::with_capacity(feasible.len());
    for (number, weight) in &cycle.profile.scores {
        let Some(score) = plugin(*number).and_then(|plugin| plugin.score.as_ref()) else {
            continue;
        };
        if !(score.prepare)(cycle, feasible) {
            continue;
        }
        own.clear();
        own.extend(feasible.iter().map(|index| {
            View::of(cycle.world, *index).map_or(0, |view| (score.score)(cycle, &view))
        }));
        normalise(&mut own, score.normal);
        for (total, score) in totals.iter_mut().zip(&own) {
            *total += score * weight;
        }
    }
    measured.asked(Point::Score, Outcome::Scheduled, since);
    totals
}

/// The best node; `pick` chooses among so many equals.
pub fn best(feasible: &[usize], totals: &[i64], pick: impl Fn(usize) -> usize) -> Option<usize> {
    let highest = totals.iter().max().copied()?;
    let winners = || {
        let pairs = feasible.iter().zip(totals);
        pairs
            .filter(|(_, total)| **total == highest)
            .map(|(index, _)| *index)
    };
    let count = winners().count();
    winners().nth(pick(count)).or_else(|| winners().next())
}

fn normalise(scores: &mut [i64], how: Normal) {
    if how == Normal::As {
        return;
    }
    let seen = || {
        let all = scores.iter().copied();
        all.filter(|score| how != Normal::Fewest || *score != IGNORED)
    };
    let highest = seen().max().unwrap_or(0);
    let lowest = seen().min().unwrap_or(0);
    for score in scores {
        *score = match how {
            Normal::As => *score,
            Normal::ByHighest if highest == 0 => *score,
            Normal::ByHighest => *score * MAX_SCORE / highest,
            Normal::Reversed if highest == 0 => MAX_SCORE,
            Normal::Reversed => MAX_SCORE - *score * MAX_SCORE / highest,
            Normal::BetweenExtremes if highest == lowest => 0,
            Normal::BetweenExtremes => {
                (MAX_SCORE as f64 * ((*score - lowest) as f64 / (highest - lowest) as f64)) as i64
            }
            Normal::Fewest if *score == IGNORED => 0,
            Normal::Fewest if highest == 0 => MAX_SCORE,
            Normal::Fewest => MAX_SCORE * (highest + lowest - *score) / highest,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_cluster_is_not_searched_as_a_whole() {
        for (total, percentage, expected) in [
            (0, 0, 0),
            (99, 1, 99),
            (100, 0, 100),
            (1000, 0, 420),
            (5000, 0, 500),
            (15000, 0, 750),
            (1000, 50, 500),
            (1000, 1, 100),
            (1000, 100, 1000),
        ] {
            assert_eq!(enough(total, percentage), expected, "{total} {percentage}");
        }
    }

    #[test]
    fn normalising() {
        for (how, scores, expected) in [
            (Normal::As, [3, 5, 1], [3, 5, 1]),
            (Normal::ByHighest, [0, 5, 10], [0, 50, 100]),
            (Normal::ByHighest, [0, 0, 0], [0, 0, 0]),
            (Normal::Reversed, [0, 5, 10], [100, 50, 0]),
            (Normal::Reversed, [0, 0, 0], [100, 100, 100]),
            (Normal::BetweenExtremes, [-10, 0, 10], [0, 50, 100]),
            (Normal::BetweenExtremes, [7, 7, 7], [0, 0, 0]),
            (Normal::Fewest, [2, 4, IGNORED], [100, 50, 0]),
            (Normal::Fewest, [0, 0, IGNORED], [100, 100, 0]),
        ] {
            let mut found = scores;
            normalise(&mut found, how);
            assert_eq!(found, expected, "{how:?} {scores:?}");
        }
    }

    #[test]
    fn equals_are_picked_among() {
        assert_eq!(best(&[4, 5, 6], &[1, 9, 9], |_| 0), Some(5));
        assert_eq!(best(&[4, 5, 6], &[1, 9, 9], |_| 1), Some(6));
        assert_eq!(best(&[], &[], |_| 0), None);
    }
}
