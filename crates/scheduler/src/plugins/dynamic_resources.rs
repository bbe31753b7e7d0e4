//! A pod goes where the devices that its claims ask for are, or can be had.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ContainerExtendedResourceRequest;
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClaim, ResourceClaim};
use skiff_base::Random;
use skiff_client::ObjectKey;

use super::node_affinity::selects;
use crate::device_wants::ClaimUse;
use crate::devices::allocator::{Fault, Known, allocate};
use crate::devices::extended::{may_be_devices, requests};
use crate::devices::pools::Site;
use crate::devices::readiness::{is_ready, is_timed_out};
use crate::devices::request::{Wanted, title};
use crate::devices::{Devices, allocation, result, uid};
use crate::framework::{
    Cycle, Happening, NOTHING, Normal, Plugin, PreFilter, Rejection, Score, View, event,
};
use crate::profile::Profile;
use crate::rows::PodRow;
use crate::world::World;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "DynamicResources",
    weight: 2,
    pre_enqueue: Some(gate),
    pre_filter: Some(pre_filter),
    filter: Some(filter),
    post_filter: true,
    score: Some(Score {
        prepare: has_alternatives,
        score,
        normal: Normal::ByHighest,
    }),
    reserve: true,
    wakes_on: event::NODE_ADDED
        | event::NODE_LABELS
        | event::NODE_ALLOCATABLE
        | event::DEVICE_CLAIM
        | event::DEVICE_CLASS
        | event::DEVICE_SLICE,
    hint: Some(hint),
    ..NOTHING
};

/// The best of so many alternatives counts most.
const MOST_ALTERNATIVES: i64 = 8;
/// The name of a claim that is made for extended resources, before it is made.
const TO_BE_MADE: &str = "<extended-resources>";
/// Marks claims that were made for extended resources.
pub const EXTENDED: &str = "resource.kubernetes.io/extended-resource-claim";

/// Why the pod cannot be tried on any node.
#[derive(Debug)]
enum Refusal {
    /// As it stands.
    Waits(String),
    /// Something is wrong.
    Broken(String),
}

/// What a node has for the pod.
#[derive(Debug, Default)]
struct OnNode {
    /// For each claim that needs devices: its place, and what it gets.
    allocations: Vec<(usize, AllocationResult)>,
    /// The claim for extended resources as it is to be on this node.
    extended: Option<(ResourceClaim, Vec<ContainerExtendedResourceRequest>)>,
}

/// What a pod needs of devices, and what was found out about it during an attempt.
#[derive(Debug, Default)]
pub struct Needs {
    /// The pod's claims; that for extended resources comes last.
    claims: Vec<Arc<ResourceClaim>>,
    /// Whether the last claim is for extended resources.
    extended: bool,
    refused: Option<Refusal>,
    found: RefCell<HashMap<usize, OnNode>>,
    /// Places of claims that have devices which some node cannot reach.
    unavailable: RefCell<BTreeSet<usize>>,
    fault: RefCell<Option<String>>,
}

/// Why the pod is not to be queued: a claim of it is not there.
fn gate(pod: &PodRow, world: &World) -> Option<String> {
    pod.devices.as_ref()?;
    named_claims(pod, &world.devices).err()
}

/// The claims that a pod names, or what is wrong with one.
fn named_claims(pod: &PodRow, devices: &Devices) -> Result<Vec<Arc<ResourceClaim>>, String> {
    let mut found = Vec::new();
    let uses = pod.devices.iter().flat_map(|wants| &wants.claims);
    for claim_use in uses {
        let (name, generated) = match claim_use {
            ClaimUse::Named(name, generated) => (name, *generated),
            ClaimUse::Needless => continue,
            ClaimUse::ToBeMade => {
                return Err(format!(
                    "pod \"{}\": ResourceClaim not created yet",
                    pod.key
                ));
            }
            ClaimUse::Unknown(name) => {
                return Err(format!(
                    "pod \"{}\", spec.resourceClaim \"{name}\": none of the supported fields are set",
                    pod.key
                ));
            }
        };
        let key = ObjectKey::new(pod.namespace(), name);
        let Some(claim) = devices.claims.get(&key) else {
            return Err(format!("could not find ResourceClaim \"{key}\""));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("resourceclaim \"{name}\" is being deleted"));
        }
        if generated && !is_owned(claim, pod) {
            return Err(format!(
                "ResourceClaim {key} was not created for Pod {} (Pod is not owner)",
                pod.key
            ));
        }
        found.push(claim.clone());
    }
    Ok(found)
}

