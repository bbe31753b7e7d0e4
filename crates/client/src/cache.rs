//! A local copy of one collection of the API server, decoded once and shared by all who read it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kube::Client;
use parking_lot::{Mutex, RwLock};
use skiff_base::{Random, SharedClock, Shutdown};
use tokio::sync::{mpsc, watch};

use crate::ObjectKey;
use crate::reflect::{Change, Reflector, WatchSink, WatchSpec, Watched};

/// The index of objects by the uid of each of their owners.
const OWNER_INDEX: &str = "owner-uid";

/// What happened to an object in a cache.
#[derive(Debug)]
pub enum Event<K> {
    /// It is there, and was not before.
    Added(Arc<K>),
    /// It changed.
    Updated {
        /// The state before.
        old: Arc<K>,
        /// The state now.
        new: Arc<K>,
    },
    /// It is gone; its last known state.
    Deleted(Arc<K>),
}

impl<K> Clone for Event<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Added(object) => Self::Added(object.clone()),
            Self::Updated { old, new } => Self::Updated {
                old: old.clone(),
                new: new.clone(),
            },
            Self::Deleted(object) => Self::Deleted(object.clone()),
        }
    }
}

impl<K> Event<K> {
    /// The newest known state.
    #[must_use]
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Deleted(object) | Self::Updated { new: object, .. } => {
                object
            }
        }
    }
}

type IndexFunction<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;
type Handler<K> = Arc<dyn Fn(&Event<K>) + Send + Sync>;

struct Index<K> {
    values_of: IndexFunction<K>,
    keys: HashMap<String, BTreeSet<ObjectKey>>,
}

impl<K> Index<K> {
    fn insert(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.values_of)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.values_of)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

struct State<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

impl<K> State<K> {
    fn put(&mut self, key: ObjectKey, object: Arc<K>) -> Option<Arc<K>> {
        let old = self.objects.get(&key).cloned();
        for index in self.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.insert(&key, &object);
        }
        self.objects.insert(key, object);
        old
    }

    fn take(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for index in self.indexes.values_mut() {
            index.remove(key, &old);
        }
        Some(old)
    }
}

struct Handlers<K> {
    next: u64,
    of: Vec<(u64, Handler<K>)>,
}

struct Inner<K> {
    state: RwLock<State<K>>,
    /// Held while a change is applied and told, so that a new subscriber sees each change once.
    handlers: Mutex<Handlers<K>>,
    synced: watch::Sender<bool>,
    revision: AtomicU64,
}

/// A local copy of one collection. Clones share it.
pub struct SharedCache<K>(Arc<Inner<K>>);

