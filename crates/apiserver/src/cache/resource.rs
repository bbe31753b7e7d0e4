//! The cache of one resource.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use skiff_store::{Event, KeyValue, Range, StoreError};
use tokio::sync::{Notify, watch};

use super::entry::Entry;
use crate::registry::ServedKind;

/// The ring keeps at most so many changes ...
const RING_EVENTS: usize = 10_000;
/// ... of at most so many bytes (the newest `RING_KEEP` in any case) ...
const RING_BYTES: usize = 4 << 20;
const RING_KEEP: usize = 128;
/// ... none older than this, as upstream.
const RING_AGE: Duration = Duration::from_secs(75);
/// What a wake-up of one watcher costs the machine, about: changes that come faster than all can be woken are gathered ...
const GATHERING_EACH: Duration = Duration::from_micros(50);
/// ... for at most so long.
const GATHERING_MOST: Duration = Duration::from_millis(5);

/// How an event shows an object when not as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// In which version.
    pub api_version: String,
    /// As protobuf, else as JSON.
    pub protobuf: bool,
}

/// One change of one object.
#[derive(Debug)]
pub struct CacheEvent {
    /// The revision of the change.
    pub revision: u64,
    /// The new state; `None`: deleted.
    pub current: Option<Arc<Entry>>,
    /// The state before; `None`: created.
    pub previous: Option<Arc<Entry>>,
    /// What the event shows, in forms other than the stored one; each made for the first watcher that wants it.
    forms: Mutex<Vec<(Form, Option<Bytes>)>>,
    at: Duration,
}

impl CacheEvent {
    /// What the event shows in another form; `make` is called for the first watcher that wants it. All that ask must be
    /// shown the same state.
    pub fn shown(&self, form: &Form, make: impl FnOnce() -> Option<Bytes>) -> Option<Bytes> {
        let mut forms = self.forms.lock();
        if let Some((_, bytes)) = forms.iter().find(|(other, _)| other == form) {
            return bytes.clone();
        }
        let made = make();
        forms.push((form.clone(), made.clone()));
        made
    }

    /// The same change with its objects in another version.
    #[must_use]
    pub fn with(&self, current: Option<Arc<Entry>>, previous: Option<Arc<Entry>>) -> Self {
        Self {
            revision: self.revision,
            current,
            previous,
            forms: Mutex::default(),
            at: self.at,
        }
    }

    /// The object's key.
    #[must_use]
    pub fn key(&self) -> &str {
        match (&self.current, &self.previous) {
            (Some(entry), _) | (None, Some(entry)) => &entry.key,
            (None, None) => "",
        }
    }

    fn bytes(&self) -> usize {
        let size = |entry: &Option<Arc<Entry>>| entry.as_ref().map_or(0, |entry| entry.bytes.len());
        size(&self.current).max(size(&self.previous)) + 128
    }
}

/// What wakes a watcher: everything, or only changes of objects where one value is as wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// Every change.
    Any,
    /// Changes of objects whose key starts so (a namespace, or one object).
    Key(String),
    /// Changes of objects whose value of a field (by its place among the kind's) is, or was, this.
    Field(usize, String),
}

type FieldIndex = HashMap<(usize, String), Vec<(u64, Arc<Notify>)>>;

#[derive(Default)]
struct Wakers {
    next: u64,
    any: Vec<(u64, Option<String>, Arc<Notify>)>,
    fields: FieldIndex,
    /// Changes since the watchers that wait for a field were all woken, so that none falls off the ring unseen.
    unseen: usize,
}

/// A watcher's place in the list of those to be woken; it leaves when dropped.
pub struct Subscription {
    cache: Arc<ResourceCache>,
    id: u64,
    trigger: Trigger,
    notify: Arc<Notify>,
}

impl Subscription {
    /// Returns when something may have changed since the last call.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }

