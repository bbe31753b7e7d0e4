//! A cluster of a test's own, started and driven as a user does it.

use std::path::Path;
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
    if !found {
        return Some("no kubectl is installed");
    }
    (!Path::new("/bin/busybox").exists()).then_some("no static busybox is installed")
}

/// Says why the suite cannot run here, if it cannot.
pub fn cannot_run() -> bool {
    let why = lacking();
    if let Some(why) = why {
        eprintln!("NOT RUN: {why}");
    }
    why.is_some()
}

/// A cluster of its own, taken down when dropped.
pub struct Cluster {
    data: tempfile::TempDir,
    name: String,
    number: u8,
    /// Further arguments of `skiff up`.
    extra: Vec<String>,
    /// Held as long as the cluster lives.
    _reservation: std::fs::File,
}

/// A number that no other cluster of any test on this machine has: it keeps ports, ranges and names apart. What a killed test
/// left running holds its number too, though nobody holds the lock any more.
fn reserve() -> (u8, std::fs::File) {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap();
    for number in 1..70 {
        let path = std::env::temp_dir().join(format!("skiff-test-cluster-{number}"));
        let file = std::fs::File::create(path).unwrap();
        if file.try_lock().is_ok() && !left_over(number, &routes) {
            return (number, file);
        }
    }
    panic!("seventy clusters of tests run on this machine");
}

/// Whether the host still routes the pods or services of the cluster of this number (`routes` as `/proc/net/route` prints them).
fn left_over(number: u8, routes: &str) -> bool {
    let destinations = routes
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    let mut destinations = destinations.filter_map(|hex| u32::from_str_radix(hex, 16).ok());
    destinations.any(|destination| {
        let [first, second, ..] = destination.to_ne_bytes();
        first == 10 && [100 + 2 * number, 101 + 2 * number].contains(&second)
    })
}

pub fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

impl Cluster {
    /// A running cluster; `name` is at most five letters.
    pub fn start(name: &str) -> Self {
        Self::start_with(name, &[])
    }

    /// A running cluster whose `skiff up` gets further arguments.
    pub fn start_with(name: &str, extra: &[&str]) -> Self {
        let cluster = Self::prepare(name, extra);
        let output = cluster.up();
        assert!(
            output.status.success() && text(&output).contains("Ready after"),
            "{}",
            text(&output)
        );
        cluster
    }

    /// A cluster that is not started yet.
    pub fn prepare(name: &str, extra: &[&str]) -> Self {
        let (number, reservation) = reserve();
        Self {
            data: tempfile::tempdir().unwrap(),
            name: format!("{name}{number}"),
            number,
            extra: extra.iter().map(|&argument| argument.to_owned()).collect(),
            _reservation: reservation,
        }
    }

    /// The cluster's name, which begins its interfaces, cgroups and nftables tables.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What keeps this cluster's ports and ranges apart from those of others.
    pub fn number(&self) -> u8 {
        self.number
    }

    pub fn data(&self) -> &Path {
        self.data.path()
    }

    pub fn skiff(&self, arguments: &[&str]) -> Output {
        let home = self.data().join("home");
        run(Command::new(env!("CARGO_BIN_EXE_skiff"))
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data())
            .env("HOME", home)
            .env_remove("KUBECONFIG"))
    }

    /// What tells this cluster from the others, as arguments of `skiff up` and `skiff server`.
    pub fn settings(&self) -> Vec<String> {
        let n = u16::from(self.number);
        let ports = 21000 + n * 100;
        let settings = [
            ("--cluster-name", self.name.clone()),
            ("--api-port", (16440 + n).to_string()),
            ("--kubelet-port", (17250 + n).to_string()),
            ("--pod-cidr", format!("10.{}.0.0/16", 100 + 2 * n)),
            ("--service-cidr", format!("10.{}.0.0/16", 101 + 2 * n)),
            ("--node-port-range", format!("{ports}-{}", ports + 99)),
        ];
        let settings = settings.into_iter();
        let settings = settings.flat_map(|(flag, value)| [flag.to_owned(), value]);
        settings.chain(self.extra.iter().cloned()).collect()
    }

    pub fn up(&self) -> Output {
        let settings = self.settings();
        let mut arguments = vec!["up"];
        arguments.extend(settings.iter().map(String::as_str));
        self.skiff(&arguments)
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        run(Command::new("kubectl")
            .args(arguments)
            .env("KUBECONFIG", self.data().join("admin.kubeconfig")))
    }

    /// kubectl's standard output; the test fails when it fails.
    pub fn ask(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments);
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            text(&output)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `kubectl apply` of a manifest, which may hold several documents.
    pub fn apply(&self, manifest: &str) -> String {
        let file = self.data().join("manifest.yaml");
        std::fs::write(&file, manifest).unwrap();
        self.ask(&["apply", "-f", &file.to_string_lossy()])
    }

    /// The server's process.
    pub fn process(&self) -> i32 {
        std::fs::read_to_string(self.data().join("server.lock"))
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    /// A line for each pod: name, container id and restarts of its first container.
    pub fn containers(&self) -> String {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
        self.ask(&["get", "pods", "-o", path])
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in ["pods", "events"] {
                let listed = self.kubectl(&["get", what, "-A", "-o", "wide"]);
                eprintln!("{}", text(&listed));
            }
        }
        let output = self.skiff(&["down", "--no-kubeconfig", "--grace-period", "0"]);
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
pub fn eventually(what: &str, mut good: impl FnMut() -> bool) {
    let started = Instant::now();
    while !good() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{what} did not come to be"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub fn fetch(address: &str, path: &str) -> Option<String> {
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

pub fn mounts_below(path: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table
        .lines()
        .filter(|line| line.contains(&*path.to_string_lossy()))
        .map(str::to_owned)
        .collect()
}
