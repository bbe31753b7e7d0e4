//! Has the volumes that drivers serve attached to the nodes whose pods need them, and detached when none does any more.
//!
//! What is decided is [`crate::attach_plan`]. A driver's own sidecar, upstream's external-attacher or the like, makes
//! true what the `VolumeAttachment`s made here ask for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;
use skiff_base::SharedClock;
use skiff_client::{
    Event, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache,
    Subscription, WorkQueue, is_already_exists, is_not_found,
};

use crate::attach_plan::{
    Attached, Failure, NodeState, Observed, Step, attachment_name, is_exclusive, is_managed,
    needs_volumes, plan, refusal, report, source, unique_name,
};
use crate::seen_pod::Pod;
use crate::volume_plan::claim_ref;
use crate::volume_protection::{claims_of, index_claims, pods_with_claim};
use crate::{Context, pods};

/// The name of this controller.
pub const NAME: &str = "attachdetach-controller";

/// The index of attachments by volume, and by node.
const VOLUME_INDEX: &str = "volume";
const NODE_INDEX: &str = "node";

/// What is remembered of attachments, by name. A controller that starts anew starts the times anew, as upstream's does.
#[derive(Default)]
struct Memory {
    unwanted: HashMap<String, Duration>,
    pending: HashMap<String, Duration>,
    /// Told to the pods already.
    told: HashMap<(String, String), String>,
    /// Taken out of their node's list, to be detached. They stay here until they are gone from the cache.
    going: HashSet<String>,
}

#[derive(Clone)]
struct World {
    volumes: SharedCache<PersistentVolume>,
    claims: SharedCache<PersistentVolumeClaim>,
    pods: SharedCache<Pod>,
    nodes: SharedCache<Node>,
    drivers: SharedCache<CSIDriver>,
    attachments: SharedCache<VolumeAttachment>,
}

struct Attacher {
    client: Client,
    world: World,
    memory: Mutex<Memory>,
    recorder: EventRecorder,
    clock: SharedClock,
}

fn volume_of(attachment: &VolumeAttachment) -> Option<&str> {
    let source = &attachment.spec.source;
    source.persistent_volume_name.as_deref()
}

/// Runs the controller.
pub async fn run(context: Context) {
    let world = World {
        volumes: context.caches.of(),
        claims: context.caches.of(),
        pods: context.caches.of(),
        nodes: context.caches.of(),
        drivers: context.caches.of(),
        attachments: context.caches.of(),
    };
    index_claims(&world.pods);
    pods::index_nodes(&world.pods);
    world.attachments.add_index(VOLUME_INDEX, |attachment| {
        volume_of(attachment)
            .map(str::to_owned)
            .into_iter()
            .collect()
    });
    world.attachments.add_index(NODE_INDEX, |attachment| {
        vec![attachment.spec.node_name.clone()]
    });
    let queue = context.queue();
    world.volumes.wait_synced().await;
    world.claims.wait_synced().await;
    world.pods.wait_synced().await;
    world.nodes.wait_synced().await;
    world.drivers.wait_synced().await;
    world.attachments.wait_synced().await;
    let _subscriptions = follow(&world, &queue);
    let attacher = Attacher {
        client: context.client(NAME),
        world,
        memory: Mutex::default(),
        recorder: context.recorder(NAME, NAME),
        clock: context.clock.clone(),
    };
    // One worker: the volumes of one node share the list in its status.
    context.run(attacher, queue, 1).await;
}

