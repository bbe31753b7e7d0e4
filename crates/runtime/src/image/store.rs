//! The node's images: what is there, under which names, and how it got there.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::blobs::{BlobError, Blobs};
use super::document::{Descriptor, ImageConfig, Manifest};
use super::layers::{LayerError, Layers};
use super::reference::{ImageReference, ReferenceError, is_digest};
use super::unpack::Limits;

/// An image on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredImage {
    /// Digest of the configuration.
    pub id: String,
    /// Digest of the manifest.
    pub manifest: String,
    /// Full names with a tag.
    pub tags: BTreeSet<String>,
    /// Full names with a digest.
    pub digests: BTreeSet<String>,
    /// Bytes of its blobs.
    pub size: u64,
    /// Digests of its uncompressed layers, the lowest first.
    pub diff_ids: Vec<String>,
    /// Whether garbage collection leaves it alone.
    #[serde(default)]
    pub pinned: bool,
}

/// Why an image could not be had or stored.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No such image.
    #[error("image {0:?} not found")]
    NotFound(String),
    /// Not an image name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A blob.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A layer.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The disk.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A document that makes no sense.
    #[error("{what} is invalid: {reason}")]
    Invalid {
        /// Which document.
        what: String,
        /// Why.
        reason: String,
    },
    /// The image has nothing for this machine.
    #[error("no match for platform in manifest: the image is not made for linux/{0}")]
    Platform(&'static str),
    /// The registry.
    #[error("{0}")]
    Registry(String),
}

/// The images of a node, in one directory.
#[derive(Debug)]
pub struct ImageStore {
    dir: PathBuf,
    pub(super) blobs: Blobs,
    layers: Layers,
    limits: Limits,
    index: Mutex<Vec<StoredImage>>,
    /// How many images are coming in. Their blobs belong to no image yet, so meanwhile garbage is
    /// not collected. Changed while the index is locked.
    incoming: AtomicUsize,
}

