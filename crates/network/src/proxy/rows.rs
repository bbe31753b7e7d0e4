//! What the proxy keeps of services, endpoint slices and its node: a few words each.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::Cidr;
use crate::pod::Protocol;

/// A service's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name in there.
    pub name: Arc<str>,
}

impl ServiceId {
    /// The service `namespace/name`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty when the service has one unnamed port.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number on the service's addresses.
    pub port: u16,
    /// Its number on every node.
    pub node_port: Option<u16>,
}

/// What the proxy needs to know of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRow {
    /// Addresses inside the cluster; none for a headless service.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// Addresses that the user routes to the nodes.
    pub external_ips: Vec<Ipv4Addr>,
    /// Addresses of the load balancer.
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// Who may use the load balancer; everyone when empty.
    pub load_balancer_sources: Vec<Cidr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// How long a client stays with its pod (`sessionAffinity: ClientIP`).
    pub affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
}

/// A port of the endpoints in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name that ties it to the service's port.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number on the pods.
    pub port: u16,
}

/// Where an endpoint would best be used from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Whether this node is among those that are named; none if there are no names.
    pub node: Option<bool>,
    /// The zones that are named; empty if none are.
    pub zones: Arc<[Box<str>]>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Whether it is on this node.
    pub local: bool,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it could, although it is shutting down.
    pub serving: bool,
    /// Whether it is shutting down.
    pub terminating: bool,
    /// Where it would best be used from; most have no hints.
    pub hints: Option<Hints>,
}

/// What the proxy needs to know of an IPv4 endpoint slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceRow {
    /// The ports of all its endpoints.
    pub ports: Vec<SlicePort>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// What the proxy needs to know of its own node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// The range of all pods: traffic from elsewhere to a cluster address is masqueraded.
    pub cluster_cidr: Cidr,
    /// The range of service addresses: what is not a service there is dropped.
    pub service_cidr: Option<Cidr>,
    /// Service addresses that this host answers itself (the cluster DNS address).
    pub held: Vec<Ipv4Addr>,
    /// The bit of the packet mark that means "masquerade"; upstream's is 0x4000.
    pub masquerade_bit: u32,
    /// Whether everything that goes to a cluster address is masqueraded.
    pub masquerade_all: bool,
    /// The zone it is in; empty if it is in none.
    pub zone: Box<str>,
}
