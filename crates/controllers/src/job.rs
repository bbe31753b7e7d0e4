//! Jobs: run pods until enough of them have succeeded, and count each exactly once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{join, join_all};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_base::SharedClock;
use skiff_client::{
    ApiFailure, Event, EventRecorder, EventType, LabelMatcher, ObjectKey, Outcome, ReconcileError,
    Reconciler, SharedCache, WorkQueue, is_not_found,
};

use crate::Context;
use crate::gate::WriteGate;
use crate::job_backoff::{Backoff, ended_at};
use crate::job_plan::{Note, Observed, Plan, finished, plan};
use crate::job_pod::{FINALIZER, is_tracked, make};
use crate::ownership::{
    adoption_patch, claim, controller_of, controller_reference, is_controlled_by, lives,
    release_patch,
};
use crate::pod_control::PodControl;
use crate::pods;
use crate::seen_pod::Pod;

/// The name of this controller.
pub const NAME: &str = "job-controller";

/// What `spec.managedBy` says of Jobs that are this controller's.
const MANAGER: &str = "kubernetes.io/job-controller";
const WORKERS: usize = 5;
/// How long to wait for a cache to show a write before looking again.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Changes of pods are gathered this long, so that many that end together cost one write.
const GATHER: Duration = Duration::from_millis(100);
/// The index of pods that nobody manages, by their namespace.
const ORPHANS: &str = "orphans";

/// Runs the controller.
pub async fn run(context: Context) {
    let (jobs, pods) = (context.caches.of::<Job>(), context.caches.of::<Pod>());
    pods.index_owners();
    pods.add_index(ORPHANS, |pod| match controller_of(&pod.metadata) {
        Some(_) => Vec::new(),
        None => vec![pod.metadata.namespace.clone().unwrap_or_default()],
    });
    jobs.wait_synced().await;
    pods.wait_synced().await;
    let watch = Arc::new(Watch {
        jobs: jobs.clone(),
        pods: pods.clone(),
        queue: context.queue(),
        strays: context.queue(),
    });
    let _jobs = {
        let watch = watch.clone();
        jobs.on_event(move |event| watch.on_job(event))
    };
    let _pods = {
        let watch = watch.clone();
        pods.on_event(move |event| watch.on_pod(event))
    };
    let client = context.client(NAME);
    let recorder = context.recorder(NAME, NAME);
    let strays = Strays {
        client: client.clone(),
        jobs: jobs.clone(),
        pods: pods.clone(),
    };
    let reconciler = Jobs {
        control: PodControl::new(client.clone(), recorder.clone()),
        client,
        jobs,
        pods,
        wrote_job: WriteGate::default(),
        backoffs: Mutex::default(),
        recorder,
        clock: context.clock.clone(),
    };
    join(
        context.run(reconciler, watch.queue.clone(), WORKERS),
        context.run(strays, watch.strays.clone(), WORKERS),
    )
    .await;
}

fn is_managed_elsewhere(job: &Job) -> bool {
    let manager = job
        .spec
        .as_ref()
        .and_then(|spec| spec.managed_by.as_deref());
    manager.is_some_and(|manager| manager != MANAGER)
}

/// The key and the uid of the Job that manages the pod.
fn owner(pod: &Pod) -> Option<(ObjectKey, &str)> {
    let owner = controller_of(&pod.metadata)?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    (owner.kind == "Job" && owner.api_version == "batch/v1")
        .then(|| (ObjectKey::new(namespace, &owner.name), owner.uid.as_str()))
}

/// The strategic merge patch that says that a pod is counted.
fn counted_patch() -> Value {
    json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}})
}

/// Turns what changes into keys to look at.
struct Watch {
    jobs: SharedCache<Job>,
    pods: SharedCache<Pod>,
    queue: WorkQueue<ObjectKey>,
    /// Pods that carry the finalizer but have no Job that would take it away.
    strays: WorkQueue<ObjectKey>,
}

