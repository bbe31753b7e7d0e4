//! How a server is set up: flags, then the configuration file, then defaults.

mod api_server;
mod audit;
mod etcd;
pub mod identity;
mod leading;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

pub use api_server::{ApiServerOptions, ApiServerSettings};
pub use audit::AuditOptions;
pub use etcd::EtcdOptions;
use identity::{IdentityOptions, IdentitySettings};
pub use leading::LeadingOptions;

/// An absolute path with links followed as far as it exists: the system names mounts by such paths, and we look for ours
/// among them.
#[must_use]
pub fn without_links(path: &Path) -> PathBuf {
    if !path.is_absolute() {
        return path.to_owned();
    }
    for existing in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (existing.canonicalize(), path.strip_prefix(existing)) {
            // Joining nothing would add a slash.
            return match rest.as_os_str().is_empty() {
                true => real,
                false => real.join(rest),
            };
        }
    }
    path.to_owned()
}

/// What `--disable` can leave out.
pub const PARTS: [&str; 5] = ["scheduler", "controllers", "kubelet", "proxy", "dns"];

/// The settings of a server as a user gives them: each is a flag, and a key of the YAML file (in camelCase) that
/// `--config` names. A flag outweighs the file.
#[derive(Clone, Debug, Default, clap::Args, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Options {
    /// Folder that holds all state [default: /var/lib/skiff]
    #[arg(long, env = "SKIFF_DATA_DIR", value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Name of the cluster: of its kubeconfig context, bridge, nftables table and cgroup; clusters on one machine need different
    /// ones, at most 8 letters [default: skiff]
    #[arg(long, value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// Address that the API server listens on [default: 0.0.0.0]
    #[arg(long, value_name = "IP")]
    pub bind_address: Option<IpAddr>,
    /// Port of the API server [default: 6443]
    #[arg(long, value_name = "PORT")]
    pub api_port: Option<u16>,
    /// Address under which others reach this node [default: the address of the interface with the default route]
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// Further names or addresses for the API server's certificate [default: none]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub tls_san: Option<Vec<String>>,
    /// Address range of pods [default: 10.42.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: Option<String>,
    /// Address range of services [default: 10.96.0.0/12]
    #[arg(long, value_name = "CIDR")]
    pub service_cidr: Option<String>,
    /// Range of node ports [default: 30000-32767]
    #[arg(long, value_name = "FROM-TO")]
    pub node_port_range: Option<String>,
    /// Address of the cluster DNS [default: the tenth of the service range]
    #[arg(long, value_name = "IP")]
    pub cluster_dns: Option<Ipv4Addr>,
    /// Domain of the cluster's names [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// Names this host's resolvers: the cluster DNS asks them for other names, and pods of the DNS policy Default inherit them
    /// [default: /etc/resolv.conf, or systemd-resolved's list when that names this host itself only]
    #[arg(long, value_name = "FILE")]
    pub resolv_conf: Option<PathBuf>,
    /// Where the cluster's state is kept: embedded, etcd or memory [default: embedded]
    #[arg(long, value_name = "KIND")]
    pub store: Option<String>,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Labels that the node registers with, key=value [default: none]
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    pub node_labels: Option<Vec<String>>,
    /// Taints that the node registers with, key=value:effect [default: none]
    #[arg(long, value_name = "TAINTS", value_delimiter = ',')]
    pub node_taints: Option<Vec<String>>,
    /// Port of the kubelet [default: 10250]
    #[arg(long, value_name = "PORT")]
    pub kubelet_port: Option<u16>,
    /// How many pods the node takes [default: 110]
    #[arg(long, value_name = "N")]
    pub max_pods: Option<u32>,
    /// Nodes to add that run nothing and behave on the API as kubelets do, to try a large cluster [default: 0]
    #[arg(long, value_name = "N")]
    pub simulated_nodes: Option<u32>,
    /// Seed of the times that pods on simulated nodes take [default: 0]
    #[arg(long, value_name = "SEED")]
    pub simulation_seed: Option<u64>,
    /// Folder of static pod manifests [default: <data-dir>/manifests]
    #[arg(long, value_name = "DIR")]
    pub static_pod_dir: Option<PathBuf>,
    /// Parts to leave out: scheduler, controllers, kubelet, proxy, dns [default: none]
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    pub disable: Option<Vec<String>>,
    /// Admission plugins to run beside the default ones, for example AlwaysPullImages [default: none]
    #[arg(long, value_name = "PLUGINS", value_delimiter = ',')]
    pub enable_admission_plugins: Option<Vec<String>>,
    /// Admission plugins not to run, for example PodSecurity [default: none]
    #[arg(long, value_name = "PLUGINS", value_delimiter = ',')]
    pub disable_admission_plugins: Option<Vec<String>>,
    /// An AdmissionConfiguration (apiserver.config.k8s.io/v1) that configures admission plugins [default: none]
    #[arg(long, value_name = "FILE")]
    pub admission_control_config_file: Option<PathBuf>,
    /// A KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1) that the scheduler goes by [default: none]
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
    /// API versions to serve or not: group/version=true|false, group/version/resource=true|false, api/all, api/beta, api/alpha,
    /// api/legacy (versions that upstream has removed), for example extensions/v1beta1=true [default: none]
    #[arg(long, value_name = "VERSIONS", value_delimiter = ',')]
    pub runtime_config: Option<Vec<String>>,
    /// What is logged: error, warn, info, debug, trace, or a tracing filter [default: info]
    #[arg(long, env = "SKIFF_LOG", value_name = "LEVEL")]
    pub log_level: Option<String>,
    #[command(flatten)]
    #[allow(
        missing_docs,
        reason = "a doc comment would become the text of the whole program's help"
    )]
    pub api_server: ApiServerOptions,
    #[command(flatten)]
    #[allow(
        missing_docs,
        reason = "a doc comment would become the text of the whole program's help"
    )]
    pub identity: IdentityOptions,
    #[command(flatten)]
    #[allow(
        missing_docs,
        reason = "a doc comment would become the text of the whole program's help"
    )]
    pub audit: AuditOptions,
    #[command(flatten)]
    #[allow(
        missing_docs,
        reason = "a doc comment would become the text of the whole program's help"
    )]
    pub etcd: EtcdOptions,
    #[command(flatten)]
    #[allow(
        missing_docs,
        reason = "a doc comment would become the text of the whole program's help"
    )]
    pub leading: LeadingOptions,
}

