//! DaemonSets: one pod of a template on every node that fits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;
use skiff_base::SharedClock;
use skiff_client::{
    ApiFailure, Event, EventRecorder, EventType, LabelMatcher, ObjectKey, Outcome, ReconcileError,
    Reconciler, SharedCache, WorkQueue, is_conflict,
};

use crate::daemon_set_plan::{self as planner, HASH_LABEL, Observed, Placement, Plan};
use crate::gate::WriteGate;
use crate::history::{self, Keeper, Made};
use crate::ownership::{
    claim, controller_of, controller_reference, label, lives, queue_owners, selects, settle,
};
use crate::pod_control::PodControl;
use crate::seen_pod::Pod;
use crate::{Context, pods, template_hash};

/// The name of this controller.
pub const NAME: &str = "daemon-set-controller";
/// What its events come from.
const COMPONENT: &str = "daemonset-controller";

const WORKERS: usize = 2;
/// How long to wait for a cache to show a write before looking again.
const CATCH_UP: Duration = Duration::from_millis(200);
/// At most so many pods are made, and deleted, at once.
const BURST: usize = 250;
/// A pod that failed is deleted at once the first time, then after delays that double between these.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);

/// The index of pods by the node that they are on or, not bound yet, ask for.
const PLACE_INDEX: &str = "place";

fn wants(set: &DaemonSet, meta: &ObjectMeta) -> bool {
    selects(set.spec.as_ref().map(|spec| &spec.selector), meta)
}

/// Runs the controller.
pub async fn run(context: Context) {
    let sets = context.caches.of::<DaemonSet>();
    let nodes = context.caches.of::<Node>();
    let pods = context.caches.of::<Pod>();
    let revisions = context.caches.of::<ControllerRevision>();
    pods.index_owners();
    pods::index_orphans(&pods);
    pods.add_index(PLACE_INDEX, |pod| {
        planner::target(pod)
            .map(str::to_owned)
            .into_iter()
            .collect()
    });
    let queue = context.queue();
    sets.wait_synced().await;
    nodes.wait_synced().await;
    pods.wait_synced().await;
    revisions.wait_synced().await;
    let _sets = {
        let queue = queue.clone();
        sets.on_event(move |event| queue.add(ObjectKey::of(&event.object().metadata)))
    };
    let _pods = {
        let (queue, sets) = (queue.clone(), sets.clone());
        pods.on_event(move |event| queue_owners(event, &sets, wants, &queue))
    };
    let _revisions = {
        let (queue, sets) = (queue.clone(), sets.clone());
        revisions.on_event(move |event| {
            // One that is made for a set says nothing new to it: it may stay beside its like until the set changes.
            let is_new = matches!(event, Event::Added(_));
            if !(is_new && controller_of(&event.object().metadata).is_some()) {
                queue_owners(event, &sets, wants, &queue);
            }
        })
    };
    let _nodes = {
        let (queue, sets, pods) = (queue.clone(), sets.clone(), pods.clone());
        nodes.on_event(move |event| on_node(event, &sets, &pods, &queue))
    };
    let client = context.client(NAME);
    let recorder = context.recorder(NAME, COMPONENT);
    let reconciler = DaemonSets {
        history: Keeper::new(client.clone(), revisions),
        control: PodControl::new(client.clone(), recorder.clone()),
        client,
        sets,
        nodes,
        pods,
        set_gate: WriteGate::default(),
        failures: Failures::default(),
        recorder,
        clock: context.clock.clone(),
    };
    context.run(reconciler, queue, WORKERS).await;
}

/// Queues the sets that a change of a node concerns.
fn on_node(
    event: &Event<Node>,
    sets: &SharedCache<DaemonSet>,
    pods: &SharedCache<Pod>,
    queue: &WorkQueue<ObjectKey>,
) {
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    if let Event::Updated { old, new } = event
        && old.metadata.labels == new.metadata.labels
        && taints(old) == taints(new)
    {
        return;
    }
    let node = event.object();
    let there = pods.by_index(
        PLACE_INDEX,
        node.metadata.name.as_deref().unwrap_or_default(),
    );
    for set in sets.list() {
        let owned = there.iter().any(|pod| {
            controller_of(&pod.metadata)
                .is_some_and(|owner| Some(&owner.uid) == set.metadata.uid.as_ref())
        });
        if concerns(event, &set, owned) {
            queue.add(ObjectKey::of(&set.metadata));
        }
    }
}

