//! One priority level at work: seats, and those who wait for them.
//!
//! As long as nobody waits, a request takes and gives back its seats with one atomic operation each.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use skiff_base::SharedClock;
use tokio::sync::oneshot;

use super::allocation::{Bounds, Demand};
use super::queues::{Queues, Ticket};
use super::schemas::LevelSpec;

/// One waiting request, in the upper half of a level's state.
const ONE_WAITS: u64 = 1 << 32;

/// The bounds of the histograms of upstream, in seconds.
pub(super) const BUCKETS: [f64; 13] = [
    0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0,
];

/// Times, counted.
#[derive(Default)]
pub(super) struct Histogram {
    pub counts: [AtomicU64; BUCKETS.len() + 1],
    pub micros: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = BUCKETS.iter().position(|bound| seconds <= *bound);
        self.counts[at.unwrap_or(BUCKETS.len())].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no room, and the level does not queue.
    ConcurrencyLimit,
    /// All queues of the flow are full.
    QueueFull,
    /// It has waited too long.
    TimeOut,
}

/// What became of the requests of a schema at its level.
#[derive(Default)]
pub(super) struct SchemaCounters {
    pub concurrency_limit: AtomicU64,
    pub queue_full: AtomicU64,
    pub time_out: AtomicU64,
    pub cancelled: AtomicU64,
    pub waiting: AtomicU32,
    pub executing: AtomicU32,
    pub executing_seats: AtomicU32,
    /// How long requests waited that were served.
    pub waited: Histogram,
    /// How long those waited that were not.
    pub waited_in_vain: Histogram,
    pub executed: Histogram,
}

