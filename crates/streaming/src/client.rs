//! The client's side of exec and attach, over a connection that was upgraded already.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::protocol::Role as WebSocketRole;
use tokio_util::sync::CancellationToken;

use crate::StreamError;
use crate::pipe::{Reader, Writer};
use crate::remote_command::{
    ERROR, ExitStatus, RESIZE, RemoteOptions, STDERR, STDIN, STDOUT, TerminalSize,
};
use crate::websocket::{Channels, Codec};

/// The subprotocols to ask for, best first.
pub const WEBSOCKET_PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// A running command, seen from the client. Dropping it closes the connection.
#[derive(Debug)]
pub struct RemoteClient {
    /// Input; shutting it down ends the command's input (v5 only).
    pub stdin: Option<Writer>,
    /// Output.
    pub stdout: Option<Reader>,
    /// Error output.
    pub stderr: Option<Reader>,
    resize: Writer,
    status: Option<Reader>,
    channels: Channels,
}

impl RemoteClient {
    /// Speaks over an upgraded connection on which the server chose `protocol`.
    pub async fn new(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        protocol: &str,
        options: RemoteOptions,
    ) -> Self {
        let readable = [false, options.stdout, options.stderr, true];
        let codec = Codec::of(protocol);
        let mut channels = Channels::new(io, WebSocketRole::Client, codec, &readable).await;
        Self {
            stdin: options.stdin.then(|| channels.writer(STDIN)),
            stdout: channels.reader(STDOUT),
            stderr: channels.reader(STDERR),
            resize: channels.writer(RESIZE),
            status: channels.reader(ERROR),
            channels,
        }
    }

    /// Tells the server the size of our terminal.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), StreamError> {
        let text = serde_json::json!({"Width": size.width, "Height": size.height}).to_string();
        Ok(self.resize.write_all(text.as_bytes()).await?)
    }

    /// Waits for the command's end. The outputs must be read elsewhere meanwhile.
    ///
    /// # Errors
    /// The connection ended without a status.
    pub async fn status(&mut self) -> Result<ExitStatus, StreamError> {
        let mut bytes = Vec::new();
        if let Some(mut status) = self.status.take() {
            status.read_to_end(&mut bytes).await?;
        }
        if bytes.is_empty() {
            return Err(StreamError::Closed);
        }
        Ok(ExitStatus::from_wire(&bytes))
    }

    /// Cancelled when the connection is closed.
    #[must_use]
    pub fn closed(&self) -> CancellationToken {
        self.channels.closed()
    }
}
