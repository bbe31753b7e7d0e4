//! What the scheduler remembers of devices: claims, classes, the slices in which drivers offer them, and who has what.

pub mod allocated;
pub mod allocator;
pub mod amounts;
pub mod constraints;
pub mod extended;
pub mod pools;
pub mod readiness;
pub mod request;
pub mod result;
pub mod selectors;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaim, ResourceSlice};
use skiff_client::ObjectKey;

use crate::plugins::dynamic_resources::EXTENDED;
use allocated::Allocated;
use extended::CLASS_PREFIX;
use pools::Slices;
use selectors::Selectors;

/// Everything about devices.
#[derive(Debug, Default)]
pub struct Devices {
    /// Claims.
    pub claims: HashMap<ObjectKey, Arc<ResourceClaim>>,
    /// Classes.
    pub classes: HashMap<Box<str>, Arc<DeviceClass>>,
    /// Extended resources and the classes that stand for them.
    resources: HashMap<Box<str>, Box<str>>,
    /// Slices.
    pub slices: Slices,
    /// Claims that were made for pods' extended resources, by the pods' uids.
    made_for: HashMap<Box<str>, ObjectKey>,
    /// Who has what, including what is still to be written.
    pub allocated: Allocated,
    /// Allocations that are still to be written, by the claims' uids.
    in_flight: HashMap<Box<str>, Arc<AllocationResult>>,
    /// Compiled expressions.
    pub selectors: Selectors,
    /// The time of the attempt under way, in seconds since 1970.
    pub now: i64,
}

/// The allocation that a claim states.
#[must_use]
pub fn allocation(claim: &ResourceClaim) -> Option<&AllocationResult> {
    claim.status.as_ref()?.allocation.as_ref()
}

/// Its uid.
#[must_use]
pub fn uid(claim: &ResourceClaim) -> &str {
    claim.metadata.uid.as_deref().unwrap_or_default()
}

/// The pod whose extended resources a claim is for, by uid.
fn made_for(claim: &ResourceClaim) -> Option<&str> {
    let meta = &claim.metadata;
    let annotation = meta.annotations.as_ref()?.get(EXTENDED)?;
    let mut owners = meta.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true) && annotation == "true");
    owner.map(|owner| owner.uid.as_str())
}

fn version(claim: &ResourceClaim) -> u64 {
    let text = claim.metadata.resource_version.as_deref();
    text.and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

/// How a claim changed.
#[derive(Clone, Debug)]
pub struct ClaimChange {
    /// As it was.
    pub old: Option<Arc<ResourceClaim>>,
    /// As it is.
    pub new: Arc<ResourceClaim>,
}

impl Devices {
    /// Takes in a claim. None if it is older than what is known.
    pub fn set_claim(&mut self, claim: ResourceClaim) -> Option<ClaimChange> {
        let key = ObjectKey::of(&claim.metadata);
        let old = self.claims.get(&key).cloned();
        if let Some(old) = &old
            && uid(old) == uid(&claim)
            && version(old) > version(&claim)
        {
            return None;
        }
        let new = Arc::new(claim);
        self.forget(old.as_deref());
        self.count(&new);
        if let Some(pod) = made_for(&new) {
            self.made_for.insert(pod.into(), key.clone());
        }
        self.claims.insert(key, new.clone());
        Some(ClaimChange { old, new })
    }

    /// A claim is gone.
    pub fn remove_claim(&mut self, key: &ObjectKey) -> Option<Arc<ResourceClaim>> {
        let old = self.claims.remove(key);
        self.forget(old.as_deref());
        if let Some(pod) = old.as_deref().and_then(made_for) {
            self.made_for.remove(pod);
        }
        old
    }

    /// The claim that was made for a pod's extended resources.
    #[must_use]
    pub fn extended_claim(&self, pod: &str) -> Option<Arc<ResourceClaim>> {
        self.claims.get(self.made_for.get(pod)?).cloned()
    }

    /// What the claim has counts, unless that is counted as what is still to be written.
    fn count(&mut self, claim: &ResourceClaim) {
        if let Some(allocation) = allocation(claim) {
            if let Some(written) = self.in_flight.remove(uid(claim)) {
                self.allocated.remove(&written);
            }
            self.allocated.add(allocation);
        }
    }

    fn forget(&mut self, claim: Option<&ResourceClaim>) {
        if let Some(allocation) = claim.and_then(allocation) {
            self.allocated.remove(allocation);
        }
    }

    /// A claim is to get these devices: nobody else gets them meanwhile.
    pub fn set_in_flight(&mut self, uid: &str, allocation: Arc<AllocationResult>) {
        self.end_flight(uid);
        self.allocated.add(&allocation);
        self.in_flight.insert(uid.into(), allocation);
    }

    /// That was written, or will not be.
    pub fn end_flight(&mut self, uid: &str) {
        if let Some(old) = self.in_flight.remove(uid) {
            self.allocated.remove(&old);
        }
    }

    /// Whether a claim is about to get devices.
    #[must_use]
    pub fn is_in_flight(&self, uid: &str) -> bool {
        self.in_flight.contains_key(uid)
    }

    /// Takes in a class, or one is gone.
    pub fn set_class(&mut self, name: &str, class: Option<DeviceClass>) {
        match class {
            Some(class) => drop(self.classes.insert(name.into(), Arc::new(class))),
            None => drop(self.classes.remove(name)),
        }
        let mut explicit: Vec<&Arc<DeviceClass>> = self.classes.values().collect();
        // Of several classes for one resource the newest counts, and of those the first by name.
        explicit.sort_by(|a, b| {
            let (a, b) = (&a.metadata, &b.metadata);
            let age = a.creation_timestamp.cmp(&b.creation_timestamp);
            age.then_with(|| b.name.cmp(&a.name))
        });
        self.resources = explicit
            .into_iter()
            .filter_map(|class| {
                let resource = class.spec.extended_resource_name.as_deref()?;
                Some((resource.into(), class.metadata.name.as_deref()?.into()))
            })
            .collect();
    }

    /// The class that stands for an extended resource.
    #[must_use]
    pub fn class_for(&self, resource: &str) -> Option<&str> {
        if let Some(class) = self.resources.get(resource) {
            return Some(class);
        }
        let name = resource.strip_prefix(CLASS_PREFIX)?;
        self.classes.get_key_value(name).map(|(name, _)| &**name)
    }

    /// Takes in a slice.
    pub fn set_slice(&mut self, slice: ResourceSlice) {
        self.slices.set(Arc::new(slice));
    }

    /// Whether what is kept up is what counting anew gives. For tests.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        let mut anew = Allocated::default();
        let stated = self.claims.values().filter_map(|claim| allocation(claim));
        stated.for_each(|found| anew.add(found));
        self.in_flight.values().for_each(|found| anew.add(found));
        anew == self.allocated
    }
}