/// Queues the volumes that a change concerns.
fn follow(world: &World, queue: &WorkQueue<ObjectKey>) -> Vec<Subscription> {
    let with = || (world.clone(), queue.clone());
    let volumes = {
        let (world, queue) = with();
        world.volumes.clone().on_event(move |event| {
            let volume = event.object();
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            let same = matches!(event, Event::Updated { old, .. } if old.spec == volume.spec);
            if source(volume).is_some() && !same {
                queue.add(ObjectKey::new("", name));
            }
        })
    };
    let claims = {
        let (world, queue) = with();
        world.claims.clone().on_event(move |event| {
            let claim = event.object();
            let same = matches!(event, Event::Updated { old, .. }
                if volume_name(old) == volume_name(claim) && is_bound(old) == is_bound(claim));
            if !same {
                world.queue_volume(volume_name(claim), &queue);
            }
        })
    };
    let pods = {
        let (world, queue) = with();
        world.pods.clone().on_event(move |event| {
            let pod = event.object();
            let same = matches!(event, Event::Updated { old, .. }
                if pods::node_name(old) == pods::node_name(pod) && needs_volumes(old) == needs_volumes(pod));
            if !same {
                world.queue_pod(pod, &queue);
            }
        })
    };
    let nodes = {
        let (world, queue) = with();
        world
            .nodes
            .clone()
            .on_event(move |event| world.queue_node(event, &queue))
    };
    let attachments = {
        let (world, queue) = with();
        world.attachments.clone().on_event(move |event| {
            if let Some(volume) = volume_of(event.object()) {
                queue.add(ObjectKey::new("", volume));
            }
        })
    };
    let drivers = {
        let (world, queue) = with();
        world.drivers.clone().on_event(move |event| {
            let driver = event.object();
            let same = matches!(event, Event::Updated { old, .. }
                if old.spec.attach_required == driver.spec.attach_required);
            let name = driver.metadata.name.as_deref();
            let volumes = if same {
                Vec::new()
            } else {
                world.volumes.list()
            };
            for volume in volumes {
                if source(&volume).map(|(driver, _)| driver) == name {
                    queue.add(ObjectKey::of(&volume.metadata));
                }
            }
        })
    };
    vec![volumes, claims, pods, nodes, attachments, drivers]
}

fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref();
    spec.and_then(|spec| spec.volume_name.as_deref())
        .unwrap_or_default()
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    status.and_then(|status| status.phase.as_deref()) == Some("Bound")
}

impl World {
    fn queue_volume(&self, name: &str, queue: &WorkQueue<ObjectKey>) {
        let volume = self.volumes.get_named("", name);
        if volume.is_some_and(|volume| source(&volume).is_some()) {
            queue.add(ObjectKey::new("", name));
        }
    }

    fn queue_pod(&self, pod: &Pod, queue: &WorkQueue<ObjectKey>) {
        if pods::node_name(pod).is_empty() {
            return;
        }
        for claim in claims_of(pod) {
            let (namespace, name) = claim.split_once('/').unwrap_or_default();
            if let Some(claim) = self.claims.get_named(namespace, name) {
                self.queue_volume(volume_name(&claim), queue);
            }
        }
    }

    fn queue_node(&self, event: &Event<Node>, queue: &WorkQueue<ObjectKey>) {
        let node = event.object();
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let lists = |node: &Node| {
            let status = node.status.clone().unwrap_or_default();
            (status.volumes_in_use, status.volumes_attached)
        };
        let (same, newly_managed) = match event {
            Event::Updated { old, .. } => {
                let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
                let ready = |node: &Node| crate::node_health::readiness(node) == Some("True");
                let same = lists(old) == lists(node)
                    && taints(old) == taints(node)
                    && ready(old) == ready(node);
                (same, is_managed(node) && !is_managed(old))
            }
            Event::Added(_) => (false, is_managed(node)),
            _ => (false, false),
        };
        if !same {
            for attachment in self.attachments.by_index(NODE_INDEX, name) {
                if let Some(volume) = volume_of(&attachment) {
                    queue.add(ObjectKey::new("", volume));
                }
            }
        }
        if newly_managed {
            for pod in pods::on_node(&self.pods, name) {
                self.queue_pod(&pod, queue);
            }
        }
    }

    /// Whether somebody has to attach what this driver serves. One that says nothing of itself wants it.
    fn attaches(&self, driver: &str) -> bool {
        let driver = self.drivers.get_named("", driver);
        driver.is_none_or(|driver| driver.spec.attach_required != Some(false))
    }

    /// The pods that need the volume, by node.
    fn users(&self, volume: &PersistentVolume) -> BTreeMap<String, Vec<Arc<Pod>>> {
        let mut users: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        let Some(claim) = claim_ref(volume) else {
            return users;
        };
        let key = ObjectKey::new(
            claim.namespace.as_deref().unwrap_or_default(),
            claim.name.as_deref().unwrap_or_default(),
        );
        let bound = self.claims.get(&key).filter(|found| {
            is_bound(found)
                && found.metadata.uid == claim.uid
                && Some(volume_name(found)) == volume.metadata.name.as_deref()
        });
        if bound.is_none() {
            return users;
        }
        for pod in pods_with_claim(&self.pods, &key) {
            let name = pods::node_name(&pod);
            let managed = || {
                let node = self.nodes.get_named("", name);
                node.is_some_and(|node| is_managed(&node))
            };
            if needs_volumes(&pod) && managed() {
                users.entry(name.to_owned()).or_default().push(pod);
            }
        }
        users
    }
}

