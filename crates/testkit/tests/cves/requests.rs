//! What once broke upstream by requests: upgrades, redirects, bombs.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};
use skiff_testkit::TestCluster;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::asking::{Answer, admin, ask, send};
use crate::sockets::{connect, read_answer};

/// An address of this host that is not loopback: backends of proxies must have one.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: the kernel only chooses the source address.
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip()
}

/// A backend that answers every connection's first request with `answer`, and counts the requests that it sees.
async fn backend(answer: String) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (answer, count) = (answer.clone(), count.clone());
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(read) = stream.read(&mut buffer).await {
                    if read == 0 {
                        return;
                    }
                    let text = String::from_utf8_lossy(&buffer[..read]);
                    count.fetch_add(text.matches(" HTTP/1.1\r\n").count(), Ordering::SeqCst);
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    (port, seen)
}

/// A pod at this host's address.
async fn pod(cluster: &TestCluster) {
    let path = "/api/v1/namespaces/default/pods";
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    assert_eq!(ask(&cluster.server, "POST", path, &pod).await.code, 201);
    let mut pod = ask(&cluster.server, "GET", &format!("{path}/p"), &Value::Null)
        .await
        .json();
    let address = own_address().to_string();
    pod["status"]["podIP"] = address.clone().into();
    pod["status"]["podIPs"] = json!([{"ip": address}]);
    assert_eq!(
        ask(&cluster.server, "PUT", &format!("{path}/p/status"), &pod)
            .await
            .code,
        200
    );
}

