//! `persistentVolumeClaim` and `ephemeral`: a claim that is bound to a volume on this node (`hostPath`, `local`).

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, Pod, Volume};

use crate::pod::spec;
use crate::volumes::{
    Ready, SetUp, VolumeError, VolumePlugin, fs_group, host_path, local_dir, ownership,
};

/// The type.
pub struct Persistent;

/// The claim that a volume of a pod stands for.
fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(source.claim_name.clone());
    }
    // A claim of the pod's own is named after both.
    volume.ephemeral.as_ref()?;
    Some(format!("{}-{}", spec::name(pod), volume.name))
}

#[async_trait]
impl VolumePlugin for Persistent {
    fn folder(&self) -> &'static str {
        "kubernetes.io~local-volume"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    }

    async fn set_up(&self, set_up: &SetUp<'_>) -> Result<Ready, VolumeError> {
        let name = claim_name(set_up.pod, set_up.volume).unwrap_or_default();
        let namespace = spec::namespace(set_up.pod);
        let claim = set_up.cluster.claim(namespace, &name).await?;
        let claim = claim.ok_or_else(|| VolumeError::NotFound {
            kind: "persistentvolumeclaim",
            name: name.clone(),
        })?;
        let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let volume = claim.spec.and_then(|s| s.volume_name).filter(|_| bound);
        let volume = volume.ok_or(VolumeError::NotBound(name))?;
        let found = set_up.cluster.persistent_volume(&volume).await?;
        let found = found.ok_or(VolumeError::NotFound {
            kind: "persistentvolume",
            name: volume,
        })?;
        let path = path(&found)?;
        if let Some(group) = fs_group(set_up.pod) {
            ownership::give_to_group(&path, group, false)
                .map_err(VolumeError::io("chown", &path))?;
        }
        Ok(Ready {
            path,
            refresh_after: None,
        })
    }
}

/// Where the volume is on this node.
fn path(volume: &PersistentVolume) -> Result<PathBuf, VolumeError> {
    let spec = volume.spec.as_ref().ok_or(VolumeError::Unsupported)?;
    if let Some(source) = &spec.host_path {
        let path = PathBuf::from(&source.path);
        host_path::check(&path, source.type_.as_deref().unwrap_or_default())?;
        return Ok(path);
    }
    let Some(source) = &spec.local else {
        return Err(VolumeError::Unsupported);
    };
    let path = PathBuf::from(&source.path);
    local_dir::make(volume, &path)?;
    if !path.exists() {
        let error = std::io::ErrorKind::NotFound.into();
        return Err(VolumeError::io("path", &path)(error));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{LocalVolumeSource, PersistentVolumeSpec};

    #[test]
    fn local_volumes_must_be_there() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| PersistentVolume {
            spec: Some(PersistentVolumeSpec {
                local: Some(LocalVolumeSource {
                    path: path.into(),
                    fs_type: None,
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let here = root.path().to_str().unwrap();
        assert_eq!(path(&at(here)).unwrap(), root.path());
        assert!(path(&at("/nowhere/at/all")).is_err());
        assert!(matches!(
            path(&PersistentVolume::default()),
            Err(VolumeError::Unsupported)
        ));
    }
}
