//! Finds devices for claims on one node: a pure search, depth first, through all ways to serve all requests.
//!
//! Devices are tried in the order of their pools, slices and places, and the first way that works is taken, so that
//! drivers say by their names what is best. What a step changes is undone when the steps after it fail.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::resource::v1::{Device, DeviceSelector, ResourceSlice};

use super::allocated::Allocated;
use super::amounts::{Amounts, Taken, exact, suffices, taken};
use super::constraints::{self, Constraint};
use super::pools::{Counters, Pool, Site, consumption, device_id};
use super::request::{Request, Wanted, title};
use super::selectors::Selectors;

/// A claim gets at most so many devices.
pub const MOST_DEVICES: usize = 32;
/// So many steps count as a second: the time that a search may take is counted in steps, so that it ends alike on all
/// machines, and so that the others, who wait meanwhile, do not wait for seconds.
const STEPS_A_SECOND: u128 = 20_000;

/// How many steps a search may take within that time; as many as it likes if there is no limit (0).
#[must_use]
pub fn steps_within(time: Duration) -> u32 {
    if time.is_zero() {
        return u32::MAX;
    }
    let steps = time.as_millis() * STEPS_A_SECOND / 1000;
    u32::try_from(steps).unwrap_or(u32::MAX).max(1)
}

/// What the search goes by.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// Pools that the node can reach.
    pub pools: &'a [Pool<'a>],
    /// What others have.
    pub allocated: &'a Allocated,
    /// Compiled expressions.
    pub selectors: &'a Selectors,
    /// After so many steps the search is given up.
    pub steps: u32,
}

/// A device that was found.
#[derive(Debug)]
pub struct Found<'a> {
    /// The slice that has it.
    pub slice: &'a ResourceSlice,
    /// The device.
    pub device: &'a Device,
    /// The request that it is for: its place, and which of its alternatives.
    pub request: (usize, usize),
    /// What is taken of it; none if it is not shared.
    pub share: Option<Taken>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Something is wrong with a claim, a class or the devices: trying other nodes makes no sense.
    Broken(String),
    /// Not on this node, for a reason worth telling.
    Here(String),
    /// The search took too long.
    TooLong,
}

enum Stop {
    /// More devices than a claim may have.
    TooMany,
    Fault(Fault),
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::Fault(Fault::Broken(why))
    }
}

struct Candidate<'a> {
    slice: &'a ResourceSlice,
    device: &'a Device,
    pool: usize,
    id: String,
    /// Somebody else has it.
    given: bool,
}

impl Candidate<'_> {
    fn is_shared(&self) -> bool {
        self.device.allow_multiple_allocations == Some(true)
    }
}

/// Which request: of which claim, its place, which of its alternatives.
type Key = (usize, usize, usize);

struct Search<'a, 'b> {
    site: Site<'b>,
    known: Known<'a>,
    wanted: &'a [Wanted<'a>],
    candidates: Vec<Candidate<'a>>,
    /// What is left of the counters of each pool.
    left: Vec<Counters<'a>>,
    constraints: Vec<Vec<Constraint<'a>>>,
    /// All devices that a request for all of them means.
    every: HashMap<Key, Vec<usize>>,
    matches: HashMap<(usize, Key), bool>,
    /// Devices chosen here, by the claims that have them.
    chosen: BTreeMap<usize, Vec<usize>>,
    /// What was chosen here of devices that are shared.
    shares: BTreeMap<usize, Vec<Amounts>>,
    found: Vec<Vec<Found<'a>>>,
    steps: u32,
}

/// Finds devices for all claims. `Ok(None)` if there are not enough.
pub fn allocate<'a>(
    known: Known<'a>,
    site: Site<'_>,
    wanted: &'a [Wanted<'a>],
) -> Result<Option<Vec<Vec<Found<'a>>>>, Fault> {
    let mut search = Search::new(known, site, wanted).map_err(Fault::Broken)?;
    match search.prepare() {
        Ok(()) => {}
        Err(Stop::Fault(fault)) => return Err(fault),
        Err(Stop::TooMany) => return Ok(None),
    }
    match search.step((0, 0, 0), false, 0, 0) {
        Ok(true) => Ok(Some(search.found)),
        Err(Stop::Fault(fault)) => Err(fault),
        Ok(false) | Err(Stop::TooMany) => {
            if known.pools.iter().any(|pool| pool.invalid) {
                let why = "invalid resource pools were encountered".to_owned();
                return Err(Fault::Here(why));
            }
            Ok(None)
        }
    }
}

