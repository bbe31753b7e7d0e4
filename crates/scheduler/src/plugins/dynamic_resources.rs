//! Claims of devices.
//!
//! Devices are not allocated here: a pod with claims stays pending and says so, rather than being bound to a node
//! where it cannot run.

use crate::framework::{Cycle, NOTHING, Plugin, PreFilter, Rejection, event};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "DynamicResources",
    weight: 2,
    pre_filter: Some(pre_filter),
    post_filter: true,
    wakes_on: event::NODE_ADDED,
    ..NOTHING
};

/// What it says when no node does: there is nothing it could give up.
pub const NOTHING_TO_GIVE_UP: &str = "no new claims to deallocate";

fn pre_filter(cycle: &Cycle) -> PreFilter {
    if cycle.pod.shape.device_claims == 0 {
        return PreFilter::Skip;
    }
    PreFilter::Reject(Rejection::unresolvable(
        "this scheduler does not allocate devices for resource claims",
    ))
}
