//! A webhook server in the test's own process, and what the client does with its answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use skiff_base::{Random, SystemClock};
use skiff_store::MemoryStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use parking_lot::Mutex;

use super::*;

fn server() -> Arc<ApiServer> {
    let clock = SystemClock::shared();
    let store = Arc::new(MemoryStore::new(clock.clone()));
    ApiServer::new(
        crate::ApiServerConfig::default(),
        store,
        clock,
        Random::seeded(1),
    )
}

/// What a webhook was asked, and over how many connections.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    requests: Mutex<Vec<String>>,
    shown_certificates: AtomicUsize,
}

/// A webhook with a self-signed certificate for `names` that answers everything with `answer` (head and body as they are).
/// Gives its port and its certificate.
async fn webhook(names: &[&str], answer: &str) -> (u16, String, Arc<Seen>) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names)
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let seen = Arc::new(Seen::default());
    let (recorded, answer) = (seen.clone(), answer.to_owned());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, seen, answer) = (acceptor.clone(), recorded.clone(), answer.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(socket).await else {
                    return;
                };
                seen.connections.fetch_add(1, Ordering::SeqCst);
                if stream.get_ref().1.peer_certificates().is_some() {
                    seen.shown_certificates.fetch_add(1, Ordering::SeqCst);
                }
                let mut buffer = vec![0; 64 << 10];
                while let Ok(count) = stream.read(&mut buffer).await {
                    if count == 0 {
                        return;
                    }
                    seen.requests
                        .lock()
                        .push(String::from_utf8_lossy(&buffer[..count]).into_owned());
                    if answer.is_empty() || stream.write_all(answer.as_bytes()).await.is_err() {
                        continue;
                    }
                }
            });
        }
    });
    (port, certificate.pem(), seen)
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn config(host: &str, port: u16, pem: &str) -> ClientConfig {
    ClientConfig::new(
        Some(&format!("https://{host}:{port}/hook")),
        None,
        pem.as_bytes(),
    )
    .unwrap()
}

const TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_call_reuses_its_connection_and_shows_no_identity() {
    let (port, pem, seen) = webhook(&["127.0.0.1"], &ok("{\"a\":1}")).await;
    let server = server();
    let client = Client::new(&server, &config("127.0.0.1", port, &pem)).unwrap();
    for _ in 0..3 {
        assert_eq!(
            client
                .post(&json!({"x": 1}), TIMEOUT, ANSWER_LIMIT)
                .await
                .unwrap(),
            json!({"a": 1})
        );
    }
    assert_eq!(seen.connections.load(Ordering::SeqCst), 1);
    assert_eq!(seen.shown_certificates.load(Ordering::SeqCst), 0);
    let requests = seen.requests.lock().clone();
    assert!(
        requests[0].starts_with("POST /hook?timeout=5s HTTP/1.1\r\n"),
        "{requests:?}"
    );
    assert!(
        !requests
            .concat()
            .to_ascii_lowercase()
            .contains("authorization:")
    );
}

#[tokio::test]
async fn cve_2022_3172_a_webhooks_redirect_is_not_followed() {
    let (other, _, elsewhere) = webhook(&["127.0.0.1"], &ok("{}")).await;
    let redirect = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: https://127.0.0.1:{other}/metadata\r\nContent-Length: 0\r\n\r\n"
    );
    let (port, pem, _) = webhook(&["127.0.0.1"], &redirect).await;
    let client = Client::new(&server(), &config("127.0.0.1", port, &pem)).unwrap();
    let error = client
        .post(&json!({}), TIMEOUT, ANSWER_LIMIT)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server responded with the status code 307 but did not return more information"
    );
    assert_eq!(elsewhere.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_webhook_that_does_not_answer_or_says_too_much_is_given_up() {
    let (port, pem, _) = webhook(&["127.0.0.1"], "").await;
    let server = server();
    let client = Client::new(&server, &config("127.0.0.1", port, &pem)).unwrap();
    let error = client
        .post(&json!({}), Duration::from_millis(50), ANSWER_LIMIT)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("Post \"https://127.0.0.1:{port}/hook?timeout=1s\": context deadline exceeded")
    );
    let (port, pem, _) = webhook(&["127.0.0.1"], &ok(&"x".repeat(2000))).await;
    let client = Client::new(&server, &config("127.0.0.1", port, &pem)).unwrap();
    let error = client.post(&json!({}), TIMEOUT, 1000).await.unwrap_err();
    assert_eq!(error.to_string(), "the answer is longer than 1000 bytes");
}

