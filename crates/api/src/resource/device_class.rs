//! `DeviceClass` (resource.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::DeviceClass;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;
use crate::validation::expressions::{ExpressionChecker, Unchecked};

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "resource.k8s.io",
    version: "v1",
    kind: "DeviceClass",
    plural: "deviceclasses",
    singular: "deviceclass",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/deviceclasses",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.resource.v1.DeviceClass",
    conversion: None,
    ops: &Typed::<DeviceClassStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// What is special about this kind.
pub struct DeviceClassStrategy;

impl Strategy for DeviceClassStrategy {
    type Object = DeviceClass;
    const HAS_GENERATION: bool = true;

    fn validate_create(object: &DeviceClass) -> ErrorList {
        Self::validate_create_with(object, &Unchecked)
    }

    fn validate_create_with(object: &DeviceClass, checker: &dyn ExpressionChecker) -> ErrorList {
        crate::validation::resource::validate_device_class(object, checker)
    }

    fn validate_update(new: &DeviceClass, old: &DeviceClass) -> ErrorList {
        Self::validate_update_with(new, old, &Unchecked)
    }

    fn validate_update_with(
        new: &DeviceClass,
        old: &DeviceClass,
        checker: &dyn ExpressionChecker,
    ) -> ErrorList {
        crate::validation::resource::validate_device_class_update(new, old, checker)
    }

    fn row(object: &DeviceClass, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
