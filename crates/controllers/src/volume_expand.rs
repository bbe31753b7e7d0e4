//! Tells claims that ask for more room than their volumes have who is to give it.
//!
//! Upstream's controller grows the volumes of its own plugins, of which none is left that can grow; all others are
//! grown by their drivers. Ours, [`crate::dir_provisioner`], does it by itself.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_api::validation::quantity::Amount;
use skiff_client::{
    Event, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache,
};

use crate::volume_plan::{PROVISIONED_BY, annotation, claim_ref};
use crate::{Context, dir_provisioner};

/// The name of this controller.
pub const NAME: &str = "expand-controller";
/// What its events come from.
const COMPONENT: &str = "volume_expand";

fn requested(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    resources.requests.as_ref()?.get("storage")
}

fn wants_more(claim: &PersistentVolumeClaim) -> bool {
    let capacity = claim
        .status
        .as_ref()
        .and_then(|status| status.capacity.as_ref());
    let has = capacity.and_then(|capacity| capacity.get("storage"));
    let phase = claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase == Some("Bound")
        && requested(claim).map(Amount::of) > Some(has.map_or(Amount::ZERO, Amount::of))
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
            if let Event::Updated { old, new } = event
                && requested(old) != requested(new)
                && wants_more(new)
            {
                queue.add(ObjectKey::of(&new.metadata));
            }
        })
    };
    let reconciler = Expand {
        claims,
        volumes,
        recorder: context.recorder(NAME, COMPONENT),
    };
    context.run(reconciler, queue, 1).await;
}

struct Expand {
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
        let Some(claim) = self.claims.get(key).filter(|claim| wants_more(claim)) else {
            return Ok(Outcome::Done);
        };
        let name = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.as_deref());
        let volume = self.volumes.get_named("", name.unwrap_or_default());
        let volume = volume.filter(|volume| {
            let bound = claim_ref(volume).is_some_and(|of| of.uid == claim.metadata.uid);
            bound
                && annotation(&volume.metadata, PROVISIONED_BY)
                    != Some(dir_provisioner::PROVISIONER)
        });
        if volume.is_some() {
            let text = "waiting for an external controller to expand this PVC";
            self.recorder
                .about(&*claim, EventType::Normal, "ExternalExpanding", text);
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_bound_claims_can_want_more() {
        for (phase, asked, has, expected) in [
            ("Bound", "2Gi", "1Gi", true),
            ("Bound", "1Gi", "1024Mi", false),
            ("Pending", "2Gi", "1Gi", false),
        ] {
            let claim: PersistentVolumeClaim = serde_json::from_value(json!({
                "spec": {"resources": {"requests": {"storage": asked}}},
                "status": {"phase": phase, "capacity": {"storage": has}}}))
            .unwrap();
            assert_eq!(wants_more(&claim), expected, "{phase} {asked}");
        }
    }
}
