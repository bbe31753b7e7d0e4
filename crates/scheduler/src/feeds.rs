//! What is watched, and where it goes: a row for each kind.

use std::collections::HashSet;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{
    CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use skiff_base::{Random, SharedClock, Shutdown};
use skiff_client::reflect::{Metadata, Reflector, Watched};
use skiff_client::{Change, ObjectKey, WatchSink, WatchSpec};

use crate::framework::{Happening, event};
use crate::state::{Known, State};
use crate::terms::Labels;

/// Something that is watched.
trait Fed<K>: Send + Sync + 'static {
    /// What is known of the collection.
    fn keys(known: &Known) -> Vec<ObjectKey>;
    /// An object is so now.
    fn set(known: &mut Known, object: &K, now: Duration);
    /// An object is gone.
    fn unset(known: &mut Known, key: &ObjectKey, now: Duration);
    /// Whether binders of volumes wait for it.
    const STORAGE: bool = false;
    /// Whether pods whose devices are made ready wait for it.
    const DEVICES: bool = false;
}

struct Feed<K, F> {
    state: Arc<State>,
    bit: u32,
    kind: PhantomData<fn() -> (K, F)>,
}

impl<K: Watched, F: Fed<K>> WatchSink<K> for Feed<K, F> {
    fn replace(&self, items: Vec<K>, _: &str) {
        self.state.change(|known, now| {
            let listed: HashSet<ObjectKey> = items
                .iter()
                .map(|item| ObjectKey::of(item.metadata()))
                .collect();
            for key in F::keys(known).iter().filter(|key| !listed.contains(*key)) {
                F::unset(known, key, now);
            }
            items.iter().for_each(|item| F::set(known, item, now));
            known.missing &= !self.bit;
        });
        if F::STORAGE {
            self.state.storage_changed();
        }
        if F::DEVICES {
            self.state.devices_changed();
        }
    }

    fn apply(&self, change: Change<K>) {
        self.state.change(|known, now| match &change {
            Change::Applied(object) => F::set(known, object, now),
            Change::Deleted(object) => F::unset(known, &ObjectKey::of(object.metadata()), now),
        });
        if F::STORAGE {
            self.state.storage_changed();
        }
        if F::DEVICES {
            self.state.devices_changed();
        }
    }

    fn progress(&self, _: &str) {}
}

/// Something with a selector, and no more of it than that.
#[derive(Deserialize)]
#[serde(bound = "S: DeserializeOwned")]
struct Selecting<S> {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default = "nothing")]
    spec: Option<Selector<S>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: DeserializeOwned")]
struct Selector<S> {
    #[serde(default = "nothing")]
    selector: Option<S>,
}

fn nothing<T>() -> Option<T> {
    None
}

impl<S: DeserializeOwned + Send + Sync + 'static> Watched for Selecting<S> {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

struct Pods;
impl Fed<Pod> for Pods {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        known.pod_keys()
    }
    fn set(known: &mut Known, pod: &Pod, now: Duration) {
        known.apply_pod(pod, now);
    }
    fn unset(known: &mut Known, key: &ObjectKey, now: Duration) {
        known.remove_pod(key, now);
    }
}

struct Nodes;
impl Fed<Node> for Nodes {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        let names = known.world.cluster.names();
        names.iter().map(|name| ObjectKey::new("", name)).collect()
    }
    fn set(known: &mut Known, node: &Node, now: Duration) {
        known.apply_node(node, now);
    }
    fn unset(known: &mut Known, key: &ObjectKey, _: Duration) {
        known.world.remove_node(key.name());
    }
}

struct Namespaces;
impl Fed<Metadata> for Namespaces {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        let names = known.world.cluster.namespaces.keys();
        names.map(|name| ObjectKey::new("", name)).collect()
    }
    fn set(known: &mut Known, namespace: &Metadata, now: Duration) {
        let labels = namespace.metadata.labels.clone().unwrap_or_default();
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        if known.world.set_namespace(name, Some(labels)) {
            known.wake(event::NAMESPACE, Happening::Other, now);
        }
    }
    fn unset(known: &mut Known, key: &ObjectKey, _: Duration) {
        known.world.set_namespace(key.name(), None);
    }
}

