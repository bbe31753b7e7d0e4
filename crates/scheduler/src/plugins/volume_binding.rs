//! A pod goes where its claims' volumes are, or can be chosen or made; that is done before it is bound.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::TopologySelectorTerm;
use skiff_client::ObjectKey;

use super::node_affinity::selects;
use crate::framework::{Cycle, Happening, NOTHING, Plugin, PreFilter, Rejection, View, event};
use crate::nodes::NodeFacts;
use crate::profile::Profile;
use crate::rows::PodRow;
use crate::terms::Labels;
use crate::volumes::{ClaimRow, NO_PROVISIONER, VolumeRow, Volumes};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "VolumeBinding",
    pre_filter: Some(pre_filter),
    filter: Some(filter),
    reserve: true,
    wakes_on: event::CLASS
        | event::CLAIM
        | event::VOLUME
        | event::NODE_ADDED
        | event::NODE_LABELS
        | event::CSI_NODE
        | event::CSI_DRIVER
        | event::STORAGE_CAPACITY,
    hint: Some(hint),
    ..NOTHING
};

/// The pod's claims, or why it cannot have them.
pub type Claims = Result<Found, Rejection>;

/// The pod's claims.
#[derive(Clone, Debug, Default)]
pub struct Found {
    bound: Vec<Arc<ClaimRow>>,
    /// Without a volume until the pod has a node.
    waiting: Vec<Arc<ClaimRow>>,
}

/// Looks the pod's claims up.
pub fn claims(pod: &PodRow, volumes: &Volumes) -> Claims {
    let mut found = Found::default();
    let mut immediate = false;
    for (name, ephemeral) in pod.claims() {
        let claim = usable(pod, &name, ephemeral, volumes)?;
        if claim.is_bound() {
            found.bound.push(claim);
            continue;
        }
        let class = volumes.classes.get(&claim.class);
        if claim.volume.is_empty() && class.is_some_and(|class| class.waits == Some(true)) {
            found.waiting.push(claim);
        } else {
            immediate = true;
        }
    }
    if immediate {
        return Err(Rejection::unresolvable(
            "pod has unbound immediate PersistentVolumeClaims",
        ));
    }
    // The smallest first, so that a large volume is left for who needs it.
    found.waiting.sort_by_key(|claim| claim.bytes);
    Ok(found)
}

fn usable(
    pod: &PodRow,
    name: &str,
    ephemeral: bool,
    volumes: &Volumes,
) -> Result<Arc<ClaimRow>, Rejection> {
    let refuse = |why: String| Err(Rejection::unresolvable(why));
    let Some(claim) = volumes.claims.get(&ObjectKey::new(pod.namespace(), name)) else {
        return refuse(if ephemeral {
            format!(
                "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""
            )
        } else {
            format!("persistentvolumeclaim \"{name}\" not found")
        });
    };
    if claim.lost {
        return refuse(format!(
            "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{}\"",
            claim.volume
        ));
    }
    if claim.deleting {
        return refuse(format!("persistentvolumeclaim \"{name}\" is being deleted"));
    }
    if ephemeral && claim.owner.as_deref() != Some(&pod.uid) {
        return refuse(format!(
            "PVC {} was not created for pod {} (pod is not owner)",
            claim.key, pod.key
        ));
    }
    Ok(claim.clone())
}

fn pre_filter(cycle: &Cycle) -> PreFilter {
    match &cycle.claims {
        Err(rejection) => PreFilter::Reject(rejection.clone()),
        Ok(_) if cycle.pod.shape.claims.is_empty() => PreFilter::Skip,
        Ok(_) => PreFilter::All,
    }
}

/// What is to be done about a pod's volumes before it is bound to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Volumes for claims: the volume's name, the claim.
    pub bindings: Vec<(Box<str>, ObjectKey)>,
    /// Claims whose volumes are to be made for the node.
    pub provisions: Vec<ObjectKey>,
}

impl Plan {
    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty() && self.provisions.is_empty()
    }
}

/// Whether a node can reach a volume.
#[must_use]
pub fn reaches(volume: &VolumeRow, name: &str, facts: &NodeFacts) -> bool {
    volume
        .nodes
        .as_ref()
        .is_none_or(|selector| selects(selector, name, facts))
}

/// What is to be done about the claims on a node.
pub fn plan(
    found: &Found,
    volumes: &Volumes,
    name: &str,
    facts: &NodeFacts,
) -> Result<Plan, Rejection> {
    let mut reasons: Vec<&'static str> = Vec::new();
    let mut missing = false;
    for claim in &found.bound {
        match volumes.volumes.get(&claim.volume) {
            None => missing = true,
            Some(volume) if !reaches(volume, name, facts) => {
                reasons.push("node(s) didn't match PersistentVolume's node affinity");
                break;
            }
            Some(_) => {}
        }
        if missing {
            break;
        }
    }
    let mut plan = Plan::default();
    if let Err(reason) = plan_waiting(found, volumes, name, facts, &mut plan) {
        reasons.push(reason);
    }
    if missing {
        reasons.push("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");
    }
    let mut reasons = reasons.into_iter();
    let Some(first) = reasons.next() else {
        return Ok(plan);
    };
    Err(Rejection {
        more: reasons.map(Into::into).collect(),
        ..Rejection::unresolvable(first)
    })
}

const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
const NO_SPACE: &str = "node(s) did not have enough free storage";

