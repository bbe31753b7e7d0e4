//! Variables from a file that another container wrote into a volume (`fileKeyRef`).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::volumes::subpath;

/// The longest file that is read.
const MAX_FILE: u64 = 64 * 1024;

/// The value of `key` in the file at `path` of the volume; `None` when the file or the key is missing.
pub fn value(volume: &Path, path: &str, key: &str) -> Result<Option<String>, String> {
    let opened = match subpath::open_beneath(volume, Path::new(path), false) {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("couldn't parse env file: {error}")),
    };
    // The handle was opened as a path only; through /proc it is opened for reading, wherever the path leads now.
    let through = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened));
    let mut text = String::new();
    let read = File::open(through).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
    read.map_err(|error| format!("couldn't parse env file: {error}"))?;
    Ok(find(&text, key))
}

fn find(text: &str, key: &str) -> Option<String> {
    let lines = text.lines().map(str::trim);
    let pairs = lines
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='));
    pairs
        .filter(|(name, _)| name.trim() == key)
        .map(|(_, value)| unquoted(value.trim()).to_owned())
        .next_back()
}

fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        let inner = value
            .strip_prefix(quote)
            .and_then(|v| v.strip_suffix(quote));
        if let Some(inner) = inner {
            return inner;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_variables() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("f"), "# c\nA=1\nB='two words'\nA=3\n").unwrap();
        let get = |path: &str, key: &str| value(root.path(), path, key);
        assert_eq!(get("f", "A"), Ok(Some("3".into())));
        assert_eq!(get("f", "B"), Ok(Some("two words".into())));
        assert_eq!(get("f", "C"), Ok(None));
        assert_eq!(get("none", "A"), Ok(None));
        assert!(get("../f", "A").is_err());
    }
}
