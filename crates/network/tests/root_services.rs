//! The service proxy on the real kernel: a node with pods, services in front of them, and a client
//! outside. Needs root; makes network namespaces of its own.

mod world;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skiff_network::nft::TableGuard;
use skiff_network::pod::{AttachRequest, PodNetwork, PodNetworkConfig, Protocol};
use skiff_network::proxy::{
    Endpoint, NodeRow, ServiceId, ServicePort, ServiceRow, ServiceTable, SlicePort, SliceRow,
    plan_service,
};
use world::{Namespace, ask_tcp, ask_udp, is_root, tcp_server, udp_server};

const CLUSTER_IP: &str = "10.62.0.80";
const NODE: &str = "192.0.2.2";

/// A host with pods a and b, a machine outside, and the service table.
struct Node {
    _state: tempfile::TempDir,
    host: Namespace,
    outside: Namespace,
    a: Namespace,
    b: Namespace,
    network: Arc<PodNetwork>,
    table: Arc<Mutex<Option<ServiceTable>>>,
    node: NodeRow,
}

fn node() -> Node {
    let state = tempfile::tempdir().unwrap();
    let (host, outside) = world::host_with_uplink();
    let (a, b) = (Namespace::new(), Namespace::new());
    let config = PodNetworkConfig {
        state_dir: state.path().to_owned(),
        bridge: "skiff0".into(),
        cidr: "10.61.3.0/24".parse().unwrap(),
        cluster_cidr: "10.61.0.0/16".parse().unwrap(),
        service_cidr: Some("10.62.0.0/16".parse().unwrap()),
        mtu: None,
        table_name: "skiff-pods".into(),
    };
    let node = NodeRow {
        cluster_cidr: config.cluster_cidr,
        service_cidr: config.service_cidr,
        held: vec![Ipv4Addr::new(10, 62, 0, 10)],
        masquerade_bit: 0x4000,
        masquerade_all: false,
        zone: "".into(),
    };
    let (at_a, at_b, row) = (a.path(), b.path(), node.clone());
    let (network, table) = within!(host, {
        let network = PodNetwork::open(config).await.unwrap();
        for (id, netns) in [("a", at_a), ("b", at_b)] {
            let request = AttachRequest {
                id: id.into(),
                netns,
                hostname: id.into(),
                ports: vec![],
            };
            network.attach(request).await.unwrap();
        }
        let table = ServiceTable::open("skiff-services", &row).unwrap();
        (network, table)
    });
    for (pod, name) in [(&a, "a"), (&b, "b")] {
        tcp_server(pod, 8080, name);
        udp_server(pod, 5353, name);
    }
    Node {
        _state: state,
        host,
        outside,
        a,
        b,
        network: Arc::new(network),
        table: Arc::new(Mutex::new(Some(table))),
        node,
    }
}

fn service() -> ServiceRow {
    let port = |name: &str, protocol, port, node_port| ServicePort {
        name: name.into(),
        protocol,
        port,
        node_port: Some(node_port),
    };
    ServiceRow {
        cluster_ips: vec![CLUSTER_IP.parse().unwrap()],
        ports: vec![
            port("http", Protocol::Tcp, 80, 30080),
            port("dns", Protocol::Udp, 53, 30053),
        ],
        ..ServiceRow::default()
    }
}

/// The pods with these last numbers, all ready and on this node.
fn slice(pods: &[u8]) -> SliceRow {
    let port = |name: &str, protocol, port| SlicePort {
        name: name.into(),
        protocol,
        port,
    };
    SliceRow {
        ports: vec![
            port("http", Protocol::Tcp, 8080),
            port("dns", Protocol::Udp, 5353),
        ],
        endpoints: pods
            .iter()
            .map(|last| Endpoint {
                ip: Ipv4Addr::new(10, 61, 3, *last),
                local: true,
                ready: true,
                serving: true,
                terminating: false,
                hints: None,
            })
            .collect(),
    }
}

