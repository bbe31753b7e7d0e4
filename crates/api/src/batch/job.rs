//! `Job` (batch/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed, WriteContext};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "batch",
    version: "v1",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    short_names: &[],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("batch", "v1", "Job")],
    storage: "/registry/jobs",
    columns: COLUMNS,
    fields: &[("status.successful", "/status/succeeded")],
    schema: "io.k8s.api.batch.v1.Job",
    conversion: None,
    ops: &Typed::<JobStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Status", "string", "What state it is in."),
    Column::new(
        "Completions",
        "string",
        "How many pods succeeded, of how many.",
    ),
    Column::new("Duration", "string", "How long the job took so far."),
    Column::AGE,
    Column::new(
        "Containers",
        "string",
        "The names of the containers in the template.",
    )
    .wide(),
    Column::new(
        "Images",
        "string",
        "The images of the containers in the template.",
    )
    .wide(),
    Column::new("Selector", "string", "Which pods belong to it.").wide(),
];

/// What is special about this kind.
pub struct JobStrategy;

impl Strategy for JobStrategy {
    type Object = Job;
    const HAS_STATUS: bool = true;

    fn prepare_create(object: &mut Job, _: &WriteContext) {
        object.status = Some(Default::default());
        crate::defaults::batch::generate_job_selector(object);
    }

    crate::kind::keep_status!(update);

    fn default(object: &mut Job) {
        crate::defaults::batch::default_job(object);
    }

    fn validate_create(object: &Job) -> ErrorList {
        crate::validation::batch::validate_job(object)
    }

    fn validate_update(new: &Job, old: &Job) -> ErrorList {
        crate::validation::batch::validate_job_update(new, old)
    }

    fn validate_status_update(new: &Job, old: &Job) -> ErrorList {
        crate::validation::batch::validate_job_status_update(new, old)
    }

    fn warnings(new: &Job, old: Option<&Job>) -> Vec<String> {
        crate::validation::batch::warnings_job(new, old)
    }

    fn row(object: &Job, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.as_ref();
        let pod = spec.and_then(|spec| spec.template.spec.as_ref());
        let (names, images) =
            printing::containers(pod.map(|pod| pod.containers.as_slice()).unwrap_or_default());
        vec![
            object.metadata.name.clone().into(),
            state(object).into(),
            completions(object).into(),
            duration(object, now).into(),
            printing::age(&object.metadata, now),
            names,
            images,
            printing::selector(spec.and_then(|spec| spec.selector.as_ref())).into(),
        ]
    }
}

fn state(job: &Job) -> &'static str {
    let conditions = job
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    // Of several conditions of one type the first counts.
    let is = |kind: &str| {
        conditions
            .iter()
            .find(|condition| condition.type_ == kind)
            .is_some_and(|condition| condition.status == "True")
    };
    match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if job.metadata.deletion_timestamp.is_some() => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(job: &Job) -> String {
    let succeeded = job
        .status
        .as_ref()
        .and_then(|status| status.succeeded)
        .unwrap_or(0);
    let spec = job.spec.as_ref();
    match (
        spec.and_then(|spec| spec.completions),
        spec.and_then(|spec| spec.parallelism),
    ) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, Some(parallelism)) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(job: &Job, now: Timestamp) -> String {
    let status = job.status.as_ref();
    let Some(start) = status.and_then(|status| status.start_time.as_ref()) else {
        return String::new();
    };
    let end = status
        .and_then(|status| status.completion_time.as_ref())
        .map_or(now, |end| end.0);
    printing::human_duration(end.duration_since(start.0).as_nanos())
}
