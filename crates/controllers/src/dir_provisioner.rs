//! Makes volumes that are directories of a node, for the storage classes whose provisioner is `skiff.local/dir`.
//!
//! The scheduler chooses the node (`volume.kubernetes.io/selected-node` on the claim). The volume is a `local` one in
//! the directory that the node names in its annotation [`NODE_DIRECTORY`]; the node's kubelet makes the directory
//! when a pod mounts it. To have it removed, the controller writes `volumes.skiff.local/<volume>: remove` on the node;
//! the kubelet, which may write to no other object than its node, answers `removed` or `failed: ...` in its place. It
//! goes by the volume's name only, never by a path that stands in an object.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_api::validation::quantity::Amount;
use skiff_base::SharedClock;
use skiff_client::{
    Event, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache,
    Subscription, WorkQueue, is_already_exists, is_not_found,
};

use crate::Context;
use crate::deletion::delete_seen;
use crate::volume_plan::{
    PROVISIONED_BY, PROVISIONERS, SELECTED_NODE, annotation, class_of_claim, phase_of_volume,
    policy,
};

/// The name of this controller.
pub const NAME: &str = "dir-provisioner";
/// The provisioner that storage classes name.
pub const PROVISIONER: &str = "skiff.local/dir";
/// The annotation of a node that names the directory of its volumes.
pub const NODE_DIRECTORY: &str = "skiff.local/volumes-directory";
/// What comes before a volume's name in the annotations by which its directory is removed.
const REMOVAL: &str = "volumes.skiff.local/";
/// Keeps a volume until its directory is removed.
const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// When a removal that failed is asked for again.
const RETRY: Duration = Duration::from_secs(60);

/// Why no volume can be made.
#[derive(Debug, PartialEq)]
struct Refusal {
    text: String,
    /// Whether another node might do.
    node: bool,
}

/// The volume for a claim.
fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: Option<&Node>,
) -> Result<PersistentVolume, Refusal> {
    let refuse = |node: bool, text: &str| {
        let class = class.metadata.name.as_deref().unwrap_or_default();
        let text = format!("failed to provision volume with StorageClass {class:?}: {text}");
        Err(Refusal { text, node })
    };
    let spec = claim.spec.clone().unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return refuse(false, "block volumes are not supported");
    }
    if spec.selector.is_some() {
        return refuse(false, "claim selectors are not supported");
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return refuse(false, "data sources are not supported");
    }
    let Some(node) = node else {
        return refuse(false, "configuration error, no node was specified");
    };
    let Some(directory) = annotation(&node.metadata, NODE_DIRECTORY) else {
        return refuse(true, "the node has no directory for volumes");
    };
    let labels = node.metadata.labels.as_ref();
    let Some(hostname) = labels.and_then(|labels| labels.get(HOSTNAME)) else {
        return refuse(true, "the node has no label kubernetes.io/hostname");
    };
    let name = volume_name(claim);
    let term = NodeSelectorTerm {
        match_expressions: Some(vec![NodeSelectorRequirement {
            key: HOSTNAME.to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![hostname.clone()]),
        }]),
        match_fields: None,
    };
    let requests = spec.resources.and_then(|resources| resources.requests);
    let size = requests.and_then(|requests| requests.get("storage").cloned());
    let policy = class.reclaim_policy.clone();
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            annotations: Some([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())].into()),
            finalizers: Some(vec![FINALIZER.to_owned()]),
            name: Some(name.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some([("storage".to_owned(), size.unwrap_or_default())].into()),
            claim_ref: Some(skiff_client::events::reference(claim)),
            local: Some(LocalVolumeSource {
                path: format!("{}/{name}", directory.trim_end_matches('/')),
                fs_type: None,
            }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector {
                    node_selector_terms: vec![term],
                }),
            }),
            persistent_volume_reclaim_policy: Some(policy.unwrap_or_else(|| "Delete".to_owned())),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}

fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// The hostname of the node that a volume of ours is on.
fn hostname_of(volume: &PersistentVolume) -> Option<&str> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?;
    let mut terms = affinity.required.as_ref()?.node_selector_terms.iter();
    let mut requirements = terms
        .next()?
        .match_expressions
        .iter()
        .flatten()
        .filter(|found| found.key == HOSTNAME);
    let values = requirements.next()?.values.as_deref()?;
    values.first().map(String::as_str)
}

