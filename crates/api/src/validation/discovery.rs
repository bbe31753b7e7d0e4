//! EndpointSlices.

use std::collections::BTreeSet;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointPort, EndpointSlice};

use super::absent::{count, entry, items, text};
use super::core::endpoint_ip;
use super::core::pod::protocol;
use super::values::{all_invalid, immutable, required_one_of};
use super::{meta, names, net};
use crate::field::{ErrorList, FieldError, Path};

const ENDPOINTS: usize = 1000;
const ADDRESSES: usize = 100;
const PORTS: usize = 20_000;
const TOPOLOGY: usize = 16;
const HINTS: usize = 8;

/// What is wrong with a new EndpointSlice, its metadata aside.
#[must_use]
pub fn validate_endpoint_slice(slice: &EndpointSlice) -> ErrorList {
    let mut errors = ErrorList::new();
    whole(&mut errors, slice, None);
    errors
}

/// What is wrong with a changed EndpointSlice; endpoints that stay are not judged again.
#[must_use]
pub fn validate_endpoint_slice_update(new: &EndpointSlice, old: &EndpointSlice) -> ErrorList {
    let mut errors = ErrorList::new();
    whole(&mut errors, new, Some(old));
    let path = Path::new("addressType");
    immutable(
        &mut errors,
        &path,
        &new.address_type,
        &old.address_type,
        &new.address_type,
    );
    errors
}

fn whole(errors: &mut ErrorList, slice: &EndpointSlice, old: Option<&EndpointSlice>) {
    required_one_of(
        errors,
        &Path::new("addressType"),
        &slice.address_type,
        &["FQDN", "IPv4", "IPv6"],
    );
    ports(errors, items(&slice.ports), &Path::new("ports"));
    if old.is_some_and(|old| old.endpoints == slice.endpoints) {
        return;
    }
    let (path, endpoints) = (Path::new("endpoints"), items(&slice.endpoints));
    if endpoints.len() > ENDPOINTS {
        errors.push(FieldError::too_many(&path, endpoints.len(), ENDPOINTS));
        return;
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        one_endpoint(errors, endpoint, &slice.address_type, &path.index(index));
    }
}

fn ports(errors: &mut ErrorList, ports: &[EndpointPort], path: &Path) {
    if ports.len() > PORTS {
        errors.push(FieldError::too_many(path, ports.len(), PORTS));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let (name, name_path) = (text(&port.name), path.child("name"));
        if !name.is_empty() {
            all_invalid(errors, &name_path, name, names::dns_label(name));
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&name_path, name));
        }
        protocol(errors, text(&port.protocol), &path.child("protocol"));
        if let Some(app) = &port.app_protocol {
            all_invalid(
                errors,
                &path.child("appProtocol"),
                app,
                names::qualified_name(app),
            );
        }
    }
}

fn one_endpoint(errors: &mut ErrorList, endpoint: &Endpoint, kind: &str, path: &Path) {
    let addresses = path.child("addresses");
    let number = endpoint.addresses.len();
    if number == 0 {
        errors.push(FieldError::required(
            &addresses,
            "must contain at least 1 address",
        ));
    } else if number > ADDRESSES {
        errors.push(FieldError::too_many(&addresses, number, ADDRESSES));
    }
    for (index, address) in endpoint.addresses.iter().enumerate() {
        let path = addresses.index(index);
        let (wrong, v4) = match kind {
            "IPv4" => (net::legacy_ip(&path, address, &[]), true),
            "IPv6" => (net::ip(&path, address), false),
            "FQDN" => {
                domain_name(errors, address, &path);
                continue;
            }
            _ => continue,
        };
        if wrong.is_empty() {
            if net::parse_sloppy(address).is_some_and(|ip| ip.is_ipv4()) != v4 {
                let detail = format!("must be an {kind} address");
                errors.push(FieldError::invalid(&addresses, address, &detail));
            }
            endpoint_ip(errors, address, &path);
        }
        errors.extend(wrong);
    }
    if let Some(node) = &endpoint.node_name {
        all_invalid(
            errors,
            &path.child("nodeName"),
            node,
            names::dns_subdomain(node),
        );
    }
    let topology = path.child("deprecatedTopology");
    let labels = count(&endpoint.deprecated_topology);
    if labels > TOPOLOGY {
        errors.push(FieldError::too_many(&topology, labels, TOPOLOGY));
    }
    meta::labels(errors, &endpoint.deprecated_topology, &topology);
    if let Some(host) = &endpoint.hostname {
        all_invalid(
            errors,
            &path.child("hostname"),
            host,
            names::dns_label(host),
        );
    }
    if let Some(own) = &endpoint.hints {
        hints(errors, own, &path.child("hints"));
    }
}

