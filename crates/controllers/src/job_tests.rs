//! Jobs' plans: a table of situations, and random histories in which no completion may be lost or counted
//! twice.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::job_pod::{self, FINALIZER};
use crate::seen_pod::seen;

const NOW: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn job(spec: Value, status: Value) -> Job {
    let mut job = json!({"metadata": {"name": "j", "namespace": "n", "uid": "job"}, "spec": {"template": {"spec": {"containers": []}}}, "status": status});
    for (field, value) in spec.as_object().unwrap() {
        job["spec"][field] = value.clone();
    }
    serde_json::from_value(job).unwrap()
}

/// `name phase flags...`: `i3` index, `f2` failures of the index, `-` no finalizer, `x` being deleted,
/// `r` ready, `@20` ended that many seconds ago.
fn pod(text: &str) -> Arc<Pod> {
    let mut words = text.split(' ');
    let (name, phase) = (words.next().unwrap(), words.next().unwrap());
    let mut pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": name, "namespace": "n", "uid": name, "finalizers": [FINALIZER]}, "status": {"phase": phase}}),
    )
    .unwrap();
    let meta = &mut pod.metadata;
    meta.creation_timestamp = Some(Time(at(NOW - 1000)));
    for word in words {
        let annotations = meta.annotations.get_or_insert_default();
        let (flag, rest) = word.split_at(1);
        match flag {
            "i" => {
                annotations.insert(
                    "batch.kubernetes.io/job-completion-index".into(),
                    rest.into(),
                );
            }
            "f" => {
                annotations.insert(
                    "batch.kubernetes.io/job-index-failure-count".into(),
                    rest.into(),
                );
            }
            "-" => meta.finalizers = None,
            "x" => meta.deletion_timestamp = Some(Time(at(NOW - 5))),
            "@" => {
                meta.creation_timestamp = Some(Time(at(NOW - rest.parse::<i64>().unwrap())));
            }
            "r" => {
                let ready = json!([{"type": "Ready", "status": "True"}]);
                pod.status.as_mut().unwrap().conditions = serde_json::from_value(ready).unwrap();
            }
            _ => panic!("{word}"),
        }
    }
    Arc::new(pod)
}

fn planned(job: &Job, pods: &[&str]) -> Plan {
    let pods: Vec<_> = pods.iter().map(|text| pod(text)).collect();
    plan(&Observed {
        job,
        pods: &pods,
        backoff: &Backoff::default(),
        now: at(NOW),
    })
}

/// What is to be done, in short.
fn shown(plan: &Plan) -> String {
    let names = |pods: &[Arc<Pod>]| {
        let names = pods.iter().filter_map(|pod| pod.metadata.name.clone());
        names.collect::<Vec<_>>().join(",")
    };
    let mut parts = Vec::new();
    if !plan.delete.is_empty() {
        let word = if plan.forget_deleted {
            "forget"
        } else {
            "delete"
        };
        parts.push(format!("{word} {}", names(&plan.delete)));
    }
    let created = plan
        .create
        .iter()
        .map(|new| match (new.index, new.failures) {
            (Some(index), Some((failures, _))) => format!("{index}/{failures}"),
            (Some(index), None) => index.to_string(),
            _ => "_".to_owned(),
        });
    let created: Vec<_> = created.collect();
    if !created.is_empty() {
        parts.push(format!("create {}", created.join(",")));
    }
    if !plan.release.is_empty() {
        parts.push(format!("release {}", names(&plan.release)));
    }
    let status = &plan.status;
    for condition in status.conditions.iter().flatten() {
        let reason = condition.reason.as_deref().unwrap_or_default();
        parts.push(format!("{}={}:{reason}", condition.type_, condition.status));
    }
    if let Some(waiting) = &status.uncounted_terminated_pods {
        for (word, uids) in [("+", &waiting.succeeded), ("-", &waiting.failed)] {
            let uids: Vec<_> = uids.iter().flatten().map(String::as_str).collect();
            if !uids.is_empty() {
                parts.push(format!("{word}{}", uids.join(word)));
            }
        }
    }
    for (word, count) in [
        ("succeeded", status.succeeded),
        ("failed", status.failed),
        ("active", status.active),
        ("terminating", status.terminating.filter(|count| *count > 0)),
    ] {
        if let Some(count) = count {
            parts.push(format!("{word} {count}"));
        }
    }
    for (word, text) in [
        ("done", &status.completed_indexes),
        ("lost", &status.failed_indexes),
    ] {
        if let Some(text) = text {
            parts.push(format!("{word} {text}"));
        }
    }
    if let Some(wake) = plan.wake {
        parts.push(format!("wake {}", wake.as_secs()));
    }
    parts.join("; ")
}

