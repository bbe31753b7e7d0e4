//! Bodies of requests that were answered without being read: the connection stays usable for the next request.
//!
//! A refusal (no such path, not allowed) needs no body. Were the rest left on the connection, the connection would be cut
//! after the answer, and the client's next request on it would fail for no reason of its own.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http_body::Frame;
use skiff_base::SharedClock;
use tokio::sync::oneshot;

/// How much of an unread body is read and thrown away, in bytes; as upstream's HTTP library.
const LIMIT: usize = 256 << 10;

/// How long is waited for it: who sends slowly has to connect anew.
const PATIENCE: Duration = Duration::from_secs(1);

/// A body that comes back when a handler drops it before its end.
struct Watched {
    inner: Option<Body>,
    back: Option<oneshot::Sender<Body>>,
}

/// What a handler left of a request's body, if anything.
pub(crate) struct Unread(Option<oneshot::Receiver<Body>>);

/// A body to hand to a handler, and what it will have left of it. A body that is empty from the start is handed on as it is.
pub(crate) fn watched(body: Body) -> (Body, Unread) {
    if http_body::Body::is_end_stream(&body) {
        return (body, Unread(None));
    }
    let (back, left) = oneshot::channel();
    let watched = Watched {
        inner: Some(body),
        back: Some(back),
    };
    (Body::new(watched), Unread(Some(left)))
}

impl Unread {
    /// Reads what was left, up to a limit and for a while. A body that is still being read elsewhere is left alone.
    pub async fn drain(self, clock: &SharedClock) {
        let Some(Ok(body)) = self.0.map(|mut left| left.try_recv()) else {
            return;
        };
        let reading = async {
            let mut read = 0;
            let mut data = body.into_data_stream();
            while let Some(Ok(bytes)) = data.next().await {
                read += bytes.len();
                if read > LIMIT {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = reading => {}
            () = clock.sleep(PATIENCE) => {}
        }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(inner) = self.inner.as_mut() else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(inner).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.inner = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner
            .as_ref()
            .is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner
            .as_ref()
            .map(http_body::Body::size_hint)
            .unwrap_or_default()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let rest = self
            .inner
            .take()
            .filter(|body| !http_body::Body::is_end_stream(body));
        if let (Some(rest), Some(back)) = (rest, self.back.take()) {
            // Nobody waits for it when the whole request was given up.
            let _ = back.send(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_base::SystemClock;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A body of `n` kibibytes that counts what is taken from it.
    fn counted(n: usize) -> (Body, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let seen = taken.clone();
        let pieces = futures::stream::iter(0..n).map(move |_| {
            seen.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(Bytes::from(vec![0; 1 << 10]))
        });
        (Body::from_stream(pieces), taken)
    }

    #[tokio::test]
    async fn what_a_handler_drops_is_read_up_to_the_limit() {
        for (size, read) in [(3, 3), (1000, 257)] {
            let (body, taken) = counted(size);
            let (body, left) = watched(body);
            drop(body);
            left.drain(&SystemClock::shared()).await;
            assert_eq!(taken.load(Ordering::Relaxed), read);
        }
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_not_waited_for() {
        let clock = skiff_base::SimulatedClock::new(std::time::SystemTime::UNIX_EPOCH);
        let shared: SharedClock = clock.clone();
        let endless = futures::stream::pending::<Result<Bytes, std::convert::Infallible>>();
        let (body, left) = watched(Body::from_stream(endless));
        drop(body);
        let draining = tokio::spawn(async move { left.drain(&shared).await });
        tokio::task::yield_now().await;
        assert!(!draining.is_finished());
        clock.advance(PATIENCE);
        draining.await.unwrap();
    }

    #[tokio::test]
    async fn what_a_handler_reads_or_keeps_is_its_own() {
        let (body, left) = watched(counted(3).0);
        assert_eq!(
            axum::body::to_bytes(body, LIMIT).await.unwrap().len(),
            3 << 10
        );
        left.drain(&SystemClock::shared()).await;

        let (body, taken) = counted(3);
        let (kept, left) = watched(body);
        left.drain(&SystemClock::shared()).await;
        assert_eq!(taken.load(Ordering::Relaxed), 0);
        drop(kept);
    }
}
