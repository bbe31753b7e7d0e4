//! How events get to where they are kept: at once, or in batches in the background; cut down when they are too large.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use skiff_base::{SharedClock, Shutdown};
use tokio::sync::mpsc;

use super::AuditError;
use super::event::Event;

/// Where events are kept.
#[async_trait]
pub(crate) trait Sink: Send + Sync + 'static {
    /// The name in messages.
    fn name(&self) -> &'static str;
    /// Keeps events.
    async fn send(&self, events: &[Arc<Event>]) -> Result<(), AuditError>;
}

/// When a request's event is handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the background, many at once; events are lost when too many wait.
    Batch,
    /// Before the request goes on; a failure is logged.
    Blocking,
    /// As `Blocking`, and a request whose arrival could not be recorded is refused.
    BlockingStrict,
}

impl Mode {
    /// From the flag's word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "batch" => Some(Self::Batch),
            "blocking" => Some(Self::Blocking),
            "blocking-strict" => Some(Self::BlockingStrict),
            _ => None,
        }
    }
}

/// How batches are made.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchSettings {
    /// So many events may wait.
    pub buffer_size: usize,
    /// So many go together at most.
    pub max_size: usize,
    /// The first of a batch waits this long for others.
    pub max_wait: Duration,
    /// So many batches a second, and so many at once after a pause; `None`: no limit.
    pub throttle: Option<(f64, u32)>,
}

/// What events may be large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TruncateSettings {
    /// So many bytes together.
    pub max_batch_size: usize,
    /// So many bytes of one; a larger one loses its objects.
    pub max_event_size: usize,
}

/// Where events are kept and how they get there.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendSettings {
    /// When events are handed on.
    pub mode: Mode,
    /// For the mode `batch`.
    pub batch: BatchSettings,
    /// `None`: events of any size.
    pub truncate: Option<TruncateSettings>,
}

impl BackendSettings {
    /// Upstream's defaults for the log file.
    #[must_use]
    pub fn log() -> Self {
        Self {
            mode: Mode::Blocking,
            batch: BatchSettings {
                buffer_size: 10_000,
                max_size: 1,
                max_wait: Duration::ZERO,
                throttle: None,
            },
            truncate: None,
        }
    }

    /// Upstream's defaults for the webhook.
    #[must_use]
    pub fn webhook() -> Self {
        Self {
            mode: Mode::Batch,
            batch: BatchSettings {
                buffer_size: 10_000,
                max_size: 400,
                max_wait: Duration::from_secs(30),
                throttle: Some((10.0, 15)),
            },
            truncate: None,
        }
    }
}

/// A sink and the way to it.
pub(crate) struct Backend {
    sink: Arc<dyn Sink>,
    settings: BackendSettings,
    queue: Option<mpsc::Sender<Arc<Event>>>,
}

impl Backend {
    /// Starts the background task of batch mode, which needs a Tokio runtime.
    pub fn start(
        sink: Arc<dyn Sink>,
        settings: BackendSettings,
        clock: SharedClock,
        shutdown: Shutdown,
    ) -> Self {
        let queue = (settings.mode == Mode::Batch).then(|| {
            let (sender, receiver) = mpsc::channel(settings.batch.buffer_size.max(1));
            tokio::spawn(run(
                sink.clone(),
                settings.clone(),
                clock,
                receiver,
                shutdown,
            ));
            sender
        });
        Self {
            sink,
            settings,
            queue,
        }
    }

    /// Takes an event without waiting for anything, for the batch; `None`: it has to be sent at once by [`Backend::send`].
    pub fn enqueue(&self, event: &Arc<Event>) -> Option<()> {
        let queue = self.queue.as_ref()?;
        if queue.try_send(event.clone()).is_err() {
            tracing::warn!(
                backend = self.sink.name(),
                audit_id = %event.audit_id,
                "an audit event was dropped: audit buffer queue blocked"
            );
        }
        Some(())
    }

    /// Sends an event now; whether the request may go on.
    pub async fn send(&self, event: Arc<Event>) -> bool {
        let sent = deliver(&*self.sink, self.settings.truncate.as_ref(), &[event]).await;
        sent || self.settings.mode != Mode::BlockingStrict
    }
}