impl<K> Clone for SharedCache<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Ends a subscription when dropped.
#[must_use = "the subscription ends when this is dropped"]
pub struct Subscription(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl<K: Watched> SharedCache<K> {
    /// An empty cache that nobody feeds but [`WatchSink`]'s functions: for tests, or a source of one's own.
    #[must_use]
    pub fn detached() -> Self {
        Self(Arc::new(Inner {
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                indexes: HashMap::new(),
            }),
            handlers: Mutex::new(Handlers {
                next: 0,
                of: Vec::new(),
            }),
            synced: watch::Sender::new(false),
            revision: AtomicU64::new(0),
        }))
    }

    /// Starts to watch, in a task that ends with `shutdown`.
    pub fn start(
        client: Client,
        spec: WatchSpec,
        clock: SharedClock,
        random: Random,
        shutdown: Shutdown,
    ) -> Self {
        Self::fed(shutdown, |sink| {
            Reflector::new(client, spec, sink, clock, random)
        })
    }

    /// The same with a reflector that `make` makes.
    pub fn fed(
        shutdown: Shutdown,
        make: impl FnOnce(Arc<dyn WatchSink<K>>) -> Reflector<K>,
    ) -> Self {
        let cache = Self::detached();
        tokio::spawn(make(Arc::new(cache.clone())).run(shutdown));
        cache
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.0.state.read().objects.get(key).cloned()
    }

    /// One object by its namespace (empty for cluster-scoped kinds) and name.
    #[must_use]
    pub fn get_named(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get(&ObjectKey::new(namespace, name))
    }

    /// All objects, in the order of their keys.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.state.read().objects.values().cloned().collect()
    }

    /// All objects of one namespace, in the order of their names.
    #[must_use]
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = ObjectKey::new(namespace, "");
        let prefix = from.as_str().to_owned();
        let state = self.0.state.read();
        state
            .objects
            .range(from..)
            .take_while(|(key, _)| key.as_str().starts_with(&prefix))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.state.read().objects.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an index; one that is there under that name already stays.
    pub fn add_index(
        &self,
        name: &'static str,
        values_of: impl Fn(&K) -> Vec<String> + Send + Sync + 'static,
    ) {
        let mut state = self.0.state.write();
        if state.indexes.contains_key(name) {
            return;
        }
        let mut index = Index {
            values_of: Box::new(values_of),
            keys: HashMap::new(),
        };
        for (key, object) in &state.objects {
            index.insert(key, object);
        }
        state.indexes.insert(name, index);
    }

    /// The objects that index `name` files under `value`; none when there is no such index.
    #[must_use]
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let state = self.0.state.read();
        let keys = state
            .indexes
            .get(name)
            .and_then(|index| index.keys.get(value));
        keys.into_iter()
            .flatten()
            .filter_map(|key| state.objects.get(key).cloned())
            .collect()
    }

    /// Adds the index that [`SharedCache::owned_by`] reads.
    pub fn index_owners(&self) {
        self.add_index(OWNER_INDEX, |object| {
            let owners = object.metadata().owner_references.iter().flatten();
            owners.map(|owner| owner.uid.clone()).collect()
        });
    }

    /// The objects that name `uid` among their owners. Needs [`SharedCache::index_owners`].
    #[must_use]
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.by_index(OWNER_INDEX, uid)
    }

    /// Calls `handler` with every event from now on, in order, after calling it with an `Added` for each
    /// object that is there already. It runs in the watching task: it must be quick, may read the cache,
    /// and must not subscribe to it.
    pub fn on_event(&self, handler: impl Fn(&Event<K>) + Send + Sync + 'static) -> Subscription {
        let mut handlers = self.0.handlers.lock();
        for object in self.list() {
            handler(&Event::Added(object));
        }
        let id = handlers.next;
        handlers.next += 1;
        handlers.of.push((id, Arc::new(handler)));
        let inner = Arc::downgrade(&self.0);
        Subscription(Some(Box::new(move || {
            if let Some(inner) = inner.upgrade() {
                inner.handlers.lock().of.retain(|(other, _)| *other != id);
            }
        })))
    }

    /// The same events in a channel; the subscription ends when the receiver is dropped.
    #[must_use]
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Event<K>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut handlers = self.0.handlers.lock();
        for object in self.list() {
            let _ = sender.send(Event::Added(object));
        }
        let id = handlers.next;
        handlers.next += 1;
        let inner = Arc::downgrade(&self.0);
        let handler = move |event: &Event<K>| {
            if sender.send(event.clone()).is_err()
                && let Some(inner) = inner.upgrade()
            {
                // The list is locked by the caller: leave the removal to another task.
                tokio::spawn(async move {
                    inner.handlers.lock().of.retain(|(other, _)| *other != id);
                });
            }
        };
        handlers.of.push((id, Arc::new(handler)));
        receiver
    }

    /// Whether the first list has arrived.
    #[must_use]
    pub fn has_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Returns when the first list has arrived.
    pub async fn wait_synced(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.0.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// The newest revision of the server that this cache is known to hold; 0 before the first list.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.revision.load(Ordering::Acquire)
    }

    fn observe(&self, resource_version: &str) {
        if let Ok(revision) = resource_version.parse() {
            self.0.revision.fetch_max(revision, Ordering::AcqRel);
        }
    }

    fn tell(handlers: &Handlers<K>, event: &Event<K>) {
        for (_, handler) in &handlers.of {
            handler(event);
        }
    }
}

impl<K: Watched> WatchSink<K> for SharedCache<K> {
    fn replace(&self, items: Vec<K>, resource_version: &str) {
        let handlers = self.0.handlers.lock();
        let mut events = Vec::new();
        {
            let mut state = self.0.state.write();
            let mut gone: BTreeSet<ObjectKey> = state.objects.keys().cloned().collect();
            for item in items {
                let key = ObjectKey::of(item.metadata());
                gone.remove(&key);
                let known = state.objects.get(&key).is_some_and(|old| {
                    old.metadata().resource_version == item.metadata().resource_version
                        && old.metadata().uid == item.metadata().uid
                });
                if known {
                    continue;
                }
                let new = Arc::new(item);
                match state.put(key, new.clone()) {
                    Some(old) => events.push(Event::Updated { old, new }),
                    None => events.push(Event::Added(new)),
                }
            }
            for key in gone {
                events.extend(state.take(&key).map(Event::Deleted));
            }
        }
        self.observe(resource_version);
        for event in &events {
            Self::tell(&handlers, event);
        }
        self.0
            .synced
            .send_if_modified(|synced| !std::mem::replace(synced, true));
    }

