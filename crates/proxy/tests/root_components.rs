//! Service proxy and cluster DNS as components: an API server of our own tells of services, a client in
//! the same network namespace uses them. Needs root; the namespace is the test's own.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType, rdata::A};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_base::{Component, Random, Shutdown, SystemClock};
use skiff_network::dns::Resolvers;
use skiff_network::pod::{PodNetwork, PodNetworkConfig};
use skiff_proxy::{DnsConfig, ProxyConfig, dns, service_proxy};
use tokio::sync::mpsc;

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const NAMESPACES: &str = "/api/v1/namespaces";
const DNS: Ipv4Addr = Ipv4Addr::new(10, 62, 0, 10);

/// Lists what it was given, then sends each watcher what changes.
#[derive(Default)]
struct Api {
    lists: HashMap<&'static str, Vec<Value>>,
    watchers: Mutex<HashMap<String, Vec<mpsc::UnboundedSender<String>>>>,
}

impl Api {
    fn client(self: &Arc<Self>) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let response = api.answer(&request);
            async move { Ok::<_, tower::BoxError>(response) }
        });
        Client::new(service, "default")
    }

    fn answer(
        &self,
        request: &Request<Body>,
    ) -> Response<impl http_body::Body<Data = Bytes, Error = Infallible> + Send + use<>> {
        let path = request.uri().path();
        let frame = |text: String| Ok::<_, Infallible>(Frame::data(Bytes::from(text)));
        let watch = request
            .uri()
            .query()
            .is_some_and(|q| q.contains("watch=true"));
        let body = if watch {
            let (sender, receiver) = mpsc::unbounded_channel();
            let mut watchers = self.watchers.lock();
            watchers.entry(path.to_owned()).or_default().push(sender);
            let lines = stream::unfold(receiver, |mut receiver| async {
                Some((receiver.recv().await?, receiver))
            });
            StreamBody::new(lines.map(frame).boxed())
        } else {
            let items = self.lists.get(path).cloned().unwrap_or_default();
            let list = json!({"metadata": {"resourceVersion": "1"}, "items": items});
            StreamBody::new(stream::iter([frame(list.to_string())]).boxed())
        };
        Response::new(body)
    }

    /// Waits for both components to watch, then tells them.
    async fn tell(&self, path: &str, count: usize, kind: &str, object: &Value) {
        until(|| {
            self.watchers
                .lock()
                .get(path)
                .is_some_and(|w| w.len() == count)
        })
        .await;
        for watcher in self.watchers.lock().get(path).into_iter().flatten() {
            let event = json!({"type": kind, "object": object});
            watcher.send(format!("{event}\n")).unwrap();
        }
    }
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, wait).await.expect("it happens");
}

fn service(name: &str, ip: &str, revision: &str) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": name, "uid": name, "resourceVersion": revision},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "https", "port": 443}]},
    })
}

fn slice(service: &str, ip: &str, port: u16, revision: &str) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": format!("{service}-1"), "resourceVersion": revision,
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [ip], "nodeName": "n1", "conditions": {"ready": true}}],
    })
}

async fn lookup(name: &str) -> Result<Ipv4Addr, ResponseCode> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await.unwrap();
    let packet = message.to_vec().unwrap();
    socket.send_to(&packet, (DNS, 53)).await.unwrap();
    let mut buffer = [0; 512];
    let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
    assert_eq!(from.ip(), IpAddr::V4(DNS));
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    match answer.answers.first().map(|record| &record.data) {
        Some(RData::A(A(ip))) => Ok(*ip),
        _ => Err(answer.metadata.response_code),
    }
}

async fn connect(address: &str) -> Result<SocketAddr, ErrorKind> {
    let stream = tokio::net::TcpStream::connect(address).await;
    let stream = stream.map_err(|error| error.kind())?;
    stream.peer_addr().map_err(|error| error.kind())
}

fn in_a_namespace(test: impl Future<Output = ()>) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: this test makes a network namespace and needs root");
        return;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