/// An image that is coming in: until it is dropped, garbage is not collected.
pub(super) struct Incoming<'a>(&'a ImageStore);

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        self.0.incoming.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ImageStore {
    /// Opens the images in `dir`, which is made when it is not there.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, ImageError> {
        fs::create_dir_all(dir)?;
        let path = dir.join("index.json");
        let index = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(invalid("the image index"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            dir: dir.to_owned(),
            blobs: Blobs::open(&dir.join("blobs"))?,
            layers: Layers::open(&dir.join("layers"))?,
            limits,
            index: Mutex::new(index),
            incoming: AtomicUsize::new(0),
        })
    }

    /// Announces an image that is coming in.
    pub(super) fn incoming(&self) -> Incoming<'_> {
        let _index = self.index.lock();
        self.incoming.fetch_add(1, Ordering::Relaxed);
        Incoming(self)
    }

    /// Where the images are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the unpacked layers are.
    #[must_use]
    pub fn layers_dir(&self) -> &Path {
        self.layers.dir()
    }

    /// How much may be unpacked.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// All images.
    #[must_use]
    pub fn list(&self) -> Vec<StoredImage> {
        self.index.lock().clone()
    }

    /// The image of a name, a digest or an id (in full or its first digits).
    #[must_use]
    pub fn find(&self, name: &str) -> Option<StoredImage> {
        let index = self.index.lock();
        find_in(&index, name).map(|position| index[position].clone())
    }

    /// Like [`Self::find`], with an error.
    pub fn get(&self, name: &str) -> Result<StoredImage, ImageError> {
        self.find(name)
            .ok_or_else(|| ImageError::NotFound(name.to_owned()))
    }

    /// The image's configuration.
    pub fn config(&self, image: &StoredImage) -> Result<ImageConfig, ImageError> {
        let bytes = self.blobs.document(&image.id)?;
        serde_json::from_slice(&bytes).map_err(invalid("the image configuration"))
    }

    /// The image's manifest.
    pub fn manifest(&self, image: &StoredImage) -> Result<Manifest, ImageError> {
        let bytes = self.blobs.document(&image.manifest)?;
        serde_json::from_slice(&bytes).map_err(invalid("the image manifest"))
    }

    /// Names of the layers' directories, the topmost first: as overlayfs wants them.
    #[must_use]
    pub fn layer_names(image: &StoredImage) -> Vec<String> {
        let mut seen = HashSet::new();
        image
            .diff_ids
            .iter()
            .rev()
            .map(|diff_id| Layers::name(diff_id))
            // The same layer twice (empty ones) counts where it lies highest.
            .filter(|name| seen.insert(name.clone()))
            .collect()
    }

    /// Takes in an image whose blobs are stored: unpacks its layers and gives it its names.
    pub fn add(
        &self,
        manifest_digest: &str,
        tags: &[ImageReference],
        pinned: bool,
    ) -> Result<StoredImage, ImageError> {
        let bytes = self.blobs.document(manifest_digest)?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(invalid("the image manifest"))?;
        let config_bytes = self.blobs.document(&manifest.config.digest)?;
        let config: ImageConfig =
            serde_json::from_slice(&config_bytes).map_err(invalid("the image configuration"))?;
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(ImageError::Invalid {
                what: "the image configuration".into(),
                reason: format!(
                    "it names {} layers, the manifest {}",
                    diff_ids.len(),
                    manifest.layers.len()
                ),
            });
        }
        for (diff_id, layer) in diff_ids.iter().zip(&manifest.layers) {
            if !self.layers.contains(diff_id) {
                let blob = self.blobs.read(&layer.digest)?;
                self.layers.add(diff_id, blob, &self.limits)?;
            }
        }
        let size = bytes.len() as u64
            + config_bytes.len() as u64
            + manifest.layers.iter().map(|layer| layer.size).sum::<u64>();
        let image = StoredImage {
            id: manifest.config.digest,
            manifest: manifest_digest.to_owned(),
            tags: tags.iter().filter_map(ImageReference::tagged).collect(),
            digests: tags
                .iter()
                .map(|tag| tag.with_digest(manifest_digest))
                .collect(),
            size,
            diff_ids,
            pinned,
        };
        self.record(image)
    }

    /// Adds a name for a digest that the image was asked for by (an index's, for example).
    pub fn add_digest(&self, id: &str, name: String) -> Result<(), ImageError> {
        let mut index = self.index.lock();
        if let Some(image) = index.iter_mut().find(|image| image.id == id)
            && image.digests.insert(name)
        {
            self.save(&index)?;
        }
        Ok(())
    }

    fn record(&self, image: StoredImage) -> Result<StoredImage, ImageError> {
        let mut index = self.index.lock();
        let mut next = index.clone();
        for other in next.iter_mut().filter(|other| other.id != image.id) {
            // A tag belongs to one image: the newest.
            other.tags.retain(|tag| !image.tags.contains(tag));
        }
        let stored = match next.iter_mut().find(|other| other.id == image.id) {
            Some(known) => {
                known.tags.extend(image.tags);
                known.digests.extend(image.digests);
                known.pinned |= image.pinned;
                known.manifest = image.manifest;
                known.size = image.size;
                known.clone()
            }
            None => {
                next.push(image.clone());
                image
            }
        };
        self.save(&next)?;
        *index = next;
        Ok(stored)
    }

    /// Gives an image a further name.
    pub fn tag(&self, name: &str, tag: &ImageReference) -> Result<(), ImageError> {
        let image = self.get(name)?;
        let tag = tag.tagged().ok_or_else(|| ImageError::Invalid {
            what: format!("the name {tag}"),
            reason: "it has no tag".into(),
        })?;
        self.record(StoredImage {
            tags: BTreeSet::from([tag]),
            ..image
        })?;
        Ok(())
    }

    /// Removes an image with all its names. `in_use` holds the directory names of layers that
    /// containers use.
    pub fn remove(&self, name: &str, in_use: &HashSet<String>) -> Result<(), ImageError> {
        {
            let mut index = self.index.lock();
            let position =
                find_in(&index, name).ok_or_else(|| ImageError::NotFound(name.to_owned()))?;
            let mut next = index.clone();
            next.remove(position);
            self.save(&next)?;
            *index = next;
        }
        self.collect_garbage(in_use)
    }

    /// Removes one name; the image goes with its last one.
    pub fn untag(&self, name: &str, in_use: &HashSet<String>) -> Result<(), ImageError> {
        let reference: ImageReference = name.parse()?;
        let full = reference.to_string();
        {
            let mut index = self.index.lock();
            let mut next = index.clone();
            let image = next
                .iter_mut()
                .find(|image| image.tags.contains(&full))
                .ok_or_else(|| ImageError::NotFound(name.to_owned()))?;
            image.tags.remove(&full);
            next.retain(|image| !image.tags.is_empty());
            self.save(&next)?;
            *index = next;
        }
        self.collect_garbage(in_use)
    }

    /// Removes blobs and layers that no image and no container uses.
    pub fn collect_garbage(&self, in_use: &HashSet<String>) -> Result<(), ImageError> {
        let index = self.index.lock();
        if self.incoming.load(Ordering::Relaxed) > 0 {
            // The next removal takes it along.
            return Ok(());
        }
        let mut blobs = HashSet::new();
        let mut layers: HashSet<String> = in_use.clone();
        for image in index.iter() {
            layers.extend(image.diff_ids.iter().map(|diff_id| Layers::name(diff_id)));
            blobs.insert(image.id.clone());
            blobs.insert(image.manifest.clone());
            blobs.extend(
                self.manifest(image)?
                    .layers
                    .into_iter()
                    .map(|layer| layer.digest),
            );
        }
        for digest in self.blobs.list()? {
            if !blobs.contains(&digest) {
                self.blobs.remove(&digest)?;
            }
        }
        self.layers.retain(|name| layers.contains(name))?;
        Ok(())
    }

    fn save(&self, index: &[StoredImage]) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(index)?;
        write_whole(&self.dir.join("index.json"), &bytes)
    }

    /// A file of the image as a container would see it; none when it is not there. Symbolic links
    /// are followed inside the layer only.
    pub fn read_file(&self, image: &StoredImage, path: &str) -> io::Result<Option<Vec<u8>>> {
        const LIMIT: u64 = 4 << 20;
        for name in Self::layer_names(image) {
            let root = fs::File::open(self.layers.dir().join(name))?;
            match rustix::fs::openat2(
                &root,
                path,
                rustix::fs::OFlags::RDONLY
                    | rustix::fs::OFlags::CLOEXEC
                    | rustix::fs::OFlags::NONBLOCK,
                rustix::fs::Mode::empty(),
                rustix::fs::ResolveFlags::IN_ROOT | rustix::fs::ResolveFlags::NO_MAGICLINKS,
            ) {
                Ok(fd) => {
                    let file = fs::File::from(fd);
                    if !file.metadata()?.is_file() {
                        return Ok(None);
                    }
                    let mut bytes = Vec::new();
                    file.take(LIMIT).read_to_end(&mut bytes)?;
                    return Ok(Some(bytes));
                }
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
                // A whiteout: a device without a driver.
                Err(rustix::io::Errno::NXIO) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(None)
    }
}

/// Writes a file so that a reader, also after a crash, finds the old content or the new one.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = fs::File::create(&draft)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&draft, path)
}

