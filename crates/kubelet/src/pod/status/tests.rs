//! Tables of what a pod's status says.

use super::*;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodReadinessGate, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::pod::observed::{ObservedContainer, ObservedSandbox, State};
use crate::pod::plan::Verdict;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn container(name: &str) -> Container {
    Container {
        name: name.into(),
        image: Some("img:1".into()),
        ..Default::default()
    }
}

fn pod(policy: &str, init: Vec<Container>, containers: Vec<Container>) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some("p".into()),
            namespace: Some("ns".into()),
            uid: Some("u".into()),
            generation: Some(2),
            ..Default::default()
        },
        spec: Some(PodSpec {
            restart_policy: Some(policy.into()),
            init_containers: (!init.is_empty()).then_some(init),
            containers,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn seen(name: &str, attempt: u32, state: State, exit_code: i32) -> ObservedContainer {
    ObservedContainer {
        id: format!("{name}-{attempt}"),
        name: name.into(),
        attempt,
        sandbox_id: "s0".into(),
        state,
        created_at: at(10 + i64::from(attempt)),
        started_at: Some(at(10)),
        finished_at: (state == State::Exited).then(|| at(100)),
        exit_code,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.into(),
        ..Default::default()
    }
}

fn world(containers: Vec<ObservedContainer>) -> ObservedPod {
    let mut observed = ObservedPod {
        sandboxes: vec![ObservedSandbox {
            id: "s0".into(),
            ready: true,
            ips: vec!["10.0.0.2".into()],
            ..Default::default()
        }],
        containers,
    };
    observed.sort();
    observed
}

#[derive(Default)]
struct Scene {
    old: PodStatus,
    probes: BTreeMap<String, Verdicts>,
    waiting: BTreeMap<String, Waiting>,
    terminated: bool,
    failure: Option<Waiting>,
}

impl Scene {
    fn status(&self, pod: &Pod, observed: &ObservedPod) -> PodStatus {
        generate(&Input {
            pod,
            old: &self.old,
            observed,
            probes: &self.probes,
            waiting: &self.waiting,
            terminated: self.terminated,
            failure: self.failure.as_ref(),
            host_ips: &["192.168.0.1".to_owned()],
            runtime: "skiff",
            now: at(500),
        })
    }
}

fn word(status: &PodStatus, kind: &str) -> String {
    let c = condition(status.conditions.as_ref(), kind).unwrap();
    match &c.reason {
        Some(reason) => format!("{} {reason}", c.status),
        None => c.status.clone(),
    }
}

#[test]
fn phases() {
    use State::{Exited, Running};
    let one = |policy: &str| pod(policy, vec![], vec![container("a"), container("b")]);
    let both = |a: ObservedContainer, b: ObservedContainer| world(vec![a, b]);
    check(vec![
        (
            "new",
            one("Always"),
            ObservedPod::default(),
            false,
            "Pending",
        ),
        (
            "one of two",
            one("Always"),
            world(vec![seen("a", 0, Running, 0)]),
            false,
            "Pending",
        ),
        (
            "both",
            one("Always"),
            both(seen("a", 0, Running, 0), seen("b", 0, Running, 0)),
            false,
            "Running",
        ),
        (
            "one ended, Never",
            one("Never"),
            both(seen("a", 0, Exited, 1), seen("b", 0, Running, 0)),
            false,
            "Running",
        ),
        (
            "all ended well",
            one("Never"),
            both(seen("a", 0, Exited, 0), seen("b", 0, Exited, 0)),
            false,
            "Succeeded",
        ),
        (
            "one failed",
            one("Never"),
            both(seen("a", 0, Exited, 0), seen("b", 0, Exited, 1)),
            false,
            "Failed",
        ),
        (
            "will be restarted",
            one("Always"),
            both(seen("a", 0, Exited, 0), seen("b", 0, Exited, 1)),
            false,
            "Running",
        ),
        (
            "deleted, ended well",
            one("Always"),
            both(seen("a", 0, Exited, 0), seen("b", 0, Exited, 0)),
            true,
            "Succeeded",
        ),
        (
            "deleted, killed",
            one("Always"),
            both(seen("a", 0, Exited, 137), seen("b", 0, Exited, 0)),
            true,
            "Failed",
        ),
        (
            "deleted early",
            one("Always"),
            world(vec![]),
            true,
            "Failed",
        ),
    ]);
}

#[test]
fn phases_of_initialization() {
    use State::{Exited, Running};
    let init = |policy: &str| pod(policy, vec![container("i")], vec![container("a")]);
    check(vec![
        (
            "init runs",
            init("Always"),
            world(vec![seen("i", 0, Running, 0)]),
            false,
            "Pending",
        ),
        (
            "init failed, again",
            init("Always"),
            world(vec![seen("i", 0, Exited, 1)]),
            false,
            "Pending",
        ),
        (
            "init failed for good",
            init("Never"),
            world(vec![seen("i", 0, Exited, 1)]),
            false,
            "Failed",
        ),
    ]);
}

type Case = (&'static str, Pod, ObservedPod, bool, &'static str);

fn check(cases: Vec<Case>) {
    for (what, pod, observed, terminated, wanted) in cases {
        let scene = Scene {
            terminated,
            ..Scene::default()
        };
        let status = scene.status(&pod, &observed);
        assert_eq!(status.phase.as_deref(), Some(wanted), "{what}");
    }
}

#[test]
fn a_new_pod() {
    let status = Scene::default().status(
        &pod("Always", vec![], vec![container("b"), container("a")]),
        &ObservedPod::default(),
    );
    let names: Vec<_> = status
        .container_statuses
        .iter()
        .flatten()
        .map(|s| s.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(word(&status, "PodReadyToStartContainers"), "False");
    assert_eq!(word(&status, "Initialized"), "True");
    assert_eq!(word(&status, "Ready"), "False ContainersNotReady");
    assert_eq!(
        condition(status.conditions.as_ref(), "Ready")
            .unwrap()
            .message
            .as_deref(),
        Some("containers with unready status: [b a]")
    );
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert_eq!(status.host_ip.as_deref(), Some("192.168.0.1"));
    assert_eq!(status.observed_generation, Some(2));
    assert_eq!(status.start_time, Some(seconds(at(500))));
}

#[test]
fn a_running_pod() {
    let mut probed = container("a");
    probed.readiness_probe = Some(Probe::default());
    let pod = pod("Always", vec![container("i")], vec![probed]);
    let observed = world(vec![
        seen("i", 0, State::Exited, 0),
        seen("a", 1, State::Running, 0),
        seen("a", 0, State::Exited, 7),
    ]);
    let mut scene = Scene::default();
    let status = scene.status(&pod, &observed);
    assert_eq!(word(&status, "Ready"), "False ContainersNotReady");
    assert_eq!(word(&status, "Initialized"), "True");
    let a = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(a.restart_count, 1);
    assert_eq!(a.container_id.as_deref(), Some("skiff://a-1"));
    let last = a.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (7, Some("Error")));
    let verdicts = Verdicts {
        readiness: Some(Verdict::Success),
        ..Default::default()
    };
    scene.probes.insert("a-1".into(), verdicts);
    scene.old = status;
    let status = scene.status(&pod, &observed);
    assert_eq!(word(&status, "Ready"), "True");
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.2"));
}

#[test]
fn crash_loop() {
    let pod = pod("Always", vec![], vec![container("a")]);
    let mut scene = Scene::default();
    let waiting = Waiting {
        reason: "CrashLoopBackOff".into(),
        message: "back-off".into(),
    };
    scene.waiting.insert("a".into(), waiting);
    let status = scene.status(&pod, &world(vec![seen("a", 2, State::Exited, 1)]));
    let a = &status.container_statuses.as_ref().unwrap()[0];
    let state = a.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(state.reason.as_deref(), Some("CrashLoopBackOff"));
    assert!(a.last_state.as_ref().unwrap().terminated.is_some());
    assert_eq!(a.restart_count, 2);
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn a_container_that_vanished_is_counted_as_ended() {
    let pod = pod("Always", vec![], vec![container("a")]);
    let before = Scene::default().status(&pod, &world(vec![seen("a", 0, State::Running, 0)]));
    let scene = Scene {
        old: before,
        ..Scene::default()
    };
    let status = scene.status(&pod, &world(vec![]));
    let a = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(a.restart_count, 1);
    let last = a.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!(last.reason.as_deref(), Some("ContainerStatusUnknown"));
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn readiness_gates_hold_a_pod_back() {
    let mut pod = pod("Always", vec![], vec![container("a")]);
    pod.spec.as_mut().unwrap().readiness_gates = Some(vec![PodReadinessGate {
        condition_type: "example.com/gate".into(),
    }]);
    let observed = world(vec![seen("a", 0, State::Running, 0)]);
    let status = Scene::default().status(&pod, &observed);
    assert_eq!(word(&status, "ContainersReady"), "True");
    assert_eq!(word(&status, "Ready"), "False ReadinessGatesNotReady");
    pod.status = Some(PodStatus {
        conditions: Some(vec![PodCondition {
            type_: "example.com/gate".into(),
            status: "True".into(),
            ..Default::default()
        }]),
        ..Default::default()
    });
    let status = Scene::default().status(&pod, &observed);
    assert_eq!(word(&status, "Ready"), "True");
    assert_eq!(word(&status, "example.com/gate"), "True");
}

#[test]
fn terminal_phases_are_never_left() {
    let mut pod = pod("Always", vec![], vec![container("a")]);
    pod.status = Some(PodStatus {
        phase: Some("Failed".into()),
        reason: Some("Evicted".into()),
        ..Default::default()
    });
    let scene = Scene {
        old: pod.status.clone().unwrap(),
        ..Scene::default()
    };
    let status = scene.status(&pod, &world(vec![seen("a", 0, State::Running, 0)]));
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert_eq!(word(&status, "Ready"), "False PodFailed");
}

#[test]
fn transition_times_move_only_with_the_status() {
    let pod = pod("Always", vec![], vec![container("a")]);
    let observed = world(vec![seen("a", 0, State::Running, 0)]);
    let first = Scene::default().status(&pod, &observed);
    let mut old = first.clone();
    for c in old.conditions.iter_mut().flatten() {
        c.last_transition_time = Some(seconds(at(1)));
    }
    let scene = Scene {
        old,
        ..Scene::default()
    };
    let again = scene.status(&pod, &observed);
    assert_eq!(
        condition(again.conditions.as_ref(), "Ready")
            .unwrap()
            .last_transition_time,
        Some(seconds(at(1)))
    );
}

/// How a container stands: its state, how often it was restarted, and how it ended before.
fn standing(status: &ContainerStatus) -> String {
    let state = status.state.clone().unwrap();
    let word = match (state.waiting, state.running) {
        (Some(waiting), _) => waiting.reason.unwrap(),
        (None, Some(_)) => "running".to_owned(),
        (None, None) => "terminated".to_owned(),
    };
    let last = status.last_state.clone().and_then(|last| last.terminated);
    let last = last.map_or_else(String::new, |end| format!(" after {}", end.exit_code));
    format!("{word} #{}{last}", status.restart_count)
}

#[test]
fn containers_that_all_start_anew() {
    use State::{Exited, Running};
    let mut asking = container("a");
    asking.restart_policy = Some("Never".into());
    asking.restart_policy_rules = serde_json::from_value(serde_json::json!([
        {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}},
    ]))
    .unwrap();
    let pod = |containers| pod("Never", vec![container("i")], containers);
    let (plain, pod) = (pod(vec![container("b")]), pod(vec![asking, container("b")]));
    let i = |attempt, state| seen("i", attempt, state, 0);
    let ended = |code| seen("a", 0, Exited, code);
    let b = |state, code| seen("b", 0, state, code);
    let runs = |name| seen(name, 1, Running, 0);
    let done = |name| seen(name, 1, Exited, 0);
    let told = "True RestartAllContainersStarted";
    let gone = "RestartingAllContainers #1 after 137";
    let waits = "PodInitializing #1 after 137";
    let mut scene = Scene::default();
    for (there, phase, condition, first, other) in [
        (
            vec![i(0, Exited), seen("a", 0, Running, 0), b(Running, 0)],
            "Running",
            "False",
            "terminated #0",
            "running #0",
        ),
        (
            vec![i(0, Exited), ended(3), b(Running, 0)],
            "Running",
            told,
            "terminated #0",
            "running #0",
        ),
        (
            vec![i(0, Exited), ended(3), b(Exited, 137)],
            "Running",
            told,
            "terminated #0",
            "terminated #0",
        ),
        (
            vec![i(0, Exited), ended(3)],
            "Running",
            told,
            "terminated #0",
            gone,
        ),
        (vec![ended(3)], "Running", told, gone, gone),
        (vec![ended(3)], "Running", told, gone, gone),
        (vec![], "Running", "False", gone, gone),
        (vec![], "Running", "False", waits, waits),
        (
            vec![i(1, Running)],
            "Pending",
            "False",
            "running #1 after 137",
            waits,
        ),
        (
            vec![done("i"), runs("a"), runs("b")],
            "Running",
            "False",
            "terminated #1 after 137",
            "running #1 after 137",
        ),
        (
            vec![done("i"), done("a"), done("b")],
            "Succeeded",
            "False PodCompleted",
            "terminated #1 after 137",
            "terminated #1 after 137",
        ),
    ] {
        let status = scene.status(&pod, &world(there.clone()));
        assert_eq!(status.phase.as_deref(), Some(phase), "{there:?}");
        assert_eq!(
            word(&status, "AllContainersRestarting"),
            condition,
            "{there:?}"
        );
        let all = |list: &Option<Vec<ContainerStatus>>| list.clone().unwrap();
        let found = standing(&all(&status.init_container_statuses)[0]);
        assert_eq!(found, first, "{there:?}");
        let found = standing(&all(&status.container_statuses)[1]);
        assert_eq!(found, other, "{there:?}");
        scene.old = status;
    }
    // Pods that cannot ask for it do not speak of it.
    let status = Scene::default().status(&plain, &world(vec![]));
    assert!(condition(status.conditions.as_ref(), "AllContainersRestarting").is_none());
}

#[test]
fn a_container_that_is_made_and_not_started_says_why_it_waits() {
    let made = |init: Vec<Container>| {
        let pod = pod("Always", init, vec![container("a")]);
        let status = Scene::default().status(&pod, &world(vec![seen("a", 0, State::Created, 0)]));
        standing(&status.container_statuses.unwrap()[0])
    };
    assert_eq!(made(vec![]), "ContainerCreating #0");
    assert_eq!(made(vec![container("i")]), "PodInitializing #0");
}
