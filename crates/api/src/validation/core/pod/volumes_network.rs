//! Volumes of clouds and storage networks. Skiff mounts few of them, but all are held to upstream's rules.

use k8s_openapi::api::core::v1::{
    AWSElasticBlockStoreVolumeSource, AzureDiskVolumeSource, FCVolumeSource, FlockerVolumeSource,
    GCEPersistentDiskVolumeSource, ISCSIVolumeSource, LocalObjectReference, QuobyteVolumeSource,
    StorageOSVolumeSource, Volume,
};

use super::volumes::Sources;
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{entries, items, set, text};
use crate::validation::names;
use crate::validation::values::{all_invalid, json, one_of, required};

pub(super) fn disks(sources: &mut Sources<'_>, volume: &Volume) {
    sources.take_as(
        ("gcePersistentDisk", "persistentDisk"),
        &volume.gce_persistent_disk,
        gce_disk,
    );
    sources.take(
        "awsElasticBlockStore",
        &volume.aws_elastic_block_store,
        aws_disk,
    );
}

pub(super) fn iscsi_volume(sources: &mut Sources<'_>, volume: &Volume) {
    sources.take("iscsi", &volume.iscsi, iscsi);
    if let Some(source) = &volume.iscsi
        && source.initiator_name.is_some()
        && volume.name.len() + 1 + source.target_portal.len() > 64
    {
        let path = sources.path.child("name");
        sources
            .errors
            .push(FieldError::invalid(&path, &volume.name, ISCSI_TOO_LONG));
    }
}

pub(super) fn glusterfs_and_flocker(sources: &mut Sources<'_>, volume: &Volume) {
    sources.take("glusterfs", &volume.glusterfs, |errors, source, path| {
        required(errors, &path.child("endpoints"), &source.endpoints);
        required(errors, &path.child("path"), &source.path);
    });
    sources.take("flocker", &volume.flocker, flocker);
}

pub(super) fn clusters(sources: &mut Sources<'_>, volume: &Volume) {
    sources.take("rbd", &volume.rbd, |errors, source, path| {
        rbd(errors, &source.monitors, &source.image, path);
    });
    sources.take("cinder", &volume.cinder, |errors, source, path| {
        required(errors, &path.child("volumeID"), &source.volume_id);
        secret_name(errors, source.secret_ref.as_ref(), path);
    });
    sources.take_as(
        ("cephFS", "cephfs"),
        &volume.cephfs,
        |errors, source, path| {
            monitors(errors, &source.monitors, path);
        },
    );
    sources.take("quobyte", &volume.quobyte, quobyte);
}

pub(super) fn channels(sources: &mut Sources<'_>, volume: &Volume) {
    sources.take("fc", &volume.fc, fibre_channel);
    sources.take("flexVolume", &volume.flex_volume, |errors, source, path| {
        required(errors, &path.child("driver"), &source.driver);
        flex_options(
            errors,
            entries(&source.options).map(|(key, _)| key.as_str()),
            path,
        );
    });
}

pub(super) fn clouds(sources: &mut Sources<'_>, volume: &Volume) {
    sources.take("azureFile", &volume.azure_file, |errors, source, path| {
        required(errors, &path.child("secretName"), &source.secret_name);
        required(errors, &path.child("shareName"), &source.share_name);
    });
    sources.take(
        "vsphereVolume",
        &volume.vsphere_volume,
        |errors, source, path| {
            required(errors, &path.child("volumePath"), &source.volume_path);
        },
    );
    sources.take(
        "photonPersistentDisk",
        &volume.photon_persistent_disk,
        |errors, source, path| required(errors, &path.child("pdID"), &source.pd_id),
    );
    sources.take(
        "portworxVolume",
        &volume.portworx_volume,
        |errors, source, path| {
            required(errors, &path.child("volumeID"), &source.volume_id);
        },
    );
    sources.take("azureDisk", &volume.azure_disk, azure_disk);
    sources.take("storageos", &volume.storageos, storage_os);
}

pub(super) fn scale_io(sources: &mut Sources<'_>, volume: &Volume) {
    sources.take("scaleIO", &volume.scale_io, |errors, source, path| {
        scale_io_names(
            errors,
            &source.gateway,
            &source.system,
            text(&source.volume_name),
            path,
        );
    });
}

/// What a ScaleIO volume has to name.
pub(crate) fn scale_io_names(
    errors: &mut ErrorList,
    gateway: &str,
    system: &str,
    volume: &str,
    path: &Path,
) {
    required(errors, &path.child("gateway"), gateway);
    required(errors, &path.child("system"), system);
    required(errors, &path.child("volumeName"), volume);
}

fn partition(errors: &mut ErrorList, partition: Option<i32>, path: &Path) {
    let partition = partition.unwrap_or(0);
    if !(0..=255).contains(&partition) {
        let path = path.child("partition");
        errors.push(FieldError::invalid(
            &path,
            partition,
            &names::range_error(1, 255),
        ));
    }
}

