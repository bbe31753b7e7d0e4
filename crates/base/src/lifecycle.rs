//! How a component starts, stops and is restarted.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::{Backoff, Random, SharedClock};

/// Tells everyone who holds a clone that it is time to stop.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A signal that has not been given.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A signal that follows this one, and can be given alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Gives the signal.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether the signal was given.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Returns when the signal is given.
    pub async fn triggered(&self) {
        self.0.cancelled().await;
    }
}

/// What went wrong in a component, told once to the log.
pub type ComponentError = Box<dyn std::error::Error + Send + Sync>;

/// A part of the program that runs until it is told to stop (scheduler, kubelet, proxy ...).
#[async_trait]
pub trait Component: Send + Sync + 'static {
    /// The name in logs, metrics and health checks.
    fn name(&self) -> &'static str;
    /// Runs until `shutdown`. It is called again after an error or a panic, so it must not assume
    /// that it is the first run.
    async fn run(&self, shutdown: Shutdown) -> Result<(), ComponentError>;
}

/// Runs a component until `shutdown`; restarts it with back-off when it fails or panics.
pub async fn supervise(
    component: Arc<dyn Component>,
    clock: SharedClock,
    random: Random,
    shutdown: Shutdown,
) {
    let mut backoff =
        Backoff::new(Duration::from_millis(200), Duration::from_secs(30)).with_jitter(0.1);
    while !shutdown.is_triggered() {
        let started = clock.monotonic();
        let outcome = AssertUnwindSafe(component.run(shutdown.child()))
            .catch_unwind()
            .await;
        if shutdown.is_triggered() {
            return;
        }
        match outcome {
            Ok(Ok(())) => tracing::error!(component = component.name(), "component ended early"),
            Ok(Err(error)) => {
                tracing::error!(component = component.name(), %error, "component failed")
            }
            Err(panic) => tracing::error!(
                component = component.name(),
                panic = panic_text(&*panic),
                "component panicked"
            ),
        }
        if clock.monotonic().saturating_sub(started) > Duration::from_secs(60) {
            backoff.reset();
        }
        let delay = backoff.next(&random);
        tokio::select! {
            () = clock.sleep(delay) => {}
            () = shutdown.triggered() => return,
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemClock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Flaky(AtomicUsize, Shutdown);

    #[async_trait]
    impl Component for Flaky {
        fn name(&self) -> &'static str {
            "flaky"
        }
        async fn run(&self, _: Shutdown) -> Result<(), ComponentError> {
            match self.0.fetch_add(1, Ordering::SeqCst) {
                0 => panic!("first run"),
                1 => Err("second run".into()),
                _ => {
                    self.1.trigger();
                    Ok(())
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn restarts_after_panic_and_error() {
        let shutdown = Shutdown::new();
        let flaky = Arc::new(Flaky(AtomicUsize::new(0), shutdown.clone()));
        supervise(
            flaky.clone(),
            SystemClock::shared(),
            Random::seeded(1),
            shutdown,
        )
        .await;
        assert_eq!(flaky.0.load(Ordering::SeqCst), 3);
    }
}
