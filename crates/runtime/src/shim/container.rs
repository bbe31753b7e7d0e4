//! One container in its shim: its streams, its log and the clients that watch its output.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::log::{Framer, LogFile, Stream, timestamp};
use super::protocol::StartContainer;

/// How much is read at a time: what a pipe holds.
const CHUNK: usize = 64 * 1024;

/// A stream that comes out of a container.
#[derive(Debug)]
struct Output {
    fd: std::fs::File,
    stream: Stream,
    framer: Framer,
}

/// A client that gets a copy of the output.
#[derive(Debug)]
struct Sink {
    stdout: Option<std::fs::File>,
    stderr: Option<std::fs::File>,
    /// What the client has not taken yet. While there is something, the container's output is not
    /// read: a slow client slows the container down, as a terminal does, and nothing is lost.
    waiting: Vec<(Stream, Vec<u8>)>,
}

/// A started container.
#[derive(Debug)]
pub struct Container {
    /// How it was started.
    pub start: StartContainer,
    /// Its first process.
    pub pid: i32,
    /// Our end of its standard input.
    pub stdin: Option<OwnedFd>,
    /// The master side of its terminal.
    pub terminal: Option<OwnedFd>,
    outputs: Vec<Output>,
    log: Option<LogFile>,
    sinks: Vec<Sink>,
    /// Whether its first process has ended; the record stays until the last client has its bytes.
    pub ended: bool,
}

/// A descriptor of a container that the event loop waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Output `0` can be read.
    Output(usize),
    /// Client `0` takes more, or has gone.
    Sink(usize),
}

impl Container {
    /// A container without streams yet. A log that cannot be opened is an error.
    pub fn new(start: StartContainer) -> io::Result<Self> {
        let log = start.log.as_deref().map(open_log).transpose()?;
        Ok(Self {
            start,
            pid: 0,
            stdin: None,
            terminal: None,
            outputs: Vec::new(),
            log,
            sinks: Vec::new(),
            ended: false,
        })
    }

    /// Takes in a stream that the container writes to.
    pub fn add_output(&mut self, fd: OwnedFd, stream: Stream) -> io::Result<()> {
        set_nonblocking(fd.as_fd())?;
        self.outputs.push(Output {
            fd: fd.into(),
            stream,
            framer: Framer::new(stream),
        });
        Ok(())
    }

    /// Takes in the terminal.
    pub fn set_terminal(&mut self, master: OwnedFd) -> io::Result<()> {
        self.add_output(master.try_clone()?, Stream::Stdout)?;
        self.terminal = Some(master);
        Ok(())
    }

    /// Adds a client that gets a copy of the output from now on.
    pub fn add_sink(&mut self, stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) -> io::Result<()> {
        for fd in [&stdout, &stderr].into_iter().flatten() {
            set_nonblocking(fd.as_fd())?;
        }
        self.sinks.push(Sink {
            stdout: stdout.map(Into::into),
            stderr: stderr.map(Into::into),
            waiting: Vec::new(),
        });
        Ok(())
    }

    /// Opens the log file anew.
    pub fn reopen_log(&mut self) -> io::Result<()> {
        self.log.as_mut().map_or(Ok(()), LogFile::reopen)
    }

    /// What the event loop has to wait for. The flag says that writing is meant.
    pub fn sources(&self) -> Vec<(Source, BorrowedFd<'_>, bool)> {
        let mut sources = Vec::new();
        for (index, sink) in self.sinks.iter().enumerate() {
            let next = sink.waiting.first();
            let fd = match next.map_or(Stream::Stdout, |(stream, _)| *stream) {
                Stream::Stdout => sink.stdout.as_ref().or(sink.stderr.as_ref()),
                Stream::Stderr => sink.stderr.as_ref(),
            };
            if let Some(fd) = fd {
                sources.push((Source::Sink(index), fd.as_fd(), next.is_some()));
            }
        }
        if self.sinks.iter().all(|sink| sink.waiting.is_empty()) {
            for (index, output) in self.outputs.iter().enumerate() {
                sources.push((Source::Output(index), output.fd.as_fd(), false));
            }
        }
        sources
    }

    /// Reads once from an output; an output that has ended is closed.
    pub fn read_output(&mut self, index: usize, now: i64) {
        let mut buffer = vec![0; CHUNK];
        if let Some(output) = self.outputs.get_mut(index) {
            match output.fd.read(&mut buffer) {
                Ok(0) => self.close_output(index, now),
                Ok(count) => self.forward(index, &buffer[..count], now),
                Err(error) if would_block(&error) => {}
                // EIO: the last one who had the terminal open has closed it.
                Err(_) => self.close_output(index, now),
            }
        }
    }

    /// Reads all that the container has written, without waiting; then closes its streams.
    pub fn drain(&mut self, now: i64) {
        let mut buffer = vec![0; CHUNK];
        for index in (0..self.outputs.len()).rev() {
            // A pipe holds a limited number of bytes, but others may still write to it.
            for _ in 0..1024 {
                match self.outputs[index].fd.read(&mut buffer) {
                    Ok(count) if count > 0 => self.forward(index, &buffer[..count], now),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    _ => break,
                }
            }
            self.close_output(index, now);
        }
        self.stdin = None;
        self.terminal = None;
    }

