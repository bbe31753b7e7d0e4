//! PersistentVolumes.

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, GlusterfsPersistentVolumeSource, ISCSIPersistentVolumeSource,
    LocalVolumeSource, PersistentVolume, PersistentVolumeSpec, SecretReference, VolumeNodeAffinity,
};
use serde_json::Value;

use super::pod::affinity::{has_invalid_selector_terms, node_selector};
use super::pod::volumes::{Sources, csi_driver_name, host_path, nfs};
use super::pod::{paths, volumes_network as network};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{count, entries, items, set, text};
use crate::validation::changes::changes;
use crate::validation::names;
use crate::validation::quantity::Amount;
use crate::validation::values::{
    Bare, all_invalid, immutable, internal_terms, json, one_of, required,
};

const MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

/// What of a PersistentVolume's spec says where the storage is.
const SOURCES: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

const ANNOTATIONS: [(&str, &str); 2] = [
    (
        "volume.beta.kubernetes.io/storage-class",
        r#"deprecated since v1.8; use "storageClassName" attribute instead"#,
    ),
    (
        "volume.beta.kubernetes.io/mount-options",
        r#"deprecated since v1.31; use "mountOptions" attribute instead"#,
    ),
];

/// Warnings about parts of a PersistentVolume that are on their way out.
#[must_use]
pub fn warnings_persistent_volume(volume: &PersistentVolume) -> Vec<String> {
    let mut warnings = Vec::new();
    let annotations = volume.metadata.annotations.as_ref();
    let path = Path::new("metadata").child("annotations");
    for (key, what) in ANNOTATIONS {
        if annotations.is_some_and(|annotations| annotations.contains_key(key)) {
            warnings.push(format!("{}: {what}", path.key(key)));
        }
    }
    let Some(spec) = &volume.spec else {
        return warnings;
    };
    let path = Path::new("spec");
    if spec.persistent_volume_reclaim_policy.as_deref() == Some("Recycle") {
        warnings.push(format!(
            "{}: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
            path.child("persistentVolumeReclaimPolicy")
        ));
    }
    let gone = [
        (spec.cephfs.is_some(), "cephfs", "v1.28", "v1.31+"),
        (
            spec.photon_persistent_disk.is_some(),
            "photonPersistentDisk",
            "v1.11",
            "v1.16+",
        ),
        (spec.scale_io.is_some(), "scaleIO", "v1.16", "v1.22+"),
        (spec.storageos.is_some(), "storageOS", "v1.22", "v1.25+"),
        (spec.glusterfs.is_some(), "glusterfs", "v1.25", "v1.26+"),
        (spec.rbd.is_some(), "rbd", "v1.28", "v1.31+"),
    ];
    for (_, name, since, without) in gone.into_iter().filter(|(used, ..)| *used) {
        let path = path.child(name);
        warnings.push(format!(
            "{path}: deprecated in {since}, non-functional in {without}"
        ));
    }
    warnings
}

/// What is wrong with a new PersistentVolume, its metadata aside.
#[must_use]
pub fn validate_persistent_volume(volume: &PersistentVolume) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = volume.spec.clone().unwrap_or_default();
    volume_spec(&mut errors, &spec, text(&volume.metadata.name), false);
    errors
}

