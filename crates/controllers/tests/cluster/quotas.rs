//! What a namespace may use up, who is refused, and that what goes is given back.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Secret, Service, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::running::{Running, make, start, until};

/// What is used of the quota, once it is what is expected.
async fn used(running: &Running, expected: Value) {
    let quotas: Api<ResourceQuota> = Api::default_namespaced(running.cluster.client());
    let expected: BTreeMap<String, String> = serde_json::from_value(expected).unwrap();
    until(&format!("used: {expected:?}"), || async {
        let used = quotas.get("q").await.unwrap().status?.used?;
        let used: BTreeMap<String, String> = used
            .into_iter()
            .map(|(name, amount)| (name, amount.0))
            .collect();
        (used == expected).then_some(())
    })
    .await;
}

async fn quota(running: &Running, hard: Value) {
    let quotas: Api<ResourceQuota> = Api::default_namespaced(running.cluster.client());
    make(
        &quotas,
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}}),
    )
    .await;
    let accounts: Api<ServiceAccount> = Api::default_namespaced(running.cluster.client());
    until("the account", || async {
        accounts.get_opt("default").await.unwrap()
    })
    .await;
}

fn pod(name: &str, resources: &Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
        "containers": [{"name": "c", "image": "i", "resources": resources}]}}))
    .unwrap()
}

