//! Whole decisions: which node, and what is said when there is none.

use super::*;
use crate::rows::{NodeFacts, NodeRow, PodRow};
use serde_json::{Value, json};
use std::sync::Arc;

fn node(name: &str, extra: Value) -> NodeRow {
    let mut object = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10", "ephemeral-storage": "10Gi"}},
    });
    merge(&mut object, extra);
    NodeRow {
        name: name.into(),
        facts: Some(NodeFacts::of(&serde_json::from_value(object).unwrap())),
        ..NodeRow::default()
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn pod(name: &str, spec: Value) -> PodRow {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "a", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    merge(&mut object["spec"], spec);
    PodRow::of(&serde_json::from_value(object).unwrap())
}

fn cpu(amount: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": amount}}}]})
}

fn run(pod: &PodRow, nodes: &[NodeRow]) -> String {
    match schedule(&Cycle::new(pod, nodes, true), 0, |_| 0).0 {
        Verdict::Fits(index) => nodes[index].name.to_string(),
        Verdict::Unfit(diagnosis) => diagnosis.message,
    }
}

#[test]
fn messages_are_upstreams() {
    let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    for (spec, nodes, expected) in [
        (json!({}), vec![], "no nodes available to schedule pods"),
        (
            json!({}),
            vec![node("n", tainted.clone())],
            "0/1 nodes are available: 1 node(s) had untolerated taint(s). no new claims to deallocate, \
             preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        ),
        (
            cpu("3"),
            vec![
                node("n", tainted),
                node("m", json!({"status": {"allocatable": {"cpu": "2"}}})),
                node("o", json!({"spec": {"unschedulable": true}})),
            ],
            "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), \
             1 node(s) were unschedulable. no new claims to deallocate, \
             preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
        ),
        (
            json!({"nodeSelector": {"disk": "ssd"}, "preemptionPolicy": "Never"}),
            vec![node("n", json!({}))],
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
             no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.",
        ),
    ] {
        assert_eq!(run(&pod("p", spec), &nodes), expected);
    }
}

#[test]
fn a_full_node_may_be_helped_by_preemption() {
    let mut full = node("n", json!({}));
    full.add(Arc::new(pod("other", cpu("3500m"))));
    let pod = pod("p", cpu("1"));
    let nodes = [full];
    let (verdict, _) = schedule(&Cycle::new(&pod, &nodes, false), 0, |_| 0);
    let Verdict::Unfit(diagnosis) = verdict else {
        panic!("fits");
    };
    assert_eq!(diagnosis.resolvable, [0]);
    assert_eq!(
        diagnosis.message,
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, \
         preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    assert_ne!(diagnosis.wakes_on & event::POD_REMOVED, 0);
}

#[test]
fn the_emptier_and_the_preferred_node_win() {
    let mut busy = node("busy", json!({}));
    busy.add(Arc::new(pod("other", cpu("3"))));
    assert_eq!(
        run(&pod("p", cpu("100m")), &[busy, node("idle", json!({}))]),
        "idle"
    );
    let preferred = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}});
    let ssd = node("ssd", json!({"metadata": {"labels": {"disk": "ssd"}}}));
    assert_eq!(
        run(&pod("p", preferred), &[node("plain", json!({})), ssd]),
        "ssd"
    );
}

#[test]
fn host_ports_and_pod_counts_are_respected() {
    let port = json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let mut taken = node("n", json!({}));
    taken.add(Arc::new(pod("other", port.clone())));
    assert!(
        run(&pod("p", port.clone()), &[taken])
            .contains("1 node(s) didn't have free ports for the requested pod ports.")
    );
    let mut full = node("n", json!({"status": {"allocatable": {"pods": "1"}}}));
    let other = Arc::new(pod("other", port.clone()));
    full.add(other.clone());
    assert!(run(&pod("p", json!({})), &[full]).contains("1 Too many pods."));
    let mut freed = node("n", json!({}));
    freed.add(other.clone());
    freed.remove(&other.key);
    assert_eq!(run(&pod("p", port), &[freed]), "n");
}

#[test]
fn anti_affinity_keeps_replicas_apart_both_ways() {
    let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
    let mut first = node("n1", json!({}));
    first.add(Arc::new(pod("a", apart.clone())));
    assert_eq!(
        run(&pod("b", apart.clone()), &[first, node("n2", json!({}))]),
        "n2"
    );
    let mut first = node("n1", json!({}));
    first.add(Arc::new(pod("a", apart)));
    let message = run(&pod("plain", json!({})), &[first]);
    assert!(
        message.contains("1 node(s) didn't satisfy existing pods anti-affinity rules."),
        "{message}"
    );
}

#[test]
fn affinity_follows_pods_and_lets_the_first_in() {
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
    assert_eq!(run(&pod("a", near.clone()), &[node("n1", json!({}))]), "n1");
    let mut second = node("n2", json!({}));
    second.add(Arc::new(pod("a", json!({}))));
    assert_eq!(run(&pod("b", near), &[node("n1", json!({})), second]), "n2");
}

#[test]
fn spreading_allows_no_more_than_the_skew() {
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]});
    let mut first = node("n1", json!({}));
    first.add(Arc::new(pod("a", json!({}))));
    assert_eq!(
        run(&pod("b", spread.clone()), &[first, node("n2", json!({}))]),
        "n2"
    );
    let mut first = node("n1", json!({}));
    first.add(Arc::new(pod("a", json!({}))));
    let closed = node("n2", json!({"spec": {"unschedulable": true}}));
    let message = run(&pod("b", spread), &[first, closed]);
    assert!(
        message.contains("1 node(s) didn't match pod topology spread constraints"),
        "{message}"
    );
}
