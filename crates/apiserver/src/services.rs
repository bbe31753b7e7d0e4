//! Cluster addresses and node ports of services: chosen here, unique in the cluster.
//!
//! What is taken is known from the services themselves, under a lock that is held until the service is written; beside
//! them each address has its `IPAddress` object, as upstream has it, which also keeps two servers from taking one
//! address.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use serde_json::{Value, json};
use skiff_api::{ApiResult, FieldError, Object, ObjectExt, Path};
use skiff_store::StoreError;
use tokio::sync::OwnedMutexGuard;

use crate::read::store_error;
use crate::server::{ApiServer, Call};
use crate::service_holdings::{FAMILY, Held, Holdings, Kept, MANAGED_BY, MANAGER, family};
use crate::service_ranges::{AddressRange, usable_ranges};
use crate::write::Target;

/// What a write of a service has taken, until it is written.
pub(crate) struct Allocation {
    new: Vec<IpAddr>,
    old: Vec<IpAddr>,
    _kept: OwnedMutexGuard<Kept>,
}

pub(crate) fn addresses(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut addresses: Vec<IpAddr> = all.filter_map(|text| text.parse().ok()).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

pub(crate) fn node_ports(spec: &ServiceSpec) -> impl Iterator<Item = (u16, &str)> {
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let number = u16::try_from(port.node_port?)
            .ok()
            .filter(|number| *number != 0)?;
        Some((number, port.protocol.as_deref().unwrap_or("TCP")))
    });
    ports.chain(
        spec.health_check_node_port
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0)
            .map(|port| (port, "TCP")),
    )
}

/// Chooses what a service lacks and checks what it asks for; `None` when the object is no service.
pub(crate) async fn allocate(
    target: &Target<'_>,
    object: &mut dyn Object,
    old: Option<&dyn Object>,
) -> ApiResult<Option<Allocation>> {
    let Some(service) = object.downcast_mut::<Service>() else {
        return Ok(None);
    };
    let server = &target.call.server;
    let mut kept = server.service_holdings.clone().lock_owned().await;
    let old = old.and_then(|old| old.downcast_ref::<Service>());
    let ranges = usable_ranges(server).await?;
    let plan = Plan {
        server,
        holdings: kept.now(server).await?,
        key: &format!("{}/{}", target.namespace, target.name),
        ports: BTreeSet::new(),
        ranges: &ranges,
    };
    plan.fill(service, old)
        .map_err(|errors| target.invalid(&errors))?;
    let before = old.map(addresses).unwrap_or_default();
    let now = addresses(service);
    Ok(Some(Allocation {
        new: now
            .iter()
            .filter(|address| !before.contains(address))
            .copied()
            .collect(),
        old: before
            .into_iter()
            .filter(|address| !now.contains(address))
            .collect(),
        _kept: kept,
    }))
}

struct Plan<'a> {
    server: &'a ApiServer,
    holdings: &'a Holdings,
    /// The service, as `namespace/name`.
    key: &'a str,
    /// The node ports that it has or was given so far.
    ports: BTreeSet<(u16, String)>,
    ranges: &'a [AddressRange],
}

