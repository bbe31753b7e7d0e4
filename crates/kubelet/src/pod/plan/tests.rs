//! Tables and properties of the plan.

use super::*;
use k8s_openapi::api::core::v1::{PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use proptest::prelude::*;

use crate::pod::observed::ObservedSandbox;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn container(name: &str) -> Container {
    Container {
        name: name.into(),
        image: Some("img".into()),
        ..Default::default()
    }
}

fn sidecar(name: &str) -> Container {
    Container {
        restart_policy: Some("Always".into()),
        ..container(name)
    }
}

fn pod(policy: &str, init: Vec<Container>, containers: Vec<Container>) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some("p".into()),
            namespace: Some("ns".into()),
            uid: Some("u".into()),
            ..Default::default()
        },
        spec: Some(PodSpec {
            restart_policy: Some(policy.into()),
            init_containers: Some(init),
            containers,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn sandbox() -> ObservedSandbox {
    ObservedSandbox {
        id: "s0".into(),
        ready: true,
        ips: vec!["10.0.0.2".into()],
        created_at: at(1),
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
        started_at: Some(at(10 + i64::from(attempt))),
        finished_at: (state == State::Exited).then(|| at(100)),
        exit_code,
        ..Default::default()
    }
}

fn world(containers: Vec<ObservedContainer>) -> ObservedPod {
    let mut observed = ObservedPod {
        sandboxes: vec![sandbox()],
        containers,
    };
    observed.sort();
    observed
}

fn short(step: &Step) -> String {
    match step {
        Step::KillPod => "killpod".into(),
        Step::CreateSandbox { attempt } => format!("sandbox#{attempt}"),
        Step::Kill { name, .. } => format!("kill {name}"),
        Step::Start {
            kind,
            index,
            attempt,
        } => format!("start {kind:?}[{index}]#{attempt}"),
        Step::Remove { id } => format!("rm {id}"),
        Step::Reset { id } => format!("reset {id}"),
        Step::RemoveSandbox { id } => format!("rm sandbox {id}"),
        Step::Resize { name, .. } => format!("resize {name}"),
    }
}

fn steps(plan: &PodPlan) -> Vec<String> {
    plan.steps.iter().map(short).collect()
}

fn planned(pod: &Pod, observed: &ObservedPod) -> PodPlan {
    plan(pod, observed, &Bookkeeping::default(), at(200))
}

type Case = (&'static str, Pod, ObservedPod, Vec<&'static str>, bool);

fn check(cases: Vec<Case>) {
    for (what, pod, observed, wanted, finished) in cases {
        let plan = planned(&pod, &observed);
        assert_eq!(steps(&plan), wanted, "{what}");
        assert_eq!(plan.finished, finished, "{what}");
    }
}

#[test]
fn regular_containers() {
    use State::{Created, Exited, Running, Unknown};
    let simple = |policy: &str| pod(policy, vec![], vec![container("a"), container("b")]);
    check(vec![
        (
            "nothing yet",
            simple("Always"),
            ObservedPod::default(),
            vec!["sandbox#0"],
            false,
        ),
        (
            "sandbox ready",
            simple("Always"),
            world(vec![]),
            vec!["start Regular[0]#0", "start Regular[1]#0"],
            false,
        ),
        (
            "all runs",
            simple("Always"),
            world(vec![seen("a", 0, Running, 0), seen("b", 0, Running, 0)]),
            vec![],
            false,
        ),
        (
            "one ended",
            simple("Always"),
            world(vec![seen("a", 0, Exited, 0), seen("b", 0, Running, 0)]),
            vec!["start Regular[0]#1"],
            false,
        ),
        (
            "one done on failure policy",
            simple("OnFailure"),
            world(vec![seen("a", 0, Exited, 0), seen("b", 0, Exited, 3)]),
            vec!["start Regular[1]#1"],
            false,
        ),
        (
            "all done",
            simple("Never"),
            world(vec![seen("a", 0, Exited, 0), seen("b", 0, Exited, 1)]),
            vec![],
            true,
        ),
        (
            "created but never started",
            simple("Always"),
            world(vec![seen("a", 0, Created, 0), seen("b", 0, Running, 0)]),
            vec!["rm a-0", "start Regular[0]#0"],
            false,
        ),
        (
            "unknown state",
            simple("Always"),
            world(vec![seen("a", 0, Unknown, 0), seen("b", 0, Running, 0)]),
            vec!["kill a", "start Regular[0]#1"],
            false,
        ),
    ]);
}

#[test]
fn init_containers_and_sidecars() {
    use State::{Exited, Running};
    let with_init = |policy: &str| {
        pod(
            policy,
            vec![container("i0"), container("i1")],
            vec![container("a")],
        )
    };
    let with_sidecar = || {
        pod(
            "Always",
            vec![sidecar("s"), container("i")],
            vec![container("a")],
        )
    };
    check(vec![
        (
            "first init",
            with_init("Always"),
            world(vec![]),
            vec!["start Init[0]#0"],
            false,
        ),
        (
            "init works",
            with_init("Always"),
            world(vec![seen("i0", 0, Running, 0)]),
            vec![],
            false,
        ),
        (
            "second init",
            with_init("Always"),
            world(vec![seen("i0", 0, Exited, 0)]),
            vec!["start Init[1]#0"],
            false,
        ),
        (
            "init failed, again",
            with_init("Always"),
            world(vec![seen("i0", 0, Exited, 1)]),
            vec!["start Init[0]#1"],
            false,
        ),
        (
            "init failed for good",
            with_init("Never"),
            world(vec![seen("i0", 0, Exited, 1)]),
            vec![],
            true,
        ),
        (
            "init done",
            with_init("Always"),
            world(vec![seen("i0", 0, Exited, 0), seen("i1", 0, Exited, 0)]),
            vec!["start Regular[0]#0"],
            false,
        ),
        (
            "first init was removed meanwhile",
            with_init("Always"),
            world(vec![seen("i1", 0, Exited, 0)]),
            vec!["start Regular[0]#0"],
            false,
        ),
        (
            "sidecar runs, init next",
            with_sidecar(),
            world(vec![seen("s", 0, Running, 0)]),
            vec!["start Init[1]#0"],
            false,
        ),
        (
            "sidecar died during init",
            with_sidecar(),
            world(vec![seen("s", 0, Exited, 0), seen("i", 0, Running, 0)]),
            vec!["start Init[0]#1"],
            false,
        ),
        (
            "sidecar died later",
            with_sidecar(),
            world(vec![
                seen("s", 0, Exited, 0),
                seen("i", 0, Exited, 0),
                seen("a", 0, Running, 0),
            ]),
            vec!["start Init[0]#1"],
            false,
        ),
    ]);
}

#[test]
fn a_finished_pod_stops_its_sidecars() {
    let pod = pod("Never", vec![sidecar("s")], vec![container("a")]);
    let observed = world(vec![
        seen("s", 0, State::Running, 0),
        seen("a", 0, State::Exited, 0),
    ]);
    let plan = planned(&pod, &observed);
    assert!(plan.finished);
    assert_eq!(steps(&plan), ["killpod"]);
}

#[test]
fn a_sidecar_gates_the_next_by_its_startup_probe() {
    let mut gate = sidecar("s");
    gate.startup_probe = Some(Probe::default());
    let pod = pod("Always", vec![gate], vec![container("a")]);
    let observed = world(vec![seen("s", 0, State::Running, 0)]);
    assert!(steps(&planned(&pod, &observed)).is_empty());
    let mut books = Bookkeeping::default();
    let verdict = |startup| Verdicts {
        startup: Some(startup),
        ..Default::default()
    };
    books.probes.insert("s-0".into(), verdict(Verdict::Success));
    let passed = plan(&pod, &observed, &books, at(200));
    assert_eq!(steps(&passed), ["start Regular[0]#0"]);
    books.probes.insert("s-0".into(), verdict(Verdict::Failure));
    let failed = plan(&pod, &observed, &books, at(200));
    assert_eq!(steps(&failed), ["kill s", "start Init[0]#1"]);
}

#[test]
fn a_failed_liveness_probe_restarts_with_upstreams_words() {
    for (policy, message, wanted) in [
        (
            "Always",
            "Container a failed liveness probe, will be restarted",
            vec!["kill a", "start Regular[0]#1"],
        ),
        ("Never", "Container a failed liveness probe", vec!["kill a"]),
    ] {
        let pod = pod(policy, vec![], vec![container("a")]);
        let observed = world(vec![seen("a", 0, State::Running, 0)]);
        let mut books = Bookkeeping::default();
        let verdicts = Verdicts {
            liveness: Some(Verdict::Failure),
            ..Default::default()
        };
        books.probes.insert("a-0".into(), verdicts);
        let plan = plan(&pod, &observed, &books, at(200));
        assert_eq!(steps(&plan), wanted);
        assert!(matches!(&plan.steps[0], Step::Kill { message: m, .. } if m == message));
    }
}

#[test]
fn resources_change_in_place_or_by_a_restart() {
    use k8s_openapi::api::core::v1::ContainerResizePolicy;
    let resources = |memory_limit| AppliedResources {
        cpu_shares: 2,
        cpu_quota: 0,
        memory_limit,
    };
    let mut running = seen("a", 0, State::Running, 0);
    running.resources = Some(resources(1000));
    let observed = world(vec![running]);
    let mut books = Bookkeeping::default();
    let mut pod = pod("Never", vec![], vec![container("a")]);
    let planned = |pod: &Pod, books: &Bookkeeping| steps(&plan(pod, &observed, books, at(200)));
    books.wanted_resources.insert("a".into(), resources(1000));
    assert!(planned(&pod, &books).is_empty());
    books.wanted_resources.insert("a".into(), resources(2000));
    assert_eq!(planned(&pod, &books), ["resize a"]);
    // The kernel rounded what it was given: that is no reason to give it again.
    books.resized.insert("a-0".into(), resources(2000));
    assert!(planned(&pod, &books).is_empty());
    books.resized.clear();
    let policy = ContainerResizePolicy {
        resource_name: "memory".into(),
        restart_policy: "RestartContainer".into(),
    };
    pod.spec.as_mut().unwrap().containers[0].resize_policy = Some(vec![policy]);
    assert_eq!(planned(&pod, &books), ["kill a", "start Regular[0]#1"]);
}

#[test]
fn back_off_holds_a_container() {
    let pod = pod("Always", vec![], vec![container("a")]);
    let observed = world(vec![seen("a", 3, State::Exited, 1)]);
    let mut books = Bookkeeping::default();
    books
        .delays
        .advance(&backoff_key(&spec::containers(&pod)[0]), at(90));
    let held = plan(&pod, &observed, &books, at(104));
    assert!(held.steps.is_empty());
    assert!(!held.finished);
    assert_eq!(held.wake_after, Some(Duration::from_secs(6)));
    assert_eq!(
        held.backoffs["a"].message,
        "back-off 10s restarting failed container=a pod=p_ns(u)"
    );
    let free = plan(&pod, &observed, &books, at(110));
    assert_eq!(steps(&free), ["start Regular[0]#4"]);
}

#[test]
fn a_lost_sandbox_starts_the_pod_anew() {
    let mut observed = world(vec![
        seen("i", 0, State::Exited, 0),
        seen("a", 2, State::Exited, 0),
    ]);
    observed.sandboxes[0].ready = false;
    let always = pod("Always", vec![container("i")], vec![container("a")]);
    let wanted = ["rm i-0", "sandbox#1"];
    assert_eq!(steps(&planned(&always, &observed)), wanted);
    let never = pod("Never", vec![container("i")], vec![container("a")]);
    assert!(planned(&never, &observed).finished);
    let on_failure = pod("OnFailure", vec![container("i")], vec![container("a")]);
    assert!(planned(&on_failure, &observed).finished);
}

#[test]
fn old_containers_are_removed_but_the_last_two() {
    let pod = pod("Always", vec![], vec![container("a")]);
    let observed = world(vec![
        seen("a", 3, State::Running, 0),
        seen("a", 2, State::Exited, 0),
        seen("a", 1, State::Exited, 0),
        seen("gone", 0, State::Exited, 0),
    ]);
    assert_eq!(steps(&planned(&pod, &observed)), ["rm a-1", "rm gone-0"]);
}

#[test]
fn restart_counts_go_on_when_the_runtime_forgot() {
    let pod = pod("Always", vec![], vec![container("a")]);
    let mut books = Bookkeeping::default();
    books.known_restarts.insert("a".into(), 4);
    let plan = plan(&pod, &world(vec![]), &books, at(200));
    assert_eq!(steps(&plan), ["start Regular[0]#5"]);
}

/// It restarts alone after 2, and all do after 3.
fn asking(name: &str) -> Container {
    serde_json::from_value(serde_json::json!({
        "name": name, "image": "img", "restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [2]}},
            {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [2, 3]}},
        ],
    }))
    .unwrap()
}

