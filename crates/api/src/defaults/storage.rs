//! Defaults of the storage.k8s.io group.

use k8s_openapi::api::storage::v1::{
    CSIDriver, CSIStorageCapacity, StorageClass, VolumeAttachment,
};

use super::core::default_persistent_volume_spec;
use crate::validation::absent::{default_value, items};
use crate::validation::quantity::canonicalise;

/// A StorageClass: volumes are deleted with their claims and bound at once.
pub fn default_storage_class(class: &mut StorageClass) {
    default_value(&mut class.reclaim_policy, "Delete".into());
    default_value(&mut class.volume_binding_mode, "Immediate".into());
}

/// A CSIDriver.
pub fn default_csi_driver(driver: &mut CSIDriver) {
    let spec = &mut driver.spec;
    default_value(&mut spec.attach_required, true);
    default_value(&mut spec.pod_info_on_mount, false);
    default_value(&mut spec.storage_capacity, false);
    default_value(&mut spec.fs_group_policy, "ReadWriteOnceWithFSType".into());
    if items(&spec.volume_lifecycle_modes).is_empty() {
        spec.volume_lifecycle_modes = Some(vec!["Persistent".into()]);
    }
    default_value(&mut spec.requires_republish, false);
    default_value(&mut spec.se_linux_mount, false);
}

/// A VolumeAttachment.
pub fn default_volume_attachment(attachment: &mut VolumeAttachment) {
    if let Some(spec) = &mut attachment.spec.source.inline_volume_spec {
        default_persistent_volume_spec(spec);
    }
    default_value(&mut attachment.status, Default::default());
}

/// A CSIStorageCapacity.
pub fn default_csi_storage_capacity(capacity: &mut CSIStorageCapacity) {
    capacity.capacity.iter_mut().for_each(canonicalise);
    capacity
        .maximum_volume_size
        .iter_mut()
        .for_each(canonicalise);
}
