//! Which services and `IPAddress` objects have which addresses and node ports, kept up by what changes.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use skiff_api::{ApiError, ApiResult};

use crate::cache::{Entry, Follower};
use crate::query::Freshness;
use crate::server::ApiServer;
use crate::service_ranges::{AddressRange, networks};
use crate::services::{addresses, node_ports};

pub(crate) const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
pub(crate) const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
pub(crate) const MANAGER: &str = "ipallocator.k8s.io";

/// Something that only one service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Held {
    Address(IpAddr),
    Port(u16, &'static str),
}

/// What matters of a service.
#[derive(Debug, PartialEq)]
pub(crate) struct Holder {
    pub addresses: Vec<IpAddr>,
    ports: Vec<(u16, &'static str)>,
    pub is_external_name: bool,
    pub created: Option<Timestamp>,
}

/// What matters of an `IPAddress`.
#[derive(Debug, PartialEq)]
pub(crate) struct Record {
    pub parent: Parent,
    /// Whether it is kept by those who give services their addresses.
    pub managed: bool,
    /// Whether its labels are as they make them.
    pub labelled: bool,
    pub created: Option<Timestamp>,
}

/// What an `IPAddress` is for.
#[derive(Debug, PartialEq)]
pub(crate) enum Parent {
    /// `namespace/name`
    Service(Arc<str>),
    /// Anything else, as upstream prints it.
    Other(String),
}

pub(crate) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn protocol(name: &str) -> &'static str {
    match name {
        "UDP" => "UDP",
        "SCTP" => "SCTP",
        _ => "TCP",
    }
}

impl Held {
    /// A node port, of a protocol as services name it.
    pub fn port(number: u16, name: &str) -> Self {
        Self::Port(number, protocol(name))
    }
}

impl Holder {
    pub fn of(service: &Service) -> Self {
        let spec = service.spec.as_ref();
        let ports = spec.into_iter().flat_map(node_ports);
        let created = service.metadata.creation_timestamp.as_ref();
        Self {
            addresses: addresses(service),
            ports: ports.map(|(port, name)| (port, protocol(name))).collect(),
            is_external_name: spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName"),
            created: created.map(|time| time.0),
        }
    }

    fn held(&self) -> impl Iterator<Item = Held> {
        let addresses = self.addresses.iter().map(|address| Held::Address(*address));
        let ports = self
            .ports
            .iter()
            .map(|(port, name)| Held::Port(*port, name));
        addresses.chain(ports)
    }
}

impl Record {
    pub fn of(address: IpAddr, record: &IPAddress) -> Self {
        let labels = record.metadata.labels.as_ref();
        let label = |name: &str| labels.and_then(|labels| labels.get(name).map(String::as_str));
        let managed = label(MANAGED_BY) == Some(MANAGER);
        let parent = &record.spec.parent_ref;
        let group = parent.group.as_deref().unwrap_or_default();
        let namespace = parent.namespace.as_deref().unwrap_or_default();
        let (resource, name) = (&parent.resource, &parent.name);
        let created = record.metadata.creation_timestamp.as_ref();
        Self {
            parent: if group.is_empty() && resource == "services" {
                Parent::Service(format!("{namespace}/{name}").into())
            } else {
                Parent::Other(format!(
                    "&ParentReference{{Group:{group},Resource:{resource},Namespace:{namespace},Name:{name},}}"
                ))
            },
            managed,
            labelled: managed && label(FAMILY) == Some(family(address)),
            created: created.map(|time| time.0),
        }
    }

    fn service(&self) -> Option<&Arc<str>> {
        match &self.parent {
            Parent::Service(key) => Some(key),
            Parent::Other(_) => None,
        }
    }
}

/// All of them.
pub(crate) struct Holdings {
    /// By `namespace/name`.
    services: HashMap<Arc<str>, Holder>,
    records: HashMap<IpAddr, Record>,
    configured: AddressRange,
    /// What ServiceCIDRs add, by their keys.
    added: HashMap<Arc<str>, Vec<AddressRange>>,
    /// The services that have something.
    holders: HashMap<Held, BTreeSet<Arc<str>>>,
    /// The addresses that are recorded as a service's.
    recorded: HashMap<Arc<str>, BTreeSet<IpAddr>>,
    /// What may be judged otherwise than before.
    pub changed: BTreeSet<Held>,
}

/// Adds a value to the set under a key, or takes it away; no set stays empty.
fn index<K, V>(sets: &mut HashMap<K, BTreeSet<V>>, key: K, value: V, add: bool)
where
    K: std::hash::Hash + Eq,
    V: Ord,
{
    if add {
        sets.entry(key).or_default().insert(value);
    } else if let Some(set) = sets.get_mut(&key) {
        set.remove(&value);
        if set.is_empty() {
            sets.remove(&key);
        }
    }
}

impl Holdings {
    /// Nobody has anything yet; addresses may be of that range.
    pub fn new(configured: AddressRange) -> Self {
        Self {
            services: HashMap::new(),
            records: HashMap::new(),
            configured,
            added: HashMap::new(),
            holders: HashMap::new(),
            recorded: HashMap::new(),
            changed: BTreeSet::new(),
        }
    }

    /// A service is so now, or gone.
    pub fn set_service(&mut self, key: &Arc<str>, new: Option<Holder>) {
        if self.services.get(key) == new.as_ref() {
            return;
        }
        let old = match new {
            Some(new) => self.services.insert(key.clone(), new),
            None => self.services.remove(key),
        };
        for (holder, there) in [(old.as_ref(), false), (self.services.get(key), true)] {
            for held in holder.into_iter().flat_map(Holder::held) {
                index(&mut self.holders, held, key.clone(), there);
                self.changed.insert(held);
            }
        }
        let recorded = self.recorded.get(key).into_iter().flatten();
        self.changed.extend(recorded.copied().map(Held::Address));
    }

