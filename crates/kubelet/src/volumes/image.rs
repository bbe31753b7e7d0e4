//! `image`: the files of an image, mounted by the runtime itself.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use crate::volumes::{Ready, SetUp, VolumeError, VolumePlugin};

/// The type. Nothing is set up on the host: the image is pulled and mounted with the container.
pub struct ImageVolume;

#[async_trait]
impl VolumePlugin for ImageVolume {
    fn folder(&self) -> &'static str {
        "kubernetes.io~image"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.image.is_some()
    }

    async fn set_up(&self, set_up: &SetUp<'_>) -> Result<Ready, VolumeError> {
        Ok(Ready {
            path: set_up.directory.clone(),
            refresh_after: None,
        })
    }
}
