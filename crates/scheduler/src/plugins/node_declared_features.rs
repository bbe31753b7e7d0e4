//! Pods that need something of their kubelet that not every version has go to nodes that declare it.

use k8s_openapi::api::core::v1::PodSpec;

use crate::framework::{Cycle, Happening, NOTHING, Plugin, PreFilter, Rejection, View, event};
use crate::profile::Profile;
use crate::rows::PodRow;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeDeclaredFeatures",
    pre_filter: Some(pre_filter),
    filter: Some(filter),
    wakes_on: event::NODE_ADDED | event::NODE_FEATURES,
    hint: Some(hint),
    ..NOTHING
};

/// A set of [`FEATURES`], a bit for each.
pub type Features = u8;

/// Whether a pod needs it.
type Needs = fn(&PodSpec) -> bool;

/// What a pod may need, under the name that nodes declare it by. Upstream 1.36 knows more names, which only updates of
/// pods go by.
const FEATURES: [(&str, Needs); 2] = [
    (
        "RestartAllContainersOnContainerExits",
        restarts_all_containers,
    ),
    (
        "UserNamespacesHostNetworkSupport",
        has_own_users_on_host_network,
    ),
];

fn restarts_all_containers(spec: &PodSpec) -> bool {
    let init = spec.init_containers.iter().flatten();
    let rules = init
        .chain(&spec.containers)
        .flat_map(|container| container.restart_policy_rules.iter().flatten());
    rules
        .map(|rule| rule.action.as_str())
        .any(|action| action == "RestartAllContainers")
}

fn has_own_users_on_host_network(spec: &PodSpec) -> bool {
    spec.host_network == Some(true) && spec.host_users == Some(false)
}

fn set(holds: impl Fn(&str, Needs) -> bool) -> Features {
    let all = FEATURES.iter().enumerate();
    let held = all.filter(|(_, (name, needs))| holds(name, *needs));
    held.fold(0, |found, (bit, _)| found | 1 << bit)
}

/// What a pod needs.
#[must_use]
pub fn needed(spec: &PodSpec) -> Features {
    set(|_, needs| needs(spec))
}

/// What a node declares, without what no pod needs.
#[must_use]
pub fn declared(names: &[String]) -> Features {
    set(|name, _| names.iter().any(|declared| declared == name))
}

/// The names of what the pod needs and the node does not declare.
pub fn missing(needed: Features, declared: Features) -> impl Iterator<Item = &'static str> {
    let all = FEATURES.iter().enumerate();
    let missing = all.filter(move |(bit, _)| needed & !declared & (1 << bit) != 0);
    missing.map(|(_, (name, _))| *name)
}

fn pre_filter(cycle: &Cycle) -> PreFilter {
    match cycle.pod.shape.needs {
        0 => PreFilter::Skip,
        _ => PreFilter::All,
    }
}

fn filter(cycle: &Cycle, view: &View) -> Result<(), Rejection> {
    if cycle.pod.shape.needs & !view.facts.features == 0 {
        return Ok(());
    }
    Err(Rejection::unresolvable(
        "node(s) didn't match Pod's required features",
    ))
}

/// A node helps that declares now what the pod needs and did not before.
fn hint(_: &Profile, pod: &PodRow, what: Happening) -> bool {
    let Happening::Node(old, _, new) = what else {
        return true;
    };
    let needs = pod.shape.needs;
    needs & !new.features == 0 && old.is_none_or(|old| needs & !old.features != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{node, pod, scene};
    use serde_json::{Value, json};

    const REFUSED: &str = "0/2 nodes are available: 2 node(s) didn't match Pod's required features. \
        no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";

    fn declares(name: &str, features: Value) -> k8s_openapi::api::core::v1::Node {
        node(name, json!({"status": {"declaredFeatures": features}}))
    }

    fn restarting(list: &str) -> Value {
        let rule = json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [3]}});
        let mut spec = json!({"containers": [{"name": "c"}]});
        spec[list] = json!([{"name": "c", "restartPolicy": "Never", "restartPolicyRules": [rule]}]);
        spec
    }

    #[test]
    fn pods_go_where_what_they_need_is_declared() {
        let restart = "RestartAllContainersOnContainerExits";
        let users = "UserNamespacesHostNetworkSupport";
        let host = |network: bool, users: bool| json!({"hostNetwork": network, "hostUsers": users});
        for (spec, features, expected) in [
            (json!({}), json!([]), None),
            (restarting("containers"), json!([restart]), Some("new")),
            (
                restarting("initContainers"),
                json!(["A", restart, users]),
                Some("new"),
            ),
            (restarting("containers"), json!([users]), Some(REFUSED)),
            (host(true, false), json!([users]), Some("new")),
            (host(true, false), json!([restart]), Some(REFUSED)),
            (host(true, true), json!([]), None),
            (host(false, false), json!([]), None),
        ] {
            let nodes = [declares("old", json!(["Other"])), declares("new", features)];
            let placed = scene().nodes(nodes).place(&pod("p", spec.clone()));
            match expected {
                Some(expected) => assert_eq!(placed, expected, "{spec}"),
                None => assert!(
                    ["old", "new"].contains(&placed.as_str()),
                    "{spec}: {placed}"
                ),
            }
        }
    }

    #[test]
    fn a_node_that_declares_it_at_last_wakes_the_pod() {
        let restart = "RestartAllContainersOnContainerExits";
        let scene = scene().nodes([declares("n", json!([]))]);
        scene.apply(&pod("p", restarting("containers")));
        assert_eq!(scene.decide(), "p nowhere");
        scene.pass(20);
        scene.state.apply_node(&declares("n", json!(["Other"])));
        assert_eq!(scene.decide(), "nothing");
        scene.state.apply_node(&declares("n", json!([restart])));
        assert_eq!(scene.decide(), "p on n");
    }

    #[test]
    fn what_is_missing_is_named() {
        let needs = declared(&FEATURES.map(|(name, _)| name.to_owned()));
        let found: Vec<_> = missing(needs, 1).collect();
        assert_eq!(found, ["UserNamespacesHostNetworkSupport"]);
        assert_eq!(missing(needs, needs).count(), 0);
    }
}
