//! The shim's event loop: requests from the server, output of containers, processes that end.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use super::container::{Container, Source};
use super::launch::{self, Job, Report, Stdio};
use super::log::Stream;
use super::protocol::{
    Event, ExecProcess, Exit, Inbox, Reply, Request, Running, StartContainer, frame, send,
};
use super::{exit, now};

/// A server's connection.
struct Connection {
    id: u64,
    socket: UnixStream,
    inbox: Inbox,
    outbox: Vec<u8>,
    /// Descriptors that go with the first byte of the outbox.
    fds: Vec<OwnedFd>,
    watching: bool,
    /// Close it when the outbox is empty.
    last: bool,
}

/// Something that a child of the shim is starting.
struct Launch {
    report: OwnedFd,
    connection: u64,
    what: Starting,
}

enum Starting {
    Container(Box<Container>),
    Exec,
}

#[derive(Clone, Debug)]
enum Token {
    Signals,
    Listener,
    Connection(u64),
    Launch(RawFd),
    Container(String, Source),
}

/// All that a shim holds.
pub struct Supervisor {
    listener: UnixListener,
    signals: SignalFd,
    pause_pid: Option<i32>,
    connections: Vec<Connection>,
    next_connection: u64,
    launches: Vec<Launch>,
    containers: HashMap<String, Container>,
    /// Processes started by exec, and the connection that waits for each.
    execs: HashMap<i32, u64>,
    /// Processes that ended while something was starting: their start may not be known yet.
    early: HashMap<i32, i32>,
    done: bool,
}

impl Supervisor {
    /// A shim that listens on `listener` and hears of its children by `signals`.
    pub fn new(listener: UnixListener, signals: SignalFd, pause_pid: Option<i32>) -> Self {
        Self {
            listener,
            signals,
            pause_pid,
            connections: Vec::new(),
            next_connection: 0,
            launches: Vec::new(),
            containers: HashMap::new(),
            execs: HashMap::new(),
            early: HashMap::new(),
            done: false,
        }
    }

    /// Runs until the server asks it to shut down.
    pub fn run(mut self) -> io::Result<()> {
        while !self.done {
            for (token, flags) in self.wait()? {
                self.handle(token, flags)?;
            }
            self.containers.retain(|_, container| !container.is_done());
            self.connections
                .retain(|connection| !(connection.last && connection.outbox.is_empty()));
        }
        self.kill_all();
        Ok(())
    }

