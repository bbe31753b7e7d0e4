//! What the scheduler remembers of storage: a row for each claim, volume, class and what volume drivers say.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    NodeSelector, PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm,
};
use k8s_openapi::api::storage::v1::{
    CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_client::{LabelMatcher, ObjectKey};

use crate::resources::units;
use crate::terms::{Labels, matcher};

/// Says which node a claim's volume is to be made for.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// The provisioner of classes whose volumes are made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// A persistent volume claim.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimRow {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The uid.
    pub uid: Box<str>,
    /// The resource version, in numbers.
    pub version: u64,
    /// The storage class; empty for none.
    pub class: Box<str>,
    /// The volume it is bound to or asks for; empty for none.
    pub volume: Box<str>,
    /// Whether the binding is complete.
    pub completed: bool,
    /// Whether its volume is gone.
    pub lost: bool,
    /// Whether it is on its way out.
    pub deleting: bool,
    /// How it is to be accessed.
    pub access_modes: Vec<Box<str>>,
    /// How large it is to be, in bytes.
    pub bytes: i64,
    /// The node its volume is made for.
    pub selected_node: Option<Box<str>>,
    /// The pod it is made for, by uid.
    pub owner: Option<Box<str>>,
    /// Which volumes it wants.
    pub selector: Option<LabelMatcher>,
    /// Whether it wants a device and no file system.
    pub block: bool,
    /// The class of attributes.
    pub attributes: Box<str>,
}

impl ClaimRow {
    /// The row of a claim.
    #[must_use]
    pub fn of(claim: &PersistentVolumeClaim) -> Self {
        let meta = &claim.metadata;
        let spec = claim.spec.clone().unwrap_or_default();
        let status = claim.status.as_ref();
        let requests = spec.resources.as_ref();
        let requests = requests.and_then(|all| all.requests.as_ref());
        let owners = meta.owner_references.iter().flatten();
        let owner = owners
            .clone()
            .find(|owner| owner.controller == Some(true) && owner.kind == "Pod");
        let class = annotation(meta, CLASS_ANNOTATION).or(spec.storage_class_name.as_deref());
        Self {
            key: ObjectKey::of(meta),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            version: version(meta),
            class: class.unwrap_or_default().into(),
            volume: spec.volume_name.as_deref().unwrap_or_default().into(),
            completed: annotation(meta, BIND_COMPLETED).is_some(),
            lost: status.and_then(|status| status.phase.as_deref()) == Some("Lost"),
            deleting: meta.deletion_timestamp.is_some(),
            access_modes: boxed(spec.access_modes.as_deref()),
            bytes: requests.and_then(|all| all.get("storage")).map_or(0, units),
            selected_node: annotation(meta, SELECTED_NODE).map(Into::into),
            owner: owner.map(|owner| owner.uid.as_str().into()),
            selector: spec.selector.as_ref().map(|found| matcher(Some(found))),
            block: spec.volume_mode.as_deref() == Some("Block"),
            attributes: spec
                .volume_attributes_class_name
                .as_deref()
                .unwrap_or_default()
                .into(),
        }
    }

    /// Whether it is bound for good.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        !self.volume.is_empty() && self.completed
    }
}

fn boxed(texts: Option<&[String]>) -> Vec<Box<str>> {
    let texts = texts.unwrap_or_default().iter();
    texts.map(|text| text.as_str().into()).collect()
}

fn version(meta: &ObjectMeta) -> u64 {
    let text = meta.resource_version.as_deref();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The claim that a volume is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimReference {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The uid; empty where a user said so beforehand.
    pub uid: Box<str>,
}

/// A persistent volume.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeRow {
    /// The name.
    pub name: Box<str>,
    /// The resource version, in numbers.
    pub version: u64,
    /// The storage class; empty for none.
    pub class: Box<str>,
    /// How large it is, in bytes.
    pub bytes: i64,
    /// Whether it waits for a claim.
    pub available: bool,
    /// Whether it is on its way out.
    pub deleting: bool,
    /// The claim it is for.
    pub claim: Option<ClaimReference>,
    /// How it can be accessed.
    pub access_modes: Vec<Box<str>>,
    /// Whether it is a device and no file system.
    pub block: bool,
    /// The class of attributes.
    pub attributes: Box<str>,
    /// Its labels.
    pub labels: Labels,
    /// The nodes that can reach it.
    pub nodes: Option<NodeSelector>,
    /// The volume driver and what it calls the volume.
    pub csi: Option<(Box<str>, Box<str>)>,
}

