//! `DaemonSet` (apps/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("apps", "v1", "DaemonSet")],
    storage: "/registry/daemonsets",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.apps.v1.DaemonSet",
    conversion: None,
    ops: &Typed::<DaemonSetStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Desired", "integer", "How many pods are wanted."),
    Column::new("Current", "integer", "How many pods there are."),
    Column::new("Ready", "integer", "How many pods are ready."),
    Column::new(
        "Up-to-date",
        "integer",
        "How many pods are of the newest template.",
    ),
    Column::new("Available", "integer", "How many pods are available."),
    Column::new("Node Selector", "string", "On which nodes the pods run."),
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
pub struct DaemonSetStrategy;

impl Strategy for DaemonSetStrategy {
    type Object = DaemonSet;
    const HAS_STATUS: bool = true;

    fn default(object: &mut DaemonSet) {
        crate::defaults::apps::default_daemon_set(object);
    }

    crate::kind::keep_status!();

    fn validate_create(object: &DaemonSet) -> ErrorList {
        crate::validation::apps::validate_daemon_set(object)
    }

    fn validate_update(new: &DaemonSet, old: &DaemonSet) -> ErrorList {
        crate::validation::apps::validate_daemon_set_update(new, old)
    }

    fn validate_status_update(new: &DaemonSet, old: &DaemonSet) -> ErrorList {
        crate::validation::apps::validate_daemon_set_status_update(new, old)
    }

    fn warnings(new: &DaemonSet, old: Option<&DaemonSet>) -> Vec<String> {
        crate::validation::apps::warnings_daemon_set(new, old)
    }

    fn row(object: &DaemonSet, now: Timestamp) -> Vec<Value> {
        let status = object.status.as_ref();
        let pod = object
            .spec
            .as_ref()
            .and_then(|spec| spec.template.spec.as_ref());
        let (names, images) =
            printing::containers(pod.map(|pod| pod.containers.as_slice()).unwrap_or_default());
        vec![
            object.metadata.name.clone().into(),
            status
                .map_or(0, |status| status.desired_number_scheduled)
                .into(),
            status
                .map_or(0, |status| status.current_number_scheduled)
                .into(),
            status.map_or(0, |status| status.number_ready).into(),
            status
                .and_then(|status| status.updated_number_scheduled)
                .unwrap_or(0)
                .into(),
            status
                .and_then(|status| status.number_available)
                .unwrap_or(0)
                .into(),
            printing::labels(pod.and_then(|pod| pod.node_selector.as_ref())).into(),
            printing::age(&object.metadata, now),
            names,
            images,
            printing::selector(object.spec.as_ref().map(|spec| &spec.selector)).into(),
        ]
    }
}
