//! Makes the device claims of pods from templates, and gives devices back that no pod uses any more.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::PodResourceClaim;
use k8s_openapi::api::resource::v1::{
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate,
};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use skiff_client::failure::message;
use skiff_client::{
    Event, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache,
    WorkQueue, is_not_found,
};

use crate::deletion::delete_seen;
use crate::gate::WriteGate;
use crate::resource_claim_plan::{
    ClaimName, Cleanup, cleanup, fault_of, from_template, is_done, is_made_for, is_reserved,
    name_of, needs_work, owner_of, pod_reference,
};
use crate::seen_pod::Pod;
use crate::{Context, pods};

/// The name of this controller.
pub const NAME: &str = "resource-claim-controller";
/// What its events come from.
const COMPONENT: &str = "resource_claim";
/// Owns the part of pods' status that it writes.
const FIELD_MANAGER: &str = "ResourceClaimController";

const WORKERS: usize = 4;
/// Pods by the templates and claims that they name.
const NAMED: &str = "resource claims";

fn uses_claims(pod: &Pod) -> bool {
    let claims = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.resource_claims.as_ref());
    let status = pod.status.as_ref();
    claims.is_some_and(|claims| !claims.is_empty())
        || status.is_some_and(|status| status.extended_resource_claim_status.is_some())
}

fn claims_of(pod: &Pod) -> &[PodResourceClaim] {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.resource_claims.as_deref())
        .unwrap_or_default()
}

/// The names of all claims that a pod uses, those made for its extended resources included.
fn claim_names(pod: &Pod) -> Vec<String> {
    let named = claims_of(pod)
        .iter()
        .filter_map(|claim| match name_of(pod, claim) {
            ClaimName::Stated(name) | ClaimName::Made(name) => Some(name.to_owned()),
            _ => None,
        });
    let status = pod.status.as_ref();
    let extended = status.and_then(|status| status.extended_resource_claim_status.as_ref());
    named
        .chain(extended.map(|found| found.resource_claim_name.clone()))
        .collect()
}

/// What pods are found by: `claim namespace/name`, `template namespace/name`.
fn named(pod: &Pod) -> Vec<String> {
    if !uses_claims(pod) {
        return Vec::new();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let templates = claims_of(pod).iter();
    let templates = templates.filter_map(|claim| claim.resource_claim_template_name.as_ref());
    let templates = templates.map(|name| format!("template {namespace}/{name}"));
    let claims = claim_names(pod).into_iter();
    let claims = claims.map(|name| format!("claim {namespace}/{name}"));
    templates.chain(claims).collect()
}

/// Runs the controller.
pub async fn run(context: Context) {
    let pods = context.caches.of::<Pod>();
    let claims = context.caches.of::<ResourceClaim>();
    let templates = context.caches.of::<ResourceClaimTemplate>();
    pods.wait_synced().await;
    claims.wait_synced().await;
    templates.wait_synced().await;
    pods.add_index(NAMED, named);
    claims.index_owners();
    let (pod_queue, claim_queue) = (context.queue(), context.queue());
    let _pods = watch_pods(&pods, &claims, &pod_queue, &claim_queue);
    let _claims = {
        let (pods, pod_queue, claim_queue) = (pods.clone(), pod_queue.clone(), claim_queue.clone());
        claims.on_event(move |event| {
            let claim = event.object();
            let key = ObjectKey::of(&claim.metadata);
            if let Event::Deleted(_) = event {
                // Somebody took a pod's claim away.
                if let Some((owner, _)) = owner_of(claim) {
                    pod_queue.add(ObjectKey::new(key.namespace(), owner));
                }
                return;
            }
            for pod in pods.by_index(NAMED, &format!("claim {key}")) {
                pod_queue.add(ObjectKey::of(&pod.metadata));
            }
            claim_queue.add(key);
        })
    };
    let _templates = {
        let (pods, queue) = (pods.clone(), pod_queue.clone());
        templates.on_event(move |event| {
            if let Event::Added(template) = event {
                let key = ObjectKey::of(&template.metadata);
                for pod in pods.by_index(NAMED, &format!("template {key}")) {
                    queue.add(ObjectKey::of(&pod.metadata));
                }
            }
        })
    };
    let client = context.client(NAME);
    let making = Making {
        client: client.clone(),
        pods: pods.clone(),
        claims: claims.clone(),
        templates,
        recorder: context.recorder(NAME, COMPONENT),
        gate: WriteGate::default(),
    };
    let clearing = Clearing {
        client,
        pods,
        claims,
    };
    tokio::join!(
        context.run(making, pod_queue, WORKERS),
        context.run(clearing, claim_queue, WORKERS)
    );
}

fn watch_pods(
    pods: &SharedCache<Pod>,
    claims: &SharedCache<ResourceClaim>,
    pod_queue: &WorkQueue<ObjectKey>,
    claim_queue: &WorkQueue<ObjectKey>,
) -> skiff_client::Subscription {
    let (claims, pod_queue, claim_queue) = (claims.clone(), pod_queue.clone(), claim_queue.clone());
    pods.on_event(move |event| {
        let pod = event.object();
        if !uses_claims(pod) {
            return;
        }
        let key = ObjectKey::of(&pod.metadata);
        let gone = matches!(event, Event::Deleted(_));
        if gone || is_done(pod) {
            for name in claim_names(pod) {
                claim_queue.add(ObjectKey::new(key.namespace(), &name));
            }
        }
        let find = |name: &str| claims.get_named(key.namespace(), name);
        if !gone && needs_work(pod, find) {
            pod_queue.add(key.clone());
        }
    })
}

/// Makes claims, and has pods hold theirs that were bound without a scheduler that did.
struct Making {
    client: Client,
    pods: SharedCache<Pod>,
    claims: SharedCache<ResourceClaim>,
    templates: SharedCache<ResourceClaimTemplate>,
    recorder: EventRecorder,
    gate: WriteGate,
}

#[async_trait]
impl Reconciler for Making {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "resource_claim"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(pod) = self.pods.get(key) else {
            self.gate.forget(key);
            return Ok(Outcome::Done);
        };
        if pods::is_deleting(&pod) {
            return Ok(Outcome::Done);
        }
        if !self.gate.is_open(key, &self.claims) {
            return Ok(Outcome::Retry);
        }
        let mut new: Vec<(&str, String)> = Vec::new();
        for claim in claims_of(&pod) {
            match self.ensure(key, &pod, claim).await {
                Ok(Some(name)) => new.push((&claim.name, name)),
                Ok(None) => {}
                Err(why) => {
                    let text = format!("PodResourceClaim {}: {why}", claim.name);
                    let (kind, reason) = (EventType::Warning, "FailedResourceClaimCreation");
                    self.recorder.about(&*pod, kind, reason, text.clone());
                    return Err(ReconcileError::Other(format!("pod {key}, {text}")));
                }
            }
        }
        if !new.is_empty() {
            self.write_names(key, &pod, &new).await?;
        }
        if pods::node_name(&pod).is_empty() {
            return Ok(Outcome::Done);
        }
        self.reserve(key, &pod).await
    }
}

