//! What a Job needs next: pods to make, to delete and to count, and what its status says. Pure.
//!
//! No pod is counted twice or lost, whatever crashes: a pod that ended keeps the tracking finalizer until
//! its uid (or its index) is in the stored status, and its uid stays there until the finalizer is seen to
//! be gone; only then the counter moves, in the same write that takes the uid away.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_client::EventType;

use crate::job_backoff::{Backoff, ended_at, remaining};
use crate::job_indexes::Indexes;
use crate::job_pod::{NewPod, completion_index, failures, ignored_failures, is_tracked};
use crate::job_policy::{Judgement, enough, judge};
use crate::pods;
use crate::seen_pod::Pod;

/// At most so many pods are made or deleted at once.
const BURST: usize = 500;
/// At most so many uids wait in the status, so that it stays small.
const MOST_UNCOUNTED: usize = 500;

/// What is known when a Job is looked at.
pub(crate) struct Observed<'a> {
    pub job: &'a Job,
    /// The pods that it manages.
    pub pods: &'a [Arc<Pod>],
    pub backoff: &'a Backoff,
    pub now: Timestamp,
}

/// An event to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub type_: EventType,
    pub reason: String,
    pub message: String,
}

/// What to do, in this order: delete and create, write the status, release what was counted, tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub delete: Vec<Arc<Pod>>,
    /// Whether what is deleted is let go uncounted.
    pub forget_deleted: bool,
    pub create: Vec<NewPod>,
    pub status: JobStatus,
    /// These lose their finalizer once the status is stored.
    pub release: Vec<Arc<Pod>>,
    pub notes: Vec<Note>,
    /// Counts once the status is stored.
    pub backoff: Backoff,
    /// Look again after this time, whatever happens.
    pub wake: Option<Duration>,
}

impl Plan {
    fn wake_after(&mut self, delay: Duration) {
        self.wake = Some(self.wake.map_or(delay, |known| known.min(delay)));
    }

    fn note(&mut self, type_: EventType, reason: &str, message: &str) {
        self.notes.push(Note {
            type_,
            reason: reason.to_owned(),
            message: message.to_owned(),
        });
    }
}

/// How a Job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    failed: bool,
    reason: String,
    message: String,
}

impl End {
    fn new(failed: bool, reason: &str, message: impl Into<String>) -> Self {
        Self {
            failed,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    fn of_condition(failed: bool, condition: &JobCondition) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            failed,
            reason: text(&condition.reason),
            message: text(&condition.message),
        }
    }

    /// The condition that says how it will end, and the one that says that it has.
    fn conditions(&self) -> (&'static str, &'static str) {
        if self.failed {
            ("FailureTarget", "Failed")
        } else {
            ("SuccessCriteriaMet", "Complete")
        }
    }
}

/// The condition of that type, if it is true.
pub(crate) fn true_condition<'a>(status: &'a JobStatus, type_: &str) -> Option<&'a JobCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|found| found.type_ == type_ && found.status == "True")
}

/// The condition that says that the Job has ended, if it has.
pub(crate) fn finished(job: &Job) -> Option<&JobCondition> {
    let status = job.status.as_ref()?;
    true_condition(status, "Complete").or_else(|| true_condition(status, "Failed"))
}

/// Whether another pod takes the place of one on its way out only when it has ended.
fn replaces_ended_only(spec: &JobSpec) -> bool {
    spec.pod_failure_policy.is_some() || spec.pod_replacement_policy.as_deref() == Some("Failed")
}

/// Decides what a Job that has not ended needs.
pub(crate) fn plan(observed: &Observed) -> Plan {
    let Some(spec) = &observed.job.spec else {
        return Plan::default();
    };
    let facts = Facts::of(observed, spec);
    let mut plan = Plan {
        status: facts.status.clone(),
        backoff: facts.backoff(observed.backoff),
        ..Plan::default()
    };
    if plan.status.start_time.is_none() && !facts.suspended() {
        plan.status.start_time = Some(facts.time());
    }
    let mut end = facts.decided(&mut plan);
    if end.is_some() {
        plan.delete.clone_from(&facts.active);
    } else {
        let managed = !facts.deleting();
        if managed {
            facts.manage(&mut plan);
        }
        end = facts.completed(&plan);
        if end.is_none() && managed {
            facts.tell_suspension(&mut plan);
        }
    }
    facts.count(&mut plan, end.as_ref());
    facts.fill_in(&mut plan);
    if let Some(end) = end {
        facts.conclude(&mut plan, &end);
    }
    plan
}

