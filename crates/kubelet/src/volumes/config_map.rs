//! `configMap`: the keys of a ConfigMap as files, kept up to date.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use crate::container::environment::RefKind;
use crate::pod::spec;
use crate::volumes::payload::{self, DEFAULT_MODE, Payload, Selection};
use crate::volumes::{Ready, SetUp, VolumeError, VolumePlugin, atomic, empty_dir, fs_group};

/// The type.
pub struct ConfigMapVolume;

#[async_trait]
impl VolumePlugin for ConfigMapVolume {
    fn folder(&self) -> &'static str {
        "kubernetes.io~configmap"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.config_map.is_some()
    }

    fn references(&self, volume: &Volume) -> Vec<(RefKind, String)> {
        let source = volume.config_map.iter();
        source
            .map(|s| (RefKind::ConfigMap, s.name.clone()))
            .collect()
    }

    fn read_only(&self) -> bool {
        true
    }

    async fn set_up(&self, set_up: &SetUp<'_>) -> Result<Ready, VolumeError> {
        let source = set_up.volume.config_map.clone().unwrap_or_default();
        let optional = source.optional == Some(true);
        let namespace = spec::namespace(set_up.pod);
        let selection = Selection {
            items: source.items.as_deref(),
            default_mode: source.default_mode.unwrap_or(DEFAULT_MODE),
            optional,
        };
        let files = match set_up.cluster.config_map(namespace, &source.name).await? {
            Some(map) => payload::of_config_map(&map, &selection)?,
            None if optional => Payload::new(),
            None => {
                return Err(VolumeError::NotFound {
                    kind: "configmap",
                    name: source.name,
                });
            }
        };
        empty_dir::open_to_all(&set_up.directory)?;
        let now = set_up.cluster.now();
        atomic::write(&set_up.directory, &files, fs_group(set_up.pod), now)?;
        Ok(Ready {
            path: set_up.directory.clone(),
            refresh_after: None,
        })
    }
}
