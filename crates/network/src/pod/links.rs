//! Cables, addresses and routes: what the kernel is told about one node's interfaces.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use nlink::netlink::devconf::{AddrGenMode, Ipv4Devconf};
use nlink::netlink::link::{BridgeLink, VethLink};
use nlink::netlink::neigh::Neighbor;
use nlink::netlink::types::addr::Scope;
use nlink::netlink::types::route::{RouteProtocol, RouteScope, RouteType};
use nlink::{Connection, Ipv4Address, Ipv4Route, Route};

use super::addresses::Record;
use super::{PodNetworkConfig, PodNetworkError, gateway};
use crate::Cidr;

/// The pod's interface.
const POD_INTERFACE: &str = "eth0";
/// Every host-side end has this hardware address: the pods' only neighbour is the gateway.
const HOST_MAC: [u8; 6] = [0x0a, 0x53, 0x6b, 0x69, 0x66, 0x66];
/// Tags our routes (`ip route show proto 83`).
const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(83);
/// The fallback for addresses of the node's range that no pod has; any other route wins.
const FALLBACK_METRIC: u32 = 4_278_198_272;
const DEFAULT_MTU: u32 = 1500;
/// The smallest packet size that IPv4 hosts must take.
const MIN_MTU: u32 = 576;

/// The node's interfaces.
pub(super) struct Links {
    route: Connection<Route>,
    bridge: String,
    prefix: String,
    mtu: u32,
}

/// The host's end of the cable of the pod with the address at `offset` in the node's range.
pub(super) fn pod_interface(config: &PodNetworkConfig, offset: u64) -> String {
    format!("{}{offset:x}", pod_interface_prefix(&config.bridge))
}

/// How the host's ends of all cables begin.
pub(super) fn pod_interface_prefix(bridge: &str) -> String {
    format!("{bridge}v")
}

/// A pod's hardware address follows from its address.
fn pod_mac(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

fn failed(action: impl Into<String>) -> impl FnOnce(nlink::Error) -> PodNetworkError {
    let action = action.into();
    move |source| PodNetworkError::Link { action, source }
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links")
            .field("bridge", &self.bridge)
            .finish_non_exhaustive()
    }
}

impl Links {
    /// Only the node's own interface.
    pub fn of_bridge(bridge: &str) -> Result<Self, PodNetworkError> {
        let route = Connection::<Route>::new().map_err(failed("open a route netlink socket"))?;
        Ok(Self {
            route,
            bridge: bridge.to_owned(),
            prefix: pod_interface_prefix(bridge),
            mtu: DEFAULT_MTU,
        })
    }

    pub async fn open(config: &PodNetworkConfig) -> Result<Self, PodNetworkError> {
        let mut links = Self::of_bridge(&config.bridge)?;
        links.mtu = match config.mtu {
            Some(mtu) => mtu.max(MIN_MTU),
            None => uplink_mtu(&links.route).await?.unwrap_or(DEFAULT_MTU),
        };
        Ok(links)
    }

    /// Makes the node's own interface and the routes that do not belong to a pod.
    pub async fn ensure_node(&self, config: &PodNetworkConfig) -> Result<(), PodNetworkError> {
        switch_on("/proc/sys/net/ipv4/ip_forward")?;
        let index = self.ensure_bridge().await?;
        self.add_address(index, gateway(config)).await?;
        let act = || failed(format!("route the pod range {}", config.cidr));
        self.route
            .replace_route(fallback(config.cidr))
            .await
            .map_err(act())?;
        if let Some(services) = config.service_cidr {
            let route = Ipv4Route::new(services.address(), services.prefix())
                .dev_index(index)
                .scope(RouteScope::Link)
                .protocol(ROUTE_PROTOCOL);
            match self.route.add_route(route).await {
                Ok(()) => {}
                // Ours from before, or that of another node of the same cluster on this machine.
                Err(error) if error.is_already_exists() => {}
                Err(error) => return Err(failed(format!("route services {services}"))(error)),
            }
        }
        Ok(())
    }

    async fn ensure_bridge(&self) -> Result<u32, PodNetworkError> {
        let act = || failed(format!("make the interface {}", self.bridge));
        let link = BridgeLink::new(&self.bridge)
            .address(HOST_MAC)
            .mtu(self.mtu);
        match self.route.add_link(link).await {
            Ok(()) => {}
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(act()(error)),
        }
        let link = self
            .route
            .get_link_by_name(&self.bridge)
            .await
            .map_err(act())?;
        let bridge = link.filter(|link| {
            let kind = link.link_info().and_then(|info| info.kind());
            kind == Some("bridge")
        });
        let Some(bridge) = bridge else {
            return Err(PodNetworkError::Config(format!(
                "the interface {} exists and is not a bridge",
                self.bridge
            )));
        };
        self.quiet_ipv6(bridge.ifindex()).await;
        self.route
            .set_link_up_by_index(bridge.ifindex())
            .await
            .map_err(act())?;
        Ok(bridge.ifindex())
    }

