//! The API's fine print: preconditions, collections, kinds of patches, dry runs, field validation, old versions, bookmarks.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent,
    WatchParams,
};
use serde_json::{Value, json};
use skiff_testkit::TestCluster;

fn make<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn map(name: &str, app: &str) -> ConfigMap {
    make(json!({"metadata": {"name": name, "labels": {"app": app}}, "data": {"a": "b"}}))
}

fn refusal<T: std::fmt::Debug>(outcome: kube::Result<T>) -> (u16, String) {
    match outcome.unwrap_err() {
        kube::Error::Api(status) => (status.code, status.message.clone()),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_delete_meets_its_preconditions_or_nothing_is_deleted() {
    let cluster = TestCluster::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let made = maps
        .create(&PostParams::default(), &map("m", "x"))
        .await
        .unwrap();
    let of = |uid: Option<String>, resource_version: Option<String>| {
        DeleteParams::default().preconditions(Preconditions {
            uid,
            resource_version,
        })
    };
    let (code, message) = refusal(maps.delete("m", &of(Some("other".into()), None)).await);
    assert_eq!(code, 409);
    assert!(
        message.contains("the UID in the precondition (other)"),
        "{message}"
    );
    let (code, _) = refusal(maps.delete("m", &of(None, Some("1".into()))).await);
    assert_eq!(code, 409);
    let meta = made.metadata;
    maps.delete("m", &of(meta.uid, meta.resource_version))
        .await
        .unwrap();
    assert_eq!(refusal(maps.get("m").await).0, 404);
}

#[tokio::test]
async fn a_collection_is_deleted_as_far_as_it_is_selected() {
    let cluster = TestCluster::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "z")] {
        maps.create(&PostParams::default(), &map(name, app))
            .await
            .unwrap();
    }
    let names = |list: kube::core::ObjectList<ConfigMap>| -> Vec<String> {
        let items = list.items.into_iter();
        items.filter_map(|map| map.metadata.name).collect()
    };
    for (selector, expected) in [
        ("app=x", vec!["a", "b"]),
        ("app!=x", vec!["c", "d"]),
        ("app in (x,y)", vec!["a", "b", "c"]),
        ("app notin (x,y),app", vec!["d"]),
        ("!app", vec![]),
    ] {
        let params = ListParams::default().labels(selector);
        assert_eq!(
            names(maps.list(&params).await.unwrap()),
            expected,
            "{selector}"
        );
    }
    let params = ListParams::default().fields("metadata.name=c");
    assert_eq!(names(maps.list(&params).await.unwrap()), ["c"]);
    maps.delete_collection(
        &DeleteParams::default(),
        &ListParams::default().labels("app=x"),
    )
    .await
    .unwrap();
    assert_eq!(
        names(maps.list(&ListParams::default()).await.unwrap()),
        ["c", "d"]
    );
}

#[tokio::test]
async fn each_kind_of_patch_merges_its_own_way() {
    let cluster = TestCluster::start().await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let pod: Pod = make(
        json!({"metadata": {"name": "p", "labels": {"a": "1", "b": "2"}}, "spec": {"containers": [
            {"name": "x", "image": "one"}, {"name": "y", "image": "two"}]}}),
    );
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let params = PatchParams::default();
    // Strategic: containers are known by their names.
    let patch = json!({"metadata": {"labels": {"a": null}}, "spec": {"containers": [{"name": "y", "image": "new"}]}});
    let patched = pods
        .patch("p", &params, &Patch::Strategic(&patch))
        .await
        .unwrap();
    let images = |pod: &Pod| -> Vec<String> {
        let containers = pod.spec.as_ref().unwrap().containers.iter();
        containers
            .filter_map(|container| container.image.clone())
            .collect()
    };
    assert_eq!(images(&patched), ["one", "new"]);
    assert_eq!(patched.metadata.labels, Some(make(json!({"b": "2"}))));
    // Merge: a list is one value, so that the pod would lose a container.
    let patch = json!({"spec": {"containers": [{"name": "y", "image": "new"}]}});
    assert_eq!(
        refusal(pods.patch("p", &params, &Patch::Merge(&patch)).await).0,
        422
    );
    let operations = json!([
        {"op": "test", "path": "/metadata/labels/b", "value": "2"},
        {"op": "replace", "path": "/metadata/labels/b", "value": "3"}]);
    let send = || {
        let request = http::Request::patch("/api/v1/namespaces/default/pods/p")
            .header("Content-Type", "application/json-patch+json")
            .body(operations.to_string().into_bytes())
            .unwrap();
        let client = cluster.client();
        async move { client.request::<Pod>(request).await }
    };
    let patched = send().await.unwrap();
    assert_eq!(patched.metadata.labels, Some(make(json!({"b": "3"}))));
    // The test no longer holds.
    assert_eq!(refusal(send().await).0, 422);
}

#[tokio::test]
async fn a_dry_run_answers_and_stores_nothing() {
    let cluster = TestCluster::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let made = maps.create(&dry, &map("m", "x")).await.unwrap();
    assert!(made.metadata.uid.is_some());
    assert_eq!(made.metadata.resource_version, None);
    assert_eq!(refusal(maps.get("m").await).0, 404);
    maps.create(&PostParams::default(), &map("m", "x"))
        .await
        .unwrap();
    maps.delete("m", &DeleteParams::default().dry_run())
        .await
        .unwrap();
    maps.get("m").await.unwrap();
}