fn is_ours(volume: &PersistentVolume) -> bool {
    annotation(&volume.metadata, PROVISIONED_BY) == Some(PROVISIONER)
}

/// What to do about a volume of ours.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    /// Ask the node to remove the directory.
    Ask,
    /// Tell why the node could not, and ask again later.
    Tell(String),
    /// The directory is gone: the volume goes too.
    Delete,
    /// The directory stays, the object may go.
    Release,
}

fn step(volume: &PersistentVolume, node: Option<&Node>) -> Step {
    let leaving = volume.metadata.deletion_timestamp.is_some();
    if policy(volume) != "Delete" {
        return if leaving {
            Step::Release
        } else {
            Step::Nothing
        };
    }
    let released = matches!(phase_of_volume(volume), "Released" | "Failed");
    let never_bound = leaving && phase_of_volume(volume) != "Bound";
    if !released && !never_bound {
        return Step::Nothing;
    }
    // With the node its directories are gone, or out of reach.
    let Some(node) = node else {
        return Step::Delete;
    };
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    match annotation(&node.metadata, &format!("{REMOVAL}{name}")) {
        None => Step::Ask,
        Some("removed") => Step::Delete,
        Some(word) => match word.strip_prefix("failed: ") {
            Some(why) => Step::Tell(why.to_owned()),
            None => Step::Nothing,
        },
    }
}

/// Runs the controller.
pub async fn run(context: Context) {
    let claims = context.caches.of::<PersistentVolumeClaim>();
    let volumes = context.caches.of::<PersistentVolume>();
    let classes = context.caches.of::<StorageClass>();
    let nodes = context.caches.of::<Node>();
    claims.wait_synced().await;
    volumes.wait_synced().await;
    classes.wait_synced().await;
    nodes.wait_synced().await;
    let provisioner = Arc::new(Provisioner {
        client: context.client(NAME),
        claims,
        volumes,
        classes,
        nodes,
        claim_queue: context.queue(),
        volume_queue: context.queue(),
        recorder: context.recorder(NAME, PROVISIONER),
        clock: context.clock.clone(),
        failed: Mutex::default(),
    });
    let _subscriptions = provisioner.subscribe();
    let of_claims = context.run(
        Claims(provisioner.clone()),
        provisioner.claim_queue.clone(),
        2,
    );
    let of_volumes = context.run(
        Volumes(provisioner.clone()),
        provisioner.volume_queue.clone(),
        2,
    );
    tokio::join!(of_claims, of_volumes);
}

struct Provisioner {
    client: Client,
    claims: SharedCache<PersistentVolumeClaim>,
    volumes: SharedCache<PersistentVolume>,
    classes: SharedCache<StorageClass>,
    nodes: SharedCache<Node>,
    claim_queue: WorkQueue<ObjectKey>,
    volume_queue: WorkQueue<ObjectKey>,
    recorder: EventRecorder,
    clock: SharedClock,
    /// When the removal of a volume's directory failed last.
    failed: Mutex<HashMap<String, Duration>>,
}

struct Claims(Arc<Provisioner>);
struct Volumes(Arc<Provisioner>);

fn asks_us(claim: &PersistentVolumeClaim) -> bool {
    PROVISIONERS
        .iter()
        .any(|name| annotation(&claim.metadata, name) == Some(PROVISIONER))
}

impl Provisioner {
    fn subscribe(self: &Arc<Self>) -> [Subscription; 3] {
        let of_claims = {
            let queue = self.claim_queue.clone();
            self.claims.on_event(move |event| {
                let claim = event.object();
                if asks_us(claim) && !matches!(event, Event::Deleted(_)) {
                    queue.add(ObjectKey::of(&claim.metadata));
                }
            })
        };
        let of_volumes = {
            let queue = self.volume_queue.clone();
            self.volumes.on_event(move |event| {
                if is_ours(event.object()) {
                    queue.add(ObjectKey::of(&event.object().metadata));
                }
            })
        };
        let queue = self.volume_queue.clone();
        let of_nodes = self.nodes.on_event(move |event| {
            let annotations = event.object().metadata.annotations.iter().flatten();
            for volume in annotations.filter_map(|(key, _)| key.strip_prefix(REMOVAL)) {
                queue.add(ObjectKey::new("", volume));
            }
        });
        [of_claims, of_volumes, of_nodes]
    }

