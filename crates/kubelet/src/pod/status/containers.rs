//! The statuses of a pod's containers.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, LinuxContainerUser, VolumeMountStatus,
};

use crate::pod::observed::{ObservedContainer, State};
use crate::pod::plan::Verdict;
use crate::pod::restart;
use crate::pod::restart_all;
use crate::pod::spec::{self, Kind};
use crate::pod::status::{Input, seconds};

/// The reason for a container whose end nobody saw.
const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";
/// The exit code that stands for an end that nobody saw.
const UNKNOWN_EXIT: i32 = 137;

/// `status.containerStatuses`, in the order of names as upstream sorts them.
#[must_use]
pub fn regular(input: &Input<'_>) -> Vec<ContainerStatus> {
    let old = input.old.container_statuses.as_deref().unwrap_or_default();
    let mut list: Vec<_> = spec::containers(input.pod)
        .iter()
        .map(|c| one(input, c, Kind::Regular, old))
        .collect();
    list.sort_by(|a, b| a.name.cmp(&b.name));
    list
}

/// `status.initContainerStatuses`, in the order of the spec.
#[must_use]
pub fn init(input: &Input<'_>) -> Vec<ContainerStatus> {
    let old = input
        .old
        .init_container_statuses
        .as_deref()
        .unwrap_or_default();
    let containers = spec::init_containers(input.pod).iter();
    containers.map(|c| one(input, c, Kind::Init, old)).collect()
}

/// `status.ephemeralContainerStatuses`.
#[must_use]
pub fn ephemeral(input: &Input<'_>) -> Vec<ContainerStatus> {
    let old = input
        .old
        .ephemeral_container_statuses
        .as_deref()
        .unwrap_or_default();
    let mut list: Vec<_> = spec::ephemeral_containers(input.pod)
        .iter()
        .map(|e| {
            one(
                input,
                &spec::ephemeral_as_container(e),
                Kind::Ephemeral,
                old,
            )
        })
        .collect();
    list.sort_by(|a, b| a.name.cmp(&b.name));
    list
}

fn one(
    input: &Input<'_>,
    container: &Container,
    kind: Kind,
    old: &[ContainerStatus],
) -> ContainerStatus {
    let old = old.iter().find(|s| s.name == container.name);
    let mut seen = input
        .observed
        .containers
        .iter()
        .filter(|c| c.name == container.name);
    let mut status = match seen.next() {
        Some(latest) => {
            let mut status = from_runtime(input, container, latest, old);
            if let Some(before) = seen.next() {
                status.last_state = Some(state_of(before, input.runtime));
            }
            status
        }
        None => unseen(input, container, kind, old),
    };
    waiting_reason(input, container, kind, &mut status);
    if input.terminated {
        end_for_good(input, container, old, &mut status);
    }
    readiness(input, container, kind, &mut status);
    status.volume_mounts = volume_mounts(container);
    status
}

/// The status of a container that the runtime does not know: not made yet, or removed.
fn unseen(
    input: &Input<'_>,
    container: &Container,
    kind: Kind,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(not_started(input)),
        ..ContainerStatus::default()
    };
    let Some(old) = old else {
        return status;
    };
    let old_state = old.state.clone().unwrap_or_default();
    if restart_all::is_under_way(input.pod, input.observed, input.old) {
        if old_state.waiting.is_some() {
            return old.clone();
        }
        let (reason, message) = (restart_all::REASON, restart_all::MESSAGE);
        status.state = Some(waiting(reason, Some(message)));
        status.last_state = Some(unseen_end(reason, message));
        status.restart_count = old.restart_count + 1;
        return status;
    }
    if old_state.terminated.is_some() {
        return old.clone();
    }
    status.restart_count = old.restart_count;
    status.last_state = old.last_state.clone();
    let known_end = ended(old.last_state.as_ref()).is_some();
    if old_state.running.is_some() && !known_end {
        // It ran when we last looked, and is gone: it ended, nobody saw how.
        let message = "The container could not be located when the pod was deleted.  The container used to be Running";
        status.last_state = Some(unknown_end(message));
        status.restart_count += i32::from(!spec::deleting(input.pod));
    }
    let regular_made = spec::containers(input.pod)
        .iter()
        .any(|c| input.observed.latest(&c.name).is_some());
    if kind == Kind::Init && regular_made && !spec::is_sidecar(container) {
        // The pod is past its initialization, so this one did its work.
        let message = "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally";
        status.state = Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                reason: Some("Completed".into()),
                message: Some(message.into()),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        });
    }
    status
}

fn from_runtime(
    input: &Input<'_>,
    container: &Container,
    seen: &ObservedContainer,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: seen.image.clone(),
        image_id: seen.image_id.clone(),
        container_id: Some(format!("{}://{}", input.runtime, seen.id)),
        restart_count: i32::try_from(seen.attempt).unwrap_or(i32::MAX),
        state: Some(match seen.state {
            State::Created => not_started(input),
            _ => state_of(seen, input.runtime),
        }),
        resources: Some(container.resources.clone().unwrap_or_default()),
        allocated_resources: container
            .resources
            .as_ref()
            .and_then(|r| r.requests.clone()),
        user: seen.user.as_ref().map(|(uid, gid, groups)| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: *uid,
                gid: *gid,
                supplemental_groups: (!groups.is_empty()).then(|| groups.clone()),
            }),
        }),
        ..ContainerStatus::default()
    };
    if let Some(old) = old {
        status.restart_count = status.restart_count.max(old.restart_count);
        let old_end = ended(old.state.as_ref());
        let replaced = old.container_id != status.container_id;
        let last = match old_end.filter(|_| replaced) {
            Some(end) => Some(end),
            None => ended(old.last_state.as_ref()),
        };
        status.last_state = last.map(|end| ContainerState {
            terminated: Some(end.clone()),
            ..ContainerState::default()
        });
    }
    status
}

