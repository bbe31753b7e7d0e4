//! What the node lifecycle controller decides: when a node counts as silent, what its conditions, taints and labels
//! should be, and how fast nodes of a zone may be tainted. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

/// A kubelet that has shown no sign of life for so long counts as gone; upstream's default in v1.36.
pub const GRACE: Duration = Duration::from_secs(50);
/// The same for a kubelet that never told its status.
pub const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// One node of a zone is tainted per this time: upstream's 0.1 nodes a second.
pub const EVICTION_PACE: Duration = Duration::from_secs(10);
/// The pace in a large zone that is partly down: upstream's 0.01 nodes a second.
pub const SLOW_PACE: Duration = Duration::from_secs(100);
/// A zone of more nodes is large.
const LARGE_ZONE: usize = 50;
const OUT_OF_THE_COUNT: &str = "node.kubernetes.io/exclude-disruption";

/// (condition, status, taint, effects): which taint a condition's status calls for.
const TAINTS: &[(&str, &str, &str, &[&str])] = &[
    (
        "Ready",
        "False",
        "node.kubernetes.io/not-ready",
        &["NoSchedule", "NoExecute"],
    ),
    (
        "Ready",
        "Unknown",
        "node.kubernetes.io/unreachable",
        &["NoSchedule", "NoExecute"],
    ),
    (
        "MemoryPressure",
        "True",
        "node.kubernetes.io/memory-pressure",
        &["NoSchedule"],
    ),
    (
        "DiskPressure",
        "True",
        "node.kubernetes.io/disk-pressure",
        &["NoSchedule"],
    ),
    (
        "PIDPressure",
        "True",
        "node.kubernetes.io/pid-pressure",
        &["NoSchedule"],
    ),
    (
        "NetworkUnavailable",
        "True",
        "node.kubernetes.io/network-unavailable",
        &["NoSchedule"],
    ),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// The labels that old clients select by, and those they follow.
const LABELS: [(&str, &str); 2] = [
    ("kubernetes.io/os", "beta.kubernetes.io/os"),
    ("kubernetes.io/arch", "beta.kubernetes.io/arch"),
];

/// When a kubelet was last heard of. Counted on our own clock from the moment we saw a sign, so that a wall clock that
/// steps, here or on the node, declares no node dead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    heartbeat: Option<Time>,
    renewed: Option<MicroTime>,
    /// On the monotonic clock.
    seen: Duration,
}

impl Health {
    /// A node that is met now.
    #[must_use]
    pub fn met(now: Duration) -> Self {
        Self {
            seen: now,
            ..Self::default()
        }
    }

    /// Takes in the node's status; a new heartbeat is a sign of life.
    pub fn saw_status(&mut self, node: &Node, now: Duration) {
        let heartbeat = ready(node).and_then(|ready| ready.last_heartbeat_time.clone());
        if heartbeat.is_some() && heartbeat != self.heartbeat {
            self.heartbeat = heartbeat;
            self.seen = now;
        }
    }

    /// Takes in the lease; one that was renewed is a sign of life.
    pub fn saw_lease(&mut self, renewed: Option<&MicroTime>, now: Duration) {
        if renewed.is_some() && renewed != self.renewed.as_ref() {
            self.renewed = renewed.cloned();
            self.seen = now;
        }
    }

    /// How long until the node counts as silent; zero if it does.
    #[must_use]
    pub fn left(&self, node: &Node, now: Duration) -> Duration {
        let grace = if ready(node).is_some() {
            GRACE
        } else {
            STARTUP_GRACE
        };
        (self.seen + grace).saturating_sub(now)
    }
}

fn conditions(node: &Node) -> &[NodeCondition] {
    let status = node.status.as_ref();
    status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default()
}

fn ready(node: &Node) -> Option<&NodeCondition> {
    let mut found = conditions(node).iter();
    found.find(|condition| condition.type_ == "Ready")
}

/// The status of its Ready condition; none where nobody has told it yet.
#[must_use]
pub fn readiness(node: &Node) -> Option<&str> {
    ready(node).map(|ready| &*ready.status)
}

/// The conditions that a silent node gets; none when they say so already.
#[must_use]
pub fn silent(node: &Node, now: &Time) -> Option<Vec<NodeCondition>> {
    let mut unknown = Vec::new();
    for type_ in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let found = conditions(node).iter().find(|found| found.type_ == type_);
        let (reason, message) = match found {
            Some(found) if found.status == "Unknown" => continue,
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => (
                "NodeStatusNeverUpdated",
                "Kubelet never posted node status.",
            ),
        };
        let heartbeat = match found {
            Some(found) => found.last_heartbeat_time.clone(),
            None => node.metadata.creation_timestamp.clone(),
        };
        unknown.push(NodeCondition {
            type_: type_.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: heartbeat,
            last_transition_time: Some(now.clone()),
        });
    }
    (!unknown.is_empty()).then_some(unknown)
}

