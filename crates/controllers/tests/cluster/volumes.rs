//! Claims, volumes and their classes stay as long as something uses them.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttributesClass};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::running::{make, start, told, until};

#[tokio::test]
async fn a_claim_goes_when_no_pod_has_it() {
    let running = start().await;
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(running.cluster.client());
    let pods: Api<Pod> = Api::default_namespaced(running.cluster.client());
    let spec =
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    for name in ["idle", "busy"] {
        let claim = make(&claims, json!({"metadata": {"name": name}, "spec": spec})).await;
        let finalizers = claim.metadata.finalizers.unwrap();
        assert_eq!(finalizers, ["kubernetes.io/pvc-protection"]);
    }
    make(
        &pods,
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "busy"}}]}}),
    )
    .await;
    for name in ["busy", "idle"] {
        claims.delete(name, &DeleteParams::default()).await.unwrap();
    }
    until("the idle claim goes", || async {
        claims
            .get_opt("idle")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    let busy = claims.get("busy").await.unwrap();
    assert!(busy.metadata.deletion_timestamp.is_some());
    let now = DeleteParams::default().grace_period(0);
    pods.delete("p", &now).await.unwrap();
    until("the claim goes with its pod", || async {
        claims
            .get_opt("busy")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_volume_goes_unless_it_is_bound_and_gets_its_finalizer_back() {
    let running = start().await;
    let volumes: Api<PersistentVolume> = Api::all(running.cluster.client());
    let spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/v"}});
    for name in ["free", "bound"] {
        make(&volumes, json!({"metadata": {"name": name}, "spec": spec})).await;
    }
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let params = PatchParams::default();
    volumes.patch("free", &params, &none).await.unwrap();
    until("the finalizer is back", || async {
        let volume = volumes.get("free").await.unwrap();
        (volume.metadata.finalizers? == ["kubernetes.io/pv-protection"]).then_some(())
    })
    .await;
    // A claim that names it, so that the controllers bind the two.
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(running.cluster.client());
    make(
        &claims,
        json!({"metadata": {"name": "c"}, "spec": {"volumeName": "bound", "storageClassName": "",
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    )
    .await;
    until("it is bound", || async {
        let volume = volumes.get("bound").await.unwrap();
        (volume.status?.phase.as_deref() == Some("Bound")).then_some(())
    })
    .await;
    for name in ["bound", "free"] {
        volumes
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }
    until("the free volume goes", || async {
        volumes
            .get_opt("free")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    volumes.get("bound").await.unwrap();
    claims.delete("c", &DeleteParams::default()).await.unwrap();
    until("the released volume goes", || async {
        volumes
            .get_opt("bound")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_class_goes_when_no_claim_names_it() {
    let running = start().await;
    let classes: Api<VolumeAttributesClass> = Api::all(running.cluster.client());
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(running.cluster.client());
    let class = json!({"metadata": {"name": "fast"}, "driverName": "d.example.org", "parameters": {"iops": "9"}});
    make(&classes, class).await;
    make(
        &claims,
        json!({"metadata": {"name": "c"}, "spec": {"volumeAttributesClassName": "fast",
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    )
    .await;
    classes
        .delete("fast", &DeleteParams::default())
        .await
        .unwrap();
    let fast = classes.get("fast").await.unwrap();
    assert!(fast.metadata.deletion_timestamp.is_some());
    claims.delete("c", &DeleteParams::default()).await.unwrap();
    until("the class goes with the claim", || async {
        classes
            .get_opt("fast")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn claims_that_grow_are_told_who_gives_them_room() {
    let running = start().await;
    let client = running.cluster.client();
    let classes: Api<StorageClass> = Api::all(client.clone());
    make(
        &classes,
        json!({"metadata": {"name": "grows"}, "provisioner": "example.com/maker", "allowVolumeExpansion": true}),
    )
    .await;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    let driver = json!({"driver": "d.example.com", "volumeHandle": "h"});
    for (name, source, how) in [
        ("drivers", "csi", driver),
        ("moved", "awsElasticBlockStore", json!({"volumeID": "v"})),
    ] {
        let mut volume = json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"], "storageClassName": "grows"}});
        volume["spec"][source] = how;
        make(&volumes, volume).await;
        make(
            &claims,
            json!({"metadata": {"name": name}, "spec": {"volumeName": name, "storageClassName": "grows",
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
        )
        .await;
        until("it is bound", || async {
            let claim = claims.get(name).await.unwrap();
            (claim.status?.phase.as_deref() == Some("Bound")).then_some(())
        })
        .await;
        let more = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        let params = PatchParams::default();
        claims
            .patch(name, &params, &Patch::Merge(more))
            .await
            .unwrap();
    }
    for text in [
        "waiting for an external controller to expand this PVC",
        "CSI migration enabled for kubernetes.io/aws-ebs; waiting for external resizer to expand the pvc",
    ] {
        let event = told(&client, "default", text).await;
        assert_eq!(event.reason.as_deref(), Some("ExternalExpanding"));
    }
    until("the driver is named", || async {
        let annotations = claims.get("moved").await.unwrap().metadata.annotations?;
        let resizer = annotations.get("volume.kubernetes.io/storage-resizer")?;
        (resizer == "ebs.csi.aws.com").then_some(())
    })
    .await;
}
