//! Exponential back-off.

use std::time::Duration;

use crate::Random;

/// Delays that grow by a factor from `initial` up to `max`.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    factor: f64,
    jitter: f64,
    next: Duration,
}

impl Backoff {
    /// Doubling delays without jitter.
    #[must_use]
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            factor: 2.0,
            jitter: 0.0,
            next: initial,
        }
    }

    /// Adds up to `jitter` times the delay at random (0.1 means up to 10 % more).
    #[must_use]
    pub fn with_jitter(mut self, jitter: f64) -> Self {
        self.jitter = jitter;
        self
    }

    /// The next delay.
    pub fn next(&mut self, random: &Random) -> Duration {
        let delay = self.next;
        self.next = self.next.mul_f64(self.factor).min(self.max);
        delay.mul_f64(1.0 + self.jitter * random.fraction())
    }

    /// Starts again at the initial delay.
    pub fn reset(&mut self) {
        self.next = self.initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_limit_and_resets() {
        let random = Random::seeded(1);
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(35));
        let delays: Vec<_> = (0..4).map(|_| backoff.next(&random).as_secs()).collect();
        assert_eq!(delays, [10, 20, 35, 35]);
        backoff.reset();
        assert_eq!(backoff.next(&random).as_secs(), 10);
    }
}