impl Plan<'_> {
    fn fill(mut self, service: &mut Service, old: Option<&Service>) -> Result<(), Vec<FieldError>> {
        let spec = service.spec.get_or_insert_default();
        let kind = spec.type_.clone().unwrap_or_else(|| "ClusterIP".to_owned());
        let old_spec = old.and_then(|old| old.spec.as_ref());
        let family = self.server.service_range.family();
        if kind == "ExternalName" {
            if old_spec.is_some_and(|old| old.type_.as_deref() != Some("ExternalName"))
                && spec.cluster_ip == old_spec.and_then(|old| old.cluster_ip.clone())
            {
                spec.cluster_ip = None;
                spec.cluster_ips = None;
                spec.ip_families = None;
                spec.ip_family_policy = None;
            }
            return Ok(());
        }
        keep_allocated(spec, old_spec);
        families(spec, family);
        self.address(spec, old_spec)?;
        self.node_ports(spec, &kind, old_spec)
    }

    fn address(
        &self,
        spec: &mut ServiceSpec,
        old: Option<&ServiceSpec>,
    ) -> Result<(), Vec<FieldError>> {
        let path = Path::new("spec").child("clusterIPs");
        let wanted = spec.cluster_ip.clone().filter(|ip| !ip.is_empty());
        let first = spec
            .cluster_ips
            .as_ref()
            .and_then(|ips| ips.first())
            .cloned()
            .filter(|ip| !ip.is_empty());
        let chosen = match wanted.or(first) {
            Some(none) if none == "None" => none,
            Some(text) => {
                let kept = old.and_then(|old| old.cluster_ip.as_ref()) == Some(&text);
                if let (Ok(address), false) = (text.parse::<IpAddr>(), kept) {
                    let refuse = |why: &str| {
                        let why = format!("failed to allocate IP {text}: {why}");
                        Err(vec![FieldError::invalid(
                            &path,
                            json!([text.clone()]),
                            &why,
                        )])
                    };
                    if !self.ranges.iter().any(|range| range.usable(address)) {
                        return refuse("the provided network does not match the current range");
                    }
                    if self.holdings.is_others(Held::Address(address), self.key) {
                        return refuse("provided IP is already allocated");
                    }
                }
                text
            }
            None => self
                .ranges
                .iter()
                .find_map(|range| {
                    let taken = |address| self.holdings.is_others(Held::Address(address), self.key);
                    range.free(taken, self.holdings.most_addresses(), &self.server.random)
                })
                .map(|address| address.to_string())
                .ok_or_else(|| {
                    vec![FieldError::internal(
                        &path,
                        "failed to allocate a serviceIP: range is full",
                    )]
                })?,
        };
        spec.cluster_ip = Some(chosen.clone());
        if spec
            .cluster_ips
            .as_ref()
            .is_none_or(|ips| ips.is_empty() || ips[0].is_empty())
        {
            spec.cluster_ips = Some(vec![chosen]);
        }
        Ok(())
    }

    fn node_ports(
        &mut self,
        spec: &mut ServiceSpec,
        kind: &str,
        old: Option<&ServiceSpec>,
    ) -> Result<(), Vec<FieldError>> {
        let wants = kind == "NodePort"
            || (kind == "LoadBalancer" && spec.allocate_load_balancer_node_ports != Some(false));
        if !matches!(kind, "NodePort" | "LoadBalancer") {
            // What the type before had is given back, unless the client set it anew.
            if old.is_some_and(|old| {
                matches!(old.type_.as_deref(), Some("NodePort" | "LoadBalancer"))
            }) {
                let had: Vec<Option<i32>> = old
                    .into_iter()
                    .flat_map(|old| old.ports.iter().flatten())
                    .map(|port| port.node_port)
                    .collect();
                for port in spec
                    .ports
                    .iter_mut()
                    .flatten()
                    .filter(|port| had.contains(&port.node_port))
                {
                    port.node_port = None;
                }
                spec.health_check_node_port = None;
            }
            return Ok(());
        }
        let had: BTreeSet<(u16, String)> = old
            .into_iter()
            .flat_map(node_ports)
            .map(|(port, protocol)| (port, protocol.to_owned()))
            .collect();
        let health =
            kind == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local");
        let mut own: Vec<(i32, u16)> = Vec::new();
        for (index, port) in spec.ports.iter_mut().flatten().enumerate() {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let path = Path::new("spec")
                .child("ports")
                .index(index)
                .child("nodePort");
            match port.node_port.filter(|number| *number != 0) {
                Some(number) => {
                    let claimed = u16::try_from(number).map(|number| (number, protocol));
                    self.claim(claimed.ok(), number, &had, &path)?;
                }
                None if wants => {
                    // The same port over another protocol shares the node port.
                    let shared = own
                        .iter()
                        .find(|(other, node)| {
                            *other == port.port && !self.has_port(*node, &protocol)
                        })
                        .map(|(_, node)| *node);
                    let node = shared
                        .or_else(|| self.free_port(&protocol))
                        .ok_or_else(|| {
                            vec![FieldError::internal(
                                &path,
                                "failed to allocate a nodePort: range is full",
                            )]
                        })?;
                    self.ports.insert((node, protocol));
                    port.node_port = Some(i32::from(node));
                }
                None => {}
            }
            if let Some(node) = port.node_port.and_then(|node| u16::try_from(node).ok()) {
                own.push((port.port, node));
            }
        }
        if health && spec.health_check_node_port.unwrap_or(0) == 0 {
            let path = Path::new("spec").child("healthCheckNodePort");
            let node = self.free_port("TCP").ok_or_else(|| {
                vec![FieldError::internal(
                    &path,
                    "failed to allocate a HealthCheck NodePort",
                )]
            })?;
            spec.health_check_node_port = Some(i32::from(node));
        }
        Ok(())
    }

    fn claim(
        &mut self,
        claimed: Option<(u16, String)>,
        number: i32,
        had: &BTreeSet<(u16, String)>,
        path: &Path,
    ) -> Result<(), Vec<FieldError>> {
        let (low, high) = self.server.config.node_ports;
        let in_range = claimed
            .as_ref()
            .is_some_and(|(port, _)| (low..=high).contains(port));
        let Some(claimed) = claimed.filter(|_| in_range) else {
            let why = format!(
                "provided port is not in the valid range. The range of valid ports is {low}-{high}"
            );
            return Err(vec![FieldError::invalid(path, number, &why)]);
        };
        if !had.contains(&claimed) && self.has_port(claimed.0, &claimed.1) {
            return Err(vec![FieldError::invalid(
                path,
                number,
                "provided port is already allocated",
            )]);
        }
        self.ports.insert(claimed);
        Ok(())
    }

    /// Whether the port is another service's, or this one's for something else.
    fn has_port(&self, port: u16, protocol: &str) -> bool {
        let held = Held::port(port, protocol);
        self.ports.contains(&(port, protocol.to_owned())) || self.holdings.is_others(held, self.key)
    }

    fn free_port(&self, protocol: &str) -> Option<u16> {
        let (low, high) = self.server.config.node_ports;
        let width = u64::from(high.saturating_sub(low)) + 1;
        let start = self.server.random.below(width);
        (0..width)
            .filter_map(|step| u16::try_from(u64::from(low) + (start + step) % width).ok())
            .find(|port| {
                let others: &[&str] = match protocol {
                    // A new port of the usual protocol is nobody's with any.
                    "TCP" => &["TCP", "UDP", "SCTP"],
                    _ => &[protocol],
                };
                !others.iter().any(|other| self.has_port(*port, other))
            })
    }
}

