//! Writes which devices a pod's claims have before the pod is bound, and takes that back when it is not.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::resource::v1::{
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus,
};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use skiff_client::failure::message;
use skiff_client::{EventType, ObjectKey, is_conflict, is_not_found};

use crate::decision::Assignment;
use crate::devices::readiness::{has_conditions, is_ready, time_left};
use crate::devices::request::title;
use crate::devices::{allocation, uid};
use crate::executor::{ENDING, Executor, GONE};
use crate::plugins::dynamic_resources::{Booking, GiveUp, is_reserved, is_to_be_made};
use crate::rows::PodRow;

/// Keeps a claim with devices from vanishing before they are given back.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// So often a write is tried again that somebody else was faster with.
const TRIES: usize = 5;

/// Why a claim was not written.
enum Trouble {
    /// Somebody else wrote it meanwhile.
    Conflict(String),
    /// Anything else.
    Other(String),
}

impl Trouble {
    fn of(what: &str, error: &kube::Error) -> Self {
        let text = format!("{what}: {}", message(error));
        if is_conflict(error) {
            Self::Conflict(text)
        } else {
            Self::Other(text)
        }
    }
}

impl Executor {
    fn claims(&self, namespace: &str) -> Api<ResourceClaim> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Writes what the pod's claims get and that it is for the pod, and waits until the devices are ready.
    pub(crate) async fn bind_devices(&self, assignment: &Assignment) -> Result<(), String> {
        let pod = &assignment.pod;
        let mut keys = Vec::new();
        for booking in &assignment.devices.claims {
            if is_reserved(&booking.claim, &pod.uid) {
                keys.push(ObjectKey::of(&booking.claim.metadata));
                continue;
            }
            let claim = self.bind_claim(pod, booking).await?;
            keys.push(ObjectKey::of(&claim.metadata));
            if let Some(mappings) = &booking.mappings {
                let name = claim.metadata.name.as_deref();
                let status = json!({"extendedResourceClaimStatus": {
                    "requestMappings": mappings, "resourceClaimName": name,
                }});
                self.patch_status(pod, status).await;
            }
        }
        if assignment.devices.waits() {
            self.wait_for_devices(assignment, &keys).await?;
        }
        Ok(())
    }

    async fn bind_claim(&self, pod: &PodRow, booking: &Booking) -> Result<ResourceClaim, String> {
        let mut claim = ResourceClaim::clone(&booking.claim);
        if is_to_be_made(&claim) {
            claim = self.make_claim(pod, claim).await?;
        }
        let api = self.claims(pod.key.namespace());
        let name = claim.metadata.name.clone().unwrap_or_default();
        let what = title(&claim);
        let mut tries = 1;
        loop {
            match self.write_claim(&api, pod, booking, claim).await {
                Ok(written) => {
                    self.state.assume_claim(written.clone());
                    return Ok(written);
                }
                Err(Trouble::Conflict(_)) if tries < TRIES => tries += 1,
                Err(Trouble::Conflict(why) | Trouble::Other(why)) => return Err(why),
            }
            let updated = api.get(&name).await;
            claim = updated.map_err(|error| {
                let why = message(&error);
                format!("get updated claim {what} after conflict: {why}")
            })?;
        }
    }

    /// Makes the claim for a pod's extended resources.
    async fn make_claim(
        &self,
        pod: &PodRow,
        mut claim: ResourceClaim,
    ) -> Result<ResourceClaim, String> {
        claim.metadata.name = None;
        claim.metadata.uid = None;
        claim.status = None;
        let api = self.claims(pod.key.namespace());
        let made = api.create(&PostParams::default(), &claim).await;
        let made = made.map_err(|error| {
            let why = message(&error);
            format!(
                "create claim for extended resources {}/: {why}",
                pod.key.namespace()
            )
        })?;
        self.state.assume_claim(made.clone());
        Ok(made)
    }

    /// Writes the finalizer, and then allocation and reservation.
    async fn write_claim(
        &self,
        api: &Api<ResourceClaim>,
        pod: &PodRow,
        booking: &Booking,
        mut claim: ResourceClaim,
    ) -> Result<ResourceClaim, Trouble> {
        let (what, params) = (title(&claim), PostParams::default());
        if claim.metadata.deletion_timestamp.is_some() {
            let why = format!("claim {what} got deleted in the meantime");
            return Err(Trouble::Other(why));
        }
        if booking.allocation.is_some() {
            if allocation(&claim).is_some() {
                let why = format!("claim {what} got allocated elsewhere in the meantime");
                return Err(Trouble::Other(why));
            }
            let finalizers = claim.metadata.finalizers.get_or_insert_default();
            if !finalizers.iter().any(|known| known == FINALIZER) {
                finalizers.push(FINALIZER.to_owned());
                let name = claim.metadata.name.clone().unwrap_or_default();
                let updated = api.replace(&name, &params, &claim).await;
                claim = updated.map_err(|error| {
                    Trouble::of(&format!("add finalizer to claim {what}"), &error)
                })?;
            }
        }
        let name = claim.metadata.name.clone().unwrap_or_default();
        let status = claim.status.get_or_insert_default();
        if let Some(new) = &booking.allocation {
            status.allocation = Some((**new).clone());
        }
        let Some(own) = &mut status.allocation else {
            let why = format!("claim {what} got deallocated elsewhere in the meantime");
            return Err(Trouble::Other(why));
        };
        own.allocation_timestamp.get_or_insert_with(|| self.now());
        status
            .reserved_for
            .get_or_insert_default()
            .push(holder(pod));
        let updated = api.replace_status(&name, &params, &claim).await;
        updated.map_err(|error| {
            let what = match booking.allocation {
                Some(_) => format!("add allocation and reservation to claim {what}"),
                None => format!("add reservation to claim {what}"),
            };
            Trouble::of(&what, &error)
        })
    }

