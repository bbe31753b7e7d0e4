//! The cluster's network as pods, the host and a machine outside see it: addresses, services, names, and what is left of it.

mod left;
pub mod names;
pub mod places;
mod services;

use crate::cluster::{Cluster, cannot_run, fetch};
use crate::image::BUSYBOX;

use places::{Outside, Place};

/// Two pods that serve, one that asks, one with tools.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: web, name: a}}
spec:
  terminationGracePeriodSeconds: 0
  hostname: first
  subdomain: set
  containers:
  - name: c
    image: skiff.local/demo
    ports: [{name: page, containerPort: 8080}, {name: tcp, containerPort: 9001}, {name: udp, containerPort: 9002, protocol: UDP}]
    readinessProbe: {httpGet: {path: /healthz, port: page}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: web, name: b}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: skiff.local/demo
    ports: [{name: page, containerPort: 8080}, {name: tcp, containerPort: 9011}, {name: udp, containerPort: 9002, protocol: UDP}]
    readinessProbe: {httpGet: {path: /healthz, port: page}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: c}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: skiff.local/demo, ports: [{containerPort: 8080, hostPort: HOSTPORT}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: tool}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: BUSYBOX
    command: [sleep, "100000"]
    volumeMounts: [{name: kubectl, mountPath: /bin/kubectl, readOnly: true}]
  volumes: [{name: kubectl, hostPath: {path: KUBECTL, type: File}}]
"#;

/// The cluster, its pods, and the places to stand in.
pub struct World {
    cluster: Cluster,
    outside: Outside,
    host: Place,
    a: Place,
    b: Place,
    c: Place,
}

