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

/// The uids of the pods that refer to an object. A lock of its own, held for nothing but a look or a change: the watch
/// takes it while it tells, when it holds its cache's lock, and a watch that begins or ends takes that one too.
type Users = Arc<Mutex<BTreeSet<String>>>;

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
        let leaves = |(kind, of, name): &Key, watch: &mut Watch| {
            if of == namespace && wanted.contains(&(*kind, name.clone())) {
                return false;
            }
            let mut users = watch.users.lock();
            users.remove(pod_uid);
            users.is_empty()
        };
        let ended: Vec<(Key, Watch)> = watches
            .extract_if(|key, watch| leaves(key, watch))
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
        drop(watches);
        // Their subscriptions end outside of the lock: they may be telling right now.
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
            move || {
                let users = users.lock().clone();
                for uid in users {
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

    /// Pods come and go while what they refer to changes: watches begin and end in the middle of telling.
    #[test]
    fn watches_that_begin_and_end_while_others_tell() {
        const POD: usize = 4;
        let (done, finished) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(4)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let api = ApiServer::new();
                let (changed, mut told) = mpsc::unbounded_channel();
                let watches = Arc::new(ObjectWatches::new(
                    api.client(),
                    SystemClock::shared(),
                    Random::seeded(1),
                    Shutdown::new(),
                    changed,
                ));
                let map = |round: usize| json!({"metadata": {"name": "m", "namespace": "ns"}, "data": {"k": round.to_string()}});
                api.put("configmaps", map(0));
                let pods = (0..POD).map(|pod| {
                    let watches = watches.clone();
                    tokio::spawn(async move {
                        let wanted = BTreeSet::from([(RefKind::ConfigMap, "m".to_owned())]);
                        for round in 0..300 {
                            watches.set(&format!("uid-{pod}"), "ns", &wanted);
                            // Now and then long enough for the list to come.
                            for _ in 0..round % 50 {
                                tokio::task::yield_now().await;
                            }
                            watches.set(&format!("uid-{pod}"), "ns", &BTreeSet::new());
                        }
                    })
                });
                let pods: Vec<_> = pods.collect();
                let writer = tokio::spawn(async move {
                    for round in 0..2000 {
                        api.put("configmaps", map(round));
                        tokio::task::yield_now().await;
                    }
                });
                for task in pods.into_iter().chain([writer]) {
                    task.await.unwrap();
                }
                assert!(watches.watches.lock().is_empty());
                // A pod that is there now is told of what there is already.
                while told.try_recv().is_ok() {}
                let wanted = BTreeSet::from([(RefKind::ConfigMap, "m".to_owned())]);
                watches.set("late", "ns", &wanted);
                assert_eq!(told.recv().await.as_deref(), Some("late"));
            });
            done.send(()).unwrap();
        });
        let outcome = finished.recv_timeout(Duration::from_secs(60));
        assert!(outcome.is_ok(), "the watches wait for each other");
    }
}
