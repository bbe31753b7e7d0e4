//! What a request does to the store: a pure decision from the state to effects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::history::{Found, History, Version};
use crate::lease::Leases;
use crate::{LeaseId, Revision};

/// Everything the store knows.
#[derive(Debug)]
pub(crate) struct State<V> {
    pub(crate) history: History<V>,
    pub(crate) leases: Leases,
}

/// A write that someone asks for.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Create {
        key: Arc<str>,
        value: Bytes,
        lease: LeaseId,
    },
    Update {
        key: Arc<str>,
        value: Bytes,
        expected: Revision,
        lease: LeaseId,
    },
    Delete {
        key: Arc<str>,
        expected: Option<Revision>,
    },
    Compact(Revision),
    Grant(Duration),
    Revoke(LeaseId),
}

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Put {
        key: Arc<str>,
        value: Bytes,
        create: Revision,
        revision: Revision,
        lease: LeaseId,
    },
    Delete {
        key: Arc<str>,
        revision: Revision,
    },
    Compact(Revision),
    Grant(LeaseId, Duration),
    Revoke(LeaseId),
}

/// What the asker is told once the effects are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Revision(Revision),
    Lease(LeaseId),
    Done,
    /// The key exists with its state of that revision.
    Exists(Revision),
    /// The key is at another revision; `None`: there is no such key.
    Conflict(Option<Revision>),
    NoLease,
    Future(Revision),
}

#[derive(Clone, Copy)]
struct Head {
    create: Revision,
    modified: Revision,
    lease: LeaseId,
}

/// Decides one request after the other, each upon the effects of those before it.
pub(crate) struct Plan<'a, V> {
    state: &'a State<V>,
    revision: Revision,
    last_lease: LeaseId,
    heads: BTreeMap<Arc<str>, Option<Head>>,
    granted: BTreeSet<LeaseId>,
    revoked: BTreeSet<LeaseId>,
    pub(crate) effects: Vec<Effect>,
}

impl<'a, V: Clone> Plan<'a, V> {
    pub(crate) fn new(state: &'a State<V>) -> Self {
        Self {
            state,
            revision: state.history.revision,
            last_lease: state.leases.last,
            heads: BTreeMap::new(),
            granted: BTreeSet::new(),
            revoked: BTreeSet::new(),
            effects: Vec::new(),
        }
    }

    pub(crate) fn decide(&mut self, request: Request) -> Answer {
        match request {
            Request::Create { key, value, lease } => match self.head(&key) {
                Some(head) => Answer::Exists(head.modified),
                None => self.put(key, value, None, lease),
            },
            Request::Update {
                key,
                value,
                expected,
                lease,
            } => match self.head(&key) {
                Some(head) if head.modified == expected => {
                    self.put(key, value, Some(head.create), lease)
                }
                head => Answer::Conflict(head.map(|head| head.modified)),
            },
            Request::Delete { key, expected } => match self.head(&key) {
                Some(head) if expected.is_none_or(|expected| expected == head.modified) => {
                    self.revision += 1;
                    self.delete(key);
                    Answer::Revision(self.revision)
                }
                head => Answer::Conflict(head.map(|head| head.modified)),
            },
            Request::Compact(revision) if revision > self.revision => Answer::Future(self.revision),
            Request::Compact(revision) => {
                if revision > self.state.history.compacted {
                    self.effects.push(Effect::Compact(revision));
                }
                Answer::Done
            }
            Request::Grant(ttl) => {
                self.last_lease += 1;
                self.granted.insert(self.last_lease);
                self.effects.push(Effect::Grant(self.last_lease, ttl));
                Answer::Lease(self.last_lease)
            }
            Request::Revoke(id) => self.revoke(id),
        }
    }

    fn head(&self, key: &str) -> Option<Head> {
        if let Some(head) = self.heads.get(key) {
            return *head;
        }
        let newest = self.state.history.newest(key)?;
        newest.value.as_ref().map(|_| Head {
            create: newest.create,
            modified: newest.modified,
            lease: newest.lease,
        })
    }

