//! Passes a watched collection on, object by object, and forgets the objects.

use std::collections::HashSet;

use parking_lot::Mutex;
use skiff_client::reflect::Watched;
use skiff_client::{Change, ObjectKey, WatchSink};
use tokio::sync::watch;

type Handler<K> = Box<dyn Fn(&ObjectKey, Option<&K>) + Send + Sync>;

/// Calls a handler with each object that comes or changes, and with nothing when it goes. Only the
/// objects' names are kept, to notice what has gone while the watch was away.
pub(crate) struct Feed<K> {
    handler: Handler<K>,
    known: Mutex<HashSet<ObjectKey>>,
    synced: watch::Sender<bool>,
}

impl<K> Feed<K> {
    /// A feed that calls `handler`, one call at a time.
    pub fn new(handler: impl Fn(&ObjectKey, Option<&K>) + Send + Sync + 'static) -> Self {
        Self {
            handler: Box::new(handler),
            known: Mutex::new(HashSet::new()),
            synced: watch::Sender::new(false),
        }
    }

    /// Returns when the first list has been passed on.
    pub async fn wait_synced(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }
}

impl<K: Watched> WatchSink<K> for Feed<K> {
    fn replace(&self, items: Vec<K>, _resource_version: &str) {
        let mut known = self.known.lock();
        let mut gone = std::mem::take(&mut *known);
        for item in items {
            let key = ObjectKey::of(item.metadata());
            gone.remove(&key);
            (self.handler)(&key, Some(&item));
            known.insert(key);
        }
        for key in gone {
            (self.handler)(&key, None);
        }
        self.synced
            .send_if_modified(|synced| !std::mem::replace(synced, true));
    }

    fn apply(&self, change: Change<K>) {
        let mut known = self.known.lock();
        match change {
            Change::Applied(object) => {
                let key = ObjectKey::of(object.metadata());
                (self.handler)(&key, Some(&object));
                known.insert(key);
            }
            Change::Deleted(object) => {
                let key = ObjectKey::of(object.metadata());
                (self.handler)(&key, None);
                known.remove(&key);
            }
        }
    }

    fn progress(&self, _resource_version: &str) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Namespace;

    use super::*;

    fn namespace(name: &str) -> Namespace {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.into());
        namespace
    }

    #[tokio::test]
    async fn what_went_while_the_watch_was_away_is_told() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        let feed = Feed::<Namespace>::new(move |key, object| {
            log.lock().push(format!("{key} {}", object.is_some()));
        });
        feed.replace(vec![namespace("a"), namespace("b")], "1");
        feed.wait_synced().await;
        feed.apply(Change::Applied(namespace("c")));
        feed.apply(Change::Deleted(namespace("a")));
        feed.replace(vec![namespace("c")], "9");
        let expected = ["a true", "b true", "c true", "a false", "c true", "b false"];
        assert_eq!(*told.lock(), expected);
    }
}
