//! From one service and its endpoints to the chains and map elements that it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::base::{
    CLUSTER_IPS, HAIRPIN, NODE_PORTS, REFUSED, REFUSED_NODE_PORTS, SERVICES, name, rejected,
};
use super::datagrams::{Backend, Datagrams};
use super::rows::{Endpoint, NodeRow, ServiceId, ServicePort, ServiceRow, SliceRow};
use crate::nft::{Chain, Fragment, Key, KeyType, Name, Rule, Set, Shape, Statement, Value};
use crate::pod::Protocol;

/// What one service needs in the table, and which UDP flows it may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// Its chains, sets and shared elements.
    pub fragment: Fragment,
    /// Where its UDP flows may lead.
    pub datagrams: Datagrams,
}

/// Where connections to one service port may go.
#[derive(Debug, Default, PartialEq, Eq)]
struct Backends {
    /// Anywhere in the cluster.
    cluster: BTreeSet<Backend>,
    /// On this node.
    local: BTreeSet<Backend>,
}

/// Plans one service. A headless service, or one whose addresses this host holds itself, needs nothing.
#[must_use]
pub fn plan_service(
    id: &ServiceId,
    service: &ServiceRow,
    slices: &[&SliceRow],
    node: &NodeRow,
) -> ServicePlan {
    let mut plan = ServicePlan::default();
    let cluster_ips: Vec<Ipv4Addr> = service
        .cluster_ips
        .iter()
        .copied()
        .filter(|ip| !node.held.contains(ip))
        .collect();
    if cluster_ips.is_empty() {
        return plan;
    }
    for ip in &cluster_ips {
        let key = Key::new().address(*ip);
        let place = (name(CLUSTER_IPS), key);
        plan.fragment.shared.insert(place, Value::Member);
    }
    for port in &service.ports {
        let backends = backends(port, slices, &node.zone);
        PortPlan {
            plan: &mut plan,
            service,
            node,
            port,
            path: format!("{id}/{}/{}", port.protocol.lower(), port_label(port)),
            backends,
        }
        .fill(&cluster_ips);
    }
    plan
}

fn port_label(port: &ServicePort) -> String {
    match port.name.as_str() {
        "" => port.port.to_string(),
        name => name.to_owned(),
    }
}

/// Which endpoints are used because of what hints say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Near {
    /// All: there are no hints, or they leave this node without any.
    All,
    /// Those for this node.
    Node,
    /// Those for its zone.
    Zone,
}

fn is_for_node(endpoint: &Endpoint) -> bool {
    let hints = endpoint.hints.as_ref();
    hints.is_some_and(|hints| hints.node == Some(true))
}

fn is_for_zone(endpoint: &Endpoint, zone: &str) -> bool {
    let zones = endpoint.hints.iter().flat_map(|hints| &*hints.zones);
    zones.into_iter().any(|name| **name == *zone)
}

/// Hints count only if every ready endpoint has one, and one is for this node or its zone.
fn near<'a>(ready: impl Iterator<Item = &'a Endpoint> + Clone, zone: &str) -> Near {
    let hints = |endpoint: &'a Endpoint| endpoint.hints.as_ref();
    let names_nodes = |endpoint| hints(endpoint).is_some_and(|hints| hints.node.is_some());
    let names_zones = |endpoint| hints(endpoint).is_some_and(|hints| !hints.zones.is_empty());
    if ready.clone().all(names_nodes) && ready.clone().any(is_for_node) {
        return Near::Node;
    }
    let mut all = ready.clone();
    if all.all(names_zones) && ready.clone().any(|endpoint| is_for_zone(endpoint, zone)) {
        return Near::Zone;
    }
    Near::All
}

