//! The wire protocols of exec, attach and port-forward: WebSocket channels and SPDY/3.1.
//!
//! [`remote_command`] and [`port_forward`] serve upgraded requests; [`client`] is the other side of the
//! former. Neither knows what a pod is.

pub mod client;
mod negotiate;
mod pipe;
mod port_forward;
mod remote_command;
pub mod spdy;
mod websocket;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

pub use negotiate::{ACCEPTED_PROTOCOLS, Rejection, STREAM_PROTOCOL};
pub use pipe::{Reader, Stream, Writer};
pub use port_forward::{Forward, ForwardError, PortForward, port_forward};
pub use remote_command::{
    ExitStatus, RemoteOptions, RemoteStatus, RemoteStreams, TerminalSize, remote_command,
};

/// Why streaming ended early.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection was not upgraded after all.
    #[error("connection was not upgraded: {0}")]
    Upgrade(#[from] hyper::Error),
    /// The client did not open its streams.
    #[error("timed out waiting for client to create streams")]
    Timeout,
    /// The other side is gone.
    #[error("connection is closed")]
    Closed,
    /// Reading or writing failed.
    #[error("connection failed: {0}")]
    Io(#[from] std::io::Error),
}

/// The bytes of an upgraded connection.
async fn upgraded(
    on_upgrade: OnUpgrade,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, StreamError> {
    Ok(TokioIo::new(on_upgrade.await?))
}
