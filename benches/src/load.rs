//! The loader: keep-alive HTTP/1.1 over TLS, one connection a client, each client asks again when it is answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;

use crate::figures::percentile;

/// A server and how to speak to it.
#[derive(Clone)]
pub struct Target {
    /// Its address.
    pub address: SocketAddr,
    /// Its authority and our certificate.
    pub tls: Arc<rustls::ClientConfig>,
}

/// One connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Target {
    /// Opens a connection.
    pub async fn connect(&self) -> Result<Connection> {
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = rustls::pki_types::ServerName::from(self.address.ip());
        let stream = tokio_rustls::TlsConnector::from(self.tls.clone())
            .connect(name, stream)
            .await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Connection { sender })
    }
}

impl Connection {
    /// Sends a request; the answer's body is still to be read.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let content = match method {
            Method::PATCH => "application/apply-patch+yaml",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "bench")
            .header("accept", "application/json")
            .header("content-type", content)
            .body(Full::new(body))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Sends a request and reads the whole answer: its code and how many bytes it had.
    pub async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(u16, usize)> {
        let mut response = self.send(method, path, body).await?;
        let mut bytes = 0;
        while let Some(frame) = response.body_mut().frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok((response.status().as_u16(), bytes))
    }

    /// GETs a path: the code and the body.
    pub async fn get(&mut self, path: &str) -> Result<(u16, Bytes)> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        let code = response.status().as_u16();
        Ok((code, response.into_body().collect().await?.to_bytes()))
    }
}

/// What a closed loop measured.
pub struct Outcome {
    /// Answers a second.
    pub rate: f64,
    /// Bytes a second.
    pub bytes: f64,
    /// Sorted latencies.
    pub latencies: Vec<Duration>,
    /// Answers that were no success.
    pub failures: usize,
}

impl Outcome {
    /// Rate and percentiles as a person reads them.
    pub fn text(&self) -> String {
        let millis = |share| percentile(&self.latencies, share).as_secs_f64() * 1e3;
        let failed = match self.failures {
            0 => String::new(),
            count => format!(", {count} FAILED"),
        };
        format!(
            "{:.0}/s, p50 {:.2} ms, p99 {:.2} ms{failed}",
            self.rate,
            millis(0.5),
            millis(0.99)
        )
    }
}

/// Runs `clients` loops of requests for `time`; `request` gets the client's and the request's number.
pub async fn closed_loop<F>(
    target: &Target,
    clients: usize,
    time: Duration,
    request: F,
) -> Result<Outcome>
where
    F: Fn(usize, usize) -> (Method, String, Bytes) + Clone + Send + 'static,
{
    let started = Instant::now();
    let mut tasks = Vec::new();
    for client in 0..clients {
        let mut connection = target.connect().await?;
        let request = request.clone();
        tasks.push(tokio::spawn(async move {
            let (mut latencies, mut bytes, mut failures) = (Vec::new(), 0, 0);
            for number in 0.. {
                let (method, path, body) = request(client, number);
                let sent = Instant::now();
                let (code, length) = connection.exchange(method, &path, body).await?;
                latencies.push(sent.elapsed());
                bytes += length;
                failures += usize::from(!(200..300).contains(&code));
                if started.elapsed() >= time {
                    break;
                }
            }
            anyhow::Ok((latencies, bytes, failures))
        }));
    }
    let (mut latencies, mut bytes, mut failures) = (Vec::new(), 0, 0);
    for task in tasks {
        let (more, length, failed) = task.await??;
        latencies.extend(more);
        bytes += length;
        failures += failed;
    }
    let elapsed = started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    Ok(Outcome {
        rate: latencies.len() as f64 / elapsed,
        bytes: bytes as f64 / elapsed,
        latencies,
        failures,
    })
}
