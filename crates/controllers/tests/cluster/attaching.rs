//! Volumes of a driver are attached where pods need them, and detached once their node has let go of them.

use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::running::{Running, event, make, start, until};

struct World {
    running: Running,
    nodes: Api<Node>,
    pods: Api<Pod>,
    attachments: Api<VolumeAttachment>,
}

const UNIQUE: &str = "kubernetes.io/csi/d.example.org^h";

/// Two nodes, and a volume of a driver that a claim is bound to.
async fn world() -> World {
    let running = start().await;
    let client = running.cluster.client();
    let world = World {
        nodes: Api::all(client.clone()),
        pods: Api::default_namespaced(client.clone()),
        attachments: Api::all(client.clone()),
        running,
    };
    let marked = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
    for name in ["n1", "n2"] {
        make(
            &world.nodes,
            json!({"metadata": {"name": name, "annotations": marked}}),
        )
        .await;
        world
            .status(name, json!({"conditions": [ready("True")]}))
            .await;
    }
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    make(&volumes, json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "csi": {"driver": "d.example.org", "volumeHandle": "h"}}}))
    .await;
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client);
    make(
        &claims,
        json!({"metadata": {"name": "c"}, "spec": {"volumeName": "v", "storageClassName": "",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    )
    .await;
    world
}

fn ready(status: &str) -> Value {
    json!({"type": "Ready", "status": status, "lastHeartbeatTime": "2026-01-01T00:00:00Z"})
}

impl World {
    async fn status(&self, node: &str, status: Value) {
        let patch = Patch::Strategic(json!({"status": status}));
        let params = PatchParams::default();
        self.nodes
            .patch_status(node, &params, &patch)
            .await
            .unwrap();
    }

    async fn pod(&self, name: &str, node: &str) {
        make(
            &self.pods,
            json!({"metadata": {"name": name}, "spec": {"nodeName": node,
            "containers": [{"name": "c", "image": "i"}], "tolerations": [{"operator": "Exists"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}}),
        )
        .await;
    }

    async fn remove(&self, pod: &str) {
        let now = DeleteParams::default().grace_period(0);
        self.pods.delete(pod, &now).await.unwrap();
    }

    /// The one attachment, once it is on that node.
    async fn attachment(&self, node: &str) -> String {
        until(&format!("an attachment to {node}"), || async {
            let found = self.attachments.list(&ListParams::default()).await.unwrap();
            assert!(found.items.len() < 2, "attached twice: {found:?}");
            let found = found
                .items
                .into_iter()
                .find(|found| found.spec.node_name == node)?;
            found.metadata.name
        })
        .await
    }

    async fn attached(&self, name: &str) {
        let patch = Patch::Merge(json!({"status": {"attached": true}}));
        let params = PatchParams::default();
        self.attachments
            .patch_status(name, &params, &patch)
            .await
            .unwrap();
    }

    async fn reported(&self, node: &str, expected: &[&str]) {
        until(&format!("{node} has {expected:?}"), || async {
            let node = self.nodes.get(node).await.unwrap();
            let list = node
                .status
                .unwrap_or_default()
                .volumes_attached
                .unwrap_or_default();
            let names: Vec<&str> = list.iter().map(|volume| volume.name.as_str()).collect();
            (names == expected).then_some(())
        })
        .await;
    }

    async fn told(&self, pod: &str, reason: &str, text: &str) {
        let says = |event: &Event| {
            event.involved_object.name.as_deref() == Some(pod)
                && event.reason.as_deref() == Some(reason)
                && event.message.as_deref().map(str::trim_end) == Some(text)
        };
        let client = self.running.cluster.client();
        event(&client, "default", &format!("{pod} is told {text}"), says).await;
    }
}

#[tokio::test]
async fn a_volume_follows_its_pod_when_its_node_has_let_go() {
    let world = world().await;
    world.pod("a", "n1").await;
    let first = world.attachment("n1").await;
    let found = world.attachments.get(&first).await.unwrap();
    assert_eq!(found.spec.attacher, "d.example.org");
    assert_eq!(
        found.spec.source.persistent_volume_name.as_deref(),
        Some("v")
    );
    world.reported("n1", &[]).await;
    world.attached(&first).await;
    world.reported("n1", &[UNIQUE]).await;
    let text = "AttachVolume.Attach succeeded for volume \"v\" ";
    world
        .told("a", "SuccessfulAttachVolume", text.trim_end())
        .await;
    world.status("n1", json!({"volumesInUse": [UNIQUE]})).await;
    // Another node has to wait, and its pod is told for whom.
    world.pod("b", "n2").await;
    let text = "Multi-Attach error for volume \"v\" Volume is already used by pod(s) a";
    world.told("b", "FailedAttachVolume", text).await;
    world.remove("a").await;
    // Mounted still: it stays. Nothing tells that it does but that it is there when the next thing happens.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(world.attachment("n1").await, first);
    world.reported("n1", &[UNIQUE]).await;
    world.status("n1", json!({"volumesInUse": []})).await;
    let second = world.attachment("n2").await;
    world.reported("n1", &[]).await;
    world.attached(&second).await;
    world.reported("n2", &[UNIQUE]).await;
}

#[tokio::test]
async fn a_node_that_is_out_of_service_loses_what_it_had_mounted() {
    let world = world().await;
    world.pod("a", "n1").await;
    let first = world.attachment("n1").await;
    world.attached(&first).await;
    world.reported("n1", &[UNIQUE]).await;
    let lost = json!({"volumesInUse": [UNIQUE], "conditions": [ready("Unknown")]});
    world.status("n1", lost).await;
    let taint = json!({"spec": {"taints": [
        {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]}});
    let params = PatchParams::default();
    world
        .nodes
        .patch("n1", &params, &Patch::Strategic(taint))
        .await
        .unwrap();
    world.remove("a").await;
    until("it is detached", || async {
        world
            .attachments
            .get_opt(&first)
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    world.reported("n1", &[]).await;
}

#[tokio::test]
async fn a_driver_that_attaches_nothing_is_not_asked() {
    let world = world().await;
    let drivers: Api<CSIDriver> = Api::all(world.running.cluster.client());
    world.pod("a", "n1").await;
    let first = world.attachment("n1").await;
    // The driver says late that nobody need attach its volumes.
    make(
        &drivers,
        json!({"metadata": {"name": "d.example.org"}, "spec": {"attachRequired": false}}),
    )
    .await;
    until("the attachment goes", || async {
        world
            .attachments
            .get_opt(&first)
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_the_driver_says_reaches_the_pod() {
    let world = world().await;
    world.pod("a", "n1").await;
    let first = world.attachment("n1").await;
    let patch = Patch::Merge(json!({"status": {"attached": false,
        "attachError": {"message": "no such disk", "time": "2026-01-01T00:00:00Z"}}}));
    let params = PatchParams::default();
    world
        .attachments
        .patch_status(&first, &params, &patch)
        .await
        .unwrap();
    let text = "AttachVolume.Attach failed for volume \"v\" : no such disk";
    world.told("a", "FailedAttachVolume", text).await;
}
