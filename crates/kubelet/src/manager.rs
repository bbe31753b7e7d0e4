//! Keeps one worker per pod: routes what the API, static files, the runtime and objects say to the right one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use skiff_base::{Backoff, Shutdown};
use tokio::sync::Notify;

use crate::admission;
use crate::container::sandbox::{POD_NAME_LABEL, POD_NAMESPACE_LABEL, POD_UID_LABEL};
use crate::context::Context;
use crate::pod::plan::Waiting;
use crate::pod::spec;
use crate::volumes::teardown;
use crate::worker::{Mailbox, Worker, stop};

/// All workers.
pub struct Manager {
    context: Arc<Context>,
    shutdown: Shutdown,
    workers: Mutex<HashMap<String, Arc<Mailbox>>>,
    /// Mirror pods by `namespace/name`; they may come before or after their static pod.
    mirrors: Mutex<HashMap<String, Arc<Pod>>>,
    statics_changed: Notify,
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", spec::namespace(pod), spec::name(pod))
}

impl Manager {
    /// No workers yet.
    #[must_use]
    pub fn new(context: Arc<Context>, shutdown: Shutdown) -> Arc<Self> {
        Arc::new(Self {
            context,
            shutdown,
            workers: Mutex::default(),
            mirrors: Mutex::default(),
            statics_changed: Notify::new(),
        })
    }

    /// What all share.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// A pod of the API was added or changed.
    pub fn apply(self: &Arc<Self>, pod: Arc<Pod>) {
        if spec::is_mirror(&pod) {
            self.mirror_changed(&full_name(&pod), Some(pod));
            return;
        }
        let known = self.workers.lock().get(spec::uid(&pod)).cloned();
        match known {
            Some(mailbox) => mailbox.update(|mail| mail.pod = pod),
            None => self.begin(pod),
        }
    }

    /// A pod of the API is gone.
    pub fn remove(&self, pod: &Arc<Pod>) {
        if spec::is_mirror(pod) {
            self.mirror_changed(&full_name(pod), None);
            return;
        }
        if let Some(mailbox) = self.workers.lock().get(spec::uid(pod)) {
            mailbox.update(|mail| {
                // The last state says how much time is left.
                mail.pod = pod.clone();
                mail.gone = true;
            });
        }
    }

    /// The static pods that there are now.
    pub fn set_static(self: &Arc<Self>, pods: Vec<Arc<Pod>>) {
        let wanted: BTreeSet<String> = pods.iter().map(|p| spec::uid(p).to_owned()).collect();
        for mailbox in self.workers.lock().values() {
            let mail = mailbox.read();
            let from_file = spec::is_static(&mail.pod);
            if from_file && !mail.gone && !wanted.contains(spec::uid(&mail.pod)) {
                mailbox.update(|mail| mail.gone = true);
            }
        }
        for pod in pods {
            let taken = {
                let workers = self.workers.lock();
                // An older version of the pod must be gone before the new one may take its ports and its name.
                let older = workers.values().map(|mailbox| mailbox.read().pod);
                let mut older = older.filter(|old| spec::is_static(old));
                workers.contains_key(spec::uid(&pod))
                    || older.any(|old| full_name(&old) == full_name(&pod))
            };
            if !taken {
                self.begin(pod);
            }
        }
    }

    /// Returns when a static pod is gone, so that another version of it may come, or its mirror, which is made anew.
    pub async fn statics_changed(&self) {
        self.statics_changed.notified().await;
    }

    fn mirror_changed(&self, name: &str, mirror: Option<Arc<Pod>>) {
        match &mirror {
            Some(mirror) => self.mirrors.lock().insert(name.to_owned(), mirror.clone()),
            None => self.mirrors.lock().remove(name),
        };
        for mailbox in self.workers.lock().values() {
            let pod = mailbox.read().pod;
            if spec::is_static(&pod) && full_name(&pod) == name {
                mailbox.update(|mail| mail.mirror.clone_from(&mirror));
            }
        }
        if mirror.as_ref().is_none_or(|mirror| spec::deleting(mirror)) {
            self.statics_changed.notify_one();
        }
    }

    /// The mirror pods that the API has.
    #[must_use]
    pub fn mirrors(&self) -> Vec<Arc<Pod>> {
        self.mirrors.lock().values().cloned().collect()
    }

