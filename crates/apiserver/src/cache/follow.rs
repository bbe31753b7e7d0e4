//! Reading a cache again and again: each time only what changed since.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Entry, ResourceCache, Since, Subscription, Trigger};

/// A reader that remembers how far it has come.
#[derive(Default)]
pub struct Follower {
    place: Option<Place>,
    /// The revisions of what was there, by key.
    seen: HashMap<Arc<str>, u64>,
}

struct Place {
    cache: Arc<ResourceCache>,
    cursor: u64,
    subscription: Subscription,
}

impl Follower {
    /// The objects that changed since the last time, as they are now; `None`: gone. A cache that was made anew, or that has
    /// forgotten what happened, is compared with what was seen.
    pub fn changes(&mut self, cache: &Arc<ResourceCache>) -> HashMap<Arc<str>, Option<Arc<Entry>>> {
        let mut changes = self.since(cache).unwrap_or_else(|| self.anew(cache));
        changes.retain(|key, entry| match entry {
            Some(entry) => self.seen.insert(key.clone(), entry.revision) != Some(entry.revision),
            None => self.seen.remove(key).is_some(),
        });
        changes
    }

    fn since(
        &mut self,
        cache: &Arc<ResourceCache>,
    ) -> Option<HashMap<Arc<str>, Option<Arc<Entry>>>> {
        let place = self.place.as_mut();
        let place = place.filter(|place| Arc::ptr_eq(&place.cache, cache))?;
        let Since::Events(events, cursor) = cache.since(place.cursor, usize::MAX) else {
            return None;
        };
        place.cursor = cursor;
        let last = events
            .iter()
            .map(|event| (event.key().into(), event.current.clone()));
        Some(last.collect())
    }

    fn anew(&mut self, cache: &Arc<ResourceCache>) -> HashMap<Arc<str>, Option<Arc<Entry>>> {
        let subscription = cache.subscribe(Trigger::Any);
        let (entries, cursor) = cache.snapshot(cache.prefix());
        self.place = Some(Place {
            cache: cache.clone(),
            cursor,
            subscription,
        });
        let before = self.seen.keys().map(|key| (key.clone(), None));
        let now = entries
            .into_iter()
            .map(|entry| (entry.key.clone(), Some(entry)));
        before.chain(now).collect()
    }

    /// Returns when something may have changed since it was read last, at once if nothing was read yet or its cache was given up.
    pub async fn changed(&self) {
        match &self.place {
            Some(place) if !place.cache.is_closed() => place.subscription.changed().await,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use skiff_store::{Event, KeyValue, Range};
    use std::time::Duration;

    fn item(name: &str, revision: u64) -> KeyValue {
        KeyValue {
            key: format!("/registry/services/specs/n/{name}").into(),
            value: format!("{{\"metadata\":{{\"name\":\"{name}\"}}}}").into(),
            create_revision: 1,
            mod_revision: revision,
            lease: 0,
        }
    }

    fn loaded(items: Vec<KeyValue>, revision: u64) -> Arc<ResourceCache> {
        let registry = crate::registry::Registry::new(skiff_api::kinds());
        let services = registry.stored("", "services").unwrap();
        let cache = ResourceCache::new(services.storage.clone());
        let count = items.len() as u64;
        let range = Range {
            items,
            more: false,
            count,
            revision,
        };
        cache.load(range, Duration::ZERO);
        cache
    }

    fn read(follower: &mut Follower, cache: &Arc<ResourceCache>) -> Vec<String> {
        let changes = follower.changes(cache);
        let mut shown: Vec<String> = changes
            .iter()
            .map(|(key, entry)| {
                let name = key.rsplit('/').next().unwrap_or_default();
                match entry {
                    Some(entry) => format!("{name}@{}", entry.revision),
                    None => format!("no {name}"),
                }
            })
            .collect();
        shown.sort();
        shown
    }

    fn put(cache: &ResourceCache, name: &str, revision: u64, now: Duration) {
        let current = item(name, revision);
        let previous = None;
        cache.apply(&[Event::Put { current, previous }], now);
    }

    #[test]
    fn only_what_changed_is_read_again() {
        let cache = loaded(vec![item("a", 1), item("b", 2)], 2);
        let mut follower = Follower::default();
        assert_eq!(read(&mut follower, &cache), ["a@1", "b@2"]);
        assert_eq!(read(&mut follower, &cache), [""; 0]);
        assert_eq!(follower.changed().now_or_never(), None);
        put(&cache, "b", 3, Duration::ZERO);
        put(&cache, "b", 4, Duration::ZERO);
        put(&cache, "c", 5, Duration::ZERO);
        let previous = item("c", 5);
        let revision = 6;
        cache.apply(&[Event::Delete { revision, previous }], Duration::ZERO);
        assert_eq!(follower.changed().now_or_never(), Some(()));
        assert_eq!(read(&mut follower, &cache), ["b@4"]);
        // So much later that the cache has forgotten what happened.
        put(&cache, "c", 7, Duration::ZERO);
        let previous = item("a", 1);
        let revision = 8;
        cache.apply(&[Event::Delete { revision, previous }], Duration::ZERO);
        cache.expire(Duration::from_secs(3600));
        assert_eq!(read(&mut follower, &cache), ["c@7", "no a"]);
        // The store's watch broke: the cache is made anew.
        cache.close();
        assert_eq!(follower.changed().now_or_never(), Some(()));
        let cache = loaded(vec![item("b", 4), item("d", 9)], 9);
        assert_eq!(read(&mut follower, &cache), ["d@9", "no c"]);
    }
}
