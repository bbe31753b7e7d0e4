//! `PodTemplate` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplate;
use serde_json::Value;

use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};

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

const COLUMNS: &[Column] = &[Column::NAME];

/// What is special about this kind.
pub struct PodTemplateStrategy;

impl Strategy for PodTemplateStrategy {
    type Object = PodTemplate;
    const HAS_GENERATION: bool = true;

    fn row(object: &PodTemplate, _: Timestamp) -> Vec<Value> {
        vec![object.metadata.name.clone().into()]
    }
}
