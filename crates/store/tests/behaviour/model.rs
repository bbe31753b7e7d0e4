//! What a store should answer: all states of all keys by revision, with nothing clever about it.

use std::collections::BTreeMap;

use bytes::Bytes;
use skiff_store::{Event, KeyValue, LeaseId, Revision, Store, StoreError};

/// How an operation ended, comparable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    Ok(T),
    Exists(KeyValue),
    Conflict(Option<KeyValue>),
    Compacted(Revision),
    Future(Revision),
    NoLease,
}

impl<T> Outcome<T> {
    pub fn of(result: Result<T, StoreError>) -> Self {
        match result {
            Ok(value) => Self::Ok(value),
            Err(StoreError::Exists(kv)) => Self::Exists(kv),
            Err(StoreError::Conflict(kv)) => Self::Conflict(kv),
            Err(StoreError::Compacted(r)) => Self::Compacted(r),
            Err(StoreError::Future(r)) => Self::Future(r),
            Err(StoreError::NoLease) => Self::NoLease,
            Err(other) => panic!("unexpected failure: {other}"),
        }
    }
}

/// All states: `history[revision][key]`.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub revision: Revision,
    pub compacted: Revision,
    pub history: BTreeMap<Revision, BTreeMap<String, KeyValue>>,
    pub leases: Vec<LeaseId>,
}

impl Model {
    fn at(&self, revision: Revision) -> BTreeMap<String, KeyValue> {
        self.history.get(&revision).cloned().unwrap_or_default()
    }

    fn readable(&self, at: Option<Revision>) -> Result<Revision, Outcome<()>> {
        match at {
            Some(at) if at > self.revision => Err(Outcome::Future(self.revision)),
            Some(at) if at < self.compacted => Err(Outcome::Compacted(self.compacted)),
            Some(at) => Ok(at),
            None => Ok(self.revision),
        }
    }

    pub fn get(&self, key: &str, at: Option<Revision>) -> Outcome<Option<KeyValue>> {
        match self.readable(at) {
            Ok(at) => Outcome::Ok(self.at(at).get(key).cloned()),
            Err(error) => retype(error),
        }
    }

    pub fn range(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Outcome<(Vec<KeyValue>, bool, u64, Revision)> {
        match self.readable(at) {
            Ok(at) => {
                let all: Vec<_> = self
                    .at(at)
                    .into_values()
                    .filter(|kv| {
                        kv.key.starts_with(prefix) && from.is_none_or(|from| &*kv.key >= from)
                    })
                    .collect();
                let count = all.len();
                let most = if limit == 0 { count } else { limit };
                let page: Vec<_> = all.into_iter().take(most).collect();
                Outcome::Ok((page, count > most, count as u64, at))
            }
            Err(error) => retype(error),
        }
    }

    fn write(&mut self, change: impl FnOnce(&mut BTreeMap<String, KeyValue>, Revision)) {
        let mut keys = self.at(self.revision);
        self.revision += 1;
        change(&mut keys, self.revision);
        self.history.insert(self.revision, keys);
    }

    fn put(
        &mut self,
        key: &str,
        value: Bytes,
        create: Option<Revision>,
        lease: LeaseId,
    ) -> Outcome<Revision> {
        if lease != 0 && !self.leases.contains(&lease) {
            return Outcome::NoLease;
        }
        self.write(|keys, revision| {
            let kv = KeyValue {
                key: key.into(),
                value,
                create_revision: create.unwrap_or(revision),
                mod_revision: revision,
                lease,
            };
            keys.insert(key.into(), kv);
        });
        Outcome::Ok(self.revision)
    }

    fn now(&self, key: &str) -> Option<KeyValue> {
        self.at(self.revision).remove(key)
    }

    pub fn create(&mut self, key: &str, value: Bytes, lease: LeaseId) -> Outcome<Revision> {
        match self.now(key) {
            Some(kv) => Outcome::Exists(kv),
            None => self.put(key, value, None, lease),
        }
    }

    pub fn update(
        &mut self,
        key: &str,
        value: Bytes,
        expected: Revision,
        lease: LeaseId,
    ) -> Outcome<Revision> {
        match self.now(key) {
            Some(kv) if kv.mod_revision == expected => {
                self.put(key, value, Some(kv.create_revision), lease)
            }
            other => Outcome::Conflict(other),
        }
    }

    pub fn delete(&mut self, key: &str, expected: Option<Revision>) -> Outcome<Revision> {
        match self.now(key) {
            Some(kv) if expected.is_none_or(|e| e == kv.mod_revision) => {
                self.write(|keys, _| {
                    keys.remove(key);
                });
                Outcome::Ok(self.revision)
            }
            other => Outcome::Conflict(other),
        }
    }

    pub fn compact(&mut self, revision: Revision) -> Outcome<()> {
        if revision > self.revision {
            return Outcome::Future(self.revision);
        }
        self.compacted = self.compacted.max(revision);
        Outcome::Ok(())
    }

    pub fn revoke(&mut self, lease: LeaseId) -> Outcome<()> {
        if !self.leases.contains(&lease) {
            return Outcome::NoLease;
        }
        self.leases.retain(|l| *l != lease);
        let held = |kv: &KeyValue| kv.lease == lease;
        if self.at(self.revision).values().any(held) {
            self.write(|keys, _| keys.retain(|_, kv| kv.lease != lease));
        }
        Outcome::Ok(())
    }

    /// The events under `prefix` after `after`, found by comparing neighbouring states.
    pub fn events(&self, prefix: &str, after: Revision) -> Outcome<Vec<Event>> {
        if after > self.revision {
            return Outcome::Future(self.revision);
        }
        if after < self.compacted {
            return Outcome::Compacted(self.compacted);
        }
        let mut events = Vec::new();
        for revision in after + 1..=self.revision {
            let (before, now) = (self.at(revision - 1), self.at(revision));
            let mut keys: Vec<_> = before.keys().chain(now.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys.into_iter().filter(|key| key.starts_with(prefix)) {
                match (before.get(key), now.get(key)) {
                    (previous, Some(current)) if previous != Some(current) => {
                        events.push(Event::Put {
                            current: current.clone(),
                            previous: previous.cloned(),
                        });
                    }
                    (Some(previous), None) => events.push(Event::Delete {
                        revision,
                        previous: previous.clone(),
                    }),
                    _ => {}
                }
            }
        }
        Outcome::Ok(events)
    }
}

fn retype<T>(error: Outcome<()>) -> Outcome<T> {
    match error {
        Outcome::Compacted(r) => Outcome::Compacted(r),
        Outcome::Future(r) => Outcome::Future(r),
        other => panic!("{other:?}"),
    }
}

/// Compares everything that can be read with the model.
pub async fn compare_all(store: &dyn Store, model: &Model, keys: &[&str]) {
    assert_eq!(store.revision().await.unwrap(), model.revision);
    for at in model.compacted.saturating_sub(1)..=model.revision + 1 {
        for key in keys {
            let got = Outcome::of(store.get(key, Some(at)).await);
            assert_eq!(got, model.get(key, Some(at)), "{key} at {at}");
        }
    }
}
