//! Keeps claims, volumes and volume attributes classes that are being deleted until nothing uses them any more.
//!
//! Admission gives each a finalizer when it is made; here it is taken off once the object is on its way out and unused,
//! and put on where it is missing. Upstream runs three controllers for this; their names are the identities here.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use skiff_client::reflect::Watched;
use skiff_client::{
    Event, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache, WorkQueue, is_conflict,
    is_not_found,
};

use crate::seen_pod::{Pod, Volume};
use crate::{Context, pods};

/// The controller of claims.
pub const CLAIMS: &str = "pvc-protection-controller";
/// The controller of volumes.
pub const VOLUMES: &str = "pv-protection-controller";
/// The controller of volume attributes classes.
pub const CLASSES: &str = "volumeattributesclass-protection-controller";

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const CLASS_FINALIZER: &str = "kubernetes.io/vac-protection";

/// The index of pods by `namespace/claim`.
const CLAIM_INDEX: &str = "claim";
/// The index of claims and of volumes by the class that they have or are to have.
const CLASS_INDEX: &str = "attributes-class";

/// What is to be done with an object's finalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    Add,
    /// Unless the object is in use.
    Remove,
}

fn plan(meta: &ObjectMeta, finalizer: &str) -> Plan {
    let has = has(meta, finalizer);
    match (meta.deletion_timestamp.is_some(), has) {
        (true, true) => Plan::Remove,
        (false, false) => Plan::Add,
        _ => Plan::Nothing,
    }
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    let finalizers = meta.finalizers.iter().flatten();
    finalizers.into_iter().any(|name| name == finalizer)
}

/// The finalizers after the plan.
fn carry_out(plan: Plan, meta: &mut ObjectMeta, finalizer: &str) {
    let finalizers = meta.finalizers.get_or_insert_default();
    match plan {
        Plan::Nothing => {}
        Plan::Add => finalizers.push(finalizer.to_owned()),
        Plan::Remove => finalizers.retain(|name| name != finalizer),
    }
}

fn volumes(pod: &Pod) -> &[Volume] {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
    volumes.unwrap_or_default()
}

/// The name of the claim that a volume of the pod means, its own ephemeral one's included.
fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Some(claim.claim_name.clone());
    }
    let pod = pod.metadata.name.as_deref().unwrap_or_default();
    let ephemeral = volume.ephemeral.is_some();
    ephemeral.then(|| format!("{pod}-{}", volume.name))
}

/// The claims, as `namespace/name`, that a pod names.
pub(crate) fn claims_of(pod: &Pod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let claims = volumes(pod)
        .iter()
        .filter_map(|volume| claim_name(pod, volume));
    claims.map(|claim| format!("{namespace}/{claim}")).collect()
}

/// Adds the index that [`pods_with_claim`] reads.
pub(crate) fn index_claims(pods: &SharedCache<Pod>) {
    pods.add_index(CLAIM_INDEX, claims_of);
}

/// The pods that name a claim. Needs [`index_claims`].
pub(crate) fn pods_with_claim(pods: &SharedCache<Pod>, claim: &ObjectKey) -> Vec<Arc<Pod>> {
    pods.by_index(CLAIM_INDEX, claim.as_str())
}

/// Whether the kubelet has finished with the pod, or was told not to be waited for: it only waits for its finalizers.
fn is_shut_down(pod: &Pod) -> bool {
    pods::is_deleting(pod) && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// Whether the pod keeps the claim. One that has ended still does, as its claim may be read from it; one that is not
/// bound to a node does not, as no kubelet starts a pod whose claim is being deleted. Nor does one that only waits for its
/// finalizers keep a claim that it owns: deleted in the foreground it waits for the claim. Upstream sees to that for ephemeral
/// volumes only, and a StatefulSet's pods and claims wait for each other for ever (`whenScaled: Delete`).
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    if pods::node_name(pod).is_empty() {
        return false;
    }
    let mut owners = claim.metadata.owner_references.iter().flatten();
    let owned = owners.any(|owner| {
        owner.controller == Some(true) && Some(&owner.uid) == pod.metadata.uid.as_ref()
    });
    if owned && is_shut_down(pod) {
        return false;
    }
    volumes(pod).iter().any(|volume| {
        claim_name(pod, volume) == claim.metadata.name && (volume.ephemeral.is_none() || owned)
    })
}

