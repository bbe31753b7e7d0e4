//! Blobs by their SHA-256 digest, in one directory. A blob is there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::reference::is_digest;

/// A directory of blobs.
#[derive(Debug)]
pub struct Blobs {
    dir: PathBuf,
    drafts: AtomicU64,
}

/// Why a blob could not be had or stored.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The disk.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What came is not what was asked for.
    #[error("digest mismatch: expected {expected}, got {actual}")]
    Mismatch {
        /// What was asked for.
        expected: String,
        /// What came.
        actual: String,
    },
    /// It is larger than allowed.
    #[error("blob is larger than {0} bytes")]
    TooLarge(u64),
    /// No such blob.
    #[error("blob {0} not found")]
    Missing(String),
    /// Not a digest.
    #[error("invalid digest {0:?}")]
    Invalid(String),
}

impl Blobs {
    /// The blobs in `dir`, which is made when it is not there. Drafts of an earlier run are removed.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("draft-") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            drafts: AtomicU64::new(0),
        })
    }

    fn path(&self, digest: &str) -> Result<PathBuf, BlobError> {
        if !is_digest(digest) {
            return Err(BlobError::Invalid(digest.to_owned()));
        }
        Ok(self.dir.join(&digest["sha256:".len()..]))
    }

    /// Whether the blob is there.
    #[must_use]
    pub fn contains(&self, digest: &str) -> bool {
        self.path(digest).is_ok_and(|path| path.exists())
    }

    /// Opens a blob.
    pub fn read(&self, digest: &str) -> Result<File, BlobError> {
        File::open(self.path(digest)?).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                BlobError::Missing(digest.to_owned())
            } else {
                BlobError::Io(error)
            }
        })
    }

    /// Reads a small blob (a document) and checks its digest.
    pub fn document(&self, digest: &str) -> Result<Vec<u8>, BlobError> {
        const LIMIT: u64 = 16 << 20;
        let mut bytes = Vec::new();
        self.read(digest)?.take(LIMIT).read_to_end(&mut bytes)?;
        let actual = digest_of(&bytes);
        if actual != digest {
            return Err(BlobError::Mismatch {
                expected: digest.to_owned(),
                actual,
            });
        }
        Ok(bytes)
    }

    /// Starts a new blob.
    pub fn draft(&self, limit: u64) -> io::Result<Draft<'_>> {
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("draft-{number}"));
        Ok(Draft {
            file: Some(File::create(&path)?),
            path,
            blobs: self,
            hasher: Sha256::new(),
            size: 0,
            limit,
        })
    }

    /// Stores a document. Answers its digest.
    pub fn put(&self, bytes: &[u8]) -> Result<String, BlobError> {
        let mut draft = self.draft(u64::MAX)?;
        draft.write_all(bytes)?;
        draft.commit(None).map(|(digest, _)| digest)
    }

    /// Stores what `reader` has. Answers digest and size.
    pub fn copy(
        &self,
        reader: &mut impl Read,
        expected: Option<&str>,
        limit: u64,
    ) -> Result<(String, u64), BlobError> {
        let mut draft = self.draft(limit)?;
        io::copy(reader, &mut draft)?;
        draft.commit(expected)
    }

    /// Removes a blob; one that is not there is no error.
    pub fn remove(&self, digest: &str) -> Result<(), BlobError> {
        match fs::remove_file(self.path(digest)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// All digests.
    pub fn list(&self) -> io::Result<Vec<String>> {
        let mut digests = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let digest = format!("sha256:{}", entry?.file_name().to_string_lossy());
            if is_digest(&digest) {
                digests.push(digest);
            }
        }
        Ok(digests)
    }
}

/// A blob that is being written. Dropped without [`Draft::commit`] it leaves nothing.
pub struct Draft<'a> {
    file: Option<File>,
    path: PathBuf,
    blobs: &'a Blobs,
    hasher: Sha256,
    size: u64,
    limit: u64,
}

impl Draft<'_> {
    /// Bytes written so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes the blob visible, if it is what was expected. Answers digest and size.
    pub fn commit(mut self, expected: Option<&str>) -> Result<(String, u64), BlobError> {
        if self.size > self.limit {
            return Err(BlobError::TooLarge(self.limit));
        }
        let digest = format!("sha256:{}", hex(&self.hasher.finalize_reset()));
        if let Some(expected) = expected
            && expected != digest
        {
            return Err(BlobError::Mismatch {
                expected: expected.to_owned(),
                actual: digest,
            });
        }
        if let Some(file) = self.file.take() {
            file.sync_data()?;
        }
        fs::rename(&self.path, self.blobs.path(&digest)?)?;
        Ok((digest, self.size))
    }
}

impl Write for Draft<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size + bytes.len() as u64 > self.limit {
            return Err(io::Error::other(BlobError::TooLarge(self.limit)));
        }
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("the blob is closed"));
        };
        let count = file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // After a commit there is nothing of this name; what an error leaves goes at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// `sha256:` and the digest of `bytes`.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let digest = blobs.put(b"hello").unwrap();
        assert_eq!(digest, digest_of(b"hello"));
        assert_eq!(blobs.document(&digest).unwrap(), b"hello");
        let wrong = blobs.copy(&mut b"other".as_slice(), Some(&digest), 100);
        assert!(matches!(wrong, Err(BlobError::Mismatch { .. })));
        assert!(blobs.copy(&mut b"too long".as_slice(), None, 3).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no drafts");
        fs::write(dir.path().join(&digest[7..]), b"damaged").unwrap();
        assert!(matches!(
            blobs.document(&digest),
            Err(BlobError::Mismatch { .. })
        ));
        assert!(matches!(
            blobs.read("sha256:../../etc/passwd"),
            Err(BlobError::Invalid(_))
        ));
    }
}
