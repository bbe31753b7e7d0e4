//! Nodes that fall silent, are tainted or go; time is simulated.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use skiff_base::{Clock as _, SimulatedClock};

use crate::running::{Running, make, start_at, until};

struct World {
    _running: Running,
    clock: Arc<SimulatedClock>,
    nodes: Api<Node>,
    leases: Api<Lease>,
    pods: Api<Pod>,
    events: Api<Event>,
    node_events: Api<Event>,
}

impl World {
    async fn new() -> Self {
        let clock =
            SimulatedClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let running = start_at(clock.clone()).await;
        let client = running.cluster.client();
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        until("the account", || async {
            accounts.get_opt("default").await.unwrap()
        })
        .await;
        let world = Self {
            _running: running,
            clock,
            nodes: Api::all(client.clone()),
            leases: Api::namespaced(client.clone(), "kube-node-lease"),
            pods: Api::namespaced(client.clone(), "default"),
            events: Api::namespaced(client.clone(), "default"),
            node_events: Api::namespaced(client, "default"),
        };
        for name in ["here", "silent"] {
            make(&world.nodes, json!({"metadata": {"name": name}})).await;
            let lease = json!({"metadata": {"name": name}, "spec": {"holderIdentity": name,
                "renewTime": "2026-01-01T00:00:00.000000Z"}});
            make(&world.leases, lease).await;
            world.set_status(name, "True").await;
            until("the node is told how long to keep secrets", || async {
                let node = world.nodes.get(name).await.unwrap();
                let ttl = node
                    .metadata
                    .annotations?
                    .remove("node.alpha.kubernetes.io/ttl");
                (ttl.as_deref() == Some("0")).then_some(())
            })
            .await;
            until("no taints", || async {
                world.taints(name).await.is_empty().then_some(())
            })
            .await;
        }
        world
    }

