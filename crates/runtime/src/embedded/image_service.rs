//! CRI's image service on the embedded image store.

use async_trait::async_trait;
use base64::Engine;
use futures::{StreamExt, stream};
use tonic::{Request, Response, Status};

use super::EmbeddedRuntime;
use crate::cri::{self, ImageService, MessageStream};
use crate::image::{Credentials, ImageError, ImageReference, StoredImage};

/// Images of this registry are made here; there is nobody to ask for them.
const BUILT_IN: &str = "skiff.local";

impl EmbeddedRuntime {
    fn describe(&self, image: &StoredImage) -> cri::Image {
        let user = self
            .0
            .images
            .config(image)
            .map(|config| config.config.user)
            .unwrap_or_default();
        let user = user.split(':').next().unwrap_or_default();
        let uid = user.parse::<i64>().ok();
        cri::Image {
            id: image.id.clone(),
            repo_tags: image.tags.iter().cloned().collect(),
            repo_digests: image.digests.iter().cloned().collect(),
            size: image.size,
            uid: uid.map(|value| cri::Int64Value { value }),
            username: if uid.is_some() {
                String::new()
            } else {
                user.to_owned()
            },
            spec: None,
            pinned: image.pinned,
        }
    }

    fn images_by(&self, filter: Option<cri::ImageFilter>) -> Vec<cri::Image> {
        let wanted = filter
            .and_then(|filter| filter.image)
            .map(|spec| spec.image)
            .filter(|name| !name.is_empty());
        match wanted {
            Some(name) => self
                .0
                .images
                .find(&name)
                .map(|image| self.describe(&image))
                .into_iter()
                .collect(),
            None => self
                .0
                .images
                .list()
                .iter()
                .map(|image| self.describe(image))
                .collect(),
        }
    }

    /// The image of that name. One that is built in may still be on its way.
    async fn known(&self, name: &str) -> Option<StoredImage> {
        let find = || self.0.images.find(name);
        let of_ours = |reference: ImageReference| reference.registry == BUILT_IN;
        match find() {
            None if name.parse().is_ok_and(of_ours) => {
                self.built_in_images().await;
                find()
            }
            found => found,
        }
    }

    /// Pulls an image. Answers its id.
    pub async fn pull(&self, name: &str, credentials: &Credentials) -> Result<String, Status> {
        let failed = |error: ImageError| pull_failed(name, &error);
        let reference: ImageReference = name
            .parse()
            .map_err(|error| Status::invalid_argument(format!("{error}")))?;
        if reference.registry == BUILT_IN {
            self.known(name).await;
            let image = self.0.images.get(&reference.to_string()).map_err(failed)?;
            return Ok(image.id);
        }
        let image = self
            .0
            .images
            .pull(&reference, credentials, &self.0.config.registries, None)
            .await
            .map_err(failed)?;
        Ok(image.id)
    }
}

fn pull_failed(name: &str, error: &ImageError) -> Status {
    let full = name
        .parse::<ImageReference>()
        .map_or_else(|_| name.to_owned(), |reference| reference.to_string());
    match error {
        ImageError::NotFound(_) => Status::not_found(format!(
            "failed to pull and unpack image \"{full}\": failed to resolve reference \"{full}\": {full}: not found"
        )),
        other => Status::unknown(format!(
            "failed to pull and unpack image \"{full}\": {other}"
        )),
    }
}

fn credentials(auth: Option<cri::AuthConfig>) -> Result<Credentials, Status> {
    let Some(auth) = auth else {
        return Ok(Credentials::Anonymous);
    };
    if !auth.username.is_empty() {
        return Ok(Credentials::Password {
            user: auth.username,
            password: auth.password,
        });
    }
    for token in [auth.identity_token, auth.registry_token] {
        if !token.is_empty() {
            return Ok(Credentials::Token(token));
        }
    }
    if auth.auth.is_empty() {
        return Ok(Credentials::Anonymous);
    }
    let invalid = || Status::invalid_argument("invalid registry credentials");
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(auth.auth.trim())
        .map_err(|_| invalid())?;
    let text = String::from_utf8(bytes).map_err(|_| invalid())?;
    let (user, password) = text.split_once(':').ok_or_else(invalid)?;
    Ok(Credentials::Password {
        user: user.to_owned(),
        password: password.trim_end_matches('\0').to_owned(),
    })
}

fn name_of(spec: Option<cri::ImageSpec>) -> Result<String, Status> {
    spec.map(|spec| spec.image)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Status::invalid_argument("an image name is needed"))
}

#[async_trait]
impl ImageService for EmbeddedRuntime {
    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        Ok(Response::new(cri::ListImagesResponse {
            images: self.images_by(request.into_inner().filter),
        }))
    }

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Result<Response<MessageStream<cri::StreamImagesResponse>>, Status> {
        let images = self.images_by(request.into_inner().filter);
        Ok(Response::new(
            stream::iter([Ok(cri::StreamImagesResponse { images })]).boxed(),
        ))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let name = name_of(request.into_inner().image)?;
        Ok(Response::new(cri::ImageStatusResponse {
            image: self.known(&name).await.map(|image| self.describe(&image)),
            info: Default::default(),
        }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(request.image)?;
        let credentials = credentials(request.auth)?;
        let image_ref = self.pull(&name, &credentials).await?;
        Ok(Response::new(cri::PullImageResponse { image_ref }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        let name = name_of(request.into_inner().image)?;
        let images = self.0.images.clone();
        let in_use = self.layers_in_use();
        let outcome = tokio::task::spawn_blocking(move || images.remove(&name, &in_use))
            .await
            .map_err(super::internal)?;
        match outcome {
            // What is not there is removed.
            Ok(()) | Err(ImageError::NotFound(_)) => Ok(Response::new(cri::RemoveImageResponse {})),
            Err(error) => Err(super::internal(error)),
        }
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        let dir = self.0.images.dir().to_owned();
        let (bytes, inodes) = self.disk_usage("", &dir).await;
        let usage = cri::FilesystemUsage {
            timestamp: self.now(),
            fs_id: Some(self.image_filesystem()),
            used_bytes: Some(cri::UInt64Value { value: bytes }),
            inodes_used: Some(cri::UInt64Value { value: inodes }),
        };
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![usage.clone()],
            container_filesystems: vec![usage],
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_in_several_forms() {
        let of = |auth: cri::AuthConfig| format!("{:?}", credentials(Some(auth)).unwrap());
        assert_eq!(of(cri::AuthConfig::default()), "Anonymous");
        let encoded = base64::engine::general_purpose::STANDARD.encode("ann:pw");
        assert_eq!(
            of(cri::AuthConfig {
                auth: encoded,
                ..Default::default()
            }),
            "Password of \"ann\""
        );
        assert!(
            credentials(Some(cri::AuthConfig {
                auth: "!".into(),
                ..Default::default()
            }))
            .is_err()
        );
    }
}
