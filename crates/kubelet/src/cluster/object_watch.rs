//! Watches exactly the ConfigMaps and Secrets that pods of this node refer to, one by one.
//!
//! A kubelet may read no others, so it cannot watch a whole collection.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use parking_lot::Mutex;
use skiff_base::{Random, SharedClock, Shutdown};
use skiff_client::{SharedCache, Subscription, WatchSpec};
use tokio::sync::mpsc;

use crate::container::environment::RefKind;

type Key = (RefKind, String, String);

enum Cache {
    ConfigMap(SharedCache<ConfigMap>),
    Secret(SharedCache<Secret>),
}

struct Watch {
    cache: Cache,
    users: BTreeSet<String>,
    shutdown: Shutdown,
    _subscription: Subscription,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

/// The watches, by object.
pub struct ObjectWatches {
    client: Client,
    clock: SharedClock,
    random: Random,
    shutdown: Shutdown,
    watches: Arc<Mutex<HashMap<Key, Watch>>>,
    changed: mpsc::UnboundedSender<String>,
}

impl ObjectWatches {
    /// No watches yet. `changed` is told the uids of pods whose objects changed.
    #[must_use]
    pub fn new(
        client: Client,
        clock: SharedClock,
        random: Random,
        shutdown: Shutdown,
        changed: mpsc::UnboundedSender<String>,
    ) -> Self {
        Self {
            client,
            clock,
            random,
            shutdown,
            watches: Arc::default(),
            changed,
        }
    }

    /// Sets what a pod refers to.
    pub fn set(&self, pod_uid: &str, namespace: &str, wanted: &BTreeSet<(RefKind, String)>) {
        let mut ended = Vec::new();
        let mut watches = self.watches.lock();
        watches.retain(|(kind, of, name), watch| {
            let still = of == namespace && wanted.contains(&(*kind, name.clone()));
            if !still {
                watch.users.remove(pod_uid);
            }
            !watch.users.is_empty()
        });
        for (kind, name) in wanted {
            let key = (*kind, namespace.to_owned(), name.clone());
            if let Some(watch) = watches.get_mut(&key) {
                watch.users.insert(pod_uid.to_owned());
            } else {
                let watch = self.start(&key, pod_uid);
                ended.extend(watches.insert(key, watch));
            }
        }
        // Watches end outside of the lock: their subscriptions may be telling right now.
        drop(watches);
        drop(ended);
    }

    fn start(&self, key: &Key, pod_uid: &str) -> Watch {
        let (kind, namespace, name) = key;
        let shutdown = self.shutdown.child();
        let selector = format!("metadata.name={name}");
        let (clock, random) = (self.clock.clone(), self.random.clone());
        let tell = {
            let (watches, changed, key) = (
                Arc::downgrade(&self.watches),
                self.changed.clone(),
                key.clone(),
            );
            move || {
                let Some(watches) = watches.upgrade() else {
                    return;
                };
                let users = watches.lock().get(&key).map(|w| w.users.clone());
                for uid in users.into_iter().flatten() {
                    // The receiver ends with the kubelet.
                    let _ = changed.send(uid);
                }
            }
        };
        let client = self.client.clone();
        let (cache, subscription) = match kind {
            RefKind::ConfigMap => {
                let spec = WatchSpec::in_namespace::<ConfigMap>(namespace).fields(selector);
                let cache = SharedCache::start(client, spec, clock, random, shutdown.clone());
                let subscription = cache.on_event(move |_| tell());
                (Cache::ConfigMap(cache), subscription)
            }
            RefKind::Secret => {
                let spec = WatchSpec::in_namespace::<Secret>(namespace).fields(selector);
                let cache = SharedCache::start(client, spec, clock, random, shutdown.clone());
                let subscription = cache.on_event(move |_| tell());
                (Cache::Secret(cache), subscription)
            }
        };
        Watch {
            cache,
            users: BTreeSet::from([pod_uid.to_owned()]),
            shutdown,
            _subscription: subscription,
        }
    }

    /// The watch of a ConfigMap, if there is one.
    #[must_use]
    pub fn config_map(&self, namespace: &str, name: &str) -> Option<SharedCache<ConfigMap>> {
        let key = (RefKind::ConfigMap, namespace.to_owned(), name.to_owned());
        match &self.watches.lock().get(&key)?.cache {
            Cache::ConfigMap(cache) => Some(cache.clone()),
            Cache::Secret(_) => None,
        }
    }

    /// The watch of a Secret, if there is one.
    #[must_use]
    pub fn secret(&self, namespace: &str, name: &str) -> Option<SharedCache<Secret>> {
        let key = (RefKind::Secret, namespace.to_owned(), name.to_owned());
        match &self.watches.lock().get(&key)?.cache {
            Cache::Secret(cache) => Some(cache.clone()),
            Cache::ConfigMap(_) => None,
        }
    }
}
