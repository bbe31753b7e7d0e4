//! Stops the writes of an instance that may no longer be the leader, whether or not it knows that yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{Either, MapErr, Ready, TryFutureExt as _, ready};
use http::{Method, Request, Response};
use skiff_base::SharedClock;
use tower::{BoxError, Service};

/// Until when, by the monotonic clock, an instance may write. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<AtomicU64>);

impl Fence {
    /// A fence that lets nothing through yet.
    #[must_use]
    pub fn closed() -> Self {
        Self::default()
    }

    /// Lets writes through until that time.
    pub fn open_until(&self, time: Duration) {
        let until = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.store(until, Ordering::Release);
    }

    /// Lets nothing through from now on.
    pub fn close(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Whether a write may go through at that time.
    #[must_use]
    pub fn is_open(&self, time: Duration) -> bool {
        time < Duration::from_micros(self.0.load(Ordering::Acquire))
    }
}

/// Why a write was not sent.
#[derive(Debug, thiserror::Error)]
#[error("not the leader any more")]
pub struct NotLeading;

/// A way to the server on which writes stop at a fence. Reads go through: a stale reader harms nobody.
#[derive(Clone)]
pub struct Fenced<S> {
    inner: S,
    fence: Fence,
    clock: SharedClock,
}

impl<S> Fenced<S> {
    /// `inner` behind `fence`.
    pub fn new(inner: S, fence: Fence, clock: SharedClock) -> Self {
        Self {
            inner,
            fence,
            clock,
        }
    }
}

type Answer<F> = Either<
    MapErr<F, fn(<F as futures::TryFuture>::Error) -> BoxError>,
    Ready<Result<<F as futures::TryFuture>::Ok, BoxError>>,
>;

impl<S, B, R> Service<Request<B>> for Fenced<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Future<Output = Result<Response<R>, S::Error>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if !reads && !self.fence.is_open(self.clock.monotonic()) {
            return Either::Right(ready(Err(NotLeading.into())));
        }
        let convert: fn(S::Error) -> BoxError = Into::into;
        Either::Left(self.inner.call(request).map_err(convert))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_base::SystemClock;
    use std::convert::Infallible;
    use tower::ServiceExt as _;

    #[tokio::test]
    async fn only_writes_stop_and_only_behind_a_closed_fence() {
        let (fence, clock) = (Fence::closed(), SystemClock::shared());
        let inner =
            tower::service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(())) });
        let service = Fenced::new(inner, fence.clone(), clock.clone());
        let passes = async |method: Method| {
            let request = Request::builder().method(method).body(()).unwrap();
            service.clone().oneshot(request).await.is_ok()
        };
        let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        for method in &writes {
            assert!(!passes(method.clone()).await, "{method}");
        }
        assert!(passes(Method::GET).await);
        fence.open_until(clock.monotonic() + Duration::from_secs(600));
        for method in &writes {
            assert!(passes(method.clone()).await, "{method}");
        }
        // Time alone closes it.
        fence.open_until(clock.monotonic());
        assert!(!passes(Method::POST).await);
        fence.open_until(clock.monotonic() + Duration::from_secs(600));
        fence.close();
        assert!(!passes(Method::POST).await && passes(Method::GET).await);
    }
}
