//! Versions of a custom resource that a webhook converts: what is stored in one is read, selected, watched and written in another.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::routing::post as route;
use axum::{Json, Router};
use base64::Engine as _;
use futures::StreamExt as _;
use http::Request;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;
use skiff_testkit::{HttpsServer, TestCluster};
use tower::ServiceExt as _;

use crate::harness::{CRDS, definition, delete, get, install, merge, post, put};

const V1: &str = "/apis/stable.example.com/v1/namespaces/default/hosts";
const V2: &str = "/apis/stable.example.com/v2/namespaces/default/hosts";

/// Changes an answer of the webhook before it is sent.
type Spoil = Arc<Mutex<Option<fn(&mut Value)>>>;

struct Converted {
    cluster: TestCluster,
    asked: Arc<Mutex<Vec<Value>>>,
    spoil: Spoil,
    webhook: Option<HttpsServer>,
}

/// `hostPort` of version 1 is `host` and `port` in version 2.
fn convert(object: &Value, wanted: &str) -> Value {
    let mut made = object.clone();
    made["apiVersion"] = wanted.into();
    made["spec"] = if wanted.ends_with("v2") {
        let text = object["spec"]["hostPort"].as_str().unwrap_or_default();
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        json!({"host": host, "port": port})
    } else {
        let part = |name: &str| object["spec"][name].as_str().unwrap_or_default().to_owned();
        json!({"hostPort": format!("{}:{}", part("host"), part("port"))})
    };
    made
}

async fn converted() -> Converted {
    let cluster = TestCluster::start().await.unwrap();
    let (asked, spoil): (Arc<Mutex<Vec<Value>>>, Spoil) = Default::default();
    let (seen, change) = (asked.clone(), spoil.clone());
    let answer = move |Json(review): Json<Value>| async move {
        let request = &review["request"];
        let wanted = request["desiredAPIVersion"].as_str().unwrap();
        let objects = request["objects"].as_array().unwrap().iter();
        let objects: Vec<Value> = objects.map(|object| convert(object, wanted)).collect();
        let mut answer = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
            "response": {"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects}});
        if let Some(change) = *change.lock() {
            change(&mut answer);
        }
        seen.lock().push(review);
        Json(answer)
    };
    let routes = Router::new().route("/convert", route(answer));
    let webhook = HttpsServer::start(&["127.0.0.1"], routes).await.unwrap();
    let version = |name: &str, fields: &[&str], selectable: &str| {
        let properties: serde_json::Map<String, Value> = fields
            .iter()
            .map(|field| ((*field).to_owned(), json!({"type": "string"})))
            .collect();
        json!({"name": name, "served": true, "storage": name == "v1",
            "selectableFields": [{"jsonPath": selectable}],
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": properties}}}}})
    };
    let versions = json!([
        version("v1", &["hostPort"], ".spec.hostPort"),
        version("v2", &["host", "port"], ".spec.host"),
    ]);
    let mut crd = definition("stable.example.com", "hosts", "Host", versions);
    let bundle = base64::engine::general_purpose::STANDARD.encode(&webhook.certificate_pem);
    crd["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {
        "conversionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://{}/convert", webhook.address), "caBundle": bundle}}});
    install(&cluster, &crd).await;
    Converted {
        cluster,
        asked,
        spoil,
        webhook: Some(webhook),
    }
}

impl Converted {
    async fn make(&self) {
        let old = json!({"apiVersion": "stable.example.com/v1", "kind": "Host", "metadata": {"name": "old"},
            "spec": {"hostPort": "a:1"}});
        post(&self.cluster, V1, &old).await.ok();
        let new = json!({"apiVersion": "stable.example.com/v2", "kind": "Host", "metadata": {"name": "new"},
            "spec": {"host": "b", "port": "2"}});
        post(&self.cluster, V2, &new).await.ok();
    }

    async fn names(&self, path: &str) -> Vec<String> {
        let list = get(&self.cluster, path).await.ok();
        let items = list["items"].as_array().unwrap().iter();
        let name = |item: &Value| item["metadata"]["name"].as_str().unwrap().to_owned();
        items.map(name).collect()
    }
}

