//! A pod that names its node goes there only.

use crate::framework::{Cycle, Rejection};
use crate::rows::{NodeFacts, NodeRow};

/// The plugin's name.
pub const NAME: &str = "NodeName";

/// Refuses other nodes than the named one.
pub fn filter(cycle: &Cycle, node: &NodeRow, _: &NodeFacts) -> Result<(), Rejection> {
    if cycle.pod.node.is_empty() || *cycle.pod.node == *node.name {
        return Ok(());
    }
    Err(Rejection::unresolvable(
        "node(s) didn't match the requested node name",
    ))
}
