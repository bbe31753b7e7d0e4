//! One line of a CRI log: `<time> <stream> <P|F> <text>`.

use jiff::Timestamp;

/// A parsed line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written, as it stands in the file.
    pub stamp: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// Whether the container's line ends here.
    pub full: bool,
    /// The text, without the end of line.
    pub content: &'a [u8],
}

impl Line<'_> {
    /// When it was written.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        self.stamp.parse().ok()
    }

    /// The text as the container wrote it.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let mut text = self.content.to_vec();
        if self.full {
            text.push(b'\n');
        }
        text
    }
}

/// Reads a line; `None` when it is not one (the first bytes may be the end of a cut line).
#[must_use]
pub fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let mut parts = raw.splitn(4, |b| *b == b' ');
    let stamp = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = std::str::from_utf8(parts.next()?).ok()?;
    let content = parts.next().unwrap_or_default();
    if !matches!(stream, "stdout" | "stderr") || stamp.len() < 20 {
        return None;
    }
    let full = match tags.split(':').next()? {
        "F" => true,
        "P" => false,
        _ => return None,
    };
    Some(Line {
        stamp,
        stream,
        full,
        content,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lines() {
        let line = parse(b"2026-11-21T01:02:03.123456789Z stdout F hello  world\n").unwrap();
        assert_eq!(line.content, b"hello  world");
        assert_eq!(line.text(), b"hello  world\n");
        assert!(line.time().is_some());
        let part = parse(b"2026-11-21T01:02:03.123456789Z stderr P ").unwrap();
        assert!(!part.full && part.content.is_empty() && part.stream == "stderr");
        for bad in [
            &b"garbage\n"[..],
            b"",
            b"2026-11-21T01:02:03Z nowhere F x\n",
            b"2026-11-21T01:02:03Z stdout X x\n",
        ] {
            assert_eq!(parse(bad), None);
        }
    }
}
