//! Exec and attach: standard streams, terminal size and exit status over one connection.

use std::collections::HashMap;
use std::time::Duration;

use http::{Request, Response};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Role as WebSocketRole;
use tokio_util::sync::CancellationToken;

use crate::negotiate::{Rejection, Upgrade, query, spdy, upgrade_of, websocket};
use crate::pipe::{Reader, Stream, Writer};
use crate::spdy::{Connection, Role};
use crate::websocket::{Channels, Codec};
use crate::{StreamError, upgraded};

pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;
pub(crate) const ERROR: u8 = 3;
pub(crate) const RESIZE: u8 = 4;

/// What we speak over WebSocket.
const WEBSOCKET: [&str; 6] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];
/// What we speak over SPDY.
const SPDY: [&str; 4] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
/// A SPDY client must have opened all its streams by then.
const STREAMS_WITHIN: Duration = Duration::from_secs(30);
/// No terminal size takes more bytes.
const MAX_RESIZE: usize = 4096;

/// Which streams a command gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteOptions {
    /// The client sends input.
    pub stdin: bool,
    /// The client takes output.
    pub stdout: bool,
    /// The client takes error output. Never with a terminal, which has only one output.
    pub stderr: bool,
    /// The command gets a terminal.
    pub tty: bool,
}

impl RemoteOptions {
    /// Reads a query: `stdin`, `stdout`, `stderr`, `tty` as for the pods' subresources, or `input`, `output`,
    /// `error`, `tty` as for the kubelet and CRI streaming servers.
    ///
    /// # Errors
    /// No stream is asked for.
    pub fn from_query(text: Option<&str>) -> Result<Self, Rejection> {
        let mut options = Self::default();
        for (name, value) in query(text) {
            let wanted = !matches!(value.to_ascii_lowercase().as_str(), "" | "0" | "false");
            match name.as_str() {
                "stdin" | "input" => options.stdin |= wanted,
                "stdout" | "output" => options.stdout |= wanted,
                "stderr" | "error" => options.stderr |= wanted,
                "tty" => options.tty |= wanted,
                _ => {}
            }
        }
        options.checked()
    }

    /// As upstream: no error output beside a terminal, and at least one stream.
    fn checked(mut self) -> Result<Self, Rejection> {
        self.stderr &= !self.tty;
        if self.stdin || self.stdout || self.stderr {
            Ok(self)
        } else {
            Err(Rejection::bad_request(
                "you must specify at least 1 of stdin, stdout, stderr",
            ))
        }
    }
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// With exit code 0, or the client detached.
    Success,
    /// With another exit code.
    ExitCode(i32),
    /// It could not be run, or not to its end.
    Error(String),
}

impl ExitStatus {
    /// The `Status` object on the error channel (v4 and later).
    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Success => serde_json::json!({"metadata": {}, "status": "Success"}),
            Self::ExitCode(code) => serde_json::json!({
                "metadata": {},
                "status": "Failure",
                "message": self.message(),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Error(_) => serde_json::json!({
                "metadata": {},
                "status": "Failure",
                "message": self.message(),
                "reason": "InternalError",
                "code": 500,
            }),
        }
    }

    /// The text on the error channel of older protocols; empty for success.
    fn message(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::ExitCode(code) => format!(
                "command terminated with non-zero exit code: command terminated with exit code {code}"
            ),
            Self::Error(reason) => format!("Internal error occurred: {reason}"),
        }
    }

    /// Reads what [`Self::to_json`] or an upstream server wrote.
    #[must_use]
    pub fn from_wire(bytes: &[u8]) -> Self {
        let Ok(status) = serde_json::from_slice::<serde_json::Value>(bytes) else {
            return match bytes {
                [] => Self::Success,
                text => Self::Error(String::from_utf8_lossy(text).into_owned()),
            };
        };
        if status["status"] == "Success" {
            return Self::Success;
        }
        let causes = status["details"]["causes"].as_array();
        let code = causes
            .into_iter()
            .flatten()
            .find(|cause| cause["reason"] == "ExitCode")
            .and_then(|cause| cause["message"].as_str()?.parse().ok());
        match code {
            Some(code) if status["reason"] == "NonZeroExitCode" => Self::ExitCode(code),
            _ => Self::Error(status["message"].as_str().unwrap_or_default().to_owned()),
        }
    }
}