    /// Starts a worker for a pod that has none.
    fn begin(self: &Arc<Self>, pod: Arc<Pod>) {
        let mailbox = Mailbox::new(pod.clone());
        let mirror = self.mirrors.lock().get(&full_name(&pod)).cloned();
        mailbox.update(|mail| mail.mirror = mirror);
        let node = self.context.cluster.node();
        match self.admit(&pod, node.as_deref()) {
            None => self.run(mailbox, None),
            Some(refused) if refused.reason == admission::NODE_AFFINITY => {
                self.run(mailbox, Some(refused));
            }
            Some(refused) => {
                self.refuse(&mailbox, refused);
                self.run(mailbox, None);
            }
        }
    }

    fn refuse(&self, mailbox: &Mailbox, refused: Waiting) {
        let pod = mailbox.read().pod;
        let message = refused.message.clone();
        self.context.pod_event(&pod, true, &refused.reason, message);
        mailbox.update(|mail| {
            mail.failure = Some(Waiting {
                reason: refused.reason,
                message: format!("Pod was rejected: {}", refused.message),
            });
        });
    }

    /// The scheduler may have seen a label before this kubelet did: before the pod is refused, the server is asked.
    async fn ask_again(&self, mailbox: &Mailbox, refused: Waiting) {
        let refused = match self.context.cluster.newest_node().await {
            Ok(node) => self.admit(&mailbox.read().pod, Some(&node)),
            Err(error) => {
                tracing::warn!(%error, "cannot read this node");
                Some(refused)
            }
        };
        if let Some(refused) = refused {
            self.refuse(mailbox, refused);
        }
    }

    /// Why the node cannot take the pod. A pod that was taken once is never refused later.
    fn admit(&self, pod: &Arc<Pod>, node: Option<&Node>) -> Option<Waiting> {
        let status = pod.status.as_ref();
        let taken = status.is_some_and(|s| s.container_statuses.is_some());
        if taken || spec::deleting(pod) || spec::phase_is_terminal(pod) || spec::is_static(pod) {
            return None;
        }
        let mut others = self.active_pods();
        others.retain(|other| spec::uid(other) != spec::uid(pod));
        let allocatable = self.context.machine.allocatable(&self.context.config);
        admission::refuse(pod, &others, &allocatable, node)
    }

