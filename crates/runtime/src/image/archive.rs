//! Images in files: OCI layouts and Docker archives, read and written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::blobs::BlobError;
use super::document::{
    CONFIG, CONTAINERD_NAME, INDEX, ImageConfig, Index, LAYER, MANIFEST, Manifest, REF_NAME,
    architecture,
};
use super::guard::HeaderGuard;
use super::layers::decompress;
use super::reference::{ImageReference, is_digest};
use super::store::{ImageError, ImageStore, StoredImage, descriptor, invalid};

/// The largest document that an archive may hold.
const DOCUMENT: u64 = 16 << 20;
/// How deep indexes may be nested.
const DEPTH: usize = 4;

/// One image in a Docker archive's `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The files of an archive: documents in memory, everything else in the blob store.
#[derive(Debug, Default)]
struct Files {
    documents: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, (String, u64)>,
    links: HashMap<String, String>,
}

impl Files {
    fn document(&self, name: &str) -> Option<&Vec<u8>> {
        self.documents.get(name)
    }

    fn blob(&self, name: &str) -> Option<&(String, u64)> {
        let mut name = name;
        for _ in 0..DEPTH {
            if let Some(found) = self.blobs.get(name) {
                return Some(found);
            }
            name = self.links.get(name)?;
        }
        None
    }
}

/// What cannot be read as an archive. The bytes that the reader quotes are not for people.
fn broken(error: &io::Error) -> ImageError {
    let said = error.to_string();
    let plain = said.chars().all(|c| c.is_ascii() && !c.is_ascii_control());
    let why = if plain {
        said.as_str()
    } else {
        "a header makes no sense"
    };
    ImageError::Invalid {
        what: "the archive".into(),
        reason: format!("it is cut short or not a tar file ({why}); fetch or save it again"),
    }
}

impl ImageStore {
    /// Imports all images of an archive: an OCI layout or a Docker archive, plain or compressed.
    /// `name` is given to an image that the archive does not name.
    pub fn import(
        &self,
        archive: impl Read,
        name: Option<&ImageReference>,
        in_use: &HashSet<String>,
    ) -> Result<Vec<StoredImage>, ImageError> {
        let incoming = self.incoming();
        let outcome = self.import_files(archive, name);
        drop(incoming);
        if outcome.is_err() {
            // What came in of a bad archive belongs to no image.
            self.collect_garbage(in_use)?;
        }
        outcome
    }

    fn import_files(
        &self,
        archive: impl Read,
        name: Option<&ImageReference>,
    ) -> Result<Vec<StoredImage>, ImageError> {
        let files = self.read_archive(archive)?;
        let mut images = Vec::new();
        if let Some(bytes) = files.document("index.json") {
            let index: Index = serde_json::from_slice(bytes).map_err(invalid("index.json"))?;
            let docker = docker_names(&files)?;
            self.import_index(&index, name, &docker, 0, &mut images)?;
        } else if let Some(bytes) = files.document("manifest.json") {
            let entries: Vec<DockerEntry> =
                serde_json::from_slice(bytes).map_err(invalid("manifest.json"))?;
            for entry in &entries {
                images.push(self.import_docker(&files, entry, name)?);
            }
        } else {
            return Err(ImageError::Invalid {
                what: "the archive".into(),
                reason: "it has neither index.json nor manifest.json: not an image archive".into(),
            });
        }
        if images.is_empty() {
            return Err(ImageError::Platform(architecture()));
        }
        Ok(images)
    }

