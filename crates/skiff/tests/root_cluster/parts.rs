//! The parts run alone, clusters side by side, and everything that can be set.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hickory_proto::rr::RecordType;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{Cluster, cannot_run, eventually, fetch, run, text};
use crate::image::{BUSYBOX, busybox_root, docker_archive};
use crate::network::names::data;
use crate::network::places::{Outside, Place};
use crate::tour::deploy_hello;

/// A skiff in the foreground, ended when dropped.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// `skiff <part>` with the cluster's settings and more.
    fn start(cluster: &Cluster, part: &str, data: &Path, more: &[&str]) -> Self {
        Self::start_with(cluster, &cluster.settings(), part, data, more)
    }

    /// The same with other settings.
    fn start_with(
        cluster: &Cluster,
        settings: &[String],
        part: &str,
        data: &Path,
        more: &[&str],
    ) -> Self {
        let log = cluster.data().join(format!("{part}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_skiff"))
            .arg(part)
            .args(settings)
            .args(more)
            .arg("--data-dir")
            .arg(data)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Ends it as systemd would; it must end well.
    fn stop(mut self) {
        self.signal();
        let status = self.child.wait().unwrap();
        let log = std::fs::read_to_string(&self.log).unwrap();
        assert!(status.success(), "{status}: {log}");
        assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
    }

    fn signal(&self) {
        let id = i32::try_from(self.child.id()).unwrap();
        // It may have ended already.
        let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("{}:\n{log}", self.log.display());
        }
    }
}

fn skiff(arguments: &[&str]) -> String {
    let output = run(Command::new(env!("CARGO_BIN_EXE_skiff")).args(arguments));
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Interfaces and nftables tables of the cluster.
fn network_of(cluster: &Cluster) -> Vec<String> {
    let interfaces = std::fs::read_dir("/sys/class/net").unwrap().flatten();
    let names = interfaces.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.starts_with(cluster.name()))
        .collect()
}

/// Who each part is, what it may do, and what it has no business with.
const PARTS: [(&str, &str, &str, &str); 5] = [
    (
        "scheduler",
        "system:kube-scheduler",
        "create pods --subresource=binding",
        "get secrets",
    ),
    (
        "controllers",
        "system:kube-controller-manager",
        "create serviceaccounts --subresource=token",
        "delete deployments",
    ),
    (
        "kubelet",
        "system:node:board",
        "create nodes",
        "delete deployments",
    ),
    (
        "proxy",
        "system:kube-proxy",
        "watch endpointslices",
        "list secrets",
    ),
    (
        "dns",
        "system:serviceaccount:kube-system:kube-dns",
        "watch endpointslices",
        "list pods",
    ),
];

