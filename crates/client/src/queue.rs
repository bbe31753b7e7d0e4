//! A queue of keys that are to be looked at: each key waits at most once and is worked on by one worker
//! at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skiff_base::SharedClock;
use tokio::sync::Notify;

use crate::ObjectKey;
use crate::measure::{Histogram, exponential, head, sample};

/// The delay after a key's first failure; it doubles with each failure in a row.
const FIRST_DELAY: Duration = Duration::from_millis(5);
/// The longest delay after failures.
const LONGEST_DELAY: Duration = Duration::from_secs(1000);

/// Upstream's buckets of times in a queue.
static BOUNDS: [f64; 10] = exponential(10e-9, 10.0);

/// What happened in a queue so far.
struct Tally {
    adds: u64,
    retries: u64,
    waited: Histogram,
    worked: Histogram,
}

impl Tally {
    fn new() -> Self {
        Self {
            adds: 0,
            retries: 0,
            waited: Histogram::new(&BOUNDS),
            worked: Histogram::new(&BOUNDS),
        }
    }
}

struct State<T> {
    ready: VecDeque<T>,
    /// Keys that are in `ready`, or were added while being worked on, and since when.
    dirty: HashMap<T, Duration>,
    /// Keys that are being worked on, and since when.
    working: HashMap<T, Duration>,
    delayed: BTreeSet<(Duration, T)>,
    due: HashMap<T, Duration>,
    failures: HashMap<T, u32>,
    /// The moment until which one of the waiting workers sleeps; the others wait to be woken.
    alarm: Option<Duration>,
    closed: bool,
    tally: Tally,
}

impl<T: Ord> State<T> {
    /// The moment of the first delayed key, if no worker sleeps until then or less.
    fn unwatched(&self) -> Option<Duration> {
        let (first, _) = self.delayed.first()?;
        self.alarm
            .is_none_or(|alarm| *first < alarm)
            .then_some(*first)
    }
}

struct Inner<T> {
    state: Mutex<State<T>>,
    changed: Notify,
    clock: SharedClock,
}

/// A worker that sleeps until a moment for all who wait. When it is dropped before it woke, another takes its place.
struct Sleeper<'a, T> {
    queue: &'a Inner<T>,
    until: Duration,
    awake: bool,
}

impl<T> Drop for Sleeper<'_, T> {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        if state.alarm == Some(self.until) {
            state.alarm = None;
        }
        drop(state);
        if !self.awake {
            self.queue.changed.notify_one();
        }
    }
}

