//! Watches over nodes: one whose kubelet falls silent becomes Unknown, its pods not ready, and taints keep new pods away
//! and have those that cannot bear it evicted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use skiff_base::SharedClock;
use skiff_client::{
    Event, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache,
    WatchSpec, WorkQueue, is_not_found,
};

use crate::node_health::{Evicting, Health, Pace, labels, pace, readiness, silent, taints};
use crate::node_health::{waits_for_eviction, zone};
use crate::seen_pod::Pod;
use crate::{Context, pods};

/// The name of this controller.
pub const NAME: &str = "node-controller";

const LEASES: &str = "kube-node-lease";
/// How long to wait before looking again whether a zone may evict.
const WAIT: Duration = Duration::from_secs(5);
const WORKERS: usize = 4;

#[derive(Default)]
struct Seen {
    health: HashMap<String, Health>,
    /// When a node of each zone was last tainted so that its pods are evicted.
    tainted: HashMap<String, Duration>,
}

struct Lifecycle {
    client: Client,
    nodes: SharedCache<Node>,
    pods: SharedCache<Pod>,
    seen: Arc<Mutex<Seen>>,
    recorder: EventRecorder,
    clock: SharedClock,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let nodes = context.caches.of::<Node>();
    let pods = context.caches.of::<Pod>();
    pods::index_nodes(&pods);
    let leases = context
        .caches
        .watch::<Lease>(WatchSpec::in_namespace::<Lease>(LEASES));
    let queue = context.queue();
    nodes.wait_synced().await;
    pods.wait_synced().await;
    leases.wait_synced().await;
    let lifecycle = Lifecycle {
        client: context.client(NAME),
        nodes: nodes.clone(),
        pods: pods.clone(),
        seen: Arc::default(),
        recorder: context.recorder(NAME, NAME),
        clock: context.clock.clone(),
    };
    let _nodes = {
        let queue = queue.clone();
        nodes.on_event(move |event| queue.add(ObjectKey::of(&event.object().metadata)))
    };
    let _pods = {
        let (queue, nodes) = (queue.clone(), nodes.clone());
        pods.on_event(move |event| on_pod(event, &nodes, &queue))
    };
    let _leases = {
        let (seen, clock) = (lifecycle.seen.clone(), context.clock.clone());
        leases.on_event(move |event| {
            let lease = event.object();
            let renewed = lease
                .spec
                .as_ref()
                .and_then(|spec| spec.renew_time.as_ref());
            let name = lease.metadata.name.as_deref().unwrap_or_default();
            let now = clock.monotonic();
            if let Some(health) = seen.lock().health.get_mut(name) {
                health.saw_lease(renewed, now);
            }
        })
    };
    context.run(lifecycle, queue, WORKERS).await;
}

/// A pod that calls itself ready on a node that is not has the node looked at.
fn on_pod(event: &Event<Pod>, nodes: &SharedCache<Node>, queue: &WorkQueue<ObjectKey>) {
    let pod = event.object();
    let node = pods::node_name(pod);
    if node.is_empty() || matches!(event, Event::Deleted(_)) || !pods::is_ready(pod) {
        return;
    }
    let down = |node: Arc<Node>| matches!(readiness(&node), Some("False" | "Unknown"));
    if nodes.get_named("", node).is_some_and(down) {
        queue.add(ObjectKey::new("", node));
    }
}