    /// No link-local address on our ends: they speak IPv4 only. A kernel without IPv6 says no.
    async fn quiet_ipv6(&self, index: u32) {
        if let Err(error) = self
            .route
            .set_addr_gen_mode_by_index(index, AddrGenMode::None)
            .await
        {
            tracing::debug!(%error, "cannot turn off IPv6 address generation");
        }
    }

    async fn add_address(&self, index: u32, address: Ipv4Addr) -> Result<(), PodNetworkError> {
        match self
            .route
            .add_address(Ipv4Address::with_index(index, address, 32))
            .await
        {
            Err(error) if !error.is_already_exists() => {
                Err(failed(format!("add the address {address}"))(error))
            }
            _ => Ok(()),
        }
    }

    /// Whether the pod's cable is in place.
    pub async fn is_attached(&self, record: &Record) -> Result<bool, PodNetworkError> {
        let act = || failed("look for a pod's interface");
        let host = self
            .route
            .get_link_by_name(&record.host_interface)
            .await
            .map_err(act())?;
        if host.is_none() {
            return Ok(false);
        }
        // A namespace that is gone has no interface.
        let Ok(pod) = Connection::<Route>::new_in(record.netns.as_path()) else {
            return Ok(false);
        };
        let addresses = pod
            .get_addresses_by_name(POD_INTERFACE)
            .await
            .unwrap_or_default();
        Ok(addresses
            .iter()
            .any(|address| address.local() == Some(&IpAddr::V4(record.ip))))
    }

    /// Lays the pod's cable. A cable of that name from before is taken away first.
    pub async fn attach(
        &self,
        config: &PodNetworkConfig,
        record: &Record,
    ) -> Result<(), PodNetworkError> {
        self.delete_link(&record.host_interface).await?;
        let pod = Connection::<Route>::new_in(record.netns.as_path()).map_err(failed(format!(
            "enter the network namespace {}",
            record.netns.display()
        )))?;
        self.remove_pod_interface(&pod).await?;
        let host = self.lay_cable(record).await?;
        self.host_end(host, record).await?;
        pod_end(&pod, gateway(config), record).await
    }

    /// A second attachment in the same namespace replaces the first.
    async fn remove_pod_interface(&self, pod: &Connection<Route>) -> Result<(), PodNetworkError> {
        pod.del_link_if_exists(POD_INTERFACE)
            .await
            .map(drop)
            .map_err(failed("remove the pod's old interface"))
    }

    async fn lay_cable(&self, record: &Record) -> Result<u32, PodNetworkError> {
        let act = || failed(format!("make the interface {}", record.host_interface));
        let namespace = std::fs::File::open(&record.netns).map_err(|error| act()(error.into()))?;
        let cable = VethLink::new(&record.host_interface, POD_INTERFACE)
            .mtu(self.mtu)
            .peer_mtu(self.mtu)
            .address(HOST_MAC)
            .peer_address(pod_mac(record.ip))
            .peer_netns_fd(&namespace);
        self.route.add_link(cable).await.map_err(act())?;
        let link = self
            .route
            .get_link_by_name(&record.host_interface)
            .await
            .map_err(act())?;
        link.map(|link| link.ifindex())
            .ok_or_else(|| PodNetworkError::Config(format!("{} vanished", record.host_interface)))
    }

    async fn host_end(&self, index: u32, record: &Record) -> Result<(), PodNetworkError> {
        let act = || failed(format!("set up {}", record.host_interface));
        self.quiet_ipv6(index).await;
        let mut switches = vec![
            (Ipv4Devconf::SendRedirects, 0),
            (Ipv4Devconf::AcceptRedirects, 0),
            (Ipv4Devconf::RpFilter, 1),
            // Also where new interfaces are told not to.
            (Ipv4Devconf::Forwarding, 1),
        ];
        if !record.ports.is_empty() {
            // So that a host port answers on 127.0.0.1; a rule keeps pods away from it.
            switches.push((Ipv4Devconf::RouteLocalnet, 1));
        }
        self.route
            .set_ipv4_devconf_by_index(index, &switches)
            .await
            .map_err(act())?;
        // The cable has no address of its own: the host talks to pods from the address that the node is known by, and what
        // listens on all of its addresses answers a pod's datagram from the one that was asked.
        self.route
            .set_link_up_by_index(index)
            .await
            .map_err(act())?;
        let neighbor = Neighbor::with_index_v4(index, record.ip)
            .lladdr(pod_mac(record.ip))
            .permanent();
        self.route.replace_neighbor(neighbor).await.map_err(act())?;
        let route = Ipv4Route::new(record.ip, 32)
            .dev_index(index)
            .scope(RouteScope::Link)
            .protocol(ROUTE_PROTOCOL);
        self.route.replace_route(route).await.map_err(act())
    }

    /// Takes the pod's cable away; its routes and neighbours go with it.
    pub async fn detach(&self, record: &Record) -> Result<(), PodNetworkError> {
        self.delete_link(&record.host_interface).await
    }

    async fn delete_link(&self, name: &str) -> Result<(), PodNetworkError> {
        self.route
            .del_link_if_exists(name)
            .await
            .map(drop)
            .map_err(failed(format!("remove the interface {name}")))
    }

