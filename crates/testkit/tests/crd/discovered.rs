//! What clients find out about custom resources: discovery and OpenAPI.

use serde_json::{Value, json};
use skiff_testkit::TestCluster;

use crate::harness::*;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[tokio::test]
async fn discovery_and_openapi_follow_definitions() {
    let cluster = TestCluster::start().await.unwrap();
    let before = get(&cluster, "/openapi/v2").await;
    let mut one = version(
        json!({"type": "object", "description": "Foo CRD", "properties": {"spec": {"type": "object", "description": "Specification"}}}),
    );
    one["subresources"] = json!({"status": {}, "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}});
    let mut two = one.clone();
    two["name"] = "v1beta1".into();
    two["storage"] = false.into();
    let mut crd = definition("stable.example.com", "foos", "Foo", json!([two, one]));
    crd["spec"]["names"]["shortNames"] = json!(["fo"]);
    crd["spec"]["names"]["categories"] = json!(["all"]);
    install(&cluster, &crd).await;
    let groups = get(&cluster, "/apis").await.ok();
    let group = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .find(|group| group["name"] == "stable.example.com")
        .unwrap();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    assert_eq!(group["versions"].as_array().unwrap().len(), 2);
    let list = get(&cluster, "/apis/stable.example.com/v1").await.ok();
    let names: Vec<&str> = list["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["foos", "foos/status", "foos/scale"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["fo"]));
    let headers = [("accept", AGGREGATED)];
    let all = send(&cluster, "GET", "/apis", &headers, &Value::Null)
        .await
        .ok();
    let item = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|item| item["metadata"]["name"] == "stable.example.com")
        .unwrap();
    assert_eq!(
        item["versions"][0]["resources"][0]["categories"],
        json!(["all"])
    );
    assert_eq!(item["versions"][0]["freshness"], "Current");
    let index = get(&cluster, "/openapi/v3").await.ok();
    let url = index["paths"]["apis/stable.example.com/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap();
    let three = get(&cluster, url).await;
    let etag = three.headers["etag"].clone();
    let three = three.ok();
    assert_eq!(
        three["components"]["schemas"]["com.example.stable.v1.Foo"]["properties"]["spec"]["description"],
        "Specification"
    );
    assert!(
        three["components"]["schemas"]
            .get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
            .is_some()
    );
    assert!(
        three["components"]["schemas"]
            .get("io.k8s.api.autoscaling.v1.Scale")
            .is_some()
    );
    let after = get(&cluster, "/openapi/v2").await;
    assert_ne!(before.headers["etag"], after.headers["etag"]);
    let after = after.ok();
    assert!(
        after["definitions"]
            .get("com.example.stable.v1beta1.FooList")
            .is_some()
    );
    assert!(
        after["paths"]
            .get("/apis/stable.example.com/v1/namespaces/{namespace}/foos/{name}/scale")
            .is_some()
    );
    // `kubectl apply` sends a strategic merge patch where this says that one is taken.
    let one = "/apis/stable.example.com/v1/namespaces/{namespace}/foos/{name}";
    let patches = ["json-patch+json", "merge-patch+json", "apply-patch+yaml"];
    let patches = patches.map(|patch| format!("application/{patch}"));
    assert_eq!(
        after["paths"][one]["patch"]["consumes"],
        Value::from(patches.to_vec())
    );
    // A change shows at once.
    let one = format!("{CRDS}/foos.stable.example.com");
    let mut changed = get(&cluster, &one).await.ok();
    changed["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"]["description"] =
        "Other".into();
    put(&cluster, &one, &changed).await.ok();
    let path = "/openapi/v3/apis/stable.example.com/v1";
    until(&cluster, path, |document| {
        document["components"]["schemas"]["com.example.stable.v1.Foo"]["properties"]["spec"]["description"] == "Other"
    })
    .await;
    assert_ne!(get(&cluster, path).await.headers["etag"], etag);
    delete(&cluster, &one).await.ok();
    until(&cluster, &one, |body| body["code"] == 404).await;
    until(&cluster, "/apis", |groups| {
        !groups["groups"]
            .as_array()
            .unwrap()
            .iter()
            .any(|group| group["name"] == "stable.example.com")
    })
    .await;
    assert_eq!(get(&cluster, path).await.code, 404);
}

#[tokio::test]
async fn versions_differ_in_name_and_shape_and_show_each_others_objects() {
    let cluster = TestCluster::start().await.unwrap();
    let field = |name: &str| json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {name: {"type": "string"}, "both": {"type": "string"}}}}});
    let versions = |stored: &str| {
        json!([
            {"name": "v1", "served": true, "storage": stored == "v1", "schema": {"openAPIV3Schema": field("one")}},
            {"name": "v2", "served": true, "storage": stored == "v2", "deprecated": true, "schema": {"openAPIV3Schema": field("two")},
                "deprecationWarning": "use v1"},
        ])
    };
    install(
        &cluster,
        &definition("e.com", "foos", "Foo", versions("v1")),
    )
    .await;
    let path = |version: &str| format!("/apis/e.com/{version}/namespaces/default/foos");
    let object = json!({"apiVersion": "e.com/v2", "kind": "Foo", "metadata": {"name": "a"}, "spec": {"both": "x"}});
    let made = post(&cluster, &path("v2"), &object).await;
    assert_eq!(made.warnings(), ["299 - \"use v1\""]);
    assert_eq!(made.ok()["apiVersion"], "e.com/v2");
    for version in ["v1", "v2"] {
        let seen = get(&cluster, &format!("{}/a", path(version))).await.ok();
        assert_eq!(seen["apiVersion"], format!("e.com/{version}"));
        let list = get(&cluster, &path(version)).await.ok();
        assert_eq!(list["items"][0], seen);
    }
    let stored = async |name: &str| {
        let key = format!("/registry/e.com/foos/default/{name}");
        let kv = cluster.store.get(&key, None).await.unwrap().unwrap();
        let value: Value = serde_json::from_slice(&kv.value).unwrap();
        value["apiVersion"].clone()
    };
    assert_eq!(stored("a").await, "e.com/v1");
    let one = format!("{CRDS}/foos.e.com");
    let mut crd = get(&cluster, &one).await.ok();
    crd["spec"]["versions"] = versions("v2");
    let changed = put(&cluster, &one, &crd).await.ok();
    assert_eq!(changed["status"]["storedVersions"], json!(["v1", "v2"]));
    // A write without a change moves the object to the new version; a watch shows it in the version asked for.
    let mut current = get(&cluster, &format!("{}/a", path("v1"))).await.ok();
    for _ in 0..200 {
        if stored("a").await == "e.com/v2" {
            break;
        }
        current = put(&cluster, &format!("{}/a", path("v1")), &current)
            .await
            .ok();
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(stored("a").await, "e.com/v2");
    let watch = format!("{}?watch=1&timeoutSeconds=1", path("v1"));
    let events = get(&cluster, &watch).await.text;
    let event: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    assert_eq!(event["object"]["apiVersion"], "e.com/v1");
}

#[tokio::test]
async fn a_definition_that_is_wrong_is_refused() {
    let cluster = TestCluster::start().await.unwrap();
    let bad = definition(
        "e.com",
        "foos",
        "Foo",
        json!([version(json!({"type": "object", "properties": {"a": {}}}))]),
    );
    let refused = post(&cluster, CRDS, &bad).await;
    assert_eq!(refused.code, 422);
    assert_eq!(
        refused.message(),
        r#"CustomResourceDefinition.apiextensions.k8s.io "foos.e.com" is invalid: spec.validation.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields"#
    );
}
