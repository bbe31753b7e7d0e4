//! Listening: TLS, HTTP/1.1 and HTTP/2, upgrades, and a graceful end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use skiff_base::{SharedClock, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::connection::{Connection, Guarded, HeadTimer, Watching};
use crate::held::Held;
use crate::seam::PeerCertificates;
use crate::server::ApiServer;

/// How long a client may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests under way are given at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which nothing was asked for so long is closed (after twice the time at the latest), as upstream.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// What the headers of a request may be long, as in upstream's HTTP library ...
const MAX_HEADER_BYTES: usize = 1 << 20;
/// ... and how many there may be over HTTP/1.1.
const MAX_HEADERS: usize = 500;

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
        let open = TaskTracker::new();
        let delay = self.config.limits.shutdown_delay;
        let closing = async {
            shutdown.triggered().await;
            // Those who send clients here have a while to notice before connections are refused.
            self.stopping.store(true, Ordering::Relaxed);
            if !delay.is_zero() {
                self.clock.sleep(delay).await;
            }
        };
        tokio::pin!(closing);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut closing => break,
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
            open.spawn(async move {
                let _ = socket.set_nodelay(true);
                let stream = tokio::select! {
                    stream = acceptor.accept(socket) => stream,
                    () = server.clock.sleep(HANDSHAKE_TIMEOUT) => return,
                };
                match stream {
                    Ok(stream) => {
                        let peer = peer_certificates(&stream);
                        let watching = Watching::default();
                        let stream = Guarded::new(stream, watching.clone(), server.clock.clone());
                        serve_connection(stream, remote, peer, watching, &server).await;
                    }
                    Err(error) => tracing::debug!(%error, %remote, "TLS handshake failed"),
                }
            });
        }
        drop(listener);
        // Watches end, so that their connections can.
        self.stop();
        open.close();
        tokio::select! {
            () = open.wait() => {}
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
    watching: Watching,
    server: &Arc<ApiServer>,
) {
    let activity = Arc::new(Activity::default());
    let connection = Connection { remote, watching };
    // Not through tower: the future lives in the connection, and bodies that are empty are not boxed.
    let (answering, active) = (server.clone(), activity.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let active = active.begin();
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(connection.clone());
        if let Some(peer) = &peer {
            parts.extensions.insert(peer.clone());
        }
        let body = if body.is_end_stream() {
            Body::empty()
        } else {
            Body::new(body)
        };
        let server = answering.clone();
        async move {
            let limits = &server.config.limits;
            if limits.send_retry_after && server.shutdown.is_triggered() {
                return Ok(crate::limits::shutting_down());
            }
            if limits.goaway_chance > 0.0
                && parts.version == http::Version::HTTP_2
                && server.random.fraction() < limits.goaway_chance
            {
                active.0.leave.notify_one();
            }
            let response = server.handle(Request::from_parts(parts, body), None).await;
            Ok::<_, Infallible>(until_read(response, active))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(HeadTimer::default())
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .header_read_timeout(Duration::from_secs(60));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1000)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .max_send_buf_size(256 << 10)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(15));
    let connection = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .into_owned();
    let mut connection = Box::pin(connection);
    let mut idle = Box::pin(activity.idle(&server.clock));
    let mut leaving = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, %remote, "connection ended");
                }
                return;
            }
            // Requests under way are still answered.
            () = server.shutdown.triggered(), if !leaving => {}
            () = activity.leave.notified(), if !leaving => {}
            () = idle.as_mut(), if !leaving => {}
        }
        leaving = true;
        connection.as_mut().graceful_shutdown();
    }
}

/// What happens on a connection.
#[derive(Default)]
struct Activity {
    /// Requests that are being answered.
    active: AtomicUsize,
    /// Requests so far.
    seen: AtomicUsize,
    /// The client shall connect anew.
    leave: Notify,
}

impl Activity {
    /// Returns when nothing was asked for a while.
    async fn idle(&self, clock: &SharedClock) {
        loop {
            let seen = self.seen.load(Ordering::Relaxed);
            clock.sleep(IDLE_TIMEOUT).await;
            if self.active.load(Ordering::Relaxed) == 0 && self.seen.load(Ordering::Relaxed) == seen
            {
                return;
            }
        }
    }

    fn begin(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.seen.fetch_add(1, Ordering::Relaxed);
        Active(self.clone())
    }
}

/// A request that is being answered.
struct Active(Arc<Activity>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The answer; one that is long is written as long as the client reads it.
fn until_read(response: Response<Body>, active: Active) -> Response<Body> {
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|inner| {
        // Its connection is not idle as long as it lasts.
        Body::new(Held::new(inner, active))
    })
}
