//! `Binding` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Binding;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{CREATE_ONLY, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Binding",
    plural: "bindings",
    singular: "binding",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: CREATE_ONLY,
    subresources: &[],
    storage: "",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.core.v1.Binding",
    conversion: None,
    ops: &Typed::<BindingStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::CREATED_AT];

/// What is special about this kind.
pub struct BindingStrategy;

impl Strategy for BindingStrategy {
    type Object = Binding;

    fn validate_create(object: &Binding) -> ErrorList {
        crate::validation::core::pod::validate_binding(object)
    }

    fn row(object: &Binding, _: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::created_at(&object.metadata),
        ]
    }
}
