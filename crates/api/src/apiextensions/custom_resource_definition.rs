//! `CustomResourceDefinition` (apiextensions.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "apiextensions.k8s.io",
    version: "v1",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
    )],
    storage: "/registry/apiextensions.k8s.io/customresourcedefinitions",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    conversion: None,
    ops: &Typed::<CustomResourceDefinitionStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::CREATED_AT];

/// What is special about this kind.
pub struct CustomResourceDefinitionStrategy;

impl Strategy for CustomResourceDefinitionStrategy {
    type Object = CustomResourceDefinition;
    const HAS_STATUS: bool = true;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    crate::kind::keep_status!();

    fn row(object: &CustomResourceDefinition, _: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::created_at(&object.metadata),
        ]
    }
}
