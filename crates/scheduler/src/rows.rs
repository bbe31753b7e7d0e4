//! What the scheduler remembers of pods and nodes: a row each, with no more than it reads.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Affinity, Node, Pod, PodSpec, Taint, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_client::ObjectKey;

use crate::resources::{Resources, requests, thousandths};

/// A port of the host that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// The address; `0.0.0.0` for all.
    pub ip: Box<str>,
    /// The number.
    pub port: i32,
}

/// The condition PodScheduled, as it was last seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScheduledCondition {
    /// `True`, `False`, or empty for none.
    pub status: String,
    /// The reason.
    pub reason: String,
    /// The message.
    pub message: String,
    /// When the status last changed.
    pub since: Option<Time>,
}

/// A pod.
#[derive(Debug)]
pub struct PodRow {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The uid.
    pub uid: String,
    /// The resource version, for references in events.
    pub resource_version: String,
    /// The generation, which conditions carry.
    pub generation: Option<i64>,
    /// The node it is bound to; empty for none.
    pub node: Box<str>,
    /// The more, the sooner.
    pub priority: i32,
    /// Whether it may push others out.
    pub preempts: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it asks for.
    pub requests: Resources,
    /// CPU and memory that it is taken to use when nodes are compared.
    pub compared: (i64, i64),
    /// Host ports that it takes.
    pub ports: Vec<HostPort>,
    /// Its images.
    pub images: Vec<String>,
    /// Labels that its node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Affinity to nodes and pods.
    pub affinity: Option<Box<Affinity>>,
    /// Taints that it bears.
    pub tolerations: Vec<Toleration>,
    /// How it wants to be spread.
    pub spread: Vec<TopologySpreadConstraint>,
    /// Whether somebody holds it back.
    pub gated: bool,
    /// Whether it is on its way out.
    pub deleting: bool,
    /// The condition PodScheduled.
    pub condition: ScheduledCondition,
}

impl PodRow {
    /// The row of a pod.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let meta = &pod.metadata;
        let requests = requests(spec);
        let containers = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers);
        let condition = pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let condition = condition
            .clone()
            .find(|found| found.type_ == "PodScheduled");
        Self {
            key: ObjectKey::of(meta),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            generation: meta.generation,
            node: spec.node_name.clone().unwrap_or_default().into(),
            priority: spec.priority.unwrap_or(0),
            preempts: spec.preemption_policy.as_deref() != Some("Never"),
            labels: meta.labels.clone().unwrap_or_default(),
            compared: requests.compared(),
            requests,
            ports: host_ports(spec),
            images: containers
                .filter_map(|container| container.image.clone())
                .collect(),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            affinity: spec.affinity.clone().map(Box::new),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            spread: spec.topology_spread_constraints.clone().unwrap_or_default(),
            gated: spec
                .scheduling_gates
                .as_ref()
                .is_some_and(|gates| !gates.is_empty()),
            deleting: meta.deletion_timestamp.is_some(),
            condition: condition.map_or_else(ScheduledCondition::default, |found| {
                ScheduledCondition {
                    status: found.status.clone(),
                    reason: found.reason.clone().unwrap_or_default(),
                    message: found.message.clone().unwrap_or_default(),
                    since: found.last_transition_time.clone(),
                }
            }),
        }
    }

    /// Whether the same pod asks for the same as before.
    #[must_use]
    pub fn asks_the_same(&self, other: &Self) -> bool {
        self.uid == other.uid
            && self.generation == other.generation
            && self.labels == other.labels
            && self.gated == other.gated
            && self.tolerations == other.tolerations
            && self.requests == other.requests
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecar = |container: &&k8s_openapi::api::core::v1::Container| {
        container.restart_policy.as_deref() == Some("Always")
    };
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let ports = spec.containers.iter().chain(sidecars);
    let ports = ports.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty());
            Some(HostPort {
                protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
                ip: ip.unwrap_or("0.0.0.0").into(),
                port: number,
            })
        })
        .collect()
}

/// What of a node comes from its object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints that keep pods off.
    pub taints: Vec<Taint>,
    /// Whether it takes no new pods.
    pub unschedulable: bool,
    /// What pods may use.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub max_pods: i64,
    /// Images that it has, with their sizes.
    pub images: HashMap<String, i64>,
}

impl NodeFacts {
    /// The facts of a node.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        let images = status
            .iter()
            .flat_map(|status| status.images.iter().flatten());
        let images = images.flat_map(|image| {
            let size = image.size_bytes.unwrap_or(0);
            image
                .names
                .iter()
                .flatten()
                .map(move |name| (normal_image(name), size))
        });
        let spec = node.spec.as_ref();
        Self {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec
                .and_then(|spec| spec.taints.clone())
                .unwrap_or_default(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            allocatable: Resources::from_map(allocatable),
            max_pods: allocatable
                .and_then(|all| all.get("pods"))
                .map_or(0, |q| thousandths(q) / 1000),
            images: images.collect(),
        }
    }
}

/// The name of an image with a tag.
#[must_use]
pub fn normal_image(name: &str) -> String {
    let path = name.rsplit_once('/').map_or(name, |(_, last)| last);
    if path.contains(':') || path.contains('@') {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

/// A node with the pods on it.
#[derive(Debug, Default)]
pub struct NodeRow {
    /// The name.
    pub name: Arc<str>,
    /// What its object says; none while only pods name it.
    pub facts: Option<NodeFacts>,
    /// What its pods ask for in all.
    pub requested: Resources,
    /// What its pods are taken to use in all.
    pub compared: (i64, i64),
    /// Host ports that are taken.
    pub ports: Vec<HostPort>,
    /// Its pods.
    pub pods: HashMap<ObjectKey, Arc<PodRow>>,
}

impl NodeRow {
    /// Puts a pod on the node.
    pub fn add(&mut self, pod: Arc<PodRow>) {
        self.remove(&pod.key);
        self.requested.add(&pod.requests);
        self.compared.0 += pod.compared.0;
        self.compared.1 += pod.compared.1;
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.insert(pod.key.clone(), pod);
    }

    /// Takes a pod off the node.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<Arc<PodRow>> {
        let pod = self.pods.remove(key)?;
        self.requested.subtract(&pod.requests);
        self.compared.0 -= pod.compared.0;
        self.compared.1 -= pod.compared.1;
        for port in &pod.ports {
            if let Some(index) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(index);
            }
        }
        Some(pod)
    }

    /// The value of a label; none where there is none.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.facts.as_ref()?.labels.get(key).map(String::as_str)
    }
}
