//! Priority and fairness on a whole server.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use skiff_apiserver::limits::Limits;
use skiff_apiserver::{ApiServerConfig, UserInfo};
use skiff_testkit::{TestCluster, TestOptions};
use tower::ServiceExt as _;

use crate::asking::{admin, ask, send};

const ROOT: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

async fn cluster(limits: Limits) -> TestCluster {
    let config = ApiServerConfig {
        limits,
        ..ApiServerConfig::default()
    };
    let options = TestOptions {
        config,
        ..TestOptions::default()
    };
    TestCluster::start_with(options).await.unwrap()
}

fn narrow(queuing: Option<Value>) -> Value {
    let response = match queuing {
        None => json!({"type": "Reject"}),
        Some(queuing) => json!({"type": "Queue", "queuing": queuing}),
    };
    json!({
        "metadata": {"name": "narrow"},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "limitResponse": response}},
    })
}

fn schema(level: &str) -> Value {
    json!({
        "metadata": {"name": "bobs"},
        "spec": {
            "matchingPrecedence": 50, "priorityLevelConfiguration": {"name": level},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "bob"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
            }],
        },
    })
}

/// No administrator: their requests are exempt, whatever schemas say.
fn bob() -> UserInfo {
    UserInfo::new("bob", &["system:authenticated"])
}

fn get() -> Request<Body> {
    Request::get(MAPS).body(Body::empty()).unwrap()
}

/// A request that holds its seat until the sender of its body goes.
fn slow() -> (
    Request<Body>,
    tokio::sync::mpsc::Sender<Result<Bytes, std::convert::Infallible>>,
) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let stream = futures::stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    });
    let request = Request::post(MAPS)
        .header("content-type", "application/json")
        .body(Body::from_stream(stream))
        .unwrap();
    (request, sender)
}

/// Whether a request of bob's is being answered.
async fn executing(server: &std::sync::Arc<skiff_apiserver::ApiServer>) -> bool {
    let metrics = ask(server, "GET", "/metrics", &Value::Null).await.text;
    metrics.contains("current_executing_requests{flow_schema=\"bobs\",priority_level=\"narrow\"} 1")
}

