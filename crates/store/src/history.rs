//! Every state that keys had since the last compaction, in memory: the index over all keys.
//!
//! `V` stands for a value: the bytes themselves in the memory store, a place on disk in the embedded one.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use crate::{LeaseId, Result, Revision, StoreError};

/// One state of one key.
#[derive(Clone, Debug)]
pub(crate) struct Version<V> {
    pub(crate) create: Revision,
    pub(crate) modified: Revision,
    pub(crate) lease: LeaseId,
    /// `None`: the key was deleted at `modified`.
    pub(crate) value: Option<V>,
}

/// A key's state as a search finds it.
#[derive(Clone, Debug)]
pub(crate) struct Found<V> {
    pub(crate) key: Arc<str>,
    pub(crate) create: Revision,
    pub(crate) modified: Revision,
    pub(crate) lease: LeaseId,
    pub(crate) value: V,
}

/// What a range search finds.
#[derive(Debug)]
pub(crate) struct FoundRange<V> {
    pub(crate) items: Vec<Found<V>>,
    pub(crate) count: u64,
    pub(crate) revision: Revision,
}

/// One change as it is told to watchers.
#[derive(Clone, Debug)]
pub(crate) struct FoundChange<V> {
    pub(crate) revision: Revision,
    /// The key that a deletion names has no current state.
    pub(crate) current: Option<Found<V>>,
    pub(crate) previous: Option<Found<V>>,
}

/// All keys and their states.
#[derive(Debug)]
pub(crate) struct History<V> {
    pub(crate) revision: Revision,
    /// The oldest revision that can be read.
    pub(crate) compacted: Revision,
    keys: BTreeMap<Arc<str>, Vec<Version<V>>>,
    /// Which key changed at which revision, for all revisions above `compacted`.
    changes: VecDeque<(Revision, Arc<str>)>,
}

impl<V: Clone> History<V> {
    pub(crate) fn new() -> Self {
        Self {
            revision: 0,
            compacted: 0,
            keys: BTreeMap::new(),
            changes: VecDeque::new(),
        }
    }

    /// Appends a state; revisions must not go back. Gives the key's shared name.
    pub(crate) fn push(&mut self, key: &Arc<str>, version: Version<V>) -> Arc<str> {
        self.revision = self.revision.max(version.modified);
        let revision = version.modified;
        let shared = match self.keys.get_key_value(key) {
            Some((shared, _)) => shared.clone(),
            None => key.clone(),
        };
        if revision > self.compacted {
            self.changes.push_back((revision, shared.clone()));
        }
        self.keys
            .entry(shared.clone())
            .or_insert_with(|| Vec::with_capacity(1))
            .push(version);
        shared
    }

    /// The newest state of a key, a deletion included.
    pub(crate) fn newest(&self, key: &str) -> Option<&Version<V>> {
        self.keys.get(key)?.last()
    }

    /// Whether `at` can be read; the revision to read.
    fn readable(&self, at: Option<Revision>) -> Result<Revision> {
        match at {
            None => Ok(self.revision),
            Some(at) if at > self.revision => Err(StoreError::Future(self.revision)),
            Some(at) if at < self.compacted => Err(StoreError::Compacted(self.compacted)),
            Some(at) => Ok(at),
        }
    }

    pub(crate) fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<Found<V>>> {
        let at = self.readable(at)?;
        Ok(self
            .keys
            .get_key_value(key)
            .and_then(|(key, versions)| state_at(key, versions, at)))
    }