    fn forward(&mut self, index: usize, bytes: &[u8], now: i64) {
        let Some(output) = self.outputs.get_mut(index) else {
            return;
        };
        if let Some(log) = &mut self.log {
            let mut lines = Vec::with_capacity(bytes.len() + 64);
            output.framer.push(bytes, &timestamp(now), &mut lines);
            if !lines.is_empty() {
                // A full disk must not stop the container: what does not fit is lost.
                let _ = log.write(&lines);
            }
        }
        let stream = output.stream;
        self.sinks.retain_mut(|sink| sink.push(stream, bytes));
    }

    fn close_output(&mut self, index: usize, now: i64) {
        let mut output = self.outputs.remove(index);
        if let Some(log) = &mut self.log {
            let mut lines = Vec::new();
            output.framer.finish(&timestamp(now), &mut lines);
            if !lines.is_empty() {
                // As above.
                let _ = log.write(&lines);
            }
        }
    }

    /// Gives a client more of what waits for it, or forgets it when it has gone.
    pub fn serve_sink(&mut self, index: usize, gone: bool) {
        let keep = !gone && self.sinks.get_mut(index).is_some_and(Sink::flush);
        if !keep && index < self.sinks.len() {
            self.sinks.remove(index);
        }
    }

    /// Whether nothing is left to do: it has ended, and every client has its bytes.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.ended && self.sinks.iter().all(|sink| sink.waiting.is_empty())
    }
}

impl Sink {
    /// Sends or keeps `bytes`; false when the client has gone.
    fn push(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        let wanted = match stream {
            Stream::Stdout => self.stdout.is_some(),
            Stream::Stderr => self.stderr.is_some(),
        };
        if !wanted {
            return true;
        }
        self.waiting.push((stream, bytes.to_vec()));
        self.flush()
    }

    fn flush(&mut self) -> bool {
        while let Some((stream, bytes)) = self.waiting.first_mut() {
            let file = match stream {
                Stream::Stdout => self.stdout.as_mut(),
                Stream::Stderr => self.stderr.as_mut(),
            };
            match file.map(|file| file.write(bytes)) {
                Some(Ok(count)) if count == bytes.len() => {
                    self.waiting.remove(0);
                }
                Some(Ok(count)) => {
                    bytes.drain(..count);
                }
                Some(Err(error)) if would_block(&error) => return true,
                Some(Err(_)) => return false,
                None => {
                    self.waiting.remove(0);
                }
            }
        }
        true
    }
}

fn open_log(path: &Path) -> io::Result<LogFile> {
    LogFile::open(path)
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Makes reads and writes on `fd` return at once.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let flags = OFlag::from_bits_retain(fcntl(fd.as_raw_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_raw_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(log: &Path) -> Container {
        Container::new(StartContainer {
            log: Some(log.to_owned()),
            ..StartContainer::default()
        })
        .unwrap()
    }

    #[test]
    fn output_goes_to_the_log_and_to_clients() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut container = container(&path);
        let (reader, mut writer) = std::io::pipe().unwrap();
        container.add_output(reader.into(), Stream::Stdout).unwrap();
        let (mut client, sink) = std::io::pipe().unwrap();
        container.add_sink(Some(sink.into()), None).unwrap();
        writer.write_all(b"hello\nwor").unwrap();
        container.read_output(0, 0);
        let mut buffer = [0; 9];
        client.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"hello\nwor");
        writer.write_all(b"ld").unwrap();
        container.drain(0);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "1970-01-01T00:00:00.000000000Z stdout F hello\n\
             1970-01-01T00:00:00.000000000Z stdout P world\n"
        );
    }

    #[test]
    fn a_slow_client_holds_the_container_back_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut container = container(&dir.path().join("0.log"));
        let (reader, mut writer) = std::io::pipe().unwrap();
        container.add_output(reader.into(), Stream::Stdout).unwrap();
        let (mut client, sink) = std::io::pipe().unwrap();
        container.add_sink(Some(sink.into()), None).unwrap();
        let mut sent = Vec::new();
        let mut rounds = 0u8;
        while container
            .sources()
            .iter()
            .any(|(source, ..)| matches!(source, Source::Output(_)))
        {
            let chunk = vec![rounds; 10_000];
            writer.write_all(&chunk).unwrap();
            sent.extend_from_slice(&chunk);
            container.read_output(0, 0);
            rounds += 1;
        }
        let mut got = Vec::new();
        let mut buffer = vec![0; 20_000];
        while got.len() < sent.len() {
            let count = client.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..count]);
            container.serve_sink(0, false);
        }
        assert_eq!(got, sent);
        assert_eq!(container.sources().len(), 2);
    }

    #[test]
    fn a_client_that_went_away_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut container = container(&dir.path().join("0.log"));
        let (client, sink) = std::io::pipe().unwrap();
        container.add_sink(Some(sink.into()), None).unwrap();
        drop(client);
        let (reader, mut writer) = std::io::pipe().unwrap();
        container.add_output(reader.into(), Stream::Stdout).unwrap();
        writer.write_all(b"x").unwrap();
        container.read_output(0, 0);
        assert!(container.sinks.is_empty());
    }
}