#[tokio::test]
async fn a_level_that_is_full_refuses_and_others_go_on() {
    let cluster = cluster(Limits {
        max_requests_inflight: 20,
        max_mutating_requests_inflight: 10,
        ..Limits::default()
    })
    .await;
    let server = &cluster.server;
    server.set_authorizer(std::sync::Arc::new(Anybody));
    for object in flow_objects() {
        let plural = if object["kind"] == "FlowSchema" {
            "flowschemas"
        } else {
            "prioritylevelconfigurations"
        };
        assert_eq!(
            ask(server, "POST", &format!("{ROOT}/{plural}"), &object)
                .await
                .code,
            201
        );
    }
    let level = ask(
        server,
        "POST",
        &format!("{ROOT}/prioritylevelconfigurations"),
        &narrow(None),
    )
    .await;
    assert_eq!(level.code, 201, "{}", level.text);
    let made = ask(
        server,
        "POST",
        &format!("{ROOT}/flowschemas"),
        &schema("narrow"),
    )
    .await;
    assert_eq!(made.code, 201, "{}", made.text);
    let uid = |answer: &Value| answer["metadata"]["uid"].as_str().unwrap().to_owned();
    let (level_uid, schema_uid) = (uid(&level.json()), uid(&made.json()));
    eventually("bob's requests go to the narrow level", async || {
        let answer = send(server, bob(), get()).await;
        answer
            .headers
            .get("x-kubernetes-pf-prioritylevel-uid")
            .is_some_and(|uid| uid == level_uid.as_str())
    })
    .await;
    // One seat: a request that takes its time has it.
    let (request, sender) = slow();
    let holding = tokio::spawn(server.in_process(bob()).oneshot(request));
    eventually("the slow request has the seat", async || {
        executing(server).await
    })
    .await;
    eventually("the level is full", async || {
        send(server, bob(), get()).await.code == 429
    })
    .await;
    let answer = send(server, bob(), get()).await;
    assert_eq!(answer.text, "Too many requests, please try again later.\n");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(
        answer.headers["x-kubernetes-pf-flowschema-uid"],
        schema_uid.as_str()
    );
    assert_eq!(
        answer.headers["x-kubernetes-pf-prioritylevel-uid"],
        level_uid.as_str()
    );
    // Others do not notice.
    assert_eq!(send(server, admin(), get()).await.code, 200);
    let page = ask(
        server,
        "GET",
        "/debug/api_priority_and_fairness/dump_priority_levels",
        &Value::Null,
    )
    .await;
    assert!(
        page.text.lines().any(|line| line.starts_with("narrow,")),
        "{}",
        page.text
    );
    let metrics = ask(server, "GET", "/metrics", &Value::Null).await.text;
    let line = "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"bobs\",priority_level=\"narrow\",reason=\"concurrency-limit\"}";
    assert!(metrics.contains(line), "{metrics}");
    drop(sender);
    let _ = holding.await;
    assert_eq!(send(server, bob(), get()).await.code, 200);

    // With queues they wait, and are served.
    let mut level = ask(
        server,
        "GET",
        &format!("{ROOT}/prioritylevelconfigurations/narrow"),
        &Value::Null,
    )
    .await
    .json();
    level["spec"] = narrow(Some(
        json!({"queues": 4, "handSize": 2, "queueLengthLimit": 10}),
    ))["spec"]
        .clone();
    assert_eq!(
        ask(
            server,
            "PUT",
            &format!("{ROOT}/prioritylevelconfigurations/narrow"),
            &level
        )
        .await
        .code,
        200
    );
    let (request, sender) = slow();
    let holding = tokio::spawn(server.in_process(bob()).oneshot(request));
    eventually("the slow request has the seat", async || {
        executing(server).await
    })
    .await;
    eventually("requests wait", async || {
        let waiting = tokio::time::timeout(Duration::from_millis(50), send(server, bob(), get()));
        waiting.await.is_err()
    })
    .await;
    let waiting = tokio::spawn({
        let server = server.clone();
        async move { send(&server, bob(), get()).await.code }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    drop(sender);
    assert_eq!(waiting.await.unwrap(), 200);
    let _ = holding.await;
}

fn flow_objects() -> Vec<Value> {
    skiff_apiserver::bootstrap::objects()
        .into_iter()
        .filter(|object| object["apiVersion"] == "flowcontrol.apiserver.k8s.io/v1")
        .collect()
}

#[tokio::test]
async fn what_every_cluster_has_is_kept_and_schemas_say_whether_their_level_exists() {
    let cluster = cluster(Limits::default()).await;
    let server = &cluster.server;
    tokio::spawn(server.clone().keep_flow_control());
    let get = async |path: &str| ask(server, "GET", &format!("{ROOT}/{path}"), &Value::Null).await;
    eventually("the objects are made", async || {
        get("flowschemas").await.json()["items"]
            .as_array()
            .is_some_and(|items| items.len() == 11)
            && get("prioritylevelconfigurations").await.json()["items"]
                .as_array()
                .is_some_and(|items| items.len() == 8)
    })
    .await;
    let dangling = async |name: &str| {
        let schema = get(&format!("flowschemas/{name}")).await.json();
        schema["status"]["conditions"][0]["status"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(
        ask(
            server,
            "POST",
            &format!("{ROOT}/flowschemas"),
            &schema("missing")
        )
        .await
        .code,
        201
    );
    eventually("its level is missing", async || {
        dangling("bobs").await == "True"
    })
    .await;
    eventually("the others' is not", async || {
        dangling("system-nodes").await == "False"
    })
    .await;
    // What was changed is put right, what was deleted is made again.
    let path = format!("{ROOT}/prioritylevelconfigurations/workload-low");
    let mut level = ask(server, "GET", &path, &Value::Null).await.json();
    level["spec"]["limited"]["nominalConcurrencyShares"] = 7.into();
    assert_eq!(ask(server, "PUT", &path, &level).await.code, 200);
    assert_eq!(
        ask(
            server,
            "DELETE",
            &format!("{ROOT}/flowschemas/probes"),
            &Value::Null
        )
        .await
        .code,
        200
    );
    eventually("the level is as it was", async || {
        get("prioritylevelconfigurations/workload-low").await.json()["spec"]["limited"]["nominalConcurrencyShares"] == 100
    })
    .await;
    eventually("the schema is there again", async || {
        get("flowschemas/probes").await.code == 200
    })
    .await;
}

#[tokio::test]
async fn without_fairness_only_so_many_requests_are_answered_at_once() {
    let cluster = cluster(Limits {
        max_mutating_requests_inflight: 1,
        fairness: false,
        ..Limits::default()
    })
    .await;
    let server = &cluster.server;
    let user = || UserInfo::new("bob", &["system:authenticated"]);
    server.set_authorizer(std::sync::Arc::new(Anybody));
    let (request, sender) = slow();
    let holding = tokio::spawn(server.in_process(user()).oneshot(request));
    let delete = || {
        Request::delete(format!("{MAPS}/x"))
            .body(Body::empty())
            .unwrap()
    };
    eventually("there is no room for writers", async || {
        send(server, user(), delete()).await.code == 429
    })
    .await;
    assert_eq!(send(server, user(), get()).await.code, 200);
    assert_eq!(send(server, admin(), delete()).await.code, 404);
    drop(sender);
    let _ = holding.await;
    assert_eq!(send(server, user(), delete()).await.code, 404);
}

struct Anybody;

#[async_trait::async_trait]
impl skiff_apiserver::Authorizer for Anybody {
    async fn authorize(&self, _: &skiff_apiserver::Attributes) -> skiff_apiserver::Decision {
        skiff_apiserver::Decision::Allow(String::new())
    }

    async fn rules(&self, _: &UserInfo, _: &str) -> skiff_apiserver::Rules {
        skiff_apiserver::Rules::default()
    }
}
