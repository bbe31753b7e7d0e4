//! What the kubelet is told about its node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Taint};

use crate::container::dns::ClusterDns;
use crate::drain::Drain;
use crate::pod::spec;

/// The version that nodes report.
pub const VERSION: &str = "v1.36.2+skiff";

/// The settings of one kubelet.
#[derive(Clone, Debug)]
pub struct KubeletConfig {
    /// The node's name.
    pub node_name: String,
    /// The node's addresses, the primary one first.
    pub node_ips: Vec<String>,
    /// Where pods' directories are.
    pub root_dir: PathBuf,
    /// Where pods' logs are.
    pub log_dir: PathBuf,
    /// Where manifests of static pods are; none are run without it.
    pub static_pod_dir: Option<PathBuf>,
    /// The cluster's DNS.
    pub cluster_dns: ClusterDns,
    /// The resolver that pods of the policy `Default` inherit.
    pub resolv_conf: PathBuf,
    /// The port of the kubelet's own server; 0 takes any.
    pub port: u16,
    /// The address that it listens on.
    pub listen: std::net::IpAddr,
    /// The server's TLS settings; it is not started without them.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Users (common names of client certificates) who may use the kubelet's server without being asked about: the API
    /// server's own name.
    pub trusted_clients: Vec<String>,
    /// Annotations that the node registers with.
    pub annotations: BTreeMap<String, String>,
    /// Labels that the node registers with.
    pub labels: BTreeMap<String, String>,
    /// Taints that the node registers with.
    pub taints: Vec<Taint>,
    /// The most pods.
    pub max_pods: u32,
    /// The cgroup of all pods (`/kubepods`).
    pub cgroup_root: String,
    /// Where the kernel's control groups are mounted.
    pub cgroup_mount: PathBuf,
    /// Resources that are not for pods, in the units of [`crate::quantity::amount`].
    pub reserved: BTreeMap<String, i64>,
    /// Where the host's files are that describe the machine (`/proc`), for simulations.
    pub proc_dir: PathBuf,
    /// Whether the node's own objects (Node, Lease) are written.
    pub register_node: bool,
    /// How the node is taken down.
    pub drain: Drain,
}

impl KubeletConfig {
    /// Settings for a node of this name and address with its state below `root_dir`.
    #[must_use]
    pub fn new(node_name: &str, node_ip: &str, root_dir: &Path) -> Self {
        Self {
            node_name: node_name.to_owned(),
            node_ips: vec![node_ip.to_owned()],
            root_dir: root_dir.to_owned(),
            log_dir: root_dir.join("logs"),
            static_pod_dir: None,
            cluster_dns: ClusterDns {
                servers: Vec::new(),
                domain: "cluster.local".to_owned(),
            },
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            port: 10250,
            listen: std::net::IpAddr::from([0, 0, 0, 0]),
            tls: None,
            trusted_clients: Vec::new(),
            annotations: BTreeMap::new(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            max_pods: 110,
            cgroup_root: "/kubepods".to_owned(),
            cgroup_mount: PathBuf::from("/sys/fs/cgroup"),
            reserved: BTreeMap::new(),
            proc_dir: PathBuf::from("/proc"),
            register_node: true,
            drain: Drain::default(),
        }
    }

    /// The directory of a pod.
    #[must_use]
    pub fn pod_directory(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// The directory of a pod's logs, named as upstream names it.
    #[must_use]
    pub fn log_directory(&self, pod: &Pod) -> PathBuf {
        let (namespace, name, uid) = (spec::namespace(pod), spec::name(pod), spec::uid(pod));
        self.log_dir.join(format!("{namespace}_{name}_{uid}"))
    }

    /// Namespace, name and UID of the pods that have a log directory.
    #[must_use]
    pub fn logged_pods(&self) -> Vec<(String, String, String)> {
        let entries = std::fs::read_dir(&self.log_dir).into_iter().flatten();
        let names = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        let parts = names.filter_map(|name| {
            let mut parts = name.split('_').map(str::to_owned);
            Some((parts.next()?, parts.next()?, parts.next()?))
        });
        parts.collect()
    }
}
