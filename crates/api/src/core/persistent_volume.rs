//! `PersistentVolume` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed, WriteContext};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("", "v1", "PersistentVolume")],
    storage: "/registry/persistentvolumes",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.core.v1.PersistentVolume",
    conversion: None,
    ops: &Typed::<PersistentVolumeStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Capacity", "string", "The size of the volume."),
    Column::new("Access Modes", "string", "How the volume may be mounted."),
    Column::new(
        "Reclaim Policy",
        "string",
        "What happens to the volume when its claim goes.",
    ),
    Column::new("Status", "string", "What state it is in."),
    Column::new("Claim", "string", "The claim it is bound to."),
    Column::new("StorageClass", "string", "The class the volume is of."),
    Column::new(
        "VolumeAttributesClass",
        "string",
        "The class of attributes of the volume.",
    ),
    Column::new("Reason", "string", "Why it is in that state."),
    Column::AGE,
    Column::new(
        "VolumeMode",
        "string",
        "Whether the volume is a file system or a block device.",
    )
    .wide(),
];

/// What is special about this kind.
pub struct PersistentVolumeStrategy;

impl Strategy for PersistentVolumeStrategy {
    type Object = PersistentVolume;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = false;

    fn default(object: &mut PersistentVolume) {
        crate::defaults::core::default_persistent_volume(object);
    }

    fn prepare_create(object: &mut PersistentVolume, context: &WriteContext) {
        object.status = Some(PersistentVolumeStatus {
            phase: Some("Pending".to_owned()),
            last_phase_transition_time: Some(Time(context.now)),
            ..Default::default()
        });
    }

    fn prepare_update(new: &mut PersistentVolume, old: &PersistentVolume, _: &WriteContext) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(
        new: &mut PersistentVolume,
        old: &PersistentVolume,
        context: &WriteContext,
    ) {
        new.spec = old.spec.clone();
        let phase = |volume: &PersistentVolume| volume.status.as_ref()?.phase.clone();
        let (before, after) = (phase(old), phase(new));
        let old_time = old
            .status
            .as_ref()
            .and_then(|status| status.last_phase_transition_time.clone());
        if let Some(status) = &mut new.status {
            // A controller may set the time itself; who does not, gets the time of the change.
            if before != after && status.last_phase_transition_time == old_time {
                status.last_phase_transition_time = Some(Time(context.now));
            }
        }
    }

    fn validate_create(object: &PersistentVolume) -> ErrorList {
        crate::validation::core::validate_persistent_volume(object)
    }

    fn validate_update(new: &PersistentVolume, old: &PersistentVolume) -> ErrorList {
        crate::validation::core::validate_persistent_volume_update(new, old)
    }

    fn warnings(new: &PersistentVolume, _old: Option<&PersistentVolume>) -> Vec<String> {
        crate::validation::core::warnings_persistent_volume(new)
    }

    fn row(object: &PersistentVolume, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.as_ref();
        let status = object.status.as_ref();
        let phase = match object.metadata.deletion_timestamp {
            Some(_) => "Terminating".to_owned(),
            None => status
                .and_then(|status| status.phase.clone())
                .unwrap_or_default(),
        };
        let claim = spec.and_then(|spec| spec.claim_ref.as_ref()).map(|claim| {
            format!(
                "{}/{}",
                claim.namespace.as_deref().unwrap_or_default(),
                claim.name.as_deref().unwrap_or_default()
            )
        });
        let class = object
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get("volume.beta.kubernetes.io/storage-class"))
            .or_else(|| spec?.storage_class_name.as_ref());
        vec![
            object.metadata.name.clone().into(),
            printing::storage_size(spec.and_then(|spec| spec.capacity.as_ref())).into(),
            printing::access_modes(spec.and_then(|spec| spec.access_modes.as_deref())).into(),
            spec.and_then(|spec| spec.persistent_volume_reclaim_policy.clone())
                .unwrap_or_default()
                .into(),
            phase.into(),
            claim.unwrap_or_default().into(),
            class.cloned().unwrap_or_default().into(),
            spec.and_then(|spec| spec.volume_attributes_class_name.as_deref())
                .unwrap_or("<unset>")
                .into(),
            status
                .and_then(|status| status.reason.clone())
                .unwrap_or_default()
                .into(),
            printing::age(&object.metadata, now),
            spec.and_then(|spec| spec.volume_mode.as_deref())
                .unwrap_or("<unset>")
                .into(),
        ]
    }
}