/// What is wrong with a changed PersistentVolume, its metadata aside: where the storage is stays.
#[must_use]
pub fn validate_persistent_volume_update(
    new: &PersistentVolume,
    old: &PersistentVolume,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, before) = (
        new.spec.clone().unwrap_or_default(),
        old.spec.clone().unwrap_or_default(),
    );
    let lax = before
        .node_affinity
        .as_ref()
        .and_then(|affinity| affinity.required.as_ref())
        .is_some_and(has_invalid_selector_terms);
    volume_spec(&mut errors, &spec, text(&new.metadata.name), lax);
    let mut compared = spec.clone();
    // A secret for growing the volume may be named later.
    if let (Some(csi), Some(old)) = (&mut compared.csi, &before.csi)
        && old.controller_expand_secret_ref.is_none()
    {
        csi.controller_expand_secret_ref = None;
    }
    let (source, old_source) = (source_of(&compared), source_of(&before));
    if source != old_source {
        let path = Path::new("spec").child("persistentvolumesource");
        let detail = format!(
            "spec.persistentvolumesource is immutable after creation\n{}",
            changes(&old_source, &source)
        );
        errors.push(FieldError::forbidden(&path, &detail));
    }
    immutable(
        &mut errors,
        &Path::new("volumeMode"),
        &spec.volume_mode,
        &before.volume_mode,
        json(&spec.volume_mode),
    );
    if let Some(old) = &before.node_affinity
        && spec.node_affinity.as_ref() != Some(old)
        && !only_renames_labels(&spec, &before)
    {
        errors.push(FieldError::invalid(
            &Path::new("nodeAffinity"),
            internal_affinity(spec.node_affinity.as_ref()),
            "field is immutable, except for updating from beta label to GA",
        ));
    }
    if before.volume_attributes_class_name.is_some() && spec.volume_attributes_class_name.is_none()
    {
        errors.push(FieldError::forbidden(
            &Path::new("spec").child("volumeAttributesClassName"),
            "update from non-nil value to nil is forbidden",
        ));
    }
    errors
}

fn source_of(spec: &PersistentVolumeSpec) -> Value {
    let mut value = serde_json::to_value(spec).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, _| SOURCES.contains(&name.as_str()));
    }
    value
}

/// The node labels that were beta once may give way to those that stayed.
fn only_renames_labels(new: &PersistentVolumeSpec, old: &PersistentVolumeSpec) -> bool {
    const RENAMED: [(&str, &str); 5] = [
        (
            "failure-domain.beta.kubernetes.io/zone",
            "topology.kubernetes.io/zone",
        ),
        (
            "failure-domain.beta.kubernetes.io/region",
            "topology.kubernetes.io/region",
        ),
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        (
            "beta.kubernetes.io/instance-type",
            "node.kubernetes.io/instance-type",
        ),
    ];
    let mut old = old.clone();
    let selectors = (
        new.node_affinity
            .as_ref()
            .and_then(|affinity| affinity.required.as_ref()),
        old.node_affinity
            .as_mut()
            .and_then(|affinity| affinity.required.as_mut()),
    );
    let (Some(selector), Some(before)) = selectors else {
        return false;
    };
    let pairs = selector
        .node_selector_terms
        .iter()
        .zip(&mut before.node_selector_terms);
    for (term, before) in pairs {
        let requirements = before.match_expressions.iter_mut().flatten();
        for (requirement, before) in items(&term.match_expressions).iter().zip(requirements) {
            if RENAMED.contains(&(before.key.as_str(), requirement.key.as_str())) {
                before.key.clone_from(&requirement.key);
            }
        }
    }
    new.node_affinity == old.node_affinity
}

