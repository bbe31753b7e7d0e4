//! `CSIStorageCapacity` (storage.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::CSIStorageCapacity;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "storage.k8s.io",
    version: "v1",
    kind: "CSIStorageCapacity",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/csistoragecapacities",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.storage.v1.CSIStorageCapacity",
    conversion: None,
    ops: &Typed::<CSIStorageCapacityStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::CREATED_AT];

/// What is special about this kind.
pub struct CSIStorageCapacityStrategy;

impl Strategy for CSIStorageCapacityStrategy {
    type Object = CSIStorageCapacity;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn default(object: &mut CSIStorageCapacity) {
        crate::defaults::storage::default_csi_storage_capacity(object);
    }

    fn validate_create(object: &CSIStorageCapacity) -> ErrorList {
        crate::validation::attachments::validate_csi_storage_capacity(object)
    }

    fn validate_update(new: &CSIStorageCapacity, old: &CSIStorageCapacity) -> ErrorList {
        crate::validation::attachments::validate_csi_storage_capacity_update(new, old)
    }

    fn warnings(new: &CSIStorageCapacity, _: Option<&CSIStorageCapacity>) -> Vec<String> {
        crate::validation::warnings::warnings_csi_storage_capacity(new)
    }

    fn row(object: &CSIStorageCapacity, _: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::created_at(&object.metadata),
        ]
    }
}