/// A disk of Google's cloud.
pub(crate) fn gce_disk(
    errors: &mut ErrorList,
    source: &GCEPersistentDiskVolumeSource,
    path: &Path,
) {
    required(errors, &path.child("pdName"), &source.pd_name);
    partition(errors, source.partition, path);
}

/// A disk of Amazon's cloud.
pub(crate) fn aws_disk(
    errors: &mut ErrorList,
    source: &AWSElasticBlockStoreVolumeSource,
    path: &Path,
) {
    required(errors, &path.child("volumeID"), &source.volume_id);
    partition(errors, source.partition, path);
}

/// What upstream says of an iSCSI portal that is too long for an initiator name.
pub(crate) const ISCSI_TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

/// Whether the text is an iSCSI name of one of the three forms; `None`: it begins like none of them.
pub(crate) fn is_iscsi_name(name: &str) -> Option<bool> {
    let alphanumeric = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|c| c.is_ascii_alphanumeric())
    };
    let rest = name.get(4..).unwrap_or_default();
    if name.starts_with("iqn") {
        Some(is_iqn(name))
    } else if name.starts_with("eui") {
        Some(alphanumeric(rest, 16))
    } else if name.starts_with("naa") {
        Some(alphanumeric(rest, 32))
    } else {
        None
    }
}

/// `iqn.2024-01.com.example:target`
fn is_iqn(name: &str) -> bool {
    let body = |rest: &str| {
        let mut parts = rest.splitn(2, ':');
        let (Some(authority), Some(target)) = (parts.next(), parts.next()) else {
            return false;
        };
        !authority.is_empty()
            && authority
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.'))
            && !target.is_empty()
            && !target.contains(|c: char| ",;*&$|".contains(c) || c.is_ascii_whitespace())
    };
    let bytes = name.as_bytes();
    let digits = |range: std::ops::Range<usize>| {
        bytes
            .get(range)
            .is_some_and(|part| part.iter().all(u8::is_ascii_digit))
    };
    bytes.get(3) == Some(&b'.')
        && digits(4..8)
        && bytes.get(8) == Some(&b'-')
        && digits(9..11)
        && bytes.get(11) == Some(&b'.')
        && name.get(12..).is_some_and(body)
}

fn iscsi(errors: &mut ErrorList, source: &ISCSIVolumeSource, path: &Path) {
    const FORMS: &str = "must be valid format starting with iqn, eui, or naa";
    required(errors, &path.child("targetPortal"), &source.target_portal);
    let name = |errors: &mut ErrorList, path: &Path, name: &str| match is_iscsi_name(name) {
        None => errors.push(FieldError::invalid(path, name, FORMS)),
        Some(false) => errors.push(FieldError::invalid(path, name, "must be valid format")),
        Some(true) => {}
    };
    let iqn_path = path.child("iqn");
    if source.iqn.is_empty() {
        errors.push(FieldError::required(&iqn_path, ""));
    } else {
        name(errors, &iqn_path, &source.iqn);
    }
    iscsi_lun(errors, source.lun, path);
    if (set(source.chap_auth_discovery) || set(source.chap_auth_session))
        && source.secret_ref.is_none()
    {
        errors.push(FieldError::required(&path.child("secretRef"), ""));
    }
    if let Some(initiator) = &source.initiator_name {
        name(errors, &path.child("initiatorname"), initiator);
    }
}

/// The number of a logical unit.
pub(crate) fn iscsi_lun(errors: &mut ErrorList, lun: i32, path: &Path) {
    if !(0..=255).contains(&lun) {
        let path = path.child("lun");
        errors.push(FieldError::invalid(&path, lun, &names::range_error(0, 255)));
    }
}

/// A volume of a fibre channel network.
pub(crate) fn fibre_channel(errors: &mut ErrorList, source: &FCVolumeSource, path: &Path) {
    let (targets, ids) = (items(&source.target_wwns), items(&source.wwids));
    let targets_path = path.child("targetWWNs");
    if targets.is_empty() && ids.is_empty() {
        errors.push(FieldError::required(
            &targets_path,
            "must specify either targetWWNs or wwids, but not both",
        ));
    }
    if !targets.is_empty() && !ids.is_empty() {
        errors.push(FieldError::invalid(
            &targets_path,
            json(targets),
            "targetWWNs and wwids can not be specified simultaneously",
        ));
    }
    if !targets.is_empty() {
        match source.lun {
            None => errors.push(FieldError::required(
                &path.child("lun"),
                "lun is required if targetWWNs is specified",
            )),
            Some(lun) => iscsi_lun(errors, lun, path),
        }
    }
}

