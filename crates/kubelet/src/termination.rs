//! The last words of a container: its termination message.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::logs::line;

/// The longest message from a file.
const MAX_FILE: u64 = 4096;
/// The longest message from the log.
const MAX_LOG: u64 = 2048;
/// The most lines from the log.
const MAX_LINES: usize = 80;

/// What the message of an ended container is made from.
pub struct Ended<'a> {
    /// What the runtime says (it could not start).
    pub runtime_message: &'a str,
    /// The file that the container may have written.
    pub file: Option<&'a Path>,
    /// Whether the log stands in for an empty file.
    pub from_logs: bool,
    /// The log.
    pub log: &'a Path,
}

/// The message.
#[must_use]
pub fn message(ended: &Ended<'_>) -> String {
    let written = ended.file.map(read_file).unwrap_or_default();
    let words = if written.is_empty() && ended.from_logs {
        log_tail(ended.log)
    } else {
        written
    };
    match (ended.runtime_message.is_empty(), words.is_empty()) {
        (_, true) => ended.runtime_message.to_owned(),
        (true, false) => words,
        (false, false) => format!("{}: {words}", ended.runtime_message),
    }
}

fn read_file(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

/// The last lines of a CRI log, without their times and streams.
fn log_tail(path: &Path) -> String {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        // Times and stream names take room as well: read more than is shown.
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG * 4)))?;
        file.read_to_end(&mut text)
    });
    if read.is_err() {
        return String::new();
    }
    let parsed: Vec<Vec<u8>> = text
        .split_inclusive(|b| *b == b'\n')
        .filter_map(line::parse)
        .map(|line| line.text())
        .collect();
    let start = parsed.len().saturating_sub(MAX_LINES);
    let bytes: Vec<u8> = parsed.get(start..).unwrap_or_default().concat();
    let limit = usize::try_from(MAX_LOG).unwrap_or(usize::MAX);
    let tail = bytes.get(bytes.len().saturating_sub(limit)..);
    String::from_utf8_lossy(tail.unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_then_log_then_runtime() {
        let root = tempfile::tempdir().unwrap();
        let (file, log) = (root.path().join("m"), root.path().join("log"));
        std::fs::write(
            &log,
            "2026-01-01T00:00:00.0Z stdout F one\n2026-01-01T00:00:01.0Z stderr P tw\n2026-01-01T00:00:01.0Z stderr F o\n",
        )
        .unwrap();
        std::fs::write(&file, "").unwrap();
        let say = |runtime_message: &str, from_logs: bool| {
            message(&Ended {
                runtime_message,
                file: Some(&file),
                from_logs,
                log: &log,
            })
        };
        assert_eq!(say("", false), "");
        assert_eq!(say("", true), "one\ntwo\n");
        assert_eq!(say("cannot start", false), "cannot start");
        std::fs::write(&file, "DONE").unwrap();
        assert_eq!(say("", true), "DONE");
        std::fs::write(&file, "x".repeat(5000)).unwrap();
        assert_eq!(say("", true).len(), 4096);
    }
}
