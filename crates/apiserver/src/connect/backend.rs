//! One request passed on to a backend, upgrades included: bytes are copied, nothing is looked into.

use std::sync::Arc;

use axum::body::Body;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use skiff_api::{ApiError, ApiResult};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Where a request goes.
#[derive(Clone)]
pub(crate) struct Endpoint {
    /// A name or an address.
    pub host: String,
    pub port: u16,
    /// `None`: plain HTTP.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Whom the certificate must be for; `None`: the host.
    pub server_name: Option<String>,
    /// The address of `host` that was looked up and found to be allowed; `None`: it is looked up when it is needed.
    pub address: Option<std::net::IpAddr>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Endpoint {
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        let stream = match self.address {
            Some(address) => TcpStream::connect((address, self.port)).await?,
            None => TcpStream::connect((self.host.as_str(), self.port)).await?,
        };
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(self.server_name.as_ref().unwrap_or(&self.host).clone())
            .map_err(std::io::Error::other)?;
        let connector = tokio_rustls::TlsConnector::from(tls.clone());
        Ok(Box::new(connector.connect(name, stream).await?))
    }
}

/// Passes a request on; an upgrade is completed on both sides and its bytes copied until one side ends.
pub(crate) async fn forward(
    parts: &mut Parts,
    body: Body,
    endpoint: &Endpoint,
    path: &str,
) -> ApiResult<Response<Body>> {
    let upgrading = parts.headers.contains_key(UPGRADE);
    // Taken from the client's request before it is answered.
    let client = upgrading
        .then(|| parts.extensions.remove::<hyper::upgrade::OnUpgrade>())
        .flatten();
    if upgrading && client.is_none() {
        return Err(ApiError::bad_request("this connection cannot be upgraded"));
    }
    let request = outgoing(parts, body, endpoint, path)?;
    let stream = endpoint.connect().await.map_err(|error| {
        ApiError::internal(format!(
            "error dialing backend: dial tcp {}: {error}",
            endpoint.authority()
        ))
    })?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) =
        handshake.map_err(|error| ApiError::internal(format!("error dialing backend: {error}")))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a backend ended");
        }
    });
    let mut response = sender
        .send_request(request)
        .await
        .map_err(|error| ApiError::internal(format!("error sending request: {error}")))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && !upgrading {
        // What follows on that connection is not HTTP, and nobody here asked for it.
        return Err(ApiError::internal(
            "the backend switched protocols without being asked to",
        ));
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let backend = hyper::upgrade::on(&mut response);
        if let Some(client) = client {
            tokio::spawn(copy(client, backend));
        }
    } else {
        response.headers_mut().remove(CONNECTION);
        response.headers_mut().remove(TRANSFER_ENCODING);
    }
    Ok(response.map(Body::new))
}

async fn copy(client: hyper::upgrade::OnUpgrade, backend: hyper::upgrade::OnUpgrade) {
    match tokio::try_join!(client, backend) {
        Ok((client, backend)) => {
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            // Either side may go at any time.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
        }
        Err(error) => tracing::debug!(%error, "an upgrade failed"),
    }
}

/// The request as the backend gets it: without the client's credentials.
fn outgoing(
    parts: &Parts,
    body: Body,
    endpoint: &Endpoint,
    path: &str,
) -> ApiResult<Request<Body>> {
    let mut request = Request::builder()
        .method(parts.method.clone())
        .uri(path)
        .body(body)
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    let upgrading = parts.headers.contains_key(UPGRADE);
    let headers = request.headers_mut();
    for (name, value) in &parts.headers {
        let hop = *name == TRANSFER_ENCODING || (*name == CONNECTION && !upgrading);
        let secret = *name == AUTHORIZATION || name.as_str().starts_with("impersonate-");
        if *name != HOST && !hop && !secret {
            headers.append(name, value.clone());
        }
    }
    let host = HeaderValue::from_str(&endpoint.authority()).map_err(ApiError::internal)?;
    headers.insert::<HeaderName>(HOST, host);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_here_and_upgrades_pass() {
        let endpoint = Endpoint {
            host: "::1".into(),
            port: 10250,
            tls: None,
            server_name: None,
            address: None,
        };
        let request = Request::builder()
            .uri("/x")
            .header(AUTHORIZATION, "Bearer secret")
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header("Impersonate-User", "x")
            .header(HOST, "apiserver")
            .body(())
            .unwrap();
        let (parts, ()) = request.into_parts();
        let out = outgoing(&parts, Body::empty(), &endpoint, "/exec/a/b/c?command=ls").unwrap();
        assert_eq!(out.headers()[HOST], "[::1]:10250");
        assert_eq!(out.headers()[UPGRADE], "websocket");
        assert_eq!(out.headers()[CONNECTION], "Upgrade");
        assert_eq!(out.headers().len(), 3);
    }
}