/// A Flocker dataset.
pub(crate) fn flocker(errors: &mut ErrorList, source: &FlockerVolumeSource, path: &Path) {
    let (name, uuid) = (text(&source.dataset_name), text(&source.dataset_uuid));
    if name.is_empty() && uuid.is_empty() {
        errors.push(FieldError::required(
            path,
            "one of datasetName and datasetUUID is required",
        ));
    }
    if !name.is_empty() && !uuid.is_empty() {
        errors.push(FieldError::invalid(
            path,
            "resource",
            "datasetName and datasetUUID can not be specified simultaneously",
        ));
    }
    if name.contains('/') {
        let path = path.child("datasetName");
        errors.push(FieldError::invalid(&path, name, "must not contain '/'"));
    }
}

/// An image of a Ceph cluster.
pub(crate) fn rbd(errors: &mut ErrorList, ceph: &[String], image: &str, path: &Path) {
    monitors(errors, ceph, path);
    required(errors, &path.child("image"), image);
}

/// The monitors of a Ceph cluster.
pub(crate) fn monitors(errors: &mut ErrorList, monitors: &[String], path: &Path) {
    if monitors.is_empty() {
        errors.push(FieldError::required(&path.child("monitors"), ""));
    }
}

fn secret_name(errors: &mut ErrorList, secret: Option<&LocalObjectReference>, path: &Path) {
    if secret.is_some_and(|secret| secret.name.is_empty()) {
        errors.push(FieldError::required(
            &path.child("secretRef").child("name"),
            "",
        ));
    }
}

/// A volume of a Quobyte registry.
pub(crate) fn quobyte(errors: &mut ErrorList, source: &QuobyteVolumeSource, path: &Path) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry_path = path.child("registry");
    if source.registry.is_empty() {
        errors.push(FieldError::required(&registry_path, PAIRS));
    } else if text(&source.tenant).len() >= 65 {
        errors.push(FieldError::required(
            &path.child("tenant"),
            "must be a UUID and may not exceed a length of 64 characters",
        ));
    } else {
        for pair in source.registry.split(',') {
            if !is_host_port(pair) {
                errors.push(FieldError::invalid(&registry_path, &source.registry, PAIRS));
            }
        }
    }
    required(errors, &path.child("volume"), &source.volume);
}

/// `host:port`, where a host with colons stands in brackets.
fn is_host_port(pair: &str) -> bool {
    match pair.strip_prefix('[') {
        Some(rest) => rest
            .split_once(']')
            .is_some_and(|(_, port)| port.starts_with(':') && !port[1..].contains(':')),
        None => pair.matches(':').count() == 1 && !pair.contains(['[', ']']),
    }
}

/// The options of a flex volume: names of Kubernetes' own domains are reserved.
pub(crate) fn flex_options<'a>(
    errors: &mut ErrorList,
    keys: impl Iterator<Item = &'a str>,
    path: &Path,
) {
    for key in keys {
        let namespace = key.split_once('/').map_or(key, |(namespace, _)| namespace);
        let namespace = format!(".{}", namespace.to_lowercase());
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            errors.push(FieldError::invalid(
                &path.child("options").key(key),
                key,
                "kubernetes.io and k8s.io namespaces are reserved",
            ));
        }
    }
}

/// A disk of Microsoft's cloud.
pub(crate) fn azure_disk(errors: &mut ErrorList, source: &AzureDiskVolumeSource, path: &Path) {
    const MANAGED: &str = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str =
        "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    required(errors, &path.child("diskName"), &source.disk_name);
    required(errors, &path.child("diskURI"), &source.disk_uri);
    if let Some(mode) = &source.caching_mode {
        one_of(
            errors,
            &path.child("cachingMode"),
            mode,
            &["None", "ReadOnly", "ReadWrite"],
        );
    }
    let Some(kind) = &source.kind else { return };
    one_of(
        errors,
        &path.child("kind"),
        kind,
        &["Dedicated", "Managed", "Shared"],
    );
    let (prefix, form) = if kind == "Managed" {
        ("/subscriptions/", MANAGED)
    } else {
        ("https://", BLOB)
    };
    if !source.disk_uri.starts_with(prefix) {
        let path = path.child("diskURI");
        errors.push(FieldError::not_supported(&path, &source.disk_uri, &[form]));
    }
}

fn storage_os(errors: &mut ErrorList, source: &StorageOSVolumeSource, path: &Path) {
    storage_os_names(
        errors,
        text(&source.volume_name),
        text(&source.volume_namespace),
        path,
    );
    secret_name(errors, source.secret_ref.as_ref(), path);
}

/// What a StorageOS volume has to name.
pub(crate) fn storage_os_names(errors: &mut ErrorList, name: &str, namespace: &str, path: &Path) {
    let name_path = path.child("volumeName");
    if name.is_empty() {
        errors.push(FieldError::required(&name_path, ""));
    } else {
        all_invalid(errors, &name_path, name, names::dns_label(name));
    }
    if !namespace.is_empty() {
        let path = path.child("volumeNamespace");
        all_invalid(errors, &path, namespace, names::dns_label(namespace));
    }
}
