//! HTTP probes and hooks: a GET that is answered well.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::probes::{Attempt, dial_error, join_host_port, port};

/// The most of an answer that is read.
const MAX_BODY: usize = 10 * 1024;
/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// One GET.
#[derive(Clone, Debug)]
pub struct Call {
    /// The whole address.
    pub uri: Uri,
    headers: HeaderMap,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The code.
    pub status: StatusCode,
    /// The beginning of the body.
    pub body: String,
    location: Option<String>,
}

impl Call {
    /// The call that a spec describes; `purpose` names it in the user agent.
    pub fn of(
        get: &HTTPGetAction,
        container: &Container,
        pod_ip: &str,
        purpose: &str,
    ) -> Result<Self, String> {
        let host = get
            .host
            .as_deref()
            .filter(|h| !h.is_empty())
            .unwrap_or(pod_ip);
        let port = port(&get.port, container)?;
        let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
        let path = get.path.as_deref().unwrap_or("/");
        let slash = if path.starts_with('/') { "" } else { "/" };
        let text = format!("{scheme}://{}{slash}{path}", join_host_port(host, port));
        let uri = text.parse::<Uri>().map_err(|e| format!("{text}: {e}"))?;
        let mut headers = HeaderMap::new();
        for entry in get.http_headers.iter().flatten() {
            let name = HeaderName::from_bytes(entry.name.as_bytes());
            let name = name.map_err(|e| format!("header {}: {e}", entry.name))?;
            let value = HeaderValue::from_bytes(entry.value.as_bytes());
            let value = value.map_err(|e| format!("header {}: {e}", entry.name))?;
            headers.append(name, value);
        }
        if !headers.contains_key(header::USER_AGENT) {
            let agent = HeaderValue::from_str(&format!("kube-{purpose}/1.36"));
            headers.extend(agent.ok().map(|agent| (header::USER_AGENT, agent)));
        }
        if !headers.contains_key(header::ACCEPT) {
            headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        }
        Ok(Self { uri, headers })
    }
}

/// Makes a probe's attempt.
pub async fn attempt(call: &Call, timeout: Duration) -> Attempt {
    let answer = match tokio::time::timeout(timeout, follow(call)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            return Attempt::Failure(format!("Get {:?}: {error}", call.uri.to_string()));
        }
        Err(_) => {
            return Attempt::Failure(format!(
                "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                call.uri.to_string()
            ));
        }
    };
    let code = answer.status.as_u16();
    match code {
        200..=299 => Attempt::Success,
        300..=399 => Attempt::Warning(format!(
            "Probe terminated redirects, Response body: {}",
            answer.body
        )),
        _ => Attempt::Failure(format!("HTTP probe failed with statuscode: {code}")),
    }
}

/// Makes a call and follows redirects that stay on the host.
pub async fn follow(call: &Call) -> Result<Answer, String> {
    let mut call = call.clone();
    for _ in 0..MAX_REDIRECTS {
        let answer = get(&call).await?;
        let next = answer
            .location
            .as_ref()
            .filter(|_| answer.status.is_redirection())
            .and_then(|location| resolve(&call.uri, location));
        match next {
            Some(next) if next.host() == call.uri.host() => call.uri = next,
            _ => return Ok(answer),
        }
    }
    Err("stopped after 10 redirects".to_owned())
}

fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let target: Uri = location.parse().ok()?;
    if target.host().is_some() {
        return Some(target);
    }
    let mut parts = base.clone().into_parts();
    let path = if location.starts_with('/') {
        location.to_owned()
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(d, _)| d);
        format!("{directory}/{location}")
    };
    parts.path_and_query = Some(path.parse().ok()?);
    Uri::from_parts(parts).ok()
}