/// The queue. Clones share it.
pub struct WorkQueue<T>(Arc<Inner<T>>);

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone + Eq + Hash + Ord> WorkQueue<T> {
    /// An empty queue.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                dirty: HashMap::new(),
                working: HashMap::new(),
                delayed: BTreeSet::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
                alarm: None,
                closed: false,
                tally: Tally::new(),
            }),
            changed: Notify::new(),
            clock,
        }))
    }

    /// Asks for `key` to be looked at. If it is being worked on, it will be looked at again afterwards.
    pub fn add(&self, key: T) {
        let now = self.0.clock.monotonic();
        let mut state = self.0.state.lock();
        Self::make_ready(&mut state, key, now);
        drop(state);
        self.0.changed.notify_one();
    }

    fn make_ready(state: &mut State<T>, key: T, now: Duration) {
        if state.closed || state.dirty.contains_key(&key) {
            return;
        }
        state.tally.adds += 1;
        state.dirty.insert(key.clone(), now);
        if !state.working.contains_key(&key) {
            state.ready.push_back(key);
        }
    }

    /// Asks for `key` to be looked at after `delay`. Of several delays of one key the shortest counts.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = self.0.clock.monotonic() + delay;
        let mut state = self.0.state.lock();
        if state.closed {
            return;
        }
        state.tally.retries += 1;
        if let Some(known) = state.due.get(&key).copied() {
            if known <= at {
                return;
            }
            state.delayed.remove(&(known, key.clone()));
        }
        state.due.insert(key.clone(), at);
        state.delayed.insert((at, key));
        let unwatched = state.unwatched().is_some();
        drop(state);
        if unwatched {
            self.0.changed.notify_one();
        }
    }

    /// Asks for `key` to be looked at after the delay that its failures in a row have earned: 5 ms,
    /// doubling up to 1000 s.
    pub fn add_rate_limited(&self, key: T) {
        let delay = {
            let mut state = self.0.state.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            let delay = FIRST_DELAY
                .checked_mul(1_u32.checked_shl(*failures).unwrap_or(u32::MAX))
                .unwrap_or(LONGEST_DELAY);
            *failures = (*failures + 1).min(31);
            delay.min(LONGEST_DELAY)
        };
        self.add_after(key, delay);
    }

    /// Forgets the failures of `key`.
    pub fn forget(&self, key: &T) {
        self.0.state.lock().failures.remove(key);
    }

    /// How often in a row `key` has failed.
    #[must_use]
    pub fn failures(&self, key: &T) -> u32 {
        self.0.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// The next key, when there is one; `None` after [`WorkQueue::close`]. [`WorkQueue::done`] must follow.
    pub async fn next(&self) -> Option<T> {
        loop {
            let changed = self.0.changed.notified();
            let unwatched = {
                let mut state = self.0.state.lock();
                let now = self.0.clock.monotonic();
                while let Some((at, key)) = state.delayed.first().cloned()
                    && at <= now
                {
                    state.delayed.pop_first();
                    state.due.remove(&key);
                    Self::make_ready(&mut state, key, now);
                }
                if let Some(key) = state.ready.pop_front() {
                    if let Some(since) = state.dirty.remove(&key) {
                        state.tally.waited.took(now.saturating_sub(since));
                    }
                    state.working.insert(key.clone(), now);
                    if !state.ready.is_empty() || state.unwatched().is_some() {
                        // One wake-up may stand for several keys.
                        self.0.changed.notify_one();
                    }
                    return Some(key);
                }
                if state.closed {
                    self.0.changed.notify_one();
                    return None;
                }
                let until = state.unwatched();
                state.alarm = until.or(state.alarm);
                until.map(|until| (until, until - now))
            };
            let Some((until, delay)) = unwatched else {
                changed.await;
                continue;
            };
            let mut sleeper = Sleeper {
                queue: &self.0,
                until,
                awake: false,
            };
            tokio::select! {
                () = changed => {}
                () = self.0.clock.sleep(delay) => {}
            }
            sleeper.awake = true;
        }
    }

    /// Ends the work on `key`.
    pub fn done(&self, key: &T) {
        let now = self.0.clock.monotonic();
        let mut state = self.0.state.lock();
        if let Some(since) = state.working.remove(key) {
            state.tally.worked.took(now.saturating_sub(since));
        }
        if state.dirty.contains_key(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.0.changed.notify_one();
        }
    }

    /// How many keys wait, delayed ones not counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.state.lock().ready.len()
    }

    /// Whether no key waits, delayed ones not counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes no more keys; workers end when the waiting ones are done, delayed ones are dropped.
    pub fn close(&self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        state.delayed.clear();
        state.due.clear();
        drop(state);
        self.0.changed.notify_waiters();
        self.0.changed.notify_one();
    }
}

/// The queues of a process by name and by who works on them, for those who want to know how they do. Clones share them.
#[derive(Clone, Default)]
pub struct Queues(Arc<Mutex<BTreeMap<&'static str, Workers>>>);

type Workers = BTreeMap<&'static str, WorkQueue<ObjectKey>>;

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queues")
    }
}

/// How the queues of one name do together.
struct Reading {
    tally: Tally,
    depth: usize,
    /// For how long the oldest work has gone on.
    longest: Duration,
    /// For how long all work has gone on that goes on now.
    unfinished: Duration,
}

impl Reading {
    fn of<'a>(queues: impl Iterator<Item = &'a WorkQueue<ObjectKey>>) -> Self {
        let mut sum = Self {
            tally: Tally::new(),
            depth: 0,
            longest: Duration::ZERO,
            unfinished: Duration::ZERO,
        };
        for queue in queues {
            let (now, state) = (queue.0.clock.monotonic(), queue.0.state.lock());
            sum.tally.adds += state.tally.adds;
            sum.tally.retries += state.tally.retries;
            sum.tally.waited.add(&state.tally.waited);
            sum.tally.worked.add(&state.tally.worked);
            sum.depth += state.ready.len();
            for since in state.working.values() {
                let time = now.saturating_sub(*since);
                sum.longest = sum.longest.max(time);
                sum.unfinished += time;
            }
        }
        sum
    }
}

/// One of upstream's metrics of queues: name, kind, help, and what writes its samples.
type Family = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Reading, &mut String, &str, &str),
);

