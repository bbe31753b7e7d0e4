//! The status that the API shows of a pod: a pure function from its spec, its last status and what runs.

pub mod conditions;
pub mod containers;
pub mod patch;
pub mod phase;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{HostIP, Pod, PodCondition, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pod::observed::ObservedPod;
use crate::pod::plan::{Verdicts, Waiting};
use crate::pod::resources;
use crate::pod::spec;

/// Everything that a status is made from.
pub struct Input<'a> {
    /// The pod as the API (or a file) has it.
    pub pod: &'a Pod,
    /// The last status that was made, or the API's.
    pub old: &'a PodStatus,
    /// What the runtime knows.
    pub observed: &'a ObservedPod,
    /// Probe results by container id.
    pub probes: &'a BTreeMap<String, Verdicts>,
    /// Why containers do not run, by name.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// Everything of the pod has stopped and nothing will start.
    pub terminated: bool,
    /// A verdict from outside (evicted, deadline exceeded, refused): reason and message of a failed pod.
    pub failure: Option<&'a Waiting>,
    /// The node's addresses.
    pub host_ips: &'a [String],
    /// The name of the runtime, for container ids.
    pub runtime: &'a str,
    /// The wall clock.
    pub now: Timestamp,
}

/// Makes the status.
#[must_use]
pub fn generate(input: &Input<'_>) -> PodStatus {
    let pod = input.pod;
    let mut status = PodStatus {
        qos_class: Some(resources::qos_class(pod).as_str().to_owned()),
        start_time: input.old.start_time.clone().or(Some(seconds(input.now))),
        observed_generation: pod.metadata.generation,
        nominated_node_name: input.old.nominated_node_name.clone(),
        resource_claim_statuses: input.old.resource_claim_statuses.clone(),
        ..PodStatus::default()
    };
    if never_taken(input) {
        // Upstream says why, and no more.
        decide_phase(input, &mut status);
        return status;
    }
    status.container_statuses = non_empty(containers::regular(input));
    status.init_container_statuses = non_empty(containers::init(input));
    status.ephemeral_container_statuses = non_empty(containers::ephemeral(input));
    addresses(input, &mut status);
    decide_phase(input, &mut status);
    conditions::fill(input, &mut status);
    status
}

/// Whether the pod failed before the node began with it: it was refused.
fn never_taken(input: &Input<'_>) -> bool {
    let over = input.failure.is_some() || spec::phase_is_terminal(input.pod);
    let nothing = input.observed.sandboxes.is_empty() && input.observed.containers.is_empty();
    over && nothing && input.old.container_statuses.is_none()
}

/// The phase, and the words that belong to it.
fn decide_phase(input: &Input<'_>, status: &mut PodStatus) {
    let computed = phase::phase(input, status);
    let api = input.pod.status.as_ref();
    let settled = [
        api.and_then(|s| s.phase.as_deref()),
        input.old.phase.as_deref(),
    ];
    let settled = settled
        .into_iter()
        .flatten()
        .find(|p| matches!(*p, "Succeeded" | "Failed"));
    // A pod never leaves a terminal phase.
    let mut phase = settled.map_or(computed, ToOwned::to_owned);
    if input.old.phase.as_deref() == Some(&phase) {
        let or_api = |old: &Option<String>, api: Option<&String>| old.clone().or(api.cloned());
        status.reason = or_api(&input.old.reason, api.and_then(|s| s.reason.as_ref()));
        status.message = or_api(&input.old.message, api.and_then(|s| s.message.as_ref()));
    }
    if let Some(failure) = input.failure.filter(|_| settled.is_none()) {
        "Failed".clone_into(&mut phase);
        status.reason = Some(failure.reason.clone());
        status.message = Some(failure.message.clone());
    }
    status.phase = Some(phase);
}

fn addresses(input: &Input<'_>, status: &mut PodStatus) {
    let host_ips = input.host_ips;
    let pod_ips: Vec<String> = if spec::host_network(input.pod) {
        host_ips.to_vec()
    } else {
        let sandbox = input.observed.sandboxes.iter().find(|s| s.ready);
        sandbox.map(|s| s.ips.clone()).unwrap_or_default()
    };
    // The last known addresses stay when the sandbox is down, until another one is there.
    let old_ips = input.old.pod_ips.iter().flatten();
    let any_ready = input.observed.sandboxes.iter().any(|s| s.ready);
    let pod_ips = if pod_ips.is_empty() && !any_ready {
        old_ips.map(|ip| ip.ip.clone()).collect()
    } else {
        pod_ips
    };
    status.pod_ip = pod_ips.first().cloned();
    status.pod_ips = non_empty(pod_ips.into_iter().map(|ip| PodIP { ip }).collect());
    status.host_ip = host_ips.first().cloned();
    let host_ips = host_ips.iter().map(|ip| HostIP { ip: ip.clone() });
    status.host_ips = non_empty(host_ips.collect());
}

fn non_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// A time as the API keeps it: whole seconds.
#[must_use]
pub fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// A condition of a list by its type.
#[must_use]
pub fn condition<'a>(list: Option<&'a Vec<PodCondition>>, kind: &str) -> Option<&'a PodCondition> {
    list?.iter().find(|c| c.type_ == kind)
}

#[cfg(test)]
mod tests;
