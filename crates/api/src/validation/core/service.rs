//! Services. Addresses and node ports are allocated by the server, not judged here.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::endpoints::endpoint_ip;
use super::pod::{port, protocol};
use super::service_addresses as addresses;
use crate::defaults::core::is_external;
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{entry, items, text};
use crate::validation::values::{Bare, all_invalid, json, one_of, required_one_of};
use crate::validation::{meta, names, net};

const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const AFFINITY_MAX: i32 = 86_400;
const NEEDS_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

/// What is wrong with a new Service, its metadata aside.
#[must_use]
pub fn validate_service(service: &Service) -> ErrorList {
    let mut errors = ErrorList::new();
    whole(&mut errors, service, None);
    errors
}

/// What is wrong with a changed Service, its metadata aside.
#[must_use]
pub fn validate_service_update(new: &Service, old: &Service) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, old_spec) = (spec_of(new), spec_of(old));
    addresses::kept_cluster_ips(&mut errors, &spec, &old_spec);
    addresses::kept_families(&mut errors, &spec, &old_spec);
    let is_balancer = |spec: &ServiceSpec| text(&spec.type_) == "LoadBalancer";
    let class_path = Path::new("spec").child("loadBalancerClass");
    if is_balancer(&spec)
        && is_balancer(&old_spec)
        && spec.load_balancer_class != old_spec.load_balancer_class
    {
        let value = json(&spec.load_balancer_class);
        errors.push(FieldError::invalid(
            &class_path,
            value,
            "may not change once set",
        ));
    }
    balancer_class(&mut errors, &spec, &class_path);
    if needs_health_check(&spec)
        && needs_health_check(&old_spec)
        && spec.health_check_node_port != old_spec.health_check_node_port
    {
        let path = Path::new("spec").child("healthCheckNodePort");
        errors.push(FieldError::forbidden(&path, "field is immutable"));
    }
    whole(&mut errors, new, Some(&old_spec));
    errors
}

fn spec_of(service: &Service) -> ServiceSpec {
    service.spec.clone().unwrap_or_default()
}

/// Whether the balancer has to ask nodes if they have a pod of the service.
pub(crate) fn needs_health_check(spec: &ServiceSpec) -> bool {
    text(&spec.type_) == "LoadBalancer" && text(&spec.external_traffic_policy) == "Local"
}

fn whole(errors: &mut ErrorList, service: &Service, old: Option<&ServiceSpec>) {
    let annotation = |key: &str| entry(&service.metadata.annotations, key);
    if let (Some(hints), Some(mode)) = (annotation(HINTS), annotation(MODE))
        && hints != mode
    {
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        let path = Path::new("metadata").child("annotations").key(MODE);
        errors.push(FieldError::invalid(&path, mode, &detail));
    }
    let (spec, path) = (&spec_of(service), Path::new("spec"));
    let kind = text(&spec.type_);
    let headless = addresses::is_headless(spec);
    if items(&spec.ports).is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required(&path.child("ports"), ""));
    }
    by_type(errors, spec, kind, headless, &path);
    ports(errors, spec, &path.child("ports"));
    meta::labels(errors, &spec.selector, &path.child("selector"));
    affinity(errors, spec, &path);
    if kind != "ExternalName" {
        addresses::cluster_ips(errors, spec, old, &path);
    }
    let old_ips: Vec<&str> = old
        .map(|old| {
            items(&old.external_ips)
                .iter()
                .map(String::as_str)
                .collect()
        })
        .unwrap_or_default();
    for (index, ip) in items(&spec.external_ips).iter().enumerate() {
        let path = path.child("externalIPs").index(index);
        let wrong = net::legacy_ip(&path, ip, &old_ips);
        if wrong.is_empty() {
            endpoint_ip(errors, ip, &path);
        }
        errors.extend(wrong);
    }
    required_one_of(
        errors,
        &path.child("type"),
        kind,
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    );
    port_clashes(errors, spec, kind, &path.child("ports"));
    source_ranges(errors, service, spec, old, &path);
    let allocate = path.child("allocateLoadBalancerNodePorts");
    match (kind, spec.allocate_load_balancer_node_ports) {
        ("LoadBalancer", None) => {
            let path = Path::new("allocateLoadBalancerNodePorts");
            errors.push(FieldError::required(&path, ""));
        }
        ("LoadBalancer", Some(_)) | (_, None) => {}
        (_, Some(_)) => errors.push(FieldError::forbidden(&allocate, NEEDS_BALANCER)),
    }
    balancer_class(errors, spec, &path.child("loadBalancerClass"));
    traffic(errors, spec, kind, &path);
}

