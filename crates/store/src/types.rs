//! The store's trait and the values that cross it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

/// The global revision: one more for every write. 0 before the first write.
pub type Revision = u64;
/// A lease's identifier; 0 is no lease.
pub type LeaseId = u64;

/// A key with its value and history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// For example `/registry/pods/default/web`.
    pub key: Arc<str>,
    /// The bytes as written.
    pub value: Bytes,
    /// The revision of the write that made the key.
    pub create_revision: Revision,
    /// The revision of the last write.
    pub mod_revision: Revision,
    /// The lease that the key dies with; 0 for none.
    pub lease: LeaseId,
}

/// A page of keys, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The keys found.
    pub items: Vec<KeyValue>,
    /// Whether more keys follow behind the limit.
    pub more: bool,
    /// How many keys the whole range (from `from` on) holds at that revision, those beyond the limit included.
    pub count: u64,
    /// The revision that was read.
    pub revision: Revision,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was made or changed; `previous` is its state before.
    Put {
        /// The new state.
        current: KeyValue,
        /// The state before, none for a new key.
        previous: Option<KeyValue>,
    },
    /// The key went at `revision`; `previous` is its last state.
    Delete {
        /// The revision of the deletion.
        revision: Revision,
        /// The last state.
        previous: KeyValue,
    },
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// Changes in revision order; all changes of one revision come in one batch.
    Events(Vec<Event>),
    /// Nothing up to and including this revision is still to come.
    Progress(Revision),
}

/// A running watch. It ends with an error item when it cannot go on ([`StoreError::Compacted`],
/// [`StoreError::Slow`]); never silently.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchItem, StoreError>> + Send>>;

/// Why an operation was refused. Nothing was written when one of these comes back, except where
/// [`StoreError::Unknown`] says that nobody knows.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Create: the key exists. Holds its state.
    #[error("key exists: {}", .0.key)]
    Exists(KeyValue),
    /// Guarded update or delete: the key is at another revision. Holds its state; `None`: no such key.
    #[error("key is at another revision")]
    Conflict(Option<KeyValue>),
    /// The revision asked for was compacted away; holds the oldest that can be read.
    #[error("required revision has been compacted; the oldest is {0}")]
    Compacted(Revision),
    /// The revision asked for lies in the future; holds the current one.
    #[error("required revision is a future revision; the current is {0}")]
    Future(Revision),
    /// The watcher did not keep up and was cut off.
    #[error("watcher is too slow")]
    Slow,
    /// No such lease, or it has expired.
    #[error("lease not found")]
    NoLease,
    /// No room on the disk; reads go on, and writes are accepted again when there is room.
    #[error("no space left for the database")]
    NoSpace,
    /// A checksum does not match: the damaged data is not served.
    #[error("database is damaged: {0}")]
    Corrupt(String),
    /// The write's outcome is not known (the backend went away while it was under way).
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// Anything else, with the reason.
    #[error("store failed: {0}")]
    Failed(String),
}

/// The result of a store operation.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A revisioned key-value store with watch.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The current revision.
    async fn revision(&self) -> Result<Revision>;
    /// The current revision of a store that knows it without asking anybody; `None`: [`Store::revision`] has to be asked.
    fn known_revision(&self) -> Option<Revision> {
        None
    }
    /// One key, now (`None`) or at an old revision.
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<KeyValue>>;
    /// Keys that start with `prefix` (a plain string: end it with `/` where that is meant) and are not below `from` (`None`: from the start), in order, at most
    /// `limit` (0: all), now or at an old revision.
    async fn range(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range>;
    /// Makes a key; refuses with [`StoreError::Exists`].
    async fn create(&self, key: &str, value: Bytes, lease: LeaseId) -> Result<Revision>;
    /// Replaces the value of a key that is at revision `expected`; refuses with [`StoreError::Conflict`].
    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        lease: LeaseId,
    ) -> Result<Revision>;
    /// Deletes a key, if it is at `expected` when given. Answers with the revision of the deletion; a
    /// missing key is a [`StoreError::Conflict`] of `None`.
    async fn delete(&self, key: &str, expected: Option<Revision>) -> Result<Revision>;
    /// All changes to keys under `prefix` with a revision **greater** than `after`, in order, without gaps,
    /// then new ones as they happen. Progress items come at least every few seconds of silence.
    /// A revision that lies in the future is refused ([`StoreError::Future`]), one before the last
    /// compaction as well ([`StoreError::Compacted`]). Several revisions may come in one batch.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream>;
    /// Makes every running watch deliver a progress item of at least the current revision soon, so that
    /// a cache can tell that it is fresh without waiting for one.
    async fn request_progress(&self) -> Result<()>;
    /// Forgets history up to and including `revision`: states that no reader at or above it can see.
    /// `revision` itself stays readable. Compacting what is compacted already does nothing.
    async fn compact(&self, revision: Revision) -> Result<()>;
    /// Grants a lease; keys written with it are deleted when it is not kept alive for `ttl`.
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId>;
    /// Starts the lease's time anew.
    async fn keep_alive(&self, lease: LeaseId) -> Result<()>;
    /// Ends the lease and deletes its keys.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<()>;
    /// Whether a key should be written again although its value is as wanted, because the form in which it lies here is
    /// no longer the one that is written (a layer that encrypts, after a change of keys).
    async fn wants_rewrite(&self, _key: &str) -> Result<bool> {
        Ok(false)
    }
    /// Bytes on disk (or in memory).
    async fn size(&self) -> Result<u64>;
}
