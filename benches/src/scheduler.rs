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

/// One shape.
struct Shape {
    name: &'static str,
    nodes: usize,
    /// Pods that are there before.
    before: usize,
    /// Pods that are measured.
    measured: usize,
    /// The pods that are there before, by number.
    first: fn(usize) -> Value,
    /// The pods that are measured.
    then: fn(usize) -> Value,
    budget: &'static str,
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "basic, 5,000 nodes, 10,000 pods",
        nodes: 5000,
        before: 1000,
        measured: 10_000,
        first: |_| plain(),
        then: |_| plain(),
        budget: "10,000 (upstream 680)",
    },
    Shape {
        name: "basic, 5,000 nodes, 50,000 pods",
        nodes: 5000,
        before: 1000,
        measured: 50_000,
        first: |_| plain(),
        then: |_| plain(),
        budget: "10,000 (upstream 810)",
    },
    Shape {
        name: "node affinity",
        nodes: 5000,
        before: 5000,
        measured: 10_000,
        first: |_| node_affinity(),
        then: |_| node_affinity(),
        budget: "(upstream 220)",
    },
    Shape {
        name: "pod affinity",
        nodes: 5000,
        before: 5000,
        measured: 5000,
        first: |_| {
            pod_affinity(
                "requiredDuringSchedulingIgnoredDuringExecution",
                "podAffinity",
                "zone",
            )
        },
        then: |_| {
            pod_affinity(
                "requiredDuringSchedulingIgnoredDuringExecution",
                "podAffinity",
                "zone",
            )
        },
        budget: "2,000 (upstream 35)",
    },
    Shape {
        name: "pod anti-affinity",
        nodes: 5000,
        before: 1000,
        measured: 2000,
        first: |_| {
            pod_affinity(
                "requiredDuringSchedulingIgnoredDuringExecution",
                "podAntiAffinity",
                "kubernetes.io/hostname",
            )
        },
        then: |_| {
            pod_affinity(
                "requiredDuringSchedulingIgnoredDuringExecution",
                "podAntiAffinity",
                "kubernetes.io/hostname",
            )
        },
        budget: "2,000 (upstream 60)",
    },
    Shape {
        name: "preferred pod affinity",
        nodes: 5000,
        before: 5000,
        measured: 5000,
        first: |_| preferred("podAffinity"),
        then: |_| preferred("podAffinity"),
        budget: "(upstream 90)",
    },
    Shape {
        name: "preferred pod anti-affinity",
        nodes: 5000,
        before: 5000,
        measured: 5000,
        first: |_| preferred("podAntiAffinity"),
        then: |_| preferred("podAntiAffinity"),
        budget: "(upstream 90)",
    },
    Shape {
        name: "topology spread",
        nodes: 5000,
        before: 1000,
        measured: 5000,
        first: |_| plain(),
        then: |_| spread("DoNotSchedule"),
        budget: "5,000 (upstream 460)",
    },
    Shape {
        name: "preferred topology spread",
        nodes: 5000,
        before: 1000,
        measured: 5000,
        first: |_| plain(),
        then: |_| spread("ScheduleAnyway"),
        budget: "5,000",
    },
    Shape {
        name: "preemption, 5,000 nodes",
        nodes: 5000,
        before: 20_000,
        measured: 5000,
        first: |_| large(0),
        then: |_| large(10),
        budget: "(upstream 570)",
    },
    Shape {
        name: "daemon set, 15,000 nodes",
        nodes: 15_000,
        before: 0,
        measured: 30_000,
        first: |_| plain(),
        then: |number| pinned(number % 15_000),
        budget: "(upstream 1,100)",
    },
    Shape {
        name: "mixed: plain, affinity, anti-affinity, spread",
        nodes: 5000,
        before: 2000,
        measured: 5000,
        first: mixed,
        then: mixed,
        budget: "(upstream 710)",
    },
    Shape {
        name: "plain among 200 unschedulable",
        nodes: 5000,
        before: 200,
        measured: 10_000,
        first: |_| asking("90", 0),
        then: |_| plain(),
        budget: "(upstream 590)",
    },
];

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