impl SchemaCounters {
    fn refused(&self, why: Refusal) {
        let counter = match why {
            Refusal::ConcurrencyLimit => &self.concurrency_limit,
            Refusal::QueueFull => &self.queue_full,
            Refusal::TimeOut => &self.time_out,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn dispatched(&self) -> u64 {
        let counts = self.waited.counts.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

struct Slow {
    queues: Queues,
    grants: HashMap<Ticket, oneshot::Sender<usize>>,
}

/// The demand of the period that runs.
#[derive(Default)]
struct Period {
    demand: Demand,
    started: Duration,
    at: Duration,
    now: f64,
    sum: f64,
    squares: f64,
}

/// A level.
pub(super) struct Level {
    pub name: String,
    exempt: AtomicBool,
    /// How many wait (upper half) and how many seats are taken (lower half).
    state: AtomicU64,
    limit: AtomicU32,
    watermark: AtomicU32,
    pub bounds: RwLock<Bounds>,
    slow: Mutex<Slow>,
    period: Mutex<Period>,
    drops: Mutex<Drops>,
    clock: SharedClock,
}

/// Seats that a request holds; they are given back when it goes.
pub(crate) struct Seats {
    level: Arc<Level>,
    counters: Arc<SchemaCounters>,
    width: u32,
    queue: Option<usize>,
    started: Duration,
}

impl Drop for Seats {
    fn drop(&mut self) {
        let took = self.level.clock.monotonic().saturating_sub(self.started);
        self.counters.executed.observe(took);
        self.counters.executing.fetch_sub(1, Ordering::Relaxed);
        self.counters
            .executing_seats
            .fetch_sub(self.width, Ordering::Relaxed);
        if let Some(at) = self.queue {
            self.level.slow.lock().queues.finish(at, self.width, took);
        }
        self.level.release(self.width);
    }
}

/// A place in a queue; given up when dropped.
struct Place<'a> {
    level: &'a Level,
    counters: &'a SchemaCounters,
    ticket: Ticket,
    width: u32,
    since: Duration,
    done: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
        if self.done {
            return;
        }
        let waited = self.level.clock.monotonic().saturating_sub(self.since);
        self.counters.waited_in_vain.observe(waited);
        let mut slow = self.level.slow.lock();
        slow.grants.remove(&self.ticket);
        if slow.queues.cancel(self.ticket) {
            self.level.state.fetch_sub(ONE_WAITS, Ordering::AcqRel);
            // Who comes next may be narrower.
            self.level.pump(&mut slow);
        } else {
            // It was just served.
            drop(slow);
            self.level.release(self.width);
        }
    }
}

fn taken(state: u64) -> u32 {
    (state & u64::from(u32::MAX)) as u32
}

fn waiting(state: u64) -> u32 {
    (state >> 32) as u32
}

impl Level {
    pub fn new(spec: &LevelSpec, clock: SharedClock) -> Arc<Self> {
        let now = clock.monotonic();
        Arc::new(Self {
            name: spec.name.clone(),
            exempt: AtomicBool::new(spec.exempt),
            state: AtomicU64::new(0),
            limit: AtomicU32::new(0),
            watermark: AtomicU32::new(0),
            bounds: RwLock::default(),
            slow: Mutex::new(Slow {
                queues: Queues::new(spec.queuing),
                grants: HashMap::new(),
            }),
            period: Mutex::new(Period {
                started: now,
                at: now,
                ..Period::default()
            }),
            drops: Mutex::default(),
            clock,
        })
    }

    /// Takes over another specification.
    pub fn reconfigure(&self, spec: &LevelSpec, bounds: Bounds) {
        self.exempt.store(spec.exempt, Ordering::Relaxed);
        self.slow.lock().queues.reconfigure(spec.queuing);
        let old = std::mem::replace(&mut *self.bounds.write(), bounds);
        if old != bounds {
            self.set_limit(bounds.nominal);
        }
    }

    /// Changes how many seats there are.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Release);
        if waiting(self.state.load(Ordering::Acquire)) > 0 {
            let mut slow = self.slow.lock();
            self.pump(&mut slow);
        }
    }

    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    pub fn is_exempt(&self) -> bool {
        self.exempt.load(Ordering::Relaxed)
    }

    /// How wide a request may be: no more than a part of the level, as upstream.
    pub fn widest(&self) -> u32 {
        (self.bounds.read().nominal * 15 / 100).max(1)
    }

    fn note_demand(&self, seats: u32) {
        if seats > self.watermark.load(Ordering::Relaxed) {
            self.watermark.fetch_max(seats, Ordering::Relaxed);
        }
    }

    /// Takes seats if nobody waits and there is room. With no seat taken, any request has room.
    fn take(&self, width: u32) -> bool {
        let limit = self.limit.load(Ordering::Acquire);
        let exempt = self.exempt.load(Ordering::Relaxed);
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            let used = taken(state);
            let room = used == 0 && limit > 0 || used.saturating_add(width) <= limit;
            if !exempt && (waiting(state) > 0 || !room) {
                return false;
            }
            let next = state + u64::from(width);
            match self
                .state
                .compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => {
                    self.note_demand(taken(next));
                    return true;
                }
                Err(now) => state = now,
            }
        }
    }

    fn release(&self, width: u32) {
        let before = self.state.fetch_sub(u64::from(width), Ordering::AcqRel);
        if waiting(before) > 0 {
            let mut slow = self.slow.lock();
            self.pump(&mut slow);
        }
    }

    /// Serves those whose turn it is, as far as there is room. While somebody waits nobody takes seats but here, under the lock.
    fn pump(&self, slow: &mut Slow) {
        loop {
            let state = self.state.load(Ordering::Acquire);
            let limit = self.limit.load(Ordering::Acquire);
            let free = limit.saturating_sub(taken(state));
            let Some((ticket, queue, width, _)) = slow.queues.dispatch(free, limit) else {
                break;
            };
            self.state.fetch_add(u64::from(width), Ordering::AcqRel);
            self.state.fetch_sub(ONE_WAITS, Ordering::AcqRel);
            if let Some(grant) = slow.grants.remove(&ticket)
                && grant.send(queue).is_err()
            {
                // Its place gives the seats back: it is no longer in the queue.
                tracing::trace!(level = self.name, "a request went just when it was served");
            }
        }
        self.integrate(slow);
    }

    /// Takes the demand of now into the average.
    fn integrate(&self, slow: &Slow) {
        let seats = taken(self.state.load(Ordering::Relaxed)) + slow.queues.seats_waiting();
        self.note_demand(seats);
        self.period
            .lock()
            .step(self.clock.monotonic(), f64::from(seats));
    }

    /// The demand of the period that is over, with what is remembered of earlier ones; begins the next one.
    pub fn turn(&self) -> Demand {
        let slow = self.slow.lock();
        let seats = taken(self.state.load(Ordering::Relaxed)) + slow.queues.seats_waiting();
        drop(slow);
        let watermark = self.watermark.swap(seats, Ordering::Relaxed).max(seats);
        let now = self.clock.monotonic();
        self.period
            .lock()
            .turn(now, f64::from(seats), f64::from(watermark))
    }

    pub fn demand(&self) -> Demand {
        self.period.lock().demand
    }

    /// Seats for a request: at once, after waiting at most `patience`, or not at all.
    pub async fn acquire(
        self: &Arc<Self>,
        counters: &Arc<SchemaCounters>,
        width: u32,
        patience: Duration,
        hash: impl FnOnce() -> u64,
    ) -> Result<Seats, Refusal> {
        if self.take(width) {
            counters.waited.counts[0].fetch_add(1, Ordering::Relaxed);
            return Ok(self.seats(counters, width, None));
        }
        let outcome = self.line_up(counters, width, patience, hash()).await;
        if let Err(why) = outcome {
            counters.refused(why);
            self.drops.lock().note(self.clock.monotonic().as_secs());
        }
        outcome.map(|queue| self.seats(counters, width, queue))
    }

    fn seats(
        self: &Arc<Self>,
        counters: &Arc<SchemaCounters>,
        width: u32,
        queue: Option<usize>,
    ) -> Seats {
        counters.executing.fetch_add(1, Ordering::Relaxed);
        counters.executing_seats.fetch_add(width, Ordering::Relaxed);
        Seats {
            level: self.clone(),
            counters: counters.clone(),
            width,
            queue,
            started: self.clock.monotonic(),
        }
    }

    async fn line_up(
        &self,
        counters: &SchemaCounters,
        width: u32,
        patience: Duration,
        hash: u64,
    ) -> Result<Option<usize>, Refusal> {
        let since = self.clock.monotonic();
        let (mut place, grant) = {
            let mut slow = self.slow.lock();
            if self.take(width) {
                counters.waited.counts[0].fetch_add(1, Ordering::Relaxed);
                return Ok(None);
            }
            let queue = slow.queues.choose(hash).ok_or(Refusal::ConcurrencyLimit)?;
            let ticket = slow
                .queues
                .enqueue(queue, width, since)
                .ok_or(Refusal::QueueFull)?;
            let (sender, grant) = oneshot::channel();
            slow.grants.insert(ticket, sender);
            counters.waiting.fetch_add(1, Ordering::Relaxed);
            let place = Place {
                level: self,
                counters,
                ticket,
                width,
                since,
                done: false,
            };
            self.state.fetch_add(ONE_WAITS, Ordering::AcqRel);
            // Seats that were given back since the look above found nobody waiting.
            self.pump(&mut slow);
            (place, grant)
        };
        tokio::select! {
            biased;
            granted = grant => match granted {
                Ok(queue) => {
                    place.done = true;
                    counters.waited.observe(self.clock.monotonic().saturating_sub(since));
                    Ok(Some(queue))
                }
                Err(_) => Err(Refusal::TimeOut),
            },
            () = self.clock.sleep(patience) => Err(Refusal::TimeOut),
        }
    }

    /// For how many seconds a refused client shall stay away.
    pub fn retry_after(&self) -> u64 {
        self.drops.lock().retry_after
    }

    /// Waiting and executing seats, and the queues, for the debug endpoints.
    pub fn look<T>(&self, read: impl FnOnce(&Queues) -> T) -> (u32, u32, T) {
        let slow = self.slow.lock();
        let state = self.state.load(Ordering::Relaxed);
        (waiting(state), taken(state), read(&slow.queues))
    }
}

