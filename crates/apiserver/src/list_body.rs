//! The bodies of lists: made piece by piece as the connection takes them, never whole.

use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::write::GzEncoder;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;

use crate::cache::Entry;

/// Lists are sent in pieces of about this size.
pub(crate) const PIECE: usize = 64 << 10;

/// Pieces that were sent. They are filled again: fresh memory would come from the kernel page by page.
static SENT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
/// How many are kept, and how much room one may have: together a mebibyte.
const KEPT: usize = 8;
const KEPT_ROOM: usize = 2 * PIECE;

/// A piece's bytes, which are kept for another when the connection has sent them.
struct Buffer(Vec<u8>);

impl Buffer {
    fn take() -> Self {
        let kept = SENT.lock().pop();
        Self(kept.unwrap_or_else(|| Vec::with_capacity(PIECE + PIECE / 4)))
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        bytes.clear();
        let mut sent = SENT.lock();
        if sent.len() < KEPT && bytes.capacity() <= KEPT_ROOM {
            sent.push(bytes);
        }
    }
}

/// What a list consists of: objects as they lie in the cache, which are not counted once more to be sent, or other bytes.
pub(crate) enum Items {
    Stored(std::vec::IntoIter<Arc<Entry>>),
    Made(std::vec::IntoIter<Bytes>),
}

impl Items {
    fn len(&self) -> usize {
        match self {
            Self::Stored(items) => items.len(),
            Self::Made(items) => items.len(),
        }
    }

    /// The bytes of all of them.
    fn size(&self) -> usize {
        match self {
            Self::Stored(items) => items.as_slice().iter().map(|item| item.bytes.len()).sum(),
            Self::Made(items) => items.as_slice().iter().map(Bytes::len).sum(),
        }
    }

    /// Hands out the next one's bytes; false if there is none.
    fn next(&mut self, take: impl FnOnce(&[u8])) -> bool {
        match self {
            Self::Stored(items) => items.next().map(|item| take(&item.bytes)),
            Self::Made(items) => items.next().map(|item| take(&item)),
        }
        .is_some()
    }
}

impl From<Vec<Arc<Entry>>> for Items {
    fn from(items: Vec<Arc<Entry>>) -> Self {
        Self::Stored(items.into_iter())
    }
}

impl From<Vec<Bytes>> for Items {
    fn from(items: Vec<Bytes>) -> Self {
        Self::Made(items.into_iter())
    }
}

/// The body of a list, made piece by piece as the connection takes it.
pub(crate) struct Pieces {
    head: Option<Bytes>,
    items: Items,
    first: bool,
    /// So many bytes are still to come.
    pub length: u64,
    done: bool,
}

impl Pieces {
    pub fn new(head: Bytes, items: impl Into<Items>) -> Self {
        let items = items.into();
        let commas = items.len().saturating_sub(1);
        let length = head.len() + items.size() + commas + 2;
        Self {
            head: Some(head),
            items,
            first: true,
            length: length as u64,
            done: false,
        }
    }

    /// Adds items until there are so many bytes, or no more of them.
    fn fill(&mut self, piece: &mut Vec<u8>, size: usize) {
        if let Some(head) = self.head.take() {
            piece.extend_from_slice(&head);
        }
        while piece.len() < size {
            let first = std::mem::take(&mut self.first);
            let more = self.items.next(|item| {
                if !first {
                    piece.push(b',');
                }
                piece.extend_from_slice(item);
            });
            if !more {
                piece.extend_from_slice(b"]}");
                self.done = true;
                break;
            }
        }
        self.length = self.length.saturating_sub(piece.len() as u64);
    }

