//! The files of a database: naming, reading values, and walking over frames.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use skiff_base::Random;

use super::frame::{
    FILE_HEADER, FRAME_HEADER, FileKind, file_header, parse_file_header, parse_frame_header,
};
use crate::{Result, StoreError};

/// An open log or snapshot.
#[derive(Debug)]
pub(super) struct DataFile {
    pub(super) id: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) salt: u64,
}

/// Where a value lies on disk.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: Arc<DataFile>,
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) crc: u32,
}

impl Place {
    /// Reads the value and checks it.
    pub(super) fn load(&self, key: &str) -> Result<Bytes> {
        let mut value = vec![0; self.len as usize];
        match self.file.file.read_exact_at(&mut value, self.offset) {
            Ok(()) if crc32fast::hash(&value) == self.crc => Ok(value.into()),
            Ok(()) => Err(self.damaged(key, "its checksum is wrong")),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged(key, "the file ends before it does"))
            }
            Err(error) => Err(failed(&self.file.path, "read", &error)),
        }
    }

    fn damaged(&self, key: &str, what: &str) -> StoreError {
        let error = StoreError::Corrupt(format!(
            "{}: the value of {key} at byte {}: {what}",
            self.file.path.display(),
            self.offset
        ));
        tracing::error!(%error, "damaged value is not served");
        error
    }
}

/// The name of a file in its directory.
pub(super) fn path(directory: &Path, kind: FileKind, id: u64) -> PathBuf {
    let extension = match kind {
        FileKind::Log => "log",
        FileKind::Snapshot => "snap",
    };
    directory.join(format!("{id:010}.{extension}"))
}

/// What a name in the directory stands for.
pub(super) fn parse_name(name: &str) -> Option<(FileKind, u64)> {
    let (id, extension) = name.split_once('.')?;
    let kind = match extension {
        "log" => FileKind::Log,
        "snap" => FileKind::Snapshot,
        _ => return None,
    };
    Some((kind, id.parse().ok().filter(|_| id.len() == 10)?))
}

/// An I/O error in the store's terms.
pub(super) fn failed(path: &Path, what: &str, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace,
        _ => StoreError::Failed(format!("{what} {}: {error}", path.display())),
    }
}

/// Makes names durable that were made or removed in a directory.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

impl DataFile {
    /// Makes a file with its header at `path`; nothing is durable yet.
    pub(super) fn create(path: PathBuf, kind: FileKind, id: u64, random: &Random) -> Result<Self> {
        let salt = random.below(u64::MAX);
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .and_then(|file| {
                file.write_all_at(&file_header(kind, id, salt), 0)?;
                Ok(file)
            });
        match made {
            Ok(file) => Ok(Self {
                id,
                path,
                file,
                salt,
            }),
            Err(error) => {
                let error = failed(&path, "create", &error);
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Opens a file; `None` when its header is not whole, as after a crash while it was made.
    pub(super) fn open(path: PathBuf, kind: FileKind, id: u64) -> Result<Option<Self>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| failed(&path, "open", &error))?;
        let mut header = [0; FILE_HEADER];
        match file.read_exact_at(&mut header, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(failed(&path, "read", &error)),
        }
        match parse_file_header(&header, kind, id) {
            Some(salt) => Ok(Some(Self {
                id,
                path,
                file,
                salt,
            })),
            None if header == [0; FILE_HEADER] => Ok(None),
            None => Err(StoreError::Corrupt(format!(
                "{}: the header is damaged or of another version",
                path.display()
            ))),
        }
    }

    pub(super) fn len(&self) -> Result<u64> {
        self.file
            .metadata()
            .map(|metadata| metadata.len())
            .map_err(|error| failed(&self.path, "look at", &error))
    }
}

/// How reading a file ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// At the end of the file, behind a whole frame.
    Whole,
    /// In a frame that was not written to its end; nothing whole follows it.
    Torn,
    /// In a frame that was whole once.
    Damaged,
}

/// Walks over a file's frames.
pub(super) struct Frames<'a> {
    file: &'a DataFile,
    reader: BufReader<&'a File>,
    len: u64,
    /// Where the next frame begins: all before it is whole.
    pub(super) offset: u64,
}