#[test]
fn each_part_alone_makes_a_cluster() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::prepare("part", &[]);
    let server = Process::start(&cluster, "apiserver", cluster.data(), &[]);
    eventually("the API server", || {
        cluster
            .kubectl(&["get", "--raw", "/readyz"])
            .status
            .success()
    });
    assert_eq!(network_of(&cluster), Vec::<String>::new());
    // Nobody acts: nothing follows from what is asked for.
    cluster.ask(&["create", "deployment", "early", "--image=skiff.local/demo"]);
    assert_eq!(
        cluster.ask(&["get", "replicasets,pods,nodes", "-o", "name"]),
        ""
    );

    let node = tempfile::tempdir().unwrap();
    let parts = PARTS.map(|(part, user, may, may_not)| {
        let file = cluster.data().join(format!("{part}.kubeconfig"));
        let arguments = ["kubeconfig", "--data-dir", path(cluster.data()), "--part"];
        let name = ["--node-name", "board"];
        let document = skiff(&[&arguments[..], &[part], &name].concat());
        std::fs::write(&file, document).unwrap();
        let config = format!("--kubeconfig={}", file.display());
        let who = "jsonpath={.status.userInfo.username}";
        assert_eq!(cluster.ask(&["auth", "whoami", "-o", who, &config]), user);
        for (what, answer) in [(may, "yes"), (may_not, "no")] {
            let words: Vec<&str> = what.split(' ').collect();
            let output =
                cluster.kubectl(&[&["auth", "can-i"], &words[..], &["-A", &config]].concat());
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(said.trim(), answer, "{part} {what}: {}", text(&output));
        }
        let more = ["--kubeconfig", path(&file), "--node-name", "board"];
        Process::start(&cluster, part, node.path(), &more)
    });

    let service = deploy_hello(&cluster);
    cluster.ask(&["rollout", "status", "deployment/early", "--timeout=60s"]);
    assert_eq!(cluster.ask(&["get", "nodes", "-o", "name"]), "node/board\n");
    eventually("the service", || {
        fetch(&format!("{service}:80"), "/text").is_some_and(|page| page.contains("pod: hello-"))
    });
    by_name(&cluster, node.path());
    // Each controller has an account of its own.
    let accounts = cluster.ask(&["get", "serviceaccounts", "-n", "kube-system", "-o", "name"]);
    for name in [
        "deployment-controller",
        "replicaset-controller",
        "endpointslice-controller",
    ] {
        assert!(accounts.contains(name), "{accounts}");
    }
    let said = skiff(&["status", "--data-dir", path(node.path())]);
    assert!(said.contains("the kubelet alone"), "{said}");

    for part in parts {
        part.stop();
    }
    assert!(
        fetch(&format!("{service}:80"), "/text").is_some(),
        "pods and rules stay"
    );
    server.stop();
    skiff(&["down", "--no-kubeconfig", "--data-dir", path(node.path())]);
    assert_eq!(network_of(&cluster), Vec::<String>::new());
    assert_eq!(
        crate::cluster::mounts_below(node.path()),
        Vec::<String>::new()
    );
}

/// A pod that reaches the service by its name, from an image that was given to the kubelet alone.
fn by_name(cluster: &Cluster, node: &Path) {
    let folder = tempfile::tempdir().unwrap();
    busybox_root(folder.path());
    let archive = docker_archive(folder.path(), BUSYBOX);
    skiff(&["image", "import", path(&archive), "--data-dir", path(node)]);
    cluster.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: asks}}
spec:
  restartPolicy: OnFailure
  containers: [{{name: c, image: '{BUSYBOX}', command: [wget, -qO-, 'http://hello.default/text']}}]"
    ));
    eventually("the pod that asks by name", || {
        cluster.ask(&["get", "pod", "asks", "-o", "jsonpath={.status.phase}"]) == "Succeeded"
    });
}

const AGENT: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: "BUSYBOX", command: [httpd, -f, -p, "80", -h, /etc]}]
"#;

