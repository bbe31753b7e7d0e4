//! StatefulSets: pods that keep their names and their storage, made and replaced in order.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{self, PersistentVolumeClaim, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use kube::core::{NamespaceResourceScope, Resource};
use skiff_base::SharedClock;
use skiff_client::failure::message;
use skiff_client::{
    ApiFailure, EventRecorder, EventType, LabelMatcher, ObjectKey, Outcome, ReconcileError,
    Reconciler, SharedCache, is_already_exists,
};

use crate::deletion::delete_seen;
use crate::gate::WriteGate;
use crate::history::{self, Keeper, Made};
use crate::ownership::{
    claim, claim_if, controller_reference, lives, queue_owners, selects, settle,
};
use crate::seen_pod::Pod;
use crate::stateful_set_plan::{self as planner, Action, Observed, Version};
use crate::{Context, pods};

/// The name of this controller.
pub const NAME: &str = "statefulset-controller";

const WORKERS: usize = 5;
/// How long to wait for a cache to show a write before looking again.
const CATCH_UP: Duration = Duration::from_millis(200);
/// The label of a revision that carries its hash.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

struct StatefulSets {
    client: Client,
    sets: SharedCache<StatefulSet>,
    pods: SharedCache<Pod>,
    claims: SharedCache<PersistentVolumeClaim>,
    history: Keeper,
    set_gate: WriteGate,
    pod_gate: WriteGate,
    claim_gate: WriteGate,
    recorder: EventRecorder,
    clock: SharedClock,
}

fn wants(set: &StatefulSet, meta: &ObjectMeta) -> bool {
    selects(set.spec.as_ref().map(|spec| &spec.selector), meta)
}

/// Runs the controller.
pub async fn run(context: Context) {
    let sets = context.caches.of::<StatefulSet>();
    let pods = context.caches.of::<Pod>();
    let claims = context.caches.of::<PersistentVolumeClaim>();
    let revisions = context.caches.of::<ControllerRevision>();
    pods.index_owners();
    pods::index_orphans(&pods);
    let queue = context.queue();
    sets.wait_synced().await;
    pods.wait_synced().await;
    claims.wait_synced().await;
    revisions.wait_synced().await;
    let _sets = {
        let queue = queue.clone();
        sets.on_event(move |event| queue.add(ObjectKey::of(&event.object().metadata)))
    };
    let _pods = {
        let (queue, sets) = (queue.clone(), sets.clone());
        pods.on_event(move |event| queue_owners(event, &sets, wants, &queue))
    };
    let client = context.client(NAME);
    let reconciler = StatefulSets {
        history: Keeper::new(client.clone(), revisions),
        client,
        sets,
        pods,
        claims,
        set_gate: WriteGate::default(),
        pod_gate: WriteGate::default(),
        claim_gate: WriteGate::default(),
        recorder: context.recorder(NAME, NAME),
        clock: context.clock.clone(),
    };
    context.run(reconciler, queue, WORKERS).await;
}

#[async_trait]
impl Reconciler for StatefulSets {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "statefulset"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(set) = self.sets.get(key) else {
            self.set_gate.forget(key);
            self.pod_gate.forget(key);
            self.claim_gate.forget(key);
            self.history.forget(key);
            return Ok(Outcome::Done);
        };
        let caught_up = self.set_gate.is_open(key, &self.sets)
            & self.pod_gate.is_open(key, &self.pods)
            & self.claim_gate.is_open(key, &self.claims)
            & self.history.is_open(key);
        if !caught_up {
            return Ok(Outcome::After(CATCH_UP));
        }
        let selector = set.spec.as_ref().map(|spec| &spec.selector);
        let Ok(selector) = LabelMatcher::from_selector(selector) else {
            return Ok(Outcome::Done);
        };
        let pods = self.claim_pods(&set, &selector).await?;
        let revisions = self.claim_revisions(&set, &selector).await?;
        let Some(versions) = self.versions(key, &set, &revisions).await? else {
            return Ok(Outcome::Done);
        };
        let now = skiff_client::timestamp(&*self.clock);
        let namespace = key.namespace();
        let plan = planner::plan(&Observed {
            set: &set,
            current: versions.current.as_ref().unwrap_or(&versions.update),
            update: &versions.update,
            collisions: versions.collisions,
            pods: &pods,
            claim: &|name| self.claims.get_named(namespace, name),
            now: now.0,
        });
        let outcome = self.carry_out(key, &set, plan.phases).await;
        self.write_status(key, &set, plan.status).await?;
        outcome?;
        self.truncate(key, &set, &pods, &versions).await?;
        let next = pods
            .iter()
            .filter_map(|pod| pods::seconds_until_available(pod, planner::min_ready(&set), now.0))
            .filter(|seconds| *seconds > 0)
            .min();
        Ok(match next.and_then(|seconds| u64::try_from(seconds).ok()) {
            Some(seconds) => Outcome::After(Duration::from_secs(seconds)),
            None => Outcome::Done,
        })
    }
}

