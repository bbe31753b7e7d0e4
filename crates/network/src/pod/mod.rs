//! Gives every pod of a node an interface and an address, and takes them away again.
//!
//! A pod hangs on the host by a veth pair of its own. Its end has a /32 address and sends everything
//! to the gateway address, so that each packet, also one to a pod on the same node, passes the host's
//! routing and connection tracking exactly once. There is no layer-2 segment between pods: service
//! traffic works whether or not `br_netfilter` is loaded, a pod reaches itself through a service, and
//! the receiver sees the sender's own address. A port-less bridge (`skiff0`) holds the node's gateway
//! address and the cluster DNS address; the kernel treats it as the "dummy" device that not every
//! kernel has.

mod addresses;
mod links;
mod rules;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::Cidr;
use crate::nft::{Assembly, KernelTable, NftError, TableGuard, Transaction};

pub use addresses::AddressError;
use addresses::{Addresses, Record};
use links::Links;

/// Where the pods of one node live.
#[derive(Clone, Debug)]
pub struct PodNetworkConfig {
    /// The directory that remembers who has which address.
    pub state_dir: PathBuf,
    /// The interface that holds the node's own addresses in the cluster; at most 8 letters. The pods'
    /// host-side interfaces begin with this name.
    pub bridge: String,
    /// The node's range of pod addresses. The first address is the gateway.
    pub cidr: Cidr,
    /// The range of all pods of the cluster: traffic to it keeps the pod's address.
    pub cluster_cidr: Cidr,
    /// The range of service addresses, routed to `bridge` so that this host reaches services without
    /// a default route.
    pub service_cidr: Option<Cidr>,
    /// The largest packet of pod interfaces; the host's default route decides when none is given.
    pub mtu: Option<u32>,
    /// The nftables table for masquerading and host ports.
    pub table_name: String,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The name as Kubernetes writes it, in lower case.
    #[must_use]
    pub fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The protocol that Kubernetes calls `name`; an empty name is TCP.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

/// A port of the host that leads to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; none for all of them.
    pub host_ip: Option<Ipv4Addr>,
    /// The host's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
}

/// A pod that wants a network.
#[derive(Clone, Debug)]
pub struct AttachRequest {
    /// The sandbox's id; attaching the same id again gives the same answer.
    pub id: String,
    /// The path of the pod's network namespace.
    pub netns: PathBuf,
    /// The pod's host name, for diagnosis only.
    pub hostname: String,
    /// Ports of the host that lead to the pod.
    pub ports: Vec<PortMapping>,
}

/// A pod's place in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The sandbox's id.
    pub id: String,
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// Where the pod sends its packets.
    pub gateway: Ipv4Addr,
    /// The host's end of the pod's cable.
    pub host_interface: String,
    /// The network namespace that it was attached in.
    pub netns: PathBuf,
    /// Ports of the host that lead to the pod.
    pub ports: Vec<PortMapping>,
}

