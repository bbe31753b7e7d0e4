//! A Deployment's status: counts, and the conditions that `kubectl rollout status` waits for. Pure.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::deployment_plan::{Shape, wanted};

/// What the status is computed from.
pub struct Facts<'a> {
    pub shape: &'a Shape,
    pub all: &'a [&'a ReplicaSet],
    pub new: Option<&'a ReplicaSet>,
    pub now: &'a Time,
}

pub fn has_deadline(deployment: &Deployment) -> bool {
    deadline(deployment).is_some()
}

fn deadline(deployment: &Deployment) -> Option<i64> {
    let spec = deployment.spec.as_ref()?;
    let seconds = spec.progress_deadline_seconds?;
    (seconds != i32::MAX).then(|| i64::from(seconds))
}

pub fn find<'a>(deployment: &'a Deployment, type_: &str) -> Option<&'a DeploymentCondition> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|found| found.type_ == type_)
}

fn set(conditions: &mut Vec<DeploymentCondition>, mut new: DeploymentCondition) {
    if let Some(old) = conditions.iter().find(|found| found.type_ == new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time
                .clone_from(&old.last_transition_time);
        }
    }
    conditions.retain(|found| found.type_ != new.type_);
    conditions.push(new);
}

fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    text: &str,
    now: &Time,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(text.to_owned()),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
    }
}

/// Sets the condition Progressing, unless it says the same already.
pub fn set_progressing(
    deployment: &mut Deployment,
    status: &str,
    reason: &str,
    text: &str,
    now: &Time,
) {
    let conditions = deployment
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    set(
        conditions,
        condition("Progressing", status, reason, text, now),
    );
}

/// Tells that the Deployment was paused or goes on, so that the time in between counts for no deadline.
pub fn note_pause(deployment: &mut Deployment, paused: bool, now: &Time) {
    if !has_deadline(deployment) {
        return;
    }
    let reason = find(deployment, "Progressing").and_then(|found| found.reason.clone());
    match (paused, reason.as_deref()) {
        (_, Some("ProgressDeadlineExceeded")) | (true, Some("DeploymentPaused")) => {}
        (true, _) => {
            let text = "Deployment is paused";
            set_progressing(deployment, "Unknown", "DeploymentPaused", text, now);
        }
        (false, Some("DeploymentPaused")) => {
            let text = "Deployment is resumed";
            set_progressing(deployment, "Unknown", "DeploymentResumed", text, now);
        }
        (false, _) => {}
    }
}

/// Whether all replicas are of the current template and available, and no others are left.
pub fn is_complete(deployment: &Deployment) -> bool {
    let replicas = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    status.updated_replicas.unwrap_or(0) == replicas
        && status.replicas.unwrap_or(0) == replicas
        && status.available_replicas.unwrap_or(0) == replicas
        && status.observed_generation >= deployment.metadata.generation
}

/// Puts the new status into `deployment`; answers when to look again though nothing changes, so that a
/// rollout that is stuck is told of in time.
pub fn compute(deployment: &mut Deployment, facts: &Facts, rollout: bool) -> Option<Duration> {
    let old = deployment.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let mut status = counts(deployment, &old, facts);
    availability(&mut conditions, &status, facts);
    if rollout {
        status.conditions = Some(std::mem::take(&mut conditions));
        deployment.status = Some(status);
        progress(deployment, &old, facts);
        failures(deployment, facts);
    } else {
        status.conditions = Some(conditions);
        deployment.status = Some(status);
    }
    let status = deployment.status.get_or_insert_default();
    status.conditions = status.conditions.take().filter(|all| !all.is_empty());
    rollout.then(|| next_check(deployment, facts.now)).flatten()
}

fn counts(deployment: &Deployment, old: &DeploymentStatus, facts: &Facts) -> DeploymentStatus {
    let sum = |sets: &[&ReplicaSet], field: fn(&ReplicaSetStatus) -> i32| -> i32 {
        sets.iter()
            .filter_map(|set| set.status.as_ref())
            .map(field)
            .sum()
    };
    let some = |count: i32| (count != 0).then_some(count);
    let available = sum(facts.all, |status| status.available_replicas.unwrap_or(0));
    let total: i32 = facts.all.iter().map(|set| wanted(set)).sum();
    let updated: Vec<&ReplicaSet> = facts.new.into_iter().collect();
    let unknown = |set: &&&ReplicaSet| {
        let status = set.status.as_ref();
        status.is_some_and(|status| {
            status.observed_generation.unwrap_or(0) != 0 && status.terminating_replicas.is_none()
        })
    };
    let terminating = sum(facts.all, |status| status.terminating_replicas.unwrap_or(0));
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(facts.all, |status| status.replicas)),
        updated_replicas: some(sum(&updated, |status| status.replicas)),
        ready_replicas: some(sum(facts.all, |status| status.ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((total - available).max(0)),
        terminating_replicas: (!facts.all.iter().any(|set| unknown(&set))).then_some(terminating),
        collision_count: old.collision_count,
        conditions: None,
    }
}

