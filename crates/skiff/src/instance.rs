//! The running server of a data directory: its lock, and what it tells about itself.

use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::cmd::version;
use crate::config::Config;

/// Held by the one server of a data directory, as long as it lives. The file holds the process id.
pub struct Lock {
    _file: Flock<fs::File>,
}

fn lock_path(data_dir: &Path) -> PathBuf {
    data_dir.join("server.lock")
}

impl Lock {
    /// Takes the lock, or says who has it.
    pub fn take(data_dir: &Path) -> Result<Self> {
        let path = lock_path(data_dir);
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                bail!(
                    "{} is in use by process {}: a server runs there already",
                    data_dir.display(),
                    process_in(&mut file).unwrap_or_default()
                );
            }
            Err((_, error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        };
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }

    /// The process that holds the lock; `None` when nobody does.
    pub fn is_held(data_dir: &Path) -> Result<Option<i32>> {
        let path = lock_path(data_dir);
        let file = match fs::OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
        };
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => Ok(None),
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                Ok(process_in(&mut file).or(Some(0)))
            }
            Err((_, error)) => Err(error).with_context(|| format!("locking {}", path.display())),
        }
    }
}

fn process_in(file: &mut fs::File) -> Option<i32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// What a server writes about itself, for `skiff status` and `skiff down`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Instance {
    /// The skiff version.
    pub version: String,
    /// Seconds since 1970.
    pub started: u64,
    /// The API server that it works for, when it is a kubelet alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// How it was set up.
    pub config: Config,
}

impl Instance {
    /// A server that starts now.
    #[must_use]
    pub fn new(config: &Config, now: SystemTime) -> Self {
        let started = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Self {
            version: version::TEXT.to_owned(),
            started,
            server: None,
            config: config.clone(),
        }
    }

    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("server.json")
    }

    /// Writes it into the data directory. It stays when the server ends, so that `skiff down` knows what to remove.
    pub fn write(&self) -> Result<()> {
        crate::pki::write_private(
            &Self::path(&self.config.data_dir),
            &serde_json::to_string_pretty(self)?,
        )
    }

    /// Reads it; `None` when no server ever ran there.
    pub fn read(data_dir: &Path) -> Result<Option<Self>> {
        let path = Self::path(data_dir);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("{} is damaged", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_exclusive_and_names_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Lock::is_held(folder.path()).unwrap(), None);
        let lock = Lock::take(folder.path()).unwrap();
        assert_eq!(
            Lock::is_held(folder.path()).unwrap(),
            Some(i32::try_from(std::process::id()).unwrap())
        );
        let error = Lock::take(folder.path()).err().unwrap().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(lock);
        assert_eq!(Lock::is_held(folder.path()).unwrap(), None);
        Lock::take(folder.path()).unwrap();
    }
}
