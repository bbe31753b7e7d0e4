//! A whole cluster on this machine, driven by the real kubectl: containers, networks, nftables. Needs root and kubectl.
#![allow(
    clippy::disallowed_types,
    reason = "the tests drive the program and kubectl as a user does"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Why the suite cannot run here; said once by each test.
fn lacking() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root");
    }
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join("kubectl").exists())
    });
    (!found).then_some("no kubectl is installed")
}

/// A cluster of its own, taken down when dropped.
struct Cluster {
    data: tempfile::TempDir,
    name: &'static str,
    number: u8,
}

fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

impl Cluster {
    /// `number` keeps ports and ranges of clusters apart.
    fn start(name: &'static str, number: u8) -> Self {
        let cluster = Self {
            data: tempfile::tempdir().unwrap(),
            name,
            number,
        };
        let output = cluster.up();
        assert!(
            output.status.success() && text(&output).contains("Ready after"),
            "{}",
            text(&output)
        );
        cluster
    }

    fn data(&self) -> &Path {
        self.data.path()
    }

    fn skiff(&self, arguments: &[&str]) -> Output {
        let home = self.data().join("home");
        run(Command::new(env!("CARGO_BIN_EXE_skiff"))
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data())
            .env("HOME", home)
            .env_remove("KUBECONFIG"))
    }

    fn up(&self) -> Output {
        let n = self.number;
        let (api, kubelet) = (
            format!("{}", 16440 + u16::from(n)),
            format!("{}", 17250 + u16::from(n)),
        );
        let (pods, services) = (
            format!("10.{}.0.0/16", 180 + n),
            format!("10.{}.0.0/16", 190 + n),
        );
        let ports = format!(
            "{}-{}",
            21000 + u16::from(n) * 100,
            21099 + u16::from(n) * 100
        );
        self.skiff(&[
            "up",
            "--cluster-name",
            self.name,
            "--api-port",
            &api,
            "--kubelet-port",
            &kubelet,
            "--pod-cidr",
            &pods,
            "--service-cidr",
            &services,
            "--node-port-range",
            &ports,
        ])
    }

    fn kubectl(&self, arguments: &[&str]) -> Output {
        run(Command::new("kubectl")
            .args(arguments)
            .env("KUBECONFIG", self.data().join("admin.kubeconfig")))
    }

    /// kubectl's standard output; the test fails when it fails.
    fn ask(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments);
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            text(&output)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn process(&self) -> i32 {
        std::fs::read_to_string(self.data().join("server.lock"))
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    fn containers(&self) -> String {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
        self.ask(&["get", "pods", "-o", path])
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let output = self.skiff(&["down", "--no-kubeconfig"]);
        if !output.status.success() {
            eprintln!("skiff down: {}", text(&output));
        }
        if std::thread::panicking() {
            eprintln!(
                "{}",
                std::fs::read_to_string(self.data().join("server.log")).unwrap_or_default()
            );
        }
    }
}

/// Waits until `good` holds: the cluster works at its own pace, and the limit only ends a test that has failed.
fn eventually(what: &str, mut good: impl FnMut() -> bool) {
    let started = Instant::now();
    while !good() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{what} did not come to be"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn fetch(address: &str, path: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut stream =
        std::net::TcpStream::connect_timeout(&address.parse().ok()?, Duration::from_secs(2))
            .ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn mounts_below(path: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table
        .lines()
        .filter(|line| line.contains(&*path.to_string_lossy()))
        .map(str::to_owned)
        .collect()
}

fn deploy_hello(cluster: &Cluster) -> String {
    cluster.ask(&[
        "create",
        "deployment",
        "hello",
        "--image=skiff.local/demo",
        "--replicas=3",
    ]);
    cluster.ask(&[
        "expose",
        "deployment",
        "hello",
        "--port=80",
        "--target-port=8080",
        "--type=NodePort",
    ]);
    cluster.ask(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    cluster.ask(&[
        "get",
        "service",
        "hello",
        "-o",
        "jsonpath={.spec.clusterIP}",
    ])
}

#[test]
fn the_tour() {
    if let Some(why) = lacking() {
        eprintln!("NOT RUN: {why}");
        return;
    }
    let cluster = Cluster::start("tour", 1);
    assert!(text(&cluster.up()).contains("runs already"));
    let service = deploy_hello(&cluster);
    eventually("the service", || {
        fetch(&format!("{service}:80"), "/text").is_some_and(|page| page.contains("pod: hello-"))
    });
    let node = cluster.ask(&[
        "get",
        "nodes",
        "-o",
        "jsonpath={.items[0].status.addresses[0].address}",
    ]);
    let port = cluster.ask(&[
        "get",
        "service",
        "hello",
        "-o",
        "jsonpath={.spec.ports[0].nodePort}",
    ]);
    assert!(
        fetch(&format!("{node}:{port}"), "/text").is_some_and(|page| page.contains("pod: hello-"))
    );

    assert!(
        cluster
            .ask(&["logs", "deployment/hello"])
            .contains("demo listens on port 8080")
    );
    assert!(
        cluster
            .ask(&["exec", "deployment/hello", "--", "/app", "version"])
            .contains("Kubernetes API")
    );
    cluster.ask(&["scale", "deployment/hello", "--replicas=5"]);
    cluster.ask(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    cluster.ask(&["set", "env", "deployment/hello", "COLOUR=blue"]);
    cluster.ask(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    eventually("the new environment", || {
        fetch(&format!("{service}:80"), "/text")
            .is_some_and(|page| page.contains("env COLOUR=blue"))
    });
    cluster.ask(&["rollout", "undo", "deployment/hello"]);
    cluster.ask(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    assert!(
        cluster
            .ask(&["rollout", "history", "deployment/hello"])
            .contains('3')
    );
    cluster.ask(&["delete", "service,deployment", "hello"]);
    eventually("an empty namespace", || {
        cluster.ask(&["get", "pods", "-o", "name"]).is_empty()
    });
}

#[test]
fn killing_the_server_leaves_the_containers_alone() {
    if let Some(why) = lacking() {
        eprintln!("NOT RUN: {why}");
        return;
    }
    let cluster = Cluster::start("kill", 2);
    deploy_hello(&cluster);
    let before = cluster.containers();
    let good = before.lines().count() == 3
        && before
            .lines()
            .all(|line| line.contains("skiff://") && line.ends_with(" 0"));
    assert!(good, "{before}\n{}", cluster.ask(&["describe", "pods"]));
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(cluster.process()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    // The signal is delivered some time after it was sent.
    eventually("the end of the server", || {
        !cluster.skiff(&["status"]).status.success()
    });
    let output = cluster.up();
    assert!(output.status.success(), "{}", text(&output));
    cluster.ask(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    assert_eq!(cluster.containers(), before);
}

#[test]
fn down_leaves_nothing_behind() {
    if let Some(why) = lacking() {
        eprintln!("NOT RUN: {why}");
        return;
    }
    let cluster = Cluster::start("down", 3);
    deploy_hello(&cluster);
    let output = cluster.skiff(&["down", "--purge"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(mounts_below(cluster.data()), Vec::<String>::new());
    assert!(!cluster.data().join("pki").exists());
    let interfaces: Vec<PathBuf> = std::fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(
        !interfaces
            .iter()
            .any(|path| path.to_string_lossy().contains("/down")),
        "{interfaces:?}"
    );
    for group in ["/sys/fs/cgroup/memory/down", "/sys/fs/cgroup/down"] {
        assert!(!Path::new(group).exists(), "{group}");
    }
}