async fn get(call: &Call) -> Result<Answer, String> {
    let host = call.uri.host().unwrap_or_default();
    let tls = call.uri.scheme_str() == Some("https");
    let port = call.uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let bare = host.trim_matches(['[', ']']);
    let address = join_host_port(bare, port);
    let stream = TcpStream::connect(&address)
        .await
        .map_err(|error| dial_error(&address, &error))?;
    if tls {
        let name = ServerName::try_from(bare.to_owned()).map_err(|e| e.to_string())?;
        let connector = TlsConnector::from(TRUST_ANYBODY.clone());
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|e| e.to_string())?;
        exchange(TokioIo::new(stream), call).await
    } else {
        exchange(TokioIo::new(stream), call).await
    }
}

async fn exchange<S>(stream: S, call: &Call) -> Result<Answer, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
        .await
        .map_err(|e| e.to_string())?;
    let mut request = Request::get(call.uri.path_and_query().map_or("/", |p| p.as_str()))
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    *request.headers_mut() = call.headers.clone();
    if !request.headers().contains_key(header::HOST)
        && let Some(authority) = call.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
    }
    let talk =
        async move {
            let answer = sender.send_request(request).await.map_err(|e| {
                match e.is_incomplete_message() {
                    true => "EOF".to_owned(),
                    false => e.to_string(),
                }
            })?;
            let status = answer.status();
            let location = answer.headers().get(header::LOCATION);
            let location = location
                .and_then(|l| l.to_str().ok())
                .map(ToOwned::to_owned);
            // A long body is cut: the beginning is enough for the message.
            let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
            let body = body.map(|b| b.to_bytes()).unwrap_or_default();
            Ok(Answer {
                status,
                body: String::from_utf8_lossy(&body).into_owned(),
                location,
            })
        };
    tokio::pin!(connection);
    tokio::pin!(talk);
    tokio::select! {
        answer = &mut talk => answer,
        _ = &mut connection => talk.await,
    }
}

/// Pods serve probes with certificates of their own making: they are not checked.
static TRUST_ANYBODY: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(TrustAnybody(provider.clone()));
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = match builder {
        Ok(builder) => builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth(),
        Err(error) => unreachable!("ring supports the default TLS versions: {error}"),
    };
    Arc::new(config)
});

#[derive(Debug)]
struct TrustAnybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Answers every connection with the text for its path.
    async fn server(answers: &'static [(&'static str, &'static str)]) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 2048];
                let read = stream.read(&mut buffer).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default();
                let answer = answers
                    .iter()
                    .find(|(p, _)| *p == path)
                    .map_or("", |(_, a)| a);
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    async fn probe(port: u16, path: &str) -> Attempt {
        let get = HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::Int(port.into()),
            ..Default::default()
        };
        let call = Call::of(&get, &Container::default(), "127.0.0.1", "probe").unwrap();
        attempt(&call, Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn codes_and_redirects() {
        let port = server(&[
            ("/ok", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"),
            ("/bad", "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"),
            (
                "/near",
                "HTTP/1.1 302 Go\r\nlocation: /ok\r\ncontent-length: 0\r\n\r\n",
            ),
            (
                "/far",
                "HTTP/1.1 302 Go\r\nlocation: http://example.com/\r\ncontent-length: 1\r\n\r\nx",
            ),
            (
                "/loop",
                "HTTP/1.1 302 Go\r\nlocation: /loop\r\ncontent-length: 0\r\n\r\n",
            ),
        ])
        .await;
        assert_eq!(probe(port, "/ok").await, Attempt::Success);
        assert_eq!(probe(port, "/near").await, Attempt::Success);
        let failed = "HTTP probe failed with statuscode: 503".to_owned();
        assert_eq!(probe(port, "/bad").await, Attempt::Failure(failed));
        let warning = "Probe terminated redirects, Response body: x".to_owned();
        assert_eq!(probe(port, "/far").await, Attempt::Warning(warning));
        assert!(
            matches!(probe(port, "/loop").await, Attempt::Failure(m) if m.contains("10 redirects"))
        );
        assert!(matches!(probe(port, "/closed").await, Attempt::Failure(m) if m.contains("EOF")));
    }
}
