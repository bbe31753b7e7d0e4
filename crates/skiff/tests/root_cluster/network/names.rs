//! Names: what cluster DNS answers, and what pods' resolvers are told.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::str::FromStr as _;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::cluster::eventually;
use crate::image::BUSYBOX;

use super::World;
use super::places::Place;

/// What the resolver outside says of every name that ends so.
const OUTSIDE_NAME: &str = "host.example.";
const OUTSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 250);

const MANIFEST: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: set}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: page, port: 8080, targetPort: page}]}
---
apiVersion: v1
kind: Service
metadata: {name: set-early}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: web}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: host.example}
---
apiVersion: v1
kind: Namespace
metadata: {name: other}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: other}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: many}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: many-1, labels: {kubernetes.io/service-name: many}}
addressType: IPv4
ports: [{port: 80}]
endpoints: ENDPOINTS
"#;

pub fn all(world: &World) {
    resolver(&world.outside.place);
    let endpoints: Vec<String> = (1..=100)
        .map(|n| format!("{{addresses: [10.99.0.{n}]}}"))
        .collect();
    let endpoints = format!("[{}]", endpoints.join(", "));
    world
        .cluster
        .apply(&MANIFEST.replace("ENDPOINTS", &endpoints));
    eventually("the headless service's names", || {
        world.addresses("set.default.svc.cluster.local.").len() == 2
            && world
                .addresses("set-early.default.svc.cluster.local.")
                .len()
                == 2
    });
    services(world);
    headless(world);
    outside(world);
    large(world);
    policies(world);
    from_a_container(world);
}

/// A resolver that knows one name.
fn resolver(place: &Place) {
    fn answer(packet: &[u8]) -> Vec<u8> {
        let question = Message::from_vec(packet).unwrap();
        let query = question.queries[0].clone();
        let mut answer = Message::query();
        answer.metadata.id = question.metadata.id;
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.recursion_available = true;
        let known = query.name() == &Name::from_str(OUTSIDE_NAME).unwrap();
        if known && query.query_type() == RecordType::A {
            let data = RData::A(A(OUTSIDE_ADDRESS));
            answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
        } else if !known {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        answer.add_query(query);
        answer.to_vec().unwrap()
    }
    let (udp, tcp) = place.run(|| {
        let any = (Ipv4Addr::UNSPECIFIED, 53);
        (
            UdpSocket::bind(any).unwrap(),
            TcpListener::bind(any).unwrap(),
        )
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&answer(&buffer[..length]), peer);
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            if let Some(question) = read_framed(&mut stream) {
                write_framed(&mut stream, &answer(&question));
            }
        }
    });
}

fn read_framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut packet).ok()?;
    Some(packet)
}

fn write_framed(stream: &mut TcpStream, packet: &[u8]) {
    let length = u16::try_from(packet.len()).unwrap();
    let _ = stream.write_all(&[&length.to_be_bytes(), packet].concat());
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// The answers' data, a text each.
pub fn data(message: &Message) -> Vec<String> {
    let answers = message.answers.iter().map(|record| &record.data);
    answers.map(ToString::to_string).collect()
}

impl Place {
    /// What a DNS server answers over UDP.
    pub fn ask_dns(&self, server: SocketAddr, name: &str, kind: RecordType) -> Message {
        let packet = question(name, kind);
        self.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            socket.connect(server).unwrap();
            socket.send(&packet).unwrap();
            let mut buffer = [0; 4096];
            let length = socket.recv(&mut buffer).expect("an answer");
            Message::from_vec(&buffer[..length]).unwrap()
        })
    }
}

impl World {
    fn dns(&self) -> SocketAddr {
        let services = self.read("service/kubernetes", "{.spec.clusterIP}");
        let first: Ipv4Addr = services.parse().unwrap();
        (Ipv4Addr::from(u32::from(first) + 9), 53).into()
    }

    /// The cluster DNS's answer to a pod, over UDP.
    fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.c.ask_dns(self.dns(), name, kind)
    }

    /// The same over TCP.
    fn ask_tcp(&self, name: &str, kind: RecordType) -> Message {
        let (packet, server) = (question(name, kind), self.dns());
        self.c.run(|| {
            let mut stream = TcpStream::connect(server).unwrap();
            write_framed(&mut stream, &packet);
            Message::from_vec(&read_framed(&mut stream).expect("an answer")).unwrap()
        })
    }

    fn addresses(&self, name: &str) -> BTreeSet<String> {
        data(&self.ask(name, RecordType::A)).into_iter().collect()
    }

    fn no_such_name(&self, name: &str) {
        let answer = self.ask(name, RecordType::A);
        let code = answer.metadata.response_code;
        assert_eq!(code, ResponseCode::NXDomain, "{name}: {:?}", data(&answer));
    }
}