/// What follows from an observation.
struct Facts<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    now: Timestamp,
    pods: &'a [Arc<Pod>],
    /// The stored status, with what no longer has a finalizer counted.
    status: JobStatus,
    active: Vec<Arc<Pod>>,
    terminating: i32,
    /// Ended pods that the status does not tell of yet.
    new_succeeded: Vec<Arc<Pod>>,
    new_failed: Vec<Arc<Pod>>,
    succeeded: i32,
    failed: i32,
    indexes: Option<IndexFacts>,
}

/// What is known of the indexes of a Job that has them.
#[derive(Default)]
struct IndexFacts {
    /// The stored status knows that these succeeded.
    stored: Indexes,
    /// And these have, by now.
    succeeded: Indexes,
    /// Only where each index has a limit of its own.
    failed: Option<Indexes>,
    /// The failed pods whose number of failures is still to be handed to another.
    heirless: BTreeMap<i32, Arc<Pod>>,
}

impl<'a> Facts<'a> {
    fn of(observed: &Observed<'a>, spec: &'a JobSpec) -> Self {
        let mut facts = Self {
            job: observed.job,
            spec,
            now: observed.now,
            pods: observed.pods,
            status: observed.job.status.clone().unwrap_or_default(),
            active: Vec::new(),
            terminating: 0,
            new_succeeded: Vec::new(),
            new_failed: Vec::new(),
            succeeded: 0,
            failed: 0,
            indexes: None,
        };
        let active = observed.pods.iter().filter(|pod| pods::is_active(pod));
        facts.active = active.cloned().collect();
        let leaving = |pod: &&Arc<Pod>| pods::is_deleting(pod) && !pods::is_terminal(pod);
        facts.terminating = length(observed.pods.iter().filter(leaving).count());
        facts.count_released();
        let waiting = facts.uncounted();
        for pod in observed.pods.iter().filter(|pod| is_tracked(pod)) {
            let valid = !facts.is_indexed() || facts.index(pod).is_some();
            if !valid || is_in(&waiting.succeeded, pod) || is_in(&waiting.failed, pod) {
                continue;
            }
            if pods::phase(pod) == "Succeeded" {
                facts.new_succeeded.push(pod.clone());
            } else if facts.is_failed(pod) {
                facts.new_failed.push(pod.clone());
            }
        }
        let counting = facts.new_failed.iter().filter(|pod| facts.counts(pod));
        facts.failed = facts.status.failed.unwrap_or(0)
            + length(counting.count())
            + length(waiting.failed.iter().flatten().count());
        facts.succeeded = facts.status.succeeded.unwrap_or(0)
            + length(facts.new_succeeded.len())
            + length(waiting.succeeded.iter().flatten().count());
        if facts.is_indexed() {
            let indexes = facts.index_facts();
            facts.succeeded = indexes.succeeded.count();
            facts.indexes = Some(indexes);
        }
        facts
    }

    /// Moves the counters for pods whose finalizer is gone.
    fn count_released(&mut self) {
        let tracked: HashSet<&str> = self
            .pods
            .iter()
            .filter(|pod| is_tracked(pod))
            .filter_map(|pod| pod.metadata.uid.as_deref())
            .collect();
        let mut waiting = self.uncounted();
        let moved = |uids: &mut Option<Vec<String>>| {
            let uids = uids.get_or_insert_default();
            let before = uids.len();
            uids.retain(|uid| tracked.contains(uid.as_str()));
            length(before - uids.len())
        };
        let (succeeded, failed) = (moved(&mut waiting.succeeded), moved(&mut waiting.failed));
        self.status.succeeded = Some(self.status.succeeded.unwrap_or(0) + succeeded);
        self.status.failed = Some(self.status.failed.unwrap_or(0) + failed);
        self.status.uncounted_terminated_pods = Some(waiting);
    }

    fn uncounted(&self) -> UncountedTerminatedPods {
        self.status
            .uncounted_terminated_pods
            .clone()
            .unwrap_or_default()
    }

