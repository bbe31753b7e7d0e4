//! From API objects to the few words that proxy and DNS keep of them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{EndpointHints, EndpointSlice};
use skiff_network::Cidr;
use skiff_network::dns::{DnsEndpoint, DnsService, DnsSlice, ServiceKind};
use skiff_network::pod::Protocol;
use skiff_network::proxy::{
    Endpoint, Hints, ServiceId, ServicePort, ServiceRow, SlicePort, SliceRow,
};

/// The label that ties a slice to its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that leaves a service or slice to another proxy.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// `sessionAffinityConfig.clientIP.timeoutSeconds` when it is not given.
const AFFINITY_SECONDS: i32 = 10_800;

/// The service that a slice belongs to.
pub(crate) fn slice_service(namespace: &str, slice: &EndpointSlice) -> Option<ServiceId> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(ServiceId::new(namespace, name))
}

/// What the proxy needs of a service; none if it is not for this proxy or has no address.
pub(crate) fn proxy_service(service: &Service) -> Option<ServiceRow> {
    let labels = service.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key(OTHER_PROXY)) {
        return None;
    }
    let spec = service.spec.as_ref()?;
    let cluster_ips: Vec<Ipv4Addr> = addresses(spec).filter_map(v4).collect();
    if spec.type_.as_deref() == Some("ExternalName") || cluster_ips.is_empty() {
        return None;
    }
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref();
        let client = config.and_then(|config| config.client_ip.as_ref());
        let seconds = client.and_then(|client| client.timeout_seconds);
        let seconds = seconds.unwrap_or(AFFINITY_SECONDS).max(1);
        Duration::from_secs(seconds.unsigned_abs().into())
    });
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let external_ips = spec.external_ips.iter().flatten();
    let sources = spec.load_balancer_source_ranges.iter().flatten();
    Some(ServiceRow {
        cluster_ips,
        external_ips: external_ips.filter_map(|ip| ip.parse().ok()).collect(),
        load_balancer_ips: load_balancer_ips(service),
        load_balancer_sources: sources
            .filter_map(|range| range.trim().parse::<Cidr>().ok())
            .collect(),
        ports: ports(spec),
        affinity,
        internal_local: is_local(&spec.internal_traffic_policy),
        external_local: is_local(&spec.external_traffic_policy),
    })
}

fn load_balancer_ips(service: &Service) -> Vec<Ipv4Addr> {
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    balancer
        .and_then(|balancer| balancer.ingress.as_ref())
        .into_iter()
        .flatten()
        // In "Proxy" mode the balancer must see the traffic first.
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
        .collect()
}

fn ports(spec: &ServiceSpec) -> Vec<ServicePort> {
    let ports = spec.ports.iter().flatten();
    ports
        .filter_map(|port| {
            Some(ServicePort {
                name: port.name.clone().unwrap_or_default(),
                protocol: Protocol::from_name(port.protocol.as_deref().unwrap_or_default())?,
                port: number(port.port)?,
                node_port: port.node_port.and_then(number),
            })
        })
        .collect()
}

/// What the proxy needs of a slice; none if it is not IPv4 or not for this proxy.
pub(crate) fn proxy_slice(slice: &EndpointSlice, node: &str) -> Option<SliceRow> {
    let labels = slice.metadata.labels.as_ref();
    if slice.address_type != "IPv4" || labels.is_some_and(|l| l.contains_key(OTHER_PROXY)) {
        return None;
    }
    let endpoints = slice.endpoints.iter().flatten().filter_map(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        Some(Endpoint {
            ip: endpoint.addresses.first()?.parse().ok()?,
            local: endpoint.node_name.as_deref() == Some(node),
            ready,
            serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
            hints: endpoint.hints.as_ref().map(|given| hints(given, node)),
        })
    });
    Some(SliceRow {
        ports: slice_ports(slice),
        endpoints: endpoints.collect(),
    })
}

fn hints(given: &EndpointHints, node: &str) -> Hints {
    let nodes = given.for_nodes.as_deref().unwrap_or_default();
    let zones = given.for_zones.as_deref().unwrap_or_default();
    Hints {
        node: (!nodes.is_empty()).then(|| nodes.iter().any(|named| named.name == node)),
        zones: zones.iter().map(|zone| Box::from(&*zone.name)).collect(),
    }
}

fn slice_ports(slice: &EndpointSlice) -> Vec<SlicePort> {
    let ports = slice.ports.iter().flatten();
    ports
        .filter_map(|port| {
            Some(SlicePort {
                name: port.name.clone().unwrap_or_default(),
                protocol: Protocol::from_name(port.protocol.as_deref().unwrap_or_default())?,
                port: number(port.port?)?,
            })
        })
        .collect()
}

/// What DNS needs of a service; none while it has no address.
pub(crate) fn dns_service(service: &Service) -> Option<DnsService> {
    let spec = service.spec.as_ref()?;
    let kind = match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
        (Some("ExternalName"), _) => {
            ServiceKind::External(spec.external_name.clone().filter(|name| !name.is_empty())?)
        }
        (_, Some("None")) => ServiceKind::Headless,
        _ => {
            let ips: Vec<IpAddr> = addresses(spec).collect();
            if ips.is_empty() {
                return None;
            }
            ServiceKind::Cluster(ips)
        }
    };
    let ports = ports(spec).into_iter().map(|port| SlicePort {
        name: port.name,
        protocol: port.protocol,
        port: port.port,
    });
    Some(DnsService {
        kind,
        ports: ports.collect(),
    })
}

