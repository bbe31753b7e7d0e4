//! The shim: one small process per pod that holds the pod together while the server comes and goes.
//!
//! It keeps the pod's namespaces alive, is the parent of the pod's containers, writes their logs
//! and notes how they end. It has a single thread and no runtime: libcontainer needs that, and it
//! keeps the shim small. The server talks to it over `control.sock` in its directory
//! ([`protocol`]); a server that comes back finds it by that socket.
//!
//! [`shim_main`] must run before the process has a second thread.

mod container;
mod executor;
mod exit;
mod launch;
pub mod log;
pub mod protocol;
mod supervisor;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, Pid, dup2, fork, setsid};

pub(crate) use container::set_nonblocking;
pub(crate) use launch::make_directory;

use protocol::ShimConfig;
use supervisor::Supervisor;

/// The first argument that makes a program run [`shim_main`].
pub const SHIM_ARGUMENT: &str = "shim";
/// The shim's configuration, in its directory.
pub const CONFIG_FILE: &str = "shim.json";
/// The socket that the server talks to it over, in its directory.
pub const SOCKET_FILE: &str = "control.sock";

/// Runs a pod's shim: `<program> shim <directory>`. Returns in the process that was started as soon
/// as the shim, its child, is ready (it prints the shim's process id) or has failed (it prints why).
///
/// # Panics
/// Never; but it must be called before the process has a second thread.
pub fn shim_main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let dir = args.into_iter().next().map(PathBuf::from);
    let Some(dir) = dir.filter(|dir| dir.is_absolute()) else {
        eprintln!("usage: shim <absolute directory>");
        return ExitCode::from(2);
    };
    match start(&dir) {
        Ok(code) => code,
        Err(error) => {
            println!("{}", error.message);
            ExitCode::FAILURE
        }
    }
}

struct Failure {
    message: String,
}

fn because(what: &str) -> impl Fn(io::Error) -> Failure + '_ {
    move |error| Failure {
        message: format!("{what}: {error}"),
    }
}

#[allow(unsafe_code)]
fn start(dir: &Path) -> Result<ExitCode, Failure> {
    // SAFETY: the process has a single thread (the caller's duty).
    match unsafe { fork() }
        .map_err(io::Error::from)
        .map_err(because("fork"))?
    {
        ForkResult::Parent { child } => {
            // The pipe on standard output is shared; it closes when the child is ready or gone.
            match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
                Ok(_) | Err(_) => Ok(ExitCode::SUCCESS),
            }
        }
        ForkResult::Child => {
            let code = match run(dir) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => {
                    // Before it was ready the server reads this, later it lies in the log.
                    println!("{}", failure.message);
                    eprintln!("{}", failure.message);
                    ExitCode::FAILURE
                }
            };
            Ok(code)
        }
    }
}

fn run(dir: &Path) -> Result<(), Failure> {
    setsid()
        .map_err(io::Error::from)
        .map_err(because("setsid"))?;
    let config: ShimConfig = File::open(dir.join(CONFIG_FILE))
        .and_then(|file| Ok(serde_json::from_reader(file)?))
        .map_err(because("cannot read the shim's configuration"))?;
    settle(dir, &config)?;
    enter_namespaces(&config)?;
    let signals = watch_children().map_err(because("cannot watch child processes"))?;
    let pause_pid = config
        .shared_pid
        .then(|| hold_process_namespace(&config))
        .transpose()
        .map_err(because("cannot make a process namespace"))?;
    let listener = listen(dir).map_err(because("cannot listen for the server"))?;
    announce().map_err(because("cannot report to the server"))?;
    Supervisor::new(listener, signals, pause_pid)
        .run()
        .map_err(because("the shim failed"))
}

/// Detaches from the server: own control group, own log, protected from the out-of-memory killer.
fn settle(dir: &Path, config: &ShimConfig) -> Result<(), Failure> {
    for cgroup in &config.shim_cgroups {
        join_cgroup(cgroup).map_err(because("cannot join the shim's control group"))?;
    }
    match fs::write("/proc/self/oom_score_adj", "-998") {
        // Without CAP_SYS_RESOURCE (in a container, for example) the shim goes unprotected.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        outcome => outcome.map_err(because("cannot set the out-of-memory score"))?,
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("shim.log"))
        .map_err(because("cannot open the shim's log"))?;
    let null = File::open("/dev/null").map_err(because("cannot open /dev/null"))?;
    redirect(&null, 0).map_err(because("cannot redirect standard input"))?;
    redirect(&log, 2).map_err(because("cannot redirect standard error"))?;
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(io::Error::from)
        .map_err(because("cannot become a subreaper"))?;
    nix::sys::prctl::set_name(c"skiff-shim")
        .map_err(io::Error::from)
        .map_err(because("cannot set the process name"))?;
    std::env::set_current_dir("/").map_err(because("cannot change to /"))
}

fn redirect(file: &File, to: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    dup2(file.as_raw_fd(), to)?;
    Ok(())
}

