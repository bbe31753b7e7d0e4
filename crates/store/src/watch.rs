//! Watches: first the history, then what happens, without a gap and without holding up a writer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream;
use parking_lot::Mutex;
use skiff_base::SharedClock;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::{Event, Result, Revision, StoreError, WatchItem, WatchStream};

/// After this much silence a watch tells how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How many changes a watch looks at in one go while it reads history.
pub(crate) const CATCH_UP_CHANGES: usize = 1024;

/// How much may wait for a watcher before it is cut off.
#[derive(Clone, Copy, Debug)]
pub struct WatchLimits {
    /// Events that were not taken yet.
    pub events: usize,
    /// Bytes of keys and values in those events.
    pub bytes: usize,
}

impl Default for WatchLimits {
    fn default() -> Self {
        Self {
            events: 16 * 1024,
            bytes: 16 * 1024 * 1024,
        }
    }
}

/// What is waiting for one watcher. The channel is unbounded; these counts bound it.
#[derive(Debug, Default)]
struct Load {
    events: AtomicUsize,
    bytes: AtomicUsize,
    end: Mutex<Option<StoreError>>,
}

#[derive(Debug)]
enum Message {
    Events { events: Vec<Event>, bytes: usize },
    Progress(Revision),
}

#[derive(Debug)]
struct Watcher {
    prefix: Arc<str>,
    sender: UnboundedSender<Message>,
    load: Arc<Load>,
}

/// A watcher's end of the line.
#[derive(Debug)]
pub(crate) struct Subscription {
    receiver: UnboundedReceiver<Message>,
    load: Arc<Load>,
}

/// All live watchers.
#[derive(Debug)]
pub(crate) struct Hub {
    limits: WatchLimits,
    watchers: Mutex<Vec<Watcher>>,
    /// Cheap to ask on each write.
    any: AtomicBool,
    /// How often someone began to watch.
    subscriptions: AtomicU64,
    closed: AtomicBool,
}

