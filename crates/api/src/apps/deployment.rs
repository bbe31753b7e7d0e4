//! `Deployment` (apps/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::Value;

use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource::SCALE,
        Subresource::status("apps", "v1", "Deployment"),
    ],
    storage: "/registry/deployments",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.apps.v1.Deployment",
    conversion: None,
    ops: &Typed::<DeploymentStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// What is special about this kind.
pub struct DeploymentStrategy;

impl Strategy for DeploymentStrategy {
    type Object = Deployment;
    const HAS_STATUS: bool = true;

    fn row(object: &Deployment, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