fn is_owned(claim: &ResourceClaim, pod: &PodRow) -> bool {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && owner.uid == *pod.uid)
}

/// Whether a claim's devices are already held for a pod.
#[must_use]
pub fn is_reserved(claim: &ResourceClaim, pod_uid: &str) -> bool {
    let status = claim.status.as_ref();
    let mut holders = status
        .into_iter()
        .flat_map(|status| status.reserved_for.iter().flatten());
    holders.any(|holder| holder.uid == pod_uid)
}

/// Extended resources of a pod that devices stand for.
fn stands_for_some(pod: &PodRow, devices: &Devices) -> bool {
    let mut others = pod.requests.others.iter();
    others.any(|(name, amount)| {
        *amount > 0 && may_be_devices(name) && devices.class_for(name).is_some()
    })
}

/// Looks up what a pod needs of devices.
#[must_use]
pub fn needs(pod: &PodRow, devices: &Devices) -> Needs {
    let mut needs = Needs::default();
    let Some(wants) = &pod.devices else {
        return needs;
    };
    match named_claims(pod, devices) {
        Ok(claims) => needs.claims = claims,
        Err(why) => {
            needs.refused = Some(Refusal::Waits(why));
            return needs;
        }
    }
    if !wants.containers.is_empty() && stands_for_some(pod, devices) {
        let known = devices.extended_claim(&pod.uid);
        let claim = known.unwrap_or_else(|| Arc::new(extended_claim(pod)));
        needs.claims.push(claim);
        needs.extended = true;
    }
    needs.refused = needs.look_ahead(devices);
    needs
}

