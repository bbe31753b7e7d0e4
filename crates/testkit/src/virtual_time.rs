//! Time that passes only when nothing is left to do: an hour of waiting takes no time, and each run goes the same way.
//!
//! [`run`] polls everything on one thread. When no task can go on, the clock is set to the moment that the first sleeper waits for.
//! Nobody may wait for anything else than the clock or another task: no socket, no thread, no timer of Tokio's.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use parking_lot::Mutex;
use skiff_base::{Clock, SharedClock};

/// The clock of [`run`].
#[derive(Debug)]
struct VirtualClock {
    epoch: SystemTime,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    /// Tells sleepers of the same moment apart: they wake in the order in which they lay down.
    next: u64,
    sleepers: BTreeMap<(Duration, u64), Waker>,
}

impl VirtualClock {
    /// Lets time pass until the first sleeper's moment, and wakes all who wait for that moment.
    fn step(&self) {
        let mut awake = Vec::new();
        {
            let mut state = self.state.lock();
            if let Some((&(moment, _), _)) = state.sleepers.first_key_value() {
                state.now = state.now.max(moment);
            }
            let now = state.now;
            let later = state.sleepers.split_off(&(now, u64::MAX));
            let due = std::mem::replace(&mut state.sleepers, later);
            awake.extend(due.into_values());
        }
        awake.into_iter().for_each(Waker::wake);
    }
}

/// Somebody who sleeps.
struct Sleep<'a> {
    clock: &'a VirtualClock,
    until: Duration,
    number: Option<u64>,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.state.lock();
        if state.now >= self.until {
            return Poll::Ready(());
        }
        let number = self.number.unwrap_or_else(|| {
            state.next += 1;
            state.next
        });
        state
            .sleepers
            .insert((self.until, number), context.waker().clone());
        drop(state);
        self.number = Some(number);
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.clock
                .state
                .lock()
                .sleepers
                .remove(&(self.until, number));
        }
    }
}

#[async_trait]
impl Clock for VirtualClock {
    fn now(&self) -> SystemTime {
        self.epoch + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().now
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.monotonic() + duration;
        let sleep = Sleep {
            clock: self,
            until,
            number: None,
        };
        sleep.await;
    }
}

/// Runs `work` to its end on this thread, with a clock that stands at `epoch` and moves when nothing else does.
///
/// # Panics
/// When no runtime can be made.
pub fn run<F: Future>(epoch: SystemTime, work: impl FnOnce(SharedClock) -> F) -> F::Output {
    let clock = Arc::new(VirtualClock {
        epoch,
        state: Mutex::default(),
    });
    let stepping = clock.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .on_thread_park(move || stepping.step())
        .build()
        .expect("a runtime of one thread");
    runtime.block_on(work(clock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_passes_at_once_and_sleepers_wake_in_order() {
        let begun = SystemTime::UNIX_EPOCH;
        let order = run(begun, |clock| async move {
            let woken = Arc::new(Mutex::new(Vec::new()));
            let mut sleepers = Vec::new();
            for days in [365_u64, 1, 30, 1] {
                let (clock, woken) = (clock.clone(), woken.clone());
                sleepers.push(tokio::spawn(async move {
                    clock.sleep(Duration::from_secs(days * 86_400)).await;
                    let passed = clock.now().duration_since(begun).unwrap();
                    assert_eq!(passed, clock.monotonic());
                    woken.lock().push(passed.as_secs() / 86_400);
                }));
            }
            // Who is dropped is not waited for.
            let long = clock.clone();
            drop(tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = long.sleep(Duration::from_secs(1 << 40)) => {}
                    () = long.sleep(Duration::from_secs(1)) => {}
                }
            }));
            for sleeper in sleepers {
                sleeper.await.unwrap();
            }
            woken.lock().clone()
        });
        assert_eq!(order, [1, 1, 30, 365]);
    }
}
