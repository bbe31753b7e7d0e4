//! What the server and a pod's shim say to each other: JSON frames with a length in front, over a
//! unix socket, now and then with file descriptors beside them.
//!
//! One connection carries one operation: a [`Request`] and its [`Reply`]. Two go on after the
//! reply: after [`Request::Watch`] come [`Event`]s for as long as the connection lives, and after
//! a started [`Request::Exec`] comes one [`Reply::Exited`].

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The largest frame: an exec request with a long command line and environment fits.
pub const MAX_FRAME: usize = 4 << 20;
/// The most descriptors one frame brings along (stdin, stdout, stderr).
pub const MAX_FDS: usize = 4;

/// How to set up a pod: read by the shim from `shim.json` in its directory when it starts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShimConfig {
    /// The sandbox that the shim is for.
    pub sandbox_id: String,
    /// Host name in the pod's UTS namespace; none when the pod uses the node's.
    pub hostname: Option<String>,
    /// Whether the pod has a network namespace of its own.
    pub own_network: bool,
    /// Whether the pod has an IPC namespace of its own.
    pub own_ipc: bool,
    /// Whether the containers share one process namespace.
    pub shared_pid: bool,
    /// Kernel parameters of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Control group directories that the shim moves to.
    pub shim_cgroups: Vec<PathBuf>,
    /// Control group directories that the process which holds a shared process namespace moves to.
    pub pause_cgroups: Vec<PathBuf>,
}

/// A container to create and start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StartContainer {
    /// Container id.
    pub id: String,
    /// Directory with the OCI `config.json`.
    pub bundle: PathBuf,
    /// Where the root file system is mounted, in the container's mount namespace only.
    pub rootfs: PathBuf,
    /// Directory that `layers` are relative to: it keeps the overlay options short.
    pub layers_dir: PathBuf,
    /// Read-only layers, the topmost first.
    pub layers: Vec<String>,
    /// The overlay's writable directory.
    pub upper: PathBuf,
    /// The overlay's work directory.
    pub work: PathBuf,
    /// Where libcontainer keeps its state.
    pub state_dir: PathBuf,
    /// Log file in CRI format; none means that the output is dropped.
    pub log: Option<PathBuf>,
    /// Whether the process has a terminal.
    pub tty: bool,
    /// Whether standard input stays open for clients that attach.
    pub stdin: bool,
    /// Whether standard input is closed when the first such client leaves.
    pub stdin_once: bool,
    /// Where the exit status is written.
    pub exit_file: PathBuf,
    /// Directory of the container's memory control group, to tell an out-of-memory kill.
    pub memory_cgroup: Option<PathBuf>,
    /// A control group directory that holds all processes of the container.
    pub processes_cgroup: Option<PathBuf>,
    /// Whether the container has a process namespace of its own, so that all its processes end
    /// with the first.
    pub own_pid: bool,
    /// User that owns the standard streams.
    pub uid: u32,
    /// Working directory, made when the image does not have it.
    pub cwd: String,
    /// What the last step before `execve` does.
    pub finish: Finish,
}

/// The last steps in the new process, after libcontainer has done its part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finish {
    /// File with a seccomp program to install.
    pub seccomp: Option<PathBuf>,
    /// The capabilities that the process ends up with; set only when the program had to be
    /// installed with more (seccomp without `no_new_privs` needs CAP_SYS_ADMIN).
    pub capabilities: Option<CapabilityMasks>,
}

/// Capability sets as bit masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityMasks {
    /// What the process may still gain.
    pub bounding: u64,
    /// What the process has.
    pub permitted: u64,
    /// What a program that it executes keeps.
    pub ambient: u64,
}

/// A further process in a running container. Descriptors: stdin, stdout, stderr (none with a tty).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExecProcess {
    /// Container id.
    pub container: String,
    /// OCI process description (`process` of `config.json`).
    pub process: serde_json::Value,
    /// Whether it gets a terminal; its master side comes back with the reply.
    pub tty: bool,
    /// What the last step before `execve` does.
    pub finish: Finish,
}

/// What the server asks of a shim.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Who are you, what runs?
    Hello,
    /// Tell me what happens from now on.
    Watch,
    /// Create and start a container.
    Start(Box<StartContainer>),
    /// Start a further process in a container.
    Exec(Box<ExecProcess>),
    /// Send a signal to a container's first process, or to all its processes.
    Signal {
        /// Container id.
        container: String,
        /// Signal number.
        signal: i32,
        /// Whether every process of the container gets it.
        all: bool,
    },
    /// Send a signal to a process started by [`Request::Exec`].
    SignalExec {
        /// Its process id, as the reply gave it.
        pid: i32,
        /// Signal number.
        signal: i32,
    },
    /// Copy the container's output to the descriptors that come along (stdout, stderr); the reply
    /// brings the descriptor to write its input to (a terminal's master, or a pipe).
    Attach {
        /// Container id.
        container: String,
    },
    /// Close the shim's end of the container's standard input.
    CloseStdin {
        /// Container id.
        container: String,
    },
    /// Open the log file anew: it was rotated.
    ReopenLog {
        /// Container id.
        container: String,
    },
    /// Kill what is left and end.
    Shutdown,
}