    fn piece(&mut self, size: usize) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut piece = Buffer::take();
        self.fill(&mut piece.0, size);
        Some(Bytes::from_owner(piece))
    }

    /// All of it at once.
    pub fn collect(mut self) -> Bytes {
        let mut all = Vec::with_capacity(usize::try_from(self.length).unwrap_or_default());
        self.fill(&mut all, usize::MAX);
        all.into()
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.piece(PIECE).map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

/// A list's body, compressed as it is made.
pub(crate) struct Compressed {
    pieces: Pieces,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Compressed {
    pub fn new(pieces: Pieces) -> Self {
        let encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        Self {
            pieces,
            encoder: Some(encoder),
        }
    }

    fn piece(&mut self) -> Option<Bytes> {
        loop {
            let encoder = self.encoder.as_mut()?;
            let Some(piece) = self.pieces.piece(PIECE) else {
                // Writing to a vector cannot fail.
                let rest = self.encoder.take()?.finish().unwrap_or_default();
                return Some(rest.into());
            };
            let _ = encoder.write_all(&piece);
            if encoder.get_ref().len() >= PIECE / 4 {
                return Some(std::mem::take(encoder.get_mut()).into());
            }
        }
    }
}

impl http_body::Body for Compressed {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.piece().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn head() -> Bytes {
        Bytes::from_static(b"{\"kind\":\"XList\",\"apiVersion\":\"v1\",\"metadata\":{},\"items\":[")
    }

    #[test]
    fn a_list_is_compressed_as_it_is_made() {
        let items: Vec<Bytes> = (0..30_000)
            .map(|n| format!("{{\"n\":{},\"x\":\"{}\"}}", n * 7919, n % 97).into())
            .collect();
        let make = || Pieces::new(head(), items.clone());
        let mut compressed = Compressed::new(make());
        let mut bytes = Vec::new();
        let mut frames = 0;
        while let Some(piece) = compressed.piece() {
            bytes.extend_from_slice(&piece);
            frames += 1;
        }
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..])
            .read_to_end(&mut plain)
            .unwrap();
        assert_eq!(plain, make().collect());
        assert!(frames > 1 && bytes.len() < plain.len());
    }

    #[test]
    fn a_list_is_the_same_in_one_piece_and_in_many() {
        let items: Vec<Bytes> = (0..500)
            .map(|n| format!("{{\"n\":{n},\"x\":\"{}\"}}", "y".repeat(n)).into())
            .collect();
        let make = || Pieces::new(head(), items.clone());
        let whole = make().collect();
        assert_eq!(whole.len() as u64, make().length);
        let value: serde_json::Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!(value["items"].as_array().unwrap().len(), 500);
        let mut pieces = make();
        let mut joined = Vec::new();
        while let Some(piece) = pieces.piece(1000) {
            joined.extend_from_slice(&piece);
        }
        assert_eq!(joined, whole);
        assert_eq!(pieces.length, 0);
    }

    #[test]
    fn objects_of_the_cache_are_sent_as_their_bytes() {
        let stored = |n: usize| {
            let json = format!("{{\"metadata\":{{\"name\":\"n{n}\"}}}}");
            Arc::new(Entry::new(format!("/x/n{n}").into(), json.as_bytes(), 7).unwrap())
        };
        let entries: Vec<Arc<Entry>> = (0..3000).map(stored).collect();
        let made: Vec<Bytes> = entries.iter().map(|entry| entry.bytes.clone()).collect();
        let whole = Pieces::new(head(), entries.clone());
        assert_eq!(whole.length, Pieces::new(head(), made.clone()).length);
        let mut pieces = Pieces::new(head(), entries);
        let joined: Vec<Bytes> = std::iter::from_fn(|| pieces.piece(PIECE)).collect();
        assert!(joined.len() > 1);
        assert_eq!(joined.concat(), Pieces::new(head(), made).collect());
        assert_eq!(whole.collect(), joined.concat());
    }

    #[test]
    fn a_piece_of_one_list_is_never_changed_by_another() {
        let make = |byte: char| {
            let items = (0..2000).map(|_| byte.to_string().repeat(100).into());
            Pieces::new(head(), items.collect::<Vec<Bytes>>())
        };
        let (mut a, mut b) = (make('a'), make('b'));
        let first = a.piece(PIECE).unwrap();
        let copy = first.to_vec();
        let others: Vec<Bytes> = std::iter::from_fn(|| b.piece(PIECE)).collect();
        assert_eq!(first, copy);
        let again: Vec<u8> = others.concat();
        drop(others);
        let rest: Vec<Bytes> = std::iter::from_fn(|| a.piece(PIECE)).collect();
        assert_eq!([&copy[..], &rest.concat()].concat(), make('a').collect());
        assert_eq!(again, make('b').collect());
    }
}