    pub(crate) fn range(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<FoundRange<V>> {
        let revision = self.readable(at)?;
        let start = match from {
            Some(from) if from > prefix => from,
            _ => prefix,
        };
        let mut found = FoundRange {
            items: Vec::new(),
            count: 0,
            revision,
        };
        for (key, versions) in self
            .keys
            .range::<str, _>((Bound::Included(start), Bound::Unbounded))
        {
            if !key.starts_with(prefix) {
                break;
            }
            if limit == 0 || found.items.len() < limit {
                if let Some(item) = state_at(key, versions, revision) {
                    found.items.push(item);
                    found.count += 1;
                }
            } else if version_at(versions, revision).is_some_and(|v| v.value.is_some()) {
                found.count += 1;
            }
        }
        Ok(found)
    }

    /// The changes under `prefix` after `after`: looks at no more than about `most` changes, never at half a
    /// revision, and tells how far it came.
    pub(crate) fn changes(
        &self,
        prefix: &str,
        after: Revision,
        most: usize,
    ) -> Result<(Vec<FoundChange<V>>, Revision)> {
        if after > self.revision {
            return Err(StoreError::Future(self.revision));
        }
        if after < self.compacted {
            return Err(StoreError::Compacted(self.compacted));
        }
        let start = self.changes.partition_point(|(r, _)| *r <= after);
        let mut found = Vec::new();
        let mut through = after;
        for (seen, (revision, key)) in self.changes.range(start..).enumerate() {
            if seen >= most && *revision != through {
                return Ok((found, through));
            }
            through = *revision;
            if key.starts_with(prefix)
                && let Some(change) = self.change(key, *revision)
            {
                found.push(change);
            }
        }
        Ok((found, self.revision))
    }

    fn change(&self, key: &Arc<str>, revision: Revision) -> Option<FoundChange<V>> {
        let versions = self.keys.get(key)?;
        let at = versions.partition_point(|v| v.modified < revision);
        let version = versions.get(at).filter(|v| v.modified == revision)?;
        let before = at.checked_sub(1).and_then(|i| versions.get(i));
        Some(FoundChange {
            revision,
            current: found(key, version),
            previous: before.and_then(|v| found(key, v)),
        })
    }

    /// Puts the changes in the order of their revisions, after states were appended key by key.
    pub(crate) fn sort_changes(&mut self) {
        self.changes
            .make_contiguous()
            .sort_by_key(|(revision, _)| *revision);
    }

    /// Forgets what no reader at or above `revision` can see.
    pub(crate) fn compact(
        &mut self,
        revision: Revision,
        mut forget: impl FnMut(&str, &Version<V>),
    ) {
        if revision <= self.compacted {
            return;
        }
        let gone = self.changes.partition_point(|(r, _)| *r <= revision);
        // Only keys that changed since the last compaction have anything to forget; the rest is left alone.
        let mut touched: Vec<Arc<str>> = self.changes.drain(..gone).map(|(_, key)| key).collect();
        touched.sort_unstable();
        touched.dedup();
        for key in touched {
            self.prune(&key, revision, &mut forget);
        }
        if self.changes.capacity() > 4 * self.changes.len() + 1024 {
            self.changes.shrink_to_fit();
        }
        self.compacted = revision;
    }

    fn prune(
        &mut self,
        key: &Arc<str>,
        revision: Revision,
        forget: &mut impl FnMut(&str, &Version<V>),
    ) {
        let Some(versions) = self.keys.get_mut(key) else {
            return;
        };
        let newer = versions.partition_point(|v| v.modified <= revision);
        // The newest state at or below the revision stays readable, unless it is a deletion.
        let visible = versions
            .get(newer.wrapping_sub(1))
            .is_some_and(|v| v.value.is_some());
        let keep_from = if visible { newer - 1 } else { newer };
        versions
            .drain(..keep_from)
            .for_each(|version| forget(key, &version));
        if versions.is_empty() {
            self.keys.remove(key);
        } else if versions.capacity() > 2 * versions.len() {
            versions.shrink_to_fit();
        }
    }

    /// All keys with all their states from `from` (excluded) on.
    pub(crate) fn versions_after(
        &self,
        from: Option<&str>,
    ) -> impl Iterator<Item = (&Arc<str>, &Vec<Version<V>>)> {
        let start = match from {
            Some(from) => Bound::Excluded(from),
            None => Bound::Unbounded,
        };
        self.keys.range::<str, _>((start, Bound::Unbounded))
    }

    /// The value of one state of a key, to be exchanged.
    pub(crate) fn value_mut(&mut self, key: &str, revision: Revision) -> Option<&mut V> {
        let versions = self.keys.get_mut(key)?;
        let at = versions.partition_point(|v| v.modified < revision);
        let version = versions.get_mut(at).filter(|v| v.modified == revision)?;
        version.value.as_mut()
    }
}

fn version_at<V>(versions: &[Version<V>], at: Revision) -> Option<&Version<V>> {
    // Most reads are of the newest state.
    match versions.last() {
        Some(last) if last.modified <= at => Some(last),
        _ => versions
            .partition_point(|v| v.modified <= at)
            .checked_sub(1)
            .and_then(|i| versions.get(i)),
    }
}

fn state_at<V: Clone>(key: &Arc<str>, versions: &[Version<V>], at: Revision) -> Option<Found<V>> {
    found(key, version_at(versions, at)?)
}

fn found<V: Clone>(key: &Arc<str>, version: &Version<V>) -> Option<Found<V>> {
    Some(Found {
        key: key.clone(),
        create: version.create,
        modified: version.modified,
        lease: version.lease,
        value: version.value.clone()?,
    })
}
