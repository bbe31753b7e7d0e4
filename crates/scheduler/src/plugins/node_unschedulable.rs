//! Nodes that are marked unschedulable take only pods that bear that.

use k8s_openapi::api::core::v1::Taint;

use super::taint_toleration::tolerates;
use crate::framework::{Cycle, Rejection};
use crate::rows::{NodeFacts, NodeRow};

/// The plugin's name.
pub const NAME: &str = "NodeUnschedulable";

/// Refuses cordoned nodes.
pub fn filter(cycle: &Cycle, _: &NodeRow, facts: &NodeFacts) -> Result<(), Rejection> {
    if !facts.unschedulable {
        return Ok(());
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if cycle
        .pod
        .tolerations
        .iter()
        .any(|toleration| tolerates(toleration, &taint))
    {
        return Ok(());
    }
    Err(Rejection::unresolvable("node(s) were unschedulable"))
}
