//! Which volumes are to be attached to which nodes and which are to be detached, decided from what is there alone.
//!
//! A volume is attached where a `VolumeAttachment` says so, which its driver makes true. A kubelet mounts a volume only
//! while its node's `status.volumesAttached` names it, and names it in `status.volumesInUse` before it does: so a volume
//! is taken out of the first list, then seen to be absent from the second, before it is detached.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use sha2::{Digest as _, Sha256};

use crate::pods;
use crate::seen_pod::Pod;

/// A volume that is still mounted on a node that is not ready is detached all the same after this time.
pub(crate) const FORCE_AFTER: Duration = Duration::from_secs(360);
/// A driver that does nothing for this long is told of.
pub(crate) const ATTACH_TIMEOUT: Duration = Duration::from_secs(120);

const PLUGIN: &str = "kubernetes.io/csi/";
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The driver and the handle of a volume that a driver serves.
pub(crate) fn source(volume: &PersistentVolume) -> Option<(&str, &str)> {
    let csi = volume.spec.as_ref()?.csi.as_ref()?;
    Some((&csi.driver, &csi.volume_handle))
}

/// The name under which nodes speak of a volume.
pub(crate) fn unique_name(driver: &str, handle: &str) -> String {
    format!("{PLUGIN}{driver}^{handle}")
}

/// The name of the attachment of a volume to a node.
pub(crate) fn attachment_name(driver: &str, handle: &str, node: &str) -> String {
    let digest = Sha256::digest(format!("{handle}{driver}{node}"));
    let mut name = "csi-".to_owned();
    for byte in digest {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// Whether `unique`, as a node names a volume, is what the attachment `name` attaches to that node.
pub(crate) fn is_of(unique: &str, name: &str, node: &str) -> bool {
    let parts = unique.strip_prefix(PLUGIN);
    parts
        .and_then(|parts| parts.split_once('^'))
        .is_some_and(|(driver, handle)| attachment_name(driver, handle, node) == name)
}

/// Whether only one node may have the volume at a time. Without access modes nobody knows, and the driver is asked.
pub(crate) fn is_exclusive(volume: &PersistentVolume) -> bool {
    let modes = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.access_modes.as_deref());
    let modes = modes.unwrap_or_default();
    let many = |mode: &String| matches!(mode.as_str(), "ReadWriteMany" | "ReadOnlyMany");
    !modes.is_empty() && !modes.iter().any(many)
}

/// Whether the volumes of the node's pods are attached here rather than by its kubelet.
pub(crate) fn is_managed(node: &Node) -> bool {
    let annotations = node.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key(MANAGED))
}

/// Whether the pod needs its volumes: it was given a node, and has containers there that run or may run.
pub(crate) fn needs_volumes(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let mut containers = status
        .into_iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let runs = containers.any(|container| {
        let state = container.state.as_ref();
        state.is_none_or(|state| state.terminated.is_none() && state.waiting.is_none())
    });
    !pods::node_name(pod).is_empty() && !pods::is_terminal(pod) && (!pods::is_deleting(pod) || runs)
}

/// What is known of a node, as far as one attachment is concerned.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeState {
    /// Its kubelet has the volume mounted, or may have. So it is with a node that is gone.
    pub in_use: bool,
    pub ready: bool,
    pub out_of_service: bool,
}

impl NodeState {
    /// Of the node of the attachment `name`.
    pub fn of(node: Option<&Node>, name: &str) -> Self {
        let Some(node) = node else {
            return Self {
                in_use: true,
                ..Self::default()
            };
        };
        let own = node.metadata.name.as_deref().unwrap_or_default();
        let status = node.status.as_ref();
        let mut in_use = status
            .into_iter()
            .flat_map(|status| status.volumes_in_use.iter().flatten());
        let mut taints = node
            .spec
            .iter()
            .flat_map(|spec| spec.taints.iter().flatten());
        Self {
            in_use: in_use.any(|unique| is_of(unique, name, own)),
            ready: crate::node_health::readiness(node) == Some("True"),
            out_of_service: taints.any(|taint| taint.key == OUT_OF_SERVICE),
        }
    }
}

/// One attachment of the volume.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attached {
    pub name: String,
    pub node: String,
    pub attached: bool,
    pub deleting: bool,
    pub state: NodeState,
    /// For how long no pod has wanted it there.
    pub unwanted_for: Duration,
    /// For how long the driver has had it to do.
    pub pending_for: Duration,
    pub error: Option<String>,
}

impl Attached {
    /// Without what only its node and the past tell.
    pub fn of(attachment: &VolumeAttachment) -> Self {
        let status = attachment.status.as_ref();
        let error = status.and_then(|status| status.attach_error.as_ref());
        Self {
            name: attachment.metadata.name.clone().unwrap_or_default(),
            node: attachment.spec.node_name.clone(),
            attached: status.is_some_and(|status| status.attached),
            deleting: attachment.metadata.deletion_timestamp.is_some(),
            error: error.map(|error| error.message.clone().unwrap_or_default()),
            ..Self::default()
        }
    }
}

