//! The loop of one pod's worker.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use skiff_base::{Backoff, Shutdown};
use tokio::task::JoinHandle;

use crate::container::environment;
use crate::context::Context;
use crate::pod::observed::{AppliedResources, ObservedPod, State};
use crate::pod::plan::{self, Bookkeeping, Step, Waiting};
use crate::pod::restart::{elapsed, left_until};
use crate::pod::restart_all;
use crate::pod::spec;
use crate::pod::status::{self, Input};
use crate::volumes::{self, teardown};
use crate::worker::mailbox::{Mail, Mailbox};
use crate::worker::probing::Probing;
use crate::worker::publish::{Published, Sent};
use crate::worker::start::{self, Execution, Outcome};
use crate::worker::stop;

/// Without any news a worker looks again after this long: the last resort against a lost event.
const IDLE: Duration = Duration::from_secs(60);

/// When volumes are to be brought up to date: some time after it was planned, by the wall clock, by which tokens expire.
#[derive(Clone, Copy)]
struct Refresh {
    planned: Timestamp,
    after: Duration,
}

impl Refresh {
    /// What is left until then. A clock that was set back behind the time of the plan says that a token is not valid yet.
    fn left(self, now: Timestamp) -> Duration {
        if now < self.planned {
            return Duration::ZERO;
        }
        self.after.saturating_sub(elapsed(self.planned, now))
    }
}

/// What failed for a reason outside the pod is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// An evicted pod gets this long to end.
const EVICTED: Duration = Duration::from_secs(1);

/// One slow piece of work.
enum Operation {
    /// Executing a plan.
    Sync(JoinHandle<Outcome>),
    /// Stopping everything, within this grace period.
    Stop(JoinHandle<bool>, Duration),
}

enum Finished {
    Sync(Outcome),
    Stop(bool),
}

impl Operation {
    fn abort(&self) {
        match self {
            Self::Sync(task) => task.abort(),
            Self::Stop(task, _) => task.abort(),
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.abort();
    }
}

/// The worker of one pod.
pub struct Worker {
    context: Arc<Context>,
    mailbox: Arc<Mailbox>,
    books: Bookkeeping,
    published: Published,
    status: PodStatus,
    operation: Option<Operation>,
    probing: Probing,
    trouble: Backoff,
    /// Everything that was to run has run.
    finished: bool,
    /// Why the pod failed, decided here (deadline).
    failure: Option<Waiting>,
    /// Everything has stopped, and volumes are gone.
    cleaned: bool,
    /// The change of shown objects that the volumes follow.
    objects_seen: u64,
    /// When volumes must be set up again.
    refresh: Option<Refresh>,
    volumes_ready: bool,
    /// The pod as its volumes show it.
    shown: Arc<Pod>,
    references: BTreeSet<(environment::RefKind, String)>,
    told_backoffs: BTreeSet<(String, String)>,
}

/// What a turn leads to.
enum Next {
    Wait(Duration),
    Leave,
}

impl Worker {
    /// A worker that knows nothing yet: it adopts what it finds running.
    #[must_use]
    pub fn new(context: Arc<Context>, mailbox: Arc<Mailbox>) -> Self {
        let pod = mailbox.read().pod;
        let status = pod.status.clone().unwrap_or_default();
        let mut books = Bookkeeping::default();
        let lists = [&status.container_statuses, &status.init_container_statuses];
        for known in lists.into_iter().flatten().flatten() {
            if known.container_id.is_some() {
                let count = u32::try_from(known.restart_count).unwrap_or(0);
                books.known_restarts.insert(known.name.clone(), count);
            }
        }
        Self {
            context,
            mailbox,
            books,
            published: Published::default(),
            status,
            operation: None,
            probing: Probing::default(),
            trouble: Backoff::new(Duration::from_millis(500), Duration::from_secs(122)),
            finished: false,
            failure: None,
            cleaned: false,
            objects_seen: 0,
            refresh: None,
            volumes_ready: false,
            shown: pod,
            references: BTreeSet::new(),
            told_backoffs: BTreeSet::new(),
        }
    }

    /// Runs until the pod is gone and nothing of it is left. At `shutdown` everything is left running.
    pub async fn run(mut self, shutdown: Shutdown) {
        loop {
            let pause = match self.turn().await {
                Next::Wait(pause) => pause,
                Next::Leave => return,
            };
            tokio::select! {
                () = self.mailbox.changed() => {}
                () = self.context.clock.sleep(pause) => {}
                done = finish(&mut self.operation) => self.digest(done),
                () = shutdown.triggered() => return,
            }
        }
    }

