//! Two pods cannot have the same port of a host.

use crate::framework::{Cycle, Happening, NOTHING, Plugin, PreFilter, Rejection, View, event};
use crate::profile::Profile;
use crate::rows::{HostPort, PodRow};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "NodePorts",
    pre_filter: Some(pre_filter),
    filter: Some(filter),
    wakes_on: event::POD_REMOVED | event::NODE_ADDED,
    hint: Some(hint),
    ..NOTHING
};

fn collide(a: &HostPort, b: &HostPort) -> bool {
    let everywhere = |port: &HostPort| matches!(&*port.ip, "0.0.0.0" | "::");
    a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || everywhere(a) || everywhere(b))
}

fn pre_filter(cycle: &Cycle) -> PreFilter {
    if cycle.pod.shape.ports.is_empty() {
        PreFilter::Skip
    } else {
        PreFilter::All
    }
}

/// Refuses nodes where a port of the pod is taken.
fn filter(cycle: &Cycle, view: &View) -> Result<(), Rejection> {
    let taken = |port: &HostPort| view.usage.ports.iter().any(|other| collide(port, other));
    if cycle.pod.shape.ports.iter().any(taken) {
        return Err(Rejection::resolvable(
            "node(s) didn't have free ports for the requested pod ports",
        ));
    }
    Ok(())
}

/// A pod that goes helps if it had a port that is wanted.
fn hint(_: &Profile, pod: &PodRow, what: Happening) -> bool {
    let Happening::Pod(Some(gone), _) = what else {
        return true;
    };
    let had = |port: &HostPort| gone.shape.ports.iter().any(|other| collide(port, other));
    pod.shape.ports.iter().any(had)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collisions() {
        let port = |ip: &str, protocol: &str, port| HostPort {
            ip: ip.into(),
            protocol: protocol.into(),
            port,
        };
        let all = port("0.0.0.0", "TCP", 80);
        for (other, expected) in [
            (port("0.0.0.0", "TCP", 80), true),
            (port("10.0.0.1", "TCP", 80), true),
            (port("::", "TCP", 80), true),
            (port("10.0.0.1", "UDP", 80), false),
            (port("0.0.0.0", "TCP", 81), false),
        ] {
            assert_eq!(collide(&all, &other), expected, "{other:?}");
            assert_eq!(collide(&other, &all), expected, "{other:?}");
        }
        assert!(!collide(
            &port("10.0.0.1", "TCP", 80),
            &port("10.0.0.2", "TCP", 80)
        ));
    }
}
