//! Compaction on disk: all states that can be read go into one new file, then the old files go.
//!
//! It runs beside the writer, which goes on in a new log. States that come or go meanwhile do no harm: what
//! is written later is in the new log, and what compaction forgets later is forgotten again when that log is read.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use skiff_base::Random;

use super::Shared;
use super::file::{DataFile, Place, failed, path, sync_directory};
use super::frame::{FileKind, FrameBuilder, Record};
use crate::plan::Effect;
use crate::{Result, Revision, StoreError};

/// States that are looked up in one go while readers and the writer wait.
const STEP_KEYS: usize = 256;
/// A frame is written when it is this long; each is synced, so that the writer's own syncs stay quick.
const FRAME_BYTES: usize = 1024 * 1024;

/// A finished snapshot.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) path: PathBuf,
    pub(super) len: u64,
    /// The files that it stands for.
    pub(super) replaced: Vec<PathBuf>,
}

/// What a snapshot starts from.
pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) directory: PathBuf,
    pub(super) random: Random,
    /// The newest log that it stands for.
    pub(super) covered: u64,
    /// Snapshot and logs that it stands for, with their lengths.
    pub(super) replaced: Vec<(PathBuf, u64)>,
}

/// A state's key, revision and new place.
type Moved = (Arc<str>, Revision, Place);

/// Starts the work on a thread of its own. The caller is the writer: nothing changes during this call.
pub(super) fn start(task: Task) -> Option<JoinHandle<Option<Snapshot>>> {
    let mut builder = FrameBuilder::new();
    let through = begin(&task.shared, &mut builder);
    let spawned = std::thread::Builder::new()
        .name("store-snapshot".into())
        .spawn(move || match task.run(builder, through) {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(%error, "database could not be compacted; trying again later");
                None
            }
        });
    match spawned {
        Ok(handle) => Some(handle),
        Err(error) => {
            tracing::warn!(%error, "no thread to compact the database");
            None
        }
    }
}

/// Counters and leases as they are now; the revision up to which states are copied.
fn begin(shared: &Shared, builder: &mut FrameBuilder) -> Revision {
    let state = shared.state.read();
    builder.add(&Record::Counters {
        revision: state.history.revision,
        compacted: state.history.compacted,
        last_lease: state.leases.last,
    });
    for (id, ttl) in state.leases.iter() {
        builder.effect(&Effect::Grant(id, ttl));
    }
    state.history.revision
}

impl Task {
    fn run(self, builder: FrameBuilder, through: Revision) -> Result<Option<Snapshot>> {
        let name = path(&self.directory, FileKind::Snapshot, self.covered);
        let temporary = name.with_extension("tmp");
        let mut file = DataFile::create(
            temporary.clone(),
            FileKind::Snapshot,
            self.covered,
            &self.random,
        )?;
        // Error messages shall name the file by the name that it will have.
        file.path = name.clone();
        let mut copy = Copy {
            len: file.len()?,
            file: Arc::new(file),
            builder,
            waiting: Vec::new(),
            moved: Vec::new(),
        };
        let copied = self.copy(&mut copy, through).and_then(|whole| match whole {
            true => publish(&self.directory, &temporary, &name).map(|()| true),
            false => Ok(false),
        });
        if !matches!(copied, Ok(true)) {
            let _ = std::fs::remove_file(&temporary);
            return copied.map(|_| None);
        }
        self.exchange(copy.moved);
        self.shared.size.fetch_add(copy.len, Ordering::SeqCst);
        let mut replaced = Vec::new();
        for (old, len) in self.replaced {
            if let Err(error) = std::fs::remove_file(&old) {
                tracing::warn!(file = %old.display(), %error, "old file could not be removed");
            }
            self.shared.size.fetch_sub(len, Ordering::SeqCst);
            replaced.push(old);
        }
        Ok(Some(Snapshot {
            path: name,
            len: copy.len,
            replaced,
        }))
    }

    /// Copies all states up to a revision; `false`: the store is being closed.
    fn copy(&self, copy: &mut Copy, through: Revision) -> Result<bool> {
        let mut from: Option<Arc<str>> = None;
        loop {
            if self.shared.stopping.load(Ordering::SeqCst) {
                return Ok(false);
            }
            let step = self.step(from.as_deref(), through);
            let Some((last, _)) = step.last() else {
                break;
            };
            from = Some(last.clone());
            for (key, states) in step {
                for state in states {
                    copy.state(&key, state)?;
                }
            }
        }
        copy.builder.add(&Record::Seal);
        copy.flush()?;
        Ok(true)
    }

    fn step(&self, from: Option<&str>, through: Revision) -> Vec<(Arc<str>, Vec<Old>)> {
        let state = self.shared.state.read();
        state
            .history
            .versions_after(from)
            .take(STEP_KEYS)
            .map(|(key, versions)| {
                let old = versions
                    .iter()
                    .filter(|version| version.modified <= through)
                    .map(|version| Old {
                        create: version.create,
                        modified: version.modified,
                        lease: version.lease,
                        place: version.value.clone(),
                    });
                (key.clone(), old.collect())
            })
            .collect()
    }

    /// From now on the states are read from the new file.
    fn exchange(&self, moved: Vec<Moved>) {
        let mut moved = moved.into_iter().peekable();
        while moved.peek().is_some() {
            let mut state = self.shared.state.write();
            for (key, revision, place) in moved.by_ref().take(STEP_KEYS) {
                if let Some(value) = state.history.value_mut(&key, revision) {
                    *value = place;
                }
            }
        }
    }
}

/// A state to be copied.
struct Old {
    create: Revision,
    modified: Revision,
    lease: u64,
    place: Option<Place>,
}

/// A snapshot in the making.
struct Copy {
    file: Arc<DataFile>,
    len: u64,
    builder: FrameBuilder,
    /// States in the frame that is being built.
    waiting: Vec<Moved>,
    moved: Vec<Moved>,
}

impl Copy {
    fn state(&mut self, key: &Arc<str>, old: Old) -> Result<()> {
        match old.place {
            None => {
                self.builder.effect(&Effect::Delete {
                    key: key.clone(),
                    revision: old.modified,
                });
            }
            Some(place) => {
                let value = place.load(key)?;
                let at = self.builder.effect(&Effect::Put {
                    key: key.clone(),
                    value,
                    create: old.create,
                    revision: old.modified,
                    lease: old.lease,
                });
                let new = Place {
                    file: self.file.clone(),
                    offset: self.len + at,
                    ..place
                };
                self.waiting.push((key.clone(), old.modified, new));
            }
        }
        if self.builder.len() >= FRAME_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let frame = self.builder.finish(self.file.salt, self.len);
        self.file
            .file
            .write_all_at(frame, self.len)
            .and_then(|()| self.file.file.sync_data())
            .map_err(|error| failed(&self.file.path, "write", &error))?;
        self.len += frame.len() as u64;
        self.builder.reset();
        self.moved.append(&mut self.waiting);
        Ok(())
    }
}

/// Gives the finished file its name.
fn publish(directory: &Path, temporary: &Path, name: &Path) -> Result<()> {
    let renamed: io::Result<()> =
        std::fs::rename(temporary, name).and_then(|()| sync_directory(directory));
    renamed.map_err(|error| -> StoreError { failed(name, "finish", &error) })
}