    fn digest(&mut self, done: Option<Finished>) {
        self.operation = None;
        let now = self.context.cluster.now();
        match done {
            Some(Finished::Sync(outcome)) => {
                start::note(&mut self.books, &outcome, now);
                for (id, name) in &outcome.resized {
                    if let Some(wanted) = self.books.wanted_resources.get(name) {
                        self.books.resized.insert(id.clone(), *wanted);
                    }
                }
                if outcome.volumes_ready {
                    self.volumes_ready = true;
                    self.refresh_in(outcome.refresh_after);
                }
                if outcome.pod_failed {
                    self.hold();
                } else {
                    self.trouble.reset();
                    self.books.pod_held = None;
                }
            }
            Some(Finished::Stop(true)) => {}
            // It panicked, or could not stop: do not try again at once.
            Some(Finished::Stop(false)) | None => self.hold(),
        }
    }

    fn hold(&mut self) {
        let delay = self.trouble.next(&self.context.random);
        let now = self.context.cluster.now();
        self.books.pod_held = now.checked_add(delay).ok();
    }

    fn held_for(&self) -> Option<Duration> {
        left_until(self.books.pod_held?, self.context.cluster.now())
    }

    /// Something that volumes show has changed.
    fn refresh_now(&mut self) {
        if self.volumes_ready {
            self.refresh_in(Some(Duration::ZERO));
        }
    }

    fn refresh_in(&mut self, after: Option<Duration>) {
        let planned = self.context.cluster.now();
        self.refresh = after.map(|after| Refresh { planned, after });
    }

    /// Looks at everything once and starts what is to be done.
    async fn turn(&mut self) -> Next {
        let mail = self.mailbox.read();
        let pod = mail.pod.clone();
        let directory = self.context.pod_directory(&pod);
        let seen = self
            .context
            .runtime
            .observe(spec::uid(&pod), &directory)
            .await;
        let observed = match seen {
            Ok(observed) => observed,
            Err(error) => {
                tracing::warn!(pod = spec::display(&pod), %error, "the runtime does not answer");
                return Next::Wait(RETRY);
            }
        };
        self.watch_references(&mail);
        self.books.probes.clone_from(&self.mailbox.read().probes);
        let deadline = self.check_deadline(&mail);
        let mut pause = IDLE.min(deadline.unwrap_or(IDLE));
        if self.ending(&mail) {
            self.probing.end();
            pause = pause.min(self.bring_down(&mail, &observed).await);
        } else {
            self.probing
                .follow(&self.context, &self.mailbox, &pod, &observed);
            pause = pause.min(self.keep_up(&mail, &observed).await);
            if self.finished {
                // Everything has run: look again, from the other side.
                pause = Duration::ZERO;
            }
        }
        let stopped = self.ending(&mail) && stopped(&observed) && self.operation.is_none();
        match self.publish(&mail, &observed, stopped).await {
            Sent::Failed => return Next::Wait(RETRY),
            Sent::Gone | Sent::Done => {}
        }
        if stopped {
            return self
                .clean_up(&mail, &observed)
                .await
                .unwrap_or(Next::Wait(pause));
        }
        Next::Wait(pause)
    }

    fn ending(&self, mail: &Mail) -> bool {
        let by_api = !spec::is_static(&mail.pod)
            && (spec::deleting(&mail.pod) || spec::phase_is_terminal(&mail.pod));
        mail.gone
            || by_api
            || self.finished
            || mail.failure.is_some()
            || self.failure.is_some()
            || self.cleaned
    }

    /// Tells the API's watcher what this pod refers to.
    fn watch_references(&mut self, mail: &Mail) {
        let wanted = if self.ending(mail) {
            BTreeSet::new()
        } else {
            let mut wanted = volumes::references(&mail.pod);
            wanted.extend(environment::references(&mail.pod));
            wanted
        };
        if wanted != self.references {
            let (uid, namespace) = (spec::uid(&mail.pod), spec::namespace(&mail.pod));
            let cluster = &self.context.cluster;
            cluster.watch_references(uid, namespace, wanted.clone());
            self.references = wanted;
        }
    }

    /// Fails a pod that is active for too long; how long it may still be.
    fn check_deadline(&mut self, mail: &Mail) -> Option<Duration> {
        let seconds = spec::spec(&mail.pod).active_deadline_seconds?;
        let start = self.status.start_time.as_ref()?.0;
        let allowed = Duration::from_secs(u64::try_from(seconds).ok()?);
        let active = elapsed(start, self.context.cluster.now());
        if active < allowed {
            return Some(allowed - active);
        }
        if !self.ending(mail) {
            let message = "Pod was active on the node longer than the specified deadline";
            let reason = "DeadlineExceeded";
            self.context.pod_event(&mail.pod, false, reason, message);
            self.failure = Some(Waiting {
                reason: reason.to_owned(),
                message: message.to_owned(),
            });
        }
        None
    }

