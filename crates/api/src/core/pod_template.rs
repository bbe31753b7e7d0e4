//! `PodTemplate` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplate;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/podtemplates",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.core.v1.PodTemplate",
    conversion: None,
    ops: &Typed::<PodTemplateStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Containers",
        "string",
        "The names of the containers in the template.",
    ),
    Column::new(
        "Images",
        "string",
        "The images of the containers in the template.",
    ),
    Column::new("Pod Labels", "string", "The labels in the template."),
];

/// What is special about this kind.
pub struct PodTemplateStrategy;

impl Strategy for PodTemplateStrategy {
    type Object = PodTemplate;
    const HAS_GENERATION: bool = true;

    fn default(object: &mut PodTemplate) {
        crate::defaults::core::default_pod_template(object);
    }

    fn validate_create(object: &PodTemplate) -> ErrorList {
        crate::validation::core::pod::validate_pod_template(object)
    }

    fn validate_update(new: &PodTemplate, old: &PodTemplate) -> ErrorList {
        crate::validation::core::pod::validate_pod_template_update(new, old)
    }

    fn warnings(new: &PodTemplate, old: Option<&PodTemplate>) -> Vec<String> {
        crate::validation::warnings::warnings_pod_template(new, old)
    }

    fn row(object: &PodTemplate, _: Timestamp) -> Vec<Value> {
        let template = object.template.as_ref();
        let containers = template
            .and_then(|template| template.spec.as_ref())
            .map(|spec| spec.containers.as_slice());
        let (names, images) = printing::containers(containers.unwrap_or_default());
        let labels = template.and_then(|template| template.metadata.as_ref()?.labels.as_ref());
        vec![
            object.metadata.name.clone().into(),
            names,
            images,
            printing::labels(labels).into(),
        ]
    }
}