impl Hub {
    pub(crate) fn new(limits: WatchLimits) -> Self {
        Self {
            limits,
            watchers: Mutex::default(),
            any: AtomicBool::new(false),
            subscriptions: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// Call this while the history cannot change, so that nothing falls between.
    pub(crate) fn subscribe(&self, prefix: Arc<str>) -> Result<Subscription> {
        let (sender, receiver) = unbounded_channel();
        let load = Arc::new(Load::default());
        let mut watchers = self.watchers.lock();
        if self.closed.load(Ordering::SeqCst) {
            return Err(closed());
        }
        watchers.push(Watcher {
            prefix,
            sender,
            load: load.clone(),
        });
        self.any.store(true, Ordering::SeqCst);
        self.subscriptions.fetch_add(1, Ordering::SeqCst);
        Ok(Subscription { receiver, load })
    }

    /// A number that changes whenever someone begins to watch.
    pub(crate) fn subscriptions(&self) -> u64 {
        self.subscriptions.load(Ordering::SeqCst)
    }

    /// Whether anyone watches `key`.
    pub(crate) fn is_watched(&self, key: &str) -> bool {
        self.any.load(Ordering::SeqCst)
            && self
                .watchers
                .lock()
                .iter()
                .any(|watcher| key.starts_with(&*watcher.prefix))
    }

    /// Hands changes to those who watch them. An error in the place of a change ends its watchers.
    pub(crate) fn publish(&self, changes: &[(Arc<str>, Result<Event>)]) {
        if !self.any.load(Ordering::SeqCst) {
            return;
        }
        let mut watchers = self.watchers.lock();
        watchers.retain(|watcher| match self.send(watcher, changes) {
            Ok(()) => !watcher.sender.is_closed(),
            Err(error) => {
                *watcher.load.end.lock() = Some(error);
                false
            }
        });
        self.any.store(!watchers.is_empty(), Ordering::SeqCst);
    }

    fn send(&self, watcher: &Watcher, changes: &[(Arc<str>, Result<Event>)]) -> Result<()> {
        let mut events = Vec::new();
        let mut bytes = 0;
        for (key, change) in changes {
            if key.starts_with(&*watcher.prefix) {
                let event = change.clone()?;
                bytes += size(&event);
                events.push(event);
            }
        }
        if events.is_empty() {
            return Ok(());
        }
        let load = &watcher.load;
        let waiting_events = load.events.fetch_add(events.len(), Ordering::SeqCst);
        let waiting_bytes = load.bytes.fetch_add(bytes, Ordering::SeqCst);
        // One batch always fits, however large: a watcher that takes everything at once is never slow.
        if waiting_events > 0
            && (waiting_events + events.len() > self.limits.events
                || waiting_bytes + bytes > self.limits.bytes)
        {
            return Err(StoreError::Slow);
        }
        // A watcher that went away is found by `is_closed`.
        let _ = watcher.sender.send(Message::Events { events, bytes });
        Ok(())
    }

    /// Makes every watcher tell how far it is. Call this while the history cannot change.
    pub(crate) fn progress(&self, revision: Revision) {
        for watcher in self.watchers.lock().iter() {
            let _ = watcher.sender.send(Message::Progress(revision));
        }
    }

    /// Ends all watches for a reason; new ones may begin. Call this while the history cannot change.
    pub(crate) fn end(&self, why: &StoreError) {
        for watcher in self.watchers.lock().drain(..) {
            *watcher.load.end.lock() = Some(why.clone());
        }
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        let mut watchers = self.watchers.lock();
        self.closed.store(true, Ordering::SeqCst);
        for watcher in watchers.drain(..) {
            *watcher.load.end.lock() = Some(closed());
        }
    }
}

pub(crate) fn closed() -> StoreError {
    StoreError::Failed("the store was closed".into())
}

fn size(event: &Event) -> usize {
    match event {
        Event::Put { current, previous } => {
            current.key.len()
                + current.value.len()
                + previous.as_ref().map_or(0, |previous| previous.value.len())
        }
        Event::Delete { previous, .. } => previous.key.len() + previous.value.len(),
    }
}

/// What a watch on the live line needs to know.
pub(crate) trait Pace: Send + Sync + 'static {
    /// The current revision.
    fn current(&self) -> Revision;
    fn clock(&self) -> &SharedClock;
}

/// Where a watch reads from.
#[async_trait]
pub(crate) trait Source: Pace {
    /// Some of the changes after `after`, or, when there are none, the live line.
    async fn catch_up(&self, prefix: &Arc<str>, after: Revision) -> Result<CatchUp>;
}

pub(crate) enum CatchUp {
    Events {
        events: Vec<Event>,
        through: Revision,
    },
    Live(Subscription),
}

enum Phase {
    History,
    Live(Subscription),
    Ended,
}

struct Watch {
    source: Arc<dyn Source>,
    prefix: Arc<str>,
    after: Revision,
    phase: Phase,
    ready: VecDeque<WatchItem>,
}

/// Starts a watch whose `after` was found readable.
pub(crate) fn watch(source: Arc<dyn Source>, prefix: &str, after: Revision) -> WatchStream {
    let watch = Watch {
        source,
        prefix: prefix.into(),
        after,
        phase: Phase::History,
        ready: VecDeque::new(),
    };
    Box::pin(stream::unfold(watch, |mut watch| async move {
        let item = watch.next().await?;
        if item.is_err() {
            watch.phase = Phase::Ended;
        }
        Some((item, watch))
    }))
}

impl Watch {
    async fn next(&mut self) -> Option<Result<WatchItem>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(Ok(item));
            }
            match &mut self.phase {
                Phase::Ended => return None,
                Phase::History => match self.source.catch_up(&self.prefix, self.after).await {
                    Err(error) => return Some(Err(error)),
                    Ok(CatchUp::Events { events, through }) => {
                        self.after = through;
                        if !events.is_empty() {
                            return Some(Ok(WatchItem::Events(events)));
                        }
                    }
                    Ok(CatchUp::Live(subscription)) => {
                        self.phase = Phase::Live(subscription);
                        return Some(Ok(WatchItem::Progress(self.after)));
                    }
                },
                Phase::Live(subscription) => {
                    return Some(live(subscription, &*self.source).await);
                }
            }
        }
    }
}

/// What comes over the line next.
pub(crate) async fn live(subscription: &mut Subscription, source: &dyn Pace) -> Result<WatchItem> {
    if let Ok(message) = subscription.receiver.try_recv() {
        return Ok(subscription.take(message));
    }
    tokio::select! {
        biased;
        message = subscription.receiver.recv() => match message {
            Some(message) => Ok(subscription.take(message)),
            None => Err(subscription.load.end.lock().take().unwrap_or_else(closed)),
        },
        () = source.clock().sleep(PROGRESS_EVERY) => {
            // Everything up to this revision was already put on the line when it could be read.
            let revision = source.current();
            match subscription.receiver.try_recv() {
                Ok(message) => Ok(subscription.take(message)),
                Err(_) => Ok(WatchItem::Progress(revision)),
            }
        }
    }
}

impl Subscription {
    fn take(&self, message: Message) -> WatchItem {
        match message {
            Message::Events { events, bytes } => {
                self.load.events.fetch_sub(events.len(), Ordering::SeqCst);
                self.load.bytes.fetch_sub(bytes, Ordering::SeqCst);
                WatchItem::Events(events)
            }
            Message::Progress(revision) => WatchItem::Progress(revision),
        }
    }
}