    fn wait(&self) -> io::Result<Vec<(Token, PollFlags)>> {
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        let mut tokens = vec![Token::Signals, Token::Listener];
        for connection in &self.connections {
            let mut flags = PollFlags::POLLIN;
            if !connection.outbox.is_empty() {
                flags |= PollFlags::POLLOUT;
            }
            fds.push(PollFd::new(connection.socket.as_fd(), flags));
            tokens.push(Token::Connection(connection.id));
        }
        for launch in &self.launches {
            fds.push(PollFd::new(launch.report.as_fd(), PollFlags::POLLIN));
            tokens.push(Token::Launch(launch.report.as_raw_fd()));
        }
        for (id, container) in &self.containers {
            for (source, fd, write) in container.sources() {
                let flags = match (source, write) {
                    (Source::Output(_), _) => PollFlags::POLLIN,
                    (Source::Sink(_), true) => PollFlags::POLLOUT,
                    (Source::Sink(_), false) => PollFlags::empty(),
                };
                fds.push(PollFd::new(fd, flags));
                tokens.push(Token::Container(id.clone(), source));
            }
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        Ok(tokens
            .into_iter()
            .zip(&fds)
            .filter_map(|(token, fd)| {
                let flags = fd.revents().unwrap_or(PollFlags::empty());
                (!flags.is_empty()).then_some((token, flags))
            })
            .collect())
    }

    fn handle(&mut self, token: Token, flags: PollFlags) -> io::Result<()> {
        match token {
            Token::Signals => self.on_signals(),
            Token::Listener => self.on_connect(),
            Token::Connection(id) => {
                self.on_connection(id, flags);
                Ok(())
            }
            Token::Launch(fd) => {
                self.on_report(fd);
                Ok(())
            }
            Token::Container(id, source) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    match source {
                        // A source that was closed meanwhile is harmless: reads do not block.
                        Source::Output(index) => container.read_output(index, now()),
                        Source::Sink(index) => {
                            let gone = flags.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL);
                            container.serve_sink(index, gone);
                        }
                    }
                }
                Ok(())
            }
        }
    }

    fn on_connect(&mut self) -> io::Result<()> {
        let socket = match self.listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        socket.set_nonblocking(true)?;
        self.next_connection += 1;
        self.connections.push(Connection {
            id: self.next_connection,
            socket,
            inbox: Inbox::default(),
            outbox: Vec::new(),
            fds: Vec::new(),
            watching: false,
            last: false,
        });
        Ok(())
    }

    fn on_connection(&mut self, id: u64, flags: PollFlags) {
        let Some(index) = self.connections.iter().position(|c| c.id == id) else {
            return;
        };
        if flags.contains(PollFlags::POLLOUT) && !self.connections[index].flush() {
            self.connections.remove(index);
            return;
        }
        if !flags.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            return;
        }
        let connection = &mut self.connections[index];
        match connection.inbox.receive(connection.socket.as_raw_fd()) {
            Ok(count) if count > 0 => {}
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return;
            }
            // Gone, or broken.
            _ => {
                self.connections.remove(index);
                return;
            }
        }
        match connection.inbox.next_frame::<Request>() {
            Ok(None) => {}
            Ok(Some(request)) => {
                let fds = connection.inbox.take_fds();
                self.on_request(id, request, fds);
            }
            Err(_) => {
                self.connections.remove(index);
            }
        }
    }

    fn on_request(&mut self, connection: u64, request: Request, fds: Vec<OwnedFd>) {
        let answer = match request {
            Request::Hello => Ok(Some(self.hello())),
            Request::Watch => {
                if let Some(found) = self.connections.iter_mut().find(|c| c.id == connection) {
                    found.watching = true;
                }
                Ok(Some(self.hello()))
            }
            Request::Start(start) => self.start(connection, *start).map(|()| None),
            Request::Exec(exec) => self.exec(connection, *exec, fds).map(|()| None),
            Request::Signal {
                container,
                signal,
                all,
            } => self.signal(&container, signal, all).map(Some),
            Request::SignalExec { pid, signal } => self.signal_exec(pid, signal).map(Some),
            Request::Attach { container } => {
                let outcome = self.attach(connection, &container, fds);
                outcome.map(Some)
            }
            Request::CloseStdin { container } => {
                if let Some(found) = self.containers.get_mut(&container) {
                    found.stdin = None;
                }
                Ok(Some(Reply::Done))
            }
            Request::ReopenLog { container } => self.reopen_log(&container).map(Some),
            Request::Shutdown => {
                self.done = true;
                Ok(Some(Reply::Done))
            }
        };
        match answer {
            Ok(Some(reply)) => self.reply(connection, &reply, true),
            Ok(None) => {}
            Err(message) => self.reply(connection, &Reply::Failed { message }, true),
        }
    }

    fn hello(&self) -> Reply {
        Reply::Hello {
            pid: std::process::id() as i32,
            pause_pid: self.pause_pid,
            running: self
                .containers
                .values()
                .filter(|container| !container.ended)
                .map(|container| Running {
                    id: container.start.id.clone(),
                    pid: container.pid,
                })
                .collect(),
        }
    }

    fn start(&mut self, connection: u64, start: StartContainer) -> Result<(), String> {
        let starting = |launch: &Launch| matches!(&launch.what, Starting::Container(c) if c.start.id == start.id);
        if self.containers.contains_key(&start.id) || self.launches.iter().any(starting) {
            return Err(format!("container {} is already started", start.id));
        }
        let mut container = Container::new(start.clone())
            .map_err(|error| format!("cannot open the container's log: {error}"))?;
        let stdio = streams(&mut container)
            .map_err(|error| format!("cannot make the container's streams: {error}"))?;
        self.launch(
            connection,
            &Job::Container(start),
            stdio,
            Starting::Container(Box::new(container)),
        )
    }

    fn exec(
        &mut self,
        connection: u64,
        exec: ExecProcess,
        fds: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let start = self.running(&exec.container)?.start.clone();
        let stdio = if exec.tty {
            Stdio::default()
        } else {
            let [stdin, stdout, stderr]: [OwnedFd; 3] =
                fds.try_into().map_err(|_| "an exec needs three streams")?;
            Stdio {
                stdin: Some(stdin),
                stdout: Some(stdout),
                stderr: Some(stderr),
            }
        };
        self.launch(connection, &Job::Exec(exec, start), stdio, Starting::Exec)
    }

    fn launch(
        &mut self,
        connection: u64,
        job: &Job,
        stdio: Stdio,
        what: Starting,
    ) -> Result<(), String> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|error| error.to_string())?;
        launch::spawn(job, stdio, theirs).map_err(|error| format!("cannot fork: {error}"))?;
        self.launches.push(Launch {
            report: ours,
            connection,
            what,
        });
        Ok(())
    }

    fn on_report(&mut self, fd: RawFd) {
        let Some(index) = self
            .launches
            .iter()
            .position(|launch| launch.report.as_raw_fd() == fd)
        else {
            return;
        };
        let launch = self.launches.remove(index);
        let (report, terminal) = match launch::receive_report(&launch.report) {
            Ok((Some(report), terminal)) => (report, terminal),
            Ok((None, _)) => (failed("the container launcher ended unexpectedly"), None),
            Err(error) => (failed(&error.to_string()), None),
        };
        match (report, launch.what) {
            (Report::Started { pid }, Starting::Container(container)) => {
                self.started(launch.connection, *container, pid, terminal);
            }
            (Report::Started { pid }, Starting::Exec) => {
                self.exec_started(launch.connection, pid, terminal);
            }
            (Report::Failed { message }, _) => {
                self.reply(launch.connection, &Reply::Failed { message }, true);
            }
        }
        if self.launches.is_empty() {
            self.early.clear();
        }
    }

    fn started(
        &mut self,
        connection: u64,
        mut container: Container,
        pid: i32,
        terminal: Option<OwnedFd>,
    ) {
        container.pid = pid;
        if let Some(master) = terminal
            && container.set_terminal(master).is_err()
        {
            // Without its terminal nobody could talk to it.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let id = container.start.id.clone();
        self.containers.insert(id.clone(), container);
        self.reply(connection, &Reply::Started { pid, at: now() }, true);
        if let Some(code) = self.early.remove(&pid) {
            self.container_ended(&id, code);
        }
    }

    fn exec_started(&mut self, connection: u64, pid: i32, terminal: Option<OwnedFd>) {
        let reply = Reply::Started { pid, at: now() };
        if let Some(found) = self.connections.iter_mut().find(|c| c.id == connection) {
            found.fds.extend(terminal);
        }
        self.reply(connection, &reply, false);
        match self.early.remove(&pid) {
            Some(code) => self.reply(connection, &Reply::Exited { code }, true),
            None => {
                self.execs.insert(pid, connection);
            }
        }
    }

    fn on_signals(&mut self) -> io::Result<()> {
        while self.signals.read_signal()?.is_some() {}
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.reaped(pid.as_raw(), code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.reaped(pid.as_raw(), 128 + signal as i32);
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn reaped(&mut self, pid: i32, code: i32) {
        if let Some(connection) = self.execs.remove(&pid) {
            self.reply(connection, &Reply::Exited { code }, true);
            return;
        }
        let found = self
            .containers
            .values()
            .find(|container| container.pid == pid && !container.ended);
        if let Some(container) = found {
            let id = container.start.id.clone();
            self.container_ended(&id, code);
        } else if !self.launches.is_empty() {
            self.early.insert(pid, code);
        }
    }

    fn container_ended(&mut self, id: &str, code: i32) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.ended = true;
        if !container.start.own_pid {
            exit::kill_group(&container.start);
        }
        container.drain(now());
        let exit = Exit {
            code,
            at: now(),
            oom_killed: exit::was_oom_killed(&container.start),
        };
        // A server that finds no exit file calls the status unknown; the event still goes out.
        let _ = exit::persist(&container.start.exit_file, &exit);
        let event = Event::Exited {
            container: id.to_owned(),
            exit,
        };
        if let Ok(bytes) = frame(&event) {
            self.connections.retain_mut(|connection| {
                if connection.watching {
                    connection.outbox.extend_from_slice(&bytes);
                    connection.flush()
                } else {
                    true
                }
            });
        }
    }

    fn running(&mut self, id: &str) -> Result<&mut Container, String> {
        self.containers
            .get_mut(id)
            .filter(|container| !container.ended)
            .ok_or_else(|| format!("container {id} is not running"))
    }

    fn signal(&mut self, id: &str, signal: i32, all: bool) -> Result<Reply, String> {
        // Someone who asks for the end of what has ended has what they want.
        let Ok(container) = self.running(id) else {
            return Ok(Reply::Done);
        };
        if all {
            exit::signal_group(&container.start, signal);
        }
        send_signal(container.pid, signal)
    }

    fn signal_exec(&mut self, pid: i32, signal: i32) -> Result<Reply, String> {
        // Only what we started and have not reaped: its number cannot have been given anew.
        if !self.execs.contains_key(&pid) {
            return Ok(Reply::Done);
        }
        send_signal(pid, signal)
    }

    fn attach(&mut self, connection: u64, id: &str, fds: Vec<OwnedFd>) -> Result<Reply, String> {
        let container = self.running(id)?;
        let mut fds = fds.into_iter();
        container
            .add_sink(fds.next(), fds.next())
            .map_err(|error| error.to_string())?;
        let input = container.terminal.as_ref().or(container.stdin.as_ref());
        let input = input
            .map(OwnedFd::try_clone)
            .transpose()
            .map_err(|error| error.to_string())?;
        if let Some(found) = self.connections.iter_mut().find(|c| c.id == connection) {
            found.fds.extend(input);
        }
        Ok(Reply::Done)
    }

    fn reopen_log(&mut self, id: &str) -> Result<Reply, String> {
        self.running(id)?
            .reopen_log()
            .map(|()| Reply::Done)
            .map_err(|error| format!("cannot open the log: {error}"))
    }

    /// Answers a connection; `last` closes it afterwards unless it watches.
    fn reply(&mut self, connection: u64, reply: &Reply, last: bool) {
        let Some(index) = self.connections.iter().position(|c| c.id == connection) else {
            return;
        };
        let found = &mut self.connections[index];
        match frame(reply) {
            Ok(bytes) => found.outbox.extend_from_slice(&bytes),
            Err(_) => found.last = true,
        }
        if last && !found.watching {
            found.last = true;
        }
        if !found.flush() {
            self.connections.remove(index);
        }
    }

    fn kill_all(&mut self) {
        for container in self.containers.values().filter(|c| !c.ended) {
            exit::kill_group(&container.start);
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(container.pid), Signal::SIGKILL);
        }
        if let Some(pid) = self.pause_pid {
            // As above.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        for connection in &mut self.connections {
            connection.flush();
        }
    }
}

