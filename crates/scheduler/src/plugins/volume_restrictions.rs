//! Disks that only one node can have are not shared, and claims for one pod only are not either.

use crate::framework::{Cycle, Happening, NOTHING, Plugin, PreFilter, Rejection, View, event};
use crate::profile::Profile;
use crate::rows::{Disk, PodRow};
use crate::world::World;
use skiff_client::ObjectKey;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "VolumeRestrictions",
    pre_filter: Some(pre_filter),
    filter: Some(filter),
    wakes_on: event::POD_REMOVED | event::NODE_ADDED | event::CLAIM,
    hint: Some(hint),
    ..NOTHING
};

/// The pod's claims that one pod only may use, and how many of them another uses; or why there is no telling.
pub type Exclusive = Result<(Vec<Box<str>>, i64), Rejection>;

/// Looks the pod's claims up.
pub fn exclusive(pod: &PodRow, world: &World) -> Exclusive {
    let (mut names, mut used) = (Vec::new(), 0);
    for claim in pod.shape.claims.iter().filter(|claim| !claim.ephemeral) {
        let key = ObjectKey::new(pod.namespace(), &claim.name);
        let Some(row) = world.volumes.claims.get(&key) else {
            return Err(Rejection::unresolvable(format!(
                "persistentvolumeclaim \"{}\" not found",
                claim.name
            )));
        };
        if row
            .access_modes
            .iter()
            .any(|mode| **mode == *"ReadWriteOncePod")
        {
            used += i64::from(world.claim_users.contains_key(&key));
            names.push(claim.name.clone());
        }
    }
    Ok((names, used))
}

fn pre_filter(cycle: &Cycle) -> PreFilter {
    match &cycle.exclusive {
        Err(rejection) => PreFilter::Reject(rejection.clone()),
        Ok((_, 0)) if cycle.pod.shape.disks.is_empty() => PreFilter::Skip,
        Ok(_) => PreFilter::All,
    }
}

fn conflict(a: &Disk, b: &Disk) -> bool {
    match (a, b) {
        (Disk::Gce(a, read_a), Disk::Gce(b, read_b))
        | (Disk::Iscsi(a, read_a), Disk::Iscsi(b, read_b)) => a == b && !(*read_a && *read_b),
        (Disk::Aws(a), Disk::Aws(b)) => a == b,
        (
            Disk::Rbd(monitors, pool, image, read),
            Disk::Rbd(others, other_pool, other_image, other),
        ) => {
            monitors.iter().any(|monitor| others.contains(monitor))
                && pool == other_pool
                && image == other_image
                && !(*read && *other)
        }
        _ => false,
    }
}

fn disks_conflict(pod: &PodRow, other: &PodRow) -> bool {
    let taken = |disk: &Disk| other.shape.disks.iter().any(|found| conflict(disk, found));
    pod.shape.disks.iter().any(taken)
}

/// Refuses nodes where a disk is taken, and all nodes while a claim is.
fn filter(cycle: &Cycle, view: &View) -> Result<(), Rejection> {
    if !cycle.pod.shape.disks.is_empty()
        && view.pods().any(|other| disks_conflict(cycle.pod, other))
    {
        return Err(Rejection::resolvable("node(s) had no available disk"));
    }
    let Ok((names, used)) = &cycle.exclusive else {
        return Ok(());
    };
    let uses = |pod: &PodRow| {
        let claims = pod.shape.claims.iter();
        let of_these = claims.filter(|claim| !claim.ephemeral && names.contains(&claim.name));
        i64::try_from(of_these.count()).unwrap_or(i64::MAX)
    };
    let same_place = |(pod, _): &&(&PodRow, i64)| pod.namespace() == cycle.pod.namespace();
    let moved = view.moved.iter().filter(same_place);
    let moved: i64 = moved.map(|(pod, by)| uses(pod) * by).sum();
    if used + moved > 0 {
        return Err(Rejection::resolvable(
            "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by \
             another pod",
        ));
    }
    Ok(())
}

fn hint(_: &Profile, pod: &PodRow, what: Happening) -> bool {
    match what {
        Happening::Pod(Some(gone), _) => {
            let shared = |claim: &crate::rows::ClaimUse| gone.shape.claims.contains(claim);
            gone.namespace() == pod.namespace()
                && (disks_conflict(pod, gone) || pod.shape.claims.iter().any(shared))
        }
        Happening::Claim(namespace, name) => {
            namespace == pod.namespace()
                && pod.shape.claims.iter().any(|claim| *claim.name == *name)
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_that_cannot_be_shared() {
        let gce = |read| Disk::Gce("d".into(), read);
        let rbd =
            |monitor: &str, read| Disk::Rbd(vec![monitor.into()], "p".into(), "i".into(), read);
        for (a, b, expected) in [
            (gce(false), gce(true), true),
            (gce(true), gce(true), false),
            (Disk::Aws("v".into()), Disk::Aws("v".into()), true),
            (Disk::Aws("v".into()), Disk::Aws("w".into()), false),
            (Disk::Aws("d".into()), gce(false), false),
            (rbd("a", false), rbd("a", true), true),
            (rbd("a", false), rbd("b", false), false),
            (
                Disk::Iscsi("q".into(), true),
                Disk::Iscsi("q".into(), true),
                false,
            ),
        ] {
            assert_eq!(conflict(&a, &b), expected, "{a:?} {b:?}");
        }
    }
}
