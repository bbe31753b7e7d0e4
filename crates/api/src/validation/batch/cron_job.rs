//! CronJobs.

use k8s_openapi::api::batch::v1::{CronJob, JobSpec};

use super::job::{spec_warnings, template_spec};
use crate::cron_schedule::{Schedule, is_zone};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{set, text};
use crate::validation::meta::shown_selector;
use crate::validation::values::{non_negative, required_one_of};
use crate::validation::workload::name_warnings;

/// Room for the time that jobs' names end with.
const NAME_MAX: usize = 52;

/// What is wrong with a new CronJob, its metadata aside but for the length of its name.
#[must_use]
pub fn validate_cron_job(job: &CronJob) -> ErrorList {
    let mut errors = ErrorList::new();
    spec(&mut errors, job, None);
    let name = text(&job.metadata.name);
    if name.len() > NAME_MAX {
        let path = Path::new("metadata").child("name");
        let detail = format!("must be no more than {NAME_MAX} characters");
        errors.push(FieldError::invalid(&path, name, &detail));
    }
    errors
}

/// What is wrong with a changed CronJob, its metadata aside.
#[must_use]
pub fn validate_cron_job_update(new: &CronJob, old: &CronJob) -> ErrorList {
    let mut errors = ErrorList::new();
    spec(&mut errors, new, Some(old));
    errors
}

fn spec(errors: &mut ErrorList, job: &CronJob, old: Option<&CronJob>) {
    let (spec, path) = (&job.spec, Path::new("spec"));
    let old = old.map(|old| &old.spec);
    let schedule_path = path.child("schedule");
    if spec.schedule.is_empty() {
        errors.push(FieldError::required(&schedule_path, ""));
    } else {
        let zone_allowed = old.is_some_and(|old| old.schedule.contains("TZ"));
        schedule(
            errors,
            &spec.schedule,
            zone_allowed,
            &spec.time_zone,
            &schedule_path,
        );
    }
    if let Some(seconds) = spec.starting_deadline_seconds {
        non_negative(errors, &path.child("startingDeadlineSeconds"), seconds);
    }
    if old.is_none_or(|old| old.time_zone != spec.time_zone)
        && let Some(zone) = &spec.time_zone
    {
        time_zone(errors, zone, &path.child("timeZone"));
    }
    required_one_of(
        errors,
        &path.child("concurrencyPolicy"),
        text(&spec.concurrency_policy),
        &["Allow", "Forbid", "Replace"],
    );
    let none = JobSpec::default();
    let template = spec.job_template.spec.as_ref().unwrap_or(&none);
    let old_template = old
        .and_then(|old| old.job_template.spec.as_ref())
        .map(|spec| &spec.template);
    let template_path = path.child("jobTemplate").child("spec");
    template_spec(errors, template, old_template, &template_path);
    if let Some(selector) = &template.selector {
        errors.push(FieldError::invalid(
            &template_path.child("selector"),
            shown_selector(Some(selector)),
            "`selector` will be auto-generated",
        ));
    }
    if set(template.manual_selector) {
        let path = template_path.child("manualSelector");
        errors.push(FieldError::not_supported(&path, true, &["nil", "false"]));
    }
    for (name, limit) in [
        (
            "successfulJobsHistoryLimit",
            spec.successful_jobs_history_limit,
        ),
        ("failedJobsHistoryLimit", spec.failed_jobs_history_limit),
    ] {
        non_negative(errors, &path.child(name), limit.unwrap_or(0));
    }
}

fn schedule(
    errors: &mut ErrorList,
    schedule: &str,
    zone_allowed: bool,
    zone: &Option<String>,
    path: &Path,
) {
    if let Err(error) = Schedule::parse(schedule) {
        errors.push(FieldError::invalid(path, schedule, &error));
    }
    if !schedule.contains("TZ") {
        return;
    }
    let detail = match (zone_allowed, zone) {
        (true, None) => return,
        (true, Some(_)) => "cannot use both timeZone field and TZ or CRON_TZ in schedule",
        (false, _) => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
    };
    errors.push(FieldError::invalid(path, schedule, detail));
}

fn time_zone(errors: &mut ErrorList, zone: &str, path: &Path) {
    if zone.is_empty() {
        let detail = "timeZone must be nil or non-empty string";
        errors.push(FieldError::invalid(path, zone, detail));
        return;
    }
    let plain = |part: &str| {
        (1..=14).contains(&part.len())
            && !matches!(part, "." | "..")
            && !part.starts_with('-')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || ".-_+".contains(c))
    };
    let unknown = format!("unknown time zone {zone}");
    if !zone.split('/').all(plain) {
        errors.push(FieldError::invalid(path, zone, &unknown));
    } else if zone.eq_ignore_ascii_case("Local") {
        errors.push(FieldError::invalid(
            path,
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        ));
        if zone != "Local" {
            errors.push(FieldError::invalid(path, zone, &unknown));
        }
    } else if !is_zone(zone) {
        errors.push(FieldError::invalid(path, zone, &unknown));
    }
}

/// What the client is told about a CronJob.
#[must_use]
pub fn warnings_cron_job(new: &CronJob, old: Option<&CronJob>) -> Vec<String> {
    let path = Path::new("spec").child("jobTemplate").child("spec");
    let template = new.spec.job_template.spec.as_ref();
    let own = template
        .map(|spec| spec_warnings(spec, &path))
        .unwrap_or_default();
    let mut warnings = match old {
        None => return [name_warnings(&new.metadata.name), own].concat(),
        Some(old) if old.metadata.generation == new.metadata.generation => Vec::new(),
        Some(_) => own,
    };
    if new.spec.schedule.contains("TZ") {
        // The path is upstream's, "spec" twice.
        warnings.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn texts(more: Value) -> Vec<String> {
        let mut spec = json!({"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "OnFailure", "containers": [{"name": "a", "image": "a:1"}]}}}}});
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        let document = json!({"metadata": {"name": "j"}, "spec": spec});
        let mut job: CronJob = serde_json::from_value(document).unwrap_or_default();
        crate::defaults::batch::default_cron_job(&mut job);
        validate_cron_job(&job)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_time_zone_in_the_schedule_is_warned_of_on_updates() {
        let job: CronJob = serde_json::from_value(json!({"metadata": {"name": "j"},
            "spec": {"schedule": "TZ=UTC * * * * *", "jobTemplate": {}}}))
        .unwrap_or_default();
        assert!(warnings_cron_job(&job, None).is_empty());
        let warnings = warnings_cron_job(&job, Some(&job));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with("cannot use TZ or CRON_TZ in spec.spec.schedule,"));
    }

    #[test]
    fn table() {
        let table: [(Value, &[&str]); 4] = [
            (json!({}), &[]),
            (json!({"schedule": ""}), &["spec.schedule: Required value"]),
            (
                json!({"schedule": "TZ=UTC * * * * *", "timeZone": "Nowhere/Here"}),
                &[
                    "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
                    "spec.timeZone: Invalid value: \"Nowhere/Here\": unknown time zone Nowhere/Here",
                ],
            ),
            (
                json!({"concurrencyPolicy": "Maybe", "failedJobsHistoryLimit": -1}),
                &[
                    "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
                    "spec.failedJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
        ];
        for (more, expected) in table {
            assert_eq!(texts(more.clone()), expected, "{more}");
        }
    }
}
