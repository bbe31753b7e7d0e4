//! A Skiff process of the bench's own, and what the kernel says of it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;

/// Settings that keep the bench's cluster apart from others on the machine.
const SETTINGS: [&str; 12] = [
    "--cluster-name",
    "bench",
    "--api-port",
    "16390",
    "--kubelet-port",
    "17190",
    "--pod-cidr",
    "10.250.0.0/16",
    "--service-cidr",
    "10.251.0.0/16",
    "--node-port-range",
    "29000-29099",
];

/// A running server; it is stopped, and what it made removed, when dropped.
pub struct Cluster {
    skiff: std::path::PathBuf,
    /// The data directory.
    pub data: tempfile::TempDir,
    server: Option<Child>,
}

impl Cluster {
    /// A cluster that is not started.
    pub fn prepare(skiff: &Path) -> Result<Self> {
        Ok(Self {
            skiff: skiff.to_owned(),
            data: tempfile::tempdir()?,
            server: None,
        })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.skiff);
        command
            .args(words)
            .arg("--data-dir")
            .arg(self.data.path())
            .env("HOME", self.data.path());
        command
    }

    /// Runs `skiff up` to its end and tells what it printed.
    pub fn up(&self) -> Result<String> {
        let output = self.command(&["up"]).args(SETTINGS).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "skiff up: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(text)
    }

    /// Runs `skiff down`.
    pub fn down(&self) -> Result<()> {
        let output = self.command(&["down", "--no-kubeconfig"]).output()?;
        if !output.status.success() {
            bail!("skiff down: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Starts `skiff server` with further flags and waits until `/readyz` says yes; tells how long that took.
    pub async fn serve(&mut self, extra: &[&str]) -> Result<Duration> {
        let started = Instant::now();
        let log = std::fs::File::create(self.data.path().join("bench.log"))?;
        let settings = SETTINGS.chunks(2).filter(|pair| !extra.contains(&pair[0]));
        let child = self
            .command(&["server", "--log-level", "error"])
            .args(settings.flatten())
            .args(extra)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.server = Some(child);
        loop {
            if let Ok(target) = self.target()
                && let Ok(mut connection) = target.connect().await
                && let Ok((200, _)) = connection.get("/readyz").await
            {
                return Ok(started.elapsed());
            }
            if started.elapsed() > Duration::from_secs(30) {
                let said = std::fs::read_to_string(self.data.path().join("bench.log"));
                bail!(
                    "the server is not ready after 30 s: {}",
                    said.unwrap_or_default()
                );
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The process of the server.
    pub fn process(&self) -> Result<i32> {
        if let Some(child) = &self.server {
            return Ok(i32::try_from(child.id())?);
        }
        let text = std::fs::read_to_string(self.data.path().join("server.lock"))?;
        Ok(text.trim().parse()?)
    }

    /// Where the API server is, with the administrator's identity.
    pub fn target(&self) -> Result<crate::load::Target> {
        let text = std::fs::read_to_string(self.data.path().join("admin.kubeconfig"))?;
        let config: Kubeconfig = serde_saphyr::from_str(&text).context("admin.kubeconfig")?;
        let (Some(cluster), Some(user)) = (config.clusters.first(), config.users.first()) else {
            bail!("admin.kubeconfig has no cluster or no user");
        };
        let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&decode(
            &cluster.cluster.certificate_authority_data,
        )?)?)?;
        let chain = decode(&user.user.client_certificate_data)?;
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&decode(&user.user.client_key_data)?)?;
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(crate::load::Target {
            address: "127.0.0.1:16390".parse()?,
            tls: Arc::new(tls),
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut child) = self.server.take() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(child.id() as i32),
                nix::sys::signal::Signal::SIGTERM,
            );
            let _ = child.wait();
        }
        if let Err(error) = self.down() {
            eprintln!("{error}");
        }
    }
}

#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: ClusterEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterEntry {
    certificate_authority_data: String,
}

#[derive(Deserialize)]
struct NamedUser {
    user: UserEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UserEntry {
    client_certificate_data: String,
    client_key_data: String,
}

/// Resident and proportional memory of a process, in KiB.
pub fn memory(process: i32) -> Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0)
    };
    Ok((field("Rss:"), field("Pss:")))
}

/// The CPU time that a process has used, in clock ticks of 10 ms.
pub fn cpu_ticks(process: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields = text.rsplit(')').next().unwrap_or_default();
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || fields.next().and_then(|field| field.parse::<u64>().ok());
    Ok(next().unwrap_or(0) + next().unwrap_or(0))
}

/// The processes whose command line begins with a shim below the data directory.
pub fn shims(data: &Path) -> Vec<i32> {
    let prefix = data.to_string_lossy().into_owned();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let processes = entries.flatten().filter_map(|entry| {
        let process: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let mut words = line.split('\0');
        let shim = words.next()?.starts_with(&prefix) && words.next() == Some("shim");
        shim.then_some(process)
    });
    processes.collect()
}
