//! All caches, fed by one watch on the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::registry::ServedKind;
use futures::StreamExt;
use parking_lot::RwLock;
use skiff_base::{Backoff, Random, SharedClock, Shutdown};
use skiff_store::{Event, Store, StoreError, WatchItem};
use tokio::sync::watch;

use super::resource::ResourceCache;

/// How long a read waits for a revision that has not come yet, as upstream does.
const FRESHNESS_TIMEOUT: Duration = Duration::from_secs(3);
/// A change that is on its way needs no question after it ...
const ASK_PROGRESS_AFTER: Duration = Duration::from_millis(5);
/// ... and the question is put again after this time.
const ASK_PROGRESS_AGAIN: Duration = Duration::from_millis(100);

/// Why a cache could not serve.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CacheError {
    /// The revision asked for has not come within the time allowed; holds the current one.
    #[error("too large resource version; current: {0}")]
    TooLarge(u64),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All caches.
pub struct CacheHub {
    store: Arc<dyn Store>,
    clock: SharedClock,
    caches: RwLock<HashMap<Box<str>, Arc<ResourceCache>>>,
    progress: watch::Sender<u64>,
    /// Whether the watch on the store runs; reads wait until it does.
    started: watch::Sender<bool>,
}

impl CacheHub {
    /// Caches of a store; [`CacheHub::run`] keeps them up to date.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self {
            store,
            clock,
            caches: RwLock::default(),
            progress: watch::Sender::new(0),
            started: watch::Sender::new(false),
        })
    }

    /// Feeds the caches until `shutdown`.
    pub async fn run(self: Arc<Self>, random: Random, shutdown: Shutdown) {
        let mut backoff =
            Backoff::new(Duration::from_millis(20), Duration::from_secs(5)).with_jitter(0.2);
        loop {
            tokio::select! {
                outcome = self.feed(&mut backoff) => {
                    if let Err(error) = outcome {
                        tracing::warn!(%error, "the watch on the store broke; caches are built anew");
                    }
                }
                () = shutdown.triggered() => break,
            }
            // Watchers end, and lists wait for the next feed.
            self.started.send_replace(false);
            let caches = std::mem::take(&mut *self.caches.write());
            caches.values().for_each(|cache| cache.close());
            tokio::select! {
                () = self.clock.sleep(backoff.next(&random)) => {}
                () = shutdown.triggered() => break,
            }
        }
        // Watches end by the shutdown itself. The caches stay open: those who follow them would take a closed one for a broken
        // one, and ask for the next again and again.
    }

    async fn feed(&self, backoff: &mut Backoff) -> Result<(), StoreError> {
        let revision = self.store.revision().await?;
        let mut changes = self.store.watch("", revision).await?;
        self.progress.send_if_modified(|progress| {
            std::mem::replace(progress, revision.max(*progress)) < revision
        });
        self.started.send_replace(true);
        while let Some(item) = changes.next().await {
            match item? {
                WatchItem::Events(events) => self.dispatch(&events),
                WatchItem::Progress(revision) => self.advance(revision),
            }
            backoff.reset();
        }
        Ok(())
    }

    fn dispatch(&self, events: &[Event]) {
        let now = self.clock.monotonic();
        let caches = self.caches.read();
        // Runs of events for one cache are taken together; nearly always a batch is one event.
        let mut rest = events;
        while let Some(first) = rest.first() {
            let cache = find(&caches, key(first));
            let run = rest
                .iter()
                .take_while(|event| match (&cache, find(&caches, key(event))) {
                    (Some(cache), Some(other)) => Arc::ptr_eq(cache, &other),
                    (None, None) => true,
                    _ => false,
                })
                .count();
            let (batch, tail) = rest.split_at(run.max(1));
            if let Some(cache) = cache {
                cache.apply(batch, now);
            }
            rest = tail;
        }
        drop(caches);
        if let Some(last) = events.last() {
            self.advance(match last {
                Event::Put { current, .. } => current.mod_revision,
                Event::Delete { revision, .. } => *revision,
            });
        }
    }

    fn advance(&self, revision: u64) {
        self.progress.send_if_modified(|progress| {
            let newer = revision > *progress;
            if newer {
                *progress = revision;
            }
            newer
        });
    }

    /// The revision that every cache has reached.
    #[must_use]
    pub fn progress(&self) -> u64 {
        *self.progress.borrow()
    }

    /// Whether the watch on the store runs.
    #[must_use]
    pub fn is_started(&self) -> bool {
        *self.started.borrow()
    }

    /// Waits until every cache has reached `revision`.
    pub async fn wait_for(&self, revision: u64) -> Result<(), CacheError> {
        if self.progress() >= revision {
            return Ok(());
        }
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|progress| *progress >= revision);
        tokio::select! {
            _ = reached => Ok(()),
            // Ends never.
            () = self.ask_progress() => Ok(()),
            () = self.clock.sleep(FRESHNESS_TIMEOUT) => Err(CacheError::TooLarge(self.progress())),
        }
    }

    /// The revision may be that of a change which no cache is for, or of somebody else in the same etcd: then nothing
    /// comes unasked.
    async fn ask_progress(&self) {
        self.clock.sleep(ASK_PROGRESS_AFTER).await;
        loop {
            if let Err(error) = self.store.request_progress().await {
                tracing::debug!(%error, "the store does not tell how far it is");
            }
            self.clock.sleep(ASK_PROGRESS_AGAIN).await;
        }
    }

    /// Waits until every cache has reached the store's current revision: what a consistent read needs.
    pub async fn wait_current(&self) -> Result<(), CacheError> {
        let revision = match self.store.known_revision() {
            Some(revision) => revision,
            None => self.store.revision().await?,
        };
        self.wait_for(revision).await
    }

    /// The cache of a kind, loaded on first use.
    pub async fn cache(
        self: &Arc<Self>,
        kind: &Arc<ServedKind>,
    ) -> Result<Arc<ResourceCache>, CacheError> {
        loop {
            let known = self.caches.read().get(&*kind.storage).cloned();
            let cache = match known {
                // A request that began before the definition changed may have made it.
                Some(stale) if stale.serial() < kind.serial() => {
                    self.forget(kind, &stale);
                    stale.close();
                    continue;
                }
                Some(cache) => cache,
                None => {
                    let mut started = self.started.subscribe();
                    // The sender lives as long as `self`.
                    let _ = started.wait_for(|started| *started).await;
                    self.add(kind)
                }
            };
            if cache.ready().await {
                return Ok(cache);
            }
            if let Some(error) = cache.failure() {
                return Err(error.into());
            }
        }
    }

    /// A new cache, unless another request was faster.
    fn add(self: &Arc<Self>, kind: &Arc<ServedKind>) -> Arc<ResourceCache> {
        let mut caches = self.caches.write();
        if let Some(cache) = caches.get(&*kind.storage) {
            return cache.clone();
        }
        let cache = ResourceCache::new(kind.clone());
        caches.insert(kind.storage.as_ref().into(), cache.clone());
        let (hub, loading, kind) = (self.clone(), cache.clone(), kind.clone());
        // A task of its own: the client that asked first may go away.
        tokio::spawn(async move { hub.load(&kind, loading).await });
        cache
    }

    async fn load(&self, kind: &Arc<ServedKind>, cache: Arc<ResourceCache>) {
        match self.store.range(cache.prefix(), None, 0, None).await {
            Ok(range) => cache.load(range, self.clock.monotonic()),
            Err(error) => {
                tracing::error!(%error, resource = &*kind.plural, "loading the cache failed");
                self.forget(kind, &cache);
                self.clock.sleep(Duration::from_millis(200)).await;
                cache.fail(error);
            }
        }
    }

    /// How many objects of a kind there are and how long one is, about, when that is known without a look at the store.
    #[must_use]
    pub fn estimate(&self, kind: &ServedKind) -> Option<(u64, u64)> {
        let cache = self.caches.read().get(&*kind.storage).cloned();
        cache.map(|cache| cache.estimate())
    }

    fn forget(&self, kind: &Arc<ServedKind>, cache: &Arc<ResourceCache>) {
        let mut caches = self.caches.write();
        if caches
            .get(&*kind.storage)
            .is_some_and(|other| Arc::ptr_eq(other, cache))
        {
            caches.remove(&*kind.storage);
        }
    }

    /// Gives up the cache of what is stored under a prefix: watches of it end, and it is loaded anew when asked for.
    pub fn drop_cache(&self, prefix: &str) {
        let dropped = self.caches.write().remove(prefix);
        if let Some(cache) = dropped {
            cache.close();
        }
    }

    /// Lets caches forget changes too old to be asked for.
    pub fn expire(&self) {
        let now = self.clock.monotonic();
        self.caches
            .read()
            .values()
            .for_each(|cache| cache.expire(now));
    }
}

fn key(event: &Event) -> &str {
    match event {
        Event::Put { current, .. } => &current.key,
        Event::Delete { previous, .. } => &previous.key,
    }
}

/// The cache that a key belongs to: prefixes have two or three segments.
fn find(caches: &HashMap<Box<str>, Arc<ResourceCache>>, key: &str) -> Option<Arc<ResourceCache>> {
    let mut slashes = key
        .bytes()
        .enumerate()
        .filter(|(_, byte)| *byte == b'/')
        .map(|(at, _)| at)
        .skip(2);
    let two = slashes.next().and_then(|at| caches.get(key.get(..at)?));
    two.or_else(|| slashes.next().and_then(|at| caches.get(key.get(..at)?)))
        .cloned()
}
