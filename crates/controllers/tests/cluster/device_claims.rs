//! Claims of devices come and go with the pods that use them; the test does what a scheduler would.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice,
};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::running::{Running, make, start, told, until};

struct World {
    running: Running,
    pods: Api<Pod>,
    claims: Api<ResourceClaim>,
}

async fn world() -> World {
    let running = start().await;
    let client = running.cluster.client();
    let classes: Api<DeviceClass> = Api::all(client.clone());
    make(&classes, json!({"metadata": {"name": "gpu"}, "spec": {}})).await;
    World {
        running,
        pods: Api::default_namespaced(client.clone()),
        claims: Api::default_namespaced(client),
    }
}

fn request() -> Value {
    json!({"devices": {"requests": [{"name": "one", "exactly": {"deviceClassName": "gpu"}}]}})
}

impl World {
    async fn template(&self) {
        let api: Api<ResourceClaimTemplate> =
            Api::default_namespaced(self.running.cluster.client());
        let spec = json!({"metadata": {"labels": {"l": "v"}}, "spec": request()});
        make(&api, json!({"metadata": {"name": "t"}, "spec": spec})).await;
    }

    async fn pod(&self, name: &str, claim: Value) -> Pod {
        let mut claim = claim;
        claim["name"] = "gpu".into();
        make(
            &self.pods,
            json!({"metadata": {"name": name}, "spec": {"nodeName": "n", "resourceClaims": [claim],
                "containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "gpu"}]}}]}}),
        )
        .await
    }

    /// The name of the claim that was made for a pod.
    async fn made_for(&self, pod: &str) -> String {
        until("a claim was made", || async {
            let pod = self.pods.get(pod).await.unwrap();
            pod.status?
                .resource_claim_statuses?
                .remove(0)
                .resource_claim_name
        })
        .await
    }

    async fn allocate(&self, claim: &str, holders: Value) {
        let finalizers =
            json!({"metadata": {"finalizers": ["resource.kubernetes.io/delete-protection"]}});
        let params = PatchParams::default();
        self.claims
            .patch(claim, &params, &Patch::Merge(finalizers))
            .await
            .unwrap();
        let result =
            json!({"request": "one", "driver": "d.example.com", "pool": "n", "device": "x"});
        let status = json!({"status": {"allocation": {"devices": {"results": [result]}}, "reservedFor": holders}});
        self.claims
            .patch_status(claim, &params, &Patch::Merge(status))
            .await
            .unwrap();
    }

    async fn ends(&self, pod: &str) {
        let ended = json!({"status": {"phase": "Succeeded"}});
        let params = PatchParams::default();
        self.pods
            .patch_status(pod, &params, &Patch::Merge(ended))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_own_claim_is_made_reserved_and_taken_away() {
    let world = world().await;
    let pod = world
        .pod("p", json!({"resourceClaimTemplateName": "t"}))
        .await;
    let text = "PodResourceClaim gpu: resource claim template \"t\": resourceclaimtemplate.resource.k8s.io \"t\" not found";
    let failed = told(&world.running.cluster.client(), "default", text).await;
    assert_eq!(
        failed.reason.as_deref(),
        Some("FailedResourceClaimCreation")
    );
    world.template().await;
    let name = world.made_for("p").await;
    assert!(name.starts_with("p-gpu-"), "{name}");
    let claim = world.claims.get(&name).await.unwrap();
    assert_eq!(
        claim.metadata.annotations.unwrap()["resource.kubernetes.io/pod-claim-name"],
        "gpu"
    );
    assert_eq!(claim.metadata.labels.unwrap()["l"], "v");
    assert_eq!(
        claim.metadata.owner_references.unwrap()[0].uid,
        pod.metadata.uid.clone().unwrap()
    );
    world.allocate(&name, json!([])).await;
    let holders = until("the pod holds its devices", || async {
        world.claims.get(&name).await.unwrap().status?.reserved_for
    })
    .await;
    assert_eq!(Some(&holders[0].uid), pod.metadata.uid.as_ref());
    world.ends("p").await;
    until("the claim is gone", || async {
        let all = world
            .claims
            .list(&ListParams::default())
            .await
            .unwrap()
            .items;
        all.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_claim_is_free_when_its_last_pod_has_gone() {
    let world = world().await;
    make(
        &world.claims,
        json!({"metadata": {"name": "c"}, "spec": request()}),
    )
    .await;
    let mut holders = Vec::new();
    for name in ["p", "q"] {
        let pod = world.pod(name, json!({"resourceClaimName": "c"})).await;
        holders.push(json!({"resource": "pods", "name": name, "uid": pod.metadata.uid}));
    }
    world.allocate("c", holders.into()).await;
    world.ends("p").await;
    until("one pod is left", || async {
        let status = world.claims.get("c").await.unwrap().status.unwrap();
        (status.reserved_for?.len() == 1 && status.allocation.is_some()).then_some(())
    })
    .await;
    world
        .pods
        .delete("q", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    until("the devices are given back", || async {
        let claim = world.claims.get("c").await.unwrap();
        let free = claim
            .status
            .is_none_or(|status| status.allocation.is_none());
        (free && claim.metadata.finalizers.is_none()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_with_tainted_devices_are_sent_away() {
    let world = world().await;
    make(
        &world.claims,
        json!({"metadata": {"name": "c"}, "spec": request()}),
    )
    .await;
    let pod = world.pod("p", json!({"resourceClaimName": "c"})).await;
    // Stays for the test to look at.
    let held = json!({"metadata": {"finalizers": ["example.com/look"]}});
    let params = PatchParams::default();
    world
        .pods
        .patch("p", &params, &Patch::Merge(held))
        .await
        .unwrap();
    world
        .allocate(
            "c",
            json!([{"resource": "pods", "name": "p", "uid": pod.metadata.uid}]),
        )
        .await;
    let slices: Api<ResourceSlice> = Api::all(world.running.cluster.client());
    let taint = json!({"key": "example.com/broken", "effect": "NoExecute"});
    make(
        &slices,
        json!({"metadata": {"name": "s"}, "spec": {"driver": "d.example.com", "nodeName": "n",
            "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "x", "taints": [taint]}]}}),
    )
    .await;
    let condition = until("the pod is on its way out", || async {
        let pod = world.pods.get("p").await.unwrap();
        pod.metadata.deletion_timestamp.as_ref()?;
        let conditions = pod.status?.conditions?;
        conditions
            .into_iter()
            .find(|found| found.type_ == "DisruptionTarget")
    })
    .await;
    assert_eq!(
        condition.reason.as_deref(),
        Some("DeletionByDeviceTaintManager")
    );
}
