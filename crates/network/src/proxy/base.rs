//! The frame of the proxy's table: hooks, the shared maps, and what holds for all services.

use std::net::Ipv4Addr;

use super::rows::NodeRow;
use crate::Cidr;
use crate::nft::{Chain, Field, Fragment, Hook, KeyType, Name, Rule, Set, Shape, Statement, Value};

/// Address, protocol and port to the chain of a service port.
pub(super) const SERVICES: &str = "service-ips";
/// Protocol and node port to the chain of a service port.
pub(super) const NODE_PORTS: &str = "service-nodeports";
/// Address, protocol and port of service ports that nobody serves.
pub(super) const REFUSED: &str = "refused-ips";
/// Protocol and node port of service ports that nobody serves.
pub(super) const REFUSED_NODE_PORTS: &str = "refused-nodeports";
/// All cluster addresses.
pub(super) const CLUSTER_IPS: &str = "cluster-ips";
/// Pairs of an endpoint's address with itself.
pub(super) const HAIRPIN: &str = "hairpin";
/// The chain that answers with an ICMP error.
pub(super) const REJECT: &str = "reject-packet";

/// Before address translation, after connection tracking.
const BEFORE_NAT: i32 = -110;

pub(super) fn name(text: &str) -> Name {
    Name::from(text)
}

/// Destination address, protocol and port.
pub(super) fn destination() -> Vec<Field> {
    vec![Field::Destination, Field::Protocol, Field::Port]
}

fn node_port() -> Vec<Field> {
    vec![Field::Protocol, Field::Port]
}

/// A key of [`REFUSED`] that is not served: what happens to its packets.
pub(super) fn rejected() -> Value {
    Value::Goto(name(REJECT))
}

/// The part of the table that does not depend on services.
#[must_use]
pub fn base(node: &NodeRow) -> Fragment {
    let mut base = Fragment::default();
    let mut chain = |text: &str, hook: Option<Hook>, rules: Vec<Rule>| {
        base.chains.insert(name(text), Chain { hook, rules });
    };
    let jump = |to: &str| Statement::Jump(name(to));
    let to_services = || vec![vec![jump("services")]];
    chain("nat-in", Some(Hook::NatPrerouting(0)), to_services());
    chain("nat-out", Some(Hook::NatOutput(0)), to_services());
    chain("nat-leaving", Some(Hook::NatPostrouting(0)), leaving(node));
    let new_to = |to: &str| vec![vec![Statement::NewConnection, jump(to)]];
    chain(
        "refuse-in",
        Some(Hook::Prerouting(BEFORE_NAT)),
        new_to("refuse"),
    );
    chain(
        "refuse-out",
        Some(Hook::Output(BEFORE_NAT)),
        new_to("refuse"),
    );
    chain("rest-forward", Some(Hook::Forward(0)), new_to("rest"));
    chain("rest-out", Some(Hook::Output(0)), new_to("rest"));
    chain("services", None, services(node));
    chain("refuse", None, refuse());
    chain("rest", None, rest(node));
    chain(REJECT, None, vec![vec![Statement::Reject]]);

    use KeyType::{Address, Port, Protocol};
    for (set, shape) in [
        (SERVICES, Shape::verdicts(&[Address, Protocol, Port])),
        (NODE_PORTS, Shape::verdicts(&[Protocol, Port])),
        (REFUSED, Shape::verdicts(&[Address, Protocol, Port])),
        (REFUSED_NODE_PORTS, Shape::verdicts(&[Protocol, Port])),
        (CLUSTER_IPS, Shape::members(&[Address])),
        (HAIRPIN, Shape::members(&[Address, Address])),
    ] {
        base.sets.insert(name(set), Set::new(shape));
    }
    base
}

/// Which service port a new connection is for.
fn services(node: &NodeRow) -> Vec<Rule> {
    let mut off_cluster = vec![Statement::Lookup(
        vec![Field::Destination],
        name(CLUSTER_IPS),
        true,
    )];
    if !node.masquerade_all {
        off_cluster.push(Statement::Source(node.cluster_cidr, false));
    }
    off_cluster.push(Statement::SetMark(node.masquerade_bit));
    vec![
        off_cluster,
        vec![Statement::Dispatch(destination(), name(SERVICES))],
        vec![
            Statement::LocalDestination,
            Statement::Destination(Cidr::new(Ipv4Addr::LOCALHOST, 8), false),
            Statement::Dispatch(node_port(), name(NODE_PORTS)),
        ],
    ]
}

/// What nobody serves is answered before address translation.
fn refuse() -> Vec<Rule> {
    vec![
        vec![Statement::Dispatch(destination(), name(REFUSED))],
        vec![
            Statement::LocalDestination,
            Statement::Destination(Cidr::new(Ipv4Addr::LOCALHOST, 8), false),
            Statement::Dispatch(node_port(), name(REFUSED_NODE_PORTS)),
        ],
    ]
}

/// What still goes to a service address after address translation has no service port.
fn rest(node: &NodeRow) -> Vec<Rule> {
    let mut rules = vec![
        vec![Statement::LocalDestination, Statement::Return],
        vec![
            Statement::Lookup(vec![Field::Destination], name(CLUSTER_IPS), true),
            Statement::Reject,
        ],
    ];
    if let Some(services) = node.service_cidr {
        rules.push(vec![
            Statement::Destination(services, true),
            Statement::Drop,
        ]);
    }
    rules
}

/// Whose source address is replaced on the way out.
fn leaving(node: &NodeRow) -> Vec<Rule> {
    let bit = node.masquerade_bit;
    vec![
        // A pod that reaches itself through a service must see another sender than itself.
        vec![
            Statement::DestinationRewritten,
            Statement::Lookup(vec![Field::Source, Field::Destination], name(HAIRPIN), true),
            Statement::Masquerade,
        ],
        vec![
            Statement::Marked(bit, true),
            Statement::ClearMark(bit),
            Statement::Masquerade,
        ],
    ]
}
