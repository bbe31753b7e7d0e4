//! Pods get nodes, and those that get none are told why.

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use skiff_scheduler::SchedulerConfig;
use skiff_scheduler::profile::Profile;

use crate::running::start;

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_bound_and_those_without_room_say_so_until_there_is() {
    let running = start(SchedulerConfig::default()).await;
    running.node("n", "2").await;
    running.pod("first", "1500m", json!({})).await;
    assert_eq!(running.node_of("first").await, "n");
    assert_eq!(
        running.event("first", "Scheduled").await,
        "Successfully assigned default/first to n"
    );
    running.pod("second", "1500m", json!({})).await;
    let why = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, \
               preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    assert_eq!(running.waits("second", "Unschedulable").await, why);
    assert_eq!(running.event("second", "FailedScheduling").await, why);
    let now = DeleteParams::default().grace_period(0);
    running.pods().delete("first", &now).await.unwrap();
    assert_eq!(running.node_of("second").await, "n");
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_hold_pods_back() {
    let running = start(SchedulerConfig::default()).await;
    running.node("n", "2").await;
    let gated = json!({"schedulingGates": [{"name": "example.com/wait"}]});
    running.pod("gated", "1", gated).await;
    running.pod("free", "1", json!({})).await;
    assert_eq!(running.node_of("free").await, "n");
    let pod = running.pods().get("gated").await.unwrap();
    assert_eq!(pod.spec.unwrap().node_name, None);
    let opened = json!({"spec": {"schedulingGates": null}});
    let params = PatchParams::default();
    running
        .pods()
        .patch("gated", &params, &Patch::Merge(opened))
        .await
        .unwrap();
    assert_eq!(running.node_of("gated").await, "n");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_schedulers_in_one() {
    let mut packing = Profile::with_defaults("packing");
    packing.args.strategy = skiff_scheduler::profile::Strategy::MostAllocated;
    let config = SchedulerConfig {
        profiles: vec![Profile::default(), packing],
        ..SchedulerConfig::default()
    };
    let running = start(config).await;
    running.node("n", "4").await;
    running.pod("first", "2", json!({})).await;
    running.node_of("first").await;
    running.node("empty", "4").await;
    running
        .pod("packed", "1", json!({"schedulerName": "packing"}))
        .await;
    running
        .pod("other", "1", json!({"schedulerName": "nobody"}))
        .await;
    assert_eq!(running.node_of("packed").await, "n");
    running.pod("spread", "1", json!({})).await;
    assert_eq!(running.node_of("spread").await, "empty");
    let other = running.pods().get("other").await.unwrap();
    assert_eq!(other.spec.unwrap().node_name, None);
}