#[async_trait]
impl Reconciler for Lifecycle {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "node_lifecycle_controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(mut node) = self.nodes.get(key) else {
            if self.seen.lock().health.remove(key.name()).is_some() {
                let text = format!("Removing Node {} from Controller", key.name());
                self.tell_of_node(key.name(), None, "RemovingNode", &text);
            }
            return Ok(Outcome::Done);
        };
        let left = self.take_in(&node);
        let api: Api<Node> = Api::all(self.client.clone());
        let now = skiff_client::timestamp(&*self.clock);
        if left.is_zero()
            && let Some(conditions) = silent(&node, &now)
        {
            let was_ready = readiness(&node) == Some("True");
            let patch = Patch::Strategic(json!({"status": {"conditions": conditions}}));
            let parameters = PatchParams::default();
            node = Arc::new(api.patch_status(key.name(), &parameters, &patch).await?);
            if was_ready {
                let text = format!("Node {} status is now: NodeNotReady", key.name());
                let regarding = reference(key.name(), node.metadata.uid.as_deref());
                self.recorder
                    .record(regarding, EventType::Normal, "NodeNotReady", text);
            }
        }
        if matches!(readiness(&node), Some("False" | "Unknown")) {
            self.mark_pods(key.name()).await?;
        }
        let evicting = self.evicting(&node);
        let (taints, labels) = (taints(&node, evicting, &now), labels(&node));
        if taints.is_some() || !labels.is_empty() {
            // The resource version refuses the patch when the node has changed meanwhile: taints are replaced whole.
            let mut patch =
                json!({"metadata": {"resourceVersion": node.metadata.resource_version}});
            if let Some(taints) = taints {
                patch["spec"]["taints"] = json!(taints);
            }
            if !labels.is_empty() {
                patch["metadata"]["labels"] = json!(labels);
            }
            api.patch(key.name(), &PatchParams::default(), &Patch::Merge(patch))
                .await?;
        }
        if evicting != Evicting::Yes && waits_for_eviction(&node) {
            return Ok(Outcome::After(WAIT));
        }
        // Silence gives no event: the node is looked at again when it would be too long.
        Ok(if left.is_zero() {
            Outcome::Done
        } else {
            Outcome::After(left)
        })
    }
}

impl Lifecycle {
    /// Takes the node's signs of life in; answers how long until it counts as silent.
    fn take_in(&self, node: &Node) -> Duration {
        let name = node.metadata.name.clone().unwrap_or_default();
        let now = self.clock.monotonic();
        let mut seen = self.seen.lock();
        let new = !seen.health.contains_key(&name);
        let health = seen
            .health
            .entry(name.clone())
            .or_insert_with(|| Health::met(now));
        health.saw_status(node, now);
        let left = health.left(node, now);
        drop(seen);
        if new {
            let text = format!("Registered Node {name} in Controller");
            self.tell_of_node(&name, node.metadata.uid.as_deref(), "RegisteredNode", &text);
        }
        left
    }

    fn tell_of_node(&self, name: &str, uid: Option<&str>, reason: &str, text: &str) {
        let text = format!("Node {name} event: {text}");
        self.recorder
            .record(reference(name, uid), EventType::Normal, reason, text);
    }

    /// Whether the node may be tainted now so that its pods are evicted; a yes for a node that needs it is used up.
    fn evicting(&self, node: &Node) -> Evicting {
        if !matches!(readiness(node), Some("False" | "Unknown")) {
            return Evicting::Yes;
        }
        let nodes = self.nodes.list();
        // What we just wrote of this node may not be in the cache yet.
        let others = nodes
            .iter()
            .map(|found| &**found)
            .filter(|found| found.metadata.name != node.metadata.name);
        let zone = zone(node);
        let pace = match pace(others.chain([node]), &zone) {
            Pace::Blind => return Evicting::No,
            Pace::None => return Evicting::Later,
            Pace::One(pace) => pace,
        };
        if !waits_for_eviction(node) {
            return Evicting::Yes;
        }
        let now = self.clock.monotonic();
        let mut seen = self.seen.lock();
        match seen.tainted.get(&zone) {
            Some(last) if now < *last + pace => Evicting::Later,
            _ => {
                seen.tainted.insert(zone, now);
                Evicting::Yes
            }
        }
    }

    /// Says of the pods of a node that is not ready that they are not ready either.
    async fn mark_pods(&self, node: &str) -> Result<(), ReconcileError> {
        for pod in pods::on_node(&self.pods, node) {
            if !pods::is_ready(&pod) {
                continue;
            }
            let (namespace, name) = (
                pod.metadata.namespace.as_deref().unwrap_or_default(),
                pod.metadata.name.as_deref().unwrap_or_default(),
            );
            let condition = json!({"type": "Ready", "status": "False",
                "lastTransitionTime": skiff_client::timestamp(&*self.clock)});
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
            let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            let parameters = PatchParams::default();
            match api
                .patch_status(name, &parameters, &Patch::Strategic(patch))
                .await
            {
                Ok(pod) => self.recorder.about(
                    &pod,
                    EventType::Warning,
                    "NodeNotReady",
                    "Node is not ready",
                ),
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn reference(node: &str, uid: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(node.to_owned()),
        uid: uid.map(str::to_owned),
        ..ObjectReference::default()
    }
}
