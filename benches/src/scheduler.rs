//! The scheduler's core alone, in this process: no API server, no sockets. Shapes and sizes are those of upstream's
//! `scheduler_perf`; upstream's thresholds, which count binding through its API server too, are printed beside.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use skiff_base::{Random, SystemClock};
use skiff_client::ObjectKey;
use skiff_scheduler::decision::Decision;
use skiff_scheduler::profile::Profile;
use skiff_scheduler::queue::Rests;
use skiff_scheduler::state::State;

use crate::figures::Figures;

/// One of upstream's shapes.
pub struct Shape {
    pub name: &'static str,
    pub nodes: usize,
    /// Pods that are there before.
    pub before: usize,
    /// Pods that are measured.
    pub measured: usize,
    /// The pods that are there before, by number.
    pub first: fn(usize) -> Value,
    /// The pods that are measured.
    pub then: fn(usize) -> Value,
    /// What goes on meanwhile.
    pub churn: Churn,
    /// The project's budget, and upstream's thresholds: the one that the plan names, and that of release 1.36.
    pub budget: &'static str,
}

/// What goes on while pods are measured.
#[derive(Clone, Copy, PartialEq)]
pub enum Churn {
    Nothing,
    /// A pod that fits nowhere, five times a second.
    Unschedulable,
    /// A pod that others have to make room for, five times a second.
    Preempting,
    /// A node, a service and a pod that fits nowhere come and go each second.
    Mixed,
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// Numbers as in upstream's `test/integration/scheduler_perf`, release 1.36.
pub const SHAPES: &[Shape] = &[
    Shape {
        name: "basic, 5,000 nodes, 10,000 pods",
        nodes: 5000,
        before: 1000,
        measured: 10_000,
        first: |_| plain(),
        then: |_| plain(),
        churn: Churn::Nothing,
        budget: "10,000 (upstream 680; 1.36: 270)",
    },
    Shape {
        name: "basic, 5,000 nodes, 50,000 pods",
        nodes: 5000,
        before: 5000,
        measured: 50_000,
        first: |_| plain(),
        then: |_| plain(),
        churn: Churn::Nothing,
        budget: "10,000 (upstream 810; 1.36: none)",
    },
    Shape {
        name: "node affinity",
        nodes: 5000,
        before: 5000,
        measured: 10_000,
        first: |_| node_affinity(),
        then: |_| node_affinity(),
        churn: Churn::Nothing,
        budget: "(upstream 220; 1.36: 220)",
    },
    Shape {
        name: "pod affinity",
        nodes: 5000,
        before: 5000,
        measured: 5000,
        first: |_| pod_affinity("podAffinity", "zone"),
        then: |_| pod_affinity("podAffinity", "zone"),
        churn: Churn::Nothing,
        budget: "2,000 (upstream 35; 1.36: 35)",
    },
    Shape {
        name: "pod anti-affinity",
        nodes: 5000,
        before: 1000,
        measured: 2000,
        first: |_| pod_affinity("podAntiAffinity", HOST),
        then: |_| pod_affinity("podAntiAffinity", HOST),
        churn: Churn::Nothing,
        budget: "2,000 (upstream 60; 1.36: 60)",
    },
    Shape {
        name: "preferred pod affinity",
        nodes: 5000,
        before: 5000,
        measured: 5000,
        first: |_| preferred("podAffinity"),
        then: |_| preferred("podAffinity"),
        churn: Churn::Nothing,
        budget: "(upstream 90; 1.36: 90)",
    },
    Shape {
        name: "preferred pod anti-affinity",
        nodes: 5000,
        before: 5000,
        measured: 5000,
        first: |_| preferred("podAntiAffinity"),
        then: |_| preferred("podAntiAffinity"),
        churn: Churn::Nothing,
        budget: "(upstream 90; 1.36: 90)",
    },
    Shape {
        name: "topology spread",
        nodes: 5000,
        before: 5000,
        measured: 5000,
        first: |_| plain(),
        then: |_| spread("DoNotSchedule"),
        churn: Churn::Nothing,
        budget: "5,000 (upstream 460; 1.36: 85)",
    },
    Shape {
        name: "preferred topology spread",
        nodes: 5000,
        before: 5000,
        measured: 5000,
        first: |_| plain(),
        then: |_| spread("ScheduleAnyway"),
        churn: Churn::Nothing,
        budget: "5,000 (1.36: 125)",
    },
    Shape {
        name: "preemption, every pod makes room",
        nodes: 5000,
        before: 20_000,
        measured: 5000,
        first: |_| large(0),
        then: |_| asking("3", 10),
        churn: Churn::Nothing,
        budget: "(upstream 570; 1.36: none)",
    },
    Shape {
        name: "preemption, beside plain pods",
        nodes: 5000,
        before: 20_000,
        measured: 5000,
        first: |_| large(0),
        then: |_| plain(),
        churn: Churn::Preempting,
        budget: "(upstream 570; 1.36: 160)",
    },
    Shape {
        name: "daemon set, 15,000 nodes",
        nodes: 15_000,
        before: 0,
        measured: 30_000,
        first: |_| plain(),
        then: pinned,
        churn: Churn::Nothing,
        budget: "(upstream 1,100; 1.36: 390)",
    },
    Shape {
        name: "mixed pods there before",
        nodes: 5000,
        before: 10_000,
        measured: 5000,
        first: mixed,
        then: |_| plain(),
        churn: Churn::Nothing,
        budget: "(1.36: 140)",
    },
    Shape {
        name: "mixed churn",
        nodes: 5000,
        before: 0,
        measured: 10_000,
        first: |_| plain(),
        then: |_| plain(),
        churn: Churn::Mixed,
        budget: "(upstream 710; 1.36: 265)",
    },
    Shape {
        name: "unschedulable",
        nodes: 5000,
        before: 100,
        measured: 10_000,
        first: |_| plain(),
        then: |_| plain(),
        churn: Churn::Unschedulable,
        budget: "(upstream 590; 1.36: 140 to 170)",
    },
];

const HOST: &str = "kubernetes.io/hostname";

fn asking(cpu: &str, priority: i32) -> Value {
    json!({"priority": priority, "containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10",
        "resources": {"requests": {"cpu": cpu, "memory": "500Mi"}}}]})
}

