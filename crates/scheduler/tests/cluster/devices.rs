//! Pods get the devices that their claims ask for; the test does what drivers and the controller of claims would.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use skiff_base::SimulatedClock;
use skiff_scheduler::SchedulerConfig;

use crate::running::{Running, make, start, start_with, until};

/// A class `gpu`, and a slice with these devices for a node.
async fn offer(running: &Running, node: &str, devices: Value) {
    let client = running.cluster.client();
    let classes: Api<DeviceClass> = Api::all(client.clone());
    let selector = json!([{"cel": {"expression": "device.driver == 'gpu.example.com'"}}]);
    make(
        &classes,
        json!({"metadata": {"name": "gpu"}, "spec": {"selectors": selector, "extendedResourceName": "example.com/gpu"}}),
    )
    .await;
    let slices: Api<ResourceSlice> = Api::all(client);
    let pool = json!({"name": node, "generation": 1, "resourceSliceCount": 1});
    make(
        &slices,
        json!({"metadata": {"name": format!("slice-{node}")}, "spec": {
            "driver": "gpu.example.com", "nodeName": node, "pool": pool, "devices": devices}}),
    )
    .await;
}

fn claims(running: &Running) -> Api<ResourceClaim> {
    Api::namespaced(running.cluster.client(), "default")
}

async fn claim(running: &Running, name: &str) {
    let request = json!({"name": "one", "exactly": {"deviceClassName": "gpu"}});
    make(
        &claims(running),
        json!({"metadata": {"name": name}, "spec": {"devices": {"requests": [request]}}}),
    )
    .await;
}

