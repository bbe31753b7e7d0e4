//! The claims of a StatefulSet's pods: what they are called, and which of the set and the pod they go with. Pure.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    self, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::ownership::{controller_reference, plain_reference};
use crate::seen_pod::Pod;

const DELETE: &str = "Delete";

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    let spec = set.spec.as_ref();
    spec.and_then(|spec| spec.volume_claim_templates.as_deref())
        .unwrap_or_default()
}

fn name_of(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// The name of the claim that the pod with this ordinal has from a template.
fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i64) -> String {
    let (template, set) = (name_of(&template.metadata), name_of(&set.metadata));
    format!("{template}-{set}-{ordinal}")
}

/// The names of the claims of the pod with this ordinal.
pub fn names(set: &StatefulSet, ordinal: i64) -> impl Iterator<Item = String> {
    templates(set)
        .iter()
        .map(move |template| claim_name(set, template, ordinal))
}

/// The claims of the pod with this ordinal, as they are made.
pub fn claims(set: &StatefulSet, ordinal: i64) -> impl Iterator<Item = PersistentVolumeClaim> {
    templates(set).iter().map(move |template| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace.clone_from(&set.metadata.namespace);
        let spec = set.spec.as_ref();
        let selected = spec.and_then(|spec| spec.selector.match_labels.clone());
        let labels = claim.metadata.labels.get_or_insert_default();
        labels.extend(selected.unwrap_or_default());
        claim.status = None;
        claim
    })
}

/// Whether a pod mounts what the templates say; `claim_of` tells the claim behind its volume of a name.
pub fn storage_matches<'a>(
    set: &StatefulSet,
    ordinal: i64,
    claim_of: impl Fn(&str) -> Option<&'a str>,
) -> bool {
    templates(set).iter().all(|template| {
        let mounted = claim_of(name_of(&template.metadata));
        mounted.is_some_and(|claim| claim == claim_name(set, template, ordinal))
    })
}

/// Makes the pod mount its claims; they win over volumes of the same name.
pub fn update_storage(set: &StatefulSet, pod: &mut v1::Pod, ordinal: i64) {
    let spec = pod.spec.get_or_insert_default();
    let own = templates(set).iter().map(|template| Volume {
        name: name_of(&template.metadata).to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            read_only: None,
        }),
        ..Volume::default()
    });
    let mut volumes: Vec<Volume> = own.collect();
    let count = volumes.len();
    for volume in spec.volumes.take().into_iter().flatten() {
        let own = volumes.get(..count).unwrap_or_default();
        if !own.iter().any(|found| found.name == volume.name) {
            volumes.push(volume);
        }
    }
    spec.volumes = (!volumes.is_empty()).then_some(volumes);
}

/// Which owners the set's policy gives to a claim: the set, the pod.
fn policy(set: &StatefulSet, condemned: bool) -> (bool, bool) {
    let spec = set.spec.as_ref();
    let policy = spec.and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let is_delete = |word: Option<&String>| word.is_some_and(|word| word == DELETE);
    let with_set = is_delete(policy.and_then(|policy| policy.when_deleted.as_ref()));
    let with_pod = is_delete(policy.and_then(|policy| policy.when_scaled.as_ref())) && condemned;
    (with_set && !with_pod, with_pod)
}

fn keeps_all(set: &StatefulSet) -> bool {
    policy(set, true) == (false, false) && policy(set, false) == (false, false)
}

/// What is to be done about who owns a claim.
#[derive(Debug, PartialEq)]
pub enum Ownership {
    /// Nothing.
    Fine,
    /// These are to be its owners.
    Change(Vec<OwnerReference>),
    /// Somebody else manages it: the set and the pod withdraw.
    Withdraw(Vec<OwnerReference>),
}

fn names_object(found: &OwnerReference, object: &OwnerReference) -> bool {
    found.api_version == object.api_version
        && found.kind == object.kind
        && found.name == object.name
}

