//! A real etcd for tests, where one is installed: named by `SKIFF_TEST_ETCD`, or found on the PATH.
//!
//! The store's tests take this file in by its path: it must not need the rest of the crate.

#![allow(clippy::disallowed_types, reason = "the etcd under test is a program")]

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// An etcd of one member with a directory of its own; it goes when dropped.
#[derive(Debug)]
pub struct TestEtcd {
    program: PathBuf,
    client_port: u16,
    peer_port: u16,
    tls: Vec<String>,
    directory: tempfile::TempDir,
    child: Option<Child>,
}

impl TestEtcd {
    /// Starts one; `None`, with a line that says so, when none is installed.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with_tls(None)
    }

    /// Starts one that shows a certificate and asks clients for theirs: files of the authority, the certificate, the key.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_with_tls(files: Option<[&Path; 3]>) -> Option<Self> {
        let Some(program) = Self::program() else {
            eprintln!(
                "NOT RUN: no etcd is installed (put one on the PATH, or name it in SKIFF_TEST_ETCD)"
            );
            return None;
        };
        let tls = files.map_or_else(Vec::new, |[authority, certificate, key]| {
            vec![
                "--client-cert-auth".to_owned(),
                format!("--trusted-ca-file={}", authority.display()),
                format!("--cert-file={}", certificate.display()),
                format!("--key-file={}", key.display()),
            ]
        });
        for _ in 0..5 {
            let mut etcd = Self {
                program: program.clone(),
                client_port: free_port(),
                peer_port: free_port(),
                tls: tls.clone(),
                directory: directory(),
                child: None,
            };
            if etcd.run() {
                return Some(etcd);
            }
        }
        panic!("{} does not start", program.display());
    }

    /// The program, if there is one.
    #[must_use]
    pub fn program() -> Option<PathBuf> {
        if let Some(named) = std::env::var_os("SKIFF_TEST_ETCD").filter(|named| !named.is_empty()) {
            return Some(named.into());
        }
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|directory| directory.join("etcd"))
            .find(|program| program.is_file())
    }

    /// Where it serves clients.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.client_port
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme(), self.client_port)
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_empty() { "http" } else { "https" }
    }

    /// Kills it without a warning.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killing etcd");
            child.wait().expect("waiting for etcd's end");
        }
    }

    /// Starts it again on what it wrote.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.run(), "etcd does not start again");
    }

    /// Starts it again on nothing.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart_empty(&mut self) {
        self.kill();
        self.directory = directory();
        assert!(self.run(), "etcd does not start again");
    }

    /// `false`: it ended, perhaps because somebody else took a port.
    fn run(&mut self) -> bool {
        let client = self.url();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let child = Command::new(&self.program)
            .arg("--data-dir")
            .arg(self.directory.path())
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(["--log-level", "error"])
            .args(&self.tls)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting etcd");
        let child = self.child.insert(child);
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.client_port)).is_ok() {
                return true;
            }
            if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for TestEtcd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

/// In memory where that is possible: most tests are not about the disk, and etcd syncs often.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("skiff-etcd-");
    match memory.is_dir() {
        true => builder.tempdir_in(memory),
        false => builder.tempdir(),
    }
    .expect("a directory for etcd")
}
