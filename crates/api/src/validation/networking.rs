//! NetworkPolicies, Ingresses and IngressClasses.

use k8s_openapi::api::core::v1::TypedLocalObjectReference;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, IPBlock, Ingress, IngressBackend, IngressClass,
    IngressClassParametersReference, IngressLoadBalancerIngress, IngressRule,
    IngressServiceBackend, IngressTLS, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::absent::{entry, items, text};
use super::meta::{SelectorRules, has_invalid_value, label_selector};
use super::names;
use super::net::{Network, cidr_warnings, legacy_cidr, legacy_ip, parse_sloppy};
use super::values::{all_invalid, domain_prefixed_path, immutable, json, one_of, required};
use crate::field::{ErrorList, FieldError, Path};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// What an old policy had wrong and may keep.
#[derive(Default)]
struct PolicyRules<'a> {
    selectors: SelectorRules,
    ranges: Vec<&'a str>,
}

/// What is wrong with a new NetworkPolicy, its metadata aside.
#[must_use]
pub fn validate_network_policy(policy: &NetworkPolicy) -> ErrorList {
    policy_errors(policy, &PolicyRules::default())
}

/// What is wrong with a changed NetworkPolicy, its metadata aside.
#[must_use]
pub fn validate_network_policy_update(new: &NetworkPolicy, old: &NetworkPolicy) -> ErrorList {
    let selector = old
        .spec
        .as_ref()
        .and_then(|spec| spec.pod_selector.as_ref());
    let mut rules = PolicyRules::default();
    rules.selectors.allow_invalid_values = selector.is_some_and(has_invalid_value);
    for (_, block) in blocks(old) {
        rules.ranges.push(&block.cidr);
        rules
            .ranges
            .extend(items(&block.except).iter().map(String::as_str));
    }
    policy_errors(new, &rules)
}

/// Warnings about ranges that are not written as they should be.
#[must_use]
pub fn warnings_network_policy(policy: &NetworkPolicy) -> Vec<String> {
    let mut warnings = Vec::new();
    for (path, block) in blocks(policy) {
        warnings.extend(cidr_warnings(&path.child("cidr"), &block.cidr));
        for (index, except) in items(&block.except).iter().enumerate() {
            warnings.extend(cidr_warnings(&path.child("except").index(index), except));
        }
    }
    warnings
}

type Rule<'a> = (
    Path,
    &'a [NetworkPolicyPort],
    &'static str,
    &'a [NetworkPolicyPeer],
);

/// The rules of both directions: where they are, their ports, what their peers are called, and these.
fn rules(policy: &NetworkPolicy) -> Vec<Rule<'_>> {
    let Some(spec) = &policy.spec else {
        return Vec::new();
    };
    let path = Path::new("spec");
    let inward = items(&spec.ingress)
        .iter()
        .enumerate()
        .map(|(index, rule)| {
            let path = path.child("ingress").index(index);
            (path, items(&rule.ports), "from", items(&rule.from))
        });
    let outward = items(&spec.egress).iter().enumerate().map(|(index, rule)| {
        let path = path.child("egress").index(index);
        (path, items(&rule.ports), "to", items(&rule.to))
    });
    inward.chain(outward).collect()
}

fn blocks(policy: &NetworkPolicy) -> Vec<(Path, &IPBlock)> {
    let mut found = Vec::new();
    for (path, _, name, peers) in rules(policy) {
        for (index, peer) in peers.iter().enumerate() {
            if let Some(block) = &peer.ip_block {
                found.push((path.child(name).index(index).child("ipBlock"), block));
            }
        }
    }
    found
}

fn policy_errors(policy: &NetworkPolicy, allowed: &PolicyRules<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(spec) = &policy.spec else {
        return errors;
    };
    let path = Path::new("spec");
    label_selector(
        &mut errors,
        spec.pod_selector.as_ref(),
        allowed.selectors,
        &path.child("podSelector"),
    );
    for (path, ports, name, peers) in rules(policy) {
        for (index, port) in ports.iter().enumerate() {
            policy_port(&mut errors, port, &path.child("ports").index(index));
        }
        for (index, peer) in peers.iter().enumerate() {
            policy_peer(&mut errors, peer, allowed, &path.child(name).index(index));
        }
    }
    let types = items(&spec.policy_types);
    let path = path.child("policyTypes");
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid(&path, json(types), detail));
        return errors;
    }
    for (index, name) in types.iter().enumerate() {
        one_of(
            &mut errors,
            &path.index(index),
            name,
            &["Ingress", "Egress"],
        );
    }
    errors
}

