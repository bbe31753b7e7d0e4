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

/// The uids of the pods that refer to an object. Its lock is the innermost: a subscription takes it while it tells.
type Users = Arc<Mutex<BTreeSet<String>>>;

enum Cache {
    ConfigMap(SharedCache<ConfigMap>),
    Secret(SharedCache<Secret>),
}

struct Watch {
    cache: Cache,
    users: Users,
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
    watches: Mutex<HashMap<Key, Watch>>,
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
            watches: Mutex::default(),
            changed,
        }
    }

    /// Sets what a pod refers to.
    pub fn set(&self, pod_uid: &str, namespace: &str, wanted: &BTreeSet<(RefKind, String)>) {
        let mut watches = self.watches.lock();
        let is_wanted =
            |(kind, of, name): &Key| of == namespace && wanted.contains(&(*kind, name.clone()));
        let mut unused = Vec::new();
        for (key, watch) in watches.iter().filter(|(key, _)| !is_wanted(key)) {
            let mut users = watch.users.lock();
            users.remove(pod_uid);
            if users.is_empty() {
                unused.push(key.clone());
            }
        }
        let ended: Vec<_> = unused
            .iter()
            .filter_map(|key| watches.remove(key))
            .collect();
        for (kind, name) in wanted {
            let key = (*kind, namespace.to_owned(), name.clone());
            if let Some(watch) = watches.get(&key) {
                watch.users.lock().insert(pod_uid.to_owned());
            } else {
                let watch = self.start(&key, pod_uid);
                watches.insert(key, watch);
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
        let users: Users = Arc::new(Mutex::new(BTreeSet::from([pod_uid.to_owned()])));
        let tell = {
            let (users, changed) = (users.clone(), self.changed.clone());
            // It is called at once if the object has come already.
            move || {
                for uid in users.lock().iter() {
                    // The receiver ends with the kubelet.
                    let _ = changed.send(uid.clone());
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
            users,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use skiff_base::SystemClock;

    use super::*;
    use crate::simulation::api_server::ApiServer;

    /// The list of a new watch comes from another thread, before, while or after the watch is subscribed to.
    #[test]
    fn objects_that_come_at_once_are_told_and_nothing_is_stuck() {
        let server = ApiServer::new();
        server.put("configmaps", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "n"}}));
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(4).enable_all().build().unwrap();
            runtime.block_on(async {
                let (changed, mut told) = mpsc::unbounded_channel();
                let watches = Arc::new(ObjectWatches::new(
                    server.client(),
                    SystemClock::shared(),
                    Random::seeded(1),
                    Shutdown::new(),
                    changed,
                ));
                let wanted = BTreeSet::from([(RefKind::ConfigMap, "m".to_owned())]);
                for round in 0..3000 {
                    let sets = ["a", "b"].map(|pod| {
                        let (watches, wanted) = (watches.clone(), wanted.clone());
                        tokio::spawn(async move { watches.set(pod, "n", &wanted) })
                    });
                    for set in sets {
                        set.await.unwrap();
                    }
                    let uid = told.recv().await.unwrap();
                    assert!(["a", "b"].contains(&&*uid), "{uid} in round {round}");
                    for pod in ["a", "b"] {
                        watches.set(pod, "n", &BTreeSet::new());
                    }
                }
            });
            done.send(()).unwrap();
        });
        is_done.recv_timeout(Duration::from_secs(30)).unwrap();
    }
}