/// Whether a change of a node matters to a set that owns a pod there, or does not.
fn concerns(event: &Event<Node>, set: &DaemonSet, owned: bool) -> bool {
    let misplaced = set
        .status
        .as_ref()
        .is_some_and(|status| status.number_misscheduled > 0);
    match event {
        Event::Deleted(_) => true,
        // A node of the name was there before, and its pod outlived it: it is counted again.
        Event::Added(_) if owned => true,
        Event::Added(node) | Event::Updated { new: node, .. } => {
            owned && misplaced || Placement::of(set).concerns(node, owned)
        }
    }
}

/// When pods of a set failed on a node, so that a node that refuses its pod is not asked all the time.
#[derive(Default)]
struct Failures(Mutex<HashMap<FailureKey, Failure>>);

/// The uid of the set, its generation, the node.
type FailureKey = (String, i64, String);

struct Failure {
    delay: Duration,
    /// The monotonic time of the last deletion.
    at: Duration,
}

impl Failures {
    /// Whether the pod may be deleted now; if not, for how long not.
    fn judge(&self, key: FailureKey, now: Duration) -> Result<(), Duration> {
        let mut all = self.0.lock();
        // What has been quiet for twice the longest delay starts anew.
        all.retain(|_, failure| now.saturating_sub(failure.at) < LONGEST_DELAY * 2);
        match all.get_mut(&key) {
            Some(failure) => {
                let due = failure.at + failure.delay;
                if now < due {
                    return Err(due - now);
                }
                failure.delay = (failure.delay * 2).min(LONGEST_DELAY);
                failure.at = now;
            }
            None => {
                let delay = FIRST_DELAY;
                all.insert(key, Failure { delay, at: now });
            }
        }
        Ok(())
    }
}

struct DaemonSets {
    client: Client,
    sets: SharedCache<DaemonSet>,
    nodes: SharedCache<Node>,
    pods: SharedCache<Pod>,
    history: Keeper,
    control: PodControl,
    set_gate: WriteGate,
    failures: Failures,
    recorder: EventRecorder,
    clock: SharedClock,
}

#[async_trait]
impl Reconciler for DaemonSets {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "daemonset"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(set) = self.sets.get(key) else {
            self.set_gate.forget(key);
            self.control.forget(key);
            self.history.forget(key);
            return Ok(Outcome::Done);
        };
        let selector = set.spec.as_ref().map(|spec| &spec.selector);
        if selector == Some(&LabelSelector::default()) {
            let text = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder
                .about(&*set, EventType::Warning, "SelectingAll", text);
            return Ok(Outcome::Done);
        }
        let Ok(selector) = LabelMatcher::from_selector(selector) else {
            return Ok(Outcome::Done);
        };
        let caught_up = self.set_gate.is_open(key, &self.sets)
            & self.control.is_open(key, &self.pods)
            & self.history.is_open(key);
        if !caught_up {
            return Ok(Outcome::After(CATCH_UP));
        }
        // What a set on its way out still owns is the garbage collector's business.
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let pods = self.claim_pods(&set, &selector).await?;
        let Some((hash, old)) = self.revision(key, &set, &selector, &pods).await? else {
            return Ok(Outcome::Retry);
        };
        let now = skiff_client::timestamp(&*self.clock);
        let nodes = self.nodes.list();
        let (plan, status) = planner::plan(&Observed {
            set: &set,
            nodes: &nodes,
            pods: &pods,
            hash: &hash,
            now: now.0,
        });
        let outcome = self.carry_out(key, &set, &hash, plan).await;
        self.write_status(key, &set, status).await?;
        let retry = outcome?;
        self.truncate(key, &set, &pods, &old).await?;
        let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let ready = pods
            .iter()
            .filter_map(|pod| pods::seconds_until_available(pod, min_ready.unwrap_or(0), now.0))
            .filter_map(|seconds| u64::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs);
        Ok(ready
            .chain(retry)
            .min()
            .map_or(Outcome::Done, Outcome::After))
    }
}