#[test]
fn a_container_may_ask_that_all_start_anew() {
    use State::{Exited, Running};
    let init = vec![container("i"), sidecar("s")];
    let pod = pod("Never", init, vec![asking("a"), container("b")]);
    let ended = |code: i32| {
        world(vec![
            seen("i", 0, Exited, 0),
            seen("s", 2, Running, 0),
            seen("a", 1, Exited, code),
            seen("a", 0, Exited, 3),
            seen("b", 0, Running, 0),
        ])
    };
    // Those that asked for it go last: while they are there, it is not forgotten.
    let all = [
        "reset b-0",
        "reset i-0",
        "reset s-2",
        "reset a-1",
        "reset a-0",
    ];
    assert_eq!(steps(&planned(&pod, &ended(3))), all);
    // The first rule that matches counts.
    assert_eq!(steps(&planned(&pod, &ended(2))), ["start Regular[0]#2"]);
    assert_eq!(steps(&planned(&pod, &ended(4))), [] as [&str; 0]);
    // The sandbox may have gone too.
    let mut down = ended(3);
    down.sandboxes.clear();
    assert_eq!(steps(&planned(&pod, &down)), all);
    let mut books = Bookkeeping::default();
    books.held.insert("a".into(), at(300));
    books.begin_anew(&ended(3));
    let mut again = world(vec![]);
    let next = |observed: &ObservedPod| steps(&plan(&pod, observed, &books, at(200)));
    assert_eq!(next(&again), ["start Init[0]#1"]);
    again.containers.push(seen("i", 1, Exited, 0));
    assert_eq!(next(&again), ["start Init[1]#3"]);
    again.containers.push(seen("s", 3, Running, 0));
    assert_eq!(next(&again), ["start Regular[0]#2", "start Regular[1]#1"]);
}