async fn run(
    sink: Arc<dyn Sink>,
    settings: BackendSettings,
    clock: SharedClock,
    mut queue: mpsc::Receiver<Arc<Event>>,
    shutdown: Shutdown,
) {
    let batch = &settings.batch;
    let mut throttle = batch
        .throttle
        .map(|(rate, burst)| Throttle::new(rate, burst, clock.monotonic()));
    let mut ending = false;
    loop {
        // What waits at the end still goes out.
        let first = match ending {
            true => queue.try_recv().ok(),
            false => tokio::select! {
                first = queue.recv() => first,
                () = shutdown.triggered() => {
                    ending = true;
                    queue.try_recv().ok()
                }
            },
        };
        let Some(first) = first else { return };
        let mut events = vec![first];
        let deadline = clock.sleep(batch.max_wait);
        tokio::pin!(deadline);
        while events.len() < batch.max_size {
            if let Ok(event) = queue.try_recv() {
                events.push(event);
                continue;
            }
            if batch.max_wait.is_zero() || ending {
                break;
            }
            tokio::select! {
                event = queue.recv() => match event {
                    Some(event) => events.push(event),
                    None => break,
                },
                () = &mut deadline => break,
                () = shutdown.triggered() => ending = true,
            }
        }
        if let (Some(throttle), false) = (&mut throttle, ending) {
            let wait = throttle.take(clock.monotonic());
            clock.sleep(wait).await;
        }
        deliver(&*sink, settings.truncate.as_ref(), &events).await;
    }
}

/// So many a second, and so many at once after a pause.
struct Throttle {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Duration,
}

impl Throttle {
    fn new(rate: f64, burst: u32, now: Duration) -> Self {
        Self {
            rate,
            burst: f64::from(burst),
            tokens: f64::from(burst),
            at: now,
        }
    }

    /// How long to wait for the next one.
    fn take(&mut self, now: Duration) -> Duration {
        let past = now.saturating_sub(self.at).as_secs_f64();
        self.tokens = (self.tokens + past * self.rate).min(self.burst) - 1.0;
        self.at = now;
        if self.tokens >= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(-self.tokens / self.rate).unwrap_or_default()
    }
}

/// Sends events, cut down as the settings say; whether all went well.
async fn deliver(
    sink: &dyn Sink,
    truncate: Option<&TruncateSettings>,
    events: &[Arc<Event>],
) -> bool {
    let Some(limits) = truncate else {
        return send(sink, events).await;
    };
    let mut well = true;
    let (mut batch, mut size) = (Vec::new(), 0);
    for event in events {
        let mut event = event.clone();
        let mut length = event.json().len();
        if length > limits.max_event_size {
            event = Arc::new(event.truncated());
            length = event.json().len();
        }
        if length > limits.max_event_size {
            tracing::error!(audit_id = %event.audit_id, "an audit event is too large even after truncating");
            continue;
        }
        if !batch.is_empty() && size + length > limits.max_batch_size {
            well &= send(sink, &std::mem::take(&mut batch)).await;
            size = 0;
        }
        size += length;
        batch.push(event);
    }
    if !batch.is_empty() {
        well &= send(sink, &batch).await;
    }
    well
}

async fn send(sink: &dyn Sink, events: &[Arc<Event>]) -> bool {
    match sink.send(events).await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(backend = sink.name(), %error, events = events.len(), "audit events could not be kept");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_lets_a_burst_through_and_then_its_rate() {
        let mut throttle = Throttle::new(10.0, 2, Duration::ZERO);
        let second = Duration::from_secs(1);
        assert_eq!(throttle.take(Duration::ZERO), Duration::ZERO);
        assert_eq!(throttle.take(Duration::ZERO), Duration::ZERO);
        assert_eq!(throttle.take(Duration::ZERO), second / 10);
        assert_eq!(throttle.take(Duration::ZERO), second / 5);
        assert_eq!(throttle.take(second), Duration::ZERO);
    }
}