impl Making {
    fn api(&self, key: &ObjectKey) -> Api<ResourceClaim> {
        Api::namespaced(self.client.clone(), key.namespace())
    }

    /// Sees to it that a claim is there. Answers its name if the pod does not know it yet.
    async fn ensure(
        &self,
        key: &ObjectKey,
        pod: &Pod,
        claim: &PodResourceClaim,
    ) -> Result<Option<String>, String> {
        match name_of(pod, claim) {
            ClaimName::Unknown => {
                return Err(format!(
                    "checking for claim before creating it: {}",
                    fault_of(pod, claim)
                ));
            }
            ClaimName::Stated(_) | ClaimName::Needless => return Ok(None),
            ClaimName::Made(name) => {
                let known = self.claims.get_named(key.namespace(), name);
                if known.is_some_and(|known| is_made_for(&known, pod)) {
                    return Ok(None);
                }
            }
            ClaimName::ToBeMade => {}
        }
        let Some(template) = &claim.resource_claim_template_name else {
            return Ok(None);
        };
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut own = self.claims.owned_by(uid).into_iter();
        if let Some(orphan) = own.find(|orphan| crate::resource_claim_plan::is_for(orphan, claim)) {
            return Ok(orphan.metadata.name.clone());
        }
        let Some(found) = self.templates.get_named(key.namespace(), template) else {
            return Err(format!(
                "resource claim template \"{template}\": resourceclaimtemplate.resource.k8s.io \"{template}\" not found"
            ));
        };
        let new = from_template(pod, claim, &found);
        let made = self.api(key).create(&PostParams::default(), &new).await;
        let made = made.map_err(|error| format!("create ResourceClaim : {}", message(&error)))?;
        self.gate.wrote(key, &made.metadata);
        Ok(made.metadata.name)
    }

