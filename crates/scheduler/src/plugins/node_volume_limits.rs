//! A node takes only so many volumes of each volume driver.

use std::collections::{HashMap, HashSet};

use skiff_client::ObjectKey;

use crate::framework::{Cycle, Happening, NOTHING, Plugin, PreFilter, Rejection, View, event};
use crate::profile::Profile;
use crate::rows::PodRow;
use crate::volumes::Volumes;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeVolumeLimits",
    pre_filter: Some(pre_filter),
    filter: Some(filter),
    wakes_on: event::CSI_NODE | event::POD_REMOVED | event::CLAIM | event::DETACHED,
    hint: Some(hint),
    ..NOTHING
};

/// A driver, and what tells one of its volumes from another.
type Volume = (Box<str>, String);

fn pre_filter(cycle: &Cycle) -> PreFilter {
    if cycle.pod.shape.claims.is_empty() {
        PreFilter::Skip
    } else {
        PreFilter::All
    }
}

/// The volumes behind a pod's claims; those that are still to be made are told apart by their claims.
fn volumes_of(pod: &PodRow, known: &Volumes) -> HashSet<Volume> {
    let mut found = HashSet::new();
    for (name, _) in pod.claims() {
        let Some(claim) = known.claims.get(&ObjectKey::new(pod.namespace(), &name)) else {
            continue;
        };
        let bound = known.volumes.get(&claim.volume);
        if let Some((driver, handle)) = bound.and_then(|volume| volume.csi.as_ref()) {
            found.insert((driver.clone(), handle.to_string()));
        } else if bound.is_none()
            && let Some(class) = known.classes.get(&claim.class)
        {
            found.insert((class.provisioner.clone(), format!("?{}", claim.key)));
        }
    }
    found
}

/// Refuses nodes that would have more volumes than a driver allows.
fn filter(cycle: &Cycle, view: &View) -> Result<(), Rejection> {
    let known = &cycle.world.volumes;
    let limits = known.limits.get(&*view.node.name);
    let Some(limits) = limits.filter(|limits| !limits.is_empty()) else {
        return Ok(());
    };
    let mut new = volumes_of(cycle.pod, known);
    if new.is_empty() {
        return Ok(());
    }
    let with_claims = view.pods().filter(|pod| !pod.shape.claims.is_empty());
    let mut there: HashSet<Volume> = with_claims.flat_map(|pod| volumes_of(pod, known)).collect();
    new.retain(|volume| !there.contains(volume));
    let here = known.attachments.values();
    for attachment in here.filter(|attachment| *attachment.node == *view.node.name) {
        let volume = known.volumes.get(&attachment.volume);
        if let Some((_, handle)) = volume.and_then(|volume| volume.csi.as_ref()) {
            there.insert((attachment.driver.clone(), handle.to_string()));
        }
    }
    let mut counts: HashMap<&str, i64> = HashMap::new();
    for (driver, _) in &new {
        *counts.entry(driver).or_default() += 1;
    }
    for (driver, more) in counts {
        let used = there.iter().filter(|(other, _)| **other == *driver).count();
        let used = i64::try_from(used).unwrap_or(i64::MAX);
        if limits.get(driver).is_some_and(|limit| used + more > *limit) {
            return Err(Rejection::resolvable("node(s) exceed max volume count"));
        }
    }
    Ok(())
}

fn hint(_: &Profile, pod: &PodRow, what: Happening) -> bool {
    match what {
        Happening::Pod(Some(gone), _) => !gone.shape.claims.is_empty(),
        Happening::Claim(namespace, name) => {
            namespace == pod.namespace() && pod.claims().any(|(own, _)| own == name)
        }
        _ => true,
    }
}
