//! Which volume a claim is bound to, and what becomes of both. Pure.
//!
//! Claim and volume point at each other; the volume's pointer is written first and carries the claim's uid. Whatever
//! half is found done after a crash, looking at either of the two finishes it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeClaimStatus, PersistentVolumeSpec,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::validation::quantity::Amount;
use skiff_client::{EventType, LabelMatcher};

/// The claim is bound, once and for all.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// It was the controller who chose the volume, or the claim.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Who provisioned the volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// How large the volume was before it grew: what is in it has not grown yet.
pub const PRE_RESIZE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
/// The node that the scheduler chose for the claim's first pod.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Who is to provision the claim's volume; the second is the old name.
pub const PROVISIONERS: [&str; 2] = [
    "volume.beta.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/storage-provisioner",
];
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
const STORAGE: &str = "storage";

pub fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    let annotations = meta.annotations.as_ref()?;
    annotations.get(name).map(String::as_str)
}

fn name_of(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// The class that a claim asks for; empty for none.
#[must_use]
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref();
    annotation(&claim.metadata, BETA_CLASS)
        .or_else(|| spec.and_then(|spec| spec.storage_class_name.as_deref()))
        .unwrap_or_default()
}

fn states_class(claim: &PersistentVolumeClaim) -> bool {
    let spec = claim.spec.as_ref();
    annotation(&claim.metadata, BETA_CLASS).is_some()
        || spec.is_some_and(|spec| spec.storage_class_name.is_some())
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    annotation(&volume.metadata, BETA_CLASS)
        .or_else(|| spec.and_then(|spec| spec.storage_class_name.as_deref()))
        .unwrap_or_default()
}

/// The class that claims without one get: the newest of those that are marked.
#[must_use]
pub fn default_class(classes: &[Arc<StorageClass>]) -> Option<&str> {
    let marked = classes.iter().filter(|class| {
        DEFAULT_CLASS
            .iter()
            .any(|mark| annotation(&class.metadata, mark) == Some("true"))
    });
    let newest = marked.max_by(|a, b| {
        let key = |class: &StorageClass| class.metadata.creation_timestamp.clone();
        let by_name = || name_of(&b.metadata).cmp(name_of(&a.metadata));
        key(a).cmp(&key(b)).then_with(by_name)
    });
    newest.map(|class| name_of(&class.metadata))
}

/// How much room a claim asks for.
#[must_use]
pub fn requested(claim: &PersistentVolumeClaim) -> Amount {
    let requests = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.resources.as_ref())
        .and_then(|resources| resources.requests.as_ref());
    let storage = requests.and_then(|requests| requests.get(STORAGE));
    storage.map_or(Amount::ZERO, Amount::of)
}

fn capacity(volume: &PersistentVolume) -> Amount {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    let storage = capacity.and_then(|capacity| capacity.get(STORAGE));
    storage.map_or(Amount::ZERO, Amount::of)
}

fn same_mode(claim: &PersistentVolumeClaimSpec, volume: &PersistentVolumeSpec) -> bool {
    let mode = |mode: &Option<String>| mode.as_deref().unwrap_or("Filesystem").to_owned();
    mode(&claim.volume_mode) == mode(&volume.volume_mode)
}

fn has_all_access_modes(claim: &PersistentVolumeClaimSpec, volume: &PersistentVolumeSpec) -> bool {
    let offered = volume.access_modes.as_deref().unwrap_or_default();
    let mut wanted = claim.access_modes.iter().flatten();
    wanted.all(|mode| offered.contains(mode))
}

fn attributes_class(name: &Option<String>) -> &str {
    name.as_deref().unwrap_or_default()
}

/// The claim that a volume is bound to or kept for.
pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether the volume is bound to the claim, or kept for one of that name.
fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|of| {
        let uid = of.uid.as_deref().unwrap_or_default();
        of.name == claim.metadata.name
            && of.namespace == claim.metadata.namespace
            && (uid.is_empty() || claim.metadata.uid.as_deref() == Some(uid))
    })
}

