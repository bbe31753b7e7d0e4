//! A small world of network namespaces for tests on the real kernel: one namespace plays the host,
//! others play pods or machines outside. The machine's own network is never touched.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce(&tokio::runtime::Runtime) + Send>;

/// A network namespace with a thread and an async runtime that live in it.
pub struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Namespace {
    /// An empty namespace.
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own");
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            for job in queue {
                job(&runtime);
            }
        });
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
            tid: told.recv().expect("the namespace's thread"),
        }
    }

    /// The path that names the namespace.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/task/{}/ns/net", self.tid))
    }

    /// Runs a future in the namespace and waits for it.
    pub fn run<T, F>(&self, job: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> Pin<Box<dyn Future<Output = T>>> + Send + 'static,
    {
        let (tell, told) = mpsc::channel();
        let job: Job = Box::new(move |runtime| {
            let _ = tell.send(runtime.block_on(job()));
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        told.recv().expect("the job ended without a panic")
    }

    /// Runs a program of this machine in the namespace, for checks only.
    #[allow(
        clippy::disallowed_types,
        reason = "the tests look at the kernel with tools that are not ours"
    )]
    pub fn shell(&self, command: &str) -> String {
        let command = command.to_owned();
        self.run(move || {
            Box::pin(async move {
                let output = std::process::Command::new("sh")
                    .args(["-c", &command])
                    .output()
                    .unwrap();
                let text = String::from_utf8_lossy(&output.stdout).into_owned()
                    + &String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{command}: {text}");
                text
            })
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whether tests that need root can run; says so when not.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: this test makes network namespaces and needs root");
    }
    root
}

/// `$namespace.run` of an async block.
#[macro_export]
macro_rules! within {
    ($namespace:expr, $block:expr) => {
        $namespace.run(move || Box::pin(async move { $block }))
    };
}

/// Starts a TCP server in the namespace that tells each client the address it sees, and `name`.
pub fn tcp_server(namespace: &Namespace, port: u16, name: &'static str) {
    within!(namespace, {
        let listener = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let peer = stream.peer_addr().unwrap().ip();
                let _ = std::io::Write::write_all(&mut stream, format!("{name} {peer}").as_bytes());
            }
        });
    })
}

/// The same over UDP: any datagram is answered.
pub fn udp_server(namespace: &Namespace, port: u16, name: &'static str) {
    within!(namespace, {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", port)).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
            }
        });
    })
}

/// Connects and returns what the server says; the error's kind otherwise.
pub fn ask_tcp(namespace: &Namespace, address: &str) -> Result<String, std::io::ErrorKind> {
    let address: std::net::SocketAddr = address.parse().unwrap();
    within!(namespace, {
        let timeout = std::time::Duration::from_secs(2);
        let mut stream = std::net::TcpStream::connect_timeout(&address, timeout)
            .map_err(|error| error.kind())?;
        stream.set_read_timeout(Some(timeout)).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).map_err(|error| error.kind())?;
        Ok(text)
    })
}

/// Sends a datagram from `local_port` (0: any) and returns the answer.
pub fn ask_udp(
    namespace: &Namespace,
    local_port: u16,
    address: &str,
) -> Result<String, std::io::ErrorKind> {
    let address: std::net::SocketAddr = address.parse().unwrap();
    within!(namespace, {
        let timeout = std::time::Duration::from_millis(1000);
        let socket = std::net::UdpSocket::bind(("0.0.0.0", local_port)).unwrap();
        socket.set_read_timeout(Some(timeout)).unwrap();
        socket.connect(address).map_err(|error| error.kind())?;
        socket.send(b"?").map_err(|error| error.kind())?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).map_err(|error| error.kind())?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}

/// A host with an uplink to a machine outside (192.0.2.1) that knows nothing of pods.
pub fn host_with_uplink() -> (Namespace, Namespace) {
    let (host, outside) = (Namespace::new(), Namespace::new());
    let path = outside.path();
    within!(host, {
        let route = nlink::Connection::<nlink::Route>::new().unwrap();
        let namespace = std::fs::File::open(path).unwrap();
        let cable = nlink::netlink::link::VethLink::new("up0", "eth0")
            .mtu(1400)
            .peer_netns_fd(&namespace);
        route.add_link(cable).await.unwrap();
    });
    host.shell(
        "ip link set lo up; ip addr add 192.0.2.2/24 dev up0; \
         ip link set up0 addrgenmode none; ip link set up0 up; \
         ip route add default via 192.0.2.1",
    );
    outside.shell("ip link set lo up; ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up");
    (host, outside)
}
