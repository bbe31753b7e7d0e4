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

/// The uids of the pods that refer to an object. A lock of its own, the innermost: events are told of under the lock of a
/// cache, which is taken under that of the watches when one starts or ends.
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
        watches.retain(|(kind, of, name), watch| {
            let mut users = watch.users.lock();
            if of != namespace || !wanted.contains(&(*kind, name.clone())) {
                users.remove(pod_uid);
            }
            !users.is_empty()
        });
        for (kind, name) in wanted {
            let key = (*kind, namespace.to_owned(), name.clone());
            if let Some(watch) = watches.get(&key) {
                watch.users.lock().insert(pod_uid.to_owned());
            } else {
                let watch = self.start(&key, pod_uid);
                watches.insert(key, watch);
            }
        }
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

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use skiff_base::SystemClock;

    use super::*;

    /// A server of which every list has one object and no watch ever an event.
    fn server() -> Client {
        let service = tower::service_fn(|request: Request<Body>| async move {
            let query = request.uri().query().unwrap_or_default();
            if query.contains("watch=") {
                std::future::pending::<()>().await;
            }
            let list = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "1"},
                "items": [{"metadata": {"namespace": "a", "name": "m", "resourceVersion": "1"}}]});
            Ok::<_, std::convert::Infallible>(Response::new(Body::from(
                list.to_string().into_bytes(),
            )))
        });
        Client::new(service, "default")
    }

    /// Watches start and end while their caches fill, which tells of the objects at any moment of it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn watches_come_and_go_while_objects_arrive() {
        let (changed, mut told) = mpsc::unbounded_channel();
        let watches = Arc::new(ObjectWatches::new(
            server(),
            SystemClock::shared(),
            Random::seeded(1),
            Shutdown::new(),
            changed,
        ));
        let wanted: BTreeSet<_> = [(RefKind::ConfigMap, "m".to_owned())].into();
        let (finished, wait) = std::sync::mpsc::channel();
        for pod in ["1", "2"] {
            let (watches, wanted, finished) = (watches.clone(), wanted.clone(), finished.clone());
            // A thread each: whoever waits for a lock for ever must not take the test's time limit with it.
            let runtime = tokio::runtime::Handle::current();
            std::thread::spawn(move || {
                let _runtime = runtime.enter();
                for round in 0..1000_u32 {
                    watches.set(pod, "a", &wanted);
                    // Now sooner, now later, so that each step of the cache's first list is met.
                    for _ in 0..round % 200 {
                        std::thread::yield_now();
                    }
                    watches.set(pod, "a", &BTreeSet::new());
                }
                let _ = finished.send(());
            });
        }
        for _ in 0..2 {
            assert_eq!(wait.recv_timeout(Duration::from_secs(60)), Ok(()));
        }
        watches.set("3", "a", &wanted);
        while told.recv().await.unwrap() != "3" {}
    }
}
