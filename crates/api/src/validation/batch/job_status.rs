//! The status of a Job, as its controller writes it.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{Job, JobStatus};

use super::job::{bare_invalid, count_indexes, is_indexed};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{items, set, text};
use crate::validation::values::json;
use crate::validation::workload::counts;

fn is_true(status: &JobStatus, kind: &str) -> bool {
    items(&status.conditions)
        .iter()
        .any(|c| c.type_ == kind && c.status == "True")
}

/// What is wrong with the new status of a Job.
#[must_use]
pub fn validate_job_status_update(new: &Job, old: &Job) -> ErrorList {
    let mut errors = ErrorList::new();
    let (path, none) = (Path::new("status"), JobStatus::default());
    let status = new.status.as_ref().unwrap_or(&none);
    let old_status = old.status.as_ref().unwrap_or(&none);
    counts(
        &mut errors,
        &[
            ("active", status.active.unwrap_or(0).into()),
            ("succeeded", status.succeeded.unwrap_or(0).into()),
            ("failed", status.failed.unwrap_or(0).into()),
            ("ready", status.ready.unwrap_or(0).into()),
            ("terminating", status.terminating.unwrap_or(0).into()),
        ],
        &path,
    );
    uncounted(&mut errors, status, &path);
    finish(&mut errors, status, &path);
    indexes(&mut errors, new, status, &path);
    criteria(&mut errors, new, status, &path);
    changes(&mut errors, new, status, old_status, &path);
    errors
}

fn uncounted(errors: &mut ErrorList, status: &JobStatus, path: &Path) {
    let Some(pods) = &status.uncounted_terminated_pods else {
        return;
    };
    let path = path.child("uncountedTerminatedPods");
    let mut seen = BTreeSet::new();
    for (name, list) in [("succeeded", &pods.succeeded), ("failed", &pods.failed)] {
        for (index, uid) in items(list).iter().enumerate() {
            let path = path.child(name).index(index);
            if uid.is_empty() {
                errors.push(FieldError::invalid(&path, uid, "must not be empty"));
            } else if !seen.insert(uid.as_str()) {
                errors.push(FieldError::duplicate(&path, uid));
            }
        }
    }
}