/// A checked, complete configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the option of that name")]
pub struct Config {
    pub data_dir: PathBuf,
    pub cluster_name: String,
    pub bind_address: IpAddr,
    pub api_port: u16,
    pub advertise_address: IpAddr,
    pub tls_san: Vec<String>,
    pub pod_cidr: Cidr,
    pub service_cidr: Cidr,
    pub node_ports: (u16, u16),
    pub cluster_dns: Ipv4Addr,
    pub cluster_domain: String,
    #[serde(default = "resolv_conf")]
    pub resolv_conf: PathBuf,
    pub store: StoreKind,
    pub node_name: String,
    pub node_labels: Vec<(String, String)>,
    pub node_taints: Vec<Taint>,
    pub kubelet_port: u16,
    pub max_pods: u32,
    #[serde(default)]
    pub simulated_nodes: u32,
    #[serde(default)]
    pub simulation_seed: u64,
    pub static_pod_dir: PathBuf,
    pub disable: Vec<String>,
    #[serde(default)]
    pub enable_admission_plugins: Vec<String>,
    #[serde(default)]
    pub disable_admission_plugins: Vec<String>,
    #[serde(default)]
    pub admission_control_config_file: Option<PathBuf>,
    #[serde(default)]
    pub scheduler_config: Option<PathBuf>,
    #[serde(default)]
    pub runtime_config: Vec<String>,
    pub log_level: String,
    #[serde(default)]
    pub api_server: ApiServerSettings,
    #[serde(default)]
    pub identity: IdentitySettings,
    #[serde(default)]
    pub audit: AuditOptions,
    #[serde(default)]
    pub etcd: EtcdOptions,
    #[serde(default)]
    pub leading: LeadingOptions,
}

