//! Unpacked layers, ready to be mounted: one directory for each, named after its digest.

use std::fs;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::blobs::hex;
use super::reference::is_digest;
use super::unpack::{Limits, UnpackError, unpack};

/// How many digits of the digest name the directory: enough to be unique, short because overlay
/// mount options are limited to a page.
const NAME_DIGITS: usize = 32;

/// The directory of unpacked layers.
#[derive(Debug)]
pub struct Layers {
    dir: PathBuf,
}

/// Why a layer is not there.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Unpacking failed.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The disk.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The layer is not the one that the configuration names.
    #[error("layer digest mismatch: the configuration says {expected}, the layer is {actual}")]
    Mismatch {
        /// What the configuration says.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// Not a digest.
    #[error("invalid layer digest {0:?}")]
    Invalid(String),
}

impl Layers {
    /// The layers in `dir`, which is made when it is not there. What an interrupted run left half
    /// done is removed.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_string_lossy().contains('-') {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Where the layers are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name of a layer's directory.
    #[must_use]
    pub fn name(diff_id: &str) -> String {
        diff_id
            .trim_start_matches("sha256:")
            .chars()
            .take(NAME_DIGITS)
            .collect()
    }

    /// Whether a layer is there.
    #[must_use]
    pub fn contains(&self, diff_id: &str) -> bool {
        is_digest(diff_id) && self.dir.join(Self::name(diff_id)).is_dir()
    }

    /// Unpacks a layer, compressed or not, unless it is there.
    pub fn add(&self, diff_id: &str, blob: impl Read, limits: &Limits) -> Result<(), LayerError> {
        if !is_digest(diff_id) {
            return Err(LayerError::Invalid(diff_id.to_owned()));
        }
        if self.contains(diff_id) {
            return Ok(());
        }
        let draft = self.dir.join(format!(
            "draft-{}-{:?}",
            Self::name(diff_id),
            std::thread::current().id()
        ));
        fs::create_dir(&draft)?;
        let outcome = self.fill(&draft, diff_id, blob, limits);
        if outcome.is_err() {
            fs::remove_dir_all(&draft)?;
        }
        outcome
    }

    fn fill(
        &self,
        draft: &Path,
        diff_id: &str,
        blob: impl Read,
        limits: &Limits,
    ) -> Result<(), LayerError> {
        use std::os::unix::fs::PermissionsExt;
        // The root of a layer that says nothing about it.
        fs::set_permissions(draft, fs::Permissions::from_mode(0o755))?;
        let mut hashing = Hashing {
            inner: decompress(blob)?,
            hasher: Sha256::new(),
        };
        unpack(&mut hashing, draft, limits)?;
        let actual = format!("sha256:{}", hex(&hashing.hasher.finalize()));
        if actual != diff_id {
            return Err(LayerError::Mismatch {
                expected: diff_id.to_owned(),
                actual,
            });
        }
        // All of it is on the disk before its name says so.
        let handle = fs::File::open(draft)?;
        rustix::fs::syncfs(&handle).map_err(io::Error::from)?;
        match fs::rename(draft, self.dir.join(Self::name(diff_id))) {
            Ok(()) => Ok(()),
            // Someone else was faster.
            Err(_) if self.contains(diff_id) => {
                fs::remove_dir_all(draft)?;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the layers that `keep` does not name.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.contains('-') && !keep(&name) {
                // First out of sight, so that nobody mounts half of it.
                let doomed = self.dir.join(format!("doomed-{name}"));
                fs::rename(entry.path(), &doomed)?;
                fs::remove_dir_all(doomed)?;
            }
        }
        Ok(())
    }
}

struct Hashing<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// Reads through gzip or zstd when the bytes begin so.
pub fn decompress<'a>(reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    use std::io::BufRead;
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    let start = reader.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(BufReader::with_capacity(
            64 * 1024,
            flate2::bufread::MultiGzDecoder::new(reader),
        )))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::Decoder::with_buffer(reader)?;
        // 128 MiB: more than any encoder uses unless told to.
        decoder.window_log_max(27)?;
        Ok(Box::new(BufReader::with_capacity(64 * 1024, decoder)))
    } else {
        Ok(Box::new(reader))
    }
}