fn check(spec: Value, status: Value, pods: &[&str], expected: &str) {
    let plan = planned(&job(spec.clone(), status.clone()), pods);
    assert_eq!(shown(&plan), expected, "{spec} {status} {pods:?}");
}

fn met(type_: &str, reason: &str) -> Value {
    json!({"startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": type_, "status": "True", "reason": reason}]})
}

#[test]
fn counted_jobs() {
    let three = json!({"completions": 3, "parallelism": 2});
    check(three.clone(), json!({}), &[], "create _,_; active 2");
    check(
        three.clone(),
        json!({}),
        &["a Running", "b Succeeded"],
        "create _; release b; +b; active 2",
    );
    // Stored, but its finalizer is still there.
    let waiting = json!({"uncountedTerminatedPods": {"succeeded": ["b"]}});
    check(
        three.clone(),
        waiting.clone(),
        &["a Running", "b Succeeded"],
        "create _; release b; +b; active 2",
    );
    // Let go: it is counted, whether it is still there or not.
    check(
        three.clone(),
        waiting.clone(),
        &["a Running", "b Succeeded -"],
        "create _; succeeded 1; active 2",
    );
    check(
        three.clone(),
        waiting,
        &["a Running"],
        "create _; succeeded 1; active 2",
    );
    check(
        three.clone(),
        json!({"succeeded": 2}),
        &["a Running", "b Running r"],
        "forget a; succeeded 2; active 1; terminating 1",
    );
    let two = json!({"succeeded": 2});
    check(
        three.clone(),
        two,
        &["c Succeeded"],
        "release c; SuccessCriteriaMet=True:CompletionsReached; +c; succeeded 2",
    );
    let mut announced = met("SuccessCriteriaMet", "CompletionsReached");
    announced["succeeded"] = json!(3);
    check(
        three.clone(),
        announced.clone(),
        &["c Succeeded -"],
        "SuccessCriteriaMet=True:CompletionsReached; Complete=True:CompletionsReached; succeeded 3",
    );
    // Not before the last pod is gone.
    check(
        three,
        announced,
        &["d Running x -"],
        "SuccessCriteriaMet=True:CompletionsReached; succeeded 3; terminating 1",
    );
    // Without a number, the first success ends it once the others have ended.
    let any = json!({"parallelism": 2});
    check(
        any.clone(),
        json!({}),
        &["a Succeeded", "b Running"],
        "release a; +a; active 1",
    );
    check(
        any,
        json!({"succeeded": 1}),
        &["b Failed"],
        "release b; SuccessCriteriaMet=True:CompletionsReached; -b; succeeded 1",
    );
}

