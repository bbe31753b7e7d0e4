//! How many of a budget's pods may go. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::deployment_plan::scaled;
use crate::pods;
use crate::seen_pod::Pod;

/// A pod whose eviction was allowed must be on its way out by then, or it is forgotten.
const EVICTION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// A pod that was to be disrupted and is not for so long will not be.
const STALE: SignedDuration = SignedDuration::from_mins(2);
const CONDITION: &str = "DisruptionAllowed";

/// What a budget is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// The pods that are there.
    Pods,
    /// The pods that their controllers want.
    Scale,
    /// It asks for nothing.
    Nothing,
}

/// What the budget is measured against.
pub(crate) fn measure(budget: &PodDisruptionBudget) -> Measure {
    let spec = budget.spec.as_ref();
    let limits = spec.map(|spec| (&spec.max_unavailable, &spec.min_available));
    match limits {
        Some((Some(_), _) | (None, Some(IntOrString::String(_)))) => Measure::Scale,
        Some((None, Some(IntOrString::Int(_)))) => Measure::Pods,
        _ => Measure::Nothing,
    }
}

/// How many of `expected` pods must stay healthy.
fn desired(budget: &PodDisruptionBudget, expected: i32) -> i32 {
    let Some(spec) = &budget.spec else { return 0 };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (expected - scaled(Some(most), expected, true)).max(0),
        (None, least) => scaled(least.as_ref(), expected, true),
    }
}

/// The status, the pods that were to go but stayed, and when to look again.
pub(crate) struct Judged {
    pub status: PodDisruptionBudgetStatus,
    pub stayed: Vec<Arc<Pod>>,
    pub wake: Option<Duration>,
}

/// Judges a budget by its pods, of which `expected` are wanted.
pub(crate) fn judge(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    expected: i32,
    now: Timestamp,
) -> Judged {
    let old = budget.status.clone().unwrap_or_default();
    let known = old.disrupted_pods.unwrap_or_default();
    let mut disrupted = BTreeMap::new();
    let (mut stayed, mut wake, mut healthy) = (Vec::new(), None::<Duration>, 0);
    for pod in pods.iter().filter(|pod| !pods::is_deleting(pod)) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        if let Some(since) = known.get(&name) {
            let left = EVICTION_TIMEOUT.saturating_sub(now.duration_since(since.0));
            if let Ok(left) = Duration::try_from(left) {
                wake = Some(wake.map_or(left, |known| known.min(left)));
                disrupted.insert(name, since.clone());
                continue;
            }
            stayed.push(pod.clone());
        }
        if pods::is_ready(pod) {
            healthy += 1;
        }
    }
    let desired = desired(budget, expected);
    let allowed = if expected > 0 {
        (healthy - desired).max(0)
    } else {
        0
    };
    let mut status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        observed_generation: budget.metadata.generation,
        conditions: old.conditions,
    };
    let (truth, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    set_condition(&mut status, truth, reason, "", now);
    Judged {
        status,
        stayed,
        // A little later, so that the time is over.
        wake: wake.map(|wake| wake + Duration::from_secs(1)),
    }
}

/// The status of a budget that cannot be judged: nothing may go.
pub(crate) fn failed(
    budget: &PodDisruptionBudget,
    why: &str,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    set_condition(&mut status, "False", "SyncFailed", why, now);
    status
}

fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    truth: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or_default());
    let generation = status.observed_generation.filter(|number| *number > 0);
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter().position(|found| found.type_ == CONDITION);
    let since = known
        .and_then(|known| conditions.get(known))
        .filter(|known| known.status == truth)
        .map(|known| known.last_transition_time.clone());
    let condition = Condition {
        type_: CONDITION.to_owned(),
        status: truth.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or(now),
    };
    match known.and_then(|known| conditions.get_mut(known)) {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

/// A selector as events show it.
pub(crate) fn shown_selector(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else {
        return "nil".to_owned();
    };
    let labels = selector.match_labels.iter().flatten();
    let labels: String = labels
        .map(|(key, value)| format!("{key}: {value},"))
        .collect();
    let expressions = selector.match_expressions.iter().flatten();
    let expressions: String = expressions
        .map(|found| {
            let values = found.values.as_deref().unwrap_or_default().join(" ");
            let (key, operator) = (&found.key, &found.operator);
            format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},")
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

/// How long until the pod's DisruptionTarget condition is to be taken back, because the pod did not go; none
/// if it has no such condition.
pub(crate) fn until_stale(pod: &Pod, now: Timestamp) -> Option<Duration> {
    if pods::is_deleting(pod) || pods::is_terminal(pod) {
        return None;
    }
    let condition = pods::condition(pod, "DisruptionTarget")
        .filter(|found| found.status == "True")
        .filter(|found| found.reason.as_deref() != Some("TerminationByKubelet"))?;
    let since = condition.last_transition_time.as_ref().map(|time| time.0);
    let left = STALE.saturating_sub(now.duration_since(since.unwrap_or_default()));
    Some(Duration::try_from(left).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NOW: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        serde_json::from_value(
            json!({"metadata": {"name": "b", "generation": 3}, "spec": spec, "status": status}),
        )
        .unwrap()
    }

    fn pod(name: &str, ready: bool, deleting: bool) -> Arc<Pod> {
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "deletionTimestamp": deleted},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}})).unwrap())
    }

    #[test]
    fn budgets() {
        let percent = |text: &str| json!({"minAvailable": text});
        for (spec, expected, healthy, desired, allowed) in [
            (json!({"minAvailable": 2}), 3, 3, 2, 1),
            (json!({"minAvailable": 4}), 3, 3, 4, 0),
            (json!({"maxUnavailable": 1}), 3, 3, 2, 1),
            (json!({"maxUnavailable": 1}), 3, 2, 2, 0),
            (json!({"maxUnavailable": 5}), 3, 3, 0, 3),
            (json!({"maxUnavailable": "34%"}), 3, 3, 1, 2),
            (percent("50%"), 3, 3, 2, 1),
            (percent("100%"), 3, 3, 3, 0),
            (percent("0%"), 0, 3, 0, 0),
            (json!({}), 0, 3, 0, 0),
        ] {
            let pods: Vec<_> = (0..3)
                .map(|n| pod(&n.to_string(), n < healthy, false))
                .collect();
            let status = judge(&budget(spec.clone(), json!({})), &pods, expected, at(NOW)).status;
            assert_eq!(
                (
                    status.current_healthy,
                    status.desired_healthy,
                    status.disruptions_allowed
                ),
                (Some(healthy), Some(desired), Some(allowed)),
                "{spec}"
            );
            let condition = &status.conditions.unwrap()[0];
            let reason = if allowed > 0 {
                "SufficientPods"
            } else {
                "InsufficientPods"
            };
            assert_eq!(condition.reason, reason);
        }
        assert_eq!(
            measure(&budget(json!({"minAvailable": 2}), json!({}))),
            Measure::Pods
        );
        assert_eq!(measure(&budget(percent("1%"), json!({}))), Measure::Scale);
        assert_eq!(
            measure(&budget(json!({"maxUnavailable": 2}), json!({}))),
            Measure::Scale
        );
        assert_eq!(measure(&budget(json!({}), json!({}))), Measure::Nothing);
    }

    #[test]
    fn evicted_pods_are_remembered_for_a_while() {
        let ago = |seconds: i64| Time(at(NOW - seconds));
        let status = json!({"disruptedPods": {"new": ago(10), "old": ago(121), "gone": ago(10), "leaving": ago(10)}});
        let pods = [
            pod("new", true, false),
            pod("old", true, false),
            pod("leaving", true, true),
            pod("other", true, false),
        ];
        let judged = judge(
            &budget(json!({"minAvailable": 1}), status),
            &pods,
            4,
            at(NOW),
        );
        let disrupted = judged.status.disrupted_pods.unwrap();
        assert_eq!(disrupted.keys().collect::<Vec<_>>(), ["new"]);
        assert_eq!(judged.status.current_healthy, Some(2));
        assert_eq!(judged.stayed[0].metadata.name.as_deref(), Some("old"));
        assert_eq!(judged.wake, Some(Duration::from_secs(111)));
    }

    #[test]
    fn a_condition_keeps_its_time() {
        let first = judge(
            &budget(json!({"minAvailable": 0}), json!({})),
            &[pod("a", true, false)],
            1,
            at(NOW),
        )
        .status;
        let again = budget(
            json!({"minAvailable": 0}),
            serde_json::to_value(&first).unwrap(),
        );
        assert_eq!(
            judge(&again, &[pod("a", true, false)], 1, at(NOW + 9)).status,
            first
        );
        let failed = failed(&again, "found no controllers for pod \"a\"", at(NOW + 9));
        let condition = &failed.conditions.unwrap()[0];
        assert_eq!(
            (condition.reason.as_str(), condition.last_transition_time.0),
            ("SyncFailed", at(NOW + 9))
        );
        assert_eq!(failed.disruptions_allowed, Some(0));
    }

    #[test]
    fn stale_conditions() {
        let with = |reason: &str, seconds: i64, deleting: bool| {
            let mut pod = Pod::clone(&pod("a", true, deleting));
            let condition = json!([{"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": Time(at(NOW - seconds))}]);
            pod.status.as_mut().unwrap().conditions = serde_json::from_value(condition).unwrap();
            until_stale(&pod, at(NOW)).map(|left| left.as_secs())
        };
        assert_eq!(with("EvictionByEvictionAPI", 20, false), Some(100));
        assert_eq!(with("EvictionByEvictionAPI", 300, false), Some(0));
        assert_eq!(with("EvictionByEvictionAPI", 20, true), None);
        assert_eq!(with("TerminationByKubelet", 20, false), None);
        assert_eq!(until_stale(&pod("a", true, false), at(NOW)), None);
    }

    proptest! {
        /// After all that is allowed is gone, enough are left.
        #[test]
        fn enough_stay(ready in 0_i32..9, unready in 0_i32..5, most in 0..9, percent in 0..101, by_most in any::<bool>()) {
            let pods: Vec<_> = (0..ready + unready).map(|n| pod(&n.to_string(), n < ready, false)).collect();
            let spec = if by_most { json!({"maxUnavailable": most}) } else { json!({"minAvailable": format!("{percent}%")}) };
            let status = judge(&budget(spec, json!({})), &pods, ready + unready, at(NOW)).status;
            let (allowed, desired) = (status.disruptions_allowed.unwrap(), status.desired_healthy.unwrap());
            prop_assert!(allowed >= 0 && allowed <= ready);
            prop_assert!(allowed == 0 || ready - allowed >= desired);
        }
    }
}
