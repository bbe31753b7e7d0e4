//! Does what was decided: binds pods, tells why others wait, makes room.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{
    Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::Resource;
use kube::{Client, Error};
use serde_json::{Value, json};
use skiff_base::SharedClock;
use skiff_client::failure::message;
use skiff_client::{EventRecorder, EventType, is_not_found};
use tokio::sync::Semaphore;

use crate::decision::{Assignment, Decision, Failure, Nomination, Preemption};
use crate::extender::Extenders;
use crate::metrics::{Attempt, Measures, Outcome, Point};
use crate::profile::Profile;
use crate::rows::PodRow;
use crate::state::State;
use crate::volumes::SELECTED_NODE;

/// So many decisions are carried out at once.
const AT_ONCE: usize = 64;
/// After so many decisions in a row others get their turn.
const BREATH: u32 = 32;
/// So many pods are sent away at once.
const VICTIMS: usize = 16;
/// After so long a pod that could not be sent away is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Longer messages are cut in events.
const LONGEST_NOTE: usize = 1024;

/// Why a pod is not bound that was waited for.
pub(crate) const GONE: &str = "pod does not exist any more";
/// The same, when nobody will tell of changes any more.
pub(crate) const ENDING: &str = "the scheduler is ending";

/// Carries decisions out.
pub(crate) struct Executor {
    pub client: Client,
    pub state: Arc<State>,
    /// One for each profile: events come from the scheduler's name.
    pub recorders: Vec<EventRecorder>,
    pub profiles: Vec<Profile>,
    pub extenders: Arc<Extenders>,
    pub clock: SharedClock,
    pub running: Arc<Semaphore>,
}

