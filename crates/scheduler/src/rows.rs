//! What the scheduler remembers of pods: a row each, and one shape for all pods that ask for the same.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Weak};

use k8s_openapi::api::core::v1::{
    Container, NodeAffinity, Pod, PodSpec, PodStatus, Toleration, TopologySpreadConstraint, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::Serialize;
use skiff_client::ObjectKey;

use crate::device_wants::DeviceWants;
use crate::resources::{Resources, compared, requests};
use crate::terms::{Labels, Terms};

use crate::nodes::normal_image;
use crate::plugins::node_declared_features::{Features, needed};
use crate::plugins::pod_topology_spread::{self, Constraint};

/// Opts a pod in to lose its node when that no longer matches what the pod required of it: upstream planned this as
/// `requiredDuringSchedulingRequiredDuringExecution` and never had it.
pub const REQUIRED_DURING_EXECUTION: &str = "scheduling.skiff.local/required-during-execution";

/// A port of the host that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    pub status: Box<str>,
    /// The reason.
    pub reason: Box<str>,
    /// The message.
    pub message: Box<str>,
    /// When the status last changed.
    pub since: Option<Time>,
}

/// A claim that a pod uses as a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClaimUse {
    /// The claim's name. That of a claim made for the pod depends on the pod's: this is the volume's then.
    pub name: Box<str>,
    /// Whether the claim is made for the pod.
    pub ephemeral: bool,
}

/// A disk that a pod names directly, and that not any two pods may share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Disk {
    /// A GCE persistent disk: its name, whether it is only read.
    Gce(String, bool),
    /// An AWS volume: its id.
    Aws(String),
    /// An iSCSI target: its qualified name, whether it is only read.
    Iscsi(String, bool),
    /// A RADOS block device: monitors, pool, image, whether it is only read.
    Rbd(Vec<String>, String, String, bool),
}

/// Which nodes a pod wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeWants {
    /// Labels that the node must have.
    pub selector: Labels,
    /// Affinity to nodes.
    pub affinity: Option<NodeAffinity>,
}

impl NodeWants {
    /// Whether any node will do.
    #[must_use]
    pub fn any_node(&self) -> bool {
        let required = |affinity: &NodeAffinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .is_some()
        };
        self.selector.is_empty() && !self.affinity.as_ref().is_some_and(required)
    }
}

/// What pods of the same make ask for, apart from amounts. Shared by all of them.
#[derive(Debug)]
pub struct Shape {
    /// The namespace.
    pub namespace: Box<str>,
    /// The labels.
    pub labels: Labels,
    /// The controller: its kind and name.
    pub owner: Option<(Box<str>, Box<str>)>,
    /// Host ports that are taken.
    pub ports: Vec<HostPort>,
    /// The images of containers and volumes, with tags.
    pub images: Vec<Box<str>>,
    /// How many containers there are.
    pub containers: usize,
    /// Which nodes are wanted.
    pub wants: Arc<NodeWants>,
    /// Taints that are borne.
    pub tolerations: Arc<[Toleration]>,
    /// How the pods are to be spread.
    pub spread: Vec<Constraint>,
    /// What is said about other pods.
    pub terms: Terms,
    /// Claims that are used.
    pub claims: Vec<ClaimUse>,
    /// Disks that are named directly.
    pub disks: Vec<Disk>,
    /// Whether the node has to be as wanted for as long as the pod is there.
    pub during_execution: bool,
    /// What is needed of the kubelet that not every one has.
    pub needs: Features,
}

/// What tells one shape from another.
#[derive(Serialize)]
struct Identity<'a> {
    namespace: &'a str,
    labels: &'a Option<Labels>,
    owner: Option<(&'a str, &'a str)>,
    ports: &'a [HostPort],
    images: &'a [Box<str>],
    containers: usize,
    node_selector: &'a Option<Labels>,
    affinity: &'a Option<k8s_openapi::api::core::v1::Affinity>,
    tolerations: &'a Option<Vec<Toleration>>,
    spread: &'a Option<Vec<TopologySpreadConstraint>>,
    claims: &'a [ClaimUse],
    disks: &'a [Disk],
    during_execution: bool,
    needs: Features,
}

/// Hashes what is written to it, twice.
struct Digest(DefaultHasher, DefaultHasher);

impl std::io::Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes);
        self.1.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Identity<'_> {
    fn digest(&self) -> u128 {
        let mut digest = Digest(DefaultHasher::new(), DefaultHasher::new());
        digest.1.write_u8(1);
        // Writing to a hasher cannot fail, and these types have string keys only.
        drop(serde_json::to_writer(&mut digest, self));
        (u128::from(digest.0.finish()) << 64) | u128::from(digest.1.finish())
    }
}