#[tokio::test]
async fn pods_use_up_a_quota_and_give_it_back() {
    let running = start().await;
    quota(&running, json!({"pods": "2", "requests.cpu": "1"})).await;
    used(&running, json!({"pods": "0", "requests.cpu": "0"})).await;
    let pods: Api<Pod> = Api::default_namespaced(running.cluster.client());
    let params = PostParams::default();
    let cpu = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let refused = |outcome: kube::Result<Pod>| match outcome.unwrap_err() {
        kube::Error::Api(status) => (status.code, status.message.clone()),
        error => panic!("{error}"),
    };
    assert_eq!(
        refused(pods.create(&params, &pod("bare", &json!({}))).await),
        (
            403,
            "pods \"bare\" is forbidden: failed quota: q: must specify requests.cpu for: c"
                .to_owned()
        )
    );
    pods.create(&params, &pod("a", &cpu("600m"))).await.unwrap();
    used(&running, json!({"pods": "1", "requests.cpu": "600m"})).await;
    assert_eq!(
        refused(pods.create(&params, &pod("b", &cpu("500m"))).await),
        (403, "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1".to_owned())
    );
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    pods.create(&dry, &pod("b", &cpu("400m"))).await.unwrap();
    pods.create(&params, &pod("b", &cpu("400m"))).await.unwrap();
    used(&running, json!({"pods": "2", "requests.cpu": "1"})).await;
    pods.delete("a", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    used(&running, json!({"pods": "1", "requests.cpu": "400m"})).await;
    let ended = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    pods.patch_status("b", &PatchParams::default(), &ended)
        .await
        .unwrap();
    used(&running, json!({"pods": "0", "requests.cpu": "0"})).await;
    let quotas: Api<ResourceQuota> = Api::default_namespaced(running.cluster.client());
    let less = Patch::Merge(json!({"spec": {"hard": {"requests.cpu": null, "pods": "5"}}}));
    quotas
        .patch("q", &PatchParams::default(), &less)
        .await
        .unwrap();
    used(&running, json!({"pods": "0"})).await;
}

#[tokio::test]
async fn limits_that_somebody_wrote_into_the_status_are_put_right_at_once() {
    let running = start().await;
    quota(&running, json!({"pods": "2"})).await;
    used(&running, json!({"pods": "0"})).await;
    let quotas: Api<ResourceQuota> = Api::default_namespaced(running.cluster.client());
    let other = Patch::Merge(json!({"status": {"hard": {"pods": "7"}, "used": {"pods": "5"}}}));
    let written = quotas
        .patch_status("q", &PatchParams::default(), &other)
        .await
        .unwrap();
    assert_eq!(written.status.unwrap().hard.unwrap()["pods"].0, "7");
    used(&running, json!({"pods": "0"})).await;
    let quota = quotas.get("q").await.unwrap();
    assert_eq!(quota.status.unwrap().hard.unwrap()["pods"].0, "2");
}

#[tokio::test]
async fn objects_are_counted() {
    let running = start().await;
    let hard = json!({"secrets": "1", "count/secrets": "2", "count/deployments.apps": "0", "services.nodeports": "1"});
    quota(&running, hard).await;
    let none = json!({"secrets": "0", "count/secrets": "0", "count/deployments.apps": "0", "services.nodeports": "0"});
    used(&running, none.clone()).await;
    let secrets: Api<Secret> = Api::default_namespaced(running.cluster.client());
    make(&secrets, json!({"metadata": {"name": "s"}})).await;
    let mut one = none.clone();
    one["secrets"] = json!("1");
    one["count/secrets"] = json!("1");
    used(&running, one).await;
    let second: Secret = serde_json::from_value(json!({"metadata": {"name": "t"}})).unwrap();
    let why = secrets
        .create(&PostParams::default(), &second)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        why.contains(
            "exceeded quota: q, requested: secrets=1, used: secrets=1, limited: secrets=1"
        ),
        "{why}"
    );
    secrets.delete("s", &DeleteParams::default()).await.unwrap();
    used(&running, none).await;

    let services: Api<Service> = Api::default_namespaced(running.cluster.client());
    let service =
        json!({"metadata": {"name": "w"}, "spec": {"type": "NodePort", "ports": [{"port": 1}]}});
    make(&services, service).await;
    let more = Patch::Merge(
        json!({"spec": {"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}}),
    );
    let outcome = services.patch("w", &PatchParams::default(), &more).await;
    let why = outcome.unwrap_err().to_string();
    assert!(
        why.contains("exceeded quota: q, requested: services.nodeports=1"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_at_once_get_no_more_than_there_is() {
    let running = start().await;
    quota(
        &running,
        json!({"pods": "10", "requests.cpu": "1", "count/secrets": "7"}),
    )
    .await;
    let none = json!({"pods": "0", "requests.cpu": "0", "count/secrets": "0"});
    used(&running, none).await;
    let client = running.cluster.client();
    let (pods, secrets): (Api<Pod>, Api<Secret>) = (
        Api::default_namespaced(client.clone()),
        Api::default_namespaced(client),
    );
    let mut creators = tokio::task::JoinSet::new();
    for number in 0..100 {
        let (pods, secrets) = (pods.clone(), secrets.clone());
        creators.spawn(async move {
            let params = PostParams::default();
            // Ten of these fit, by number and by what they ask for.
            let object = pod(&format!("p{number}"), &json!({"requests": {"cpu": "100m"}}));
            let pod = pods.create(&params, &object).await;
            let object: Secret =
                serde_json::from_value(json!({"metadata": {"name": format!("s{number}")}}))
                    .unwrap();
            let secret = secrets.create(&params, &object).await;
            let refused = |error: kube::Error| match error {
                kube::Error::Api(status) => assert_eq!(status.code, 403, "{status:?}"),
                error => panic!("{error}"),
            };
            let (a, b) = (pod.is_ok(), secret.is_ok());
            pod.map_err(refused).ok();
            secret.map_err(refused).ok();
            (usize::from(a), usize::from(b))
        });
    }
    let (mut made, mut hidden) = (0, 0);
    while let Some(done) = creators.join_next().await {
        let (pod, secret) = done.unwrap();
        made += pod;
        hidden += secret;
    }
    assert_eq!((made, hidden), (10, 7));
    let all = json!({"pods": "10", "requests.cpu": "1", "count/secrets": "7"});
    used(&running, all).await;
}

#[tokio::test]
async fn a_quota_counts_itself_and_what_goes_of_its_kind() {
    let running = start().await;
    quota(&running, json!({"resourcequotas": "5"})).await;
    used(&running, json!({"resourcequotas": "1"})).await;
    let quotas: Api<ResourceQuota> = Api::default_namespaced(running.cluster.client());
    let other = json!({"metadata": {"name": "r"}, "spec": {"hard": {"pods": "1"}}});
    make(&quotas, other).await;
    used(&running, json!({"resourcequotas": "2"})).await;
    quotas.delete("r", &DeleteParams::default()).await.unwrap();
    used(&running, json!({"resourcequotas": "1"})).await;
}
