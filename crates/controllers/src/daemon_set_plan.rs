//! What a DaemonSet's controller does next: on which nodes it makes a pod, which pods it deletes, how it replaces old
//! ones, and the new status. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, PodTemplateSpec, Taint,
    Toleration,
};

use crate::deployment_plan::scaled;
use crate::ownership::label;
use crate::seen_pod::Pod;
use crate::taint_eviction::tolerates;
use crate::{node_selector, pods};

/// The label of a pod and of a revision that carries the revision's hash.
pub const HASH_LABEL: &str = "controller-revision-hash";
/// The label of a pod that carries the number of its template.
const GENERATION_LABEL: &str = "pod-template-generation";
/// The annotation of the set that counts its templates.
const GENERATION: &str = "deprecated.daemonset.template.generation";
/// The field by which a pod asks for its node.
const NODE_NAME: &str = "metadata.name";

/// What every pod of a DaemonSet tolerates: key and effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// What those on the host's network tolerate as well.
const TOLERATED_BY_HOST_NETWORK: (&str, &str) =
    ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What the plan is made from.
pub struct Observed<'a> {
    pub set: &'a DaemonSet,
    pub nodes: &'a [Arc<Node>],
    /// The pods that the set owns.
    pub pods: &'a [Arc<Pod>],
    /// The hash of the current revision.
    pub hash: &'a str,
    pub now: Timestamp,
}

/// What to do.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// The nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Pods that have failed, with their nodes: they are deleted too, but not too often.
    pub failed: Vec<(String, Arc<Pod>)>,
    /// Pods that have ended well: they are deleted too.
    pub succeeded: Vec<Arc<Pod>>,
}

/// Adds what every pod of a DaemonSet tolerates, unless it is there already with the same key and effect, which then
/// loses its limits.
fn add_tolerations(spec: &mut PodSpec) {
    let host = spec.host_network == Some(true);
    let added = TOLERATED
        .into_iter()
        .chain(host.then_some(TOLERATED_BY_HOST_NETWORK));
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in added {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        let known = tolerations.iter_mut().find(|found| {
            found.key == toleration.key
                && found.effect == toleration.effect
                && found.operator == toleration.operator
                && found.value.as_deref().unwrap_or_default().is_empty()
        });
        match known {
            Some(found) => *found = toleration,
            None => tolerations.push(toleration),
        }
    }
}

/// Whether a pod of the set may be made on a node, and whether one that is there may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fit {
    starts: bool,
    stays: bool,
}

/// A set's template, made ready to be held against nodes.
pub struct Placement {
    spec: PodSpec,
}

impl Placement {
    #[must_use]
    pub fn of(set: &DaemonSet) -> Self {
        let template = set
            .spec
            .as_ref()
            .and_then(|spec| spec.template.spec.clone());
        let mut spec = template.unwrap_or_default();
        add_tolerations(&mut spec);
        Self { spec }
    }

    fn fit(&self, node: &Node) -> Fit {
        let named = self
            .spec
            .node_name
            .as_deref()
            .filter(|name| !name.is_empty());
        let refused = Fit {
            starts: false,
            stays: false,
        };
        if named.is_some_and(|name| node.metadata.name.as_deref() != Some(name))
            || !node_selector::allows(&self.spec, node)
        {
            return refused;
        }
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
        let taints = taints.unwrap_or_default();
        let tolerations = self.spec.tolerations.as_deref().unwrap_or_default();
        let suffers = |effects: &[&str]| {
            let matters = |taint: &&Taint| effects.contains(&&*taint.effect);
            taints
                .iter()
                .filter(matters)
                .any(|taint| !tolerations.iter().any(|found| tolerates(found, taint)))
        };
        Fit {
            starts: !suffers(&["NoExecute", "NoSchedule"]),
            stays: !suffers(&["NoExecute"]),
        }
    }

    /// Whether the set has to look again after a node changed: it wants to be there and is not, or the other way
    /// round.
    #[must_use]
    pub fn concerns(&self, node: &Node, is_there: bool) -> bool {
        let fit = self.fit(node);
        fit.starts && !is_there || !fit.stays && is_there
    }
}