fn term(key: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"color": "blue"}}})
}

fn pod_affinity(when: &str, which: &str, key: &str) -> Value {
    with("affinity", json!({which: {when: [term(key)]}}))
}

fn preferred(which: &str) -> Value {
    let when = "preferredDuringSchedulingIgnoredDuringExecution";
    let terms = json!([{"weight": 1, "podAffinityTerm": term("kubernetes.io/hostname")}]);
    with("affinity", json!({which: {when: terms}}))
}

fn spread(action: &str) -> Value {
    with(
        "topologySpreadConstraints",
        json!([{"maxSkew": 5, "topologyKey": "zone", "whenUnsatisfiable": action,
            "labelSelector": {"matchLabels": {"color": "blue"}}}]),
    )
}

fn pinned(node: usize) -> Value {
    with(
        "affinity",
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [format!("node-{node}")]}]}]}}}),
    )
}

fn mixed(number: usize) -> Value {
    match number % 5 {
        0 => plain(),
        1 => pod_affinity(
            "requiredDuringSchedulingIgnoredDuringExecution",
            "podAffinity",
            "zone",
        ),
        2 => preferred("podAntiAffinity"),
        3 => spread("DoNotSchedule"),
        _ => node_affinity(),
    }
}

fn node(number: usize) -> Result<Node> {
    let name = format!("node-{number}");
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": format!("zone{}", number % 3)}},
        "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}},
    }))?)
}

fn pod(name: &str, spec: &Value, node: &str) -> Result<Pod> {
    let mut spec = spec.clone();
    if let (Some(spec), false) = (spec.as_object_mut(), node.is_empty()) {
        spec.insert("nodeName".to_owned(), json!(node));
    }
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "bench", "uid": name, "labels": {"color": "blue"}}, "spec": spec,
    }))?)
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
                    state.room_made(&failure.pod.key, false);
                }
            }
            Decision::Consult { .. } | Decision::Evict(_) => {}
        }
    }
    outcome.time = start.elapsed();
    outcome
}

fn run(shape: &Shape, nodes: usize) -> Result<(Outcome, Duration)> {
    let clock = SystemClock::shared();
    let profiles = vec![Profile::default()];
    let state = Arc::new(State::new(
        profiles,
        Rests::default(),
        clock,
        Random::seeded(1),
    ));
    for number in 0..nodes {
        state.apply_node(&node(number)?);
    }
    let scale = |count: usize| count * nodes / shape.nodes;
    for number in 0..scale(shape.before) {
        state.apply_pod(&pod(
            &format!("first-{number}"),
            &(shape.first)(number),
            "",
        )?);
    }
    drain(&state);
    let count = scale(shape.measured);
    let specs: Vec<Value> = (0..count).map(|number| (shape.then)(number)).collect();
    let pods: Result<Vec<Pod>> = specs
        .iter()
        .enumerate()
        .map(|(number, spec)| pod(&format!("pod-{number}"), spec, ""))
        .collect();
    let pods = pods?;
    let start = Instant::now();
    pods.iter().for_each(|pod| state.apply_pod(pod));
    let seen = start.elapsed();
    let outcome = drain(&state);
    if outcome.bound < count / 2 {
        bail!(
            "{}: only {} of {count} pods were bound",
            shape.name,
            outcome.bound
        );
    }
    // What the watch says afterwards is no news and has to be cheap.
    for pod in &pods {
        state.remove_pod(&ObjectKey::of(&pod.metadata));
    }
    Ok((outcome, seen))
}

/// Measures all shapes whose names contain `only`, on `share` percent of the nodes.
pub fn measure(only: &str, share: usize, figures: &mut Figures) -> Result<()> {
    for shape in SHAPES.iter().filter(|shape| shape.name.contains(only)) {
        let (outcome, seen) = run(shape, (shape.nodes * share / 100).max(1))?;
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
