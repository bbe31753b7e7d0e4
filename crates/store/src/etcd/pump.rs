//! The one lasting watch on etcd: everybody who watches hears from it, so they all see the same and are never ahead of
//! each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use skiff_base::{Backoff, Random, SharedClock};
use tokio::sync::{Notify, watch};

use super::connection::{Connection, Refusal};
use super::feed::{End, Feed, News};
use super::keys::{Keys, number, revision};
use super::messages::RangeRequest;
use super::messages::kv_client::KvClient;
use super::turns::Turns;
use crate::watch::{Hub, Pace, Subscription};
use crate::{Result, Revision, StoreError};

/// In silence etcd is asked this often how far the watch is.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// An answer that is waited for is asked for again after this time: etcd gives none while it is behind.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What the store, its watches and the task that feeds them share.
#[derive(Debug)]
pub(super) struct Shared {
    pub connection: Connection,
    pub keys: Keys,
    pub hub: Hub,
    pub clock: SharedClock,
    random: Random,
    /// How far the watch has come. What is published up to there is on every watcher's line.
    reached: Mutex<Revision>,
    moved: watch::Sender<Revision>,
    /// The highest revision that etcd is known to have had.
    known: AtomicU64,
    asked: Notify,
    turns: Turns,
}

impl Pace for Shared {
    fn current(&self) -> Revision {
        *self.reached.lock()
    }

    fn clock(&self) -> &SharedClock {
        &self.clock
    }
}

impl Shared {
    pub fn new(
        connection: Connection,
        keys: Keys,
        hub: Hub,
        clock: SharedClock,
        random: Random,
    ) -> Self {
        Self {
            connection,
            keys,
            hub,
            clock,
            random,
            reached: Mutex::new(0),
            moved: watch::Sender::new(0),
            known: AtomicU64::new(0),
            asked: Notify::new(),
            turns: Turns::default(),
        }
    }

    /// etcd's revision now: no write that was answered before the call has a later one.
    pub async fn revision(&self) -> Result<Revision> {
        self.turns.ask(|| self.ask_revision()).await
    }

    async fn ask_revision(&self) -> Result<Revision> {
        let request = RangeRequest {
            key: self.keys.nowhere(),
            ..RangeRequest::default()
        };
        let answer = self
            .connection
            .read(|channel| {
                let request = request.clone();
                async move { KvClient::new(channel).range(request).await }
            })
            .await?;
        Ok(answer.header.map_or(0, |header| revision(header.revision)))
    }

    /// Whether the state at `at` can be read: the check costs one question.
    pub async fn check(&self, at: Revision) -> Result<(), Refusal> {
        let request = RangeRequest {
            key: self.keys.nowhere(),
            revision: number(at),
            ..RangeRequest::default()
        };
        self.connection
            .read(|channel| {
                let request = request.clone();
                async move { KvClient::new(channel).range(request).await }
            })
            .await?;
        self.known.fetch_max(at, Ordering::SeqCst);
        Ok(())
    }

    /// Joins the line, and tells from which revision on it brings everything.
    pub fn subscribe(&self, prefix: &Arc<str>) -> Result<(Subscription, Revision)> {
        let reached = self.reached.lock();
        Ok((self.hub.subscribe(prefix.clone())?, *reached))
    }

    /// Makes all watchers tell how far they are, when that is at least `wanted`.
    pub async fn progress(&self, wanted: Revision) {
        let mut moved = self.moved.subscribe();
        while *moved.borrow_and_update() < wanted {
            self.asked.notify_one();
            tokio::select! {
                _ = moved.changed() => {}
                () = self.clock.sleep(ASK_AGAIN) => {}
            }
        }
        let reached = self.reached.lock();
        self.hub.progress(*reached);
    }

    fn reach(&self, changes: &[(Arc<str>, Result<crate::Event>)], through: Revision) {
        let mut reached = self.reached.lock();
        self.hub.publish(changes);
        *reached = through.max(*reached);
        self.moved.send_replace(*reached);
    }

    /// Those who watch cannot go on; the watch begins anew at `revision`.
    fn restart(&self, revision: Revision, why: StoreError) {
        let mut reached = self.reached.lock();
        self.hub.end(&why);
        *reached = revision;
        self.known.store(revision, Ordering::SeqCst);
        self.moved.send_replace(revision);
    }

    /// Begins at a revision, before the task is started.
    pub fn begin(&self, revision: Revision) {
        *self.reached.lock() = revision;
        self.moved.send_replace(revision);
    }

    /// Watches for ever, over lost connections, without a gap.
    pub async fn run(self: Arc<Self>) {
        let mut backoff =
            Backoff::new(Duration::from_millis(20), Duration::from_secs(2)).with_jitter(0.2);
        let mut broken = false;
        loop {
            let end = self.feed(&mut backoff, &mut broken).await;
            let reached = self.current();
            match end {
                End::Compacted(oldest) => {
                    tracing::warn!(
                        reached,
                        oldest,
                        "etcd was compacted beyond what was seen; watches begin anew"
                    );
                    // `feed` asks for the revision first; until then nobody hears anything.
                    if let Ok(now) = self.revision().await {
                        self.restart(now, StoreError::Compacted(oldest));
                    }
                }
                End::Lost(reason) => {
                    // Once for each outage: etcd may be away for long.
                    if !std::mem::replace(&mut broken, true) {
                        tracing::warn!(%reason, reached, "the watch on etcd broke; it goes on when etcd is back");
                    }
                }
            }
            self.clock.sleep(backoff.next(&self.random)).await;
        }
    }

    async fn feed(&self, backoff: &mut Backoff, broken: &mut bool) -> End {
        let now = match self.revision().await {
            Ok(now) => now,
            Err(error) => return End::Lost(error.to_string()),
        };
        let known = self.known.load(Ordering::SeqCst).max(self.current());
        if now < known {
            let why =
                format!("etcd's revision went back from {known} to {now}: it holds other data");
            tracing::warn!("{why}");
            self.restart(now, StoreError::Failed(why));
        }
        let member = self.connection.member();
        let opened = tokio::select! {
            opened = Feed::open(&member, &self.keys, self.keys.all(), self.current()) => opened,
            () = self.clock.sleep(ASK_EVERY) => Err(End::Lost("etcd did not begin the watch".into())),
        };
        let mut feed = match opened {
            Ok(feed) => feed,
            Err(end) => {
                self.connection.turn_away(&member);
                return end;
            }
        };
        if std::mem::replace(broken, false) {
            tracing::info!(etcd = member.name, "the watch on etcd goes on");
        }
        loop {
            tokio::select! {
                news = feed.next() => match news {
                    Ok(News::Changes(changes, through)) => self.reach(&changes, through),
                    Ok(News::Progress(through)) => self.reach(&[], through),
                    Err(end) => {
                        if matches!(end, End::Lost(_)) {
                            self.connection.turn_away(&member);
                        }
                        return end;
                    }
                },
                () = self.asked.notified() => feed.ask_progress(),
                () = self.clock.sleep(ASK_EVERY) => feed.ask_progress(),
            }
            backoff.reset();
        }
    }
}