const FAMILIES: [Family; 7] = [
    (
        "workqueue_adds_total",
        "counter",
        "[BETA] Keys that were added to the queue.",
        |read, text, name, labels| sample(text, name, labels, read.tally.adds),
    ),
    (
        "workqueue_depth",
        "gauge",
        "[BETA] Keys that wait in the queue.",
        |read, text, name, labels| sample(text, name, labels, read.depth),
    ),
    (
        "workqueue_longest_running_processor_seconds",
        "gauge",
        "[BETA] For how long the oldest work on a key has gone on.",
        |read, text, name, labels| sample(text, name, labels, read.longest.as_secs_f64()),
    ),
    (
        "workqueue_queue_duration_seconds",
        "histogram",
        "[BETA] How long keys waited in the queue.",
        |read, text, name, labels| read.tally.waited.write(text, name, labels),
    ),
    (
        "workqueue_retries_total",
        "counter",
        "[BETA] Keys that were to be looked at again later.",
        |read, text, name, labels| sample(text, name, labels, read.tally.retries),
    ),
    (
        "workqueue_unfinished_work_seconds",
        "gauge",
        "[BETA] For how long all work on keys has gone on that goes on now.",
        |read, text, name, labels| sample(text, name, labels, read.unfinished.as_secs_f64()),
    ),
    (
        "workqueue_work_duration_seconds",
        "histogram",
        "[BETA] How long work on keys took.",
        |read, text, name, labels| read.tally.worked.write(text, name, labels),
    ),
];

impl Queues {
    /// Tells of a queue under a name; several may share it. The one that the same worker told of before is forgotten.
    pub fn tell(&self, name: &'static str, whose: &'static str, queue: &WorkQueue<ObjectKey>) {
        let mut queues = self.0.lock();
        queues.entry(name).or_default().insert(whose, queue.clone());
    }

    /// Writes what Prometheus reads, under upstream's names.
    pub fn write(&self, text: &mut String) {
        let queues = self.0.lock();
        let read: Vec<(String, Reading)> = queues
            .iter()
            .map(|(name, of)| (format!("name=\"{name}\""), Reading::of(of.values())))
            .collect();
        for (name, kind, help, write) in FAMILIES {
            head(text, name, kind, help);
            for (labels, reading) in &read {
                write(reading, text, name, labels);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use futures::FutureExt;
    use proptest::prelude::*;
    use skiff_base::{Clock, SimulatedClock};
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::SystemTime;

    fn queue() -> (WorkQueue<u8>, Arc<SimulatedClock>) {
        let clock = SimulatedClock::new(SystemTime::UNIX_EPOCH);
        (WorkQueue::new(clock.clone()), clock)
    }

    fn take(queue: &WorkQueue<u8>) -> Option<u8> {
        queue.next().now_or_never().flatten()
    }

    #[test]
    fn failures_double_the_delay_until_forgotten() {
        let (queue, clock) = queue();
        for expected in [5, 10, 20, 40] {
            queue.add_rate_limited(1);
            clock.advance(Duration::from_millis(expected - 1));
            assert_eq!(take(&queue), None);
            clock.advance(Duration::from_millis(1));
            assert_eq!(take(&queue), Some(1));
            queue.done(&1);
        }
        for _ in 0..40 {
            queue.add_rate_limited(2);
        }
        assert_eq!(queue.failures(&2), 31);
        queue.forget(&1);
        queue.add_rate_limited(1);
        clock.advance(Duration::from_millis(5));
        assert!(take(&queue).is_some());
    }

    #[tokio::test]
    async fn a_waiting_worker_wakes_for_a_shorter_delay() {
        let (queue, clock) = queue();
        queue.add_after(1, Duration::from_secs(100));
        let waiting = {
            let queue = queue.clone();
            tokio::spawn(async move { queue.next().await })
        };
        tokio::task::yield_now().await;
        queue.add_after(2, Duration::from_secs(1));
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(1));
        assert_eq!(waiting.await.unwrap(), Some(2));
    }

    /// Counts how often somebody went to sleep.
    #[derive(Debug)]
    struct Counted(Arc<SimulatedClock>, AtomicUsize);

    #[async_trait]
    impl Clock for Counted {
        fn now(&self) -> SystemTime {
            self.0.now()
        }

        fn monotonic(&self) -> Duration {
            self.0.monotonic()
        }

        async fn sleep(&self, duration: Duration) {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.sleep(duration).await;
        }
    }

    #[tokio::test]
    async fn one_of_many_waiting_workers_sleeps_for_all() {
        let clock = SimulatedClock::new(SystemTime::UNIX_EPOCH);
        let counted = Arc::new(Counted(clock.clone(), AtomicUsize::new(0)));
        let queue = WorkQueue::new(counted.clone());
        let (taken, mut keys) = tokio::sync::mpsc::unbounded_channel();
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (queue, taken) = (queue.clone(), taken.clone());
            workers.spawn(async move {
                while let Some(key) = queue.next().await {
                    queue.done(&key);
                    taken.send(key).unwrap();
                }
            });
        }
        for key in 1..=10_u8 {
            queue.add_after(key, Duration::from_secs(key.into()));
        }
        for key in 1..=10 {
            tokio::task::yield_now().await;
            clock.advance(Duration::from_secs(1));
            assert_eq!(keys.recv().await, Some(key));
        }
        let sleeps = counted.1.load(Ordering::Relaxed);
        assert!((1..=20).contains(&sleeps), "{sleeps}");
    }

    #[tokio::test]
    async fn when_the_worker_that_sleeps_is_ended_another_does() {
        let (queue, clock) = queue();
        let begin = || {
            let queue = queue.clone();
            tokio::spawn(async move { queue.next().await })
        };
        queue.add_after(1, Duration::from_secs(1));
        let first = begin();
        tokio::task::yield_now().await;
        let second = begin();
        tokio::task::yield_now().await;
        first.abort();
        assert!(first.await.is_err());
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(1));
        let taken = tokio::time::timeout(Duration::from_secs(10), second).await;
        assert_eq!(taken.unwrap().unwrap(), Some(1));
    }