/// The claim for a pod's extended resources, without requests yet: they differ from node to node.
fn extended_claim(pod: &PodRow) -> ResourceClaim {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.key.name().to_owned(),
        uid: pod.uid.to_string(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    ResourceClaim {
        metadata: ObjectMeta {
            namespace: Some(pod.namespace().to_owned()),
            name: Some(TO_BE_MADE.to_owned()),
            uid: Some(format!("extended:{}", pod.uid)),
            generate_name: Some(format!("{}-extended-resources-", pod.key.name())),
            owner_references: Some(vec![owner]),
            annotations: Some(BTreeMap::from([(EXTENDED.to_owned(), "true".to_owned())])),
            ..ObjectMeta::default()
        },
        ..ResourceClaim::default()
    }
}

/// Whether a claim for extended resources is still to be made.
#[must_use]
pub fn is_to_be_made(claim: &ResourceClaim) -> bool {
    claim.metadata.name.as_deref() == Some(TO_BE_MADE)
}

impl Needs {
    fn is_extended(&self, place: usize) -> bool {
        self.extended && place + 1 == self.claims.len()
    }

    /// Why no node can do, whichever it is.
    fn look_ahead(&self, devices: &Devices) -> Option<Refusal> {
        for (place, claim) in self.claims.iter().enumerate() {
            if allocation(claim).is_some() {
                continue;
            }
            if devices.is_in_flight(uid(claim)) {
                return Some(Refusal::Waits(format!(
                    "resource claim {} is in the process of being allocated",
                    title(claim)
                )));
            }
            if !self.is_extended(place)
                && let Some(refusal) = check_classes(claim, devices)
            {
                return Some(refusal);
            }
        }
        None
    }

    /// What went wrong while nodes were looked at.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        match &self.refused {
            Some(Refusal::Broken(why)) => Some(format!(
                "running PreFilter plugin \"DynamicResources\": {why}"
            )),
            _ => self.fault.borrow().clone(),
        }
    }

    /// What a node has; an error is a reason of the node's own or, as a fault, one that ends the attempt.
    fn look_at(&self, cycle: &Cycle, view: &View) -> Result<OnNode, Fault> {
        let devices = &cycle.world.devices;
        let extended = self.extended_on(cycle, view)?;
        let users = self.claims.len() - usize::from(self.extended);
        if extended.is_none() && users == 0 {
            return Ok(OnNode::default());
        }
        let timeout = cycle.profile.args.device_timeout_seconds;
        let mut unavailable = false;
        for (place, claim) in self.claims.iter().enumerate() {
            let Some(allocation) = allocation(claim) else {
                continue;
            };
            let selector = allocation.node_selector.as_ref();
            let reached =
                selector.is_none_or(|selector| selects(selector, &view.node.name, view.facts));
            let usable = reached
                && is_ready(claim)
                    .is_ok_and(|ready| ready || !is_timed_out(claim, devices.now, timeout));
            if !usable {
                self.unavailable.borrow_mut().insert(place);
                unavailable = true;
            }
        }
        let allocations = self.allocate_on(cycle, view, extended.as_ref().map(|found| &found.0))?;
        if unavailable {
            return Err(Fault::Here(
                "resourceclaim not available on the node".to_owned(),
            ));
        }
        Ok(OnNode {
            allocations,
            extended,
        })
    }

    fn allocate_on(
        &self,
        cycle: &Cycle,
        view: &View,
        extended: Option<&ResourceClaim>,
    ) -> Result<Vec<(usize, AllocationResult)>, Fault> {
        let devices = &cycle.world.devices;
        let (mut places, mut wanted) = (Vec::new(), Vec::new());
        for (place, claim) in self.claims.iter().enumerate() {
            let claim = match extended {
                _ if !self.is_extended(place) => claim.as_ref(),
                Some(claim) => claim,
                None => continue,
            };
            if allocation(claim).is_none() {
                let read = Wanted::of(claim, |name| devices.classes.get(name));
                wanted.push(read.map_err(Fault::Broken)?);
                places.push(place);
            }
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let site = Site {
            name: &view.node.name,
            facts: view.facts,
        };
        let pools = devices.slices.pools(site);
        let known = Known {
            pools: &pools,
            allocated: &devices.allocated,
            selectors: &devices.selectors,
            steps: cycle.profile.args.device_steps,
        };
        let found = match allocate(known, site, &wanted) {
            Ok(Some(found)) => found,
            Ok(None) => return Err(Fault::Here("cannot allocate all claims".to_owned())),
            Err(Fault::TooLong) => {
                return Err(Fault::Broken(format!(
                    "node {}: timed out trying to allocate devices",
                    view.node.name
                )));
            }
            Err(fault) => return Err(fault),
        };
        let each = places.into_iter().zip(wanted.iter().zip(&found));
        each.map(|(place, (wanted, found))| {
            let allocation = result::allocation(wanted, found, site.name);
            let name = wanted.claim.metadata.name.as_deref().unwrap_or_default();
            let allocation = allocation.map_err(|why| {
                Fault::Broken(format!("create NodeSelector for claim {name}: {why}"))
            })?;
            Ok((place, allocation))
        })
        .collect()
    }

    /// The claim for extended resources as it has to be on a node: what the node itself has none of.
    fn extended_on(
        &self,
        cycle: &Cycle,
        view: &View,
    ) -> Result<Option<(ResourceClaim, Vec<ContainerExtendedResourceRequest>)>, Fault> {
        let Some(claim) = self.claims.last().filter(|_| self.extended) else {
            return Ok(None);
        };
        if !is_to_be_made(claim) {
            return Err(Fault::Here(
                "cannot schedule extended resource claim".to_owned(),
            ));
        }
        let devices = &cycle.world.devices;
        let mut resources: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, amount) in &cycle.pod.requests.others {
            if *amount == 0 || !may_be_devices(name) {
                continue;
            }
            let mut offered = view.facts.allocatable.others.iter();
            let own = offered
                .find(|(known, _)| known == name)
                .map(|(_, amount)| *amount);
            match devices.class_for(name) {
                Some(class) if own.unwrap_or(0) == 0 => drop(resources.insert(name, class)),
                _ if own.is_none() => return Err(Fault::Here("cannot fit resource".to_owned())),
                _ => {}
            }
        }
        if resources.is_empty() {
            return Ok(None);
        }
        let wants = cycle.pod.devices.as_ref();
        let containers = wants.map_or(&[][..], |wants| &wants.containers);
        let (requests, mappings) = requests(containers, &resources);
        let mut claim = ResourceClaim::clone(claim);
        claim.spec.devices = Some(DeviceClaim {
            requests: Some(requests),
            ..DeviceClaim::default()
        });
        Ok(Some((claim, mappings)))
    }
}

