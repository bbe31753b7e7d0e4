//! What a connection is held to: heads of requests come in time, and who watches reads what comes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;
use parking_lot::Mutex;
use skiff_base::SharedClock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A watcher that takes nothing for so long is cut off.
const STALLED: Duration = Duration::from_secs(60);

/// The connection that a request came over; a request extension.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// Where it came from.
    pub remote: SocketAddr,
    pub watching: Watching,
}

/// A connection's requests tell it by this that it carries watches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watching(Arc<AtomicBool>);

impl Watching {
    /// From now on the client must read what comes.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection's stream. Writes that wait for a client that does not read fail after a while, once it carries a watch; other
/// long answers (logs behind a pager, terminals) may wait as long as they like.
pub(crate) struct Guarded<S> {
    stream: S,
    watching: Watching,
    clock: SharedClock,
    waiting: Option<BoxFuture<'static, ()>>,
}

impl<S> Guarded<S> {
    /// Guards a stream.
    pub fn new(stream: S, watching: Watching, clock: SharedClock) -> Self {
        Self {
            stream,
            watching,
            clock,
            waiting: None,
        }
    }

    fn guard<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        if !self.watching.0.load(Ordering::Relaxed) {
            return polled;
        }
        let waiting = self.waiting.get_or_insert_with(|| {
            let clock = self.clock.clone();
            Box::pin(async move { clock.sleep(STALLED).await })
        });
        ready!(waiting.as_mut().poll(context));
        let error = "a watcher does not read what it is sent";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, error)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.guard(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.guard(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.guard(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The timer that a connection's requests share: hyper makes one for the head of each request and drops it when the head is
/// there, which would set and clear a timer for each. This one rings at the earliest time asked for, and is set anew then.
#[derive(Clone, Default)]
pub(crate) struct HeadTimer(Arc<Mutex<Option<Alarm>>>);

struct Alarm {
    at: Instant,
    sleep: Pin<Box<dyn Sleep>>,
}

struct Wait {
    deadline: Instant,
    timer: HeadTimer,
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let timer = self.clone();
        Box::pin(Wait { deadline, timer })
    }
}

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut kept = self.timer.0.lock();
        loop {
            let alarm = kept.get_or_insert_with(|| Alarm {
                at: self.deadline,
                sleep: TokioTimer::new().sleep_until(self.deadline),
            });
            ready!(alarm.sleep.as_mut().poll(context));
            let rang = alarm.at;
            *kept = None;
            if rang >= self.deadline {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_base::SimulatedClock;
    use std::time::SystemTime;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn who_watches_must_read_and_who_does_not_may_wait() {
        for watches in [false, true] {
            let clock = SimulatedClock::new(SystemTime::UNIX_EPOCH);
            let (near, mut far) = tokio::io::duplex(10);
            let watching = Watching::default();
            if watches {
                watching.begin();
            }
            let mut guarded = Guarded::new(near, watching, clock.clone());
            let mut writing =
                tokio::spawn(
                    async move { guarded.write_all(&[0; 30]).await.map_err(|e| e.kind()) },
                );
            // Not too long: nothing happens, and what is read in between counts.
            for _ in 0..2 {
                tokio::task::yield_now().await;
                clock.advance(STALLED / 2);
                far.read_exact(&mut [0; 5]).await.unwrap();
            }
            tokio::task::yield_now().await;
            assert!(!writing.is_finished());
            clock.advance(STALLED);
            tokio::task::yield_now().await;
            if watches {
                assert_eq!((&mut writing).await.unwrap(), Err(io::ErrorKind::TimedOut));
            } else {
                assert!(!writing.is_finished());
                far.read_exact(&mut [0; 20]).await.unwrap();
                assert_eq!(writing.await.unwrap(), Ok(()));
            }
        }
    }

    #[tokio::test]
    async fn one_alarm_serves_many_waits() {
        let timer = HeadTimer::default();
        let set = || timer.0.lock().as_ref().map(|alarm| alarm.at);
        let begun = Instant::now();
        let mut first = timer.sleep(Duration::from_millis(20));
        assert!(futures::poll!(&mut first).is_pending());
        drop(first);
        let alarm = set();
        let mut second = timer.sleep(Duration::from_millis(60));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(alarm.is_some() && set() == alarm);
        second.await;
        assert!(begun.elapsed() >= Duration::from_millis(60));
        assert_eq!(set(), None);
    }
}