pub fn phase_of_volume(volume: &PersistentVolume) -> &str {
    let status = volume.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// The best volume for the claim: one that is kept for it, else the smallest that fits among those with the fewest
/// access modes. `delayed` leaves the choice among the others to the scheduler.
#[must_use]
pub fn find<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    delayed: bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let wanted = claim.spec.as_ref()?;
    let size = requested(claim);
    let selector = wanted
        .selector
        .as_ref()
        .map(|selector| LabelMatcher::from_selector(Some(selector)));
    let fits = |volume: &&Arc<PersistentVolume>| {
        volume.spec.as_ref().is_some_and(|spec| {
            (spec.claim_ref.is_none() || is_for(volume, claim))
                && has_all_access_modes(wanted, spec)
                && capacity(volume) >= size
                && same_mode(wanted, spec)
                && attributes_class(&wanted.volume_attributes_class_name)
                    == attributes_class(&spec.volume_attributes_class_name)
                && volume.metadata.deletion_timestamp.is_none()
        })
    };
    let mut fitting: Vec<_> = volumes.iter().filter(fits).collect();
    let modes = |volume: &PersistentVolume| {
        let modes = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.access_modes.as_ref());
        modes.map_or(0, Vec::len)
    };
    fitting.sort_by_key(|volume| (modes(volume), capacity(volume)));
    if let Some(kept) = fitting.iter().find(|volume| is_for(volume, claim)) {
        return Some(kept);
    }
    let class = class_of_claim(claim);
    fitting.into_iter().find(|volume| {
        let selected = match &selector {
            None => true,
            Some(Ok(selector)) => selector.matches(volume.metadata.labels.as_ref()),
            Some(Err(_)) => false,
        };
        !delayed
            && claim_ref(volume).is_none()
            && phase_of_volume(volume) == "Available"
            && class_of_volume(volume) == class
            && selected
    })
}

/// Why a volume that the claim names cannot be bound to it.
fn mismatch(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<String> {
    let (wanted, spec) = (claim.spec.as_ref()?, volume.spec.as_ref()?);
    let what = if volume.metadata.deletion_timestamp.is_some() {
        let name = name_of(&volume.metadata);
        return Some(format!("the volume is marked for deletion {name:?}"));
    } else if capacity(volume) < requested(claim) {
        "requested PV is too small"
    } else if class_of_volume(volume) != class_of_claim(claim) {
        "storageClassName does not match"
    } else if attributes_class(&wanted.volume_attributes_class_name)
        != attributes_class(&spec.volume_attributes_class_name)
    {
        "volumeAttributesClassName does not match"
    } else if !same_mode(wanted, spec) {
        "incompatible volumeMode"
    } else if !has_all_access_modes(wanted, spec) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(what.to_owned())
}

/// Something to tell about a claim or volume.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub event_type: EventType,
    pub reason: &'static str,
    pub text: String,
}

fn told(event_type: EventType, reason: &'static str, text: impl Into<String>) -> Option<Told> {
    Some(Told {
        event_type,
        reason,
        text: text.into(),
    })
}

/// What a claim is judged by.
pub struct ClaimView<'a> {
    pub claim: &'a PersistentVolumeClaim,
    pub volumes: &'a [Arc<PersistentVolume>],
    pub classes: &'a [Arc<StorageClass>],
    /// The names of pods that use the claim and have no node yet.
    pub waiting: &'a [String],
}

/// What to do about a claim.
#[derive(Debug, PartialEq)]
pub enum ClaimStep {
    /// Point the volume and the claim at each other.
    Bind(Arc<PersistentVolume>),
    /// It gets the default class.
    AssignClass(String),
    /// A volume is to be made.
    Provision(Arc<StorageClass>),
    /// It is `Pending`, and this is why.
    Wait(Option<Told>),
    /// Its volume is gone or somebody else's.
    Lost(Told),
}