fn check_classes(claim: &ResourceClaim, devices: &Devices) -> Option<Refusal> {
    let spec = claim.spec.devices.as_ref();
    let requests = spec.and_then(|spec| spec.requests.as_deref());
    for request in requests.unwrap_or_default() {
        let listed = request.first_available.iter().flatten();
        let listed = listed.map(|one| {
            (
                &one.device_class_name,
                format!("{}/{}", request.name, one.name),
            )
        });
        let exactly = request.exactly.iter();
        let exactly = exactly.map(|one| (&one.device_class_name, request.name.clone()));
        let mut any = false;
        for (class, name) in exactly.chain(listed) {
            any = true;
            if class.is_empty() {
                return Some(Refusal::Broken(format!(
                    "request {name}: unsupported request type"
                )));
            }
            if !devices.classes.contains_key(class.as_str()) {
                return Some(Refusal::Waits(format!(
                    "request {name}: device class {class} does not exist"
                )));
            }
        }
        if !any {
            return Some(Refusal::Waits(format!(
                "resource claim {}, request {}: unknown request type",
                title(claim),
                request.name
            )));
        }
    }
    None
}

fn pre_filter(cycle: &Cycle) -> PreFilter {
    let needs = &cycle.devices;
    match &needs.refused {
        Some(Refusal::Waits(why) | Refusal::Broken(why)) => {
            PreFilter::Reject(Rejection::unresolvable(why.clone()))
        }
        None if needs.claims.is_empty() => PreFilter::Skip,
        None => PreFilter::All,
    }
}

/// Refuses nodes that cannot reach the devices that claims have, or have none for those that need some.
fn filter(cycle: &Cycle, view: &View) -> Result<(), Rejection> {
    let needs = &cycle.devices;
    if let Some(Refusal::Waits(why) | Refusal::Broken(why)) = &needs.refused {
        return Err(Rejection::unresolvable(why.clone()));
    }
    if needs.claims.is_empty() {
        return Ok(());
    }
    match needs.look_at(cycle, view) {
        Ok(found) => {
            needs.found.borrow_mut().insert(view.index, found);
            Ok(())
        }
        Err(Fault::Here(why)) => Err(Rejection::unresolvable(why)),
        Err(Fault::Broken(why)) => {
            let text = format!("running \"DynamicResources\" filter plugin: {why}");
            needs.fault.borrow_mut().get_or_insert(text);
            Err(Rejection::unresolvable(why))
        }
        Err(Fault::TooLong) => Err(Rejection::unresolvable(
            "timed out trying to allocate devices",
        )),
    }
}

/// Whether any claim lists alternatives: only then nodes differ.
fn has_alternatives(cycle: &mut Cycle, _: &[usize]) -> bool {
    let mut claims = cycle.devices.claims.iter();
    claims.any(|claim| {
        let spec = claim.spec.devices.as_ref();
        let mut requests = spec
            .into_iter()
            .flat_map(|spec| spec.requests.iter().flatten());
        requests.any(|request| request.first_available.is_some())
    })
}

/// The better the alternatives that a node has for the claims, the better the node.
fn score(cycle: &Cycle, view: &View) -> i64 {
    let needs = &cycle.devices;
    let found = needs.found.borrow();
    let Some(on_node) = found.get(&view.index) else {
        return 0;
    };
    let mut score = 0;
    for (place, claim) in needs.claims.iter().enumerate() {
        let mut new = on_node.allocations.iter();
        let new = new.find(|(other, _)| *other == place).map(|(_, new)| new);
        let Some(devices) = allocation(claim)
            .or(new)
            .and_then(|found| found.devices.as_ref())
        else {
            continue;
        };
        let spec = claim.spec.devices.as_ref();
        for request in spec
            .into_iter()
            .flat_map(|spec| spec.requests.iter().flatten())
        {
            let listed = request.first_available.iter().flatten();
            for (rank, one) in (0..).zip(listed) {
                let name = format!("{}/{}", request.name, one.name);
                let mut results = devices.results.iter().flatten();
                if results.any(|result| result.request == name) {
                    score += MOST_ALTERNATIVES - rank;
                }
            }
        }
    }
    score
}

/// A claim that is to be written before the pod is bound.
#[derive(Clone, Debug)]
pub struct Booking {
    /// The claim as it was; as it is to be made, if it is for extended resources.
    pub claim: Arc<ResourceClaim>,
    /// What it gets, unless it has devices already.
    pub allocation: Option<Arc<AllocationResult>>,
    /// For extended resources: which container uses which request.
    pub mappings: Option<Vec<ContainerExtendedResourceRequest>>,
}

