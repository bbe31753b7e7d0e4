//! What cluster DNS knows: services, the endpoints of headless services, and namespaces.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::pod::Protocol;
use crate::proxy::{ServiceId, SlicePort};

/// How a service's name is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// With its cluster addresses.
    Cluster(Vec<IpAddr>),
    /// With the addresses of its endpoints.
    Headless,
    /// With another name.
    External(String),
}

/// What DNS needs to know of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsService {
    /// How its name is answered.
    pub kind: ServiceKind,
    /// Its ports (name, protocol, number).
    pub ports: Vec<SlicePort>,
}

/// A ready endpoint of a headless service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsEndpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its host name, if the pod has one below the service's name.
    pub hostname: Option<Box<str>>,
}

impl DnsEndpoint {
    /// The label under the service's name: the host name, or the address with dashes.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.hostname {
            Some(name) => name.to_string(),
            None => self.ip.to_string().replace(['.', ':'], "-"),
        }
    }
}

/// An endpoint slice of a headless service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsSlice {
    /// The ports of its endpoints.
    pub ports: Vec<SlicePort>,
    /// Its ready endpoints.
    pub endpoints: Vec<DnsEndpoint>,
}

#[derive(Debug, Default)]
pub(super) struct Entry {
    pub service: Option<DnsService>,
    pub slices: BTreeMap<Box<str>, DnsSlice>,
}

impl Entry {
    pub fn endpoints(&self) -> impl Iterator<Item = &DnsEndpoint> {
        self.slices.values().flat_map(|slice| &slice.endpoints)
    }
}

/// Everything that cluster DNS answers from memory.
#[derive(Debug)]
pub struct Records {
    /// The labels of the cluster's domain, lower case: `["cluster", "local"]`.
    pub(super) zone: Vec<String>,
    /// The address of cluster DNS itself.
    pub(super) own: IpAddr,
    pub(super) entries: HashMap<ServiceId, Entry>,
    pub(super) reverse: HashMap<IpAddr, BTreeSet<ServiceId>>,
    pub(super) namespaces: HashSet<Arc<str>>,
}

impl Records {
    /// Nothing is known yet of the domain `zone` (`cluster.local`), which is served at `own`.
    #[must_use]
    pub fn new(zone: &str, own: IpAddr) -> Self {
        let labels = zone.trim_matches('.').split('.');
        Self {
            zone: labels.map(str::to_ascii_lowercase).collect(),
            own,
            entries: HashMap::new(),
            reverse: HashMap::new(),
            namespaces: HashSet::new(),
        }
    }

    /// Sets or removes a service.
    pub fn set_service(&mut self, id: &ServiceId, service: Option<DnsService>) {
        self.change(id, |entry| entry.service = service);
    }

    /// Sets or removes one endpoint slice of a service. Slices of services that are not headless need
    /// not be told.
    pub fn set_slice(&mut self, id: &ServiceId, slice: &str, content: Option<DnsSlice>) {
        self.change(id, |entry| {
            match content {
                Some(content) => entry.slices.insert(slice.into(), content),
                None => entry.slices.remove(slice),
            };
        });
    }

    /// Adds or removes a namespace.
    pub fn set_namespace(&mut self, name: &str, exists: bool) {
        if exists {
            self.namespaces.insert(name.into());
        } else {
            self.namespaces.remove(name);
        }
    }

    /// Whether a service is known to be headless.
    #[must_use]
    pub fn is_headless(&self, id: &ServiceId) -> bool {
        let service = self
            .entries
            .get(id)
            .and_then(|entry| entry.service.as_ref());
        service.is_some_and(|service| service.kind == ServiceKind::Headless)
    }

    fn change(&mut self, id: &ServiceId, change: impl FnOnce(&mut Entry)) {
        let entry = self.entries.entry(id.clone()).or_default();
        let before = addresses(entry);
        change(entry);
        let after = addresses(entry);
        if entry.service.is_none() && entry.slices.is_empty() {
            self.entries.remove(id);
        }
        for gone in before.difference(&after) {
            if let Some(owners) = self.reverse.get_mut(gone) {
                owners.remove(id);
                if owners.is_empty() {
                    self.reverse.remove(gone);
                }
            }
        }
        for come in after.difference(&before) {
            self.reverse.entry(*come).or_default().insert(id.clone());
        }
    }

    pub(super) fn has_protocol(entry: &Entry, protocol: &str) -> bool {
        let ports = entry.service.iter().flat_map(|service| &service.ports);
        ports
            .map(|port| port.protocol)
            .any(|p| p.lower() == protocol)
    }
}

/// The addresses that lead back to the service by reverse lookup.
fn addresses(entry: &Entry) -> BTreeSet<IpAddr> {
    match entry.service.as_ref().map(|service| &service.kind) {
        Some(ServiceKind::Cluster(ips)) => ips.iter().copied().collect(),
        Some(ServiceKind::Headless) => entry.endpoints().map(|endpoint| endpoint.ip).collect(),
        _ => BTreeSet::new(),
    }
}

/// The protocol of a label such as `_tcp`.
pub(super) fn protocol_label(label: &str) -> Option<Protocol> {
    match label {
        "_tcp" => Some(Protocol::Tcp),
        "_udp" => Some(Protocol::Udp),
        "_sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}