    fn index_facts(&self) -> IndexFacts {
        let completions = self.completions().unwrap_or(0);
        let text = self.status.completed_indexes.as_deref();
        let stored = Indexes::parse(text.unwrap_or_default(), completions);
        let fresh = self.new_succeeded.iter().filter_map(|pod| self.index(pod));
        let mut facts = IndexFacts {
            succeeded: stored.with(fresh),
            stored,
            ..IndexFacts::default()
        };
        let Some(limit) = self.spec.backoff_limit_per_index else {
            return facts;
        };
        let text = self.status.failed_indexes.as_deref();
        let tracked = self.pods.iter().filter(|pod| is_tracked(pod));
        let failing = tracked.clone().filter(|pod| self.fails_index(pod, limit));
        // One whose earlier pod succeeded on its way out has not failed.
        let succeeded = facts.succeeded.clone();
        let failing = failing.filter_map(|pod| self.index(pod));
        let failing = failing.filter(|index| !succeeded.contains(*index));
        let failed = Indexes::parse(text.unwrap_or_default(), completions).with(failing);
        let active = self.active.iter().filter_map(|pod| self.index(pod));
        let settled = facts.succeeded.union(&failed).with(active);
        for pod in tracked.filter(|pod| self.is_failed(pod)) {
            let Some(index) = self.index(pod).filter(|index| !settled.contains(*index)) else {
                continue;
            };
            let weight = |pod: &Pod| (failures(pod) + ignored_failures(pod), ended_at(pod));
            let known = facts.heirless.get(&index);
            if known.is_none_or(|known| weight(known) <= weight(pod)) {
                facts.heirless.insert(index, pod.clone());
            }
        }
        facts.failed = Some(failed);
        facts
    }

    fn fails_index(&self, pod: &Pod, limit: i32) -> bool {
        self.is_failed(pod)
            && match judge(self.spec.pod_failure_policy.as_ref(), pod) {
                Judgement::FailsIndex => true,
                Judgement::Ignored => false,
                Judgement::Counts | Judgement::FailsJob(_) => failures(pod) >= limit,
            }
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn completions(&self) -> Option<i32> {
        self.spec.completions
    }

    fn suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    fn deleting(&self) -> bool {
        self.job.metadata.deletion_timestamp.is_some()
    }

    fn time(&self) -> Time {
        Time(Timestamp::from_second(self.now.as_second()).unwrap_or_default())
    }

    /// The pod's index, where it is one of the Job's.
    fn index(&self, pod: &Pod) -> Option<i32> {
        completion_index(pod).filter(|index| *index < self.completions().unwrap_or(0))
    }

    /// Whether the pod counts as failed: it has, or it is on its way out and nobody waits for it.
    fn is_failed(&self, pod: &Pod) -> bool {
        match pods::phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            _ => !replaces_ended_only(self.spec) && pods::is_deleting(pod),
        }
    }

    fn counts(&self, pod: &Pod) -> bool {
        judge(self.spec.pod_failure_policy.as_ref(), pod) != Judgement::Ignored
    }

    fn backoff(&self, before: &Backoff) -> Backoff {
        let ended = |pods: &[Arc<Pod>]| pods.iter().map(|pod| ended_at(pod)).collect::<Vec<_>>();
        before.after(&ended(&self.new_succeeded), &ended(&self.new_failed))
    }

