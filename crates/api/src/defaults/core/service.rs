//! Defaults of Services and Endpoints.

use k8s_openapi::api::core::v1::{
    ClientIPConfig, Endpoints, Service, ServiceSpec, SessionAffinityConfig,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::validation::absent::{default_text, default_value, items, text};

/// How long a client stays with its pod, in seconds.
const AFFINITY_SECONDS: i32 = 10_800;

/// Whether the service can be reached from outside the cluster.
pub(crate) fn is_external(spec: &ServiceSpec) -> bool {
    match text(&spec.type_) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !items(&spec.external_ips).is_empty(),
        _ => false,
    }
}

/// A Service. Addresses and node ports are the server's to allocate.
pub fn default_service(service: &mut Service) {
    let spec = service.spec.get_or_insert_with(Default::default);
    default_text(&mut spec.session_affinity, "None");
    match text(&spec.session_affinity) {
        "None" => spec.session_affinity_config = None,
        "ClientIP" => {
            let seconds = spec
                .session_affinity_config
                .as_ref()
                .and_then(|config| config.client_ip.as_ref())
                .and_then(|config| config.timeout_seconds)
                .or(Some(AFFINITY_SECONDS));
            spec.session_affinity_config = Some(SessionAffinityConfig {
                client_ip: Some(ClientIPConfig {
                    timeout_seconds: seconds,
                }),
            });
        }
        _ => {}
    }
    default_text(&mut spec.type_, "ClusterIP");
    for port in spec.ports.iter_mut().flatten() {
        default_text(&mut port.protocol, "TCP");
        let unset = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(name)) => name.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if unset {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    if is_external(spec) {
        default_text(&mut spec.external_traffic_policy, "Cluster");
    }
    let kind = text(&spec.type_).to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        default_value(&mut spec.internal_traffic_policy, "Cluster".into());
    }
    let status = service.status.get_or_insert_with(Default::default);
    let balancer = status.load_balancer.get_or_insert_with(Default::default);
    if kind == "LoadBalancer" {
        default_value(&mut spec.allocate_load_balancer_node_ports, true);
        for ingress in balancer.ingress.iter_mut().flatten() {
            if !text(&ingress.ip).is_empty() {
                default_value(&mut ingress.ip_mode, "VIP".into());
            }
        }
    }
}

/// An Endpoints object.
pub fn default_endpoints(endpoints: &mut Endpoints) {
    let subsets = endpoints.subsets.iter_mut().flatten();
    for port in subsets.flat_map(|subset| subset.ports.iter_mut().flatten()) {
        default_text(&mut port.protocol, "TCP");
    }
}
