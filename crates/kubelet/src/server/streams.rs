//! Streams of containers: what exec, attach and port-forward need of a runtime.

use std::future::Future;
use std::pin::Pin;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::Status;

/// Where a process reads from.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
/// Where a process writes to.
pub type Output = Box<dyn AsyncRead + Send + Unpin>;
/// Something that will have happened.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Which streams of a process are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// Its input.
    pub stdin: bool,
    /// Its output.
    pub stdout: bool,
    /// Its error output; never with a terminal.
    pub stderr: bool,
    /// On a terminal.
    pub tty: bool,
}

/// A connection in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A process whose streams somebody holds.
pub struct Process {
    /// Its input.
    pub stdin: Option<Input>,
    /// Its output; a terminal's output too.
    pub stdout: Option<Output>,
    /// Its error output; none with a terminal.
    pub stderr: Option<Output>,
    /// Changes the size of its terminal: columns, rows.
    pub resize: Option<Box<dyn Fn(u16, u16) + Send + Sync>>,
    /// Its exit code; `None` when it was lost.
    pub exit: Later<Option<i32>>,
    /// What to do when the client leaves before the end (kill it, or close its input).
    pub left: Later<()>,
}

/// A runtime whose containers' streams can be held.
#[async_trait]
pub trait StreamRuntime: Send + Sync {
    /// Starts a command in a container.
    async fn exec(
        &self,
        container: &str,
        command: &[String],
        options: StreamOptions,
    ) -> Result<Process, Status>;
    /// Joins the streams of a container's own process.
    async fn attach(&self, container: &str, options: StreamOptions) -> Result<Process, Status>;
    /// Connects to a port inside of a pod.
    async fn connect(&self, sandbox: &str, port: u16) -> Result<Box<dyn Duplex>, Status>;
}

/// A runtime whose streams cannot be held.
pub struct NoStreams;

fn unsupported() -> Status {
    Status::unimplemented("this container runtime has no streams")
}

#[async_trait]
impl StreamRuntime for NoStreams {
    async fn exec(&self, _: &str, _: &[String], _: StreamOptions) -> Result<Process, Status> {
        Err(unsupported())
    }

    async fn attach(&self, _: &str, _: StreamOptions) -> Result<Process, Status> {
        Err(unsupported())
    }

    async fn connect(&self, _: &str, _: u16) -> Result<Box<dyn Duplex>, Status> {
        Err(unsupported())
    }
}
