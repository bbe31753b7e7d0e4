//! CRI's image service over the image store.

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use tonic::{Request, Response, Status};

use crate::cri::{self, ImageService, MessageStream};
use crate::image::{ImageError, StoredImage};

use super::{EmbeddedRuntime, blocking, internal};

type Answer<T> = Result<Response<T>, Status>;

fn failed(error: ImageError) -> Status {
    match error {
        ImageError::NotFound(_) => Status::not_found(error.to_string()),
        _ => Status::unknown(error.to_string()),
    }
}

impl EmbeddedRuntime {
    fn cri_image(&self, stored: &StoredImage) -> cri::Image {
        let user = self
            .0
            .images
            .config(stored)
            .map(|config| config.config.user)
            .unwrap_or_default();
        let name = user.split(':').next().unwrap_or_default();
        let uid = name.parse::<i64>().ok();
        cri::Image {
            id: stored.id.clone(),
            repo_tags: stored.tags.iter().cloned().collect(),
            repo_digests: stored.digests.iter().cloned().collect(),
            size: stored.size,
            uid: uid.map(|value| cri::Int64Value { value }),
            username: if uid.is_some() {
                String::new()
            } else {
                name.to_owned()
            },
            spec: None,
            pinned: stored.pinned,
        }
    }

    fn list_stored(&self, filter: Option<cri::ImageFilter>) -> Vec<cri::Image> {
        let wanted = filter
            .and_then(|filter| filter.image)
            .map(|image| image.image)
            .filter(|name| !name.is_empty());
        match wanted {
            Some(name) => self
                .0
                .images
                .find(&name)
                .iter()
                .map(|image| self.cri_image(image))
                .collect(),
            None => self
                .0
                .images
                .list()
                .iter()
                .map(|image| self.cri_image(image))
                .collect(),
        }
    }
}

#[async_trait]
impl ImageService for EmbeddedRuntime {
    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Answer<cri::ListImagesResponse> {
        Ok(Response::new(cri::ListImagesResponse {
            images: self.list_stored(request.into_inner().filter),
        }))
    }

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Answer<MessageStream<cri::StreamImagesResponse>> {
        let images = self.list_stored(request.into_inner().filter);
        Ok(Response::new(
            stream::iter([Ok(cri::StreamImagesResponse { images })]).boxed(),
        ))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Answer<cri::ImageStatusResponse> {
        let name = request
            .into_inner()
            .image
            .map(|image| image.image)
            .unwrap_or_default();
        let image = self
            .0
            .images
            .find(&name)
            .map(|image| self.cri_image(&image));
        Ok(Response::new(cri::ImageStatusResponse {
            image,
            ..Default::default()
        }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Answer<cri::PullImageResponse> {
        let request = request.into_inner();
        let name = request.image.map(|image| image.image).unwrap_or_default();
        let credentials = request
            .auth
            .filter(|auth| !auth.username.is_empty())
            .map(|auth| (auth.username, auth.password));
        let image = crate::image::pull(
            &self.0.images,
            &name,
            credentials,
            &self.0.config.registries,
            &|_| {},
        )
        .await
        .map_err(failed)?;
        Ok(Response::new(cri::PullImageResponse {
            image_ref: image.id,
        }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Answer<cri::RemoveImageResponse> {
        let name = request
            .into_inner()
            .image
            .map(|image| image.image)
            .unwrap_or_default();
        let (inner, used) = (self.0.clone(), self.layers_in_use());
        let removed = blocking(move || Ok(inner.images.remove(&name, &used)))
            .await
            .map_err(internal)?;
        match removed {
            // Removing what is not there succeeds.
            Ok(()) | Err(ImageError::NotFound(_)) => Ok(Response::new(cri::RemoveImageResponse {})),
            Err(error) => Err(failed(error)),
        }
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Answer<cri::ImageFsInfoResponse> {
        let (used, inodes) = self.disk_usage("images", self.0.images.dir()).await;
        let usage = cri::FilesystemUsage {
            timestamp: self.now(),
            fs_id: Some(self.image_filesystem()),
            used_bytes: Some(cri::UInt64Value { value: used }),
            inodes_used: Some(cri::UInt64Value { value: inodes }),
        };
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![usage.clone()],
            container_filesystems: vec![usage],
        }))
    }
}
