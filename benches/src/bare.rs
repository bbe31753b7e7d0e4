//! The yardstick: hyper and rustls with nothing behind them, in a process of its own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::load::Target;

/// Serves answers of `bytes` bytes on a free port; prints the port and the certificate.
pub async fn serve(bytes: usize) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes())?;
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    println!("{}", serde_json::to_string(made.cert.der().as_ref())?);
    let body = Bytes::from(vec![b'x'; bytes]);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, body) = (acceptor.clone(), body.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(move |_| {
                let body = body.clone();
                async move { anyhow::Ok(Response::new(Full::new(body))) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// The bare server as a child of the bench.
pub struct Bare {
    child: Child,
    /// Where it is.
    pub target: Target,
}

impl Bare {
    /// Starts this program anew as a bare server.
    pub async fn start(bytes: usize) -> Result<Self> {
        let mut child = Command::new(Path::new("/proc/self/exe"))
            .args(["bare", &bytes.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("no output")?;
        let output = tokio::process::ChildStdout::from_std(output)?;
        let mut lines = BufReader::new(output).lines();
        let port = lines.next_line().await?.context("no port")?;
        let certificate = lines.next_line().await?.context("no certificate")?;
        let certificate: Vec<u8> = serde_json::from_str(&certificate)?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.into())?;
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let target = Target {
            address: format!("127.0.0.1:{port}").parse()?,
            tls: Arc::new(tls),
        };
        Ok(Self { child, target })
    }
}

impl Bare {
    /// Its process.
    pub fn process(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or_default()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