#[async_trait]
impl Reconciler for Attacher {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "pvcs"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let volume = self.world.volumes.get(key);
        let served = volume
            .as_deref()
            .and_then(|volume| Some((volume, source(volume)?)));
        let attachable = served.filter(|(_, (driver, _))| self.world.attaches(driver));
        let users = attachable.map_or_else(BTreeMap::new, |(volume, _)| self.world.users(volume));
        let observed = self.observe(key, attachable.map(|(volume, _)| volume), &users);
        let mut next: Option<Duration> = None;
        for step in plan(&observed) {
            match step {
                Step::Wait(time) => next = Some(next.map_or(time, |next| next.min(time))),
                Step::Detach { name, node, verify } => self.detach(&name, &node, verify).await?,
                other => {
                    if let Some((volume, source)) = attachable {
                        self.bring(volume, source, &users, other).await?;
                    }
                }
            }
        }
        Ok(next.map_or(Outcome::Done, Outcome::After))
    }
}

impl Attacher {
    fn observe(
        &self,
        key: &ObjectKey,
        volume: Option<&PersistentVolume>,
        users: &BTreeMap<String, Vec<Arc<Pod>>>,
    ) -> Observed {
        let now = self.clock.monotonic();
        let attachments = self.world.attachments.by_index(VOLUME_INDEX, key.name());
        let mut memory = self.memory.lock();
        memory
            .told
            .retain(|(volume, node), _| volume != key.name() || users.contains_key(node));
        self.forget(&mut memory);
        let attached = attachments.iter().map(|attachment| {
            let mut attached = Attached::of(attachment);
            let node = self.world.nodes.get_named("", &attached.node);
            attached.state = NodeState::of(node.as_deref(), &attached.name);
            // The cache may not show yet what was asked for.
            attached.deleting |= memory.going.contains(&attached.name);
            let name = attached.name.clone();
            if users.contains_key(&attached.node) {
                memory.unwanted.remove(&name);
            } else {
                let since = *memory.unwanted.entry(name.clone()).or_insert(now);
                attached.unwanted_for = now.saturating_sub(since);
            }
            if attached.attached {
                memory.pending.remove(&name);
            } else {
                let since = *memory.pending.entry(name).or_insert(now);
                attached.pending_for = now.saturating_sub(since);
            }
            attached
        });
        let attached = attached.collect();
        Observed {
            exclusive: volume.is_some_and(is_exclusive),
            wanted: users.keys().cloned().collect(),
            attached,
        }
    }

    /// Forgets attachments that are gone. They are few, or all in the cache.
    fn forget(&self, memory: &mut Memory) {
        let most = 2 * self.world.attachments.len() + 16;
        let known = |name: &String| self.world.attachments.get_named("", name).is_some();
        memory.going.retain(known);
        if memory.unwanted.len() + memory.pending.len() > most {
            memory.unwanted.retain(|name, _| known(name));
            memory.pending.retain(|name, _| known(name));
        }
    }

    async fn bring(
        &self,
        volume: &PersistentVolume,
        (driver, handle): (&str, &str),
        users: &BTreeMap<String, Vec<Arc<Pod>>>,
        step: Step,
    ) -> Result<(), ReconcileError> {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let pods_on = |node: &str| users.get(node).map(Vec::as_slice).unwrap_or_default();
        match step {
            Step::Attach(node) => self.attach(name, driver, handle, &node).await?,
            Step::Report(node) => {
                let unique = unique_name(driver, handle);
                if self.report(&node, Some(&unique)).await? {
                    let text = format!("AttachVolume.Attach succeeded for volume \"{name}\" ");
                    self.tell(pods_on(&node), EventType::Normal, &text);
                }
                let key = (name.to_owned(), node);
                self.memory.lock().told.remove(&key);
            }
            Step::Refuse { node, holders } => {
                let others = holders.iter().filter(|holder| **holder != node);
                let others: Vec<(String, String)> = others
                    .flat_map(|holder| pods_on(holder))
                    .map(|pod| {
                        let key = ObjectKey::of(&pod.metadata);
                        (key.namespace().to_owned(), key.name().to_owned())
                    })
                    .collect();
                // Once, however often it is looked at, and whoever holds it then.
                let told = if self.is_news(name, &node, "refused") {
                    pods_on(&node)
                } else {
                    &[]
                };
                for pod in told {
                    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                    let text = refusal(name, namespace, &others);
                    self.tell(std::slice::from_ref(pod), EventType::Warning, &text);
                }
            }
            Step::Failed { node, why } => {
                let why = match why {
                    Failure::Said(message) => message,
                    Failure::Silent => format!(
                        "timed out waiting for external-attacher of {driver} CSI driver to attach volume {handle}"
                    ),
                };
                if self.is_news(name, &node, &why) {
                    let text = format!("AttachVolume.Attach failed for volume \"{name}\" : {why}");
                    self.tell(pods_on(&node), EventType::Warning, &text);
                }
            }
            Step::Detach { .. } | Step::Wait(_) => {}
        }
        Ok(())
    }