fn policy_port(errors: &mut ErrorList, port: &NetworkPolicyPort, path: &Path) {
    if let Some(protocol) = &port.protocol {
        let known = ["TCP", "UDP", "SCTP"];
        one_of(errors, &path.child("protocol"), protocol, &known);
    }
    let (port_path, end_path) = (path.child("port"), path.child("endPort"));
    let number = |errors: &mut ErrorList, path: &Path, number: i32| {
        for message in names::port_number(number) {
            errors.push(FieldError::invalid(path, number, &message));
        }
    };
    let mut misplaced = |end: Option<i32>, detail: &str| {
        if let Some(end) = end {
            errors.push(FieldError::invalid(&end_path, end, detail));
        }
    };
    match &port.port {
        None => misplaced(
            port.end_port,
            "may not be specified when `port` is not specified",
        ),
        Some(IntOrString::String(name)) => {
            misplaced(
                port.end_port,
                "may not be specified when `port` is non-numeric",
            );
            all_invalid(errors, &port_path, name, names::port_name(name));
        }
        Some(IntOrString::Int(first)) => {
            number(errors, &port_path, *first);
            if let Some(end) = port.end_port {
                if end < *first {
                    let detail = "must be greater than or equal to `port`";
                    errors.push(FieldError::invalid(&end_path, *first, detail));
                }
                number(errors, &end_path, end);
            }
        }
    }
}

fn policy_peer(
    errors: &mut ErrorList,
    peer: &NetworkPolicyPeer,
    allowed: &PolicyRules<'_>,
    path: &Path,
) {
    let selectors = [
        ("podSelector", &peer.pod_selector),
        ("namespaceSelector", &peer.namespace_selector),
    ];
    let mut found = 0;
    for (name, selector) in selectors {
        found += usize::from(selector.is_some());
        label_selector(
            errors,
            selector.as_ref(),
            allowed.selectors,
            &path.child(name),
        );
    }
    if let Some(block) = &peer.ip_block {
        ip_block(errors, block, &allowed.ranges, &path.child("ipBlock"));
        if found > 0 {
            let detail = "may not specify both ipBlock and another peer";
            errors.push(FieldError::forbidden(path, detail));
        }
    } else if found == 0 {
        errors.push(FieldError::required(path, "must specify a peer"));
    }
}

fn ip_block(errors: &mut ErrorList, block: &IPBlock, kept: &[&str], path: &Path) {
    let cidr_path = path.child("cidr");
    if block.cidr.is_empty() {
        errors.push(FieldError::required(&cidr_path, ""));
        return;
    }
    errors.extend(legacy_cidr(&cidr_path, &block.cidr, kept));
    let Some(whole) = Network::parse(&block.cidr) else {
        return;
    };
    for (index, except) in items(&block.except).iter().enumerate() {
        let path = path.child("except").index(index);
        errors.extend(legacy_cidr(&path, except, kept));
        let Some(part) = Network::parse(except) else {
            continue;
        };
        if !whole.contains(part.base()) || whole.prefix >= part.prefix {
            let detail = "must be a strict subset of `cidr`";
            errors.push(FieldError::invalid(&path, except, detail));
        }
    }
}

/// What an old Ingress had wrong and may keep.
#[derive(Clone, Copy, Default)]
struct IngressRules {
    secret_names: bool,
    wildcard_rules: bool,
}

/// What is wrong with a new Ingress, its metadata aside.
#[must_use]
pub fn validate_ingress(ingress: &Ingress) -> ErrorList {
    let mut errors = ingress_errors(ingress, IngressRules::default());
    let class = ingress
        .spec
        .as_ref()
        .and_then(|spec| spec.ingress_class_name.as_ref());
    if let (Some(annotation), Some(class)) = (
        entry(&ingress.metadata.annotations, CLASS_ANNOTATION),
        class,
    ) && annotation != class
    {
        let path = Path::new("annotations").child(CLASS_ANNOTATION);
        let detail = "must match `ingressClassName` when both are specified";
        errors.push(FieldError::invalid(&path, annotation, detail));
    }
    errors
}