/// What is to be done about a pod's claims before it is bound.
#[derive(Clone, Debug, Default)]
pub struct Bookings {
    /// Each claim of the pod.
    pub claims: Vec<Booking>,
}

impl Bookings {
    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// Whether devices have to be made ready first, which may take minutes.
    #[must_use]
    pub fn waits(&self) -> bool {
        let all = self.claims.iter();
        let mut all =
            all.filter_map(|booking| booking.allocation.as_deref().or(allocation(&booking.claim)));
        all.any(crate::devices::readiness::has_conditions)
    }
}

/// What was found for the pod on a node becomes what is to be done.
#[must_use]
pub fn reserve(needs: Needs, node: usize, random: &Random) -> Bookings {
    let found = needs.found.into_inner().remove(&node).unwrap_or_default();
    let mut new: BTreeMap<usize, AllocationResult> = found.allocations.into_iter().collect();
    let (mut extended, last) = (found.extended, needs.claims.len().saturating_sub(1));
    let mut claims = Vec::new();
    for (place, claim) in needs.claims.into_iter().enumerate() {
        let allocation = new.remove(&place).map(|mut allocation| {
            name_shares(&mut allocation, random);
            Arc::new(allocation)
        });
        let special = needs.extended && place == last;
        let (claim, mappings) = match extended.take_if(|_| special) {
            Some((claim, mappings)) => (Arc::new(claim), Some(mappings)),
            // The node has the resources itself.
            None if special => continue,
            None => (claim, None),
        };
        claims.push(Booking {
            claim,
            allocation,
            mappings,
        });
    }
    Bookings { claims }
}

/// Gives each share of a device an identity.
fn name_shares(allocation: &mut AllocationResult, random: &Random) {
    let devices = allocation.devices.as_mut();
    for result in devices
        .into_iter()
        .flat_map(|devices| devices.results.iter_mut().flatten())
    {
        if result.share_id.as_deref() == Some(result::UNNAMED_SHARE) {
            result.share_id = Some(random.uuid());
        }
    }
}

/// What can be given up so that the pod may fit.
#[derive(Clone, Debug)]
pub enum GiveUp {
    /// The claim's devices.
    Devices(Arc<ResourceClaim>),
    /// The claim.
    Claim(Arc<ResourceClaim>),
}

/// When no node does: what is given up, and what is said about that.
#[must_use]
pub fn give_up(cycle: &Cycle) -> (&'static str, Option<GiveUp>) {
    let needs = &cycle.devices;
    if needs.claims.is_empty() || needs.refused.is_some() {
        return (NOTHING_TO_GIVE_UP, None);
    }
    for place in needs.unavailable.borrow().iter() {
        let Some(claim) = needs
            .claims
            .get(*place)
            .filter(|_| !needs.is_extended(*place))
        else {
            continue;
        };
        let status = claim.status.as_ref();
        let mut holders = status
            .into_iter()
            .flat_map(|status| status.reserved_for.iter().flatten());
        if holders.all(|holder| holder.uid == *cycle.pod.uid) {
            let text = "deallocation of ResourceClaim completed";
            return (text, Some(GiveUp::Devices(claim.clone())));
        }
    }
    match needs.claims.last() {
        Some(claim) if needs.extended && !is_to_be_made(claim) => {
            let text = "deletion of ResourceClaim completed";
            (text, Some(GiveUp::Claim(claim.clone())))
        }
        _ => (STILL_NOT, None),
    }
}

/// What is said when there is nothing to give up.
pub const NOTHING_TO_GIVE_UP: &str = "no new claims to deallocate";
/// The same of a pod with claims.
pub const STILL_NOT: &str = "still not schedulable";

fn hint(_: &Profile, pod: &PodRow, what: Happening) -> bool {
    let Happening::DeviceClaim(change) = what else {
        return true;
    };
    let old = change.old.as_deref();
    let had = old.is_some_and(|old| allocation(old).is_some());
    if had && allocation(&change.new).is_none() {
        return true;
    }
    let name = change.new.metadata.name.as_deref().unwrap_or_default();
    let namespace = change.new.metadata.namespace.as_deref().unwrap_or_default();
    let mut names = pod.devices.iter().flat_map(|wants| wants.names());
    namespace == pod.namespace()
        && names.any(|own| own == name)
        && old.is_none_or(|old| old.status != change.new.status)
}