/// The state of a container that was not started yet. Upstream gives no reason for one that is made; its conformance tests
/// want one, and hardly ever look in that moment.
fn not_started(input: &Input<'_>) -> ContainerState {
    let reason = if spec::init_containers(input.pod).is_empty() {
        "ContainerCreating"
    } else {
        "PodInitializing"
    };
    waiting(reason, None)
}

fn state_of(seen: &ObservedContainer, runtime: &str) -> ContainerState {
    match seen.state {
        State::Running => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: seen.started_at.map(seconds),
            }),
            ..ContainerState::default()
        },
        State::Exited => ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(format!("{runtime}://{}", seen.id)),
                exit_code: seen.exit_code,
                reason: non_empty(&seen.reason),
                message: non_empty(&seen.message),
                started_at: seen.started_at.map(seconds),
                finished_at: seen.finished_at.map(seconds),
                signal: None,
            }),
            ..ContainerState::default()
        },
        State::Created | State::Unknown => ContainerState {
            waiting: Some(ContainerStateWaiting::default()),
            ..ContainerState::default()
        },
    }
}

/// A container that is to be started and could not be says why.
fn waiting_reason(
    input: &Input<'_>,
    container: &Container,
    kind: Kind,
    status: &mut ContainerStatus,
) {
    let Some(why) = input.waiting.get(&container.name) else {
        return;
    };
    if spec::deleting(input.pod) || input.terminated {
        return;
    }
    if let Some(seen) = input.observed.latest(&container.name) {
        let again = match seen.state {
            State::Running => false,
            State::Created | State::Unknown => true,
            State::Exited if kind == Kind::Init && seen.exit_code == 0 => {
                spec::is_sidecar(container)
            }
            State::Exited => {
                restart::should_restart(container, spec::spec(input.pod), seen.exit_code)
            }
        };
        if !again {
            return;
        }
    }
    if let Some(end) = ended(status.state.as_ref()) {
        status.last_state = Some(ContainerState {
            terminated: Some(end.clone()),
            ..ContainerState::default()
        });
    }
    status.state = Some(waiting(&why.reason, Some(&why.message)));
}

/// Nothing of the pod runs any more: what was last seen running has ended somehow.
fn end_for_good(
    input: &Input<'_>,
    container: &Container,
    old: Option<&ContainerStatus>,
    status: &mut ContainerStatus,
) {
    if ended(status.state.as_ref()).is_some() {
        return;
    }
    let ran = old.is_some_and(|o| o.state.as_ref().is_some_and(|s| s.running.is_some()))
        || input
            .observed
            .latest(&container.name)
            .is_some_and(|c| matches!(c.state, State::Running | State::Unknown));
    if let Some(end) = ended(status.last_state.as_ref()) {
        // It waited for a restart that will not come.
        status.state = Some(ContainerState {
            terminated: Some(end.clone()),
            ..ContainerState::default()
        });
        status.last_state = None;
    } else if ran {
        status.state = Some(unknown_end(
            "The container could not be located when the pod was terminated",
        ));
    }
}

fn readiness(input: &Input<'_>, container: &Container, kind: Kind, status: &mut ContainerStatus) {
    let state = status.state.clone().unwrap_or_default();
    let seen = input
        .observed
        .latest(&container.name)
        .filter(|_| state.running.is_some());
    let verdicts = seen.and_then(|c| input.probes.get(&c.id)).copied();
    let verdicts = verdicts.unwrap_or_default();
    let started = seen.is_some()
        && (container.startup_probe.is_none() || verdicts.startup == Some(Verdict::Success));
    status.started = Some(started);
    status.ready = if kind == Kind::Init && !spec::is_sidecar(container) {
        state.terminated.is_some_and(|end| end.exit_code == 0)
    } else {
        kind != Kind::Ephemeral
            && started
            && (container.readiness_probe.is_none() || verdicts.readiness == Some(Verdict::Success))
    };
    if kind == Kind::Ephemeral {
        status.started = None;
    }
}

fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref()?;
    let statuses = mounts.iter().map(|mount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: (mount.read_only == Some(true)).then(|| "Disabled".to_owned()),
        ..VolumeMountStatus::default()
    });
    Some(statuses.collect())
}

fn ended(state: Option<&ContainerState>) -> Option<&ContainerStateTerminated> {
    state?.terminated.as_ref()
}

fn unknown_end(message: &str) -> ContainerState {
    unseen_end(STATUS_UNKNOWN, message)
}

fn unseen_end(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: UNKNOWN_EXIT,
            reason: Some(reason.into()),
            message: Some(message.into()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn waiting(reason: &str, message: Option<&str>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: message.filter(|m| !m.is_empty()).map(ToOwned::to_owned),
        }),
        ..ContainerState::default()
    }
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
