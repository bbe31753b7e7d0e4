//! When a container that ended is started again, and after what delay.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, PodSpec};

/// The first delay.
pub const INITIAL: Duration = Duration::from_secs(10);
/// The longest delay.
pub const MAXIMUM: Duration = Duration::from_secs(300);
/// A container that ran this long starts over with the first delay.
pub const RESET: Duration = Duration::from_secs(600);

/// Whether a container that ended with `exit_code` is to be started again: the container's own rules first,
/// then its own policy, then the pod's.
#[must_use]
pub fn should_restart(container: &Container, pod: &PodSpec, exit_code: i32) -> bool {
    if let Some(own) = container.restart_policy.as_deref() {
        if rule_says_restart(container, exit_code) {
            return true;
        }
        if let Some(decision) = by_policy(own, exit_code) {
            return decision;
        }
    }
    let policy = pod.restart_policy.as_deref().unwrap_or("Always");
    by_policy(policy, exit_code).unwrap_or(true)
}

/// Whether a container may be replaced while it runs (a failed probe, an unknown state): no exit code to judge.
#[must_use]
pub fn may_replace(container: &Container, pod: &PodSpec) -> bool {
    let policy = container
        .restart_policy
        .as_deref()
        .or(pod.restart_policy.as_deref());
    policy != Some("Never")
}

fn by_policy(policy: &str, exit_code: i32) -> Option<bool> {
    match policy {
        "Always" => Some(true),
        "OnFailure" => Some(exit_code != 0),
        "Never" => Some(false),
        _ => None,
    }
}

fn rule_says_restart(container: &Container, exit_code: i32) -> bool {
    let rule = matching_rule(container, exit_code);
    rule.is_some_and(|rule| matches!(rule.action.as_str(), "Restart" | ALL))
}

/// The action of a rule that starts all containers of the pod anew.
const ALL: &str = "RestartAllContainers";

/// Whether all containers of the pod are to be started anew because this one ended with `exit_code`.
#[must_use]
pub fn restarts_all(container: &Container, exit_code: i32) -> bool {
    matching_rule(container, exit_code).is_some_and(|rule| rule.action == ALL)
}

/// Whether there is an exit code after which [`restarts_all`] may hold.
#[must_use]
pub fn may_restart_all(container: &Container) -> bool {
    let mut rules = container.restart_policy_rules.iter().flatten();
    rules.any(|rule| rule.action == ALL)
}

/// The first of the container's rules that the exit code meets.
fn matching_rule(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    let mut rules = container.restart_policy_rules.iter().flatten();
    rules.find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes
                .values
                .as_ref()
                .is_some_and(|values| values.contains(&exit_code));
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}

/// The growing delays of the containers of one pod (or of images), by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delays {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

impl Delays {
    /// The delay that holds for `key` after something that happened at `since`, when it is not over yet:
    /// the delay and what is left of it.
    #[must_use]
    pub fn pending(
        &self,
        key: &str,
        since: Timestamp,
        now: Timestamp,
    ) -> Option<(Duration, Duration)> {
        let entry = self.entries.get(key)?;
        if elapsed(entry.updated, since) > RESET {
            return None;
        }
        // It happened in the future: the clock was set back, and would hold the container until it has caught up.
        if now < since {
            return None;
        }
        let waited = elapsed(since, now);
        (waited < entry.delay).then(|| (entry.delay, entry.delay - waited))
    }

    /// Notes one more attempt after something that happened at `since`; the delay doubles, or starts again when the
    /// last attempt is long ago.
    pub fn advance(&mut self, key: &str, since: Timestamp) {
        let next = match self.entries.get(key) {
            Some(entry) if elapsed(entry.updated, since) <= RESET => (entry.delay * 2).min(MAXIMUM),
            _ => INITIAL,
        };
        self.entries.insert(
            key.to_owned(),
            Entry {
                delay: next,
                updated: since,
            },
        );
    }

