//! Two pods cannot have the same port of a host.

use crate::framework::{Cycle, Rejection};
use crate::rows::{HostPort, NodeFacts, NodeRow};

/// The plugin's name.
pub const NAME: &str = "NodePorts";

fn collide(a: &HostPort, b: &HostPort) -> bool {
    let everywhere = |port: &HostPort| matches!(&*port.ip, "0.0.0.0" | "::");
    a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || everywhere(a) || everywhere(b))
}

/// Refuses nodes where a port of the pod is taken.
pub fn filter(cycle: &Cycle, node: &NodeRow, _: &NodeFacts) -> Result<(), Rejection> {
    let taken = |port: &HostPort| node.ports.iter().any(|other| collide(port, other));
    if cycle.pod.ports.iter().any(taken) {
        return Err(Rejection::resolvable(
            "node(s) didn't have free ports for the requested pod ports",
        ));
    }
    Ok(())
}