fn volume_spec(errors: &mut ErrorList, spec: &PersistentVolumeSpec, name: &str, lax: bool) {
    let path = Path::new("spec");
    access_modes(errors, spec, &path);
    capacity(errors, spec, &path);
    let policy = text(&spec.persistent_volume_reclaim_policy);
    let policy_path = path.child("persistentVolumeReclaimPolicy");
    if !policy.is_empty() {
        let policies = ["Delete", "Recycle", "Retain"];
        one_of(errors, &policy_path, policy, &policies);
    }
    if let Some(affinity) = &spec.node_affinity {
        let path = path.child("nodeAffinity").child("required");
        match &affinity.required {
            Some(selector) => node_selector(errors, selector, lax, &path),
            None => errors.push(FieldError::required(
                &path,
                "must specify required node constraints",
            )),
        }
    }
    sources(errors, spec, name, &path);
    let root = spec
        .host_path
        .as_ref()
        .is_some_and(|host| is_root(&host.path));
    if root && policy == "Recycle" {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(&policy_path, detail));
    }
    let class = text(&spec.storage_class_name);
    if !class.is_empty() {
        let path = path.child("storageClassName");
        all_invalid(errors, &path, class, names::dns_subdomain(class));
    }
    if let Some(mode) = &spec.volume_mode {
        one_of(
            errors,
            &path.child("volumeMode"),
            mode,
            &["Block", "Filesystem"],
        );
    }
    if let Some(class) = &spec.volume_attributes_class_name {
        let class_path = path.child("volumeAttributesClassName");
        if class.is_empty() {
            let detail = "an empty string is disallowed";
            errors.push(FieldError::required(&class_path, detail));
        } else {
            all_invalid(errors, &class_path, class, names::dns_subdomain(class));
        }
        if spec.csi.is_none() {
            let detail = "has to be specified when using volumeAttributesClassName";
            errors.push(FieldError::required(&path.child("csi"), detail));
        }
    }
}

/// Whether a path names the root of the file system once its dots are resolved.
fn is_root(path: &str) -> bool {
    let mut depth = 0_usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    path.starts_with('/') && depth == 0
}

fn access_modes(errors: &mut ErrorList, spec: &PersistentVolumeSpec, path: &Path) {
    let path = path.child("accessModes");
    let modes = items(&spec.access_modes);
    if modes.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    for mode in modes {
        one_of(errors, &path, mode, &MODES);
    }
    let single = |mode: &&String| *mode == "ReadWriteOncePod";
    let shared = |mode: &&String| !single(mode) && MODES.contains(&mode.as_str());
    if modes.iter().any(|mode| single(&mode)) && modes.iter().any(|mode| shared(&mode)) {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(&path, detail));
    }
}

/// The affinity as upstream's own types print it.
fn internal_affinity(affinity: Option<&VolumeNodeAffinity>) -> Bare {
    let selector = |affinity: &VolumeNodeAffinity| {
        let terms = affinity.required.as_ref()?.node_selector_terms.as_slice();
        Some(serde_json::json!({"NodeSelectorTerms": internal_terms(terms)}))
    };
    json(&affinity.map(|affinity| serde_json::json!({"Required": selector(affinity)})))
}

fn capacity(errors: &mut ErrorList, spec: &PersistentVolumeSpec, path: &Path) {
    let path = path.child("capacity");
    if count(&spec.capacity) == 0 {
        errors.push(FieldError::required(&path, ""));
    }
    if !entries(&spec.capacity)
        .map(|(name, _)| name.as_str())
        .eq(["storage"])
    {
        let shown = json(&spec.capacity);
        errors.push(FieldError::not_supported(&path, shown, &["storage"]));
    }
    for (name, quantity) in entries(&spec.capacity) {
        let path = path.key(name);
        let amount = Amount::of(quantity);
        if amount.is_negative() {
            let detail = "must be a valid resource quantity";
            errors.push(FieldError::invalid(&path, amount.value(), detail));
        }
        if amount <= Amount::ZERO {
            let detail = "must be greater than zero";
            errors.push(FieldError::invalid(&path, &quantity.0, detail));
        }
    }
}

