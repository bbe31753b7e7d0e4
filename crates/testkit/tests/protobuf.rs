//! Clients that ask for protobuf get it: objects, lists, what they made, and watches.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;
use skiff_testkit::TestCluster;
use tower::ServiceExt as _;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

type Answer = Response<axum::body::Body>;

async fn ask(
    cluster: &TestCluster,
    method: &str,
    path: &str,
    body: &Value,
    accept: &str,
) -> Answer {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(ACCEPT, accept)
        .header(CONTENT_TYPE, "application/json")
        .body(http_body_util::Full::new(bytes::Bytes::from(body)))
        .unwrap();
    let user = UserInfo::new("admin", &["system:masters"]);
    cluster
        .server
        .in_process(user)
        .oneshot(request)
        .await
        .unwrap()
}

async fn object(answer: Answer) -> Value {
    assert_eq!(answer.headers()[CONTENT_TYPE], PROTOBUF);
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    skiff_api::protobuf::decode(&bytes).unwrap()
}

#[tokio::test]
async fn objects_lists_and_what_was_made() {
    let cluster = TestCluster::start().await.unwrap();
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = json!({"metadata": {"name": "m", "labels": {"a": "b"}}, "data": {"x": "y"}});
    let answer = ask(&cluster, "POST", maps, &map, PROTOBUF).await;
    assert_eq!(answer.status(), 201);
    let made = object(answer).await;
    assert_eq!(
        (&made["kind"], &made["data"]),
        (&json!("ConfigMap"), &json!({"x": "y"}))
    );
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Update");

    // What client-go sends: protobuf, else JSON.
    let both = format!("{PROTOBUF}, application/json");
    let one = format!("{maps}/m");
    let got = object(ask(&cluster, "GET", &one, &Value::Null, &both).await).await;
    assert_eq!(got, made);
    let list = object(ask(&cluster, "GET", maps, &Value::Null, &both).await).await;
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(list["items"][0]["metadata"]["uid"], made["metadata"]["uid"]);
    let table = format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io");
    let answer = ask(&cluster, "GET", maps, &Value::Null, &table).await;
    assert_eq!(answer.status(), 406);
    let metadata = format!("{PROTOBUF};as=PartialObjectMetadata;v=v1;g=meta.k8s.io");
    let partial = object(ask(&cluster, "GET", &one, &Value::Null, &metadata).await).await;
    assert_eq!(
        (&partial["kind"], &partial["metadata"]["labels"]),
        (&json!("PartialObjectMetadata"), &json!({"a": "b"}))
    );
}

#[tokio::test]
async fn watches_come_in_frames() {
    let cluster = TestCluster::start().await.unwrap();
    let maps = "/api/v1/namespaces/default/configmaps";
    for name in ["m", "n"] {
        let map = json!({"metadata": {"name": name}, "data": {"x": "y"}});
        ask(&cluster, "POST", maps, &map, PROTOBUF).await;
    }
    let path = format!("{maps}?watch=1&timeoutSeconds=1");
    let accept = format!("{PROTOBUF};stream=watch");
    let answer = ask(&cluster, "GET", &path, &Value::Null, &accept).await;
    assert_eq!(answer.headers()[CONTENT_TYPE], accept);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let mut rest = &body[..];
    let mut names = Vec::new();
    while !rest.is_empty() {
        let (length, tail) = rest.split_first_chunk::<4>().unwrap();
        let (frame, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        rest = tail;
        // Field 1 is the type; field 2 holds field 1, the object with its envelope.
        assert_eq!(&frame[..7], b"\x0a\x05ADDED");
        let at = frame.windows(4).position(|four| four == b"k8s\0").unwrap();
        let object = skiff_api::protobuf::decode(&frame[at..]).unwrap();
        names.push(object["metadata"]["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(names, ["m", "n"]);
}