impl<'a> Frames<'a> {
    pub(super) fn new(file: &'a DataFile) -> Result<Self> {
        let mut reader = BufReader::with_capacity(256 * 1024, &file.file);
        io::Seek::seek(&mut reader, io::SeekFrom::Start(FILE_HEADER as u64))
            .map_err(|error| failed(&file.path, "read", &error))?;
        Ok(Self {
            len: file.len()?,
            file,
            reader,
            offset: FILE_HEADER as u64,
        })
    }

    /// The next frame's payload and its place in the file; or how the file ends.
    pub(super) fn next(&mut self) -> Result<Result<(Bytes, u64), End>> {
        if self.offset == self.len {
            return Ok(Err(End::Whole));
        }
        match self.read_frame() {
            Ok(Some(payload)) => {
                let start = self.offset + FRAME_HEADER as u64;
                self.offset = start + payload.len() as u64;
                Ok(Ok((payload, start)))
            }
            Ok(None) => self
                .judge()
                .map(Err)
                .map_err(|error| failed(&self.file.path, "read", &error)),
            Err(error) => Err(failed(&self.file.path, "read", &error)),
        }
    }

    fn read_frame(&mut self) -> io::Result<Option<Bytes>> {
        let mut header = [0; FRAME_HEADER];
        if self.len - self.offset < FRAME_HEADER as u64 {
            return Ok(None);
        }
        self.reader.read_exact(&mut header)?;
        let Some((len, crc)) = parse_frame_header(&header, self.file.salt, self.offset) else {
            return Ok(None);
        };
        if self.len - self.offset - (FRAME_HEADER as u64) < len as u64 {
            return Ok(None);
        }
        let mut payload = vec![0; len];
        self.reader.read_exact(&mut payload)?;
        Ok((crc32fast::hash(&payload) == crc).then(|| payload.into()))
    }

    /// Looks at what lies behind the last whole frame. A write that a crash cut off leaves a frame whose end
    /// is missing, or in which sectors were never written and read as zeros; and as the next write begins only
    /// after it is durable, nothing whole can follow. Everything else was acknowledged once.
    fn judge(&mut self) -> io::Result<End> {
        let start = self.offset;
        let mut rest = vec![0; usize::try_from(self.len - start).unwrap_or(usize::MAX)];
        self.file.file.read_exact_at(&mut rest, start)?;
        let header = rest.first_chunk::<FRAME_HEADER>();
        let frame = header.and_then(|h| parse_frame_header(h, self.file.salt, start));
        if let Some((len, _)) = frame
            && rest.len() < FRAME_HEADER + len
        {
            return Ok(End::Torn);
        }
        for (at, window) in rest.windows(FRAME_HEADER).enumerate().skip(1) {
            let Some(header) = window.first_chunk::<FRAME_HEADER>() else {
                continue;
            };
            if parse_frame_header(header, self.file.salt, start + at as u64).is_some() {
                return Ok(End::Damaged);
            }
        }
        let unwritten = rest.len() < FRAME_HEADER || has_zero_sector(&rest, start);
        Ok(if unwritten { End::Torn } else { End::Damaged })
    }
}

/// Whether what the bytes hold of some 512-byte sector is all zeros.
fn has_zero_sector(bytes: &[u8], start: u64) -> bool {
    const SECTOR: usize = 512;
    let first = SECTOR - (start % SECTOR as u64) as usize;
    let (head, sectors) = bytes.split_at(first.min(bytes.len()));
    std::iter::once(head)
        .chain(sectors.chunks(SECTOR))
        .any(|sector| !sector.is_empty() && sector.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        for kind in [FileKind::Log, FileKind::Snapshot] {
            let name = path(Path::new("/x"), kind, 42);
            let name = name.file_name().unwrap().to_str().unwrap();
            assert_eq!(parse_name(name), Some((kind, 42)));
        }
        for other in ["LOCK", "42.log", "0000000042.tmp", "000000004x.log"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }

    #[test]
    fn unwritten_sectors_are_found() {
        let mut bytes = vec![1; 2000];
        assert!(!has_zero_sector(&bytes, 100));
        bytes[412..924].fill(0);
        assert!(has_zero_sector(&bytes, 100));
        assert!(!has_zero_sector(&bytes, 101));
    }
}