    /// Plans for a pod that shall run; when to look again.
    async fn keep_up(&mut self, mail: &Mail, observed: &ObservedPod) -> Duration {
        if self.operation.is_some() {
            return IDLE;
        }
        let pod = &mail.pod;
        if mail.objects != self.objects_seen {
            // What was missing may be there now.
            self.objects_seen = mail.objects;
            self.books.pod_held = None;
            let config = |w: &Waiting| w.reason == "CreateContainerConfigError";
            let errors = &self.books.start_errors;
            let retry = errors
                .iter()
                .filter(|(_, w)| config(w))
                .map(|(n, _)| n.clone());
            for name in retry.collect::<Vec<_>>() {
                self.books.held.remove(&name);
            }
            self.refresh_now();
        }
        if !Arc::ptr_eq(&self.shown, pod) {
            let (old, new) = (&self.shown.metadata, &pod.metadata);
            if old.labels != new.labels || old.annotations != new.annotations {
                self.refresh_now();
            }
            self.shown = pod.clone();
        }
        self.note_resources(pod, observed);
        let mut pause = self.refresh_volumes(pod, observed).await;
        let next = plan::plan(pod, observed, &self.books, self.context.cluster.now());
        for (name, waiting) in &next.backoffs {
            self.tell_backoff(pod, name, waiting);
            self.books
                .start_errors
                .insert(name.clone(), waiting.clone());
        }
        pause = pause.min(next.wake_after.unwrap_or(IDLE));
        if next.finished {
            self.finished = true;
            return Duration::ZERO;
        }
        if let Some(Step::Reset { .. }) = next.steps.first() {
            if !restart_all::is_told(&self.status) {
                // Said first: what is gone would look as if it had been lost.
                return Duration::ZERO;
            }
            self.books.begin_anew(observed);
        }
        if !next.steps.is_empty() {
            let execution = Execution {
                context: self.context.clone(),
                pod: pod.clone(),
                observed: observed.clone(),
                steps: next.steps,
            };
            self.operation = Some(Operation::Sync(tokio::spawn(execution.run())));
        }
        pause
    }

    /// Notes what the kernel shall allow the pod's containers.
    fn note_resources(&mut self, pod: &Pod, observed: &ObservedPod) {
        let containers = spec::lasting_containers(pod);
        let wanted = containers.map(|container| {
            let kernel = self.context.kernel_resources(pod, container);
            let applied = AppliedResources {
                cpu_shares: kernel.cpu_shares,
                cpu_quota: kernel.cpu_quota,
                memory_limit: kernel.memory_limit,
            };
            (container.name.clone(), applied)
        });
        self.books.wanted_resources = wanted.collect();
        let known = |id: &str| observed.containers.iter().any(|c| c.id == id);
        self.books.resized.retain(|id, _| known(id));
    }

    /// Brings the pod's volumes up to date when something they show has changed; when the next time is.
    async fn refresh_volumes(&mut self, pod: &Pod, observed: &ObservedPod) -> Duration {
        let Some(refresh) = self.refresh else {
            return IDLE;
        };
        let left = refresh.left(self.context.cluster.now());
        if !left.is_zero() {
            return left;
        }
        match start::set_up_volumes(&self.context, pod, observed).await {
            Some(ready) => self.refresh_in(ready.refresh_after),
            None => {
                let delay = self.trouble.next(&self.context.random);
                self.refresh_in(Some(delay));
            }
        }
        self.refresh.map_or(IDLE, |refresh| refresh.after)
    }

    fn tell_backoff(&mut self, pod: &Pod, name: &str, waiting: &Waiting) {
        let last = self.status.container_statuses.iter().flatten();
        let restarts = last
            .filter(|s| s.name == name)
            .map(|s| s.restart_count)
            .next();
        let key = (name.to_owned(), format!("{restarts:?}{}", waiting.message));
        if self.told_backoffs.insert(key)
            && let Some((kind, _)) = spec::container_named(pod, name)
        {
            let pod_name = spec::display(pod);
            let message = format!("Back-off restarting failed container {name} in pod {pod_name}");
            let named = (kind, name);
            self.context
                .container_event(pod, named, true, "BackOff", message);
        }
    }

    /// Stops what runs of a pod that shall end; when to look again.
    async fn bring_down(&mut self, mail: &Mail, observed: &ObservedPod) -> Duration {
        let evicted = mail
            .failure
            .as_ref()
            .is_some_and(|why| why.reason == "Evicted");
        let grace = stop::grace_period(&mail.pod);
        // The node cannot wait for the resources of what it evicts.
        let grace = if evicted { grace.min(EVICTED) } else { grace };
        match &self.operation {
            Some(Operation::Stop(_, running)) if *running <= grace => return IDLE,
            // What is being started is no longer wanted, or there is less time than before.
            Some(_) => self.operation = None,
            None => {}
        }
        if stopped(observed) {
            return IDLE;
        }
        if let Some(left) = self.held_for() {
            return left;
        }
        let (context, pod, observed) = (self.context.clone(), mail.pod.clone(), observed.clone());
        let task =
            tokio::spawn(
                async move { stop::stop_and_tell(&context, &pod, &observed, grace).await },
            );
        self.operation = Some(Operation::Stop(task, grace));
        IDLE
    }