impl Connection {
    /// Sends what the socket takes; false when the other side has gone.
    fn flush(&mut self) -> bool {
        while !self.outbox.is_empty() {
            let fds: Vec<RawFd> = self.fds.iter().map(AsRawFd::as_raw_fd).collect();
            match send(self.socket.as_raw_fd(), &self.outbox, &fds) {
                Ok(count) => {
                    self.fds.clear();
                    self.outbox.drain(..count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

fn failed(message: &str) -> Report {
    Report::Failed {
        message: message.to_owned(),
    }
}

fn send_signal(pid: i32, signal: i32) -> Result<Reply, String> {
    let signal = Signal::try_from(signal).map_err(|_| format!("unknown signal {signal}"))?;
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(Reply::Done),
        Err(error) => Err(format!("cannot signal process {pid}: {error}")),
    }
}

/// Makes the pipes of a container without a terminal: our ends go to `container`.
fn streams(container: &mut Container) -> io::Result<Stdio> {
    if container.start.tty {
        return Ok(Stdio::default());
    }
    let stdin = if container.start.stdin {
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
        container.stdin = Some(ours);
        theirs
    } else {
        std::fs::File::open("/dev/null")?.into()
    };
    let (out, stdout) = pipe2(OFlag::O_CLOEXEC)?;
    container.add_output(out, Stream::Stdout)?;
    let (err, stderr) = pipe2(OFlag::O_CLOEXEC)?;
    container.add_output(err, Stream::Stderr)?;
    Ok(Stdio {
        stdin: Some(stdin),
        stdout: Some(stdout),
        stderr: Some(stderr),
    })
}
