//! Starts container processes by libcontainer, in a short-lived child of the shim.
//!
//! libcontainer changes the working directory, the out-of-memory score and the dumpable flag of
//! its caller, and needs memory for descriptions. A child per start keeps all that away from the
//! shim; the new process becomes the shim's child all the same (`as_sibling`). The child has a
//! mount namespace of its own in which it mounts the container's root file system: nothing of it
//! shows on the node, and when the container ends the mount is gone.

use std::cell::RefCell;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, fork, pipe2};
use serde::{Deserialize, Serialize};

use super::executor::Launcher;
use super::protocol::{self, ExecProcess, Finish, StartContainer};

/// What the child tells the shim. The master side of a terminal travels with it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The process runs.
    Started {
        /// Its process id.
        pid: i32,
    },
    /// It does not, and why.
    Failed {
        /// In the words that a user sees.
        message: String,
    },
}

/// The three standard streams of a new process; none with a terminal.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

/// Something to start.
#[derive(Debug)]
pub enum Job {
    /// A container.
    Container(StartContainer),
    /// A further process in a container that was started as the second part says.
    Exec(ExecProcess, StartContainer),
}

/// Forks the child that does `job`. It reports on `report`; the answer is its process id.
#[allow(unsafe_code)]
pub fn spawn(job: &Job, stdio: Stdio, report: OwnedFd) -> nix::Result<i32> {
    // SAFETY: the shim has a single thread, so the child finds every lock free and may run any
    // code.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => {
            let outcome =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(job, stdio)));
            let (message, terminal) = match outcome {
                Ok(Ok((pid, terminal))) => (Report::Started { pid }, terminal),
                Ok(Err(message)) => (Report::Failed { message }, None),
                Err(_) => (
                    Report::Failed {
                        message: "the container launcher panicked".into(),
                    },
                    None,
                ),
            };
            let fds: Vec<RawFd> = terminal.iter().map(AsRawFd::as_raw_fd).collect();
            // When the shim is gone there is nobody to tell.
            let _ = protocol::send_all(&report, &message, &fds);
            // SAFETY: ends this process only, without running the shim's destructors.
            unsafe { libc::_exit(0) }
        }
    }
}

type Outcome = Result<(i32, Option<OwnedFd>), String>;

fn run(job: &Job, stdio: Stdio) -> Outcome {
    restore_signals().map_err(|error| format!("cannot reset signals: {error}"))?;
    match job {
        Job::Container(start) => run_container(start, stdio),
        Job::Exec(exec, start) => run_exec(exec, start, stdio),
    }
}

/// The shim blocks and ignores signals; its children must not inherit that.
#[allow(unsafe_code)]
fn restore_signals() -> nix::Result<()> {
    SigSet::empty().thread_set_mask()?;
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGPIPE, Signal::SIGHUP] {
        // SAFETY: the default action runs no code of ours.
        unsafe { sigaction(signal, &default) }?;
    }
    Ok(())
}

fn run_container(start: &StartContainer, stdio: Stdio) -> Outcome {
    mount_root(start).map_err(|error| format!("cannot mount the root file system: {error}"))?;
    own_streams(&stdio, start.uid);
    let console = console(start.tty, &start.state_dir)?;
    let (errors, launcher) = launcher(&start.finish)?;
    let builder = builder(&start.id, &start.state_dir, stdio, &console, launcher)?;
    let built = builder
        .as_init(&start.bundle)
        .with_systemd(false)
        .as_sibling(true)
        .with_detach(true)
        .build();
    let mut container = match built {
        Ok(container) => container,
        Err(error) => return Err(explain_create(errors, &error)),
    };
    let pid = container
        .pid()
        .ok_or("libcontainer names no process")?
        .as_raw();
    container.start().map_err(|error| chain(&error))?;
    let message = errors.finish();
    if !message.is_empty() {
        return Err(create_failed(&message));
    }
    Ok((pid, console.map(Console::accept).transpose()?))
}

