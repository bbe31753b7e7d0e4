//! A large document that is put together from stretches which were compressed before: what changes is compressed anew,
//! the rest is copied.

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};

use super::Document;

/// A compressed stretch. It refers to nothing before it and ends on a whole byte, so that any other may follow.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    deflated: Bytes,
    /// Of the text.
    checksum: crc32fast::Hasher,
    length: usize,
}

impl Piece {
    pub fn new(text: &[u8]) -> Self {
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(text);
        Self {
            deflated: deflated(text).into(),
            checksum,
            length: text.len(),
        }
    }
}

fn deflated(text: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(text.len() / 8 + 64);
    if text.is_empty() {
        return packed;
    }
    let mut compress = Compress::new(Compression::fast(), false);
    loop {
        let done = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
        let rest = text.get(done..).unwrap_or_default();
        let room = packed.capacity() - packed.len();
        let status = compress.compress_vec(rest, &mut packed, FlushCompress::Sync);
        // It is finished when all was taken and room was left after the flush.
        let finished = compress.total_in() == text.len() as u64 && packed.len() < packed.capacity();
        if finished || !matches!(status, Ok(Status::Ok | Status::BufError)) {
            return packed;
        }
        packed.reserve(room.max(1 << 12));
    }
}

/// No flags, no time, unknown system.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty block that is the last.
const END: [u8; 2] = [3, 0];

/// One document of all pieces, as one gzip member.
pub(super) fn join<'p>(pieces: impl Iterator<Item = &'p Piece> + Clone) -> Document {
    let size: usize = pieces.clone().map(|piece| piece.deflated.len()).sum();
    let mut gzip = Vec::with_capacity(size + 20);
    gzip.extend_from_slice(&GZIP_HEAD);
    let mut checksum = crc32fast::Hasher::new();
    let mut length = 0_usize;
    for piece in pieces {
        gzip.extend_from_slice(&piece.deflated);
        checksum.combine(&piece.checksum);
        length += piece.length;
    }
    gzip.extend_from_slice(&END);
    gzip.extend_from_slice(&checksum.finalize().to_le_bytes());
    // The length in 32 bits, as the format has it.
    gzip.extend_from_slice(&(length as u32).to_le_bytes());
    Document {
        gzip: gzip.into(),
        length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read as _;

    proptest! {
        #[test]
        fn joined_pieces_are_the_text(texts in prop::collection::vec("[ab\"{]{0,300}|\\PC{0,60}", 0..12), again in 1..60_usize) {
            let texts: Vec<String> = texts.iter().map(|text| text.repeat(again)).collect();
            let pieces: Vec<Piece> = texts.iter().map(|text| Piece::new(text.as_bytes())).collect();
            let document = join(pieces.iter());
            let mut text = String::new();
            // It checks length and checksum.
            flate2::read::GzDecoder::new(&*document.gzip).read_to_string(&mut text).unwrap();
            prop_assert_eq!(text.len(), document.length);
            prop_assert_eq!(text, texts.concat());
        }
    }

    #[test]
    fn large_text_that_does_not_compress_is_whole() {
        let mut state = 1_u64;
        let mut noise = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        let text: Vec<u8> = (0..300_000).map(|_| noise()).collect();
        let document = join([Piece::new(&text), Piece::new(b""), Piece::new(&text)].iter());
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&*document.gzip)
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, [&text[..], &text[..]].concat());
    }
}