impl Watch {
    fn on_job(&self, event: &Event<Job>) {
        let job = event.object();
        let key = ObjectKey::of(&job.metadata);
        let over = match event {
            Event::Deleted(_) => Some(job),
            // A list that is read anew may show another Job of the name.
            Event::Updated { old, .. } if old.metadata.uid != job.metadata.uid => Some(old),
            _ => Some(job).filter(|job| finished(job).is_some()),
        };
        if let Some(over) = over {
            let uid = over.metadata.uid.as_deref().unwrap_or_default();
            let left = self.pods.owned_by(uid).into_iter();
            left.filter(|pod| is_tracked(pod))
                .for_each(|pod| self.strays.add(ObjectKey::of(&pod.metadata)));
        }
        match event {
            Event::Updated { old, .. } if old.metadata.generation == job.metadata.generation => {
                self.queue.add_after(key, GATHER);
            }
            _ => self.queue.add(key),
        }
    }

    fn on_pod(&self, event: &Event<Pod>) {
        let pod = event.object();
        let here = !matches!(event, Event::Deleted(_));
        let owned = owner(pod);
        let controlled = controller_of(&pod.metadata).is_some();
        let mut news = here;
        if let Event::Updated { old, .. } = event {
            let before = owner(old);
            news = old.metadata.labels != pod.metadata.labels || before != owned;
            if let Some((key, _)) = before.filter(|before| Some(before) != owned.as_ref()) {
                self.queue.add_after(key, GATHER);
            }
        }
        if here && is_tracked(pod) {
            let has_job = owned.as_ref().is_some_and(|(key, uid)| {
                let job = self.jobs.get(key);
                job.is_some_and(|job| {
                    job.metadata.uid.as_deref() == Some(*uid) && finished(&job).is_none()
                })
            });
            if !has_job && (owned.is_some() || !controlled) {
                self.strays.add(ObjectKey::of(&pod.metadata));
            }
        }
        if let Some((key, _)) = owned {
            self.queue.add_after(key, GATHER);
        } else if news && !controlled {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            for job in self.jobs.list_in(namespace) {
                if selector(&job).is_some_and(|found| found.matches(pod.metadata.labels.as_ref())) {
                    self.queue.add_after(ObjectKey::of(&job.metadata), GATHER);
                }
            }
        }
    }
}

fn selector(job: &Job) -> Option<LabelMatcher> {
    let selector = job.spec.as_ref()?.selector.as_ref();
    LabelMatcher::from_selector(selector).ok()
}

/// Takes the finalizer from pods that no Job will count any more.
struct Strays {
    client: Client,
    jobs: SharedCache<Job>,
    pods: SharedCache<Pod>,
}

#[async_trait]
impl Reconciler for Strays {
    fn name(&self) -> &'static str {
        "job-controller-strays"
    }

    fn queue(&self) -> &'static str {
        "job_orphan_pod"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(pod) = self.pods.get(key).filter(|pod| is_tracked(pod)) else {
            return Ok(Outcome::Done);
        };
        if let Some((job_key, uid)) = owner(&pod) {
            let mine = |job: &Job| job.metadata.uid.as_deref() == Some(uid);
            let job = match self.jobs.get(&job_key).filter(|job| mine(job)) {
                Some(job) => Some(job),
                // The cache may be behind; a finalizer taken too early loses a completion.
                None => {
                    let api: Api<Job> = Api::namespaced(self.client.clone(), job_key.namespace());
                    api.get_opt(job_key.name())
                        .await?
                        .filter(mine)
                        .map(Arc::new)
                }
            };
            if job.is_some_and(|job| is_managed_elsewhere(&job) || finished(&job).is_none()) {
                return Ok(Outcome::Done);
            }
        } else if controller_of(&pod.metadata).is_some() {
            return Ok(Outcome::Done);
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), key.namespace());
        let patch = Patch::Strategic(counted_patch());
        match api.patch(key.name(), &PatchParams::default(), &patch).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(Outcome::Done),
        }
    }
}

struct Jobs {
    client: Client,
    jobs: SharedCache<Job>,
    pods: SharedCache<Pod>,
    control: PodControl,
    wrote_job: WriteGate,
    /// By the uids of Jobs.
    backoffs: Mutex<HashMap<ObjectKey, (Option<String>, Backoff)>>,
    recorder: EventRecorder,
    clock: SharedClock,
}