    /// An `IPAddress` is so now, or gone.
    pub fn set_record(&mut self, address: IpAddr, new: Option<Record>) {
        let old = match new {
            Some(new) => self.records.insert(address, new),
            None => self.records.remove(&address),
        };
        for (record, there) in [(old.as_ref(), false), (self.records.get(&address), true)] {
            if let Some(service) = record.and_then(Record::service) {
                index(&mut self.recorded, service.clone(), address, there);
            }
        }
        self.changed.insert(Held::Address(address));
    }

    /// A ServiceCIDR has these ranges now, or is gone.
    pub fn set_ranges(&mut self, key: &Arc<str>, new: Option<Vec<AddressRange>>) {
        if self.added.get(key) == new.as_ref() {
            return;
        }
        match new {
            Some(new) => self.added.insert(key.clone(), new),
            None => self.added.remove(key),
        };
        self.changed.extend(self.holders.keys());
    }

    pub fn in_range(&self, address: IpAddr) -> bool {
        let mut ranges = self.added.values().flatten().chain([&self.configured]);
        ranges.any(|range| range.usable(address))
    }

    pub fn service(&self, key: &str) -> Option<&Holder> {
        self.services.get(key)
    }

    pub fn record(&self, address: IpAddr) -> Option<&Record> {
        self.records.get(&address)
    }

    /// The services that have it, by name.
    pub fn holders(&self, held: Held) -> impl Iterator<Item = (&Arc<str>, &Holder)> {
        let keys = self.holders.get(&held).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.services.get(key)?)))
    }

    /// Whether somebody else than the service of this key has it: another service, or whoever an `IPAddress` is recorded for.
    pub fn is_others(&self, held: Held, key: &str) -> bool {
        let holders = self.holders.get(&held);
        let held_by_another = holders.is_some_and(|keys| keys.iter().any(|other| **other != *key));
        held_by_another || matches!(held, Held::Address(address) if self.is_recorded(address, key))
    }

    /// Whether an address is recorded, and not as that service's.
    fn is_recorded(&self, address: IpAddr, key: &str) -> bool {
        let record = self.records.get(&address);
        record.is_some_and(|record| record.service().is_none_or(|owner| **owner != *key))
    }

    /// No more addresses than this are somebody's.
    pub fn most_addresses(&self) -> usize {
        self.holders.len() + self.records.len()
    }
}

/// The collections that are read, each for what changed of it.
#[derive(Default)]
pub(crate) struct Watched {
    services: Follower,
    records: Follower,
    ranges: Follower,
}

type Changes = HashMap<Arc<str>, Option<Arc<Entry>>>;

impl Watched {
    /// Waits until something may have changed.
    pub async fn changed(&self) {
        tokio::select! {
            () = self.services.changed() => {}
            () = self.records.changed() => {}
            () = self.ranges.changed() => {}
        }
    }

    /// Takes in what changed, up to now.
    pub async fn read(
        &mut self,
        server: &Arc<ApiServer>,
        holdings: &mut Holdings,
    ) -> ApiResult<()> {
        server.wait_fresh(Freshness::Newest).await?;
        for (key, entry) in changes(server, "", "services", &mut self.services).await? {
            let service = entry.and_then(|entry| entry.decode::<Service>());
            let name: Vec<&str> = key.rsplitn(3, '/').take(2).collect();
            let [name, namespace] = name[..] else {
                continue;
            };
            let key = format!("{namespace}/{name}").into();
            holdings.set_service(&key, service.as_ref().map(Holder::of));
        }
        let group = "networking.k8s.io";
        for (key, entry) in changes(server, group, "ipaddresses", &mut self.records).await? {
            let name = key.rsplit('/').next().unwrap_or_default();
            if let Ok(address) = name.parse() {
                let record = entry.and_then(|entry| entry.decode::<IPAddress>());
                let record = record.map(|record| Record::of(address, &record));
                holdings.set_record(address, record);
            }
        }
        for (key, entry) in changes(server, group, "servicecidrs", &mut self.ranges).await? {
            let range = entry.and_then(|entry| entry.decode::<ServiceCIDR>());
            holdings.set_ranges(&key, range.map(|range| networks(&range).collect()));
        }
        Ok(())
    }
}

async fn changes(
    server: &Arc<ApiServer>,
    group: &str,
    plural: &str,
    follower: &mut Follower,
) -> ApiResult<Changes> {
    let registry = server.registry.load_full();
    let resource = registry.stored(group, plural);
    let cache = server
        .hub_cache(resource.ok_or_else(ApiError::no_such_path)?)
        .await?;
    Ok(follower.changes(&cache))
}

/// The same, kept up by the one who gives services what they lack.
pub(crate) struct Kept {
    watched: Watched,
    holdings: Holdings,
}

impl Kept {
    /// Nothing was read yet.
    pub fn new(configured: AddressRange) -> Self {
        Self {
            watched: Watched::default(),
            holdings: Holdings::new(configured),
        }
    }

    /// Who has what, now.
    pub async fn now(&mut self, server: &Arc<ApiServer>) -> ApiResult<&Holdings> {
        self.watched.read(server, &mut self.holdings).await?;
        // Nobody asks here what may be wrong.
        self.holdings.changed.clear();
        Ok(&self.holdings)
    }
}
