//! A pod's volumes: exactly one source each, and what each source needs.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    CSIVolumeSource, ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource,
    EmptyDirVolumeSource, EphemeralVolumeSource, GitRepoVolumeSource, HostPathVolumeSource,
    ImageVolumeSource, KeyToPath, NFSVolumeSource, SecretVolumeSource, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::mounts::Volumes;
use super::rules::PodRules;
use super::{containers, env, paths, volumes_network as network, volumes_projected as projected};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{items, text};
use crate::validation::core::persistent_volume_claim_spec::claim_template;
use crate::validation::names;
use crate::validation::quantity::Amount;
use crate::validation::values::{all_invalid, one_of, required};

/// The fields of a pod that files may show.
const FILE_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// The volumes of a pod; the sound ones are handed back by name.
pub(super) fn volumes<'a>(
    errors: &mut ErrorList,
    volumes: &'a [Volume],
    meta: Option<&ObjectMeta>,
    rules: &PodRules,
    path: &Path,
) -> Volumes<'a> {
    let pod_name = meta.map_or("", |meta| text(&meta.name));
    let made: BTreeSet<String> = volumes
        .iter()
        .filter(|volume| !pod_name.is_empty() && volume.ephemeral.is_some())
        .map(|volume| format!("{pod_name}-{}", volume.name))
        .collect();
    let mut sound = Volumes::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let name_path = path.child("name");
        let before = errors.len();
        source(errors, volume, pod_name, rules, &path);
        if volume.name.is_empty() {
            errors.push(FieldError::required(&name_path, ""));
        } else {
            all_invalid(
                errors,
                &name_path,
                &volume.name,
                names::dns_label(&volume.name),
            );
        }
        if sound.contains_key(volume.name.as_str()) {
            errors.push(FieldError::duplicate(&name_path, &volume.name));
        }
        if errors.len() == before {
            sound.insert(&volume.name, volume);
        }
        if let Some(claim) = &volume.persistent_volume_claim
            && made.contains(&claim.claim_name)
        {
            errors.push(FieldError::invalid(
                &path.child("persistentVolumeClaim").child("claimName"),
                &claim.claim_name,
                "must not reference a PVC that gets created for an ephemeral volume",
            ));
        }
    }
    sound
}

/// Counts a volume's sources: the first is judged, each further one is one too many.
pub(crate) struct Sources<'a> {
    pub errors: &'a mut ErrorList,
    pub path: &'a Path,
    pub too_many: &'static str,
    pub found: usize,
}

impl Sources<'_> {
    /// Judges the source, if there is one and it is the first.
    pub fn take<T>(
        &mut self,
        name: &str,
        source: &Option<T>,
        judge: impl FnOnce(&mut ErrorList, &T, &Path),
    ) {
        self.take_as((name, name), source, judge);
    }

    /// The same where upstream has one name for a source too many and another for what is wrong in it.
    pub fn take_as<T>(
        &mut self,
        (refused, judged): (&str, &str),
        source: &Option<T>,
        judge: impl FnOnce(&mut ErrorList, &T, &Path),
    ) {
        let Some(source) = source else { return };
        if self.found > 0 {
            self.errors.push(FieldError::forbidden(
                &self.path.child(refused),
                self.too_many,
            ));
            return;
        }
        self.found += 1;
        judge(self.errors, source, &self.path.child(judged));
    }
}

fn source(errors: &mut ErrorList, volume: &Volume, pod_name: &str, rules: &PodRules, path: &Path) {
    let mut sources = Sources {
        errors,
        path,
        too_many: "may not specify more than 1 volume type",
        found: 0,
    };
    sources.take("emptyDir", &volume.empty_dir, empty_dir);
    sources.take("hostPath", &volume.host_path, host_path);
    sources.take("gitRepo", &volume.git_repo, git_repo);
    network::disks(&mut sources, volume);
    sources.take("secret", &volume.secret, secret);
    sources.take("nfs", &volume.nfs, nfs);
    network::iscsi_volume(&mut sources, volume);
    network::glusterfs_and_flocker(&mut sources, volume);
    sources.take(
        "persistentVolumeClaim",
        &volume.persistent_volume_claim,
        |errors, claim, path| required(errors, &path.child("claimName"), &claim.claim_name),
    );
    network::clusters(&mut sources, volume);
    sources.take_as(
        ("downwarAPI", "downwardAPI"),
        &volume.downward_api,
        downward_api,
    );
    network::channels(&mut sources, volume);
    sources.take("configMap", &volume.config_map, config_map);
    network::clouds(&mut sources, volume);
    sources.take("projected", &volume.projected, |errors, source, path| {
        projected::projected(errors, source, rules, path);
    });
    network::scale_io(&mut sources, volume);
    sources.take("csi", &volume.csi, csi);
    let name_path = path.child("name");
    sources.take("ephemeral", &volume.ephemeral, |errors, source, path| {
        ephemeral(errors, source, path);
        if !pod_name.is_empty() && !volume.name.is_empty() {
            let claim = format!("{pod_name}-{}", volume.name);
            for message in names::dns_subdomain(&claim) {
                let detail = format!("PVC name {claim:?}: {message}");
                errors.push(FieldError::invalid(&name_path, &volume.name, &detail));
            }
        }
    });
    sources.take("image", &volume.image, |errors, source, path| {
        image(errors, source, rules, path);
    });
    if sources.found == 0 {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
}

fn empty_dir(errors: &mut ErrorList, source: &EmptyDirVolumeSource, path: &Path) {
    if source
        .size_limit
        .as_ref()
        .is_some_and(|limit| Amount::of(limit).is_negative())
    {
        errors.push(FieldError::forbidden(
            &path.child("sizeLimit"),
            "SizeLimit field must be a valid resource quantity",
        ));
    }
}

/// A path on the node.
pub(crate) fn host_path(errors: &mut ErrorList, source: &HostPathVolumeSource, path: &Path) {
    if source.path.is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
        return;
    }
    paths::no_backsteps(errors, &source.path, &path.child("path"));
    if let Some(kind) = &source.type_ {
        one_of(
            errors,
            &path.child("type"),
            kind,
            &[
                "",
                "BlockDevice",
                "CharDevice",
                "Directory",
                "DirectoryOrCreate",
                "File",
                "FileOrCreate",
                "Socket",
            ],
        );
    }
}

