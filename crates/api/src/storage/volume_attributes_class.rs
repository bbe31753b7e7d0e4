//! `VolumeAttributesClass` (storage.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "storage.k8s.io",
    version: "v1",
    kind: "VolumeAttributesClass",
    plural: "volumeattributesclasses",
    singular: "volumeattributesclass",
    short_names: &["vac"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/volumeattributesclasses",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.storage.v1.VolumeAttributesClass",
    conversion: None,
    ops: &Typed::<VolumeAttributesClassStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("DriverName", "string", "The driver the class is for."),
    Column::AGE,
];

/// What is special about this kind.
pub struct VolumeAttributesClassStrategy;

impl Strategy for VolumeAttributesClassStrategy {
    type Object = VolumeAttributesClass;

    fn validate_create(object: &VolumeAttributesClass) -> ErrorList {
        crate::validation::attachments::validate_volume_attributes_class(object)
    }

    fn validate_update(new: &VolumeAttributesClass, old: &VolumeAttributesClass) -> ErrorList {
        crate::validation::attachments::validate_volume_attributes_class_update(new, old)
    }

    fn row(object: &VolumeAttributesClass, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            object.driver_name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