fn sources(errors: &mut ErrorList, spec: &PersistentVolumeSpec, name: &str, path: &Path) {
    let mut sources = Sources {
        errors,
        path,
        too_many: "may not specify more than 1 volume type",
        found: 0,
    };
    sources.take("hostPath", &spec.host_path, host_path);
    sources.take_as(
        ("gcePersistentDisk", "persistentDisk"),
        &spec.gce_persistent_disk,
        network::gce_disk,
    );
    sources.take(
        "awsElasticBlockStore",
        &spec.aws_elastic_block_store,
        network::aws_disk,
    );
    sources.take("glusterfs", &spec.glusterfs, glusterfs);
    sources.take("flocker", &spec.flocker, network::flocker);
    sources.take("nfs", &spec.nfs, nfs);
    sources.take("rbd", &spec.rbd, |errors, source, path| {
        network::rbd(errors, &source.monitors, &source.image, path);
    });
    sources.take("quobyte", &spec.quobyte, network::quobyte);
    sources.take_as(
        ("cephFS", "cephfs"),
        &spec.cephfs,
        |errors, source, path| {
            network::monitors(errors, &source.monitors, path);
        },
    );
    sources.take("iscsi", &spec.iscsi, |errors, source, path| {
        iscsi(errors, source, name, path);
    });
    sources.take("cinder", &spec.cinder, |errors, source, path| {
        required(errors, &path.child("volumeID"), &source.volume_id);
        let secret = source.secret_ref.as_ref();
        secret_names(
            errors,
            secret.map(|secret| (&secret.name, &secret.namespace)),
            path,
        );
    });
    sources.take("fc", &spec.fc, network::fibre_channel);
    if let Some(source) = &spec.flex_volume {
        // Counted, but never one too many.
        sources.found += 1;
        let path = path.child("flexVolume");
        required(sources.errors, &path.child("driver"), &source.driver);
        let options = entries(&source.options).map(|(key, _)| key.as_str());
        network::flex_options(sources.errors, options, &path);
    }
    more_sources(&mut sources, spec);
    local_and_csi(&mut sources, spec);
    if sources.found == 0 {
        let detail = "must specify a volume type";
        errors.push(FieldError::required(path, detail));
    }
}

fn more_sources(sources: &mut Sources<'_>, spec: &PersistentVolumeSpec) {
    sources.take("azureFile", &spec.azure_file, |errors, source, path| {
        required(errors, &path.child("secretName"), &source.secret_name);
        required(errors, &path.child("shareName"), &source.share_name);
        if source.secret_namespace.as_deref() == Some("") {
            errors.push(FieldError::required(&path.child("secretNamespace"), ""));
        }
    });
    sources.take(
        "vsphereVolume",
        &spec.vsphere_volume,
        |errors, source, path| {
            required(errors, &path.child("volumePath"), &source.volume_path);
        },
    );
    sources.take(
        "photonPersistentDisk",
        &spec.photon_persistent_disk,
        |errors, source, path| required(errors, &path.child("pdID"), &source.pd_id),
    );
    sources.take(
        "portworxVolume",
        &spec.portworx_volume,
        |errors, source, path| {
            required(errors, &path.child("volumeID"), &source.volume_id);
        },
    );
    sources.take("azureDisk", &spec.azure_disk, network::azure_disk);
    sources.take("scaleIO", &spec.scale_io, |errors, source, path| {
        let volume = text(&source.volume_name);
        network::scale_io_names(errors, &source.gateway, &source.system, volume, path);
    });
}

fn local_and_csi(sources: &mut Sources<'_>, spec: &PersistentVolumeSpec) {
    let first = sources.found == 0;
    sources.take("local", &spec.local, local);
    if first && spec.local.is_some() && spec.node_affinity.is_none() {
        let path = sources.path.child("nodeAffinity");
        let detail = "Local volume requires node affinity";
        sources.errors.push(FieldError::required(&path, detail));
    }
    sources.take("storageos", &spec.storageos, |errors, source, path| {
        let (name, namespace) = (text(&source.volume_name), text(&source.volume_namespace));
        network::storage_os_names(errors, name, namespace, path);
        let secret = source.secret_ref.as_ref();
        secret_names(
            errors,
            secret.map(|secret| (&secret.name, &secret.namespace)),
            path,
        );
    });
    sources.take("csi", &spec.csi, csi);
}

type NameAndNamespace<'a> = (&'a Option<String>, &'a Option<String>);

