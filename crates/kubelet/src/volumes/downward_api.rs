//! `downwardAPI`: fields of the pod as files, kept up to date.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, Volume};

use crate::container::fields;
use crate::volumes::payload::{self, DEFAULT_MODE, File, Payload};
use crate::volumes::secret::in_memory;
use crate::volumes::{Ready, SetUp, VolumeError, VolumePlugin, atomic, fs_group};

/// The type.
pub struct DownwardApi;

#[async_trait]
impl VolumePlugin for DownwardApi {
    fn folder(&self) -> &'static str {
        "kubernetes.io~downward-api"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.downward_api.is_some()
    }

    fn read_only(&self) -> bool {
        true
    }

    async fn set_up(&self, set_up: &SetUp<'_>) -> Result<Ready, VolumeError> {
        let source = set_up.volume.downward_api.clone().unwrap_or_default();
        let items = source.items.as_deref().unwrap_or_default();
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let files = files(set_up, items, mode)?;
        in_memory(set_up)?;
        let now = set_up.cluster.now();
        atomic::write(&set_up.directory, &files, fs_group(set_up.pod), now)?;
        Ok(Ready {
            path: set_up.directory.clone(),
            refresh_after: None,
        })
    }
}

/// The files of a list of fields.
pub fn files(
    set_up: &SetUp<'_>,
    items: &[DownwardAPIVolumeFile],
    default_mode: i32,
) -> Result<Payload, VolumeError> {
    let mut all = Payload::new();
    for item in items {
        payload::check_path(&item.path)?;
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => fields::field(set_up.pod, &selector.field_path, set_up.facts)?,
            (None, Some(selector)) => fields::resource(set_up.pod, None, selector, set_up.facts)?,
            (None, None) => String::new(),
        };
        let mode = item.mode.unwrap_or(default_mode);
        let file = File {
            content: text.into_bytes(),
            mode: u32::try_from(mode).unwrap_or(0o644) & 0o777,
            owner: None,
        };
        all.insert(item.path.clone(), file);
    }
    Ok(all)
}
