//! Pods on one node, on the real kernel: addresses, reachability, host ports, masquerading, restart,
//! removal. Needs root; makes network namespaces of its own.

mod world;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use skiff_network::pod::{
    AttachRequest, Attachment, PodNetwork, PodNetworkConfig, PodNetworkError, PortMapping,
    Protocol, hold_address, release_address,
};
use world::{Namespace, ask_tcp, ask_udp, host_with_uplink, is_root, tcp_server, udp_server};

fn config(state: &Path) -> PodNetworkConfig {
    PodNetworkConfig {
        state_dir: state.to_owned(),
        bridge: "skiff0".into(),
        cidr: "10.61.3.0/24".parse().unwrap(),
        cluster_cidr: "10.61.0.0/16".parse().unwrap(),
        service_cidr: Some("10.62.0.0/16".parse().unwrap()),
        mtu: None,
        table_name: "skiff-pods".into(),
    }
}

fn open(host: &Namespace, config: PodNetworkConfig) -> Arc<PodNetwork> {
    within!(host, Arc::new(PodNetwork::open(config).await.unwrap()))
}

fn attach(
    host: &Namespace,
    network: &Arc<PodNetwork>,
    pod: &Namespace,
    id: &str,
    ports: Vec<PortMapping>,
) -> Result<Attachment, PodNetworkError> {
    let request = AttachRequest {
        id: id.to_owned(),
        netns: pod.path(),
        hostname: id.to_owned(),
        ports,
    };
    let network = network.clone();
    within!(host, network.attach(request).await)
}

fn detach(host: &Namespace, network: &Arc<PodNetwork>, id: &'static str) {
    let network = network.clone();
    within!(host, network.detach(id).await.unwrap());
}

#[test]
fn pods_reach_each_other_the_host_and_the_outside() {
    if !is_root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let (host, outside) = host_with_uplink();
    let (a, b) = (Namespace::new(), Namespace::new());
    let network = open(&host, config(state.path()));
    let at_a = attach(&host, &network, &a, "a", vec![]).unwrap();
    let at_b = attach(&host, &network, &b, "b", vec![]).unwrap();
    assert_eq!(at_a.ip, Ipv4Addr::new(10, 61, 3, 2));
    assert_eq!(at_b.ip, Ipv4Addr::new(10, 61, 3, 3));
    assert_eq!(at_a.gateway, Ipv4Addr::new(10, 61, 3, 1));

    tcp_server(&a, 80, "a");
    tcp_server(&b, 80, "b");
    udp_server(&b, 53, "b");
    tcp_server(&host, 8001, "host");
    udp_server(&host, 8001, "host");
    tcp_server(&outside, 8002, "outside");

    // The receiver sees the sender's own address inside the cluster, and the node's outside.
    assert_eq!(ask_tcp(&a, "10.61.3.3:80").unwrap(), "b 10.61.3.2");
    assert_eq!(ask_tcp(&b, "10.61.3.2:80").unwrap(), "a 10.61.3.3");
    assert_eq!(ask_udp(&a, 0, "10.61.3.3:53").unwrap(), "b 10.61.3.2");
    assert_eq!(ask_tcp(&a, "10.61.3.2:80").unwrap(), "a 10.61.3.2");
    assert_eq!(ask_tcp(&a, "127.0.0.1:80").unwrap(), "a 127.0.0.1");
    assert_eq!(ask_tcp(&host, "10.61.3.2:80").unwrap(), "a 192.0.2.2");
    assert_eq!(ask_tcp(&a, "10.61.3.1:8001").unwrap(), "host 10.61.3.2");
    assert_eq!(ask_tcp(&a, "192.0.2.2:8001").unwrap(), "host 10.61.3.2");
    assert_eq!(ask_udp(&a, 0, "192.0.2.2:8001").unwrap(), "host 10.61.3.2");
    assert_eq!(ask_tcp(&a, "192.0.2.1:8002").unwrap(), "outside 192.0.2.2");
    // The cable takes the uplink's packet size.
    assert!(a.shell("ip link show eth0").contains("mtu 1400"));
    // An address that no pod has is answered at once.
    assert_eq!(
        ask_tcp(&a, "10.61.3.77:80").unwrap_err(),
        std::io::ErrorKind::HostUnreachable
    );
    // Nobody is told of a shorter way.
    assert!(!a.shell("ip route show cache").contains("redirected"));
}