#[tokio::test]
async fn unknown_fields_are_dropped_warned_of_or_refused() {
    let cluster = TestCluster::start().await.unwrap();
    let post = |name: &str, validation: &str| {
        let body = json!({"metadata": {"name": name}, "dta": {}}).to_string();
        let path = format!("/api/v1/namespaces/default/configmaps?fieldValidation={validation}");
        let request = http::Request::post(path)
            .header("Content-Type", "application/json")
            .body(kube::client::Body::from(body.into_bytes()))
            .unwrap();
        let client = cluster.client();
        async move { client.send(request).await.unwrap() }
    };
    let warned = post("a", "Warn").await;
    assert_eq!(warned.status(), 201);
    assert_eq!(
        warned.headers()["warning"],
        "299 - \"unknown field \\\"dta\\\"\""
    );
    let ignored = post("b", "Ignore").await;
    assert!(ignored.status() == 201 && !ignored.headers().contains_key("warning"));
    assert_eq!(post("c", "Strict").await.status(), 400);
    assert_eq!(post("d", "Other").await.status(), 422);
}

#[tokio::test]
async fn a_watch_from_too_long_ago_is_gone_and_bookmarks_end_the_first_state() {
    let cluster = TestCluster::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    for n in 0..3 {
        maps.create(&PostParams::default(), &map(&format!("m{n}"), "x"))
            .await
            .unwrap();
    }
    let params = WatchParams {
        send_initial_events: true,
        ..WatchParams::default()
    };
    let events: Vec<WatchEvent<ConfigMap>> = maps
        .watch(&params, "0")
        .await
        .unwrap()
        .take(4)
        .try_collect()
        .await
        .unwrap();
    let added = events
        .iter()
        .filter(|event| matches!(event, WatchEvent::Added(_)));
    assert_eq!(added.count(), 3);
    let Some(WatchEvent::Bookmark(bookmark)) = events.last() else {
        panic!("{events:?}")
    };
    assert!(
        bookmark
            .metadata
            .annotations
            .contains_key("k8s.io/initial-events-end")
    );
    let revision = cluster.store.revision().await.unwrap();
    cluster.store.compact(revision).await.unwrap();
    let old = ListParams::default()
        .at("1")
        .matching(kube::api::VersionMatch::Exact);
    assert_eq!(refusal(maps.list(&old).await).0, 410);
    let ahead = ListParams::default()
        .at("999999")
        .matching(kube::api::VersionMatch::NotOlderThan);
    assert_eq!(refusal(maps.list(&ahead).await).0, 504);
}

#[tokio::test]
async fn binding_is_no_new_generation_and_parts_of_a_pod_are_checked() {
    let cluster = TestCluster::start().await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let nodes: Api<Node> = Api::all(cluster.client());
    let node: Node = make(json!({"metadata": {"name": "n"},
        "status": {"allocatable": {"cpu": "4", "memory": "4Gi"}}}));
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let pod: Pod = make(json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}}));
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let params = PostParams::default();
    let _: Value = pods
        .create_subresource("binding", "p", &params, &binding)
        .await
        .unwrap();
    let bound = pods.get("p").await.unwrap();
    assert_eq!(bound.metadata.generation, Some(1));
    assert_eq!(bound.spec.unwrap().node_name.as_deref(), Some("n"));

    let patch = |part: &'static str, patch: Value| {
        let pods = pods.clone();
        async move {
            let params = PatchParams::default();
            let patch = Patch::Strategic(patch);
            pods.patch_subresource(part, "p", &params, &patch).await
        }
    };
    let containers = |value: Value| json!({"spec": {"containers": [value]}});
    let cpu = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
    let resized = patch("resize", containers(cpu("2"))).await.unwrap();
    assert_eq!(resized.metadata.generation, Some(2));
    let (code, why) = refusal(patch("resize", containers(cpu("-1"))).await);
    assert!(
        code == 422 && why.contains("spec.containers[0].resources.requests[cpu]: Invalid value"),
        "{why}"
    );
    let whole = json!({"spec": {"resources": {"requests": {"cpu": "3"}}}});
    let (code, why) = refusal(patch("resize", whole).await);
    assert_eq!(code, 403);
    assert_eq!(
        why,
        "pods \"p\" is forbidden: pod update requires features InPlacePodLevelResourcesVerticalScaling \
         which are not available on node \"n\""
    );
    let none = json!({"name": "c", "resources": {"$patch": "replace"}});
    let (_, why) = refusal(patch("resize", containers(none)).await);
    assert!(
        why.contains("Pod QOS Class may not change as a result of resizing"),
        "{why}"
    );

    let debugger = |more: Value| {
        let mut container = json!({"name": "debug", "image": "i"});
        container
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({"spec": {"ephemeralContainers": [container]}})
    };
    let (_, why) = refusal(
        patch(
            "ephemeralcontainers",
            debugger(json!({"livenessProbe": {"tcpSocket": {"port": 1}}})),
        )
        .await,
    );
    assert!(
        why.contains("spec.ephemeralContainers[0].livenessProbe: Forbidden: cannot be set for an Ephemeral Container"),
        "{why}"
    );
    let made = patch("ephemeralcontainers", debugger(json!({})))
        .await
        .unwrap();
    assert_eq!(made.metadata.generation, Some(3));
    let (_, why) = refusal(patch("ephemeralcontainers", debugger(json!({"tty": true}))).await);
    assert!(
        why.contains("existing ephemeral containers \"debug\" may not be changed"),
        "{why}"
    );
}

#[tokio::test]
async fn deprecated_kinds_are_warned_of() {
    let cluster = TestCluster::start().await.unwrap();
    for path in [
        "/api/v1/endpoints",
        "/api/v1/namespaces/default/endpoints/kubernetes",
    ] {
        let request = http::Request::get(path)
            .body(kube::client::Body::empty())
            .unwrap();
        let answer = cluster.client().send(request).await.unwrap();
        assert_eq!(
            answer.headers()["warning"],
            "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""
        );
    }
}