fn upgrade(port: u16) -> String {
    format!(
        "GET /api/v1/namespaces/default/pods/p:{port}/proxy/exec HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
}

/// CVE-2018-1002105: after an upgrade that the backend refused, the client's connection led on to the backend, under the server's
/// own identity.
#[tokio::test]
async fn cve_2018_1002105_a_refused_upgrade_leaves_no_way_to_the_backend() {
    let cluster = TestCluster::start().await.unwrap();
    pod(&cluster).await;
    let (port, seen) =
        backend("HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno".to_owned()).await;
    let mut stream = connect(&cluster).await;
    stream.write_all(upgrade(port).as_bytes()).await.unwrap();
    let (code, text) = read_answer(&mut stream).await;
    assert_eq!((code, text.as_str()), (400, "no"));
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    // The next request on the connection is the server's to answer.
    stream
        .write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let (code, text) = read_answer(&mut stream).await;
    assert_eq!(code, 200);
    assert!(text.contains("gitVersion"), "{text}");
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

/// The other way round: a backend that switches protocols without being asked.
#[tokio::test]
async fn cve_2018_1002105_nobody_switches_protocols_unasked() {
    let cluster = TestCluster::start().await.unwrap();
    pod(&cluster).await;
    let answer =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: evil\r\n\r\nraw bytes";
    let (port, _) = backend(answer.to_owned()).await;
    let mut stream = connect(&cluster).await;
    let request =
        format!("GET /api/v1/namespaces/default/pods/p:{port}/proxy/ HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (code, text) = read_answer(&mut stream).await;
    assert_eq!(code, 500, "{text}");
    assert!(!text.contains("raw bytes"));
}

/// CVE-2020-8559: the server followed redirects of upgraded requests, with its own credentials.
#[tokio::test]
async fn cve_2020_8559_redirects_of_upgraded_requests_are_not_followed() {
    let cluster = TestCluster::start().await.unwrap();
    pod(&cluster).await;
    let (elsewhere, reached) =
        backend("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned()).await;
    let address = own_address();
    let answer = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://{address}:{elsewhere}/other\r\ncontent-length: 0\r\n\r\n"
    );
    let (port, seen) = backend(answer).await;
    let mut stream = connect(&cluster).await;
    stream.write_all(upgrade(port).as_bytes()).await.unwrap();
    let (code, _) = read_answer(&mut stream).await;
    // The client gets it as it is.
    assert_eq!(code, 302);
    assert_eq!(
        (seen.load(Ordering::SeqCst), reached.load(Ordering::SeqCst)),
        (1, 0)
    );
}

/// CVE-2020-8555 and 2020-8562: the server as a way to what only its own host reaches.
#[tokio::test]
async fn cve_2020_8555_and_8562_proxies_do_not_lead_to_loopback_or_link_local() {
    let cluster = TestCluster::start().await.unwrap();
    let path = "/api/v1/nodes";
    let node = json!({"metadata": {"name": "n"}});
    assert_eq!(ask(&cluster.server, "POST", path, &node).await.code, 201);
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(rustls::RootCertStore::empty())
    .with_no_client_auth();
    cluster.server.set_kubelet_tls(Arc::new(tls));
    for (kind, address) in [
        ("InternalIP", "127.0.0.1"),
        ("InternalIP", "169.254.169.254"),
        ("InternalIP", "::1"),
        ("Hostname", "localhost"),
    ] {
        let mut node = ask(&cluster.server, "GET", "/api/v1/nodes/n", &Value::Null)
            .await
            .json();
        node["status"]["addresses"] = json!([{"type": kind, "address": address}]);
        assert_eq!(
            ask(&cluster.server, "PUT", "/api/v1/nodes/n/status", &node)
                .await
                .code,
            200
        );
        let answer = ask(
            &cluster.server,
            "GET",
            "/api/v1/nodes/n/proxy/metrics",
            &Value::Null,
        )
        .await;
        assert_eq!(
            (answer.code, answer.message().as_str()),
            (400, "address not allowed"),
            "{address}"
        );
    }
    let pods = "/api/v1/namespaces/default/pods";
    let made =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    assert_eq!(ask(&cluster.server, "POST", pods, &made).await.code, 201);
    for address in ["127.0.0.1", "169.254.169.254"] {
        let mut pod = ask(&cluster.server, "GET", &format!("{pods}/p"), &Value::Null)
            .await
            .json();
        pod["status"]["podIP"] = address.into();
        pod["status"]["podIPs"] = json!([{"ip": address}]);
        assert_eq!(
            ask(&cluster.server, "PUT", &format!("{pods}/p/status"), &pod)
                .await
                .code,
            200
        );
        let answer = ask(
            &cluster.server,
            "GET",
            &format!("{pods}/p:80/proxy/"),
            &Value::Null,
        )
        .await;
        assert_eq!(
            (answer.code, answer.message().as_str()),
            (400, "address not allowed"),
            "{address}"
        );
    }
}

async fn post(cluster: &TestCluster, media: &str, body: String) -> (Answer, Duration) {
    let request = Request::post("/api/v1/namespaces/default/configmaps")
        .header("content-type", media)
        .body(Body::from(body))
        .unwrap();
    let start = Instant::now();
    let answer = send(&cluster.server, admin(), request).await;
    (answer, start.elapsed())
}

/// What a refusal of a small body may cost, in an unoptimised build on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// CVE-2019-11253: a few lines of YAML aliases stood for gigabytes.
#[tokio::test]
async fn cve_2019_11253_alias_bombs_are_refused() {
    let cluster = TestCluster::start().await.unwrap();
    let mut bomb = String::from(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata:\n  a: &a [x,x,x,x,x,x,x,x,x]\n",
    );
    for (name, last) in "bcdefghijk".chars().zip("abcdefghij".chars()) {
        bomb.push_str(&format!("  {name}: &{name} [*{last},*{last},*{last},*{last},*{last},*{last},*{last},*{last},*{last}]\n"));
    }
    let (answer, took) = post(&cluster, "application/yaml", bomb).await;
    assert_eq!(
        answer.code,
        400,
        "{}",
        answer.text.get(..300).unwrap_or(&answer.text)
    );
    assert!(took < SOON, "{took:?}");
    assert!(answer.text.len() < 100_000, "{}", answer.text.len());
}

/// CVE-2019-11254: YAML that took minutes to refuse; deep nesting that overran the stack.
#[tokio::test]
async fn cve_2019_11254_deep_nesting_and_slow_yaml_are_refused_soon() {
    let cluster = TestCluster::start().await.unwrap();
    let deep = 200_000;
    let nested = |open: &str, close: &str| format!("{}{}", open.repeat(deep), close.repeat(deep));
    for (media, body) in [
        ("application/json", nested("[", "]")),
        (
            "application/json",
            format!(
                "{{\"data\":{}1{}}}",
                "{\"a\":".repeat(deep),
                "}".repeat(deep)
            ),
        ),
        ("application/yaml", nested("[", "]")),
        ("application/yaml", nested("{a: ", "}")),
        ("application/yaml", nested("- ", "")),
        ("application/yaml", "a: ".repeat(deep)),
        // What the CVE is about: a document of which each line makes the parser look back at all before.
        ("application/yaml", "- ? ".repeat(20_000) + "x: y"),
        ("application/yaml", "\"a\n".repeat(100_000)),
        ("application/yaml", "&a ".repeat(100_000)),
    ] {
        let shown = body[..20].to_owned();
        let (answer, took) = post(&cluster, media, body).await;
        assert!(
            (400..500).contains(&answer.code),
            "{media} {shown}: {}",
            answer.code
        );
        assert!(took < SOON, "{media} {shown}: {took:?}");
    }
    // Protobuf's messages nest as well.
    let mut message: Vec<u8> = Vec::new();
    for _ in 0..5_000 {
        let mut outer = vec![0x0a];
        let mut length = message.len();
        while length >= 0x80 {
            outer.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend_from_slice(&message);
        message = outer;
    }
    let mut body = b"k8s\0".to_vec();
    body.extend(message);
    let request = Request::post("/api/v1/namespaces/default/configmaps")
        .header("content-type", "application/vnd.kubernetes.protobuf")
        .body(Body::from(body))
        .unwrap();
    let answer = send(&cluster.server, admin(), request).await;
    assert!((400..500).contains(&answer.code), "{}", answer.code);
}

/// CVE-2019-1002100: small JSON patches that cost much.
#[tokio::test]
async fn cve_2019_1002100_json_patches_do_not_blow_up() {
    let cluster = TestCluster::start().await.unwrap();
    let path = "/api/v1/namespaces/default/configmaps";
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "x".repeat(1000)}});
    assert_eq!(ask(&cluster.server, "POST", path, &map).await.code, 201);
    let patch = async |operations: Value| {
        let request = Request::patch(format!("{path}/m"))
            .header("content-type", "application/json-patch+json")
            .body(Body::from(operations.to_string()))
            .unwrap();
        let start = Instant::now();
        let answer = send(&cluster.server, admin(), request).await;
        assert!(start.elapsed() < SOON);
        answer
    };
    let many: Vec<Value> = (0..10_001)
        .map(|_| json!({"op": "test", "path": "/kind", "value": "ConfigMap"}))
        .collect();
    let answer = patch(many.into()).await;
    assert_eq!(answer.code, 413);
    assert_eq!(
        answer.message(),
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
    );
    // Each copy doubles what is there.
    let copies: Vec<Value> = (0..40)
        .map(|at| json!({"op": "copy", "from": "/data", "path": format!("/data/{at}")}))
        .collect();
    assert_eq!(patch(copies.into()).await.code, 422);
    let after = ask(&cluster.server, "GET", &format!("{path}/m"), &Value::Null)
        .await
        .json();
    assert_eq!(after["data"], map["data"]);
}