/// Two kubelets with a data directory, interfaces, rules and ports of their own make two nodes of one machine.
#[test]
fn a_second_node_joins() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("two");
    cluster.import_busybox();
    // Only its name and ports are used.
    let beside = Cluster::prepare("twob", &[]);
    // The controllers cut a range for it before it looks for one.
    cluster.apply("apiVersion: v1\nkind: Node\nmetadata: {name: second}\n");
    eventually("a range for the second node", || {
        let range = "jsonpath={.spec.podCIDR}";
        !cluster
            .ask(&["get", "node", "second", "-o", range])
            .is_empty()
    });
    let node = tempfile::tempdir().unwrap();
    let file = cluster.data().join("second.kubeconfig");
    let arguments = ["kubeconfig", "--data-dir", path(cluster.data())];
    let part = ["--part", "kubelet", "--node-name", "second"];
    std::fs::write(&file, skiff(&[&arguments[..], &part].concat())).unwrap();
    let mut settings = cluster.settings();
    let others = beside.settings();
    for flag in ["--cluster-name", "--kubelet-port"] {
        let at = |settings: &[String]| settings.iter().position(|word| word == flag).unwrap() + 1;
        settings[at(&cluster.settings())] = others[at(&others)].clone();
    }
    let more = ["--kubeconfig", path(&file), "--node-name", "second"];
    let kubelet = Process::start_with(&cluster, &settings, "kubelet", node.path(), &more);
    cluster.ask(&[
        "wait",
        "--for=condition=Ready",
        "node",
        "--all",
        "--timeout=60s",
    ]);
    let folder = tempfile::tempdir().unwrap();
    busybox_root(folder.path());
    let archive = docker_archive(folder.path(), BUSYBOX);
    skiff(&[
        "image",
        "import",
        path(&archive),
        "--data-dir",
        path(node.path()),
    ]);

    cluster.make(AGENT);
    cluster.ask(&["rollout", "status", "daemonset/agent", "--timeout=60s"]);
    let pods = || {
        let path = "jsonpath={range .items[*]}{.spec.nodeName} {.metadata.name} {.metadata.uid} {.status.podIP} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
        let pods = cluster.ask(&["get", "pods", "-l", "app=agent", "-o", path]);
        let mut pods: Vec<String> = pods.lines().map(str::to_owned).collect();
        pods.sort();
        pods
    };
    let before = pods();
    assert_eq!(before.len(), 2, "{before:?}");
    assert!(
        before.iter().any(|pod| pod.starts_with("second ")),
        "{before:?}"
    );
    let word = |pod: &str, at: usize| pod.split(' ').nth(at).unwrap().to_owned();
    for (from, to) in [(0, 1), (1, 0)] {
        let url = format!("http://{}/passwd", word(&before[to], 3));
        let page = cluster.exec(&word(&before[from], 1), &format!("wget -qO- {url}"));
        assert!(page.contains("root:x:0:0"), "{page}");
    }

    // What never came up is taken back, and the pod that was not replaced yet is left alone.
    cluster.ask(&["set", "image", "daemonset/agent", "c=skiff.test/absent:1"]);
    eventually("a pod that does not come up", || {
        let path = "jsonpath={.items[*].spec.containers[0].image}";
        let images = cluster.ask(&["get", "pods", "-l", "app=agent", "-o", path]);
        images.contains("absent")
    });
    let kept: Vec<String> = pods()
        .into_iter()
        .filter(|pod| before.contains(pod))
        .collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    cluster.ask(&["rollout", "undo", "daemonset/agent"]);
    cluster.ask(&["rollout", "status", "daemonset/agent", "--timeout=60s"]);
    let after = pods();
    assert!(
        after.len() == 2 && after.contains(&kept[0]),
        "{kept:?} {after:?}"
    );

    cluster.ask(&["delete", "daemonset", "agent"]);
    kubelet.stop();
    skiff(&["down", "--no-kubeconfig", "--data-dir", path(node.path())]);
    assert_eq!(network_of(&beside), Vec::<String>::new());
}