/// A name of at least two labels.
fn domain_name(errors: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let wrong = names::dns_subdomain(name);
    if !wrong.is_empty() {
        errors.push(FieldError::invalid(path, name, &wrong.join(",")));
    } else if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, name, detail));
    } else if let Some(label) = name
        .split('.')
        .find(|label| !names::dns_label(label).is_empty())
    {
        errors.push(FieldError::invalid(
            path,
            label,
            &names::dns_label(label).join(","),
        ));
    }
}

fn hints(errors: &mut ErrorList, hints: &EndpointHints, path: &Path) {
    let zones: Vec<&str> = items(&hints.for_zones)
        .iter()
        .map(|zone| zone.name.as_str())
        .collect();
    let nodes: Vec<&str> = items(&hints.for_nodes)
        .iter()
        .map(|node| node.name.as_str())
        .collect();
    let judges: [(&str, Vec<&str>, names::Rule); 2] = [
        ("forZones", zones, names::label_value),
        ("forNodes", nodes, names::dns_subdomain),
    ];
    for (field, list, judge) in judges {
        let path = path.child(field);
        if list.len() > HINTS {
            errors.push(FieldError::too_many(&path, list.len(), HINTS));
            return;
        }
        let mut seen = BTreeSet::new();
        for (index, name) in list.into_iter().enumerate() {
            let path = path.index(index).child("name");
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(&path, name));
            }
            all_invalid(errors, &path, name, judge(name));
        }
    }
}

/// What the client is told about an EndpointSlice.
#[must_use]
pub fn warnings_endpoint_slice(new: &EndpointSlice, old: Option<&EndpointSlice>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() && new.address_type == "FQDN" {
        warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
    }
    let manager = entry(
        &new.metadata.labels,
        "endpointslice.kubernetes.io/managed-by",
    );
    if manager.is_some_and(|manager| {
        matches!(
            manager.as_str(),
            "endpointslice-controller.k8s.io" | "endpointslicemirroring-controller.k8s.io"
        )
    }) {
        return warnings;
    }
    for (index, endpoint) in items(&new.endpoints).iter().enumerate() {
        let path = Path::new("endpoints").index(index).child("addresses");
        for (index, address) in endpoint.addresses.iter().enumerate() {
            warnings.extend(net::ip_warnings(&path.index(index), address));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn texts(slice: Value) -> Vec<String> {
        let mut slice: EndpointSlice = serde_json::from_value(slice).unwrap_or_default();
        crate::defaults::networking::default_endpoint_slice(&mut slice);
        validate_endpoint_slice(&slice)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn table() {
        let table: [(Value, &[&str]); 4] = [
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]}),
                &[],
            ),
            (
                json!({"endpoints": [{"addresses": []}]}),
                &[
                    "addressType: Required value",
                    "endpoints[0].addresses: Required value: must contain at least 1 address",
                ],
            ),
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"]}]}),
                &["endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address"],
            ),
            (
                json!({"addressType": "FQDN", "endpoints": [{"addresses": ["host"]}], "ports": [{"name": "a"}, {"name": "a"}]}),
                &[
                    "ports[1].name: Duplicate value: \"a\"",
                    "endpoints[0].addresses[0]: Invalid value: \"host\": should be a domain with at least two segments separated by dots",
                ],
            ),
        ];
        for (slice, expected) in table {
            assert_eq!(texts(slice.clone()), expected, "{slice}");
        }
    }
}