    async fn publish(&mut self, mail: &Mail, observed: &ObservedPod, stopped: bool) -> Sent {
        let failure = mail.failure.as_ref().or(self.failure.as_ref());
        self.status = status::generate(&Input {
            pod: &mail.pod,
            old: &self.status,
            observed,
            probes: &self.books.probes,
            waiting: &self.books.start_errors,
            terminated: stopped,
            failure,
            host_ips: &self.context.config.node_ips,
            runtime: &self.context.runtime_name,
            now: self.context.cluster.now(),
        });
        self.mailbox.set_status(&self.status);
        if mail.gone {
            return Sent::Gone;
        }
        let target = if spec::is_static(&mail.pod) {
            match &mail.mirror {
                Some(mirror) => mirror,
                None => return Sent::Done,
            }
        } else {
            &mail.pod
        };
        self.published
            .send(&self.context, target, &self.status)
            .await
    }

    /// Removes what a stopped pod leaves behind.
    async fn clean_up(&mut self, mail: &Mail, observed: &ObservedPod) -> Option<Next> {
        let pod = &mail.pod;
        let directory = self.context.pod_directory(pod);
        if !self.cleaned {
            for part in ["volume-subpaths", "volumes"] {
                let path = directory.join(part);
                if let Err(error) = self.remove(path).await {
                    tracing::warn!(pod = spec::display(pod), %error, "cannot remove volumes");
                    return Some(Next::Wait(RETRY));
                }
            }
            self.cleaned = true;
        }
        if mail.gone {
            return Some(self.forget(mail, observed).await);
        }
        if spec::deleting(pod) && !spec::is_static(pod) {
            let (namespace, name) = (spec::namespace(pod), spec::name(pod));
            let deleted = self
                .context
                .cluster
                .delete_pod(namespace, name, spec::uid(pod))
                .await;
            if let Err(error) = deleted {
                tracing::warn!(pod = spec::display(pod), %error, "cannot delete pod");
                return Some(Next::Wait(RETRY));
            }
        }
        None
    }

    async fn remove(&self, path: std::path::PathBuf) -> Result<(), String> {
        let mounter = self.context.mounter.clone();
        let removal = tokio::task::spawn_blocking(move || {
            teardown::remove_pod_directory(&path, mounter.as_ref())
        });
        match removal.await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Removes the last traces of a pod that its source no longer has.
    async fn forget(&mut self, mail: &Mail, observed: &ObservedPod) -> Next {
        let pod = &mail.pod;
        for container in &observed.containers {
            if let Err(error) = self.context.runtime.remove_container(&container.id).await {
                tracing::warn!(pod = spec::display(pod), %error, "cannot remove container");
                return Next::Wait(RETRY);
            }
        }
        for sandbox in &observed.sandboxes {
            if let Err(error) = self.context.runtime.remove_sandbox(&sandbox.id).await {
                tracing::warn!(pod = spec::display(pod), %error, "cannot remove sandbox");
                return Next::Wait(RETRY);
            }
        }
        if let Err(error) = self.context.cgroups.remove(pod) {
            tracing::warn!(pod = spec::display(pod), %error, "cannot remove control groups");
            return Next::Wait(RETRY);
        }
        let places = [
            self.context.pod_directory(pod),
            self.context.config.log_directory(pod),
        ];
        for path in places {
            if let Err(error) = self.remove(path).await {
                tracing::warn!(pod = spec::display(pod), %error, "cannot remove directory");
                return Next::Wait(RETRY);
            }
        }
        self.context.images.forget(spec::uid(pod));
        let cluster = &self.context.cluster;
        cluster.watch_references(spec::uid(pod), spec::namespace(pod), BTreeSet::new());
        Next::Leave
    }
}

/// Whether nothing of the pod runs and its sandboxes are down.
fn stopped(observed: &ObservedPod) -> bool {
    let sandboxes_down = observed.sandboxes.iter().all(|s| !s.ready);
    let ended = |state| !matches!(state, State::Running | State::Unknown);
    sandboxes_down && observed.containers.iter().all(|c| ended(c.state))
}

/// Waits for the operation, for ever when there is none.
async fn finish(operation: &mut Option<Operation>) -> Option<Finished> {
    match operation {
        Some(Operation::Sync(task)) => task.await.ok().map(Finished::Sync),
        Some(Operation::Stop(task, _)) => task.await.ok().map(Finished::Stop),
        None => std::future::pending().await,
    }
}