fn availability(
    conditions: &mut Vec<DeploymentCondition>,
    status: &DeploymentStatus,
    facts: &Facts,
) {
    let enough = status.available_replicas.unwrap_or(0)
        >= facts.shape.replicas - facts.shape.max_unavailable;
    let (value, reason, text) = if enough {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    set(
        conditions,
        condition("Available", value, reason, text, facts.now),
    );
}

fn progress(deployment: &mut Deployment, old: &DeploymentStatus, facts: &Facts) {
    let now = facts.now;
    let current = find(deployment, "Progressing").cloned();
    let complete = is_complete(deployment);
    let timed_out = has_timed_out(deployment, current.as_ref(), now);
    let has_deadline = has_deadline(deployment);
    let name = deployment.metadata.name.clone().unwrap_or_default();
    let subject = facts
        .new
        .and_then(|new| new.metadata.name.as_deref())
        .map_or_else(
            || format!("Deployment {name:?}"),
            |new| format!("ReplicaSet {new:?}"),
        );
    let status = deployment.status.get_or_insert_default();
    let settled = status.replicas == status.updated_replicas
        && current.as_ref().and_then(|found| found.reason.as_deref())
            == Some("NewReplicaSetAvailable");
    let progressed = has_progressed(old, status);
    let conditions = status.conditions.get_or_insert_default();
    if !has_deadline {
        conditions.retain(|found| found.type_ != "Progressing");
        return;
    }
    if settled {
        return;
    }
    let made = |status, reason, text: String| condition("Progressing", status, reason, &text, now);
    if complete {
        let text = format!("{subject} has successfully progressed.");
        set(conditions, made("True", "NewReplicaSetAvailable", text));
    } else if progressed {
        let mut new = made(
            "True",
            "ReplicaSetUpdated",
            format!("{subject} is progressing."),
        );
        if let Some(current) = current.filter(|found| found.status == "True") {
            new.last_transition_time = current.last_transition_time;
        }
        // Unlike other conditions, this one's time of update counts: it moves with every progress.
        conditions.retain(|found| found.type_ != "Progressing");
        conditions.push(new);
    } else if timed_out {
        let text = format!("{subject} has timed out progressing.");
        set(conditions, made("False", "ProgressDeadlineExceeded", text));
    }
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let number = |count: Option<i32>| count.unwrap_or(0);
    let outdated =
        |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(new.updated_replicas) > number(old.updated_replicas)
        || outdated(new) < outdated(old)
        || number(new.ready_replicas) > number(old.ready_replicas)
        || number(new.available_replicas) > number(old.available_replicas)
}

fn has_timed_out(
    deployment: &Deployment,
    current: Option<&DeploymentCondition>,
    now: &Time,
) -> bool {
    let (Some(deadline), Some(current)) = (deadline(deployment), current) else {
        return false;
    };
    match current.reason.as_deref() {
        Some("NewReplicaSetAvailable") => false,
        Some("ProgressDeadlineExceeded") => true,
        _ => {
            let since = current
                .last_update_time
                .as_ref()
                .map_or(0, |time| time.0.as_second());
            since.saturating_add(deadline) < now.0.as_second()
        }
    }
}

fn next_check(deployment: &Deployment, now: &Time) -> Option<Duration> {
    let deadline = deadline(deployment)?;
    let current = find(deployment, "Progressing")?;
    if is_complete(deployment) || current.reason.as_deref() == Some("ProgressDeadlineExceeded") {
        return None;
    }
    let since = current.last_update_time.as_ref()?.0.as_second();
    let left = since.saturating_add(deadline) - now.0.as_second();
    // One second more, so that the deadline has passed when we look.
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0) + 1))
}

/// Shows why a ReplicaSet cannot make its pods, the current one's reason first.
fn failures(deployment: &mut Deployment, facts: &Facts) {
    let failing = facts
        .new
        .into_iter()
        .chain(facts.all.iter().copied())
        .find_map(|set| {
            let conditions = set.status.as_ref()?.conditions.as_ref()?;
            conditions
                .iter()
                .find(|found| found.type_ == "ReplicaFailure")
        });
    let conditions = deployment
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    let Some(failing) = failing else {
        conditions.retain(|found| found.type_ != "ReplicaFailure");
        return;
    };
    let new = DeploymentCondition {
        type_: "ReplicaFailure".to_owned(),
        status: failing.status.clone(),
        reason: failing.reason.clone(),
        message: failing.message.clone(),
        last_update_time: failing.last_transition_time.clone(),
        last_transition_time: failing.last_transition_time.clone(),
    };
    set(conditions, new);
}