fn is_bound(volume: &PersistentVolume) -> bool {
    let status = volume.status.as_ref();
    status.and_then(|status| status.phase.as_deref()) == Some("Bound")
}

fn classes_of_volume(volume: &PersistentVolume) -> Vec<String> {
    let spec = volume.spec.as_ref();
    let class = spec.and_then(|spec| spec.volume_attributes_class_name.clone());
    class.filter(|name| !name.is_empty()).into_iter().collect()
}

/// The class that the claim asks for, the one it has, and the one it is on its way to.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let spec = claim.spec.as_ref();
    let asked = spec.and_then(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let target = status
        .and_then(|status| status.modify_volume_status.as_ref())
        .and_then(|modify| modify.target_volume_attributes_class_name.clone());
    let classes = [asked, current, target].into_iter().flatten();
    classes.filter(|name| !name.is_empty()).collect()
}

/// Writes what was planned. Who changed the object meanwhile brings it here again.
async fn write<K>(api: Api<K>, object: &K, plan: Plan, finalizer: &str) -> Result<(), kube::Error>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let mut object = object.clone();
    carry_out(plan, object.meta_mut(), finalizer);
    let name = object.meta().name.clone().unwrap_or_default();
    match api.replace(&name, &PostParams::default(), &object).await {
        Err(error) if !is_conflict(&error) && !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Queues each object whose finalizer is not as it should be.
fn on_own<K: Watched + kube::Resource<DynamicType = ()>>(
    cache: &SharedCache<K>,
    queue: &WorkQueue<ObjectKey>,
    finalizer: &'static str,
) -> skiff_client::Subscription {
    let queue = queue.clone();
    cache.on_event(move |event| {
        let meta = event.object().meta();
        if !matches!(event, Event::Deleted(_)) && plan(meta, finalizer) != Plan::Nothing {
            queue.add(ObjectKey::of(meta));
        }
    })
}

struct Claims {
    client: Client,
    claims: SharedCache<PersistentVolumeClaim>,
    pods: SharedCache<Pod>,
}

/// Runs the controller of claims.
pub async fn run_claims(context: Context) {
    let claims = context.caches.of::<PersistentVolumeClaim>();
    let pods = context.caches.of::<Pod>();
    index_claims(&pods);
    let queue = context.queue();
    claims.wait_synced().await;
    pods.wait_synced().await;
    let _claims = on_own(&claims, &queue, CLAIM_FINALIZER);
    let _pods = {
        let (queue, claims) = (queue.clone(), claims.clone());
        pods.on_event(move |event| {
            let pod = event.object();
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            for volume in volumes(pod) {
                let claim = claim_name(pod, volume);
                let claim = claim.and_then(|name| claims.get_named(namespace, &name));
                if let Some(claim) = claim
                    && claim.metadata.deletion_timestamp.is_some()
                {
                    queue.add(ObjectKey::of(&claim.metadata));
                }
            }
        })
    };
    let reconciler = Claims {
        client: context.client(CLAIMS),
        claims,
        pods,
    };
    context.run(reconciler, queue, 2).await;
}

#[async_trait]
impl Reconciler for Claims {
    fn name(&self) -> &'static str {
        CLAIMS
    }

    fn queue(&self) -> &'static str {
        "pvcprotection"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(claim) = self.claims.get(key) else {
            return Ok(Outcome::Done);
        };
        let plan = plan(&claim.metadata, CLAIM_FINALIZER);
        if plan == Plan::Nothing || plan == Plan::Remove && self.is_used(key, &claim).await? {
            return Ok(Outcome::Done);
        }
        let api = Api::namespaced(self.client.clone(), key.namespace());
        write(api, &*claim, plan, CLAIM_FINALIZER).await?;
        Ok(Outcome::Done)
    }
}

