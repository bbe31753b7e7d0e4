//! The bytes on disk: a file is a header and frames, a frame is one group of records under one checksum.
//!
//! A frame's header has a checksum of its own that covers the file's random salt and the frame's place, so
//! that nothing that a user stores, and no left-over of another file, can pass for a frame.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::Revision;
use crate::plan::Effect;

/// Length of a file's header.
pub(super) const FILE_HEADER: usize = 28;
/// Length of a frame's header.
pub(super) const FRAME_HEADER: usize = 12;
/// No frame is longer; a length beyond it is damage.
pub(super) const MAX_FRAME: usize = 256 * 1024 * 1024;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// Appended to as writes come.
    Log,
    /// All states at one moment, written in one go.
    Snapshot,
}

impl FileKind {
    fn magic(self) -> [u8; 8] {
        match self {
            Self::Log => *b"SKIFFLG1",
            Self::Snapshot => *b"SKIFFSN1",
        }
    }
}

/// A file's header.
pub(super) fn file_header(kind: FileKind, id: u64, salt: u64) -> [u8; FILE_HEADER] {
    let mut header = [0; FILE_HEADER];
    header[..8].copy_from_slice(&kind.magic());
    header[8..16].copy_from_slice(&id.to_le_bytes());
    header[16..24].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32fast::hash(&header[..24]);
    header[24..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The salt of a file whose header is right.
pub(super) fn parse_file_header(
    header: &[u8; FILE_HEADER],
    kind: FileKind,
    id: u64,
) -> Option<u64> {
    let mut fields = Fields(header);
    let magic: [u8; 8] = fields.array()?;
    let (found_id, salt, crc) = (fields.u64()?, fields.u64()?, fields.u32()?);
    let right = magic == kind.magic() && found_id == id && crc == crc32fast::hash(&header[..24]);
    right.then_some(salt)
}

fn header_crc(salt: u64, offset: u64, len: u32, payload_crc: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(&len.to_le_bytes());
    hasher.update(&payload_crc.to_le_bytes());
    hasher.finalize()
}

/// A frame's header, if it is right for its place: the payload's length and checksum.
pub(super) fn parse_frame_header(
    header: &[u8; FRAME_HEADER],
    salt: u64,
    offset: u64,
) -> Option<(usize, u32)> {
    let mut fields = Fields(header);
    let (len, payload_crc, crc) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let right = len as usize <= MAX_FRAME && crc == header_crc(salt, offset, len, payload_crc);
    right.then_some((len as usize, payload_crc))
}

/// What a frame holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Something that was written.
    Effect(Effect),
    /// The counters at the moment of a snapshot.
    Counters {
        revision: Revision,
        compacted: Revision,
        last_lease: u64,
    },
    /// The file is complete; nothing follows.
    Seal,
}

mod tag {
    pub(super) const PUT: u8 = 1;
    pub(super) const DELETE: u8 = 2;
    pub(super) const COMPACT: u8 = 3;
    pub(super) const GRANT: u8 = 4;
    pub(super) const REVOKE: u8 = 5;
    pub(super) const COUNTERS: u8 = 6;
    pub(super) const SEAL: u8 = 7;
}

/// A frame in the making.
#[derive(Debug)]
pub(super) struct FrameBuilder {
    buffer: Vec<u8>,
}

impl FrameBuilder {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; FRAME_HEADER],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Adds a record; for a put, answers where in the frame the value begins.
    pub(super) fn add(&mut self, record: &Record) -> u64 {
        match record {
            Record::Effect(effect) => return self.effect(effect),
            Record::Counters {
                revision,
                compacted,
                last_lease,
            } => {
                self.buffer.push(tag::COUNTERS);
                self.u64(*revision);
                self.u64(*compacted);
                self.u64(*last_lease);
            }
            Record::Seal => self.buffer.push(tag::SEAL),
        }
        0
    }

    /// Adds an effect; for a put, answers where in the frame the value begins.
    pub(super) fn effect(&mut self, effect: &Effect) -> u64 {
        match effect {
            Effect::Put {
                key,
                value,
                create,
                revision,
                lease,
            } => {
                self.buffer.push(tag::PUT);
                self.u64(*revision);
                self.u64(*create);
                self.u64(*lease);
                self.bytes(key.as_bytes());
                self.bytes(value);
                return (self.buffer.len() - value.len()) as u64;
            }
            Effect::Delete { key, revision } => {
                self.buffer.push(tag::DELETE);
                self.u64(*revision);
                self.bytes(key.as_bytes());
            }
            Effect::Compact(revision) => {
                self.buffer.push(tag::COMPACT);
                self.u64(*revision);
            }
            Effect::Grant(id, ttl) => {
                self.buffer.push(tag::GRANT);
                self.u64(*id);
                self.u64(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
            }
            Effect::Revoke(id) => {
                self.buffer.push(tag::REVOKE);
                self.u64(*id);
            }
        }
        0
    }

    fn u64(&mut self, number: u64) {
        self.buffer.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        // Callers bound keys and values far below.
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.buffer.extend_from_slice(&len.to_le_bytes());
        self.buffer.extend_from_slice(bytes);
    }

    /// The finished frame for its place.
    pub(super) fn finish(&mut self, salt: u64, offset: u64) -> &[u8] {
        let (header, payload) = self.buffer.split_at_mut(FRAME_HEADER);
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let payload_crc = crc32fast::hash(payload);
        let crc = header_crc(salt, offset, len, payload_crc);
        header[..4].copy_from_slice(&len.to_le_bytes());
        header[4..8].copy_from_slice(&payload_crc.to_le_bytes());
        header[8..].copy_from_slice(&crc.to_le_bytes());
        &self.buffer
    }

    /// Ready for the next frame; keeps its memory, unless a huge frame left much of it.
    pub(super) fn reset(&mut self) {
        self.buffer.truncate(FRAME_HEADER);
        if self.buffer.capacity() > 1024 * 1024 {
            self.buffer.shrink_to(1024 * 1024);
        }
    }
}

/// Takes a frame's payload apart; for a put, with the place of its value in the payload. `None` when the
/// records do not make sense.
pub(super) fn parse_records(payload: &Bytes) -> Option<Vec<(Record, u64)>> {
    let mut fields = Fields(payload);
    let mut records = Vec::new();
    while !fields.0.is_empty() {
        let record = match fields.u8()? {
            tag::PUT => {
                let (revision, create, lease) = (fields.u64()?, fields.u64()?, fields.u64()?);
                let key = fields.key()?;
                let value = fields.bytes()?;
                let end = payload.len() - fields.0.len();
                let start = end - value.len();
                let effect = Effect::Put {
                    key,
                    value: payload.slice(start..end),
                    create,
                    revision,
                    lease,
                };
                records.push((Record::Effect(effect), start as u64));
                continue;
            }
            tag::DELETE => {
                let revision = fields.u64()?;
                let key = fields.key()?;
                Record::Effect(Effect::Delete { key, revision })
            }
            tag::COMPACT => Record::Effect(Effect::Compact(fields.u64()?)),
            tag::GRANT => {
                let id = fields.u64()?;
                Record::Effect(Effect::Grant(id, Duration::from_millis(fields.u64()?)))
            }
            tag::REVOKE => Record::Effect(Effect::Revoke(fields.u64()?)),
            tag::COUNTERS => Record::Counters {
                revision: fields.u64()?,
                compacted: fields.u64()?,
                last_lease: fields.u64()?,
            },
            tag::SEAL => Record::Seal,
            _ => return None,
        };
        records.push((record, 0));
    }
    Some(records)
}

/// Reads fields off the front of a slice.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    fn key(&mut self) -> Option<Arc<str>> {
        std::str::from_utf8(self.bytes()?).ok().map(Arc::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn effect() -> impl Strategy<Value = Effect> {
        let value = proptest::collection::vec(any::<u8>(), 0..100);
        prop_oneof![
            ("[a-z/]{0,20}", value, any::<[u64; 3]>()).prop_map(|(key, value, [a, b, c])| {
                Effect::Put {
                    key: key.into(),
                    value: value.into(),
                    create: a,
                    revision: b,
                    lease: c,
                }
            }),
            ("[a-z/]{0,20}", any::<u64>()).prop_map(|(key, revision)| Effect::Delete {
                key: key.into(),
                revision
            }),
            any::<u64>().prop_map(Effect::Compact),
            (any::<u64>(), any::<u32>())
                .prop_map(|(id, ms)| Effect::Grant(id, Duration::from_millis(ms.into()))),
            any::<u64>().prop_map(Effect::Revoke),
        ]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(effects in proptest::collection::vec(effect(), 0..10)) {
            let mut builder = FrameBuilder::new();
            let places: Vec<u64> = effects.iter().map(|effect| builder.effect(effect)).collect();
            let frame = builder.finish(7, 100).to_vec();
            let header: [u8; FRAME_HEADER] = frame[..FRAME_HEADER].try_into().unwrap();
            let (len, crc) = parse_frame_header(&header, 7, 100).unwrap();
            prop_assert_eq!(parse_frame_header(&header, 7, 101), None);
            prop_assert_eq!(parse_frame_header(&header, 8, 100), None);
            let payload = Bytes::copy_from_slice(&frame[FRAME_HEADER..]);
            prop_assert_eq!(payload.len(), len);
            prop_assert_eq!(crc32fast::hash(&payload), crc);
            let read = parse_records(&payload).unwrap();
            for ((record, place), (effect, expected)) in read.iter().zip(effects.iter().zip(places)) {
                prop_assert_eq!(record, &Record::Effect(effect.clone()));
                if let Effect::Put { value, .. } = effect {
                    prop_assert_eq!(place + FRAME_HEADER as u64, expected);
                    prop_assert_eq!(&frame[expected as usize..][..value.len()], &value[..]);
                }
            }
            prop_assert_eq!(read.len(), effects.len());
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_records(&bytes.into());
        }
    }
}
