//! `Secret` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/secrets",
    columns: COLUMNS,
    fields: &[("type", "/type")],
    schema: "io.k8s.api.core.v1.Secret",
    conversion: None,
    ops: &Typed::<SecretStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Type", "string", "What type it is of."),
    Column::new("Data", "string", "How many entries there are."),
    Column::AGE,
];

/// What is special about this kind.
pub struct SecretStrategy;

impl Strategy for SecretStrategy {
    type Object = Secret;

    fn default(object: &mut Secret) {
        crate::defaults::core::default_secret(object);
    }

    fn validate_create(object: &Secret) -> ErrorList {
        crate::validation::core::validate_secret(object)
    }

    fn validate_update(new: &Secret, old: &Secret) -> ErrorList {
        crate::validation::core::validate_secret_update(new, old)
    }

    fn warnings(new: &Secret, old: Option<&Secret>) -> Vec<String> {
        crate::validation::core::warnings_secret(new, old)
    }

    fn row(object: &Secret, now: Timestamp) -> Vec<Value> {
        let entries = object.data.as_ref().map_or(0, |data| data.len());
        vec![
            object.metadata.name.clone().into(),
            object.type_.clone().unwrap_or_default().into(),
            entries.into(),
            printing::age(&object.metadata, now),
        ]
    }
}
