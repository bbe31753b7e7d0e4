//! The state as watches, decisions and failed bindings change it.

use super::*;
use serde_json::json;
use skiff_base::SimulatedClock;
use std::time::{Duration, SystemTime};

fn state() -> (Arc<State>, Arc<SimulatedClock>) {
    let clock = SimulatedClock::new(SystemTime::UNIX_EPOCH);
    (
        State::new("default-scheduler", clock.clone(), Random::seeded(1)),
        clock,
    )
}

fn node(name: &str, cpu: &str) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}}))
    .unwrap()
}

fn pod(name: &str, node: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "a", "uid": name, "generation": 1},
        "spec": {"nodeName": node, "schedulerName": "default-scheduler",
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]},
    }))
    .unwrap()
}

fn decide(state: &State) -> String {
    match state.decide() {
        None => "nothing".to_owned(),
        Some(Decision::Bind(pod, node)) => format!("{} on {node}", pod.key.name()),
        Some(Decision::Report(pod, _)) => format!("{} nowhere", pod.key.name()),
    }
}

fn nodes(state: &Arc<State>, change: Change<Node>) {
    NodeSink(state.clone()).apply(change);
}

fn pods(state: &Arc<State>, change: Change<Pod>) {
    PodSink(state.clone()).apply(change);
}

#[test]
fn an_assumed_pod_takes_its_room_until_it_is_gone() {
    let (state, clock) = state();
    nodes(&state, Change::Applied(node("n", "1")));
    pods(&state, Change::Applied(pod("a", "")));
    pods(&state, Change::Applied(pod("b", "")));
    assert_eq!(
        [decide(&state), decide(&state), decide(&state)],
        ["a on n", "b nowhere", "nothing"]
    );
    // The watch still shows the old state; that changes nothing.
    pods(&state, Change::Applied(pod("a", "")));
    assert_eq!(decide(&state), "nothing");
    pods(&state, Change::Applied(pod("a", "n")));
    clock.advance(Duration::from_secs(20));
    assert_eq!(decide(&state), "nothing");
    pods(&state, Change::Deleted(pod("a", "n")));
    assert_eq!(decide(&state), "b on n");
}

#[test]
fn a_failed_binding_frees_the_room_and_is_tried_again() {
    let (state, clock) = state();
    nodes(&state, Change::Applied(node("n", "1")));
    pods(&state, Change::Applied(pod("a", "")));
    let Some(Decision::Bind(row, _)) = state.decide() else {
        panic!("fits");
    };
    state.binding_failed(&row);
    assert_eq!(decide(&state), "nothing");
    clock.advance(Duration::from_secs(1));
    assert_eq!(decide(&state), "a on n");
    pods(&state, Change::Deleted(pod("a", "")));
    state.binding_failed(&row);
    clock.advance(Duration::from_secs(100));
    assert_eq!(decide(&state), "nothing");
}

#[test]
fn only_what_helps_wakes() {
    let (state, clock) = state();
    nodes(&state, Change::Applied(node("n", "500m")));
    pods(&state, Change::Applied(pod("a", "")));
    assert_eq!(decide(&state), "a nowhere");
    clock.advance(Duration::from_secs(20));
    // A heartbeat tells nothing new.
    nodes(&state, Change::Applied(node("n", "500m")));
    assert_eq!(decide(&state), "nothing");
    nodes(&state, Change::Applied(node("n", "2")));
    assert_eq!(decide(&state), "a on n");
}

#[test]
fn other_schedulers_gated_and_dying_pods_are_left_alone() {
    let (state, _) = state();
    nodes(&state, Change::Applied(node("n", "8")));
    let mut other = pod("other", "");
    other.spec.as_mut().unwrap().scheduler_name = Some("mine".into());
    let mut gated = pod("gated", "");
    gated.spec.as_mut().unwrap().scheduling_gates =
        serde_json::from_value(json!([{"name": "g"}])).unwrap();
    let mut dying = pod("dying", "");
    dying.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        Default::default(),
    ));
    for pod in [other, gated, dying] {
        pods(&state, Change::Applied(pod));
    }
    assert_eq!(decide(&state), "nothing");
    pods(&state, Change::Applied(pod("gated", "")));
    assert_eq!(decide(&state), "gated on n");
}

#[test]
fn a_node_that_goes_and_comes_back_keeps_count_of_its_pods() {
    let (state, _) = state();
    pods(&state, Change::Applied(pod("early", "n")));
    nodes(&state, Change::Applied(node("m", "1")));
    nodes(&state, Change::Applied(node("n", "1")));
    nodes(&state, Change::Deleted(node("m", "1")));
    pods(&state, Change::Applied(pod("a", "")));
    assert_eq!(decide(&state), "a nowhere");
    PodSink(state.clone()).replace(vec![pod("b", "")], "9");
    assert_eq!(decide(&state), "b on n");
}
