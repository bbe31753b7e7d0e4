//! PersistentVolumes: what a client is warned of.

use k8s_openapi::api::core::v1::PersistentVolume;

use crate::field::Path;

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