    /// Forgets a key.
    pub fn forget(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

/// `to - from`, zero when the clock went back.
#[must_use]
pub fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// What is left of a wait until `until`, if anything. One that is further off than any delay was set by a clock that has been
/// set back since, and is over.
#[must_use]
pub fn left_until(until: Timestamp, now: Timestamp) -> Option<Duration> {
    let left = elapsed(now, until);
    (!left.is_zero() && left <= MAXIMUM).then_some(left)
}

/// A delay as upstream's messages write it (`10s`, `2m40s`, `5m0s`).
#[must_use]
pub fn display(delay: Duration) -> String {
    let seconds = delay.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ContainerRestartRule, ContainerRestartRuleOnExitCodes};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn delays_double_to_the_limit_and_start_again_after_a_long_run() {
        let mut delays = Delays::default();
        let mut now = 0;
        let mut seen = Vec::new();
        assert_eq!(delays.pending("c", at(0), at(0)), None);
        for _ in 0..7 {
            delays.advance("c", at(now));
            now += 1;
            let (delay, left) = delays.pending("c", at(now), at(now)).unwrap();
            assert_eq!(delay, left);
            seen.push(delay.as_secs());
            now += i64::try_from(delay.as_secs()).unwrap();
            assert_eq!(delays.pending("c", at(now - 20 * 60), at(now)), None);
        }
        assert_eq!(seen, [10, 20, 40, 80, 160, 300, 300]);
        let later = at(now + 601);
        assert_eq!(delays.pending("c", later, later), None);
        delays.advance("c", later);
        assert_eq!(delays.pending("c", later, later).unwrap().0, INITIAL);
    }

    #[test]
    fn a_clock_that_steps_by_an_hour_holds_nothing() {
        const HOUR: i64 = 3600;
        assert_eq!(
            left_until(at(HOUR + 10), at(HOUR)),
            Some(Duration::from_secs(10))
        );
        assert_eq!(left_until(at(HOUR + 10), at(2 * HOUR)), None);
        assert_eq!(left_until(at(HOUR + 10), at(0)), None);
        let mut delays = Delays::default();
        delays.advance("c", at(HOUR));
        assert!(delays.pending("c", at(HOUR), at(HOUR)).is_some());
        assert_eq!(delays.pending("c", at(HOUR), at(0)), None);
        assert_eq!(delays.pending("c", at(HOUR), at(2 * HOUR)), None);
        // The next failure, by the clock that was set back, doubles the delay as ever.
        delays.advance("c", at(10));
        assert_eq!(delays.pending("c", at(10), at(10)).unwrap().0, INITIAL * 2);
    }

    #[test]
    fn policies_and_rules() {
        let pod = |policy: &str| PodSpec {
            restart_policy: Some(policy.into()),
            ..Default::default()
        };
        let own = |policy: Option<&str>| Container {
            restart_policy: policy.map(Into::into),
            ..Default::default()
        };
        for (container, pod_policy, code, wanted) in [
            (own(None), "Always", 0, true),
            (own(None), "OnFailure", 0, false),
            (own(None), "OnFailure", 1, true),
            (own(None), "Never", 1, false),
            (own(Some("Always")), "Never", 0, true),
            (own(Some("Never")), "Always", 1, false),
            (own(Some("OnFailure")), "Never", 1, true),
        ] {
            assert_eq!(should_restart(&container, &pod(pod_policy), code), wanted);
        }
        let mut with_rule = own(Some("Never"));
        with_rule.restart_policy_rules = Some(vec![ContainerRestartRule {
            action: "Restart".into(),
            exit_codes: Some(ContainerRestartRuleOnExitCodes {
                operator: "In".into(),
                values: Some(vec![42]),
            }),
        }]);
        assert!(should_restart(&with_rule, &pod("Never"), 42));
        assert!(!should_restart(&with_rule, &pod("Never"), 41));
    }

    #[test]
    fn delays_read_like_upstreams() {
        for (seconds, text) in [(10, "10s"), (160, "2m40s"), (300, "5m0s"), (3600, "1h0m0s")] {
            assert_eq!(display(Duration::from_secs(seconds)), text);
        }
    }
}
