//! Defaults of a pod's volumes.

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, PersistentVolumeClaimSpec, Volume, VolumeProjection,
};

use super::container::{default_field_selector, default_resource_list, default_resource_selector};
use super::image::pull_policy;
use crate::validation::absent::{default_text, default_value, text};
use crate::validation::quantity::canonicalise;

/// The mode of files made of ConfigMaps, Secrets and the downward API, 0644.
const FILE_MODE: i32 = 0o644;

pub(super) fn default_volume(volume: &mut Volume) {
    let empty = Volume {
        name: volume.name.clone(),
        ..Volume::default()
    };
    if *volume == empty {
        volume.empty_dir = Some(Default::default());
    }
    if let Some(limit) = volume
        .empty_dir
        .as_mut()
        .and_then(|dir| dir.size_limit.as_mut())
    {
        canonicalise(limit);
    }
    if let Some(image) = &mut volume.image
        && text(&image.pull_policy).is_empty()
    {
        image.pull_policy = Some(pull_policy(text(&image.reference)).to_owned());
    }
    if let Some(source) = &mut volume.host_path {
        default_value(&mut source.type_, String::new());
    }
    if let Some(source) = &mut volume.secret {
        default_value(&mut source.default_mode, FILE_MODE);
    }
    if let Some(source) = &mut volume.config_map {
        default_value(&mut source.default_mode, FILE_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        default_value(&mut source.default_mode, FILE_MODE);
        default_downward_files(&mut source.items);
    }
    if let Some(source) = &mut volume.projected {
        default_value(&mut source.default_mode, FILE_MODE);
        source
            .sources
            .iter_mut()
            .flatten()
            .for_each(default_projection);
    }
    if let Some(template) = volume
        .ephemeral
        .as_mut()
        .and_then(|source| source.volume_claim_template.as_mut())
    {
        default_value(&mut template.metadata, Default::default());
        default_claim_spec(&mut template.spec);
    }
    default_network_volume(volume);
}

fn default_network_volume(volume: &mut Volume) {
    if let Some(source) = &mut volume.iscsi {
        default_text(&mut source.iscsi_interface, "default");
    }
    if let Some(source) = &mut volume.rbd {
        default_text(&mut source.pool, "rbd");
        default_text(&mut source.user, "admin");
        default_text(&mut source.keyring, "/etc/ceph/keyring");
    }
    if let Some(source) = &mut volume.azure_disk {
        default_value(&mut source.caching_mode, "ReadWrite".into());
        default_value(&mut source.fs_type, "ext4".into());
        default_value(&mut source.read_only, false);
        default_value(&mut source.kind, "Shared".into());
    }
    if let Some(source) = &mut volume.scale_io {
        default_text(&mut source.storage_mode, "ThinProvisioned");
        default_text(&mut source.fs_type, "xfs");
    }
}

fn default_downward_files(files: &mut Option<Vec<DownwardAPIVolumeFile>>) {
    for file in files.iter_mut().flatten() {
        if let Some(selector) = &mut file.field_ref {
            default_field_selector(selector);
        }
        if let Some(selector) = &mut file.resource_field_ref {
            default_resource_selector(selector);
        }
    }
}

fn default_projection(projection: &mut VolumeProjection) {
    if let Some(source) = &mut projection.downward_api {
        default_downward_files(&mut source.items);
    }
    if let Some(token) = &mut projection.service_account_token {
        default_value(&mut token.expiration_seconds, 3600);
    }
}

/// The spec of a claim, in a PersistentVolumeClaim or a template of one.
pub fn default_claim_spec(spec: &mut PersistentVolumeClaimSpec) {
    default_value(&mut spec.volume_mode, "Filesystem".into());
    let resources = spec.resources.get_or_insert_with(Default::default);
    default_resource_list(&mut resources.limits);
    default_resource_list(&mut resources.requests);
}