/// The revisions that a rollout is between.
struct Versions {
    /// None where it is the same as `update`.
    current: Option<Version>,
    update: Version,
    collisions: i32,
    /// Those that are not of the current template.
    old: Vec<Arc<ControllerRevision>>,
}

impl StatefulSets {
    /// The pods of the set, after adopting and releasing.
    async fn claim_pods(
        &self,
        set: &StatefulSet,
        selector: &LabelMatcher,
    ) -> Result<Vec<Arc<Pod>>, kube::Error> {
        let meta = &set.metadata;
        let mine = self.pods.owned_by(meta.uid.as_deref().unwrap_or_default());
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let candidates = mine
            .into_iter()
            .chain(pods::orphans_in(&self.pods, namespace));
        let named = candidates.map(|pod| (planner::ordinal(set, &pod).is_some(), pod));
        // A pod of another name is none of ours, whatever its labels say.
        let (ours, strangers): (Vec<_>, Vec<_>) = named.partition(|(is_ours, _)| *is_ours);
        let mut claims = claim(meta, selector, ours.into_iter().map(|(_, pod)| pod));
        let strangers = strangers.into_iter().map(|(_, pod)| pod);
        claims
            .release
            .extend(claim_if(meta, |_| false, strangers).release);
        settle(&self.client, set, claims).await
    }

    async fn claim_revisions(
        &self,
        set: &StatefulSet,
        selector: &LabelMatcher,
    ) -> Result<Vec<Arc<ControllerRevision>>, kube::Error> {
        let meta = &set.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let candidates = self.history.revisions.list_in(namespace);
        // Revisions that do not match any more are passed over, but stay the set's.
        let mut claims = claim(meta, selector, candidates);
        claims.release.clear();
        settle(&self.client, set, claims).await
    }

