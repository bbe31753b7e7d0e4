//! Bodies on their way past the audit.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use parking_lot::Mutex;

/// What was read of a body.
#[derive(Clone, Default)]
pub(super) struct Captured(Arc<Mutex<Vec<Bytes>>>);

impl Captured {
    /// All of it, in one piece.
    pub fn take(&self) -> Bytes {
        let mut pieces = std::mem::take(&mut *self.0.lock());
        match pieces.len() {
            1 => pieces.remove(0),
            _ => pieces.concat().into(),
        }
    }
}

struct Capturing {
    inner: Body,
    captured: Captured,
}

/// A body whose pieces are remembered as they are read. Handlers read no more than the limit of a request's size.
pub(super) fn capture(body: Body) -> (Body, Captured) {
    let captured = Captured::default();
    let capturing = Capturing {
        inner: body,
        captured: captured.clone(),
    };
    (Body::new(capturing), captured)
}

impl http_body::Body for Capturing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.captured.0.lock().push(data.clone());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}