/// The taints that the node's conditions call for, as (key, effect).
fn wanted(node: &Node) -> Vec<(&'static str, &'static str)> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, status, key, effects) in TAINTS {
        let calls =
            |condition: &NodeCondition| condition.type_ == *kind && condition.status == *status;
        if conditions(node).iter().any(calls) {
            wanted.extend(effects.iter().map(|effect| (*key, *effect)));
        }
    }
    // A node that says nothing of itself yet keeps what it was admitted with.
    if ready(node).is_none() {
        wanted.push((TAINTS[0].2, "NoSchedule"));
    }
    let spec = node.spec.as_ref();
    if spec.is_some_and(|spec| spec.unschedulable == Some(true)) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

/// What may be done about pods of a node that is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicting {
    /// A taint that evicts is set where it is called for.
    Yes,
    /// None is set now; those that are there stay, or change into the other.
    Later,
    /// None is set and those that are there go: nothing is known of any node.
    No,
}

/// The node's taints as they should be; none when they are so already. Others' taints stay as they are.
#[must_use]
pub fn taints(node: &Node, evicting: Evicting, now: &Time) -> Option<Vec<Taint>> {
    let spec = node.spec.as_ref();
    let present = spec
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let evicts = |taint: &Taint| taint.effect == "NoExecute" && is_ours(&taint.key);
    let has_evicting = present.iter().any(evicts);
    let mut wanted = wanted(node);
    wanted.retain(|(_, effect)| match evicting {
        Evicting::Yes => true,
        Evicting::Later => *effect != "NoExecute" || has_evicting,
        Evicting::No => *effect != "NoExecute",
    });
    let mut taints: Vec<Taint> = present
        .iter()
        .filter(|taint| !is_ours(&taint.key) || wanted.contains(&(&*taint.key, &*taint.effect)))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        let known = |taint: &Taint| taint.key == key && taint.effect == effect;
        if !taints.iter().any(known) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: Some(now.clone()),
            });
        }
    }
    (taints != present).then_some(taints)
}

fn is_ours(key: &str) -> bool {
    key == UNSCHEDULABLE || TAINTS.iter().any(|(_, _, ours, _)| *ours == key)
}

/// Whether the node is not ready and carries no taint yet that evicts.
#[must_use]
pub fn waits_for_eviction(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let taints = spec.and_then(|spec| spec.taints.as_deref());
    let evicts = |taint: &Taint| taint.effect == "NoExecute" && is_ours(&taint.key);
    matches!(readiness(node), Some("False" | "Unknown"))
        && !taints.unwrap_or_default().iter().any(evicts)
}

/// The old labels that are missing or differ from those they follow.
#[must_use]
pub fn labels(node: &Node) -> BTreeMap<&'static str, String> {
    let labels = node.metadata.labels.as_ref();
    let value = |key: &str| labels.and_then(|labels| labels.get(key));
    LABELS
        .into_iter()
        .filter(|(new, old)| value(new).is_some() && value(new) != value(old))
        .filter_map(|(new, old)| Some((old, value(new)?.clone())))
        .collect()
}

/// The zone a node is in: region and zone; empty where it has no such labels.
#[must_use]
pub fn zone(node: &Node) -> String {
    let labels = node.metadata.labels.as_ref();
    let value = |key: &str| {
        let found = labels.and_then(|labels| labels.get(key));
        found.map(String::as_str).unwrap_or_default()
    };
    let (region, zone) = (
        value("topology.kubernetes.io/region"),
        value("topology.kubernetes.io/zone"),
    );
    if region.is_empty() && zone.is_empty() {
        String::new()
    } else {
        format!("{region}:{zone}")
    }
}

/// How fast nodes of a zone may be tainted so that their pods are evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// One node per this time.
    One(Duration),
    /// None for now: most of a small zone is down.
    None,
    /// Every node of every zone is down: the fault is more likely ours than theirs.
    Blind,
}

/// The pace in `zone`, from all nodes of the cluster.
#[must_use]
pub fn pace<'a>(nodes: impl IntoIterator<Item = &'a Node>, of: &str) -> Pace {
    let mut zones: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for node in nodes {
        let labels = node.metadata.labels.as_ref();
        if labels.is_some_and(|labels| labels.contains_key(OUT_OF_THE_COUNT)) {
            continue;
        }
        let (ready, down) = zones.entry(zone(node)).or_default();
        match readiness(node) {
            Some("True") => *ready += 1,
            _ => *down += 1,
        }
    }
    let all_down = |&(ready, down): &(usize, usize)| ready == 0 && down > 0;
    if !zones.is_empty() && zones.values().all(all_down) {
        return Pace::Blind;
    }
    let (ready, down) = zones.get(of).copied().unwrap_or_default();
    // Upstream's threshold is 55 % of the zone, and more than two nodes.
    let partly = ready > 0 && down > 2 && down * 100 >= 55 * (ready + down);
    match (partly, ready + down > LARGE_ZONE) {
        (false, _) => Pace::One(EVICTION_PACE),
        (true, true) => Pace::One(SLOW_PACE),
        (true, false) => Pace::None,
    }
}

#[cfg(test)]
#[path = "node_health_tests.rs"]
mod tests;
