//! What becomes of pods on simulated nodes.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;
use skiff_simulation::plan;

use crate::world::{World, is_ready, node_of, phase};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_leave_a_node_that_falls_silent() {
    let world = World::start(6, 1).await;
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 30, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    world.make::<Deployment>(deployment).await;
    let ready = |pods: &[Pod]| pods.iter().filter(|pod| is_ready(pod)).count();
    let pods = world.until("all are ready", |pods| ready(pods) == 30).await;
    let lost = "simulated-00002";
    assert!(pods.iter().any(|pod| node_of(pod) == lost));

    let nodes: Api<Node> = Api::all(world.client());
    let silence = json!({"metadata": {"annotations": {(plan::SILENT): "true"}}});
    nodes
        .patch(lost, &PatchParams::default(), &Patch::Merge(silence))
        .await
        .unwrap();
    // Their tolerations of 300 seconds pass, and others take their places.
    world
        .until("they are replaced", |pods| {
            let elsewhere = pods
                .iter()
                .filter(|pod| node_of(pod) != lost && is_ready(pod));
            elsewhere.count() == 30
        })
        .await;
    // It comes back: what was deleted there goes at last.
    let speak = json!({"metadata": {"annotations": {(plan::SILENT): null}}});
    nodes
        .patch(lost, &PatchParams::default(), &Patch::Merge(speak))
        .await
        .unwrap();
    let pods = world
        .until("its old pods are gone", |pods| pods.len() == 30)
        .await;
    assert_eq!(ready(&pods), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_end_as_their_annotations_say() {
    let world = World::start(2, 1).await;
    for (name, policy, code) in [
        ("good", "Never", "0"),
        ("bad", "Never", "4"),
        ("again", "OnFailure", "4"),
    ] {
        let pod = json!({
            "metadata": {"name": name, "annotations": {(plan::RUN_FOR): "5", (plan::EXIT_CODE): code}},
            "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]},
        });
        world.make::<Pod>(pod).await;
    }
    let restarts = |pod: &Pod| {
        let statuses = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.as_deref());
        statuses
            .unwrap_or_default()
            .iter()
            .map(|c| c.restart_count)
            .sum::<i32>()
    };
    world
        .until("each comes to its end", |pods| {
            let is = |name: &str, wanted: &str| {
                pods.iter()
                    .any(|pod| pod.metadata.name.as_deref() == Some(name) && phase(pod) == wanted)
            };
            let again = pods
                .iter()
                .find(|pod| pod.metadata.name.as_deref() == Some("again"));
            is("good", "Succeeded")
                && is("bad", "Failed")
                && again.is_some_and(|pod| restarts(pod) >= 2)
        })
        .await;
    let api: Api<Pod> = Api::namespaced(world.client(), "default");
    api.delete("again", &DeleteParams::default()).await.unwrap();
    world.until("it is gone", |pods| pods.len() == 2).await;
}
