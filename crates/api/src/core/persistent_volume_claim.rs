//! `PersistentVolumeClaim` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed, WriteContext};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("", "v1", "PersistentVolumeClaim")],
    storage: "/registry/persistentvolumeclaims",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.core.v1.PersistentVolumeClaim",
    conversion: None,
    ops: &Typed::<PersistentVolumeClaimStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Status", "string", "What state it is in."),
    Column::new("Volume", "string", "The volume it is bound to."),
    Column::new("Capacity", "string", "The size of the volume."),
    Column::new("Access Modes", "string", "How the volume may be mounted."),
    Column::new("StorageClass", "string", "The class the volume is of."),
    Column::new(
        "VolumeAttributesClass",
        "string",
        "The class of attributes of the volume.",
    ),
    Column::AGE,
    Column::new(
        "VolumeMode",
        "string",
        "Whether the volume is a file system or a block device.",
    )
    .wide(),
];

/// What is special about this kind.
pub struct PersistentVolumeClaimStrategy;

impl Strategy for PersistentVolumeClaimStrategy {
    type Object = PersistentVolumeClaim;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = false;

    fn default(object: &mut PersistentVolumeClaim) {
        crate::defaults::core::default_persistent_volume_claim(object);
    }

    fn prepare_create(object: &mut PersistentVolumeClaim, _: &WriteContext) {
        object.status = Some(k8s_openapi::api::core::v1::PersistentVolumeClaimStatus {
            phase: Some("Pending".to_owned()),
            ..Default::default()
        });
    }

    crate::kind::keep_status!(update);

    fn validate_create(object: &PersistentVolumeClaim) -> ErrorList {
        crate::validation::core::validate_persistent_volume_claim(object)
    }

    fn validate_update(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> ErrorList {
        crate::validation::core::validate_persistent_volume_claim_update(new, old)
    }

    fn validate_status_update(
        new: &PersistentVolumeClaim,
        old: &PersistentVolumeClaim,
    ) -> ErrorList {
        crate::validation::core::validate_persistent_volume_claim_status_update(new, old)
    }

    fn warnings(new: &PersistentVolumeClaim, old: Option<&PersistentVolumeClaim>) -> Vec<String> {
        crate::validation::core::warnings_persistent_volume_claim(new, old)
    }

    fn row(object: &PersistentVolumeClaim, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.as_ref();
        let status = object.status.as_ref();
        let phase = match object.metadata.deletion_timestamp {
            Some(_) => "Terminating".to_owned(),
            None => status
                .and_then(|status| status.phase.clone())
                .unwrap_or_default(),
        };
        let volume = spec
            .and_then(|spec| spec.volume_name.clone())
            .unwrap_or_default();
        let (capacity, modes) = match volume.is_empty() {
            true => (String::new(), String::new()),
            false => (
                printing::storage_size(status.and_then(|status| status.capacity.as_ref())),
                printing::access_modes(status.and_then(|status| status.access_modes.as_deref())),
            ),
        };
        let class = object
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get("volume.beta.kubernetes.io/storage-class"))
            .or_else(|| spec?.storage_class_name.as_ref());
        vec![
            object.metadata.name.clone().into(),
            phase.into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            class.cloned().unwrap_or_default().into(),
            spec.and_then(|spec| spec.volume_attributes_class_name.as_deref())
                .unwrap_or("<unset>")
                .into(),
            printing::age(&object.metadata, now),
            spec.and_then(|spec| spec.volume_mode.as_deref())
                .unwrap_or("<unset>")
                .into(),
        ]
    }
}
