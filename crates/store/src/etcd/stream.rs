//! One watch as its reader sees it: first what etcd remembers, then what everybody hears.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use skiff_base::{Backoff, Random};

use super::feed::{End, Feed, News};
use super::pump::{ASK_AGAIN, Shared};
use crate::watch::{Subscription, live};
use crate::{Event, Result, Revision, StoreError, WatchItem, WatchStream};

/// How long a reader's look at history is taken up again after losses before the reader is told.
const PATIENCE: Duration = Duration::from_secs(30);

enum Phase {
    /// History is read when the reader first asks, as the other stores do.
    Before,
    History(Box<Feed>),
    Live,
    Ended,
}

struct Watch {
    shared: Arc<Shared>,
    prefix: Arc<str>,
    /// What the reader has seen.
    after: Revision,
    /// The line brings everything behind this.
    line_from: Revision,
    line: Subscription,
    phase: Phase,
    backoff: Backoff,
    lost_since: Option<Duration>,
    ready: VecDeque<WatchItem>,
}

/// Starts a watch whose `after` was found readable, with a line that was joined before that.
pub(super) fn watch(
    shared: Arc<Shared>,
    prefix: Arc<str>,
    after: Revision,
    (line, line_from): (Subscription, Revision),
) -> WatchStream {
    let watch = Watch {
        shared,
        prefix,
        after,
        line_from,
        line,
        phase: Phase::Before,
        backoff: Backoff::new(Duration::from_millis(20), Duration::from_secs(2)),
        lost_since: None,
        ready: VecDeque::new(),
    };
    Box::pin(stream::unfold(watch, |mut watch| async move {
        if matches!(watch.phase, Phase::Ended) {
            return None;
        }
        let item = watch.next().await;
        if item.is_err() {
            watch.phase = Phase::Ended;
        }
        Some((item, watch))
    }))
}

impl Watch {
    async fn next(&mut self) -> Result<WatchItem> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            match &mut self.phase {
                Phase::Before if self.after >= self.line_from || self.line_from <= 1 => {
                    self.phase = Phase::Live;
                    return Ok(WatchItem::Progress(self.after));
                }
                Phase::Before => self.open().await?,
                Phase::History(_) => self.read().await?,
                Phase::Ended => return Err(crate::watch::closed()),
                Phase::Live => {
                    let item = live(&mut self.line, &*self.shared).await?;
                    if let Some(item) = self.unseen(item) {
                        return Ok(item);
                    }
                }
            }
        }
    }

    /// The line may be behind what the reader saw elsewhere.
    fn unseen(&mut self, item: WatchItem) -> Option<WatchItem> {
        match item {
            WatchItem::Progress(revision) => {
                self.after = self.after.max(revision);
                Some(WatchItem::Progress(self.after))
            }
            WatchItem::Events(mut events) => {
                events.retain(|event| at(event) > self.after);
                self.after = events.last().map_or(self.after, at);
                (!events.is_empty()).then_some(WatchItem::Events(events))
            }
        }
    }

    async fn open(&mut self) -> Result<()> {
        let Some(range) = self.shared.keys.range(&self.prefix) else {
            self.after = self.line_from;
            return Ok(());
        };
        let member = self.shared.connection.member();
        match Feed::open(&member, &self.shared.keys, range, self.after).await {
            Ok(feed) => {
                feed.ask_progress();
                self.phase = Phase::History(Box::new(feed));
                Ok(())
            }
            Err(end) => {
                self.shared.connection.turn_away(&member);
                self.over(end).await
            }
        }
    }

    async fn read(&mut self) -> Result<()> {
        let Phase::History(feed) = &mut self.phase else {
            return Ok(());
        };
        let news = tokio::select! {
            news = feed.next() => news,
            () = self.shared.clock.sleep(ASK_AGAIN) => {
                feed.ask_progress();
                return Ok(());
            }
        };
        match news {
            Err(end) => self.over(end).await,
            Ok(News::Progress(through)) => {
                self.came(through);
                Ok(())
            }
            Ok(News::Changes(changes, through)) => {
                let mut events = Vec::with_capacity(changes.len());
                for (key, change) in changes {
                    if key.starts_with(&*self.prefix) {
                        let event = change?;
                        // What is behind that comes over the line.
                        if at(&event) > self.after && at(&event) <= self.line_from {
                            events.push(event);
                        }
                    }
                }
                if !events.is_empty() {
                    self.ready.push_back(WatchItem::Events(events));
                }
                self.came(through);
                Ok(())
            }
        }
    }

    fn came(&mut self, through: Revision) {
        self.after = self.after.max(through.min(self.line_from));
        self.lost_since = None;
        if through >= self.line_from {
            self.phase = Phase::Live;
            self.ready.push_back(WatchItem::Progress(self.after));
        }
    }

    /// Takes history up again where it was lost.
    async fn over(&mut self, end: End) -> Result<()> {
        self.phase = Phase::Before;
        let reason = match end {
            End::Compacted(oldest) => return Err(StoreError::Compacted(oldest)),
            End::Lost(reason) => reason,
        };
        let now = self.shared.clock.monotonic();
        let since = *self.lost_since.get_or_insert(now);
        if now.saturating_sub(since) > PATIENCE {
            return Err(StoreError::Failed(reason));
        }
        let delay = self.backoff.next(&Random::seeded(0));
        self.shared.clock.sleep(delay).await;
        Ok(())
    }
}

fn at(event: &Event) -> Revision {
    match event {
        Event::Put { current, .. } => current.mod_revision,
        Event::Delete { revision, .. } => *revision,
    }
}