#[async_trait]
impl Reconciler for Jobs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "job"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let job = self.jobs.get(key);
        let Some(job) = job.filter(|job| !is_managed_elsewhere(job) && finished(job).is_none())
        else {
            self.control.forget(key);
            self.wrote_job.forget(key);
            self.backoffs.lock().remove(key);
            return Ok(Outcome::Done);
        };
        let mode = job
            .spec
            .as_ref()
            .and_then(|spec| spec.completion_mode.as_deref());
        if !matches!(mode, None | Some("NonIndexed" | "Indexed")) {
            let text = "Skipped Job sync because completion mode is unknown";
            self.recorder
                .about(&*job, EventType::Warning, "UnknownCompletionMode", text);
            return Ok(Outcome::Done);
        }
        // Only what all earlier writes show in is counted from.
        if !self.wrote_job.is_open(key, &self.jobs) || !self.control.is_open(key, &self.pods) {
            return Ok(Outcome::After(CATCH_UP));
        }
        let pods = self.claim(key, &job).await?;
        let backoff = self.backoff(key, &job, &pods);
        let plan = plan(&Observed {
            job: &job,
            pods: &pods,
            backoff: &backoff,
            now: Timestamp::try_from(self.clock.now()).unwrap_or_default(),
        });
        let wake = plan.wake;
        self.carry_out(key, &job, plan).await?;
        Ok(wake.map_or(Outcome::Done, Outcome::After))
    }
}

impl Jobs {
    fn pods_api(&self, key: &ObjectKey) -> Api<Pod> {
        Api::namespaced(self.client.clone(), key.namespace())
    }

    /// The failures in a row so far; after a restart, as far as the pods that are left tell of them.
    fn backoff(&self, key: &ObjectKey, job: &Job, pods: &[Arc<Pod>]) -> Backoff {
        let mut backoffs = self.backoffs.lock();
        let known = backoffs
            .get(key)
            .filter(|(uid, _)| *uid == job.metadata.uid);
        if let Some((_, known)) = known {
            return known.clone();
        }
        let counted = pods.iter().filter(|pod| !is_tracked(pod));
        let ended = |phase: &str| {
            let pods = counted.clone().filter(|pod| pods::phase(pod) == phase);
            pods.map(|pod| ended_at(pod)).collect::<Vec<_>>()
        };
        let backoff = Backoff::default().after(&ended("Succeeded"), &ended("Failed"));
        backoffs.insert(key.clone(), (job.metadata.uid.clone(), backoff.clone()));
        backoff
    }

    /// The pods of the Job, after adopting and releasing.
    async fn claim(&self, key: &ObjectKey, job: &Job) -> Result<Vec<Arc<Pod>>, Error> {
        let Some(selector) = selector(job) else {
            return Ok(Vec::new());
        };
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let mine = self.pods.owned_by(uid).into_iter();
        let mine = mine.filter(|pod| is_controlled_by(&pod.metadata, &job.metadata));
        let orphans = self.pods.by_index(ORPHANS, key.namespace());
        let orphans = orphans.into_iter().filter(|pod| pods::is_active(pod));
        let claims = claim(&job.metadata, &selector, mine.chain(orphans));
        let mut pods = claims.owned;
        for pod in claims.release {
            let mut patch = release_patch(uid, pod.metadata.uid.as_deref().unwrap_or_default());
            merge_finalizers(&mut patch, "$deleteFromPrimitiveList/finalizers");
            self.patch(key, &pod, &patch).await?;
        }
        if claims.adopt.is_empty() || !lives(&self.client, job).await? {
            return Ok(pods);
        }
        for pod in claims.adopt {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let mut patch = adoption_patch(&controller_reference(job), uid);
            merge_finalizers(&mut patch, "finalizers");
            pods.extend(self.patch(key, &pod, &patch).await?.map(Arc::new));
        }
        Ok(pods)
    }

