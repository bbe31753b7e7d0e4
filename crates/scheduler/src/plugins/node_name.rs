//! A pod that names its node goes there only.

use crate::framework::{Cycle, NOTHING, Plugin, Rejection, View, event};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeName",
    filter: Some(filter),
    wakes_on: event::NODE_ADDED,
    ..NOTHING
};

/// Refuses other nodes than the named one.
fn filter(cycle: &Cycle, view: &View) -> Result<(), Rejection> {
    if cycle.pod.node.is_empty() || *cycle.pod.node == *view.node.name {
        return Ok(());
    }
    Err(Rejection::unresolvable(
        "node(s) didn't match the requested node name",
    ))
}
