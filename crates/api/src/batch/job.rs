//! `Job` (batch/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use serde_json::Value;

use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
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

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// What is special about this kind.
pub struct JobStrategy;

impl Strategy for JobStrategy {
    type Object = Job;
    const HAS_STATUS: bool = true;

    fn row(object: &Job, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
