//! How long a Job waits before it replaces failed pods: ten seconds after the first failure in a row,
//! doubling up to ten minutes.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::pods;
use crate::seen_pod::{ContainerStatus, Pod};

const FIRST: u64 = 10;
const LONGEST: u64 = 600;

/// The failures in a row since the last success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    failures: u32,
    last: Option<Timestamp>,
}

impl Backoff {
    /// What it is after these pods ended as well; each with the time when it did.
    pub fn after(&self, succeeded: &[Timestamp], failed: &[Timestamp]) -> Self {
        let (before, success) = match succeeded.iter().max() {
            Some(success) => (Self::default(), Some(success)),
            None => (self.clone(), None),
        };
        let later = || {
            failed
                .iter()
                .filter(|at| success.is_none_or(|success| *at > success))
        };
        let count = u32::try_from(later().count()).unwrap_or(u32::MAX);
        Self {
            failures: before.failures.saturating_add(count),
            last: later().max().copied().or(before.last),
        }
    }

    /// How long to wait until the next pod.
    pub fn remaining(&self, now: Timestamp) -> Duration {
        self.last
            .map_or(Duration::ZERO, |last| remaining(self.failures, last, now))
    }
}

/// How long to wait after so many failures in a row, the last one at `last`.
pub(crate) fn remaining(failures: u32, last: Timestamp, now: Timestamp) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else {
        return Duration::ZERO;
    };
    let doubled = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
    let wait = Duration::from_secs(FIRST.saturating_mul(doubled).min(LONGEST));
    let elapsed = now.duration_since(last);
    match SignedDuration::try_from(wait) {
        Ok(wait) => Duration::try_from(wait.saturating_sub(elapsed)).unwrap_or_default(),
        Err(_) => wait,
    }
}

/// When a pod ended: its last container, or what else tells of it.
pub(crate) fn ended_at(pod: &Pod) -> Timestamp {
    containers_ended(pod)
        .or_else(|| {
            let ready = pods::condition(pod, "Ready").filter(|ready| ready.status == "False")?;
            ready.last_transition_time.as_ref().map(|time| time.0)
        })
        .or_else(|| {
            let deleted = pod.metadata.deletion_timestamp.as_ref()?.0;
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
            deleted.checked_sub(SignedDuration::from_secs(grace)).ok()
        })
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
        .unwrap_or_default()
}

fn containers_ended(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let ended = |container: &ContainerStatus| {
        let ended = container.state.as_ref()?.terminated.as_ref()?;
        ended.finished_at.as_ref().map(|time| time.0)
    };
    // Sidecars end after the others.
    let sidecar = |name: &str| {
        let mut init = pod
            .spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten());
        init.any(|found| found.name == name && found.restart_policy.as_deref() == Some("Always"))
    };
    let plain = status.container_statuses.iter().flatten();
    let init = status.init_container_statuses.iter().flatten();
    let all = plain.chain(init.filter(|container| sidecar(&container.name)));
    // One that has not ended leaves the time open.
    all.map(ended)
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    #[test]
    fn the_wait_doubles_and_has_an_end() {
        let seconds = |failures, now| remaining(failures, at(0), at(now)).as_secs();
        assert_eq!(seconds(0, 0), 0);
        assert_eq!(seconds(1, 0), 10);
        assert_eq!(seconds(1, 4), 6);
        assert_eq!(seconds(1, 11), 0);
        assert_eq!(seconds(3, 0), 40);
        assert_eq!(seconds(7, 0), 600);
        assert_eq!(seconds(700, 0), 600);
        // A clock that was set back.
        assert_eq!(seconds(1, -5), 15);
    }

    #[test]
    fn a_success_ends_the_row() {
        let none = Backoff::default();
        assert_eq!(none.remaining(at(0)), Duration::ZERO);
        let twice = none.after(&[], &[at(1), at(2)]);
        assert_eq!(twice.remaining(at(2)).as_secs(), 20);
        let more = twice.after(&[], &[at(5)]);
        assert_eq!(more.remaining(at(5)).as_secs(), 40);
        assert_eq!(more.after(&[at(6)], &[]), none);
        let mixed = more.after(&[at(6), at(4)], &[at(5), at(8)]);
        assert_eq!(mixed.remaining(at(8)).as_secs(), 10);
        assert_eq!(more.after(&[], &[]), more);
    }

    #[test]
    fn the_end_of_a_pod() {
        let ended = |value| ended_at(&serde_json::from_value(value).unwrap()).to_string();
        let container = |name: &str, at: &str| json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 1, "finishedAt": at}}});
        let created = json!({"creationTimestamp": "2026-01-01T00:00:00Z"});
        let deleted = json!({"creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T01:00:30Z", "deletionGracePeriodSeconds": 30});
        let unready = json!([{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T03:00:00Z"}]);
        for (pod, expected) in [
            (json!({"metadata": created}), "2026-01-01T00:00:00Z"),
            (json!({"metadata": deleted}), "2026-01-01T01:00:00Z"),
            (
                json!({"metadata": deleted, "status": {"conditions": unready}}),
                "2026-01-01T03:00:00Z",
            ),
            (
                json!({"metadata": deleted, "status": {"conditions": unready, "containerStatuses": [
                container("a", "2026-01-01T04:00:00Z"), container("b", "2026-01-01T05:00:00Z")]}}),
                "2026-01-01T05:00:00Z",
            ),
            (
                json!({"metadata": created, "spec": {"containers": [], "initContainers": [{"name": "s", "restartPolicy": "Always"}]}, "status": {
                "containerStatuses": [container("a", "2026-01-01T04:00:00Z")], "initContainerStatuses": [container("s", "2026-01-01T06:00:00Z"), container("i", "2026-01-01T07:00:00Z")]}}),
                "2026-01-01T06:00:00Z",
            ),
        ] {
            assert_eq!(ended(pod), expected);
        }
    }
}
