//! Volumes for the claims of a history, and the rules about claims.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::journal::Rule;
use crate::rules::BY_STATEFUL_SETS;
use crate::scene::{Change, Object, Scene};
use crate::world::User;

const VOLUMES: &str = "/api/v1/persistentvolumes";

/// Makes a volume for each claim that has none, and removes those whose claim is gone; for ever.
pub async fn provide(user: User) {
    loop {
        user.clock().sleep(std::time::Duration::from_secs(1)).await;
        let (claims, released) = user.journal().scene(|scene| {
            let open = |claim: &&Object| {
                claim.text("/spec/volumeName").is_empty()
                    && !claim.is_deleted()
                    && scene.find("persistentvolumes", &volume_of(claim)).is_none()
            };
            let claims = scene.of_kind("persistentvolumeclaims").filter(open);
            let over = |volume: &&Object| {
                volume.text("/status/phase") == "Released" && !volume.is_deleted()
            };
            let released = scene.of_kind("persistentvolumes").filter(over);
            (
                claims.map(volume).collect::<Vec<Value>>(),
                released
                    .map(|volume| volume.name.clone())
                    .collect::<Vec<String>>(),
            )
        });
        // What fails is tried again.
        for volume in claims {
            let _ = user.ask("POST", VOLUMES, &volume).await;
        }
        for name in released {
            let path = format!("{VOLUMES}/{name}");
            let _ = user.ask("DELETE", &path, &Value::Null).await;
        }
    }
}

fn volume_of(claim: &Object) -> String {
    format!("pv-{}", claim.uid())
}

fn volume(claim: &Object) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume_of(claim)}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data"},
        "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace,
            "name": claim.name, "uid": claim.uid()}}})
}

/// Claims go when their StatefulSet's policy says so, and not while a pod uses them.
#[derive(Default)]
pub struct Claims {
    /// Every claim that was made by a set which keeps them.
    kept: BTreeSet<String>,
    /// The ordinals of pods that others took: when their set shrinks before they are made again, their claims stay, as upstream.
    taken: BTreeSet<i64>,
}

impl Claims {
    /// Notes who took a pod of the set that does not keep claims.
    fn pod(&mut self, scene: &Scene, change: &Change<'_>) {
        let pod = change.object();
        let wanted = || {
            let set = scene.find("statefulsets", "sc");
            set.map_or(0, |set| set.number("/spec/replicas"))
        };
        if change.after.is_some() {
            self.taken.remove(&pod.ordinal());
        } else if pod.ordinal() < wanted() || scene.deleter(pod) != BY_STATEFUL_SETS {
            self.taken.insert(pod.ordinal());
        }
    }
}

impl Rule for Claims {
    fn see(&mut self, scene: &Scene, change: &Change<'_>) -> Result<(), String> {
        let claim = change.object();
        if claim.kind == "pods" && claim.app() == "sc" {
            self.pod(scene, change);
        }
        if claim.kind != "persistentvolumeclaims" {
            return Ok(());
        }
        if claim.app() == "sk" {
            self.kept.insert(claim.uid().to_owned());
            let going = change.after.is_none_or(Object::is_deleted);
            return if going {
                Err(format!("{} is to be kept, and goes", claim.name))
            } else {
                Ok(())
            };
        }
        let uses = |pod: &&Object| {
            pod.ordinal() == claim.ordinal() && !pod.node().is_empty() && !pod.is_over()
        };
        match scene.pods_of(claim.app()).find(uses) {
            Some(pod) if change.after.is_none() => {
                Err(format!("{} is gone while {} uses it", claim.name, pod.name))
            }
            _ => Ok(()),
        }
    }

    fn at_end(&self, scene: &Scene) -> Result<(), String> {
        let claims = || scene.of_kind("persistentvolumeclaims");
        let kept = claims().filter(|claim| claim.app() == "sk").count();
        if kept != self.kept.len() {
            return Err(format!("{kept} claims of {} are there", self.kept.len()));
        }
        let ordinals = |objects: &mut dyn Iterator<Item = &Object>| {
            objects.map(Object::ordinal).collect::<BTreeSet<i64>>()
        };
        let claims = ordinals(&mut claims().filter(|claim| claim.app() == "sc"));
        let claims: BTreeSet<i64> = claims.difference(&self.taken).copied().collect();
        let pods = ordinals(&mut scene.pods_of("sc"));
        if claims == pods {
            return Ok(());
        }
        Err(format!("sc has pods {pods:?} and claims {claims:?}"))
    }
}