    /// The revision of the set's template, which is made where there is none, and the one that the pods are of.
    /// None where there is nothing to do any more.
    async fn versions(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        revisions: &[Arc<ControllerRevision>],
    ) -> Result<Option<Versions>, ReconcileError> {
        let Some(template) = set.spec.as_ref().map(|spec| &spec.template) else {
            return Ok(None);
        };
        let choice = history::choose(revisions, template);
        let status = set.status.as_ref();
        let mut collisions = status
            .and_then(|status| status.collision_count)
            .unwrap_or(0);
        let update = match choice.current {
            Some(found) if found.revision == choice.number => found,
            Some(found) if set.metadata.deletion_timestamp.is_none() => {
                self.history.renumber(key, &found, choice.number).await?
            }
            Some(found) => found,
            None if set.metadata.deletion_timestamp.is_some() => return Ok(None),
            // It may be gone: the garbage collector would take away what is made here, without end.
            None if !lives(&self.client, set).await? => return Ok(None),
            None => {
                let made = self.create(key, set, template, choice.number, &mut collisions);
                match made.await {
                    Ok(made) => made,
                    Err(error) if error.has_cause("NamespaceTerminating") => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let name =
            |revision: &ControllerRevision| revision.metadata.name.clone().unwrap_or_default();
        let current = status.and_then(|status| status.current_revision.as_deref());
        let current = choice
            .old
            .iter()
            .chain(&choice.duplicates)
            .find(|revision| revision.metadata.name.as_deref() == current)
            .and_then(|found| {
                Some(Version {
                    name: name(found),
                    template: history::template_of(found)?,
                })
            });
        let mut old = choice.old;
        old.extend(choice.duplicates);
        history::sort(&mut old);
        Ok(Some(Versions {
            current,
            update: Version {
                name: name(&update),
                template: history::template_of(&update).unwrap_or_else(|| template.clone()),
            },
            collisions,
            old,
        }))
    }

    /// Makes a revision, under another name as long as the name is taken by other data.
    async fn create(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        template: &PodTemplateSpec,
        number: i64,
        collisions: &mut i32,
    ) -> Result<Arc<ControllerRevision>, kube::Error> {
        let wanted = history::Wanted {
            owner: &set.metadata,
            reference: controller_reference(set),
            template,
            number,
            hash_label: HASH_LABEL,
        };
        let data = history::data_of(template);
        loop {
            let revision = history::revision(&wanted, &history::hash(&data, *collisions));
            match self.history.create(key, &revision).await? {
                Made::There(revision) => return Ok(revision),
                Made::Collision => *collisions = collisions.saturating_add(1),
            }
        }
    }

    /// Deletes revisions beyond the limit that no pod is of.
    async fn truncate(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        pods: &[Arc<Pod>],
        versions: &Versions,
    ) -> Result<(), kube::Error> {
        let limit = set.spec.as_ref();
        let limit = limit.and_then(|spec| spec.revision_history_limit);
        let current = versions.current.as_ref().map(|current| &*current.name);
        let live = |revision: &ControllerRevision| {
            let name = revision.metadata.name.as_deref().unwrap_or_default();
            current == Some(name) || pods.iter().any(|pod| planner::revision_of(pod) == name)
        };
        let excess = history::beyond_limit(&versions.old, limit.unwrap_or(10), live);
        self.history.delete(key, &excess).await
    }

    /// Carries out phase after phase; within one in batches that double while all goes well.
    async fn carry_out(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        phases: Vec<Vec<Action>>,
    ) -> Result<(), ReconcileError> {
        // What is made for a set that is gone, which the cache may not show yet, would be taken away and made again, without end.
        let makes = |action: &Action| matches!(action, Action::Create { .. });
        if phases.iter().flatten().any(makes) && !lives(&self.client, set).await? {
            return Ok(());
        }
        for phase in phases {
            let mut batch = 1;
            let mut rest = phase.as_slice();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(batch.min(rest.len()));
                let outcomes = join_all(now.iter().map(|action| self.act(key, set, action))).await;
                outcomes.into_iter().collect::<Result<(), _>>()?;
                rest = later;
                batch *= 2;
            }
        }
        Ok(())
    }

    async fn act(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        action: &Action,
    ) -> Result<(), ReconcileError> {
        match action {
            Action::Create {
                pod,
                missing,
                leaving,
            } => {
                if let Err(error) = self.supply(key, set, &pod.metadata, missing, leaving).await {
                    self.tell(set, "Create", &pod.metadata, Some(&error.to_string()));
                    return Err(error);
                }
                self.create_pod(key, set, pod).await
            }
            Action::Supply {
                pod,
                missing,
                leaving,
            } => self.supply(key, set, &pod.metadata, missing, leaving).await,
            Action::Own(claim) => self.own(key, claim).await,
            Action::TellConflict(name) => {
                let text = format!(
                    "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim"
                );
                self.recorder
                    .about(set, EventType::Warning, "ConflictingController", text);
                Ok(())
            }
            Action::Mend {
                pod,
                ordinal,
                missing,
            } => {
                self.supply(key, set, &pod.metadata, missing, &[]).await?;
                self.mend(key, set, &pod.metadata, *ordinal).await
            }
            Action::Delete(pod) => self.delete(key, set, pod).await,
        }
    }

    fn pods_api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(
        &self,
        key: &ObjectKey,
    ) -> Api<K> {
        Api::namespaced(self.client.clone(), key.namespace())
    }

    /// Reports what was done to a pod, or why it was not.
    fn tell(&self, set: &StatefulSet, verb: &str, pod: &ObjectMeta, failure: Option<&str>) {
        let name = pod.name.as_deref().unwrap_or_default();
        let owner = set.metadata.name.as_deref().unwrap_or_default();
        let done = format!("{verb} Pod {name} in StatefulSet {owner}");
        let (event_type, reason, text) = match failure {
            None => (
                EventType::Normal,
                format!("Successful{verb}"),
                format!("{done} successful"),
            ),
            Some(error) => (
                EventType::Warning,
                format!("Failed{verb}"),
                format!("{done} failed error: {error}"),
            ),
        };
        self.recorder.about(set, event_type, &reason, text);
    }

    async fn create_pod(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        pod: &v1::Pod,
    ) -> Result<(), ReconcileError> {
        let api: Api<v1::Pod> = self.pods_api(key);
        match api.create(&PostParams::default(), pod).await {
            Ok(created) => {
                self.pod_gate.wrote(key, &created.metadata);
                self.tell(set, "Create", &pod.metadata, None);
                Ok(())
            }
            // It will be seen soon, or must be waited for.
            Err(error) if is_already_exists(&error) => Err(error.into()),
            Err(error) => {
                self.tell(set, "Create", &pod.metadata, Some(&message(&error)));
                Err(error.into())
            }
        }
    }

    async fn mend(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        pod: &ObjectMeta,
        ordinal: i64,
    ) -> Result<(), ReconcileError> {
        let name = pod.name.as_deref().unwrap_or_default();
        let api: Api<v1::Pod> = self.pods_api(key);
        // The cache holds less of it than has to be written.
        let mut whole = api.get(name).await?;
        if whole.metadata.uid != pod.uid {
            return Ok(());
        }
        planner::restore(set, &mut whole, ordinal);
        let written = api.replace(name, &PostParams::default(), &whole).await;
        let failure = written.as_ref().err().map(message);
        self.tell(set, "Update", pod, failure.as_deref());
        self.pod_gate.wrote(key, &written?.metadata);
        Ok(())
    }

    async fn delete(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        pod: &Pod,
    ) -> Result<(), ReconcileError> {
        let api: Api<Pod> = self.pods_api(key);
        match delete_seen(&api, &pod.metadata, DeleteParams::default()).await {
            Err(error) => {
                self.tell(set, "Delete", &pod.metadata, Some(&message(&error)));
                Err(error.into())
            }
            Ok(was_there) => {
                if was_there {
                    self.pod_gate.deleted(key, &pod.metadata);
                }
                self.tell(set, "Delete", &pod.metadata, None);
                Ok(())
            }
        }
    }

    /// Makes the claims that are missing, all that can be made; fails when one is on its way out.
    async fn supply(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        pod: &ObjectMeta,
        missing: &[PersistentVolumeClaim],
        leaving: &[String],
    ) -> Result<(), ReconcileError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), key.namespace());
        let mut failures = Vec::new();
        for claim in missing {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            match api.create(&PostParams::default(), claim).await {
                Ok(created) => {
                    self.claim_gate.wrote(key, &created.metadata);
                    self.tell_claim(set, pod, name, None);
                }
                Err(error) => {
                    let text = message(&error);
                    if !is_already_exists(&error) {
                        self.tell_claim(set, pod, name, Some(&text));
                    }
                    failures.push(format!("failed to create PVC {name}: {text}"));
                }
            }
        }
        failures.extend(
            leaving
                .iter()
                .map(|name| format!("pvc {name} is being deleted")),
        );
        match failures.as_slice() {
            [] => Ok(()),
            [only] => Err(ReconcileError::Other(only.clone())),
            several => Err(ReconcileError::Other(format!("[{}]", several.join(", ")))),
        }
    }

    fn tell_claim(&self, set: &StatefulSet, pod: &ObjectMeta, claim: &str, failure: Option<&str>) {
        let pod = pod.name.as_deref().unwrap_or_default();
        let owner = set.metadata.name.as_deref().unwrap_or_default();
        let (event_type, reason, text) = match failure {
            None => (
                EventType::Normal,
                "SuccessfulCreate",
                format!("Create Claim {claim} Pod {pod} in StatefulSet {owner} success"),
            ),
            Some(error) => (
                EventType::Warning,
                "FailedCreate",
                format!(
                    "Create Claim {claim} for Pod {pod} in StatefulSet {owner} failed error: {error}"
                ),
            ),
        };
        self.recorder.about(set, event_type, reason, text);
    }

    async fn own(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), ReconcileError> {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), key.namespace());
        let answer = api.replace(name, &PostParams::default(), claim).await?;
        self.claim_gate.wrote(key, &answer.metadata);
        Ok(())
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        status: StatefulSetStatus,
    ) -> Result<(), kube::Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = set.clone();
        changed.status = Some(status);
        let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), key.namespace());
        let answer = api
            .replace_status(key.name(), &PostParams::default(), &changed)
            .await?;
        self.set_gate.wrote(key, &answer.metadata);
        Ok(())
    }
}
