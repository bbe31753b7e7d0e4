//! Listening: TLS, HTTP/1.1 and HTTP/2, upgrades, and a graceful end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use skiff_base::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::seam::PeerCertificates;
use crate::server::ApiServer;

/// How long a client may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests under way are given at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a request came from; a request extension.
#[derive(Clone, Copy, Debug)]
pub struct RemoteAddress(pub SocketAddr);

/// The TLS configuration of a listener, which may be swapped while it runs (renewed certificates).
pub type SharedTls = Arc<ArcSwap<rustls::ServerConfig>>;

impl ApiServer {
    /// Serves HTTPS on a listener until `shutdown`, then lets requests under way end. The configuration's ALPN
    /// protocols should be `h2` and `http/1.1`, its client verifier one that lets clients without certificate through.
    pub async fn serve_tls(
        self: &Arc<Self>,
        listener: TcpListener,
        tls: SharedTls,
        shutdown: Shutdown,
    ) {
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.triggered() => break,
            };
            let (socket, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: wait for some to be closed.
                    tracing::warn!(%error, "accepting a connection failed");
                    self.clock.sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let acceptor = TlsAcceptor::from(tls.load_full());
            let server = self.clone();
            let clock = self.clock.clone();
            let watcher = graceful.watcher();
            tokio::spawn(async move {
                let _ = socket.set_nodelay(true);
                let stream = tokio::select! {
                    stream = acceptor.accept(socket) => stream,
                    () = clock.sleep(HANDSHAKE_TIMEOUT) => return,
                };
                match stream {
                    Ok(stream) => {
                        let peer = peer_certificates(&stream);
                        serve_connection(stream, remote, peer, server, watcher).await;
                    }
                    Err(error) => tracing::debug!(%error, %remote, "TLS handshake failed"),
                }
            });
        }
        drop(listener);
        // Watches end, so that their connections can.
        self.stop();
        tokio::select! {
            () = graceful.shutdown() => {}
            () = self.clock.sleep(DRAIN_TIMEOUT) => tracing::warn!("some requests did not end in time"),
        }
    }
}

fn peer_certificates(
    stream: &tokio_rustls::server::TlsStream<TcpStream>,
) -> Option<PeerCertificates> {
    let chain = stream.get_ref().1.peer_certificates()?;
    let chain = chain
        .iter()
        .map(|certificate| certificate.clone().into_owned());
    Some(PeerCertificates::new(chain.collect()))
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    remote: SocketAddr,
    peer: Option<PeerCertificates>,
    server: Arc<ApiServer>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // Not through tower: the future lives in the connection, and bodies that are empty are not boxed.
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(RemoteAddress(remote));
        if let Some(peer) = &peer {
            parts.extensions.insert(peer.clone());
        }
        let body = if body.is_end_stream() {
            Body::empty()
        } else {
            Body::new(body)
        };
        let server = server.clone();
        async move {
            let request = http::Request::from_parts(parts, body);
            Ok::<_, Infallible>(server.handle(request, None).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(60));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1000)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .max_send_buf_size(256 << 10)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(15));
    let connection = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, %remote, "connection ended");
    }
}