    /// How long a burst of changes should be gathered before it is written: the more are woken by the same changes, the longer.
    #[must_use]
    pub fn gathering(&self) -> Duration {
        if matches!(self.trigger, Trigger::Field(..)) {
            return Duration::ZERO;
        }
        let crowd = u32::try_from(self.cache.crowd.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        let gathering = GATHERING_EACH.saturating_mul(crowd).min(GATHERING_MOST);
        // Timers are no finer than this.
        if gathering < Duration::from_millis(1) {
            Duration::ZERO
        } else {
            gathering
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut wakers = self.cache.wakers.lock();
        match &self.trigger {
            Trigger::Any | Trigger::Key(_) => {
                wakers.any.retain(|(id, ..)| *id != self.id);
                self.cache.crowd.store(wakers.any.len(), Ordering::Relaxed);
            }
            Trigger::Field(field, value) => {
                let key = (*field, value.clone());
                if let Some(list) = wakers.fields.get_mut(&key) {
                    list.retain(|(id, _)| *id != self.id);
                    if list.is_empty() {
                        wakers.fields.remove(&key);
                    }
                }
            }
        }
    }
}

/// What [`ResourceCache::since`] found.
#[derive(Debug)]
pub enum Since {
    /// Changes, oldest first, and the cursor behind them.
    Events(Vec<Arc<CacheEvent>>, u64),
    /// The cursor has fallen off the ring, or the cache was given up.
    Lost,
}

struct Inner {
    items: BTreeMap<Arc<str>, Arc<Entry>>,
    ring: VecDeque<Arc<CacheEvent>>,
    ring_bytes: usize,
    /// The number of the ring's first change, counted from the cache's beginning.
    first: u64,
    /// Changes up to and including this revision are not in the ring.
    floor: u64,
    /// The revision of the newest change, or of the load.
    revision: u64,
    /// What came in while the cache was being loaded.
    early: Vec<Event>,
    loaded: bool,
    closed: bool,
}

/// The cache of one resource.
pub struct ResourceCache {
    /// The key prefix, with slash at the end.
    prefix: String,
    kind: Arc<ServedKind>,
    inner: RwLock<Inner>,
    wakers: Mutex<Wakers>,
    /// How many watch all of it, or by key.
    crowd: AtomicUsize,
    ready: watch::Sender<bool>,
    failure: Mutex<Option<StoreError>>,
}

impl ResourceCache {
    /// An empty cache that is yet to be loaded.
    #[must_use]
    pub fn new(kind: Arc<ServedKind>) -> Arc<Self> {
        Arc::new(Self {
            prefix: format!("{}/", kind.storage),
            kind,
            inner: RwLock::new(Inner {
                items: BTreeMap::new(),
                ring: VecDeque::new(),
                ring_bytes: 0,
                first: 0,
                floor: 0,
                revision: 0,
                early: Vec::new(),
                loaded: false,
                closed: false,
            }),
            wakers: Mutex::new(Wakers::default()),
            crowd: AtomicUsize::new(0),
            ready: watch::Sender::new(false),
            failure: Mutex::default(),
        })
    }

    /// Which state of a custom kind's definition the cache follows.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.kind.serial()
    }

    /// The key prefix, with slash at the end.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Waits until the cache is loaded; `false`: it was given up before.
    pub async fn ready(&self) -> bool {
        if self.inner.read().loaded {
            return true;
        }
        let mut ready = self.ready.subscribe();
        let waited = ready.wait_for(|ready| *ready).await.is_ok();
        waited && !self.inner.read().closed
    }

    /// Fills the cache with what the store had at a revision, and with what came in since.
    pub fn load(&self, range: Range, now: Duration) {
        let mut inner = self.inner.write();
        inner.items = range
            .items
            .iter()
            .filter_map(|kv| Some((kv.key.clone(), Arc::new(entry(&self.kind, kv)?))))
            .collect();
        inner.floor = range.revision;
        inner.revision = range.revision;
        inner.loaded = true;
        for event in std::mem::take(&mut inner.early) {
            inner.apply(&self.kind, &event, now);
        }
        drop(inner);
        self.ready.send_replace(true);
    }

    /// Takes changes from the store, in order.
    pub fn apply(&self, events: &[Event], now: Duration) {
        let mut applied = Vec::with_capacity(events.len());
        {
            let mut inner = self.inner.write();
            if !inner.loaded {
                inner.early.extend_from_slice(events);
                return;
            }
            for event in events {
                applied.extend(inner.apply(&self.kind, event, now));
            }
            inner.trim(now);
        }
        self.wake(&applied);
    }

    /// Forgets changes that are too old to be asked for.
    pub fn expire(&self, now: Duration) {
        self.inner.write().trim(now);
    }

    /// Ends all watches; the cache is not used any more.
    pub fn close(&self) {
        let mut inner = self.inner.write();
        inner.closed = true;
        drop(inner);
        self.ready.send_replace(true);
        self.wake_all();
    }

    /// Gives up loading: who waits for the cache gets the error.
    pub fn fail(&self, error: StoreError) {
        *self.failure.lock() = Some(error);
        self.close();
    }

    /// Why it was given up, if loading failed.
    #[must_use]
    pub fn failure(&self) -> Option<StoreError> {
        self.failure.lock().clone()
    }

    /// Whether it was given up.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.read().closed
    }

