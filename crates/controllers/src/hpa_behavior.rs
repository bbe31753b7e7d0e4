//! How fast an autoscaler may go: stabilization windows, limits of change, least and most. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerSpec};

/// Without a behavior of its own, an autoscaler goes down to the highest count of so many last seconds.
const DOWN_WINDOW: i32 = 300;

/// What an autoscaler asked for and did.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    asked: Vec<(Timestamp, i32)>,
    added: Vec<(Timestamp, i32)>,
    removed: Vec<(Timestamp, i32)>,
}

fn within(now: Timestamp, then: Timestamp, seconds: i32) -> bool {
    now.duration_since(then) < SignedDuration::from_secs(i64::from(seconds))
}

impl History {
    /// The first time that an autoscaler is looked at, what is there counts as asked for.
    pub fn begin(&mut self, replicas: i32, now: Timestamp) {
        if self.asked.is_empty() {
            self.asked.push((now, replicas));
        }
    }

    /// Replicas were added or removed.
    pub fn scaled(&mut self, from: i32, to: i32, now: Timestamp) {
        // No policy looks back for longer than half an hour.
        for events in [&mut self.added, &mut self.removed] {
            events.retain(|(then, _)| within(now, *then, 1800));
        }
        if to > from {
            self.added.push((now, to - from));
        } else {
            self.removed.push((now, from - to));
        }
    }

    fn ask(&mut self, replicas: i32, window: i32, now: Timestamp) {
        self.asked.retain(|(then, _)| within(now, *then, window));
        self.asked.push((now, replicas));
    }

    /// How many replicas there were some time ago.
    fn before(&self, current: i32, seconds: i32, now: Timestamp) -> i32 {
        let sum = |events: &[(Timestamp, i32)]| -> i32 {
            let recent = events
                .iter()
                .filter(|(then, _)| within(now, *then, seconds));
            recent.map(|(_, change)| change).sum()
        };
        current - sum(&self.added) + sum(&self.removed)
    }
}

/// A reason and a message of a condition.
pub(crate) type Reason = (&'static str, &'static str);

/// What comes of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Normalized {
    pub replicas: i32,
    /// Why it is able to scale.
    pub able: Reason,
    /// Whether something limits it.
    pub limited: bool,
    pub limit: Reason,
}

const READY: Reason = ("ReadyForNewScale", "recommended size matches current size");
const WITHIN: Reason = (
    "DesiredWithinRange",
    "the desired count is within the acceptable range",
);
const TOO_MANY: Reason = (
    "TooManyReplicas",
    "the desired replica count is more than the maximum replica count",
);
const TOO_FEW: Reason = (
    "TooFewReplicas",
    "the desired replica count is less than the minimum replica count",
);
const UP_LIMIT: Reason = (
    "ScaleUpLimit",
    "the desired replica count is increasing faster than the maximum scale rate",
);
const DOWN_LIMIT: Reason = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);
const DOWN_STABILIZED: Reason = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_STABILIZED: Reason = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);

/// Makes of what the metrics ask for what is done.
pub(crate) fn normalize(
    spec: &HorizontalPodAutoscalerSpec,
    history: &mut History,
    current: i32,
    wish: i32,
    now: Timestamp,
) -> Normalized {
    let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    let none = HPAScalingRules::default();
    let behavior = spec.behavior.as_ref().map(|both| {
        let (up, down) = (both.scale_up.as_ref(), both.scale_down.as_ref());
        (up.unwrap_or(&none), down.unwrap_or(&none))
    });
    let (stable, able) = stabilize(behavior, history, current, wish, now);
    let (replicas, limit) = match behavior {
        None => plainly(current, stable, least, most),
        Some((up, _)) if stable > current => {
            let rate = fastest(up, history, current, true, now).max(current);
            let (most, limit) = if most > rate {
                (rate, UP_LIMIT)
            } else {
                (most, TOO_MANY)
            };
            if stable > most {
                (most, limit)
            } else {
                (stable, WITHIN)
            }
        }
        Some((_, down)) if stable < current => {
            let rate = fastest(down, history, current, false, now).min(current);
            let (least, limit) = if least < rate {
                (rate, DOWN_LIMIT)
            } else {
                (least, TOO_FEW)
            };
            if stable < least {
                (least, limit)
            } else {
                (stable, WITHIN)
            }
        }
        Some(_) => (stable, WITHIN),
    };
    Normalized {
        replicas,
        able,
        limited: replicas != stable,
        limit,
    }
}

