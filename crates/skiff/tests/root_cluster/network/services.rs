//! Services of every type, from pods, the host and outside, while their endpoints come and go.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::cluster::eventually;

use super::World;
use super::places::Place;

const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: tcp}
  - {name: more, port: 81, targetPort: 8080}
  - {name: dns, port: 53, protocol: UDP, targetPort: udp}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  selector: {app: web}
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}
  ports: [{port: 80, targetPort: tcp}]
---
apiVersion: v1
kind: Service
metadata: {name: own}
spec: {selector: {name: a}, ports: [{name: t, port: 80, targetPort: 9001}, {name: u, port: 80, protocol: UDP, targetPort: 9002}]}
---
apiVersion: v1
kind: Service
metadata: {name: early}
spec: {selector: {name: a}, publishNotReadyAddresses: true, ports: [{port: 80, targetPort: 9001}]}
---
apiVersion: v1
kind: Service
metadata: {name: open}
spec:
  type: NodePort
  selector: {app: web}
  externalIPs: [EXTERNAL]
  ports: [{name: t, port: 80, targetPort: tcp}, {name: u, port: 80, protocol: UDP, targetPort: udp}]
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec: {type: NodePort, externalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80, targetPort: tcp}]}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec:
  type: LoadBalancer
  loadBalancerSourceRanges: [OUTSIDE/32]
  selector: {app: web}
  ports: [{port: 80, targetPort: tcp}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  type: NodePort
  selector: {app: nobody}
  ports: [{name: t, port: 80}, {name: u, port: 80, protocol: UDP}]
"#;

pub fn all(world: &World) {
    let number = world.cluster.number();
    let external = Ipv4Addr::new(203, 0, 113, number);
    let manifest = SERVICES.replace("EXTERNAL", &external.to_string());
    let manifest = manifest.replace("OUTSIDE", &world.outside.address.to_string());
    world.cluster.apply(&manifest);
    eventually("the services' endpoints", || {
        let all = "{range .items[*]}{.metadata.name}={.endpoints[*].conditions.ready} {end}";
        world.read("endpointslices", all).matches("true").count() >= 12
    });
    cluster_addresses(world);
    affinity(world);
    from_outside(world, external);
    load_balancer(world);
    without_endpoints(world);
    endpoints_follow_readiness(world);
    changes(world);
    machine_as_an_endpoint(world);
    rules_that_somebody_removes(world);
}

impl World {
    fn cluster_ip(&self, service: &str) -> String {
        self.read(&format!("service/{service}"), "{.spec.clusterIP}")
    }

    fn node_port(&self, service: &str, port: usize) -> String {
        let path = format!("{{.spec.ports[{port}].nodePort}}");
        self.read(&format!("service/{service}"), &path)
    }
}

/// Who answers when asked many times; fails when anyone does not.
fn who(ask: impl Fn() -> Result<String, ErrorKind>) -> BTreeSet<String> {
    let answers = (0..40).map(|_| ask().expect("an answer"));
    answers
        .map(|answer| answer.split(' ').next().unwrap().to_owned())
        .collect()
}

fn both() -> BTreeSet<String> {
    ["a", "b"].map(str::to_owned).into()
}

fn cluster_addresses(world: &World) {
    let web = world.cluster_ip("web");
    let (tcp, udp) = (format!("{web}:80"), format!("{web}:53"));
    // The port's name leads to another number in each pod.
    eventually("both pods behind the service", || {
        who(|| world.c.tcp(&tcp)) == both()
    });
    assert_eq!(who(|| world.c.udp(&udp)), both());
    assert_eq!(who(|| world.host.tcp(&tcp)), both());
    assert_eq!(who(|| world.host.udp(&udp)), both());
    assert_eq!(who(|| world.a.tcp(&tcp)), both());
    let page = world.exec(
        "tool",
        &["wget", "-qO-", &format!("http://{web}:81/hostname")],
    );
    assert!(["first", "b"].contains(&page.trim()), "{page}");
    // The pod is told who asks.
    let own = world.cluster_ip("own");
    let c = world.ip("c");
    assert_eq!(world.c.tcp(&format!("{own}:80")), Ok(format!("a {c}")));
    assert_eq!(world.c.udp(&format!("{own}:80")), Ok(format!("a {c}")));
    // A pod that reaches itself through its service sees somebody else.
    for answer in [
        world.a.tcp(&format!("{own}:80")),
        world.a.udp(&format!("{own}:80")),
    ] {
        let answer = answer.unwrap();
        assert!(answer.starts_with("a ") && !answer.ends_with(&world.ip("a")));
    }
    // A service's address answers on its ports only, and at once.
    let started = Instant::now();
    assert!(world.c.tcp(&format!("{web}:82")).is_err());
    assert!(started.elapsed() < Duration::from_secs(1));
}

fn affinity(world: &World) {
    let sticky = format!("{}:80", world.cluster_ip("sticky"));
    for place in [&world.c, &world.host] {
        assert_eq!(who(|| place.tcp(&sticky)).len(), 1);
    }
    // A client that was away for longer than the timeout may find another pod.
    let first = world.c.tcp(&sticky).unwrap();
    eventually("the end of a session", || {
        std::thread::sleep(Duration::from_millis(1500));
        world.c.tcp(&sticky).unwrap() != first
    });
}

fn from_outside(world: &World, external: Ipv4Addr) {
    let outside = &world.outside;
    let node = world.read("nodes", "{.items[0].status.addresses[0].address}");
    let (tcp, udp) = (world.node_port("open", 0), world.node_port("open", 1));
    let asked = |place: &Place, address: &str| {
        assert_eq!(who(|| place.tcp(&format!("{address}:{tcp}"))), both());
        assert_eq!(who(|| place.udp(&format!("{address}:{udp}"))), both());
    };
    asked(&world.host, &node);
    asked(&world.c, &node);
    asked(&outside.place, &outside.node.to_string());
    // Node ports do not answer on 127.0.0.1.
    assert!(world.host.tcp(&format!("127.0.0.1:{tcp}")).is_err());
    // Whoever comes from outside looks like the node: the answer must come back through it.
    let at_node = |port: &str| format!("{}:{port}", outside.node);
    let seen = outside.place.tcp(&at_node(&tcp)).unwrap();
    assert!(!seen.ends_with(&outside.address.to_string()), "{seen}");
    let near = world.node_port("near", 0);
    let seen = outside.place.tcp(&at_node(&near)).unwrap();
    assert!(seen.ends_with(&format!(" {}", outside.address)), "{seen}");
    assert_eq!(who(|| world.c.tcp(&format!("{node}:{near}"))), both());
    outside.route(external);
    let external = format!("{external}:80");
    for place in [&outside.place, &world.host, &world.c] {
        assert_eq!(who(|| place.tcp(&external)), both());
        assert_eq!(who(|| place.udp(&external)), both());
    }
    let service = world.cluster_ip("web").parse().unwrap();
    // A service's own address works from outside too for whoever has a way to it.
    outside.route(service);
    assert_eq!(who(|| outside.place.tcp(&format!("{service}:80"))), both());
}

fn load_balancer(world: &World) {
    let balancer = Ipv4Addr::new(203, 0, 112, world.cluster.number());
    let status =
        format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"{balancer}"}}]}}}}}}"#);
    world.cluster.ask(&[
        "patch",
        "service",
        "balanced",
        "--subresource=status",
        "--type=merge",
        "-p",
        &status,
    ]);
    world.outside.route(balancer);
    let address = format!("{balancer}:80");
    eventually("the balancer's address", || {
        world.outside.place.tcp(&address).is_ok()
    });
    assert_eq!(who(|| world.outside.place.tcp(&address)), both());
    // Not in the ranges that may.
    assert!(world.c.tcp(&address).is_err());
}

