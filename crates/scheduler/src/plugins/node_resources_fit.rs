//! A pod goes where there is room for what it asks, best where most is left.

use std::borrow::Cow;

use crate::framework::{Cycle, MAX_SCORE, Rejection};
use crate::rows::{NodeFacts, NodeRow};

/// The plugin's name.
pub const NAME: &str = "NodeResourcesFit";

/// Refuses nodes without room.
pub fn filter(cycle: &Cycle, node: &NodeRow, facts: &NodeFacts) -> Result<(), Rejection> {
    let (wanted, used, all) = (&cycle.pod.requests, &node.requested, &facts.allocatable);
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut unresolvable = false;
    if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= facts.max_pods {
        reasons.push("Too many pods".into());
    }
    for (reason, wanted, used, all) in [
        ("Insufficient cpu", wanted.cpu, used.cpu, all.cpu),
        (
            "Insufficient memory",
            wanted.memory,
            used.memory,
            all.memory,
        ),
        (
            "Insufficient ephemeral-storage",
            wanted.ephemeral,
            used.ephemeral,
            all.ephemeral,
        ),
    ] {
        if wanted > 0 && wanted > all - used {
            reasons.push(reason.into());
            unresolvable |= wanted > all;
        }
    }
    for (name, wanted) in &wanted.others {
        let all = all.other(name);
        if *wanted > 0 && *wanted > all - used.other(name) {
            reasons.push(format!("Insufficient {name}").into());
            unresolvable |= *wanted > all;
        }
    }
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Rejection {
        reasons,
        unresolvable,
    })
}

/// The share that would be left, averaged over CPU and memory.
#[must_use]
pub fn score(cycle: &Cycle, node: &NodeRow, facts: &NodeFacts) -> i64 {
    let pod = cycle.pod.compared;
    let (mut sum, mut weight) = (0, 0);
    for (used, all) in [
        (node.compared.0 + pod.0, facts.allocatable.cpu),
        (node.compared.1 + pod.1, facts.allocatable.memory),
    ] {
        if all > 0 {
            sum += i128::from((all - used).max(0)) * i128::from(MAX_SCORE) / i128::from(all);
            weight += 1;
        }
    }
    if weight == 0 {
        0
    } else {
        i64::try_from(sum / weight).unwrap_or(0)
    }
}
