//! Removes pods that nobody else will: ended ones above a threshold, those of nodes that are gone or out of service, and
//! those that were never scheduled and are to go.

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use skiff_base::SharedClock;
use skiff_client::{Event, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache, WorkQueue};

use crate::node_health::readiness;
use crate::seen_pod::Pod;
use crate::{Context, pod_eviction, pods};

/// The name of this controller.
pub const NAME: &str = "pod-garbage-collector";

/// How long a node must be missing before its pods are removed.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Pods that end are counted at most once in this time.
const COUNT_PAUSE: Duration = Duration::from_secs(20);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
const WORKERS: usize = 4;

struct Collector {
    client: Client,
    nodes: SharedCache<Node>,
    pods: SharedCache<Pod>,
    threshold: usize,
    clock: SharedClock,
}

/// The key under which ended pods are counted. Other keys are pods, or nodes where they have no namespace.
fn ended_pods() -> ObjectKey {
    ObjectKey::new("", "")
}

/// Runs the controller.
pub async fn run(context: Context) {
    let nodes = context.caches.of::<Node>();
    let pods = context.caches.of::<Pod>();
    pods::index_nodes(&pods);
    let queue = context.queue();
    nodes.wait_synced().await;
    pods.wait_synced().await;
    let threshold = context.config.terminated_pod_threshold;
    let _nodes = {
        let (queue, pods) = (queue.clone(), pods.clone());
        nodes.on_event(move |event| on_node(event, &pods, &queue))
    };
    let _pods = {
        let (queue, nodes) = (queue.clone(), nodes.clone());
        pods.on_event(move |event| on_pod(event, &nodes, threshold, &queue))
    };
    let collector = Collector {
        client: context.client(NAME),
        nodes,
        pods,
        threshold,
        clock: context.clock.clone(),
    };
    context.run(collector, queue, WORKERS).await;
}

fn on_node(event: &Event<Node>, pods: &SharedCache<Pod>, queue: &WorkQueue<ObjectKey>) {
    let node = event.object();
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if matches!(event, Event::Deleted(_)) {
        queue.add_after(ObjectKey::new("", name), QUARANTINE);
    } else if is_out_of_service(node) {
        for pod in pods::on_node(pods, name) {
            if pods::is_deleting(&pod) {
                queue.add(ObjectKey::of(&pod.metadata));
            }
        }
    }
}

fn on_pod(
    event: &Event<Pod>,
    nodes: &SharedCache<Node>,
    threshold: usize,
    queue: &WorkQueue<ObjectKey>,
) {
    let pod = event.object();
    if matches!(event, Event::Deleted(_)) {
        return;
    }
    let node = pods::node_name(pod);
    if threshold > 0 && pods::is_terminal(pod) {
        queue.add_after(ended_pods(), COUNT_PAUSE);
    }
    if pods::is_deleting(pod) {
        queue.add(ObjectKey::of(&pod.metadata));
    }
    if !node.is_empty() && nodes.get_named("", node).is_none() {
        queue.add_after(ObjectKey::new("", node), QUARANTINE);
    }
}

/// Whether a person has said that the node is off, and it looks so.
fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
    let told = |taints: &[_]| {
        taints
            .iter()
            .any(|taint: &k8s_openapi::api::core::v1::Taint| taint.key == OUT_OF_SERVICE)
    };
    readiness(node) != Some("True") && taints.is_some_and(told)
}

/// Whether a pod that is on its way out waits for a kubelet that will not come.
fn is_stranded(pod: &Pod, node: Option<&Node>) -> bool {
    if !pods::is_deleting(pod) {
        return false;
    }
    // It has been done what can be done; finalizers hold it.
    let forced = pod.metadata.deletion_grace_period_seconds == Some(0);
    if forced && pods::is_terminal(pod) {
        return false;
    }
    pods::node_name(pod).is_empty() || node.is_some_and(is_out_of_service)
}

/// The ended pods that are too many: evicted ones first, then the oldest.
fn too_many<'a>(pods: impl IntoIterator<Item = &'a Pod>, threshold: usize) -> Vec<&'a Pod> {
    let mut ended: Vec<&Pod> = pods
        .into_iter()
        .filter(|pod| pods::is_terminal(pod))
        .collect();
    let excess = ended.len().saturating_sub(threshold);
    if excess == 0 {
        return Vec::new();
    }
    let evicted = |pod: &Pod| {
        let status = pod.status.as_ref();
        pods::phase(pod) == "Failed"
            && status.and_then(|status| status.reason.as_deref()) == Some("Evicted")
    };
    ended.sort_by_key(|pod| {
        let created = pod.metadata.creation_timestamp.as_ref();
        (
            !evicted(pod),
            created.map(|time| time.0),
            pod.metadata.name.as_deref(),
        )
    });
    ended.truncate(excess);
    ended
}