    /// Writes the names of claims that were made into the pod's status, beside those that stand there.
    async fn write_names(
        &self,
        key: &ObjectKey,
        pod: &Pod,
        new: &[(&str, String)],
    ) -> Result<(), ReconcileError> {
        let status = pod.status.as_ref();
        let known = status
            .into_iter()
            .flat_map(|status| status.resource_claim_statuses.iter().flatten());
        let known = known.filter(|known| new.iter().all(|(name, _)| *name != known.name));
        let mut all: Vec<serde_json::Value> = known.map(|known| json!(known)).collect();
        all.extend(
            new.iter()
                .map(|(name, claim)| json!({"name": name, "resourceClaimName": claim})),
        );
        let body = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": key.name(), "namespace": key.namespace(), "uid": pod.metadata.uid},
            "status": {"resourceClaimStatuses": all},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), key.namespace());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch_status(key.name(), &params, &Patch::Apply(body))
            .await?;
        Ok(())
    }

    /// A pod on a node holds the devices of its claims, even if it got there by itself.
    async fn reserve(&self, key: &ObjectKey, pod: &Pod) -> Result<Outcome, ReconcileError> {
        for used in claims_of(pod) {
            let name = match name_of(pod, used) {
                ClaimName::Stated(name) | ClaimName::Made(name) => name,
                _ => continue,
            };
            let Some(claim) = self.claims.get_named(key.namespace(), name) else {
                return Ok(Outcome::Done);
            };
            if matches!(name_of(pod, used), ClaimName::Made(_)) && !is_made_for(&claim, pod) {
                return Ok(Outcome::Done);
            }
            let status = claim.status.as_ref();
            let allocated = status.is_some_and(|status| status.allocation.is_some());
            if !allocated || is_reserved(&claim, pod) {
                continue;
            }
            let mut claim = ResourceClaim::clone(&claim);
            let status = claim.status.get_or_insert_default();
            status
                .reserved_for
                .get_or_insert_default()
                .push(pod_reference(pod));
            self.api(key)
                .replace_status(name, &PostParams::default(), &claim)
                .await?;
        }
        Ok(Outcome::Done)
    }
}

/// Lets go of pods that are gone, gives devices back and takes away claims that were made for pods that have ended.
struct Clearing {
    client: Client,
    pods: SharedCache<Pod>,
    claims: SharedCache<ResourceClaim>,
}

#[async_trait]
impl Reconciler for Clearing {
    fn name(&self) -> &'static str {
        "resource-claim-controller-clearing"
    }

    fn queue(&self) -> &'static str {
        "resource_claim"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(claim) = self.claims.get(key) else {
            return Ok(Outcome::Done);
        };
        let status = claim.status.as_ref();
        let mut remaining: Vec<ResourceClaimConsumerReference> = Vec::new();
        for holder in status
            .into_iter()
            .flat_map(|status| status.reserved_for.iter().flatten())
        {
            if self.still_holds(key, holder).await? {
                remaining.push(holder.clone());
            }
        }
        let owner = owner_of(&claim).and_then(|(name, uid)| {
            let pod = self.pods.get_named(key.namespace(), name)?;
            Some(pod.metadata.uid.as_deref() != Some(uid) || is_done(&pod))
        });
        let plan = cleanup(&claim, remaining, owner == Some(true));
        self.act(key, &claim, plan).await
    }
}

impl Clearing {
    async fn still_holds(
        &self,
        key: &ObjectKey,
        holder: &ResourceClaimConsumerReference,
    ) -> Result<bool, ReconcileError> {
        let is_pod = holder.api_group.as_deref().unwrap_or_default().is_empty();
        if !is_pod || holder.resource != "pods" {
            // Others look after theirs.
            return Ok(true);
        }
        let same = |pod: &Pod| pod.metadata.uid.as_deref() == Some(&holder.uid);
        if let Some(pod) = self.pods.get_named(key.namespace(), &holder.name) {
            return Ok(same(&pod) && !is_done(&pod));
        }
        // It may be new: only the server knows for sure.
        let api: Api<Pod> = Api::namespaced(self.client.clone(), key.namespace());
        match api.get(&holder.name).await {
            Ok(pod) => Ok(same(&pod)),
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn act(
        &self,
        key: &ObjectKey,
        claim: &Arc<ResourceClaim>,
        plan: Cleanup,
    ) -> Result<Outcome, ReconcileError> {
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), key.namespace());
        let params = PostParams::default();
        let mut claim = ResourceClaim::clone(claim);
        // Whole objects and no patches: what changed meanwhile is to be looked at first.
        if let Some(status) = plan.status {
            claim.status = Some(status);
            claim = api.replace_status(key.name(), &params, &claim).await?;
        }
        if plan.unprotect {
            let finalizers = claim.metadata.finalizers.as_mut();
            finalizers.into_iter().for_each(|all| {
                all.retain(|known| known != crate::resource_claim_plan::FINALIZER);
            });
            api.replace(key.name(), &params, &claim).await?;
        }
        if plan.delete {
            delete_seen(&api, &claim.metadata, DeleteParams::default()).await?;
        }
        Ok(Outcome::Done)
    }
}
