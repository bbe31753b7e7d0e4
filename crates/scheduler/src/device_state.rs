//! How the scheduler's state follows device claims: who waits for one, and who is about to get devices.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use skiff_client::ObjectKey;

use crate::devices::{allocation, uid};
use crate::framework::{Happening, event, plugin};
use crate::plugins::dynamic_resources::Bookings;
use crate::rows::PodRow;
use crate::state::{Known, State};

impl Known {
    /// Whether a plugin keeps a pod from being queued.
    pub(crate) fn is_gated(&self, profile: usize, pod: &PodRow) -> bool {
        self.profiles.get(profile).is_some_and(|profile| {
            let gates = profile.pre_enqueue.iter();
            let mut gates = gates.filter_map(|number| plugin(*number)?.pre_enqueue);
            gates.any(|gate| gate(pod, &self.world).is_some())
        })
    }

    /// Takes in a device claim.
    pub(crate) fn set_device_claim(&mut self, claim: ResourceClaim, now: Duration) {
        let Some(change) = self.world.devices.set_claim(claim) else {
            return;
        };
        self.wake(event::DEVICE_CLAIM, Happening::DeviceClaim(&change), now);
        self.open_gates(&change.new, now);
    }

    /// A device claim is gone.
    pub(crate) fn remove_device_claim(&mut self, key: &ObjectKey, now: Duration) {
        let gone = self.world.devices.remove_claim(key);
        if gone.as_deref().and_then(allocation).is_some() {
            self.wake(event::DEVICE_CLAIM, Happening::Other, now);
        }
    }

    /// Pods that waited for the claim to be there are tried.
    fn open_gates(&mut self, claim: &ResourceClaim, now: Duration) {
        let key = ObjectKey::of(&claim.metadata);
        let names = |pod: &&Arc<PodRow>| {
            let mut names = pod.devices.iter().flat_map(|wants| wants.names());
            pod.namespace() == key.namespace() && names.any(|name| name == key.name())
        };
        let waiting = self.with_device_claims.iter();
        let waiting = waiting.filter(|pod| self.queue.is_gated(pod));
        let waiting: Vec<Arc<PodRow>> = waiting
            .filter_map(|pod| self.pending.get(pod).filter(names).cloned())
            .collect();
        for pod in waiting {
            let gated = self
                .profile(&pod)
                .is_none_or(|profile| self.is_gated(profile, &pod));
            if !gated {
                self.queue.add(&pod.key, pod.priority, now);
            }
        }
    }

    /// Notes whether a pending pod has claims that it may wait for.
    pub(crate) fn note_device_claims(&mut self, pod: &PodRow) {
        let any = pod
            .devices
            .as_ref()
            .is_some_and(|wants| !wants.claims.is_empty());
        if any {
            self.with_device_claims.insert(pod.key.clone());
        }
    }

    /// Takes in a class of devices, or one is gone.
    pub(crate) fn set_device_class(
        &mut self,
        name: &str,
        class: Option<DeviceClass>,
        now: Duration,
    ) {
        let came = class.is_some();
        self.world.devices.set_class(name, class);
        if came {
            self.wake(event::DEVICE_CLASS, Happening::DeviceClass, now);
        }
    }

    /// Takes in a slice.
    pub(crate) fn set_device_slice(&mut self, slice: ResourceSlice, now: Duration) {
        self.world.devices.set_slice(slice);
        self.wake(event::DEVICE_SLICE, Happening::Other, now);
    }

    /// Holds devices for claims that are about to get them.
    pub(crate) fn hold_devices(&mut self, bookings: &Bookings) {
        for booking in &bookings.claims {
            if let Some(allocation) = &booking.allocation {
                let devices = &mut self.world.devices;
                devices.set_in_flight(uid(&booking.claim), allocation.clone());
            }
        }
    }

    /// What was to be written is, or will not be.
    pub(crate) fn forget_devices(&mut self, bookings: &Bookings) {
        for booking in &bookings.claims {
            if booking.allocation.is_some() {
                self.world.devices.end_flight(uid(&booking.claim));
            }
        }
    }
}

impl State {
    /// A claim is so by the answer to a request of our own: the watch may be late.
    pub(crate) fn assume_claim(&self, claim: ResourceClaim) {
        self.change(|known, now| known.set_device_claim(claim, now));
        self.devices_changed();
    }

    /// A claim as it was seen last.
    pub(crate) fn device_claim(&self, key: &ObjectKey) -> Option<Arc<ResourceClaim>> {
        self.read(|known| known.world.devices.claims.get(key).cloned())
    }

    /// The claim that was made for a pod's extended resources.
    pub(crate) fn extended_claim(&self, pod: &PodRow) -> Option<Arc<ResourceClaim>> {
        self.read(|known| known.world.devices.extended_claim(&pod.uid))
    }
}
