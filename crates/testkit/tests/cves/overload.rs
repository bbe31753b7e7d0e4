//! Clients that mean no good, over real sockets: the server goes on, and its memory does not grow with what they hold open.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use skiff_apiserver::ApiServerConfig;
use skiff_apiserver::limits::Limits;
use skiff_testkit::{TestCluster, TestOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::asking::ask;
use crate::sockets::{connect, read_answer};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn with_limits(limits: Limits) -> TestCluster {
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

/// The memory of this process, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// How many files this process may have open.
fn open_files() -> usize {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    line.split_whitespace()
        .nth(3)
        .unwrap()
        .parse()
        .unwrap_or(usize::MAX)
}

async fn answers_soon(cluster: &TestCluster) {
    let start = Instant::now();
    let mut stream = connect(cluster).await;
    stream
        .write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(read_answer(&mut stream).await.0, 200);
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_do_not_take_the_server_down() {
    let cluster = TestCluster::start().await.unwrap();
    let count = (open_files() / 2).saturating_sub(300).min(10_000);
    assert!(count >= 100, "too few open files are allowed to this test");
    let before = resident();
    let mut open = Vec::new();
    for at in 0..count {
        let mut stream = TcpStream::connect(cluster.address).await.unwrap();
        // Some begin a handshake and go no further.
        if at % 3 == 0 {
            let _ = stream.write_all(&[0x16, 3, 1, 2, 0]).await;
        }
        open.push(stream);
    }
    answers_soon(&cluster).await;
    let grown = resident().saturating_sub(before);
    assert!(
        grown < 400 << 20,
        "{} MiB for {count} connections",
        grown >> 20
    );
    drop(open);
    answers_soon(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_are_never_read_cost_neither_memory_nor_others() {
    let cluster = TestCluster::start().await.unwrap();
    let big = "x".repeat(20_000);
    for at in 0..100 {
        let map = json!({"metadata": {"name": format!("m{at}")}, "data": {"a": big}});
        assert_eq!(ask(&cluster.server, "POST", MAPS, &map).await.code, 201);
    }
    let mut unread = Vec::new();
    for _ in 0..60 {
        let mut stream = connect(&cluster).await;
        let request = format!("GET {MAPS}?watch=1 HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        unread.push(stream);
    }
    // Who reads gets everything.
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.tls_client().await.unwrap());
    let newest = maps
        .list(&Default::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    let mut watch = maps
        .watch(&WatchParams::default(), &newest)
        .await
        .unwrap()
        .boxed();
    let before = resident();
    for round in 0..300 {
        let map = json!({"metadata": {"name": format!("m{}", round % 100)}, "data": {"a": big, "round": round.to_string()}});
        let path = format!("{MAPS}/m{}", round % 100);
        assert_eq!(ask(&cluster.server, "PUT", &path, &map).await.code, 200);
        let event = watch.try_next().await.unwrap().unwrap();
        assert!(matches!(event, WatchEvent::Modified(_)), "{event:?}");
    }
    // 60 times 8 MiB, were it kept for those who do not read.
    let grown = resident().saturating_sub(before);
    assert!(grown < 200 << 20, "{} MiB", grown >> 20);
    answers_soon(&cluster).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_ends_in_504() {
    let cluster = with_limits(Limits {
        request_timeout: Duration::from_millis(300),
        ..Limits::default()
    })
    .await;
    let mut stream = connect(&cluster).await;
    let request = format!(
        "POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{{"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let (code, text) = read_answer(&mut stream).await;
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &status["reason"]), (504, &json!("Timeout")));
    assert_eq!(
        status["message"],
        "Timeout: request did not complete within requested timeout - context deadline exceeded"
    );
    answers_soon(&cluster).await;
}

#[tokio::test]
async fn a_timeout_may_be_asked_for_and_watches_have_none() {
    let cluster = with_limits(Limits {
        request_timeout: Duration::from_millis(200),
        ..Limits::default()
    })
    .await;
    let answer = ask(
        &cluster.server,
        "GET",
        &format!("{MAPS}?timeout=never"),
        &Value::Null,
    )
    .await;
    assert_eq!(answer.code, 400);
    assert!(
        answer
            .message()
            .starts_with("invalid timeout specified in the request URL"),
        "{}",
        answer.message()
    );
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let mut watch = maps
        .watch(&WatchParams::default(), "0")
        .await
        .unwrap()
        .boxed();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let map = serde_json::from_value(json!({"metadata": {"name": "m"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    assert!(matches!(
        watch.try_next().await.unwrap(),
        Some(WatchEvent::Added(_))
    ));
}

#[tokio::test]
async fn large_bodies_and_headers_are_refused() {
    let cluster = TestCluster::start().await.unwrap();
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "x".repeat(3 << 20)}});
    let answer = ask(&cluster.server, "POST", MAPS, &map).await;
    assert_eq!(answer.code, 413);
    assert_eq!(
        answer.message(),
        "Request entity too large: limit is 3145728"
    );
    assert_eq!(answer.json()["reason"], "RequestEntityTooLarge");
    let mut stream = connect(&cluster).await;
    let request = format!(
        "GET /version HTTP/1.1\r\nhost: x\r\nbig: {}\r\n\r\n",
        "x".repeat(2 << 20)
    );
    let _ = stream.write_all(request.as_bytes()).await;
    assert_eq!(read_answer(&mut stream).await.0, 431);
    // Many and long ones are in order.
    let mut stream = connect(&cluster).await;
    let mut request = "GET /version HTTP/1.1\r\nhost: x\r\n".to_owned();
    for at in 0..200 {
        request.push_str(&format!("h{at}: {}\r\n", "x".repeat(1000)));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.0, 200);
}

#[tokio::test]
async fn a_server_that_stops_says_so_goes_on_and_ends_its_watches() {
    let cluster = with_limits(Limits {
        shutdown_delay: Duration::from_secs(1),
        send_retry_after: true,
        ..Limits::default()
    })
    .await;
    let mut watching = connect(&cluster).await;
    let request = format!("GET {MAPS}?watch=1&resourceVersion=0 HTTP/1.1\r\nhost: x\r\n\r\n");
    watching.write_all(request.as_bytes()).await.unwrap();
    let mut stream = connect(&cluster).await;
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(read_answer(&mut stream).await.0, 200);
    cluster.begin_shutdown();
    loop {
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let (code, text) = read_answer(&mut stream).await;
        if code == 500 {
            assert!(text.contains("[-]shutdown failed"), "{text}");
            break;
        }
    }
    // Not ready, but alive: new connections and requests are served.
    answers_soon(&cluster).await;
    let mut rest = Vec::new();
    watching.read_to_end(&mut rest).await.unwrap();
    assert!(
        rest.ends_with(b"0\r\n\r\n"),
        "the watch was cut off: {}",
        String::from_utf8_lossy(&rest)
    );
    assert!(
        TcpStream::connect(cluster.address).await.is_err(),
        "it still listens"
    );
}

#[tokio::test]
async fn clients_are_sent_to_another_connection_by_chance() {
    let cluster = with_limits(Limits {
        goaway_chance: 1.0,
        ..Limits::default()
    })
    .await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.tls_client().await.unwrap());
    for _ in 0..20 {
        maps.list(&Default::default()).await.unwrap();
    }
}
