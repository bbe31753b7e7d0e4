//! A store whose values are encrypted on the way in and decrypted on the way out.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use skiff_store::{
    Event, KeyValue, LeaseId, Range, Result, Revision, Store, StoreError, WatchItem, WatchStream,
};

use super::EncryptionError;
use super::rules::Rules;

pub(super) struct EncryptedStore {
    inner: Arc<dyn Store>,
    rules: Arc<ArcSwap<Rules>>,
}

fn failed(key: &str, error: &EncryptionError) -> StoreError {
    StoreError::Failed(format!("unable to transform key {key:?}: {error}"))
}

/// Decrypts in place.
async fn open(rules: &Rules, kv: &mut KeyValue) -> Result<()> {
    if rules.passes(&kv.value) {
        return Ok(());
    }
    match rules.open(&kv.key, &kv.value).await {
        Ok(opened) => kv.value = opened.plain.into(),
        Err(error) => return Err(failed(&kv.key, &error)),
    }
    Ok(())
}

impl EncryptedStore {
    pub fn new(inner: Arc<dyn Store>, rules: Arc<ArcSwap<Rules>>) -> Self {
        Self { inner, rules }
    }

    async fn seal(&self, key: &str, value: Bytes) -> Result<Bytes> {
        let rules = self.rules.load();
        // Nearly every kind ends here.
        let Some(provider) = rules.writers(key).and_then(|list| list.first()).cloned() else {
            return Ok(value);
        };
        drop(rules);
        let sealed = provider.seal(key, &value).await;
        sealed.map(Bytes::from).map_err(|error| failed(key, &error))
    }

    /// An answer that holds the state of a key.
    async fn open_error(&self, error: StoreError) -> StoreError {
        let rules = self.rules.load_full();
        match error {
            StoreError::Exists(mut kv) => match open(&rules, &mut kv).await {
                Ok(()) => StoreError::Exists(kv),
                Err(error) => error,
            },
            StoreError::Conflict(Some(mut kv)) => match open(&rules, &mut kv).await {
                Ok(()) => StoreError::Conflict(Some(kv)),
                Err(error) => error,
            },
            other => other,
        }
    }
}

async fn open_item(rules: Arc<ArcSwap<Rules>>, item: WatchItem) -> WatchItem {
    let WatchItem::Events(mut events) = item else {
        return item;
    };
    let rules = rules.load_full();
    for event in &mut events {
        let (current, previous) = match event {
            Event::Put { current, previous } => (Some(current), previous.as_mut()),
            Event::Delete { previous, .. } => (None, Some(previous)),
        };
        for kv in [current, previous].into_iter().flatten() {
            if let Err(error) = open(&rules, kv).await {
                // One bad value must not end the watch on all the others; a read of it says what is wrong.
                tracing::error!(%error, "a change cannot be decrypted");
                kv.value = Bytes::new();
            }
        }
    }
    WatchItem::Events(events)
}

#[async_trait]
impl Store for EncryptedStore {
    async fn revision(&self) -> Result<Revision> {
        self.inner.revision().await
    }

    fn known_revision(&self) -> Option<Revision> {
        self.inner.known_revision()
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<KeyValue>> {
        let mut found = self.inner.get(key, at).await?;
        if let Some(kv) = &mut found {
            open(&self.rules.load_full(), kv).await?;
        }
        Ok(found)
    }

    async fn range(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range> {
        let mut range = self.inner.range(prefix, from, limit, at).await?;
        let rules = self.rules.load_full();
        for kv in &mut range.items {
            open(&rules, kv).await?;
        }
        Ok(range)
    }

    async fn create(&self, key: &str, value: Bytes, lease: LeaseId) -> Result<Revision> {
        let value = self.seal(key, value).await?;
        match self.inner.create(key, value, lease).await {
            Ok(revision) => Ok(revision),
            Err(error) => Err(self.open_error(error).await),
        }
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        lease: LeaseId,
    ) -> Result<Revision> {
        let value = self.seal(key, value).await?;
        match self.inner.update(key, value, expected, lease).await {
            Ok(revision) => Ok(revision),
            Err(error) => Err(self.open_error(error).await),
        }
    }

    async fn delete(&self, key: &str, expected: Option<Revision>) -> Result<Revision> {
        match self.inner.delete(key, expected).await {
            Ok(revision) => Ok(revision),
            Err(error) => Err(self.open_error(error).await),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        let rules = self.rules.clone();
        let items = self.inner.watch(prefix, after).await?;
        Ok(items
            .then(move |item| {
                let rules = rules.clone();
                async move { Ok(open_item(rules, item?).await) }
            })
            .boxed())
    }

    async fn wants_rewrite(&self, key: &str) -> Result<bool> {
        let rules = self.rules.load_full();
        let Some(kv) = self.inner.get(key, None).await? else {
            return Ok(false);
        };
        if rules.writers(key).is_none() && rules.passes(&kv.value) {
            return Ok(false);
        }
        match rules.open(key, &kv.value).await {
            Ok(opened) => Ok(opened.stale),
            Err(error) => Err(failed(key, &error)),
        }
    }

    async fn request_progress(&self) -> Result<()> {
        self.inner.request_progress().await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.inner.compact(revision).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId> {
        self.inner.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<()> {
        self.inner.revoke_lease(lease).await
    }

    async fn size(&self) -> Result<u64> {
        self.inner.size().await
    }
}
