//! The audit log file, with rotation.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use skiff_base::SharedClock;

use super::AuditError;
use super::backend::Sink;
use super::event::Event;

/// What the file is like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// `-` is standard output.
    pub path: PathBuf,
    /// Whether lines are of the old text format instead of JSON.
    pub legacy: bool,
    /// Rotated files older than so many days go; 0: none.
    pub max_age_days: u64,
    /// So many rotated files are kept; 0: all.
    pub max_backups: usize,
    /// A file grows to so many megabytes; 0: 100.
    pub max_megabytes: u64,
    /// Whether rotated files are compressed.
    pub compress: bool,
}

struct Open {
    file: File,
    size: u64,
}

/// The file.
pub(crate) struct LogFile {
    settings: LogSettings,
    clock: SharedClock,
    open: Mutex<Option<Open>>,
}

impl LogFile {
    /// Opens the file for appending; makes it where there is none.
    pub fn open(settings: LogSettings, clock: SharedClock) -> Result<Arc<Self>, AuditError> {
        let log = Self {
            settings,
            clock,
            open: Mutex::new(None),
        };
        if !log.is_stdout() {
            let opened = append(&log.settings.path).map_err(|error| {
                AuditError::new(format!(
                    "ensureLogFile: {}: {error}",
                    log.settings.path.display()
                ))
            })?;
            *log.open.lock() = Some(opened);
        }
        Ok(Arc::new(log))
    }

    fn is_stdout(&self) -> bool {
        self.settings.path.as_os_str() == "-"
    }

    fn limit(&self) -> u64 {
        match self.settings.max_megabytes {
            0 => 100 << 20,
            megabytes => megabytes << 20,
        }
    }

    fn write(&self, text: &[u8]) -> std::io::Result<()> {
        if self.is_stdout() {
            return std::io::stdout().lock().write_all(text);
        }
        let mut open = self.open.lock();
        let full = open
            .as_ref()
            .is_some_and(|open| open.size > 0 && open.size + text.len() as u64 > self.limit());
        if full {
            *open = None;
            self.rotate()?;
        }
        if open.is_none() {
            *open = Some(append(&self.settings.path)?);
        }
        let Some(open) = open.as_mut() else {
            return Ok(());
        };
        open.file.write_all(text)?;
        open.size += text.len() as u64;
        Ok(())
    }

    /// Moves the file away under the time's name, and clears up behind in the background.
    fn rotate(&self) -> std::io::Result<()> {
        let path = &self.settings.path;
        let now = jiff::Timestamp::try_from(self.clock.now()).unwrap_or_default();
        let stamp = now.strftime("%Y-%m-%dT%H-%M-%S%.3f").to_string();
        let name = |suffix: &str| {
            let (stem, extension) = parts(path);
            path.with_file_name(format!("{stem}-{stamp}{suffix}{extension}"))
        };
        let mut target = name("");
        let mut counter = 1;
        while target.exists() {
            target = name(&format!("-{counter}"));
            counter += 1;
        }
        std::fs::rename(path, &target)?;
        let (settings, now) = (self.settings.clone(), self.clock.now());
        let tidy = move || {
            if let Err(error) = tidy(&settings, now) {
                tracing::warn!(%error, "clearing up old audit logs failed");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(tidy)),
            Err(_) => tidy(),
        }
        Ok(())
    }
}

fn append(path: &Path) -> std::io::Result<Open> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(directory) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        std::fs::create_dir_all(directory)?;
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let size = file.metadata()?.len();
    Ok(Open { file, size })
}

/// `audit` and `.log`.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| {
        part.map(|part| part.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let extension = match text(path.extension()) {
        extension if extension.is_empty() => extension,
        extension => format!(".{extension}"),
    };
    (text(path.file_stem()), extension)
}

/// Compresses rotated files and removes those that are too old or too many.
fn tidy(settings: &LogSettings, now: SystemTime) -> std::io::Result<()> {
    let mut rotated = rotated(&settings.path)?;
    let keep = match settings.max_backups {
        0 => rotated.len(),
        keep => keep,
    };
    for old in rotated.drain(..rotated.len().saturating_sub(keep)) {
        std::fs::remove_file(old)?;
    }
    let age = Duration::from_secs(settings.max_age_days * 24 * 60 * 60);
    for path in rotated {
        let modified = std::fs::metadata(&path)?.modified()?;
        if !age.is_zero() && now.duration_since(modified).is_ok_and(|past| past > age) {
            std::fs::remove_file(path)?;
        } else if settings.compress && path.extension().is_none_or(|extension| extension != "gz") {
            compress(&path)?;
        }
    }
    Ok(())
}

/// The rotated files, oldest first.
fn rotated(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (stem, extension) = parts(path);
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        let stamp = plain
            .strip_prefix(&format!("{stem}-"))
            .and_then(|rest| rest.strip_suffix(extension.as_str()));
        if stamp.is_some_and(|stamp| stamp.starts_with(|c: char| c.is_ascii_digit())) {
            found.push(directory.join(name));
        }
    }
    found.sort();
    Ok(found)
}

fn compress(path: &Path) -> std::io::Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(".gz");
    let mut encoder =
        flate2::write::GzEncoder::new(File::create(&target)?, flate2::Compression::default());
    std::io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    std::fs::remove_file(path)
}

#[async_trait::async_trait]
impl Sink for LogFile {
    fn name(&self) -> &'static str {
        "log"
    }

    async fn send(&self, events: &[Arc<Event>]) -> Result<(), AuditError> {
        let mut text = Vec::new();
        for event in events {
            if self.settings.legacy {
                text.extend_from_slice(event.legacy().as_bytes());
            } else {
                text.extend_from_slice(&event.json());
            }
            text.push(b'\n');
        }
        self.write(&text)
            .map_err(|error| AuditError::new(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_base::SimulatedClock;

    #[test]
    fn a_full_file_is_rotated_and_old_ones_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/audit.log");
        let clock =
            SimulatedClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let settings = LogSettings {
            path: path.clone(),
            max_backups: 2,
            max_megabytes: 1,
            compress: true,
            ..LogSettings::default()
        };
        let log = LogFile::open(settings.clone(), clock.clone()).unwrap();
        let line = vec![b'x'; 700 << 10];
        for _ in 0..5 {
            log.write(&line).unwrap();
            clock.advance(Duration::from_secs(1));
        }
        let mut names: Vec<String> = std::fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "audit-2023-11-14T22-13-23.000.log.gz",
                "audit-2023-11-14T22-13-24.000.log.gz",
                "audit.log"
            ]
        );
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 700 << 10);
        // What is there is appended to after a start.
        drop(log);
        let log = LogFile::open(settings, clock).unwrap();
        log.write(b"more\n").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), (700 << 10) + 5);
    }
}