impl Executor {
    /// How many decisions are carried out at once.
    pub fn permits() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(AT_ONCE))
    }

    /// Decides and carries out, for ever.
    pub async fn work(self: Arc<Self>) {
        let mut decided = 0_u32;
        loop {
            // The semaphore is never closed.
            let Ok(permit) = self.running.clone().acquire_owned().await else {
                return;
            };
            let begun = self.clock.monotonic();
            let Some(decision) = self.state.decide() else {
                drop(permit);
                self.state.wait().await;
                continue;
            };
            let attempt = self.state.attempt_of_last(begun);
            if let Some(measured) = decision.profile().and_then(|at| self.measured(at)) {
                measured.decided(begun);
            }
            // Waiting for volumes may take minutes: others are not held up.
            let permit = match &decision {
                Decision::Bind(assignment)
                    if !assignment.volumes.is_empty() || assignment.devices.waits() =>
                {
                    None
                }
                _ => Some(permit),
            };
            let executor = self.clone();
            tokio::spawn(async move {
                executor.carry_out(decision, attempt).await;
                drop(permit);
            });
            decided = decided.wrapping_add(1);
            if decided.is_multiple_of(BREATH) {
                tokio::task::yield_now().await;
            }
        }
    }

    fn measured(&self, profile: usize) -> Option<&Measures> {
        Some(&self.profiles.get(profile)?.measured)
    }

    async fn carry_out(&self, decision: Decision, attempt: Attempt) {
        match decision {
            Decision::Bind(assignment) => self.bind(assignment, attempt).await,
            Decision::Report(failure) => self.report(failure, attempt).await,
            Decision::Evict(found) => self.evict(&found).await,
            Decision::Consult {
                pod,
                profile,
                nodes,
                mut diagnosis,
            } => {
                let answer = self
                    .extenders
                    .ask(&self.client, &pod, nodes, &mut diagnosis)
                    .await;
                match self.state.conclude(&pod, profile, diagnosis, answer) {
                    Some(Decision::Bind(assignment)) => self.bind(assignment, attempt).await,
                    Some(Decision::Report(failure)) => self.report(failure, attempt).await,
                    _ => {}
                }
            }
            Decision::Negotiate {
                pod,
                profile,
                tried,
                offers,
            } => {
                let find = |node: &str, uid: &str| self.state.pod_on(node, uid);
                let answer = self.extenders.negotiate(&self.client, &pod, offers, find);
                let answer = answer.await;
                if let Some(Decision::Report(failure)) =
                    self.state.settle(&pod, profile, *tried, answer)
                {
                    self.report(failure, attempt).await;
                }
            }
        }
    }

    /// What has to be done before the pod is bound.
    async fn prepare(&self, assignment: &Assignment) -> Result<(), String> {
        let volumes = self.bind_volumes(assignment).await;
        volumes.map_err(|why| format!("running PreBind plugin \"VolumeBinding\": {why}"))?;
        let devices = self.bind_devices(assignment).await;
        devices.map_err(|why| format!("running PreBind plugin \"DynamicResources\": {why}"))
    }

    async fn bind(&self, assignment: Assignment, attempt: Attempt) {
        let pod = &assignment.pod;
        let asked = |point, done, since| {
            if let Some(measured) = self.measured(assignment.profile) {
                let status = if done {
                    Outcome::Scheduled
                } else {
                    Outcome::Error
                };
                measured.asked(point, status, since);
            }
        };
        let since = self.clock.monotonic();
        let prepared = self.prepare(&assignment).await;
        asked(Point::PreBind, prepared.is_ok(), since);
        let outcome = match prepared {
            Err(why) => Err((false, why)),
            Ok(()) => {
                let since = self.clock.monotonic();
                let written = self.write_binding(&assignment).await;
                asked(Point::Bind, written.is_ok(), since);
                written
            }
        };
        if let Some(measured) = self.measured(assignment.profile) {
            let came_to = match outcome {
                Ok(()) => Outcome::Scheduled,
                Err(_) => Outcome::Error,
            };
            measured.ended(attempt, came_to);
        }
        match outcome {
            Ok(()) => {
                self.state.bound(&assignment);
                let text = format!("Successfully assigned {} to {}", pod.key, assignment.node);
                let kind = EventType::Normal;
                self.tell(
                    pod,
                    assignment.profile,
                    kind,
                    ("Scheduled", "Binding"),
                    text,
                );
            }
            Err((gone, why)) => {
                self.unbind_devices(&assignment).await;
                if self.state.binding_failed(&assignment) && !gone {
                    let failure = Failure::error(pod.clone(), assignment.profile, why);
                    self.fail(failure).await;
                }
            }
        }
    }

    /// Writes the pod's node. An error says whether the pod is gone.
    async fn write_binding(&self, assignment: &Assignment) -> Result<(), (bool, String)> {
        if let Some(outcome) = self.extenders.bind(&assignment.pod, &assignment.node).await {
            return outcome.map_err(|why| (false, why));
        }
        let outcome = self.post_binding(&assignment.pod, &assignment.node).await;
        outcome.map_err(|error| {
            let why = message(&error);
            (
                is_not_found(&error),
                format!("running Bind plugin \"DefaultBinder\": {why}"),
            )
        })
    }

    async fn post_binding(&self, pod: &PodRow, node: &str) -> Result<(), Error> {
        let (namespace, name) = (pod.key.namespace(), pod.key.name());
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                uid: Some(pod.uid.to_string()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let body = serde_json::to_vec(&binding).map_err(Error::SerdeError)?;
        let path = format!("{}/{name}/binding", Pod::url_path(&(), Some(namespace)));
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(Error::HttpError)?;
        self.client.request_text(request).await.map(drop)
    }

    /// Has the pod's volumes bound, and waits for that.
    async fn bind_volumes(&self, assignment: &Assignment) -> Result<(), String> {
        if assignment.volumes.is_empty() {
            return Ok(());
        }
        // Said early, so that others leave the room if this takes long or the scheduler ends meanwhile.
        let status = json!({"nominatedNodeName": &*assignment.node});
        self.patch_status(&assignment.pod, status).await;
        let mut changes = self.state.storage();
        self.write_volumes(assignment)
            .await
            .map_err(|error| message(&error))?;
        let profile = self.profiles.get(assignment.profile);
        let seconds = profile.map_or(600, |profile| profile.args.bind_timeout_seconds);
        let bound = async {
            while !self.state.volumes_ready(assignment)? {
                changes.changed().await.map_err(|_| ENDING)?;
            }
            Ok::<(), String>(())
        };
        let outcome = tokio::select! {
            () = self.state.no_longer_assumed(&assignment.pod) => Err(GONE.to_owned()),
            outcome = bound => outcome,
            () = self.clock.sleep(Duration::from_secs(seconds)) => {
                Err("context deadline exceeded".to_owned())
            }
        };
        outcome.map_err(|why| format!("binding volumes: {why}"))
    }

    async fn write_volumes(&self, assignment: &Assignment) -> Result<(), Error> {
        let params = PatchParams::default();
        for (name, key) in &assignment.volumes.bindings {
            let rows = self.state.read(|known| {
                let volumes = &known.world.volumes;
                Some((
                    volumes.volumes.get(name)?.clone(),
                    volumes.claims.get(key)?.clone(),
                ))
            });
            let Some((volume, claim)) = rows else {
                continue;
            };
            let mut metadata = json!({"resourceVersion": volume.version.to_string()});
            if !volume.is_for(&claim) {
                metadata["annotations"] = json!({"pv.kubernetes.io/bound-by-controller": "yes"});
            }
            let reference = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": key.namespace(),
                "name": key.name(), "uid": claim.uid, "resourceVersion": claim.version.to_string(),
            });
            let patch = json!({"metadata": metadata, "spec": {"claimRef": reference}});
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            api.patch(name, &params, &Patch::Merge(patch)).await?;
        }
        for key in &assignment.volumes.provisions {
            let version = self.state.read(|known| {
                let claim = known.world.volumes.claims.get(key)?;
                Some(claim.version.to_string())
            });
            let patch = json!({"metadata": {
                "resourceVersion": version, "annotations": {SELECTED_NODE: &*assignment.node},
            }});
            let api: Api<PersistentVolumeClaim> =
                Api::namespaced(self.client.clone(), key.namespace());
            api.patch(key.name(), &params, &Patch::Merge(patch)).await?;
        }
        Ok(())
    }

    /// An attempt came to nothing.
    async fn report(&self, failure: Failure, attempt: Attempt) {
        if let Some(measured) = self.measured(failure.profile) {
            let outcome = match failure.reason {
                "Unschedulable" => Outcome::Unschedulable,
                _ => Outcome::Error,
            };
            measured.ended(attempt, outcome);
            if let Some(preemption) = &failure.preemption {
                measured.chose_victims(preemption.victims.len());
            }
        }
        self.fail(failure).await;
    }

    /// Tells by event and condition why the pod has no node, and makes room if there is a way.
    async fn fail(&self, failure: Failure) {
        let pod = &failure.pod;
        if let Some(give_up) = &failure.give_up {
            self.give_up(give_up).await;
        }
        let kind = EventType::Warning;
        let what = ("FailedScheduling", "Scheduling");
        self.tell(pod, failure.profile, kind, what, note(&failure.message));
        let mut status = serde_json::Map::new();
        if let Some(condition) = self.condition(&failure) {
            status.insert("conditions".to_owned(), json!([condition]));
        }
        match &failure.nomination {
            Nomination::Set(node) if *pod.nominated != **node => {
                status.insert("nominatedNodeName".to_owned(), json!(&**node));
            }
            Nomination::Clear if !pod.nominated.is_empty() => {
                status.insert("nominatedNodeName".to_owned(), Value::Null);
            }
            _ => {}
        }
        if !status.is_empty() {
            self.patch_status(pod, Value::Object(status)).await;
        }
        if let Some(preemption) = &failure.preemption {
            let made = self.make_room(pod, failure.profile, preemption).await;
            let victims = &preemption.victims;
            self.state.room_made(&pod.key, victims, !made);
        }
    }

    /// The condition, if it is not what the pod says already.
    fn condition(&self, failure: &Failure) -> Option<Value> {
        let (pod, old) = (&failure.pod, &failure.pod.condition);
        if &*old.status == "False"
            && &*old.reason == failure.reason
            && *old.message == *failure.message
        {
            return None;
        }
        let since = old.since.clone().filter(|_| &*old.status == "False");
        let since = since.unwrap_or_else(|| self.now());
        let mut condition = json!({
            "type": "PodScheduled", "status": "False", "reason": failure.reason,
            "message": failure.message, "lastProbeTime": null, "lastTransitionTime": since,
        });
        if let Some(generation) = pod.generation {
            condition["observedGeneration"] = generation.into();
        }
        Some(condition)
    }

    pub(crate) fn now(&self) -> Time {
        skiff_client::timestamp(&*self.clock)
    }

    pub(crate) async fn patch_status(&self, pod: &PodRow, status: Value) {
        let patch = json!({"metadata": {"uid": &*pod.uid}, "status": status});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.key.namespace());
        let params = PatchParams::default();
        let outcome = api
            .patch_status(pod.key.name(), &params, &Patch::Strategic(patch))
            .await;
        if let Err(error) = outcome {
            tracing::debug!(pod = %pod.key, error = message(&error), "the status was not written");
        }
    }

    /// Sends the victims away, the last one after all others. Answers whether all went.
    async fn make_room(&self, pod: &PodRow, profile: usize, preemption: &Preemption) -> bool {
        for other in &preemption.denominated {
            self.patch_status(other, json!({"nominatedNodeName": null}))
                .await;
        }
        let Some((last, others)) = preemption.victims.split_last() else {
            return true;
        };
        let send = |victim: &Arc<PodRow>| {
            let victim = victim.clone();
            async move {
                self.send_away(&victim, pod, profile, &preemption.node)
                    .await
            }
        };
        let sent: Vec<bool> = futures::stream::iter(others)
            .map(send)
            .buffer_unordered(VICTIMS)
            .collect()
            .await;
        sent.iter().all(|sent| *sent) && send(last).await
    }

    async fn send_away(&self, victim: &PodRow, pod: &PodRow, profile: usize, node: &str) -> bool {
        let why = format!(
            "{}: preempting to accommodate a higher priority pod",
            pod.scheduler
        );
        let outcome = self.disrupt(victim, "PreemptionByScheduler", &why).await;
        match outcome {
            Err(error) if is_not_found(&error) => true,
            Err(error) => {
                tracing::warn!(victim = %victim.key, pod = %pod.key, error = message(&error), "no room was made");
                false
            }
            Ok(()) => {
                let text = format!("Preempted by pod {} on node {node}", pod.uid);
                if let Some(recorder) = self.recorders.get(profile) {
                    let related = Some(reference(pod));
                    let kind = EventType::Normal;
                    recorder.record_action(
                        reference(victim),
                        related,
                        kind,
                        "Preempted",
                        "Preempting",
                        text,
                    );
                }
                true
            }
        }
    }

    /// Says in the pod's status why it goes, and deletes it.
    async fn disrupt(&self, victim: &PodRow, reason: &str, why: &str) -> Result<(), Error> {
        let mut condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": reason, "message": why,
            "lastProbeTime": null, "lastTransitionTime": self.now(),
        });
        if let Some(generation) = victim.generation {
            condition["observedGeneration"] = generation.into();
        }
        let patch =
            json!({"metadata": {"uid": &*victim.uid}, "status": {"conditions": [condition]}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), victim.key.namespace());
        let (name, params) = (victim.key.name(), PatchParams::default());
        api.patch_status(name, &params, &Patch::Strategic(patch))
            .await?;
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(victim.uid.to_string()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        api.delete(name, &params).await.map(drop)
    }

    /// Sends a pod away whose node is no longer what it requires.
    async fn evict(&self, found: &Assignment) {
        let (pod, node) = (&found.pod, &found.node);
        let why =
            format!("Node {node} no longer matches the pod's required node affinity/selector");
        match self.disrupt(pod, "DeletionByNodeAffinity", &why).await {
            Ok(()) => {
                let what = ("NodeAffinityNotMet", "Evicting");
                self.tell(pod, found.profile, EventType::Warning, what, why);
            }
            Err(error) if is_not_found(&error) => {}
            Err(error) => {
                tracing::warn!(pod = %pod.key, error = message(&error), "the pod was not sent away");
                self.clock.sleep(AGAIN).await;
                self.state.leave_again(found);
            }
        }
    }

    pub(crate) fn tell(
        &self,
        pod: &PodRow,
        profile: usize,
        kind: EventType,
        (reason, action): (&str, &str),
        text: String,
    ) {
        if let Some(recorder) = self.recorders.get(profile) {
            recorder.record_action(reference(pod), None, kind, reason, action, text);
        }
    }
}

/// What fits into an event.
fn note(text: &str) -> String {
    const CUT: &str = " ...";
    if text.len() <= LONGEST_NOTE {
        return text.to_owned();
    }
    let mut end = LONGEST_NOTE - CUT.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{CUT}", text.get(..end).unwrap_or_default())
}

fn reference(pod: &PodRow) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.key.namespace().to_owned()),
        name: Some(pod.key.name().to_owned()),
        uid: Some(pod.uid.to_string()),
        resource_version: Some(pod.resource_version.to_string()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_notes_are_cut() {
        assert_eq!(note("short"), "short");
        let cut = note(&"ä".repeat(600));
        assert!(cut.len() <= LONGEST_NOTE && cut.ends_with(" ..."));
    }
}