struct Budgets;
impl Fed<PodDisruptionBudget> for Budgets {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        known.world.budgets.keys()
    }
    fn set(known: &mut Known, budget: &PodDisruptionBudget, _: Duration) {
        known.world.budgets.set(budget);
    }
    fn unset(known: &mut Known, key: &ObjectKey, _: Duration) {
        known.world.budgets.remove(key);
    }
}

struct Services;
impl Fed<Selecting<Labels>> for Services {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        known.world.kin.services()
    }
    fn set(known: &mut Known, service: &Selecting<Labels>, _: Duration) {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone());
        let key = ObjectKey::of(&service.metadata);
        known.world.kin.set_service(&key, selector);
    }
    fn unset(known: &mut Known, key: &ObjectKey, _: Duration) {
        known.world.kin.set_service(key, None);
    }
}

struct ReplicationControllers;
impl Fed<Selecting<Labels>> for ReplicationControllers {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        known.world.kin.controllers("ReplicationController")
    }
    fn set(known: &mut Known, controller: &Selecting<Labels>, _: Duration) {
        let selector = controller
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.clone());
        let selector = selector.map(|labels| LabelSelector {
            match_labels: Some(labels),
            match_expressions: None,
        });
        let key = ObjectKey::of(&controller.metadata);
        known
            .world
            .kin
            .set_controller("ReplicationController", &key, selector);
    }
    fn unset(known: &mut Known, key: &ObjectKey, _: Duration) {
        known
            .world
            .kin
            .set_controller("ReplicationController", key, None);
    }
}

fn set_selector(known: &mut Known, kind: &str, object: &Selecting<LabelSelector>) {
    let selector = object.spec.as_ref().and_then(|spec| spec.selector.clone());
    let key = ObjectKey::of(&object.metadata);
    known.world.kin.set_controller(kind, &key, selector);
}

struct ReplicaSets;
impl Fed<Selecting<LabelSelector>> for ReplicaSets {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        known.world.kin.controllers("ReplicaSet")
    }
    fn set(known: &mut Known, object: &Selecting<LabelSelector>, _: Duration) {
        set_selector(known, "ReplicaSet", object);
    }
    fn unset(known: &mut Known, key: &ObjectKey, _: Duration) {
        known.world.kin.set_controller("ReplicaSet", key, None);
    }
}

struct StatefulSets;
impl Fed<Selecting<LabelSelector>> for StatefulSets {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        known.world.kin.controllers("StatefulSet")
    }
    fn set(known: &mut Known, object: &Selecting<LabelSelector>, _: Duration) {
        set_selector(known, "StatefulSet", object);
    }
    fn unset(known: &mut Known, key: &ObjectKey, _: Duration) {
        known.world.kin.set_controller("StatefulSet", key, None);
    }
}

struct Claims;
impl Fed<PersistentVolumeClaim> for Claims {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        known.world.volumes.claims.keys().cloned().collect()
    }
    fn set(known: &mut Known, claim: &PersistentVolumeClaim, now: Duration) {
        if known.world.volumes.set_claim(claim) {
            let key = ObjectKey::of(&claim.metadata);
            let what = Happening::Claim(key.namespace(), key.name());
            known.wake(event::CLAIM, what, now);
        }
    }
    fn unset(known: &mut Known, key: &ObjectKey, _: Duration) {
        known.world.volumes.claims.remove(key);
    }
    const STORAGE: bool = true;
}

fn named<'a>(names: impl Iterator<Item = &'a Box<str>>) -> Vec<ObjectKey> {
    names.map(|name| ObjectKey::new("", name)).collect()
}