#[test]
fn failing_jobs() {
    let one = json!({"completions": 1, "backoffLimit": 1});
    check(
        one.clone(),
        json!({}),
        &["a Failed @4"],
        "release a; -a; wake 6",
    );
    check(
        one.clone(),
        json!({}),
        &["a Failed @40"],
        "create _; release a; -a; active 1",
    );
    check(
        one.clone(),
        json!({"failed": 1}),
        &["b Failed", "c Running"],
        "delete c; release b,c; FailureTarget=True:BackoffLimitExceeded; -b-c; failed 1; terminating 1",
    );
    let mut target = met("FailureTarget", "BackoffLimitExceeded");
    target["failed"] = json!(3);
    check(
        one.clone(),
        target,
        &["b Failed -"],
        "FailureTarget=True:BackoffLimitExceeded; Failed=True:BackoffLimitExceeded; failed 3",
    );
    // One on its way out counts as failed, and another takes its place after a while.
    check(
        one.clone(),
        json!({}),
        &["a Running x @40"],
        "release a; -a; terminating 1; wake 5",
    );
    // Unless it is to be waited for.
    let patient = json!({"completions": 1, "podReplacementPolicy": "Failed"});
    check(patient, json!({}), &["a Running x"], "terminating 1");
    let started = json!({"startTime": Time(at(NOW - 50))});
    let deadline = |seconds: i64| json!({"completions": 1, "activeDeadlineSeconds": seconds});
    check(
        deadline(60),
        started.clone(),
        &["a Running"],
        "active 1; wake 10",
    );
    check(
        deadline(50),
        started,
        &["a Running"],
        "delete a; release a; FailureTarget=True:DeadlineExceeded; -a; terminating 1",
    );
    let policy = |action: &str| json!({"completions": 1, "backoffLimit": 0, "podFailurePolicy": {"rules": [{"action": action, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}});
    let mut disrupted = Pod::clone(&pod("a Failed @40"));
    disrupted.status.as_mut().unwrap().conditions =
        serde_json::from_value(json!([{"type": "DisruptionTarget", "status": "True"}])).unwrap();
    let judged = |action: &str| {
        let plan = plan(&Observed {
            job: &job(policy(action), json!({})),
            pods: &[Arc::new(disrupted.clone())],
            backoff: &Backoff::default(),
            now: at(NOW),
        });
        shown(&plan)
    };
    assert_eq!(judged("Ignore"), "create _; release a; active 1");
    assert_eq!(
        judged("FailJob"),
        "release a; FailureTarget=True:PodFailurePolicy; -a"
    );
    assert_eq!(
        judged("Count"),
        "release a; FailureTarget=True:BackoffLimitExceeded; -a"
    );
}

#[test]
fn indexed_jobs() {
    let four = json!({"completions": 4, "parallelism": 3, "completionMode": "Indexed"});
    check(four.clone(), json!({}), &[], "create 0,1,2; active 3");
    check(
        four.clone(),
        json!({"completedIndexes": "0", "succeeded": 1}),
        &["b Running i1", "c Succeeded i2"],
        "create 3; release c; succeeded 2; active 2; done 0,2",
    );
    // Two of one index, and one of none: the one that is ready stays.
    check(
        four.clone(),
        json!({}),
        &[
            "a Running i1",
            "b Running i1 r",
            "c Running",
            "d Running i9",
        ],
        "forget d,c,a; active 1; terminating 3",
    );
    check(
        four,
        json!({"completedIndexes": "0-2", "succeeded": 3}),
        &["d Succeeded i3", "e Succeeded i0"],
        "release e,d; SuccessCriteriaMet=True:CompletionsReached; succeeded 4; done 0-3",
    );
    let per_index = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimit": 99, "backoffLimitPerIndex": 1});
    check(
        per_index.clone(),
        json!({}),
        &["a Failed i0 @4", "b Running i1", "c Running i2"],
        "active 2; lost ; wake 6",
    );
    check(
        per_index.clone(),
        json!({}),
        &["a Failed i0 @11", "b Running i1", "c Running i2"],
        "create 0/1; active 3; lost ",
    );
    check(
        per_index.clone(),
        json!({}),
        &[
            "a Failed i0",
            "b Running i0 f1",
            "c Running i1",
            "d Running i2",
        ],
        "release a; -a; active 3; lost ",
    );
    check(
        per_index.clone(),
        json!({}),
        &["b Failed i0 f1", "c Running i1", "d Running i2"],
        "release b; -b; active 2; lost 0",
    );
    check(
        per_index,
        json!({"failedIndexes": "0", "completedIndexes": "1", "succeeded": 1}),
        &["d Succeeded i2"],
        "release d; FailureTarget=True:FailedIndexes; succeeded 2; done 1,2; lost 0",
    );
    let most = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimit": 99, "backoffLimitPerIndex": 0, "maxFailedIndexes": 0});
    check(
        most,
        json!({}),
        &["a Failed i0", "b Running i1"],
        "delete b; release a,b; FailureTarget=True:MaxFailedIndexesExceeded; -a-b; terminating 1; lost 0",
    );
    let leader = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "0"}]}});
    check(
        leader,
        json!({}),
        &["a Succeeded i0", "b Running i1", "c Running i2"],
        "delete b,c; release a,b,c; SuccessCriteriaMet=True:SuccessPolicy; succeeded 1; terminating 2; done 0",
    );
}