    #[tokio::test]
    async fn close_ends_every_worker() {
        let (queue, _clock) = queue();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.next().await })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.close();
        for worker in workers {
            assert_eq!(worker.await.unwrap(), None);
        }
    }

    #[test]
    fn queues_tell_how_they_do() {
        let clock = SimulatedClock::new(SystemTime::UNIX_EPOCH);
        let queue = WorkQueue::new(clock.clone());
        let queues = Queues::default();
        queues.tell("job", "jobs", &queue);
        let (one, two) = (ObjectKey::new("a", "1"), ObjectKey::new("a", "2"));
        queue.add(one.clone());
        queue.add(one.clone());
        queue.add_after(two.clone(), Duration::from_secs(1));
        clock.advance(Duration::from_secs(2));
        assert_eq!(queue.next().now_or_never().flatten().as_ref(), Some(&one));
        clock.advance(Duration::from_secs(3));
        let text = || {
            let mut text = String::new();
            queues.write(&mut text);
            text
        };
        let expected = "workqueue_adds_total{name=\"job\"} 2
            workqueue_depth{name=\"job\"} 1
            workqueue_longest_running_processor_seconds{name=\"job\"} 3
            workqueue_queue_duration_seconds_bucket{name=\"job\",le=\"1\"} 0
            workqueue_queue_duration_seconds_bucket{name=\"job\",le=\"10\"} 1
            workqueue_queue_duration_seconds_sum{name=\"job\"} 2
            workqueue_retries_total{name=\"job\"} 1
            workqueue_unfinished_work_seconds{name=\"job\"} 3
            workqueue_work_duration_seconds_count{name=\"job\"} 0";
        for line in expected.lines() {
            assert!(text().contains(line.trim()), "{line}\n{}", text());
        }
        queue.done(&one);
        assert!(text().contains("workqueue_work_duration_seconds_sum{name=\"job\"} 3\n"));
        assert!(text().contains("workqueue_unfinished_work_seconds{name=\"job\"} 0\n"));
        // Two that share a name count as one, and a worker has one queue.
        let other = WorkQueue::new(clock.clone());
        queues.tell("job", "strays", &other);
        for name in ["1", "2", "3"] {
            other.add(ObjectKey::new("a", name));
        }
        assert!(text().contains("workqueue_adds_total{name=\"job\"} 5\n"));
        assert!(text().contains("workqueue_depth{name=\"job\"} 4\n"));
        assert!(text().contains("workqueue_work_duration_seconds_count{name=\"job\"} 1\n"));
        queues.tell("job", "strays", &WorkQueue::new(clock));
        assert!(text().contains("workqueue_adds_total{name=\"job\"} 2\n"));
    }

    proptest! {
        /// Against the plain meaning: a key added is handed out at least once afterwards, never to two
        /// workers at a time, and not again without being added again.
        #[test]
        fn no_key_is_lost_or_doubled(operations in proptest::collection::vec((0_u8..3, 0_u8..4), 0..200)) {
            let (queue, clock) = queue();
            let (mut pending, mut working) = (HashSet::new(), HashSet::new());
            for (operation, key) in operations {
                match operation {
                    0 => {
                        queue.add(key);
                        pending.insert(key);
                    }
                    1 => {
                        queue.add_after(key, Duration::from_millis(3));
                        clock.advance(Duration::from_millis(3));
                        pending.insert(key);
                    }
                    _ => match take(&queue) {
                        Some(key) => {
                            prop_assert!(pending.remove(&key));
                            prop_assert!(working.insert(key));
                        }
                        None => {
                            prop_assert!(pending.is_subset(&working));
                            for key in working.drain() {
                                queue.done(&key);
                            }
                        }
                    },
                }
            }
            for key in working.drain() {
                queue.done(&key);
            }
            while let Some(key) = take(&queue) {
                prop_assert!(pending.remove(&key));
                queue.done(&key);
            }
            prop_assert!(pending.is_empty());
        }
    }
}