struct PersistentVolumes;
impl Fed<PersistentVolume> for PersistentVolumes {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        named(known.world.volumes.volumes.keys())
    }
    fn set(known: &mut Known, volume: &PersistentVolume, now: Duration) {
        known.world.volumes.set_volume(volume);
        known.wake(event::VOLUME, Happening::Other, now);
    }
    fn unset(known: &mut Known, key: &ObjectKey, _: Duration) {
        known.world.volumes.remove_volume(key.name());
    }
    const STORAGE: bool = true;
}

struct Classes;
impl Fed<StorageClass> for Classes {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        named(known.world.volumes.classes.keys())
    }
    fn set(known: &mut Known, class: &StorageClass, now: Duration) {
        known.world.volumes.set_class(class);
        known.wake(event::CLASS, Happening::Other, now);
    }
    fn unset(known: &mut Known, key: &ObjectKey, _: Duration) {
        known.world.volumes.classes.remove(key.name());
    }
}

struct CsiNodes;
impl Fed<CSINode> for CsiNodes {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        named(known.world.volumes.limits.keys())
    }
    fn set(known: &mut Known, node: &CSINode, now: Duration) {
        known.world.volumes.set_csi_node(node);
        known.wake(event::CSI_NODE, Happening::Other, now);
    }
    fn unset(known: &mut Known, key: &ObjectKey, _: Duration) {
        known.world.volumes.limits.remove(key.name());
    }
}

struct CsiDrivers;
impl Fed<CSIDriver> for CsiDrivers {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        named(known.world.volumes.counting_drivers.iter())
    }
    fn set(known: &mut Known, driver: &CSIDriver, now: Duration) {
        known.world.volumes.set_driver(driver);
        known.wake(event::CSI_DRIVER, Happening::Other, now);
    }
    fn unset(known: &mut Known, key: &ObjectKey, _: Duration) {
        known.world.volumes.counting_drivers.remove(key.name());
    }
}

struct Capacities;
impl Fed<CSIStorageCapacity> for Capacities {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        known.world.volumes.capacities.keys().cloned().collect()
    }
    fn set(known: &mut Known, capacity: &CSIStorageCapacity, now: Duration) {
        known.world.volumes.set_capacity(capacity);
        known.wake(event::STORAGE_CAPACITY, Happening::Other, now);
    }
    fn unset(known: &mut Known, key: &ObjectKey, _: Duration) {
        known.world.volumes.capacities.remove(key);
    }
}

struct Attachments;
impl Fed<VolumeAttachment> for Attachments {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        named(known.world.volumes.attachments.keys())
    }
    fn set(known: &mut Known, attachment: &VolumeAttachment, _: Duration) {
        known.world.volumes.set_attachment(attachment);
    }
    fn unset(known: &mut Known, key: &ObjectKey, now: Duration) {
        known.world.volumes.attachments.remove(key.name());
        known.wake(event::DETACHED, Happening::Other, now);
    }
}

struct DeviceClaims;
impl Fed<ResourceClaim> for DeviceClaims {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        known.world.devices.claims.keys().cloned().collect()
    }
    fn set(known: &mut Known, claim: &ResourceClaim, now: Duration) {
        known.set_device_claim(claim.clone(), now);
    }
    fn unset(known: &mut Known, key: &ObjectKey, now: Duration) {
        known.remove_device_claim(key, now);
    }
    const DEVICES: bool = true;
}

struct DeviceClasses;
impl Fed<DeviceClass> for DeviceClasses {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        named(known.world.devices.classes.keys())
    }
    fn set(known: &mut Known, class: &DeviceClass, now: Duration) {
        let name = class.metadata.name.as_deref().unwrap_or_default();
        known.set_device_class(name, Some(class.clone()), now);
    }
    fn unset(known: &mut Known, key: &ObjectKey, now: Duration) {
        known.set_device_class(key.name(), None, now);
    }
}