#[test]
fn suspended_jobs() {
    let suspended = json!({"completions": 2, "parallelism": 2, "suspend": true});
    let plan = planned(&job(suspended.clone(), json!({})), &["a Running"]);
    assert_eq!(
        shown(&plan),
        "forget a; Suspended=True:JobSuspended; terminating 1"
    );
    assert!(plan.status.start_time.is_none());
    assert_eq!(plan.notes[0].message, "Job suspended");
    let status = met("Suspended", "JobSuspended");
    check(
        suspended,
        status.clone(),
        &[],
        "Suspended=True:JobSuspended",
    );
    let resumed = json!({"completions": 2, "parallelism": 2, "suspend": false});
    let plan = planned(&job(resumed, status), &[]);
    assert_eq!(
        shown(&plan),
        "create _,_; Suspended=False:JobResumed; active 2"
    );
    assert_eq!(plan.status.start_time, Some(Time(at(NOW))));
    assert_eq!(plan.notes[0].reason, "Resumed");
}

#[test]
fn restarts_in_place_count_against_the_limit() {
    let spec = json!({"completions": 1, "backoffLimit": 2, "template": {"spec": {"restartPolicy": "OnFailure", "containers": []}}});
    let with_restarts = |count: i32| {
        let mut pod = Pod::clone(&pod("a Running"));
        pod.status.as_mut().unwrap().container_statuses = serde_json::from_value(json!([{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": count}])).unwrap();
        shown(&plan(&Observed {
            job: &job(spec.clone(), json!({})),
            pods: &[Arc::new(pod)],
            backoff: &Backoff::default(),
            now: at(NOW),
        }))
    };
    assert_eq!(with_restarts(1), "active 1");
    assert_eq!(
        with_restarts(2),
        "delete a; release a; FailureTarget=True:BackoffLimitExceeded; -a; terminating 1"
    );
}

/// A server, its kubelets, and a controller that may stop at any step.
struct World {
    job: Job,
    pods: BTreeMap<String, Pod>,
    made: u32,
    now: i64,
    backoff: Backoff,
    /// The uids that were in the status and left it, each with how it was counted.
    counted: BTreeMap<String, &'static str>,
    /// Pods that succeeded while they were tracked, by uid, with their index.
    successes: BTreeMap<String, Option<i32>>,
}

impl World {
    fn new(spec: Value) -> Self {
        Self {
            job: job(spec, json!({})),
            pods: BTreeMap::new(),
            made: 0,
            now: NOW,
            backoff: Backoff::default(),
            counted: BTreeMap::new(),
            successes: BTreeMap::new(),
        }
    }

    /// One look of the controller, which stops dead after `steps` writes.
    fn reconcile(&mut self, steps: usize) {
        if finished(&self.job).is_some() {
            return;
        }
        let pods: Vec<_> = self.pods.values().cloned().map(Arc::new).collect();
        let plan = plan(&Observed {
            job: &self.job,
            pods: &pods,
            backoff: &self.backoff,
            now: at(self.now),
        });
        let mut left = steps;
        let mut step = || {
            let go = left > 0;
            left = left.saturating_sub(1);
            go
        };
        for pod in &plan.delete {
            let uid = pod.metadata.uid.clone().unwrap();
            if plan.forget_deleted && step() {
                self.untrack(&uid);
            }
            if step() {
                self.delete(&uid);
            }
        }
        for new in &plan.create {
            if step() {
                let mut pod = job_pod::make(&self.job, new);
                self.made += 1;
                let uid = format!("pod-{}", self.made);
                pod.metadata.uid = Some(uid.clone());
                pod.metadata.name = Some(uid.clone());
                pod.metadata.creation_timestamp = Some(Time(at(self.now)));
                pod.status = serde_json::from_value(json!({"phase": "Running"})).unwrap();
                self.pods.insert(uid, seen(&pod));
            }
        }
        let stored = step();
        if stored {
            self.store(plan.status);
            self.backoff = plan.backoff;
        }
        for pod in &plan.release {
            if step() {
                self.untrack(pod.metadata.uid.as_deref().unwrap());
            }
        }
        if left == 0 {
            self.backoff = Backoff::default();
        }
    }

    fn store(&mut self, status: JobStatus) {
        let old = self.job.status.clone().unwrap_or_default();
        let waiting =
            |status: &JobStatus| status.uncounted_terminated_pods.clone().unwrap_or_default();
        let indexed = self.job.spec.as_ref().unwrap().completion_mode.is_some();
        let (before, after) = (waiting(&old), waiting(&status));
        for (how, before, after, count, counts) in [
            (
                "succeeded",
                before.succeeded,
                after.succeeded,
                status.succeeded.unwrap_or(0) - old.succeeded.unwrap_or(0),
                !indexed,
            ),
            (
                "failed",
                before.failed,
                after.failed,
                status.failed.unwrap_or(0) - old.failed.unwrap_or(0),
                true,
            ),
        ] {
            let after: BTreeSet<_> = after.into_iter().flatten().collect();
            let gone = before
                .into_iter()
                .flatten()
                .filter(|uid| !after.contains(uid));
            let mut moved = 0;
            for uid in gone {
                assert!(
                    self.counted.insert(uid.clone(), how).is_none(),
                    "{uid} twice"
                );
                moved += 1;
            }
            assert!(
                after.iter().all(|uid| !self.counted.contains_key(uid)),
                "{after:?} again"
            );
            assert!(!counts || count == moved, "{how}: {count} for {moved}");
        }
        self.job.status = Some(status);
    }

    fn untrack(&mut self, uid: &str) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.metadata.finalizers = None;
        }
        self.sweep(uid);
    }

    fn sweep(&mut self, uid: &str) {
        if self
            .pods
            .get(uid)
            .is_some_and(|pod| pods::is_deleting(pod) && pods::is_terminal(pod) && !is_tracked(pod))
        {
            self.pods.remove(uid);
        }
    }

    fn delete(&mut self, uid: &str) {
        let now = at(self.now);
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.metadata.deletion_timestamp.get_or_insert(Time(now));
        }
        self.sweep(uid);
    }

    /// A kubelet says how a pod ended.
    fn end(&mut self, uid: &str, phase: &str) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        if pods::is_terminal(pod) {
            return;
        }
        pod.status.as_mut().unwrap().phase = Some(phase.to_owned());
        if phase == "Succeeded" && is_tracked(pod) {
            self.successes.insert(uid.to_owned(), completion_index(pod));
        }
        self.sweep(uid);
    }

    fn pick(&self, which: usize) -> Option<String> {
        let count = self.pods.len();
        (count > 0).then(|| self.pods.keys().nth(which % count).cloned())?
    }

    fn active(&self) -> usize {
        self.pods
            .values()
            .filter(|pod| pods::is_active(pod))
            .count()
    }
}