    fn has_lease(&self, id: LeaseId) -> bool {
        !self.revoked.contains(&id)
            && (self.granted.contains(&id) || self.state.leases.ttl(id).is_some())
    }

    fn put(
        &mut self,
        key: Arc<str>,
        value: Bytes,
        create: Option<Revision>,
        lease: LeaseId,
    ) -> Answer {
        if lease != 0 && !self.has_lease(lease) {
            return Answer::NoLease;
        }
        self.revision += 1;
        let head = Head {
            create: create.unwrap_or(self.revision),
            modified: self.revision,
            lease,
        };
        self.heads.insert(key.clone(), Some(head));
        self.effects.push(Effect::Put {
            key,
            value,
            create: head.create,
            revision: self.revision,
            lease,
        });
        Answer::Revision(self.revision)
    }

    fn delete(&mut self, key: Arc<str>) {
        self.heads.insert(key.clone(), None);
        self.effects.push(Effect::Delete {
            key,
            revision: self.revision,
        });
    }

    /// All keys of the lease go in one revision.
    fn revoke(&mut self, id: LeaseId) -> Answer {
        if !self.has_lease(id) {
            return Answer::NoLease;
        }
        let mut keys: BTreeSet<Arc<str>> = self.state.leases.keys(id).cloned().collect();
        keys.extend(self.heads.keys().cloned());
        keys.retain(|key| self.head(key).is_some_and(|head| head.lease == id));
        if !keys.is_empty() {
            self.revision += 1;
        }
        for key in keys {
            self.delete(key);
        }
        self.revoked.insert(id);
        self.effects.push(Effect::Revoke(id));
        Answer::Done
    }
}

/// A change that was applied, as watchers are told of it.
#[derive(Debug)]
pub(crate) struct Applied<V> {
    pub(crate) key: Arc<str>,
    pub(crate) revision: Revision,
    pub(crate) create: Revision,
    pub(crate) lease: LeaseId,
    /// `None` for a deletion.
    pub(crate) value: Option<Bytes>,
    pub(crate) previous: Option<Found<V>>,
}

impl<V: Clone> State<V> {
    pub(crate) fn new() -> Self {
        Self {
            history: History::new(),
            leases: Leases::default(),
        }
    }

    /// Carries out an effect. `place` is the value as this store keeps it, for a put; `forget` learns of
    /// values that compaction drops.
    pub(crate) fn apply(
        &mut self,
        effect: &Effect,
        place: Option<V>,
        forget: impl FnMut(&str, &Version<V>),
    ) -> Option<Applied<V>> {
        match effect {
            Effect::Put {
                key,
                value,
                create,
                revision,
                lease,
            } => {
                let version = Version {
                    create: *create,
                    modified: *revision,
                    lease: *lease,
                    value: place,
                };
                Some(self.change(key, version, Some(value.clone())))
            }
            Effect::Delete { key, revision } => {
                let version = Version {
                    create: 0,
                    modified: *revision,
                    lease: 0,
                    value: None,
                };
                Some(self.change(key, version, None))
            }
            Effect::Compact(revision) => {
                self.history.compact(*revision, forget);
                None
            }
            Effect::Grant(id, ttl) => {
                self.leases.grant(*id, *ttl);
                None
            }
            Effect::Revoke(id) => {
                self.leases.revoke(*id);
                None
            }
        }
    }

    fn change(&mut self, key: &Arc<str>, version: Version<V>, value: Option<Bytes>) -> Applied<V> {
        let previous = self.history.get(key, None).ok().flatten();
        let (create, revision, lease) = (version.create, version.modified, version.lease);
        let key = self.history.push(key, version);
        if let Some(previous) = &previous
            && previous.lease != lease
        {
            self.leases.detach(previous.lease, &key);
        }
        if lease != 0 {
            self.leases.attach(lease, key.clone());
        }
        Applied {
            key,
            revision,
            create,
            lease,
            value,
            previous,
        }
    }
}