/// What DNS needs of a slice: its ready endpoints.
pub(crate) fn dns_slice(slice: &EndpointSlice) -> DnsSlice {
    let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|c| c.ready).unwrap_or(true)
    });
    let endpoints = ready.flat_map(|endpoint| {
        let hostname = endpoint.hostname.as_deref().filter(|name| !name.is_empty());
        let ips = endpoint.addresses.iter();
        ips.filter_map(move |ip| {
            Some(DnsEndpoint {
                ip: ip.parse().ok()?,
                hostname: hostname.map(Box::from),
            })
        })
    });
    DnsSlice {
        ports: slice_ports(slice),
        endpoints: endpoints.collect(),
    }
}

fn addresses(spec: &ServiceSpec) -> impl Iterator<Item = IpAddr> {
    let all = spec.cluster_ips.iter().flatten();
    let only = spec.cluster_ips.is_none().then_some(&spec.cluster_ip);
    all.chain(only.into_iter().flatten())
        .filter_map(|ip| ip.parse().ok())
}

fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(spec: serde_json::Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": spec,
            "status": {"loadBalancer": {"ingress": [
                {"ip": "198.51.100.1"}, {"ip": "198.51.100.2", "ipMode": "Proxy"}, {"hostname": "x"},
            ]}},
        }))
        .unwrap()
    }

    #[test]
    fn a_service_becomes_a_row() {
        let object = service(json!({
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
            "externalIPs": ["203.0.113.1", "2001:db8::1"],
            "loadBalancerSourceRanges": ["192.0.2.0/24 ", "::/0"],
            "sessionAffinity": "ClientIP",
            "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster",
            "ports": [
                {"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"},
                {"name": "bad", "port": 70000}, {"name": "odd", "port": 1, "protocol": "X"},
                {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 0},
            ],
        }));
        let row = proxy_service(&object).unwrap();
        assert_eq!(row.cluster_ips, [Ipv4Addr::new(10, 96, 0, 7)]);
        assert_eq!(row.external_ips, [Ipv4Addr::new(203, 0, 113, 1)]);
        assert_eq!(row.load_balancer_ips, [Ipv4Addr::new(198, 51, 100, 1)]);
        assert_eq!(row.load_balancer_sources.len(), 1);
        assert_eq!(row.affinity, Some(Duration::from_secs(10_800)));
        assert!(row.external_local && !row.internal_local);
        let ports: Vec<_> = row.ports.iter().map(|p| (p.port, p.node_port)).collect();
        assert_eq!(ports, [(80, Some(30080)), (53, None)]);
        let dns = dns_service(&object).unwrap();
        let ips = ["10.96.0.7", "fd00::7"].map(|ip| ip.parse().unwrap());
        assert_eq!(dns.kind, ServiceKind::Cluster(ips.to_vec()));
    }

    #[test]
    fn services_without_an_address_are_not_proxied() {
        for spec in [
            json!({"clusterIP": "None", "ports": [{"port": 80}]}),
            json!({"type": "ExternalName", "externalName": "example.org"}),
            json!({}),
        ] {
            assert_eq!(proxy_service(&service(spec)), None);
        }
        let kind = |spec| dns_service(&service(spec)).map(|service| service.kind);
        assert_eq!(
            kind(json!({"clusterIP": "None"})),
            Some(ServiceKind::Headless)
        );
        assert_eq!(
            kind(json!({"type": "ExternalName", "externalName": "example.org"})),
            Some(ServiceKind::External("example.org".into()))
        );
        assert_eq!(kind(json!({})), None);
        let mut other = service(json!({"clusterIP": "10.96.0.7"}));
        let labels = [(OTHER_PROXY.to_owned(), "x".to_owned())];
        other.metadata.labels = Some(labels.into());
        assert_eq!(proxy_service(&other), None);
    }

    #[test]
    fn missing_conditions_mean_ready() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080}, {"name": "none"}],
            "endpoints": [
                {"addresses": ["10.1.0.2"], "nodeName": "n1",
                 "hints": {"forNodes": [{"name": "n1"}], "forZones": [{"name": "z"}]}},
                {"addresses": ["10.1.0.3"], "nodeName": "n2", "hostname": "h",
                 "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": []}, {"addresses": ["x"]},
            ],
        }))
        .unwrap();
        let row = proxy_slice(&slice, "n1").unwrap();
        assert_eq!(row.ports.len(), 1);
        let endpoint = |last, local, ready, terminating| Endpoint {
            ip: Ipv4Addr::new(10, 1, 0, last),
            local,
            ready,
            serving: true,
            terminating,
            hints: None,
        };
        let hints = Hints {
            node: Some(true),
            zones: ["z".into()].into(),
        };
        let expected = [
            Endpoint {
                hints: Some(hints),
                ..endpoint(2, true, true, false)
            },
            endpoint(3, false, false, true),
        ];
        assert_eq!(row.endpoints, expected);
        assert_eq!(dns_slice(&slice).endpoints.len(), 1);
        let id = slice_service("default", &slice);
        assert_eq!(id, Some(ServiceId::new("default", "web")));
    }
}
