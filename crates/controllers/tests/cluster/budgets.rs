//! Disruption budgets and evictions, and autoscalers, with the test in the kubelets' place.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, EvictParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::running::{Running, make, start, until};

async fn deployment(running: &Running, replicas: i32) -> Api<Deployment> {
    let client = running.cluster.client();
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    until("the account", || async {
        accounts.get_opt("default").await.unwrap()
    })
    .await;
    let deployments: Api<Deployment> = Api::default_namespaced(client);
    make(
        &deployments,
        json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
    )
    .await;
    deployments
}

/// Makes that many pods ready, once they are there.
async fn ready(running: &Running, count: usize) -> Vec<String> {
    let pods: Api<Pod> = Api::default_namespaced(running.cluster.client());
    let found = until("pods", || async {
        let found = pods.list(&ListParams::default()).await.unwrap().items;
        (found.len() == count).then_some(found)
    })
    .await;
    let mut names = Vec::new();
    for pod in found {
        let name = pod.metadata.name.unwrap();
        let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status))
            .await
            .unwrap();
        names.push(name);
    }
    names
}

async fn budget(running: &Running, spec: Value) -> Api<PodDisruptionBudget> {
    let budgets: Api<PodDisruptionBudget> = Api::default_namespaced(running.cluster.client());
    let mut budget =
        json!({"metadata": {"name": "b"}, "spec": {"selector": {"matchLabels": {"app": "web"}}}});
    for (field, value) in spec.as_object().unwrap() {
        budget["spec"][field] = value.clone();
    }
    make(&budgets, budget).await;
    budgets
}

#[tokio::test(flavor = "multi_thread")]
async fn evictions_stop_where_the_budget_ends() {
    let running = start().await;
    deployment(&running, 3).await;
    let names = ready(&running, 3).await;
    let budgets = budget(&running, json!({"maxUnavailable": "34%"})).await;
    let allowed = |wanted: i32| {
        let budgets = budgets.clone();
        async move {
            until(&format!("{wanted} allowed"), || async {
                let status = budgets.get("b").await.unwrap().status?;
                (status.disruptions_allowed == Some(wanted) && status.expected_pods == Some(3))
                    .then_some(status)
            })
            .await
        }
    };
    let status = allowed(2).await;
    assert_eq!(
        (status.current_healthy, status.desired_healthy),
        (Some(3), Some(1))
    );
    assert_eq!(status.conditions.unwrap()[0].reason, "SufficientPods");
    let pods: Api<Pod> = Api::default_namespaced(running.cluster.client());
    let evict = |name: &str| {
        let (pods, name) = (pods.clone(), name.to_owned());
        async move { pods.evict(&name, &EvictParams::default()).await }
    };
    let mut dry = EvictParams::default();
    dry.post_options.dry_run = true;
    pods.evict(&names[0], &dry).await.unwrap();
    assert!(
        pods.get(&names[0])
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_none()
    );
    evict(&names[0]).await.unwrap();
    evict(&names[1]).await.unwrap();
    let kube::Error::Api(refused) = evict(&names[2]).await.unwrap_err() else {
        panic!("no answer");
    };
    assert_eq!(refused.code, 429);
    assert_eq!(
        refused.message,
        "Cannot evict pod as it would violate the pod's disruption budget."
    );
    let cause = &refused.details.unwrap().causes[0];
    assert_eq!(cause.reason, "DisruptionBudget");
    // Pods that no kubelet runs are gone at once, or still say why they go.
    if let Some(pod) = pods.get_opt(&names[0]).await.unwrap() {
        let conditions = pod.status.unwrap().conditions.unwrap();
        let told = conditions
            .iter()
            .find(|found| found.type_ == "DisruptionTarget");
        assert_eq!(
            told.unwrap().reason.as_deref(),
            Some("EvictionByEvictionAPI")
        );
    }
    let status = allowed(0).await;
    assert_eq!(status.conditions.unwrap()[0].reason, "InsufficientPods");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_unscalable_owners_cannot_be_judged_by_percent() {
    let running = start().await;
    let accounts: Api<ServiceAccount> = Api::default_namespaced(running.cluster.client());
    until("the account", || async {
        accounts.get_opt("default").await.unwrap()
    })
    .await;
    let jobs: Api<Job> = Api::default_namespaced(running.cluster.client());
    make(
        &jobs,
        json!({"metadata": {"name": "j"}, "spec": {"template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}),
    )
    .await;
    let budgets = budget(&running, json!({"minAvailable": "50%"})).await;
    let condition = until("a verdict", || async {
        let condition = budgets.get("b").await.unwrap().status?.conditions?.pop()?;
        (condition.reason == "SyncFailed").then_some(condition)
    })
    .await;
    assert_eq!(
        condition.message,
        "jobs.batch does not implement the scale subresource"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_keeps_its_least_and_tells_of_missing_metrics() {
    let running = start().await;
    let deployments = deployment(&running, 1).await;
    let scalers: Api<HorizontalPodAutoscaler> = Api::default_namespaced(running.cluster.client());
    make(
        &scalers,
        json!({"metadata": {"name": "h"}, "spec": {"minReplicas": 2, "maxReplicas": 4,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}}),
    )
    .await;
    until("two replicas", || async {
        let spec = deployments.get("web").await.unwrap().spec?;
        (spec.replicas == Some(2)).then_some(())
    })
    .await;
    let status = until("a status", || async {
        let status = scalers.get("h").await.unwrap().status?;
        (status.desired_replicas == 2).then_some(status)
    })
    .await;
    let able = &status.conditions.unwrap()[0];
    assert_eq!(able.reason.as_deref(), Some("SucceededRescale"));
    // Looked at again when it is changed: nobody serves metrics here.
    let patch = json!({"spec": {"maxReplicas": 5}});
    scalers
        .patch("h", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    let condition = until("a verdict", || async {
        let status = scalers.get("h").await.unwrap().status?;
        let mut conditions = status.conditions?.into_iter();
        conditions.find(|found| found.type_ == "ScalingActive")
    })
    .await;
    assert_eq!(condition.reason.as_deref(), Some("FailedGetResourceMetric"));
    let message = condition.message.unwrap();
    assert!(message.starts_with("the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API"), "{message}");
}
