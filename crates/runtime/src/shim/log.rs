//! Container logs in CRI format: `<time> <stream> <F|P> <text>`, one line each.
//!
//! `F` ends a line of the container, `P` is a piece of one that is longer than [`MAX_LINE`] or that
//! the container left unfinished when it closed its output.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The longest piece of a line that one log line carries.
pub const MAX_LINE: usize = 16 * 1024;

/// An output stream of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output; a terminal's output too.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Cuts the bytes of one stream into log lines.
#[derive(Debug)]
pub struct Framer {
    stream: Stream,
    rest: Vec<u8>,
}

impl Framer {
    /// A framer at the start of a line.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            rest: Vec::new(),
        }
    }

    /// Appends to `out` the log lines that `bytes` complete. `time` is RFC 3339 with nanoseconds.
    pub fn push(&mut self, mut bytes: &[u8], time: &str, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.rest.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                self.line('F', &bytes[..end], time, out);
                bytes = &bytes[end + 1..];
            } else if window.len() == room && bytes.get(room) != Some(&b'\n') {
                self.line('P', window, time, out);
                bytes = &bytes[room..];
            } else if window.len() == room {
                // The line is exactly as long as fits, and its end is there.
                self.line('F', window, time, out);
                bytes = &bytes[room + 1..];
            } else {
                self.rest.extend_from_slice(window);
                return;
            }
        }
    }

    /// Appends what is left when the stream has ended.
    pub fn finish(&mut self, time: &str, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            self.line('P', &[], time, out);
        }
    }

    fn line(&mut self, tag: char, end: &[u8], time: &str, out: &mut Vec<u8>) {
        // Writing to memory cannot fail.
        let _ = write!(out, "{time} {} {tag} ", self.stream.name());
        out.extend_from_slice(&self.rest);
        out.extend_from_slice(end);
        out.push(b'\n');
        self.rest.clear();
        self.rest.shrink_to(1024);
    }
}

/// A log file that can be opened anew after it was rotated.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    /// Opens `path` to append, and makes it when it is not there.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: append_to(path)?,
        })
    }

    /// Opens the path again; the old file is kept when that fails.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.file = append_to(&self.path)?;
        Ok(())
    }

    /// Appends whole log lines.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.file.write_all(lines)
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    // The kubelet names a file in a directory of the container's own.
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

/// Nanoseconds since the epoch as RFC 3339 in UTC with nine digits, as CRI logs have it.
#[must_use]
pub fn timestamp(nanoseconds: i64) -> String {
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    let nanos = nanoseconds.rem_euclid(1_000_000_000);
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// The date that is `days` after 1970-01-01, by counting eras of 400 years that start in March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIME: &str = "T";

    fn framed(chunks: &[&[u8]], finish: bool) -> String {
        let mut framer = Framer::new(Stream::Stdout);
        let mut out = Vec::new();
        for chunk in chunks {
            framer.push(chunk, TIME, &mut out);
        }
        if finish {
            framer.finish(TIME, &mut out);
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn lines_are_tagged() {
        assert_eq!(
            framed(&[b"a\n\nb", b"c\n"], true),
            "T stdout F a\nT stdout F \nT stdout F bc\n"
        );
        assert_eq!(
            framed(&[b"unfinished"], true),
            "T stdout P unfinished\n",
            "an open line at the end is partial"
        );
        assert_eq!(framed(&[b"waiting"], false), "");
    }

    #[test]
    fn long_lines_are_cut() {
        let long = vec![b'x'; MAX_LINE];
        let mut exact = long.clone();
        exact.push(b'\n');
        assert_eq!(framed(&[&exact], true).matches(" P ").count(), 0);
        let mut longer = long.clone();
        longer.extend_from_slice(b"y\n");
        let text = framed(&[&longer], true);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("T stdout P x"));
        assert_eq!(lines[1], "T stdout F y");
    }

    proptest! {
        /// However the bytes are cut into reads, the text of the log lines is the output again.
        #[test]
        fn nothing_is_lost(
            runs in proptest::collection::vec(
                (prop_oneof![Just(b'\n'), Just(b'a'), Just(b'b')], prop_oneof![1..4usize, 16_300..16_500usize, 30_000..40_000usize]),
                0..8,
            )
        ) {
            let chunks: Vec<Vec<u8>> = runs.iter().map(|(byte, count)| {
                let count = if *byte == b'\n' { count % 4 } else { *count };
                vec![*byte; count]
            }).collect();
            let mut framer = Framer::new(Stream::Stderr);
            let mut out = Vec::new();
            for chunk in &chunks {
                framer.push(chunk, TIME, &mut out);
            }
            framer.finish(TIME, &mut out);
            let mut text = Vec::new();
            for line in out.split_inclusive(|byte| *byte == b'\n') {
                let body = line.strip_prefix(b"T stderr ").expect("prefix");
                prop_assert!(body.len() <= MAX_LINE + 3);
                text.extend_from_slice(&body[2..body.len() - 1]);
                if body[0] == b'F' {
                    text.push(b'\n');
                }
            }
            prop_assert_eq!(text, chunks.concat());
        }

        #[test]
        fn timestamps_sort_as_text(a in 0..4_102_444_800_000_000_000i64, b in 0..4_102_444_800_000_000_000i64) {
            prop_assert_eq!(a.cmp(&b), timestamp(a).cmp(&timestamp(b)));
        }
    }

    #[test]
    fn timestamps_are_rfc3339() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(
            timestamp(1_709_164_800_000_000_001),
            "2024-02-29T00:00:00.000000001Z"
        );
        assert_eq!(
            timestamp(1_795_219_199_999_999_999),
            "2026-11-20T23:59:59.999999999Z"
        );
    }
}