impl Claims {
    /// Asks the cache first; that nobody uses the claim is believed only of the server itself.
    async fn is_used(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
    ) -> Result<bool, ReconcileError> {
        let known = pods_with_claim(&self.pods, key);
        if known.iter().any(|pod| uses(pod, claim)) {
            return Ok(true);
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), key.namespace());
        let pods = api.list(&ListParams::default()).await?;
        Ok(pods.items.iter().any(|pod| uses(pod, claim)))
    }
}

struct Volumes {
    client: Client,
    volumes: SharedCache<PersistentVolume>,
}

/// Runs the controller of volumes.
pub async fn run_volumes(context: Context) {
    let volumes = context.caches.of::<PersistentVolume>();
    let queue = context.queue();
    volumes.wait_synced().await;
    let _volumes = on_own(&volumes, &queue, VOLUME_FINALIZER);
    let reconciler = Volumes {
        client: context.client(VOLUMES),
        volumes,
    };
    context.run(reconciler, queue, 1).await;
}

#[async_trait]
impl Reconciler for Volumes {
    fn name(&self) -> &'static str {
        VOLUMES
    }

    fn queue(&self) -> &'static str {
        "pvprotection"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(volume) = self.volumes.get(key) else {
            return Ok(Outcome::Done);
        };
        let plan = plan(&volume.metadata, VOLUME_FINALIZER);
        if plan == Plan::Nothing || plan == Plan::Remove && is_bound(&volume) {
            return Ok(Outcome::Done);
        }
        let api = Api::all(self.client.clone());
        write(api, &*volume, plan, VOLUME_FINALIZER).await?;
        Ok(Outcome::Done)
    }
}

struct Classes {
    client: Client,
    classes: SharedCache<VolumeAttributesClass>,
    claims: SharedCache<PersistentVolumeClaim>,
    volumes: SharedCache<PersistentVolume>,
}

/// Runs the controller of volume attributes classes.
pub async fn run_classes(context: Context) {
    let classes = context.caches.of::<VolumeAttributesClass>();
    let claims = context.caches.of::<PersistentVolumeClaim>();
    let volumes = context.caches.of::<PersistentVolume>();
    claims.add_index(CLASS_INDEX, classes_of_claim);
    volumes.add_index(CLASS_INDEX, classes_of_volume);
    let queue = context.queue();
    classes.wait_synced().await;
    claims.wait_synced().await;
    volumes.wait_synced().await;
    let _classes = on_own(&classes, &queue, CLASS_FINALIZER);
    let _claims = on_users(&claims, &queue, classes_of_claim);
    let _volumes = on_users(&volumes, &queue, classes_of_volume);
    let reconciler = Classes {
        client: context.client(CLASSES),
        classes,
        claims,
        volumes,
    };
    context.run(reconciler, queue, 1).await;
}

/// Queues the classes that an object has named and may no longer.
fn on_users<K: Watched>(
    cache: &SharedCache<K>,
    queue: &WorkQueue<ObjectKey>,
    names: fn(&K) -> Vec<String>,
) -> skiff_client::Subscription {
    let queue = queue.clone();
    cache.on_event(move |event| {
        let left = match event {
            Event::Added(_) => Vec::new(),
            Event::Updated { old, new } => {
                let new = names(new);
                let mut old = names(old);
                old.retain(|name| !new.contains(name));
                old
            }
            Event::Deleted(object) => names(object),
        };
        for name in left {
            queue.add(ObjectKey::new("", &name));
        }
    })
}