/// What is wrong with a changed Ingress, its metadata aside.
#[must_use]
pub fn validate_ingress_update(new: &Ingress, old: &Ingress) -> ErrorList {
    let mut rules = IngressRules::default();
    if let Some(spec) = &old.spec {
        rules.secret_names = items(&spec.tls)
            .iter()
            .any(|tls| !secret_name(text(&tls.secret_name)).is_empty());
        rules.wildcard_rules = items(&spec.rules).iter().any(|rule| {
            let mut errors = ErrorList::new();
            rule_value(&mut errors, rule.http.as_ref(), &Path::new(""));
            text(&rule.host).contains('*') && !errors.is_empty()
        });
    }
    ingress_errors(new, rules)
}

/// What is wrong with an Ingress whose status changed.
#[must_use]
pub fn validate_ingress_status_update(new: &Ingress, old: &Ingress) -> ErrorList {
    let mut errors = ErrorList::new();
    let kept: Vec<&str> = balancers(old).iter().map(|one| text(&one.ip)).collect();
    let path = Path::new("status").child("loadBalancer").child("ingress");
    for (index, balancer) in balancers(new).iter().enumerate() {
        let path = path.index(index);
        let (ip, host) = (text(&balancer.ip), text(&balancer.hostname));
        if !ip.is_empty() {
            errors.extend(legacy_ip(&path.child("ip"), ip, &kept));
        }
        if !host.is_empty() {
            let path = path.child("hostname");
            all_invalid(&mut errors, &path, host, names::dns_subdomain(host));
            not_an_address(&mut errors, host, &path);
        }
    }
    errors
}

/// Warnings about a new Ingress.
#[must_use]
pub fn warnings_ingress(new: &Ingress, old: Option<&Ingress>) -> Vec<String> {
    let class = new
        .spec
        .as_ref()
        .and_then(|spec| spec.ingress_class_name.as_ref());
    let annotated = entry(&new.metadata.annotations, CLASS_ANNOTATION).is_some();
    if old.is_some() || !annotated || class.is_some() {
        return Vec::new();
    }
    vec![format!(
        "annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead"
    )]
}

fn balancers(ingress: &Ingress) -> &[IngressLoadBalancerIngress] {
    let status = ingress.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    balancer.map_or(&[], |balancer| items(&balancer.ingress))
}

fn not_an_address(errors: &mut ErrorList, host: &str, path: &Path) {
    if parse_sloppy(host).is_some() {
        let detail = "must be a DNS name, not an IP address";
        errors.push(FieldError::invalid(path, host, detail));
    }
}

/// A host, or all hosts of a domain.
fn host_name(errors: &mut ErrorList, host: &str, path: &Path) {
    let wrong = if host.contains('*') {
        names::wildcard_subdomain(host)
    } else {
        names::dns_subdomain(host)
    };
    all_invalid(errors, path, host, wrong);
}

fn secret_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        Vec::new()
    } else {
        names::dns_subdomain(name)
    }
}

fn ingress_errors(ingress: &Ingress, rules: IngressRules) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let spec = ingress.spec.clone().unwrap_or_default();
    if items(&spec.rules).is_empty() && spec.default_backend.is_none() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(&path, json(&spec.rules), detail));
    }
    if let Some(found) = &spec.default_backend {
        backend(&mut errors, found, &path.child("defaultBackend"));
    }
    for (index, rule) in items(&spec.rules).iter().enumerate() {
        ingress_rule(&mut errors, rule, rules, &path.child("rules").index(index));
    }
    for (index, tls) in items(&spec.tls).iter().enumerate() {
        ingress_tls(&mut errors, tls, rules, &path.child("tls").index(index));
    }
    if let Some(class) = &spec.ingress_class_name {
        let path = path.child("ingressClassName");
        all_invalid(&mut errors, &path, class, names::dns_subdomain(class));
    }
    errors
}

