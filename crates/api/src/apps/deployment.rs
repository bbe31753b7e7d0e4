//! `Deployment` (apps/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::Value;

use crate::field::ErrorList;
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

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Ready", "string", "How many pods are ready."),
    Column::new(
        "Up-to-date",
        "string",
        "How many pods are of the newest template.",
    ),
    Column::new("Available", "string", "How many pods are available."),
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
pub struct DeploymentStrategy;

impl Strategy for DeploymentStrategy {
    type Object = Deployment;
    const HAS_STATUS: bool = true;

    fn default(object: &mut Deployment) {
        crate::defaults::apps::default_deployment(object);
    }

    crate::kind::keep_status!();

    fn validate_create(object: &Deployment) -> ErrorList {
        crate::validation::apps::validate_deployment(object)
    }

    fn validate_update(new: &Deployment, old: &Deployment) -> ErrorList {
        crate::validation::apps::validate_deployment_update(new, old)
    }

    fn validate_status_update(new: &Deployment, old: &Deployment) -> ErrorList {
        crate::validation::apps::validate_deployment_status_update(new, old)
    }

    fn warnings(new: &Deployment, old: Option<&Deployment>) -> Vec<String> {
        crate::validation::apps::warnings_deployment(new, old)
    }

    fn row(object: &Deployment, now: Timestamp) -> Vec<Value> {
        let status = object.status.as_ref();
        let spec = object.spec.as_ref();
        let pod = spec.and_then(|spec| spec.template.spec.as_ref());
        let (names, images) =
            printing::containers(pod.map(|pod| pod.containers.as_slice()).unwrap_or_default());
        let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
        let desired = spec.and_then(|spec| spec.replicas).unwrap_or(0);
        let selector = spec.map(|spec| {
            printing::selector_text(&spec.selector).unwrap_or_else(|| "<invalid>".to_owned())
        });
        vec![
            object.metadata.name.clone().into(),
            format!("{ready}/{desired}").into(),
            status
                .and_then(|status| status.updated_replicas)
                .unwrap_or(0)
                .into(),
            status
                .and_then(|status| status.available_replicas)
                .unwrap_or(0)
                .into(),
            printing::age(&object.metadata, now),
            names,
            images,
            selector.unwrap_or_default().into(),
        ]
    }
}