    async fn set_status(&self, node: &str, ready: &str) {
        let heartbeat = jiff::Timestamp::try_from(self.clock.now()).unwrap();
        let conditions = json!([{"type": "Ready", "status": ready, "reason": "x", "message": "x",
            "lastHeartbeatTime": format!("{heartbeat:.0}"), "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let patch = Patch::Strategic(json!({"status": {"conditions": conditions}}));
        let parameters = PatchParams::default();
        self.nodes
            .patch_status(node, &parameters, &patch)
            .await
            .unwrap();
    }

    /// Time goes on, in steps in which the node `here` renews its lease.
    async fn pass(&self, seconds: u64) {
        for second in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            if second % 10 == 0 {
                let now = jiff::Timestamp::try_from(self.clock.now()).unwrap();
                let renewed = json!({"spec": {"renewTime": format!("{now:.6}")}});
                let parameters = PatchParams::default();
                let patch = Patch::Merge(renewed);
                self.leases
                    .patch("here", &parameters, &patch)
                    .await
                    .unwrap();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn taints(&self, node: &str) -> Vec<String> {
        let spec = self.nodes.get(node).await.unwrap().spec.unwrap_or_default();
        let taints = spec.taints.unwrap_or_default().into_iter();
        taints
            .map(|taint| format!("{}:{}", taint.key, taint.effect))
            .collect()
    }

    async fn pod(&self, name: &str, node: &str, tolerations: Value) {
        make(
            &self.pods,
            json!({"metadata": {"name": name}, "spec": {"nodeName": node, "tolerations": tolerations,
                "containers": [{"name": "c", "image": "i"}]}}),
        )
        .await;
        let conditions = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let patch =
            Patch::Strategic(json!({"status": {"phase": "Running", "conditions": conditions}}));
        let parameters = PatchParams::default();
        self.pods
            .patch_status(name, &parameters, &patch)
            .await
            .unwrap();
    }

    /// A pod's condition, as `status reason`.
    async fn condition(&self, pod: &str, type_: &str) -> Option<String> {
        let status = self.pods.get(pod).await.unwrap().status?;
        let found = status
            .conditions?
            .into_iter()
            .find(|found| found.type_ == type_)?;
        Some(format!(
            "{} {}",
            found.status,
            found.reason.unwrap_or_default()
        ))
    }

    async fn is_going(&self, pod: &str) -> bool {
        let pod = self.pods.get(pod).await.unwrap();
        pod.metadata.deletion_timestamp.is_some()
    }

    async fn told(&self, text: &str) {
        until(text, || async {
            let mut events = self
                .events
                .list(&ListParams::default())
                .await
                .unwrap()
                .items;
            events.extend(
                self.node_events
                    .list(&ListParams::default())
                    .await
                    .unwrap()
                    .items,
            );
            let mut texts = events.iter().filter_map(|event| event.message.as_deref());
            texts.any(|told| told == text).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_loses_its_pods_and_one_that_comes_back_keeps_the_rest() {
    let world = World::new().await;
    world
        .told("Node silent event: Registered Node silent in Controller")
        .await;
    let bears = |seconds: Option<i64>| {
        let keys = [
            "node.kubernetes.io/unreachable",
            "node.kubernetes.io/not-ready",
        ];
        let tolerations = keys.map(|key| {
            json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds})
        });
        json!(tolerations)
    };
    world.pod("forever", "silent", bears(None)).await;
    world.pod("brief", "silent", bears(Some(30))).await;
    world.pod("long", "silent", bears(Some(600))).await;
    world.pod("elsewhere", "here", json!([])).await;
    world.pass(45).await;
    assert!(world.taints("silent").await.is_empty());
    world.pass(10).await;
    until("unreachable", || async {
        let expected = [
            "node.kubernetes.io/unreachable:NoSchedule",
            "node.kubernetes.io/unreachable:NoExecute",
        ];
        (world.taints("silent").await == expected).then_some(())
    })
    .await;
    world.told("Node silent status is now: NodeNotReady").await;
    let node = world.nodes.get("silent").await.unwrap();
    let conditions = node.status.unwrap().conditions.unwrap();
    let ready = conditions
        .iter()
        .find(|found| found.type_ == "Ready")
        .unwrap();
    assert_eq!(
        (
            ready.status.as_str(),
            ready.reason.as_deref(),
            ready.message.as_deref()
        ),
        (
            "Unknown",
            Some("NodeStatusUnknown"),
            Some("Kubelet stopped posting node status.")
        )
    );
    for pod in ["forever", "brief", "long"] {
        until("not ready", || async {
            (world.condition(pod, "Ready").await? == "False ").then_some(())
        })
        .await;
    }
    world.told("Node is not ready").await;
    world.pass(40).await;
    until("evicted", || async {
        world.is_going("brief").await.then_some(())
    })
    .await;
    assert_eq!(
        world
            .condition("brief", "DisruptionTarget")
            .await
            .as_deref(),
        Some("True DeletionByTaintManager")
    );
    world.told("Marking for deletion Pod default/brief").await;
    world.set_status("silent", "True").await;
    until("untainted", || async {
        world.taints("silent").await.is_empty().then_some(())
    })
    .await;
    world.told("Cancelling deletion of Pod default/long").await;
    world.pass(20).await;
    for pod in ["forever", "long", "elsewhere"] {
        assert!(!world.is_going(pod).await, "{pod}");
    }
    assert!(world.taints("here").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_node_that_is_gone_go_and_ranges_are_given() {
    let world = World::new().await;
    let ranges = until("ranges", || async {
        let nodes = world.nodes.list(&ListParams::default()).await.unwrap();
        let ranges: Option<Vec<String>> = nodes
            .items
            .into_iter()
            .map(|node| node.spec.and_then(|spec| spec.pod_cidr))
            .collect();
        ranges
    })
    .await;
    assert_eq!(ranges, ["10.42.0.0/24", "10.42.1.0/24"]);
    world.pod("left", "silent", json!([])).await;
    world.pass(1).await;
    world
        .nodes
        .delete("silent", &DeleteParams::default())
        .await
        .unwrap();
    world
        .told("Node silent event: Removing Node silent from Controller")
        .await;
    world.pass(30).await;
    assert!(!world.is_going("left").await);
    world.pass(15).await;
    until("the pod goes", || async {
        world
            .pods
            .get_opt("left")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    make(&world.nodes, json!({"metadata": {"name": "new"}})).await;
    until("a range", || async {
        let spec = world.nodes.get("new").await.unwrap().spec?;
        (spec.pod_cidr.as_deref() == Some("10.42.2.0/24")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taint_that_evicts_does_so_at_once_and_the_only_nodes_are_never_given_up() {
    let world = World::new().await;
    world.pod("plain", "here", json!([])).await;
    let taints = json!({"spec": {"taints": [{"key": "mine", "effect": "NoExecute"}]}});
    let parameters = PatchParams::default();
    let patch = Patch::Merge(taints);
    world
        .nodes
        .patch("here", &parameters, &patch)
        .await
        .unwrap();
    until("evicted", || async {
        world.is_going("plain").await.then_some(())
    })
    .await;
    world.pod("patient", "silent", json!([])).await;
    world
        .nodes
        .delete("here", &DeleteParams::default())
        .await
        .unwrap();
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until("unreachable", || async {
        let expected = ["node.kubernetes.io/unreachable:NoSchedule"];
        (world.taints("silent").await == expected).then_some(())
    })
    .await;
    assert!(!world.is_going("patient").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_by_an_hour_evicts_nothing() {
    const HOUR: i64 = 3600;
    let world = World::new().await;
    world.pod("here", "here", json!([])).await;
    let registered = "Node silent event: Registered Node silent in Controller";
    world.told(registered).await;
    // Forward, with a lease and events that look an hour old; then back, with some of the future.
    for step in [HOUR, -HOUR] {
        world.clock.step(step);
        world.pass(25).await;
        assert!(world.taints("here").await.is_empty());
        assert!(!world.is_going("here").await);
        world.told(registered).await;
    }
    let patient = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
        "tolerationSeconds": 300}]);
    world.pod("patient", "silent", patient).await;
    world.pass(20).await;
    // A silent node is still found, and what tolerates that for five minutes has five minutes, whatever the clock says.
    until("unreachable", || async {
        (world.taints("silent").await.len() == 2).then_some(())
    })
    .await;
    world.pass(100).await;
    world.clock.step(HOUR);
    world.pass(100).await;
    assert!(!world.is_going("patient").await);
    world.clock.step(-HOUR);
    world.pass(110).await;
    until("evicted", || async {
        world.is_going("patient").await.then_some(())
    })
    .await;
    assert!(world.taints("here").await.is_empty());
}
