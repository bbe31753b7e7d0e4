//! SPDY header blocks: name-value lists, compressed with a dictionary that both sides know.
//!
//! Reading inflates. Writing does not bother to compress: blocks that are stored as they are are valid zlib,
//! and the few short headers of these protocols gain nothing.

use std::fmt::Write as _;

use bytes::{BufMut, BytesMut};
use flate2::{Decompress, FlushDecompress};

use super::frame::{Headers, ProtocolError};

/// No header block is longer when inflated.
const MAX_BLOCK: usize = 64 * 1024;
/// The checksum that names the dictionary in a zlib header.
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

/// Words that stand in the dictionary with their length before them (SPDY/3.1, section 2.6.10.1).
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
accept-language accept-ranges age allow authorization cache-control connection content-base \
content-encoding content-language content-length content-location content-md5 content-range \
content-type date etag expect expires from host if-match if-modified-since if-none-match if-range \
if-unmodified-since last-modified location max-forwards pragma proxy-authenticate \
proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public \
set-cookie keep-alive origin";
/// Status codes that follow the words.
const CODES: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415\
416417502504505";
/// What follows the codes.
const TAIL: &str = "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad \
Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 \
Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, \
Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/\
xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=\
iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        let word = word.replace('_', " ");
        put_text(&mut dictionary, &word);
    }
    dictionary.extend_from_slice(CODES.as_bytes());
    dictionary.extend_from_slice(TAIL.as_bytes());
    dictionary
}

fn put_text(out: &mut impl BufMut, text: &str) {
    out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    out.put_slice(text.as_bytes());
}

/// The parts of a stored deflate block: a header and the bytes themselves.
fn put_stored(out: &mut impl BufMut, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.put_u8(0);
    out.put_u16_le(len);
    out.put_u16_le(!len);
    out.put_slice(bytes);
}

/// Writes header blocks; one per connection, as the first block opens the zlib stream.
#[derive(Debug, Default)]
pub struct HeaderEncoder {
    begun: bool,
}

impl HeaderEncoder {
    /// Appends the block for these headers.
    pub fn encode(&mut self, headers: &Headers, out: &mut BytesMut) {
        let mut block = BytesMut::new();
        block.put_u32(u32::try_from(headers.len()).unwrap_or(u32::MAX));
        for (name, value) in headers.iter() {
            put_text(&mut block, &name.to_ascii_lowercase());
            put_text(&mut block, value);
        }
        if !self.begun {
            self.begun = true;
            out.put_slice(&[0x78, 0x01]);
        }
        for part in block.chunks(usize::from(u16::MAX)) {
            put_stored(out, part);
        }
        // An empty block makes the other side hand out what it has.
        put_stored(out, &[]);
    }
}

/// Reads header blocks; one per connection, as each block builds on those before it.
#[derive(Debug, Default)]
pub struct HeaderDecoder {
    inflate: Option<Decompress>,
}

impl HeaderDecoder {
    /// Reads one block.
    ///
    /// # Errors
    /// The block is not zlib with the SPDY dictionary, is too long, or is no header list.
    pub fn decode(&mut self, block: &[u8]) -> Result<Headers, ProtocolError> {
        let (inflate, rest) = match &mut self.inflate {
            Some(inflate) => (inflate, block),
            none => {
                let rest = zlib_header(block)?;
                (none.insert(primed()?), rest)
            }
        };
        let plain = inflate_all(inflate, rest)?;
        parse(&plain)
    }
}

/// Checks the zlib header; what follows it.
fn zlib_header(block: &[u8]) -> Result<&[u8], ProtocolError> {
    let bad = || ProtocolError("header block is not zlib".into());
    let ([method, flags], rest) = block.split_first_chunk().ok_or_else(bad)?;
    if method & 0x0f != 8 || (u16::from(*method) * 256 + u16::from(*flags)) % 31 != 0 {
        return Err(bad());
    }
    if flags & 0x20 == 0 {
        return Ok(rest);
    }
    let (id, rest) = rest.split_first_chunk().ok_or_else(bad)?;
    if u32::from_be_bytes(*id) != DICTIONARY_ID {
        return Err(ProtocolError("header block has another dictionary".into()));
    }
    Ok(rest)
}

/// A decompressor that has the dictionary behind it, as if it had been sent in a stored block.
fn primed() -> Result<Decompress, ProtocolError> {
    let mut inflate = Decompress::new(false);
    let mut block = Vec::new();
    put_stored(&mut block, &dictionary());
    inflate_all(&mut inflate, &block)?;
    Ok(inflate)
}

