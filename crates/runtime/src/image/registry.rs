//! Pulls images from registries.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Write;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use tokio::io::AsyncWrite;

use super::blobs::Draft;
use super::document::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, INDEX, Index, MANIFEST, Manifest,
};
use super::reference::{DEFAULT_REGISTRY, ImageReference};
use super::store::{ImageError, ImageStore, StoredImage, invalid};

/// How to talk to registries.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// Registries that speak plain HTTP. Those on this machine do so anyway.
    pub insecure: HashSet<String>,
    /// Other places to ask first, by registry.
    pub mirrors: HashMap<String, Vec<String>>,
    /// Certificate authorities to trust besides the well-known ones, PEM.
    pub authorities: Vec<Vec<u8>>,
}

/// Who pulls.
#[derive(Clone, Default)]
pub enum Credentials {
    /// Anybody.
    #[default]
    Anonymous,
    /// A user with a password.
    Password {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// The bearer of a token.
    Token(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => formatter.write_str("Anonymous"),
            Self::Password { user, .. } => write!(formatter, "Password of {user:?}"),
            Self::Token(_) => formatter.write_str("Token"),
        }
    }
}

/// How far a pull is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that came so far.
    pub received: u64,
    /// Bytes in all; 0 before the manifest is known.
    pub total: u64,
}

/// Told of a pull's progress.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

impl ImageStore {
    /// Pulls an image, unless the registry has what is here already.
    pub async fn pull(
        self: &Arc<Self>,
        name: &ImageReference,
        credentials: &Credentials,
        registries: &Registries,
        progress: Option<ProgressFn>,
    ) -> Result<StoredImage, ImageError> {
        let _incoming = self.incoming();
        let mut hosts = registries
            .mirrors
            .get(&name.registry)
            .cloned()
            .unwrap_or_default();
        hosts.push(name.registry.clone());
        let mut last = ImageError::NotFound(name.to_string());
        for host in hosts {
            let pull = Pull {
                store: self.clone(),
                name: name.clone(),
                client: client(&host, registries),
                place: place(&host, name)?,
                credentials: credentials.clone(),
                progress: progress.clone(),
            };
            match pull.run().await {
                Ok(image) => return Ok(image),
                Err(error) => {
                    tracing::debug!(host, %error, "pull failed");
                    last = error;
                }
            }
        }
        Err(last)
    }
}

struct Pull {
    store: Arc<ImageStore>,
    name: ImageReference,
    client: Client,
    place: Reference,
    credentials: Credentials,
    progress: Option<ProgressFn>,
}

impl Pull {
    async fn run(&self) -> Result<StoredImage, ImageError> {
        let (bytes, asked) = self.manifest(&self.place).await?;
        let (bytes, digest) = match Self::index(&bytes)? {
            Some(index) => {
                let entry = index
                    .for_this_machine()
                    .ok_or(ImageError::Platform(super::document::architecture()))?;
                let place = self.place.clone_with_digest(entry.digest.clone());
                let (bytes, digest) = self.manifest(&place).await?;
                if digest != entry.digest {
                    return Err(ImageError::Blob(super::blobs::BlobError::Mismatch {
                        expected: entry.digest.clone(),
                        actual: digest,
                    }));
                }
                (bytes, digest)
            }
            None => (bytes, asked.clone()),
        };
        if let Some(wanted) = &self.name.digest
            && *wanted != asked
        {
            return Err(ImageError::Blob(super::blobs::BlobError::Mismatch {
                expected: wanted.clone(),
                actual: asked,
            }));
        }
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(invalid("the image manifest"))?;
        self.blobs(&manifest).await?;
        let store = self.store.clone();
        let name = self.name.clone();
        let image = tokio::task::spawn_blocking(move || {
            let stored = store.blobs.put(&bytes)?;
            debug_assert_eq!(stored, digest);
            store.add(&digest, std::slice::from_ref(&name), false)
        })
        .await
        .map_err(std::io::Error::other)??;
        // The name that was asked for finds the image again, also an index's digest.
        let full = self.name.with_digest(&asked);
        self.store.add_digest(&image.id, full)?;
        self.store.get(&image.id)
    }

    async fn manifest(&self, place: &Reference) -> Result<(Vec<u8>, String), ImageError> {
        let auth = auth(&self.credentials);
        let accepted = [MANIFEST, DOCKER_MANIFEST, INDEX, DOCKER_INDEX];
        let (bytes, _) = self
            .client
            .pull_manifest_raw(place, &auth, &accepted)
            .await
            .map_err(|error| self.explain(error))?;
        let digest = super::blobs::digest_of(&bytes);
        Ok((bytes.to_vec(), digest))
    }

