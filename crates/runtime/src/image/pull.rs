//! Fetches images from registries.

use std::collections::HashMap;
use std::io::Seek as _;

use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};

use super::document::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, INDEX, Index, MANIFEST, Manifest, architecture,
};
use super::reference::ImageReference;
use super::store::{ImageError, ImageStore, StoredImage, invalid};

/// The registry of images that only this node has, such as the built-in demo: there is nothing to fetch them from.
pub const LOCAL_REGISTRY: &str = "skiff.local";

/// How to talk to registries.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// Registries (`host:port`) that are spoken to over plain HTTP.
    pub plain_http: Vec<String>,
    /// Registries to ask first, by the registry that they mirror.
    pub mirrors: HashMap<String, Vec<String>>,
}

/// A step of a pull: bytes that have come, of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes that are here.
    pub done: u64,
    /// Bytes of the whole image.
    pub total: u64,
}

/// Fetches `name` into the store: mirrors first, then the registry itself. What is here already is not fetched again.
pub async fn pull(
    store: &ImageStore,
    name: &str,
    credentials: Option<(String, String)>,
    registries: &Registries,
    progress: &(dyn Fn(PullProgress) + Sync),
) -> Result<StoredImage, ImageError> {
    let reference: ImageReference = name.parse()?;
    if reference.registry == LOCAL_REGISTRY {
        return store.get(name);
    }
    let client = Client::new(ClientConfig {
        protocol: ClientProtocol::HttpsExcept(registries.plain_http.clone()),
        // The index's manifest is chosen below.
        platform_resolver: None,
        ..ClientConfig::default()
    });
    let auth = credentials.map_or(RegistryAuth::Anonymous, |(user, password)| {
        RegistryAuth::Basic(user, password)
    });
    let mirrors = registries
        .mirrors
        .get(&reference.registry)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let hosts = mirrors.iter().chain(std::iter::once(&reference.registry));
    let mut last = None;
    for host in hosts {
        let source = Source {
            store,
            client: &client,
            auth: &auth,
            host,
            reference: &reference,
            progress,
        };
        match source.fetch().await {
            Ok(image) => return Ok(image),
            Err(error) => {
                tracing::debug!(image = name, registry = %host, %error, "pull failed");
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| ImageError::NotFound(name.to_owned())))
}

struct Source<'a> {
    store: &'a ImageStore,
    client: &'a Client,
    auth: &'a RegistryAuth,
    host: &'a str,
    reference: &'a ImageReference,
    progress: &'a (dyn Fn(PullProgress) + Sync),
}

impl Source<'_> {
    fn failed(&self, error: impl std::fmt::Display) -> ImageError {
        ImageError::Registry(format!(
            "failed to pull image {:?}: {error}",
            self.reference.name()
        ))
    }

    fn remote(&self, digest: Option<&str>) -> Reference {
        let (host, repository) = (self.host.to_owned(), self.reference.repository.clone());
        match digest.or(self.reference.digest.as_deref()) {
            Some(digest) => Reference::with_digest(host, repository, digest.to_owned()),
            None => Reference::with_tag(
                host,
                repository,
                self.reference
                    .tag
                    .clone()
                    .unwrap_or_else(|| "latest".into()),
            ),
        }
    }

    async fn document(&self, reference: &Reference) -> Result<(Vec<u8>, String), ImageError> {
        let accepted = [MANIFEST, DOCKER_MANIFEST, INDEX, DOCKER_INDEX];
        let (bytes, _) = self
            .client
            .pull_manifest_raw(reference, self.auth, &accepted)
            .await
            .map_err(|error| self.failed(error))?;
        let digest = self.store.blobs.put(&bytes)?;
        if reference.digest().is_some_and(|wanted| wanted != digest) {
            return Err(self.failed(format!("the registry answered with {digest}")));
        }
        Ok((bytes.to_vec(), digest))
    }

    async fn fetch(&self) -> Result<StoredImage, ImageError> {
        let (mut bytes, top) = self.document(&self.remote(None)).await?;
        let mut digest = top.clone();
        if let Ok(index) = serde_json::from_slice::<Index>(&bytes) {
            let wanted = for_this_machine(&index).ok_or_else(|| {
                self.failed(format!("no match for platform linux/{}", architecture()))
            })?;
            (bytes, digest) = self.document(&self.remote(Some(&wanted.digest))).await?;
        }
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(invalid("the image manifest"))?;
        self.fetch_blobs(&manifest).await?;
        let image = self
            .store
            .add(&digest, std::slice::from_ref(self.reference), false)?;
        if top != digest {
            self.store
                .add_digest(&image.id, self.reference.with_digest(&top))?;
        }
        Ok(image)
    }

    async fn fetch_blobs(&self, manifest: &Manifest) -> Result<(), ImageError> {
        let blobs: Vec<&Descriptor> = std::iter::once(&manifest.config)
            .chain(&manifest.layers)
            .collect();
        let total: u64 = blobs.iter().map(|blob| blob.size).sum();
        if total > self.store.limits().bytes {
            return Err(self.failed(format!("it has {total} bytes, more than an image may have")));
        }
        let mut done = 0;
        for blob in blobs {
            if !self.store.blobs.contains(&blob.digest) {
                self.fetch_blob(blob).await?;
            }
            done += blob.size;
            (self.progress)(PullProgress { done, total });
        }
        Ok(())
    }

    async fn fetch_blob(&self, blob: &Descriptor) -> Result<(), ImageError> {
        let descriptor = OciDescriptor {
            media_type: blob.media_type.clone(),
            digest: blob.digest.clone(),
            size: i64::try_from(blob.size).unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        };
        let mut file = self.store.scratch()?;
        let out = tokio::fs::File::from_std(file.try_clone()?);
        self.client
            .pull_blob(&self.remote(None), &descriptor, out)
            .await
            .map_err(|error| self.failed(error))?;
        file.rewind()?;
        self.store
            .blobs
            .copy(&mut file, Some(&blob.digest), blob.size)?;
        Ok(())
    }
}

/// The manifest for this machine's processor; the only one where none says what it is for.
fn for_this_machine(index: &Index) -> Option<&Descriptor> {
    let fits = |descriptor: &&Descriptor| {
        descriptor.platform.as_ref().is_some_and(|platform| {
            platform.os == "linux" && platform.architecture == architecture()
        })
    };
    index.manifests.iter().find(fits).or_else(|| {
        index
            .manifests
            .iter()
            .find(|descriptor| descriptor.platform.is_none())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::document::Platform;

    #[test]
    fn the_manifest_of_this_processor_is_chosen() {
        let descriptor = |digest: &str, architecture: &str| Descriptor {
            digest: digest.into(),
            platform: Some(Platform {
                architecture: architecture.into(),
                os: "linux".into(),
                variant: None,
            }),
            ..Descriptor::default()
        };
        let index = Index {
            manifests: vec![descriptor("a", "z80"), descriptor("b", architecture())],
            ..Index::default()
        };
        assert_eq!(for_this_machine(&index).unwrap().digest, "b");
        let index = Index {
            manifests: vec![descriptor("a", "z80")],
            ..Index::default()
        };
        assert!(for_this_machine(&index).is_none());
    }
}