/// Where the cluster's state is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreKind {
    /// On disk, in the data directory.
    Embedded,
    /// In an etcd, which several servers may share.
    Etcd,
    /// In memory: gone with the process.
    Memory,
}

/// A taint, `key=value:effect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

/// A range of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cidr {
    /// The first address.
    pub base: Ipv4Addr,
    /// The length of the prefix.
    pub prefix: u8,
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl Cidr {
    fn parse(text: &str, what: &str) -> Result<Self> {
        let parse = || {
            let (base, prefix) = text.split_once('/')?;
            Some((
                base.parse::<Ipv4Addr>().ok()?,
                prefix
                    .parse::<u8>()
                    .ok()
                    .filter(|prefix| (8..=28).contains(prefix))?,
            ))
        };
        let Some((base, prefix)) = parse() else {
            bail!("{what} {text:?} is no IPv4 range such as 10.42.0.0/16 (prefix 8 to 28)")
        };
        let cidr = Self { base, prefix };
        let first = Ipv4Addr::from(u32::from(base) & cidr.mask());
        if first != base {
            bail!(
                "{what} {text:?} does not start at the first address of the range; did you mean {first}/{prefix}?"
            );
        }
        Ok(cidr)
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    /// The address `index` places after the first.
    #[must_use]
    pub fn address(self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base).saturating_add(index))
    }

    /// Whether the address lies in the range.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.base)
    }

    /// Whether the ranges share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }
}