#[async_trait]
impl Reconciler for Collector {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "orphaned_pods_nodes"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        if *key == ended_pods() {
            let pods = self.pods.list();
            for pod in too_many(pods.iter().map(|pod| &**pod), self.threshold) {
                self.remove(pod, None).await?;
            }
        } else if key.namespace().is_empty() {
            self.empty_node(key.name()).await?;
        } else if let Some(pod) = self.pods.get(key) {
            let node = self.nodes.get_named("", pods::node_name(&pod));
            if is_stranded(&pod, node.as_deref()) {
                self.remove(&pod, None).await?;
            }
        }
        Ok(Outcome::Done)
    }
}

impl Collector {
    /// Removes the pods of a node that is not in the cache, nor on the server.
    async fn empty_node(&self, name: &str) -> Result<(), ReconcileError> {
        let api: Api<Node> = Api::all(self.client.clone());
        if self.nodes.get_named("", name).is_some() || api.get_opt(name).await?.is_some() {
            return Ok(());
        }
        for pod in pods::on_node(&self.pods, name) {
            let why = ("DeletionByPodGC", "PodGC: node no longer exists");
            self.remove(&pod, Some(why)).await?;
        }
        Ok(())
    }

    /// Marks the pod as failed, if it has not ended, and deletes it without waiting for anybody.
    async fn remove(&self, pod: &Pod, why: Option<(&str, &str)>) -> Result<(), ReconcileError> {
        let status = (!pods::is_terminal(pod)).then(|| {
            let mut status = json!({"phase": "Failed"});
            if let Some((reason, message)) = why {
                let now = skiff_client::timestamp(&*self.clock);
                status["conditions"] = json!([pods::disruption_target(pod, reason, message, &now)]);
            }
            status
        });
        let (key, now) = (
            ObjectKey::of(&pod.metadata),
            DeleteParams::default().grace_period(0),
        );
        pod_eviction::remove(&self.client, &key, pod, status, &now).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(of: serde_json::Value) -> Pod {
        serde_json::from_value(of).unwrap()
    }

    fn node(ready: &str, taint: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n"},
            "spec": {"taints": [{"key": taint, "effect": "NoExecute"}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap()
    }

    #[test]
    fn evicted_pods_go_first_then_the_oldest() {
        let ended = |name: &str, minute: u8, reason: &str| {
            pod(
                json!({"metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z")},
                "status": {"phase": "Failed", "reason": reason}}),
            )
        };
        let pods = [
            ended("c", 3, ""),
            ended("old", 1, ""),
            ended("evicted", 9, "Evicted"),
            ended("b", 3, ""),
            pod(json!({"metadata": {"name": "runs"}, "status": {"phase": "Running"}})),
        ];
        let names = |threshold| {
            let found = too_many(&pods, threshold);
            let names = found.iter().filter_map(|pod| pod.metadata.name.as_deref());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(4), "");
        assert_eq!(names(2), "evicted old");
        assert_eq!(names(1), "evicted old b");
    }

    #[test]
    fn a_pod_is_stranded_without_a_kubelet() {
        let deleting = |node: Option<&str>, phase: &str, grace: i64| {
            pod(
                json!({"metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z",
                "deletionGracePeriodSeconds": grace}, "spec": {"nodeName": node, "containers": []},
                "status": {"phase": phase}}),
            )
        };
        let off = node("Unknown", OUT_OF_SERVICE);
        let (on, silent) = (node("True", OUT_OF_SERVICE), node("Unknown", "other"));
        for (expected, pod, node) in [
            (true, deleting(None, "Pending", 0), None),
            (false, deleting(None, "Failed", 0), None),
            (true, deleting(Some("n"), "Running", 30), Some(&off)),
            (false, deleting(Some("n"), "Running", 30), Some(&on)),
            (false, deleting(Some("n"), "Running", 30), Some(&silent)),
            (false, deleting(Some("n"), "Running", 30), None),
            (
                false,
                self::pod(json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}})),
                Some(&off),
            ),
        ] {
            assert_eq!(is_stranded(&pod, node), expected, "{pod:?}");
        }
    }
}
