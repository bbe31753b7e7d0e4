//! A definition from its making to its end.

use serde_json::json;
use skiff_testkit::TestCluster;

use crate::harness::*;

fn anything() -> serde_json::Value {
    version(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}))
}

#[tokio::test]
async fn objects_of_a_new_resource_are_made_read_changed_watched_and_deleted() {
    let cluster = TestCluster::start().await.unwrap();
    let crd = definition(
        "stable.example.com",
        "crontabs",
        "CronTab",
        json!([anything()]),
    );
    install(&cluster, &crd).await;
    let path = "/apis/stable.example.com/v1/namespaces/default/crontabs";
    let object = json!({
        "apiVersion": "stable.example.com/v1", "kind": "CronTab",
        "metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"cronSpec": "* *", "n": null},
    });
    let made = post(&cluster, path, &object).await.ok();
    assert_eq!(made["spec"], object["spec"]);
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["namespace"], "default");
    let list = get(&cluster, path).await.ok();
    assert_eq!(list["kind"], "CronTabList");
    assert_eq!(list["items"], json!([made]));
    let everywhere = get(
        &cluster,
        "/apis/stable.example.com/v1/crontabs?labelSelector=x%3Dy",
    )
    .await
    .ok();
    assert_eq!(everywhere["items"].as_array().unwrap().len(), 1);
    let one = format!("{path}/a");
    let changed = merge(&cluster, &one, &json!({"spec": {"cronSpec": "1"}}))
        .await
        .ok();
    assert_eq!(changed["spec"], json!({"cronSpec": "1", "n": null}));
    assert_eq!(changed["metadata"]["generation"], 2);
    let same = put(&cluster, &one, &changed).await.ok();
    assert_eq!(
        same["metadata"]["resourceVersion"],
        changed["metadata"]["resourceVersion"]
    );
    let stale = put(&cluster, &one, &made).await;
    assert_eq!(stale.code, 409, "{}", stale.text);
    let gone = delete(&cluster, &one).await.ok();
    assert_eq!(gone["status"], "Success");
    let since = made["metadata"]["resourceVersion"].as_str().unwrap();
    let watch = format!("{path}?watch=1&timeoutSeconds=1&resourceVersion={since}");
    let events: Vec<serde_json::Value> = get(&cluster, &watch)
        .await
        .text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let kinds: Vec<&str> = events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["MODIFIED", "DELETED"]);
}

#[tokio::test]
async fn a_definition_takes_its_objects_with_it() {
    let cluster = TestCluster::start().await.unwrap();
    let crd = definition("e.com", "foos", "Foo", json!([anything()]));
    install(&cluster, &crd).await;
    let path = "/apis/e.com/v1/namespaces/default/foos";
    for name in ["a", "b"] {
        let object = json!({"apiVersion": "e.com/v1", "kind": "Foo", "metadata": {"name": name, "finalizers": ["e.com/hold"]}});
        post(&cluster, path, &object).await.ok();
    }
    let one = format!("{CRDS}/foos.e.com");
    let going = delete(&cluster, &one).await.ok();
    assert_eq!(condition(&going, "Terminating"), "True");
    until(&cluster, path, |list| {
        let items = list["items"].as_array();
        items.is_some_and(|items| {
            items
                .iter()
                .all(|item| item["metadata"]["deletionTimestamp"].is_string())
        })
    })
    .await;
    for name in ["a", "b"] {
        merge(
            &cluster,
            &format!("{path}/{name}"),
            &json!({"metadata": {"finalizers": null}}),
        )
        .await
        .ok();
    }
    until(&cluster, &one, |body| body["code"] == 404).await;
    assert_eq!(get(&cluster, path).await.code, 404);
    // The same again starts empty.
    install(&cluster, &crd).await;
    assert_eq!(get(&cluster, path).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn a_restarted_server_serves_what_was_defined_before() {
    let cluster = TestCluster::start().await.unwrap();
    install(
        &cluster,
        &definition("e.com", "foos", "Foo", json!([anything()])),
    )
    .await;
    let path = "/apis/e.com/v1/namespaces/default/foos";
    let object = json!({"apiVersion": "e.com/v1", "kind": "Foo", "metadata": {"name": "a"}});
    post(&cluster, path, &object).await.ok();
    let again = TestCluster::start_with(skiff_testkit::TestOptions {
        store: Some(cluster.store.clone()),
        ..Default::default()
    })
    .await
    .unwrap();
    let list = get(&again, path).await.ok();
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
}

#[tokio::test]
async fn names_in_use_wait_until_they_are_free() {
    let cluster = TestCluster::start().await.unwrap();
    install(
        &cluster,
        &definition("e.com", "foos", "Foo", json!([anything()])),
    )
    .await;
    let other = definition("e.com", "bars", "Foo", json!([anything()]));
    post(&cluster, CRDS, &other).await.ok();
    let one = format!("{CRDS}/bars.e.com");
    let refused = until(&cluster, &one, |crd| {
        condition(crd, "NamesAccepted") == "False"
    })
    .await;
    assert_eq!(condition(&refused, "Established"), "False");
    assert_eq!(get(&cluster, "/apis/e.com/v1/bars").await.code, 404);
    delete(&cluster, &format!("{CRDS}/foos.e.com")).await.ok();
    until(&cluster, &one, |crd| {
        condition(crd, "Established") == "True"
    })
    .await;
    get(&cluster, "/apis/e.com/v1/bars").await.ok();
}