    /// Starts the pod's worker; `doubtful` is why the node refuses it if its labels are what was seen last.
    fn run(self: &Arc<Self>, mailbox: Arc<Mailbox>, doubtful: Option<Waiting>) {
        let uid = spec::uid(&mailbox.read().pod).to_owned();
        self.workers.lock().insert(uid.clone(), mailbox.clone());
        let manager = self.clone();
        tokio::spawn(async move {
            if let Some(refused) = doubtful {
                tokio::select! {
                    () = manager.ask_again(&mailbox, refused) => {}
                    () = manager.shutdown.triggered() => return,
                }
            }
            let clock = manager.context.clock.clone();
            let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
            loop {
                let worker = Worker::new(manager.context.clone(), mailbox.clone());
                let run = tokio::spawn(worker.run(manager.shutdown.clone()));
                match run.await {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::error!(pod = uid, %error, "pod worker panicked");
                        clock.sleep(backoff.next(&manager.context.random)).await;
                    }
                }
            }
            if !manager.shutdown.is_triggered() {
                manager.workers.lock().remove(&uid);
                manager.statics_changed.notify_one();
            }
        });
    }

    /// The runtime has news of a pod.
    pub fn runtime_changed(&self, uid: &str) {
        if let Some(mailbox) = self.workers.lock().get(uid) {
            mailbox.wake();
        }
    }

    /// Something that a pod refers to has changed.
    pub fn objects_changed(&self, uid: &str) {
        if let Some(mailbox) = self.workers.lock().get(uid) {
            mailbox.update(|mail| mail.objects += 1);
        }
    }

    /// Makes a pod fail.
    pub fn evict(&self, uid: &str, why: Waiting) {
        if let Some(mailbox) = self.workers.lock().get(uid) {
            mailbox.update(|mail| mail.failure = Some(why));
        }
    }

    /// Stops what runs of all pods as if they were deleted, each within its own grace period and `limit`; how many
    /// there were. The workers have left before.
    pub async fn stop_all(&self, limit: Duration) -> usize {
        let context = &self.context;
        let stops = self.pods().into_iter().map(|pod| async move {
            let directory = context.pod_directory(&pod);
            let observed = match context.runtime.observe(spec::uid(&pod), &directory).await {
                Ok(observed) => observed,
                Err(error) => {
                    tracing::warn!(pod = spec::display(&pod), %error, "cannot stop a pod");
                    return false;
                }
            };
            if observed.sandboxes.iter().all(|sandbox| !sandbox.ready) {
                return false;
            }
            let grace = stop::grace_period(&pod).min(limit);
            stop::stop_and_tell(context, &pod, &observed, grace).await
        });
        let stopped = futures::future::join_all(stops).await;
        stopped.into_iter().filter(|stopped| *stopped).count()
    }

    /// All pods that have a worker.
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        let workers = self.workers.lock();
        workers.values().map(|mailbox| mailbox.read().pod).collect()
    }

    /// A pod by name, and its status as the worker last made it.
    #[must_use]
    pub fn find(&self, namespace: &str, name: &str) -> Option<(Arc<Pod>, Arc<PodStatus>)> {
        let workers = self.workers.lock();
        let mut named: Vec<(bool, Arc<Pod>, Arc<PodStatus>)> = workers
            .values()
            .map(|mailbox| (mailbox.read(), mailbox.status()))
            .filter(|(mail, _)| {
                spec::namespace(&mail.pod) == namespace && spec::name(&mail.pod) == name
            })
            .map(|(mail, status)| (mail.gone, mail.pod, status))
            .collect();
        // One that is going may share its name with the one that came.
        named.sort_by_key(|(gone, _, _)| *gone);
        let (_, pod, status) = named.into_iter().next()?;
        Some((pod, status))
    }

    /// All pods with their latest status.
    #[must_use]
    pub fn pods_with_status(&self) -> Vec<Pod> {
        let workers = self.workers.lock();
        let pods = workers.values().map(|mailbox| {
            let mut pod = (*mailbox.read().pod).clone();
            pod.status = Some((*mailbox.status()).clone());
            pod
        });
        pods.collect()
    }

    /// The pods that need resources of the node.
    #[must_use]
    pub fn active_pods(&self) -> Vec<Arc<Pod>> {
        let workers = self.workers.lock();
        let mails = workers.values().map(|mailbox| mailbox.read());
        mails
            .filter(|mail| mail.failure.is_none() && !spec::phase_is_terminal(&mail.pod))
            .map(|mail| mail.pod)
            .collect()
    }

    /// Takes down what runs of pods that nobody wants any more: they were deleted while no kubelet was looking.
    pub async fn adopt_orphans(self: &Arc<Self>) -> Result<(), tonic::Status> {
        let runtime = &self.context.runtime;
        let sandboxes = runtime.sandboxes(None).await?;
        let containers = runtime.containers(None).await?;
        let labels = sandboxes
            .iter()
            .map(|s| &s.labels)
            .chain(containers.iter().map(|c| &c.labels));
        let mut orphans: BTreeMap<String, Pod> = BTreeMap::new();
        let labelled = labels.filter_map(|labels| {
            let uid = labels.get(POD_UID_LABEL)?.clone();
            let (name, namespace) = (labels.get(POD_NAME_LABEL), labels.get(POD_NAMESPACE_LABEL));
            Some(orphan(uid, name.cloned(), namespace.cloned()))
        });
        // A removal that was interrupted may have left only logs or control groups.
        let logs = self.context.config.logged_pods().into_iter();
        let logged = logs.map(|(namespace, name, uid)| orphan(uid, Some(name), Some(namespace)));
        let grouped = self.context.cgroups.uids().into_iter();
        let grouped = grouped.map(|uid| orphan(uid, None, None));
        for pod in labelled.chain(logged).chain(grouped) {
            let uid = spec::uid(&pod).to_owned();
            if !self.workers.lock().contains_key(&uid) {
                orphans.entry(uid).or_insert(pod);
            }
        }
        for (_, pod) in orphans {
            tracing::info!(
                pod = spec::display(&pod),
                "taking down a pod that nobody wants"
            );
            let mailbox = Mailbox::new(Arc::new(pod));
            mailbox.update(|mail| mail.gone = true);
            self.run(mailbox, None);
        }
        self.remove_orphan_directories();
        Ok(())
    }

    /// Removes directories of pods that neither the API nor the runtime knows.
    fn remove_orphan_directories(&self) {
        let root = self.context.config.root_dir.join("pods");
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        for entry in entries {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if self.workers.lock().contains_key(&uid) {
                continue;
            }
            let mounter = self.context.mounter.as_ref();
            if let Err(error) = teardown::remove_pod_directory(&entry.path(), mounter) {
                tracing::warn!(uid, %error, "cannot remove the directory of a pod that is gone");
            }
        }
    }
}

/// All that is known of a pod that only left traces.
fn orphan(uid: String, name: Option<String>, namespace: Option<String>) -> Pod {
    Pod {
        metadata: ObjectMeta {
            uid: Some(uid),
            name,
            namespace,
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec::default()),
        ..Pod::default()
    }
}