fn ingress_tls(errors: &mut ErrorList, tls: &IngressTLS, rules: IngressRules, path: &Path) {
    for (index, host) in items(&tls.hosts).iter().enumerate() {
        host_name(errors, host, &path.child("hosts").index(index));
    }
    let name = text(&tls.secret_name);
    if !rules.secret_names {
        all_invalid(errors, &path.child("secretName"), name, secret_name(name));
    }
}

fn ingress_rule(errors: &mut ErrorList, rule: &IngressRule, rules: IngressRules, path: &Path) {
    let host = text(&rule.host);
    if !host.is_empty() {
        let path = path.child("host");
        not_an_address(errors, host, &path);
        host_name(errors, host, &path);
    }
    if !(rules.wildcard_rules && host.contains('*')) {
        rule_value(errors, rule.http.as_ref(), path);
    }
}

fn rule_value(errors: &mut ErrorList, http: Option<&HTTPIngressRuleValue>, path: &Path) {
    let Some(http) = http else { return };
    let path = path.child("http").child("paths");
    if http.paths.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    for (index, found) in http.paths.iter().enumerate() {
        http_path(errors, found, &path.index(index));
    }
}

fn http_path(errors: &mut ErrorList, found: &HTTPIngressPath, path: &Path) {
    let type_path = path.child("pathType");
    let (target, target_path) = (text(&found.path), path.child("path"));
    let mut wrong = |detail: &str| errors.push(FieldError::invalid(&target_path, target, detail));
    match found.path_type.as_str() {
        "" => {
            errors.push(FieldError::required(
                &type_path,
                "pathType must be specified",
            ));
            return;
        }
        "Exact" | "Prefix" => {
            if !target.starts_with('/') {
                wrong("must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if target.contains(part) {
                    wrong(&format!("must not contain '{part}'"));
                }
            }
            for end in ["/..", "/."] {
                if target.ends_with(end) {
                    wrong(&format!("cannot end with '{end}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !target.is_empty() && !target.starts_with('/') {
                wrong("must be an absolute path");
            }
        }
        other => {
            let known = ["Exact", "ImplementationSpecific", "Prefix"];
            errors.push(FieldError::not_supported(&type_path, other, &known));
        }
    }
    backend(errors, &found.backend, &path.child("backend"));
}

fn backend(errors: &mut ErrorList, backend: &IngressBackend, path: &Path) {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => {
            let detail = "cannot set both resource and service backends";
            errors.push(FieldError::invalid(path, "", detail));
        }
        (Some(resource), None) => local_reference(errors, resource, &path.child("resource")),
        (None, Some(service)) => service_backend(errors, service, path),
        (None, None) => {
            let detail = "resource or service backend is required";
            errors.push(FieldError::invalid(path, "", detail));
        }
    }
}

fn service_backend(errors: &mut ErrorList, service: &IngressServiceBackend, path: &Path) {
    let inner = path.child("service");
    let name_path = inner.child("name");
    if service.name.is_empty() {
        errors.push(FieldError::required(&name_path, ""));
    } else {
        all_invalid(
            errors,
            &name_path,
            &service.name,
            names::dns_label(&service.name),
        );
    }
    let port = service.port.clone().unwrap_or_default();
    let (name, number) = (text(&port.name), port.number.unwrap_or(0));
    let inner = inner.child("port");
    match (name.is_empty(), number) {
        (true, 0) => errors.push(FieldError::required(
            path,
            "port name or number is required",
        )),
        (true, _) => {
            for message in names::port_number(number) {
                errors.push(FieldError::invalid(
                    &inner.child("number"),
                    number,
                    &message,
                ));
            }
        }
        (false, 0) => all_invalid(errors, &inner.child("name"), name, names::port_name(name)),
        (false, _) => {
            let detail = "cannot set both port name & port number";
            errors.push(FieldError::invalid(path, "", detail));
        }
    }
}

fn group_kind_name(
    errors: &mut ErrorList,
    (group, kind, name): (Option<&String>, &str, &str),
    path: &Path,
) {
    if let Some(group) = group {
        all_invalid(
            errors,
            &path.child("apiGroup"),
            group,
            names::dns_subdomain(group),
        );
    }
    for (field, value) in [("kind", kind), ("name", name)] {
        let path = path.child(field);
        required(errors, &path, value);
        all_invalid(errors, &path, value, names::path_segment(value));
    }
}

fn local_reference(errors: &mut ErrorList, to: &TypedLocalObjectReference, path: &Path) {
    group_kind_name(errors, (to.api_group.as_ref(), &to.kind, &to.name), path);
}

/// What is wrong with a new IngressClass, its metadata aside.
#[must_use]
pub fn validate_ingress_class(class: &IngressClass) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let spec = class.spec.clone().unwrap_or_default();
    let controller = text(&spec.controller);
    let controller_path = path.child("controller");
    if controller.len() > 250 {
        errors.push(FieldError::too_long(&controller_path, 250));
    }
    domain_prefixed_path(&mut errors, controller, &controller_path);
    if let Some(parameters) = &spec.parameters {
        class_parameters(&mut errors, parameters, &path.child("parameters"));
    }
    errors
}

/// What is wrong with a changed IngressClass, its metadata aside: the controller stays.
#[must_use]
pub fn validate_ingress_class_update(new: &IngressClass, old: &IngressClass) -> ErrorList {
    let mut errors = ErrorList::new();
    let controller = |class: &IngressClass| {
        let spec = class.spec.as_ref();
        spec.and_then(|spec| spec.controller.clone())
            .unwrap_or_default()
    };
    let path = Path::new("spec").child("controller");
    let (now, before) = (controller(new), controller(old));
    immutable(&mut errors, &path, &now, &before, &now);
    errors.extend(validate_ingress_class(new));
    errors
}

fn class_parameters(errors: &mut ErrorList, to: &IngressClassParametersReference, path: &Path) {
    group_kind_name(errors, (to.api_group.as_ref(), &to.kind, &to.name), path);
    let (scope_path, space_path) = (path.child("scope"), path.child("namespace"));
    match to.scope.as_deref() {
        None => errors.push(FieldError::required(&scope_path, "")),
        Some("Namespace") => match &to.namespace {
            None => errors.push(FieldError::required(
                &space_path,
                "`parameters.scope` is set to 'Namespace'",
            )),
            Some(space) => all_invalid(errors, &space_path, space, names::dns_label(space)),
        },
        Some("Cluster") => {
            if to.namespace.is_some() {
                let detail = "`parameters.scope` is set to 'Cluster'";
                errors.push(FieldError::forbidden(&space_path, detail));
            }
        }
        Some(other) => one_of(errors, &scope_path, other, &["Cluster", "Namespace"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn of<T: DeserializeOwned>(spec: &Value) -> T {
        serde_json::from_value(json!({"metadata": {"name": "x"}, "spec": spec})).unwrap()
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn policies() {
        let cases = [
            (
                json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}, "namespaceSelector": {}},
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": 80, "endPort": 90, "protocol": "TCP"}]}]}),
                vec![],
            ),
            (
                json!({"podSelector": {"matchLabels": {"a": "-"}}, "ingress": [{"from": [{}, {"podSelector": {}, "ipBlock": {"cidr": ""}}]}],
                    "egress": [{"ports": [{"protocol": "ICMP"}, {"endPort": 1}, {"port": "web", "endPort": 1}, {"port": 9, "endPort": 8}]}]}),
                vec![
                    "spec.podSelector.matchLabels: Invalid value: \"-\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                    "spec.ingress[0].from[0]: Required value: must specify a peer",
                    "spec.ingress[0].from[1].ipBlock.cidr: Required value",
                    "spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
                    "spec.egress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
                    "spec.egress[0].ports[1].endPort: Invalid value: 1: may not be specified when `port` is not specified",
                    "spec.egress[0].ports[2].endPort: Invalid value: 1: may not be specified when `port` is non-numeric",
                    "spec.egress[0].ports[3].endPort: Invalid value: 9: must be greater than or equal to `port`",
                ],
            ),
            (
                json!({"podSelector": {}, "policyTypes": ["Both"], "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}),
                vec![
                    "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                    "spec.policyTypes[0]: Unsupported value: \"Both\": supported values: \"Ingress\", \"Egress\"",
                ],
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(texts(&validate_network_policy(&of(&spec))), expected);
        }
        let odd: NetworkPolicy = of(
            &json!({"podSelector": {}, "egress": [{"to": [{"ipBlock": {"cidr": "010.0.0.0/8"}}]}]}),
        );
        assert_eq!(validate_network_policy(&odd).len(), 1);
        assert_eq!(texts(&validate_network_policy_update(&odd, &odd)), [""; 0]);
        assert_eq!(warnings_network_policy(&odd).len(), 1);
    }

    #[test]
    fn ingresses() {
        let service = |port: Value| json!({"service": {"name": "s", "port": port}});
        let paths = |path: &str, kind: &str| json!({"rules": [{"host": "*.example.org", "http": {"paths": [{"path": path, "pathType": kind, "backend": service(json!({"number": 80}))}]}}]});
        let cases = [
            (paths("/a", "Prefix"), vec![]),
            (
                json!({}),
                vec![
                    "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified",
                ],
            ),
            (
                paths("a//../", "Exact"),
                vec![
                    "spec.rules[0].http.paths[0].path: Invalid value: \"a//../\": must be an absolute path",
                    "spec.rules[0].http.paths[0].path: Invalid value: \"a//../\": must not contain '//'",
                    "spec.rules[0].http.paths[0].path: Invalid value: \"a//../\": must not contain '/../'",
                ],
            ),
            (
                paths("/", ""),
                vec![
                    "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
                ],
            ),
            (
                paths("/", "Regex"),
                vec![
                    "spec.rules[0].http.paths[0].pathType: Unsupported value: \"Regex\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
                ],
            ),
            (
                json!({"defaultBackend": service(json!({"number": 80, "name": "web"})), "rules": [{"host": "10.0.0.1"}, {"http": {"paths": []}}]}),
                vec![
                    "spec.defaultBackend: Invalid value: \"\": cannot set both port name & port number",
                    "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
                    "spec.rules[1].http.paths: Required value",
                ],
            ),
            (
                json!({"defaultBackend": {"service": {"name": ""}}}),
                vec![
                    "spec.defaultBackend.service.name: Required value",
                    "spec.defaultBackend: Required value: port name or number is required",
                ],
            ),
            (
                json!({"defaultBackend": {"resource": {"kind": "K", "name": "a/b"}}}),
                vec![
                    "spec.defaultBackend.resource.name: Invalid value: \"a/b\": may not contain '/'",
                ],
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(texts(&validate_ingress(&of(&spec))), expected);
        }
        let mut both: Ingress =
            of(&json!({"ingressClassName": "a", "defaultBackend": service(json!({"number": 80}))}));
        let annotations = both.metadata.annotations.get_or_insert_default();
        annotations.insert(CLASS_ANNOTATION.to_owned(), "b".to_owned());
        assert_eq!(
            texts(&validate_ingress(&both)),
            [
                "annotations.kubernetes.io/ingress.class: Invalid value: \"b\": must match `ingressClassName` when both are specified"
            ]
        );
        assert!(validate_ingress_update(&both, &both).is_empty());
        both.spec.get_or_insert_default().ingress_class_name = None;
        assert_eq!(warnings_ingress(&both, None).len(), 1);
    }

    #[test]
    fn classes() {
        let class = |controller: &str, parameters: Value| -> IngressClass {
            of(&json!({"controller": controller, "parameters": parameters}))
        };
        let good = class(
            "example.org/c",
            json!({"kind": "K", "name": "n", "scope": "Cluster"}),
        );
        assert_eq!(texts(&validate_ingress_class(&good)), [""; 0]);
        let bad = class("c", json!({"kind": "", "name": "n", "scope": "Namespace"}));
        assert_eq!(
            texts(&validate_ingress_class_update(&bad, &good)),
            [
                "spec.controller: Invalid value: \"c\": field is immutable",
                "spec.controller: Invalid value: \"c\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                "spec.parameters.kind: Required value",
                "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
            ]
        );
    }
}
