//! Opening a database: the newest snapshot, then the logs after it, each byte checked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use skiff_base::Random;

use super::file::{DataFile, End, Frames, Place, failed, parse_name, path, sync_directory};
use super::frame::{FileKind, Record, parse_records};
use crate::plan::{Effect, State};
use crate::{Result, StoreError};

/// What an opened database consists of.
pub(super) struct Recovered {
    pub(super) state: State<Place>,
    /// The log to append to.
    pub(super) log: Arc<DataFile>,
    /// Its length.
    pub(super) log_len: u64,
    /// Snapshot and sealed logs, with their lengths.
    pub(super) sealed: Vec<(PathBuf, u64)>,
}

/// Reads the database in `directory`, or makes an empty one.
pub(super) fn recover(directory: &Path, random: &Random) -> Result<Recovered> {
    let (snapshots, logs) = list(directory)?;
    let snapshot = snapshots.last().copied();
    let mut loading = Loading {
        state: State::new(),
        sealed: Vec::new(),
    };
    if let Some(id) = snapshot {
        loading.snapshot(directory, id)?;
    }
    let covered = snapshot.unwrap_or(0);
    remove_covered(directory, &snapshots, &logs, covered);
    let logs: Vec<u64> = logs.into_iter().filter(|id| *id > covered).collect();
    for (expected, id) in (covered + 1..).zip(&logs) {
        if *id != expected {
            return Err(StoreError::Corrupt(format!(
                "{} is missing",
                path(directory, FileKind::Log, expected).display()
            )));
        }
    }
    let mut open = None;
    for id in &logs {
        open = loading.log(directory, *id, Some(id) == logs.last())?;
    }
    let (log, log_len) = match open {
        Some(open) => open,
        None => {
            // Either nothing was there, or the crash came between sealing a log and making the next one.
            let next = logs
                .iter()
                .rev()
                .find(|id| path(directory, FileKind::Log, **id).exists())
                .map_or(covered + 1, |last| last + 1);
            new_log(directory, next, random)?
        }
    };
    Ok(Recovered {
        state: loading.state,
        log,
        log_len,
        sealed: loading.sealed,
    })
}

/// Makes an empty log that is there after a crash.
pub(super) fn new_log(directory: &Path, id: u64, random: &Random) -> Result<(Arc<DataFile>, u64)> {
    let name = path(directory, FileKind::Log, id);
    let log = DataFile::create(name, FileKind::Log, id, random)?;
    let durable = log
        .file
        .sync_all()
        .and_then(|()| sync_directory(directory))
        .map_err(|error| failed(&log.path, "sync", &error));
    if let Err(error) = durable {
        let _ = std::fs::remove_file(&log.path);
        return Err(error);
    }
    let len = log.len()?;
    Ok((Arc::new(log), len))
}

fn list(directory: &Path) -> Result<(BTreeSet<u64>, BTreeSet<u64>)> {
    let (mut snapshots, mut logs) = (BTreeSet::new(), BTreeSet::new());
    let entries =
        std::fs::read_dir(directory).map_err(|error| failed(directory, "list", &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| failed(directory, "list", &error))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        match parse_name(name) {
            Some((FileKind::Snapshot, id)) => drop(snapshots.insert(id)),
            Some((FileKind::Log, id)) => drop(logs.insert(id)),
            // A snapshot that was not finished.
            None if name.ends_with(".tmp") => drop(std::fs::remove_file(entry.path())),
            None => {}
        }
    }
    Ok((snapshots, logs))
}

/// Removes what a crash left behind between finishing a snapshot and removing what it replaces.
fn remove_covered(directory: &Path, snapshots: &BTreeSet<u64>, logs: &BTreeSet<u64>, covered: u64) {
    let old_snapshots = snapshots.iter().filter(|id| **id < covered);
    let old_logs = logs.iter().filter(|id| **id <= covered);
    let names = old_snapshots
        .map(|id| path(directory, FileKind::Snapshot, *id))
        .chain(old_logs.map(|id| path(directory, FileKind::Log, *id)));
    for name in names {
        if let Err(error) = std::fs::remove_file(&name) {
            tracing::warn!(file = %name.display(), %error, "old file could not be removed");
        }
    }
}