/// A secret must be named with its namespace.
fn secret_names(errors: &mut ErrorList, secret: Option<NameAndNamespace<'_>>, path: &Path) {
    if let Some((name, namespace)) = secret {
        let path = path.child("secretRef");
        required(errors, &path.child("name"), text(name));
        required(errors, &path.child("namespace"), text(namespace));
    }
}

fn glusterfs(errors: &mut ErrorList, source: &GlusterfsPersistentVolumeSource, path: &Path) {
    required(errors, &path.child("endpoints"), &source.endpoints);
    required(errors, &path.child("path"), &source.path);
    if let Some(namespace) = &source.endpoints_namespace {
        let path = path.child("endpointsNamespace");
        if namespace.is_empty() {
            let detail = "if the endpointnamespace is set, it must be a valid namespace name";
            errors.push(FieldError::invalid(&path, namespace, detail));
        } else {
            all_invalid(errors, &path, namespace, names::dns_label(namespace));
        }
    }
}

fn iscsi(errors: &mut ErrorList, source: &ISCSIPersistentVolumeSource, name: &str, path: &Path) {
    const FORM: &str = "must be valid format";
    required(errors, &path.child("targetPortal"), &source.target_portal);
    if source.initiator_name.is_some() && name.len() + 1 + source.target_portal.len() > 64 {
        let path = path.child("targetportal");
        let detail = network::ISCSI_TOO_LONG;
        errors.push(FieldError::invalid(&path, &source.target_portal, detail));
    }
    let known = |name: &str| network::is_iscsi_name(name) == Some(true);
    let iqn_path = path.child("iqn");
    if source.iqn.is_empty() {
        errors.push(FieldError::required(&iqn_path, ""));
    } else if !known(&source.iqn) {
        errors.push(FieldError::invalid(&iqn_path, &source.iqn, FORM));
    }
    network::iscsi_lun(errors, source.lun, path);
    let secret_path = path.child("secretRef");
    match &source.secret_ref {
        None if set(source.chap_auth_discovery) || set(source.chap_auth_session) => {
            errors.push(FieldError::required(&secret_path, ""));
        }
        Some(secret) => required(errors, &secret_path.child("name"), text(&secret.name)),
        None => {}
    }
    if let Some(initiator) = source.initiator_name.as_ref().filter(|name| !known(name)) {
        let path = path.child("initiatorname");
        errors.push(FieldError::invalid(&path, initiator, FORM));
    }
}

fn local(errors: &mut ErrorList, source: &LocalVolumeSource, path: &Path) {
    let path = path.child("path");
    if source.path.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else {
        paths::no_backsteps(errors, &source.path, &path);
    }
}

