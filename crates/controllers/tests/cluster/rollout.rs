//! What a Deployment and a namespace bring about.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::running::{start, until};

fn deployment(image: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image}]}}},
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_get_their_account_and_certificates_and_go_when_deleted() {
    let running = start().await;
    let client = running.cluster.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "team");
    until("account", || async {
        accounts.get_opt("default").await.unwrap()
    })
    .await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "team");
    let map = until("map", || async {
        maps.get_opt("kube-root-ca.crt").await.unwrap()
    })
    .await;
    assert_eq!(map.data.unwrap()["ca.crt"], "PEM");
    namespaces
        .delete("team", &DeleteParams::default())
        .await
        .unwrap();
    until("gone", || async {
        namespaces
            .get_opt("team")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    assert!(
        maps.list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_rolls_out_scales_and_is_served() {
    let running = start().await;
    let client = running.cluster.client();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    until("account", || async {
        accounts.get_opt("default").await.unwrap()
    })
    .await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    deployments
        .create(&PostParams::default(), &deployment("v1"))
        .await
        .unwrap();
    until("three pods", || async {
        (pods.list(&Default::default()).await.unwrap().items.len() == 3).then_some(())
    })
    .await;
    // Play the kubelet.
    let make_ready = || async {
        for (n, pod) in pods
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .iter()
            .enumerate()
        {
            let status = json!({"status": {"phase": "Running", "podIP": format!("10.0.0.{n}"),
                "podIPs": [{"ip": format!("10.0.0.{n}")}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            let name = pod.metadata.name.as_deref().unwrap();
            // The pod may be deleted by the rollout in between.
            let _ = pods
                .patch_status(name, &PatchParams::default(), &Patch::Strategic(&status))
                .await;
        }
    };
    let complete = |revision: &'static str| {
        let (deployments, make_ready) = (deployments.clone(), &make_ready);
        async move {
            make_ready().await;
            let found = deployments.get("web").await.unwrap();
            let status = found.status?;
            let annotations = found.metadata.annotations?;
            let is = annotations
                .get("deployment.kubernetes.io/revision")
                .map(String::as_str)
                == Some(revision)
                && status.updated_replicas == Some(3)
                && status.available_replicas == Some(3)
                && status.replicas == Some(3);
            is.then_some(())
        }
    };
    until("first rollout", || complete("1")).await;
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    }))
    .unwrap();
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    services
        .create(&PostParams::default(), &service)
        .await
        .unwrap();
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    until("endpoints", || async {
        let slices = slices.list(&Default::default()).await.unwrap();
        let endpoints = slices
            .items
            .iter()
            .filter(|slice| slice.metadata.generate_name.as_deref() == Some("web-"));
        let count: usize = endpoints
            .map(|slice| slice.endpoints.iter().flatten().count())
            .sum();
        (count == 3).then_some(())
    })
    .await;
    let image =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}});
    deployments
        .patch("web", &PatchParams::default(), &Patch::Strategic(&image))
        .await
        .unwrap();
    until("second rollout", || complete("2")).await;
    let sizes: Vec<_> = sets
        .list(&Default::default())
        .await
        .unwrap()
        .items
        .iter()
        .map(|set| set.spec.as_ref().unwrap().replicas.unwrap())
        .collect();
    assert_eq!(sizes.iter().sum::<i32>(), 3, "{sizes:?}");
    assert_eq!(sizes.len(), 2);
}
