//! Endpoints objects, and the addresses that anything may be reached at.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};

use super::pod::protocol;
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{entry, items, text};
use crate::validation::values::all_invalid;
use crate::validation::{names, net};

/// What is wrong with a new Endpoints object, its metadata aside.
#[must_use]
pub fn validate_endpoints(endpoints: &Endpoints) -> ErrorList {
    let mut errors = ErrorList::new();
    for (index, subset) in items(&endpoints.subsets).iter().enumerate() {
        subset_errors(&mut errors, subset, &Path::new("subsets").index(index));
    }
    errors
}

/// What is wrong with a changed Endpoints object; subsets that stay are not judged again.
#[must_use]
pub fn validate_endpoints_update(new: &Endpoints, old: &Endpoints) -> ErrorList {
    if new.subsets == old.subsets {
        return ErrorList::new();
    }
    validate_endpoints(new)
}

fn subset_errors(errors: &mut ErrorList, subset: &EndpointSubset, path: &Path) {
    let (ready, waiting) = (items(&subset.addresses), items(&subset.not_ready_addresses));
    if ready.is_empty() && waiting.is_empty() {
        let detail = "must specify `addresses` or `notReadyAddresses`";
        errors.push(FieldError::required(path, detail));
    }
    for (name, addresses) in [("addresses", ready), ("notReadyAddresses", waiting)] {
        for (index, address) in addresses.iter().enumerate() {
            address_errors(errors, address, &path.child(name).index(index));
        }
    }
    let ports = items(&subset.ports);
    for (index, port) in ports.iter().enumerate() {
        port_errors(
            errors,
            port,
            ports.len() > 1,
            &path.child("ports").index(index),
        );
    }
}

fn address_errors(errors: &mut ErrorList, address: &EndpointAddress, path: &Path) {
    let ip_path = path.child("ip");
    errors.extend(net::legacy_ip(&ip_path, &address.ip, &[]));
    let host = text(&address.hostname);
    if !host.is_empty() {
        all_invalid(
            errors,
            &path.child("hostname"),
            host,
            names::dns_label(host),
        );
    }
    if let Some(node) = &address.node_name {
        all_invalid(
            errors,
            &path.child("nodeName"),
            node,
            names::dns_subdomain(node),
        );
    }
    endpoint_ip(errors, &address.ip, &ip_path);
}

/// An address that others can reach: no loopback, no link-local one.
pub(crate) fn endpoint_ip(errors: &mut ErrorList, text: &str, path: &Path) {
    let mut invalid = |when: bool, detail: &str| {
        if when {
            errors.push(FieldError::invalid(path, text, detail));
        }
    };
    let Some(ip) = net::parse_sloppy(text) else {
        return invalid(true, "must be a valid IP address");
    };
    let (local, local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets().starts_with(&[224, 0, 0])),
        IpAddr::V6(ip) => (
            ip.is_unicast_link_local(),
            ip.segments()
                .first()
                .is_some_and(|first| first & 0xff0f == 0xff02),
        ),
    };
    invalid(
        ip.is_unspecified(),
        &format!("may not be unspecified ({text})"),
    );
    invalid(
        ip.is_loopback(),
        "may not be in the loopback range (127.0.0.0/8, ::1/128)",
    );
    invalid(
        local,
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
    );
    invalid(
        local_multicast,
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
    );
}

fn port_errors(errors: &mut ErrorList, port: &EndpointPort, named: bool, path: &Path) {
    let (name, name_path) = (text(&port.name), path.child("name"));
    if !name.is_empty() {
        all_invalid(errors, &name_path, name, names::dns_label(name));
    } else if named {
        errors.push(FieldError::required(&name_path, ""));
    }
    for message in names::port_number(port.port) {
        errors.push(FieldError::invalid(
            &path.child("port"),
            port.port,
            &message,
        ));
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

/// What the client is told about an Endpoints object.
#[must_use]
pub fn warnings_endpoints(new: &Endpoints, _old: Option<&Endpoints>) -> Vec<String> {
    let manager = entry(&new.metadata.labels, "endpoints.kubernetes.io/managed-by");
    if manager.is_some_and(|manager| manager == "endpoint-controller") {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    for (index, subset) in items(&new.subsets).iter().enumerate() {
        let path = Path::new("subsets").index(index);
        for (name, addresses) in [
            ("addresses", &subset.addresses),
            ("notReadyAddresses", &subset.not_ready_addresses),
        ] {
            for (index, address) in items(addresses).iter().enumerate() {
                let path = path.child(name).index(index).child("ip");
                warnings.extend(net::ip_warnings(&path, &address.ip));
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_and_ports() {
        let document = json!({"metadata": {"name": "web"}, "subsets": [
            {"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 80}, {"port": 70000, "name": "b", "protocol": "TCP"}]},
            {"ports": []}
        ]});
        let mut endpoints: Endpoints = serde_json::from_value(document).unwrap_or_default();
        crate::defaults::core::default_endpoints(&mut endpoints);
        let texts: Vec<String> = validate_endpoints(&endpoints)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            texts,
            [
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "subsets[0].ports[0].name: Required value",
                "subsets[0].ports[1].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
            ]
        );
        assert!(validate_endpoints_update(&endpoints, &endpoints).is_empty());
    }
}