#[test]
fn attaching_again_gives_the_same_and_detaching_frees() {
    if !is_root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let (host, _outside) = host_with_uplink();
    let (a, b) = (Namespace::new(), Namespace::new());
    let network = open(&host, config(state.path()));
    let first = attach(&host, &network, &a, "a", vec![]).unwrap();
    let index = host.shell("ip -o link show skiff0v2");
    assert_eq!(attach(&host, &network, &a, "a", vec![]).unwrap(), first);
    let again = host.shell("ip -o link show skiff0v2");
    assert_eq!(index, again, "the cable was left alone");
    // A missing namespace is an error that keeps no address.
    let request = AttachRequest {
        id: "ghost".into(),
        netns: "/proc/self/task/1/ns/none".into(),
        hostname: String::new(),
        ports: vec![],
    };
    let network_of_host = network.clone();
    within!(host, network_of_host.attach(request).await).unwrap_err();
    let at_b = attach(&host, &network, &b, "b", vec![]).unwrap();
    tcp_server(&b, 80, "b");
    detach(&host, &network, "a");
    detach(&host, &network, "a");
    assert!(!host.shell("ip -o link").contains("skiff0v2@"));
    assert!(!a.shell("ip -o link").contains("eth0"));
    // The other pod's way back survived.
    assert!(ask_tcp(&host, &format!("{}:80", at_b.ip)).is_ok());
    let list = within!(host, network.list().await);
    assert_eq!(list, [at_b]);
}

#[test]
fn a_new_process_continues_where_the_old_one_was_killed() {
    if !is_root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let (host, _outside) = host_with_uplink();
    let (a, b, stray) = (Namespace::new(), Namespace::new(), Namespace::new());
    let network = open(&host, config(state.path()));
    let at_a = attach(&host, &network, &a, "a", vec![]).unwrap();
    attach(&host, &network, &stray, "stray", vec![]).unwrap();
    tcp_server(&a, 80, "a");
    drop(network);
    // Killed between laying a cable and writing it down.
    std::fs::remove_file(state.path().join("addresses/10.61.3.3")).unwrap();
    let network = open(&host, config(state.path()));
    assert!(!host.shell("ip -o link").contains("skiff0v3@"));
    assert_eq!(attach(&host, &network, &a, "a", vec![]).unwrap(), at_a);
    let at_b = attach(&host, &network, &b, "b", vec![]).unwrap();
    assert_ne!(at_b.ip, at_a.ip);
    assert_eq!(
        ask_tcp(&b, "10.61.3.2:80").unwrap(),
        format!("a {}", at_b.ip)
    );
}

#[test]
fn host_ports_lead_to_the_pod() {
    if !is_root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let (host, outside) = host_with_uplink();
    let (a, b) = (Namespace::new(), Namespace::new());
    outside.shell("ip route add 10.99.0.0/16 via 192.0.2.2");
    let network = open(&host, config(state.path()));
    let port = |protocol, host_ip: Option<&str>, host_port, container_port| PortMapping {
        protocol,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port,
        container_port,
    };
    let ports = vec![
        port(Protocol::Tcp, None, 8080, 80),
        port(Protocol::Udp, None, 5353, 53),
        port(Protocol::Tcp, Some("127.0.0.1"), 8081, 80),
        port(Protocol::Tcp, Some("192.0.2.2"), 8082, 80),
    ];
    attach(&host, &network, &a, "a", ports).unwrap();
    attach(&host, &network, &b, "b", vec![]).unwrap();
    tcp_server(&a, 80, "a");
    udp_server(&a, 53, "a");
    tcp_server(&host, 9000, "host");

    assert_eq!(ask_tcp(&outside, "192.0.2.2:8080").unwrap(), "a 192.0.2.1");
    assert_eq!(
        ask_udp(&outside, 0, "192.0.2.2:5353").unwrap(),
        "a 192.0.2.1"
    );
    assert_eq!(ask_tcp(&outside, "192.0.2.2:8082").unwrap(), "a 192.0.2.1");
    assert!(ask_tcp(&outside, "192.0.2.2:8081").is_err());
    assert_eq!(ask_tcp(&host, "127.0.0.1:8080").unwrap(), "a 192.0.2.2");
    assert_eq!(ask_tcp(&host, "127.0.0.1:8081").unwrap(), "a 192.0.2.2");
    assert_eq!(ask_tcp(&b, "192.0.2.2:8080").unwrap(), "a 10.61.3.3");
    assert_eq!(ask_tcp(&b, "10.61.3.1:8080").unwrap(), "a 10.61.3.3");
    // To itself: it must see the node, or the answer would not come back.
    assert_eq!(ask_tcp(&a, "192.0.2.2:8080").unwrap(), "a 192.0.2.2");
    // Pods do not get at what listens on the host's loopback address only, however hard they try.
    within!(host, {
        let listener = std::net::TcpListener::bind("127.0.0.1:9001").unwrap();
        std::thread::spawn(move || listener.accept().map(drop));
    });
    a.shell(
        "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; ip addr del 127.0.0.1/8 dev lo; \
         ip route add 127.0.0.1/32 via 10.61.3.1 src 10.61.3.2",
    );
    assert_eq!(
        ask_tcp(&a, "127.0.0.1:9001").unwrap_err(),
        std::io::ErrorKind::TimedOut
    );

    let taken = attach(
        &host,
        &network,
        &b,
        "c",
        vec![port(Protocol::Tcp, None, 8082, 1)],
    );
    assert!(matches!(taken, Err(PodNetworkError::PortTaken { .. })));
    detach(&host, &network, "a");
    assert!(ask_tcp(&outside, "192.0.2.2:8080").is_err());
}

