//! Reads a container's log for a client, to its end or as it grows.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use notify::{RecursiveMode, Watcher};
use skiff_base::SharedClock;
use tokio::sync::mpsc;

use crate::logs::line;
use crate::logs::tail::start_of_last;

/// A growing log is looked at this often even without news.
const LOOK: Duration = Duration::from_secs(1);
/// Lines are sent in pieces of about this size.
const PIECE: usize = 32 * 1024;

/// Which part of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogOptions {
    /// Go on as the log grows.
    pub follow: bool,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// With the time before each line.
    pub timestamps: bool,
    /// No more than so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only this stream (`stdout`, `stderr`).
    pub stream: Option<String>,
}

/// Whether a container still writes its log.
#[async_trait]
pub trait Writing: Send + Sync {
    /// Whether it runs.
    async fn running(&self) -> bool;
}

/// What is sent on, of lines as they come.
struct Filter {
    options: LogOptions,
    left: Option<u64>,
}

impl Filter {
    fn new(options: &LogOptions) -> Self {
        Self {
            left: options.limit_bytes,
            options: options.clone(),
        }
    }

    fn done(&self) -> bool {
        self.left == Some(0)
    }

    /// Appends what a client sees of one raw line.
    fn add(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let Some(line) = line::parse(raw) else {
            return;
        };
        if self
            .options
            .stream
            .as_deref()
            .is_some_and(|s| s != line.stream)
        {
            return;
        }
        if let Some(since) = self.options.since
            && line.time().is_some_and(|time| time < since)
        {
            return;
        }
        let mut shown = Vec::new();
        if self.options.timestamps {
            shown.extend_from_slice(line.stamp.as_bytes());
            shown.push(b' ');
        }
        shown.extend(line.text());
        if let Some(left) = &mut self.left {
            let fits = usize::try_from(*left)
                .unwrap_or(usize::MAX)
                .min(shown.len());
            shown.truncate(fits);
            *left -= fits as u64;
        }
        out.extend(shown);
    }
}

struct Source {
    path: PathBuf,
    reader: BufReader<File>,
    inode: u64,
    /// A line whose end has not been written yet.
    partial: Vec<u8>,
}