#[test]
fn sidecars_stop_last_and_backwards() {
    let pod = pod(
        "Always",
        vec![sidecar("s0"), container("i"), sidecar("s1")],
        vec![container("a"), container("b")],
    );
    let observed = world(vec![
        seen("s0", 0, State::Running, 0),
        seen("s1", 0, State::Running, 0),
        seen("a", 0, State::Running, 0),
        seen("b", 0, State::Running, 0),
        seen("i", 0, State::Exited, 0),
    ]);
    let names: Vec<Vec<String>> = termination_order(&pod, &observed)
        .iter()
        .map(|group| {
            let mut names: Vec<String> = group.iter().map(|c| c.name.clone()).collect();
            names.sort();
            names
        })
        .collect();
    assert_eq!(names, [vec!["a", "b"], vec!["s1"], vec!["s0"]]);
}

/// A toy runtime: applies the steps of a plan to the observed state.
fn apply(pod: &Pod, observed: &mut ObservedPod, plan: &PodPlan, clock: &mut i64) {
    for step in &plan.steps {
        *clock += 1;
        match step {
            Step::KillPod => {
                for c in &mut observed.containers {
                    if c.state != State::Exited {
                        end(c, 137, *clock);
                    }
                }
                for s in &mut observed.sandboxes {
                    s.ready = false;
                }
            }
            Step::CreateSandbox { attempt } => observed.sandboxes.push(ObservedSandbox {
                id: format!("s{attempt}"),
                attempt: *attempt,
                ready: true,
                created_at: at(*clock),
                ips: vec!["10.0.0.3".into()],
                host_network: false,
            }),
            Step::Kill { id, .. } => {
                if let Some(c) = observed.containers.iter_mut().find(|c| c.id == *id) {
                    end(c, 137, *clock);
                }
            }
            Step::Start {
                kind,
                index,
                attempt,
            } => {
                let c = spec::container_at(pod, *kind, *index).unwrap();
                let mut new = seen(&c.name, *attempt, State::Running, 0);
                new.created_at = at(*clock);
                observed.containers.push(new);
            }
            Step::Reset { id } | Step::Remove { id } => {
                observed.containers.retain(|c| c.id != *id);
            }
            Step::RemoveSandbox { id } => observed.sandboxes.retain(|s| s.id != *id),
            Step::Resize { .. } => {}
        }
        observed.sort();
    }
}