    /// How the Job ends whatever becomes of its active pods, if it is decided.
    fn decided(&self, plan: &mut Plan) -> Option<End> {
        if let Some(met) = true_condition(&self.status, "SuccessCriteriaMet") {
            return Some(End::of_condition(false, met));
        }
        if let Some(target) = true_condition(&self.status, "FailureTarget") {
            return Some(End::of_condition(true, target));
        }
        let policy = self.spec.pod_failure_policy.as_ref();
        let failed = self.pods.iter().filter(|pod| self.is_failed(pod));
        let refused = failed.map(|pod| judge(policy, pod));
        let refused = refused
            .filter_map(|judgement| match judgement {
                Judgement::FailsJob(message) => Some(message),
                _ => None,
            })
            .next();
        if let Some(message) = refused {
            return Some(End::new(true, "PodFailurePolicy", message));
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if self.failed > limit || self.restarted_too_often(limit) {
            let message = "Job has reached the specified backoff limit";
            return Some(End::new(true, "BackoffLimitExceeded", message));
        }
        if let Some(left) = self.time_left(plan.status.start_time.as_ref()) {
            if left.is_zero() {
                let message = "Job was active longer than specified deadline";
                return Some(End::new(true, "DeadlineExceeded", message));
            }
            plan.wake_after(left);
        }
        self.decided_by_indexes()
    }

    /// How long the Job may stay active; none if there is no deadline, or it does not run.
    fn time_left(&self, start: Option<&Time>) -> Option<Duration> {
        let seconds = self.spec.active_deadline_seconds?;
        if self.suspended() {
            return None;
        }
        let passed = self.now.duration_since(start?.0);
        let left = SignedDuration::from_secs(seconds).saturating_sub(passed);
        Some(Duration::try_from(left).unwrap_or_default())
    }

    fn decided_by_indexes(&self) -> Option<End> {
        let indexes = self.indexes.as_ref()?;
        let completions = self.completions().unwrap_or(0);
        if let Some(failed) = &indexes.failed {
            let count = failed.count();
            if self
                .spec
                .max_failed_indexes
                .is_some_and(|most| count > most)
            {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                return Some(End::new(true, "MaxFailedIndexesExceeded", message));
            }
            if count > 0 && count + indexes.succeeded.count() >= completions {
                return Some(End::new(true, "FailedIndexes", "Job has failed indexes"));
            }
        }
        let policy = self.spec.success_policy.as_ref();
        let met = enough(policy, &indexes.succeeded, completions)?;
        Some(End::new(false, "SuccessPolicy", met))
    }

    /// Containers that are started again in their pod count against the limit as pods do.
    fn restarted_too_often(&self, limit: i32) -> bool {
        let template = self.spec.template.spec.as_ref();
        if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let running = self
            .pods
            .iter()
            .filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
        let statuses = running.filter_map(|pod| pod.status.as_ref());
        let containers = statuses.flat_map(|status| {
            let init = status.init_container_statuses.iter().flatten();
            init.chain(status.container_statuses.iter().flatten())
        });
        let restarts: i64 = containers
            .map(|container| i64::from(container.restart_count))
            .sum();
        restarts >= i64::from(limit.max(1))
    }

    /// Brings the number of active pods closer to what is wanted.
    fn manage(&self, plan: &mut Plan) {
        let active = length(self.active.len());
        if self.suspended() {
            plan.delete.clone_from(&self.active);
            plan.forget_deleted = true;
            return;
        }
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let wanted = match self.completions() {
            // Once one has succeeded, the others are left to end.
            None if self.succeeded > 0 => active,
            None => parallelism,
            Some(completions) => (completions - self.succeeded).min(parallelism).max(0),
        };
        let mut surplus = self.surplus(usize::try_from(active - wanted).unwrap_or(0));
        if !surplus.is_empty() {
            surplus.truncate(BURST);
            plan.delete = surplus;
            plan.forget_deleted = true;
            return;
        }
        let awaited = if replaces_ended_only(self.spec) {
            self.terminating
        } else {
            0
        };
        let lack = usize::try_from(wanted - awaited - active).unwrap_or(0);
        if lack > 0 {
            self.create(plan, lack.min(BURST));
        }
    }

    fn create(&self, plan: &mut Plan, lack: usize) {
        let per_index = self.spec.backoff_limit_per_index.is_some();
        if !per_index {
            let wait = plan.backoff.remaining(self.now);
            if !wait.is_zero() {
                plan.wake_after(wait);
                return;
            }
        }
        let Some(indexes) = &self.indexes else {
            plan.create = vec![NewPod::default(); lack];
            return;
        };
        let taken = self.active.iter().filter_map(|pod| self.index(pod));
        let mut taken = indexes.succeeded.with(taken);
        if let Some(failed) = &indexes.failed {
            taken = taken.union(failed);
        }
        if replaces_ended_only(self.spec) {
            let leaving = self.pods.iter().filter(|pod| pods::is_deleting(pod));
            let leaving = leaving.filter(|pod| !pods::is_terminal(pod));
            taken = taken.with(leaving.filter_map(|pod| self.index(pod)));
        }
        for index in taken.missing(self.completions().unwrap_or(0)) {
            if plan.create.len() == lack {
                return;
            }
            let before = indexes.heirless.get(&index);
            let wait = before.map_or(Duration::ZERO, |pod| self.index_wait(pod));
            if wait.is_zero() {
                plan.create.push(NewPod {
                    index: Some(index),
                    failures: per_index.then(|| self.inherited(before)),
                });
            } else {
                plan.wake_after(wait);
            }
        }
    }

    fn index_wait(&self, failed: &Pod) -> Duration {
        let count = failures(failed) + ignored_failures(failed) + 1;
        remaining(
            u32::try_from(count).unwrap_or(u32::MAX),
            ended_at(failed),
            self.now,
        )
    }

    /// The failures of an index after this pod's, those that count and those that do not.
    fn inherited(&self, failed: Option<&Arc<Pod>>) -> (i32, i32) {
        match failed {
            None => (0, 0),
            Some(pod) if self.counts(pod) => {
                (failures(pod).saturating_add(1), ignored_failures(pod))
            }
            Some(pod) => (failures(pod), ignored_failures(pod).saturating_add(1)),
        }
    }

    /// Active pods to delete: those whose index is none or another's, and `least` at least, those first
    /// which have got the least far.
    fn surplus(&self, least: usize) -> Vec<Arc<Pod>> {
        let mut ranked = self.active.clone();
        if least > 0 || self.is_indexed() {
            ranked.sort_by_cached_key(|pod| progress(pod));
        }
        if !self.is_indexed() {
            ranked.truncate(least);
            return ranked;
        }
        // The one that has got the farthest keeps the index.
        let mut seen = HashSet::new();
        let (mut keep, mut surplus) = (Vec::new(), Vec::new());
        for pod in ranked.into_iter().rev() {
            match self.index(&pod) {
                Some(index) if seen.insert(index) => keep.push(pod),
                _ => surplus.push(pod),
            }
        }
        let more = least.saturating_sub(surplus.len());
        surplus.extend(keep.into_iter().rev().take(more));
        surplus
    }

    /// Whether all that was asked for has succeeded and nothing runs any more.
    fn completed(&self, plan: &Plan) -> Option<End> {
        let idle = self.active.is_empty() && plan.create.is_empty();
        let done = match self.completions() {
            None => self.succeeded > 0,
            Some(completions) => self.succeeded >= completions,
        };
        let message = "Reached expected number of succeeded pods";
        (done && idle).then(|| End::new(false, "CompletionsReached", message))
    }

    fn tell_suspension(&self, plan: &mut Plan) {
        let known = plan.status.conditions.get_or_insert_default();
        let known = known.iter().find(|found| found.type_ == "Suspended");
        let was = known.map(|known| known.status == "True");
        if self.suspended() && was != Some(true) {
            set_condition(
                &mut plan.status,
                self.condition("Suspended", "True", "JobSuspended", "Job suspended"),
            );
            plan.status.start_time = None;
            plan.note(EventType::Normal, "Suspended", "Job suspended");
        } else if !self.suspended() && was == Some(true) {
            set_condition(
                &mut plan.status,
                self.condition("Suspended", "False", "JobResumed", "Job resumed"),
            );
            // The deadline starts anew.
            plan.status.start_time = Some(self.time());
            plan.note(EventType::Normal, "Resumed", "Job resumed");
        }
    }

    /// Puts down the pods that have ended, as far as they can be let go.
    fn count(&self, plan: &mut Plan, end: Option<&End>) {
        let failing = end.is_some_and(|end| end.failed);
        let waiting = plan
            .status
            .uncounted_terminated_pods
            .get_or_insert_default();
        let mut fresh = Vec::new();
        let mut tracked: Vec<_> = self.pods.iter().filter(|pod| is_tracked(pod)).collect();
        if self.is_indexed() {
            tracked.sort_by_key(|pod| completion_index(pod));
        }
        for pod in tracked {
            let (succeeded, failed) = (pods::phase(pod) == "Succeeded", self.is_failed(pod));
            let ended = succeeded || failed && !self.is_heirless(pod);
            if !(ended || self.deleting() || end.is_some()) {
                continue;
            }
            let uncounted = |uids: &Option<Vec<String>>| uids.iter().flatten().count();
            let total = fresh.len() + uncounted(&waiting.succeeded) + uncounted(&waiting.failed);
            if total >= MOST_UNCOUNTED {
                // What the next writes bring will have us look again.
                break;
            }
            plan.release.push(pod.clone());
            let known = is_in(&waiting.succeeded, pod) || is_in(&waiting.failed, pod);
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let index = self.index(pod);
            if known {
            } else if succeeded && self.is_indexed() {
                fresh.extend(index);
            } else if succeeded {
                waiting.succeeded.get_or_insert_default().push(uid);
            } else if (failed || failing)
                && (!self.is_indexed() || index.is_some())
                && self.counts(pod)
            {
                waiting.failed.get_or_insert_default().push(uid);
            }
        }
        if let Some(indexes) = &self.indexes {
            let counted = indexes.stored.with(fresh);
            plan.status.succeeded = Some(counted.count());
            plan.status.completed_indexes = Some(counted.to_string());
            plan.status.failed_indexes = indexes.failed.as_ref().map(ToString::to_string);
        }
    }

    fn is_heirless(&self, pod: &Arc<Pod>) -> bool {
        self.indexes.as_ref().is_some_and(|indexes| {
            let mut heirless = indexes.heirless.values();
            heirless.any(|found| found.metadata.uid == pod.metadata.uid)
        })
    }

    /// How many pods there are, as it is once the plan is carried out.
    fn fill_in(&self, plan: &mut Plan) {
        let ready =
            |pods: &[Arc<Pod>]| length(pods.iter().filter(|pod| pods::is_ready(pod)).count());
        let deleted = length(plan.delete.len());
        let active = length(self.active.len()) - deleted + length(plan.create.len());
        let status = &mut plan.status;
        status.active = positive(active);
        status.ready = Some(ready(&self.active) - ready(&plan.delete));
        status.terminating = Some(self.terminating + deleted);
        status.succeeded = status.succeeded.and_then(positive);
        status.failed = status.failed.and_then(positive);
        let none = |uids: &Vec<String>| !uids.is_empty();
        if let Some(waiting) = &mut status.uncounted_terminated_pods {
            waiting.succeeded = waiting.succeeded.take().filter(none);
            waiting.failed = waiting.failed.take().filter(none);
        }
        status.completed_indexes = status
            .completed_indexes
            .take()
            .filter(|text| !text.is_empty());
        status.conditions = status.conditions.take().filter(|all| !all.is_empty());
    }

    /// Says how the Job will end, and that it has once nothing is left to be done.
    fn conclude(&self, plan: &mut Plan, end: &End) {
        let (interim, last) = end.conditions();
        let announced = true_condition(&self.status, interim).is_some();
        if !announced {
            let condition = self.condition(interim, "True", &end.reason, &end.message);
            set_condition(&mut plan.status, condition);
            return;
        }
        let waiting = plan.status.uncounted_terminated_pods.as_ref();
        let waits = waiting.is_some_and(|waiting| *waiting != UncountedTerminatedPods::default());
        let busy = !plan.release.is_empty() || !plan.delete.is_empty() || self.terminating > 0;
        if waits || busy {
            return;
        }
        let condition = self.condition(last, "True", &end.reason, &end.message);
        set_condition(&mut plan.status, condition);
        if end.failed {
            plan.note(EventType::Warning, &end.reason, &end.message);
            return;
        }
        plan.status.completion_time = Some(self.time());
        if self
            .completions()
            .is_some_and(|wanted| plan.status.succeeded.unwrap_or(0) > wanted)
        {
            let text = "Too many succeeded pods running after completion count reached";
            plan.note(EventType::Warning, "TooManySucceededPods", text);
        }
        plan.note(EventType::Normal, "Completed", "Job completed");
    }

    fn condition(&self, type_: &str, status: &str, reason: &str, message: &str) -> JobCondition {
        JobCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(self.time()),
            last_transition_time: Some(self.time()),
        }
    }
}

fn set_condition(status: &mut JobStatus, condition: JobCondition) {
    let conditions = status.conditions.get_or_insert_default();
    match conditions
        .iter_mut()
        .find(|found| found.type_ == condition.type_)
    {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

/// How far a pod has got; the least are deleted first.
fn progress(pod: &Pod) -> impl Ord + use<> {
    let phase = match pods::phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let containers = pod.status.iter();
    let containers = containers.flat_map(|status| status.container_statuses.iter().flatten());
    let restarts = containers.map(|container| container.restart_count).max();
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (
        !pods::node_name(pod).is_empty(),
        phase,
        // Ready the longest is worth the most.
        pods::ready_since(pod).map(std::cmp::Reverse),
        std::cmp::Reverse(restarts.unwrap_or(0)),
        created.map(std::cmp::Reverse),
        pod.metadata.name.clone(),
    )
}

fn is_in(uids: &Option<Vec<String>>, pod: &Pod) -> bool {
    let uid = pod.metadata.uid.as_deref();
    uids.iter()
        .flatten()
        .any(|found| Some(found.as_str()) == uid)
}

fn length(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn positive(count: i32) -> Option<i32> {
    (count > 0).then_some(count)
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