/// Ready endpoints, of these the near ones; failing these, those that shut down but still serve. What stays on this node
/// does not ask for hints.
fn backends(port: &ServicePort, slices: &[&SliceRow], zone: &str) -> Backends {
    let mut candidates: Vec<(u16, &Endpoint)> = Vec::new();
    for slice in slices {
        let ports = slice
            .ports
            .iter()
            .filter(|p| p.name == port.name && p.protocol == port.protocol);
        for slice_port in ports {
            candidates.extend(slice.endpoints.iter().map(|e| (slice_port.port, e)));
        }
    }
    let choose = |wanted: &dyn Fn(&Endpoint) -> bool| {
        let pick = |usable: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<_> {
            candidates
                .iter()
                .filter(|(_, endpoint)| wanted(endpoint) && usable(endpoint))
                .map(|(port, endpoint)| (endpoint.ip, *port))
                .collect()
        };
        let ready = pick(&|endpoint| endpoint.ready);
        match ready.is_empty() {
            true => pick(&|endpoint| endpoint.serving && endpoint.terminating),
            false => ready,
        }
    };
    let ready = candidates.iter().map(|(_, endpoint)| *endpoint);
    let cluster = match near(ready.filter(|endpoint| endpoint.ready), zone) {
        Near::All => choose(&|_| true),
        Near::Node => choose(&is_for_node),
        Near::Zone => choose(&|endpoint| is_for_zone(endpoint, zone)),
    };
    Backends {
        cluster,
        local: choose(&|endpoint| endpoint.local),
    }
}

/// The work on one port of a service.
struct PortPlan<'a> {
    plan: &'a mut ServicePlan,
    service: &'a ServiceRow,
    node: &'a NodeRow,
    port: &'a ServicePort,
    /// `namespace/name/protocol/port`: what the names of its chains and sets end with.
    path: String,
    backends: Backends,
}