fn join_cgroup(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("cgroup.procs"), "0")
}

fn enter_namespaces(config: &ShimConfig) -> Result<(), Failure> {
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET, config.own_network);
    flags.set(CloneFlags::CLONE_NEWIPC, config.own_ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, config.hostname.is_some());
    unshare(flags)
        .map_err(io::Error::from)
        .map_err(because("cannot make the pod's namespaces"))?;
    if let Some(hostname) = &config.hostname {
        nix::unistd::sethostname(hostname)
            .map_err(io::Error::from)
            .map_err(because("cannot set the host name"))?;
    }
    if config.own_network {
        raise_loopback().map_err(because("cannot raise the loopback interface"))?;
    }
    for (name, value) in &config.sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(path, value).map_err(because(&format!("cannot set sysctl {name}")))?;
    }
    Ok(())
}

#[allow(unsafe_code)]
fn raise_loopback() -> io::Result<()> {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    // SAFETY: plain system call; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made for us.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeroes are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn watch_children() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block()?;
    // The server's terminal and its end are none of our business.
    let mut ignored = SigSet::empty();
    ignored.add(Signal::SIGHUP);
    ignored.add(Signal::SIGINT);
    ignored.add(Signal::SIGTERM);
    ignored.thread_block()?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// Starts the first process of the pod's shared process namespace. It reaps and waits.
#[allow(unsafe_code)]
fn hold_process_namespace(config: &ShimConfig) -> io::Result<i32> {
    let (mut reader, mut writer) = std::io::pipe()?;
    // SAFETY: the shim has a single thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(writer);
            let mut text = String::new();
            io::Read::read_to_string(&mut reader, &mut text)?;
            waitpid(child, None)?;
            text.trim()
                .parse()
                .map_err(|_| io::Error::other(format!("the pause process did not start: {text}")))
        }
        ForkResult::Child => {
            for cgroup in &config.pause_cgroups {
                // The pod's accounting misses this process when that fails; nothing else.
                let _ = join_cgroup(cgroup);
            }
            let outcome = unshare(CloneFlags::CLONE_NEWPID)
                // SAFETY: as above.
                .and_then(|()| unsafe { fork() });
            match outcome {
                Ok(ForkResult::Parent { child }) => {
                    // The parent waits for this and for the end of the pipe.
                    let _ = write!(writer, "{child}");
                }
                Ok(ForkResult::Child) => {
                    drop(writer);
                    show_as_pause();
                    pause();
                }
                Err(error) => {
                    // As above.
                    let _ = write!(writer, "{error}");
                }
            }
            // SAFETY: ends this process only.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Shows as `/pause` in lists of processes, as with other runtimes: the pod's containers see this process, and the node's
/// paths are none of their business.
#[allow(unsafe_code)]
fn show_as_pause() {
    const NAME: &[u8] = b"/pause";
    // It runs under the shim's name otherwise: no reason not to run.
    let _ = nix::sys::prctl::set_name(c"pause");
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in parentheses, may hold blanks; the next field is the third.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = |number: usize| -> Option<usize> {
        fields.split_whitespace().nth(number - 3)?.parse().ok()
    };
    let (Some(start), Some(end)) = (field(48), field(49)) else {
        return;
    };
    let length = end.saturating_sub(start);
    if start == 0 || length <= NAME.len() {
        return;
    }
    let arguments = std::ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: the kernel tells where this process's arguments lie, on its own stack and writable; it has a single thread
    // and reads them no more. They stay terminated by zeros.
    unsafe {
        std::ptr::write_bytes(arguments, 0, length);
        std::ptr::copy_nonoverlapping(NAME.as_ptr(), arguments, NAME.len());
    }
}

/// What the first process of a shared process namespace does for its whole life.
#[allow(unsafe_code)]
fn pause() {
    // SAFETY: closes what it inherited, the server's pipe on standard output as well; nothing in
    // this process uses it any more.
    unsafe { libc::close_range(1, libc::c_uint::MAX, 0) };
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    // A wait that fails would spin: end instead, the pod ends with it.
    while let Ok(signal) = set.wait() {
        if signal != Signal::SIGCHLD {
            return;
        }
        while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            if status.pid().is_none() {
                break;
            }
        }
    }
}

fn listen(dir: &Path) -> io::Result<UnixListener> {
    // Relative to the directory: socket addresses are short.
    std::env::set_current_dir(dir)?;
    match fs::remove_file(SOCKET_FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(SOCKET_FILE)?;
    std::env::set_current_dir("/")?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Tells the server that the shim is ready, and lets go of its pipe.
fn announce() -> io::Result<()> {
    println!("ready {}", std::process::id());
    io::stdout().flush()?;
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    redirect(&null, 1)
}

/// Nanoseconds since the epoch.
#[allow(
    clippy::disallowed_methods,
    reason = "a shim is a process of its own: it has no clock handed in"
)]
fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |duration| duration.as_nanos() as i64)
}