impl World {
    fn new() -> Self {
        let cluster = Cluster::prepare("net", &[]);
        let outside = Outside::beside(&cluster);
        let resolv_conf = cluster.data().join("resolv.conf");
        let text = format!(
            "nameserver {}\nsearch lab.example\noptions timeout:1\n",
            outside.address
        );
        std::fs::write(&resolv_conf, text).unwrap();
        let mut arguments = vec!["up".to_owned()];
        arguments.extend(cluster.settings());
        arguments.extend(["--resolv-conf".into(), resolv_conf.display().to_string()]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = cluster.skiff(&arguments);
        assert!(output.status.success(), "{}", crate::cluster::text(&output));
        cluster.import_busybox();
        let manifest = PODS.replace("BUSYBOX", BUSYBOX);
        let manifest = manifest.replace("HOSTPORT", &host_port(&cluster).to_string());
        cluster.apply(&manifest.replace("KUBECTL", &kubectl()));
        let ready = ["wait", "pod", "--all", "--for=condition=Ready"];
        cluster.ask(&[&ready[..], &["--timeout=60s"]].concat());
        let place = |pod| Place::of_pod(&cluster, pod);
        let (a, b, c) = (place("a"), place("b"), place("c"));
        a.serve_tcp(9001, "a");
        b.serve_tcp(9011, "b");
        a.serve_udp(9002, "a");
        b.serve_udp(9002, "b");
        Self {
            outside,
            host: Place::host(),
            a,
            b,
            c,
            cluster,
        }
    }

    fn read(&self, what: &str, path: &str) -> String {
        let path = format!("jsonpath={path}");
        self.cluster.ask(&["get", what, "-o", &path])
    }

    fn ip(&self, pod: &str) -> String {
        self.read(&format!("pod/{pod}"), "{.status.podIP}")
    }

    /// What a command in a container prints, be it on standard output or error.
    fn exec(&self, pod: &str, command: &[&str]) -> String {
        let arguments = [&["exec", pod, "--"], command].concat();
        crate::cluster::text(&self.cluster.kubectl(&arguments))
    }

    /// Tells the demo in a pod how to answer its probe.
    fn tell(&self, pod: &str, what: &str) {
        let url = format!("http://{}:8080/{what}", self.ip(pod));
        self.cluster.ask(&[
            "exec",
            "tool",
            "--",
            "wget",
            "-q",
            "-O",
            "-",
            "--post-data",
            "",
            &url,
        ]);
    }
}

fn host_port(cluster: &Cluster) -> u16 {
    24_200 + u16::from(cluster.number())
}

/// The program itself, not a link to it.
fn kubectl() -> String {
    let path = std::env::var_os("PATH").unwrap();
    let mut found = std::env::split_paths(&path).map(|folder| folder.join("kubectl"));
    let found = found.find(|program| program.exists()).unwrap();
    let found = std::fs::canonicalize(found).unwrap();
    found.to_string_lossy().into_owned()
}

#[test]
fn the_network() {
    if cannot_run() {
        return;
    }
    let world = World::new();
    reach(&world);
    host_ports(&world);
    services::all(&world);
    names::all(&world);
    api_from_a_pod(&world);
    left::nothing(world);
}

/// Pods have addresses of the node's range and reach each other, themselves, the host and the outside.
fn reach(world: &World) {
    let range: skiff_network::Cidr = world
        .read("nodes", "{.items[0].spec.podCIDR}")
        .parse()
        .unwrap();
    let ips = ["a", "b", "c", "tool"].map(|pod| world.ip(pod));
    let different: std::collections::BTreeSet<_> = ips.iter().collect();
    assert_eq!(different.len(), 4, "{ips:?}");
    assert!(ips.iter().all(|ip| range.contains(ip.parse().unwrap())));
    let [a, b, c, _] = &ips;
    // A pod's address is what others see of it.
    assert_eq!(world.a.tcp(&format!("{b}:9011")), Ok(format!("b {a}")));
    assert_eq!(world.b.udp(&format!("{a}:9002")), Ok(format!("a {b}")));
    assert_eq!(world.a.tcp(&format!("{a}:9001")), Ok(format!("a {a}")));
    assert!(world.host.tcp(&format!("{a}:9001")).is_ok());
    assert!(world.host.udp(&format!("{b}:9002")).is_ok());
    let port = 24_000 + u16::from(world.cluster.number());
    world.host.serve_tcp(port, "host");
    world.host.serve_udp(port, "host");
    let node = world.read("nodes", "{.items[0].status.addresses[0].address}");
    assert_eq!(
        world.c.tcp(&format!("{node}:{port}")),
        Ok(format!("host {c}"))
    );
    assert_eq!(
        world.c.udp(&format!("{node}:{port}")),
        Ok(format!("host {c}"))
    );
    let outside = &world.outside;
    outside.place.serve_tcp(9000, "outside");
    outside.place.serve_udp(9000, "outside");
    let there = format!("{}:9000", outside.address);
    // It could not answer a pod: it sees the node.
    let seen = format!("outside {}", outside.node);
    assert_eq!(world.c.tcp(&there), Ok(seen.clone()));
    assert_eq!(world.c.udp(&there), Ok(seen));
    for address in [b.clone(), node.clone(), outside.address.to_string()] {
        let said = world.exec("tool", &["ping", "-c", "1", "-W", "2", &address]);
        assert!(said.contains("1 packets received"), "{said}");
    }
    // Nobody has this address, and the sender is told so instead of waiting.
    let nobody = range.nth((1 << (32 - range.prefix())) - 2).unwrap();
    let refusal = world.c.tcp(&format!("{nobody}:80")).unwrap_err();
    assert_ne!(refusal, std::io::ErrorKind::TimedOut);
}

/// A port of the machine that leads to a pod: on all addresses, for everyone, the pod itself too.
fn host_ports(world: &World) {
    let node = world.read("nodes", "{.items[0].status.addresses[0].address}");
    let beside = world.outside.node.to_string();
    for (place, address) in [
        (&world.host, "127.0.0.1"),
        (&world.host, &node),
        (&world.outside.place, &beside),
        (&world.a, &node),
        (&world.c, &node),
    ] {
        let address = format!("{address}:{}", host_port(&world.cluster));
        let page = place.run(|| fetch(&address, "/hostname"));
        assert!(
            page.as_deref()
                .is_some_and(|page| page.ends_with("\r\n\r\nc")),
            "{address}: {page:?}"
        );
    }
}

/// With the token and the authority that every pod has, under the API's own name.
fn api_from_a_pod(world: &World) {
    let name = "system:serviceaccount:default:default";
    let said = world.exec("tool", &["kubectl", "auth", "whoami"]);
    assert!(said.contains(name), "{said}");
    let by_name = "d=/var/run/secrets/kubernetes.io/serviceaccount
        kubectl auth whoami --kubeconfig=/dev/null --server=https://kubernetes.default:443 --certificate-authority=$d/ca.crt --token=$(cat $d/token)
        kubectl get --raw /version --kubeconfig=/dev/null --server=https://kubernetes.default.svc.cluster.local --certificate-authority=$d/ca.crt --token=$(cat $d/token)
        cat $d/namespace";
    let said = world.exec("tool", &["sh", "-c", by_name]);
    assert!(
        said.contains(name) && said.contains("\"gitVersion\"") && said.ends_with("default"),
        "{said}"
    );
}