impl<'a, 'b> Search<'a, 'b> {
    fn new(known: Known<'a>, site: Site<'b>, wanted: &'a [Wanted<'a>]) -> Result<Self, String> {
        let sound = known.pools.iter().enumerate();
        let sound = sound.filter(|(_, pool)| !pool.incomplete && !pool.invalid);
        let candidates = sound.flat_map(|(number, pool)| {
            pool.devices().map(move |(slice, device)| {
                let id = device_id(pool.id, &device.name);
                Candidate {
                    slice,
                    device,
                    pool: number,
                    given: known.allocated.is_taken(&id),
                    id,
                }
            })
        });
        let left = known.pools.iter();
        let left = left.map(|pool| pool.left(|id| known.allocated.is_in_use(id)));
        let constraints = wanted.iter().map(|wanted| constraints::all(wanted.claim));
        Ok(Self {
            site,
            known,
            wanted,
            candidates: candidates.collect(),
            left: left.collect(),
            constraints: constraints.collect::<Result<_, _>>()?,
            every: HashMap::new(),
            matches: HashMap::new(),
            chosen: BTreeMap::new(),
            shares: BTreeMap::new(),
            found: wanted.iter().map(|_| Vec::new()).collect(),
            steps: 0,
        })
    }

    /// Finds out what "all" means where that is asked for, and whether claims want more than they may have.
    fn prepare(&mut self) -> Result<(), Stop> {
        for (claim, wanted) in self.wanted.iter().enumerate() {
            let mut least: usize = 0;
            for (place, requests) in wanted.requests.iter().enumerate() {
                let mut fewest = usize::MAX;
                for (which, request) in requests.alternatives.iter().enumerate() {
                    let key = (claim, place, which);
                    let count = match request.count {
                        Some(count) => count,
                        None => self.prepare_all(key, request)?,
                    };
                    fewest = fewest.min(count);
                }
                least = least.saturating_add(fewest);
            }
            if least > MOST_DEVICES {
                return Err(Stop::from(format!(
                    "claim {}: number of requested devices {least} exceeds the claim limit of {MOST_DEVICES}",
                    title(wanted.claim)
                )));
            }
        }
        Ok(())
    }

    fn prepare_all(&mut self, key: Key, request: &Request<'a>) -> Result<usize, Stop> {
        let Some(wanted) = self.wanted.get(key.0) else {
            return Ok(0);
        };
        for pool in self.known.pools {
            let state = match (pool.incomplete, pool.invalid) {
                (true, _) => "being updated",
                (false, true) => "invalid",
                (false, false) => continue,
            };
            return Err(Stop::from(format!(
                "claim {}, request {}: asks for all devices, but resource pool {}/{} is currently {state}",
                title(wanted.claim),
                request.name,
                pool.id.0,
                pool.id.1
            )));
        }
        let mut all = Vec::new();
        for index in 0..self.candidates.len() {
            if self.is_selected(index, key, request)? && self.has_room(index, request) {
                all.push(index);
            }
        }
        let count = all.len();
        self.every.insert(key, all);
        Ok(count)
    }

    /// Serves what is left from this device of this request on. `within`: one of several alternatives is being tried.
    fn step(&mut self, key: Key, within: bool, nth: usize, start: usize) -> Result<bool, Stop> {
        self.steps += 1;
        if self.steps > self.known.steps {
            return Err(Stop::Fault(Fault::TooLong));
        }
        let (claim, place, which) = key;
        let Some(wanted) = self.wanted.get(claim) else {
            return Ok(true);
        };
        let Some(requests) = wanted.requests.get(place) else {
            // What is too much for later claims may be less if earlier ones are served otherwise.
            return match self.step((claim + 1, 0, 0), false, 0, 0) {
                Err(Stop::TooMany) => Ok(false),
                other => other,
            };
        };
        if requests.listed && !within {
            return self.try_each((claim, place), requests.alternatives.len());
        }
        let Some(request) = requests.alternatives.get(which) else {
            return Ok(false);
        };
        let every = self.every.get(&key);
        let count = request.count.or(every.map(Vec::len)).unwrap_or(0);
        if request.count.is_none() && count == 0 {
            return Ok(false);
        }
        if nth >= count {
            return self.step((claim, place + 1, 0), false, 0, 0);
        }
        let so_far = self.found.get(claim).map_or(0, Vec::len);
        if (so_far - nth.min(so_far)).saturating_add(count) > MOST_DEVICES {
            return Err(Stop::TooMany);
        }
        if request.count.is_none() {
            let next = every.and_then(|all| all.get(nth)).copied();
            let taken = match next {
                Some(index) => self.take(key, request, index, true)?,
                None => false,
            };
            return if taken {
                self.go_on(key, within, nth, 0)
            } else {
                Ok(false)
            };
        }
        for index in start..self.candidates.len() {
            if self.is_free(index, claim, request)
                && self.is_selected(index, key, request)?
                && self.has_room(index, request)
                && self.take(key, request, index, false)?
                && self.go_on(key, within, nth, index + 1)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tries the alternatives of a request, the best first.
    fn try_each(&mut self, (claim, place): (usize, usize), count: usize) -> Result<bool, Stop> {
        let mut all_too_many = true;
        for which in 0..count {
            match self.step((claim, place, which), true, 0, 0) {
                Err(Stop::TooMany) => {}
                Ok(false) => all_too_many = false,
                other => return other,
            }
        }
        if all_too_many {
            Err(Stop::TooMany)
        } else {
            Ok(false)
        }
    }

    /// After a device was taken: what follows, or it is given back.
    fn go_on(&mut self, key: Key, within: bool, nth: usize, start: usize) -> Result<bool, Stop> {
        let outcome = self.step(key, within, nth + 1, start);
        if !matches!(outcome, Ok(true)) {
            self.give_back(key);
        }
        outcome
    }

    /// Whether nobody has the device in a way that matters to the request.
    fn is_free(&self, index: usize, claim: usize, request: &Request<'_>) -> bool {
        let chosen = self.chosen.get(&index);
        if request.admin {
            return chosen.is_none_or(|claims| !claims.contains(&claim));
        }
        let given = self.candidates.get(index).is_none_or(|found| found.given);
        !given && chosen.is_none_or(Vec::is_empty)
    }

    fn has_room(&self, index: usize, request: &Request<'_>) -> bool {
        let Some(candidate) = self.candidates.get(index) else {
            return false;
        };
        let mut given = vec![self.known.allocated.consumed(&candidate.id)];
        given.extend(self.shares.get(&index).into_iter().flatten().map(Some));
        suffices(request.capacity, candidate.device, &given)
    }

    /// Whether class and request select the device, and it can be used on the node.
    fn is_selected(&mut self, index: usize, key: Key, request: &Request<'_>) -> Result<bool, Stop> {
        if let Some(known) = self.matches.get(&(index, key)) {
            return Ok(*known);
        }
        let (Some(candidate), Some(wanted)) = (self.candidates.get(index), self.wanted.get(key.0))
        else {
            return Ok(false);
        };
        let class_name = request.class.metadata.name.as_deref().unwrap_or_default();
        let class = request.class.spec.selectors.as_deref().unwrap_or_default();
        let whole_slice = candidate.slice.spec.per_device_node_selection != Some(true);
        let selected = self.all_take(class, candidate, || format!("class {class_name}"))?
            && self.all_take(request.selectors, candidate, || {
                format!("claim {}", title(wanted.claim))
            })?
            && (whole_slice || self.site.reaches(candidate.device));
        self.matches.insert((index, key), selected);
        Ok(selected)
    }

    fn all_take(
        &self,
        selectors: &[DeviceSelector],
        candidate: &Candidate<'_>,
        whose: impl Fn() -> String,
    ) -> Result<bool, Stop> {
        for (number, selector) in selectors.iter().enumerate() {
            let Some(cel) = &selector.cel else {
                return Err(Stop::from(format!(
                    "{}, selector #{number}: CEL expression empty (unsupported selector type?)",
                    whose()
                )));
            };
            let compiled = self.known.selectors.get(&cel.expression);
            let answer = match &*compiled {
                Err(why) => Err(format!("CEL compile error: {why}")),
                Ok(selector) => selector
                    .takes(&candidate.slice.spec.driver, candidate.device)
                    .map_err(|why| format!("CEL runtime error: {why}")),
            };
            match answer {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => {
                    return Err(Stop::from(format!(
                        "{}: selector #{number}: {why}",
                        whose()
                    )));
                }
            }
        }
        Ok(true)
    }

    /// Takes a device if it is free, its counters suffice, its taints are borne and the constraints hold. `must`: no
    /// other will do instead.
    fn take(
        &mut self,
        key: Key,
        request: &Request<'a>,
        index: usize,
        must: bool,
    ) -> Result<bool, Stop> {
        let claim = key.0;
        let Some(candidate) = self.candidates.get(index) else {
            return Ok(false);
        };
        let (device, slice, pool) = (candidate.device, candidate.slice, candidate.pool);
        if !self.is_free(index, claim, request)
            || !self.has_room(index, request)
            || !request.bears(device.taints.as_deref().unwrap_or_default())
        {
            return Ok(false);
        }
        let draws = self.draws(index);
        if draws {
            let left = self.left.get(pool);
            let enough = |(key, amount): ((&str, &str), i128)| {
                amount <= 0
                    || left.is_some_and(|left| left.get(&key).is_some_and(|left| *left >= amount))
            };
            if !consumption(device).all(enough) {
                return Ok(false);
            }
        }
        let constraints = self.constraints.get_mut(claim);
        let constraints = constraints.map(Vec::as_mut_slice).unwrap_or_default();
        if let Err(why) = add_to_all(constraints, request, &slice.spec.driver, device) {
            if must && let Some(wanted) = self.wanted.get(claim) {
                return Err(Stop::from(format!(
                    "claim {}, request {}: cannot add device {} {why}",
                    title(wanted.claim),
                    request.name,
                    candidate.id
                )));
            }
            return Ok(false);
        }
        let share = candidate
            .is_shared()
            .then(|| taken(request.capacity, device));
        self.note(key, index, share, draws);
        Ok(true)
    }

    /// Whether taking the device draws on counters: only the first share of a shared one does.
    fn draws(&self, index: usize) -> bool {
        self.candidates.get(index).is_some_and(|candidate| {
            let used = self.known.allocated.consumed(&candidate.id).is_some()
                || self
                    .shares
                    .get(&index)
                    .is_some_and(|shares| !shares.is_empty());
            candidate.device.consumes_counters.is_some() && !(candidate.is_shared() && used)
        })
    }

    fn note(&mut self, key: Key, index: usize, share: Option<Taken>, draws: bool) {
        let Some(candidate) = self.candidates.get(index) else {
            return;
        };
        if draws && let Some(left) = self.left.get_mut(candidate.pool) {
            for (key, amount) in consumption(candidate.device) {
                if let Some(left) = left.get_mut(&key) {
                    *left -= amount;
                }
            }
        }
        match &share {
            Some(share) => {
                let amounts = share.iter();
                let amounts = amounts.map(|(name, amount)| (name.as_str().into(), exact(amount)));
                let shares = self.shares.entry(index).or_default();
                shares.push(amounts.collect());
            }
            None => self.chosen.entry(index).or_default().push(key.0),
        }
        if let Some(found) = self.found.get_mut(key.0) {
            found.push(Found {
                slice: candidate.slice,
                device: candidate.device,
                request: (key.1, key.2),
                share,
            });
        }
    }

    /// Gives back what the claim took last.
    fn give_back(&mut self, key: Key) {
        let Some(last) = self.found.get_mut(key.0).and_then(Vec::pop) else {
            return;
        };
        let is_last = |candidate: &Candidate| std::ptr::eq(candidate.device, last.device);
        let Some(index) = self.candidates.iter().position(is_last) else {
            return;
        };
        if last.share.is_some() {
            self.shares.get_mut(&index).and_then(Vec::pop);
        } else if let Some(claims) = self.chosen.get_mut(&index) {
            claims.pop();
        }
        let pool = self
            .candidates
            .get(index)
            .map_or(usize::MAX, |found| found.pool);
        if self.draws(index)
            && let Some(left) = self.left.get_mut(pool)
        {
            for (key, amount) in consumption(last.device) {
                if let Some(left) = left.get_mut(&key) {
                    *left += amount;
                }
            }
        }
        let (place, which) = last.request;
        let request = self
            .wanted
            .get(key.0)
            .and_then(|wanted| wanted.requests.get(place));
        let request = request.and_then(|requests| requests.alternatives.get(which));
        if let (Some(request), Some(constraints)) = (request, self.constraints.get_mut(key.0)) {
            constraints
                .iter_mut()
                .for_each(|constraint| constraint.remove(request));
        }
    }
}

/// Adds a device to all constraints, or to none.
fn add_to_all<'a>(
    constraints: &mut [Constraint<'a>],
    request: &Request<'a>,
    driver: &str,
    device: &'a Device,
) -> Result<(), &'static str> {
    for number in 0..constraints.len() {
        let added = constraints
            .get_mut(number)
            .is_none_or(|constraint| constraint.add(request, driver, device));
        if !added {
            let before = constraints.iter_mut().take(number);
            before.for_each(|constraint| constraint.remove(request));
            return Err("because a claim constraint would not be satisfied");
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "allocator_tests.rs"]
mod tests;