impl DaemonSets {
    async fn claim_pods(
        &self,
        set: &DaemonSet,
        selector: &LabelMatcher,
    ) -> Result<Vec<Arc<Pod>>, kube::Error> {
        let meta = &set.metadata;
        let mine = self.pods.owned_by(meta.uid.as_deref().unwrap_or_default());
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let orphans = pods::orphans_in(&self.pods, namespace);
        let claims = claim(meta, selector, mine.into_iter().chain(orphans));
        settle(&self.client, set, claims).await
    }

    /// The hash of the revision of the set's template, which is made where there is none, and the other revisions.
    /// None where it has to be looked at again.
    async fn revision(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        selector: &LabelMatcher,
        pods: &[Arc<Pod>],
    ) -> Result<Option<(String, Vec<Arc<ControllerRevision>>)>, ReconcileError> {
        let Some(template) = set.spec.as_ref().map(|spec| &spec.template) else {
            return Ok(None);
        };
        let candidates = self.history.revisions.list_in(key.namespace());
        let claims = claim(&set.metadata, selector, candidates);
        let mut revisions = settle(&self.client, set, claims).await?;
        for revision in &mut revisions {
            if hash_of(revision).is_empty() {
                *revision = self.label(key, revision).await?;
            }
        }
        let choice = history::choose(&revisions, template);
        let current = match choice.current {
            Some(found) if found.revision == choice.number => found,
            Some(found) => self.history.renumber(key, &found, choice.number).await?,
            // Without a revision it may be gone: the garbage collector would take away what is made here, without end.
            None if !lives(&self.client, set).await? => return Ok(None),
            None => match self.create(key, set, template, choice.number).await? {
                Some(made) => made,
                None => return Ok(None),
            },
        };
        let hash = hash_of(&current).to_owned();
        if !choice.duplicates.is_empty() {
            self.relabel(key, pods, &hash).await?;
            self.history.delete(key, &choice.duplicates).await?;
        }
        Ok(Some((hash, choice.old)))
    }

    /// Gives a revision without a hash its name as one.
    async fn label(
        &self,
        key: &ObjectKey,
        revision: &ControllerRevision,
    ) -> Result<Arc<ControllerRevision>, kube::Error> {
        let mut changed = revision.clone();
        let name = changed.metadata.name.clone().unwrap_or_default();
        let labels = changed.metadata.labels.get_or_insert_default();
        labels.insert(HASH_LABEL.to_owned(), name);
        self.history.replace(key, &changed).await
    }