#[test]
fn nothing_is_left_after_removal() {
    if !is_root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let (host, _outside) = host_with_uplink();
    let before = host.shell("ip -o addr; ip route show table all; ip neigh; nft list ruleset");
    let pods: Vec<Namespace> = (0..5).map(|_| Namespace::new()).collect();
    let network = open(&host, config(state.path()));
    for (n, pod) in pods.iter().enumerate() {
        attach(&host, &network, pod, &format!("pod-{n}"), vec![]).unwrap();
    }
    within!(host, {
        let dns = Ipv4Addr::new(10, 62, 0, 10);
        hold_address("skiff0", dns).await.unwrap();
        hold_address("skiff0", dns).await.unwrap();
        std::net::UdpSocket::bind((dns, 53)).unwrap();
        release_address("skiff0", dns).await.unwrap();
        release_address("skiff0", dns).await.unwrap();
        std::net::UdpSocket::bind((dns, 53)).unwrap_err();
        hold_address("skiff0", dns).await.unwrap();
    });
    let remover = network.clone();
    within!(host, {
        remover.remove_all().await.unwrap();
        remover.remove_all().await.unwrap();
    });
    let look = "ip -o addr; ip route show table all; ip neigh; nft list ruleset";
    assert_eq!(before, host.shell(look));
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
    // The same without the object that made it, as after a crash; and with nothing there.
    let network = open(&host, config(state.path()));
    attach(&host, &network, &pods[0], "pod-0", vec![]).unwrap();
    drop(network);
    for _ in 0..2 {
        let config = config(state.path());
        within!(host, PodNetwork::remove(&config).await.unwrap());
    }
    assert_eq!(before, host.shell(look));
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
}

#[test]
fn a_host_that_drops_what_it_forwards_is_found_and_the_remedy_helps() {
    if !is_root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let (host, outside) = host_with_uplink();
    // A careful administrator's default for new interfaces.
    host.shell("sysctl -qw net.ipv4.conf.default.forwarding=0; sysctl -qw net.ipv4.conf.default.rp_filter=1");
    let (a, b) = (Namespace::new(), Namespace::new());
    let network = open(&host, config(state.path()));
    attach(&host, &network, &a, "a", vec![]).unwrap();
    attach(&host, &network, &b, "b", vec![]).unwrap();
    tcp_server(&b, 80, "b");
    tcp_server(&outside, 8002, "outside");
    let found = || {
        let range = "10.61.0.0/16".parse().unwrap();
        within!(host, skiff_network::obstacles::dropping_chains(range).await)
    };
    assert_eq!(ask_tcp(&a, "10.61.3.3:80").unwrap(), "b 10.61.3.2");
    assert_eq!(found(), []);
    for table in ["ip filter", "inet wall"] {
        host.shell(&format!(
            "nft add table {table}; \
             nft add chain {table} FORWARD '{{ type filter hook forward priority 0; policy drop; }}'; \
             nft add rule {table} FORWARD ip saddr 10.0.0.0/16 accept"
        ));
        ask_tcp(&a, "10.61.3.3:80").unwrap_err();
        let chains = found();
        assert_eq!(chains.len(), 1);
        assert_eq!(chains[0].to_string(), format!("{table} FORWARD"));
        let remedy = chains[0].remedy("10.61.0.0/16".parse().unwrap());
        // iptables-nft would make the same of its own command.
        let remedy = remedy
            .replace(
                "iptables -I FORWARD -s",
                "nft insert rule ip filter FORWARD ip saddr",
            )
            .replace(
                "iptables -I FORWARD -d",
                "nft insert rule ip filter FORWARD ip daddr",
            )
            .replace("-j ACCEPT", "accept");
        host.shell(&remedy);
        assert_eq!(ask_tcp(&a, "10.61.3.3:80").unwrap(), "b 10.61.3.2");
        assert_eq!(ask_tcp(&a, "192.0.2.1:8002").unwrap(), "outside 192.0.2.2");
        assert_eq!(found(), []);
    }
}