impl Period {
    fn step(&mut self, now: Duration, seats: f64) {
        let past = now.saturating_sub(self.at).as_secs_f64();
        self.sum += self.now * past;
        self.squares += self.now * self.now * past;
        self.at = now;
        self.now = seats;
    }

    fn turn(&mut self, now: Duration, seats: f64, watermark: f64) -> Demand {
        self.step(now, seats);
        let length = now.saturating_sub(self.started).as_secs_f64();
        if length > 0.0 {
            let average = self.sum / length;
            let deviation = (self.squares / length - average * average).max(0.0).sqrt();
            self.demand = self.demand.after(watermark, average, deviation);
        } else {
            self.demand.high_watermark = watermark;
        }
        (self.sum, self.squares, self.started) = (0.0, 0.0, now);
        self.demand
    }
}

/// How many were refused lately, and what refused clients are told.
struct Drops {
    retry_after: u64,
    since: u64,
    count: u64,
}

impl Default for Drops {
    fn default() -> Self {
        Self {
            retry_after: 1,
            since: 0,
            count: 0,
        }
    }
}

/// Nobody is sent away for longer.
const MAX_RETRY_AFTER: u64 = 8;

impl Drops {
    /// One more; `second` is the time in seconds. The longer many are refused, the longer they shall stay away.
    fn note(&mut self, second: u64) {
        self.count += 1;
        let past = second.saturating_sub(self.since);
        if past < self.retry_after {
            return;
        }
        if self.count >= 3 * self.retry_after && past < 2 * self.retry_after {
            self.retry_after = (self.retry_after + 1).min(MAX_RETRY_AFTER);
        } else if self.count < self.retry_after || past >= 2 * self.retry_after {
            self.retry_after = (self.retry_after - 1).max(1);
        }
        (self.since, self.count) = (second, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::allocation::Share;
    use crate::flow::queues::Queuing;
    use skiff_base::SystemClock;

    fn level(limit: u32, queues: u32) -> Arc<Level> {
        let spec = LevelSpec {
            name: "l".into(),
            uid: http::HeaderValue::from_static(""),
            exempt: false,
            share: Share {
                shares: 1,
                lendable_percent: 0,
                borrowing_limit_percent: None,
            },
            queuing: Queuing {
                queues,
                hand_size: queues.min(2),
                queue_length: 4,
            },
        };
        let level = Level::new(&spec, SystemClock::shared());
        level.set_limit(limit);
        level
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn who_finds_no_room_waits_until_there_is() {
        let (level, counters) = (level(2, 4), Arc::default());
        let first = level.acquire(&counters, 1, LONG, || 1).await.unwrap();
        let second = level.acquire(&counters, 1, LONG, || 1).await.unwrap();
        let waiter = tokio::spawn({
            let (level, counters) = (level.clone(), counters.clone());
            async move { level.acquire(&counters, 2, LONG, || 1).await.map(|_| ()) }
        });
        while level.look(Queues::len).0 == 0 {
            tokio::task::yield_now().await;
        }
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished(), "it is two seats wide");
        drop(second);
        waiter.await.unwrap().unwrap();
        assert_eq!(level.look(Queues::len), (0, 0, 0));
        assert_eq!(counters.dispatched(), 3);
    }

    #[tokio::test]
    async fn a_full_queue_and_long_waiting_end_in_refusal() {
        let (level, counters) = (level(1, 1), Arc::default());
        let seats = level.acquire(&counters, 1, LONG, || 1).await.unwrap();
        let soon = Duration::from_millis(20);
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let (level, counters) = (level.clone(), counters.clone());
                tokio::spawn(
                    async move { level.acquire(&counters, 1, soon, || 1).await.map(|_| ()) },
                )
            })
            .collect();
        let mut refused = Vec::new();
        for task in waiting {
            refused.push(task.await.unwrap().unwrap_err());
        }
        assert_eq!(
            refused
                .iter()
                .filter(|why| **why == Refusal::QueueFull)
                .count(),
            1
        );
        assert_eq!(
            refused
                .iter()
                .filter(|why| **why == Refusal::TimeOut)
                .count(),
            4
        );
        drop(seats);
        assert_eq!(level.look(Queues::len), (0, 0, 0));
        level.acquire(&counters, 1, LONG, || 1).await.unwrap();
    }

