//! The devices that a node can reach, pool by pool.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1::{Device, ResourceSlice};

use super::amounts::exact;
use crate::nodes::NodeFacts;
use crate::plugins::node_affinity::selects;

/// A driver and the name of one of its pools.
pub type PoolId = (Box<str>, Box<str>);

/// A node as far as devices are concerned.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// Its name.
    pub name: &'a str,
    /// What its object says.
    pub facts: &'a NodeFacts,
}

impl Site<'_> {
    fn is(&self, name: Option<&str>, all: Option<bool>, selector: Option<&NodeSelector>) -> bool {
        match name.filter(|name| !name.is_empty()) {
            Some(name) => name == self.name,
            None if all == Some(true) => true,
            None => selector.is_some_and(|selector| selects(selector, self.name, self.facts)),
        }
    }

    /// Whether a device that says itself where it can be used can be used here.
    #[must_use]
    pub fn reaches(&self, device: &Device) -> bool {
        let (name, selector) = (device.node_name.as_deref(), device.node_selector.as_ref());
        self.is(name, device.all_nodes, selector)
    }

    fn sees(&self, slice: &ResourceSlice) -> bool {
        let spec = &slice.spec;
        if spec
            .shared_counters
            .as_ref()
            .is_some_and(|all| !all.is_empty())
        {
            return true;
        }
        if spec.per_device_node_selection == Some(true) {
            return spec
                .devices
                .iter()
                .flatten()
                .any(|device| self.reaches(device));
        }
        let selector = spec.node_selector.as_ref();
        self.is(spec.node_name.as_deref(), spec.all_nodes, selector)
    }
}

/// All slices, by pool.
#[derive(Debug, Default)]
pub struct Slices {
    /// Sorted by the names of drivers and pools, and within by the slices' own.
    pools: BTreeMap<PoolId, BTreeMap<Box<str>, Arc<ResourceSlice>>>,
    places: HashMap<Box<str>, PoolId>,
    /// Pools with slices for one node only.
    local: HashMap<Box<str>, BTreeMap<PoolId, usize>>,
    /// Pools with other slices: how many.
    shared: BTreeMap<PoolId, usize>,
}

fn pool_of(slice: &ResourceSlice) -> PoolId {
    let spec = &slice.spec;
    (spec.driver.as_str().into(), spec.pool.name.as_str().into())
}

fn name_of(slice: &ResourceSlice) -> &str {
    slice.metadata.name.as_deref().unwrap_or_default()
}

impl Slices {
    /// A slice is so now.
    pub fn set(&mut self, slice: Arc<ResourceSlice>) {
        self.remove(name_of(&slice));
        let id = pool_of(&slice);
        *self.index(&slice).entry(id.clone()).or_default() += 1;
        self.places.insert(name_of(&slice).into(), id.clone());
        let pool = self.pools.entry(id).or_default();
        pool.insert(name_of(&slice).into(), slice);
    }

    fn index(&mut self, slice: &ResourceSlice) -> &mut BTreeMap<PoolId, usize> {
        match slice.spec.node_name.as_deref() {
            Some(node) if !node.is_empty() => self.local.entry(node.into()).or_default(),
            _ => &mut self.shared,
        }
    }

    /// A slice is gone.
    pub fn remove(&mut self, name: &str) {
        let Some(id) = self.places.remove(name) else {
            return;
        };
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let gone = pool.remove(name);
        if pool.is_empty() {
            self.pools.remove(&id);
        }
        let Some(gone) = gone else {
            return;
        };
        let index = self.index(&gone);
        if let Some(count) = index.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                index.remove(&id);
            }
        }
        let node = gone.spec.node_name.as_deref().unwrap_or_default();
        if self.local.get(node).is_some_and(BTreeMap::is_empty) {
            self.local.remove(node);
        }
    }

    /// The names of all slices.
    pub fn names(&self) -> impl Iterator<Item = &Box<str>> {
        self.places.keys()
    }

    /// The pools that have something for a node. Those whose devices have to be made ready come last.
    #[must_use]
    pub fn pools(&self, site: Site<'_>) -> Vec<Pool<'_>> {
        let local = self.local.get(site.name).into_iter().flatten();
        let ids: BTreeSet<&PoolId> = local.chain(&self.shared).map(|(id, _)| id).collect();
        let known = ids
            .into_iter()
            .filter_map(|id| Some((id, self.pools.get(id)?)));
        let mut pools: Vec<Pool> = known
            .filter_map(|(id, slices)| Pool::of(id, slices.values(), site))
            .collect();
        pools.sort_by_key(Pool::needs_preparation);
        pools
    }
}

/// Counters by set and name, in thousandths.
pub type Counters<'a> = BTreeMap<(&'a str, &'a str), i128>;

