//! Cluster DNS over real sockets on the loopback address: UDP, TCP, truncation, forwarding, refusals.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata::A};
use parking_lot::RwLock;
use skiff_base::{Random, Shutdown, SystemClock};
use skiff_network::dns::{
    DnsEndpoint, DnsServer, DnsServerConfig, DnsService, DnsSlice, Records, Resolvers, ServiceKind,
};
use skiff_network::pod::Protocol;
use skiff_network::proxy::{ServiceId, SlicePort};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

struct World {
    server: SocketAddr,
    records: Arc<RwLock<Records>>,
    shutdown: Shutdown,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

async fn world(resolvers: Vec<SocketAddr>) -> World {
    let mut records = Records::new("cluster.local", Ipv4Addr::LOCALHOST.into());
    records.set_namespace("default", true);
    let service = |kind| DnsService {
        kind,
        ports: vec![SlicePort {
            name: "https".into(),
            protocol: Protocol::Tcp,
            port: 443,
        }],
    };
    let api = ServiceKind::Cluster(vec![IpAddr::from([10, 96, 0, 1])]);
    records.set_service(&ServiceId::new("default", "kubernetes"), Some(service(api)));
    let big = ServiceId::new("default", "big");
    records.set_service(&big, Some(service(ServiceKind::Headless)));
    let slice = DnsSlice {
        ports: vec![],
        endpoints: (0..200)
            .map(|n| DnsEndpoint {
                ip: [10, 244, 1, n].into(),
                hostname: None,
            })
            .collect(),
    };
    records.set_slice(&big, "big-1", Some(slice));
    for (name, target) in [
        ("outside", "www.example.org"),
        ("inside", "kubernetes.default.svc.cluster.local"),
        ("circle", "circle.default.svc.cluster.local"),
    ] {
        let kind = ServiceKind::External(target.into());
        records.set_service(&ServiceId::new("default", name), Some(service(kind)));
    }
    let records = Arc::new(RwLock::new(records));
    let config = DnsServerConfig {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        resolvers: Resolvers::Fixed(resolvers),
    };
    let clock = SystemClock::shared();
    let server = DnsServer::bind(config, records.clone(), clock, Random::seeded(1))
        .await
        .unwrap();
    let address = server.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    tokio::spawn(async move { server.run(stop).await.unwrap() });
    World {
        server: address,
        records,
        shutdown,
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn exchange(server: SocketAddr, packet: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(packet, server).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let received = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer));
    let length = received.await.expect("an answer").unwrap();
    let message = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(message.metadata.message_type, MessageType::Response);
    message
}

async fn udp(server: SocketAddr, message: &Message) -> Message {
    exchange(server, &message.to_vec().unwrap()).await
}

async fn tcp(stream: &mut TcpStream, message: &Message) -> Message {
    let packet = message.to_vec().unwrap();
    stream.write_u16(packet.len() as u16).await.unwrap();
    stream.write_all(&packet).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await.unwrap();
    Message::from_vec(&buffer).unwrap()
}

fn addresses(message: &Message) -> Vec<String> {
    let data = message.answers.iter().map(|record| &record.data);
    data.filter_map(|data| match data {
        RData::A(A(ip)) => Some(ip.to_string()),
        _ => None,
    })
    .collect()
}

/// A resolver that knows every name and counts its questions.
async fn resolver(ip: [u8; 4]) -> (SocketAddr, Arc<RwLock<Vec<String>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let seen = Arc::new(RwLock::new(Vec::new()));
    let log = seen.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let name = question.queries[0].name().clone();
            log.write().push(name.to_ascii());
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.add_query(question.queries[0].clone());
            answer.add_answer(Record::from_rdata(name, 60, RData::A(A(ip.into()))));
            // A forged answer first: it must be ignored.
            let mut forged = answer.clone();
            forged.metadata.id = question.metadata.id.wrapping_add(1);
            socket
                .send_to(&forged.to_vec().unwrap(), client)
                .await
                .unwrap();
            socket
                .send_to(&answer.to_vec().unwrap(), client)
                .await
                .unwrap();
        }
    });
    (address, seen)
}

