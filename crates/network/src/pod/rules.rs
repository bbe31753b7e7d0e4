//! The pod network's nftables rules: masquerading, host ports, and what pods must not reach.

use std::net::Ipv4Addr;

use super::addresses::Record;
use super::links::pod_interface_prefix;
use super::{PodNetworkConfig, PortMapping};
use crate::Cidr;
use crate::nft::{
    Chain, Direction, Field, Fragment, Hook, Key, KeyType, Name, Set, Shape, Statement, Value,
};

/// Host ports on one address: address, protocol, port to pod address, pod port.
const PORTS_BY_ADDRESS: &str = "host-ports-by-address";
/// Host ports on every address: protocol, port to pod address, pod port.
const PORTS: &str = "host-ports";
/// Pairs of a pod's address with itself.
const SELF: &str = "to-itself";

/// Before the service proxy, so that a host port wins over a node port.
const BEFORE_SERVICES: i32 = -5;
/// Before connection tracking.
const RAW: i32 = -300;

fn name(text: &str) -> Name {
    Name::from(text)
}

fn loopback() -> Cidr {
    Cidr::new(Ipv4Addr::LOCALHOST, 8)
}

/// Hooks, and the sets that pods share.
pub(super) fn base(config: &PodNetworkConfig) -> Fragment {
    let pods = pod_interface_prefix(&config.bridge);
    let interface = |direction, negate| Statement::Interface {
        direction,
        prefix: pods.clone(),
        negate,
    };
    let host_ports = vec![
        vec![
            Statement::LocalDestination,
            Statement::Redirect(
                vec![Field::Destination, Field::Protocol, Field::Port],
                name(PORTS_BY_ADDRESS),
            ),
        ],
        vec![
            Statement::LocalDestination,
            Statement::Redirect(vec![Field::Protocol, Field::Port], name(PORTS)),
        ],
    ];
    let leaving = vec![
        // A pod that reaches itself by a host port must see another sender than itself.
        vec![
            Statement::DestinationRewritten,
            Statement::Lookup(vec![Field::Source, Field::Destination], name(SELF), true),
            Statement::Masquerade,
        ],
        // A host port on 127.0.0.1.
        vec![
            Statement::Source(loopback(), true),
            interface(Direction::Out, false),
            Statement::Masquerade,
        ],
        // Pods use the host's address outside the cluster.
        vec![
            Statement::Source(config.cidr, true),
            Statement::Destination(config.cluster_cidr, false),
            Statement::Destination(Cidr::new(Ipv4Addr::new(224, 0, 0, 0), 4), false),
            interface(Direction::Out, true),
            Statement::Masquerade,
        ],
    ];
    // `route_localnet` must not let pods talk to what listens on this host's 127.0.0.1.
    let guard = vec![vec![
        interface(Direction::In, false),
        Statement::Destination(loopback(), true),
        Statement::Drop,
    ]];
    // Every pod's way is through the host: there is no better one to tell it about.
    let no_redirects = vec![vec![
        interface(Direction::Out, false),
        Statement::IcmpRedirect,
        Statement::Drop,
    ]];
    let mut base = Fragment::default();
    for (chain, hook, rules) in [
        ("guard", Hook::Prerouting(RAW), guard),
        (
            "host-ports-in",
            Hook::NatPrerouting(BEFORE_SERVICES),
            host_ports.clone(),
        ),
        (
            "host-ports-out",
            Hook::NatOutput(BEFORE_SERVICES),
            host_ports,
        ),
        ("leaving", Hook::NatPostrouting(0), leaving),
        ("no-redirects", Hook::Output(0), no_redirects),
    ] {
        let hook = Some(hook);
        base.chains.insert(name(chain), Chain { hook, rules });
    }
    use KeyType::{Address, Port, Protocol};
    for (set, shape) in [
        (
            PORTS_BY_ADDRESS,
            Shape::values(&[Address, Protocol, Port], &[Address, Port]),
        ),
        (PORTS, Shape::values(&[Protocol, Port], &[Address, Port])),
        (SELF, Shape::members(&[Address, Address])),
    ] {
        base.sets.insert(name(set), Set::new(shape));
    }
    base
}

/// What one pod adds.
pub(super) fn of_pod(record: &Record) -> Fragment {
    let mut fragment = Fragment::default();
    let itself = Key::new().address(record.ip).address(record.ip);
    fragment.shared.insert((name(SELF), itself), Value::Member);
    for port in &record.ports {
        let (set, key) = host_port_key(port);
        let target = Key::new().address(record.ip).port(port.container_port);
        fragment
            .shared
            .insert((name(set), key), Value::Data(target));
    }
    fragment
}

fn host_port_key(port: &PortMapping) -> (&'static str, Key) {
    let protocol = port.protocol.number();
    match port.host_ip {
        Some(ip) if !ip.is_unspecified() => (
            PORTS_BY_ADDRESS,
            Key::new()
                .address(ip)
                .protocol(protocol)
                .port(port.host_port),
        ),
        _ => (PORTS, Key::new().protocol(protocol).port(port.host_port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::{Assembly, Model};
    use crate::pod::Protocol;

    fn record(last: u8, ports: Vec<PortMapping>) -> Record {
        Record {
            ip: Ipv4Addr::new(10, 1, 0, last),
            id: format!("pod-{last}"),
            netns: "/run/netns/x".into(),
            host_interface: format!("skiff0v{last:x}"),
            hostname: String::new(),
            ports,
        }
    }

    #[test]
    fn pods_come_and_go_by_elements_only() {
        let config = PodNetworkConfig {
            state_dir: "/nowhere".into(),
            bridge: "skiff0".into(),
            cidr: "10.1.0.0/24".parse().unwrap(),
            cluster_cidr: "10.1.0.0/16".parse().unwrap(),
            service_cidr: None,
            mtu: None,
            table_name: "skiff-pods".into(),
        };
        let mut rules = Assembly::new(base(&config));
        let mut table = Model::default();
        table.apply(&rules.whole()).unwrap();
        let empty = table.clone();
        let port = |host_ip| PortMapping {
            protocol: Protocol::Tcp,
            host_ip,
            host_port: 8080,
            container_port: 80,
        };
        let pods = [
            record(2, vec![port(None)]),
            record(3, vec![port(Some(Ipv4Addr::LOCALHOST))]),
            record(4, vec![]),
        ];
        for pod in &pods {
            table
                .apply(&rules.replace(&pod.ip, Some(of_pod(pod))))
                .unwrap();
        }
        assert_eq!(table.sets[PORTS].elements.len(), 1);
        assert_eq!(table.sets[PORTS_BY_ADDRESS].elements.len(), 1);
        assert_eq!(table.sets[SELF].elements.len(), 3);
        assert_eq!(table.chains, empty.chains);
        for pod in &pods {
            table.apply(&rules.replace(&pod.ip, None)).unwrap();
        }
        assert_eq!(table, empty);
    }
}
