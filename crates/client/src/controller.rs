//! The loop of every controller: take a key, reconcile it, try again later if that failed.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use skiff_base::Shutdown;

use crate::failure::{is_conflict, is_not_found};
use crate::{ApiFailure, ObjectKey, WorkQueue};

/// What a reconciler asks for when it is through without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more until something changes.
    Done,
    /// Look at the key again after this time, whatever happens.
    After(Duration),
    /// Look at the key again with the growing delay of a failure, but it is none to tell the log of.
    Retry,
}

/// Why a key could not be reconciled.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A request to the API server failed.
    #[error("{}", crate::failure::message(.0))]
    Api(#[from] kube::Error),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl ReconcileError {
    /// Whether the world moved on while we worked: the next try will see it, and nobody needs to be told.
    fn is_ordinary(&self) -> bool {
        match self {
            Self::Api(error) => {
                is_conflict(error) || is_not_found(error) || error.has_cause("NamespaceTerminating")
            }
            Self::Other(_) => false,
        }
    }
}

/// Brings the world one step closer to what an object asks for.
#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    /// The name in logs.
    fn name(&self) -> &'static str;
    /// The name of its queue in metrics: upstream's where there is one, since dashboards and alerts go by it.
    fn queue(&self) -> &'static str {
        self.name()
    }
    /// Looks at the object that `key` names (it may be gone) and does what is to be done.
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError>;
}

/// Runs `workers` loops over `queue` until `shutdown`.
pub async fn run_workers(
    reconciler: Arc<dyn Reconciler>,
    queue: WorkQueue<ObjectKey>,
    workers: usize,
    shutdown: Shutdown,
) {
    // They end with this future, whoever drops it.
    let mut loops = tokio::task::JoinSet::new();
    for _ in 0..workers {
        loops.spawn(work(reconciler.clone(), queue.clone()));
    }
    shutdown.triggered().await;
    queue.close();
    loops.shutdown().await;
}

async fn work(reconciler: Arc<dyn Reconciler>, queue: WorkQueue<ObjectKey>) {
    while let Some(key) = queue.next().await {
        work_on(&*reconciler, &queue, key).await;
    }
}

async fn work_on(reconciler: &dyn Reconciler, queue: &WorkQueue<ObjectKey>, key: ObjectKey) {
    let name = reconciler.name();
    let outcome = AssertUnwindSafe(reconciler.reconcile(&key))
        .catch_unwind()
        .await;
    match outcome {
        Ok(Ok(Outcome::Done)) => queue.forget(&key),
        Ok(Ok(Outcome::After(delay))) => {
            queue.forget(&key);
            queue.add_after(key.clone(), delay);
        }
        Ok(Ok(Outcome::Retry)) => queue.add_rate_limited(key.clone()),
        Ok(Err(error)) => {
            if error.is_ordinary() || queue.failures(&key) < 3 {
                tracing::debug!(controller = name, %key, %error, "will try again");
            } else {
                tracing::warn!(controller = name, %key, %error, "will try again");
            }
            queue.add_rate_limited(key.clone());
        }
        Err(_) => {
            tracing::error!(controller = name, %key, "reconcile panicked; will try again");
            queue.add_rate_limited(key.clone());
        }
    }
    queue.done(&key);
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use skiff_base::SystemClock;

    struct Scripted(Mutex<Vec<&'static str>>, Shutdown);

    #[async_trait]
    impl Reconciler for Scripted {
        fn name(&self) -> &'static str {
            "scripted"
        }
        async fn reconcile(&self, _: &ObjectKey) -> Result<Outcome, ReconcileError> {
            let step = self.0.lock().pop();
            match step {
                Some("panic") => panic!("as asked"),
                Some("fail") => Err(ReconcileError::Other("as asked".into())),
                Some("later") => Ok(Outcome::After(Duration::from_secs(3600))),
                _ => {
                    self.1.trigger();
                    Ok(Outcome::Done)
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_comes_back_after_error_panic_and_delay() {
        let shutdown = Shutdown::new();
        let steps = Mutex::new(vec!["later", "fail", "panic"]);
        let scripted = Arc::new(Scripted(steps, shutdown.clone()));
        let queue = WorkQueue::new(SystemClock::shared());
        queue.add(ObjectKey::new("a", "b"));
        run_workers(scripted.clone(), queue, 2, shutdown).await;
        assert!(scripted.0.lock().is_empty());
    }
}