#[tokio::test]
async fn services_are_answered_over_udp_and_tcp() {
    let world = world(vec![]).await;
    let question = query("Kubernetes.default.SVC.cluster.local.", RecordType::A);
    let answer = udp(world.server, &question).await;
    assert_eq!(answer.metadata.id, 4711);
    assert!(answer.metadata.authoritative);
    assert!(answer.metadata.recursion_available);
    assert_eq!(addresses(&answer), ["10.96.0.1"]);
    assert_eq!(answer.answers[0].ttl, 5);
    // The name comes back as the client wrote it.
    assert!(answer.queries[0].name().eq_case(question.queries[0].name()));
    let mut stream = TcpStream::connect(world.server).await.unwrap();
    for _ in 0..3 {
        assert_eq!(addresses(&tcp(&mut stream, &question).await), ["10.96.0.1"]);
    }
    // What the records say changes at once.
    let api = ServiceId::new("default", "kubernetes");
    world.records.write().set_service(&api, None);
    let answer = udp(world.server, &question).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    let RData::SOA(soa) = &answer.authorities[0].data else {
        panic!("{answer:?}");
    };
    assert_eq!((soa.minimum, answer.authorities[0].ttl), (5, 5));
    let other = query("default.svc.cluster.local.", RecordType::AAAA);
    let answer = udp(world.server, &other).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.answers.is_empty() && answer.authorities.len() == 1);
}

#[tokio::test]
async fn large_answers_are_cut_over_udp_and_whole_over_tcp() {
    let world = world(vec![]).await;
    let mut question = query("big.default.svc.cluster.local.", RecordType::A);
    let cut = udp(world.server, &question).await;
    assert!(cut.metadata.truncation);
    assert!(cut.to_vec().unwrap().len() <= 512);
    assert!(cut.answers.len() > 20, "{}", cut.answers.len());
    assert!(cut.edns.is_none());
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    question.edns = Some(edns);
    let more = udp(world.server, &question).await;
    assert!(more.edns.is_some());
    assert!(
        more.answers.len() > 2 * cut.answers.len(),
        "{}",
        more.answers.len()
    );
    let mut stream = TcpStream::connect(world.server).await.unwrap();
    question.edns = None;
    let whole = tcp(&mut stream, &question).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 200);
    let again = tcp(&mut stream, &question).await;
    assert_ne!(addresses(&whole), addresses(&again), "the order changes");
}

#[tokio::test]
async fn other_names_go_to_the_hosts_resolvers() {
    // The first one is dead: nobody listens there.
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dead_address = dead.local_addr().unwrap();
    drop(dead);
    let (live, seen) = resolver([192, 0, 2, 80]).await;
    let world = world(vec![dead_address, live]).await;
    let answer = udp(world.server, &query("www.example.org.", RecordType::A)).await;
    assert_eq!(answer.metadata.id, 4711);
    assert_eq!(addresses(&answer), ["192.0.2.80"]);
    // An alias to the outside: the alias, and what is behind it.
    let alias = query("outside.default.svc.cluster.local.", RecordType::A);
    let answer = udp(world.server, &alias).await;
    assert_eq!(answer.answers.len(), 2);
    assert_eq!(addresses(&answer), ["192.0.2.80"]);
    assert_eq!(*seen.read(), ["www.example.org.", "www.example.org."]);
    // An alias to the inside is followed here; one in a circle ends.
    let alias = query("inside.default.svc.cluster.local.", RecordType::A);
    assert_eq!(addresses(&udp(world.server, &alias).await), ["10.96.0.1"]);
    let alias = query("circle.default.svc.cluster.local.", RecordType::A);
    assert!(addresses(&udp(world.server, &alias).await).is_empty());
    // The cluster's names are never asked outside.
    let missing = query("x.y.svc.cluster.local.", RecordType::A);
    let answer = udp(world.server, &missing).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(seen.read().len(), 2);
}

#[tokio::test]
async fn without_resolvers_other_names_fail_at_once() {
    let world = world(vec![]).await;
    let answer = udp(world.server, &query("www.example.org.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn what_is_no_proper_question_is_refused() {
    let world = world(vec![]).await;
    let mut update = query("example.org.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    let mut none = query("example.org.", RecordType::A);
    none.queries.clear();
    let mut two = query("example.org.", RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::NS));
    for (message, code) in [
        (update, ResponseCode::NotImp),
        (none, ResponseCode::FormErr),
        (two, ResponseCode::FormErr),
    ] {
        let answer = udp(world.server, &message).await;
        assert_eq!(
            (answer.metadata.id, answer.metadata.response_code),
            (4711, code)
        );
    }
    let mut torn = query("example.org.", RecordType::A).to_vec().unwrap();
    torn.truncate(15);
    let answer = exchange(world.server, &torn).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    // Silence for what is too short or an answer itself; the server lives on.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let reply = Message::response(1, OpCode::Query).to_vec().unwrap();
    for packet in [&b""[..], b"abc", &reply] {
        socket.send_to(packet, world.server).await.unwrap();
    }
    let question = query("kubernetes.default.svc.cluster.local.", RecordType::A);
    assert_eq!(
        addresses(&udp(world.server, &question).await),
        ["10.96.0.1"]
    );
    let mut buffer = [0; 16];
    assert!(socket.try_recv(&mut buffer).is_err());
}
