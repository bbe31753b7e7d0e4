//! Accepts connections: TLS, then HTTP/1.1 with upgrades.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use skiff_base::{SharedClock, Shutdown};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::server::authenticate;

/// A client must have finished its TLS handshake by then.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves `router` on `listener` until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    clock: SharedClock,
    shutdown: Shutdown,
) {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.triggered() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                let (clock, shutdown) = (clock.clone(), shutdown.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = connection(stream, peer, acceptor, router, clock) => {}
                        () = shutdown.triggered() => {}
                    }
                });
            }
            Err(error) => {
                // Too many open files, most likely: others end meanwhile.
                tracing::warn!(%error, "cannot accept a connection");
                clock.sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    clock: SharedClock,
) {
    let handshake = tokio::select! {
        outcome = acceptor.accept(stream) => outcome,
        () = clock.sleep(HANDSHAKE) => return,
    };
    let stream = match handshake {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%peer, %error, "no TLS handshake");
            return;
        }
    };
    let (_, session) = stream.get_ref();
    let identity = session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(authenticate::of_certificate);
    let router = match identity {
        Some(identity) => router.layer(Extension(identity)),
        None => router,
    };
    let service = TowerToHyperService::new(router);
    let served = Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}