fn by_type(errors: &mut ErrorList, spec: &ServiceSpec, kind: &str, headless: bool, path: &Path) {
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            let path = path.child("clusterIPs").index(0);
            errors.push(FieldError::invalid(&path, "None", &detail));
        }
        "ExternalName" => {
            for (name, there) in [
                ("clusterIPs", !items(&spec.cluster_ips).is_empty()),
                ("ipFamilies", !items(&spec.ip_families).is_empty()),
                ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
            ] {
                if there {
                    let detail = "may not be set for ExternalName services";
                    errors.push(FieldError::forbidden(&path.child(name), detail));
                }
            }
            let path = path.child("externalName");
            let name = text(&spec.external_name);
            match name.strip_suffix('.').unwrap_or(name) {
                "" => errors.push(FieldError::required(&path, "")),
                name => all_invalid(errors, &path, name, names::dns_subdomain(name)),
            }
        }
        _ => {}
    }
}

fn ports(errors: &mut ErrorList, spec: &ServiceSpec, path: &Path) {
    let ports = items(&spec.ports);
    let mut seen = BTreeSet::new();
    for (index, own) in ports.iter().enumerate() {
        let path = path.index(index);
        let (name, name_path) = (text(&own.name), path.child("name"));
        if !name.is_empty() {
            all_invalid(errors, &name_path, name, names::dns_label(name));
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(&name_path, name));
            }
        } else if ports.len() > 1 {
            errors.push(FieldError::required(&name_path, ""));
        }
        for message in names::port_number(own.port) {
            errors.push(FieldError::invalid(&path.child("port"), own.port, &message));
        }
        protocol(errors, text(&own.protocol), &path.child("protocol"));
        let target = own.target_port.clone().unwrap_or(IntOrString::Int(0));
        port(errors, &target, &path.child("targetPort"));
        if let Some(app) = &own.app_protocol {
            all_invalid(
                errors,
                &path.child("appProtocol"),
                app,
                names::qualified_name(app),
            );
        }
    }
}

