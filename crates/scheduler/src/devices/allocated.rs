//! Which devices claims have, kept up by deltas.

use std::collections::HashMap;

use k8s_openapi::api::resource::v1::{AllocationResult, DeviceRequestAllocationResult};

use super::amounts::{Amounts, exact};

/// Devices that claims have.
#[derive(Debug, Default, PartialEq)]
pub struct Allocated {
    /// Devices that nobody else may have, by how many claims: one, if all is well.
    taken: HashMap<Box<str>, u32>,
    /// Devices that are shared: how many shares there are, and what they take in all.
    shared: HashMap<Box<str>, (u32, Amounts)>,
}

fn id_of(result: &DeviceRequestAllocationResult) -> String {
    format!("{}/{}/{}", result.driver, result.pool, result.device)
}

impl Allocated {
    /// Whether somebody has the device for itself.
    #[must_use]
    pub fn is_taken(&self, id: &str) -> bool {
        self.taken.contains_key(id)
    }

    /// Whether anybody uses the device.
    #[must_use]
    pub fn is_in_use(&self, id: &str) -> bool {
        self.is_taken(id) || self.shared.contains_key(id)
    }

    /// What is taken of a shared device.
    #[must_use]
    pub fn consumed(&self, id: &str) -> Option<&Amounts> {
        self.shared.get(id).map(|(_, amounts)| amounts)
    }

    /// How many devices are in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.taken.len() + self.shared.len()
    }

    /// Whether none is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A claim has these devices now.
    pub fn add(&mut self, allocation: &AllocationResult) {
        for result in exclusive(allocation) {
            *self.taken.entry(id_of(result).into()).or_default() += 1;
        }
        for result in shares(allocation) {
            let (count, amounts) = self.shared.entry(id_of(result).into()).or_default();
            *count += 1;
            for (name, amount) in result.consumed_capacity.iter().flatten() {
                *amounts.entry(name.as_str().into()).or_default() += exact(amount);
            }
        }
    }

    /// A claim has them no longer.
    pub fn remove(&mut self, allocation: &AllocationResult) {
        for result in exclusive(allocation) {
            let id = id_of(result);
            if let Some(count) = self.taken.get_mut(id.as_str()) {
                *count -= 1;
                if *count == 0 {
                    self.taken.remove(id.as_str());
                }
            }
        }
        for result in shares(allocation) {
            let id = id_of(result);
            let Some((count, amounts)) = self.shared.get_mut(id.as_str()) else {
                continue;
            };
            *count -= 1;
            for (name, amount) in result.consumed_capacity.iter().flatten() {
                if let Some(known) = amounts.get_mut(name.as_str()) {
                    *known -= exact(amount);
                }
            }
            if *count == 0 {
                self.shared.remove(id.as_str());
            }
        }
    }
}

/// What counts: devices that are only looked at do not.
fn counting(allocation: &AllocationResult) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let devices = allocation.devices.iter();
    let results = devices.flat_map(|devices| devices.results.iter().flatten());
    results.filter(|result| result.admin_access != Some(true))
}

fn exclusive(
    allocation: &AllocationResult,
) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    counting(allocation).filter(|result| result.share_id.is_none())
}

fn shares(allocation: &AllocationResult) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    counting(allocation).filter(|result| result.share_id.is_some())
}