#[test]
fn another_range_takes_the_route_of_the_old_one_away() {
    if !is_root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let (host, _outside) = host_with_uplink();
    drop(open(&host, config(state.path())));
    assert!(host.shell("ip route").contains("unreachable 10.61.3.0/24"));
    let mut other = config(state.path());
    other.cidr = "10.61.4.0/24".parse().unwrap();
    let network = open(&host, other);
    let routes = host.shell("ip route");
    assert!(!routes.contains("10.61.3.0/24"), "{routes}");
    assert!(routes.contains("unreachable 10.61.4.0/24"), "{routes}");
    assert_eq!(
        PodNetwork::range_in(state.path()).unwrap().to_string(),
        "10.61.4.0/24"
    );
    within!(host, network.remove_all().await.unwrap());
    assert!(!host.shell("ip route").contains("10.61."));
}

#[test]
fn two_clusters_live_side_by_side() {
    if !is_root() {
        return;
    }
    let (one_state, two_state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (host, _outside) = host_with_uplink();
    let (a, b) = (Namespace::new(), Namespace::new());
    let one = open(&host, config(one_state.path()));
    let other = PodNetworkConfig {
        bridge: "skiff1".into(),
        cidr: "10.71.0.0/24".parse().unwrap(),
        cluster_cidr: "10.71.0.0/16".parse().unwrap(),
        service_cidr: Some("10.72.0.0/16".parse().unwrap()),
        table_name: "skiff1-pods".into(),
        ..config(two_state.path())
    };
    let two = open(&host, other);
    attach(&host, &one, &a, "a", vec![]).unwrap();
    attach(&host, &two, &b, "b", vec![]).unwrap();
    tcp_server(&a, 80, "a");
    tcp_server(&b, 80, "b");
    assert_eq!(ask_tcp(&host, "10.61.3.2:80").unwrap(), "a 192.0.2.2");
    assert_eq!(ask_tcp(&host, "10.71.0.2:80").unwrap(), "b 192.0.2.2");
    within!(host, one.remove_all().await.unwrap());
    assert_eq!(ask_tcp(&host, "10.71.0.2:80").unwrap(), "b 192.0.2.2");
}

#[test]
fn many_pods_come_and_go_and_leave_nothing() {
    if !is_root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let (host, _outside) = host_with_uplink();
    let network = open(&host, config(state.path()));
    let look = "ip -o link; ip route show table all; ip neigh; nft list ruleset";
    let before = host.shell(look);
    let pods: Vec<Namespace> = (0..60).map(|_| Namespace::new()).collect();
    for round in 0..3 {
        let started = std::time::Instant::now();
        let mut seen = std::collections::BTreeSet::new();
        for (n, pod) in pods.iter().enumerate() {
            let ports = vec![PortMapping {
                protocol: Protocol::Tcp,
                host_ip: None,
                host_port: 20_000 + n as u16,
                container_port: 80,
            }];
            let at = attach(&host, &network, pod, &format!("pod-{round}-{n}"), ports).unwrap();
            assert!(seen.insert(at.ip), "{} was handed out twice", at.ip);
        }
        let attached = started.elapsed();
        for n in 0..pods.len() {
            let (network, id) = (network.clone(), format!("pod-{round}-{n}"));
            within!(host, network.detach(&id).await.unwrap());
        }
        let each = |all: std::time::Duration| all / pods.len() as u32;
        let detached = started.elapsed() - attached;
        eprintln!(
            "a pod: attach {:?}, detach {:?}",
            each(attached),
            each(detached)
        );
    }
    assert_eq!(before, host.shell(look));
    let left = std::fs::read_dir(state.path().join("addresses")).unwrap();
    assert_eq!(left.count(), 0);
}