/// Decides about a claim.
#[must_use]
pub fn claim_step(view: &ClaimView) -> ClaimStep {
    let claim = view.claim;
    let named = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_deref());
    let named = named.filter(|name| !name.is_empty());
    let find_named = |name: &str| {
        let mut volumes = view.volumes.iter();
        volumes.find(|volume| volume.metadata.name.as_deref() == Some(name))
    };
    if annotation(&claim.metadata, BIND_COMPLETED).is_some() {
        return bound_step(claim, named.is_some(), named.and_then(find_named));
    }
    let Some(name) = named else {
        return unbound_step(view);
    };
    let Some(volume) = find_named(name) else {
        return ClaimStep::Wait(None);
    };
    if claim_ref(volume).is_none() {
        return match mismatch(claim, volume) {
            None => ClaimStep::Bind(volume.clone()),
            Some(why) => ClaimStep::Wait(told(
                EventType::Warning,
                "VolumeMismatch",
                format!("Cannot bind to requested volume {name:?}: {why}"),
            )),
        };
    }
    if is_for(volume, claim) {
        return ClaimStep::Bind(volume.clone());
    }
    let text = format!("volume {name:?} already bound to a different claim.");
    ClaimStep::Wait(told(EventType::Warning, "FailedBinding", text))
}

fn bound_step(
    claim: &PersistentVolumeClaim,
    named: bool,
    volume: Option<&Arc<PersistentVolume>>,
) -> ClaimStep {
    let lost = |reason, text: &str| {
        ClaimStep::Lost(Told {
            event_type: EventType::Warning,
            reason,
            text: text.to_owned(),
        })
    };
    let Some(volume) = volume else {
        let what = if named {
            "its PersistentVolume"
        } else {
            "reference to PersistentVolume"
        };
        let text = format!("Bound claim has lost {what}. Data on the volume is lost!");
        return lost("ClaimLost", &text);
    };
    match claim_ref(volume) {
        Some(of) if of.uid != claim.metadata.uid => lost(
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        ),
        _ => ClaimStep::Bind(volume.clone()),
    }
}

fn unbound_step(view: &ClaimView) -> ClaimStep {
    let claim = view.claim;
    let class_name = class_of_claim(claim);
    let class = view
        .classes
        .iter()
        .find(|class| !class_name.is_empty() && name_of(&class.metadata) == class_name);
    let delayed = class
        .is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    if let Some(volume) = find(claim, view.volumes, delayed) {
        return ClaimStep::Bind(volume.clone());
    }
    if !states_class(claim)
        && let Some(default) = default_class(view.classes)
    {
        return ClaimStep::AssignClass(default.to_owned());
    }
    if delayed && annotation(&claim.metadata, SELECTED_NODE).is_none() {
        let (reason, text) = match view.waiting {
            [] => (
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding".to_owned(),
            ),
            [only] => (
                "WaitForPodScheduled",
                format!("waiting for pod {only} to be scheduled"),
            ),
            several => (
                "WaitForPodScheduled",
                format!("waiting for pods {} to be scheduled", several.join(",")),
            ),
        };
        return ClaimStep::Wait(told(EventType::Normal, reason, text));
    }
    match class {
        Some(class) => ClaimStep::Provision(class.clone()),
        None if class_name.is_empty() => ClaimStep::Wait(told(
            EventType::Normal,
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        )),
        None => ClaimStep::Wait(told(
            EventType::Warning,
            "ProvisioningFailed",
            format!("storageclass.storage.k8s.io {class_name:?} not found"),
        )),
    }
}

/// What to do about a volume.
#[derive(Debug, PartialEq)]
pub enum VolumeStep {
    /// It is in this phase.
    Phase(&'static str),
    /// Its claim is gone: it is released, and what its policy says is done.
    Reclaim,
    /// Its claim took another one: it is free again, or kept for whom it was kept for.
    Unbind,
    /// The claim must be looked at.
    WakeClaim,
    /// It cannot be bound to the claim that it names: what to tell of the volume, and of the claim.
    Mismatch(Told, Told),
}

/// Decides about a volume; `claim` is the one with the uid that the volume names.
#[must_use]
pub fn volume_step(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumeStep {
    let of = claim_ref(volume);
    if of.is_none_or(|of| of.uid.as_deref().unwrap_or_default().is_empty()) {
        return VolumeStep::Phase("Available");
    }
    let Some(claim) = claim else {
        return VolumeStep::Reclaim;
    };
    let bound_to = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_deref());
    match bound_to.unwrap_or_default() {
        "" => {
            if let (Some(wanted), Some(spec)) = (&claim.spec, &volume.spec)
                && !same_mode(wanted, spec)
            {
                return mode_mismatch(volume, claim);
            }
            VolumeStep::WakeClaim
        }
        name if name == name_of(&volume.metadata) => VolumeStep::Phase("Bound"),
        _ => {
            let made_for_it = annotation(&volume.metadata, PROVISIONED_BY).is_some();
            if made_for_it && policy(volume) == "Delete" {
                VolumeStep::Reclaim
            } else {
                VolumeStep::Unbind
            }
        }
    }
}

fn mode_mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> VolumeStep {
    let told = |text: String| Told {
        event_type: EventType::Warning,
        reason: "VolumeMismatch",
        text,
    };
    let (volume, claim) = (name_of(&volume.metadata), name_of(&claim.metadata));
    VolumeStep::Mismatch(
        told(format!(
            "Cannot bind PersistentVolume to requested PersistentVolumeClaim {claim:?} due to incompatible volumeMode."
        )),
        told(format!(
            "Cannot bind PersistentVolume {volume:?} to requested PersistentVolumeClaim due to incompatible volumeMode."
        )),
    )
}

/// What becomes of the volume when its claim is gone.
#[must_use]
pub fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref())
        .unwrap_or("Retain")
}