impl Options {
    /// Reads the file that `--config` names and puts the flags over it.
    pub fn with_file(self, file: Option<&Path>) -> Result<Self> {
        let Some(path) = file else { return Ok(self) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading the configuration {}", path.display()))?;
        // Straight from YAML: what is wrong is told with its line.
        let from_file: Self = serde_saphyr::from_str(&text)
            .with_context(|| format!("the configuration {} is not understood", path.display()))?;
        let (Ok(serde_json::Value::Object(mut merged)), Ok(serde_json::Value::Object(flags))) = (
            serde_json::to_value(&from_file),
            serde_json::to_value(&self),
        ) else {
            bail!("the configuration cannot be merged");
        };
        overlay(&mut merged, flags);
        serde_json::from_value(merged.into()).context("the configuration cannot be merged")
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        let given = self.data_dir.as_deref();
        without_links(given.unwrap_or(Path::new("/var/lib/skiff")))
    }

    /// Fills in the defaults and checks everything.
    pub fn resolve(self, host: &Host) -> Result<Config> {
        let data_dir = self.data_dir();
        if !data_dir.is_absolute() {
            bail!("--data-dir {} is not an absolute path", data_dir.display());
        }
        let cluster_name = self.cluster_name.unwrap_or_else(|| "skiff".into());
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if cluster_name.is_empty()
            || cluster_name.len() > 8
            || !cluster_name.chars().all(good)
            || !cluster_name.starts_with(|c: char| c.is_ascii_lowercase())
        {
            bail!(
                "--cluster-name {cluster_name:?}: use 1 to 8 lower-case letters, digits and '-', a letter first"
            );
        }
        let pod_cidr = Cidr::parse(
            self.pod_cidr.as_deref().unwrap_or("10.42.0.0/16"),
            "--pod-cidr",
        )?;
        let service_cidr = Cidr::parse(
            self.service_cidr.as_deref().unwrap_or("10.96.0.0/12"),
            "--service-cidr",
        )?;
        if pod_cidr.overlaps(service_cidr) {
            bail!("--pod-cidr {pod_cidr} and --service-cidr {service_cidr} overlap");
        }
        let cluster_dns = self.cluster_dns.unwrap_or_else(|| service_cidr.address(10));
        if !service_cidr.contains(cluster_dns) {
            bail!("--cluster-dns {cluster_dns} lies outside --service-cidr {service_cidr}");
        }
        self.audit.settings()?;
        let store = match self.store.as_deref().unwrap_or("embedded") {
            "embedded" => StoreKind::Embedded,
            "etcd" => StoreKind::Etcd,
            "memory" => StoreKind::Memory,
            other => bail!("--store {other:?}: it is embedded, etcd or memory"),
        };
        let disable = self.disable.unwrap_or_default();
        if let Some(unknown) = disable.iter().find(|part| !PARTS.contains(&part.as_str())) {
            bail!("--disable {unknown:?}: the parts are {}", PARTS.join(", "));
        }
        let Some(advertise_address) = self.advertise_address.or(host.address) else {
            bail!("this host has no address of its own; give one with --advertise-address");
        };
        Ok(Config {
            static_pod_dir: self
                .static_pod_dir
                .unwrap_or_else(|| data_dir.join("manifests")),
            data_dir,
            cluster_name,
            bind_address: self
                .bind_address
                .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            api_port: self.api_port.unwrap_or(6443),
            advertise_address,
            tls_san: self.tls_san.unwrap_or_default(),
            pod_cidr,
            service_cidr,
            node_ports: parse_ports(self.node_port_range.as_deref().unwrap_or("30000-32767"))?,
            cluster_dns,
            cluster_domain: self
                .cluster_domain
                .unwrap_or_else(|| "cluster.local".into()),
            resolv_conf: self.resolv_conf.unwrap_or_else(|| host.resolv_conf.clone()),
            store,
            etcd: self.etcd.resolve(store)?,
            leading: self.leading.resolve()?,
            node_name: self.node_name.unwrap_or_else(|| host.name.to_lowercase()),
            node_labels: self
                .node_labels
                .unwrap_or_default()
                .iter()
                .map(|label| parse_label(label))
                .collect::<Result<_>>()?,
            node_taints: self
                .node_taints
                .unwrap_or_default()
                .iter()
                .map(|taint| parse_taint(taint))
                .collect::<Result<_>>()?,
            kubelet_port: self.kubelet_port.unwrap_or(10250),
            max_pods: self.max_pods.unwrap_or(110),
            simulated_nodes: self.simulated_nodes.unwrap_or(0),
            simulation_seed: self.simulation_seed.unwrap_or(0),
            disable,
            enable_admission_plugins: self.enable_admission_plugins.unwrap_or_default(),
            disable_admission_plugins: self.disable_admission_plugins.unwrap_or_default(),
            admission_control_config_file: self
                .admission_control_config_file
                .map(std::path::absolute)
                .transpose()?,
            scheduler_config: self.scheduler_config.map(std::path::absolute).transpose()?,
            runtime_config: self.runtime_config.unwrap_or_default(),
            log_level: self.log_level.unwrap_or_else(|| "info".into()),
            identity: self.identity.resolve()?,
            api_server: self.api_server.resolve()?,
            audit: self.audit,
        })
    }
}

/// Puts what is set in `flags` over `merged`, groups of settings key by key.
fn overlay(
    merged: &mut serde_json::Map<String, serde_json::Value>,
    flags: serde_json::Map<String, serde_json::Value>,
) {
    use serde_json::Value;
    for (key, value) in flags {
        match (merged.get_mut(&key), value) {
            (_, Value::Null) => {}
            (Some(Value::Object(under)), Value::Object(over)) => overlay(under, over),
            (_, value) => {
                merged.insert(key, value);
            }
        }
    }
}

fn resolv_conf() -> PathBuf {
    "/etc/resolv.conf".into()
}

/// Where systemd-resolved lists the resolvers that it asks itself.
const SYSTEMD_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// `usual`, unless all it names is this host's own 127.0.0.x, where a pod would find nobody, and `other` names somebody.
fn useful_resolvers(usual: PathBuf, other: PathBuf) -> PathBuf {
    let servers = |path: &Path| -> Vec<IpAddr> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines();
        let named = lines.filter_map(|line| line.trim().strip_prefix("nameserver"));
        named.filter_map(|rest| rest.trim().parse().ok()).collect()
    };
    let own = servers(&usual).iter().all(IpAddr::is_loopback);
    let better = servers(&other).iter().any(|ip| !ip.is_loopback());
    match own && better {
        true => other,
        false => usual,
    }
}