#[async_trait]
impl Reconciler for Classes {
    fn name(&self) -> &'static str {
        CLASSES
    }

    fn queue(&self) -> &'static str {
        "vacprotection"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(class) = self.classes.get(key) else {
            return Ok(Outcome::Done);
        };
        let plan = plan(&class.metadata, CLASS_FINALIZER);
        let used = || {
            let name = key.name();
            !self.claims.by_index(CLASS_INDEX, name).is_empty()
                || !self.volumes.by_index(CLASS_INDEX, name).is_empty()
        };
        if plan == Plan::Nothing || plan == Plan::Remove && used() {
            return Ok(Outcome::Done);
        }
        let api = Api::all(self.client.clone());
        write(api, &*class, plan, CLASS_FINALIZER).await?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of<K: serde::de::DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_finalizer_is_there_until_the_object_is_to_go() {
        let meta = |deleting: bool, finalizers: &[&str]| -> ObjectMeta {
            of(
                json!({"deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z"), "finalizers": finalizers}),
            )
        };
        for (deleting, before, planned, after) in [
            (false, vec![], Plan::Add, vec![VOLUME_FINALIZER]),
            (false, vec!["a"], Plan::Add, vec!["a", VOLUME_FINALIZER]),
            (
                false,
                vec![VOLUME_FINALIZER],
                Plan::Nothing,
                vec![VOLUME_FINALIZER],
            ),
            (true, vec!["a", VOLUME_FINALIZER], Plan::Remove, vec!["a"]),
            (true, vec!["a"], Plan::Nothing, vec!["a"]),
        ] {
            let mut meta = meta(deleting, &before);
            let found = plan(&meta, VOLUME_FINALIZER);
            assert_eq!(found, planned, "{before:?}");
            carry_out(found, &mut meta, VOLUME_FINALIZER);
            assert_eq!(meta.finalizers.unwrap(), after);
        }
    }

    #[test]
    fn who_uses_a_claim() {
        let claim = |name: &str, owner: &str| -> PersistentVolumeClaim {
            of(
                json!({"metadata": {"namespace": "a", "name": name, "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]}}),
            )
        };
        let pod = |node: Option<&str>, phase: &str, forced: bool| -> Pod {
            let gone = forced.then_some("2026-01-01T00:00:00Z");
            of(
                json!({"metadata": {"namespace": "a", "name": "p", "uid": "1",
                    "deletionTimestamp": gone, "deletionGracePeriodSeconds": 0},
                "spec": {"nodeName": node, "containers": [], "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "c"}},
                    {"name": "own", "ephemeral": {}}, {"name": "e", "emptyDir": {}}]},
                "status": {"phase": phase}}),
            )
        };
        assert_eq!(claims_of(&pod(None, "", false)), ["a/c", "a/p-own"]);
        for (expected, pod, claim) in [
            (true, pod(Some("n"), "Running", false), claim("c", "9")),
            (true, pod(Some("n"), "Succeeded", false), claim("c", "9")),
            (true, pod(Some("n"), "Running", true), claim("c", "9")),
            (true, pod(Some("n"), "Running", false), claim("c", "1")),
            (false, pod(Some("n"), "Running", true), claim("c", "1")),
            (false, pod(None, "Pending", false), claim("c", "9")),
            (false, pod(Some("n"), "Running", false), claim("d", "1")),
            (true, pod(Some("n"), "Running", false), claim("p-own", "1")),
            (false, pod(Some("n"), "Running", false), claim("p-own", "9")),
            (false, pod(Some("n"), "Running", true), claim("p-own", "1")),
        ] {
            assert_eq!(uses(&pod, &claim), expected, "{pod:?} {claim:?}");
        }
    }

    #[test]
    fn the_classes_of_a_claim_are_all_it_ever_names() {
        let claim = of(
            json!({"spec": {"volumeAttributesClassName": "asked"}, "status": {
            "currentVolumeAttributesClassName": "current",
            "modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": "target"}}}),
        );
        assert_eq!(classes_of_claim(&claim), ["asked", "current", "target"]);
        let volume = of(json!({"spec": {"volumeAttributesClassName": ""}}));
        assert!(classes_of_volume(&volume).is_empty());
    }
}
