//! `ReplicationController` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ReplicationController;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource::SCALE,
        Subresource::status("", "v1", "ReplicationController"),
    ],
    storage: "/registry/controllers",
    columns: COLUMNS,
    fields: &[("status.replicas", "/status/replicas")],
    schema: "io.k8s.api.core.v1.ReplicationController",
    conversion: None,
    ops: &Typed::<ReplicationControllerStrategy>::new(),
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
pub struct ReplicationControllerStrategy;

impl Strategy for ReplicationControllerStrategy {
    type Object = ReplicationController;
    const HAS_STATUS: bool = true;

    fn default(object: &mut ReplicationController) {
        crate::defaults::core::default_replication_controller(object);
    }

    crate::kind::keep_status!();

    fn validate_create(object: &ReplicationController) -> ErrorList {
        crate::validation::core::validate_replication_controller(object)
    }

    fn validate_update(new: &ReplicationController, old: &ReplicationController) -> ErrorList {
        crate::validation::core::validate_replication_controller_update(new, old)
    }

    fn validate_status_update(
        new: &ReplicationController,
        old: &ReplicationController,
    ) -> ErrorList {
        crate::validation::core::validate_replication_controller_status_update(new, old)
    }

    fn warnings(new: &ReplicationController, old: Option<&ReplicationController>) -> Vec<String> {
        crate::validation::core::warnings_replication_controller(new, old)
    }

    fn row(object: &ReplicationController, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.as_ref();
        let status = object.status.as_ref();
        let containers = spec.and_then(|spec| spec.template.as_ref()?.spec.as_ref());
        let (names, images) = printing::containers(
            containers
                .map(|spec| spec.containers.as_slice())
                .unwrap_or_default(),
        );
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
            printing::labels(spec.and_then(|spec| spec.selector.as_ref())).into(),
        ]
    }
}
