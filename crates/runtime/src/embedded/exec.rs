//! Further processes in running containers, and clients that attach to the first one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tonic::Status;

use super::record::{Container, Phase};
use super::shim_client::ShimConnection;
use super::{EmbeddedRuntime, internal};
use crate::cri;
use crate::shim::protocol::{ExecProcess, Reply, Request};

/// The most output of an `ExecSync` that is kept, for each stream: upstream's limit.
const SYNC_LIMIT: usize = 16 << 20;

/// The streams of a process in a container.
#[derive(Debug)]
pub struct ExecStreams {
    /// Its input; dropping it ends the input (not with a terminal).
    pub stdin: Option<FdStream>,
    /// Its output; a terminal's output too.
    pub stdout: FdStream,
    /// Its error output; none with a terminal.
    pub stderr: Option<FdStream>,
    /// Changes the size of its terminal; none without.
    pub resize: Option<Resize>,
    /// Its exit code, when it has ended. The channel closes without one when the pod's shim is lost.
    pub exit: oneshot::Receiver<i32>,
    /// Its process id on the node; 0 for a container's first process.
    pub pid: i32,
}

/// A pipe's or a terminal's end.
#[derive(Debug)]
pub struct FdStream(AsyncFd<OwnedFd>);

impl FdStream {
    #[allow(unsafe_code)]
    fn new(fd: OwnedFd) -> io::Result<Self> {
        crate::shim::set_nonblocking(fd.as_fd())?;
        // SAFETY: an `OwnedFd` stays open, with the same number, until it is dropped, and it is
        // never taken out of the registration.
        Ok(Self(unsafe { AsyncFd::register(fd) }?))
    }
}

