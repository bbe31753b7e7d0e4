//! Tells claims that ask for more room than their volumes have who is to give it.
//!
//! Upstream's controller grows the volumes of its own plugins, of which none is left that can grow but FlexVolume, which no
//! kubelet of ours mounts; all others are grown by their drivers. Ours, [`crate::dir_provisioner`], does it by itself.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use skiff_api::validation::quantity::Amount;
use skiff_client::failure::message;
use skiff_client::{
    Event, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache,
};

use crate::volume_plan::{PRE_RESIZE, PROVISIONED_BY, annotation, claim_ref, requested};
use crate::{Context, dir_provisioner};

/// The name of this controller.
pub const NAME: &str = "expand-controller";
/// What its events come from.
const COMPONENT: &str = "volume_expand";
const REASON: &str = "ExternalExpanding";
/// The annotation of a claim that names the driver that is to grow its volume.
const RESIZER: &str = "volume.kubernetes.io/storage-resizer";

/// What a claim has, by its status.
fn has(claim: &PersistentVolumeClaim) -> Amount {
    let status = claim.status.as_ref();
    let capacity = status.and_then(|status| status.capacity.as_ref());
    let storage = capacity.and_then(|capacity| capacity.get("storage"));
    storage.map_or(Amount::ZERO, Amount::of)
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    status.and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// Whether somebody may have to grow a claim's volume, or has just done it.
fn concerns(event: &Event<PersistentVolumeClaim>) -> bool {
    is_bound(event.object())
        && match event {
            Event::Added(_) => true,
            Event::Updated { old, new } => requested(new) > requested(old) || has(new) > has(old),
            Event::Deleted(_) => false,
        }
}

/// The plugin of a volume that its driver took over from upstream's own code, and that driver.
fn taken_over(volume: &PersistentVolume) -> Option<(&'static str, &'static str)> {
    let spec = volume.spec.as_ref()?;
    let plugins = [
        (
            spec.aws_elastic_block_store.is_some(),
            ("aws-ebs", "ebs.csi.aws.com"),
        ),
        (
            spec.azure_disk.is_some(),
            ("azure-disk", "disk.csi.azure.com"),
        ),
        (
            spec.azure_file.is_some(),
            ("azure-file", "file.csi.azure.com"),
        ),
        (
            spec.cinder.is_some(),
            ("cinder", "cinder.csi.openstack.org"),
        ),
        (
            spec.gce_persistent_disk.is_some(),
            ("gce-pd", "pd.csi.storage.gke.io"),
        ),
        (
            spec.portworx_volume.is_some(),
            ("portworx-volume", "pxd.portworx.com"),
        ),
        (
            spec.vsphere_volume.is_some(),
            ("vsphere-volume", "csi.vsphere.vmware.com"),
        ),
    ];
    let (_, found) = plugins.into_iter().find(|(is_it, _)| *is_it)?;
    Some(found)
}

/// What a claim is told whose volume somebody else is to grow, and the driver that its annotation is to name.
#[derive(Debug, PartialEq)]
struct Told {
    text: String,
    resizer: Option<&'static str>,
}

/// What is to be done about a claim. An error: the volume is not, or not yet, the claim's.
fn plan(
    claim: &PersistentVolumeClaim,
    volume: Option<&PersistentVolume>,
) -> Result<Option<Told>, ()> {
    let is_its = |volume: &&PersistentVolume| {
        claim_ref(volume).is_some_and(|of| of.uid == claim.metadata.uid)
    };
    let volume = volume.filter(is_its).ok_or(())?;
    let grown = annotation(&volume.metadata, PRE_RESIZE).is_some();
    let ours = annotation(&volume.metadata, PROVISIONED_BY) == Some(dir_provisioner::PROVISIONER);
    if ours || requested(claim) <= has(claim) && !grown {
        return Ok(None);
    }
    let Some((plugin, driver)) = taken_over(volume) else {
        return Ok(Some(Told {
            text: "waiting for an external controller to expand this PVC".to_owned(),
            resizer: None,
        }));
    };
    Ok(Some(Told {
        text: format!(
            "CSI migration enabled for kubernetes.io/{plugin}; waiting for external resizer to expand the pvc"
        ),
        resizer: Some(driver),
    }))
}

/// Runs the controller.
pub async fn run(context: Context) {
    let claims = context.caches.of::<PersistentVolumeClaim>();
    let volumes = context.caches.of::<PersistentVolume>();
    claims.wait_synced().await;
    volumes.wait_synced().await;
    let queue = context.queue();
    let _claims = {
        let queue = queue.clone();
        claims.on_event(move |event| {
            if concerns(event) {
                queue.add(ObjectKey::of(&event.object().metadata));
            }
        })
    };
    let reconciler = Expand {
        client: context.client(NAME),
        claims,
        volumes,
        recorder: context.recorder(NAME, COMPONENT),
    };
    context.run(reconciler, queue, 1).await;
}

struct Expand {
    client: Client,
    claims: SharedCache<PersistentVolumeClaim>,
    volumes: SharedCache<PersistentVolume>,
    recorder: EventRecorder,
}

#[async_trait]
impl Reconciler for Expand {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "volume_expand"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(claim) = self.claims.get(key).filter(|claim| is_bound(claim)) else {
            return Ok(Outcome::Done);
        };
        let spec = claim.spec.as_ref();
        let name = spec.and_then(|spec| spec.volume_name.as_deref());
        let volume = self.volumes.get_named("", name.unwrap_or_default());
        let told = match plan(&claim, volume.as_deref()) {
            Ok(Some(told)) => told,
            Ok(None) => return Ok(Outcome::Done),
            Err(()) => return Ok(Outcome::Retry),
        };
        self.recorder
            .about(&*claim, EventType::Normal, REASON, told.text);
        if let Some(driver) = told.resizer
            && annotation(&claim.metadata, RESIZER) != Some(driver)
        {
            let api: Api<PersistentVolumeClaim> =
                Api::namespaced(self.client.clone(), key.namespace());
            let patch = json!({"metadata": {"resourceVersion": claim.metadata.resource_version,
                "annotations": {RESIZER: driver}}});
            let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
            if let Err(error) = api.patch_status(key.name(), &parameters, &patch).await {
                let why = message(&error);
                let text =
                    format!("error setting resizer annotation to pvc {key}, with error {why}");
                self.recorder
                    .about(&*claim, EventType::Warning, REASON, text);
                return Err(error.into());
            }
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::sync::Arc;

    fn claim(phase: &str, asked: &str, has: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "c", "uid": "u"},
            "spec": {"resources": {"requests": {"storage": asked}}},
            "status": {"phase": phase, "capacity": {"storage": has}}}))
        .unwrap()
    }

    fn volume(source: &str, annotations: Value, uid: &str) -> PersistentVolume {
        let mut spec = json!({"claimRef": {"uid": uid}});
        spec[source] = match source {
            "csi" => json!({"driver": "d", "volumeHandle": "h"}),
            "awsElasticBlockStore" => json!({"volumeID": "v"}),
            _ => json!({"path": "/v"}),
        };
        serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn claims_that_want_more_are_told_who_gives_it() {
        let (more, enough) = (
            claim("Bound", "2Gi", "1Gi"),
            claim("Bound", "1Gi", "1024Mi"),
        );
        let others = "waiting for an external controller to expand this PVC";
        let moved = "CSI migration enabled for kubernetes.io/aws-ebs; waiting for external resizer to expand the pvc";
        let ebs = "awsElasticBlockStore";
        let [none, ours, grown] = [
            json!({}),
            json!({PROVISIONED_BY: dir_provisioner::PROVISIONER}),
            json!({PRE_RESIZE: "1Gi"}),
        ];
        for (claim, source, annotations, uid, expected) in [
            (&more, "csi", &none, "u", Ok(Some((others, None)))),
            (&more, "hostPath", &none, "u", Ok(Some((others, None)))),
            (
                &more,
                ebs,
                &none,
                "u",
                Ok(Some((moved, Some("ebs.csi.aws.com")))),
            ),
            (&more, "local", &ours, "u", Ok(None)),
            (&enough, "csi", &none, "u", Ok(None)),
            (&enough, "csi", &grown, "u", Ok(Some((others, None)))),
            (&more, "csi", &none, "other", Err(())),
        ] {
            let volume = volume(source, annotations.clone(), uid);
            let found = plan(claim, Some(&volume));
            let expected = expected.map(|told| {
                told.map(|(text, resizer)| Told {
                    text: text.to_owned(),
                    resizer,
                })
            });
            assert_eq!(found, expected, "{source} {annotations}");
        }
        assert_eq!(plan(&more, None), Err(()));
    }

    #[test]
    fn only_bound_claims_that_grow_matter() {
        let at = |phase: &str, asked: &str, has: &str| Arc::new(claim(phase, asked, has));
        let before = at("Bound", "2Gi", "1Gi");
        for (event, expected) in [
            (Event::Added(before.clone()), true),
            (Event::Added(at("Pending", "2Gi", "1Gi")), false),
            (Event::Deleted(before.clone()), false),
            (updated(&before, at("Bound", "3Gi", "1Gi")), true),
            (updated(&before, at("Bound", "2Gi", "2Gi")), true),
            (updated(&before, at("Bound", "2048Mi", "1Gi")), false),
            (updated(&before, at("Bound", "1Gi", "1Gi")), false),
        ] {
            assert_eq!(concerns(&event), expected, "{event:?}");
        }
    }

    fn updated(
        old: &Arc<PersistentVolumeClaim>,
        new: Arc<PersistentVolumeClaim>,
    ) -> Event<PersistentVolumeClaim> {
        let old = old.clone();
        Event::Updated { old, new }
    }
}