/// An update that leaves out what was allocated keeps it.
fn keep_allocated(spec: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    let Some(old) = old.filter(|old| old.type_.as_deref() != Some("ExternalName")) else {
        return;
    };
    if spec.cluster_ip.as_deref().unwrap_or_default().is_empty()
        && spec.cluster_ips.as_ref().is_none_or(Vec::is_empty)
    {
        spec.cluster_ip.clone_from(&old.cluster_ip);
        spec.cluster_ips.clone_from(&old.cluster_ips);
    }
    if spec.ip_families.as_ref().is_none_or(Vec::is_empty) {
        spec.ip_families.clone_from(&old.ip_families);
    }
    if spec.ip_family_policy.is_none() {
        spec.ip_family_policy.clone_from(&old.ip_family_policy);
    }
    let exposed = |kind: Option<&str>| matches!(kind, Some("NodePort" | "LoadBalancer"));
    if exposed(spec.type_.as_deref()) && exposed(old.type_.as_deref()) {
        for port in spec
            .ports
            .iter_mut()
            .flatten()
            .filter(|port| port.node_port.unwrap_or(0) == 0)
        {
            let same = old
                .ports
                .iter()
                .flatten()
                .find(|other| other.port == port.port && other.protocol == port.protocol);
            port.node_port = same.and_then(|other| other.node_port);
        }
        if spec.health_check_node_port.unwrap_or(0) == 0 {
            spec.health_check_node_port = old.health_check_node_port;
        }
    }
}

/// The address families, where the client left them to the cluster.
fn families(spec: &mut ServiceSpec, family: &str) {
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let selectorless = spec
        .selector
        .as_ref()
        .is_none_or(std::collections::BTreeMap::is_empty);
    if headless && selectorless {
        let policy = spec
            .ip_family_policy
            .get_or_insert_with(|| "RequireDualStack".to_owned());
        if spec.ip_families.as_ref().is_none_or(Vec::is_empty) {
            let other = if family == "IPv4" { "IPv6" } else { "IPv4" };
            let mut list = vec![family.to_owned()];
            if policy != "SingleStack" {
                list.push(other.to_owned());
            }
            spec.ip_families = Some(list);
        }
        return;
    }
    spec.ip_family_policy
        .get_or_insert_with(|| "SingleStack".to_owned());
    if spec.ip_families.as_ref().is_none_or(Vec::is_empty) {
        spec.ip_families = Some(vec![family.to_owned()]);
    }
}

