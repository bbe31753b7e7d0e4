//! Leases: which keys die with which lease, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use skiff_base::SharedClock;
use tokio::sync::Notify;

use crate::{LeaseId, Result, StoreError};

/// The leases that run. Keys are attached as they are written.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    /// The highest identifier ever given.
    pub(crate) last: LeaseId,
    held: BTreeMap<LeaseId, Lease>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    keys: BTreeSet<Arc<str>>,
}

impl Leases {
    pub(crate) fn grant(&mut self, id: LeaseId, ttl: Duration) {
        self.last = self.last.max(id);
        self.held.insert(
            id,
            Lease {
                ttl,
                keys: BTreeSet::new(),
            },
        );
    }

    pub(crate) fn revoke(&mut self, id: LeaseId) {
        self.held.remove(&id);
    }

    pub(crate) fn ttl(&self, id: LeaseId) -> Option<Duration> {
        self.held.get(&id).map(|lease| lease.ttl)
    }

    pub(crate) fn keys(&self, id: LeaseId) -> impl Iterator<Item = &Arc<str>> {
        self.held.get(&id).into_iter().flat_map(|lease| &lease.keys)
    }

    pub(crate) fn attach(&mut self, id: LeaseId, key: Arc<str>) {
        if let Some(lease) = self.held.get_mut(&id) {
            lease.keys.insert(key);
        }
    }

    pub(crate) fn detach(&mut self, id: LeaseId, key: &str) {
        if let Some(lease) = self.held.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LeaseId, Duration)> {
        self.held.iter().map(|(id, lease)| (*id, lease.ttl))
    }
}

/// Ends a lease whose time is over.
#[async_trait]
pub(crate) trait Revoke: Send + Sync + 'static {
    async fn revoke(&self, id: LeaseId) -> Result<()>;
}

/// When each lease ends. A task runs while there are leases, and sleeps until the next one ends.
#[derive(Debug)]
pub(crate) struct Deadlines {
    clock: SharedClock,
    state: Mutex<DeadlineState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct DeadlineState {
    ends: BTreeMap<LeaseId, (Duration, Duration)>,
    running: bool,
}

/// A refused revocation (a full disk, say) is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

impl Deadlines {
    pub(crate) fn new(clock: SharedClock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Starts the time of a lease, and the task that watches over it.
    pub(crate) fn start<R: Revoke>(self: &Arc<Self>, id: LeaseId, ttl: Duration, revoke: &Arc<R>) {
        let mut state = self.state.lock();
        let end = self.clock.monotonic() + ttl;
        state.ends.insert(id, (end, ttl));
        if !state.running {
            state.running = true;
            let weak: Weak<R> = Arc::downgrade(revoke);
            tokio::spawn(run(Arc::downgrade(self), weak));
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Starts a lease's time anew.
    pub(crate) fn renew(&self, id: LeaseId) -> Result<()> {
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        match state.ends.get_mut(&id) {
            Some((end, ttl)) if *end > now => {
                *end = now + *ttl;
                Ok(())
            }
            _ => Err(StoreError::NoLease),
        }
    }

    pub(crate) fn remove(&self, id: LeaseId) {
        self.state.lock().ends.remove(&id);
    }

    /// The leases that are over, or the time until the next one is; nothing left: the task ends.
    fn due(&self) -> Option<(Vec<LeaseId>, Duration)> {
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        let over: Vec<_> = state
            .ends
            .iter()
            .filter(|(_, (end, _))| *end <= now)
            .map(|(id, _)| *id)
            .collect();
        let next = state.ends.values().map(|(end, _)| *end).min();
        match next {
            Some(next) => Some((over, next.saturating_sub(now))),
            None => {
                state.running = false;
                None
            }
        }
    }
}

async fn run<R: Revoke>(deadlines: Weak<Deadlines>, revoke: Weak<R>) {
    while let (Some(deadlines), Some(revoke)) = (deadlines.upgrade(), revoke.upgrade()) {
        let Some((over, mut wait)) = deadlines.due() else {
            return;
        };
        for id in over {
            match revoke.revoke(id).await {
                Ok(()) | Err(StoreError::NoLease) => deadlines.remove(id),
                Err(error) => {
                    tracing::warn!(lease = id, %error, "expired lease could not be ended yet");
                    wait = RETRY;
                }
            }
        }
        if wait.is_zero() {
            continue;
        }
        // Neither must be kept alive by a task that merely sleeps.
        drop(revoke);
        let clock = deadlines.clock.clone();
        let changed = deadlines.changed.notified();
        tokio::select! {
            () = clock.sleep(wait) => {}
            () = changed => {}
        }
    }
}
