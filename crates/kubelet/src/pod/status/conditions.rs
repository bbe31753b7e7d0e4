//! The conditions of a pod that the kubelet owns.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};

use crate::pod::plan;
use crate::pod::restart_all;
use crate::pod::spec;
use crate::pod::status::{Input, condition, seconds};

/// The kinds that the kubelet writes; all others belong to somebody else and are kept.
pub const OWNED: [&str; 8] = [
    "PodScheduled",
    "Ready",
    "Initialized",
    "ContainersReady",
    "PodReadyToStartContainers",
    "PodResizePending",
    "PodResizeInProgress",
    restart_all::CONDITION,
];

/// What one condition says.
struct Verdict {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    const YES: Self = Self {
        holds: true,
        reason: None,
        message: None,
    };

    fn no(reason: &'static str, message: Option<String>) -> Self {
        Self {
            holds: false,
            reason: Some(reason),
            message,
        }
    }
}

/// Adds the conditions to a status whose containers and phase are known.
pub fn fill(input: &Input<'_>, status: &mut PodStatus) {
    let api_conditions = input
        .pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_ref());
    let foreign = api_conditions.into_iter().flatten();
    let mut list: Vec<PodCondition> = foreign
        .filter(|c| !OWNED.contains(&c.type_.as_str()) && c.type_ != "DisruptionTarget")
        .cloned()
        .collect();
    let disruption = condition(input.old.conditions.as_ref(), "DisruptionTarget")
        .or_else(|| condition(api_conditions, "DisruptionTarget"));
    list.extend(disruption.cloned());
    if disruption.is_none()
        && let Some(evicted) = input.failure.filter(|f| f.reason == "Evicted")
    {
        let verdict = Verdict {
            holds: true,
            reason: Some("TerminationByKubelet"),
            message: Some(evicted.message.clone()),
        };
        list.push(make(input, "DisruptionTarget", verdict));
    }
    let (needs_sandbox, _) = plan::sandbox_changed(input.pod, input.observed);
    let sandbox = Verdict {
        holds: !needs_sandbox,
        reason: None,
        message: None,
    };
    let containers_ready = containers_ready(input, status);
    let ready = if containers_ready.holds {
        gates(input, &list)
    } else {
        Verdict {
            holds: false,
            reason: containers_ready.reason,
            message: containers_ready.message.clone(),
        }
    };
    let initialized = initialized(input, status);
    for (kind, verdict) in [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict::YES),
    ] {
        list.push(make(input, kind, verdict));
    }
    if restart_all::is_possible(input.pod) {
        let verdict = all_restarting(input, status);
        list.push(make(input, restart_all::CONDITION, verdict));
    }
    status.conditions = Some(list);
}

fn all_restarting(input: &Input<'_>, status: &PodStatus) -> Verdict {
    match status.phase.as_deref() {
        Some("Succeeded") => Verdict::no("PodCompleted", None),
        Some("Failed") => Verdict::no("PodFailed", None),
        _ if restart_all::is_due(input.pod, input.observed) => Verdict {
            holds: true,
            reason: Some("RestartAllContainersStarted"),
            message: Some("container exited with restart policy rule".to_owned()),
        },
        _ => Verdict {
            holds: false,
            reason: None,
            message: None,
        },
    }
}

fn make(input: &Input<'_>, kind: &str, verdict: Verdict) -> PodCondition {
    let word = if verdict.holds { "True" } else { "False" };
    let api_conditions = input
        .pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_ref());
    let old = condition(input.old.conditions.as_ref(), kind)
        .or_else(|| condition(api_conditions, kind))
        .filter(|old| old.status == word);
    PodCondition {
        type_: kind.to_owned(),
        status: word.to_owned(),
        reason: verdict.reason.map(ToOwned::to_owned),
        message: verdict.message,
        last_probe_time: None,
        last_transition_time: old
            .and_then(|old| old.last_transition_time.clone())
            .or_else(|| Some(seconds(input.now))),
        observed_generation: input.pod.metadata.generation,
    }
}

fn named<'a>(list: Option<&'a Vec<ContainerStatus>>, name: &str) -> Option<&'a ContainerStatus> {
    list?.iter().find(|s| s.name == name)
}

fn containers_ready(input: &Input<'_>, status: &PodStatus) -> Verdict {
    let mut unknown = Vec::new();
    let mut unready = Vec::new();
    let sidecars = spec::init_containers(input.pod)
        .iter()
        .filter(|c| spec::is_sidecar(c))
        .map(|c| (c, status.init_container_statuses.as_ref()));
    let regular = spec::containers(input.pod)
        .iter()
        .map(|c| (c, status.container_statuses.as_ref()));
    for (container, list) in sidecars.chain(regular) {
        match named(list, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    match status.phase.as_deref() {
        Some("Succeeded") if unknown.is_empty() => return Verdict::no("PodCompleted", None),
        Some("Failed") => return Verdict::no("PodFailed", None),
        _ => {}
    }
    match names("unready", &unknown, &unready) {
        Some(message) => Verdict::no("ContainersNotReady", Some(message)),
        None => Verdict::YES,
    }
}

/// `containers with unknown status: [a b], containers with unready status: [c]`.
fn names(adjective: &str, unknown: &[&str], rest: &[&str]) -> Option<String> {
    let part = |word: &str, list: &[&str]| {
        (!list.is_empty()).then(|| format!("containers with {word} status: [{}]", list.join(" ")))
    };
    let parts: Vec<String> = [part("unknown", unknown), part(adjective, rest)]
        .into_iter()
        .flatten()
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn initialized(input: &Input<'_>, status: &PodStatus) -> Verdict {
    let mut unknown = Vec::new();
    let mut incomplete = Vec::new();
    for container in spec::init_containers(input.pod) {
        let found = named(status.init_container_statuses.as_ref(), &container.name);
        let done = found.map(|s| {
            if spec::is_sidecar(container) {
                s.started == Some(true)
            } else {
                s.ready
            }
        });
        match done {
            None => unknown.push(container.name.as_str()),
            Some(false) => incomplete.push(container.name.as_str()),
            Some(true) => {}
        }
    }
    if status.phase.as_deref() == Some("Succeeded") && unknown.is_empty() {
        return Verdict {
            reason: Some("PodCompleted"),
            ..Verdict::YES
        };
    }
    let regular_started = status.container_statuses.iter().flatten().any(|s| {
        s.started == Some(true)
            || s.state
                .as_ref()
                .is_some_and(|s| s.running.is_some() || s.terminated.is_some())
            || s.last_state
                .as_ref()
                .is_some_and(|s| s.terminated.is_some())
    });
    if regular_started {
        return Verdict::YES;
    }
    match names("incomplete", &unknown, &incomplete) {
        Some(message) => Verdict::no("ContainersNotInitialized", Some(message)),
        None => Verdict::YES,
    }
}

/// The readiness gates of the pod, judged by the conditions that others wrote.
fn gates(input: &Input<'_>, foreign: &[PodCondition]) -> Verdict {
    let gates = spec::spec(input.pod).readiness_gates.iter().flatten();
    let mut messages = Vec::new();
    for gate in gates {
        let kind = &gate.condition_type;
        match foreign.iter().find(|c| c.type_ == *kind) {
            None => messages.push(format!(
                "corresponding condition of pod readiness gate {kind:?} does not exist."
            )),
            Some(c) if c.status != "True" => messages.push(format!(
                "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                c.status
            )),
            Some(_) => {}
        }
    }
    if messages.is_empty() {
        Verdict::YES
    } else {
        Verdict::no("ReadinessGatesNotReady", Some(messages.join(", ")))
    }
}
