//! `CronJob` (batch/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::CronJob;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "batch",
    version: "v1",
    kind: "CronJob",
    plural: "cronjobs",
    singular: "cronjob",
    short_names: &["cj"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("batch", "v1", "CronJob")],
    storage: "/registry/cronjobs",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.batch.v1.CronJob",
    conversion: None,
    ops: &Typed::<CronJobStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Schedule", "string", "When jobs are started."),
    Column::new("Timezone", "string", "The time zone of the schedule."),
    Column::new("Suspend", "boolean", "Whether no jobs are started."),
    Column::new("Active", "integer", "How many jobs run."),
    Column::new("Last Schedule", "string", "When a job was started last."),
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
pub struct CronJobStrategy;

impl Strategy for CronJobStrategy {
    type Object = CronJob;
    const HAS_STATUS: bool = true;

    fn default(object: &mut CronJob) {
        crate::defaults::batch::default_cron_job(object);
    }

    crate::kind::keep_status!();

    fn validate_create(object: &CronJob) -> ErrorList {
        crate::validation::batch::validate_cron_job(object)
    }

    fn validate_update(new: &CronJob, old: &CronJob) -> ErrorList {
        crate::validation::batch::validate_cron_job_update(new, old)
    }

    fn warnings(new: &CronJob, old: Option<&CronJob>) -> Vec<String> {
        crate::validation::batch::warnings_cron_job(new, old)
    }

    fn row(object: &CronJob, now: Timestamp) -> Vec<Value> {
        let spec = Some(&object.spec);
        let status = object.status.as_ref();
        let job = spec.and_then(|spec| spec.job_template.spec.as_ref());
        let pod = job.and_then(|job| job.template.spec.as_ref());
        let (names, images) =
            printing::containers(pod.map(|pod| pod.containers.as_slice()).unwrap_or_default());
        let suspend = match spec.and_then(|spec| spec.suspend) {
            None => "<unset>",
            Some(true) => "True",
            Some(false) => "False",
        };
        let last = match status.and_then(|status| status.last_schedule_time.as_ref()) {
            None => "<none>".to_owned(),
            last => printing::since(last, now),
        };
        vec![
            object.metadata.name.clone().into(),
            spec.map(|spec| spec.schedule.clone())
                .unwrap_or_default()
                .into(),
            spec.and_then(|spec| spec.time_zone.as_deref())
                .unwrap_or("<none>")
                .into(),
            suspend.into(),
            status
                .and_then(|status| status.active.as_ref())
                .map_or(0, Vec::len)
                .into(),
            last.into(),
            printing::age(&object.metadata, now),
            names,
            images,
            printing::selector(job.and_then(|job| job.selector.as_ref())).into(),
        ]
    }
}