fn run_exec(exec: &ExecProcess, start: &StartContainer, stdio: Stdio) -> Outcome {
    // A state directory of its own: libcontainer leaves sockets behind in there.
    let own = start.state_dir.join(format!("exec-{}", std::process::id()));
    let outcome = run_exec_in(&own, exec, start, stdio);
    // The next start of the shim clears what is left.
    let _ = std::fs::remove_dir_all(&own);
    outcome
}

fn run_exec_in(own: &Path, exec: &ExecProcess, start: &StartContainer, stdio: Stdio) -> Outcome {
    let prepare = || -> std::io::Result<PathBuf> {
        let state = own.join(&start.id);
        std::fs::create_dir_all(&state)?;
        std::fs::copy(
            start.state_dir.join(&start.id).join("state.json"),
            state.join("state.json"),
        )?;
        let process = own.join("process.json");
        std::fs::write(&process, exec.process.to_string())?;
        Ok(process)
    };
    let process = prepare().map_err(|error| format!("cannot prepare the exec: {error}"))?;
    let uid = exec.process["user"]["uid"].as_u64().unwrap_or_default();
    own_streams(&stdio, uid as u32);
    let console = console(exec.tty, own)?;
    let (errors, launcher) = launcher(&exec.finish)?;
    let builder = builder(&start.id, own, stdio, &console, launcher)?;
    let built = builder
        .as_tenant()
        .with_process(Some(process))
        .as_sibling(true)
        .with_detach(true)
        .build();
    match built {
        Ok(pid) => {
            let message = errors.finish();
            if message.is_empty() {
                Ok((pid.as_raw(), console.map(Console::accept).transpose()?))
            } else {
                Err(exec_failed(&message))
            }
        }
        Err(error) => {
            let message = errors.finish();
            Err(exec_failed(&if message.is_empty() {
                chain(&error)
            } else {
                message
            }))
        }
    }
}

fn builder(
    id: &str,
    state_dir: &Path,
    stdio: Stdio,
    console: &Option<Console>,
    launcher: Launcher,
) -> Result<ContainerBuilder, String> {
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(state_dir)
        .map_err(|error| chain(&error))?
        .with_executor(launcher)
        .with_console_socket(console.as_ref().map(|console| console.path.clone()));
    if let Some(fd) = stdio.stdin {
        builder = builder.with_stdin(fd);
    }
    if let Some(fd) = stdio.stdout {
        builder = builder.with_stdout(fd);
    }
    if let Some(fd) = stdio.stderr {
        builder = builder.with_stderr(fd);
    }
    Ok(builder)
}

/// The container's own view: overlay at `rootfs`, invisible outside this process and its children.
fn mount_root(start: &StartContainer) -> std::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Names relative to the layers' directory: mount options are limited to one page.
    std::env::set_current_dir(&start.layers_dir)?;
    std::fs::create_dir_all(&start.rootfs)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=off",
        start.layers.join(":"),
        start.upper.display(),
        start.work.display()
    );
    mount(
        Some("overlay"),
        &start.rootfs,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )?;
    std::env::set_current_dir("/")?;
    make_directory(&start.rootfs, Path::new(&start.cwd))
}

/// Makes `path` below `root`, without leaving `root` by any link in it.
pub(crate) fn make_directory(root: &Path, path: &Path) -> std::io::Result<()> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let root = std::fs::File::open(root)?;
    let open = |path: &Path| {
        rustix::fs::openat2(
            &root,
            path,
            OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    };
    let mut made = PathBuf::from(".");
    for part in path.components() {
        let std::path::Component::Normal(name) = part else {
            continue;
        };
        let parent = match open(&made) {
            Ok(parent) => parent,
            // What is not a directory makes the start fail, with a better message.
            Err(_) => return Ok(()),
        };
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        made.push(name);
    }
    Ok(())
}

