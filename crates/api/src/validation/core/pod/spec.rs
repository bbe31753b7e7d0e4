//! The spec of a pod or a template, put together of its topics in upstream's order.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{HostAlias, PodDNSConfig, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::containers::{self, Surroundings, visit};
use super::rules::PodRules;
use super::{affinity, scheduling, security, volumes, windows};
use crate::defaults;
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{entry, items, set, text};
use crate::validation::core::resources::{Level, ResourceRules, is_hugepage, requirements};
use crate::validation::quantity::Amount;
use crate::validation::values::{all_invalid, json, one_of, required_one_of};
use crate::validation::{absent, meta as metadata, names, net};

const NAMESERVERS: usize = 3;
const SEARCHES: usize = 32;
const SEARCH_CHARACTERS: usize = 2048;

/// Everything a pod's spec is held to. `meta` is the pod's, not a template's.
pub(crate) fn spec(
    errors: &mut ErrorList,
    spec: &PodSpec,
    meta: Option<&ObjectMeta>,
    rules: &PodRules,
    path: &Path,
) {
    if spec.termination_grace_period_seconds.is_none() {
        let path = path.child("terminationGracePeriodSeconds");
        errors.push(FieldError::required(&path, ""));
    }
    let sound = volumes::volumes(
        errors,
        items(&spec.volumes),
        meta,
        rules,
        &path.child("volumes"),
    );
    let claims: BTreeSet<&str> = items(&spec.resource_claims)
        .iter()
        .map(|claim| claim.name.as_str())
        .filter(|name| !name.is_empty())
        .collect();
    let claims_path = path.child("resourceClaims");
    scheduling::claims(errors, items(&spec.resource_claims), meta, &claims_path);
    let around = Surroundings {
        rules,
        spec,
        volumes: &sound,
        claims: &claims,
    };
    containers::regular(errors, around, &path.child("containers"));
    containers::init(errors, around, &path.child("initContainers"));
    containers::ephemeral(errors, around, &path.child("ephemeralContainers"));
    if let Some(resources) = &spec.resources {
        pod_resources(
            errors,
            spec,
            resources,
            (rules, &claims),
            &path.child("resources"),
        );
    }
    containers::host_network_ports(errors, spec, rules, path);
    policies(errors, spec, path);
    if let Some(context) = &spec.security_context {
        security::pod(errors, context, spec, rules, &path.child("securityContext"));
    }
    if let Some(terms) = &spec.affinity {
        affinity::affinity(errors, terms, rules, &path.child("affinity"));
    }
    dns_config(errors, spec, &path.child("dnsConfig"));
    for (index, gate) in items(&spec.readiness_gates).iter().enumerate() {
        let path = path
            .child("readinessGates")
            .index(index)
            .child("conditionType");
        let wrong = names::qualified_name(&gate.condition_type);
        all_invalid(errors, &path, &gate.condition_type, wrong);
    }
    scheduling::gates(
        errors,
        items(&spec.scheduling_gates),
        &path.child("schedulingGates"),
    );
    let constraints = items(&spec.topology_spread_constraints);
    let spread_path = path.child("topologySpreadConstraints");
    scheduling::spread(errors, constraints, rules, &spread_path);
    windows::host_process(errors, spec, path);
    user_namespace(errors, spec, rules, path);
    hostname_override(errors, spec, path);
    simple_fields(errors, spec, rules, path);
    os(errors, spec, path);
    if let Some(group) = &spec.scheduling_group {
        scheduling::group(errors, group, &path.child("schedulingGroup"));
    }
    containers::file_key_volumes(errors, spec, path);
}

fn policies(errors: &mut ErrorList, spec: &PodSpec, path: &Path) {
    required_one_of(
        errors,
        &path.child("restartPolicy"),
        text(&spec.restart_policy),
        &["Always", "OnFailure", "Never"],
    );
    required_one_of(
        errors,
        &path.child("dnsPolicy"),
        text(&spec.dns_policy),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    metadata::labels(errors, &spec.node_selector, &path.child("nodeSelector"));
}

fn pod_resources(
    errors: &mut ErrorList,
    spec: &PodSpec,
    resources: &ResourceRequirements,
    (rules, claims): (&PodRules, &BTreeSet<&str>),
    path: &Path,
) {
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        errors.push(FieldError::forbidden(
            path,
            "may not be set for a windows pod",
        ));
        return;
    }
    if resources.claims.is_some() {
        errors.push(FieldError::forbidden(
            &path.child("claims"),
            "claims may not be set for Resources at pod-level",
        ));
    }
    let level = ResourceRules {
        level: Level::Pod,
        allow_partial_pages: rules.allow_partial_pages,
        pod_claims: claims,
    };
    requirements(errors, resources, level, path);
    consistency(errors, spec, resources, path);
}