    fn read_archive(&self, archive: impl Read) -> Result<Files, ImageError> {
        let mut files = Files::default();
        let mut tar = tar::Archive::new(HeaderGuard::new(decompress(archive)?));
        let mut left = self.limits().bytes;
        for entry in tar.entries()? {
            let mut entry = entry.map_err(|error| broken(&error))?;
            let path = entry.path()?.to_string_lossy().into_owned();
            let path = path.trim_start_matches("./").to_owned();
            match entry.header().entry_type() {
                tar::EntryType::Regular => {}
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    if let Some(target) = entry.link_name()? {
                        let target = target.to_string_lossy();
                        files.links.insert(path.clone(), beside(&path, &target));
                    }
                    continue;
                }
                _ => continue,
            }
            if entry.size() > left {
                return Err(BlobError::TooLarge(self.limits().bytes).into());
            }
            left -= entry.size();
            if ["index.json", "manifest.json", "oci-layout", "repositories"]
                .contains(&path.as_str())
            {
                let mut bytes = Vec::new();
                entry.take(DOCUMENT).read_to_end(&mut bytes)?;
                files.documents.insert(path, bytes);
            } else {
                let expected = path
                    .strip_prefix("blobs/sha256/")
                    .map(|digits| format!("sha256:{digits}"))
                    .filter(|digest| is_digest(digest));
                let limit = entry.size();
                let stored = self.blobs.copy(&mut entry, expected.as_deref(), limit)?;
                files.blobs.insert(path, stored);
            }
        }
        Ok(files)
    }

    fn import_index(
        &self,
        index: &Index,
        name: Option<&ImageReference>,
        docker: &BTreeMap<String, Vec<String>>,
        depth: usize,
        images: &mut Vec<StoredImage>,
    ) -> Result<(), ImageError> {
        if depth > DEPTH {
            return Err(ImageError::Invalid {
                what: "the image index".into(),
                reason: "it is nested too deeply".into(),
            });
        }
        for entry in &index.manifests {
            let named = [CONTAINERD_NAME, REF_NAME]
                .iter()
                .filter_map(|key| entry.annotations.get(*key))
                // A bare tag is no name.
                .find(|text| text.contains(['/', ':']))
                .and_then(|text| text.parse::<ImageReference>().ok());
            let own = named.or_else(|| name.cloned());
            let bytes = self.blobs.document(&entry.digest)?;
            if let Ok(inner) = serde_json::from_slice::<Index>(&bytes) {
                // The platforms of one image: at most one of them is for us.
                let fitting = Index {
                    manifests: inner.for_this_machine().cloned().into_iter().collect(),
                    ..inner
                };
                self.import_index(&fitting, own.as_ref(), docker, depth + 1, images)?;
                continue;
            }
            let foreign = entry
                .platform
                .as_ref()
                .is_some_and(|p| p.os != "linux" || p.architecture != architecture());
            if foreign {
                continue;
            }
            let manifest: Manifest =
                serde_json::from_slice(&bytes).map_err(invalid("the image manifest"))?;
            let mut names: Vec<ImageReference> = own.into_iter().collect();
            let more = docker.get(&manifest.config.digest).into_iter().flatten();
            names.extend(more.filter_map(|text| text.parse().ok()));
            images.push(self.add(&entry.digest, &names, false)?);
        }
        Ok(())
    }

    fn import_docker(
        &self,
        files: &Files,
        entry: &DockerEntry,
        name: Option<&ImageReference>,
    ) -> Result<StoredImage, ImageError> {
        let missing = |file: &str| ImageError::Invalid {
            what: "the archive".into(),
            reason: format!("{file} is missing"),
        };
        let (config, size) = files
            .blob(&entry.config)
            .cloned()
            .ok_or_else(|| missing(&entry.config))?;
        let bytes = self.blobs.document(&config)?;
        // A configuration that makes no sense fails before a manifest points to it.
        let _: ImageConfig =
            serde_json::from_slice(&bytes).map_err(invalid("the image configuration"))?;
        let mut layers = Vec::new();
        for layer in &entry.layers {
            let (digest, size) = files.blob(layer).cloned().ok_or_else(|| missing(layer))?;
            layers.push(descriptor(&self.layer_type(&digest)?, digest, size));
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MANIFEST.into()),
            config: descriptor(CONFIG, config, size),
            layers,
        };
        let manifest = serde_json::to_vec(&manifest).map_err(io::Error::from)?;
        let digest = self.blobs.put(&manifest)?;
        let mut names = Vec::new();
        for tag in entry.repo_tags.iter().flatten() {
            names.push(tag.parse::<ImageReference>()?);
        }
        if names.is_empty() {
            names.extend(name.cloned());
        }
        self.add(&digest, &names, false)
    }

    fn layer_type(&self, digest: &str) -> Result<String, ImageError> {
        let mut start = [0; 4];
        let count = self.blobs.read(digest)?.read(&mut start)?;
        let suffix = match &start[..count] {
            [0x1f, 0x8b, ..] => "+gzip",
            [0x28, 0xb5, 0x2f, 0xfd] => "+zstd",
            _ => "",
        };
        Ok(format!("{LAYER}{suffix}"))
    }

    /// Writes an image as an OCI layout that is a Docker archive too: both kinds of tools read it.
    pub fn export(&self, name: &str, out: impl Write) -> Result<(), ImageError> {
        let image = self.get(name)?;
        let manifest = self.manifest(&image)?;
        let size = self.blobs.document(&image.manifest)?.len() as u64;
        let mut entries = Vec::new();
        for tag in &image.tags {
            let mut entry = descriptor(MANIFEST, image.manifest.clone(), size);
            entry.annotations.insert(REF_NAME.into(), tag.clone());
            entry
                .annotations
                .insert(CONTAINERD_NAME.into(), tag.clone());
            entries.push(entry);
        }
        if entries.is_empty() {
            entries.push(descriptor(MANIFEST, image.manifest.clone(), size));
        }
        let index = Index {
            schema_version: 2,
            media_type: Some(INDEX.into()),
            manifests: entries,
        };
        let path = |digest: &str| format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
        let docker = vec![DockerEntry {
            config: path(&image.id),
            repo_tags: Some(image.tags.iter().cloned().collect()),
            layers: manifest.layers.iter().map(|l| path(&l.digest)).collect(),
        }];
        let mut tar = tar::Builder::new(out);
        let mut small = |name: &str, bytes: &[u8]| {
            let mut header = header(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes)
        };
        small("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        small(
            "index.json",
            &serde_json::to_vec(&index).map_err(io::Error::from)?,
        )?;
        small(
            "manifest.json",
            &serde_json::to_vec(&docker).map_err(io::Error::from)?,
        )?;
        let mut written = HashSet::new();
        let digests = [&image.id, &image.manifest]
            .into_iter()
            .chain(manifest.layers.iter().map(|layer| &layer.digest));
        for digest in digests {
            if written.insert(digest.clone()) {
                let file = self.blobs.read(digest)?;
                let mut header = header(file.metadata()?.len());
                tar.append_data(&mut header, path(digest), file)?;
            }
        }
        tar.finish()?;
        Ok(())
    }

    /// Imports a file or an OCI layout directory.
    pub fn import_path(
        &self,
        path: &Path,
        name: Option<&ImageReference>,
        in_use: &HashSet<String>,
    ) -> Result<Vec<StoredImage>, ImageError> {
        if path.is_dir() {
            let mut packed = tempfile_in(self.dir())?;
            let mut tar = tar::Builder::new(&mut packed);
            tar.append_dir_all(".", path)?;
            tar.finish()?;
            drop(tar);
            io::Seek::rewind(&mut packed)?;
            return self.import(packed, name, in_use);
        }
        self.import(File::open(path)?, name, in_use)
    }
}

/// A file without a name: it goes when it is closed.
fn tempfile_in(dir: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::from_raw_mode(0o600))?.into())
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header
}

/// A link's target as a name in the archive: old Docker archives link layers to each other.
fn beside(link: &str, target: &str) -> String {
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => {
                parts.pop();
            }
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Names by configuration digest, from the `manifest.json` that lies beside an index.
fn docker_names(files: &Files) -> Result<BTreeMap<String, Vec<String>>, ImageError> {
    let Some(bytes) = files.document("manifest.json") else {
        return Ok(BTreeMap::new());
    };
    let entries: Vec<DockerEntry> =
        serde_json::from_slice(bytes).map_err(invalid("manifest.json"))?;
    Ok(entries
        .into_iter()
        .filter_map(|entry| {
            let (digest, _) = files.blob(&entry.config)?;
            Some((digest.clone(), entry.repo_tags?))
        })
        .collect())
}