/// What went wrong with the pod network.
#[derive(Debug, thiserror::Error)]
pub enum PodNetworkError {
    /// The configuration cannot work.
    #[error("pod network: {0}")]
    Config(String),
    /// Addresses.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Another pod has the host port.
    #[error("host port {port} is taken by pod sandbox {owner}")]
    PortTaken {
        /// The port, as protocol and number.
        port: String,
        /// Who has it.
        owner: String,
    },
    /// The kernel refused a change to interfaces, addresses or routes.
    #[error("{action}")]
    Link {
        /// What was being done.
        action: String,
        /// What the kernel said.
        #[source]
        source: nlink::Error,
    },
    /// A kernel switch could not be set.
    #[error("cannot set {path}")]
    Sysctl {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// nftables.
    #[error(transparent)]
    Nft(#[from] NftError),
}

/// The pod network of one node.
///
/// It acts in the network namespace of the threads that call it; all state that matters is in the
/// kernel and in the state directory, so that opening it again continues where another process ended.
#[derive(Debug)]
pub struct PodNetwork {
    config: PodNetworkConfig,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    addresses: Addresses,
    links: Links,
    table: KernelTable,
    rules: Assembly<Ipv4Addr>,
}

impl PodNetwork {
    /// Makes (or finds again) the node's interface, routes and masquerading, and forgets cables whose
    /// pods are unknown.
    ///
    /// # Errors
    /// The configuration is wrong, the state directory cannot be read, or the kernel refuses.
    pub async fn open(config: PodNetworkConfig) -> Result<Self, PodNetworkError> {
        check(&config)?;
        let addresses = Addresses::open(&config.state_dir, config.cidr)?;
        let links = Links::open(&config).await?;
        let before = addresses::read_range(&config.state_dir);
        if let Some(before) = before.filter(|before| *before != config.cidr) {
            links.remove_range(before).await?;
        }
        addresses::write_range(&config.state_dir, config.cidr)?;
        links.ensure_node(&config).await?;
        links.remove_strays(&addresses.interfaces()).await?;
        let table = KernelTable::open(&config.table_name)?;
        let mut rules = Assembly::new(rules::base(&config));
        for record in addresses.records() {
            rules.replace(&record.ip, Some(rules::of_pod(record)));
        }
        table.reset(&rules.whole()).await?;
        Ok(Self {
            inner: Mutex::new(Inner {
                addresses,
                links,
                table,
                rules,
            }),
            config,
        })
    }

    /// The range of the network that was last opened with this state directory.
    #[must_use]
    pub fn range_in(state_dir: &Path) -> Option<Cidr> {
        addresses::read_range(state_dir)
    }

    /// The gateway address: this host, as the pods see it.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        gateway(&self.config)
    }

    /// Gives the pod an address, an interface `eth0` in its namespace, and its host ports.
    ///
    /// # Errors
    /// No address is free, a host port is taken, or the kernel refuses; nothing is left behind then.
    pub async fn attach(&self, request: AttachRequest) -> Result<Attachment, PodNetworkError> {
        let mut inner = self.inner.lock().await;
        if let Some(record) = inner.addresses.by_id(&request.id) {
            let same = record.netns == request.netns && record.ports == request.ports;
            if same && inner.links.is_attached(record).await? {
                return Ok(self.attachment(record));
            }
        }
        check_ports(&inner.addresses, &request)?;
        let record = inner.addresses.claim(&request, |offset| {
            links::pod_interface(&self.config, offset)
        })?;
        let outcome = inner.connect(&self.config, &record).await;
        if let Err(error) = outcome {
            if let Err(undo) = inner.disconnect(&record).await {
                tracing::warn!(id = %record.id, error = %undo, "cannot undo a failed pod attachment");
            }
            return Err(error);
        }
        Ok(self.attachment(&record))
    }

    /// Takes the pod's interface, host ports and address away. An unknown id is no error.
    ///
    /// # Errors
    /// The kernel refuses; the address stays taken then.
    pub async fn detach(&self, id: &str) -> Result<(), PodNetworkError> {
        let mut inner = self.inner.lock().await;
        let Some(record) = inner.addresses.by_id(id).cloned() else {
            return Ok(());
        };
        inner.disconnect(&record).await
    }

    /// Makes the nftables table anew whenever somebody else takes it away; does not return.
    ///
    /// # Errors
    /// The table cannot be watched, or not be made again.
    pub async fn keep(&self) -> Result<(), PodNetworkError> {
        let mut guard = TableGuard::watch(&self.config.table_name).await?;
        loop {
            guard.lost().await;
            tracing::warn!(
                table = self.config.table_name,
                "somebody removed the pod network's nftables table: making it anew"
            );
            let inner = self.inner.lock().await;
            inner.table.reset(&inner.rules.whole()).await?;
        }
    }

    /// Everyone who has an address.
    pub async fn list(&self) -> Vec<Attachment> {
        let inner = self.inner.lock().await;
        inner
            .addresses
            .records()
            .map(|record| self.attachment(record))
            .collect()
    }

    /// Removes everything: interfaces, routes, rules and the state directory's content.
    ///
    /// # Errors
    /// The kernel or the file system refuses. Calling it again continues.
    pub async fn remove_all(&self) -> Result<(), PodNetworkError> {
        let mut inner = self.inner.lock().await;
        inner.links.remove_all(&self.config).await?;
        inner.table.remove().await?;
        inner.rules = Assembly::new(rules::base(&self.config));
        inner.addresses.forget();
        addresses::remove_all(&self.config.state_dir)?;
        Ok(())
    }

    /// Removes everything that a network with this configuration made, without opening it: for after a
    /// crash, or when another process had it. What is not there is no error.
    ///
    /// # Errors
    /// The kernel or the file system refuses. Calling it again continues.
    pub async fn remove(config: &PodNetworkConfig) -> Result<(), PodNetworkError> {
        check(config)?;
        Links::of_bridge(&config.bridge)?.remove_all(config).await?;
        KernelTable::open(&config.table_name)?.remove().await?;
        Ok(addresses::remove_all(&config.state_dir)?)
    }

    fn attachment(&self, record: &Record) -> Attachment {
        Attachment {
            id: record.id.clone(),
            ip: record.ip,
            gateway: gateway(&self.config),
            host_interface: record.host_interface.clone(),
            netns: record.netns.clone(),
            ports: record.ports.clone(),
        }
    }
}

impl Inner {
    async fn connect(
        &mut self,
        config: &PodNetworkConfig,
        record: &Record,
    ) -> Result<(), PodNetworkError> {
        self.links.attach(config, record).await?;
        let change = self.rules.replace(&record.ip, Some(rules::of_pod(record)));
        self.tell(&change).await
    }