impl Source {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self {
            path: path.to_owned(),
            inode: file.metadata()?.ino(),
            reader: BufReader::new(file),
            partial: Vec::new(),
        })
    }

    /// Appends lines up to the end of the file or of a piece; whether the end was reached.
    fn read(&mut self, filter: &mut Filter, out: &mut Vec<u8>) -> io::Result<bool> {
        while out.len() < PIECE && !filter.done() {
            let read = self.reader.read_until(b'\n', &mut self.partial)?;
            if read == 0 {
                return Ok(true);
            }
            if self.partial.ends_with(b"\n") {
                filter.add(&self.partial, out);
                self.partial.clear();
            }
        }
        Ok(false)
    }

    /// Goes on with the new file when the log was rotated.
    fn follow_rotation(&mut self) -> io::Result<bool> {
        let inode = match std::fs::metadata(&self.path) {
            Ok(meta) => meta.ino(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if inode == self.inode {
            return Ok(false);
        }
        *self = Self::open(&self.path)?;
        Ok(true)
    }
}

/// Sends the log at `path` to `sink` until its end, the limit, or the receiver's end.
pub async fn send(
    path: &Path,
    options: &LogOptions,
    writing: &dyn Writing,
    clock: &SharedClock,
    sink: mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let (news_sender, mut news) = mpsc::channel::<()>(1);
    // Watching begins before reading, so that nothing is missed between the two.
    let _watcher = options.follow.then(|| watch(path, news_sender)).flatten();
    let mut source = Source::open(path)?;
    if let Some(lines) = options.tail_lines {
        let start = start_of_last(source.reader.get_mut(), lines)?;
        source.reader.seek(SeekFrom::Start(start))?;
    }
    let mut filter = Filter::new(options);
    let mut last_look = false;
    loop {
        let mut out = Vec::new();
        let at_end = source.read(&mut filter, &mut out)?;
        if !out.is_empty() && sink.send(Ok(Bytes::from(out))).await.is_err() {
            return Ok(());
        }
        if filter.done() {
            return Ok(());
        }
        if !at_end || source.follow_rotation()? {
            continue;
        }
        if !options.follow || last_look {
            return Ok(());
        }
        if !writing.running().await {
            // What was written between the last read and the end is still to be sent.
            last_look = true;
            continue;
        }
        tokio::select! {
            _ = news.recv() => {}
            () = clock.sleep(LOOK) => {}
            () = sink.closed() => return Ok(()),
        }
    }
}

fn watch(path: &Path, sender: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let directory = path.parent()?;
    let watcher = notify::recommended_watcher(move |_| {
        // A full channel holds news already.
        let _ = sender.try_send(());
    });
    let mut watcher = watcher.ok()?;
    watcher.watch(directory, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_base::SystemClock;
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Running(AtomicBool);

    #[async_trait]
    impl Writing for Running {
        async fn running(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    const LOG: &str = "2026-01-01T00:00:00.000000000Z stdout F one\n\
                       2026-01-01T00:00:01.000000000Z stderr F two\n\
                       2026-01-01T00:00:02.000000000Z stdout P th\n\
                       2026-01-01T00:00:02.000000000Z stdout F ree\n";

    async fn read(options: LogOptions) -> String {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let (sender, mut receiver) = mpsc::channel(8);
        let stopped = Running(AtomicBool::new(false));
        let clock = SystemClock::shared();
        send(&path, &options, &stopped, &clock, sender)
            .await
            .unwrap();
        let mut text = Vec::new();
        while let Some(piece) = receiver.recv().await {
            text.extend(piece.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn parts_of_a_log() {
        let with = |change: fn(&mut LogOptions)| {
            let mut options = LogOptions::default();
            change(&mut options);
            options
        };
        assert_eq!(read(with(|_| {})).await, "one\ntwo\nthree\n");
        assert_eq!(read(with(|o| o.tail_lines = Some(1))).await, "ree\n");
        assert_eq!(read(with(|o| o.limit_bytes = Some(5))).await, "one\nt");
        assert_eq!(
            read(with(|o| o.stream = Some("stderr".into()))).await,
            "two\n"
        );
        let since = with(|o| o.since = "2026-01-01T00:00:01Z".parse().ok());
        assert_eq!(read(since).await, "two\nthree\n");
        let stamped = read(with(|o| {
            o.timestamps = true;
            o.tail_lines = Some(1);
        }));
        assert_eq!(stamped.await, "2026-01-01T00:00:02.000000000Z ree\n");
        assert_eq!(read(with(|o| o.follow = true)).await, "one\ntwo\nthree\n");
    }

    #[tokio::test]
    async fn follows_through_a_rotation_to_the_end() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("0.log");
        std::fs::write(&path, "").unwrap();
        let running = std::sync::Arc::new(Running(AtomicBool::new(true)));
        let (sender, mut receiver) = mpsc::channel(8);
        let task = {
            let (path, running) = (path.clone(), running.clone());
            tokio::spawn(async move {
                let options = LogOptions {
                    follow: true,
                    ..LogOptions::default()
                };
                let clock = SystemClock::shared();
                send(&path, &options, running.as_ref(), &clock, sender).await
            })
        };
        let write = |text: &str| {
            let mut file = File::options()
                .append(true)
                .create(true)
                .open(&path)
                .unwrap();
            writeln!(file, "2026-01-01T00:00:00.000000000Z stdout F {text}").unwrap();
        };
        write("a");
        assert_eq!(receiver.recv().await.unwrap().unwrap(), "a\n");
        std::fs::rename(&path, root.path().join("0.log.old")).unwrap();
        write("b");
        assert_eq!(receiver.recv().await.unwrap().unwrap(), "b\n");
        running.0.store(false, Ordering::SeqCst);
        write("c");
        assert_eq!(receiver.recv().await.unwrap().unwrap(), "c\n");
        assert!(receiver.recv().await.is_none());
        task.await.unwrap().unwrap();
    }
}