fn plan_waiting(
    found: &Found,
    volumes: &Volumes,
    name: &str,
    facts: &NodeFacts,
    plan: &mut Plan,
) -> Result<(), &'static str> {
    let mut taken: HashSet<&str> = HashSet::new();
    for claim in &found.waiting {
        match volumes.selected_node(claim) {
            Some(selected) if selected != name => return Err(NO_VOLUME),
            Some(_) => {
                provision(claim, volumes, facts)?;
                plan.provisions.push(claim.key.clone());
                continue;
            }
            None => {}
        }
        match choose(claim, volumes, name, facts, &taken) {
            Some(volume) => {
                taken.insert(&volume.name);
                plan.bindings.push((volume.name.clone(), claim.key.clone()));
            }
            None => {
                provision(claim, volumes, facts)?;
                plan.provisions.push(claim.key.clone());
            }
        }
    }
    Ok(())
}

/// The volume that was made for the claim, or else the smallest that does.
fn choose<'a>(
    claim: &ClaimRow,
    volumes: &'a Volumes,
    name: &str,
    facts: &NodeFacts,
    taken: &HashSet<&str>,
) -> Option<&'a VolumeRow> {
    let mut smallest: Option<&VolumeRow> = None;
    for volume in volumes.of_class(&claim.class) {
        let chosen_for = volumes.chosen.get(&volume.name);
        if taken.contains(&*volume.name)
            || chosen_for.is_some_and(|other| *other != claim.key)
            || volume.bytes < claim.bytes
            || volume.block != claim.block
            || volume.attributes != claim.attributes
            || volume.deleting
        {
            continue;
        }
        if volume.is_for(claim) {
            return reaches(volume, name, facts).then_some(volume);
        }
        if volume.claim.is_some() || !volume.available {
            continue;
        }
        let selected = claim
            .selector
            .as_ref()
            .is_none_or(|selector| selector.matches(Some(&volume.labels)));
        let modes = claim
            .access_modes
            .iter()
            .all(|mode| volume.access_modes.contains(mode));
        if selected
            && modes
            && smallest.is_none_or(|other| volume.bytes < other.bytes)
            && reaches(volume, name, facts)
        {
            smallest = Some(volume);
        }
    }
    smallest
}

/// Whether a volume can be made for a claim on a node.
fn provision(claim: &ClaimRow, volumes: &Volumes, facts: &NodeFacts) -> Result<(), &'static str> {
    let Some(class) = volumes.classes.get(&claim.class) else {
        return Err(NO_VOLUME);
    };
    if class.provisioner.is_empty() || &*class.provisioner == NO_PROVISIONER {
        return Err(NO_VOLUME);
    }
    if !in_topologies(&class.topologies, &facts.labels) {
        return Err(NO_VOLUME);
    }
    if claim.bytes == 0 || !volumes.counting_drivers.contains(&class.provisioner) {
        return Ok(());
    }
    let enough = volumes.capacities.values().any(|capacity| {
        let nodes = capacity.nodes.as_ref();
        capacity.class == claim.class
            && capacity
                .largest
                .is_some_and(|largest| largest >= claim.bytes)
            && nodes.is_some_and(|nodes| nodes.matches(Some(&facts.labels)))
    });
    if enough { Ok(()) } else { Err(NO_SPACE) }
}

fn in_topologies(terms: &[TopologySelectorTerm], labels: &Labels) -> bool {
    let holds = |term: &TopologySelectorTerm| {
        let mut all = term.match_label_expressions.iter().flatten();
        all.all(|wanted| {
            let value = labels.get(&wanted.key);
            value.is_some_and(|value| wanted.values.contains(value))
        })
    };
    terms.is_empty() || terms.iter().any(holds)
}

/// Refuses nodes where the claims' volumes are not and cannot be.
fn filter(cycle: &Cycle, view: &View) -> Result<(), Rejection> {
    let Ok(found) = &cycle.claims else {
        return Ok(());
    };
    plan(found, &cycle.world.volumes, &view.node.name, view.facts).map(drop)
}

/// Whether what was planned has come about: `Ok(false)` while it is still to come.
pub fn progress(
    plan: &Plan,
    volumes: &Volumes,
    node: &str,
    facts: Option<&NodeFacts>,
) -> Result<bool, String> {
    let facts = facts.ok_or_else(|| format!("failed to get node \"{node}\""))?;
    let reachable = |name: &str| match volumes.volumes.get(name) {
        None => Ok(false),
        Some(volume) if reaches(volume, node, facts) => Ok(true),
        Some(_) => Err(format!(
            "pv \"{name}\" node affinity doesn't match node \"{node}\": no matching NodeSelectorTerms"
        )),
    };
    for (volume, key) in &plan.bindings {
        let Some(claim) = volumes.claims.get(key) else {
            return Err(format!(
                "failed to check binding: could not find v1.PersistentVolumeClaim \"{key}\""
            ));
        };
        if !reachable(volume)? || !claim.is_bound() {
            return Ok(false);
        }
    }
    for key in &plan.provisions {
        let Some(claim) = volumes.claims.get(key) else {
            return Err(format!(
                "failed to check provisioning pvc: could not find v1.PersistentVolumeClaim \"{key}\""
            ));
        };
        match claim.selected_node.as_deref() {
            // Either our own writing is still to be seen, or somebody gave up.
            None if volumes.placed.contains_key(key) => return Ok(false),
            Some(selected) if selected == node => {}
            _ => return Err(format!("provisioning failed for PVC \"{}\"", key.name())),
        }
        if !claim.volume.is_empty() && !reachable(&claim.volume)? {
            return Ok(false);
        }
        if !claim.is_bound() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn hint(_: &Profile, pod: &PodRow, what: Happening) -> bool {
    let Happening::Claim(namespace, name) = what else {
        return true;
    };
    namespace == pod.namespace() && pod.claims().any(|(own, _)| own == name)
}
