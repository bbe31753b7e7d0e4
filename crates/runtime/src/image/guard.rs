//! Keeps an archive from filling the memory by way of its extension headers.
//!
//! The tar crate reads long names and extended attributes into memory whole, whatever size the
//! archive claims for them. This reader follows the stream's structure and fails when one is
//! larger than any honest archive needs.

use std::io::{self, Read};

const BLOCK: u64 = 512;
/// The largest extension header: a long name and a few attributes fit many times.
const LIMIT: u64 = 1 << 20;

/// Passes a tar stream through and checks its headers.
pub struct HeaderGuard<R> {
    inner: R,
    header: Vec<u8>,
    /// Bytes until the next header.
    skip: u64,
    /// The extension header that is being read: its size tells about the next entry's.
    extension: Option<Vec<u8>>,
    /// The next entry's size, when an extension header said it.
    size: Option<u64>,
}

impl<R: Read> HeaderGuard<R> {
    /// Guards `inner`.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            header: Vec::with_capacity(BLOCK as usize),
            skip: 0,
            extension: None,
            size: None,
        }
    }

    /// The reader behind it.
    pub fn into_inner(self) -> R {
        self.inner
    }

    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let count = self.skip.min(bytes.len() as u64) as usize;
                if let Some(extension) = &mut self.extension {
                    extension.extend_from_slice(&bytes[..count]);
                }
                self.skip -= count as u64;
                bytes = &bytes[count..];
                if self.skip == 0 {
                    self.end_of_extension();
                }
                continue;
            }
            let count = (BLOCK as usize - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.header.len() == BLOCK as usize {
                let block = std::mem::take(&mut self.header);
                self.block(&block)?;
                self.header = block;
                self.header.clear();
            }
        }
        Ok(())
    }

    fn block(&mut self, block: &[u8]) -> io::Result<()> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let header = tar::Header::from_byte_slice(block);
        let kind = header.entry_type();
        let own = header.size()?;
        let is_pax = kind.is_pax_local_extensions();
        let is_extension = is_pax
            || kind.is_pax_global_extensions()
            || kind.is_gnu_longname()
            || kind.is_gnu_longlink();
        if is_extension && own > LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("an extension header of {own} bytes"),
            ));
        }
        let size = if is_extension {
            own
        } else {
            self.size.take().unwrap_or(own)
        };
        self.skip = size
            .checked_next_multiple_of(BLOCK)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an absurd entry size"))?;
        self.extension = (is_pax && self.skip > 0).then(Vec::new);
        // The sparse map may go on in blocks that the size does not count.
        if kind.is_gnu_sparse() && header.as_gnu().is_some_and(tar::GnuHeader::is_extended) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a sparse file with more than four parts",
            ));
        }
        Ok(())
    }

    fn end_of_extension(&mut self) {
        let Some(extension) = self.extension.take() else {
            return;
        };
        for record in tar::PaxExtensions::new(&extension).map_while(Result::ok) {
            if record.key_bytes() == b"size"
                && let Some(size) = record.value().ok().and_then(|text| text.parse().ok())
            {
                self.size = Some(size);
            }
        }
    }
}

impl<R: Read> Read for HeaderGuard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.follow(&buffer[..count])?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_huge_long_name_is_refused_before_it_is_read() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(10 << 30);
        header.set_cksum();
        let stream = header.as_bytes().chain(io::repeat(b'a'));
        let mut archive = tar::Archive::new(HeaderGuard::new(stream));
        let error = archive
            .entries()
            .unwrap()
            .next()
            .unwrap()
            .map(drop)
            .unwrap_err();
        assert!(error.to_string().contains("extension header"), "{error}");
    }

    #[test]
    fn honest_archives_pass() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = "d/".repeat(150) + "file";
        for (name, size) in [("a", 0usize), (long.as_str(), 1000), ("b", 512)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(size as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder
                .append_data(&mut header, name, vec![7; size].as_slice())
                .unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        let mut archive = tar::Archive::new(HeaderGuard::new(bytes.as_slice()));
        let names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().into_owned())
            .collect();
        assert_eq!(names.len(), 3);
        assert_eq!(names[1].to_str().unwrap(), long);
    }
}