/// The streams of a command, on the server's side.
///
/// Outputs must be shut down or dropped before [`RemoteStatus::finish`] is called.
#[derive(Debug)]
pub struct RemoteStreams {
    /// Input, if the client sends any. It ends when the client ends it (not in WebSocket protocols before v5)
    /// or goes away.
    pub stdin: Option<Reader>,
    /// Output, if the client takes it.
    pub stdout: Option<Writer>,
    /// Error output, if the client takes it.
    pub stderr: Option<Writer>,
    /// Sizes of the client's terminal, as it changes; none without terminal.
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
    /// Where the exit status goes. Dropping it closes the connection without a word.
    pub status: RemoteStatus,
    /// Cancelled when the client goes away.
    pub closed: CancellationToken,
}

/// Tells the client how the command ended, and closes the connection.
#[derive(Debug)]
pub struct RemoteStatus {
    writer: Option<Writer>,
    json: bool,
    // These two end with this value, in this order.
    _kept: Vec<Writer>,
    _connection: Transport,
}

#[derive(Debug)]
enum Transport {
    // Held for their `Drop`, which closes the connection.
    WebSocket(#[allow(dead_code)] Channels),
    Spdy(#[allow(dead_code)] Connection),
}

impl RemoteStatus {
    /// Sends the status after all output that was written, and closes.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn finish(mut self, status: ExitStatus) -> Result<(), StreamError> {
        let text = match self.json {
            true => status.to_json().to_string(),
            false => status.message(),
        };
        if let Some(mut writer) = self.writer.take() {
            writer.write_all(text.as_bytes()).await?;
            writer.shutdown().await?;
        }
        Ok(())
    }
}

/// Accepts an exec or attach request, which must come from hyper.
///
/// The response is to be sent to the client; the future then gives the streams. `options` is what the query
/// says, or what was agreed upon before.
///
/// # Errors
/// The request is no upgrade that we speak.
pub fn remote_command<B>(
    request: &mut Request<B>,
    options: RemoteOptions,
) -> Result<
    (
        Response<()>,
        impl Future<Output = Result<RemoteStreams, StreamError>> + Send + 'static,
    ),
    Rejection,
> {
    let options = options.checked()?;
    let upgrade = upgrade_of(request.headers())?;
    let (protocol, response) = match upgrade {
        Upgrade::WebSocket => websocket(request, &WEBSOCKET)?,
        Upgrade::Spdy => spdy(request, &SPDY)?,
    };
    let on_upgrade = hyper::upgrade::on(request);
    let streams = async move {
        let io = upgraded(on_upgrade).await?;
        match upgrade {
            Upgrade::WebSocket => Ok(over_websocket(io, protocol, options).await),
            Upgrade::Spdy => {
                let connection = Connection::new(io, Role::Server);
                tokio::time::timeout(STREAMS_WITHIN, over_spdy(connection, protocol, options))
                    .await
                    .map_err(|_| StreamError::Timeout)?
            }
        }
    };
    Ok((response, streams))
}

async fn over_websocket(
    io: impl AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    protocol: &'static str,
    options: RemoteOptions,
) -> RemoteStreams {
    let readable = [options.stdin, false, false, false, options.tty];
    let codec = Codec::of(protocol);
    let mut channels = Channels::new(io, WebSocketRole::Server, codec, &readable).await;
    channels.greet(match options {
        RemoteOptions { stdout: true, .. } => STDOUT,
        RemoteOptions { stderr: true, .. } => STDERR,
        _ => ERROR,
    });
    RemoteStreams {
        stdin: channels.reader(STDIN),
        stdout: options.stdout.then(|| channels.writer(STDOUT)),
        stderr: options.stderr.then(|| channels.writer(STDERR)),
        resize: channels.reader(RESIZE).map(sizes),
        closed: channels.closed(),
        status: RemoteStatus {
            writer: Some(channels.writer(ERROR)),
            json: protocol.starts_with("v4.") || protocol.starts_with("v5."),
            _kept: Vec::new(),
            _connection: Transport::WebSocket(channels),
        },
    }
}

async fn over_spdy(
    mut connection: Connection,
    protocol: &'static str,
    options: RemoteOptions,
) -> Result<RemoteStreams, StreamError> {
    let resizes = options.tty && matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
    let expected = [
        ("error", true),
        ("stdin", options.stdin),
        ("stdout", options.stdout),
        ("stderr", options.stderr),
        ("resize", resizes),
    ];
    let mut missing: Vec<&str> = expected
        .iter()
        .filter(|(_, expected)| *expected)
        .map(|(name, _)| *name)
        .collect();
    let mut streams: HashMap<&str, Stream> = HashMap::new();
    while !missing.is_empty() {
        let incoming = connection.accept().await.ok_or(StreamError::Closed)?;
        let name = incoming.headers.get("streamType").unwrap_or_default();
        match missing.iter().position(|missing| *missing == name) {
            Some(at) => {
                streams.insert(missing.swap_remove(at), incoming.accept());
            }
            None => {
                tracing::debug!(name, "unexpected stream");
                incoming.refuse();
            }
        }
    }
    let mut writer = |name| streams.remove(name).map(|stream: Stream| stream.writer);
    let (error, stdout, stderr) = (writer("error"), writer("stdout"), writer("stderr"));
    // Our end of these stays open: when it ends, kubectl takes that as a sign to send no more input.
    let mut kept = Vec::new();
    let mut reader = |name| {
        let Stream { reader, writer } = streams.remove(name)?;
        kept.push(writer);
        Some(reader)
    };
    let (stdin, resize) = (reader("stdin"), reader("resize"));
    Ok(RemoteStreams {
        stdin,
        stdout,
        stderr,
        resize: resize.map(sizes),
        closed: connection.closed(),
        status: RemoteStatus {
            writer: error,
            json: protocol == "v4.channel.k8s.io",
            _kept: kept,
            _connection: Transport::Spdy(connection),
        },
    })
}

/// Terminal sizes as they are read: JSON objects one after the other.
fn sizes(reader: Reader) -> mpsc::Receiver<TerminalSize> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let _ = read_sizes(reader, sender).await;
    });
    receiver
}