/// What was asked for in the last time as well makes the wish steadier.
fn stabilize(
    behavior: Option<(&HPAScalingRules, &HPAScalingRules)>,
    history: &mut History,
    current: i32,
    wish: i32,
    now: Timestamp,
) -> (i32, Reason) {
    let recent = |seconds: i32| {
        let asked = history.asked.iter();
        asked
            .filter(move |(then, _)| within(now, *then, seconds))
            .map(|(_, replicas)| *replicas)
    };
    let (stable, window, reason) = match behavior {
        None => {
            let stable = recent(DOWN_WINDOW).fold(wish, i32::max);
            (stable, DOWN_WINDOW, DOWN_STABILIZED)
        }
        Some((up, down)) => {
            let up_window = up.stabilization_window_seconds.unwrap_or(0);
            let down_window = down.stabilization_window_seconds.unwrap_or(DOWN_WINDOW);
            let lowest = recent(up_window).fold(wish, i32::min);
            let highest = recent(down_window).fold(wish, i32::max);
            let reason = if wish >= current {
                UP_STABILIZED
            } else {
                DOWN_STABILIZED
            };
            let stable = current.max(lowest).min(highest);
            (stable, up_window.max(down_window), reason)
        }
    };
    history.ask(wish, window, now);
    (stable, if stable == wish { READY } else { reason })
}

/// Without a behavior: at most doubled (or four), within least and most.
fn plainly(current: i32, wish: i32, least: i32, most: i32) -> (i32, Reason) {
    let doubled = current.saturating_mul(2).max(4);
    let (most, limit) = if most > doubled {
        (doubled, UP_LIMIT)
    } else {
        (most, TOO_MANY)
    };
    if wish < least {
        (least, TOO_FEW)
    } else if wish > most {
        (most, limit)
    } else {
        (wish, WITHIN)
    }
}

