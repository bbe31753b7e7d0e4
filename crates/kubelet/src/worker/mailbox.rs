//! What a pod's worker is told from outside; it always reads the latest, never a queue.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::pod::plan::{Verdict, Verdicts, Waiting};
use crate::probes::ProbeKind;

/// The latest about a pod.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The pod as its source has it.
    pub pod: Arc<Pod>,
    /// The API's picture of a static pod.
    pub mirror: Option<Arc<Pod>>,
    /// The pod is no longer wanted by its source: it is to be stopped and forgotten.
    pub gone: bool,
    /// The pod is to fail (evicted, refused): reason and message.
    pub failure: Option<Waiting>,
    /// Counts changes of objects that the pod shows.
    pub objects: u64,
    /// What the probes say, by container id.
    pub probes: BTreeMap<String, Verdicts>,
}

/// Where a worker finds its mail.
#[derive(Debug)]
pub struct Mailbox {
    mail: Mutex<Mail>,
    changed: Notify,
    verdicts: Notify,
    /// What the worker last made of the pod.
    status: Mutex<Arc<PodStatus>>,
}

impl Mailbox {
    /// A mailbox with the first mail.
    #[must_use]
    pub fn new(pod: Arc<Pod>) -> Arc<Self> {
        let status = pod.status.clone().unwrap_or_default();
        Arc::new(Self {
            status: Mutex::new(Arc::new(status)),
            mail: Mutex::new(Mail {
                pod,
                mirror: None,
                gone: false,
                failure: None,
                objects: 0,
                probes: BTreeMap::new(),
            }),
            changed: Notify::new(),
            verdicts: Notify::new(),
        })
    }

    /// The latest.
    #[must_use]
    pub fn read(&self) -> Mail {
        self.mail.lock().clone()
    }

    /// The pod's status as its worker last made it; it may be newer than the API's.
    #[must_use]
    pub fn status(&self) -> Arc<PodStatus> {
        self.status.lock().clone()
    }

    /// Notes the pod's status.
    pub fn set_status(&self, status: &PodStatus) {
        let mut known = self.status.lock();
        if **known != *status {
            *known = Arc::new(status.clone());
        }
    }

    /// Changes the mail and wakes the worker.
    pub fn update(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.mail.lock());
        self.changed.notify_one();
    }

    /// Wakes the worker: the runtime has news.
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    /// Returns when there is news.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Notes what a probe says; the worker is woken when that is new.
    pub fn verdict(&self, container_id: &str, kind: ProbeKind, verdict: Verdict) {
        let mut mail = self.mail.lock();
        let verdicts = mail.probes.entry(container_id.to_owned()).or_default();
        let slot = match kind {
            ProbeKind::Startup => &mut verdicts.startup,
            ProbeKind::Liveness => &mut verdicts.liveness,
            ProbeKind::Readiness => &mut verdicts.readiness,
        };
        if *slot != Some(verdict) {
            *slot = Some(verdict);
            self.changed.notify_one();
            self.verdicts.notify_waiters();
        }
    }

    /// What the probes of a container say.
    #[must_use]
    pub fn verdicts(&self, container_id: &str) -> Verdicts {
        let mail = self.mail.lock();
        mail.probes.get(container_id).copied().unwrap_or_default()
    }

    /// Returns when the startup probe of a container has passed.
    pub async fn startup_passed(&self, container_id: &str) {
        loop {
            // Registered before the look, so that no news is lost between the two.
            let news = self.verdicts.notified();
            if self.verdicts(container_id).startup == Some(Verdict::Success) {
                return;
            }
            news.await;
        }
    }

    /// Forgets what probes said of containers that are gone.
    pub fn keep_probes(&self, keep: impl Fn(&str) -> bool) {
        self.mail.lock().probes.retain(|id, _| keep(id));
    }
}
