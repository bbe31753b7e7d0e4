//! More important pods push less important ones out.

use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::Api;
use serde_json::json;
use skiff_scheduler::SchedulerConfig;

use crate::running::{make, start, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_more_important_pod_gets_the_node_of_a_less_important_one() {
    let running = start(SchedulerConfig::default()).await;
    let classes: Api<PriorityClass> = Api::all(running.cluster.client());
    for (name, value) in [("low", 1), ("high", 1000)] {
        make(
            &classes,
            json!({"metadata": {"name": name}, "value": value}),
        )
        .await;
    }
    running.node("n", "2").await;
    // Nobody ends the victim's containers here: it stays until the test takes it away.
    let class = |name: &str| json!({"priorityClassName": name});
    running.pod("victim", "1500m", class("low")).await;
    running.node_of("victim").await;
    let finalized = json!({"metadata": {"finalizers": ["example.com/watch"]}});
    let (pods, params) = (running.pods(), kube::api::PatchParams::default());
    pods.patch("victim", &params, &kube::api::Patch::Merge(finalized))
        .await
        .unwrap();
    running.pod("important", "1500m", class("high")).await;
    let message = running.waits("important", "Unschedulable").await;
    assert_eq!(message, "0/1 nodes are available: 1 Insufficient cpu.");
    let (nominated, uid) = until("a node is nominated", || async {
        let pod = pods.get("important").await.unwrap();
        Some((pod.status?.nominated_node_name?, pod.metadata.uid?))
    })
    .await;
    assert_eq!(nominated, "n");
    let condition = until("the victim is on its way out", || async {
        let pod = pods.get("victim").await.unwrap();
        pod.metadata.deletion_timestamp.as_ref()?;
        let conditions = pod.status?.conditions?;
        conditions
            .into_iter()
            .find(|found| found.type_ == "DisruptionTarget")
    })
    .await;
    assert_eq!(condition.reason.as_deref(), Some("PreemptionByScheduler"));
    assert_eq!(
        condition.message.as_deref(),
        Some("default-scheduler: preempting to accommodate a higher priority pod")
    );
    let note = running.event("victim", "Preempted").await;
    assert_eq!(note, format!("Preempted by pod {uid} on node n"));
    let let_go = json!({"metadata": {"finalizers": null}});
    pods.patch("victim", &params, &kube::api::Patch::Merge(let_go))
        .await
        .unwrap();
    let now = kube::api::DeleteParams::default().grace_period(0);
    drop(pods.delete("victim", &now).await);
    assert_eq!(running.node_of("important").await, "n");
}
