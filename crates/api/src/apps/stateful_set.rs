//! `StatefulSet` (apps/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    short_names: &["sts"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource::SCALE,
        Subresource::status("apps", "v1", "StatefulSet"),
    ],
    storage: "/registry/statefulsets",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.apps.v1.StatefulSet",
    conversion: None,
    ops: &Typed::<StatefulSetStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Ready", "string", "How many pods are ready."),
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
];

/// What is special about this kind.
pub struct StatefulSetStrategy;

impl Strategy for StatefulSetStrategy {
    type Object = StatefulSet;
    const HAS_STATUS: bool = true;

    fn default(object: &mut StatefulSet) {
        crate::defaults::apps::default_stateful_set(object);
    }

    crate::kind::keep_status!();

    fn validate_create(object: &StatefulSet) -> ErrorList {
        crate::validation::apps::validate_stateful_set(object)
    }

    fn validate_update(new: &StatefulSet, old: &StatefulSet) -> ErrorList {
        crate::validation::apps::validate_stateful_set_update(new, old)
    }

    fn validate_status_update(new: &StatefulSet, old: &StatefulSet) -> ErrorList {
        crate::validation::apps::validate_stateful_set_status_update(new, old)
    }

    fn warnings(new: &StatefulSet, old: Option<&StatefulSet>) -> Vec<String> {
        crate::validation::apps::warnings_stateful_set(new, old)
    }

    fn row(object: &StatefulSet, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.as_ref();
        let pod = spec.and_then(|spec| spec.template.spec.as_ref());
        let (names, images) =
            printing::containers(pod.map(|pod| pod.containers.as_slice()).unwrap_or_default());
        let ready = object
            .status
            .as_ref()
            .and_then(|status| status.ready_replicas)
            .unwrap_or(0);
        let desired = spec.and_then(|spec| spec.replicas).unwrap_or(0);
        vec![
            object.metadata.name.clone().into(),
            format!("{ready}/{desired}").into(),
            printing::age(&object.metadata, now),
            names,
            images,
        ]
    }
}