    fn is_news(&self, volume: &str, node: &str, what: &str) -> bool {
        let key = (volume.to_owned(), node.to_owned());
        let before = self.memory.lock().told.insert(key, what.to_owned());
        before.as_deref() != Some(what)
    }

    fn tell(&self, pods: &[Arc<Pod>], type_: EventType, text: &str) {
        let reason = match type_ {
            EventType::Normal => "SuccessfulAttachVolume",
            EventType::Warning => "FailedAttachVolume",
        };
        for pod in pods {
            self.recorder.about(&**pod, type_, reason, text);
        }
    }

    async fn attach(
        &self,
        volume: &str,
        driver: &str,
        handle: &str,
        node: &str,
    ) -> Result<(), ReconcileError> {
        let attachment: VolumeAttachment = serde_json::from_value(json!({
            "metadata": {"name": attachment_name(driver, handle, node)},
            "spec": {"attacher": driver, "nodeName": node, "source": {"persistentVolumeName": volume}},
        }))
        .map_err(|error| ReconcileError::Other(error.to_string()))?;
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &attachment).await {
            Err(error) if !is_already_exists(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn detach(&self, name: &str, node: &str, verify: bool) -> Result<(), ReconcileError> {
        self.memory.lock().going.insert(name.to_owned());
        // The kubelet must not begin to mount it now.
        if let Err(error) = self.report(node, None).await {
            self.memory.lock().going.remove(name);
            return Err(error);
        }
        if verify {
            let nodes: Api<Node> = Api::all(self.client.clone());
            let fresh = nodes.get_opt(node).await?;
            if fresh.is_some_and(|fresh| NodeState::of(Some(&fresh), name).in_use) {
                // The cache will show it in a moment, and bring the volume here again.
                self.memory.lock().going.remove(name);
                return Ok(());
            }
        }
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        match api.delete(name, &DeleteParams::default()).await {
            Err(error) if !is_not_found(&error) => {
                self.memory.lock().going.remove(name);
                Err(error.into())
            }
            _ => Ok(()),
        }
    }

    /// Writes into a node's status what is attached to it; answers whether `about` was not in the list before.
    async fn report(&self, name: &str, about: Option<&str>) -> Result<bool, ReconcileError> {
        let Some(node) = self.world.nodes.get_named("", name) else {
            return Ok(false);
        };
        let status = node.status.as_ref();
        let known: Vec<String> = status
            .into_iter()
            .flat_map(|status| status.volumes_attached.iter().flatten())
            .map(|volume| volume.name.clone())
            .collect();
        let going = self.memory.lock().going.clone();
        let attached = self.world.attachments.by_index(NODE_INDEX, name);
        let attached = attached.iter().filter(|attachment| {
            let of = Attached::of(attachment);
            of.attached && !of.deleting && !going.contains(&of.name)
        });
        let attached = attached.map(|attachment| {
            let volume = volume_of(attachment).unwrap_or_default();
            let volume = self.world.volumes.get_named("", volume);
            let unique = volume.and_then(|volume| {
                source(&volume).map(|(driver, handle)| unique_name(driver, handle))
            });
            let name = attachment.metadata.name.clone().unwrap_or_default();
            (name, unique)
        });
        let wanted = report(&attached.collect(), &known, name);
        let is_new = about.is_some_and(|about| {
            wanted.iter().any(|unique| unique == about)
                && !known.iter().any(|unique| unique == about)
        });
        let mut before = known;
        before.sort();
        if wanted == before {
            return Ok(false);
        }
        let list: Vec<_> = wanted
            .iter()
            .map(|unique| json!({"name": unique, "devicePath": ""}))
            .collect();
        let patch = Patch::Strategic(json!({"status": {"volumesAttached": list}}));
        let nodes: Api<Node> = Api::all(self.client.clone());
        match nodes
            .patch_status(name, &PatchParams::default(), &patch)
            .await
        {
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(is_new),
        }
    }
}
