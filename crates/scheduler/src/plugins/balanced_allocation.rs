//! Nodes whose CPU and memory are used in like measure are better.

use crate::framework::{Cycle, MAX_SCORE};
use crate::rows::{NodeFacts, NodeRow};

/// The plugin's name.
pub const NAME: &str = "NodeResourcesBalancedAllocation";

/// How balanced the use is, in 50 to 100.
fn balance(cpu: i64, memory: i64, facts: &NodeFacts) -> i64 {
    let share = |used: i64, all: i64| (all > 0).then(|| (used as f64 / all as f64).min(1.0));
    let shares = (
        share(cpu, facts.allocatable.cpu),
        share(memory, facts.allocatable.memory),
    );
    let deviation = match shares {
        (Some(cpu), Some(memory)) => (cpu - memory).abs() / 2.0,
        _ => 0.0,
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

/// How far the pod improves the balance; 75 where it changes nothing.
#[must_use]
pub fn score(cycle: &Cycle, node: &NodeRow, facts: &NodeFacts) -> i64 {
    let (cpu, memory) = (cycle.pod.requests.cpu, cycle.pod.requests.memory);
    if cpu == 0 && memory == 0 {
        return 0;
    }
    let used = &node.requested;
    let with = balance(used.cpu + cpu, used.memory + memory, facts);
    let without = balance(used.cpu, used.memory, facts);
    MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2
}
