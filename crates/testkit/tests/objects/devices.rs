//! Devices and drivers as they are written.

use http::Method;
use serde_json::{Value, json};
use skiff_testkit::TestCluster;

use crate::requests::send;

const DEVICES: &str = "/apis/resource.k8s.io/v1";

#[tokio::test]
async fn expressions_that_select_devices_are_compiled_when_they_are_written() {
    let cluster = TestCluster::start().await.unwrap();
    let class = |expression: &str| json!({"metadata": {"name": "c"}, "spec": {"selectors": [{"cel": {"expression": expression}}]}});
    let path = format!("{DEVICES}/deviceclasses");
    let post =
        async |expression: &str| send(&cluster, Method::POST, &path, &class(expression)).await;
    let refused = post("device.driver").await;
    assert_eq!(
        refused.error(),
        (
            422,
            "DeviceClass.resource.k8s.io \"c\" is invalid: spec.selectors[0].cel.expression: Invalid value: \"device.driver\": must evaluate to bool or the unknown type, not string"
        )
    );
    let refused = post("device.colour == 1").await;
    assert!(
        refused
            .error()
            .1
            .contains("compilation failed: ERROR: <input>:1:7: undefined field 'colour'"),
        "{:?}",
        refused.object
    );
    let ten = "[1,2,3,4,5,6,7,8,9,10]";
    let dear = format!(
        "{ten}.all(a, {ten}.all(b, {ten}.all(c, {ten}.all(d, {ten}.all(e, {ten}.all(f, f > 0))))))"
    );
    let refused = post(&dear).await;
    assert!(
        refused
            .error()
            .1
            .ends_with("Forbidden: too complex, exceeds cost limit"),
        "{:?}",
        refused.object
    );
    let fine = r#"device.attributes["a.example"].model == "x" && device.capacity["a.example"].memory.compareTo(quantity("1Gi")) > 0"#;
    assert_eq!(post(fine).await.code, 201);
    let claim = json!({"metadata": {"name": "x"}, "spec": {"devices": {"requests": [
        {"name": "r", "exactly": {"deviceClassName": "c", "selectors": [{"cel": {"expression": "?!"}}]}}]}}});
    let claims = format!("{DEVICES}/namespaces/default/resourceclaims");
    let refused = send(&cluster, Method::POST, &claims, &claim).await;
    assert!(
        refused.error().1.contains(
            "spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value: \"?!\": compilation failed: ERROR: <input>:1:1: Syntax error"
        ),
        "{:?}",
        refused.object
    );
}

#[tokio::test]
async fn taints_of_devices_say_since_when_they_are_there() {
    let cluster = TestCluster::start().await.unwrap();
    let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": "a.example", "allNodes": true,
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "d", "taints": [{"key": "a.example/broken", "effect": "NoExecute"}]}]}});
    let made = send(
        &cluster,
        Method::POST,
        &format!("{DEVICES}/resourceslices"),
        &slice,
    )
    .await;
    assert_eq!(made.code, 201, "{:?}", made.object);
    let since = made.object["spec"]["devices"][0]["taints"][0]["timeAdded"].as_str();
    let created = made.object["metadata"]["creationTimestamp"].as_str();
    assert!(since.is_some() && since >= created, "{since:?} {created:?}");
}

#[tokio::test]
async fn a_storage_driver_has_no_generation_before_it_changes() {
    let cluster = TestCluster::start().await.unwrap();
    let path = "/apis/storage.k8s.io/v1/csidrivers";
    let driver = json!({"metadata": {"name": "d.example"}, "spec": {"podInfoOnMount": true}});
    let made = send(&cluster, Method::POST, path, &driver).await;
    assert_eq!(made.object["metadata"]["generation"], Value::Null);
    let change = json!({"spec": {"podInfoOnMount": false}});
    let changed = send(
        &cluster,
        Method::PATCH,
        &format!("{path}/d.example"),
        &change,
    )
    .await;
    assert_eq!(
        changed.object["metadata"]["generation"], 1,
        "{:?}",
        changed.object
    );
}