fn parse_ports(text: &str) -> Result<(u16, u16)> {
    let parsed = text
        .split_once('-')
        .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    match parsed {
        Some((from, to)) if from > 0 && from <= to => Ok((from, to)),
        _ => bail!("--node-port-range {text:?} is no range such as 30000-32767"),
    }
}

fn parse_label(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => bail!("--node-labels {text:?} is not key=value"),
    }
}

fn parse_taint(text: &str) -> Result<Taint> {
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    match text.rsplit_once(':') {
        Some((key, effect)) if effects.contains(&effect) && !key.is_empty() => {
            let (key, value) = key.split_once('=').unwrap_or((key, ""));
            Ok(Taint {
                key: key.to_owned(),
                value: value.to_owned(),
                effect: effect.to_owned(),
            })
        }
        _ => bail!(
            "--node-taints {text:?} is not key=value:effect with an effect of {}",
            effects.join(", ")
        ),
    }
}

impl Config {
    /// Whether a part runs.
    #[must_use]
    pub fn runs(&self, part: &str) -> bool {
        !self.disable.iter().any(|disabled| disabled == part)
    }

    /// The API server's own service address.
    #[must_use]
    pub fn kubernetes_service(&self) -> Ipv4Addr {
        self.service_cidr.address(1)
    }

    /// Where clients on this machine find the API server.
    #[must_use]
    pub fn local_server(&self) -> String {
        let host = if self.bind_address.is_unspecified() {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            self.bind_address
        };
        format!("https://{}", std::net::SocketAddr::new(host, self.api_port))
    }

    /// The names that the API server's certificate holds.
    #[must_use]
    pub fn server_names(&self) -> Vec<String> {
        let mut names: Vec<String> = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "localhost",
            "127.0.0.1",
        ]
        .map(str::to_owned)
        .into();
        names.push(format!("kubernetes.default.svc.{}", self.cluster_domain));
        names.push(self.kubernetes_service().to_string());
        names.push(self.advertise_address.to_string());
        names.push(self.node_name.clone());
        if !self.bind_address.is_unspecified() {
            names.push(self.bind_address.to_string());
        }
        names.extend(self.tls_san.iter().cloned());
        names.sort();
        names.dedup();
        names
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.data_dir.join("admin.kubeconfig")
    }
}

/// What the defaults take from the host.
#[derive(Clone, Debug)]
pub struct Host {
    /// The host's name.
    pub name: String,
    /// The address of the interface with the default route, else of any other than loopback.
    pub address: Option<IpAddr>,
    /// The file that names its resolvers.
    pub resolv_conf: PathBuf,
}