/// How the set counts its templates; none where the annotation is missing or unreadable.
fn generation(set: &DaemonSet) -> Option<i64> {
    let annotations = set.metadata.annotations.as_ref()?;
    annotations.get(GENERATION)?.parse().ok()
}

/// The template of the set's pods with what the controller adds; the node comes by [`for_node`].
#[must_use]
pub fn template(set: &DaemonSet, hash: &str) -> PodTemplateSpec {
    let mut template = set
        .spec
        .as_ref()
        .map(|spec| spec.template.clone())
        .unwrap_or_default();
    add_tolerations(template.spec.get_or_insert_default());
    let meta = template.metadata.get_or_insert_default();
    let labels = meta.labels.get_or_insert_default();
    if let Some(generation) = generation(set) {
        labels.insert(GENERATION_LABEL.to_owned(), generation.to_string());
    }
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    template
}

/// Makes the pod ask for this node and no other.
pub fn for_node(spec: &mut PodSpec, node: &str) {
    let term = NodeSelectorTerm {
        match_fields: Some(vec![NodeSelectorRequirement {
            key: NODE_NAME.to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![node.to_owned()]),
        }]),
        match_expressions: None,
    };
    let affinity = spec.affinity.get_or_insert_default();
    let affinity = affinity.node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![term],
    });
}

/// The node that a pod is on, or asks for.
#[must_use]
pub fn target(pod: &Pod) -> Option<&str> {
    let bound = pods::node_name(pod);
    if !bound.is_empty() {
        return Some(bound);
    }
    let affinity = pod
        .spec
        .as_ref()?
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let mut fields = required
        .node_selector_terms
        .iter()
        .flat_map(|term| term.match_fields.iter().flatten());
    let field = fields.find(|field| field.key == NODE_NAME && field.operator == "In")?;
    match field.values.as_deref()? {
        [node] => Some(node),
        _ => None,
    }
}

struct Planner<'a> {
    observed: &'a Observed<'a>,
    generation: Option<String>,
    min_ready: i32,
    /// The pods by node, in the order in which they are kept: bound ones first, then by age.
    on_node: BTreeMap<&'a str, Vec<&'a Arc<Pod>>>,
    nodes: HashMap<&'a str, Fit>,
}

/// The pods on a node that are not on their way out.
#[derive(Default)]
struct Versions<'a> {
    new: Option<&'a Arc<Pod>>,
    old: Option<&'a Arc<Pod>>,
}

/// Makes the plan and the status.
#[must_use]
pub fn plan(observed: &Observed) -> (Plan, DaemonSetStatus) {
    let placement = Placement::of(observed.set);
    let mut on_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in observed.pods {
        // One that has ended and is on its way out is only waited for by others.
        if pods::is_terminal(pod) && pods::is_deleting(pod) {
            continue;
        }
        if let Some(node) = target(pod) {
            on_node.entry(node).or_default().push(pod);
        }
    }
    for pods in on_node.values_mut() {
        pods.sort_by_key(|pod| {
            let meta = &pod.metadata;
            (
                pods::node_name(pod).is_empty(),
                &meta.creation_timestamp,
                &meta.name,
            )
        });
    }
    let nodes = observed.nodes.iter().map(|node| {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        (name, placement.fit(node))
    });
    let planner = Planner {
        nodes: nodes.collect(),
        observed,
        generation: generation(observed.set).map(|number| number.to_string()),
        min_ready: observed
            .set
            .spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0),
        on_node,
    };
    let mut plan = planner.place();
    let settled = plan.create.is_empty() && plan.delete.is_empty() && plan.succeeded.is_empty();
    if settled && planner.rolls() {
        let failed = std::mem::take(&mut plan.failed);
        plan = planner.roll();
        let rest = failed
            .into_iter()
            .filter(|(_, pod)| !plan.delete.contains(pod));
        plan.failed = rest.collect();
    }
    (plan, planner.status())
}

impl<'a> Planner<'a> {
    fn rolls(&self) -> bool {
        let spec = self.observed.set.spec.as_ref();
        let strategy = spec.and_then(|spec| spec.update_strategy.as_ref());
        strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
    }

