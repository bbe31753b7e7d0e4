//! Defaults of the batch group.

use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec};

use super::core::default_pod_template_spec;
use crate::validation::absent::{count, default_text, default_value, set, text};

/// A Job: one pod that has to succeed, six retries.
pub fn default_job(job: &mut Job) {
    let spec = job.spec.get_or_insert_with(Default::default);
    if spec.completions.is_none() && spec.parallelism.is_none() {
        spec.completions = Some(1);
    }
    default_value(&mut spec.parallelism, 1);
    let retries = if spec.backoff_limit_per_index.is_some() {
        i32::MAX
    } else {
        6
    };
    default_value(&mut spec.backoff_limit, retries);
    let labels = spec
        .template
        .metadata
        .as_ref()
        .and_then(|meta| meta.labels.clone());
    if count(&job.metadata.labels) == 0 && labels.is_some() {
        job.metadata.labels = labels;
    }
    default_value(&mut spec.completion_mode, "NonIndexed".into());
    default_value(&mut spec.suspend, false);
    let replacement = if spec.pod_failure_policy.is_some() {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    default_value(&mut spec.pod_replacement_policy, replacement.into());
    default_value(&mut spec.manual_selector, false);
    default_job_spec(spec);
    default_value(&mut job.status, Default::default());
}

/// What Jobs and the templates of CronJobs share.
fn default_job_spec(spec: &mut JobSpec) {
    if let Some(policy) = &mut spec.pod_failure_policy {
        let rules = policy.rules.iter_mut();
        for pattern in rules.flat_map(|rule| rule.on_pod_conditions.iter_mut().flatten()) {
            default_text(&mut pattern.status, "True");
        }
    }
    default_pod_template_spec(&mut spec.template);
}

/// A CronJob: jobs may overlap, a few are kept.
pub fn default_cron_job(job: &mut CronJob) {
    let spec = &mut job.spec;
    default_text(&mut spec.concurrency_policy, "Allow");
    default_value(&mut spec.suspend, false);
    default_value(&mut spec.successful_jobs_history_limit, 3);
    default_value(&mut spec.failed_jobs_history_limit, 1);
    default_value(&mut spec.job_template.metadata, Default::default());
    default_job_spec(spec.job_template.spec.get_or_insert_with(Default::default));
    default_value(&mut job.status, Default::default());
}

/// Gives a new Job its selector, unless its author chose one: the job's uid, which its pods carry as a label. To
/// be called once the uid is there, before validation.
pub fn generate_job_selector(job: &mut Job) {
    let (name, uid) = (
        text(&job.metadata.name).to_owned(),
        text(&job.metadata.uid).to_owned(),
    );
    let spec = job.spec.get_or_insert_with(Default::default);
    if set(spec.manual_selector) {
        return;
    }
    let meta = spec.template.metadata.get_or_insert_with(Default::default);
    let labels = meta.labels.get_or_insert_with(Default::default);
    for (key, value) in [
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        (CONTROLLER_UID, &uid),
    ] {
        labels
            .entry(key.to_owned())
            .or_insert_with(|| value.clone());
    }
    let selector = spec.selector.get_or_insert_with(Default::default);
    let selected = selector.match_labels.get_or_insert_with(Default::default);
    selected.entry(CONTROLLER_UID.to_owned()).or_insert(uid);
    if count(&job.metadata.labels) == 0 {
        job.metadata.labels = Some(labels.clone());
    }
}

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