#[tokio::test]
async fn objects_are_written_in_one_version_and_read_in_another() {
    let all = converted().await;
    all.make().await;
    let cluster = &all.cluster;
    let read = get(cluster, &format!("{V2}/old")).await.ok();
    assert_eq!(read["apiVersion"], "stable.example.com/v2");
    assert_eq!(read["spec"], json!({"host": "a", "port": "1"}));
    let read = get(cluster, &format!("{V1}/new")).await.ok();
    assert_eq!(read["spec"], json!({"hostPort": "b:2"}));

    all.asked.lock().clear();
    let list = get(cluster, V2).await.ok();
    let hosts: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["spec"]["host"].as_str().unwrap())
        .collect();
    assert_eq!(hosts, ["b", "a"]);
    assert_eq!(list["apiVersion"], "stable.example.com/v2");
    {
        let asked = all.asked.lock();
        assert_eq!(asked.len(), 1, "one question for a whole list");
        assert_eq!(asked[0]["request"]["objects"].as_array().unwrap().len(), 2);
        assert_eq!(
            asked[0]["request"]["desiredAPIVersion"],
            "stable.example.com/v2"
        );
    }

    // An update and a patch in the version that is not stored.
    let mut object = get(cluster, &format!("{V2}/old")).await.ok();
    object["spec"]["host"] = "c".into();
    let updated = put(cluster, &format!("{V2}/old"), &object).await.ok();
    assert_eq!(
        (&updated["spec"]["host"], &updated["metadata"]["generation"]),
        (&json!("c"), &json!(2))
    );
    let patched = merge(
        cluster,
        &format!("{V2}/old"),
        &json!({"spec": {"port": "9"}}),
    )
    .await
    .ok();
    assert_eq!(patched["spec"], json!({"host": "c", "port": "9"}));
    assert_eq!(
        get(cluster, &format!("{V1}/old")).await.ok()["spec"]["hostPort"],
        "c:9"
    );
    let deleted = delete(cluster, &format!("{V2}/old")).await.ok();
    assert_eq!(deleted["status"], "Success", "{deleted}");
}

#[tokio::test]
async fn fields_are_selected_as_the_version_asked_for_has_them() {
    let all = converted().await;
    all.make().await;
    assert_eq!(
        all.names(&format!("{V2}?fieldSelector=spec.host%3Da"))
            .await,
        ["old"]
    );
    assert_eq!(
        all.names(&format!("{V2}?fieldSelector=spec.host!%3Da"))
            .await,
        ["new"]
    );
    assert_eq!(
        all.names(&format!("{V1}?fieldSelector=spec.hostPort%3Db:2"))
            .await,
        ["new"]
    );
    let wrong = get(
        &all.cluster,
        &format!("{V2}?fieldSelector=spec.hostPort%3Da:1"),
    )
    .await;
    assert_eq!(
        (wrong.code, wrong.message()),
        (400, "field label not supported: spec.hostPort")
    );
}

#[tokio::test]
async fn a_watch_shows_the_version_that_it_asks_for() {
    let all = converted().await;
    all.make().await;
    let user = UserInfo::new("admin", &["system:masters", "system:authenticated"]);
    let watch = async |query: &str| {
        let path = format!("{V2}?watch=1&timeoutSeconds=20{query}");
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = all
            .cluster
            .server
            .in_process(user.clone())
            .oneshot(request)
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().into_data_stream()
    };
    let mut whole = watch("").await;
    let mut chosen = watch("&fieldSelector=spec.host%3Dz").await;
    merge(
        &all.cluster,
        &format!("{V1}/old"),
        &json!({"spec": {"hostPort": "z:7"}}),
    )
    .await
    .ok();
    let read = async |stream: &mut axum::body::BodyDataStream, count: usize| {
        let mut text = String::new();
        let reading = async {
            while text.matches('\n').count() < count {
                text.push_str(&String::from_utf8_lossy(
                    &stream.next().await.unwrap().unwrap(),
                ));
            }
        };
        tokio::time::timeout(Duration::from_secs(15), reading)
            .await
            .expect("no events");
        let events = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let told = events.map(|event| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let object = &event["object"];
            assert_eq!(object["apiVersion"], "stable.example.com/v2", "{event}");
            (
                text(&event["type"]),
                text(&object["metadata"]["name"]),
                text(&object["spec"]["host"]),
            )
        });
        told.collect::<Vec<_>>()
    };
    let event =
        |kind: &str, name: &str, host: &str| (kind.to_owned(), name.to_owned(), host.to_owned());
    assert_eq!(
        read(&mut whole, 3).await,
        [
            event("ADDED", "new", "b"),
            event("ADDED", "old", "a"),
            event("MODIFIED", "old", "z")
        ]
    );
    // It comes into what the selector chooses.
    assert_eq!(read(&mut chosen, 1).await, [event("ADDED", "old", "z")]);
}