async fn read_sizes(
    mut reader: impl AsyncRead + Unpin,
    sender: mpsc::Sender<TerminalSize>,
) -> Result<(), StreamError> {
    let mut text = Vec::new();
    while reader.read_buf(&mut text).await? > 0 {
        let mut objects = serde_json::Deserializer::from_slice(&text).into_iter::<TerminalSize>();
        let mut used = 0;
        while let Some(object) = objects.next() {
            match object {
                Ok(size) => {
                    used = objects.byte_offset();
                    if sender.send(size).await.is_err() {
                        return Ok(());
                    }
                }
                Err(error) if error.is_eof() => break,
                // As upstream: nothing that follows can be trusted.
                Err(_) => return Ok(()),
            }
        }
        text.drain(..used);
        if text.len() > MAX_RESIZE {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_query_are_read() {
        let all = RemoteOptions {
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        };
        let cases = [
            ("stdin=true&stdout=true&stderr=true", Some(all)),
            ("input=1&output=1&error=1&tty=0", Some(all)),
            (
                "command=sh&container=c&stdin=1&stdout=TRUE&stderr=true&tty=true",
                Some(RemoteOptions {
                    stderr: false,
                    tty: true,
                    ..all
                }),
            ),
            ("stdout=false&stdin=0&tty=1&stderr=true", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(
                RemoteOptions::from_query(Some(text)).ok(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn statuses_are_read_as_written() {
        for status in [ExitStatus::Success, ExitStatus::ExitCode(42)] {
            let json = status.to_json().to_string();
            assert_eq!(ExitStatus::from_wire(json.as_bytes()), status);
        }
        let failed = ExitStatus::Error("no such container".into());
        let read = ExitStatus::from_wire(failed.to_json().to_string().as_bytes());
        assert_eq!(read, ExitStatus::Error(failed.message()));
        assert_eq!(ExitStatus::from_wire(b""), ExitStatus::Success);
        assert_eq!(ExitStatus::from_wire(b"oh"), ExitStatus::Error("oh".into()));
    }

    #[tokio::test]
    async fn terminal_sizes_are_read_however_they_arrive() {
        let text = br#"{"Width":80,"Height":24} {"Width":132,"Height":43}
{"Width":1,"Height":2}{"#;
        for piece in [1, 7, 100] {
            let (mut near, far) = tokio::io::duplex(piece);
            let (sender, mut receiver) = mpsc::channel(4);
            let writer = tokio::spawn(async move {
                let _ = near.write_all(text).await;
            });
            read_sizes(far, sender).await.unwrap();
            writer.await.unwrap();
            let mut widths = Vec::new();
            while let Some(size) = receiver.recv().await {
                widths.push((size.width, size.height));
            }
            assert_eq!(widths, [(80, 24), (132, 43), (1, 2)]);
        }
    }
}