fn plain() -> Value {
    asking("100m", 0)
}

fn large(priority: i32) -> Value {
    asking("900m", priority)
}

fn with(key: &str, value: Value) -> Value {
    let mut spec = plain();
    if let Some(spec) = spec.as_object_mut() {
        spec.insert(key.to_owned(), value);
    }
    spec
}

fn node_affinity() -> Value {
    with(
        "affinity",
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["zone0", "zone1"]}]}]}}}),
    )
}

fn term(key: &str, color: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"color": color}}})
}

/// Pods that keep away from each other are green; they do not mind the others.
fn color(spec: &Value) -> &'static str {
    let apart = &spec["affinity"]["podAntiAffinity"][REQUIRED];
    if apart.is_array() { "green" } else { "blue" }
}

fn pod_affinity(which: &str, key: &str) -> Value {
    let color = if which == "podAffinity" {
        "blue"
    } else {
        "green"
    };
    with("affinity", json!({which: {REQUIRED: [term(key, color)]}}))
}

fn preferred(which: &str) -> Value {
    let when = "preferredDuringSchedulingIgnoredDuringExecution";
    let terms = json!([{"weight": 1, "podAffinityTerm": term(HOST, "blue")}]);
    with("affinity", json!({which: {when: terms}}))
}

fn spread(action: &str) -> Value {
    with(
        "topologySpreadConstraints",
        json!([{"maxSkew": 5, "topologyKey": "zone", "whenUnsatisfiable": action,
            "labelSelector": {"matchLabels": {"color": "blue"}}}]),
    )
}

/// Upstream sends all of these pods to one node; here each goes to a node of its own, as a DaemonSet's do.
fn pinned(number: usize) -> Value {
    let node = format!("node-{}", number / 2);
    with(
        "affinity",
        json!({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}}}),
    )
}

fn mixed(number: usize) -> Value {
    match number % 5 {
        0 => plain(),
        1 => pod_affinity("podAffinity", "zone"),
        2 => pod_affinity("podAntiAffinity", HOST),
        3 => preferred("podAffinity"),
        _ => preferred("podAntiAffinity"),
    }
}

/// The pods that churn makes; `None`: it makes none.
pub fn churning(churn: Churn) -> Option<Value> {
    match churn {
        Churn::Nothing => None,
        Churn::Unschedulable | Churn::Mixed => Some(asking("9", 10)),
        Churn::Preempting => Some(asking("3", 10)),
    }
}

