//! SPDY/3.1 frames: bytes to frames and back, without any I/O.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::header::{HeaderDecoder, HeaderEncoder};

/// No control frame is longer.
const MAX_CONTROL: usize = 64 * 1024;
/// Data is handed out in pieces of at most this size, however long its frame is.
pub const MAX_DATA: usize = 32 * 1024;
const FIN: u8 = 1;

/// The other side breaks the protocol; the connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("SPDY: {0}")]
pub struct ProtocolError(pub String);

/// A stream's headers, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Headers from pairs of name and value.
    #[must_use]
    pub fn new<const N: usize>(pairs: [(&str, &str); N]) -> Self {
        Self(
            pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        )
    }

    /// Adds a header.
    pub fn push(&mut self, name: String, value: String) {
        self.0.push((name, value));
    }

    /// The first value of a header, whatever the case of its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            // Several values come in one, with zeros between.
            .map(|(_, value)| value.split('\0').next().unwrap_or_default())
    }

    /// All headers.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why a stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The stream was opened against the rules.
    ProtocolError,
    /// There are too many, or nobody wants it.
    Refused,
    /// The sender has lost interest.
    Cancel,
    /// Another status.
    Other(u32),
}

impl Reset {
    fn code(self) -> u32 {
        match self {
            Self::ProtocolError => 1,
            Self::Refused => 3,
            Self::Cancel => 5,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u32) -> Self {
        match code {
            1 => Self::ProtocolError,
            3 => Self::Refused,
            5 => Self::Cancel,
            code => Self::Other(code),
        }
    }
}

/// A frame, or a piece of a data frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// The new stream.
        stream: u32,
        /// The sender will send nothing on it.
        fin: bool,
        /// What it is for.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        stream: u32,
        /// The sender will send nothing on it.
        fin: bool,
        /// Not used by Kubernetes.
        headers: Headers,
    },
    /// Ends a stream at once.
    Rst {
        /// The stream.
        stream: u32,
        /// Why.
        status: Reset,
    },
    /// To be sent back as it is.
    Ping(u32),
    /// The sender opens and accepts no more streams.
    GoAway {
        /// The last stream that it accepted.
        last: u32,
    },
    /// More headers of a stream.
    Headers {
        /// The stream.
        stream: u32,
        /// Nothing more comes.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// Data of a stream.
    Data {
        /// The stream.
        stream: u32,
        /// Nothing more comes.
        fin: bool,
        /// At most [`MAX_DATA`] bytes.
        data: Bytes,
    },
    /// Anything that does not matter here: settings, window updates, credentials.
    Ignored,
}

/// Takes frames from a stream of bytes.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    headers: HeaderDecoder,
    /// A data frame of which this much is still to come.
    data: Option<(u32, bool, usize)>,
}