/// The pod's resources are not less than its containers'.
fn consistency(
    errors: &mut ErrorList,
    spec: &PodSpec,
    resources: &ResourceRequirements,
    path: &Path,
) {
    for (name, total) in defaults::core::total_requests(spec) {
        if let Some(own) = entry(&resources.requests, &name)
            && total > Amount::of(own)
        {
            let detail = format!(
                "must be greater than or equal to aggregate container requests of {}",
                total.canonical()
            );
            let path = path.child("requests").key(&name);
            errors.push(FieldError::invalid(&path, &own.0, &detail));
        }
    }
    for (name, total) in defaults::core::total_limits(spec) {
        if let Some(own) = entry(&resources.limits, &name)
            && is_hugepage(&name)
            && total > Amount::of(own)
        {
            let detail = format!(
                "must be greater than or equal to aggregate container limits of {}",
                total.canonical()
            );
            let path = path.child("limits").key(&name);
            errors.push(FieldError::invalid(&path, &own.0, &detail));
        }
    }
    for (index, container) in spec.containers.iter().enumerate() {
        let Some(inner) = &container.resources else {
            continue;
        };
        for (name, limit) in absent::entries(&inner.limits) {
            if let Some(own) = entry(&resources.limits, name)
                && Amount::of(limit) > Amount::of(own)
            {
                let path = path
                    .child("containers")
                    .index(index)
                    .key(name)
                    .child("limits");
                let detail = format!("must be less than or equal to pod limits of {}", own.0);
                errors.push(FieldError::invalid(&path, &limit.0, &detail));
            }
        }
    }
}

fn dns_config(errors: &mut ErrorList, spec: &PodSpec, path: &Path) {
    let config = spec.dns_config.as_ref();
    let servers_path = path.child("nameservers");
    if text(&spec.dns_policy) == "None" {
        if config.is_none() {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(path, detail));
            return;
        }
        if config.is_some_and(|config| items(&config.nameservers).is_empty()) {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(&servers_path, detail));
            return;
        }
    }
    let Some(PodDNSConfig {
        nameservers,
        options,
        searches,
    }) = config
    else {
        return;
    };
    let (servers, searches) = (items(nameservers), items(searches));
    if servers.len() > NAMESERVERS {
        let detail = format!("must not have more than {NAMESERVERS} nameservers");
        errors.push(FieldError::invalid(&servers_path, json(servers), &detail));
    }
    for (index, server) in servers.iter().enumerate() {
        errors.extend(net::legacy_ip(&servers_path.index(index), server, &[]));
    }
    let searches_path = path.child("searches");
    if searches.len() > SEARCHES {
        let detail = format!("must not have more than {SEARCHES} search paths");
        errors.push(FieldError::invalid(&searches_path, json(searches), &detail));
    }
    if searches.join(" ").len() > SEARCH_CHARACTERS {
        let detail = format!(
            "must not have more than {SEARCH_CHARACTERS} characters (including spaces) in the search list"
        );
        errors.push(FieldError::invalid(&searches_path, json(searches), &detail));
    }
    for (index, search) in searches
        .iter()
        .enumerate()
        .filter(|(_, search)| *search != ".")
    {
        let search = search.strip_suffix('.').unwrap_or(search);
        let wrong = names::dns_subdomain_with_underscore(search);
        all_invalid(errors, &searches_path.index(index), search, wrong);
    }
    for (index, option) in items(options).iter().enumerate() {
        if text(&option.name).is_empty() {
            let path = path.child("options").index(index);
            errors.push(FieldError::required(&path, "must not be empty"));
        }
    }
}

fn user_namespace(errors: &mut ErrorList, spec: &PodSpec, rules: &PodRules, path: &Path) {
    const DETAIL: &str = "when `hostUsers` is false";
    if spec.host_users != Some(false) {
        return;
    }
    let network = set(spec.host_network) && !rules.allow_host_network_in_user_namespace;
    for (name, there) in [
        ("hostNetwork", network),
        ("HostPID", set(spec.host_pid)),
        ("HostIPC", set(spec.host_ipc)),
    ] {
        if there {
            errors.push(FieldError::forbidden(&path.child(name), DETAIL));
        }
    }
    if !rules.allow_devices_in_user_namespace {
        visit(spec, path, |container, path| {
            if !items(&container.volume_devices).is_empty() {
                errors.push(FieldError::forbidden(&path.child("volumeDevices"), DETAIL));
            }
        });
    }
}