struct DeviceSlices;
impl Fed<ResourceSlice> for DeviceSlices {
    fn keys(known: &Known) -> Vec<ObjectKey> {
        named(known.world.devices.slices.names())
    }
    fn set(known: &mut Known, slice: &ResourceSlice, now: Duration) {
        known.set_device_slice(slice.clone(), now);
    }
    fn unset(known: &mut Known, key: &ObjectKey, _: Duration) {
        known.world.devices.slices.remove(key.name());
    }
}

/// How watches are made.
pub(crate) struct Watches {
    pub client: Client,
    pub state: Arc<State>,
    pub clock: SharedClock,
    pub random: Random,
    running: Vec<BoxFuture<'static, ()>>,
    bits: u32,
}

impl Watches {
    /// None yet.
    pub fn new(client: Client, state: Arc<State>, clock: SharedClock, random: Random) -> Self {
        Self {
            client,
            state,
            clock,
            random,
            running: Vec::new(),
            bits: 0,
        }
    }

    fn add<K: Watched, F: Fed<K>>(&mut self, spec: WatchSpec, shutdown: &Shutdown) {
        let bit = 1 << self.running.len();
        self.bits |= bit;
        let feed: Feed<K, F> = Feed {
            state: self.state.clone(),
            bit,
            kind: PhantomData,
        };
        let (client, clock) = (self.client.clone(), self.clock.clone());
        let reflector = Reflector::new(client, spec, Arc::new(feed), clock, self.random.clone());
        self.running.push(Box::pin(reflector.run(shutdown.clone())));
    }

    /// Watches all that the scheduler needs. `spreads_kin`: whether pods are spread that do not ask for it.
    pub fn run(mut self, spreads_kin: bool, shutdown: &Shutdown) -> Vec<BoxFuture<'static, ()>> {
        let all = shutdown;
        // Pods that have ended are none of our business.
        let pods = WatchSpec::all::<Pod>();
        let pods = pods.fields("status.phase!=Succeeded,status.phase!=Failed");
        self.add::<_, Nodes>(WatchSpec::all::<Node>(), all);
        self.add::<_, Pods>(pods, all);
        self.add::<_, Namespaces>(WatchSpec::path("/api/v1/namespaces").metadata(), all);
        self.add::<_, Budgets>(WatchSpec::all::<PodDisruptionBudget>(), all);
        self.add::<_, Claims>(WatchSpec::all::<PersistentVolumeClaim>(), all);
        self.add::<_, PersistentVolumes>(WatchSpec::all::<PersistentVolume>(), all);
        self.add::<_, Classes>(WatchSpec::all::<StorageClass>(), all);
        self.add::<_, CsiNodes>(WatchSpec::all::<CSINode>(), all);
        self.add::<_, CsiDrivers>(WatchSpec::all::<CSIDriver>(), all);
        self.add::<_, Capacities>(WatchSpec::all::<CSIStorageCapacity>(), all);
        self.add::<_, Attachments>(WatchSpec::all::<VolumeAttachment>(), all);
        self.add::<_, DeviceClaims>(WatchSpec::all::<ResourceClaim>(), all);
        self.add::<_, DeviceClasses>(WatchSpec::all::<DeviceClass>(), all);
        self.add::<_, DeviceSlices>(WatchSpec::all::<ResourceSlice>(), all);
        if spreads_kin {
            self.add::<_, Services>(WatchSpec::path("/api/v1/services"), all);
            let controllers = WatchSpec::path("/api/v1/replicationcontrollers");
            self.add::<_, ReplicationControllers>(controllers, all);
            self.add::<_, ReplicaSets>(WatchSpec::path("/apis/apps/v1/replicasets"), all);
            self.add::<_, StatefulSets>(WatchSpec::path("/apis/apps/v1/statefulsets"), all);
        }
        self.state.expect(self.bits);
        self.running
    }
}