impl VolumeRow {
    /// The row of a volume.
    #[must_use]
    pub fn of(volume: &PersistentVolume) -> Self {
        let meta = &volume.metadata;
        let spec = volume.spec.clone().unwrap_or_default();
        let status = volume.status.as_ref();
        let class = annotation(meta, CLASS_ANNOTATION).or(spec.storage_class_name.as_deref());
        let capacity = spec.capacity.as_ref().and_then(|all| all.get("storage"));
        Self {
            name: meta.name.as_deref().unwrap_or_default().into(),
            version: version(meta),
            class: class.unwrap_or_default().into(),
            bytes: capacity.map_or(0, units),
            available: status.and_then(|status| status.phase.as_deref()) == Some("Available"),
            deleting: meta.deletion_timestamp.is_some(),
            claim: spec.claim_ref.as_ref().map(|claim| ClaimReference {
                key: ObjectKey::new(
                    claim.namespace.as_deref().unwrap_or_default(),
                    claim.name.as_deref().unwrap_or_default(),
                ),
                uid: claim.uid.as_deref().unwrap_or_default().into(),
            }),
            access_modes: boxed(spec.access_modes.as_deref()),
            block: spec.volume_mode.as_deref() == Some("Block"),
            attributes: spec
                .volume_attributes_class_name
                .as_deref()
                .unwrap_or_default()
                .into(),
            labels: meta.labels.clone().unwrap_or_default(),
            nodes: spec.node_affinity.and_then(|affinity| affinity.required),
            csi: spec
                .csi
                .map(|csi| (csi.driver.into(), csi.volume_handle.into())),
        }
    }

    /// Whether it is for that claim.
    #[must_use]
    pub fn is_for(&self, claim: &ClaimRow) -> bool {
        self.claim.as_ref().is_some_and(|found| {
            found.key == claim.key && (found.uid.is_empty() || found.uid == claim.uid)
        })
    }
}

/// A storage class.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassRow {
    /// Who makes volumes.
    pub provisioner: Box<str>,
    /// Whether a volume is made or chosen only for a pod that uses it; none where the class does not say.
    pub waits: Option<bool>,
    /// Where volumes can be made; empty for everywhere.
    pub topologies: Vec<TopologySelectorTerm>,
}

/// How much storage of a class there is where.
#[derive(Clone, Debug, PartialEq)]
pub struct CapacityRow {
    /// The class.
    pub class: Box<str>,
    /// The largest volume that fits, in bytes.
    pub largest: Option<i64>,
    /// The nodes that reach it.
    pub nodes: Option<LabelMatcher>,
}

/// A volume on its way to a node, or there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentRow {
    /// The node.
    pub node: Box<str>,
    /// The volume driver.
    pub driver: Box<str>,
    /// The volume.
    pub volume: Box<str>,
}

/// Everything about storage.
#[derive(Debug, Default)]
pub struct Volumes {
    /// Claims.
    pub claims: HashMap<ObjectKey, Arc<ClaimRow>>,
    /// Volumes by name.
    pub volumes: HashMap<Box<str>, Arc<VolumeRow>>,
    /// The names of volumes by class.
    by_class: HashMap<Box<str>, BTreeSet<Box<str>>>,
    /// Classes by name.
    pub classes: HashMap<Box<str>, ClassRow>,
    /// How many volumes each driver allows on a node.
    pub limits: HashMap<Box<str>, HashMap<Box<str>, i64>>,
    /// Drivers that say how much storage there is.
    pub counting_drivers: BTreeSet<Box<str>>,
    /// How much there is.
    pub capacities: HashMap<ObjectKey, CapacityRow>,
    /// Volumes on nodes.
    pub attachments: HashMap<Box<str>, AttachmentRow>,
    /// Volumes that were chosen for claims and are not seen to be bound yet.
    pub chosen: HashMap<Box<str>, ObjectKey>,
    /// Claims for which a node was chosen that is not seen to be written yet.
    pub placed: HashMap<ObjectKey, Box<str>>,
}