    fn node_of(&self, volume: &PersistentVolume) -> Option<Arc<Node>> {
        let hostname = hostname_of(volume)?;
        let is_it = |node: &Node| {
            let labels = node.metadata.labels.as_ref();
            labels
                .and_then(|labels| labels.get(HOSTNAME))
                .map(String::as_str)
                == Some(hostname)
        };
        // Most nodes are called by their hostnames.
        let likely = self
            .nodes
            .get_named("", hostname)
            .filter(|node| is_it(node));
        likely.or_else(|| self.nodes.list().into_iter().find(|node| is_it(node)))
    }

    async fn annotate(&self, node: &str, volume: &str, word: Value) -> Result<(), kube::Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = json!({"metadata": {"annotations": {format!("{REMOVAL}{volume}"): word}}});
        let patch = Patch::Merge(&patch);
        match api.patch(node, &PatchParams::default(), &patch).await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// For how long the removal is not to be asked for, because it failed just now.
    fn pause(&self, volume: &str) -> Option<Duration> {
        let now = self.clock.monotonic();
        let failed = self.failed.lock().get(volume).copied()?;
        let left = (failed + RETRY).saturating_sub(now);
        (!left.is_zero()).then_some(left)
    }

    /// Lets the node forget a volume that is gone.
    async fn forget(&self, volume: &str) -> Result<(), kube::Error> {
        self.failed.lock().remove(volume);
        let key = format!("{REMOVAL}{volume}");
        for node in self.nodes.list() {
            if annotation(&node.metadata, &key).is_some() {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                self.annotate(name, volume, Value::Null).await?;
            }
        }
        Ok(())
    }

    async fn release(&self, volume: &PersistentVolume) -> Result<(), kube::Error> {
        let mut changed = volume.clone();
        let finalizers = changed.metadata.finalizers.get_or_insert_default();
        let before = finalizers.len();
        finalizers.retain(|name| name != FINALIZER);
        if finalizers.len() < before {
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            api.replace(name, &PostParams::default(), &changed).await?;
        }
        Ok(())
    }

    async fn provision(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), ReconcileError> {
        if self.volumes.get_named("", &volume_name(claim)).is_some() {
            return Ok(());
        }
        let Some(class) = self.classes.get_named("", class_of_claim(claim)) else {
            return Ok(());
        };
        let node = annotation(&claim.metadata, SELECTED_NODE);
        let node = node.and_then(|name| self.nodes.get_named("", name));
        let volume = match volume(claim, &class, node.as_deref()) {
            Ok(volume) => volume,
            Err(refusal) => {
                self.recorder.about(
                    claim,
                    EventType::Warning,
                    "ProvisioningFailed",
                    refusal.text,
                );
                if refusal.node {
                    self.reschedule(key, claim).await?;
                }
                return Ok(());
            }
        };
        let text = format!("External provisioner is provisioning volume for claim \"{key}\"");
        self.recorder
            .about(claim, EventType::Normal, "Provisioning", text);
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &volume).await {
            Err(error) if !is_already_exists(&error) => return Err(error.into()),
            _ => {}
        }
        let text = format!("Successfully provisioned volume {}", volume_name(claim));
        self.recorder
            .about(claim, EventType::Normal, "ProvisioningSucceeded", text);
        Ok(())
    }

    /// Lets the scheduler choose another node.
    async fn reschedule(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), kube::Error> {
        let mut changed = claim.clone();
        if let Some(annotations) = &mut changed.metadata.annotations {
            annotations.remove(SELECTED_NODE);
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), key.namespace());
        api.replace(key.name(), &PostParams::default(), &changed)
            .await?;
        Ok(())
    }

    /// Gives a claim what it asks for more: directories have no size of their own.
    async fn resize(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), kube::Error> {
        let Some(size) = larger(claim) else {
            return Ok(());
        };
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let text = format!("External resizer is resizing volume {name}");
        self.recorder
            .about(claim, EventType::Normal, "Resizing", text);
        let mut bigger = volume.clone();
        let spec = bigger.spec.get_or_insert_default();
        let capacity = spec.capacity.get_or_insert_default();
        if capacity.insert("storage".to_owned(), size.clone()) != Some(size.clone()) {
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            api.replace(name, &PostParams::default(), &bigger).await?;
        }
        let changed = resized(claim, size);
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), key.namespace());
        api.replace_status(key.name(), &PostParams::default(), &changed)
            .await?;
        let text = "Resize volume succeeded";
        self.recorder
            .about(claim, EventType::Normal, "VolumeResizeSuccessful", text);
        Ok(())
    }
}

