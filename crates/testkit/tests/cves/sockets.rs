//! Raw connections to a test's server.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use skiff_testkit::TestCluster;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a test waits for an answer that must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connector that speaks HTTP/1.1.
pub fn connector(cluster: &TestCluster) -> TlsConnector {
    let authority = cluster.kubeconfig().with_file_name("ca.crt");
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(authority).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// A TLS connection over which nothing was said yet.
pub async fn connect(cluster: &TestCluster) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(cluster.address).await.unwrap();
    let name = ServerName::from(cluster.address.ip());
    connector(cluster).connect(name, stream).await.unwrap()
}

/// Reads one answer that says its length (or is sent in one chunk): its code and body.
pub async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> (u16, String) {
    tokio::time::timeout(PATIENCE, answer(stream))
        .await
        .expect("no answer")
}

async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> (u16, String) {
    let mut text = String::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                let ours = name.eq_ignore_ascii_case("content-length");
                ours.then(|| value.trim().parse::<usize>().ok())?
            });
            let chunked_end = head
                .to_ascii_lowercase()
                .contains("transfer-encoding: chunked")
                && body.ends_with("0\r\n\r\n");
            if length.is_some_and(|length| body.len() >= length) || chunked_end {
                let code = head.get(9..12).and_then(|code| code.parse().ok());
                return (code.unwrap_or(0), body.to_owned());
            }
        }
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the connection ended within an answer: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}