    fn apply(&self, change: Change<K>) {
        let handlers = self.0.handlers.lock();
        let event = match change {
            Change::Applied(object) => {
                let key = ObjectKey::of(object.metadata());
                if let Some(at) = &object.metadata().resource_version {
                    self.observe(at);
                }
                let new = Arc::new(object);
                match self.0.state.write().put(key, new.clone()) {
                    Some(old) => Event::Updated { old, new },
                    None => Event::Added(new),
                }
            }
            Change::Deleted(object) => {
                if let Some(at) = &object.metadata().resource_version {
                    self.observe(at);
                }
                let key = ObjectKey::of(object.metadata());
                self.0.state.write().take(&key);
                Event::Deleted(Arc::new(object))
            }
        };
        Self::tell(&handlers, &event);
    }

    fn progress(&self, resource_version: &str) {
        self.observe(resource_version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::ObjectMeta;

    fn object(namespace: &str, name: &str, revision: u64) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                namespace: Some(namespace.into()),
                name: Some(name.into()),
                uid: Some(format!("{namespace}-{name}")),
                resource_version: Some(revision.to_string()),
                labels: Some([("team".to_owned(), format!("t{}", revision % 2))].into()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    fn names(objects: &[Arc<ConfigMap>]) -> Vec<&str> {
        objects
            .iter()
            .filter_map(|object| object.metadata.name.as_deref())
            .collect()
    }

    fn log(cache: &SharedCache<ConfigMap>) -> (Arc<Mutex<Vec<String>>>, Subscription) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let writer = log.clone();
        let subscription = cache.on_event(move |event| {
            let sign = match event {
                Event::Added(_) => '+',
                Event::Updated { .. } => '~',
                Event::Deleted(_) => '-',
            };
            let name = event.object().metadata.name.clone().unwrap_or_default();
            writer.lock().push(format!("{sign}{name}"));
        });
        (log, subscription)
    }

    #[test]
    fn relist_tells_only_what_differs() {
        let cache = SharedCache::detached();
        cache.replace(vec![object("a", "x", 1), object("a", "y", 2)], "3");
        let (log, _subscription) = log(&cache);
        assert_eq!(log.lock().join(" "), "+x +y");
        cache.replace(vec![object("a", "y", 7), object("b", "z", 5)], "8");
        assert_eq!(log.lock().join(" "), "+x +y ~y +z -x");
        cache.replace(vec![object("a", "y", 7), object("b", "z", 5)], "9");
        assert_eq!(log.lock().len(), 5);
        assert_eq!(cache.revision(), 9);
        assert!(cache.has_synced());
    }

    #[test]
    fn namespaces_and_indexes_follow_changes() {
        let cache = SharedCache::detached();
        cache.apply(Change::Applied(object("a", "x", 1)));
        cache.add_index("team", |object: &ConfigMap| {
            object
                .metadata
                .labels
                .iter()
                .flatten()
                .map(|(_, v)| v.clone())
                .collect()
        });
        cache.apply(Change::Applied(object("a", "y", 3)));
        cache.apply(Change::Applied(object("ab", "z", 5)));
        assert_eq!(names(&cache.list_in("a")), ["x", "y"]);
        assert_eq!(names(&cache.by_index("team", "t1")), ["x", "y", "z"]);
        cache.apply(Change::Applied(object("a", "x", 6)));
        cache.apply(Change::Deleted(object("ab", "z", 7)));
        assert_eq!(names(&cache.by_index("team", "t1")), ["y"]);
        assert_eq!(names(&cache.by_index("team", "t0")), ["x"]);
    }

    #[test]
    fn a_dropped_subscription_hears_nothing() {
        let cache = SharedCache::detached();
        let (log, subscription) = log(&cache);
        cache.apply(Change::Applied(object("a", "x", 1)));
        drop(subscription);
        cache.apply(Change::Applied(object("a", "y", 2)));
        assert_eq!(log.lock().join(" "), "+x");
    }
}
