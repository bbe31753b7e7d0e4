//! The engine under ReplicaSet and ReplicationController: how many pods to make, which to delete, and
//! what the status says. Pure.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_client::LabelMatcher;
use skiff_client::selector::Labels;

use crate::pods;
use crate::seen_pod::{ContainerStatus, Pod};

/// At most so many pods are made or deleted at once.
const BURST: usize = 500;

/// One condition of a ReplicaSet or ReplicationController.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub type_: String,
    pub status: String,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub since: Option<Time>,
}

/// The status of a ReplicaSet or ReplicationController.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    /// None where the kind has no such field.
    pub terminating: Option<i32>,
    pub observed_generation: Option<i64>,
    pub conditions: Vec<Condition>,
}

/// What to do about the number of pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Nothing,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// Decides from the active pods; `related` are those that share the owner's owner, for the spread over
/// nodes.
pub fn plan(wanted: i32, active: &[Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) -> Step {
    let wanted = usize::try_from(wanted).unwrap_or(0);
    match active.len().cmp(&wanted) {
        Ordering::Equal => Step::Nothing,
        Ordering::Less => Step::Create((wanted - active.len()).min(BURST)),
        Ordering::Greater => {
            let excess = (active.len() - wanted).min(BURST);
            let mut pods = active.to_vec();
            if excess < pods.len() {
                rank(&mut pods, related, now);
            }
            pods.truncate(excess);
            Step::Delete(pods)
        }
    }
}

/// Sorts so that those which are missed least come first.
fn rank(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| pods::is_active(pod)) {
        *on_node.entry(pods::node_name(pod)).or_default() += 1;
    }
    pods.sort_by_cached_key(|pod| Rank::of(pod, &on_node, now));
}

/// What one pod is worth; the least goes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    assigned: bool,
    phase: u8,
    ready: bool,
    deletion_cost: i32,
    /// The more of its kind on its node, the sooner it goes.
    alone: std::cmp::Reverse<usize>,
    /// Powers of two of the time ready, so that among pods of about the same age the choice is random.
    ready_age: i32,
    restarts: std::cmp::Reverse<(i32, i32)>,
    age: i32,
    uid: String,
}

impl Rank {
    fn of(pod: &Pod, on_node: &HashMap<&str, usize>, now: Timestamp) -> Self {
        let cost = pod.metadata.annotations.as_ref();
        let cost = cost.and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"));
        let phase = match pods::phase(pod) {
            "Unknown" => 1,
            "Running" => 2,
            _ => 0,
        };
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let node = pods::node_name(pod);
        Self {
            assigned: !node.is_empty(),
            phase,
            ready: pods::is_ready(pod),
            deletion_cost: cost.and_then(|cost| cost.parse().ok()).unwrap_or(0),
            alone: std::cmp::Reverse(on_node.get(node).copied().unwrap_or(0)),
            ready_age: pods::ready_since(pod).map_or(0, |since| magnitude(since, now)),
            restarts: std::cmp::Reverse(restarts(pod)),
            age: created.map_or(-1, |created| magnitude(created, now)),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        }
    }
}

/// The logarithm to the base of two of the nanoseconds from `then` to `now`; -1 if that is not positive.
fn magnitude(then: Timestamp, now: Timestamp) -> i32 {
    let elapsed = now.as_nanosecond() - then.as_nanosecond();
    u128::try_from(elapsed)
        .ok()
        .and_then(u128::checked_ilog2)
        .map_or(-1, |log| i32::try_from(log).unwrap_or(i32::MAX))
}

/// The most restarts of a container, and of a sidecar.
fn restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = &pod.status else {
        return (0, 0);
    };
    let most = |statuses: &Option<Vec<ContainerStatus>>, sidecars: bool| {
        let names = pod
            .spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten());
        let sidecar = |name: &str| {
            names.clone().any(|container| {
                container.name == name && container.restart_policy.as_deref() == Some("Always")
            })
        };
        let counted = statuses
            .iter()
            .flatten()
            .filter(|s| !sidecars || sidecar(&s.name));
        counted
            .map(|status| status.restart_count)
            .max()
            .unwrap_or(0)
    };
    (
        most(&status.container_statuses, false),
        most(&status.init_container_statuses, true),
    )
}

/// What the status is computed from.
pub struct Observed<'a> {
    pub old: &'a Status,
    pub generation: Option<i64>,
    pub wanted: i32,
    pub min_ready: i32,
    pub template_labels: Option<&'a Labels>,
    pub active: &'a [Arc<Pod>],
    /// Pods on their way out; none where the kind does not count them.
    pub terminating: Option<usize>,
    /// Why pods could not be made or deleted.
    pub failure: Option<&'a str>,
    pub now: &'a Time,
}