    /// Takes away the cables that nobody is known to have.
    pub async fn remove_strays(&self, known: &BTreeSet<String>) -> Result<(), PodNetworkError> {
        let links = self
            .route
            .get_links()
            .await
            .map_err(failed("list interfaces"))?;
        for link in links {
            let Some(name) = link.name() else { continue };
            let kind = link.link_info().and_then(|info| info.kind());
            let ours = name
                .strip_prefix(&self.prefix)
                .is_some_and(|rest| u64::from_str_radix(rest, 16).is_ok());
            if ours && kind == Some("veth") && !known.contains(name) {
                self.delete_link(name).await?;
            }
        }
        Ok(())
    }

    /// Adds an address that this host answers but never sends from on its own account: the scope keeps
    /// it out of the choice of source addresses.
    pub async fn hold(&self, address: Ipv4Addr) -> Result<(), PodNetworkError> {
        let index = self.ensure_bridge().await?;
        let held = Ipv4Address::with_index(index, address, 32).scope(Scope::Host);
        match self.route.add_address(held).await {
            Err(error) if !error.is_already_exists() => {
                Err(failed(format!("add the address {address}"))(error))
            }
            _ => Ok(()),
        }
    }

    pub async fn release(&self, address: Ipv4Addr) -> Result<(), PodNetworkError> {
        let link = self
            .route
            .get_link_by_name(&self.bridge)
            .await
            .map_err(failed("look for the node's interface"))?;
        if link.is_none() {
            return Ok(());
        }
        self.route
            .del_address_if_exists(self.bridge.as_str(), IpAddr::V4(address), 32)
            .await
            .map(drop)
            .map_err(failed(format!("remove the address {address}")))
    }

    pub async fn remove_all(&self, config: &PodNetworkConfig) -> Result<(), PodNetworkError> {
        self.remove_strays(&BTreeSet::new()).await?;
        self.remove_range(config.cidr).await?;
        self.delete_link(&self.bridge).await
    }

    /// A range that the node has no longer.
    pub async fn remove_range(&self, range: Cidr) -> Result<(), PodNetworkError> {
        self.route
            .del_route_if_exists(fallback(range))
            .await
            .map(drop)
            .map_err(failed(format!("remove the route of {range}")))
    }
}

/// The pod's side of the cable: one address, and the gateway as the way to everything.
async fn pod_end(
    pod: &Connection<Route>,
    gateway: Ipv4Addr,
    record: &Record,
) -> Result<(), PodNetworkError> {
    let act = || failed("set up the pod's interface");
    pod.set_link_up("lo").await.map_err(act())?;
    let link = pod.get_link_by_name(POD_INTERFACE).await.map_err(act())?;
    let index = link.map(|link| link.ifindex()).ok_or_else(|| {
        PodNetworkError::Config(format!("the pod's interface {POD_INTERFACE} vanished"))
    })?;
    pod.add_address(Ipv4Address::with_index(index, record.ip, 32))
        .await
        .map_err(act())?;
    pod.set_link_up_by_index(index).await.map_err(act())?;
    let neighbor = Neighbor::with_index_v4(index, gateway)
        .lladdr(HOST_MAC)
        .permanent();
    pod.replace_neighbor(neighbor).await.map_err(act())?;
    let to_gateway = Ipv4Route::new(gateway, 32)
        .dev_index(index)
        .scope(RouteScope::Link);
    pod.replace_route(to_gateway).await.map_err(act())?;
    let default = Ipv4Route::default_route().gateway(gateway).dev_index(index);
    pod.replace_route(default).await.map_err(act())
}

/// Packets to addresses that no pod has are answered, not sent to the default gateway.
fn fallback(cidr: Cidr) -> Ipv4Route {
    Ipv4Route::new(cidr.address(), cidr.prefix())
        .route_type(RouteType::Unreachable)
        .protocol(ROUTE_PROTOCOL)
        .priority(FALLBACK_METRIC)
}

/// The packet size of the interface that the default route uses.
async fn uplink_mtu(route: &Connection<Route>) -> Result<Option<u32>, PodNetworkError> {
    let act = || failed("look for the default route");
    let routes = route.get_routes().await.map_err(act())?;
    let uplink = routes
        .iter()
        .filter(|route| route.is_ipv4() && route.is_default())
        .find_map(|route| route.oif());
    let Some(index) = uplink else { return Ok(None) };
    let link = route.get_link_by_index(index).await.map_err(act())?;
    Ok(link.and_then(|link| link.mtu()).map(|mtu| mtu.max(MIN_MTU)))
}

/// Sets a kernel switch to 1 unless it is so already.
fn switch_on(path: &str) -> Result<(), PodNetworkError> {
    let failed = |source| PodNetworkError::Sysctl {
        path: path.to_owned(),
        source,
    };
    let path = Path::new(path);
    if std::fs::read_to_string(path).map_err(failed)?.trim() == "1" {
        return Ok(());
    }
    std::fs::write(path, "1\n").map_err(failed)
}