impl PortPlan<'_> {
    fn fill(mut self, cluster_ips: &[Ipv4Addr]) {
        self.hairpin();
        let internal = if self.service.internal_local {
            self.local_chain()
        } else {
            self.cluster_chain()
        };
        for ip in cluster_ips {
            match &internal {
                Some(chain) => self.serve(*ip, chain.clone()),
                // Others could serve it, but the service says that they must not.
                None if !self.backends.cluster.is_empty() => self.refuse(*ip, Value::Drop),
                None => self.refuse(*ip, rejected()),
            }
        }
        let internal_backends = if self.service.internal_local {
            self.backends.local.clone()
        } else {
            self.backends.cluster.clone()
        };
        for ip in cluster_ips {
            self.remember(Some(*ip), self.port.port, &internal_backends);
        }
        self.external();
    }

    fn external(&mut self) {
        let load_balancer = self.service.load_balancer_ips.clone();
        let external_ips = self.service.external_ips.clone();
        let node_port = self.port.node_port;
        if load_balancer.is_empty() && external_ips.is_empty() && node_port.is_none() {
            return;
        }
        let chain = self.external_chain();
        for ip in external_ips {
            self.open_external(ip, chain.clone());
        }
        if !load_balancer.is_empty() {
            let firewall = chain.clone().map(|chain| self.firewall(chain));
            for ip in load_balancer {
                self.open_external(ip, firewall.clone());
            }
        }
        if let Some(node_port) = node_port {
            let key = Key::new()
                .protocol(self.port.protocol.number())
                .port(node_port);
            match chain {
                Some(chain) => self.share(NODE_PORTS, key, Value::Goto(chain)),
                None => self.share(REFUSED_NODE_PORTS, key, rejected()),
            }
            let backends = self.backends.cluster.clone();
            self.remember(None, node_port, &backends);
        }
    }

    fn open_external(&mut self, ip: Ipv4Addr, chain: Option<Name>) {
        match chain {
            Some(chain) => self.serve(ip, chain),
            None => self.refuse(ip, rejected()),
        }
        let backends = self.backends.cluster.clone();
        self.remember(Some(ip), self.port.port, &backends);
    }

    /// Traffic from outside: masqueraded and sent anywhere, or kept on this node with its source.
    fn external_chain(&mut self) -> Option<Name> {
        let cluster = self.cluster_chain()?;
        let mark = Statement::SetMark(self.node.masquerade_bit);
        let rules: Vec<Rule> = if self.service.external_local {
            let local = self.local_chain();
            vec![
                // Pods and this host are inside: they may go to any pod.
                vec![
                    Statement::Source(self.node.cluster_cidr, true),
                    Statement::Goto(cluster.clone()),
                ],
                vec![Statement::LocalSource, mark],
                vec![Statement::LocalSource, Statement::Goto(cluster)],
                vec![match local {
                    Some(local) => Statement::Goto(local),
                    None => Statement::Drop,
                }],
            ]
        } else {
            vec![vec![mark, Statement::Goto(cluster)]]
        };
        Some(self.chain("ext", rules))
    }

    /// The load balancer's addresses, for those who may use them.
    fn firewall(&mut self, next: Name) -> Name {
        if self.service.load_balancer_sources.is_empty() {
            return next;
        }
        let allowed = self.service.load_balancer_sources.iter().map(|range| {
            vec![
                Statement::Source(*range, true),
                Statement::Goto(next.clone()),
            ]
        });
        let rules = allowed.chain([vec![Statement::Drop]]).collect();
        self.chain("fw", rules)
    }

    fn cluster_chain(&mut self) -> Option<Name> {
        let backends = self.backends.cluster.clone();
        self.balancing_chain("svc", "all", &backends)
    }

    fn local_chain(&mut self) -> Option<Name> {
        let backends = self.backends.local.clone();
        self.balancing_chain("svl", "local", &backends)
    }

    /// The chain that picks one of the backends; none when there are none.
    fn balancing_chain(
        &mut self,
        kind: &str,
        set_kind: &str,
        backends: &BTreeSet<Backend>,
    ) -> Option<Name> {
        if backends.is_empty() {
            return None;
        }
        use KeyType::{Address, Index, Port};
        let target = |(ip, port): &Backend| Key::new().address(*ip).port(*port);
        let mut targets = Set::new(Shape::values(&[Index], &[Address, Port]));
        targets.elements = (0u32..)
            .zip(backends)
            .map(|(index, backend)| (Key::new().index(index), Value::Data(target(backend))))
            .collect();
        let map = self.set(&format!("ep-{set_kind}"), targets);
        let mut rules: Vec<Rule> = Vec::new();
        let memory = self.service.affinity.map(|timeout| {
            // The time is in the name, because the kernel cannot change it in place.
            let kind = format!("affinity-{set_kind}-{}s", timeout.as_secs());
            let shape = Shape::values(&[Address], &[Address, Port]).learning(timeout);
            self.set(&kind, Set::new(shape))
        });
        if let Some(memory) = &memory {
            let mut alive = Set::new(Shape::members(&[Address, Port]));
            alive.elements = backends
                .iter()
                .map(|backend| (target(backend), Value::Member))
                .collect();
            let alive = self.set(&format!("alive-{set_kind}"), alive);
            rules.push(vec![Statement::Recall {
                memory: memory.clone(),
                alive,
            }]);
            // Its pod is gone: the next rule makes and remembers a new choice.
            rules.push(vec![Statement::Forget(memory.clone())]);
        }
        let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        let balance = |remember: Option<Name>| {
            vec![Statement::Balance {
                map: map.clone(),
                count,
                remember,
            }]
        };
        if memory.is_some() {
            // A full memory ends this rule: the next one serves the client all the same.
            rules.push(balance(memory));
        }
        rules.push(balance(None));
        Some(self.chain(kind, rules))
    }

    /// Endpoints of this node may be their own clients.
    fn hairpin(&mut self) {
        let local: Vec<Ipv4Addr> = self.backends.local.iter().map(|(ip, _)| *ip).collect();
        for ip in local {
            let key = Key::new().address(ip).address(ip);
            self.share(HAIRPIN, key, Value::Member);
        }
    }

    fn serve(&mut self, ip: Ipv4Addr, chain: Name) {
        let key = self.address_key(ip);
        self.share(SERVICES, key, Value::Goto(chain));
    }

    fn refuse(&mut self, ip: Ipv4Addr, verdict: Value) {
        let key = self.address_key(ip);
        self.share(REFUSED, key, verdict);
    }

    fn address_key(&self, ip: Ipv4Addr) -> Key {
        Key::new()
            .address(ip)
            .protocol(self.port.protocol.number())
            .port(self.port.port)
    }

    fn remember(&mut self, ip: Option<Ipv4Addr>, port: u16, backends: &BTreeSet<Backend>) {
        if self.port.protocol == Protocol::Udp {
            self.plan.datagrams.0.insert((ip, port), backends.clone());
        }
    }

    fn share(&mut self, set: &str, key: Key, value: Value) {
        let shared: &mut BTreeMap<_, _> = &mut self.plan.fragment.shared;
        shared.insert((name(set), key), value);
    }

    fn chain(&mut self, kind: &str, rules: Vec<Rule>) -> Name {
        let name = Name::from(format!("{kind}/{}", self.path));
        let chain = Chain { hook: None, rules };
        self.plan.fragment.chains.insert(name.clone(), chain);
        name
    }

    fn set(&mut self, kind: &str, set: Set) -> Name {
        let name = Name::from(format!("{kind}/{}", self.path));
        self.plan.fragment.sets.insert(name.clone(), set);
        name
    }
}

#[cfg(test)]
mod tests;