/// All shapes that any pod has.
#[derive(Debug, Default)]
pub struct Shapes {
    known: HashMap<u128, Weak<Shape>>,
    sweep_at: usize,
}

impl Shapes {
    fn of(&mut self, meta: &ObjectMeta, spec: &PodSpec) -> Arc<Shape> {
        let (ports, images) = (host_ports(spec), images(spec));
        let (claims, disks) = volumes(spec);
        let owner = controller(meta.owner_references.as_deref().unwrap_or_default());
        let containers = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let annotations = meta.annotations.as_ref();
        let during_execution = annotations
            .and_then(|all| all.get(REQUIRED_DURING_EXECUTION))
            .is_some_and(|value| value == "true");
        let needs = needed(spec);
        let identity = Identity {
            namespace,
            labels: &meta.labels,
            owner,
            ports: &ports,
            images: &images,
            containers,
            node_selector: &spec.node_selector,
            affinity: &spec.affinity,
            tolerations: &spec.tolerations,
            spread: &spec.topology_spread_constraints,
            claims: &claims,
            disks: &disks,
            during_execution,
            needs,
        };
        let digest = identity.digest();
        if let Some(known) = self.known.get(&digest).and_then(Weak::upgrade) {
            return known;
        }
        let labels = meta.labels.clone().unwrap_or_default();
        let affinity = spec.affinity.as_ref();
        let wants = Arc::new(NodeWants {
            selector: spec.node_selector.clone().unwrap_or_default(),
            affinity: affinity.and_then(|all| all.node_affinity.clone()),
        });
        let tolerations: Arc<[Toleration]> = spec.tolerations.as_deref().unwrap_or_default().into();
        let own = pod_topology_spread::Owner {
            namespace,
            labels: &labels,
            wants: &wants,
            tolerations: &tolerations,
        };
        let stated = spec.topology_spread_constraints.as_deref();
        let shape = Arc::new(Shape {
            terms: Terms::of(namespace, &labels, affinity),
            spread: own.constraints(stated.unwrap_or_default()),
            namespace: namespace.into(),
            labels,
            owner: owner.map(|(kind, name)| (kind.into(), name.into())),
            ports,
            images,
            containers,
            wants,
            tolerations,
            claims,
            disks,
            during_execution,
            needs,
        });
        self.known.insert(digest, Arc::downgrade(&shape));
        if self.known.len() > self.sweep_at {
            self.known.retain(|_, shape| shape.strong_count() > 0);
            self.known.shrink_to_fit();
            self.sweep_at = (self.known.len() * 2).max(64);
        }
        shape
    }

    /// How many are remembered, those included that no pod has any more.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

fn controller(owners: &[OwnerReference]) -> Option<(&str, &str)> {
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    Some((&owner.kind, &owner.name))
}

/// A pod.
#[derive(Clone, Debug)]
pub struct PodRow {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The uid.
    pub uid: Box<str>,
    /// The resource version, for references in events.
    pub resource_version: Box<str>,
    /// The generation, which conditions carry.
    pub generation: Option<i64>,
    /// The node it is bound to; empty for none.
    pub node: Box<str>,
    /// The node that room is being made for it on; empty for none.
    pub nominated: Box<str>,
    /// Who is to schedule it.
    pub scheduler: Box<str>,
    /// The more, the sooner.
    pub priority: i32,
    /// Whether it may push others out.
    pub preempts: bool,
    /// What it asks for, apart from amounts.
    pub shape: Arc<Shape>,
    /// What it asks for.
    pub requests: Resources,
    /// CPU and memory that it is taken to use when nodes are compared.
    pub compared: (i64, i64),
    /// What it wants of devices; none for nothing.
    pub devices: Option<Box<DeviceWants>>,
    /// Who holds it back.
    pub gates: Vec<Box<str>>,
    /// Whether it is on its way out.
    pub deleting: bool,
    /// Whether it is so because of another pod that is more important.
    pub preempted: bool,
    /// When it started, in seconds since 1970.
    pub started: Option<i64>,
    /// The condition PodScheduled.
    pub condition: ScheduledCondition,
}

impl PodRow {
    /// The row of a pod.
    #[must_use]
    pub fn of(pod: &Pod, shapes: &mut Shapes) -> Self {
        let (empty, no_status) = (PodSpec::default(), PodStatus::default());
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let status = pod.status.as_ref().unwrap_or(&no_status);
        let meta = &pod.metadata;
        let node = spec.node_name.as_deref().unwrap_or_default();
        // Only what runs has something that a resize has yet to change.
        let running = Some(status).filter(|_| !node.is_empty());
        let deleting = meta.deletion_timestamp.is_some();
        let gates = spec.scheduling_gates.iter().flatten();
        Self {
            key: ObjectKey::of(meta),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            resource_version: meta.resource_version.as_deref().unwrap_or_default().into(),
            generation: meta.generation,
            node: node.into(),
            nominated: status
                .nominated_node_name
                .as_deref()
                .unwrap_or_default()
                .into(),
            scheduler: spec
                .scheduler_name
                .as_deref()
                .filter(|name| !name.is_empty())
                .unwrap_or(crate::profile::DEFAULT_SCHEDULER)
                .into(),
            priority: spec.priority.unwrap_or(0),
            preempts: spec.preemption_policy.as_deref() != Some("Never"),
            shape: shapes.of(meta, spec),
            compared: compared(spec, running),
            requests: requests(spec, running),
            devices: DeviceWants::of(pod, spec),
            gates: gates.map(|gate| gate.name.as_str().into()).collect(),
            deleting,
            preempted: deleting && preempted(status),
            started: status.start_time.as_ref().map(|time| time.0.as_second()),
            condition: scheduled(status),
        }
    }