/// A running container, as a shim knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Container id.
    pub id: String,
    /// Process id of its first process.
    pub pid: i32,
}

/// What the shim answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// The answer to [`Request::Hello`].
    Hello {
        /// The shim's process id.
        pid: i32,
        /// The process that holds a shared process namespace.
        pause_pid: Option<i32>,
        /// Containers whose first process runs.
        running: Vec<Running>,
    },
    /// A process runs.
    Started {
        /// Its process id.
        pid: i32,
        /// Nanoseconds since the epoch.
        at: i64,
    },
    /// A process started by [`Request::Exec`] ended.
    Exited {
        /// Exit code; 128 plus the signal number when a signal ended it.
        code: i32,
    },
    /// It did not work.
    Failed {
        /// Why, in the words that a user sees.
        message: String,
    },
}

/// What happened in a pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// A container's first process ended.
    Exited {
        /// Container id.
        container: String,
        /// How.
        exit: Exit,
    },
}

/// How a container ended: also the content of its exit file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 plus the signal number when a signal ended it.
    pub code: i32,
    /// When, in nanoseconds since the epoch.
    pub at: i64,
    /// Whether the kernel killed a process of it for want of memory.
    pub oom_killed: bool,
}

/// Puts a length in front of `message`.
pub fn frame<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "message too long",
        ));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

/// Bytes that arrived on a connection, and the descriptors that came with them.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Inbox {
    /// Reads what is there. Answers how many bytes came; 0 is the end of the stream.
    pub fn receive(&mut self, socket: RawFd) -> io::Result<usize> {
        let mut buffer = [0u8; 8192];
        let mut control = cmsg_space!([RawFd; MAX_FDS]);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<()>(
            socket,
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let count = message.bytes;
        for entry in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = entry {
                self.fds.extend(received.into_iter().map(owned));
            }
        }
        self.bytes.extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    /// The next whole frame, if it has arrived.
    pub fn next_frame<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(header) = self.bytes.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*header) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "message too long",
            ));
        }
        let Some(body) = self.bytes.get(4..4 + length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body)?;
        self.bytes.drain(..4 + length);
        Ok(Some(message))
    }

    /// Takes the descriptors that came so far.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }
}

/// Sends `bytes` and `fds`, which travel with the first byte. Answers how many bytes went.
pub fn send(socket: RawFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let slices = [IoSlice::new(bytes)];
    Ok(sendmsg::<()>(
        socket,
        &slices,
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?)
}

/// Sends a whole message on a blocking socket.
pub fn send_all<T: Serialize>(socket: &impl AsRawFd, message: &T, fds: &[RawFd]) -> io::Result<()> {
    let bytes = frame(message)?;
    let mut sent = send(socket.as_raw_fd(), &bytes, fds)?;
    while sent < bytes.len() {
        sent += send(socket.as_raw_fd(), &bytes[sent..], &[])?;
    }
    Ok(())
}

/// Waits for the next message on a blocking socket; none at the end of the stream.
pub fn receive<T: DeserializeOwned>(
    socket: &impl AsRawFd,
    inbox: &mut Inbox,
) -> io::Result<Option<T>> {
    loop {
        if let Some(message) = inbox.next_frame()? {
            return Ok(Some(message));
        }
        match inbox.receive(socket.as_raw_fd()) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[allow(unsafe_code)]
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just installed this descriptor for us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_message_and_its_descriptor_arrive() {
        let (left, right) = UnixStream::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        send_all(
            &left,
            &Request::Attach {
                container: "c".into(),
            },
            &[writer.as_raw_fd()],
        )
        .unwrap();
        drop(writer);
        let mut inbox = Inbox::default();
        let request: Request = receive(&right, &mut inbox).unwrap().unwrap();
        assert!(matches!(request, Request::Attach { container } if container == "c"));
        let fds = inbox.take_fds();
        assert_eq!(fds.len(), 1);
        let mut file = std::fs::File::from(fds.into_iter().next().unwrap());
        file.write_all(b"hello").unwrap();
        drop(file);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn frames_may_arrive_in_pieces() {
        let bytes = frame(&Request::Hello).unwrap();
        let mut inbox = Inbox::default();
        for byte in &bytes[..bytes.len() - 1] {
            inbox.bytes.push(*byte);
            assert!(inbox.next_frame::<Request>().unwrap().is_none());
        }
        inbox.bytes.push(bytes[bytes.len() - 1]);
        assert!(matches!(
            inbox.next_frame::<Request>().unwrap(),
            Some(Request::Hello)
        ));
    }

    #[test]
    fn an_absurd_length_is_refused() {
        let mut inbox = Inbox {
            bytes: u32::MAX.to_le_bytes().to_vec(),
            fds: Vec::new(),
        };
        assert!(inbox.next_frame::<Request>().is_err());
    }
}
