//! The store in memory: the model that the others are measured against, for tests and simulation.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use skiff_base::SharedClock;

use crate::history::Found;
use crate::lease::{Deadlines, Revoke};
use crate::plan::{Answer, Applied, Plan, Request, State};
use crate::watch::{CATCH_UP_CHANGES, CatchUp, Hub, Pace, Source, watch};
use crate::{
    Event, KeyValue, LeaseId, Range, Result, Revision, Store, StoreError, WatchLimits, WatchStream,
};

/// A store that forgets everything when it is dropped.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    /// Watches keep `shared`; when the last store goes, they end.
    _closer: Arc<Closer>,
}

#[derive(Debug)]
struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.hub.close();
    }
}

#[derive(Debug)]
struct Shared {
    clock: SharedClock,
    state: RwLock<State<Bytes>>,
    hub: Hub,
    deadlines: Arc<Deadlines>,
}

impl MemoryStore {
    /// An empty store at revision 0.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self::with_limits(clock, WatchLimits::default())
    }

    /// An empty store with other limits for slow watchers.
    #[must_use]
    pub fn with_limits(clock: SharedClock, limits: WatchLimits) -> Self {
        let shared = Arc::new(Shared {
            deadlines: Deadlines::new(clock.clone()),
            clock,
            state: RwLock::new(State::new()),
            hub: Hub::new(limits),
        });
        Self {
            _closer: Arc::new(Closer(shared.clone())),
            shared,
        }
    }
}

impl Shared {
    fn write(&self, key: &str, request: Request) -> Result<Answer> {
        let mut state = self.state.write();
        let mut plan = Plan::new(&state);
        let answer = plan.decide(request);
        let effects = plan.effects;
        let mut events = Vec::new();
        for effect in &effects {
            let place = match effect {
                crate::plan::Effect::Put { value, .. } => Some(value.clone()),
                _ => None,
            };
            if let Some(applied) = state.apply(effect, place, |_, _| {}) {
                events.push((applied.key.clone(), Ok(event(applied))));
            }
        }
        self.hub.publish(&events);
        match answer {
            Answer::Exists(_) => match state.history.get(key, None)? {
                Some(found) => Err(StoreError::Exists(key_value(found))),
                None => Err(StoreError::Failed("key vanished under the lock".into())),
            },
            Answer::Conflict(_) => Err(StoreError::Conflict(
                state.history.get(key, None)?.map(key_value),
            )),
            Answer::NoLease => Err(StoreError::NoLease),
            Answer::Future(revision) => Err(StoreError::Future(revision)),
            done => Ok(done),
        }
    }

    fn write_revision(&self, key: &str, request: Request) -> Result<Revision> {
        match self.write(key, request)? {
            Answer::Revision(revision) => Ok(revision),
            other => Err(StoreError::Failed(format!("unexpected answer {other:?}"))),
        }
    }
}

fn key_value(found: Found<Bytes>) -> KeyValue {
    KeyValue {
        key: found.key,
        value: found.value,
        create_revision: found.create,
        mod_revision: found.modified,
        lease: found.lease,
    }
}

fn event(applied: Applied<Bytes>) -> Event {
    let previous = applied.previous.map(key_value);
    match (applied.value, previous) {
        (Some(value), previous) => Event::Put {
            current: KeyValue {
                key: applied.key,
                value,
                create_revision: applied.create,
                mod_revision: applied.revision,
                lease: applied.lease,
            },
            previous,
        },
        (None, previous) => Event::Delete {
            revision: applied.revision,
            // A plan deletes only keys that exist.
            previous: previous.unwrap_or(KeyValue {
                key: applied.key,
                value: Bytes::new(),
                create_revision: 0,
                mod_revision: 0,
                lease: 0,
            }),
        },
    }
}

impl Pace for Shared {
    fn current(&self) -> Revision {
        self.state.read().history.revision
    }

    fn clock(&self) -> &SharedClock {
        &self.clock
    }
}

#[async_trait]
impl Source for Shared {
    async fn catch_up(&self, prefix: &Arc<str>, after: Revision) -> Result<CatchUp> {
        let state = self.state.read();
        if after == state.history.revision {
            return Ok(CatchUp::Live(self.hub.subscribe(prefix.clone())?));
        }
        let (changes, through) = state.history.changes(prefix, after, CATCH_UP_CHANGES)?;
        let events = changes
            .into_iter()
            .filter_map(|change| {
                let previous = change.previous.map(key_value);
                match change.current {
                    Some(current) => Some(Event::Put {
                        current: key_value(current),
                        previous,
                    }),
                    None => previous.map(|previous| Event::Delete {
                        revision: change.revision,
                        previous,
                    }),
                }
            })
            .collect();
        Ok(CatchUp::Events { events, through })
    }
}

#[async_trait]
impl Revoke for Shared {
    async fn revoke(&self, id: LeaseId) -> Result<()> {
        self.write("", Request::Revoke(id)).map(|_| ())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn revision(&self) -> Result<Revision> {
        Ok(self.shared.current())
    }

    fn known_revision(&self) -> Option<Revision> {
        Some(self.shared.current())
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<KeyValue>> {
        let state = self.shared.state.read();
        Ok(state.history.get(key, at)?.map(key_value))
    }

    async fn range(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range> {
        let found = {
            let state = self.shared.state.read();
            state.history.range(prefix, from, limit, at)?
        };
        Ok(Range {
            more: found.count > found.items.len() as u64,
            count: found.count,
            revision: found.revision,
            items: found.items.into_iter().map(key_value).collect(),
        })
    }

    async fn create(&self, key: &str, value: Bytes, lease: LeaseId) -> Result<Revision> {
        let request = Request::Create {
            key: key.into(),
            value,
            lease,
        };
        self.shared.write_revision(key, request)
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        lease: LeaseId,
    ) -> Result<Revision> {
        let request = Request::Update {
            key: key.into(),
            value,
            expected,
            lease,
        };
        self.shared.write_revision(key, request)
    }

    async fn delete(&self, key: &str, expected: Option<Revision>) -> Result<Revision> {
        let request = Request::Delete {
            key: key.into(),
            expected,
        };
        self.shared.write_revision(key, request)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        self.shared.state.read().history.changes(prefix, after, 0)?;
        Ok(watch(self.shared.clone(), prefix, after))
    }

    async fn request_progress(&self) -> Result<()> {
        let state = self.shared.state.read();
        self.shared.hub.progress(state.history.revision);
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.shared
            .write("", Request::Compact(revision))
            .map(|_| ())
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId> {
        match self.shared.write("", Request::Grant(ttl))? {
            Answer::Lease(id) => {
                self.shared.deadlines.start(id, ttl, &self.shared);
                Ok(id)
            }
            other => Err(StoreError::Failed(format!("unexpected answer {other:?}"))),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.shared.deadlines.renew(lease)
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<()> {
        self.shared.revoke(lease).await?;
        self.shared.deadlines.remove(lease);
        Ok(())
    }

    async fn size(&self) -> Result<u64> {
        let state = self.shared.state.read();
        Ok(state
            .history
            .versions_after(None)
            .map(|(key, versions)| {
                let values = versions.iter().flat_map(|v| &v.value).map(Bytes::len);
                (key.len() + values.sum::<usize>()) as u64
            })
            .sum())
    }
}