fn git_repo(errors: &mut ErrorList, source: &GitRepoVolumeSource, path: &Path) {
    required(errors, &path.child("repository"), &source.repository);
    paths::descending(errors, text(&source.directory), &path.child("directory"));
}

/// A directory of an NFS server.
pub(crate) fn nfs(errors: &mut ErrorList, source: &NFSVolumeSource, path: &Path) {
    required(errors, &path.child("server"), &source.server);
    required(errors, &path.child("path"), &source.path);
    if !source.path.starts_with('/') {
        errors.push(FieldError::invalid(
            &path.child("path"),
            &source.path,
            "must be an absolute path",
        ));
    }
}

fn secret(errors: &mut ErrorList, source: &SecretVolumeSource, path: &Path) {
    required(errors, &path.child("secretName"), text(&source.secret_name));
    paths::file_mode(errors, source.default_mode, &path.child("defaultMode"));
    keys(errors, items(&source.items), &path.child("items"));
}

fn config_map(errors: &mut ErrorList, source: &ConfigMapVolumeSource, path: &Path) {
    required(errors, &path.child("name"), &source.name);
    paths::file_mode(errors, source.default_mode, &path.child("defaultMode"));
    keys(errors, items(&source.items), &path.child("items"));
}

fn keys(errors: &mut ErrorList, keys: &[KeyToPath], path: &Path) {
    for (index, key) in keys.iter().enumerate() {
        key_to_path(errors, key, &path.index(index));
    }
}

/// A key and the file it becomes.
pub(super) fn key_to_path(errors: &mut ErrorList, key: &KeyToPath, path: &Path) {
    required(errors, &path.child("key"), &key.key);
    required(errors, &path.child("path"), &key.path);
    paths::not_reserved(errors, &key.path, &path.child("path"));
    paths::file_mode(errors, key.mode, &path.child("mode"));
}

fn downward_api(errors: &mut ErrorList, source: &DownwardAPIVolumeSource, path: &Path) {
    paths::file_mode(errors, source.default_mode, &path.child("defaultMode"));
    // Upstream names the source, not the file.
    for file in items(&source.items) {
        downward_file(errors, file, path);
    }
}

/// A file that shows a field or a container's resources.
pub(super) fn downward_file(errors: &mut ErrorList, file: &DownwardAPIVolumeFile, path: &Path) {
    required(errors, &path.child("path"), &file.path);
    paths::not_reserved(errors, &file.path, &path.child("path"));
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            env::field_selector(errors, field, &FILE_FIELDS, &path.child("fieldRef"));
            if resource.is_some() {
                errors.push(FieldError::invalid(
                    path,
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                ));
            }
        }
        (None, Some(resource)) => {
            env::resource_selector(errors, resource, true, &path.child("resourceFieldRef"));
        }
        (None, None) => errors.push(FieldError::required(
            path,
            "one of fieldRef and resourceFieldRef is required",
        )),
    }
    paths::file_mode(errors, file.mode, &path.child("mode"));
}

fn csi(errors: &mut ErrorList, source: &CSIVolumeSource, path: &Path) {
    csi_driver_name(errors, &source.driver, &path.child("driver"));
    if let Some(secret) = &source.node_publish_secret_ref {
        if secret.name.is_empty() {
            let path = path.child("nodePublishSecretRef").child("name");
            errors.push(FieldError::required(&path, ""));
        } else {
            all_invalid(
                errors,
                &path.child("name"),
                &secret.name,
                names::dns_subdomain(&secret.name),
            );
        }
    }
}

/// The name of a CSI driver.
pub(crate) fn csi_driver_name(errors: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    if name.len() > 63 {
        errors.push(FieldError::too_long(path, 63));
    }
    all_invalid(
        errors,
        path,
        name,
        names::dns_subdomain(&name.to_lowercase()),
    );
}

fn ephemeral(errors: &mut ErrorList, source: &EphemeralVolumeSource, path: &Path) {
    let path = path.child("volumeClaimTemplate");
    match &source.volume_claim_template {
        None => errors.push(FieldError::required(&path, "")),
        Some(template) => claim_template(errors, template, &path),
    }
}

fn image(errors: &mut ErrorList, source: &ImageVolumeSource, rules: &PodRules, path: &Path) {
    if rules.pod {
        required(errors, &path.child("reference"), text(&source.reference));
    }
    containers::pull_policy(errors, &source.pull_policy, &path.child("pullPolicy"));
}