#[derive(Clone, Debug)]
enum Happening {
    Reconcile(usize),
    Succeeds(usize),
    Fails(usize),
    Deleted(usize),
    Time(i64),
    Suspend(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => Just(Happening::Reconcile(usize::MAX)),
        4 => (0_usize..9).prop_map(Happening::Reconcile),
        3 => any::<usize>().prop_map(Happening::Succeeds),
        2 => any::<usize>().prop_map(Happening::Fails),
        2 => any::<usize>().prop_map(Happening::Deleted),
        2 => (1_i64..900).prop_map(Happening::Time),
        1 => any::<bool>().prop_map(Happening::Suspend),
    ]
}

fn play(spec: Value, history: Vec<Happening>) -> World {
    let mut world = World::new(spec);
    let most = usize::try_from(world.job.spec.as_ref().unwrap().parallelism.unwrap()).unwrap();
    for happening in history {
        match happening {
            Happening::Reconcile(steps) => world.reconcile(steps),
            Happening::Succeeds(which) => {
                world
                    .pick(which)
                    .iter()
                    .for_each(|uid| world.end(uid, "Succeeded"));
            }
            Happening::Fails(which) => {
                world
                    .pick(which)
                    .iter()
                    .for_each(|uid| world.end(uid, "Failed"));
            }
            Happening::Deleted(which) => {
                world.pick(which).iter().for_each(|uid| world.delete(uid));
            }
            Happening::Time(seconds) => world.now += seconds,
            Happening::Suspend(suspend) => {
                world.job.spec.as_mut().unwrap().suspend = Some(suspend);
            }
        }
        assert!(world.active() <= most);
    }
    // From now on all goes well.
    world.job.spec.as_mut().unwrap().suspend = Some(false);
    for _ in 0..200 {
        if finished(&world.job).is_some() {
            return world;
        }
        let uids: Vec<_> = world.pods.keys().cloned().collect();
        uids.iter().for_each(|uid| world.end(uid, "Succeeded"));
        world.now += 700;
        world.reconcile(usize::MAX);
        assert!(world.active() <= most);
    }
    panic!("does not end: {:?}", world.job.status);
}

