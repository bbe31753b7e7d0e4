//! A pod goes to the zone that its volumes are in, where volumes say so by label.

use crate::framework::{Cycle, Happening, NOTHING, Plugin, PreFilter, Rejection, View, event};
use crate::profile::Profile;
use crate::rows::PodRow;
use crate::volumes::{ClaimRow, Volumes};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "VolumeZone",
    pre_filter: Some(pre_filter),
    filter: Some(filter),
    wakes_on: event::CLASS | event::NODE_ADDED | event::NODE_LABELS | event::CLAIM | event::VOLUME,
    hint: Some(hint),
    ..NOTHING
};

const KEYS: [(&str, &str); 4] = [
    (
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    (
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
];

/// A label with the values that a node may have there; another key that does as well.
type Zone = (&'static str, &'static str, Vec<String>);
/// All of them, or why there is no telling.
pub type Zones = Result<Vec<Zone>, Rejection>;

/// The zones of the pod's volumes.
pub fn zones(pod: &PodRow, volumes: &Volumes) -> Zones {
    let mut zones = Vec::new();
    for claim in pod.shape.claims.iter().filter(|claim| !claim.ephemeral) {
        let key = skiff_client::ObjectKey::new(pod.namespace(), &claim.name);
        let Some(row) = volumes.claims.get(&key) else {
            return Err(Rejection::unresolvable(format!(
                "persistentvolumeclaim \"{}\" not found",
                claim.name
            )));
        };
        if row.volume.is_empty() {
            unbound(row, volumes)?;
            continue;
        }
        let Some(volume) = volumes.volumes.get(&row.volume) else {
            return Err(Rejection::unresolvable(format!(
                "persistentvolume \"{}\" not found",
                row.volume
            )));
        };
        for (key, also) in KEYS {
            if let Some(value) = volume.labels.get(key) {
                let values = value.split("__").map(|value| value.trim().to_owned());
                zones.push((key, also, values.collect()));
            }
        }
    }
    Ok(zones)
}

/// A claim without a volume is no matter if one is made or chosen for the pod.
fn unbound(claim: &ClaimRow, volumes: &Volumes) -> Result<(), Rejection> {
    let refuse = |why: String| Err(Rejection::unresolvable(why));
    if claim.class.is_empty() {
        return refuse("PersistentVolumeClaim had no pv name and storageClass name".to_owned());
    }
    let Some(class) = volumes.classes.get(&claim.class) else {
        return refuse(format!(
            "storageclass.storage.k8s.io \"{}\" not found",
            claim.class
        ));
    };
    match class.waits {
        Some(true) => Ok(()),
        Some(false) => refuse("PersistentVolume had no name".to_owned()),
        None => refuse(format!(
            "VolumeBindingMode not set for StorageClass \"{}\"",
            claim.class
        )),
    }
}

fn pre_filter(cycle: &Cycle) -> PreFilter {
    match &cycle.zones {
        Err(rejection) => PreFilter::Reject(rejection.clone()),
        Ok(zones) if zones.is_empty() => PreFilter::Skip,
        Ok(_) => PreFilter::All,
    }
}

/// Refuses nodes in other zones. Nodes that say nothing of zones do.
fn filter(cycle: &Cycle, view: &View) -> Result<(), Rejection> {
    let Ok(zones) = &cycle.zones else {
        return Ok(());
    };
    let labels = &view.facts.labels;
    if !KEYS.iter().any(|(key, _)| labels.contains_key(*key)) {
        return Ok(());
    }
    let fits = |(key, also, values): &Zone| {
        let value = labels.get(*key).or_else(|| labels.get(*also));
        value.is_some_and(|value| values.contains(value))
    };
    if zones.iter().all(fits) {
        return Ok(());
    }
    Err(Rejection::unresolvable(
        "node(s) had no available volume zone",
    ))
}

fn hint(_: &Profile, pod: &PodRow, what: Happening) -> bool {
    let Happening::Claim(namespace, name) = what else {
        return true;
    };
    namespace == pod.namespace()
        && pod
            .shape
            .claims
            .iter()
            .any(|claim| !claim.ephemeral && *claim.name == *name)
}
