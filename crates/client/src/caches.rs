//! The caches of one process: each kind is watched once, however many read it.

use std::any::{Any, TypeId};
use std::collections::HashMap;

use kube::Client;
use kube::core::Resource;
use parking_lot::Mutex;
use skiff_base::{Random, SharedClock, Shutdown};

use crate::SharedCache;
use crate::reflect::{Reflector, Trim, WatchSpec, Watched};

/// Hands out the one cache of each kind; starts it when first asked for. Dropping it ends all watches.
pub struct Caches {
    client: Client,
    clock: SharedClock,
    random: Random,
    shutdown: Shutdown,
    started: Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>,
    /// By kind, a [`Trim`] of it.
    trims: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
}

impl Caches {
    /// No cache yet; those to come watch with `client` until `shutdown`.
    #[must_use]
    pub fn new(client: Client, clock: SharedClock, random: Random, shutdown: &Shutdown) -> Self {
        Self {
            client,
            clock,
            random,
            shutdown: shutdown.child(),
            started: Mutex::new(HashMap::new()),
            trims: HashMap::new(),
        }
    }

    /// Has all caches of kind `K` hold objects that `trim` was called with: what nobody reads is left out.
    #[must_use]
    pub fn trimming<K: Watched>(mut self, trim: Trim<K>) -> Self {
        self.trims.insert(TypeId::of::<K>(), Box::new(trim));
        self
    }

    /// The cache of kind `K` in all namespaces. `PartialObjectMeta<K>` is a kind of its own that holds
    /// metadata only.
    pub fn of<K>(&self) -> SharedCache<K>
    where
        K: Watched + Resource<DynamicType = ()>,
    {
        let mut started = self.started.lock();
        let known = started
            .get(&TypeId::of::<K>())
            .and_then(|cache| cache.downcast_ref::<SharedCache<K>>());
        if let Some(cache) = known {
            return cache.clone();
        }
        let cache = self.watch(WatchSpec::all::<K>());
        started.insert(TypeId::of::<K>(), Box::new(cache.clone()));
        cache
    }

    /// A cache that is not shared: a selection, or a collection known at run time only.
    pub fn watch<K: Watched>(&self, spec: WatchSpec) -> SharedCache<K> {
        let trim = self.trims.get(&TypeId::of::<K>());
        let trim = trim.and_then(|trim| trim.downcast_ref::<Trim<K>>().copied());
        SharedCache::fed(self.shutdown.child(), |sink| {
            let (clock, random) = (self.clock.clone(), self.random.clone());
            let reflector = Reflector::new(self.client.clone(), spec, sink, clock, random);
            match trim {
                Some(trim) => reflector.trimming(trim),
                None => reflector,
            }
        })
    }
}

impl Drop for Caches {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}