pub(super) fn invalid(what: &str) -> impl Fn(serde_json::Error) -> ImageError + '_ {
    move |error| ImageError::Invalid {
        what: what.to_owned(),
        reason: error.to_string(),
    }
}

fn find_in(index: &[StoredImage], name: &str) -> Option<usize> {
    if is_digest(name) {
        return index.iter().position(|image| image.id == name);
    }
    if let Ok(reference) = name.parse::<ImageReference>() {
        let found = match &reference.digest {
            Some(digest) => {
                let full = reference.with_digest(digest);
                index.iter().position(|image| image.digests.contains(&full))
            }
            None => {
                let full = reference.to_string();
                index.iter().position(|image| image.tags.contains(&full))
            }
        };
        if found.is_some() {
            return found;
        }
    }
    // An id without `sha256:`, perhaps cut short, as people type it.
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    let hexadecimal = digits.len() >= 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut matching = index
        .iter()
        .enumerate()
        .filter(|(_, image)| hexadecimal && image.id["sha256:".len()..].starts_with(digits));
    match (matching.next(), matching.next()) {
        (Some((position, _)), None) => Some(position),
        _ => None,
    }
}

/// The descriptor of a stored blob.
pub(super) fn descriptor(media_type: &str, digest: String, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        ..Descriptor::default()
    }
}