    /// Moves pods to the revision that is kept of several with the same template.
    async fn relabel(
        &self,
        key: &ObjectKey,
        pods: &[Arc<Pod>],
        hash: &str,
    ) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), key.namespace());
        let patch = json!({"metadata": {"labels": {HASH_LABEL: hash}}});
        for pod in pods {
            if label(&pod.metadata, HASH_LABEL) != Some(hash) {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))
                    .await?;
            }
        }
        Ok(())
    }

    /// Makes a revision; none when the name is taken by other data, in which case another one is tried next time.
    async fn create(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        template: &PodTemplateSpec,
        number: i64,
    ) -> Result<Option<Arc<ControllerRevision>>, kube::Error> {
        let collisions = set
            .status
            .as_ref()
            .and_then(|status| status.collision_count);
        let wanted = history::Wanted {
            owner: &set.metadata,
            reference: controller_reference(set),
            template,
            number,
            hash_label: HASH_LABEL,
        };
        let revision = history::revision(&wanted, &template_hash::of(template, collisions));
        match self.history.create(key, &revision).await {
            Ok(Made::There(revision)) => Ok(Some(revision)),
            Ok(Made::Collision) => {
                let mut status = set.status.clone().unwrap_or_default();
                status.collision_count = Some(collisions.unwrap_or(0).saturating_add(1));
                self.write_status(key, set, status).await?;
                Ok(None)
            }
            Err(error) if error.has_cause("NamespaceTerminating") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Carries the plan out; answers when a failed pod that may not be deleted yet may be.
    async fn carry_out(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        hash: &str,
        plan: Plan,
    ) -> Result<Option<Duration>, kube::Error> {
        let mut delete = plan.delete;
        let mut retry: Option<Duration> = None;
        let generation = set
            .status
            .as_ref()
            .and_then(|status| status.observed_generation);
        for (node, pod) in plan.failed {
            let failure = (
                set.metadata.uid.clone().unwrap_or_default(),
                generation.unwrap_or(0),
                node.clone(),
            );
            match self.failures.judge(failure, self.clock.monotonic()) {
                Ok(()) => {
                    let text = format!(
                        "Found failed daemon pod {} on node {node}, will try to kill it",
                        ObjectKey::of(&pod.metadata)
                    );
                    self.recorder
                        .about(set, EventType::Warning, "FailedDaemonPod", text);
                    delete.push(pod);
                }
                Err(wait) => retry = Some(retry.map_or(wait, |known| known.min(wait))),
            }
        }
        for pod in plan.succeeded {
            let text = format!(
                "Found succeeded daemon pod {} on node {}, will try to delete it",
                ObjectKey::of(&pod.metadata),
                planner::target(&pod).unwrap_or_default()
            );
            self.recorder
                .about(set, EventType::Normal, "SucceededDaemonPod", text);
            delete.push(pod);
        }
        delete.truncate(BURST);
        let template = planner::template(set, hash);
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let pod = pods::from_template(&template, name, controller_reference(set));
        let make = |number: usize| {
            let mut pod = pod.clone();
            if let Some(node) = plan.create.get(number) {
                planner::for_node(pod.spec.get_or_insert_default(), node);
            }
            pod
        };
        let count = plan.create.len().min(BURST);
        let created = self.control.create(key, set, count, make).await.1;
        self.control.delete(key, set, &delete).await?;
        created?;
        Ok(retry)
    }

    /// Deletes old revisions beyond the limit that no pod is of.
    async fn truncate(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        pods: &[Arc<Pod>],
        old: &[Arc<ControllerRevision>],
    ) -> Result<(), kube::Error> {
        let limit = set.spec.as_ref();
        let limit = limit.and_then(|spec| spec.revision_history_limit);
        let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
        // Unlike a StatefulSet's, those that are in use count for the limit.
        let excess = old.len().saturating_sub(limit);
        let idle = |revision: &&Arc<ControllerRevision>| {
            let hash = hash_of(revision);
            let is_of = |pod: &Arc<Pod>| label(&pod.metadata, HASH_LABEL) == Some(hash);
            !pods.iter().any(is_of)
        };
        let excess: Vec<_> = old.iter().filter(idle).take(excess).cloned().collect();
        self.history.delete(key, &excess).await
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        status: DaemonSetStatus,
    ) -> Result<(), kube::Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = set.clone();
        changed.status = Some(status);
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), key.namespace());
        let parameters = PostParams::default();
        let answer = match api.replace_status(key.name(), &parameters, &changed).await {
            // Somebody wrote in between. As upstream: once more on top of what is there, so that counts do not lag.
            Err(error) if is_conflict(&error) => {
                let mut fresh = api.get(key.name()).await?;
                if fresh.metadata.uid != set.metadata.uid {
                    return Err(error);
                }
                fresh.status = changed.status;
                api.replace_status(key.name(), &parameters, &fresh).await?
            }
            outcome => outcome?,
        };
        self.set_gate.wrote(key, &answer.metadata);
        Ok(())
    }
}

fn hash_of(revision: &ControllerRevision) -> &str {
    label(&revision.metadata, HASH_LABEL).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_answered_ever_more_slowly() {
        let failures = Failures::default();
        let key = || ("set".to_owned(), 1, "n1".to_owned());
        let at = Duration::from_secs;
        assert_eq!(failures.judge(key(), at(100)), Ok(()));
        assert_eq!(failures.judge(key(), at(100)), Err(at(1)));
        assert_eq!(failures.judge(key(), at(101)), Ok(()));
        assert_eq!(failures.judge(key(), at(102)), Err(at(1)));
        assert_eq!(failures.judge(key(), at(103)), Ok(()));
        let other = ("set".to_owned(), 2, "n1".to_owned());
        assert_eq!(failures.judge(other, at(103)), Ok(()));
        assert_eq!(failures.judge(key(), at(100_000)), Ok(()));
        assert_eq!(failures.judge(key(), at(100_001)), Ok(()));
    }
}