/// The size that a bound claim asks for, if it is more than it has.
fn larger(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    let wanted = resources.requests.as_ref()?.get("storage")?;
    let has = claim.status.as_ref()?.capacity.as_ref()?.get("storage")?;
    (Amount::of(wanted) > Amount::of(has)).then(|| wanted.clone())
}

/// The claim with that size, and nothing in its status that says that it is about to get it, as drivers' resizers leave it.
fn resized(claim: &PersistentVolumeClaim, size: Quantity) -> PersistentVolumeClaim {
    const STEPS: [&str; 4] = [
        "ControllerResizeError",
        "FileSystemResizePending",
        "NodeResizeError",
        "Resizing",
    ];
    let mut changed = claim.clone();
    let status = changed.status.get_or_insert_default();
    for sizes in [&mut status.capacity, &mut status.allocated_resources] {
        let sizes = sizes.get_or_insert_default();
        sizes.insert("storage".to_owned(), size.clone());
    }
    if let Some(statuses) = &mut status.allocated_resource_statuses {
        statuses.remove("storage");
    }
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| !STEPS.contains(&condition.type_.as_str()));
    }
    changed
}

#[async_trait]
impl Reconciler for Claims {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(claim) = self.0.claims.get(key) else {
            return Ok(Outcome::Done);
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let spec = claim.spec.as_ref();
        let volume = spec.and_then(|spec| spec.volume_name.as_deref());
        match volume.filter(|name| !name.is_empty()) {
            None => self.0.provision(key, &claim).await?,
            Some(name) => {
                let volume = self.0.volumes.get_named("", name);
                if let Some(volume) = volume.filter(|volume| is_ours(volume)) {
                    self.0.resize(key, &claim, &volume).await?;
                }
            }
        }
        Ok(Outcome::Done)
    }
}