fn inflate_all(inflate: &mut Decompress, mut input: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    let mut plain = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
        inflate
            .decompress(input, &mut chunk, FlushDecompress::None)
            .map_err(|error| ProtocolError(format!("header block: {error}")))?;
        let taken = usize::try_from(inflate.total_in() - before_in).unwrap_or(usize::MAX);
        let made = usize::try_from(inflate.total_out() - before_out).unwrap_or(usize::MAX);
        input = input.get(taken..).unwrap_or_default();
        plain.extend_from_slice(chunk.get(..made).unwrap_or_default());
        if plain.len() > MAX_BLOCK {
            return Err(ProtocolError("header block is too long".into()));
        }
        if made == 0 && (taken == 0 || input.is_empty()) {
            return Ok(plain);
        }
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, ProtocolError> {
    let count = number(&mut block)?;
    let mut headers = Headers::default();
    for _ in 0..count {
        // Each pair takes at least eight bytes, so a wrong count ends soon.
        let name = text(&mut block)?;
        let value = text(&mut block)?;
        headers.push(name, value);
    }
    Ok(headers)
}

fn number(block: &mut &[u8]) -> Result<u32, ProtocolError> {
    let (number, rest) = block
        .split_first_chunk()
        .ok_or_else(|| ProtocolError("header block is cut short".into()))?;
    *block = rest;
    Ok(u32::from_be_bytes(*number))
}

fn text(block: &mut &[u8]) -> Result<String, ProtocolError> {
    let len = number(block)? as usize;
    let (text, rest) = block
        .split_at_checked(len)
        .ok_or_else(|| ProtocolError("header block is cut short".into()))?;
    *block = rest;
    let mut out = String::new();
    // Headers are Latin-1 at worst; nothing here depends on more than ASCII.
    let _ = write!(out, "{}", String::from_utf8_lossy(text));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    /// Adler-32, the checksum that zlib names a dictionary by.
    fn adler(bytes: &[u8]) -> u32 {
        let (mut a, mut b) = (1u32, 0u32);
        for byte in bytes {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        b << 16 | a
    }

    #[test]
    fn the_dictionary_is_the_one_that_everyone_has() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        assert_eq!(adler(&dictionary), DICTIONARY_ID);
    }

    fn headers() -> impl Strategy<Value = Headers> {
        proptest::collection::vec(("[a-z-]{1,20}", "[ -~]{0,60}"), 0..10).prop_map(|pairs| {
            let mut headers = Headers::default();
            pairs.into_iter().for_each(|(n, v)| headers.push(n, v));
            headers
        })
    }

    proptest! {
        #[test]
        fn blocks_are_read_as_written(blocks in proptest::collection::vec(headers(), 1..5)) {
            let (mut encoder, mut decoder) = (HeaderEncoder::default(), HeaderDecoder::default());
            for headers in blocks {
                let mut bytes = BytesMut::new();
                encoder.encode(&headers, &mut bytes);
                prop_assert_eq!(decoder.decode(&bytes).unwrap(), headers);
            }
        }

        #[test]
        fn compressed_blocks_are_read(blocks in proptest::collection::vec(headers(), 1..5)) {
            let mut decoder = HeaderDecoder::default();
            // What a compressor with the dictionary makes: it starts with the dictionary in its window.
            let mut compress = Compress::new(Compression::best(), false);
            let mut primer = Vec::with_capacity(8192);
            compress
                .compress_vec(&dictionary(), &mut primer, FlushCompress::Sync)
                .unwrap();
            for (i, headers) in blocks.into_iter().enumerate() {
                let mut plain = BytesMut::new();
                plain.put_u32(headers.len() as u32);
                for (name, value) in headers.iter() {
                    put_text(&mut plain, name);
                    put_text(&mut plain, value);
                }
                let mut bytes = Vec::with_capacity(8192);
                if i == 0 {
                    bytes.extend_from_slice(&[0x78, 0xf9]);
                    bytes.extend_from_slice(&DICTIONARY_ID.to_be_bytes());
                }
                compress.compress_vec(&plain, &mut bytes, FlushCompress::Sync).unwrap();
                prop_assert_eq!(decoder.decode(&bytes).unwrap(), headers);
            }
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(
            begin in any::<bool>(),
            blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..4),
        ) {
            let mut decoder = HeaderDecoder::default();
            for (i, mut block) in blocks.into_iter().enumerate() {
                if begin && i == 0 {
                    block.splice(0..0, [0x78, 0x01]);
                }
                if decoder.decode(&block).is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut compress = Compress::new(Compression::best(), true);
        let mut bytes = Vec::with_capacity(1 << 20);
        compress
            .compress_vec(&vec![0; 50_000_000], &mut bytes, FlushCompress::Sync)
            .unwrap();
        assert!(bytes.len() < 100_000);
        assert!(HeaderDecoder::default().decode(&bytes).is_err());
    }
}