impl Host {
    /// Asks the kernel.
    #[must_use]
    pub fn detect() -> Self {
        let name = nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .filter(|name| !name.is_empty());
        // Connecting a datagram socket sends nothing: the kernel only chooses the source address.
        let routed = std::net::UdpSocket::bind("0.0.0.0:0")
            .and_then(|socket| {
                socket
                    .connect("192.0.2.1:9")
                    .and_then(|()| socket.local_addr())
            })
            .map(|address| address.ip())
            .ok()
            .filter(|address| !address.is_unspecified());
        let address = routed.or_else(|| {
            let interfaces = nix::ifaddrs::getifaddrs().ok()?;
            let mut addresses =
                interfaces.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()));
            addresses
                .find(|address| !address.is_loopback() && !address.is_link_local())
                .map(IpAddr::V4)
        });
        Self {
            name: name.unwrap_or_else(|| "node".into()),
            address,
            resolv_conf: useful_resolvers(resolv_conf(), SYSTEMD_RESOLVED.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            name: "Board".into(),
            address: Some("192.168.7.7".parse().unwrap()),
            resolv_conf: resolv_conf(),
        }
    }

    #[test]
    fn links_to_the_data_directory_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(without_links(&link), real);
        assert_eq!(without_links(&link.join("a/b")), real.join("a/b"));
        assert_eq!(without_links(Path::new("/no/such")), Path::new("/no/such"));
        assert_eq!(without_links(Path::new("here")), Path::new("here"));
    }

    #[test]
    fn defaults_are_complete() {
        let config = Options::default().resolve(&host()).unwrap();
        assert_eq!(config.local_server(), "https://127.0.0.1:6443");
        assert_eq!(
            (config.cluster_dns, config.kubernetes_service()),
            ("10.96.0.10".parse().unwrap(), "10.96.0.1".parse().unwrap())
        );
        assert_eq!(config.node_name, "board");
        assert!(
            config
                .server_names()
                .contains(&"kubernetes.default.svc.cluster.local".to_owned())
        );
    }

    #[test]
    fn resolvers_that_pods_cannot_reach_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let stub = file("stub", "nameserver 127.0.0.53\noptions edns0\n");
        let real = file("real", "# all\nnameserver 192.0.2.53\n");
        let none = folder.path().join("none");
        assert_eq!(useful_resolvers(stub.clone(), real.clone()), real);
        assert_eq!(useful_resolvers(stub.clone(), none.clone()), stub);
        assert_eq!(useful_resolvers(real.clone(), stub.clone()), real);
        assert_eq!(useful_resolvers(none.clone(), stub), none);
        assert_eq!(useful_resolvers(none, real.clone()), real);
    }

    #[test]
    fn flags_outweigh_the_file_and_unknown_keys_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("skiff.yaml");
        std::fs::write(&file, "apiPort: 7443\nmaxPods: 20\nnodeLabels: [a=b]\n").unwrap();
        let flags = Options {
            max_pods: Some(30),
            ..Options::default()
        };
        let config = flags
            .with_file(Some(&file))
            .unwrap()
            .resolve(&host())
            .unwrap();
        assert_eq!(
            (config.api_port, config.max_pods, config.node_labels),
            (7443, 30, vec![("a".into(), "b".into())])
        );
        std::fs::write(&file, "# nothing yet\n").unwrap();
        assert!(Options::default().with_file(Some(&file)).is_ok());
        std::fs::write(&file, "apiport: 7443\n").unwrap();
        let error = format!(
            "{:#}",
            Options::default().with_file(Some(&file)).unwrap_err()
        );
        assert!(
            error.contains("skiff.yaml") && error.contains("apiport"),
            "{error}"
        );
    }

    #[test]
    fn what_is_saved_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("skiff.yaml");
        // Words that YAML would take for something else.
        for name in ["123", "1e3", "true", "null", "0x1f", "a: b"] {
            let said = Options {
                node_name: Some(name.to_owned()),
                api_port: Some(7443),
                ..Options::default()
            };
            std::fs::write(&file, serde_saphyr::to_string(&said).unwrap()).unwrap();
            let read = Options::default().with_file(Some(&file)).unwrap();
            assert_eq!(
                (read.node_name.as_deref(), read.api_port),
                (Some(name), Some(7443))
            );
        }
    }

    #[test]
    fn wrong_values_say_what_is_right() {
        let says = |options: Options, text: &str| {
            let error = options.resolve(&host()).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        };
        says(
            Options {
                pod_cidr: Some("10.42.1.0/16".into()),
                ..Options::default()
            },
            "did you mean 10.42.0.0/16?",
        );
        says(
            Options {
                pod_cidr: Some("10.100.0.0/16".into()),
                ..Options::default()
            },
            "overlap",
        );
        says(
            Options {
                disable: Some(vec!["apiserver".into()]),
                ..Options::default()
            },
            "the parts are scheduler",
        );
        says(
            Options {
                cluster_name: Some("much-too-long".into()),
                ..Options::default()
            },
            "1 to 8",
        );
        says(
            Options {
                node_port_range: Some("9-3".into()),
                ..Options::default()
            },
            "30000-32767",
        );
        says(
            Options {
                node_taints: Some(vec!["a=b:Never".into()]),
                ..Options::default()
            },
            "NoExecute",
        );
        says(
            Options {
                store: Some("paper".into()),
                ..Options::default()
            },
            "embedded, etcd or memory",
        );
    }
}
