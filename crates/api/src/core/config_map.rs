//! `ConfigMap` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/configmaps",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.core.v1.ConfigMap",
    conversion: None,
    ops: &Typed::<ConfigMapStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Data", "string", "How many entries there are."),
    Column::AGE,
];

/// What is special about this kind.
pub struct ConfigMapStrategy;

impl Strategy for ConfigMapStrategy {
    type Object = ConfigMap;

    fn validate_create(object: &ConfigMap) -> ErrorList {
        crate::validation::core::validate_config_map(object)
    }

    fn validate_update(new: &ConfigMap, old: &ConfigMap) -> ErrorList {
        crate::validation::core::validate_config_map_update(new, old)
    }

    fn row(object: &ConfigMap, now: Timestamp) -> Vec<Value> {
        let entries = object.data.as_ref().map_or(0, |data| data.len())
            + object.binary_data.as_ref().map_or(0, |data| data.len());
        vec![
            object.metadata.name.clone().into(),
            entries.into(),
            printing::age(&object.metadata, now),
        ]
    }
}