impl FrameDecoder {
    /// The next frame, if enough bytes are there.
    ///
    /// # Errors
    /// The bytes are no SPDY; nothing sensible can follow.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, ProtocolError> {
        if let Some((stream, fin, left)) = self.data {
            return Ok(self.piece(stream, fin, left, buffer));
        }
        let Some(header) = buffer.first_chunk::<8>() else {
            return Ok(None);
        };
        let (mut word, mut second) = (&header[..4], &header[4..]);
        let (word, second) = (word.get_u32(), second.get_u32());
        let (flags, len) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
        if word & 0x8000_0000 == 0 {
            if word == 0 {
                return Err(ProtocolError("data on stream 0".into()));
            }
            buffer.advance(8);
            let fin = flags & FIN != 0;
            if len == 0 {
                return Ok(Some(Frame::Data {
                    stream: word,
                    fin,
                    data: Bytes::new(),
                }));
            }
            return Ok(self.piece(word, fin, len, buffer));
        }
        let (version, kind) = (word >> 16 & 0x7fff, word & 0xffff);
        if version != 3 {
            return Err(ProtocolError(format!("version {version}")));
        }
        if len > MAX_CONTROL {
            return Err(ProtocolError(format!("control frame of {len} bytes")));
        }
        if buffer.len() < 8 + len {
            buffer.reserve(8 + len - buffer.len());
            return Ok(None);
        }
        buffer.advance(8);
        let payload = buffer.split_to(len).freeze();
        self.control(kind, flags, payload).map(Some)
    }

    fn piece(
        &mut self,
        stream: u32,
        fin: bool,
        left: usize,
        buffer: &mut BytesMut,
    ) -> Option<Frame> {
        let len = left.min(buffer.len()).min(MAX_DATA);
        let left = left - len;
        self.data = (left > 0).then_some((stream, fin, left));
        if len == 0 {
            return None;
        }
        Some(Frame::Data {
            stream,
            fin: fin && left == 0,
            data: buffer.split_to(len).freeze(),
        })
    }

    fn control(
        &mut self,
        kind: u32,
        flags: u8,
        mut payload: Bytes,
    ) -> Result<Frame, ProtocolError> {
        let fin = flags & FIN != 0;
        let id = |payload: &mut Bytes| match payload.try_get_u32() {
            Ok(id) if id & 0x7fff_ffff != 0 => Ok(id & 0x7fff_ffff),
            _ => Err(ProtocolError(format!("control frame {kind} without id"))),
        };
        match kind {
            1 => {
                let stream = id(&mut payload)?;
                // The associated stream, priority and slot mean nothing here.
                if payload.len() < 6 {
                    return Err(ProtocolError("SYN_STREAM is cut short".into()));
                }
                payload.advance(6);
                let headers = self.headers.decode(&payload)?;
                Ok(Frame::SynStream {
                    stream,
                    fin,
                    headers,
                })
            }
            2 => Ok(Frame::SynReply {
                stream: id(&mut payload)?,
                fin,
                headers: self.headers.decode(&payload)?,
            }),
            3 => {
                let stream = id(&mut payload)?;
                let code = payload.try_get_u32().unwrap_or_default();
                Ok(Frame::Rst {
                    stream,
                    status: Reset::from_code(code),
                })
            }
            6 => match payload.try_get_u32() {
                Ok(id) => Ok(Frame::Ping(id)),
                Err(_) => Err(ProtocolError("PING without id".into())),
            },
            7 => match payload.try_get_u32() {
                Ok(last) => Ok(Frame::GoAway {
                    last: last & 0x7fff_ffff,
                }),
                Err(_) => Err(ProtocolError("GOAWAY is cut short".into())),
            },
            8 => Ok(Frame::Headers {
                stream: id(&mut payload)?,
                fin,
                headers: self.headers.decode(&payload)?,
            }),
            _ => Ok(Frame::Ignored),
        }
    }
}

/// Turns frames into bytes.
#[derive(Debug, Default)]
pub struct FrameEncoder {
    headers: HeaderEncoder,
}

impl FrameEncoder {
    /// Appends a frame; data must not exceed what a frame can hold (16 MiB).
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::SynStream {
                stream,
                fin,
                headers,
            } => {
                let mut payload = BytesMut::new();
                payload.put_u32(*stream);
                payload.put_slice(&[0; 6]);
                self.headers.encode(headers, &mut payload);
                control(out, 1, *fin, &payload);
            }
            Frame::SynReply {
                stream,
                fin,
                headers,
            } => {
                let mut payload = BytesMut::new();
                payload.put_u32(*stream);
                self.headers.encode(headers, &mut payload);
                control(out, 2, *fin, &payload);
            }
            Frame::Rst { stream, status } => {
                let payload = [stream.to_be_bytes(), status.code().to_be_bytes()].concat();
                control(out, 3, false, &payload);
            }
            Frame::Ping(id) => control(out, 6, false, &id.to_be_bytes()),
            Frame::GoAway { last } => {
                let payload = [last.to_be_bytes(), [0; 4]].concat();
                control(out, 7, false, &payload);
            }
            Frame::Headers {
                stream,
                fin,
                headers,
            } => {
                let mut payload = BytesMut::new();
                payload.put_u32(*stream);
                self.headers.encode(headers, &mut payload);
                control(out, 8, *fin, &payload);
            }
            Frame::Data { stream, fin, data } => {
                out.put_u32(stream & 0x7fff_ffff);
                put_length(out, *fin, data.len());
                out.put_slice(data);
            }
            Frame::Ignored => {}
        }
    }
}

fn control(out: &mut BytesMut, kind: u16, fin: bool, payload: &[u8]) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    put_length(out, fin, payload.len());
    out.put_slice(payload);
}