impl Node {
    fn serve(&self, name: &str, row: Option<(&ServiceRow, &SliceRow)>) {
        let id = ServiceId::new("default", name);
        let plan = row.map(|(service, slice)| plan_service(&id, service, &[slice], &self.node));
        let table = self.table.clone();
        within!(self.host, {
            let mut holder = table.lock().unwrap().take().unwrap();
            let outcome = holder.apply(vec![(id, plan)]).await;
            *table.lock().unwrap() = Some(holder);
            outcome.unwrap();
        });
    }
}

/// Who answers in `times` attempts.
fn answers(namespace: &Namespace, address: &str, times: usize) -> BTreeSet<String> {
    (0..times)
        .map(|_| ask_tcp(namespace, address).unwrap())
        .collect()
}

#[test]
fn a_cluster_address_leads_to_every_pod_and_shows_the_client() {
    if !is_root() {
        return;
    }
    let node = node();
    node.serve("web", Some((&service(), &slice(&[2, 3]))));
    let address = format!("{CLUSTER_IP}:80");
    // From a pod: to the other pod with its own address, and to itself by way of the node.
    let seen = answers(&node.a, &address, 40);
    assert_eq!(
        seen,
        BTreeSet::from(["a 192.0.2.2".to_owned(), "b 10.61.3.2".to_owned()])
    );
    // From the host, with the address by which pods know it.
    let seen = answers(&node.host, &address, 40);
    assert_eq!(
        seen,
        BTreeSet::from(["a 10.61.3.1".to_owned(), "b 10.61.3.1".to_owned()])
    );
    // UDP.
    node.serve("web", Some((&service(), &slice(&[3]))));
    let udp = format!("{CLUSTER_IP}:53");
    assert_eq!(ask_udp(&node.a, 0, &udp).unwrap(), "b 10.61.3.2");
    // A port that the service does not have, and an address that no service has.
    let refused = ask_tcp(&node.a, &format!("{CLUSTER_IP}:81")).unwrap_err();
    assert_eq!(refused, ErrorKind::ConnectionRefused);
    let refused = ask_tcp(&node.host, &format!("{CLUSTER_IP}:81")).unwrap_err();
    assert_eq!(refused, ErrorKind::ConnectionRefused);
    let dropped = ask_tcp(&node.a, "10.62.0.99:80").unwrap_err();
    assert_eq!(dropped, ErrorKind::TimedOut);
}

#[test]
fn without_endpoints_clients_are_refused_at_once() {
    if !is_root() {
        return;
    }
    let node = node();
    node.serve("web", Some((&service(), &slice(&[]))));
    for (client, address) in [
        (&node.a, format!("{CLUSTER_IP}:80")),
        (&node.host, format!("{CLUSTER_IP}:80")),
        (&node.outside, format!("{NODE}:30080")),
        (&node.host, format!("{NODE}:30080")),
    ] {
        let refused = ask_tcp(client, &address).unwrap_err();
        assert_eq!(refused, ErrorKind::ConnectionRefused, "{address}");
    }
    let refused = ask_udp(&node.a, 0, &format!("{CLUSTER_IP}:53")).unwrap_err();
    assert_eq!(refused, ErrorKind::ConnectionRefused);
    // It works as soon as there is one, and is refused again when it is gone.
    node.serve("web", Some((&service(), &slice(&[3]))));
    let address = format!("{CLUSTER_IP}:80");
    assert_eq!(ask_tcp(&node.a, &address).unwrap(), "b 10.61.3.2");
    node.serve("web", Some((&service(), &slice(&[]))));
    let refused = ask_tcp(&node.a, &address).unwrap_err();
    assert_eq!(refused, ErrorKind::ConnectionRefused);
}