    /// Patches a pod; none where it is gone, or another one now.
    async fn patch(&self, key: &ObjectKey, pod: &Pod, patch: &Value) -> Result<Option<Pod>, Error> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let params = PatchParams::default();
        let patch = Patch::Strategic(patch);
        match self.pods_api(key).patch(name, &params, &patch).await {
            Ok(patched) => {
                self.control.wrote(key, &patched.metadata);
                Ok(Some(patched))
            }
            Err(error) if is_not_found(&error) || error.code() == Some(422) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn carry_out(&self, key: &ObjectKey, job: &Job, mut plan: Plan) -> Result<(), Error> {
        let forget = plan.forget_deleted;
        let deletions = plan.delete.iter();
        let deletions = deletions.map(|pod| self.delete(key, job, pod, forget));
        join_all(deletions)
            .await
            .into_iter()
            .collect::<Result<(), _>>()?;
        let new = |number: usize| make(job, &plan.create[number]);
        let count = plan.create.len();
        let (created, outcome) = self.control.create(key, job, count, new).await;
        if let Some(active) = &mut plan.status.active {
            *active -= i32::try_from(count - created).unwrap_or(0);
        }
        plan.status.active = plan.status.active.filter(|active| *active > 0);
        self.write_status(key, job, plan.status).await?;
        self.backoffs
            .lock()
            .insert(key.clone(), (job.metadata.uid.clone(), plan.backoff));
        for Note {
            type_,
            reason,
            message,
        } in &plan.notes
        {
            self.recorder.about(job, *type_, reason, message.as_str());
        }
        let counted = counted_patch();
        let releases = plan
            .release
            .iter()
            .map(|pod| self.patch(key, pod, &counted));
        for released in join_all(releases).await {
            released?;
        }
        outcome
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        job: &Job,
        status: JobStatus,
    ) -> Result<(), Error> {
        if job.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let updated = Job {
            status: Some(status),
            ..job.clone()
        };
        let api: Api<Job> = Api::namespaced(self.client.clone(), key.namespace());
        let written = api
            .replace_status(key.name(), &PostParams::default(), &updated)
            .await?;
        self.wrote_job.wrote(key, &written.metadata);
        Ok(())
    }

    /// Deletes a pod; it keeps the finalizer unless it is to be forgotten.
    async fn delete(
        &self,
        key: &ObjectKey,
        job: &Job,
        pod: &Pod,
        forget: bool,
    ) -> Result<(), Error> {
        if forget && is_tracked(pod) {
            self.patch(key, pod, &counted_patch()).await?;
        }
        self.control.delete_one(key, job, pod).await
    }
}

/// Adds the tracking finalizer to a patch of metadata, under `field`.
fn merge_finalizers(patch: &mut Value, field: &str) {
    if let Some(metadata) = patch.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert(field.to_owned(), json!([FINALIZER]));
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use skiff_base::SimulatedClock;
    use skiff_client::{Change, WatchSink};

    use super::*;

    #[test]
    fn pods_of_a_job_are_let_go_when_another_of_its_name_is_seen_instead() {
        let clock = SimulatedClock::new(SystemTime::UNIX_EPOCH);
        let watch = Watch {
            jobs: SharedCache::detached(),
            pods: SharedCache::detached(),
            queue: WorkQueue::new(clock.clone()),
            strays: WorkQueue::new(clock),
        };
        watch.pods.index_owners();
        let pod = json!({"metadata": {"namespace": "n", "name": "p", "finalizers": [FINALIZER], "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "1", "controller": true}]}});
        let pod = Change::Applied(serde_json::from_value(pod).unwrap());
        watch.pods.apply(pod);
        let job = |uid: &str| {
            let job = json!({"metadata": {"namespace": "n", "name": "j", "uid": uid}});
            Arc::new(serde_json::from_value::<Job>(job).unwrap())
        };
        let seen = |old: &str, new: &str| {
            let (old, new) = (job(old), job(new));
            watch.on_job(&Event::Updated { old, new });
            watch.strays.len()
        };
        assert_eq!(seen("1", "1"), 0);
        assert_eq!(seen("1", "2"), 1);
    }
}