fn csi(errors: &mut ErrorList, source: &CSIPersistentVolumeSource, path: &Path) {
    csi_driver_name(errors, &source.driver, &path.child("driver"));
    required(errors, &path.child("volumeHandle"), &source.volume_handle);
    let secrets: [(&str, &Option<SecretReference>); 4] = [
        (
            "controllerPublishSecretRef",
            &source.controller_publish_secret_ref,
        ),
        (
            "controllerExpandSecretRef",
            &source.controller_expand_secret_ref,
        ),
        ("nodePublishSecretRef", &source.node_publish_secret_ref),
        ("nodeExpandSecretRef", &source.node_expand_secret_ref),
    ];
    for (field, secret) in secrets {
        let Some(secret) = secret else { continue };
        let path = path.child(field);
        for (field, value, check) in [
            (
                "name",
                text(&secret.name),
                names::dns_subdomain as fn(&str) -> Vec<String>,
            ),
            ("namespace", text(&secret.namespace), names::dns_label),
        ] {
            let path = path.child(field);
            if value.is_empty() {
                errors.push(FieldError::required(&path, ""));
            } else {
                all_invalid(errors, &path, value, check(value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume(spec: Value) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap()
    }

    fn good(more: Value) -> Value {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "volumeMode": "Filesystem"});
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        spec
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn new_volumes() {
        let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n"]}]});
        let cases = [
            (good(json!({"hostPath": {"path": "/v"}})), vec![]),
            (
                good(
                    json!({"local": {"path": "/v"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}),
                ),
                vec![],
            ),
            (
                json!({}),
                vec![
                    "spec.accessModes: Required value",
                    "spec.capacity: Required value",
                    "spec.capacity: Unsupported value: null: supported values: \"storage\"",
                    "spec: Required value: must specify a volume type",
                ],
            ),
            (
                good(
                    json!({"accessModes": ["RW"], "capacity": {"storage": "-1"}, "nfs": {"server": "s", "path": "p"}}),
                ),
                vec![
                    "spec.accessModes: Unsupported value: \"RW\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                    "spec.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
                    "spec.capacity[storage]: Invalid value: \"-1\": must be greater than zero",
                    "spec.nfs.path: Invalid value: \"p\": must be an absolute path",
                ],
            ),
            (
                good(
                    json!({"hostPath": {"path": "/a/.."}, "nfs": {"server": "s", "path": "/"},
                    "persistentVolumeReclaimPolicy": "Recycle", "volumeAttributesClassName": ""}),
                ),
                vec![
                    "spec.hostPath.path: Invalid value: \"/a/..\": must not contain '..'",
                    "spec.nfs: Forbidden: may not specify more than 1 volume type",
                    "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
                    "spec.volumeAttributesClassName: Required value: an empty string is disallowed",
                    "spec.csi: Required value: has to be specified when using volumeAttributesClassName",
                ],
            ),
            (
                good(json!({"local": {"path": ""}, "volumeMode": "Raw", "storageClassName": "A"})),
                vec![
                    "spec.local.path: Required value",
                    "spec.nodeAffinity: Required value: Local volume requires node affinity",
                    "spec.storageClassName: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "spec.volumeMode: Unsupported value: \"Raw\": supported values: \"Block\", \"Filesystem\"",
                ],
            ),
            (
                good(
                    json!({"csi": {"driver": "", "volumeHandle": "", "nodePublishSecretRef": {"name": "s"}}}),
                ),
                vec![
                    "spec.csi.driver: Required value",
                    "spec.csi.volumeHandle: Required value",
                    "spec.csi.nodePublishSecretRef.namespace: Required value",
                ],
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(texts(&validate_persistent_volume(&volume(spec))), expected);
        }
    }

    #[test]
    fn changes_of_volumes() {
        let old = volume(good(
            json!({"csi": {"driver": "d.example", "volumeHandle": "h"}}),
        ));
        let named = volume(good(
            json!({"csi": {"driver": "d.example", "volumeHandle": "h",
            "controllerExpandSecretRef": {"name": "s", "namespace": "n"}}}),
        ));
        assert_eq!(
            texts(&validate_persistent_volume_update(&named, &old)),
            [""; 0]
        );
        let back = texts(&validate_persistent_volume_update(&old, &named));
        assert_eq!(back.len(), 1);
        assert!(back[0].starts_with(
            "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n"
        ));
        let mut block = old.clone();
        block.spec.get_or_insert_default().volume_mode = Some("Block".to_owned());
        assert_eq!(
            texts(&validate_persistent_volume_update(&block, &old)),
            ["volumeMode: Invalid value: \"Block\": field is immutable"]
        );
        let on = |key: &str, node: &str| {
            let term =
                json!({"matchExpressions": [{"key": key, "operator": "In", "values": [node]}]});
            volume(good(
                json!({"hostPath": {"path": "/v"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}),
            ))
        };
        let beta = on("beta.kubernetes.io/os", "linux");
        let errors = validate_persistent_volume_update(&on("kubernetes.io/os", "linux"), &beta);
        assert_eq!(texts(&errors), [""; 0]);
        let errors = validate_persistent_volume_update(&on("kubernetes.io/os", "other"), &beta);
        assert_eq!(errors.len(), 1);
    }
}