#[test]
fn node_ports_answer_on_every_address_but_loopback() {
    if !is_root() {
        return;
    }
    let node = node();
    node.serve("web", Some((&service(), &slice(&[2]))));
    assert_eq!(
        ask_tcp(&node.outside, &format!("{NODE}:30080")).unwrap(),
        "a 192.0.2.2"
    );
    assert_eq!(
        ask_udp(&node.outside, 0, &format!("{NODE}:30053")).unwrap(),
        "a 192.0.2.2"
    );
    for (client, address) in [
        (&node.host, format!("{NODE}:30080")),
        (&node.b, format!("{NODE}:30080")),
        (&node.b, "10.61.3.1:30080".to_owned()),
        (&node.a, format!("{NODE}:30080")),
    ] {
        assert_eq!(
            ask_tcp(client, &address).unwrap(),
            "a 192.0.2.2",
            "{address}"
        );
    }
    let loopback = ask_tcp(&node.host, "127.0.0.1:30080").unwrap_err();
    assert_eq!(loopback, ErrorKind::ConnectionRefused);

    // Local policy: the pod sees the client itself.
    let local = ServiceRow {
        external_local: true,
        external_ips: vec!["198.51.100.7".parse().unwrap()],
        ..service()
    };
    node.serve("web", Some((&local, &slice(&[2]))));
    assert_eq!(
        ask_tcp(&node.outside, &format!("{NODE}:30080")).unwrap(),
        "a 192.0.2.1"
    );
    node.outside
        .shell("ip route add 198.51.100.0/24 via 192.0.2.2");
    assert_eq!(
        ask_tcp(&node.outside, "198.51.100.7:80").unwrap(),
        "a 192.0.2.1"
    );
    assert_eq!(ask_tcp(&node.b, "198.51.100.7:80").unwrap(), "a 10.61.3.3");
    let mut elsewhere = slice(&[2]);
    elsewhere.endpoints[0].local = false;
    node.serve("web", Some((&local, &elsewhere)));
    let dropped = ask_tcp(&node.outside, &format!("{NODE}:30080")).unwrap_err();
    assert_eq!(dropped, ErrorKind::TimedOut);
}

#[test]
fn a_client_stays_with_its_pod_until_it_is_gone() {
    if !is_root() {
        return;
    }
    let node = node();
    let sticky = ServiceRow {
        affinity: Some(Duration::from_secs(10_800)),
        ..service()
    };
    let address = format!("{CLUSTER_IP}:80");
    node.serve("web", Some((&sticky, &slice(&[2, 3]))));
    assert_eq!(answers(&node.b, &address, 20).len(), 1);
    assert_eq!(answers(&node.host, &address, 20).len(), 1);
    // Its pod goes: it is given another one, and stays there although the first one comes back.
    let first = ask_tcp(&node.host, &address).unwrap();
    let (gone, other) = if first.starts_with('a') {
        (2, 3)
    } else {
        (3, 2)
    };
    node.serve("web", Some((&sticky, &slice(&[other]))));
    let second = answers(&node.host, &address, 5);
    assert_eq!(second.len(), 1);
    assert!(!second.contains(&first));
    node.serve("web", Some((&sticky, &slice(&[gone, other]))));
    assert_eq!(answers(&node.host, &address, 20), second);
}

#[test]
fn a_udp_client_with_a_fixed_port_follows_the_endpoints() {
    if !is_root() {
        return;
    }
    let node = node();
    let address = format!("{CLUSTER_IP}:53");
    node.serve("web", Some((&service(), &slice(&[2]))));
    assert_eq!(ask_udp(&node.b, 4000, &address).unwrap(), "a 10.61.3.3");
    node.serve("web", Some((&service(), &slice(&[3]))));
    assert_eq!(ask_udp(&node.b, 4000, &address).unwrap(), "b 192.0.2.2");
    node.serve("web", Some((&service(), &slice(&[]))));
    ask_udp(&node.b, 4000, &address).unwrap_err();
    node.serve("web", Some((&service(), &slice(&[2]))));
    assert_eq!(ask_udp(&node.b, 4000, &address).unwrap(), "a 10.61.3.3");
}