fn ended_well(world: &World) -> bool {
    let status = world.job.status.as_ref().unwrap();
    let (interim, last) = if true_condition(status, "Complete").is_some() {
        ("SuccessCriteriaMet", "Complete")
    } else {
        ("FailureTarget", "Failed")
    };
    assert!(true_condition(status, interim).is_some() && true_condition(status, last).is_some());
    assert!(world.pods.values().all(|pod| !is_tracked(pod)));
    last == "Complete"
}

proptest! {
    #[test]
    fn every_pod_is_counted_once(history in proptest::collection::vec(happening(), 0..60), completions in 1..5, parallelism in 1..4, limit in 0..6, patient in any::<bool>()) {
        let policy = if patient { "Failed" } else { "TerminatingOrFailed" };
        let world = play(json!({"completions": completions, "parallelism": parallelism, "backoffLimit": limit, "podReplacementPolicy": policy}), history);
        let done = ended_well(&world);
        for uid in world.successes.keys() {
            prop_assert!(world.counted.contains_key(uid), "{} was lost", uid);
        }
        let status = world.job.status.unwrap();
        let succeeded = world.counted.values().filter(|how| **how == "succeeded").count();
        prop_assert_eq!(length(succeeded), status.succeeded.unwrap_or(0));
        prop_assert_eq!(length(world.counted.len() - succeeded), status.failed.unwrap_or(0));
        let enough = succeeded >= usize::try_from(completions).unwrap();
        let reason = if done { enough } else { status.failed.unwrap_or(0) > limit };
        prop_assert!(reason);
    }

    #[test]
    fn every_index_is_completed_once(history in proptest::collection::vec(happening(), 0..60), completions in 1..5, parallelism in 1..4, per_index in proptest::option::of(0..3)) {
        let world = play(json!({"completions": completions, "parallelism": parallelism, "completionMode": "Indexed", "backoffLimit": 1000, "backoffLimitPerIndex": per_index}), history);
        let done = ended_well(&world);
        let status = world.job.status.unwrap();
        let completed = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions);
        // One that was given up on before it succeeded after all is counted as failed.
        for (uid, index) in &world.successes {
            prop_assert!(completed.contains(index.unwrap()) || world.counted.contains_key(uid), "{} was lost", uid);
        }
        prop_assert_eq!(Some(completed.count()), status.succeeded.or(Some(0)));
        let lost = status.failed_indexes.as_deref().unwrap_or_default();
        prop_assert_eq!(done, completed.count() == completions && lost.is_empty());
        if let Some(lost) = &status.failed_indexes {
            let lost = Indexes::parse(lost, completions);
            prop_assert!(done || lost.count() > 0);
            prop_assert!(lost.union(&completed).count() == completions);
        }
    }
}