#[tokio::test]
async fn only_the_bundle_and_the_right_name_are_trusted() {
    let (port, pem, seen) = webhook(&["localhost", "other.example"], &ok("{}")).await;
    let (_, foreign, _) = webhook(&["localhost"], "").await;
    let server = server();
    let refused = |host: &'static str, pem: String| {
        let client = Client::new(&server, &config(host, port, &pem)).unwrap();
        async move {
            client
                .post(&json!({}), TIMEOUT, ANSWER_LIMIT)
                .await
                .unwrap_err()
                .to_string()
        }
    };
    let text = refused("localhost", foreign).await;
    assert!(
        text.ends_with(
            "tls: failed to verify certificate: x509: certificate signed by unknown authority"
        ),
        "{text}"
    );
    let text = refused("127.0.0.1", pem.clone()).await;
    assert!(
        text.contains("tls: failed to verify certificate: x509: certificate is "),
        "{text}"
    );
    assert!(seen.requests.lock().is_empty());
    let client = Client::new(&server, &config("localhost", port, &pem)).unwrap();
    client
        .post(&json!({}), TIMEOUT, ANSWER_LIMIT)
        .await
        .unwrap();
}

#[tokio::test]
async fn nobody_there_is_told_as_upstream_tells_it() {
    let (_, pem, _) = webhook(&["127.0.0.1"], "").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let server = server();
    let client = Client::new(&server, &config("127.0.0.1", port, &pem)).unwrap();
    let text = client
        .post(&json!({}), TIMEOUT, ANSWER_LIMIT)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        format!(
            "Post \"https://127.0.0.1:{port}/hook?timeout=5s\": dial tcp 127.0.0.1:{port}: connect: connection refused"
        )
    );
    let service =
        ClientConfig::new(None, Some(("ns", "svc", None, Some("/p"))), pem.as_bytes()).unwrap();
    let client = Client::new(&server, &service).unwrap();
    let text = client
        .post(&json!({}), TIMEOUT, ANSWER_LIMIT)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "Post \"https://svc.ns.svc:443/p?timeout=5s\": service \"svc\" not found"
    );
}

#[tokio::test]
async fn a_kubeconfig_gives_address_trust_and_credentials() {
    let (port, pem, seen) = webhook(&["webhook.example"], &ok("{}")).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    std::fs::write(directory.path().join("ca.crt"), pem).unwrap();
    std::fs::write(directory.path().join("token"), "first\n").unwrap();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster: {{server: 'https://127.0.0.1:{port}/authorize', \
         tls-server-name: webhook.example, certificate-authority: ca.crt}}\nusers:\n- name: u\n  user: {{tokenFile: token}}\n\
         contexts:\n- name: c\n  context: {{cluster: k, user: u}}\n"
    );
    std::fs::write(&path, text).unwrap();
    let client = Client::from_kubeconfig(&path, None, SystemClock::shared()).unwrap();
    client
        .post(&json!({}), TIMEOUT, ANSWER_LIMIT)
        .await
        .unwrap();
    std::fs::write(directory.path().join("token"), "second\n").unwrap();
    client
        .post(&json!({}), TIMEOUT, ANSWER_LIMIT)
        .await
        .unwrap();
    let requests = seen.requests.lock().concat();
    assert!(
        requests.starts_with("POST /authorize?timeout=5s"),
        "{requests}"
    );
    assert!(
        requests.contains("authorization: Bearer first\r\n")
            && requests.contains("authorization: Bearer second\r\n")
    );
    let missing = Client::from_kubeconfig(&path, Some("x"), SystemClock::shared())
        .err()
        .unwrap();
    assert!(
        missing
            .to_string()
            .ends_with("context \"x\" does not exist"),
        "{missing}"
    );
}
