//! The API as clients see it: reads, writes, watches and subresources on a real server.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Pod, Service};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use serde_json::{Value, json};
use skiff_apiserver::ApiServerConfig;
use skiff_testkit::{TestCluster, TestOptions};

fn make<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn config_map(name: &str, labels: Value) -> ConfigMap {
    make(json!({"metadata": {"name": name, "labels": labels}, "data": {"a": "b"}}))
}

fn pod(name: &str) -> Pod {
    make(
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "x"}]}}),
    )
}

fn code(error: kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason.clone()),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_object_lives_and_dies() {
    let cluster = TestCluster::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.tls_client().await.unwrap());
    let made = maps
        .create(&PostParams::default(), &config_map("a", json!({})))
        .await
        .unwrap();
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    let again = maps
        .create(&PostParams::default(), &config_map("a", json!({})))
        .await
        .unwrap_err();
    assert_eq!(code(again), (409, "AlreadyExists".to_owned()));
    assert_eq!(maps.get("a").await.unwrap(), made);

    let mut changed = made.clone();
    changed
        .data
        .get_or_insert_default()
        .insert("c".into(), "d".into());
    let written = maps
        .replace("a", &PostParams::default(), &changed)
        .await
        .unwrap();
    assert_ne!(
        written.metadata.resource_version,
        made.metadata.resource_version
    );
    // The same old version again: someone else was faster.
    let lost = maps
        .replace("a", &PostParams::default(), &changed)
        .await
        .unwrap_err();
    assert_eq!(code(lost), (409, "Conflict".to_owned()));
    // A write that changes nothing makes no new version.
    let same = maps
        .replace("a", &PostParams::default(), &written)
        .await
        .unwrap();
    assert_eq!(
        same.metadata.resource_version,
        written.metadata.resource_version
    );

    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(
        code(maps.get("a").await.unwrap_err()),
        (404, "NotFound".to_owned())
    );
}

#[tokio::test]
async fn generated_names_differ_and_namespaces_must_exist() {
    let cluster = TestCluster::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let prefixed: ConfigMap = make(json!({"metadata": {"generateName": "x-"}}));
    let a = maps
        .create(&PostParams::default(), &prefixed)
        .await
        .unwrap();
    let b = maps
        .create(&PostParams::default(), &prefixed)
        .await
        .unwrap();
    assert!(a.metadata.name.as_ref().unwrap().starts_with("x-"));
    assert_ne!(a.metadata.name, b.metadata.name);
    let nowhere: Api<ConfigMap> = Api::namespaced(cluster.client(), "nowhere");
    let error = nowhere
        .create(&PostParams::default(), &config_map("a", json!({})))
        .await
        .unwrap_err();
    assert_eq!(code(error), (404, "NotFound".to_owned()));
}

#[tokio::test]
async fn pages_show_one_moment() {
    let cluster = TestCluster::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    for n in 0..5 {
        maps.create(
            &PostParams::default(),
            &config_map(&format!("m{n}"), json!({})),
        )
        .await
        .unwrap();
    }
    let first = maps.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(first.metadata.remaining_item_count, Some(3));
    // What happens between two pages is not seen by the second.
    maps.delete("m3", &DeleteParams::default()).await.unwrap();
    maps.create(&PostParams::default(), &config_map("m9", json!({})))
        .await
        .unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let second = maps
        .list(&ListParams::default().limit(10).continue_token(&token))
        .await
        .unwrap();
    let names: Vec<_> = second
        .items
        .iter()
        .map(|map| map.metadata.name.clone().unwrap())
        .collect();
    assert_eq!(names, ["m2", "m3", "m4"]);
    assert_eq!(
        second.metadata.resource_version,
        first.metadata.resource_version
    );
}

