//! The store on the local disk: a log that every write is appended to, and an index in memory.
//!
//! Keys and the places of their values are in memory, values on disk. One thread writes; everyone reads.
//! See `frame` for the bytes, `recovery` for opening, `snapshot` for how space is won back.

mod file;
mod frame;
mod recovery;
mod snapshot;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use skiff_base::{Random, SharedClock};
use tokio::sync::{mpsc, oneshot};

use self::file::{Place, failed};
use self::writer::{Job, Writer, cost};
use crate::history::{Found, FoundChange};
use crate::lease::{Deadlines, Revoke};
use crate::plan::{Answer, Request, State};
use crate::watch::{CATCH_UP_CHANGES, CatchUp, Hub, Pace, Source, watch};
use crate::{
    Event, KeyValue, LeaseId, Range, Result, Revision, Store, StoreError, WatchLimits, WatchStream,
};

/// How an embedded store is opened.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Drives leases and progress.
    pub clock: SharedClock,
    /// Salts the files.
    pub random: Random,
    /// When a watcher is too slow.
    pub watch_limits: WatchLimits,
    /// How many bytes may lie idle on disk before space is won back; besides, as many as are in use may.
    pub slack: u64,
}

impl EmbeddedOptions {
    /// What a server uses.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            random: Random::from_system(),
            watch_limits: WatchLimits::default(),
            slack: 16 * 1024 * 1024,
        }
    }
}

/// Requests that wait for the writer; more must wait themselves.
const QUEUE: usize = 1024;
/// No value is longer.
const MAX_VALUE: usize = 64 * 1024 * 1024;
/// Reading more values than this is left to a thread that may block.
const INLINE_READS: usize = 8;

/// A store in a directory of the local disk.
#[derive(Debug)]
pub struct EmbeddedStore {
    inner: Arc<Inner>,
}

/// The state that readers, watches and the writer share.
#[derive(Debug)]
struct Shared {
    clock: SharedClock,
    state: RwLock<State<Place>>,
    hub: Hub,
    /// Bytes on disk.
    size: AtomicU64,
    /// The store is being closed.
    stopping: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    deadlines: Arc<Deadlines>,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Held for as long as the store is open.
    _lock: File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs = None;
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(writer) = self.writer.lock().take() {
            let _ = writer.join();
        }
        self.shared.hub.close();
    }
}

impl EmbeddedStore {
    /// Opens the database in a directory, which is made if need be. Where leases are held it must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when another process has it open or the disk fails, [`StoreError::Corrupt`] when
    /// a checksum does not match, [`StoreError::NoSpace`] when a new database finds no room.
    pub fn open(directory: &Path, options: EmbeddedOptions) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(|error| failed(directory, "make", &error))?;
        let lock = lock(directory)?;
        let recovered = recovery::recover(directory, &options.random)?;
        let sealed_len: u64 = recovered.sealed.iter().map(|(_, len)| len).sum();
        let live = recovered
            .state
            .history
            .versions_after(None)
            .flat_map(|(key, versions)| versions.iter().map(move |version| cost(key, version)))
            .sum();
        let leases: Vec<_> = recovered.state.leases.iter().collect();
        let shared = Arc::new(Shared {
            clock: options.clock.clone(),
            state: RwLock::new(recovered.state),
            hub: Hub::new(options.watch_limits),
            size: AtomicU64::new(sealed_len + recovered.log_len),
            stopping: AtomicBool::new(false),
        });
        let writer = Writer {
            shared: shared.clone(),
            directory: directory.to_owned(),
            random: options.random,
            log: recovered.log,
            log_len: recovered.log_len,
            dirty: false,
            sealed: recovered.sealed,
            live,
            slack: options.slack,
            frame: frame::FrameBuilder::new(),
            snapshot: None,
        };
        let (jobs, receiver) = mpsc::channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(receiver))
            .map_err(|error| StoreError::Failed(format!("start the writer: {error}")))?;
        let inner = Arc::new(Inner {
            shared,
            deadlines: Deadlines::new(options.clock),
            jobs: Some(jobs),
            writer: Mutex::new(Some(writer)),
            _lock: lock,
        });
        for (id, ttl) in leases {
            // Nobody could keep it alive while the store was closed, so its time starts anew.
            inner.deadlines.start(id, ttl, &inner);
        }
        Ok(Self { inner })
    }
}

