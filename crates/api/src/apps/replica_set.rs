//! `ReplicaSet` (apps/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource::SCALE,
        Subresource::status("apps", "v1", "ReplicaSet"),
    ],
    storage: "/registry/replicasets",
    columns: COLUMNS,
    fields: &[("status.replicas", "/status/replicas")],
    schema: "io.k8s.api.apps.v1.ReplicaSet",
    conversion: None,
    ops: &Typed::<ReplicaSetStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Desired", "integer", "How many pods are wanted."),
    Column::new("Current", "integer", "How many pods there are."),
    Column::new("Ready", "integer", "How many pods are ready."),
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
pub struct ReplicaSetStrategy;

impl Strategy for ReplicaSetStrategy {
    type Object = ReplicaSet;
    const HAS_STATUS: bool = true;

    fn default(object: &mut ReplicaSet) {
        crate::defaults::apps::default_replica_set(object);
    }

    crate::kind::keep_status!();

    fn validate_create(object: &ReplicaSet) -> ErrorList {
        crate::validation::apps::validate_replica_set(object)
    }

    fn validate_update(new: &ReplicaSet, old: &ReplicaSet) -> ErrorList {
        crate::validation::apps::validate_replica_set_update(new, old)
    }

    fn validate_status_update(new: &ReplicaSet, old: &ReplicaSet) -> ErrorList {
        crate::validation::apps::validate_replica_set_status_update(new, old)
    }

    fn warnings(new: &ReplicaSet, old: Option<&ReplicaSet>) -> Vec<String> {
        crate::validation::apps::warnings_replica_set(new, old)
    }

    fn row(object: &ReplicaSet, now: Timestamp) -> Vec<Value> {
        let status = object.status.as_ref();
        let spec = object.spec.as_ref();
        let pod = spec.and_then(|spec| spec.template.as_ref()?.spec.as_ref());
        let (names, images) =
            printing::containers(pod.map(|pod| pod.containers.as_slice()).unwrap_or_default());
        vec![
            object.metadata.name.clone().into(),
            spec.and_then(|spec| spec.replicas).unwrap_or(0).into(),
            status.map_or(0, |status| status.replicas).into(),
            status
                .and_then(|status| status.ready_replicas)
                .unwrap_or(0)
                .into(),
            printing::age(&object.metadata, now),
            names,
            images,
            printing::selector(spec.map(|spec| &spec.selector)).into(),
        ]
    }
}