    async fn tell(&self, change: &Transaction) -> Result<(), PodNetworkError> {
        if let Err(error) = self.table.commit(change).await {
            // Someone else changed the table: make it whole again.
            tracing::warn!(%error, "rebuilding the pod network's nftables table");
            self.table.reset(&self.rules.whole()).await?;
        }
        Ok(())
    }

    async fn disconnect(&mut self, record: &Record) -> Result<(), PodNetworkError> {
        let change = self.rules.replace(&record.ip, None);
        self.tell(&change).await?;
        self.links.detach(record).await?;
        Ok(self.addresses.release(record.ip)?)
    }
}

/// Gives this host another address in the cluster, on the interface `bridge` (the cluster DNS
/// address). The interface is made if it is not there yet.
///
/// # Errors
/// The kernel refuses.
pub async fn hold_address(bridge: &str, address: Ipv4Addr) -> Result<(), PodNetworkError> {
    Links::of_bridge(bridge)?.hold(address).await
}

/// Gives such an address back; it is no error when this host has it no longer.
///
/// # Errors
/// The kernel refuses.
pub async fn release_address(bridge: &str, address: Ipv4Addr) -> Result<(), PodNetworkError> {
    Links::of_bridge(bridge)?.release(address).await
}

/// The address by which pods know the host.
fn gateway(config: &PodNetworkConfig) -> Ipv4Addr {
    config.cidr.nth(1).unwrap_or(config.cidr.address())
}

fn check(config: &PodNetworkConfig) -> Result<(), PodNetworkError> {
    let refuse = |text: String| Err(PodNetworkError::Config(text));
    let name = &config.bridge;
    let plain = name
        .bytes()
        .all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
    if name.is_empty() || name.len() > 8 || !plain {
        return refuse(format!(
            "the interface name {name:?} must have 1 to 8 letters, digits, '-' or '_'"
        ));
    }
    if config.cidr.prefix() > 29 {
        return refuse(format!("the pod range {} is too small", config.cidr));
    }
    if config.cidr.prefix() < 8 {
        return refuse(format!("the pod range {} is too large", config.cidr));
    }
    if !config.cluster_cidr.contains(config.cidr.address()) {
        return refuse(format!(
            "the node's pod range {} is outside the cluster's {}",
            config.cidr, config.cluster_cidr
        ));
    }
    match config.service_cidr {
        Some(services) if services.overlaps(&config.cluster_cidr) => refuse(format!(
            "the service range {services} and the pod range {} overlap",
            config.cluster_cidr
        )),
        _ => Ok(()),
    }
}

fn check_ports(addresses: &Addresses, request: &AttachRequest) -> Result<(), PodNetworkError> {
    for wanted in &request.ports {
        let taken = addresses
            .records()
            .filter(|record| record.id != request.id)
            .find(|record| record.ports.iter().any(|port| clash(port, wanted)));
        if let Some(owner) = taken {
            return Err(PodNetworkError::PortTaken {
                port: format!("{}/{}", wanted.protocol.lower(), wanted.host_port),
                owner: owner.id.clone(),
            });
        }
    }
    Ok(())
}

fn clash(a: &PortMapping, b: &PortMapping) -> bool {
    a.protocol == b.protocol
        && a.host_port == b.host_port
        && (a.host_ip.is_none() || b.host_ip.is_none() || a.host_ip == b.host_ip)
}