#[test]
fn a_restart_replaces_the_table_and_removal_leaves_nothing() {
    if !is_root() {
        return;
    }
    let node = node();
    let before = node.host.shell("nft list ruleset");
    node.serve("web", Some((&service(), &slice(&[2]))));
    node.serve(
        "old",
        Some((
            &ServiceRow {
                cluster_ips: vec!["10.62.0.81".parse().unwrap()],
                ..service()
            },
            &slice(&[2]),
        )),
    );
    // A new process knows nothing of the old one's table.
    let (row, table) = (node.node.clone(), node.table.clone());
    within!(node.host, {
        let new = ServiceTable::open("skiff-services", &row).unwrap();
        *table.lock().unwrap() = Some(new);
    });
    node.serve("web", Some((&service(), &slice(&[3]))));
    let address = format!("{CLUSTER_IP}:80");
    assert_eq!(ask_tcp(&node.a, &address).unwrap(), "b 10.61.3.2");
    assert!(!node.host.shell("nft list ruleset").contains("default/old"));
    // Someone deletes the table: the next change makes it whole again.
    node.host.shell("nft delete table ip skiff-services");
    node.serve("web", Some((&service(), &slice(&[2]))));
    assert_eq!(ask_tcp(&node.b, &address).unwrap(), "a 10.61.3.3");
    let table = node.table.clone();
    within!(node.host, {
        let mut holder = table.lock().unwrap().take().unwrap();
        holder.remove().await.unwrap();
        holder.remove().await.unwrap();
    });
    assert_eq!(node.host.shell("nft list ruleset"), before);
    drop(node.network);
}

#[test]
fn a_table_that_somebody_takes_away_is_missed() {
    if !is_root() {
        return;
    }
    let node = node();
    node.serve("web", Some((&service(), &slice(&[2]))));
    let (row, address) = (node.node.clone(), format!("{CLUSTER_IP}:80"));
    let again = within!(node.host, {
        let mut guard = TableGuard::watch("skiff-services").await.unwrap();
        let mut table = ServiceTable::open("skiff-services", &row).unwrap();
        let id = ServiceId::new("default", "web");
        let plan = || plan_service(&id, &service(), &[&slice(&[2])], &row);
        // Its owner replaces it.
        table.apply(vec![(id.clone(), Some(plan()))]).await.unwrap();
        let patience = std::time::Duration::from_millis(300);
        let early = tokio::time::timeout(patience, guard.lost()).await;
        let other = nlink::Connection::<nlink::netlink::Nftables>::new().unwrap();
        let family = nlink::netlink::nftables::Family::Ip;
        other.del_table("skiff-services", family).await.unwrap();
        guard.lost().await;
        table.is_lost();
        table.apply(vec![]).await.unwrap();
        early.is_err()
    });
    assert!(again, "a replaced table is there");
    assert_eq!(ask_tcp(&node.b, &address).unwrap(), "a 10.61.3.3");
}

#[test]
fn changes_stay_small_among_many_services() {
    if !is_root() {
        return;
    }
    let node = node();
    let row = node.node.clone();
    let table = node.table.clone();
    let took = within!(node.host, {
        let mut holder = table.lock().unwrap().take().unwrap();
        let many = (0..2000u16).map(|n| {
            let id = ServiceId::new("default", &format!("s{n}"));
            let [high, low] = n.to_be_bytes();
            let service = ServiceRow {
                cluster_ips: vec![Ipv4Addr::new(10, 62, 16 + high, low)],
                ports: vec![ServicePort {
                    name: "http".into(),
                    protocol: Protocol::Tcp,
                    port: 80,
                    node_port: None,
                }],
                ..ServiceRow::default()
            };
            let plan = plan_service(&id, &service, &[&slice(&[2, 3])], &row);
            (id, Some(plan))
        });
        let start = std::time::Instant::now();
        holder.apply(many.collect()).await.unwrap();
        let whole = start.elapsed();
        let start = std::time::Instant::now();
        for pods in [&[2u8][..], &[2, 3], &[3], &[2, 3], &[2]] {
            let id = ServiceId::new("default", "web");
            let plan = plan_service(&id, &service(), &[&slice(pods)], &row);
            holder.apply(vec![(id, Some(plan))]).await.unwrap();
        }
        let one = start.elapsed() / 5;
        *table.lock().unwrap() = Some(holder);
        (whole, one)
    });
    eprintln!(
        "2,000 services: {:?}; one change among them: {:?}",
        took.0, took.1
    );
    assert_eq!(
        ask_tcp(&node.b, &format!("{CLUSTER_IP}:80")).unwrap(),
        "a 10.61.3.3"
    );
    assert!(ask_tcp(&node.a, "10.62.20.7:80").is_ok());
}
