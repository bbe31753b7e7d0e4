//! Turns single attempts into a verdict: so many in a row before it changes.

use k8s_openapi::api::core::v1::Probe;

use crate::pod::plan::Verdict;

/// Counts the attempts of one probe of one container.
#[derive(Clone, Debug)]
pub struct Judge {
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    run: u32,
}

impl Judge {
    /// A judge that has seen nothing.
    #[must_use]
    pub fn new(probe: &Probe) -> Self {
        let threshold = |value: Option<i32>, default: u32| {
            value
                .and_then(|v| u32::try_from(v).ok())
                .filter(|v| *v > 0)
                .unwrap_or(default)
        };
        Self {
            success_threshold: threshold(probe.success_threshold, 1),
            failure_threshold: threshold(probe.failure_threshold, 3),
            last: None,
            run: 0,
        }
    }

    /// The verdict after one more attempt; `None` while it is below its threshold.
    pub fn see(&mut self, passed: bool) -> Option<Verdict> {
        if self.last == Some(passed) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(passed);
            self.run = 1;
        }
        match passed {
            true if self.run >= self.success_threshold => Some(Verdict::Success),
            false if self.run >= self.failure_threshold => Some(Verdict::Failure),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let mut judge = Judge::new(&Probe {
            success_threshold: Some(2),
            failure_threshold: Some(3),
            ..Default::default()
        });
        let verdicts: Vec<_> = [true, true, false, false, true, false, false, false]
            .map(|passed| judge.see(passed))
            .into();
        let (yes, no) = (Some(Verdict::Success), Some(Verdict::Failure));
        assert_eq!(verdicts, [None, yes, None, None, None, None, None, no]);
    }
}