fn port_clashes(errors: &mut ErrorList, spec: &ServiceSpec, kind: &str, path: &Path) {
    let ports = || items(&spec.ports).iter().enumerate();
    let node_port = |port: &ServicePort| port.node_port.unwrap_or(0);
    if kind == "ClusterIP" {
        for (index, _) in ports().filter(|(_, port)| node_port(port) != 0) {
            let path = path.index(index).child("nodePort");
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(&path, detail));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports().filter(|(_, port)| node_port(port) != 0) {
        if !seen.insert((text(&port.protocol), node_port(port))) {
            let path = path.index(index).child("nodePort");
            errors.push(FieldError::duplicate(&path, node_port(port)));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports() {
        if !seen.insert((text(&port.protocol), port.port)) {
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{},\"TargetPort\":0,\"NodePort\":0}}",
                json(text(&port.protocol)).0,
                port.port
            );
            errors.push(FieldError::duplicate(&path.index(index), Bare(shown)));
        }
    }
}

fn affinity(errors: &mut ErrorList, spec: &ServiceSpec, path: &Path) {
    let affinity = text(&spec.session_affinity);
    required_one_of(
        errors,
        &path.child("sessionAffinity"),
        affinity,
        &["ClientIP", "None"],
    );
    let path = path.child("sessionAffinityConfig");
    let config = spec.session_affinity_config.as_ref();
    if affinity == "None" && config.is_some() {
        let detail = "must not be set when session affinity is None";
        errors.push(FieldError::forbidden(&path, detail));
    }
    if affinity != "ClientIP" {
        return;
    }
    let missing =
        |path: &Path| FieldError::required(path, "when session affinity type is ClientIP");
    let Some(config) = config else {
        errors.push(missing(&path));
        return;
    };
    let path = path.child("clientIP");
    let Some(client) = &config.client_ip else {
        errors.push(missing(&path));
        return;
    };
    let path = path.child("timeoutSeconds");
    match client.timeout_seconds {
        None => errors.push(missing(&path)),
        Some(seconds) if !(1..=AFFINITY_MAX).contains(&seconds) => {
            let detail = format!("must be greater than 0 and less than {AFFINITY_MAX}");
            errors.push(FieldError::invalid(&path, seconds, &detail));
        }
        Some(_) => {}
    }
}

fn source_ranges(
    errors: &mut ErrorList,
    service: &Service,
    spec: &ServiceSpec,
    old: Option<&ServiceSpec>,
    path: &Path,
) {
    let ranges = items(&spec.load_balancer_source_ranges);
    let balancer = text(&spec.type_) == "LoadBalancer";
    if !ranges.is_empty() {
        let path = path.child("LoadBalancerSourceRanges");
        if !balancer {
            errors.push(FieldError::forbidden(&path, NEEDS_BALANCER));
        }
        let kept: Vec<&str> = old
            .map(|old| {
                items(&old.load_balancer_source_ranges)
                    .iter()
                    .map(|r| r.trim())
                    .collect()
            })
            .unwrap_or_default();
        for (index, range) in ranges.iter().enumerate() {
            errors.extend(net::legacy_cidr(&path.index(index), range.trim(), &kept));
        }
    } else if let Some(value) = entry(&service.metadata.annotations, SOURCE_RANGES) {
        let path = Path::new("metadata")
            .child("annotations")
            .key(SOURCE_RANGES);
        if !balancer {
            errors.push(FieldError::forbidden(&path, NEEDS_BALANCER));
        }
        if old.is_none() && !value.trim().is_empty() {
            for range in value.split(',') {
                errors.extend(net::legacy_cidr(&path, range.trim(), &[]));
            }
        }
    }
}

fn balancer_class(errors: &mut ErrorList, spec: &ServiceSpec, path: &Path) {
    if let Some(class) = &spec.load_balancer_class {
        if text(&spec.type_) == "LoadBalancer" {
            all_invalid(errors, path, class, names::qualified_name(class));
        } else {
            errors.push(FieldError::forbidden(path, NEEDS_BALANCER));
        }
    }
}

fn traffic(errors: &mut ErrorList, spec: &ServiceSpec, kind: &str, path: &Path) {
    let (policy, policy_path) = (
        text(&spec.external_traffic_policy),
        path.child("externalTrafficPolicy"),
    );
    if is_external(spec) {
        required_one_of(errors, &policy_path, policy, &["Cluster", "Local"]);
    } else if !policy.is_empty() {
        errors.push(FieldError::invalid(
            &policy_path,
            policy,
            "may only be set for externally-accessible services",
        ));
    }
    let (port, port_path) = (
        spec.health_check_node_port.unwrap_or(0),
        path.child("healthCheckNodePort"),
    );
    match (needs_health_check(spec), port) {
        (false, 0) => {}
        (false, port) => errors.push(FieldError::invalid(
            &port_path,
            port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        )),
        (true, 0) => errors.push(FieldError::required(&port_path, "")),
        (true, port) => {
            for message in names::port_number(port) {
                errors.push(FieldError::invalid(&port_path, port, &message));
            }
        }
    }
    let internal_path = path.child("internalTrafficPolicy");
    match &spec.internal_traffic_policy {
        None if matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") => {
            errors.push(FieldError::required(&internal_path, ""));
        }
        None => {}
        Some(policy) => one_of(errors, &internal_path, policy, &["Cluster", "Local"]),
    }
    if let Some(distribution) = &spec.traffic_distribution {
        one_of(
            errors,
            &path.child("trafficDistribution"),
            distribution,
            &["PreferClose", "PreferSameZone", "PreferSameNode"],
        );
    }
}

/// What is wrong with the new status of a Service.
#[must_use]
pub fn validate_service_status_update(new: &Service, old: &Service) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let ingress = |service: &Service| {
        let balancer = service
            .status
            .as_ref()
            .and_then(|status| status.load_balancer.clone());
        balancer
            .and_then(|balancer| balancer.ingress)
            .unwrap_or_default()
    };
    let (own, old) = (ingress(new), ingress(old));
    if text(&spec_of(new).type_) != "LoadBalancer" && !own.is_empty() {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(&path, detail));
        return errors;
    }
    let kept: Vec<&str> = old
        .iter()
        .map(|ingress| text(&ingress.ip))
        .filter(|ip| !ip.is_empty())
        .collect();
    for (index, ingress) in own.iter().enumerate() {
        let path = path.index(index);
        let (ip, mode_path) = (text(&ingress.ip), path.child("ipMode"));
        if !ip.is_empty() {
            errors.extend(net::legacy_ip(&path.child("ip"), ip, &kept));
        }
        match (&ingress.ip_mode, ip.is_empty()) {
            (None, false) => {
                let detail = "must be specified when `ip` is set";
                errors.push(FieldError::required(&mode_path, detail));
            }
            (Some(_), true) => {
                let detail = "may not be specified when `ip` is not set";
                errors.push(FieldError::forbidden(&mode_path, detail));
            }
            (Some(mode), false) => one_of(&mut errors, &mode_path, mode, &["Proxy", "VIP"]),
            (None, true) => {}
        }
        let (host, host_path) = (text(&ingress.hostname), path.child("hostname"));
        if !host.is_empty() {
            all_invalid(&mut errors, &host_path, host, names::dns_subdomain(host));
            if net::parse_sloppy(host).is_some() {
                let detail = "must be a DNS name, not an IP address";
                errors.push(FieldError::invalid(&host_path, host, detail));
            }
        }
    }
    errors
}