/// Makes sure that nobody else has the directory open.
fn lock(directory: &Path) -> Result<File> {
    let path = directory.join("LOCK");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| failed(&path, "open", &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            return Err(StoreError::Failed(format!(
                "the database in {} is in use by another server (process {})",
                directory.display(),
                holder.trim()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(failed(&path, "lock", &error)),
    }
    // The number is only for the message above; on a full disk it may be missing.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

fn key_value(found: Found<Place>) -> Result<KeyValue> {
    Ok(KeyValue {
        value: found.value.load(&found.key)?,
        key: found.key,
        create_revision: found.create,
        mod_revision: found.modified,
        lease: found.lease,
    })
}

fn event(
    key: &Arc<str>,
    revision: Revision,
    current: Option<KeyValue>,
    previous: Option<KeyValue>,
) -> Result<Event> {
    match (current, previous) {
        (Some(current), previous) => Ok(Event::Put { current, previous }),
        (None, Some(previous)) => Ok(Event::Delete { revision, previous }),
        (None, None) => Err(StoreError::Failed(format!("{key} was deleted twice"))),
    }
}

fn changed(change: FoundChange<Place>) -> Result<Option<Event>> {
    let previous = change.previous.map(key_value).transpose()?;
    Ok(match change.current {
        Some(current) => Some(Event::Put {
            current: key_value(current)?,
            previous,
        }),
        None => previous.map(|previous| Event::Delete {
            revision: change.revision,
            previous,
        }),
    })
}

/// Runs something that reads much from the disk where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StoreError::Failed(format!("read: {error}")))?
}

impl Inner {
    async fn write(&self, request: Request) -> Result<Answer> {
        let Some(jobs) = &self.jobs else {
            return Err(crate::watch::closed());
        };
        let (answer, answered) = oneshot::channel();
        jobs.send(Job { request, answer })
            .await
            .map_err(|_| StoreError::Failed("the writer has ended".into()))?;
        match answered.await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::Unknown("the writer has ended".into())),
        }
    }

    async fn write_key(&self, key: Arc<str>, request: Request) -> Result<Revision> {
        match self.write(request).await? {
            Answer::Revision(revision) => Ok(revision),
            Answer::Exists(revision) => match self.state_of(&key, revision)? {
                Some(state) => Err(StoreError::Exists(state)),
                None => Err(StoreError::Failed(format!(
                    "{key} existed, and was deleted and forgotten since"
                ))),
            },
            Answer::Conflict(None) => Err(StoreError::Conflict(None)),
            Answer::Conflict(Some(revision)) => {
                Err(StoreError::Conflict(self.state_of(&key, revision)?))
            }
            other => Err(refused(&other)),
        }
    }

    /// The state of a key that a request ran into, or, if that is forgotten already, its present state.
    fn state_of(&self, key: &str, revision: Revision) -> Result<Option<KeyValue>> {
        let found = {
            let state = self.shared.state.read();
            match state.history.get(key, Some(revision)) {
                Err(StoreError::Compacted(_)) => state.history.get(key, None)?,
                found => found?,
            }
        };
        found.map(key_value).transpose()
    }
}

/// An answer that is not what was asked for.
fn refused(answer: &Answer) -> StoreError {
    match answer {
        Answer::NoLease => StoreError::NoLease,
        Answer::Future(revision) => StoreError::Future(*revision),
        other => StoreError::Failed(format!("unexpected answer {other:?}")),
    }
}

fn checked(value: Bytes) -> Result<Bytes> {
    if value.len() > MAX_VALUE {
        return Err(StoreError::Failed(format!(
            "the value has {} bytes; at most {MAX_VALUE} are stored",
            value.len()
        )));
    }
    Ok(value)
}

#[async_trait]
impl Revoke for Inner {
    async fn revoke(&self, id: LeaseId) -> Result<()> {
        match self.write(Request::Revoke(id)).await? {
            Answer::Done => Ok(()),
            other => Err(refused(&other)),
        }
    }
}

impl Pace for Shared {
    fn current(&self) -> Revision {
        self.state.read().history.revision
    }

    fn clock(&self) -> &SharedClock {
        &self.clock
    }
}

#[async_trait]
impl Source for Shared {
    async fn catch_up(&self, prefix: &Arc<str>, after: Revision) -> Result<CatchUp> {
        let (changes, through) = {
            let state = self.state.read();
            if after == state.history.revision {
                return Ok(CatchUp::Live(self.hub.subscribe(prefix.clone())?));
            }
            state.history.changes(prefix, after, CATCH_UP_CHANGES)?
        };
        let read = move || {
            let events = changes.into_iter().filter_map(|c| changed(c).transpose());
            events.collect::<Result<Vec<_>>>()
        };
        let events = blocking(read).await?;
        Ok(CatchUp::Events { events, through })
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn revision(&self) -> Result<Revision> {
        Ok(self.inner.shared.current())
    }

    fn known_revision(&self) -> Option<Revision> {
        Some(self.inner.shared.current())
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<KeyValue>> {
        let found = self.inner.shared.state.read().history.get(key, at)?;
        found.map(key_value).transpose()
    }

    async fn range(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range> {
        let found = {
            let state = self.inner.shared.state.read();
            state.history.range(prefix, from, limit, at)?
        };
        let (count, revision) = (found.count, found.revision);
        let read = move || {
            let items = found.items.into_iter().map(key_value);
            items.collect::<Result<Vec<_>>>()
        };
        let items = if count <= INLINE_READS as u64 {
            read()?
        } else {
            blocking(read).await?
        };
        Ok(Range {
            more: count > items.len() as u64,
            count,
            revision,
            items,
        })
    }

    async fn create(&self, key: &str, value: Bytes, lease: LeaseId) -> Result<Revision> {
        let key: Arc<str> = key.into();
        let request = Request::Create {
            key: key.clone(),
            value: checked(value)?,
            lease,
        };
        self.inner.write_key(key, request).await
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        lease: LeaseId,
    ) -> Result<Revision> {
        let key: Arc<str> = key.into();
        let request = Request::Update {
            key: key.clone(),
            value: checked(value)?,
            expected,
            lease,
        };
        self.inner.write_key(key, request).await
    }

    async fn delete(&self, key: &str, expected: Option<Revision>) -> Result<Revision> {
        let key: Arc<str> = key.into();
        let request = Request::Delete {
            key: key.clone(),
            expected,
        };
        self.inner.write_key(key, request).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        let shared = &self.inner.shared;
        shared.state.read().history.changes(prefix, after, 0)?;
        Ok(watch(shared.clone(), prefix, after))
    }

    async fn request_progress(&self) -> Result<()> {
        let state = self.inner.shared.state.read();
        self.inner.shared.hub.progress(state.history.revision);
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        match self.inner.write(Request::Compact(revision)).await? {
            Answer::Done => Ok(()),
            other => Err(refused(&other)),
        }
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId> {
        match self.inner.write(Request::Grant(ttl)).await? {
            Answer::Lease(id) => {
                self.inner.deadlines.start(id, ttl, &self.inner);
                Ok(id)
            }
            other => Err(refused(&other)),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.inner.deadlines.renew(lease)
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<()> {
        self.inner.revoke(lease).await?;
        self.inner.deadlines.remove(lease);
        Ok(())
    }

    async fn size(&self) -> Result<u64> {
        Ok(self.inner.shared.size.load(Ordering::SeqCst))
    }
}