impl Volumes {
    /// Takes in a claim. Answers whether anything is different.
    pub fn set_claim(&mut self, claim: &PersistentVolumeClaim) -> bool {
        let row = ClaimRow::of(claim);
        let old = self.claims.insert(row.key.clone(), Arc::new(row.clone()));
        old.is_none_or(|old| *old != row)
    }

    /// Takes in a volume.
    pub fn set_volume(&mut self, volume: &PersistentVolume) {
        let row = Arc::new(VolumeRow::of(volume));
        self.remove_volume(&row.name);
        let class = self.by_class.entry(row.class.clone()).or_default();
        class.insert(row.name.clone());
        self.volumes.insert(row.name.clone(), row);
    }

    /// A volume is gone.
    pub fn remove_volume(&mut self, name: &str) {
        let Some(old) = self.volumes.remove(name) else {
            return;
        };
        if let Some(class) = self.by_class.get_mut(&old.class) {
            class.remove(name);
            if class.is_empty() {
                self.by_class.remove(&old.class);
            }
        }
    }

    /// The volumes of a class, by name.
    pub fn of_class(&self, class: &str) -> impl Iterator<Item = &Arc<VolumeRow>> {
        let names = self.by_class.get(class).into_iter().flatten();
        names.filter_map(|name| self.volumes.get(name))
    }

    /// Takes in a class.
    pub fn set_class(&mut self, class: &StorageClass) {
        let waits = class.volume_binding_mode.as_deref();
        let row = ClassRow {
            provisioner: class.provisioner.as_str().into(),
            waits: waits.map(|mode| mode == "WaitForFirstConsumer"),
            topologies: class.allowed_topologies.clone().unwrap_or_default(),
        };
        let name = class.metadata.name.as_deref().unwrap_or_default();
        self.classes.insert(name.into(), row);
    }

    /// Takes in what volume drivers allow on a node.
    pub fn set_csi_node(&mut self, node: &CSINode) {
        let drivers = node.spec.drivers.iter();
        let limits = drivers.filter_map(|driver| {
            let count = driver.allocatable.as_ref()?.count?;
            Some((driver.name.as_str().into(), i64::from(count)))
        });
        let name = node.metadata.name.as_deref().unwrap_or_default();
        self.limits.insert(name.into(), limits.collect());
    }

    /// Takes in a volume driver.
    pub fn set_driver(&mut self, driver: &CSIDriver) {
        let name = driver.metadata.name.as_deref().unwrap_or_default();
        if driver.spec.storage_capacity == Some(true) {
            self.counting_drivers.insert(name.into());
        } else {
            self.counting_drivers.remove(name);
        }
    }

    /// Takes in how much storage there is somewhere.
    pub fn set_capacity(&mut self, capacity: &CSIStorageCapacity) {
        let largest = capacity.maximum_volume_size.as_ref();
        let topology = capacity.node_topology.as_ref();
        let row = CapacityRow {
            class: capacity.storage_class_name.as_str().into(),
            largest: largest.or(capacity.capacity.as_ref()).map(units),
            nodes: topology.map(|found| matcher(Some(found))),
        };
        self.capacities
            .insert(ObjectKey::of(&capacity.metadata), row);
    }

    /// Takes in a volume on a node.
    pub fn set_attachment(&mut self, attachment: &VolumeAttachment) {
        let name = attachment.metadata.name.as_deref().unwrap_or_default();
        let spec = &attachment.spec;
        let Some(volume) = spec.source.persistent_volume_name.as_deref() else {
            return;
        };
        let row = AttachmentRow {
            node: spec.node_name.as_str().into(),
            driver: spec.attacher.as_str().into(),
            volume: volume.into(),
        };
        self.attachments.insert(name.into(), row);
    }

    /// The node that a claim's volume is made for, seen or chosen.
    #[must_use]
    pub fn selected_node<'a>(&'a self, claim: &'a ClaimRow) -> Option<&'a str> {
        let chosen = self.placed.get(&claim.key);
        chosen.or(claim.selected_node.as_ref()).map(AsRef::as_ref)
    }
}