#[test]
fn services_are_reached_by_name_and_follow_the_api() {
    in_a_namespace(async {
        let state = tempfile::tempdir().unwrap();
        let network = PodNetworkConfig {
            state_dir: state.path().to_owned(),
            bridge: "skiff0".into(),
            cidr: "10.61.0.0/24".parse().unwrap(),
            cluster_cidr: "10.61.0.0/16".parse().unwrap(),
            service_cidr: Some("10.62.0.0/16".parse().unwrap()),
            mtu: None,
            table_name: "skiff-pods".into(),
        };
        let route = nlink_up().await;
        PodNetwork::open(network.clone()).await.unwrap();
        let listener = tokio::net::TcpListener::bind("10.61.0.1:6443")
            .await
            .unwrap();
        let api = Arc::new(Api {
            lists: HashMap::from([
                (
                    SERVICES,
                    vec![
                        service("kubernetes", "10.62.0.1", "1"),
                        service("kube-dns", "10.62.0.10", "1"),
                    ],
                ),
                (SLICES, vec![slice("kubernetes", "10.61.0.1", 6443, "1")]),
                (
                    NAMESPACES,
                    vec![json!({"metadata": {"name": "default", "resourceVersion": "1"}})],
                ),
            ]),
            ..Api::default()
        });
        let (clock, random) = (SystemClock::shared(), Random::seeded(1));
        let proxy = service_proxy(
            api.client(),
            ProxyConfig {
                node_name: "n1".into(),
                table_name: "skiff-services".into(),
                cluster_cidr: network.cluster_cidr,
                service_cidr: network.service_cidr,
                held: vec![DNS],
                masquerade_bit: 14,
            },
            clock.clone(),
            random.clone(),
        );
        let names = dns(
            api.client(),
            DnsConfig {
                address: DNS,
                port: 53,
                interface: Some("skiff0".into()),
                domain: "cluster.local".into(),
                resolvers: Resolvers::Fixed(vec![]),
            },
            clock,
            random,
        );
        let shutdown = Shutdown::new();
        let (proxy_ready, dns_ready) = (proxy.ready(), names.ready());
        let running = [
            tokio::spawn({
                let (proxy, stop) = (proxy.clone(), shutdown.clone());
                async move { proxy.run(stop).await.unwrap() }
            }),
            tokio::spawn({
                let (names, stop) = (names.clone(), shutdown.clone());
                async move { names.run(stop).await.unwrap() }
            }),
        ];
        for mut ready in [proxy_ready.clone(), dns_ready.clone()] {
            let ready = ready.wait_for(|ready| *ready);
            let limit = Duration::from_secs(10);
            tokio::time::timeout(limit, ready)
                .await
                .expect("ready")
                .unwrap();
        }
        let api_name = "kubernetes.default.svc.cluster.local.";
        assert_eq!(lookup(api_name).await, Ok(Ipv4Addr::new(10, 62, 0, 1)));
        connect("10.62.0.1:443").await.unwrap();
        listener.accept().await.unwrap();

        // A service that comes later, without and with endpoints, and goes.
        let web = service("web", "10.62.0.80", "2");
        let name = "web.default.svc.cluster.local.";
        assert_eq!(lookup(name).await, Err(ResponseCode::NXDomain));
        api.tell(SERVICES, 2, "ADDED", &web).await;
        while lookup(name).await.is_err() {}
        while connect("10.62.0.80:443").await != Err(ErrorKind::ConnectionRefused) {}
        let endpoints = slice("web", "10.61.0.1", 6443, "3");
        api.tell(SLICES, 2, "ADDED", &endpoints).await;
        while connect("10.62.0.80:443").await.is_err() {}
        api.tell(SLICES, 2, "DELETED", &endpoints).await;
        while connect("10.62.0.80:443").await.is_ok() {}
        api.tell(SERVICES, 2, "DELETED", &web).await;
        while lookup(name).await.is_ok() {}
        assert_eq!(lookup(name).await, Err(ResponseCode::NXDomain));

        shutdown.trigger();
        for task in running {
            task.await.unwrap();
        }
        assert!(!*proxy_ready.borrow() && !*dns_ready.borrow());
        // The table goes on working while nobody looks after it.
        connect("10.62.0.1:443").await.unwrap();
        drop(route);
    });
}

/// Brings up the loopback interface of the namespace.
async fn nlink_up() -> nlink::Connection<nlink::Route> {
    let route = nlink::Connection::<nlink::Route>::new().unwrap();
    route.set_link_up("lo").await.unwrap();
    route
}
