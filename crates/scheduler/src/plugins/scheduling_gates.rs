//! A pod that somebody holds back is not queued.

use crate::framework::{NOTHING, Plugin};
use crate::rows::PodRow;
use crate::world::World;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "SchedulingGates",
    pre_enqueue: Some(holds_back),
    ..NOTHING
};

fn holds_back(pod: &PodRow, _: &World) -> Option<String> {
    if pod.gates.is_empty() {
        return None;
    }
    Some(format!(
        "waiting for scheduling gates: [{}]",
        pod.gates.join(" ")
    ))
}
