//! How connections to webhooks are made: services are looked up in the server's own caches, no cluster DNS is needed.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::ServerRef;

/// Why there is no connection; the text is complete.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ConnectError(pub String);

/// Where connections go.
#[derive(Clone)]
enum Place {
    /// A host name or address, and a port.
    Host(String, u16),
    /// A service: namespace, name, port.
    Service(ServerRef, String, String, u16),
}

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector {
    place: Place,
    /// `None`: plain HTTP, which only kubeconfig files may ask for.
    tls: Option<(ServerName<'static>, Arc<rustls::ClientConfig>)>,
}

impl Connector {
    /// Connections to a URL's host. `server_name`: whom its certificate is for, where that is somebody else.
    pub fn to_url(
        url: &url::Url,
        tls: Option<Arc<rustls::ClientConfig>>,
        server_name: Option<&str>,
    ) -> Result<Self, String> {
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or("host must be specified")?;
        // Addresses of version 6 are in brackets.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = url.port_or_known_default().unwrap_or(443);
        let tls = tls
            .map(|tls| Ok::<_, String>((name(server_name.unwrap_or(host))?, tls)))
            .transpose()?;
        Ok(Self {
            place: Place::Host(host.to_owned(), port),
            tls,
        })
    }

    /// Connections to a service's endpoints; the certificate must be for `<name>.<namespace>.svc`.
    pub fn to_service(
        server: ServerRef,
        (namespace, service, port): (&str, &str, u16),
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<Self, String> {
        Ok(Self {
            tls: Some((name(&format!("{service}.{namespace}.svc"))?, tls)),
            place: Place::Service(server, namespace.to_owned(), service.to_owned(), port),
        })
    }

    async fn connect(self) -> Result<Link, ConnectError> {
        let (host, port) = match self.place {
            Place::Host(host, port) => (host, port),
            Place::Service(server, namespace, name, port) => {
                let server = server
                    .upgrade()
                    .ok_or_else(|| ConnectError("the server is shutting down".to_owned()))?;
                if let Some(stream) = server
                    .own_services
                    .connect(&server, &namespace, &name)
                    .await
                {
                    return Ok(Link(TokioIo::new(Box::new(stream))));
                }
                crate::connect::service_endpoint(&server, &namespace, &name, port)
                    .await
                    .map_err(|error| ConnectError(error.message))?
            }
        };
        let stream = TcpStream::connect((host.as_str(), port))
            .await
            .map_err(|error| ConnectError(dial_text(&host, port, &error)))?;
        // Without it a request may wait for the answer to the one before.
        let _ = stream.set_nodelay(true);
        let Some((name, tls)) = self.tls else {
            return Ok(Link(TokioIo::new(Box::new(stream))));
        };
        let connector = tokio_rustls::TlsConnector::from(tls);
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| ConnectError(tls_text(&error)))?;
        Ok(Link(TokioIo::new(Box::new(stream))))
    }
}

fn name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned()).map_err(|error| format!("{text:?}: {error}"))
}

/// In the words that people know from upstream's logs, and search for.
fn dial_text(host: &str, port: u16, error: &io::Error) -> String {
    let authority = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("dial tcp {authority}: connect: connection refused")
        }
        io::ErrorKind::ConnectionReset => format!("dial tcp {authority}: connection reset by peer"),
        io::ErrorKind::NetworkUnreachable => {
            format!("dial tcp {authority}: connect: network is unreachable")
        }
        io::ErrorKind::HostUnreachable => {
            format!("dial tcp {authority}: connect: no route to host")
        }
        io::ErrorKind::TimedOut => format!("dial tcp {authority}: i/o timeout"),
        _ if error.raw_os_error().is_none() => format!("dial tcp: lookup {host}: no such host"),
        _ => format!("dial tcp {authority}: {error}"),
    }
}

fn tls_text(error: &io::Error) -> String {
    use rustls::CertificateError as C;
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let failed = |why: &str| format!("tls: failed to verify certificate: x509: {why}");
    match inner {
        Some(rustls::Error::InvalidCertificate(C::UnknownIssuer | C::BadSignature)) => {
            failed("certificate signed by unknown authority")
        }
        Some(rustls::Error::InvalidCertificate(C::NotValidForName)) => {
            failed("certificate is not valid for the name asked for")
        }
        Some(rustls::Error::InvalidCertificate(C::NotValidForNameContext {
            expected,
            presented,
        })) => {
            if presented.is_empty() {
                failed("certificate is not valid for any names, but wanted to match ")
                    + &expected.to_str()
            } else {
                failed(&format!(
                    "certificate is valid for {}, not {}",
                    shown(presented),
                    expected.to_str()
                ))
            }
        }
        Some(rustls::Error::InvalidCertificate(
            C::Expired | C::NotValidYet | C::ExpiredContext { .. } | C::NotValidYetContext { .. },
        )) => failed("certificate has expired or is not yet valid"),
        Some(rustls::Error::InvalidCertificate(other)) => failed(&other.to_string()),
        _ if error.kind() == io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        _ => error.to_string(),
    }
}

/// `DnsName("a")`, as the library has it, without its type.
fn shown(presented: &[String]) -> String {
    let plain = |name: &String| {
        let inner = name
            .split_once("(\"")
            .and_then(|(_, rest)| rest.strip_suffix("\")"));
        inner.unwrap_or(name).to_owned()
    };
    presented.iter().map(plain).collect::<Vec<_>>().join(", ")
}

impl tower::Service<http::Uri> for Connector {
    type Response = Link;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Link, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    /// The URI is not looked at: a client has one place to go, whatever it is asked for.
    fn call(&mut self, _: http::Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection.
pub(super) struct Link(TokioIo<Box<dyn Stream>>);

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