    #[tokio::test]
    async fn a_level_without_queues_refuses_at_once() {
        let (level, counters) = (level(1, 0), Arc::default());
        let seats = level.acquire(&counters, 1, LONG, || 1).await.unwrap();
        let refusal = level.acquire(&counters, 1, LONG, || 1).await.map(|_| ());
        assert_eq!(refusal.unwrap_err(), Refusal::ConcurrencyLimit);
        drop(seats);
        level.acquire(&counters, 1, LONG, || 1).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_seat_is_lost_or_made_up_when_many_come_and_go() {
        let (level, counters) = (level(3, 8), Arc::<SchemaCounters>::default());
        let running = Arc::new(AtomicU32::new(0));
        let tasks: Vec<_> = (0..16u64)
            .map(|flow| {
                let (level, counters, running) = (level.clone(), counters.clone(), running.clone());
                tokio::spawn(async move {
                    for round in 0..300u32 {
                        let width = 1 + round % 3;
                        let patience = Duration::from_micros(u64::from(round) * 20);
                        if let Ok(seats) = level.acquire(&counters, width, patience, || flow).await
                        {
                            let now = running.fetch_add(width, Ordering::SeqCst) + width;
                            assert!(now <= 3, "{now} seats are taken");
                            tokio::task::yield_now().await;
                            running.fetch_sub(width, Ordering::SeqCst);
                            drop(seats);
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(level.look(Queues::len), (0, 0, 0));
        assert_eq!(counters.executing_seats.load(Ordering::SeqCst), 0);
        assert!(counters.dispatched() > 300);
    }
}