fn one(text: &str) -> BTreeSet<String> {
    BTreeSet::from([text.to_owned()])
}

fn reverse(ip: &str) -> String {
    let mut parts: Vec<&str> = ip.split('.').collect();
    parts.reverse();
    format!("{}.in-addr.arpa.", parts.join("."))
}

fn services(world: &World) {
    let ip = world.read("service/web", "{.spec.clusterIP}");
    let other = world.cluster.ask(&[
        "get",
        "service",
        "web",
        "-n",
        "other",
        "-o",
        "jsonpath={.spec.clusterIP}",
    ]);
    assert_eq!(world.addresses("web.default.svc.cluster.local."), one(&ip));
    assert_eq!(world.addresses("WEB.Default.svc.cluster.local."), one(&ip));
    assert_eq!(world.addresses("web.other.svc.cluster.local."), one(&other));
    let answer = world.ask("web.default.svc.cluster.local.", RecordType::AAAA);
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.answers.is_empty() && answer.metadata.authoritative);
    let served = world.ask("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV);
    assert_eq!(data(&served), ["0 100 80 web.default.svc.cluster.local."]);
    let served = world.ask("_dns._udp.web.default.svc.cluster.local.", RecordType::SRV);
    assert_eq!(data(&served), ["0 100 53 web.default.svc.cluster.local."]);
    assert_eq!(
        data(&world.ask(&reverse(&ip), RecordType::PTR)),
        ["web.default.svc.cluster.local."]
    );
    for name in [
        "nosuch.default.svc.cluster.local.",
        "web.nosuch.svc.cluster.local.",
        "_http._udp.web.default.svc.cluster.local.",
        "x.web.default.svc.cluster.local.",
        "cluster.cluster.local.",
    ] {
        world.no_such_name(name);
    }
    // A service that goes takes its name along.
    world
        .cluster
        .ask(&["delete", "service", "web", "-n", "other"]);
    eventually("no name without its service", || {
        let answer = world.ask("web.other.svc.cluster.local.", RecordType::A);
        answer.metadata.response_code == ResponseCode::NXDomain
    });
}

fn headless(world: &World) {
    let (a, b) = (world.ip("a"), world.ip("b"));
    let all = BTreeSet::from([a.clone(), b.clone()]);
    let set = "set.default.svc.cluster.local.";
    assert_eq!(world.addresses(set), all);
    assert_eq!(world.addresses(&format!("first.{set}")), one(&a));
    let dashed = b.replace('.', "-");
    assert_eq!(world.addresses(&format!("{dashed}.{set}")), one(&b));
    assert_eq!(
        world.addresses(&format!("{dashed}.default.pod.cluster.local.")),
        one(&b)
    );
    let served = world.ask(&format!("_page._tcp.{set}"), RecordType::SRV);
    let found: BTreeSet<String> = data(&served).into_iter().collect();
    let wanted = ["first".to_owned(), dashed].map(|host| format!("0 50 8080 {host}.{set}"));
    assert_eq!(found, BTreeSet::from(wanted));
    let reached = data(&world.ask(&reverse(&a), RecordType::PTR));
    assert!(reached.contains(&format!("first.{set}")), "{reached:?}");
    world.no_such_name(&format!("second.{set}"));
    // Who is not ready has no name, unless the service says otherwise.
    world.tell("a", "fail");
    eventually("one address", || world.addresses(set) == one(&b));
    assert_eq!(world.addresses("set-early.default.svc.cluster.local."), all);
    world.tell("a", "recover");
    eventually("two addresses", || world.addresses(set) == all);
}

fn outside(world: &World) {
    let address = OUTSIDE_ADDRESS.to_string();
    assert_eq!(world.addresses(OUTSIDE_NAME), one(&address));
    assert_eq!(
        data(&world.ask_tcp(OUTSIDE_NAME, RecordType::A)),
        std::slice::from_ref(&address)
    );
    world.no_such_name("nosuch.example.");
    let alias = world.ask("elsewhere.default.svc.cluster.local.", RecordType::A);
    assert_eq!(data(&alias), [OUTSIDE_NAME.to_owned(), address]);
}

