//! A state to be filled and asked, for tests.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use skiff_base::{Random, SimulatedClock};
use skiff_client::ObjectKey;

use crate::decision::{Decision, Failure};
use crate::profile::Profile;
use crate::queue::Rests;
use crate::state::State;

pub(crate) struct Scene {
    pub state: Arc<State>,
    pub clock: Arc<SimulatedClock>,
}

pub(crate) fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// A node with four CPUs and room for ten pods, and what `extra` says.
pub(crate) fn node(name: &str, extra: Value) -> Node {
    let mut object = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10", "ephemeral-storage": "10Gi"}},
    });
    merge(&mut object, extra);
    serde_json::from_value(object).unwrap()
}

/// A pod in namespace `a` labelled `app=web`, and what `spec` says.
pub(crate) fn pod(name: &str, spec: Value) -> Pod {
    pod_with(name, json!({"spec": spec}))
}

/// The same, and what `extra` says.
pub(crate) fn pod_with(name: &str, extra: Value) -> Pod {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "a", "uid": format!("uid-{name}"), "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    merge(&mut object, extra);
    serde_json::from_value(object).unwrap()
}

/// The part of a spec that asks for so much CPU.
pub(crate) fn cpu(amount: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": amount}}}]})
}

pub(crate) fn scene() -> Scene {
    scene_with(vec![Profile::default()])
}

pub(crate) fn scene_with(profiles: Vec<Profile>) -> Scene {
    let clock = SimulatedClock::new(SystemTime::UNIX_EPOCH);
    let state = State::new(profiles, Rests::default(), clock.clone(), Random::seeded(1));
    Scene {
        state: Arc::new(state),
        clock,
    }
}

impl Scene {
    pub fn nodes(self, all: impl IntoIterator<Item = Node>) -> Self {
        all.into_iter()
            .for_each(|node| self.state.apply_node(&node));
        self
    }

    pub fn apply(&self, pod: &Pod) {
        self.state.apply_pod(pod);
    }

    /// A pod that runs on a node.
    pub fn on(self, node: &str, mut pod: Pod) -> Self {
        pod.spec.as_mut().unwrap().node_name = Some(node.to_owned());
        self.apply(&pod);
        self
    }

    pub fn remove(&self, pod: &Pod) {
        self.state.remove_pod(&ObjectKey::of(&pod.metadata));
    }

    pub fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// What the next decision is.
    pub fn decide(&self) -> String {
        match self.state.decide() {
            None => "nothing".to_owned(),
            Some(Decision::Bind(found)) => format!("{} on {}", found.pod.key.name(), found.node),
            Some(Decision::Report(failure)) => format!("{} nowhere", failure.pod.key.name()),
            Some(Decision::Evict(found)) => format!("{} off {}", found.pod.key.name(), found.node),
            Some(Decision::Negotiate { pod, .. }) => format!("{} negotiated", pod.key.name()),
            Some(Decision::Consult { pod, .. }) => format!("{} asked", pod.key.name()),
        }
    }

    pub fn failure(&self) -> Failure {
        match self.state.decide() {
            Some(Decision::Report(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }

    /// The node that the pod gets, or why it gets none.
    pub fn place(&self, pod: &Pod) -> String {
        self.apply(pod);
        match self.state.decide() {
            Some(Decision::Bind(found)) => found.node.to_string(),
            Some(Decision::Report(failure)) => failure.message,
            other => panic!("{other:?}"),
        }
    }
}
