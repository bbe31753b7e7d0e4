//! Defaults of the networking and discovery groups.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, NetworkPolicy, ServiceCIDR};

use crate::validation::absent::{default_value, items};

/// A NetworkPolicy: it is about ingress, and about egress if it has such rules.
pub fn default_network_policy(policy: &mut NetworkPolicy) {
    let spec = policy.spec.get_or_insert_with(Default::default);
    default_value(&mut spec.pod_selector, Default::default());
    let ingress = spec
        .ingress
        .iter_mut()
        .flatten()
        .flat_map(|rule| &mut rule.ports);
    let egress = spec
        .egress
        .iter_mut()
        .flatten()
        .flat_map(|rule| &mut rule.ports);
    for port in ingress.chain(egress).flatten() {
        default_value(&mut port.protocol, "TCP".into());
    }
    if items(&spec.policy_types).is_empty() {
        let egress = !items(&spec.egress).is_empty();
        let types = ["Ingress", "Egress"]
            .into_iter()
            .take(if egress { 2 } else { 1 });
        spec.policy_types = Some(types.map(str::to_owned).collect());
    }
}

/// An IngressClass.
pub fn default_ingress_class(class: &mut IngressClass) {
    let spec = class.spec.get_or_insert_with(Default::default);
    if let Some(parameters) = &mut spec.parameters {
        default_value(&mut parameters.scope, "Cluster".into());
    }
}

/// An Ingress: what is always there.
pub fn default_ingress(ingress: &mut Ingress) {
    let spec = ingress.spec.get_or_insert_with(Default::default);
    let paths = spec
        .rules
        .iter_mut()
        .flatten()
        .filter_map(|rule| rule.http.as_mut())
        .flat_map(|http| &mut http.paths)
        .map(|path| &mut path.backend);
    for backend in paths.chain(&mut spec.default_backend) {
        if let Some(service) = &mut backend.service {
            default_value(&mut service.port, Default::default());
        }
    }
    let status = ingress.status.get_or_insert_with(Default::default);
    default_value(&mut status.load_balancer, Default::default());
}

/// A ServiceCIDR: what is always there.
pub fn default_service_cidr(cidr: &mut ServiceCIDR) {
    default_value(&mut cidr.spec, Default::default());
    default_value(&mut cidr.status, Default::default());
}

/// An EndpointSlice.
pub fn default_endpoint_slice(slice: &mut EndpointSlice) {
    for port in slice.ports.iter_mut().flatten() {
        default_value(&mut port.name, String::new());
        default_value(&mut port.protocol, "TCP".into());
    }
    for endpoint in slice.endpoints.iter_mut().flatten() {
        default_value(&mut endpoint.conditions, Default::default());
    }
}