    /// How many pods may be made beside old ones, and how many may be missing.
    fn limits(&self, desired: i32) -> (i32, i32) {
        if !self.rolls() {
            return (0, 0);
        }
        let spec = self.observed.set.spec.as_ref();
        let strategy = spec.and_then(|spec| spec.update_strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let surge = scaled(surge, desired, true);
        let unavailable = scaled(unavailable, desired, true);
        if desired > 0 && surge == 0 && unavailable == 0 {
            return (0, 1);
        }
        (surge, unavailable)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::seconds_until_available(pod, self.min_ready, self.observed.now) == Some(0)
    }

    fn has_hash(&self, pod: &Pod) -> bool {
        label(&pod.metadata, HASH_LABEL) == Some(self.observed.hash)
    }

    /// Whether a pod is of the set's template. The generation of the template counts where there is no hash only: pods that an
    /// earlier set of the name left behind have generations of that set. (Upstream lets either do, and such pods stay old.)
    fn is_updated(&self, pod: &Pod) -> bool {
        match label(&pod.metadata, HASH_LABEL) {
            Some(hash) => hash == self.observed.hash,
            None => {
                let generation = label(&pod.metadata, GENERATION_LABEL);
                generation.is_some() && generation == self.generation.as_deref()
            }
        }
    }

    /// One pod on every node that is to have one, none elsewhere.
    fn place(&self) -> Plan {
        let mut plan = Plan::default();
        let surges = self.limits(1).0 > 0;
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        nodes.sort_unstable_by_key(|(name, _)| **name);
        for (name, fit) in nodes {
            let pods = self.on_node.get(name).map(Vec::as_slice);
            match pods {
                None if fit.starts => plan.create.push((*name).to_owned()),
                None => {}
                Some(pods) if fit.stays => self.prune(&mut plan, name, *fit, pods, surges),
                Some(pods) => {
                    let left = pods.iter().filter(|pod| !pods::is_deleting(pod));
                    plan.delete.extend(left.map(|pod| (*pod).clone()));
                }
            }
        }
        // Nobody else deletes pods that wait for a node that is gone.
        for (name, pods) in &self.on_node {
            if !self.nodes.contains_key(name) {
                let waiting = pods
                    .iter()
                    .filter(|pod| pods::node_name(pod).is_empty() && !pods::is_deleting(pod));
                plan.delete.extend(waiting.map(|pod| (*pod).clone()));
            }
        }
        plan
    }

    /// Takes away what is too much on one node, or no longer runs.
    fn prune(&self, plan: &mut Plan, node: &str, fit: Fit, pods: &[&'a Arc<Pod>], surges: bool) {
        let mut running: Vec<&Arc<Pod>> = Vec::new();
        for pod in pods.iter().filter(|pod| !pods::is_deleting(pod)) {
            match pods::phase(pod) {
                "Failed" => plan.failed.push((node.to_owned(), (*pod).clone())),
                "Succeeded" => plan.succeeded.push((*pod).clone()),
                _ => running.push(pod),
            }
        }
        if !surges {
            let excess = running.iter().skip(1);
            plan.delete.extend(excess.map(|pod| (*pod).clone()));
            return;
        }
        if running.is_empty() && fit.starts {
            plan.create.push(node.to_owned());
        }
        if running.len() <= 1 {
            return;
        }
        // Two are right as long as the old one is ready and the new one not yet available.
        let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| self.has_hash(pod));
        let excess = new.iter().skip(1).chain(old.iter().skip(1));
        plan.delete.extend(excess.map(|pod| (*pod).clone()));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pods::is_ready(old) || self.is_available(new))
        {
            plan.delete.push((*old).clone());
        }
    }

