//! `CronJob` (batch/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::CronJob;
use serde_json::Value;

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

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// What is special about this kind.
pub struct CronJobStrategy;

impl Strategy for CronJobStrategy {
    type Object = CronJob;
    const HAS_STATUS: bool = true;

    fn row(object: &CronJob, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
