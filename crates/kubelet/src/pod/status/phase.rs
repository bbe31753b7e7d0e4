//! The phase of a pod from the statuses of its containers.

use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, ContainerStatus, PodStatus};

use crate::pod::restart;
use crate::pod::restart_all;
use crate::pod::spec;
use crate::pod::status::Input;

/// How far the containers of a pod are.
#[derive(Default)]
struct Count {
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    stopped_for_good: usize,
    succeeded: usize,
    init_pending: usize,
    init_failed_for_good: usize,
    sidecars_pending: usize,
}

/// How a container ended that did, whether it waits for a restart or not.
fn last_end(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let state = status.state.as_ref()?;
    if let Some(ended) = &state.terminated {
        return Some(ended);
    }
    state.waiting.as_ref()?;
    status.last_state.as_ref()?.terminated.as_ref()
}

/// Whether a container ended only to start anew with all others of its pod.
fn is_reset(end: &ContainerStateTerminated, input: &Input<'_>) -> bool {
    end.reason.as_deref() == Some(restart_all::REASON)
        || restart_all::is_due(input.pod, input.observed)
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

/// The phase that the containers' statuses add up to.
#[must_use]
pub fn phase(input: &Input<'_>, status: &PodStatus) -> String {
    let count = count(input, status);
    // Whether regular containers were made in this sandbox: then a restarting sidecar is no return to Pending.
    let sandbox = input.observed.current_sandbox().map(|s| s.id.as_str());
    let initialized = spec::containers(input.pod).iter().any(|c| {
        let seen = input.observed.latest(&c.name);
        seen.is_some_and(|seen| Some(seen.sandbox_id.as_str()) == sandbox)
    });
    let phase = if count.init_failed_for_good > 0 {
        "Failed"
    } else if count.init_pending > 0
        || (count.sidecars_pending > 0 && !initialized)
        || count.waiting > 0
    {
        "Pending"
    } else if count.running > 0 && count.unknown == 0 {
        "Running"
    } else if count.running == 0 && count.stopped > 0 && count.unknown == 0 {
        let final_stop = input.terminated && !spec::is_static(input.pod);
        if !final_stop && count.stopped != count.stopped_for_good {
            "Running"
        } else if count.stopped == count.succeeded {
            "Succeeded"
        } else {
            "Failed"
        }
    } else {
        "Pending"
    };
    // What was stopped before it ever ran has failed.
    let unfinished = matches!(phase, "Pending" | "Running");
    if input.terminated && unfinished && !spec::is_static(input.pod) {
        return "Failed".to_owned();
    }
    phase.to_owned()
}

fn count(input: &Input<'_>, status: &PodStatus) -> Count {
    let pod_spec = spec::spec(input.pod);
    let mut count = Count::default();
    let find = |list: &Option<Vec<ContainerStatus>>, name: &str| -> Option<ContainerStatus> {
        list.iter().flatten().find(|s| s.name == name).cloned()
    };
    for container in spec::init_containers(input.pod) {
        let found = find(&status.init_container_statuses, &container.name);
        if spec::is_sidecar(container) {
            count.sidecar(found.as_ref());
        } else {
            count.init(found.as_ref(), container, input);
        }
    }
    for container in &pod_spec.containers {
        let Some(found) = find(&status.container_statuses, &container.name) else {
            count.unknown += 1;
            continue;
        };
        if is_running(&found) {
            count.running += 1;
        } else if let Some(end) = last_end(&found) {
            let code = end.exit_code;
            count.stopped += 1;
            let again = is_reset(end, input) || restart::should_restart(container, pod_spec, code);
            count.stopped_for_good += usize::from(!again);
            let ended = found.state.as_ref().is_some_and(|s| s.terminated.is_some());
            count.succeeded += usize::from(code == 0 && ended);
        } else {
            count.waiting += 1;
        }
    }
    count
}

impl Count {
    fn init(&mut self, found: Option<&ContainerStatus>, container: &Container, input: &Input<'_>) {
        match found.and_then(last_end) {
            _ if found.is_some_and(is_running) => self.init_pending += 1,
            None => self.init_pending += 1,
            Some(end) if end.exit_code == 0 || is_reset(end, input) => {}
            Some(end) => {
                let code = end.exit_code;
                let again = restart::should_restart(container, spec::spec(input.pod), code);
                self.init_failed_for_good += usize::from(!again);
                // It will run again: the pod is not initialized yet.
                self.init_pending += usize::from(again);
            }
        }
    }

    fn sidecar(&mut self, found: Option<&ContainerStatus>) {
        let Some(found) = found else {
            self.unknown += 1;
            return;
        };
        if is_running(found) {
            self.running += 1;
            self.sidecars_pending += usize::from(found.started != Some(true));
        } else if last_end(found).is_none() {
            self.sidecars_pending += 1;
            self.waiting += 1;
        }
    }
}