fn put_length(out: &mut BytesMut, fin: bool, len: usize) {
    let len = u32::try_from(len).unwrap_or(u32::MAX) & 0x00ff_ffff;
    out.put_u32(u32::from(fin) << 24 | len);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let id = 1..0x7fff_ffffu32;
        let headers =
            proptest::collection::vec(("[a-z]{1,9}", "[ -~]{0,20}"), 0..4).prop_map(Headers);
        prop_oneof![
            (id.clone(), any::<bool>(), headers.clone()).prop_map(|(stream, fin, headers)| {
                Frame::SynStream {
                    stream,
                    fin,
                    headers,
                }
            }),
            (id.clone(), any::<bool>(), headers.clone()).prop_map(|(stream, fin, headers)| {
                Frame::SynReply {
                    stream,
                    fin,
                    headers,
                }
            }),
            (id.clone(), any::<bool>(), headers).prop_map(|(stream, fin, headers)| {
                Frame::Headers {
                    stream,
                    fin,
                    headers,
                }
            }),
            (id.clone(), 1..12u32).prop_map(|(stream, code)| Frame::Rst {
                stream,
                status: Reset::from_code(code)
            }),
            id.clone().prop_map(Frame::Ping),
            id.clone().prop_map(|last| Frame::GoAway { last }),
            (
                id,
                any::<bool>(),
                proptest::collection::vec(any::<u8>(), 0..300)
            )
                .prop_map(|(stream, fin, data)| Frame::Data {
                    stream,
                    fin,
                    data: data.into()
                }),
        ]
    }

    /// Joins the pieces of data frames again.
    fn join(frames: Vec<Frame>) -> Vec<Frame> {
        let mut joined: Vec<Frame> = Vec::new();
        for frame in frames {
            if let (
                Some(Frame::Data {
                    stream,
                    fin: before,
                    data,
                }),
                Frame::Data {
                    stream: same,
                    fin,
                    data: more,
                },
            ) = (joined.last_mut(), &frame)
                && stream == same
                && !*before
            {
                *data = [&data[..], &more[..]].concat().into();
                *before = *fin;
            } else {
                joined.push(frame);
            }
        }
        joined
    }

    proptest! {
        #[test]
        fn frames_are_read_as_written_however_they_arrive(
            frames in proptest::collection::vec(frame(), 1..10),
            cuts in proptest::collection::vec(1..50usize, 1..20),
        ) {
            let mut encoder = FrameEncoder::default();
            let mut bytes = BytesMut::new();
            for frame in &frames {
                encoder.encode(frame, &mut bytes);
            }
            let mut decoder = FrameDecoder::default();
            let mut arrived = BytesMut::new();
            let mut read = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            while !bytes.is_empty() {
                let len = cuts.next().unwrap_or(1).min(bytes.len());
                arrived.extend_from_slice(&bytes.split_to(len));
                while let Some(frame) = decoder.decode(&mut arrived).unwrap() {
                    read.push(frame);
                }
            }
            prop_assert!(arrived.is_empty());
            prop_assert_eq!(join(read), join(frames));
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..20),
        ) {
            let mut decoder = FrameDecoder::default();
            let mut buffer = BytesMut::new();
            'outer: for chunk in chunks {
                buffer.extend_from_slice(&chunk);
                loop {
                    match decoder.decode(&mut buffer) {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'outer,
                    }
                }
                prop_assert!(buffer.capacity() < 4 * MAX_CONTROL);
            }
        }

        #[test]
        fn damaged_frames_do_no_harm(
            frames in proptest::collection::vec(frame(), 1..6),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut encoder = FrameEncoder::default();
            let mut bytes = BytesMut::new();
            for frame in &frames {
                encoder.encode(frame, &mut bytes);
            }
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let mut decoder = FrameDecoder::default();
            while let Ok(Some(_)) = decoder.decode(&mut bytes) {}
        }
    }

    #[test]
    fn a_huge_data_frame_needs_no_huge_buffer() {
        let mut decoder = FrameDecoder::default();
        let mut buffer = BytesMut::new();
        buffer.put_u32(7);
        put_length(&mut buffer, true, 16_000_000);
        let (mut seen, mut ended) = (0, false);
        while !ended {
            buffer.extend_from_slice(&[1; 10_000]);
            while let Some(Frame::Data { fin, data, .. }) = decoder.decode(&mut buffer).unwrap() {
                seen += data.len();
                ended = fin;
                if ended {
                    break;
                }
            }
            assert!(buffer.capacity() < 200_000);
        }
        assert_eq!(seen, 16_000_000);
    }

    #[test]
    fn impossible_frames_end_the_connection() {
        for bytes in [
            &[0, 0, 0, 0, 0, 0, 0, 1][..],
            &[0x80, 2, 0, 1, 0, 0, 0, 0],
            &[0x80, 3, 0, 1, 0, 255, 255, 255],
            &[0x80, 3, 0, 3, 0, 0, 0, 0],
        ] {
            let mut buffer = BytesMut::from(bytes);
            assert!(
                FrameDecoder::default().decode(&mut buffer).is_err(),
                "{bytes:?}"
            );
        }
    }
}