impl Allocation {
    /// Makes the `IPAddress` objects of addresses that are new.
    pub async fn record(&self, target: &Target<'_>) -> ApiResult<()> {
        for address in &self.new {
            let server = &target.call.server;
            let object = json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
                "metadata": {
                    "name": address.to_string(), "uid": server.new_uid(), "creationTimestamp": server.now().to_string(),
                    "labels": {FAMILY: family(*address), MANAGED_BY: MANAGER},
                },
                "spec": {"parentRef": {"group": "", "resource": "services", "namespace": target.namespace, "name": target.name}},
            });
            let bytes = serde_json::to_vec(&object).unwrap_or_default();
            match server.store.create(&key(*address), bytes.into(), 0).await {
                Ok(_) => {}
                Err(StoreError::Exists(_)) => self.claim(target, *address).await?,
                Err(error) => return Err(store_error(&error)),
            }
        }
        Ok(())
    }

    /// The object of an address is there already: it may be left over from a write of this service that failed. Any other
    /// is somebody else's, who came between the choice and now.
    async fn claim(&self, target: &Target<'_>, address: IpAddr) -> ApiResult<()> {
        let server = &target.call.server;
        let found = server.store.get(&key(address), None).await;
        let found = found.map_err(|error| store_error(&error))?;
        let own = found.is_none_or(|found| is_of(&found.value, (target.namespace, target.name)));
        if own {
            return Ok(());
        }
        // What this write made so far is not needed now.
        let before = self.new.iter().take_while(|other| **other != address);
        forget(server, &before.copied().collect::<Vec<_>>()).await;
        let why = format!("failed to allocate IP {address}: provided IP is already allocated");
        let path = Path::new("spec").child("clusterIPs");
        let shown = json!([address.to_string()]);
        Err(target.invalid(&vec![FieldError::invalid(&path, shown, &why)]))
    }

    /// Removes the `IPAddress` objects that the write made needless (`written`), or those it made when it failed.
    pub async fn settle(&self, call: &Call, written: bool) {
        forget(&call.server, if written { &self.old } else { &self.new }).await;
    }
}

/// Gives back the addresses of a service that is gone.
pub(crate) async fn release(server: &Arc<ApiServer>, object: &dyn Object) {
    if let Some(service) = object.downcast_ref::<Service>() {
        forget(server, &addresses(service)).await;
    }
}

async fn forget(server: &Arc<ApiServer>, addresses: &[IpAddr]) {
    for address in addresses {
        match server.store.delete(&key(*address), None).await {
            Ok(_) | Err(StoreError::Conflict(_)) => {}
            Err(error) => {
                tracing::warn!(%error, %address, "the IPAddress of a service could not be removed")
            }
        }
    }
}

fn key(address: IpAddr) -> String {
    format!("/registry/ipaddresses/{address}")
}

/// Whether a stored `IPAddress` is the one of that service.
pub(crate) fn is_of(bytes: &[u8], (namespace, name): (&str, &str)) -> bool {
    let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let parent = &object["spec"]["parentRef"];
    let group = parent["group"].as_str().unwrap_or_default();
    group.is_empty()
        && parent["resource"] == "services"
        && parent["namespace"] == namespace
        && parent["name"] == name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_what_was_allocated() {
        let spec = |value| serde_json::from_value::<ServiceSpec>(value).unwrap();
        let old = spec(
            json!({"type": "NodePort", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}),
        );
        let mut new = spec(
            json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]}),
        );
        keep_allocated(&mut new, Some(&old));
        assert_eq!(new.cluster_ip.as_deref(), Some("10.0.0.5"));
        let ports: Vec<_> = new
            .ports
            .unwrap()
            .iter()
            .map(|port| port.node_port)
            .collect();
        assert_eq!(ports, [Some(30001), None]);
    }
}
