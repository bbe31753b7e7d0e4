//! `StorageClass` (storage.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "storage.k8s.io",
    version: "v1",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    short_names: &["sc"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/storageclasses",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.storage.v1.StorageClass",
    conversion: None,
    ops: &Typed::<StorageClassStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Provisioner", "string", "What makes volumes of the class."),
    Column::new(
        "ReclaimPolicy",
        "string",
        "What happens to volumes when their claims go.",
    ),
    Column::new("VolumeBindingMode", "string", "When volumes are bound."),
    Column::new(
        "AllowVolumeExpansion",
        "string",
        "Whether volumes may grow.",
    ),
    Column::AGE,
];

/// What is special about this kind.
pub struct StorageClassStrategy;

impl Strategy for StorageClassStrategy {
    type Object = StorageClass;

    fn default(object: &mut StorageClass) {
        crate::defaults::storage::default_storage_class(object);
    }

    fn validate_create(object: &StorageClass) -> ErrorList {
        crate::validation::storage::validate_storage_class(object)
    }

    fn validate_update(new: &StorageClass, old: &StorageClass) -> ErrorList {
        crate::validation::storage::validate_storage_class_update(new, old)
    }

    fn warnings(new: &StorageClass, _: Option<&StorageClass>) -> Vec<String> {
        crate::validation::warnings::warnings_storage_class(new)
    }

    fn row(object: &StorageClass, now: Timestamp) -> Vec<Value> {
        let default = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ];
        let is_default = object
            .metadata
            .annotations
            .as_ref()
            .is_some_and(|annotations| {
                default
                    .iter()
                    .any(|key| annotations.get(*key).is_some_and(|value| value == "true"))
            });
        let name = object.metadata.name.clone().unwrap_or_default();
        vec![
            if is_default {
                format!("{name} (default)").into()
            } else {
                name.into()
            },
            object.provisioner.clone().into(),
            object.reclaim_policy.as_deref().unwrap_or("Delete").into(),
            object
                .volume_binding_mode
                .as_deref()
                .unwrap_or("Immediate")
                .into(),
            object.allow_volume_expansion.unwrap_or(false).into(),
            printing::age(&object.metadata, now),
        ]
    }
}