/// A pool as a node sees it.
#[derive(Debug)]
pub struct Pool<'a> {
    /// Driver and name.
    pub id: &'a PoolId,
    /// Not all of its slices are there yet.
    pub incomplete: bool,
    /// Its slices contradict themselves.
    pub invalid: bool,
    /// The slices whose devices the node may use.
    pub here: Vec<&'a ResourceSlice>,
    /// Those of other nodes, as far as they draw on the same counters.
    pub elsewhere: Vec<&'a ResourceSlice>,
    /// What devices share.
    pub counters: Counters<'a>,
}

impl<'a> Pool<'a> {
    fn of(
        id: &'a PoolId,
        slices: impl Iterator<Item = &'a Arc<ResourceSlice>>,
        site: Site<'_>,
    ) -> Option<Self> {
        let all: Vec<&ResourceSlice> = slices.map(AsRef::as_ref).collect();
        let generation = |slice: &&ResourceSlice| slice.spec.pool.generation;
        let seen = all.iter().filter(|slice| site.sees(slice));
        let newest = seen.map(generation).max()?;
        let current = all
            .iter()
            .copied()
            .filter(|slice| generation(slice) == newest);
        let (here, elsewhere): (Vec<_>, Vec<_>) = current.partition(|slice| site.sees(slice));
        let count = here.first()?.spec.pool.resource_slice_count;
        let complete = |number: usize| i64::try_from(number).is_ok_and(|number| number == count);
        let mut pool = Self {
            id,
            incomplete: false,
            invalid: false,
            here,
            elsewhere: Vec::new(),
            counters: Counters::new(),
        };
        if !complete(pool.here.len()) {
            if all.iter().map(generation).max() > Some(newest) {
                // The driver is replacing the pool, and has nothing for this node any more.
                return None;
            }
            pool.incomplete = !complete(pool.here.len() + elsewhere.len());
            pool.elsewhere = elsewhere;
        }
        pool.invalid = !pool.incomplete && !pool.take_counters();
        Some(pool)
    }

    /// Sums up the counters. Answers whether all slices are sound.
    fn take_counters(&mut self) -> bool {
        for slice in &self.here {
            for set in slice.spec.shared_counters.iter().flatten() {
                let mut known = self.counters.keys();
                if known.any(|(name, _)| *name == set.name) {
                    return false;
                }
                let all = set.counters.iter();
                let all = all.map(|(name, counter)| ((&*set.name, &**name), exact(&counter.value)));
                self.counters.extend(all);
            }
        }
        let mut names = HashSet::new();
        let unique = devices(&self.here).all(|(_, device)| names.insert(&*device.name));
        let known = |device: &Device| {
            let mut used = device.consumes_counters.iter().flatten();
            used.all(|used| {
                let mut names = used.counters.keys();
                names.all(|name| self.counters.contains_key(&(&*used.counter_set, &**name)))
            })
        };
        unique
            && devices(&self.here).all(|(_, device)| known(device))
            && devices(&self.elsewhere).all(|(_, device)| known(device))
    }

    fn needs_preparation(&self) -> bool {
        devices(&self.here).any(|(_, device)| device.binding_conditions.is_some())
    }

    /// The devices that the node may use.
    pub fn devices(&self) -> impl Iterator<Item = (&'a ResourceSlice, &'a Device)> + '_ {
        devices(&self.here)
    }

    /// What is left of the counters beside devices that are given already.
    #[must_use]
    pub fn left(&self, is_given: impl Fn(&str) -> bool) -> Counters<'a> {
        let mut left = self.counters.clone();
        if left.is_empty() {
            return left;
        }
        for (_, device) in devices(&self.here).chain(devices(&self.elsewhere)) {
            if device.consumes_counters.is_some() && is_given(&device_id(self.id, &device.name)) {
                for (key, amount) in consumption(device) {
                    if let Some(left) = left.get_mut(&key) {
                        *left -= amount;
                    }
                }
            }
        }
        left
    }
}

fn devices<'a: 'b, 'b>(
    slices: &'b [&'a ResourceSlice],
) -> impl Iterator<Item = (&'a ResourceSlice, &'a Device)> + 'b {
    slices.iter().flat_map(|slice| {
        let devices = slice.spec.devices.iter().flatten();
        devices.map(move |device| (*slice, device))
    })
}

/// What a device takes of its pool's counters.
pub fn consumption(device: &Device) -> impl Iterator<Item = ((&str, &str), i128)> {
    device.consumes_counters.iter().flatten().flat_map(|used| {
        let counters = used.counters.iter();
        counters.map(|(name, counter)| ((&*used.counter_set, &**name), exact(&counter.value)))
    })
}

/// What tells a device from all others: driver, pool and name.
#[must_use]
pub fn device_id(pool: &PoolId, device: &str) -> String {
    format!("{}/{}/{device}", pool.0, pool.1)
}
