//! Empties volumes whose policy is `Recycle` once their claims are gone: a pod that mounts the volume removes what is in it.
//!
//! The policy is deprecated; only volumes that are directories, `hostPath` and `nfs`, can be emptied like that.

use k8s_openapi::api::core::v1::{self, PersistentVolume};
use serde_json::json;
use skiff_api::validation::quantity::Amount;

use crate::pods;
use crate::seen_pod::Pod;
use crate::volume_plan::{annotation, claim_ref};

/// Where recyclers run, as upstream's.
pub(crate) const NAMESPACE: &str = "default";
const PREFIX: &str = "recycler-for-";
const IMAGE: &str = "registry.k8s.io/build-image/debian-base:bookworm-v1.0.6";
const SCRIPT: &str =
    "test -e /scrub && find /scrub -mindepth 1 -delete && test -z \"$(ls -A /scrub)\" || exit 1";
/// The uid of the claim that a recycler empties the volume after: one of an earlier time tells nothing of now.
const AFTER: &str = "pv.kubernetes.io/recycled-after";

/// The next step towards an empty volume.
#[derive(Debug, PartialEq)]
pub(crate) enum Recycling {
    /// Nobody knows how.
    Unsupported,
    /// Pods still have it.
    InUse(String),
    Start(Box<v1::Pod>),
    /// The recycler runs.
    Wait,
    /// The recycler is not of this time: it has to go first.
    Clear,
    Done,
    Failed(String),
}

/// The name of a volume's recycler.
pub(crate) fn recycler_name(volume: &str) -> String {
    format!("{PREFIX}{volume}")
}

/// The volume that a pod empties; none where it is no recycler.
pub(crate) fn volume_of(pod: &Pod) -> Option<&str> {
    let meta = &pod.metadata;
    let name = meta.name.as_deref()?.strip_prefix(PREFIX)?;
    let ours = meta.namespace.as_deref() == Some(NAMESPACE) && annotation(meta, AFTER).is_some();
    ours.then_some(name)
}

/// How to mount the volume and how long emptying it may take: half a minute for each GiB, and at least so many seconds.
fn source(volume: &PersistentVolume) -> Option<(serde_json::Value, i64)> {
    let spec = volume.spec.as_ref()?;
    if let Some(host_path) = &spec.host_path {
        return Some((
            json!({"name": "vol", "hostPath": {"path": host_path.path}}),
            60,
        ));
    }
    let nfs = spec.nfs.as_ref()?;
    let source = json!({"name": "vol", "nfs": {"server": nfs.server, "path": nfs.path}});
    Some((source, 300))
}

fn deadline(volume: &PersistentVolume, least: i64) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    let size = capacity.and_then(|capacity| capacity.get("storage"));
    let gib = size.map_or(0, |size| Amount::of(size).value() / (1 << 30));
    gib.saturating_mul(30).max(least)
}

fn recycler(volume: &PersistentVolume, after: &str) -> Option<v1::Pod> {
    let (source, least) = source(volume)?;
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let pod = json!({
        "metadata": {"name": recycler_name(name), "namespace": NAMESPACE, "annotations": {AFTER: after}},
        "spec": {
            "activeDeadlineSeconds": deadline(volume, least), "restartPolicy": "Never", "volumes": [source],
            "containers": [{"name": "pv-recycler", "image": IMAGE, "command": ["/bin/sh"], "args": ["-c", SCRIPT],
                "volumeMounts": [{"name": "vol", "mountPath": "/scrub"}]}],
        },
    });
    serde_json::from_value(pod).ok()
}

/// Decides; `found` is the pod of the recycler's name, `users` the pods that still use the claim that is gone.
pub(crate) fn recycling(
    volume: &PersistentVolume,
    found: Option<&Pod>,
    users: &[String],
) -> Recycling {
    let after = claim_ref(volume).and_then(|of| of.uid.as_deref());
    let after = after.unwrap_or_default();
    let Some(new) = recycler(volume, after) else {
        return Recycling::Unsupported;
    };
    let Some(pod) = found else {
        return if users.is_empty() {
            Recycling::Start(Box::new(new))
        } else {
            Recycling::InUse(format!("Volume is used by pods: {}", users.join(",")))
        };
    };
    if annotation(&pod.metadata, AFTER) != Some(after) || pods::is_deleting(pod) {
        return Recycling::Clear;
    }
    match pods::phase(pod) {
        "Succeeded" => Recycling::Done,
        "Failed" => {
            let message = pod
                .status
                .as_ref()
                .and_then(|status| status.message.clone());
            let message = message.filter(|message| !message.is_empty());
            let why =
                message.unwrap_or_else(|| "pod failed, pod.Status.Message unknown".to_owned());
            Recycling::Failed(format!("Recycle failed: failed to recycle volume: {why}"))
        }
        _ => Recycling::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn volume(source: Value, size: &str) -> PersistentVolume {
        let mut spec = source;
        spec["capacity"] = json!({"storage": size});
        spec["claimRef"] = json!({"namespace": "n", "name": "c", "uid": "u2"});
        serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap()
    }

    fn pod(after: &str, phase: &str, message: &str, deleting: bool) -> Pod {
        let mut pod = json!({"metadata": {"name": "recycler-for-v", "namespace": "default", "annotations": {AFTER: after}},
            "status": {"phase": phase, "message": message}});
        if deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_volume_is_emptied_by_a_pod_of_its_own_time() {
        let path = volume(json!({"hostPath": {"path": "/v"}}), "1Gi");
        let fails = |text: &str| {
            Recycling::Failed(format!("Recycle failed: failed to recycle volume: {text}"))
        };
        for (pod, expected) in [
            (pod("u2", "Pending", "", false), Recycling::Wait),
            (pod("u2", "Running", "", false), Recycling::Wait),
            (pod("u2", "Succeeded", "", false), Recycling::Done),
            (pod("u2", "Failed", "full", false), fails("full")),
            (
                pod("u2", "Failed", "", false),
                fails("pod failed, pod.Status.Message unknown"),
            ),
            (pod("u1", "Succeeded", "", false), Recycling::Clear),
            (pod("u2", "Succeeded", "", true), Recycling::Clear),
        ] {
            assert_eq!(recycling(&path, Some(&pod), &[]), expected, "{pod:?}");
        }
        let users = ["n/a".to_owned(), "n/b".to_owned()];
        let used = Recycling::InUse("Volume is used by pods: n/a,n/b".to_owned());
        assert_eq!(recycling(&path, None, &users), used);
        let other = volume(json!({"local": {"path": "/v"}}), "1Gi");
        assert_eq!(recycling(&other, None, &[]), Recycling::Unsupported);
    }

    #[test]
    fn recyclers_mount_the_volume_and_have_time_for_its_size() {
        for (source, size, expected) in [
            (json!({"hostPath": {"path": "/v"}}), "1Gi", 60),
            (json!({"hostPath": {"path": "/v"}}), "10Gi", 300),
            (json!({"nfs": {"server": "s", "path": "/v"}}), "1Gi", 300),
        ] {
            let Recycling::Start(pod) = recycling(&volume(source.clone(), size), None, &[]) else {
                panic!("{source}");
            };
            assert_eq!(volume_of(&crate::seen_pod::seen(&pod)), Some("v"));
            let spec = pod.spec.unwrap();
            assert_eq!(
                spec.active_deadline_seconds,
                Some(expected),
                "{source} {size}"
            );
            let mounted = serde_json::to_value(&spec.volumes.unwrap()[0]).unwrap();
            for (kind, value) in source.as_object().unwrap() {
                assert_eq!(mounted[kind]["path"], value["path"]);
            }
        }
    }
}