/// Compares the owners of a claim with the set's policy. `condemned` says that the pod is not among the replicas any
/// more.
pub fn ownership(
    set: &StatefulSet,
    pod: &Pod,
    condemned: bool,
    claim: &PersistentVolumeClaim,
) -> Ownership {
    let (of_set, of_pod) = (plain_reference(set), plain_reference(pod));
    let owners = claim.metadata.owner_references.as_deref();
    let owners = owners.unwrap_or_default();
    let is_ours =
        |owner: &OwnerReference| names_object(owner, &of_set) || names_object(owner, &of_pod);
    let stale = owners.iter().any(|owner| {
        names_object(owner, &of_set) && owner.uid != of_set.uid
            || names_object(owner, &of_pod) && owner.uid != of_pod.uid
    });
    if stale {
        // Left by an earlier set or pod of the same name: the garbage collector decides.
        return Ownership::Fine;
    }
    let has = |uid: &str| owners.iter().any(|owner| owner.uid == uid);
    let managed = |owner: &OwnerReference| owner.controller == Some(true);
    let (has_set, has_pod) = (has(&of_set.uid), has(&of_pod.uid));
    let rest = || owners.iter().filter(|owner| !is_ours(owner)).cloned();
    if !keeps_all(set) && owners.iter().any(|owner| managed(owner) && !is_ours(owner)) {
        return if has_set || has_pod {
            Ownership::Withdraw(rest().collect())
        } else {
            Ownership::Fine
        };
    }
    let plain = owners
        .iter()
        .any(|owner| (owner.uid == of_set.uid || owner.uid == of_pod.uid) && !managed(owner));
    let (with_set, with_pod) = policy(set, condemned);
    if !plain && (has_set, has_pod) == (with_set, with_pod) {
        return Ownership::Fine;
    }
    let added = [
        with_set.then(|| controller_reference(set)),
        with_pod.then(|| controller_reference(pod)),
    ];
    Ownership::Change(rest().chain(added.into_iter().flatten()).collect())
}