fn with_claim(name: &str) -> Value {
    json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": name}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_compete_for_one_device() {
    let running = start(SchedulerConfig::default()).await;
    running.node("n", "4").await;
    running.node("m", "4").await;
    offer(&running, "n", json!([{"name": "gpu-0"}])).await;
    claim(&running, "first").await;
    running.pod("first", "1", with_claim("first")).await;
    assert_eq!(running.node_of("first").await, "n");
    let bound = claims(&running).get("first").await.unwrap();
    let finalizers = bound.metadata.finalizers.clone().unwrap();
    assert_eq!(finalizers, ["resource.kubernetes.io/delete-protection"]);
    let status = bound.status.unwrap();
    let holders = status.reserved_for.unwrap();
    assert_eq!(
        (
            holders.len(),
            holders[0].name.as_str(),
            holders[0].resource.as_str()
        ),
        (1, "first", "pods")
    );
    let allocation = status.allocation.unwrap();
    assert!(allocation.allocation_timestamp.is_some());
    let results = allocation.devices.unwrap().results.unwrap();
    let found: Vec<_> = results
        .iter()
        .map(|one| (one.request.as_str(), one.pool.as_str(), one.device.as_str()))
        .collect();
    assert_eq!(found, [("one", "n", "gpu-0")]);

    claim(&running, "second").await;
    running.pod("second", "1", with_claim("second")).await;
    assert_eq!(
        running.waits("second", "Unschedulable").await,
        "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, \
         preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
    let given_back = json!({"status": {"allocation": null, "reservedFor": null}});
    claims(&running)
        .patch_status("first", &PatchParams::default(), &Patch::Merge(given_back))
        .await
        .unwrap();
    assert_eq!(running.node_of("second").await, "n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_claim_is_for_all_that_use_it_and_waits_until_it_is_there() {
    let running = start(SchedulerConfig::default()).await;
    running.node("n", "4").await;
    offer(&running, "n", json!([{"name": "gpu-0"}])).await;
    running.pod("one", "1", with_claim("shared")).await;
    running.pod("other", "1", json!({})).await;
    assert_eq!(running.node_of("other").await, "n");
    let waiting = running.pods().get("one").await.unwrap();
    assert_eq!(waiting.spec.unwrap().node_name, None);
    claim(&running, "shared").await;
    running.pod("two", "1", with_claim("shared")).await;
    assert_eq!(running.node_of("one").await, "n");
    assert_eq!(running.node_of("two").await, "n");
    let status = claims(&running)
        .get("shared")
        .await
        .unwrap()
        .status
        .unwrap();
    assert_eq!(status.reserved_for.unwrap().len(), 2);
}

/// A pod `p` whose claim `c` has a device on `n` that somebody has to make ready.
async fn waiting_for_its_device(running: &Running) -> String {
    running.node("n", "4").await;
    let device = json!({"name": "gpu-0", "bindingConditions": ["example.com/attached"],
        "bindingFailureConditions": ["example.com/failed"]});
    offer(running, "n", json!([device])).await;
    claim(running, "c").await;
    running.pod("p", "1", with_claim("c")).await;
    running.event("p", "BindingConditionsPending").await
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_have_to_be_ready_before_a_pod_is_bound() {
    let running = start(SchedulerConfig::default()).await;
    let pending = waiting_for_its_device(&running).await;
    assert_eq!(
        pending,
        "waiting for binding conditions for device on node n"
    );
    assert_eq!(
        running
            .pods()
            .get("p")
            .await
            .unwrap()
            .spec
            .unwrap()
            .node_name,
        None
    );
    let ready = json!({"status": {"devices": [{"driver": "gpu.example.com", "pool": "n", "device": "gpu-0",
        "conditions": [{"type": "example.com/attached", "status": "True", "reason": "Attached", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}]}});
    claims(&running)
        .patch_status("c", &PatchParams::default(), &Patch::Merge(ready))
        .await
        .unwrap();
    assert_eq!(running.node_of("p").await, "n");
}

/// No time passes, so nothing that looks now and then would find out.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_goes_while_its_device_is_made_ready_gives_its_claim_back() {
    let clock = SimulatedClock::new(SystemTime::UNIX_EPOCH);
    let running = start_with(SchedulerConfig::default(), clock).await;
    waiting_for_its_device(&running).await;
    let holders = |claim: ResourceClaim| claim.status?.reserved_for;
    let claim = claims(&running).get("c").await.unwrap();
    assert_eq!(holders(claim).map(|all| all.len()), Some(1));
    let params = DeleteParams::default();
    running.pods().delete("p", &params).await.unwrap();
    until("nobody has the claim", || async {
        let claim = claims(&running).get("c").await.unwrap();
        holders(claim)
            .is_none_or(|all| all.is_empty())
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_are_not_made_ready_in_time_are_given_up() {
    let clock = SimulatedClock::new(SystemTime::UNIX_EPOCH);
    let running = start_with(SchedulerConfig::default(), clock.clone()).await;
    waiting_for_its_device(&running).await;
    let passing = async {
        loop {
            clock.advance(Duration::from_secs(601));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let why = tokio::select! {
        why = running.waits("p", "SchedulerError") => why,
        () = passing => unreachable!(),
    };
    assert_eq!(
        why,
        "running PreBind plugin \"DynamicResources\": device binding timeout: claim=c"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_stand_for_an_extended_resource() {
    let running = start(SchedulerConfig::default()).await;
    running.node("n", "4").await;
    offer(&running, "n", json!([{"name": "gpu-0"}])).await;
    let resources =
        json!({"requests": {"example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"}});
    let containers = json!({"containers": [{"name": "c", "image": "i", "resources": resources}]});
    running.pod("p", "1", containers).await;
    assert_eq!(running.node_of("p").await, "n");
    let pod = running.pods().get("p").await.unwrap();
    let status = pod.status.unwrap().extended_resource_claim_status.unwrap();
    let mapping = &status.request_mappings[0];
    assert_eq!(
        (
            mapping.container_name.as_str(),
            mapping.resource_name.as_str(),
            mapping.request_name.as_str()
        ),
        ("c", "example.com/gpu", "container-0-request-0")
    );
    let made = until("the claim is there", || async {
        let all = claims(&running).list(&ListParams::default()).await.unwrap();
        all.items.into_iter().next()
    })
    .await;
    assert_eq!(
        made.metadata.name.as_deref(),
        Some(status.resource_claim_name.as_str())
    );
    assert!(
        made.metadata
            .name
            .unwrap()
            .starts_with("p-extended-resources-")
    );
    let results = made
        .status
        .unwrap()
        .allocation
        .unwrap()
        .devices
        .unwrap()
        .results
        .unwrap();
    assert_eq!(results[0].device, "gpu-0");
}