/// The volume pointed at the claim; none where it is already.
#[must_use]
pub fn bound_volume(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
) -> Option<PersistentVolume> {
    let mut changed = volume.clone();
    let complete = claim_ref(volume).is_some_and(|of| of.uid == claim.metadata.uid);
    if !is_for(volume, claim) || !complete {
        let spec = changed.spec.get_or_insert_default();
        spec.claim_ref = Some(skiff_client::events::reference(claim));
    }
    if !is_for(volume, claim) {
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    (changed != *volume).then_some(changed)
}

/// The volume let go of its claim: wholly where the controller bound it, else it stays kept for a claim of that name.
#[must_use]
pub fn unbound_volume(volume: &PersistentVolume) -> PersistentVolume {
    let mut changed = volume.clone();
    let ours = annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some();
    if let Some(annotations) = &mut changed.metadata.annotations {
        annotations.remove(BOUND_BY_CONTROLLER);
    }
    if let Some(spec) = &mut changed.spec {
        if ours {
            spec.claim_ref = None;
        } else if let Some(of) = &mut spec.claim_ref {
            of.uid = None;
        }
    }
    changed
}

/// The claim pointed at the volume; none where it is already.
#[must_use]
pub fn bound_claim(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> Option<PersistentVolumeClaim> {
    let mut changed = claim.clone();
    let spec = changed.spec.get_or_insert_default();
    let annotations = changed.metadata.annotations.get_or_insert_default();
    if spec.volume_name != volume.metadata.name {
        spec.volume_name.clone_from(&volume.metadata.name);
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    annotations
        .entry(BIND_COMPLETED.to_owned())
        .or_insert_with(|| "yes".to_owned());
    (changed != *claim).then_some(changed)
}

/// The claim's status in this phase, with what its volume offers; none where it says that already.
#[must_use]
pub fn claim_status(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> Option<PersistentVolumeClaimStatus> {
    let old = claim.status.clone().unwrap_or_default();
    let mut status = old.clone();
    status.phase = Some(phase.to_owned());
    let spec = volume.and_then(|volume| volume.spec.as_ref());
    status.access_modes = spec.and_then(|spec| spec.access_modes.clone());
    if spec.is_none() {
        status.capacity = None;
        status.current_volume_attributes_class_name = None;
    } else if old.phase.as_deref() != Some(phase) {
        // Once it is bound, the size is the business of those who resize.
        status.capacity = spec.and_then(|spec| spec.capacity.clone());
        let before = volume.and_then(|volume| annotation(&volume.metadata, PRE_RESIZE));
        if let Some(size) = before.filter(|size| Amount::parse(size).is_ok()) {
            let mut capacity = old.capacity.clone().unwrap_or_default();
            capacity.insert(STORAGE.to_owned(), Quantity(size.to_owned()));
            status.capacity = Some(capacity);
        }
        status.current_volume_attributes_class_name =
            spec.and_then(|spec| spec.volume_attributes_class_name.clone());
    }
    (status != old).then_some(status)
}

#[cfg(test)]
#[path = "volume_plan_tests.rs"]
mod tests;
