//! Keeps a controller from acting twice on one decision: it may decide anew only when its caches show
//! what it did last.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use skiff_client::reflect::Watched;
use skiff_client::{ObjectKey, SharedCache};

#[derive(Default)]
struct Pending {
    /// The newest revision that one of our writes made.
    revision: u64,
    /// What we deleted, with the uid.
    deleted: HashMap<ObjectKey, Option<String>>,
}

/// What was written on behalf of each key to objects of one kind, and may not be in the cache yet.
#[derive(Default)]
pub struct WriteGate(Mutex<HashMap<ObjectKey, Pending>>);

impl WriteGate {
    /// We created or changed an object; this is what the server answered.
    pub fn wrote(&self, key: &ObjectKey, answer: &ObjectMeta) {
        let revision = answer.resource_version.as_deref().unwrap_or_default();
        if let Ok(revision) = revision.parse::<u64>() {
            let mut pending = self.0.lock();
            let pending = pending.entry(key.clone()).or_default();
            pending.revision = pending.revision.max(revision);
        }
    }

    /// We asked for this object to be deleted.
    pub fn deleted(&self, key: &ObjectKey, object: &ObjectMeta) {
        let mut pending = self.0.lock();
        let pending = pending.entry(key.clone()).or_default();
        pending
            .deleted
            .insert(ObjectKey::of(object), object.uid.clone());
    }

    /// Whether `cache` shows all that was written for `key`.
    pub fn is_open<K: Watched>(&self, key: &ObjectKey, cache: &SharedCache<K>) -> bool {
        let mut all = self.0.lock();
        let Some(pending) = all.get_mut(key) else {
            return true;
        };
        pending.deleted.retain(|object, uid| {
            cache.get(object).is_some_and(|found| {
                let meta = found.metadata();
                meta.uid == *uid && meta.deletion_timestamp.is_none()
            })
        });
        let open = pending.deleted.is_empty() && cache.revision() >= pending.revision;
        if open {
            all.remove(key);
        }
        open
    }

    /// Forgets a key whose object is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.0.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use skiff_client::{Change, WatchSink};

    fn pod(name: &str, revision: u64) -> Pod {
        Pod {
            metadata: ObjectMeta {
                namespace: Some("a".into()),
                name: Some(name.into()),
                uid: Some(name.into()),
                resource_version: Some(revision.to_string()),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        }
    }

    #[test]
    fn opens_when_the_cache_has_caught_up() {
        let (gate, cache) = (WriteGate::default(), SharedCache::detached());
        let (mine, other) = (ObjectKey::new("a", "rs"), ObjectKey::new("a", "other"));
        assert!(gate.is_open(&mine, &cache));
        gate.wrote(&mine, &pod("x", 7).metadata);
        gate.wrote(&mine, &pod("y", 5).metadata);
        assert!(!gate.is_open(&mine, &cache) && gate.is_open(&other, &cache));
        cache.apply(Change::Applied(pod("y", 5)));
        assert!(!gate.is_open(&mine, &cache));
        cache.apply(Change::Applied(pod("x", 7)));
        assert!(gate.is_open(&mine, &cache));
        gate.deleted(&mine, &pod("x", 7).metadata);
        assert!(!gate.is_open(&mine, &cache));
        cache.apply(Change::Deleted(pod("x", 8)));
        assert!(gate.is_open(&mine, &cache));
    }
}