#[tokio::test]
async fn answers_that_are_wrong_are_errors_and_nothing_is_stored() {
    let all = converted().await;
    all.make().await;
    /// What the webhook makes of its answer, and what is said of it.
    type Case = (fn(&mut Value), &'static str);
    let cases: [Case; 7] = [
        (
            |answer| answer["response"]["convertedObjects"] = json!([]),
            "returned 0 objects, expected 1",
        ),
        (
            |answer| answer["response"]["uid"] = "x".into(),
            "expected response.uid=",
        ),
        (
            |answer| {
                answer["response"]["result"] = json!({"status": "Failed", "message": "not today"})
            },
            "failed: not today",
        ),
        (
            |answer| answer["response"]["convertedObjects"][0]["metadata"]["name"] = "x".into(),
            "must have the same name: old != x",
        ),
        (
            |answer| answer["response"]["convertedObjects"][0]["metadata"]["uid"] = "x".into(),
            "must have the same UID: ",
        ),
        (
            |answer| {
                answer["response"]["convertedObjects"][0]["apiVersion"] =
                    "stable.example.com/v3".into()
            },
            "invalid groupVersion (expected stable.example.com/v2, received stable.example.com/v3)",
        ),
        (
            |answer| answer["response"]["convertedObjects"][0]["kind"] = "Other".into(),
            "invalid kind (expected Host, received Other)",
        ),
    ];
    for (change, why) in cases {
        *all.spoil.lock() = Some(change);
        let answer = get(&all.cluster, &format!("{V2}/old")).await;
        assert_eq!(answer.code, 500, "{}", answer.text);
        assert!(
            answer
                .message()
                .starts_with("conversion webhook for stable.example.com/v1, Kind=Host ")
                && answer.message().contains(why),
            "{}",
            answer.message()
        );
    }
    // Metadata that a webhook must not change stays as it was.
    *all.spoil.lock() = Some(|answer| {
        let metadata = &mut answer["response"]["convertedObjects"][0]["metadata"];
        metadata["labels"] = json!({"new": "label"});
        metadata["finalizers"] = json!(["a.example/b"]);
        metadata["generation"] = 99.into();
    });
    let read = get(&all.cluster, &format!("{V2}/old")).await.ok();
    assert_eq!(read["metadata"]["labels"], json!({"new": "label"}));
    assert_eq!(read["metadata"]["finalizers"], Value::Null);
    assert_eq!(read["metadata"]["generation"], 1);
    // A write whose conversion fails is none.
    *all.spoil.lock() = Some(|answer| answer["response"] = Value::Null);
    let new = json!({"apiVersion": "stable.example.com/v2", "kind": "Host", "metadata": {"name": "third"}, "spec": {}});
    let refused = post(&all.cluster, V2, &new).await;
    assert_eq!(refused.code, 500);
    assert!(
        refused.message().ends_with("no response provided"),
        "{}",
        refused.message()
    );
    *all.spoil.lock() = None;
    assert_eq!(get(&all.cluster, &format!("{V1}/third")).await.code, 404);
}

#[tokio::test]
async fn without_its_webhook_a_resource_is_there_in_the_version_that_is_stored() {
    let mut all = converted().await;
    all.make().await;
    all.webhook = None;
    let cluster = &all.cluster;
    assert_eq!(get(cluster, &format!("{V1}/old")).await.code, 200);
    assert_eq!(get(cluster, V1).await.code, 200);
    for path in [V2.to_owned(), format!("{V2}/old")] {
        let failed = get(cluster, &path).await;
        assert_eq!(failed.code, 500);
        let start = "conversion webhook for stable.example.com/v1, Kind=Host failed: Post \"https://127.0.0.1:";
        assert!(failed.message().starts_with(start), "{}", failed.message());
    }
    // What is stored can go, and so can the definition with all its objects.
    assert_eq!(delete(cluster, &format!("{V1}/old")).await.code, 200);
    assert_eq!(
        delete(cluster, &format!("{CRDS}/hosts.stable.example.com"))
            .await
            .code,
        200
    );
    crate::harness::gone(cluster, &format!("{CRDS}/hosts.stable.example.com")).await;
}