#[async_trait]
impl Reconciler for Volumes {
    fn name(&self) -> &'static str {
        "dir-provisioner-volumes"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let name = key.name();
        let Some(volume) = self.0.volumes.get(key) else {
            self.0.forget(name).await?;
            return Ok(Outcome::Done);
        };
        if !is_ours(&volume) {
            return Ok(Outcome::Done);
        }
        let node = self.0.node_of(&volume);
        let on = node.as_ref().and_then(|node| node.metadata.name.clone());
        let on = on.unwrap_or_default();
        match step(&volume, node.as_deref()) {
            Step::Nothing => {}
            Step::Ask => {
                if let Some(left) = self.0.pause(name) {
                    return Ok(Outcome::After(left));
                }
                self.0.annotate(&on, name, "remove".into()).await?;
            }
            Step::Tell(why) => {
                let text = format!("the directory on node {on} could not be removed: {why}");
                self.0
                    .recorder
                    .about(&*volume, EventType::Warning, "VolumeFailedDelete", text);
                self.0.annotate(&on, name, Value::Null).await?;
                self.0
                    .failed
                    .lock()
                    .insert(name.to_owned(), self.0.clock.monotonic());
                return Ok(Outcome::After(RETRY));
            }
            Step::Delete => {
                let api: Api<PersistentVolume> = Api::all(self.0.client.clone());
                if volume.metadata.deletion_timestamp.is_none() {
                    delete_seen(&api, &volume.metadata, DeleteParams::default()).await?;
                } else {
                    self.0.release(&volume).await?;
                }
            }
            Step::Release => self.0.release(&volume).await?,
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(change: impl Fn(&mut Value)) -> PersistentVolumeClaim {
        let mut value = json!({"metadata": {"name": "data", "namespace": "n", "uid": "u-1"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}},
            "status": {"capacity": {"storage": "2Gi"}}});
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn class() -> StorageClass {
        serde_json::from_value(
            json!({"metadata": {"name": "local"}, "provisioner": PROVISIONER, "reclaimPolicy": "Delete"}),
        )
        .unwrap()
    }

    fn node(annotations: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {HOSTNAME: "host1"}, "annotations": annotations}}))
            .unwrap()
    }

    #[test]
    fn a_volume_is_made_in_the_nodes_directory() {
        let node = node(json!({NODE_DIRECTORY: "/data/volumes"}));
        let made = volume(&claim(|_| {}), &class(), Some(&node)).unwrap();
        assert_eq!(made.metadata.name.as_deref(), Some("pvc-u-1"));
        assert_eq!(hostname_of(&made), Some("host1"));
        assert!(is_ours(&made));
        let spec = made.spec.unwrap();
        assert_eq!(spec.local.unwrap().path, "/data/volumes/pvc-u-1");
        assert_eq!(spec.capacity.unwrap()["storage"].0, "2Gi");
        assert_eq!(spec.claim_ref.unwrap().uid.as_deref(), Some("u-1"));
    }

    #[test]
    fn what_cannot_be_made_is_told() {
        let ready = node(json!({NODE_DIRECTORY: "/data/volumes"}));
        let bare = node(json!({}));
        let block = claim(|claim| claim["spec"]["volumeMode"] = "Block".into());
        for (claim, node, expected, other_node) in [
            (
                &block,
                Some(&ready),
                "block volumes are not supported",
                false,
            ),
            (&claim(|_| {}), None, "no node was specified", false),
            (
                &claim(|_| {}),
                Some(&bare),
                "no directory for volumes",
                true,
            ),
        ] {
            let refusal = volume(claim, &class(), node).unwrap_err();
            assert!(refusal.text.contains(expected), "{}", refusal.text);
            assert_eq!(refusal.node, other_node);
        }
    }

    #[test]
    fn a_volume_goes_after_its_directory() {
        let base = node(json!({NODE_DIRECTORY: "/d"}));
        let made = volume(&claim(|_| {}), &class(), Some(&base)).unwrap();
        let at = |phase: &str, policy: &str, leaving: bool| {
            let mut value = serde_json::to_value(&made).unwrap();
            value["status"] = json!({"phase": phase});
            value["spec"]["persistentVolumeReclaimPolicy"] = policy.into();
            if leaving {
                value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            serde_json::from_value::<PersistentVolume>(value).unwrap()
        };
        let saying = |word: &str| node(json!({format!("{REMOVAL}pvc-u-1"): word}));
        for (volume, node, expected) in [
            (at("Bound", "Delete", false), Some(&base), Step::Nothing),
            (at("Bound", "Delete", true), Some(&base), Step::Nothing),
            (at("Released", "Retain", false), Some(&base), Step::Nothing),
            (at("Released", "Retain", true), Some(&base), Step::Release),
            (at("Released", "Delete", false), Some(&base), Step::Ask),
            (at("Available", "Delete", true), Some(&base), Step::Ask),
            (
                at("Released", "Delete", false),
                Some(&saying("remove")),
                Step::Nothing,
            ),
            (
                at("Released", "Delete", false),
                Some(&saying("removed")),
                Step::Delete,
            ),
            (
                at("Released", "Delete", false),
                Some(&saying("failed: busy")),
                Step::Tell("busy".into()),
            ),
            (at("Released", "Delete", false), None, Step::Delete),
        ] {
            assert_eq!(step(&volume, node), expected, "{volume:?}");
        }
    }

    #[test]
    fn claims_that_ask_for_more() {
        assert_eq!(larger(&claim(|_| {})), None);
        let more = claim(|claim| claim["spec"]["resources"]["requests"]["storage"] = "3Gi".into());
        assert_eq!(larger(&more), Some(Quantity("3Gi".into())));
    }

    #[test]
    fn what_said_that_a_claim_grows_is_gone_once_it_has() {
        let growing = claim(|claim| {
            claim["status"] = json!({"phase": "Bound", "capacity": {"storage": "2Gi"},
                "allocatedResourceStatuses": {"storage": "ControllerResizeInProgress", "example.com/iops": "NodeResizePending"},
                "conditions": [{"type": "Resizing", "status": "True"}, {"type": "ModifyingVolume", "status": "True"}]});
        });
        let resized = resized(&growing, Quantity("3Gi".into()));
        assert_eq!(
            serde_json::to_value(resized.status).unwrap(),
            json!({"phase": "Bound", "capacity": {"storage": "3Gi"}, "allocatedResources": {"storage": "3Gi"},
                "allocatedResourceStatuses": {"example.com/iops": "NodeResizePending"},
                "conditions": [{"type": "ModifyingVolume", "status": "True"}]})
        );
    }
}
