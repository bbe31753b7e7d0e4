//! Claims find volumes, and volumes go the way of their claims.

use k8s_openapi::api::core::v1::{
    Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::running::{Running, make, start, until};

struct World {
    running: Running,
    claims: Api<PersistentVolumeClaim>,
    volumes: Api<PersistentVolume>,
    classes: Api<StorageClass>,
}

fn volume(name: &str, size: &str, policy: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": policy, "hostPath": {"path": "/v"}}})
}

fn claim(name: &str, class: Option<&str>) -> Value {
    let mut claim = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "2Gi"}}}});
    if let Some(class) = class {
        claim["spec"]["storageClassName"] = class.into();
    }
    claim
}

impl World {
    async fn new() -> Self {
        let running = start().await;
        let client = running.cluster.client();
        let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
        until("account", || async {
            accounts.get_opt("default").await.unwrap()
        })
        .await;
        Self {
            claims: Api::default_namespaced(client.clone()),
            volumes: Api::all(client.clone()),
            classes: Api::all(client),
            running,
        }
    }

    async fn until_claim(&self, name: &str, phase: &str, volume: Option<&str>) {
        until(&format!("{name} {phase} {volume:?}"), || async {
            let claim = self.claims.get(name).await.unwrap();
            let is = claim.status?.phase.as_deref() == Some(phase)
                && claim.spec?.volume_name.as_deref() == volume;
            is.then_some(())
        })
        .await;
    }

    async fn until_volume(&self, name: &str, phase: &str) {
        until(&format!("{name} {phase}"), || async {
            let volume = self.volumes.get(name).await.unwrap();
            (volume.status?.phase.as_deref() == Some(phase)).then_some(())
        })
        .await;
    }