/// Gives the streams to the container's user, so that opening /dev/stdout works for it.
fn own_streams(stdio: &Stdio, uid: u32) {
    for fd in [&stdio.stdin, &stdio.stdout, &stdio.stderr]
        .into_iter()
        .flatten()
    {
        // /dev/null is shared by all and keeps its owner.
        let is_pipe = rustix::fs::fstat(fd)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_fifo());
        if is_pipe {
            // A stream that keeps its owner still works for reading and writing.
            let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
}

struct Errors {
    pipe: std::fs::File,
    writer: OwnedFd,
}

impl Errors {
    /// What the new process wrote until it executed its program or ended.
    fn finish(self) -> String {
        let Self { mut pipe, writer } = self;
        drop(writer);
        let mut message = Vec::new();
        // What could be read is the message.
        let _ = pipe.read_to_end(&mut message);
        String::from_utf8_lossy(&message).into_owned()
    }
}

fn launcher(finish: &Finish) -> Result<(Errors, Launcher), String> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(|error| error.to_string())?;
    let seccomp = finish
        .seccomp
        .as_ref()
        .map(std::fs::read)
        .transpose()
        .map_err(|error| format!("cannot read the seccomp profile: {error}"))?;
    let launcher = Launcher {
        report: writer.as_raw_fd(),
        seccomp,
        capabilities: finish.capabilities,
        home: RefCell::new(None),
    };
    Ok((
        Errors {
            pipe: reader.into(),
            writer,
        },
        launcher,
    ))
}

/// Where libcontainer sends the master side of the terminal that it makes in the container.
struct Console {
    listener: UnixListener,
    path: PathBuf,
}

fn console(tty: bool, dir: &Path) -> Result<Option<Console>, String> {
    if !tty {
        return Ok(None);
    }
    let bind = || -> std::io::Result<Console> {
        std::fs::create_dir_all(dir)?;
        let name = format!("console-{}.sock", std::process::id());
        // Relative to the directory: socket addresses are short.
        std::env::set_current_dir(dir)?;
        let listener = UnixListener::bind(&name)?;
        std::env::set_current_dir("/")?;
        Ok(Console {
            listener,
            path: dir.join(name),
        })
    };
    bind()
        .map(Some)
        .map_err(|error| format!("cannot make a console socket: {error}"))
}

impl Console {
    fn accept(self) -> Result<OwnedFd, String> {
        let receive = || -> std::io::Result<Option<OwnedFd>> {
            let (stream, _) = self.listener.accept()?;
            let mut inbox = protocol::Inbox::default();
            inbox.receive(stream.as_raw_fd())?;
            Ok(inbox.take_fds().into_iter().next())
        };
        let outcome = receive();
        // A socket left behind goes with its directory.
        let _ = std::fs::remove_file(&self.path);
        outcome
            .map_err(|error| format!("cannot receive the terminal: {error}"))?
            .ok_or_else(|| "the terminal did not come".into())
    }
}

fn explain_create(errors: Errors, error: &LibcontainerError) -> String {
    let message = errors.finish();
    create_failed(&if message.is_empty() {
        chain(error)
    } else {
        message
    })
}

fn create_failed(reason: &str) -> String {
    format!(
        "OCI runtime create failed: unable to start container process: error during container init: {reason}"
    )
}

fn exec_failed(reason: &str) -> String {
    format!("OCI runtime exec failed: exec failed: unable to start container process: {reason}")
}

/// An error and its causes in one line, without what a cause repeats.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

/// Receives a [`Report`] from the child; none when it ended without one.
pub fn receive_report(socket: &OwnedFd) -> std::io::Result<(Option<Report>, Option<OwnedFd>)> {
    let mut inbox = protocol::Inbox::default();
    let report = protocol::receive(socket, &mut inbox)?;
    Ok((report, inbox.take_fds().into_iter().next()))
}
