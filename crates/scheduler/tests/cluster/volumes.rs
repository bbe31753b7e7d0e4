//! A pod's volumes are chosen with its node; the test does what the binder of volumes would.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use skiff_scheduler::SchedulerConfig;

use crate::running::{make, start, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_a_claim_waits_for_its_volume_on_the_right_node() {
    let running = start(SchedulerConfig::default()).await;
    let client = running.cluster.client();
    running.node("n", "2").await;
    running.node("m", "2").await;
    let classes: Api<StorageClass> = Api::all(client.clone());
    for (name, provisioner) in [
        ("local", "kubernetes.io/no-provisioner"),
        ("made", "example.com/maker"),
    ] {
        make(
            &classes,
            json!({"metadata": {"name": name}, "provisioner": provisioner,
            "volumeBindingMode": "WaitForFirstConsumer"}),
        )
        .await;
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), "default");
    for (name, class) in [("chosen", "local"), ("made", "made")] {
        make(
            &claims,
            json!({"metadata": {"name": name}, "spec": {"storageClassName": class,
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
        )
        .await;
    }
    let user = |claim: &str| json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]});
    running.pod("user", "1", user("chosen")).await;
    let message = running.waits("user", "Unschedulable").await;
    assert!(
        message.starts_with(
            "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind."
        ),
        "{message}"
    );
    let volumes: Api<PersistentVolume> = Api::all(client);
    make(&volumes, json!({"metadata": {"name": "pv"}, "spec": {"storageClassName": "local", "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "local": {"path": "/data"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["m"]}]}]}}}})).await;
    let params = PatchParams::default();
    let available = json!({"status": {"phase": "Available"}});
    volumes
        .patch_status("pv", &params, &Patch::Merge(available))
        .await
        .unwrap();
    let claimed = until("the volume is for the claim", || async {
        volumes.get("pv").await.unwrap().spec?.claim_ref
    })
    .await;
    assert_eq!(
        (claimed.name.as_deref(), claimed.kind.as_deref()),
        (Some("chosen"), Some("PersistentVolumeClaim"))
    );
    assert_eq!(
        running
            .pods()
            .get("user")
            .await
            .unwrap()
            .spec
            .unwrap()
            .node_name,
        None
    );
    let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "pv"}});
    claims
        .patch("chosen", &params, &Patch::Merge(bound))
        .await
        .unwrap();
    assert_eq!(running.node_of("user").await, "m");

    running.pod("maker", "1", user("made")).await;
    let node = until("a node is selected for the claim", || async {
        let claim = claims.get("made").await.unwrap();
        claim
            .metadata
            .annotations?
            .remove("volume.kubernetes.io/selected-node")
    })
    .await;
    make(&volumes, json!({"metadata": {"name": "new"}, "spec": {"storageClassName": "made", "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data"}}})).await;
    let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "new"}});
    claims
        .patch("made", &params, &Patch::Merge(bound))
        .await
        .unwrap();
    assert_eq!(running.node_of("maker").await, node);
}