impl AsyncRead for FdStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            let outcome = guard.try_io(|inner| {
                rustix::io::read(inner.get_ref(), &mut *space).map_err(io::Error::from)
            });
            match outcome {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // The last process has closed the terminal.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for FdStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            let outcome = guard
                .try_io(|inner| rustix::io::write(inner.get_ref(), bytes).map_err(io::Error::from));
            if let Ok(outcome) = outcome {
                return Poll::Ready(outcome);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Changes the size of a terminal.
#[derive(Debug)]
pub struct Resize(OwnedFd);

impl Resize {
    /// Sets the size in characters.
    #[allow(unsafe_code)]
    pub fn set(&self, width: u16, height: u16) -> io::Result<()> {
        let size = libc::winsize {
            ws_row: height,
            ws_col: width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the request reads one `winsize`, which lives until the call returns.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl EmbeddedRuntime {
    /// Starts a process in a running container. Without `stdin` it reads nothing.
    pub async fn exec_streams(
        &self,
        container: &str,
        command: &[String],
        tty: bool,
        stdin: bool,
    ) -> Result<ExecStreams, Status> {
        let container = self.running(container)?;
        if command.is_empty() {
            return Err(Status::invalid_argument("exec needs a command"));
        }
        let sandbox = self.sandbox(&container.facts.sandbox_id)?;
        let request = Request::Exec(Box::new(ExecProcess {
            container: container.id.clone(),
            process: process(&container, command, tty).map_err(internal)?,
            tty,
            finish: container.facts.finish.clone(),
        }));
        let mut connection = ShimConnection::open(&sandbox.run_dir).map_err(internal)?;
        let start = async {
            if tty {
                self.exec_with_terminal(&mut connection, &request, stdin)
                    .await
            } else {
                exec_with_pipes(&mut connection, &request, stdin).await
            }
        };
        let mut streams = start
            .await
            .map_err(|error| Status::unknown(format!("failed to exec in container: {error}")))?;
        let (tell, exit) = oneshot::channel();
        streams.exit = exit;
        tokio::spawn(async move {
            if let Ok(Some(Reply::Exited { code })) = connection.receive().await {
                // Nobody may be waiting any more.
                let _ = tell.send(code);
            }
        });
        Ok(streams)
    }

    async fn exec_with_terminal(
        &self,
        connection: &mut ShimConnection,
        request: &Request,
        stdin: bool,
    ) -> io::Result<ExecStreams> {
        let pid = started(connection.call(request, &[]).await?)?;
        let master = connection
            .take_fds()
            .into_iter()
            .next()
            .ok_or_else(|| io::Error::other("the terminal did not come"))?;
        Ok(ExecStreams {
            stdin: stdin
                .then(|| FdStream::new(master.try_clone()?))
                .transpose()?,
            stdout: FdStream::new(master.try_clone()?)?,
            stderr: None,
            resize: Some(Resize(master)),
            exit: oneshot::channel().1,
            pid,
        })
    }

    /// Joins the streams of a container's first process. The exit code is told when it ends.
    pub async fn attach_streams(
        &self,
        container: &str,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<ExecStreams, Status> {
        let container = self.running(container)?;
        let sandbox = self.sandbox(&container.facts.sandbox_id)?;
        let tty = container.config.tty;
        let mut connection = ShimConnection::open(&sandbox.run_dir).map_err(internal)?;
        let attach = async {
            let (out, out_end) = pipe2(OFlag::O_CLOEXEC)?;
            let (err, err_end) = pipe2(OFlag::O_CLOEXEC)?;
            let request = Request::Attach {
                container: container.id.clone(),
            };
            let fds = [out_end.as_raw_fd(), err_end.as_raw_fd()];
            connection.call(&request, &fds).await?;
            let input = connection.take_fds().into_iter().next();
            let resize = match (&input, tty) {
                (Some(master), true) => Some(Resize(master.try_clone()?)),
                _ => None,
            };
            let input = input.filter(|_| stdin && container.config.stdin);
            io::Result::Ok(ExecStreams {
                stdin: input.map(FdStream::new).transpose()?,
                stdout: FdStream::new(if stdout || tty { out } else { closed()? })?,
                stderr: (stderr && !tty).then(|| FdStream::new(err)).transpose()?,
                resize,
                exit: oneshot::channel().1,
                pid: 0,
            })
        };
        let mut streams = attach
            .await
            .map_err(|error| Status::unknown(format!("failed to attach: {error}")))?;
        let (tell, exit) = oneshot::channel();
        streams.exit = exit;
        tokio::spawn(async move {
            container.ended().await;
            let code = container.state().exit.map_or(0, |exit| exit.code);
            // Nobody may be waiting any more.
            let _ = tell.send(code);
        });
        Ok(streams)
    }

    /// Closes a container's standard input: what `stdinOnce` asks for when the first client leaves.
    pub async fn close_stdin(&self, container: &str) -> Result<(), Status> {
        let container = self.container(container)?;
        let sandbox = self.sandbox(&container.facts.sandbox_id)?;
        let request = Request::CloseStdin {
            container: container.id.clone(),
        };
        super::shim_client::call(&sandbox.run_dir, &request)
            .await
            .map(drop)
            .map_err(internal)
    }

    /// Whether a container's standard input ends with the first client that attached to it.
    pub fn stdin_once(&self, container: &str) -> Result<bool, Status> {
        Ok(self.container(container)?.config.stdin_once)
    }

    fn running(&self, id: &str) -> Result<Arc<Container>, Status> {
        let container = self.container(id)?;
        let phase = container.state().phase;
        if phase != Phase::Running {
            return Err(Status::failed_precondition(format!(
                "container {id:?} is in {phase:?} state, not running"
            )));
        }
        Ok(container)
    }

    pub(super) async fn run_exec_sync(
        &self,
        request: cri::ExecSyncRequest,
    ) -> Result<cri::ExecSyncResponse, Status> {
        let streams = self
            .exec_streams(&request.container_id, &request.cmd, false, false)
            .await?;
        let pid = streams.pid;
        let collect = collect(streams);
        if request.timeout <= 0 {
            return collect.await;
        }
        let patience = Duration::from_secs(request.timeout.unsigned_abs());
        tokio::select! {
            outcome = collect => outcome,
            () = self.0.config.clock.sleep(patience) => {
                self.kill_exec(&request.container_id, pid).await?;
                Err(Status::deadline_exceeded(format!(
                    "failed to exec in container: timeout {}s exceeded: context deadline exceeded",
                    request.timeout
                )))
            }
        }
    }

    /// Kills a process that [`Self::exec_streams`] started.
    pub async fn kill_exec(&self, container: &str, pid: i32) -> Result<(), Status> {
        let container = self.container(container)?;
        let sandbox = self.sandbox(&container.facts.sandbox_id)?;
        let request = Request::SignalExec {
            pid,
            signal: libc::SIGKILL,
        };
        super::shim_client::call(&sandbox.run_dir, &request)
            .await
            .map(drop)
            .map_err(internal)
    }
}

async fn exec_with_pipes(
    connection: &mut ShimConnection,
    request: &Request,
    stdin: bool,
) -> io::Result<ExecStreams> {
    let (input, input_end) = if stdin {
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
        (theirs, Some(ours))
    } else {
        (std::fs::File::open("/dev/null")?.into(), None)
    };
    let (out, out_end) = pipe2(OFlag::O_CLOEXEC)?;
    let (err, err_end) = pipe2(OFlag::O_CLOEXEC)?;
    let fds = [input.as_raw_fd(), out_end.as_raw_fd(), err_end.as_raw_fd()];
    let pid = started(connection.call(request, &fds).await?)?;
    Ok(ExecStreams {
        stdin: input_end.map(FdStream::new).transpose()?,
        stdout: FdStream::new(out)?,
        stderr: Some(FdStream::new(err)?),
        resize: None,
        exit: oneshot::channel().1,
        pid,
    })
}

/// The reading end of a pipe that nobody writes to.
fn closed() -> io::Result<OwnedFd> {
    Ok(pipe2(OFlag::O_CLOEXEC)?.0)
}

fn started(reply: Reply) -> io::Result<i32> {
    match reply {
        Reply::Started { pid, .. } => Ok(pid),
        _ => Err(io::Error::other("the pod's shim answered nonsense")),
    }
}

/// A process like the container's first one, with another command.
fn process(container: &Container, command: &[String], tty: bool) -> io::Result<Value> {
    let bytes = std::fs::read(container.dir.join("config.json"))?;
    let mut spec: Value = serde_json::from_slice(&bytes)?;
    let mut process = spec["process"].take();
    process["args"] = json!(command);
    process["terminal"] = json!(tty);
    if tty && let Some(env) = process["env"].as_array_mut() {
        let has_term = |entry: &Value| entry.as_str().is_some_and(|e| e.starts_with("TERM="));
        if !env.iter().any(has_term) {
            env.push(json!("TERM=xterm"));
        }
    }
    Ok(process)
}

async fn collect(streams: ExecStreams) -> Result<cri::ExecSyncResponse, Status> {
    let ExecStreams {
        stdout,
        stderr,
        exit,
        ..
    } = streams;
    let output = async { tokio::join!(read_limited(Some(stdout)), read_limited(stderr)) };
    tokio::pin!(output);
    tokio::pin!(exit);
    let mut finished = None;
    let code = tokio::select! {
        all = &mut output => {
            finished = Some(all);
            exit.await
        }
        code = &mut exit => code,
    };
    let code = code.map_err(|_| Status::unknown("the pod's shim was lost during the exec"))?;
    let (stdout, stderr) = match finished {
        Some(all) => all,
        None => output.await,
    };
    Ok(cri::ExecSyncResponse {
        stdout,
        stderr,
        exit_code: code,
    })
}

/// Reads to the end and keeps the beginning.
async fn read_limited(stream: Option<FdStream>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else {
        return kept;
    };
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return kept,
            Ok(count) => {
                let room = SYNC_LIMIT - kept.len();
                kept.extend_from_slice(&buffer[..count.min(room)]);
            }
        }
    }
}
