//! `secret`: the keys of a Secret as files in memory, kept up to date.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use crate::container::environment::RefKind;
use crate::pod::spec;
use crate::volumes::payload::{self, DEFAULT_MODE, Payload, Selection};
use crate::volumes::{Ready, SetUp, VolumeError, VolumePlugin, atomic, fs_group};

/// The type.
pub struct SecretVolume;

#[async_trait]
impl VolumePlugin for SecretVolume {
    fn folder(&self) -> &'static str {
        "kubernetes.io~secret"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.secret.is_some()
    }

    fn references(&self, volume: &Volume) -> Vec<(RefKind, String)> {
        let name = volume.secret.as_ref().and_then(|s| s.secret_name.clone());
        name.map(|name| (RefKind::Secret, name))
            .into_iter()
            .collect()
    }

    fn read_only(&self) -> bool {
        true
    }

    async fn set_up(&self, set_up: &SetUp<'_>) -> Result<Ready, VolumeError> {
        let source = set_up.volume.secret.clone().unwrap_or_default();
        let name = source.secret_name.unwrap_or_default();
        let optional = source.optional == Some(true);
        let namespace = spec::namespace(set_up.pod);
        let selection = Selection {
            items: source.items.as_deref(),
            default_mode: source.default_mode.unwrap_or(DEFAULT_MODE),
            optional,
        };
        let files = match set_up.cluster.secret(namespace, &name).await? {
            Some(secret) => payload::of_secret(&secret, &selection)?,
            None if optional => Payload::new(),
            None => {
                return Err(VolumeError::NotFound {
                    kind: "secret",
                    name,
                });
            }
        };
        in_memory(set_up)?;
        let now = set_up.cluster.now();
        atomic::write(&set_up.directory, &files, fs_group(set_up.pod), now)?;
        Ok(Ready {
            path: set_up.directory.clone(),
            refresh_after: None,
        })
    }
}

/// Puts the volume's directory into memory, so that its content never reaches a disk.
pub fn in_memory(set_up: &SetUp<'_>) -> Result<(), VolumeError> {
    let path = &set_up.directory;
    std::fs::create_dir_all(path).map_err(VolumeError::io("mkdir", path))?;
    let size = u64::try_from(set_up.facts.allocatable_memory).ok();
    let mount = set_up.mounter.memory(path, size.filter(|size| *size > 0));
    mount.map_err(VolumeError::io("mount tmpfs at", path))
}