/// Whether a pod of this name must wait because its claim still goes away with an earlier pod, or with an earlier set of the
/// set's name: the garbage collector will find that one gone. Upstream looks at pods only; a set that is made anew may
/// then run on a claim that is being deleted.
pub fn is_stale(set: &StatefulSet, pod: &v1::Pod, claim: &Arc<PersistentVolumeClaim>) -> bool {
    let (_, with_pod) = policy(set, true);
    let (of_set, of_pod) = (plain_reference(set), plain_reference(pod));
    let earlier = |owner: &OwnerReference, now: &OwnerReference| {
        names_object(owner, now) && owner.uid != now.uid
    };
    let mut owners = claim.metadata.owner_references.iter().flatten();
    owners.any(|owner| earlier(owner, &of_set) || with_pod && earlier(owner, &of_pod))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen_pod::seen;
    use serde_json::json;

    fn set(deleted: &str, scaled: &str) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "n", "uid": "set"},
            "spec": {"selector": {"matchLabels": {"app": "db"}}, "template": {},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled},
                "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"a": "b"}}, "spec": {}}]},
        }))
        .unwrap()
    }

    fn pod() -> v1::Pod {
        serde_json::from_value(json!({"metadata": {"name": "db-1", "uid": "pod"},
            "spec": {"containers": [], "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}}))
        .unwrap()
    }

    fn owned_by(owners: &[(&str, &str, &str, bool)]) -> Arc<PersistentVolumeClaim> {
        let owner = |(kind, name, uid, controller): &(&str, &str, &str, bool)| OwnerReference {
            api_version: if *kind == "Pod" { "v1" } else { "apps/v1" }.into(),
            kind: (*kind).into(),
            name: (*name).into(),
            uid: (*uid).into(),
            controller: Some(*controller),
            block_owner_deletion: None,
        };
        Arc::new(PersistentVolumeClaim {
            metadata: ObjectMeta {
                owner_references: Some(owners.iter().map(owner).collect()),
                ..ObjectMeta::default()
            },
            ..PersistentVolumeClaim::default()
        })
    }

    #[test]
    fn claims_are_named_and_mounted() {
        let set = set("Retain", "Retain");
        let claim = claims(&set, 3).next().unwrap();
        assert_eq!(claim.metadata.name.as_deref(), Some("data-db-3"));
        let labels = claim.metadata.labels.unwrap();
        assert_eq!((&*labels["app"], &*labels["a"]), ("db", "b"));
        let mut pod = pod();
        let matches = |pod: &v1::Pod, ordinal| {
            let pod = seen(pod);
            storage_matches(&set, ordinal, |name| pod.claim_of(name))
        };
        assert!(!matches(&pod, 1));
        update_storage(&set, &mut pod, 1);
        assert!(matches(&pod, 1) && !matches(&pod, 2));
        let names: Vec<_> = pod.spec.unwrap().volumes.unwrap();
        let names: Vec<_> = names.iter().map(|volume| &*volume.name).collect();
        assert_eq!(names, ["data", "tmp"]);
    }

    #[test]
    fn the_policy_says_who_owns_a_claim() {
        let (by_set, by_pod) = (
            ("StatefulSet", "db", "set", true),
            ("Pod", "db-1", "pod", true),
        );
        for (deleted, scaled, condemned, expected) in [
            ("Retain", "Retain", false, vec![]),
            ("Retain", "Retain", true, vec![]),
            ("Delete", "Retain", false, vec![by_set]),
            ("Delete", "Retain", true, vec![by_set]),
            ("Retain", "Delete", false, vec![]),
            ("Retain", "Delete", true, vec![by_pod]),
            ("Delete", "Delete", false, vec![by_set]),
            ("Delete", "Delete", true, vec![by_pod]),
        ] {
            let set = set(deleted, scaled);
            for before in [vec![], vec![by_set], vec![by_pod], vec![by_set, by_pod]] {
                let outcome = ownership(&set, &seen(&pod()), condemned, &owned_by(&before));
                if before == expected {
                    assert_eq!(outcome, Ownership::Fine, "{deleted} {scaled} {before:?}");
                    continue;
                }
                let Ownership::Change(owners) = outcome else {
                    panic!("{deleted} {scaled} {before:?}: {outcome:?}");
                };
                let uids: Vec<_> = owners.iter().map(|owner| &*owner.uid).collect();
                let expected: Vec<_> = expected.iter().map(|owner| owner.2).collect();
                assert_eq!(uids, expected, "{deleted} {scaled} {before:?}");
            }
        }
    }

    #[test]
    fn strangers_and_ghosts_are_left_alone() {
        let set = set("Delete", "Delete");
        let stranger = ("StatefulSet", "other", "x", true);
        let ghost = ("Pod", "db-1", "before", true);
        let mine = ("StatefulSet", "db", "set", true);
        let judge = |owners: &[_]| ownership(&set, &seen(&pod()), false, &owned_by(owners));
        assert_eq!(judge(&[stranger]), Ownership::Fine);
        assert_eq!(judge(&[ghost]), Ownership::Fine);
        let Ownership::Withdraw(left) = judge(&[stranger, mine]) else {
            panic!();
        };
        assert_eq!((left.len(), &*left[0].name), (1, "other"));
        // An owner that does not manage it becomes one that does.
        assert!(matches!(
            judge(&[("StatefulSet", "db", "set", false)]),
            Ownership::Change(_)
        ));
        let mut next = pod();
        next.metadata.uid = None;
        assert!(is_stale(&set, &next, &owned_by(&[ghost])));
        assert!(!is_stale(&set, &next, &owned_by(&[mine])));
        let earlier_set = ("StatefulSet", "db", "before", true);
        let retains = self::set("Retain", "Retain");
        assert!(is_stale(&set, &next, &owned_by(&[earlier_set])));
        assert!(is_stale(&retains, &next, &owned_by(&[earlier_set])));
        assert!(!is_stale(&set, &next, &owned_by(&[stranger])));
        assert!(!is_stale(
            &self::set("Delete", "Retain"),
            &next,
            &owned_by(&[ghost])
        ));
    }
}
