//! Where containers mount volumes and attach block devices.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Volume, VolumeMount};

use super::paths;
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{items, set, text};
use crate::validation::values::one_of;

/// The sound volumes of a pod by name.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Volume>;

/// The mounts of a container.
pub(super) fn mounts(
    errors: &mut ErrorList,
    container: &Container,
    volumes: &Volumes<'_>,
    path: &Path,
) {
    let devices = items(&container.volume_devices);
    let mut seen = BTreeSet::new();
    for (index, mount) in items(&container.volume_mounts).iter().enumerate() {
        let item = path.index(index);
        let (name_path, mount_path) = (item.child("name"), item.child("mountPath"));
        let (name, target) = (&mount.name, &mount.mount_path);
        if name.is_empty() {
            errors.push(FieldError::required(&name_path, ""));
        }
        if !volumes.contains_key(name.as_str()) {
            errors.push(FieldError::not_found(&name_path, name));
        }
        if target.is_empty() {
            errors.push(FieldError::required(&mount_path, ""));
        }
        if !seen.insert(target.as_str()) {
            errors.push(FieldError::invalid(&mount_path, target, "must be unique"));
        }
        if devices.iter().any(|device| device.name == *name) {
            errors.push(FieldError::invalid(
                &name_path,
                name,
                "must not already exist in volumeDevices",
            ));
        }
        if devices.iter().any(|device| device.device_path == *target) {
            errors.push(FieldError::invalid(
                &mount_path,
                target,
                "must not already exist as a path in volumeDevices",
            ));
        }
        sub_paths(errors, mount, path, &item);
        propagation(errors, mount, container, &path.child("mountPropagation"));
        recursive_read_only(errors, mount, &path.child("recursiveReadOnly"));
    }
}

// Upstream names the list, not the element, in what it says of these fields.
fn sub_paths(errors: &mut ErrorList, mount: &VolumeMount, list: &Path, item: &Path) {
    let (plain, expanded) = (text(&mount.sub_path), text(&mount.sub_path_expr));
    if !plain.is_empty() {
        paths::descending(errors, plain, &list.child("subPath"));
    }
    if !expanded.is_empty() {
        if !plain.is_empty() {
            errors.push(FieldError::invalid(
                &item.child("subPathExpr"),
                expanded,
                "subPathExpr and subPath are mutually exclusive",
            ));
        }
        paths::descending(errors, expanded, &list.child("subPathExpr"));
    }
}

fn propagation(errors: &mut ErrorList, mount: &VolumeMount, container: &Container, path: &Path) {
    let Some(mode) = &mount.mount_propagation else {
        return;
    };
    one_of(
        errors,
        path,
        mode,
        &["Bidirectional", "HostToContainer", "None"],
    );
    let privileged = container
        .security_context
        .as_ref()
        .is_some_and(|context| set(context.privileged));
    if mode == "Bidirectional" && !privileged {
        errors.push(FieldError::forbidden(
            path,
            "Bidirectional mount propagation is available only to privileged containers",
        ));
    }
}

fn recursive_read_only(errors: &mut ErrorList, mount: &VolumeMount, path: &Path) {
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !set(mount.read_only) {
                errors.push(FieldError::forbidden(
                    path,
                    "may only be specified when readOnly is true",
                ));
            }
            if mount
                .mount_propagation
                .as_deref()
                .is_some_and(|mode| mode != "None")
            {
                errors.push(FieldError::forbidden(
                    path,
                    "may only be specified when mountPropagation is None or not specified",
                ));
            }
        }
        Some(other) => errors.push(FieldError::not_supported(
            path,
            other,
            &["Disabled", "Enabled", "IfPossible"],
        )),
    }
}

/// The block devices of a container.
pub(super) fn devices(
    errors: &mut ErrorList,
    container: &Container,
    volumes: &Volumes<'_>,
    path: &Path,
) {
    let mounts = items(&container.volume_mounts);
    let (mut names, mut targets) = (BTreeSet::new(), BTreeSet::new());
    for (index, device) in items(&container.volume_devices).iter().enumerate() {
        let item = path.index(index);
        let (name_path, device_path) = (item.child("name"), item.child("devicePath"));
        let (name, target) = (device.name.as_str(), device.device_path.as_str());
        if name.is_empty() {
            errors.push(FieldError::required(&name_path, ""));
        }
        if names.contains(name) {
            errors.push(FieldError::invalid(&name_path, name, "must be unique"));
        }
        match volumes.get(name) {
            None => errors.push(FieldError::not_found(&name_path, name)),
            Some(volume)
                if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() =>
            {
                errors.push(FieldError::invalid(
                    &name_path,
                    name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                ));
            }
            Some(_) => {}
        }
        if target.is_empty() {
            errors.push(FieldError::required(&device_path, ""));
        }
        if targets.contains(target) {
            errors.push(FieldError::invalid(&device_path, target, "must be unique"));
        }
        if target.split('/').any(|part| part == "..") {
            let detail = "can not contain backsteps ('..')";
            errors.push(FieldError::invalid(&device_path, target, detail));
        } else {
            targets.insert(target);
        }
        if mounts.iter().any(|mount| mount.name == name) {
            let detail = "must not already exist in volumeMounts";
            errors.push(FieldError::invalid(&name_path, name, detail));
        }
        if mounts.iter().any(|mount| mount.mount_path == target) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.push(FieldError::invalid(&device_path, target, detail));
        }
        if !name.is_empty() {
            names.insert(name);
        }
    }
}