    async fn until_no_volume(&self, name: &str) {
        until(&format!("no {name}"), || async {
            let found = self.volumes.get_opt(name).await.unwrap();
            found.is_none().then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_bound_to_volumes_that_fit_and_let_them_go() {
    let world = World::new().await;
    make(&world.volumes, volume("big", "9Gi", "Retain")).await;
    make(&world.volumes, volume("right", "3Gi", "Delete")).await;
    world.until_volume("right", "Available").await;
    world.until_volume("big", "Available").await;
    make(&world.claims, claim("first", Some(""))).await;
    world.until_claim("first", "Bound", Some("right")).await;
    make(&world.claims, claim("second", Some(""))).await;
    world.until_claim("second", "Bound", Some("big")).await;
    // None is left until another volume comes.
    make(&world.claims, claim("third", Some(""))).await;
    world.until_claim("third", "Pending", None).await;
    make(&world.volumes, volume("late", "2Gi", "Retain")).await;
    world.until_claim("third", "Bound", Some("late")).await;
    for name in ["first", "second"] {
        world
            .claims
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }
    // Nobody can delete what is behind it; what is to be kept waits for a person.
    world.until_volume("right", "Failed").await;
    world.until_volume("big", "Released").await;
    let free = Patch::Merge(json!({"spec": {"claimRef": null}}));
    world
        .volumes
        .patch("big", &PatchParams::default(), &free)
        .await
        .unwrap();
    world.until_volume("big", "Available").await;
    // A volume that goes under a claim leaves it lost.
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    world
        .volumes
        .delete("late", &DeleteParams::default())
        .await
        .unwrap();
    world
        .volumes
        .patch("late", &PatchParams::default(), &none)
        .await
        .unwrap();
    world.until_claim("third", "Lost", Some("late")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_and_volumes_that_ask_for_each_other() {
    let world = World::new().await;
    make(&world.claims, {
        let mut claim = claim("mine", Some(""));
        claim["spec"]["volumeName"] = "mine".into();
        claim
    })
    .await;
    world.until_claim("mine", "Pending", Some("mine")).await;
    make(&world.volumes, volume("mine", "2Gi", "Retain")).await;
    world.until_claim("mine", "Bound", Some("mine")).await;
    let mut kept = volume("kept", "50Gi", "Retain");
    kept["spec"]["claimRef"] = json!({"namespace": "default", "name": "theirs"});
    make(&world.volumes, kept).await;
    make(&world.volumes, volume("small", "2Gi", "Retain")).await;
    world.until_volume("kept", "Available").await;
    make(&world.claims, claim("theirs", Some(""))).await;
    world.until_claim("theirs", "Bound", Some("kept")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_are_provisioned_grow_and_go() {
    let world = World::new().await;
    let client = world.running.cluster.client();
    let params = PatchParams::default();
    let nodes: Api<Node> = Api::all(client.clone());
    make(
        &nodes,
        json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"},
        "annotations": {"skiff.local/volumes-directory": "/data/volumes"}}}),
    )
    .await;
    make(&world.classes, json!({"metadata": {"name": "dir", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "skiff.local/dir", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true}))
    .await;
    make(&world.claims, claim("data", None)).await;
    world.until_claim("data", "Pending", None).await;
    let found = world.claims.get("data").await.unwrap();
    assert_eq!(
        found.spec.unwrap().storage_class_name.as_deref(),
        Some("dir")
    );
    // What the scheduler does.
    let chosen = Patch::Merge(
        json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}}),
    );
    world.claims.patch("data", &params, &chosen).await.unwrap();
    let name = format!("pvc-{}", found.metadata.uid.unwrap());
    world.until_claim("data", "Bound", Some(&name)).await;
    let volume = world.volumes.get(&name).await.unwrap().spec.unwrap();
    assert_eq!(volume.local.unwrap().path, format!("/data/volumes/{name}"));
    let more = Patch::Merge(json!({"spec": {"resources": {"requests": {"storage": "4Gi"}}}}));
    world.claims.patch("data", &params, &more).await.unwrap();
    until("the claim grows", || async {
        let capacity = world.claims.get("data").await.unwrap().status?.capacity?;
        (capacity["storage"].0 == "4Gi").then_some(())
    })
    .await;
    world
        .claims
        .delete("data", &DeleteParams::default())
        .await
        .unwrap();
    let key = format!("volumes.skiff.local/{name}");
    let word = || async {
        let annotations = nodes.get("n1").await.unwrap().metadata.annotations?;
        annotations.get(&key).cloned()
    };
    until("the node is asked", || async {
        (word().await.as_deref() == Some("remove")).then_some(())
    })
    .await;
    world.until_volume(&name, "Released").await;
    // What the kubelet does.
    let done = Patch::Merge(json!({"metadata": {"annotations": {&key: "removed"}}}));
    nodes.patch("n1", &params, &done).await.unwrap();
    world.until_no_volume(&name).await;
    until("the node forgets", || async {
        word().await.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_own_claim_comes_and_goes_with_it() {
    let world = World::new().await;
    let pods: Api<Pod> = Api::default_namespaced(world.running.cluster.client());
    make(&world.volumes, volume("scratch", "5Gi", "Retain")).await;
    make(&pods, json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "tmp", "ephemeral": {"volumeClaimTemplate": {"spec": {"storageClassName": "",
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}]}}))
    .await;
    until("the claim", || async {
        let claim = world.claims.get_opt("p-tmp").await.unwrap()?;
        (claim.status?.phase.as_deref() == Some("Bound")).then_some(())
    })
    .await;
    pods.delete("p", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    until("no claim", || async {
        world
            .claims
            .get_opt("p-tmp")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_volume_to_be_recycled_is_emptied_and_free_again() {
    let running = start().await;
    let client = running.cluster.client();
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client);
    make(&volumes, json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Recycle", "hostPath": {"path": "/v"}}}))
    .await;
    let spec = json!({"storageClassName": "", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}});
    let phase = async |wanted: &str| {
        until(&format!("the volume is {wanted}"), || async {
            let volume = volumes.get("v").await.unwrap();
            (volume.status?.phase.as_deref() == Some(wanted)).then_some(())
        })
        .await;
    };
    for (outcome, becomes) in [("Succeeded", "Available"), ("Failed", "Failed")] {
        make(&claims, json!({"metadata": {"name": "c"}, "spec": spec})).await;
        phase("Bound").await;
        claims.delete("c", &DeleteParams::default()).await.unwrap();
        let recycler = until("the recycler", || async {
            pods.get_opt("recycler-for-v").await.unwrap()
        })
        .await;
        let mounted = recycler.spec.unwrap().volumes.unwrap();
        assert_eq!(mounted[0].host_path.as_ref().unwrap().path, "/v");
        let status = Patch::Merge(json!({"status": {"phase": outcome}}));
        let params = PatchParams::default();
        pods.patch_status("recycler-for-v", &params, &status)
            .await
            .unwrap();
        phase(becomes).await;
        let bound = volumes.get("v").await.unwrap().spec.unwrap().claim_ref;
        assert_eq!(bound.is_some(), outcome == "Failed");
        until("the recycler goes", || async {
            let found = pods.get_opt("recycler-for-v").await.unwrap();
            found.is_none().then_some(())
        })
        .await;
    }
}
