//! The row of a pod in a table: what `kubectl get pods` shows as READY, STATUS and RESTARTS.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition, PodStatus};
use serde_json::Value;

use crate::printing;

/// What the containers come to.
#[derive(Default)]
struct Summary {
    reason: String,
    ready: usize,
    restarts: Restarts,
}

#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i32,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus) {
        self.count += container.restart_count;
        let terminated = container
            .last_state
            .as_ref()
            .and_then(|state| state.terminated.as_ref());
        let finished = terminated
            .and_then(|terminated| terminated.finished_at.as_ref())
            .map(|time| time.0);
        self.last = self.last.max(finished);
    }

    fn text(self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.count != 0 => {
                let ago = printing::human_duration(now.duration_since(last).as_nanos());
                format!("{} ({ago} ago)", self.count)
            }
            _ => self.count.to_string(),
        }
    }
}

/// The cells of a pod.
pub(super) fn row(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let unknown = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&unknown);
    let spec = pod.spec.as_ref();
    let containers = spec.map(|spec| spec.containers.len()).unwrap_or_default();
    let init_containers = spec
        .and_then(|spec| spec.init_containers.as_deref())
        .unwrap_or_default();
    let sidecars = init_containers
        .iter()
        .filter(|container| is_sidecar(container))
        .count();

    let summary = summarize(pod, status, init_containers);
    let address = status
        .pod_ips
        .as_ref()
        .and_then(|addresses| addresses.first())
        .map(|address| &address.ip);
    vec![
        pod.metadata.name.clone().into(),
        format!("{}/{}", summary.ready, containers + sidecars).into(),
        summary.reason.into(),
        summary.restarts.text(now).into(),
        printing::age(&pod.metadata, now),
        printing::text_or(address, "<none>"),
        printing::text_or(spec.and_then(|spec| spec.node_name.as_ref()), "<none>"),
        printing::text_or(status.nominated_node_name.as_ref(), "<none>"),
        readiness_gates(pod, status).into(),
    ]
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn summarize(pod: &Pod, status: &PodStatus, init_containers: &[Container]) -> Summary {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let phase = status.phase.clone().unwrap_or_default();
    let gated = |condition: &PodCondition| {
        condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("SchedulingGated")
    };
    let mut summary = Summary {
        reason: match status.reason.as_ref().filter(|reason| !reason.is_empty()) {
            _ if conditions.iter().any(gated) => "SchedulingGated".to_owned(),
            Some(reason) => reason.clone(),
            None => phase.clone(),
        },
        ..Summary::default()
    };
    let (initializing, sidecar_restarts) = summarize_init(&mut summary, status, init_containers);
    let initialized = conditions
        .iter()
        .find(|condition| condition.type_ == "Initialized");
    if !initializing || initialized.is_some_and(|condition| condition.status == "True") {
        // What init containers did before is of no interest any more.
        summary.restarts = sidecar_restarts;
        summarize_main(&mut summary, status, conditions);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some("NodeLost") {
            summary.reason = "Unknown".to_owned();
        } else if phase != "Succeeded" && phase != "Failed" {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// Whether the pod is still initialising, and the restarts of its sidecars.
fn summarize_init(
    summary: &mut Summary,
    status: &PodStatus,
    init_containers: &[Container],
) -> (bool, Restarts) {
    let mut sidecar_restarts = Restarts::default();
    let statuses = status
        .init_container_statuses
        .as_deref()
        .unwrap_or_default();
    for (index, container) in statuses.iter().enumerate() {
        let sidecar = init_containers
            .iter()
            .any(|spec| spec.name == container.name && is_sidecar(spec));
        summary.restarts.add(container);
        if sidecar {
            sidecar_restarts.add(container);
        }
        let state = container.state.as_ref();
        let terminated = state.and_then(|state| state.terminated.as_ref());
        let waiting = state.and_then(|state| state.waiting.as_ref()?.reason.as_deref());
        summary.reason = match (terminated, waiting) {
            (Some(terminated), _) if terminated.exit_code == 0 => continue,
            _ if sidecar && container.started == Some(true) => {
                summary.ready += usize::from(container.ready);
                continue;
            }
            (Some(terminated), _) => {
                match (terminated.reason.as_deref(), terminated.signal.unwrap_or(0)) {
                    (Some(reason), _) if !reason.is_empty() => format!("Init:{reason}"),
                    (_, 0) => format!("Init:ExitCode:{}", terminated.exit_code),
                    (_, signal) => format!("Init:Signal:{signal}"),
                }
            }
            (None, Some(reason)) if !reason.is_empty() && reason != "PodInitializing" => {
                format!("Init:{reason}")
            }
            _ => format!("Init:{index}/{}", init_containers.len()),
        };
        return (true, sidecar_restarts);
    }
    (false, sidecar_restarts)
}

fn summarize_main(summary: &mut Summary, status: &PodStatus, conditions: &[PodCondition]) {
    let (mut running, mut failure) = (false, None);
    for container in status.container_statuses.iter().flatten().rev() {
        summary.restarts.add(container);
        let Some(state) = &container.state else {
            continue;
        };
        let waiting = state
            .waiting
            .as_ref()
            .and_then(|waiting| waiting.reason.as_ref());
        if let Some(reason) = waiting.filter(|reason| !reason.is_empty()) {
            summary.reason.clone_from(reason);
        } else if let Some(terminated) = &state.terminated {
            summary.reason = match (terminated.reason.as_deref(), terminated.signal.unwrap_or(0)) {
                (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
                (_, 0) => format!("ExitCode:{}", terminated.exit_code),
                (_, signal) => format!("Signal:{signal}"),
            };
            if terminated.exit_code != 0 {
                failure = Some(summary.reason.clone());
            }
        } else if container.ready && state.running.is_some() {
            running = true;
            summary.ready += 1;
        }
    }
    // A pod of which one container has completed is not completed.
    if summary.reason == "Completed" {
        let ready = conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        match (running && ready, failure) {
            (true, _) => summary.reason = "Running".to_owned(),
            (false, Some(failure)) => summary.reason = failure,
            (false, None) if running => summary.reason = "NotReady".to_owned(),
            (false, None) => {}
        }
    }
}

fn readiness_gates(pod: &Pod, status: &PodStatus) -> String {
    let gates = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.readiness_gates.as_deref())
        .unwrap_or_default();
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let holds = |kind: &str| {
        conditions
            .iter()
            .find(|condition| condition.type_ == kind)
            .is_some_and(|condition| condition.status == "True")
    };
    let holding = gates
        .iter()
        .filter(|gate| holds(&gate.condition_type))
        .count();
    format!("{holding}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cells(status: Value, metadata: Value, init: Value) -> String {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": metadata,
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": init},
            "status": status,
        }))
        .unwrap();
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let row = row(&pod, now);
        format!(
            "{} {} {}",
            row[1].as_str().unwrap(),
            row[2].as_str().unwrap(),
            row[3].as_str().unwrap()
        )
    }

    #[test]
    fn state_of_main_containers() {
        let running =
            json!({"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}});
        let completed = json!({"name": "b", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let crashed = json!({"name": "b", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:59:00Z"}}});
        let killed = json!({"name": "b", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 137, "signal": 9}}});
        let ready = json!([{"type": "Ready", "status": "True"}]);
        for (status, expected) in [
            (json!({"phase": "Pending"}), "0/2 Pending 0"),
            (
                json!({"phase": "Failed", "reason": "Evicted"}),
                "0/2 Evicted 0",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [running, crashed]}),
                "1/2 CrashLoopBackOff 3 (60s ago)",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [running, completed]}),
                "1/2 NotReady 0",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [running, completed], "conditions": ready}),
                "1/2 Running 0",
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [killed]}),
                "0/2 Signal:9 0",
            ),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
                "0/2 SchedulingGated 0",
            ),
        ] {
            assert_eq!(
                cells(status.clone(), json!({}), json!([])),
                expected,
                "{status}"
            );
        }
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(
            cells(json!({"phase": "Running"}), going.clone(), json!([])),
            "0/2 Terminating 0"
        );
        assert_eq!(
            cells(json!({"phase": "Failed"}), going, json!([])),
            "0/2 Failed 0"
        );
    }

    #[test]
    fn state_of_init_containers() {
        let done = json!({"name": "i", "ready": true, "restartCount": 1, "state": {"terminated": {"exitCode": 0}}});
        let waiting = json!({"name": "j", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}});
        let failed = json!({"name": "j", "ready": false, "restartCount": 2, "state": {"terminated": {"exitCode": 3}}});
        let sidecar = json!({"name": "s", "ready": true, "started": true, "restartCount": 4, "state": {"running": {}}});
        let init = json!([{"name": "i"}, {"name": "j"}]);
        let with_sidecar = json!([{"name": "s", "restartPolicy": "Always"}, {"name": "j"}]);
        for (init, statuses, expected) in [
            (&init, json!([done, waiting]), "0/2 Init:1/2 1"),
            (&init, json!([done, failed]), "0/2 Init:ExitCode:3 3"),
            (&init, json!([done]), "0/2 Pending 0"),
            (&with_sidecar, json!([sidecar, waiting]), "1/3 Init:1/2 4"),
            (&with_sidecar, json!([sidecar]), "1/3 Pending 4"),
        ] {
            let status = json!({"phase": "Pending", "initContainerStatuses": statuses});
            assert_eq!(
                cells(status.clone(), json!({}), init.clone()),
                expected,
                "{status}"
            );
        }
    }
}
