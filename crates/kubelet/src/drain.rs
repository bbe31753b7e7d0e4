//! Taking a node down: its pods end as if they were deleted, hooks and grace periods included, but stay in the API.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// Asks a kubelet to stop what runs of its pods. Clones share it.
#[derive(Clone, Debug)]
pub struct Drain(Arc<State>);

#[derive(Debug)]
struct State {
    /// The longest time that a pod may take.
    limit: watch::Sender<Option<Duration>>,
    /// How many pods were stopped.
    stopped: watch::Sender<Option<usize>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self(Arc::new(State {
            limit: watch::Sender::new(None),
            stopped: watch::Sender::new(None),
        }))
    }
}

impl Drain {
    /// Has the pods stopped, each within its own grace period and `limit`, and waits for it; how many there were. The
    /// kubelet starts nothing any more after that.
    pub async fn stop_pods(&self, limit: Duration) -> usize {
        self.0.limit.send_replace(Some(limit));
        set(&self.0.stopped).await
    }

    /// Returns with the limit when the pods are to be stopped.
    pub(crate) async fn ordered(&self) -> Duration {
        set(&self.0.limit).await
    }

    /// So many pods were stopped.
    pub(crate) fn finish(&self, stopped: usize) {
        self.0.stopped.send_replace(Some(stopped));
    }
}

/// Returns when there is a value.
async fn set<T: Copy>(channel: &watch::Sender<Option<T>>) -> T {
    let mut values = channel.subscribe();
    loop {
        if let Some(value) = *values.borrow_and_update() {
            return value;
        }
        // The sender lives as long as `channel`.
        let _ = values.changed().await;
    }
}
