//! Where time comes from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::watch;

/// A source of wall-clock and monotonic time.
#[async_trait]
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// The wall clock. It may step; use it for timestamps in objects only.
    fn now(&self) -> SystemTime;
    /// Time since an arbitrary start; it never goes back. Use it for delays and deadlines.
    fn monotonic(&self) -> Duration;
    /// Returns after `duration` of monotonic time.
    async fn sleep(&self, duration: Duration);
}

/// A clock that components hand around.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's own clock.
#[derive(Debug)]
pub struct SystemClock {
    start: tokio::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    pub fn shared() -> SharedClock {
        Arc::new(Self {
            start: tokio::time::Instant::now(),
        })
    }
}

#[async_trait]
impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the seam through which the wall clock comes in"
    )]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// The machine's clock, faster: a cluster lives through an hour in a minute.
#[derive(Debug)]
pub struct FastClock {
    start: tokio::time::Instant,
    epoch: SystemTime,
    factor: u32,
}

impl FastClock {
    /// A clock that starts at `epoch` and goes `factor` times as fast as the machine's (at least 1).
    #[must_use]
    pub fn shared(epoch: SystemTime, factor: u32) -> SharedClock {
        Arc::new(Self {
            start: tokio::time::Instant::now(),
            epoch,
            factor: factor.max(1),
        })
    }
}

#[async_trait]
impl Clock for FastClock {
    fn now(&self) -> SystemTime {
        self.epoch + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed() * self.factor
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration / self.factor).await;
    }
}

/// A clock that moves only when told to.
#[derive(Debug)]
pub struct SimulatedClock {
    epoch: Mutex<SystemTime>,
    elapsed: watch::Sender<Duration>,
}

impl SimulatedClock {
    /// A clock that stands at `epoch`.
    #[must_use]
    pub fn new(epoch: SystemTime) -> Arc<Self> {
        Arc::new(Self {
            epoch: Mutex::new(epoch),
            elapsed: watch::Sender::new(Duration::ZERO),
        })
    }

    /// Sets the wall clock forward or back by `seconds`, as somebody who corrects it does; no time passes.
    pub fn step(&self, seconds: i64) {
        let by = Duration::from_secs(seconds.unsigned_abs());
        let mut epoch = self.epoch();
        *epoch = if seconds < 0 {
            *epoch - by
        } else {
            *epoch + by
        };
    }

    fn epoch(&self) -> MutexGuard<'_, SystemTime> {
        self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves time forward and wakes every sleeper whose time has come.
    pub fn advance(&self, by: Duration) {
        self.elapsed.send_modify(|elapsed| *elapsed += by);
    }
}

#[async_trait]
impl Clock for SimulatedClock {
    fn now(&self) -> SystemTime {
        *self.epoch() + *self.elapsed.borrow()
    }

    fn monotonic(&self) -> Duration {
        *self.elapsed.borrow()
    }

    async fn sleep(&self, duration: Duration) {
        let mut elapsed = self.elapsed.subscribe();
        let until = *elapsed.borrow() + duration;
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = elapsed.wait_for(|now| *now >= until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fast_clock_sleeps_shorter_than_it_says() {
        let (clock, before) = (
            FastClock::shared(SystemTime::UNIX_EPOCH, 1000),
            tokio::time::Instant::now(),
        );
        clock.sleep(Duration::from_secs(20)).await;
        assert!(clock.monotonic() >= Duration::from_secs(20));
        assert!(clock.now() >= SystemTime::UNIX_EPOCH + Duration::from_secs(20));
        assert!(before.elapsed() < Duration::from_secs(15));
    }

    #[tokio::test]
    async fn simulated_sleep_ends_when_time_was_moved() {
        let clock = SimulatedClock::new(SystemTime::UNIX_EPOCH);
        let sleeper = {
            let clock = clock.clone();
            tokio::spawn(async move { clock.sleep(Duration::from_secs(5)).await })
        };
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(4));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
        assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(5));
        clock.step(3600);
        clock.step(-3598);
        assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(7));
        assert_eq!(clock.monotonic(), Duration::from_secs(5));
    }
}