struct Loading {
    state: State<Place>,
    sealed: Vec<(PathBuf, u64)>,
}

fn damaged(file: &DataFile, offset: u64, what: &str) -> StoreError {
    StoreError::Corrupt(format!(
        "{}: at byte {offset}: {what}; restore the database from a backup",
        file.path.display()
    ))
}

impl Loading {
    fn snapshot(&mut self, directory: &Path, id: u64) -> Result<()> {
        let name = path(directory, FileKind::Snapshot, id);
        let Some(file) = DataFile::open(name.clone(), FileKind::Snapshot, id)? else {
            return Err(StoreError::Corrupt(format!(
                "{}: the header is missing",
                name.display()
            )));
        };
        let file = Arc::new(file);
        let mut frames = Frames::new(&file)?;
        let mut seal = false;
        let end = loop {
            match frames.next()? {
                Ok((payload, start)) => seal = self.frame(&file, &payload, start)?,
                Err(end) => break end,
            }
        };
        // A snapshot gets its name only when all of it is on disk.
        if end != End::Whole || !seal {
            return Err(damaged(&file, frames.offset, "wrong checksum or cut short"));
        }
        self.state.history.sort_changes();
        self.sealed.push((name, frames.offset));
        Ok(())
    }

    /// Reads a log; gives it back if it can be appended to.
    fn log(
        &mut self,
        directory: &Path,
        id: u64,
        last: bool,
    ) -> Result<Option<(Arc<DataFile>, u64)>> {
        let name = path(directory, FileKind::Log, id);
        let Some(file) = DataFile::open(name.clone(), FileKind::Log, id)? else {
            if !last {
                return Err(StoreError::Corrupt(format!(
                    "{}: the header is missing",
                    name.display()
                )));
            }
            // The crash came while it was made: nothing can be in it.
            std::fs::remove_file(&name).map_err(|error| failed(&name, "remove", &error))?;
            return Ok(None);
        };
        let file = Arc::new(file);
        let mut frames = Frames::new(&file)?;
        let mut sealed = false;
        let end = loop {
            match frames.next()? {
                Ok(_) if sealed => {
                    return Err(damaged(&file, frames.offset, "a frame behind the end"));
                }
                Ok((payload, start)) => sealed = self.frame(&file, &payload, start)?,
                Err(end) => break end,
            }
        };
        let len = frames.offset;
        match end {
            End::Whole if sealed => {
                self.sealed.push((name, len));
                return Ok(None);
            }
            End::Whole if last => {}
            End::Torn if last && !sealed => cut(&file, len)?,
            End::Whole => return Err(damaged(&file, len, "the file is cut short")),
            End::Torn | End::Damaged => return Err(damaged(&file, len, "wrong checksum")),
        }
        Ok(Some((file.clone(), len)))
    }

    /// Carries out a frame's records; answers whether the frame seals the file.
    fn frame(&mut self, file: &Arc<DataFile>, payload: &Bytes, start: u64) -> Result<bool> {
        let Some(records) = parse_records(payload) else {
            return Err(damaged(file, start, "a record makes no sense"));
        };
        let mut seal = false;
        for (record, at) in records {
            match record {
                Record::Seal => seal = true,
                Record::Counters {
                    revision,
                    compacted,
                    last_lease,
                } => {
                    self.state.history.revision = revision;
                    self.state.history.compacted = compacted;
                    self.state.leases.last = last_lease;
                }
                Record::Effect(effect) => {
                    let place = match &effect {
                        Effect::Put { value, .. } => Some(Place {
                            file: file.clone(),
                            offset: start + at,
                            len: u32::try_from(value.len()).unwrap_or(u32::MAX),
                            crc: crc32fast::hash(value),
                        }),
                        _ => None,
                    };
                    self.state.apply(&effect, place, |_, _| {});
                }
            }
        }
        Ok(seal)
    }
}

/// Cuts off what a crash left of a write that nobody was told of.
fn cut(file: &DataFile, len: u64) -> Result<()> {
    tracing::warn!(file = %file.path.display(), len, "an unfinished write at the end is cut off");
    file.file
        .set_len(len)
        .and_then(|()| file.file.sync_all())
        .map_err(|error| failed(&file.path, "cut", &error))
}