    /// Whether the same pod asks for the same as before.
    #[must_use]
    pub fn asks_the_same(&self, other: &Self) -> bool {
        self.uid == other.uid
            && self.priority == other.priority
            && self.gates == other.gates
            && self.requests == other.requests
            && self.devices == other.devices
            && Arc::ptr_eq(&self.shape, &other.shape)
    }

    /// Its labels.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.shape.labels
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.shape.namespace
    }

    /// The names of the claims that it uses, and whether they are made for it.
    pub fn claims(&self) -> impl Iterator<Item = (String, bool)> + '_ {
        self.shape.claims.iter().map(|claim| {
            let name = if claim.ephemeral {
                format!("{}-{}", self.key.name(), claim.name)
            } else {
                claim.name.to_string()
            };
            (name, claim.ephemeral)
        })
    }
}

fn scheduled(status: &PodStatus) -> ScheduledCondition {
    let mut all = status.conditions.iter().flatten();
    let Some(found) = all.find(|found| found.type_ == "PodScheduled") else {
        return ScheduledCondition::default();
    };
    // Most pods are bound; what is said of them is not read.
    if found.status == "True" {
        return ScheduledCondition {
            status: "True".into(),
            ..ScheduledCondition::default()
        };
    }
    ScheduledCondition {
        status: found.status.as_str().into(),
        reason: found.reason.as_deref().unwrap_or_default().into(),
        message: found.message.as_deref().unwrap_or_default().into(),
        since: found.last_transition_time.clone(),
    }
}

fn preempted(status: &PodStatus) -> bool {
    let mut all = status.conditions.iter().flatten();
    all.any(|found| {
        found.type_ == "DisruptionTarget"
            && found.status == "True"
            && found.reason.as_deref() == Some("PreemptionByScheduler")
    })
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
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

fn images(spec: &PodSpec) -> Vec<Box<str>> {
    let containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    let volumes = spec.volumes.iter().flatten();
    let volumes = volumes.filter_map(|volume| volume.image.as_ref()?.reference.as_deref());
    containers
        .filter_map(|container| container.image.as_deref())
        .chain(volumes)
        .map(|name| normal_image(name).into())
        .collect()
}

fn volumes(spec: &PodSpec) -> (Vec<ClaimUse>, Vec<Disk>) {
    let all = || spec.volumes.iter().flatten();
    let claims = all().filter_map(|volume| {
        if let Some(claim) = &volume.persistent_volume_claim {
            return Some(ClaimUse {
                name: claim.claim_name.as_str().into(),
                ephemeral: false,
            });
        }
        volume.ephemeral.as_ref().map(|_| ClaimUse {
            name: volume.name.as_str().into(),
            ephemeral: true,
        })
    });
    (claims.collect(), all().filter_map(disk).collect())
}

fn disk(volume: &Volume) -> Option<Disk> {
    if let Some(gce) = &volume.gce_persistent_disk {
        return Some(Disk::Gce(gce.pd_name.clone(), gce.read_only == Some(true)));
    }
    if let Some(aws) = &volume.aws_elastic_block_store {
        return Some(Disk::Aws(aws.volume_id.clone()));
    }
    if let Some(target) = &volume.iscsi {
        return Some(Disk::Iscsi(
            target.iqn.clone(),
            target.read_only == Some(true),
        ));
    }
    let device = volume.rbd.as_ref()?;
    Some(Disk::Rbd(
        device.monitors.clone(),
        device.pool.clone().unwrap_or_default(),
        device.image.clone(),
        device.read_only == Some(true),
    ))
}