fn finish(errors: &mut ErrorList, status: &JobStatus, path: &Path) {
    let (complete, failed) = (is_true(status, "Complete"), is_true(status, "Failed"));
    let (conditions, time) = (path.child("conditions"), path.child("completionTime"));
    for (wrong, detail) in [
        (
            complete && failed,
            "cannot set Complete=True and Failed=true conditions",
        ),
        (
            complete && is_true(status, "FailureTarget"),
            "cannot set Complete=True and FailureTarget=true conditions",
        ),
    ] {
        if wrong {
            errors.push(bare_invalid(&conditions, detail));
        }
    }
    match (&status.completion_time, complete) {
        (Some(at), false) => errors.push(FieldError::invalid(
            &time,
            json(at),
            "cannot set completionTime when there is no Complete=True condition",
        )),
        (None, true) => errors.push(FieldError::required(
            &time,
            "completionTime is required for Complete jobs",
        )),
        _ => {}
    }
    if let (Some(start), Some(end)) = (&status.start_time, &status.completion_time)
        && end.0 < start.0
    {
        let detail = "must be equal to or after `startTime`";
        errors.push(FieldError::invalid(&time, json(end), detail));
    }
    for (wrong, detail) in [
        (
            failed && !is_true(status, "FailureTarget"),
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            complete && !is_true(status, "SuccessCriteriaMet"),
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
    ] {
        if wrong {
            errors.push(bare_invalid(&conditions, detail));
        }
    }
    if !complete && !failed {
        return;
    }
    let active = status.active.unwrap_or(0);
    if active > 0 {
        let detail = "active>0 is invalid for finished job";
        errors.push(FieldError::invalid(&path.child("active"), active, detail));
    }
    if status.start_time.is_none() {
        let detail = "startTime is required for finished job";
        errors.push(FieldError::required(&path.child("startTime"), detail));
    }
    if let Some(pods) = &status.uncounted_terminated_pods
        && items(&pods.failed).len() + items(&pods.succeeded).len() > 0
    {
        let path = path.child("uncountedTerminatedPods");
        errors.push(FieldError::invalid(
            &path,
            json(pods),
            "must be empty for finished job",
        ));
    }
}

fn indexes(errors: &mut ErrorList, job: &Job, status: &JobStatus, path: &Path) {
    let spec = job.spec.clone().unwrap_or_default();
    let (completed, failed) = (text(&status.completed_indexes), &status.failed_indexes);
    let (completed_path, failed_path) =
        (path.child("completedIndexes"), path.child("failedIndexes"));
    if let Some(completions) = spec.completions {
        if let Err(error) = count_indexes(completed, completions) {
            let detail = format!("error parsing completedIndexes: {error}");
            errors.push(FieldError::invalid(&completed_path, completed, &detail));
        }
        if let Some(failed) = failed
            .as_ref()
            .filter(|_| spec.backoff_limit_per_index.is_some())
            && let Err(error) = count_indexes(failed, completions)
        {
            let detail = format!("error parsing failedIndexes: {error}");
            errors.push(FieldError::invalid(&failed_path, failed, &detail));
        }
    }
    if !completed.is_empty() && !is_indexed(&spec) {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(FieldError::invalid(&completed_path, completed, detail));
    }
    if let Some(failed) = failed {
        if spec.backoff_limit_per_index.is_none() {
            let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            errors.push(FieldError::invalid(&failed_path, failed, detail));
        }
        if let Some(index) = overlap(completed, failed) {
            let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
            errors.push(FieldError::invalid(&failed_path, failed, &detail));
        }
    }
}

/// The first index that both texts name.
fn overlap(completed: &str, failed: &str) -> Option<u32> {
    let intervals = |text: &str| -> Vec<(u32, u32)> {
        let interval = |text: &str| match text.split_once('-') {
            Some((start, end)) => Some((start.parse().ok()?, end.parse().ok()?)),
            None => text.parse().ok().map(|only| (only, only)),
        };
        text.split(',').filter_map(interval).collect()
    };
    let completed = intervals(completed);
    let starts = intervals(failed).into_iter().flat_map(|(start, end)| {
        let overlapping = completed
            .iter()
            .filter(move |(a, b)| *a <= end && start <= *b);
        overlapping
            .map(move |(a, _)| start.max(*a))
            .collect::<Vec<_>>()
    });
    starts.min()
}

fn criteria(errors: &mut ErrorList, job: &Job, status: &JobStatus, path: &Path) {
    let (conditions, met) = (
        path.child("conditions"),
        is_true(status, "SuccessCriteriaMet"),
    );
    let finished = is_true(status, "Complete") || is_true(status, "Failed");
    if let Some(count) = status.terminating.filter(|count| *count > 0 && finished) {
        let detail = "terminating>0 is invalid for finished job";
        errors.push(FieldError::invalid(
            &path.child("terminating"),
            count,
            detail,
        ));
    }
    if let Some(ready) = status
        .ready
        .filter(|ready| *ready > status.active.unwrap_or(0))
    {
        let detail = "cannot set more ready pods than active";
        errors.push(FieldError::invalid(&path.child("ready"), ready, detail));
    }
    let policy = job
        .spec
        .as_ref()
        .is_some_and(|spec| spec.success_policy.is_some());
    for (wrong, detail) in [
        (
            met && is_true(status, "Failed"),
            "cannot set SuccessCriteriaMet=True and Failed=true conditions",
        ),
        (
            met && is_true(status, "FailureTarget"),
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
        (
            policy && !met && is_true(status, "Complete"),
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
    ] {
        if wrong {
            errors.push(bare_invalid(&conditions, detail));
        }
    }
}

fn changes(errors: &mut ErrorList, job: &Job, status: &JobStatus, old: &JobStatus, path: &Path) {
    let conditions = path.child("conditions");
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is_true(old, kind) && !is_true(status, kind) {
            let detail = format!("cannot disable the terminal {kind}=True condition");
            errors.push(bare_invalid(&conditions, &detail));
        }
    }
    for (name, new, old) in [
        ("failed", status.failed, old.failed),
        ("succeeded", status.succeeded, old.succeeded),
    ] {
        let new = new.unwrap_or(0);
        if new < old.unwrap_or(0) {
            let detail = format!("cannot decrease the {name} counter");
            errors.push(FieldError::invalid(&path.child(name), new, &detail));
        }
    }
    if let (Some(new), Some(old)) = (&status.completion_time, &old.completion_time)
        && new != old
    {
        let path = path.child("completionTime");
        errors.push(FieldError::invalid(&path, json(new), "field is immutable"));
    }
    let suspended = job.spec.as_ref().is_some_and(|spec| set(spec.suspend));
    if old.start_time.is_some() && old.start_time != status.start_time && !suspended {
        let path = path.child("startTime");
        let detail = "field is immutable for unsuspended job once set";
        errors.push(FieldError::invalid(&path, json(&status.start_time), detail));
    }
    let (met, was_met) = (
        is_true(status, "SuccessCriteriaMet"),
        is_true(old, "SuccessCriteriaMet"),
    );
    if was_met && !met {
        let detail = "cannot disable the SuccessCriteriaMet=True condition";
        errors.push(bare_invalid(&conditions, detail));
    }
    if is_true(old, "Complete") && !was_met && met {
        let detail =
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.push(bare_invalid(&conditions, detail));
    }
}