    async fn wait_for_devices(
        &self,
        assignment: &Assignment,
        keys: &[ObjectKey],
    ) -> Result<(), String> {
        let text = format!(
            "waiting for binding conditions for device on node {}",
            assignment.node
        );
        let what = ("BindingConditionsPending", "Scheduling");
        let (pod, kind) = (&assignment.pod, EventType::Normal);
        self.tell(pod, assignment.profile, kind, what, text);
        let mut changes = self.state.devices();
        let profile = self.profiles.get(assignment.profile);
        let timeout = profile.map_or(600, |profile| profile.args.device_timeout_seconds);
        let ready = async {
            while let Some(claim) = self.unready(keys)? {
                let left = time_left(&claim, self.now().0.as_second(), timeout);
                if left == Some(0) {
                    let name = claim.metadata.name.as_deref().unwrap_or_default();
                    return Err(format!("device binding timeout: claim={name}"));
                }
                let timed_out = async {
                    match left {
                        Some(seconds) => self.clock.sleep(Duration::from_secs(seconds)).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    changed = changes.changed() => changed.map_err(|_| ENDING)?,
                    () = timed_out => {}
                }
            }
            Ok(())
        };
        tokio::select! {
            () = self.state.no_longer_assumed(pod) => Err(GONE.to_owned()),
            outcome = ready => outcome,
        }
    }

    /// The first of the claims whose devices are not ready.
    fn unready(&self, keys: &[ObjectKey]) -> Result<Option<Arc<ResourceClaim>>, String> {
        for key in keys {
            let claim = self.state.device_claim(key);
            let claim = claim.ok_or_else(|| format!("could not find ResourceClaim \"{key}\""))?;
            if allocation(&claim).is_some_and(has_conditions) && !is_ready(&claim)? {
                return Ok(Some(claim));
            }
        }
        Ok(None)
    }

    /// The pod is not bound: its claims are no longer for it, and the one for its extended resources goes.
    pub(crate) async fn unbind_devices(&self, assignment: &Assignment) {
        let pod = &assignment.pod;
        for booking in &assignment.devices.claims {
            if booking.mappings.is_some() {
                if let Some(claim) = self.state.extended_claim(pod) {
                    self.delete_claim(&claim).await;
                }
                continue;
            }
            let key = ObjectKey::of(&booking.claim.metadata);
            let known = self.state.device_claim(&key);
            let held = known
                .filter(|claim| uid(claim) == uid(&booking.claim) && is_reserved(claim, &pod.uid));
            if held.is_none() {
                continue;
            }
            let patch = json!({
                "metadata": {"uid": uid(&booking.claim)},
                "status": {"reservedFor": [{"$patch": "delete", "uid": &*pod.uid}]},
            });
            let (api, params) = (self.claims(key.namespace()), PatchParams::default());
            match api
                .patch_status(key.name(), &params, &Patch::Strategic(patch))
                .await
            {
                Ok(claim) => self.state.assume_claim(claim),
                Err(error) => {
                    tracing::debug!(claim = %key, error = message(&error), "a claim stays reserved");
                }
            }
        }
    }

    /// Gives up a claim's devices, or the claim.
    pub(crate) async fn give_up(&self, give_up: &GiveUp) {
        match give_up {
            GiveUp::Claim(claim) => self.delete_claim(claim).await,
            GiveUp::Devices(claim) => {
                let key = ObjectKey::of(&claim.metadata);
                let mut claim = ResourceClaim::clone(claim);
                claim.status = Some(ResourceClaimStatus::default());
                let api = self.claims(key.namespace());
                let params = PostParams::default();
                match api.replace_status(key.name(), &params, &claim).await {
                    Ok(claim) => self.state.assume_claim(claim),
                    Err(error) => {
                        tracing::debug!(claim = %key, error = message(&error), "a claim keeps its devices");
                    }
                }
            }
        }
    }

    async fn delete_claim(&self, claim: &Arc<ResourceClaim>) {
        let key = ObjectKey::of(&claim.metadata);
        let api = self.claims(key.namespace());
        let mut finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|known| known != FINALIZER);
        let patch = json!({"metadata": {"uid": uid(claim), "finalizers": finalizers}});
        let params = PatchParams::default();
        let freed = api.patch(key.name(), &params, &Patch::Merge(patch)).await;
        let outcome = match freed {
            Ok(_) => {
                let params = DeleteParams::default();
                api.delete(key.name(), &params).await.map(drop)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = outcome
            && !is_not_found(&error)
        {
            tracing::debug!(claim = %key, error = message(&error), "a claim was not deleted");
        }
    }
}

fn holder(pod: &PodRow) -> ResourceClaimConsumerReference {
    ResourceClaimConsumerReference {
        api_group: None,
        name: pod.key.name().to_owned(),
        resource: "pods".to_owned(),
        uid: pod.uid.to_string(),
    }
}
