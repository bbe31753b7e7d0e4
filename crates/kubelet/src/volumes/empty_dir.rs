//! `emptyDir`: a directory that lives as long as its pod, on disk or in memory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use crate::pod::resources;
use crate::quantity;
use crate::volumes::{Ready, SetUp, VolumeError, VolumePlugin, fs_group, ownership};

/// The type.
pub struct EmptyDir;

#[async_trait]
impl VolumePlugin for EmptyDir {
    fn folder(&self) -> &'static str {
        "kubernetes.io~empty-dir"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.empty_dir.is_some()
    }

    async fn set_up(&self, set_up: &SetUp<'_>) -> Result<Ready, VolumeError> {
        let path = set_up.directory.clone();
        let done = Ready {
            path: path.clone(),
            refresh_after: None,
        };
        let source = set_up.volume.empty_dir.clone().unwrap_or_default();
        let fresh = open_to_all(&path)?;
        if source.medium.as_deref() == Some("Memory") {
            let limit = source.size_limit.as_ref();
            let limit = limit.and_then(|q| quantity::whole(&q.0)).filter(|l| *l > 0);
            let pod_limit = resources::pod_limits(set_up.pod).get("memory").copied();
            let size = [limit, pod_limit, Some(set_up.facts.allocatable_memory)];
            let size = size.into_iter().flatten().filter(|s| *s > 0).min();
            let size = size.and_then(|s| u64::try_from(s).ok());
            let mount = set_up.mounter.memory(&path, size);
            mount.map_err(VolumeError::io("mount tmpfs at", &path))?;
        }
        if fresh {
            allow_all(&path)?;
            if let Some(group) = fs_group(set_up.pod) {
                ownership::give_to_group(&path, group, false)
                    .map_err(VolumeError::io("chown", &path))?;
            }
        }
        Ok(done)
    }
}

/// Makes a directory in which any user of any container may write; whether it was not there before.
pub fn open_to_all(path: &Path) -> Result<bool, VolumeError> {
    if path.exists() {
        return Ok(false);
    }
    fs::create_dir_all(path).map_err(VolumeError::io("mkdir", path))?;
    allow_all(path)?;
    Ok(true)
}

fn allow_all(path: &Path) -> Result<(), VolumeError> {
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(path, open).map_err(VolumeError::io("chmod", path))
}
