//! Programs elsewhere have a say over HTTP.

use std::time::Duration;

use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::Api;
use serde_json::{Value, json};
use skiff_scheduler::SchedulerConfig;
use skiff_scheduler::extender::ExtenderConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::running::{make, start, until};

/// Answers `/filter` and `/score`: refuses node `a`, prefers `c`; and `/preempt`: pods may go from `b` only.
async fn serve(mut stream: TcpStream) {
    let mut text = Vec::new();
    loop {
        let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") else {
            if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
                return;
            }
            continue;
        };
        let head = String::from_utf8_lossy(&text[..end]).to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.unwrap().trim().parse().unwrap();
        if text.len() < end + 4 + length {
            if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
                return;
            }
            continue;
        }
        let body: Value = serde_json::from_slice(&text[end + 4..end + 4 + length]).unwrap();
        assert!(body["Pod"]["metadata"]["name"].is_string());
        let items = body["Nodes"]["items"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let name = |item: &Value| item["metadata"]["name"].as_str().unwrap().to_owned();
        let answer = if head.starts_with("post /x/preempt") {
            let mut offers = body["NodeNameToMetaVictims"].as_object().unwrap().clone();
            offers.retain(|node, _| node == "b");
            json!({"NodeNameToMetaVictims": offers})
        } else if head.starts_with("post /x/filter") {
            let kept: Vec<Value> = items.into_iter().filter(|item| name(item) != "a").collect();
            json!({"Nodes": {"items": kept}, "FailedNodes": {"a": "node(s) were not liked"}})
        } else {
            let scores = items.iter().map(
                |item| json!({"Host": name(item), "Score": i32::from(name(item) == "c") * 10}),
            );
            scores.collect()
        };
        text.drain(..end + 4 + length);
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        stream
            .write_all(format!("{head}{answer}").as_bytes())
            .await
            .unwrap();
    }
}

fn extender(port: u16) -> ExtenderConfig {
    ExtenderConfig {
        url_prefix: format!("http://127.0.0.1:{port}/x"),
        filter_verb: "filter".to_owned(),
        prioritize_verb: "score".to_owned(),
        weight: 100,
        timeout: Duration::from_secs(5),
        ..ExtenderConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extender_refuses_and_prefers_nodes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    let config = SchedulerConfig {
        extenders: vec![extender(port)],
        ..SchedulerConfig::default()
    };
    let running = start(config).await;
    running.node("a", "4").await;
    running.pod("refused", "1", json!({})).await;
    let message = running.waits("refused", "Unschedulable").await;
    assert!(
        message.starts_with("0/1 nodes are available: 1 node(s) were not liked."),
        "{message}"
    );
    running.node("b", "4").await;
    assert_eq!(running.node_of("refused").await, "b");
    running.node("c", "4").await;
    running.pod("preferred", "1", json!({})).await;
    assert_eq!(running.node_of("preferred").await, "c");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extender_that_does_not_answer_matters_unless_it_is_ignorable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    for ignorable in [true, false] {
        let config = SchedulerConfig {
            extenders: vec![ExtenderConfig {
                ignorable,
                ..extender(port)
            }],
            ..SchedulerConfig::default()
        };
        let running = start(config).await;
        running.node("a", "4").await;
        running.pod("p", "1", json!({})).await;
        if ignorable {
            assert_eq!(running.node_of("p").await, "a");
        } else {
            running.waits("p", "SchedulerError").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extender_says_which_pods_may_go() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    let config = SchedulerConfig {
        extenders: vec![ExtenderConfig {
            filter_verb: String::new(),
            prioritize_verb: String::new(),
            preempt_verb: "preempt".to_owned(),
            node_cache_capable: true,
            ..extender(port)
        }],
        ..SchedulerConfig::default()
    };
    let running = start(config).await;
    let classes: Api<PriorityClass> = Api::all(running.cluster.client());
    for (name, value) in [("low", 1), ("high", 1000)] {
        let class = json!({"metadata": {"name": name}, "value": value});
        make(&classes, class).await;
    }
    let class = |name: &str| json!({"priorityClassName": name});
    for node in ["a", "b", "c"] {
        running.node(node, "2").await;
        let mut lesser = class("low");
        lesser["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        running.pod(node, "1500m", lesser).await;
        assert_eq!(running.node_of(node).await, node);
    }
    running.pod("important", "1500m", class("high")).await;
    let nominated = until("a node is nominated", || async {
        let pod = running.pods().get("important").await.unwrap();
        pod.status?.nominated_node_name
    })
    .await;
    assert_eq!(nominated, "b");
}