    /// How many objects there are, and the length of one, by the first few.
    #[must_use]
    pub fn estimate(&self) -> (u64, u64) {
        const LOOK_AT: usize = 8;
        let inner = self.inner.read();
        let some = inner.items.values().take(LOOK_AT);
        let sum: usize = some.map(|entry| entry.bytes.len()).sum();
        let count = inner.items.len();
        (count as u64, (sum / count.clamp(1, LOOK_AT)) as u64)
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.inner.read().items.get(key).cloned()
    }

    /// The objects whose keys start with `prefix`, behind `after` when given, at most `limit` (0: all), and how many
    /// follow behind the limit.
    #[must_use]
    pub fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> (Vec<Arc<Entry>>, usize) {
        let inner = self.inner.read();
        let start = match after {
            Some(after) => Bound::Included(after),
            None => Bound::Included(prefix),
        };
        let mut found = inner
            .items
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix));
        let wanted = if limit == 0 { usize::MAX } else { limit };
        let items = found
            .by_ref()
            .take(wanted)
            .map(|(_, entry)| entry.clone())
            .collect();
        (items, found.count())
    }

    /// All objects under `prefix`, and the cursor behind the changes they show.
    #[must_use]
    pub fn snapshot(&self, prefix: &str) -> (Vec<Arc<Entry>>, u64) {
        let inner = self.inner.read();
        let items = inner
            .items
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| entry.clone())
            .collect();
        (items, inner.end())
    }

    /// The revision of the newest change of the resource (or of the load).
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.inner.read().revision
    }

    /// The cursor behind all changes up to and including `revision`; the oldest revision that can be asked for when it
    /// is too old.
    pub fn cursor_after(&self, revision: u64) -> Result<u64, u64> {
        let inner = self.inner.read();
        if revision < inner.floor {
            return Err(inner.floor);
        }
        let behind = inner
            .ring
            .partition_point(|event| event.revision <= revision);
        Ok(inner.first + behind as u64)
    }

    /// At most `limit` changes behind a cursor.
    #[must_use]
    pub fn since(&self, cursor: u64, limit: usize) -> Since {
        let inner = self.inner.read();
        if inner.closed || cursor < inner.first {
            return Since::Lost;
        }
        let skip = usize::try_from(cursor - inner.first).unwrap_or(usize::MAX);
        let events: Vec<_> = inner.ring.iter().skip(skip).take(limit).cloned().collect();
        let next = cursor + events.len() as u64;
        Since::Events(events, next)
    }

    /// Wants to be woken.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>, trigger: Trigger) -> Subscription {
        let notify = Arc::new(Notify::new());
        let mut wakers = self.wakers.lock();
        let id = wakers.next;
        wakers.next += 1;
        match &trigger {
            Trigger::Any => wakers.any.push((id, None, notify.clone())),
            Trigger::Key(prefix) => wakers.any.push((id, Some(prefix.clone()), notify.clone())),
            Trigger::Field(field, value) => {
                wakers
                    .fields
                    .entry((*field, value.clone()))
                    .or_default()
                    .push((id, notify.clone()));
            }
        }
        self.crowd.store(wakers.any.len(), Ordering::Relaxed);
        drop(wakers);
        Subscription {
            cache: self.clone(),
            id,
            trigger,
            notify,
        }
    }

    fn wake(&self, applied: &[Arc<CacheEvent>]) {
        let mut wakers = self.wakers.lock();
        wakers.unseen += applied.len();
        if wakers.unseen >= RING_KEEP / 2 {
            wakers.unseen = 0;
            for (_, _, notify) in &wakers.any {
                notify.notify_one();
            }
            for (_, notify) in wakers.fields.values().flatten() {
                notify.notify_one();
            }
            return;
        }
        for (_, prefix, notify) in &wakers.any {
            let wanted = prefix.as_ref().is_none_or(|prefix| {
                applied
                    .iter()
                    .any(|event| event.key().starts_with(prefix.as_str()))
            });
            if wanted {
                notify.notify_one();
            }
        }
        if wakers.fields.is_empty() {
            return;
        }
        for entry in applied
            .iter()
            .flat_map(|event| [&event.current, &event.previous])
            .flatten()
        {
            for (field, value) in entry.fields(&self.kind).iter().enumerate() {
                let waiting = wakers.fields.get(&(field, value.clone()));
                for (_, notify) in waiting.into_iter().flatten() {
                    notify.notify_one();
                }
            }
        }
    }

    fn wake_all(&self) {
        let wakers = self.wakers.lock();
        for (_, _, notify) in &wakers.any {
            notify.notify_one();
        }
        for (_, notify) in wakers.fields.values().flatten() {
            notify.notify_one();
        }
    }
}