/// As far as the policies let it go.
fn fastest(
    rules: &HPAScalingRules,
    history: &History,
    current: i32,
    up: bool,
    now: Timestamp,
) -> i32 {
    let select = rules.select_policy.as_deref();
    if select == Some("Disabled") {
        return current;
    }
    let policies = rules.policies.iter().flatten();
    let allowed = policies.map(|policy| {
        let before = history.before(current, policy.period_seconds, now);
        let change = if policy.type_ == "Percent" {
            let part = i64::from(before) * i64::from(policy.value);
            // More is rounded up; what is left of less is rounded down, so that the change is rounded up too.
            let part = part.div_euclid(100) + i64::from(part.rem_euclid(100) > 0);
            i32::try_from(part).unwrap_or(i32::MAX)
        } else {
            policy.value
        };
        if up {
            before.saturating_add(change)
        } else {
            before.saturating_sub(change)
        }
    });
    // The largest change upwards is the highest count, downwards the lowest.
    let allowed = if up == (select != Some("Min")) {
        allowed.max()
    } else {
        allowed.min()
    };
    allowed.unwrap_or(if up { i32::MAX } else { i32::MIN })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn spec(least: i32, most: i32, behavior: Value) -> HorizontalPodAutoscalerSpec {
        serde_json::from_value(
            json!({"minReplicas": least, "maxReplicas": most, "behavior": behavior,
            "scaleTargetRef": {"kind": "Deployment", "name": "d"}}),
        )
        .unwrap()
    }

    /// Steps of (second, current, wish) and what comes of each: count, able, limit.
    fn play(spec: &HorizontalPodAutoscalerSpec, steps: &[(i64, i32, i32, i32, &str, &str)]) {
        let mut history = History::default();
        for (second, current, wish, expected, able, limit) in steps {
            let found = normalize(spec, &mut history, *current, *wish, at(*second));
            assert_eq!(
                (found.replicas, found.able.0, found.limit.0),
                (*expected, *able, *limit),
                "at {second}"
            );
            if found.replicas != *current {
                history.scaled(*current, found.replicas, at(*second));
            }
        }
    }

    #[test]
    fn without_behavior() {
        let (ready, within) = ("ReadyForNewScale", "DesiredWithinRange");
        play(
            &spec(2, 20, Value::Null),
            &[
                (0, 2, 3, 3, ready, within),
                (15, 3, 30, 6, ready, "ScaleUpLimit"),
                (30, 6, 30, 12, ready, "ScaleUpLimit"),
                (45, 12, 30, 20, ready, "TooManyReplicas"),
                // What was asked for in the last five minutes holds it up.
                (60, 20, 1, 20, "ScaleDownStabilized", "TooManyReplicas"),
                (400, 20, 1, 2, ready, "TooFewReplicas"),
            ],
        );
    }

    #[test]
    fn with_behavior() {
        let (ready, within) = ("ReadyForNewScale", "DesiredWithinRange");
        let policy =
            |kind: &str, value: i32| json!({"type": kind, "value": value, "periodSeconds": 60});
        let rules = |policies: Value, select: &str, window: i32| json!({"policies": policies, "selectPolicy": select, "stabilizationWindowSeconds": window});
        let down = rules(json!([policy("Percent", 10), policy("Pods", 4)]), "Max", 0);
        let up = rules(json!([policy("Pods", 3), policy("Percent", 50)]), "Min", 0);
        play(
            &spec(1, 100, json!({"scaleUp": up, "scaleDown": down})),
            &[
                (0, 10, 50, 13, ready, "ScaleUpLimit"),
                // The minute is not over.
                (15, 13, 50, 13, ready, "ScaleUpLimit"),
                (61, 13, 14, 14, ready, within),
                (200, 14, 1, 10, ready, "ScaleDownLimit"),
                (300, 60, 1, 54, ready, "ScaleDownLimit"),
                (400, 3, 1, 1, ready, within),
            ],
        );
        let slow = rules(json!([policy("Pods", 100)]), "Max", 60);
        let never = rules(json!([policy("Pods", 100)]), "Disabled", 0);
        play(
            &spec(1, 100, json!({"scaleUp": slow, "scaleDown": never})),
            &[
                (0, 5, 5, 5, ready, within),
                (15, 5, 9, 5, "ScaleUpStabilized", within),
                (61, 5, 7, 7, ready, within),
                (90, 7, 1, 7, ready, "ScaleDownLimit"),
            ],
        );
    }

    proptest! {
        /// Whatever is asked for, it stays within least and most once it is there, and never moves away from the wish.
        #[test]
        fn stays_in_bounds(wishes in proptest::collection::vec((1_i64..200, 0_i32..60), 1..30), least in 1_i32..5, more in 0_i32..20, with in any::<bool>()) {
            let rules = json!({"policies": [{"type": "Percent", "value": 50, "periodSeconds": 30}], "selectPolicy": "Max"});
            let behavior = if with { json!({"scaleUp": rules, "scaleDown": rules}) } else { Value::Null };
            let spec = spec(least, least + more, behavior);
            let (mut history, mut current, mut second) = (History::default(), least, 0);
            for (pause, wish) in wishes {
                second += pause;
                let next = normalize(&spec, &mut history, current, wish, at(second)).replicas;
                prop_assert!((least..=least + more).contains(&next));
                history.scaled(current, next, at(second));
                current = next;
            }
        }
    }
}
