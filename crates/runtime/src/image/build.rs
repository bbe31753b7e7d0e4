//! Makes images without a builder: one layer out of a few files.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::document::{
    CONFIG, Execution, ImageConfig, LAYER, MANIFEST, Manifest, RootFs, architecture,
};
use super::reference::ImageReference;
use super::store::{ImageError, ImageStore, StoredImage, descriptor};

/// The label that tells which program an image was made of.
const PROGRAM_LABEL: &str = "local.skiff.program";

#[derive(Debug)]
enum Content {
    Directory,
    Bytes(Vec<u8>),
    File(PathBuf),
    Symlink(String),
}

/// What goes into an image's only layer.
#[derive(Debug, Default)]
pub struct LayerBuilder {
    entries: Vec<(String, u32, Content)>,
}

impl LayerBuilder {
    /// An empty layer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, path: &str, mode: u32, content: Content) -> Self {
        self.entries.push((path.to_owned(), mode, content));
        self
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.with(path, mode, Content::Directory)
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.with(path, mode, Content::Bytes(content.to_vec()))
    }

    /// Adds a file of the node.
    #[must_use]
    pub fn copy(self, path: &str, mode: u32, source: &Path) -> Self {
        self.with(path, mode, Content::File(source.to_owned()))
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.with(path, 0o777, Content::Symlink(target.to_owned()))
    }

    /// Writes the layer as a tar archive: always the same bytes for the same content.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(out);
        for (path, mode, content) in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(*mode);
            header.set_size(0);
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            match content {
                Content::Directory => {
                    header.set_entry_type(tar::EntryType::Directory);
                    tar.append_data(&mut header, path, io::empty())?;
                }
                Content::Bytes(bytes) => {
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, path, bytes.as_slice())?;
                }
                Content::File(source) => {
                    let file = File::open(source)?;
                    header.set_size(file.metadata()?.len());
                    tar.append_data(&mut header, path, file)?;
                }
                Content::Symlink(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        tar.finish()
    }
}

impl ImageStore {
    /// Makes an image of one layer.
    pub fn build(
        &self,
        name: &ImageReference,
        layer: &LayerBuilder,
        execution: Execution,
        pinned: bool,
    ) -> Result<StoredImage, ImageError> {
        let _incoming = self.incoming();
        let mut draft = self.blobs.draft(self.limits().bytes)?;
        layer.write(&mut draft)?;
        let (diff_id, size) = draft.commit(None)?;
        let config = ImageConfig {
            architecture: architecture().to_owned(),
            os: "linux".into(),
            created: Some("1970-01-01T00:00:00Z".into()),
            config: execution,
            rootfs: RootFs {
                kind: "layers".into(),
                diff_ids: vec![diff_id.clone()],
            },
        };
        let config = serde_json::to_vec(&config).map_err(io::Error::from)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MANIFEST.into()),
            config: descriptor(CONFIG, self.blobs.put(&config)?, config.len() as u64),
            layers: vec![descriptor(LAYER, diff_id, size)],
        };
        let manifest = serde_json::to_vec(&manifest).map_err(io::Error::from)?;
        let digest = self.blobs.put(&manifest)?;
        self.add(&digest, std::slice::from_ref(name), pinned)
    }

    /// Makes an image that holds nothing but a static program, as `/app`: the built-in demo is one.
    /// An image that was made of the same file before is kept.
    pub fn build_from_binary(
        &self,
        name: &ImageReference,
        program: &Path,
        arguments: &[&str],
    ) -> Result<StoredImage, ImageError> {
        let meta = std::fs::metadata(program)?;
        let mark = format!(
            "{}-{}.{}-{}",
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ino()
        );
        let entrypoint: Vec<String> = std::iter::once("/app")
            .chain(arguments.iter().copied())
            .map(str::to_owned)
            .collect();
        if let Some(known) = self.find(&name.to_string()) {
            let execution = self.config(&known)?.config;
            if execution.labels.get(PROGRAM_LABEL) == Some(&mark)
                && execution.entrypoint == entrypoint
            {
                return Ok(known);
            }
        }
        let layer = LayerBuilder::new()
            .directory("tmp", 0o1777)
            .directory("etc", 0o755)
            .file(
                "etc/passwd",
                0o644,
                b"root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
            )
            .file("etc/group", 0o644, b"root:x:0:\nnobody:x:65534:\n")
            .copy("app", 0o755, program);
        let execution = Execution {
            entrypoint,
            env: vec!["PATH=/".into()],
            labels: [(PROGRAM_LABEL.to_owned(), mark)].into(),
            ..Execution::default()
        };
        self.build(name, &layer, execution, true)
    }
}