/// The status that is true now.
pub fn status(observed: &Observed) -> Status {
    let template = LabelMatcher::equal_to(observed.template_labels.unwrap_or(&Labels::new()));
    let count = |test: &dyn Fn(&Pod) -> bool| {
        let counted = observed.active.iter().filter(|pod| test(pod)).count();
        i32::try_from(counted).unwrap_or(i32::MAX)
    };
    let available = |pod: &Pod| {
        pods::seconds_until_available(pod, observed.min_ready, observed.now.0) == Some(0)
    };
    let replicas = count(&|_| true);
    let mut conditions = observed.old.conditions.clone();
    let known = conditions
        .iter()
        .any(|found| found.type_ == "ReplicaFailure");
    match observed.failure {
        Some(message) if !known => conditions.push(Condition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: match replicas.cmp(&observed.wanted) {
                Ordering::Less => Some("FailedCreate".to_owned()),
                Ordering::Greater => Some("FailedDelete".to_owned()),
                Ordering::Equal => None,
            },
            message: Some(message.to_owned()),
            since: Some(observed.now.clone()),
        }),
        None => conditions.retain(|found| found.type_ != "ReplicaFailure"),
        Some(_) => {}
    }
    Status {
        replicas,
        fully_labeled: count(&|pod| template.matches(pod.metadata.labels.as_ref())),
        ready: count(&pods::is_ready),
        available: count(&available),
        terminating: observed
            .terminating
            .map(|count| i32::try_from(count).unwrap_or(i32::MAX)),
        observed_generation: observed.generation,
        conditions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen_pod::{PodSpec, PodStatus};
    use k8s_openapi::api::core::v1::PodCondition;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use proptest::prelude::*;

    const NOW: i64 = 1_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(name: &str, node: &str, phase: &str, ready_since: Option<i64>) -> Pod {
        let condition = ready_since.map(|since| PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(Time(at(since))),
            ..PodCondition::default()
        });
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                uid: Some(name.into()),
                creation_timestamp: Some(Time(at(NOW - 1000))),
                labels: Some([("app".to_owned(), "web".to_owned())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(Box::new(PodSpec {
                node_name: (!node.is_empty()).then(|| node.to_owned()),
                ..PodSpec::default()
            })),
            status: Some(Box::new(PodStatus {
                phase: Some(phase.into()),
                conditions: condition.map(|condition| vec![condition]),
                ..PodStatus::default()
            })),
        }
    }

    fn deleted(wanted: i32, pods: Vec<Pod>) -> String {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        match plan(wanted, &pods, &pods, at(NOW)) {
            Step::Delete(pods) => pods
                .iter()
                .filter_map(|pod| pod.metadata.name.clone())
                .collect::<Vec<_>>()
                .join(" "),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_least_missed_pods_go_first() {
        let cheap = |mut pod: Pod| {
            let cost = (
                "controller.kubernetes.io/pod-deletion-cost".to_owned(),
                "-5".to_owned(),
            );
            pod.metadata.annotations = Some([cost].into());
            pod
        };
        let ready = |name, node| pod(name, node, "Running", Some(NOW - 500));
        for (expected, pods) in [
            (
                "unassigned",
                vec![ready("a", "n1"), pod("unassigned", "", "Pending", None)],
            ),
            (
                "pending",
                vec![ready("a", "n1"), pod("pending", "n2", "Pending", None)],
            ),
            (
                "unready",
                vec![ready("a", "n1"), pod("unready", "n2", "Running", None)],
            ),
            (
                "z-cheap",
                vec![ready("a", "n1"), cheap(ready("z-cheap", "n2"))],
            ),
            (
                "y1",
                vec![ready("a", "n1"), ready("y1", "n2"), ready("y2", "n2")],
            ),
            (
                "young",
                vec![
                    ready("a", "n1"),
                    pod("young", "n2", "Running", Some(NOW - 3)),
                ],
            ),
        ] {
            let wanted = i32::try_from(pods.len()).unwrap() - 1;
            assert_eq!(deleted(wanted, pods), expected);
        }
    }

    #[test]
    fn status_counts_and_tells_failures_once() {
        let active = [
            Arc::new(pod("old", "n1", "Running", Some(NOW - 100))),
            Arc::new(pod("new", "n1", "Running", Some(NOW - 1))),
            Arc::new(pod("starting", "n1", "Pending", None)),
        ];
        let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
        let now = Time(at(NOW));
        let old = Status::default();
        let observed = Observed {
            old: &old,
            generation: Some(3),
            wanted: 4,
            min_ready: 10,
            template_labels: Some(&labels),
            active: &active,
            terminating: Some(2),
            failure: Some("quota"),
            now: &now,
        };
        let status_now = status(&observed);
        assert_eq!(
            (
                status_now.replicas,
                status_now.fully_labeled,
                status_now.ready,
                status_now.available
            ),
            (3, 3, 2, 1)
        );
        assert_eq!(status_now.terminating, Some(2));
        assert_eq!(
            status_now.conditions[0].reason.as_deref(),
            Some("FailedCreate")
        );
        let again = status(&Observed {
            old: &status_now,
            failure: Some("other"),
            ..observed
        });
        assert_eq!(again.conditions, status_now.conditions);
        let healed = status(&Observed {
            old: &status_now,
            failure: None,
            ..observed
        });
        assert!(healed.conditions.is_empty());
    }

    proptest! {
        /// Carrying out the plan makes the number right, or comes closer by a whole burst.
        #[test]
        fn the_plan_comes_closer(wanted in 0_i32..1500, have in 0_usize..1200) {
            let active: Vec<_> = (0..have)
                .map(|n| Arc::new(pod(&n.to_string(), "n", "Running", None)))
                .collect();
            let target = usize::try_from(wanted).unwrap();
            let after = match plan(wanted, &active, &active, at(NOW)) {
                Step::Nothing => have,
                Step::Create(count) => have + count,
                Step::Delete(pods) => have - pods.len(),
            };
            let moved = after.abs_diff(have);
            prop_assert!(after == target || moved == BURST);
            prop_assert_eq!(after.abs_diff(target) + moved, have.abs_diff(target));
        }
    }
}
