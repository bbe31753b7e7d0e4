//! The objects of custom resources: what their schema makes of them.

use serde_json::{Value, json};
use skiff_testkit::TestCluster;

use crate::harness::*;

const PATH: &str = "/apis/e.com/v1/namespaces/default/foos";

fn foo(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "e.com/v1", "kind": "Foo", "metadata": {"name": name}, "spec": spec})
}

async fn cluster(change: impl FnOnce(&mut Value)) -> TestCluster {
    let cluster = TestCluster::start().await.unwrap();
    let mut version = version(
        json!({"type": "object", "description": "A foo", "properties": {
            "spec": {"type": "object", "description": "What is wanted", "properties": {
                "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
                "replicas": {"type": "integer", "minimum": 0},
                "names": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}}},
            }},
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}}},
        }}),
    );
    change(&mut version);
    install(
        &cluster,
        &definition("e.com", "foos", "Foo", json!([version])),
    )
    .await;
    cluster
}

#[tokio::test]
async fn objects_are_pruned_defaulted_and_validated() {
    let cluster = cluster(|_| {}).await;
    let odd = json!({"replicas": 1, "unknown": 1, "ports": [{"name": "a", "more": 2}]});
    let made = post(&cluster, PATH, &foo("a", odd.clone())).await;
    assert_eq!(
        made.warnings(),
        [
            r#"299 - "unknown field \"spec.ports[0].more\"""#,
            r#"299 - "unknown field \"spec.unknown\"""#,
        ]
    );
    assert_eq!(
        made.ok()["spec"],
        json!({"color": "red", "replicas": 1, "ports": [{"name": "a"}]})
    );
    let strict = format!("{PATH}?fieldValidation=Strict");
    let refused = post(&cluster, &strict, &foo("b", odd)).await;
    assert_eq!(refused.code, 400);
    assert_eq!(
        refused.message(),
        r#"Foo in version "v1" cannot be handled as a Foo: strict decoding error: unknown field "spec.ports[0].more", unknown field "spec.unknown""#
    );
    let double = r#"{"apiVersion":"e.com/v1","kind":"Foo","metadata":{"name":"b","odd":1},"spec":{"color":"red","color":"blue"}}"#;
    let refused = post(&cluster, &strict, &Value::from(double)).await;
    assert_eq!(
        refused.message(),
        r#"Foo in version "v1" cannot be handled as a Foo: strict decoding error: unknown field "metadata.odd", duplicate field "spec.color""#
    );
    let wrong = json!({"color": "green", "replicas": -1, "names": ["x", "x"], "ports": [{"name": "a"}, {"name": "a"}]});
    let refused = post(&cluster, PATH, &foo("c", wrong)).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    let message = refused.message();
    for part in [
        r#"Foo.e.com "c" is invalid: ["#,
        r#"spec.color: Unsupported value: "green": supported values: "red", "blue""#,
        "spec.replicas: Invalid value: -1: spec.replicas in body should be greater than or equal to 0",
        r#"spec.names[1]: Duplicate value: "x""#,
        r#"spec.ports[1]: Duplicate value: {"name":"a"}"#,
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let other = json!({"apiVersion": "e.com/v1", "kind": "Bar", "metadata": {"name": "d"}});
    assert_eq!(post(&cluster, PATH, &other).await.code, 422);
}

#[tokio::test]
async fn what_the_schema_says_later_holds_for_what_was_stored_before() {
    let cluster = cluster(|_| {}).await;
    post(&cluster, PATH, &foo("a", json!({"replicas": 7})))
        .await
        .ok();
    let one = format!("{CRDS}/foos.e.com");
    let mut crd = get(&cluster, &one).await.ok();
    let spec = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    spec["size"] = json!({"type": "string", "default": "big"});
    spec["replicas"]["maximum"] = json!(5);
    spec.as_object_mut().unwrap().remove("color");
    put(&cluster, &one, &crd).await.ok();
    let path = format!("{PATH}/a");
    let seen = until(&cluster, &path, |foo| foo["spec"]["size"] == "big").await;
    assert_eq!(seen["spec"], json!({"replicas": 7, "size": "big"}));
    // What does not change is not judged anew; what changes is.
    merge(&cluster, &path, &json!({"spec": {"size": "small"}}))
        .await
        .ok();
    let refused = merge(&cluster, &path, &json!({"spec": {"replicas": 8}})).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
}

#[tokio::test]
async fn status_and_scale_are_places_of_their_own() {
    let cluster = cluster(|version| {
        version["subresources"] = json!({"status": {}, "scale": {
            "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}});
    })
    .await;
    let mut object = foo("a", json!({"replicas": 1}));
    object["status"] = json!({"replicas": 9});
    let made = post(&cluster, PATH, &object).await.ok();
    assert!(made.get("status").is_none());
    let status = format!("{PATH}/a/status");
    let mut with_status = made.clone();
    with_status["status"] = json!({"replicas": 3, "selector": "a=b"});
    with_status["spec"]["replicas"] = json!(5);
    with_status["metadata"]["labels"] = json!({"not": "taken"});
    let written = put(&cluster, &status, &with_status).await.ok();
    assert_eq!(written["spec"]["replicas"], 1);
    assert_eq!(written["status"]["replicas"], 3);
    assert!(written["metadata"].get("labels").is_none());
    assert_eq!(written["metadata"]["generation"], 1);
    let scale = format!("{PATH}/a/scale");
    let seen = get(&cluster, &scale).await.ok();
    assert_eq!(seen["kind"], "Scale");
    assert_eq!(seen["spec"], json!({"replicas": 1}));
    assert_eq!(seen["status"], json!({"replicas": 3, "selector": "a=b"}));
    let scaled = merge(&cluster, &scale, &json!({"spec": {"replicas": 4}}))
        .await
        .ok();
    assert_eq!(scaled["spec"]["replicas"], 4);
    let seen = get(&cluster, &format!("{PATH}/a")).await.ok();
    assert_eq!(seen["spec"]["replicas"], 4);
    assert_eq!(seen["metadata"]["generation"], 2);
    let refused = merge(&cluster, &scale, &json!({"spec": {"replicas": -4}})).await;
    assert_eq!(refused.code, 422);
}

#[tokio::test]
async fn columns_and_selectable_fields_are_those_of_the_definition() {
    let cluster = cluster(|version| {
        version["additionalPrinterColumns"] = json!([
            {"name": "Color", "type": "string", "jsonPath": ".spec.color"},
            {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas", "priority": 1, "description": "How many"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ]);
        version["selectableFields"] = json!([{"jsonPath": ".spec.color"}]);
    })
    .await;
    for (name, color) in [("a", "red"), ("b", "blue")] {
        post(&cluster, PATH, &foo(name, json!({"color": color})))
            .await
            .ok();
    }
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = send(&cluster, "GET", PATH, &accept, &Value::Null)
        .await
        .ok();
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Name", "Color", "Replicas", "Age"]);
    assert_eq!(table["columnDefinitions"][2]["priority"], 1);
    let cells = &table["rows"][0]["cells"];
    assert_eq!(
        (&cells[0], &cells[1], &cells[2]),
        (&json!("a"), &json!("red"), &Value::Null)
    );
    assert!(cells[3].as_str().unwrap().ends_with('s'), "{cells}");
    let blue = get(&cluster, &format!("{PATH}?fieldSelector=spec.color%3Dblue"))
        .await
        .ok();
    assert_eq!(blue["items"].as_array().unwrap().len(), 1);
    let refused = get(&cluster, &format!("{PATH}?fieldSelector=spec.size%3Dx")).await;
    assert_eq!(
        (refused.code, refused.message()),
        (400, "field label not supported: spec.size")
    );
    let protobuf = [("accept", "application/vnd.kubernetes.protobuf")];
    assert_eq!(
        send(&cluster, "GET", PATH, &protobuf, &Value::Null)
            .await
            .code,
        406
    );
}

#[tokio::test]
async fn patches_and_applies_follow_the_schema() {
    let cluster = cluster(|_| {}).await;
    post(&cluster, PATH, &foo("a", json!({"replicas": 1})))
        .await
        .ok();
    let path = format!("{PATH}/a");
    let strategic = [("content-type", "application/strategic-merge-patch+json")];
    let refused = send(&cluster, "PATCH", &path, &strategic, &json!({})).await;
    assert_eq!(refused.code, 415);
    assert!(
        !refused.message().contains("strategic"),
        "{}",
        refused.message()
    );
    let kind = [("content-type", "application/json-patch+json")];
    let patch = json!([{"op": "replace", "path": "/spec/replicas", "value": 2}]);
    let patched = send(&cluster, "PATCH", &path, &kind, &patch).await.ok();
    assert_eq!(patched["spec"]["replicas"], 2);
    let apply = [("content-type", "application/apply-patch+yaml")];
    let one = foo(
        "b",
        json!({"ports": [{"name": "x", "port": 1}], "names": ["m"]}),
    );
    let two = foo("b", json!({"ports": [{"name": "y", "port": 2}]}));
    let url = |manager: &str| format!("{PATH}/b?fieldManager={manager}");
    send(&cluster, "PATCH", &url("one"), &apply, &one)
        .await
        .ok();
    let both = send(&cluster, "PATCH", &url("two"), &apply, &two)
        .await
        .ok();
    assert_eq!(
        both["spec"]["ports"],
        json!([{"name": "x", "port": 1}, {"name": "y", "port": 2}])
    );
    let clash = foo("b", json!({"ports": [{"name": "x", "port": 3}]}));
    let refused = send(&cluster, "PATCH", &url("two"), &apply, &clash).await;
    assert_eq!(refused.code, 409, "{}", refused.text);
    assert!(
        refused.message().contains(r#".spec.ports[name="x"].port"#),
        "{}",
        refused.message()
    );
    let unknown = foo("b", json!({"other": 1}));
    let refused = send(&cluster, "PATCH", &url("two"), &apply, &unknown).await;
    assert!(
        refused
            .message()
            .contains(".spec.other: field not declared in schema"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn rules_only_warn_of_what_was_wrong_before() {
    let cluster = cluster(|version| version["subresources"] = json!({"status": {}})).await;
    post(&cluster, PATH, &foo("a", json!({"names": ["x", "y"]})))
        .await
        .ok();
    let one = format!("{CRDS}/foos.e.com");
    let mut crd = get(&cluster, &one).await.ok();
    let spec = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    spec["size"] = json!({"type": "string", "default": "big"});
    spec["names"]["x-kubernetes-validations"] =
        json!([{"rule": "self.size() < 2", "message": "too many names"}]);
    put(&cluster, &one, &crd).await.ok();
    let path = format!("{PATH}/a");
    until(&cluster, &path, |foo| foo["spec"]["size"] == "big").await;
    let fault = "spec.names: Invalid value: too many names";
    let warning = format!("299 - \"{fault}\"");
    let changed = merge(&cluster, &path, &json!({"spec": {"color": "blue"}})).await;
    assert_eq!(changed.warnings(), std::slice::from_ref(&warning));
    changed.ok();
    // The rules of the whole object are asked when its status is written, too.
    let status = format!("{path}/status");
    let written = merge(&cluster, &status, &json!({"status": {"replicas": 1}})).await;
    assert_eq!(written.warnings(), [warning]);
    assert_eq!(written.ok()["status"]["replicas"], 1);
    let refused = merge(&cluster, &path, &json!({"spec": {"names": ["x", "z"]}})).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    assert!(refused.message().contains(fault), "{}", refused.message());
    let mended = merge(&cluster, &path, &json!({"spec": {"names": ["x"]}})).await;
    assert_eq!(mended.warnings(), [""; 0]);
    mended.ok();
}