/// All that is known of one volume.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub exclusive: bool,
    /// The nodes where pods want it; none where it is not a volume that is attached.
    pub wanted: BTreeSet<String>,
    pub attached: Vec<Attached>,
}

/// One thing to be done for a volume.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Ask for it on this node.
    Attach(String),
    /// It is there: let the node know.
    Report(String),
    /// Take it away; `verify`: unless the node, asked anew, still has it mounted.
    Detach {
        name: String,
        node: String,
        verify: bool,
    },
    /// It cannot be attached here, as these nodes have it.
    Refuse { node: String, holders: Vec<String> },
    /// The driver could not attach it, or does not.
    Failed { node: String, why: Failure },
    /// Look again after this time.
    Wait(Duration),
}

/// Why a volume is not attached yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Said(String),
    Silent,
}

fn detach(attached: &Attached) -> Option<Step> {
    let state = &attached.state;
    let late = attached.unwanted_for > FORCE_AFTER;
    let lost = state.out_of_service || late && !state.ready;
    if state.in_use && !lost {
        // Once the time is over, it is the node that has to change.
        let left = FORCE_AFTER.saturating_sub(attached.unwanted_for);
        return (!late).then(|| Step::Wait(left + Duration::from_secs(1)));
    }
    Some(Step::Detach {
        name: attached.name.clone(),
        node: attached.node.clone(),
        verify: !late && !state.out_of_service,
    })
}

fn follow(attached: &Attached, steps: &mut Vec<Step>) {
    let node = attached.node.clone();
    if attached.attached {
        steps.push(Step::Report(node));
    } else if let Some(message) = &attached.error {
        let why = Failure::Said(message.clone());
        steps.push(Step::Failed { node, why });
    } else if attached.pending_for >= ATTACH_TIMEOUT {
        let why = Failure::Silent;
        steps.push(Step::Failed { node, why });
        steps.push(Step::Wait(ATTACH_TIMEOUT));
    } else {
        steps.push(Step::Wait(ATTACH_TIMEOUT - attached.pending_for));
    }
}

/// What is to be done, detaching first. Several waits mean the shortest.
pub(crate) fn plan(observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    let kept = |attached: &&Attached| observed.wanted.contains(&attached.node);
    for attached in observed.attached.iter().filter(|at| !kept(at)) {
        if !attached.deleting {
            steps.extend(detach(attached));
        }
    }
    for attached in observed.attached.iter().filter(kept) {
        if !attached.deleting {
            follow(attached, &mut steps);
        }
    }
    let mut holders: BTreeSet<&String> = observed.attached.iter().map(|at| &at.node).collect();
    for node in &observed.wanted {
        // One that is on its way out has to be gone first, also from the same node.
        if holders.contains(node) {
            continue;
        }
        if observed.exclusive && !holders.is_empty() {
            steps.push(Step::Refuse {
                node: node.clone(),
                holders: holders.iter().map(|name| (*name).clone()).collect(),
            });
        } else {
            holders.insert(node);
            steps.push(Step::Attach(node.clone()));
        }
    }
    steps
}

/// What a refused pod is told; `others` are the pods that use the volume on the nodes that have it.
pub(crate) fn refusal(volume: &str, namespace: &str, others: &[(String, String)]) -> String {
    let local = others
        .iter()
        .filter(|(other, _)| other == namespace)
        .map(|(_, name)| name.as_str());
    let local: Vec<&str> = local.collect();
    let far = others.len() - local.len();
    let why = if others.is_empty() {
        "Volume is already exclusively attached to one node and can't be attached to another"
            .to_owned()
    } else if local.is_empty() {
        format!("Volume is already used by {far} pod(s) in different namespaces")
    } else {
        let names = local.join(", ");
        let more = if far > 0 {
            format!(" and {far} pod(s) in different namespaces")
        } else {
            String::new()
        };
        format!("Volume is already used by pod(s) {names}{more}")
    };
    format!("Multi-Attach error for volume \"{volume}\" {why}")
}

/// The nodes' own lists: by attachment the name that a node knows it by. `attached` are all attachments to the node that
/// are to be told; `known` is what the node was told before.
pub(crate) fn report(
    attached: &BTreeMap<String, Option<String>>,
    known: &[String],
    node: &str,
) -> Vec<String> {
    let mut names: Vec<String> = attached
        .iter()
        .filter_map(|(name, unique)| {
            // The volume's object may be gone: the node still knows how it is called.
            let told = || known.iter().find(|unique| is_of(unique, name, node));
            unique.clone().or_else(|| told().cloned())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
#[path = "attach_tests.rs"]
mod tests;