fn without_endpoints(world: &World) {
    let address = format!("{}:80", world.cluster_ip("nobody"));
    let node = format!("{}:{}", world.outside.node, world.node_port("nobody", 0));
    let started = Instant::now();
    for refusal in [
        world.c.tcp(&address),
        world.c.udp(&address),
        world.host.tcp(&address),
        world.outside.place.tcp(&node),
        world.host.tcp(&node),
    ] {
        assert_eq!(refusal, Err(ErrorKind::ConnectionRefused));
    }
    // The kernel tells a sender on the same machine in its own way.
    let refusal = world.host.udp(&address).unwrap_err();
    assert!(
        [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied].contains(&refusal),
        "{refusal}"
    );
    let took = started.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

fn endpoints_follow_readiness(world: &World) {
    let web = world.cluster_ip("web");
    let (tcp, udp) = (format!("{web}:80"), format!("{web}:53"));
    let early = format!("{}:80", world.cluster_ip("early"));
    let own = format!("{}:80", world.cluster_ip("own"));
    let only = |name: &str| BTreeSet::from([name.to_owned()]);
    // A flow that keeps its port stays with its pod.
    let flow = |port| {
        world
            .c
            .udp_from(port, &udp)
            .map(|answer| answer[..1].to_owned())
    };
    let port = (40_000..40_100)
        .find(|port| flow(*port) == Ok("a".into()))
        .expect("a flow to pod a");
    assert_eq!(flow(port), Ok("a".into()));
    world.tell("a", "fail");
    eventually("pod a out of the service", || {
        who(|| world.c.tcp(&tcp)) == only("b")
    });
    assert_eq!(who(|| world.c.udp(&udp)), only("b"));
    assert_eq!(flow(port), Ok("b".into()), "the flow has moved");
    assert_eq!(world.c.tcp(&own), Err(ErrorKind::ConnectionRefused));
    assert_eq!(who(|| world.c.tcp(&early)), only("a"));
    world.tell("a", "recover");
    eventually("pod a is back", || world.c.tcp(&own).is_ok());
    eventually("both pods", || who(|| world.c.tcp(&tcp)) == both());
}

/// What users change of a service.
fn changes(world: &World) {
    let own = world.cluster_ip("own");
    let patch = |patch: &str| {
        world
            .cluster
            .ask(&["patch", "service", "own", "--type=merge", "-p", patch])
    };
    patch(r#"{"spec":{"ports":[{"port":90,"targetPort":9001}]}}"#);
    eventually("the new port", || world.c.tcp(&format!("{own}:90")).is_ok());
    assert!(world.c.tcp(&format!("{own}:80")).is_err());
    patch(r#"{"spec":{"selector":{"name":"b"},"ports":[{"port":90,"targetPort":9011}]}}"#);
    eventually("the other pod", || {
        world
            .c
            .tcp(&format!("{own}:90"))
            .is_ok_and(|answer| answer.starts_with('b'))
    });
    world.cluster.ask(&["delete", "service", "own"]);
    eventually("no service", || world.c.tcp(&format!("{own}:90")).is_err());
}

const MACHINE: &str = "
apiVersion: v1
kind: Service
metadata: {name: machine}
spec: {ports: [{name: t, port: 80}, {name: u, port: 80, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: machine-1, labels: {kubernetes.io/service-name: machine}}
addressType: IPv4
ports: [{name: t, port: PORT}, {name: u, port: PORT, protocol: UDP}]
endpoints: [{addresses: [ADDRESS]}]
";

/// What runs in the machine's own network is served too; over UDP the answer must come from the address that was asked.
fn machine_as_an_endpoint(world: &World) {
    let port = 24_100 + u16::from(world.cluster.number());
    world.host.serve_tcp(port, "machine");
    world.host.serve_udp(port, "machine");
    let node = world.read("nodes", "{.items[0].status.addresses[0].address}");
    let manifest = MACHINE.replace("PORT", &port.to_string());
    world.cluster.apply(&manifest.replace("ADDRESS", &node));
    let address = format!("{}:80", world.cluster_ip("machine"));
    let expected = Ok(format!("machine {}", world.ip("c")));
    eventually("the machine's service", || {
        world.c.tcp(&address) == expected
    });
    assert_eq!(world.c.udp(&address), expected);
}

/// As a reload of the host's firewall does, which flushes everything.
fn rules_that_somebody_removes(world: &World) {
    let web = format!("{}:80", world.cluster_ip("web"));
    let there = format!("{}:9000", world.outside.address);
    let name = world.cluster.name().to_owned();
    world.host.run_async(async move {
        let connection = nlink::Connection::<nlink::netlink::Nftables>::new().unwrap();
        for table in [name.clone(), format!("{name}-pods")] {
            let family = nlink::netlink::nftables::Family::Ip;
            connection.del_table(&*table, family).await.unwrap();
        }
    });
    eventually("the service's rules", || world.c.tcp(&web).is_ok());
    let seen = Ok(format!("outside {}", world.outside.node));
    eventually("the pods' way out", || world.c.tcp(&there) == seen);
}