fn end(container: &mut ObservedContainer, code: i32, clock: i64) {
    container.state = State::Exited;
    container.exit_code = code;
    container.finished_at = Some(at(clock));
}

proptest! {
    /// Whatever dies and fails: no container ever runs twice at once, no regular container starts before the init
    /// containers are through, and executing plans comes to rest.
    #[test]
    fn plans_come_to_rest(
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
        events in prop::collection::vec((0usize..6, 0i32..4), 0..25),
    ) {
        let pod = pod(
            policy,
            vec![container("i0"), sidecar("s"), container("i1")],
            vec![container("a"), asking("b")],
        );
        let mut observed = ObservedPod::default();
        let mut clock = 1000;
        for (victim, code) in events {
            for round in 0.. {
                prop_assert!(round < 30, "does not come to rest: {observed:?}");
                let next = plan(&pod, &observed, &Bookkeeping::default(), at(clock));
                for step in &next.steps {
                    if let Step::Start { kind: Kind::Regular, .. } = step {
                        let through = observed.latest("i1").is_some_and(|c| c.exit_code == 0 && c.state == State::Exited);
                        let before = observed.containers.iter().any(|c| matches!(c.name.as_str(), "a" | "b"));
                        prop_assert!(through || before);
                    }
                }
                apply(&pod, &mut observed, &next, &mut clock);
                for name in ["i0", "s", "i1", "a", "b"] {
                    let running = observed.containers.iter().filter(|c| c.name == name && c.state == State::Running).count();
                    prop_assert!(running <= 1, "{name} runs {running} times");
                }
                if next.steps.is_empty() {
                    break;
                }
            }
            clock += 50;
            if victim == 5 {
                for s in &mut observed.sandboxes {
                    s.ready = false;
                }
                for c in &mut observed.containers {
                    if c.state == State::Running {
                        end(c, 137, clock);
                    }
                }
            } else if let Some(c) = observed.containers.iter_mut().find(|c| c.state == State::Running && c.name == ["i0", "s", "i1", "a", "b"][victim]) {
                end(c, code, clock);
            }
        }
    }
}

#[test]
fn deletion_is_not_the_plans_business() {
    // A pod that is being deleted is terminated by the worker, which asks for `termination_order` alone.
    let mut pod = pod("Always", vec![], vec![container("a")]);
    pod.metadata.deletion_timestamp = Some(Time(at(5)));
    assert_eq!(termination_order(&pod, &world(vec![])).len(), 0);
}

#[test]
fn a_replaced_sandbox_goes_when_nothing_of_it_is_left() {
    let old = ObservedSandbox {
        id: "old".into(),
        ready: false,
        created_at: at(0),
        ..Default::default()
    };
    let pod = pod("Always", vec![], vec![container("a")]);
    let mut observed = world(vec![seen("a", 1, State::Running, 0)]);
    observed.sandboxes.push(old);
    assert_eq!(steps(&planned(&pod, &observed)), ["rm sandbox old"]);
    observed.containers.push(ObservedContainer {
        sandbox_id: "old".into(),
        ..seen("a", 0, State::Exited, 1)
    });
    assert!(steps(&planned(&pod, &observed)).is_empty());
}
