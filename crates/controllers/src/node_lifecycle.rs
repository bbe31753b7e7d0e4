//! Taints nodes by their conditions, so that the scheduler leaves those alone that cannot take pods.
//!
//! A node whose kubelet has fallen silent (no lease renewed within the grace period) is Unknown first.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use skiff_client::{ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache, WatchSpec};

use crate::Context;

/// The name of this controller.
pub const NAME: &str = "node-controller";

const LEASES: &str = "kube-node-lease";
/// A kubelet that has not renewed its lease for so long counts as gone; upstream's default.
const GRACE: Duration = Duration::from_secs(50);

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

struct Lifecycle {
    client: Client,
    nodes: SharedCache<Node>,
    leases: SharedCache<Lease>,
    clock: skiff_base::SharedClock,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let nodes = context.caches.of::<Node>();
    let leases = context
        .caches
        .watch::<Lease>(WatchSpec::in_namespace::<Lease>(LEASES));
    let queue = context.queue();
    nodes.wait_synced().await;
    leases.wait_synced().await;
    let _nodes = {
        let queue = queue.clone();
        nodes.on_event(move |event| queue.add(ObjectKey::of(&event.object().metadata)))
    };
    let reconciler = Lifecycle {
        client: context.client(NAME),
        nodes,
        leases,
        clock: context.clock.clone(),
    };
    context.run(reconciler, queue, 1).await;
}

/// The taints that the node's conditions call for, as (key, effect).
fn wanted(node: &Node) -> Vec<(&'static str, &'static str)> {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, status, key, effects) in TAINTS {
        if conditions
            .iter()
            .any(|condition| condition.type_ == *kind && condition.status == *status)
        {
            wanted.extend(effects.iter().map(|effect| (*key, *effect)));
        }
    }
    // A node that says nothing of itself yet keeps what it was admitted with.
    if !conditions
        .iter()
        .any(|condition| condition.type_ == "Ready")
    {
        wanted.push((TAINTS[0].2, "NoSchedule"));
    }
    if node
        .spec
        .as_ref()
        .is_some_and(|spec| spec.unschedulable == Some(true))
    {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

/// The node's taints as they should be; none when they are so already. Others' taints stay as they are.
fn plan(node: &Node, now: &Time) -> Option<Vec<Taint>> {
    let present = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let wanted = wanted(node);
    let ours = |taint: &&Taint| {
        taint.key == UNSCHEDULABLE || TAINTS.iter().any(|(_, _, key, _)| *key == taint.key)
    };
    let mut taints: Vec<Taint> = present
        .iter()
        .filter(|taint| !ours(taint) || wanted.contains(&(&*taint.key, &*taint.effect)))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !taints
            .iter()
            .any(|taint| taint.key == key && taint.effect == effect)
        {
            let time_added = Some(now.clone());
            taints.push(Taint {
                key: key.into(),
                effect: effect.into(),
                value: None,
                time_added,
            });
        }
    }
    (taints != present).then_some(taints)
}

/// The conditions of a node whose kubelet has fallen silent; none when they say so already.
fn silent(node: &Node, now: &Time) -> Option<Vec<NodeCondition>> {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let kinds = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
    let unknown: Vec<NodeCondition> = conditions
        .iter()
        .filter(|condition| kinds.contains(&&*condition.type_) && condition.status != "Unknown")
        .map(|condition| NodeCondition {
            status: "Unknown".into(),
            reason: Some("NodeStatusUnknown".into()),
            message: Some("Kubelet stopped posting node status.".into()),
            last_transition_time: Some(now.clone()),
            ..condition.clone()
        })
        .collect();
    (!unknown.is_empty()).then_some(unknown)
}

/// How long ago the lease was renewed; none without a lease or a time in it.
fn age(lease: Option<&Lease>, now: Timestamp) -> Option<Duration> {
    let renewed = lease?.spec.as_ref()?.renew_time.as_ref()?.0;
    Some(Duration::try_from(now - renewed).unwrap_or_default())
}

#[async_trait]
impl Reconciler for Lifecycle {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(node) = self.nodes.get(key) else {
            return Ok(Outcome::Done);
        };
        let api: Api<Node> = Api::all(self.client.clone());
        let now = skiff_client::timestamp(&*self.clock);
        let lease = self.leases.get_named(LEASES, key.name());
        let age = age(lease.as_deref(), now.0);
        if age.is_some_and(|age| age > GRACE)
            && let Some(conditions) = silent(&node, &now)
        {
            let patch = Patch::Strategic(json!({"status": {"conditions": conditions}}));
            api.patch_status(key.name(), &PatchParams::default(), &patch)
                .await?;
        }
        if let Some(taints) = plan(&node, &now) {
            // The resource version refuses the patch when the node has changed meanwhile: taints are replaced whole.
            let patch = Patch::Merge(json!({
                "metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}}));
            api.patch(key.name(), &PatchParams::default(), &patch)
                .await?;
        }
        // Silence gives no event: the node is looked at again when its lease would be too old.
        let left = age.map_or(GRACE, |age| GRACE.saturating_sub(age));
        Ok(Outcome::After(left.max(Duration::from_secs(5))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(conditions: &[(&str, &str)], taints: serde_json::Value) -> Node {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status)| json!({"type": kind, "status": status}))
            .collect();
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"taints": taints}, "status": {"conditions": conditions}})).unwrap()
    }

    fn names(taints: Option<Vec<Taint>>) -> Option<Vec<String>> {
        taints.map(|taints| {
            taints
                .iter()
                .map(|taint| format!("{}:{}", taint.key, taint.effect))
                .collect()
        })
    }

    #[test]
    fn taints_follow_conditions_and_others_taints_stay() {
        let now = Time(Timestamp::UNIX_EPOCH);
        let admitted = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}, {"key": "mine", "effect": "NoExecute"}]);
        assert_eq!(
            names(plan(&node(&[("Ready", "True")], admitted.clone()), &now)),
            Some(vec!["mine:NoExecute".into()])
        );
        assert_eq!(plan(&node(&[], admitted.clone()), &now), None);
        let both = names(plan(
            &node(&[("Ready", "Unknown"), ("DiskPressure", "True")], json!([])),
            &now,
        ))
        .unwrap();
        assert_eq!(
            both,
            [
                "node.kubernetes.io/unreachable:NoSchedule",
                "node.kubernetes.io/unreachable:NoExecute",
                "node.kubernetes.io/disk-pressure:NoSchedule"
            ]
        );
        assert_eq!(
            plan(
                &node(
                    &[("Ready", "True")],
                    json!([{"key": "mine", "effect": "NoExecute"}])
                ),
                &now
            ),
            None
        );
    }

    #[test]
    fn a_silent_node_is_unknown_once() {
        let now = Time(Timestamp::UNIX_EPOCH);
        let mut node = node(&[("Ready", "True"), ("Custom", "True")], json!([]));
        let conditions = silent(&node, &now).unwrap();
        assert_eq!((conditions.len(), &*conditions[0].status), (1, "Unknown"));
        node.status.as_mut().unwrap().conditions = Some(conditions);
        assert_eq!(silent(&node, &now), None);
    }
}