/// A node of upstream's size.
pub fn node(number: usize) -> Value {
    let name = format!("node-{number}");
    let size = json!({"cpu": "4", "memory": "32Gi", "pods": "110"});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {HOST: name, "zone": format!("zone{}", number % 3)}},
        "status": {"capacity": size, "allocatable": size, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// A pod of a shape.
pub fn pod(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "bench", "uid": name, "labels": {"color": color(spec)}}, "spec": spec})
}

/// What became of pods.
#[derive(Default)]
struct Outcome {
    bound: usize,
    without: usize,
    room: usize,
    time: Duration,
}

/// Decides on all pods that wait.
fn drain(state: &State) -> Outcome {
    let mut outcome = Outcome::default();
    let start = Instant::now();
    while let Some(decision) = state.decide() {
        match decision {
            Decision::Bind(assignment) => {
                state.bound(&assignment);
                outcome.bound += 1;
            }
            Decision::Report(failure) => {
                outcome.without += 1;
                if let Some(preemption) = &failure.preemption {
                    outcome.room += 1;
                    for victim in &preemption.victims {
                        state.remove_pod(&victim.key);
                    }
                    state.room_made(&failure.pod.key, &preemption.victims, false);
                }
            }
            Decision::Consult { .. } | Decision::Negotiate { .. } | Decision::Evict(_) => {}
        }
    }
    outcome.time = start.elapsed();
    outcome
}

fn run(shape: &Shape, scale: f64) -> Result<(Outcome, Duration)> {
    let clock = SystemClock::shared();
    let profiles = vec![Profile::default()];
    let state = Arc::new(State::new(
        profiles,
        Rests::default(),
        clock,
        Random::seeded(1),
    ));
    let pods = |name: &str, count: usize, spec: &dyn Fn(usize) -> Value| -> Result<Vec<Pod>> {
        let pod = |number| pod(&format!("{name}-{number}"), &spec(number));
        let pods = (0..count).map(|number| serde_json::from_value(pod(number)));
        Ok(pods.collect::<Result<_, _>>()?)
    };
    for number in 0..scaled(shape.nodes, scale) {
        let node: Node = serde_json::from_value(node(number))?;
        state.apply_node(&node);
    }
    for pod in pods("first", scaled(shape.before, scale), &shape.first)? {
        state.apply_pod(&pod);
    }
    drain(&state);
    let count = scaled(shape.measured, scale);
    let measured = pods("pod", count, &shape.then)?;
    // As many as come while upstream's threshold of pods is met.
    let churn = churning(shape.churn);
    let churn = pods("churn", count / 50, &|_| churn.clone().unwrap_or_default());
    let start = Instant::now();
    if shape.churn != Churn::Nothing {
        churn?.iter().for_each(|pod| state.apply_pod(pod));
    }
    measured.iter().for_each(|pod| state.apply_pod(pod));
    let seen = start.elapsed();
    let outcome = drain(&state);
    if outcome.bound < count / 2 && outcome.room < count / 2 {
        bail!(
            "{}: only {} of {count} pods were bound",
            shape.name,
            outcome.bound
        );
    }
    // What the watch says afterwards is no news and has to be cheap.
    for pod in &measured {
        state.remove_pod(&ObjectKey::of(&pod.metadata));
    }
    Ok((outcome, seen))
}

/// A share of a number, at least one of it; none of none.
pub fn scaled(count: usize, scale: f64) -> usize {
    let share = (count as f64 * scale).round() as usize;
    share.max(usize::from(count > 0))
}

/// Measures all shapes whose names contain `only`, at a share of their size.
pub fn measure(only: &str, scale: f64, figures: &mut Figures) -> Result<()> {
    for shape in SHAPES.iter().filter(|shape| shape.name.contains(only)) {
        let (outcome, seen) = run(shape, scale)?;
        let rate = outcome.bound as f64 / outcome.time.as_secs_f64();
        let each = (outcome.time + seen).as_secs_f64() * 1e6 / outcome.bound as f64;
        let mut text = format!("{rate:.0} pods/s, {each:.0} us a pod with its first event");
        if outcome.without > 0 {
            text.push_str(&format!(
                ", {} attempts in vain, room made {} times",
                outcome.without, outcome.room
            ));
        }
        figures.add(&format!("decided: {}", shape.name), text, shape.budget);
    }
    Ok(())
}