#[test]
fn clusters_live_side_by_side() {
    if cannot_run() {
        return;
    }
    let (left, right) = (Cluster::start("left"), Cluster::start("right"));
    let services = [&left, &right].map(deploy_hello);
    assert_ne!(services[0], services[1]);
    for (cluster, service) in [&left, &right].into_iter().zip(&services) {
        eventually("the service", || {
            fetch(&format!("{service}:80"), "/text")
                .is_some_and(|page| page.contains("pod: hello-"))
        });
        let names = cluster.ask(&["get", "pods", "-o", "name"]);
        let page = fetch(&format!("{service}:80"), "/hostname").unwrap();
        let pod = page.lines().last().unwrap();
        assert!(names.contains(pod), "{pod} is not one of {names}");
    }
    let before = right.containers();
    let output = left.skiff(&["down", "--purge", "--no-kubeconfig"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(network_of(&left), Vec::<String>::new());
    let answer = fetch(&format!("{}:80", services[0]), "/text");
    assert!(!answer.is_some_and(|page| page.contains("pod: hello-")));
    assert_eq!(right.containers(), before);
    for _ in 0..20 {
        assert!(fetch(&format!("{}:80", services[1]), "/text").is_some());
    }
    right.ask(&["scale", "deployment/hello", "--replicas=4"]);
    right.ask(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
}

/// Nobody listens, or there is no room: that is no reason for a backtrace.
#[test]
fn commands_bear_an_output_that_takes_nothing() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let output = Command::new(env!("CARGO_BIN_EXE_skiff"))
        .arg("version")
        .stdout(full.unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(text(&output), "");
}

/// In a network of its own, for a chain that drops everything would cut the machine off.
#[test]
fn check_says_what_drops_forwarded_packets() {
    use nlink::netlink::Nftables;
    use nlink::netlink::nftables as nf;

    if cannot_run() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skiff"));
        command.args(["check", "--advertise-address", "127.0.0.1", "--data-dir"]);
        text(&run(command.arg(data.path())))
    };
    let (before, after) = Place::alone().run_async(async {
        let before = check();
        let connection = nlink::Connection::<Nftables>::new().unwrap();
        connection
            .add_table("filter", nf::Family::Ip)
            .await
            .unwrap();
        let hook = nf::BaseChain::filter(nf::FilterHook::Forward, nf::Priority::Filter);
        let chain = nf::Chain::new("filter", "FORWARD").unwrap();
        let chain = chain
            .family(nf::Family::Ip)
            .base(hook.policy(nf::Policy::Drop));
        connection.add_chain(chain).await.unwrap();
        (before, check())
    });
    assert!(
        before.contains("ok") && !before.contains("FORWARD"),
        "{before}"
    );
    let line = after
        .lines()
        .find(|line| line.contains("ip filter FORWARD"));
    let line = line.unwrap_or_else(|| panic!("{after}"));
    assert!(line.trim_start().starts_with("warning"), "{line}");
    assert!(
        line.contains("iptables -I FORWARD -s 10.42.0.0/16 -j ACCEPT"),
        "{line}"
    );
}

const EVERYTHING: &str = "
dataDir: DATA
clusterName: NAME
bindAddress: ADDRESS
apiPort: API
advertiseAddress: ADDRESS
tlsSan: [board.example, 203.0.113.9]
podCidr: 10.POD.0.0/20
serviceCidr: 10.SERVICE.0.0/24
nodePortRange: 'PORTS'
clusterDns: 10.SERVICE.0.53
clusterDomain: home.example
resolvConf: DATA/resolv.conf
store: memory
nodeName: board
nodeLabels: [disk=fast, rack=r7]
nodeTaints: ['mine=yes:NoSchedule']
kubeletPort: KUBELET
maxPods: 7
staticPodDir: DATA/static
disable: [scheduler]
logLevel: debug
";

const STATIC: &str = "
apiVersion: v1
kind: Pod
metadata: {name: fixed}
spec: {containers: [{name: c, image: skiff.local/demo}]}
";

#[test]
fn a_file_sets_everything_and_flags_outweigh_it() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::prepare("file", &[]);
    let outside = Outside::beside(&cluster);
    let settings = cluster.settings();
    let value = |flag: &str| {
        let at = settings.iter().position(|word| word == flag).unwrap();
        settings[at + 1].clone()
    };
    let number = u16::from(cluster.number());
    let (pods, services) = (100 + 2 * number, 101 + 2 * number);
    let mut file = EVERYTHING.to_owned();
    for (word, value) in [
        ("DATA", path(cluster.data()).to_owned()),
        ("NAME", cluster.name().to_owned()),
        ("ADDRESS", outside.node.to_string()),
        ("API", value("--api-port")),
        ("POD", pods.to_string()),
        ("SERVICE", services.to_string()),
        ("PORTS", value("--node-port-range")),
        ("KUBELET", value("--kubelet-port")),
    ] {
        file = file.replace(word, &value);
    }
    let config = cluster.data().join("skiff.yaml");
    let refused = |text_of_file: &str, words: &[&str]| {
        std::fs::write(&config, text_of_file).unwrap();
        let output = cluster.skiff(&["up", "--config", path(&config)]);
        let said = text(&output);
        assert!(!output.status.success(), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    };
    refused(
        &format!("{file}maxPots: 3\n"),
        &["skiff.yaml", "maxPots", "line 23"],
    );
    refused(
        &file.replace("maxPods: 7", "maxPods: many"),
        &["skiff.yaml", "line 19"],
    );
    std::fs::write(&config, &file).unwrap();
    std::fs::create_dir(cluster.data().join("static")).unwrap();
    std::fs::write(cluster.data().join("static/fixed.yaml"), STATIC).unwrap();
    std::fs::write(
        cluster.data().join("resolv.conf"),
        "nameserver 198.51.100.1\n",
    )
    .unwrap();
    // The data directory, too, is the file's.
    let output = run(Command::new(env!("CARGO_BIN_EXE_skiff"))
        .args(["up", "--no-kubeconfig", "--max-pods", "8", "--config"])
        .arg(&config)
        .env_remove("KUBECONFIG"));
    assert!(output.status.success(), "{}", text(&output));
    what_the_file_says_holds(&cluster, &outside, services);
}

fn what_the_file_says_holds(cluster: &Cluster, outside: &Outside, services: u16) {
    let node = |path: &str| {
        let path = format!("jsonpath={path}");
        cluster.ask(&["get", "node", "board", "-o", &path])
    };
    let settings = cluster.settings();
    let address = outside.node.to_string();
    let server = cluster.ask(&[
        "config",
        "view",
        "-o",
        "jsonpath={.clusters[0].cluster.server}",
    ]);
    assert_eq!(server, format!("https://{address}:{}", settings[3]));
    for name in ["board.example", "203.0.113.9"] {
        let name = format!("--tls-server-name={name}");
        cluster.ask(&["get", "--raw", "/readyz", &name]);
    }
    assert_eq!(node("{.status.addresses[0].address}"), address);
    assert_eq!(
        node("{.status.daemonEndpoints.kubeletEndpoint.Port}"),
        settings[5]
    );
    assert_eq!(
        node("{.metadata.labels.disk}/{.metadata.labels.rack}"),
        "fast/r7"
    );
    let taints = node("{range .spec.taints[*]}{.key}={.value}:{.effect} {end}");
    assert!(taints.contains("mine=yes:NoSchedule"), "{taints}");
    assert_eq!(node("{.status.capacity.pods}"), "8");
    let range = settings[7].strip_suffix("0.0/16").unwrap();
    assert_eq!(node("{.spec.podCIDR}"), format!("{range}0.0/24"));
    let path = "jsonpath={.spec.clusterIP}";
    let service = cluster.ask(&["get", "service", "kubernetes", "-o", path]);
    assert_eq!(service, format!("10.{services}.0.1"));
    cluster.ask(&["create", "service", "nodeport", "web", "--tcp=80"]);
    let path = "jsonpath={.spec.ports[0].nodePort}";
    let port: u16 = cluster
        .ask(&["get", "service", "web", "-o", path])
        .parse()
        .unwrap();
    let (from, to) = settings[11].split_once('-').unwrap();
    assert!((from.parse().unwrap()..=to.parse().unwrap()).contains(&port));
    let dns = Ipv4Addr::new(10, u8::try_from(services).unwrap(), 0, 53);
    let name = "kubernetes.default.svc.home.example.";
    let answer = Place::host().ask_dns(SocketAddr::new(dns.into(), 53), name, RecordType::A);
    assert_eq!(data(&answer), [service]);
    eventually("the static pod", || {
        let path = "jsonpath={.status.phase}";
        let output = cluster.kubectl(&["get", "pod", "fixed-board", "-o", path]);
        text(&output) == "Running"
    });
    assert!(!cluster.data().join("db").exists());
    let log = std::fs::read_to_string(cluster.data().join("server.log")).unwrap();
    assert!(log.contains("DEBUG"));
    let status = text(&cluster.skiff(&["status"]));
    let runs = "API server, controllers, kubelet, proxy, dns; without scheduler";
    assert!(status.contains(runs), "{status}");
    let pods = status.lines().find(|line| line.starts_with("pods "));
    assert!(
        pods.is_some_and(|line| line.contains(" 1, with ")),
        "{status}"
    );
}