    /// The new and the old pod on a node; none where there are several of a sort.
    fn versions(&self, pods: &[&'a Arc<Pod>]) -> Option<Versions<'a>> {
        let mut versions = Versions::default();
        for pod in pods.iter().filter(|pod| !pods::is_deleting(pod)) {
            let place = if self.is_updated(pod) {
                &mut versions.new
            } else {
                &mut versions.old
            };
            if place.replace(*pod).is_some() {
                return None;
            }
        }
        Some(versions)
    }

    fn desired(&self) -> i32 {
        let desired = self.nodes.values().filter(|fit| fit.starts).count();
        i32::try_from(desired).unwrap_or(i32::MAX)
    }

    fn roll(&self) -> Plan {
        let desired = self.desired();
        let (surge, unavailable) = self.limits(desired);
        if surge == 0 {
            self.replace(unavailable)
        } else {
            self.surge(surge, desired)
        }
    }

    /// Deletes old pods, as many as may be missing; new ones come in the next round.
    fn replace(&self, max_unavailable: i32) -> Plan {
        let mut unavailable = 0;
        let (mut broken, mut candidates) = (Vec::new(), Vec::new());
        // A node that is to have a pod and has none is one where it is missing.
        let empty = self
            .nodes
            .iter()
            .filter(|(name, fit)| fit.starts && !self.on_node.contains_key(*name));
        unavailable += empty.count();
        for pods in self.on_node.values() {
            let versions = self.versions(pods).map(|found| (found.new, found.old));
            match versions {
                Some((Some(new), None)) => unavailable += usize::from(!self.is_available(new)),
                Some((None, Some(old))) if self.is_available(old) => candidates.push(old),
                Some((None, Some(old))) => {
                    broken.push(old);
                    unavailable += 1;
                }
                // None, or both: placing sees to it.
                Some(_) | None => unavailable += 1,
            }
        }
        let room = usize::try_from(max_unavailable)
            .unwrap_or(0)
            .saturating_sub(unavailable);
        let delete = broken.into_iter().chain(candidates.into_iter().take(room));
        Plan {
            delete: delete.cloned().collect(),
            ..Plan::default()
        }
    }

    /// Makes new pods beside old ones, and deletes the old ones once the new ones are available.
    fn surge(&self, max_surge: i32, desired: i32) -> Plan {
        let mut plan = Plan::default();
        let mut surging = 0_usize;
        let mut available = 0_usize;
        let (mut candidates, mut leftovers) = (Vec::new(), Vec::new());
        for (node, pods) in &self.on_node {
            let Some(Versions { new, old }) = self.versions(pods) else {
                surging += 1;
                continue;
            };
            if old.or(new).is_some_and(|pod| self.is_available(pod)) {
                available += 1;
            }
            let Some(old) = old else {
                continue;
            };
            let starts = self.nodes.get(node).is_some_and(|fit| fit.starts);
            match new {
                Some(new) if self.is_available(new) => plan.delete.push(old.clone()),
                Some(_) => surging += 1,
                None if !self.is_available(old) && !starts => plan.delete.push(old.clone()),
                // It is of no use any more: its successor needs no leave.
                None if !self.is_available(old) => plan.create.push((*node).to_owned()),
                None if !starts => leftovers.push(old),
                None => candidates.push((*node).to_owned()),
            }
        }
        // What is on nodes that are not wanted any more goes when enough are available elsewhere.
        let spare = available.saturating_sub(usize::try_from(desired).unwrap_or(0));
        plan.delete
            .extend(leftovers.into_iter().take(spare).cloned());
        let room = usize::try_from(max_surge)
            .unwrap_or(0)
            .saturating_sub(surging);
        plan.create.extend(candidates.into_iter().take(room));
        plan
    }

    fn status(&self) -> DaemonSetStatus {
        let old = self.observed.set.status.as_ref();
        let mut status = DaemonSetStatus {
            collision_count: old.and_then(|old| old.collision_count),
            conditions: old.and_then(|old| old.conditions.clone()),
            observed_generation: self.observed.set.metadata.generation,
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for (node, fit) in &self.nodes {
            let oldest = self.on_node.get(node).and_then(|pods| pods.first());
            if !fit.starts {
                status.number_misscheduled += i32::from(oldest.is_some());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(pod) = oldest else {
                continue;
            };
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(pods::is_ready(pod));
            available += i32::from(self.is_available(pod));
            updated += i32::from(self.is_updated(pod));
        }
        let some = |count: i32| (count != 0).then_some(count);
        status.updated_number_scheduled = some(updated);
        status.number_available = some(available);
        status.number_unavailable = some(status.desired_number_scheduled - available);
        status
    }
}

#[cfg(test)]
#[path = "daemon_set_tests.rs"]
mod tests;