fn large(world: &World) {
    let name = "many.default.svc.cluster.local.";
    eventually("the many addresses", || {
        world.ask_tcp(name, RecordType::A).answers.len() == 100
    });
    let cut = world.ask(name, RecordType::A);
    assert!(cut.metadata.truncation && cut.answers.len() < 100);
}

const RESOLVERS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: plain}
spec: {dnsPolicy: Default, HEAD}
---
apiVersion: v1
kind: Pod
metadata: {name: more}
spec: {dnsConfig: {searches: [my.example], options: [{name: ndots, value: "2"}, {name: edns0}]}, HEAD}
---
apiVersion: v1
kind: Pod
metadata: {name: own}
spec: {dnsPolicy: None, dnsConfig: {nameservers: [198.51.100.9], searches: [my.example], options: [{name: ndots, value: "1"}]}, HEAD}
---
apiVersion: v1
kind: Pod
metadata: {name: machine}
spec: {hostNetwork: true, HEAD}
---
apiVersion: v1
kind: Pod
metadata: {name: both}
spec: {hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet, HEAD}
"#;

/// `/etc/resolv.conf` by DNS policy.
fn policies(world: &World) {
    let rest = "terminationGracePeriodSeconds: 0, containers: [{name: c, image: BUSYBOX, command: [sleep, '100000']}]";
    let rest = rest.replace("BUSYBOX", BUSYBOX);
    world.cluster.apply(&RESOLVERS.replace("HEAD", &rest));
    let ready = ["wait", "pod", "plain", "more", "own", "machine", "both"];
    let limits = ["--for=condition=Ready", "--timeout=60s"];
    world.cluster.ask(&[&ready[..], &limits].concat());
    let lines = |pod: &str| -> Vec<String> {
        let text = world.exec(pod, &["cat", "/etc/resolv.conf"]);
        text.lines().map(str::to_owned).collect()
    };
    let dns = world.dns().ip();
    let cluster = "default.svc.cluster.local svc.cluster.local cluster.local lab.example";
    let in_cluster = [
        format!("search {cluster}"),
        format!("nameserver {dns}"),
        "options ndots:5".to_owned(),
    ];
    let of_host = [
        "search lab.example".to_owned(),
        format!("nameserver {}", world.outside.address),
        "options timeout:1".to_owned(),
    ];
    assert_eq!(lines("tool"), in_cluster);
    assert_eq!(lines("both"), in_cluster);
    assert_eq!(lines("plain"), of_host);
    assert_eq!(lines("machine"), of_host);
    let more = [
        format!("search {cluster} my.example"),
        format!("nameserver {dns}"),
        "options ndots:2 edns0".to_owned(),
    ];
    assert_eq!(lines("more"), more);
    let own = [
        "search my.example",
        "nameserver 198.51.100.9",
        "options ndots:1",
    ];
    assert_eq!(lines("own"), own);
    // The host's resolver is reached with the host's address, also from a pod of its own network.
    let said = world.exec("plain", &["nslookup", OUTSIDE_NAME]);
    assert!(said.contains(&OUTSIDE_ADDRESS.to_string()), "{said}");
    let said = world.exec("both", &["nslookup", "web.default.svc.cluster.local"]);
    assert!(
        said.contains(&world.read("service/web", "{.spec.clusterIP}")),
        "{said}"
    );
}

/// As programs in containers look names up: short, longer, whole, outside.
fn from_a_container(world: &World) {
    for name in [
        "web",
        "web.default",
        "web.default.svc",
        "web.default.svc.cluster.local",
        "web.default.svc.cluster.local.",
    ] {
        let said = world.exec(
            "tool",
            &["wget", "-qO-", &format!("http://{name}:81/hostname")],
        );
        assert!(["first", "b"].contains(&said.trim()), "{name}: {said}");
    }
    let said = world.exec("tool", &["nslookup", "host.example"]);
    assert!(said.contains(&OUTSIDE_ADDRESS.to_string()), "{said}");
    let said = world.exec("tool", &["nslookup", "nosuch.default.svc.cluster.local"]);
    assert!(said.contains("NXDOMAIN"), "{said}");
    let said = world.exec("tool", &["wget", "-qO-", "http://nosuch:81/"]);
    assert!(said.contains("bad address 'nosuch:81'"), "{said}");
}
