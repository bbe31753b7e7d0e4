//! Starting all containers of a pod anew, in place, because one of them ended in a way for which its rules say so
//! (`RestartAllContainers`).
//!
//! All containers are ended and removed, the one that asked for it last: as long as it is there, the work goes on, whatever
//! happens in between. Then the pod starts as it did at first, in the same sandbox and with the same volumes.

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};

use crate::pod::observed::{ObservedContainer, ObservedPod, State};
use crate::pod::plan::Step;
use crate::pod::restart;
use crate::pod::spec;
use crate::pod::status::condition;

/// What a node declares whose kubelet can do this.
pub const FEATURE: &str = "RestartAllContainersOnContainerExits";
/// The condition that says that it is being done.
pub const CONDITION: &str = "AllContainersRestarting";
/// The reason that removed containers show.
pub const REASON: &str = "RestartingAllContainers";
/// The sentence that they show.
pub const MESSAGE: &str = "The container is removed because RestartAllContainers in place";

/// Whether the rules of any container of the pod may ask for it.
#[must_use]
pub fn is_possible(pod: &Pod) -> bool {
    spec::lasting_containers(pod).any(restart::may_restart_all)
}

fn asks(container: &Container, seen: &ObservedContainer) -> bool {
    seen.state == State::Exited && restart::restarts_all(container, seen.exit_code)
}

/// Whether a container has ended that asks for it, and is still there.
#[must_use]
pub fn is_due(pod: &Pod, observed: &ObservedPod) -> bool {
    // Asked for each container of each status: most pods have no such rule.
    let mut able = spec::lasting_containers(pod).filter(|c| restart::may_restart_all(c));
    able.any(|c| observed.latest(&c.name).is_some_and(|seen| asks(c, seen)))
}

/// Whether it is due, or was when `last` was made.
#[must_use]
pub fn is_under_way(pod: &Pod, observed: &ObservedPod, last: &PodStatus) -> bool {
    is_due(pod, observed) || is_told(last)
}

/// Whether a status says that it is being done.
#[must_use]
pub fn is_told(status: &PodStatus) -> bool {
    let said = condition(status.conditions.as_ref(), CONDITION);
    said.is_some_and(|said| said.status == "True")
}

/// What is to be done when it is due: nothing else is before that.
#[must_use]
pub fn steps(pod: &Pod, observed: &ObservedPod) -> Vec<Step> {
    if !is_due(pod, observed) {
        return Vec::new();
    }
    let mut steps = Vec::new();
    for sources in [false, true] {
        for container in spec::lasting_containers(pod) {
            let all = observed.containers.iter();
            let named = all.filter(|seen| seen.name == container.name);
            let chosen = named.filter(|seen| asks(container, seen) == sources);
            steps.extend(chosen.map(|seen| Step::Reset {
                id: seen.id.clone(),
            }));
        }
    }
    steps
}
