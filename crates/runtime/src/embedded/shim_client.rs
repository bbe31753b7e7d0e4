//! The server's side of a shim: starting one, and talking to it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::process::Stdio;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, BufReader, Interest};
use tokio::net::UnixStream;

use crate::shim::protocol::{Inbox, Reply, Request, ShimConfig, frame, send};
use crate::shim::{CONFIG_FILE, SHIM_ARGUMENT, SOCKET_FILE};

/// A connection to a shim.
#[derive(Debug)]
pub struct ShimConnection {
    socket: UnixStream,
    inbox: Inbox,
}

impl ShimConnection {
    /// Connects to the shim whose directory is `dir`.
    pub fn open(dir: &Path) -> io::Result<Self> {
        // By the directory's descriptor: a socket's address is short, a path may be long.
        let handle = File::open(dir)?;
        let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", handle.as_raw_fd());
        let socket = StdStream::connect(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: UnixStream::from_std(socket)?,
            inbox: Inbox::default(),
        })
    }

    /// Sends a request, and descriptors with it.
    pub async fn send(&mut self, request: &Request, fds: &[RawFd]) -> io::Result<()> {
        let bytes = frame(request)?;
        let mut sent = 0;
        while sent < bytes.len() {
            let rights = if sent == 0 { fds } else { &[] };
            let socket = self.socket.as_raw_fd();
            sent += self
                .socket
                .async_io(Interest::WRITABLE, || send(socket, &bytes[sent..], rights))
                .await?;
        }
        Ok(())
    }

    /// Waits for the next message; none when the shim has closed the connection.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(message) = self.inbox.next_frame()? {
                return Ok(Some(message));
            }
            let socket = self.socket.as_raw_fd();
            let inbox = &mut self.inbox;
            let count = self
                .socket
                .async_io(Interest::READABLE, || inbox.receive(socket))
                .await?;
            if count == 0 {
                return Ok(None);
            }
        }
    }

    /// The descriptors that came with the messages so far.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        self.inbox.take_fds()
    }

    /// Sends a request and waits for its reply; a failure is an error.
    pub async fn call(&mut self, request: &Request, fds: &[RawFd]) -> io::Result<Reply> {
        self.send(request, fds).await?;
        match self.receive().await? {
            Some(Reply::Failed { message }) => Err(io::Error::other(message)),
            Some(reply) => Ok(reply),
            None => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the pod's shim has gone",
            )),
        }
    }
}

/// One request on a connection of its own.
pub async fn call(dir: &Path, request: &Request) -> io::Result<Reply> {
    ShimConnection::open(dir)?.call(request, &[]).await
}

/// Starts a shim that lives in `dir`. Answers its process id when it is ready.
#[allow(
    clippy::disallowed_types,
    reason = "the runtime is the seam that starts processes"
)]
pub async fn spawn(program: &Path, dir: &Path, config: &ShimConfig) -> io::Result<i32> {
    tokio::fs::write(dir.join(CONFIG_FILE), serde_json::to_vec(config)?).await?;
    let mut child = tokio::process::Command::new(program)
        .arg(SHIM_ARGUMENT)
        .arg(dir)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot start {}: {error}", program.display()),
            )
        })?;
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take() {
        // One line, whichever it is; the shim is not obliged to close the pipe soon.
        BufReader::new(stdout).read_line(&mut text).await?;
    }
    child.wait().await?;
    text.trim()
        .strip_prefix("ready ")
        .and_then(|pid| pid.parse().ok())
        .ok_or_else(|| io::Error::other(format!("the pod's shim did not start: {}", text.trim())))
}