    fn index(bytes: &[u8]) -> Result<Option<Index>, ImageError> {
        #[derive(serde::Deserialize)]
        struct Shape {
            manifests: Option<serde_json::Value>,
        }
        let shape: Shape = serde_json::from_slice(bytes).map_err(invalid("the image manifest"))?;
        if shape.manifests.is_none() {
            return Ok(None);
        }
        serde_json::from_slice(bytes)
            .map(Some)
            .map_err(invalid("the image index"))
    }

    async fn blobs(&self, manifest: &Manifest) -> Result<(), ImageError> {
        let missing: Vec<&Descriptor> = std::iter::once(&manifest.config)
            .chain(&manifest.layers)
            .filter(|blob| !self.store.blobs.contains(&blob.digest))
            .collect();
        let total = missing.iter().map(|blob| blob.size).sum();
        let mut received = 0;
        for blob in missing {
            self.blob(blob, received, total).await?;
            received += blob.size;
        }
        self.tell(received, total);
        Ok(())
    }

    async fn blob(&self, blob: &Descriptor, before: u64, total: u64) -> Result<(), ImageError> {
        let limit = blob.size.min(self.store.limits().bytes);
        let mut writer = Receiving {
            draft: self.store.blobs.draft(limit)?,
            tell: &|received| self.tell(before + received, total),
        };
        let asked = oci_client::manifest::OciDescriptor {
            digest: blob.digest.clone(),
            size: blob.size as i64,
            ..Default::default()
        };
        self.client
            .pull_blob(&self.place, &asked, &mut writer)
            .await
            .map_err(|error| self.explain(error))?;
        writer.draft.commit(Some(&blob.digest))?;
        Ok(())
    }

    fn tell(&self, received: u64, total: u64) {
        if let Some(progress) = &self.progress {
            progress(Progress { received, total });
        }
    }

    /// The registry's answer in the words that users know from other runtimes.
    fn explain(&self, error: OciDistributionError) -> ImageError {
        let name = &self.name;
        let missing = match &error {
            OciDistributionError::ImageManifestNotFoundError(_) => true,
            OciDistributionError::RegistryError { envelope, .. } => {
                envelope.errors.iter().any(|error| {
                    matches!(
                        error.code,
                        OciErrorCode::ManifestUnknown
                            | OciErrorCode::NameUnknown
                            | OciErrorCode::NotFound
                    )
                })
            }
            OciDistributionError::ServerError { code, .. } => *code == 404,
            _ => false,
        };
        if missing {
            return ImageError::NotFound(name.to_string());
        }
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            let text = cause.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            source = cause.source();
        }
        ImageError::Registry(format!("failed to resolve reference \"{name}\": {reason}"))
    }
}

fn auth(credentials: &Credentials) -> RegistryAuth {
    match credentials {
        Credentials::Anonymous => RegistryAuth::Anonymous,
        Credentials::Password { user, password } => {
            RegistryAuth::Basic(user.clone(), password.clone())
        }
        Credentials::Token(token) => RegistryAuth::Bearer(token.clone()),
    }
}

fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name == "[::1]" || name.starts_with("127.")
}

fn client(host: &str, registries: &Registries) -> Client {
    let protocol = if is_local(host) || registries.insecure.contains(host) {
        ClientProtocol::Http
    } else {
        ClientProtocol::Https
    };
    let certificate = |pem: &Vec<u8>| oci_client::client::Certificate {
        encoding: oci_client::client::CertificateEncoding::Pem,
        data: pem.clone(),
    };
    Client::new(ClientConfig {
        protocol,
        extra_root_certificates: registries.authorities.iter().map(certificate).collect(),
        platform_resolver: None,
        read_timeout: Some(Duration::from_secs(60)),
        connect_timeout: Some(Duration::from_secs(15)),
        ..ClientConfig::default()
    })
}

/// Where the registry has the image.
fn place(host: &str, name: &ImageReference) -> Result<Reference, ImageError> {
    let host = match host {
        DEFAULT_REGISTRY => "docker.io",
        other => other,
    };
    let text = match (&name.digest, &name.tag) {
        (Some(digest), _) => format!("{host}/{}@{digest}", name.repository),
        (None, Some(tag)) => format!("{host}/{}:{tag}", name.repository),
        (None, None) => format!("{host}/{}", name.repository),
    };
    Reference::from_str(&text).map_err(|error| ImageError::Registry(error.to_string()))
}

/// Writes to a blob. Blobs are written to the page cache: that does not block for long.
struct Receiving<'a> {
    draft: Draft<'a>,
    tell: &'a (dyn Fn(u64) + Send + Sync),
}

impl AsyncWrite for Receiving<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let outcome = self.draft.write(bytes);
        (self.tell)(self.draft.size());
        Poll::Ready(outcome)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
