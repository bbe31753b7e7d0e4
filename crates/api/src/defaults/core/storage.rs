//! Defaults of PersistentVolumes and PersistentVolumeClaims.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec};

use super::container::default_resource_list;
use super::volume::default_claim_spec;
use crate::validation::absent::{default_text, default_value};

/// A PersistentVolume.
pub fn default_persistent_volume(volume: &mut PersistentVolume) {
    default_persistent_volume_spec(volume.spec.get_or_insert_with(Default::default));
    let status = volume.status.get_or_insert_with(Default::default);
    default_text(&mut status.phase, "Pending");
}

/// The spec of a PersistentVolume, also the one within a VolumeAttachment.
pub fn default_persistent_volume_spec(spec: &mut PersistentVolumeSpec) {
    default_text(&mut spec.persistent_volume_reclaim_policy, "Retain");
    default_value(&mut spec.volume_mode, "Filesystem".into());
    default_inline_volume(spec);
}

/// The source of a PersistentVolume.
pub(crate) fn default_inline_volume(spec: &mut PersistentVolumeSpec) {
    default_resource_list(&mut spec.capacity);
    if let Some(source) = &mut spec.host_path {
        default_value(&mut source.type_, String::new());
    }
    if let Some(source) = &mut spec.iscsi {
        default_text(&mut source.iscsi_interface, "default");
    }
    if let Some(source) = &mut spec.rbd {
        default_text(&mut source.pool, "rbd");
        default_text(&mut source.user, "admin");
        default_text(&mut source.keyring, "/etc/ceph/keyring");
    }
    if let Some(source) = &mut spec.azure_disk {
        default_value(&mut source.caching_mode, "ReadWrite".into());
        default_value(&mut source.fs_type, "ext4".into());
        default_value(&mut source.read_only, false);
        default_value(&mut source.kind, "Shared".into());
    }
    if let Some(source) = &mut spec.scale_io {
        default_text(&mut source.storage_mode, "ThinProvisioned");
        default_text(&mut source.fs_type, "xfs");
    }
}

/// A PersistentVolumeClaim, also one made from a StatefulSet's template.
pub fn default_persistent_volume_claim(claim: &mut PersistentVolumeClaim) {
    default_claim_spec(claim.spec.get_or_insert_with(Default::default));
    let status = claim.status.get_or_insert_with(Default::default);
    default_text(&mut status.phase, "Pending");
    default_resource_list(&mut status.capacity);
    default_resource_list(&mut status.allocated_resources);
}
