//! `LimitRange` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::LimitRange;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    short_names: &["limits"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/limitranges",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.core.v1.LimitRange",
    conversion: None,
    ops: &Typed::<LimitRangeStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::CREATED_AT];

/// What is special about this kind.
pub struct LimitRangeStrategy;

impl Strategy for LimitRangeStrategy {
    type Object = LimitRange;
    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn default(object: &mut LimitRange) {
        crate::defaults::core::default_limit_range(object);
    }

    fn validate_create(object: &LimitRange) -> ErrorList {
        crate::validation::core::validate_limit_range(object)
    }

    fn validate_update(new: &LimitRange, _old: &LimitRange) -> ErrorList {
        crate::validation::core::validate_limit_range(new)
    }

    fn row(object: &LimitRange, _: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::created_at(&object.metadata),
        ]
    }
}
