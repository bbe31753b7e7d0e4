//! Nodes that are marked unschedulable take only pods that bear that.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::taint_toleration::tolerates;
use crate::framework::{Cycle, Happening, NOTHING, Plugin, Rejection, View, event};
use crate::profile::Profile;
use crate::rows::PodRow;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeUnschedulable",
    filter: Some(filter),
    wakes_on: event::NODE_ADDED | event::NODE_TAINTS,
    hint: Some(hint),
    ..NOTHING
};

fn bears_it(tolerations: &[Toleration]) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    tolerations
        .iter()
        .any(|toleration| tolerates(toleration, &taint))
}

/// Refuses cordoned nodes.
fn filter(cycle: &Cycle, view: &View) -> Result<(), Rejection> {
    if !view.facts.unschedulable || bears_it(&cycle.pod.shape.tolerations) {
        return Ok(());
    }
    Err(Rejection::unresolvable("node(s) were unschedulable"))
}

fn hint(_: &Profile, _: &PodRow, what: Happening) -> bool {
    match what {
        Happening::Node(None, _, new) => !new.unschedulable,
        Happening::Node(Some(old), _, new) => old.unschedulable && !new.unschedulable,
        _ => true,
    }
}