#[tokio::test]
async fn a_watch_follows_its_selector() {
    let cluster = TestCluster::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.tls_client().await.unwrap());
    let start = maps
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    let params = WatchParams::default().labels("app=web").timeout(20);
    let mut events = maps.watch(&params, &start).await.unwrap().boxed();
    maps.create(
        &PostParams::default(),
        &config_map("other", json!({"app": "db"})),
    )
    .await
    .unwrap();
    maps.create(
        &PostParams::default(),
        &config_map("web", json!({"app": "web"})),
    )
    .await
    .unwrap();
    let relabel = |value: &str| Patch::Merge(json!({"metadata": {"labels": {"app": value}}}));
    maps.patch("web", &PatchParams::default(), &relabel("db"))
        .await
        .unwrap();
    maps.patch("web", &PatchParams::default(), &relabel("web"))
        .await
        .unwrap();
    maps.delete("web", &DeleteParams::default()).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let event = tokio::time::timeout(Duration::from_secs(10), events.try_next())
            .await
            .unwrap()
            .unwrap();
        seen.push(match event.unwrap() {
            WatchEvent::Added(map) => format!("added {}", map.metadata.name.unwrap()),
            WatchEvent::Modified(map) => format!("modified {}", map.metadata.name.unwrap()),
            WatchEvent::Deleted(map) => format!("deleted {}", map.metadata.name.unwrap()),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(
        seen,
        ["added web", "deleted web", "added web", "deleted web"]
    );
}

#[tokio::test]
async fn a_finalizer_holds_an_object() {
    let cluster = TestCluster::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let held: ConfigMap =
        make(json!({"metadata": {"name": "a", "finalizers": ["example.com/hold"]}}));
    maps.create(&PostParams::default(), &held).await.unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(
        maps.get("a")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_some()
    );
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("a", &PatchParams::default(), &free)
        .await
        .unwrap();
    assert_eq!(code(maps.get("a").await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn a_namespace_waits_until_it_is_finalized() {
    let cluster = TestCluster::start().await.unwrap();
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    namespaces
        .create(
            &PostParams::default(),
            &make(json!({"metadata": {"name": "a"}})),
        )
        .await
        .unwrap();
    namespaces
        .delete("a", &DeleteParams::default())
        .await
        .unwrap();
    let mut terminating = namespaces.get("a").await.unwrap();
    assert_eq!(
        terminating.status.as_ref().unwrap().phase.as_deref(),
        Some("Terminating")
    );
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "a");
    let refused = maps
        .create(&PostParams::default(), &config_map("x", json!({})))
        .await
        .unwrap_err();
    assert_eq!(code(refused), (403, "Forbidden".to_owned()));
    terminating.spec.get_or_insert_default().finalizers = None;
    namespaces
        .replace_subresource("finalize", "a", &PostParams::default(), &terminating)
        .await
        .unwrap();
    assert_eq!(code(namespaces.get("a").await.unwrap_err()).0, 404);
    let default = namespaces
        .delete("default", &DeleteParams::default())
        .await
        .unwrap_err();
    assert_eq!(code(default), (403, "Forbidden".to_owned()));
}

#[tokio::test]
async fn a_pod_is_bound_once_and_deleted_gracefully() {
    let cluster = TestCluster::start().await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let made = pods
        .create(&PostParams::default(), &pod("a"))
        .await
        .unwrap();
    let spec = made.spec.unwrap();
    assert_eq!(spec.service_account_name.as_deref(), Some("default"));
    assert_eq!(spec.tolerations.unwrap().len(), 2);
    assert!(
        spec.volumes.unwrap()[0]
            .name
            .starts_with("kube-api-access-")
    );
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}});
    let bind = || {
        let request = http::Request::post("/api/v1/namespaces/default/pods/a/binding")
            .header("Content-Type", "application/json")
            .body(binding.to_string().into_bytes())
            .unwrap();
        let client = cluster.client();
        async move { client.request::<Value>(request).await }
    };
    bind().await.unwrap();
    assert_eq!(
        code(bind().await.unwrap_err()),
        (409, "Conflict".to_owned())
    );
    pods.delete("a", &DeleteParams::default()).await.unwrap();
    let dying = pods.get("a").await.unwrap();
    assert_eq!(dying.metadata.deletion_grace_period_seconds, Some(30));
    assert_eq!(dying.spec.unwrap().node_name.as_deref(), Some("n1"));
    pods.delete(
        "a",
        &DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        },
    )
    .await
    .unwrap();
    assert_eq!(code(pods.get("a").await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn services_get_addresses_of_their_own() {
    let cluster = TestCluster::start().await.unwrap();
    let services: Api<Service> = Api::default_namespaced(cluster.client());
    let service = |name: &str| -> Service {
        make(
            json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}),
        )
    };
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..10 {
        let made = services
            .create(&PostParams::default(), &service(&format!("s{n}")))
            .await
            .unwrap();
        let spec = made.spec.unwrap();
        let port = spec.ports.unwrap()[0].node_port.unwrap();
        assert!((30000..=32767).contains(&port));
        assert!(seen.insert(spec.cluster_ip.unwrap()) && seen.insert(port.to_string()));
    }
}

#[tokio::test]
async fn the_service_kubernetes_leads_to_the_server() {
    let advertise = "192.0.2.7:6443".parse().unwrap();
    let config = ApiServerConfig {
        advertise: Some(advertise),
        ..ApiServerConfig::default()
    };
    let options = TestOptions {
        config,
        ..TestOptions::default()
    };
    let cluster = TestCluster::start_with(options).await.unwrap();
    let services: Api<Service> = Api::default_namespaced(cluster.client());
    let params = WatchParams::default()
        .fields("metadata.name=kubernetes")
        .timeout(20);
    let mut events = services.watch(&params, "0").await.unwrap().boxed();
    let Some(WatchEvent::Added(service)) = events.try_next().await.unwrap() else {
        panic!("no service")
    };
    assert_eq!(
        service.spec.unwrap().cluster_ip.as_deref(),
        Some("10.96.0.1")
    );
    let endpoints: Api<Endpoints> = Api::default_namespaced(cluster.client());
    let mut events = endpoints.watch(&params, "0").await.unwrap().boxed();
    let Some(WatchEvent::Added(endpoints)) = events.try_next().await.unwrap() else {
        panic!("no endpoints")
    };
    assert_eq!(
        endpoints.subsets.unwrap()[0].addresses.as_ref().unwrap()[0].ip,
        "192.0.2.7"
    );
}

#[tokio::test]
async fn bad_bodies_are_refused_and_leave_nothing() {
    let cluster = TestCluster::start().await.unwrap();
    let client = cluster.client();
    let post = |body: &str, media: &str| {
        let request =
            http::Request::post("/api/v1/namespaces/default/configmaps?fieldValidation=Strict")
                .header("Content-Type", media)
                .body(body.as_bytes().to_vec())
                .unwrap();
        let client = client.clone();
        async move { code(client.request::<Value>(request).await.unwrap_err()).0 }
    };
    assert_eq!(post("{", "application/json").await, 400);
    assert_eq!(
        post(
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#,
            "application/json"
        )
        .await,
        400
    );
    assert_eq!(
        post(r#"{"metadata":{"name":"a"},"dta":{}}"#, "application/json").await,
        400
    );
    assert_eq!(post("metadata: {name: A_B}", "application/yaml").await, 422);
    assert_eq!(post("x", "text/plain").await, 415);
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    assert!(
        maps.list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}