impl Inner {
    fn end(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    fn apply(
        &mut self,
        kind: &ServedKind,
        event: &Event,
        now: Duration,
    ) -> Option<Arc<CacheEvent>> {
        let revision = match event {
            Event::Put { current, .. } => current.mod_revision,
            Event::Delete { revision, .. } => *revision,
        };
        // A change that the load has seen already.
        if revision <= self.revision
            && self
                .ring
                .back()
                .is_none_or(|last| last.revision != revision)
        {
            return None;
        }
        let (current, previous) = match event {
            Event::Put { current, .. } => {
                let new = Arc::new(entry(kind, current)?);
                let old = self.items.insert(current.key.clone(), new.clone());
                (Some(new), old)
            }
            Event::Delete { previous, .. } => {
                let old = self.items.remove(&previous.key)?;
                (None, Some(old))
            }
        };
        self.revision = revision;
        let event = Arc::new(CacheEvent {
            revision,
            current,
            previous,
            forms: Mutex::default(),
            at: now,
        });
        self.ring_bytes += event.bytes();
        self.ring.push_back(event.clone());
        Some(event)
    }

    fn trim(&mut self, now: Duration) {
        while let Some(oldest) = self.ring.front() {
            let full = self.ring.len() > RING_EVENTS
                || (self.ring_bytes > RING_BYTES && self.ring.len() > RING_KEEP);
            if !full && now.saturating_sub(oldest.at) < RING_AGE {
                break;
            }
            self.ring_bytes -= oldest.bytes();
            self.floor = oldest.revision;
            self.first += 1;
            self.ring.pop_front();
        }
        if self.ring.is_empty() {
            self.ring.shrink_to(64);
        }
    }
}

fn entry(kind: &ServedKind, kv: &KeyValue) -> Option<Entry> {
    let entry = Entry::new(kv.key.clone(), &kind.normalized(&kv.value), kv.mod_revision);
    if entry.is_none() {
        tracing::error!(key = %kv.key, "stored value is no object; it is not served");
    }
    entry
}