/// What the client is told about a Service.
#[must_use]
pub fn warnings_service(new: &Service, _old: Option<&Service>) -> Vec<String> {
    let mut warnings = Vec::new();
    let (spec, path) = (spec_of(new), Path::new("spec"));
    let kind = text(&spec.type_);
    if entry(&new.metadata.annotations, HINTS).is_some() {
        warnings.push(format!(
            "annotation {HINTS} is deprecated, please use {MODE} instead"
        ));
    }
    let ip = text(&spec.cluster_ip);
    if !ip.is_empty() && ip != "None" {
        for (index, ip) in items(&spec.cluster_ips).iter().enumerate() {
            warnings.extend(net::ip_warnings(&path.child("clusterIPs").index(index), ip));
        }
    }
    let external = items(&spec.external_ips);
    let headless = kind == "ClusterIP" && ip == "None";
    let mut say = |when: bool, message: &str| {
        if when {
            warnings.push(message.to_owned());
        }
    };
    let balancer_ip = text(&spec.load_balancer_ip);
    say(
        headless && !balancer_ip.is_empty(),
        "spec.loadBalancerIP is ignored for headless services",
    );
    say(
        headless && !external.is_empty(),
        "spec.externalIPs is ignored for headless services",
    );
    say(
        headless && text(&spec.session_affinity) != "None",
        "spec.SessionAffinity is ignored for headless services",
    );
    for (index, ip) in external.iter().enumerate() {
        warnings.extend(net::ip_warnings(
            &path.child("externalIPs").index(index),
            ip,
        ));
    }
    if !external.is_empty() && !headless && kind != "ExternalName" {
        warnings.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters"
                .into(),
        );
    }
    if !balancer_ip.is_empty() {
        warnings.extend(net::ip_warnings(&path.child("loadBalancerIP"), balancer_ip));
    }
    for (index, range) in items(&spec.load_balancer_source_ranges).iter().enumerate() {
        let path = path.child("loadBalancerSourceRanges").index(index);
        warnings.extend(net::cidr_warnings(&path, range));
    }
    if kind == "ExternalName" && !external.is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if kind != "ExternalName" && !text(&spec.external_name).is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if text(&spec.traffic_distribution) == "PreferClose" {
        warnings.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\""
                .into(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Service {
        let mut service: Service =
            serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec}))
                .unwrap_or_default();
        crate::defaults::core::default_service(&mut service);
        service
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn table() {
        let table: [(Value, &[&str]); 9] = [
            (json!({"ports": [{"port": 80}]}), &[]),
            (json!({"clusterIP": "None", "clusterIPs": ["None"]}), &[]),
            (json!({}), &["spec.ports: Required value"]),
            (
                json!({"ports": [{"port": 80}, {"port": 81, "name": "b"}]}),
                &["spec.ports[0].name: Required value"],
            ),
            (
                json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}),
                &[
                    "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
                ],
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": 30080}]}),
                &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
            ),
            (
                json!({"type": "ExternalName", "externalName": "db.example.com."}),
                &[],
            ),
            (
                json!({"type": "ExternalName"}),
                &["spec.externalName: Required value"],
            ),
            (
                json!({"ports": [{"port": 0}], "type": "Node"}),
                &[
                    "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.type: Unsupported value: \"Node\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
                ],
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(
                texts(&validate_service(&service(spec.clone()))),
                expected,
                "{spec}"
            );
        }
    }

    #[test]
    fn addresses_stay() {
        let of = |ip: &str| {
            service(json!({"ports": [{"port": 80}], "clusterIP": ip, "clusterIPs": [ip]}))
        };
        assert_eq!(
            texts(&validate_service_update(&of("10.96.0.2"), &of("10.96.0.1"))),
            ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.2\"]: may not change once set"]
        );
        assert!(validate_service_update(&of("10.96.0.1"), &of("10.96.0.1")).is_empty());
    }

    #[test]
    fn warnings() {
        let service = service(json!({"ports": [{"port": 80}], "externalName": "x"}));
        assert_eq!(
            warnings_service(&service, None),
            ["spec.externalName is ignored when spec.type is not \"ExternalName\""]
        );
    }
}