fn hostname_override(errors: &mut ErrorList, spec: &PodSpec, path: &Path) {
    let Some(name) = &spec.hostname_override else {
        return;
    };
    let path = path.child("hostnameOverride");
    if set(spec.set_hostname_as_fqdn) {
        let detail = "may not be specified when setHostnameAsFQDN is true";
        errors.push(FieldError::forbidden(&path, detail));
    }
    if set(spec.host_network) {
        let detail = "may not be specified when hostNetwork is true";
        errors.push(FieldError::forbidden(&path, detail));
    }
    if name.len() > 64 {
        errors.push(FieldError::too_long(&path, 64));
    }
    all_invalid(errors, &path, name, names::dns_subdomain(name));
}

fn named(errors: &mut ErrorList, name: &Option<String>, judge: names::Rule, path: &Path) {
    let name = text(name);
    if !name.is_empty() {
        all_invalid(errors, path, name, judge(name));
    }
}

fn simple_fields(errors: &mut ErrorList, spec: &PodSpec, rules: &PodRules, path: &Path) {
    named(
        errors,
        &spec.service_account_name,
        names::dns_subdomain,
        &path.child("serviceAccountName"),
    );
    named(
        errors,
        &spec.node_name,
        names::dns_subdomain,
        &path.child("nodeName"),
    );
    if let Some(seconds) = spec.active_deadline_seconds {
        let most = i64::from(i32::MAX);
        if !(1..=most).contains(&seconds) {
            let path = path.child("activeDeadlineSeconds");
            errors.push(FieldError::invalid(
                &path,
                seconds,
                &names::range_error(1, most),
            ));
        }
    }
    named(
        errors,
        &spec.hostname,
        names::dns_label,
        &path.child("hostname"),
    );
    named(
        errors,
        &spec.subdomain,
        names::dns_label,
        &path.child("subdomain"),
    );
    let tolerations_path = path.child("tolerations");
    scheduling::tolerations(errors, items(&spec.tolerations), rules, &tolerations_path);
    host_aliases(
        errors,
        items(&spec.host_aliases),
        &path.child("hostAliases"),
    );
    let class_path = path.child("priorityClassName");
    named(
        errors,
        &spec.priority_class_name,
        names::dns_subdomain,
        &class_path,
    );
    if let Some(class) = &spec.runtime_class_name {
        all_invalid(
            errors,
            &path.child("runtimeClassName"),
            class,
            names::dns_subdomain(class),
        );
    }
    if let Some(policy) = &spec.preemption_policy {
        let path = path.child("preemptionPolicy");
        required_one_of(errors, &path, policy, &["PreemptLowerPriority", "Never"]);
    }
    if let Some(overhead) = &spec.overhead {
        overhead_of(
            errors,
            overhead,
            rules.allow_partial_pages,
            &path.child("overhead"),
        );
    }
}

/// What a pod costs beside its containers: a limit like theirs.
pub(crate) fn overhead_of(
    errors: &mut ErrorList,
    overhead: &std::collections::BTreeMap<
        String,
        k8s_openapi::apimachinery::pkg::api::resource::Quantity,
    >,
    allow_partial_pages: bool,
    path: &Path,
) {
    let resources = ResourceRequirements {
        limits: Some(overhead.clone()),
        ..ResourceRequirements::default()
    };
    let rules = ResourceRules {
        level: Level::Container,
        allow_partial_pages,
        pod_claims: &BTreeSet::new(),
    };
    requirements(errors, &resources, rules, path);
}

fn host_aliases(errors: &mut ErrorList, aliases: &[HostAlias], path: &Path) {
    for (index, alias) in aliases.iter().enumerate() {
        let path = path.index(index);
        errors.extend(net::legacy_ip(&path.child("ip"), &alias.ip, &[]));
        for (index, name) in items(&alias.hostnames).iter().enumerate() {
            let path = path.child("hostnames").index(index);
            all_invalid(errors, &path, name, names::dns_subdomain(name));
        }
    }
}

fn os(errors: &mut ErrorList, spec: &PodSpec, path: &Path) {
    let Some(os) = &spec.os else { return };
    let os_path = path.child("os");
    match os.name.as_str() {
        "" => errors.push(FieldError::required(&os_path.child("name"), "")),
        "linux" => windows::linux_pod(errors, spec, path),
        "windows" => windows::windows_pod(errors, spec, path),
        other => one_of(errors, &os_path, other, &["linux", "windows"]),
    }
}
