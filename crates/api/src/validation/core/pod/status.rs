//! The status of a pod, as the kubelet and the scheduler write it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, Pod, PodExtendedResourceClaimStatus, PodSpec, PodStatus,
    ResourceStatus,
};

use super::update::{annotation_changes, rules_after, spec_of};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{entry, items, text};
use crate::validation::core::resources::is_native;
use crate::validation::quantity::Amount;
use crate::validation::values::{Bare, all_invalid, immutable, json, one_of};
use crate::validation::{names, net};

const RESURRECTED: &str = "may not be transitioned to non-terminated state";
const NATURAL: &str = "must be a non-negative integer";

/// What is wrong with the new status of a Pod, its metadata aside.
#[must_use]
pub fn validate_pod_status_update(new: &Pod, old: &Pod) -> ErrorList {
    let mut errors = ErrorList::new();
    annotation_changes(&mut errors, new, old, &rules_after(old));
    let (spec, old_spec) = (spec_of(new), spec_of(old));
    let (none, path) = (PodStatus::default(), Path::new("status"));
    let status = new.status.as_ref().unwrap_or(&none);
    let old_status = old.status.as_ref().unwrap_or(&none);
    conditions(&mut errors, status, &path.child("conditions"));
    if text(&spec.node_name) != text(&old_spec.node_name) {
        let path = path.child("nodeName");
        errors.push(FieldError::forbidden(&path, "may not be changed directly"));
    }
    nominated_node(&mut errors, status, old_status, &old_spec, &path);
    let generation = status.observed_generation.unwrap_or(0);
    if generation < 0 {
        errors.push(FieldError::invalid(
            &path.child("observedGeneration"),
            generation,
            NATURAL,
        ));
    }
    let (class, old_class) = (text(&status.qos_class), text(&old_status.qos_class));
    immutable(
        &mut errors,
        &path.child("qosClass"),
        &class,
        &old_class,
        class,
    );
    transitions(&mut errors, status, old_status, &old_spec, &path);
    claims(
        &mut errors,
        status,
        &spec,
        &path.child("resourceClaimStatuses"),
    );
    if let Some(claim) = &status.extended_resource_claim_status {
        extended_claim(
            &mut errors,
            claim,
            &spec,
            &path.child("extendedResourceClaimStatus"),
        );
    }
    allocatable_claims(&mut errors, status, &spec, &path);
    addresses(&mut errors, status, old_status, &path);
    users(&mut errors, status, &spec, &path);
    allocated(&mut errors, status, &spec, &path);
    errors
}

fn conditions(errors: &mut ErrorList, status: &PodStatus, path: &Path) {
    for (index, condition) in items(&status.conditions).iter().enumerate() {
        let path = path.index(index);
        let generation = condition.observed_generation.unwrap_or(0);
        if generation < 0 {
            errors.push(FieldError::invalid(
                &path.child("observedGeneration"),
                generation,
                NATURAL,
            ));
        }
        let kind = &condition.type_;
        if !matches!(kind.as_str(), "PodScheduled" | "Ready" | "Initialized") {
            all_invalid(
                errors,
                &path.child("Type"),
                kind,
                names::qualified_name(kind),
            );
        }
    }
}

fn nominated_node(
    errors: &mut ErrorList,
    status: &PodStatus,
    old: &PodStatus,
    old_spec: &PodSpec,
    path: &Path,
) {
    let (node, path) = (
        text(&status.nominated_node_name),
        path.child("nominatedNodeName"),
    );
    if node.is_empty() || node == text(&old.nominated_node_name) {
        return;
    }
    all_invalid(errors, &path, node, names::dns_subdomain(node));
    if !text(&old_spec.node_name).is_empty() {
        let detail = "may not be set on pods that are already bound to a node";
        errors.push(FieldError::forbidden(&path, detail));
    }
}

/// Containers that ended do not come back, unless a policy lets them.
fn transitions(
    errors: &mut ErrorList,
    new: &PodStatus,
    old: &PodStatus,
    spec: &PodSpec,
    path: &Path,
) {
    let all_may = spec
        .containers
        .iter()
        .chain(items(&spec.init_containers))
        .flat_map(|container| items(&container.restart_policy_rules))
        .any(|rule| rule.action == "RestartAllContainers");
    let restarts = |containers: &[Container], name: &str, code: i32| {
        let container = containers.iter().find(|container| container.name == name);
        all_may || container.is_some_and(|container| may_restart(container, spec, code))
    };
    for (name, new, old, containers) in [
        (
            "containerStatuses",
            &new.container_statuses,
            &old.container_statuses,
            spec.containers.as_slice(),
        ),
        (
            "initContainerStatuses",
            &new.init_container_statuses,
            &old.init_container_statuses,
            items(&spec.init_containers),
        ),
    ] {
        transition(
            errors,
            items(new),
            items(old),
            &path.child(name),
            |name, code| restarts(containers, name, code),
        );
    }
    transition(
        errors,
        items(&new.ephemeral_container_statuses),
        items(&old.ephemeral_container_statuses),
        &path.child("ephemeralContainerStatuses"),
        |_, _| false,
    );
}

fn transition(
    errors: &mut ErrorList,
    new: &[ContainerStatus],
    old: &[ContainerStatus],
    path: &Path,
    may: impl Fn(&str, i32) -> bool,
) {
    let ended = |status: &ContainerStatus| {
        status
            .state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
            .map(|end| end.exit_code)
    };
    for (index, before) in old.iter().enumerate() {
        let Some(code) = ended(before) else { continue };
        let back = new
            .iter()
            .any(|after| after.name == before.name && ended(after).is_none());
        if back && !may(&before.name, code) {
            errors.push(FieldError::forbidden(
                &path.index(index).child("state"),
                RESURRECTED,
            ));
        }
    }
}

fn may_restart(container: &Container, spec: &PodSpec, code: i32) -> bool {
    if container.restart_policy.is_some() {
        let rule = items(&container.restart_policy_rules).iter().find(|rule| {
            rule.exit_codes.as_ref().is_some_and(|codes| {
                let listed = items(&codes.values).contains(&code);
                match codes.operator.as_str() {
                    "In" => listed,
                    "NotIn" => !listed,
                    _ => false,
                }
            })
        });
        if rule.is_some_and(|rule| rule.action.starts_with("Restart")) {
            return true;
        }
    }
    let policy = container
        .restart_policy
        .as_deref()
        .unwrap_or(text(&spec.restart_policy));
    match policy {
        "OnFailure" => code != 0,
        "Never" => false,
        _ => true,
    }
}

fn claims(errors: &mut ErrorList, status: &PodStatus, spec: &PodSpec, path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, claim) in items(&status.resource_claim_statuses).iter().enumerate() {
        let path = path.index(index);
        if !items(&spec.resource_claims)
            .iter()
            .any(|known| known.name == claim.name)
        {
            errors.push(FieldError::invalid(
                &path.child("name"),
                &claim.name,
                "must match the name of an entry in `spec.resourceClaims`",
            ));
        }
        if !seen.insert(claim.name.as_str()) {
            errors.push(FieldError::duplicate(&path.child("name"), &claim.name));
        }
        if let Some(name) = &claim.resource_claim_name {
            all_invalid(
                errors,
                &path.child("resourceClaimName"),
                name,
                names::dns_subdomain(name),
            );
        }
    }
}

fn extended_claim(
    errors: &mut ErrorList,
    status: &PodExtendedResourceClaimStatus,
    spec: &PodSpec,
    path: &Path,
) {
    let containers: BTreeMap<&str, &Container> = items(&spec.init_containers)
        .iter()
        .chain(&spec.containers)
        .map(|container| (container.name.as_str(), container))
        .collect();
    let mappings = path.child("requestMappings");
    if status.request_mappings.is_empty() {
        let detail = "at least one request mapping is required";
        errors.push(FieldError::required(&mappings, detail));
    }
    let mut seen = BTreeSet::new();
    for (index, mapping) in status.request_mappings.iter().enumerate() {
        let item = mappings.index(index);
        let (container, resource) = (&mapping.container_name, &mapping.resource_name);
        let request = &mapping.request_name;
        let requests = containers.get(container.as_str()).map(|container| {
            container
                .resources
                .as_ref()
                .and_then(|r| entry(&r.requests, resource))
                .is_some()
        });
        match requests {
            None => errors.push(FieldError::invalid(
                &item.child("containerName"),
                container,
                "must match the name of an entry in spec.initContainers.name or spec.containers.name",
            )),
            Some(false) => errors.push(FieldError::invalid(
                &item.child("resourceName"),
                resource,
                "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests",
            )),
            Some(true) => {}
        }
        all_invalid(
            errors,
            &path.child("requestName"),
            request,
            names::dns_label(request),
        );
        if !seen.insert((container, resource, request)) {
            for (name, value) in [
                ("containerName", container),
                ("resourceName", resource),
                ("requestName", request),
            ] {
                errors.push(FieldError::duplicate(&item.child(name), value));
            }
        }
    }
    let (name, name_path) = (&status.resource_claim_name, path.child("resourceClaimName"));
    if name.is_empty() {
        errors.push(FieldError::required(&name_path, ""));
    } else {
        all_invalid(errors, &name_path, name, names::dns_subdomain(name));
    }
}

fn allocatable_claims(errors: &mut ErrorList, status: &PodStatus, spec: &PodSpec, path: &Path) {
    let path = path.child("nodeAllocatableResourceClaimStatuses");
    let known: BTreeSet<&str> = items(&spec.resource_claims)
        .iter()
        .filter_map(|claim| claim.resource_claim_name.as_deref())
        .chain(
            items(&status.resource_claim_statuses)
                .iter()
                .filter_map(|claim| claim.resource_claim_name.as_deref()),
        )
        .collect();
    let claims = items(&status.node_allocatable_resource_claim_statuses);
    for (index, claim) in claims.iter().enumerate() {
        let path = path.index(index);
        let (name, name_path) = (
            claim.resource_claim_name.as_str(),
            path.child("resourceClaimName"),
        );
        if name.is_empty() {
            errors.push(FieldError::required(&name_path, "must not be empty"));
        }
        if !known.contains(name) {
            let detail = "no mapping found in pod reference";
            errors.push(FieldError::invalid(&name_path, name, detail));
        }
        if items(&claim.containers).is_empty() {
            errors.push(FieldError::required(
                &path.child("containers"),
                "must not be empty",
            ));
        }
        let resources = path.child("resources");
        if claim.resources.is_empty() {
            errors.push(FieldError::required(&resources, "must not be empty"));
        }
        for (name, quantity) in &claim.resources {
            let path = resources.key(name);
            if !is_native(name) {
                let detail = "must be a node allocatable resource name";
                errors.push(FieldError::invalid(&path, name, detail));
            }
            if Amount::of(quantity).is_negative() {
                errors.push(FieldError::invalid(
                    &path,
                    &quantity.0,
                    "must be non-negative",
                ));
            }
        }
    }
}

fn addresses(errors: &mut ErrorList, status: &PodStatus, old: &PodStatus, path: &Path) {
    let pod: Vec<&str> = items(&status.pod_ips)
        .iter()
        .map(|ip| ip.ip.as_str())
        .collect();
    let old_pod: Vec<&str> = items(&old.pod_ips)
        .iter()
        .map(|ip| ip.ip.as_str())
        .collect();
    one_per_family(errors, &pod, &old_pod, &path.child("podIPs"));
    let host: Vec<&str> = items(&status.host_ips)
        .iter()
        .map(|ip| ip.ip.as_str())
        .collect();
    let old_host: Vec<&str> = items(&old.host_ips)
        .iter()
        .map(|ip| ip.ip.as_str())
        .collect();
    let path = path.child("hostIPs");
    if let Some(first) = host.first()
        && *first != text(&status.host_ip)
    {
        let path = path.index(0).child("ip");
        errors.push(FieldError::invalid(
            &path,
            *first,
            "must be equal to `hostIP`",
        ));
    }
    one_per_family(errors, &host, &old_host, &path);
}

fn one_per_family(errors: &mut ErrorList, ips: &[&str], old: &[&str], path: &Path) {
    for (index, ip) in ips.iter().enumerate() {
        errors.extend(net::legacy_ip(&path.index(index), ip, old));
    }
    if ips.len() < 2 {
        return;
    }
    let families: BTreeSet<Option<bool>> = ips
        .iter()
        .map(|ip| net::parse_sloppy(ip).map(|ip| ip.is_ipv4()))
        .collect();
    if ips.len() > 2 || families.len() < 2 || families.contains(&None) {
        let shown: Vec<String> = ips
            .iter()
            .map(|ip| format!("{{\"IP\":{}}}", json(ip).0))
            .collect();
        errors.push(FieldError::invalid(
            path,
            Bare(format!("[{}]", shown.join(","))),
            "may specify no more than one IP for each IP family",
        ));
    }
}

fn status_lists(status: &PodStatus) -> [(&'static str, &[ContainerStatus]); 3] {
    [
        ("containerStatuses", items(&status.container_statuses)),
        (
            "initContainerStatuses",
            items(&status.init_container_statuses),
        ),
        (
            "ephemeralContainerStatuses",
            items(&status.ephemeral_container_statuses),
        ),
    ]
}

fn users(errors: &mut ErrorList, status: &PodStatus, spec: &PodSpec, path: &Path) {
    let windows = spec.os.as_ref().is_some_and(|os| os.name == "windows");
    for (name, statuses) in status_lists(status) {
        for (index, container) in statuses.iter().enumerate() {
            let user = container.user.as_ref().and_then(|user| user.linux.as_ref());
            let Some(user) = user else { continue };
            let path = path.child(name).index(index).child("user").child("linux");
            if windows {
                errors.push(FieldError::forbidden(
                    &path,
                    "cannot be set for a windows pod",
                ));
                continue;
            }
            let mut id = |path: &Path, id: i64| {
                for message in names::user_id(id) {
                    errors.push(FieldError::invalid(path, id, &message));
                }
            };
            id(&path.child("uid"), user.uid);
            id(&path.child("gid"), user.gid);
            for (index, group) in items(&user.supplemental_groups).iter().enumerate() {
                id(&path.child("supplementalGroups").index(index), *group);
            }
        }
    }
}

fn allocated(errors: &mut ErrorList, status: &PodStatus, spec: &PodSpec, path: &Path) {
    for (name, statuses) in status_lists(status) {
        let containers = match name {
            "containerStatuses" => spec.containers.as_slice(),
            "initContainerStatuses" => items(&spec.init_containers),
            _ => &[],
        };
        for (index, status) in statuses.iter().enumerate() {
            let path = path
                .child(name)
                .index(index)
                .child("allocatedResourcesStatus");
            let resources = items(&status.allocated_resources_status);
            if name == "ephemeralContainerStatuses" {
                if !resources.is_empty() {
                    let detail = "must not be specified in container status";
                    errors.push(FieldError::forbidden(&path, detail));
                }
                continue;
            }
            let container = containers
                .iter()
                .find(|container| container.name == status.name);
            for (index, resource) in resources.iter().enumerate() {
                allocated_resource(errors, resource, container, &path.index(index));
            }
        }
    }
}

fn allocated_resource(
    errors: &mut ErrorList,
    resource: &ResourceStatus,
    container: Option<&Container>,
    path: &Path,
) {
    const MESSAGE_MAX: usize = 1024;
    if let Some(container) = container {
        let resources = container.resources.clone().unwrap_or_default();
        let (found, detail) = match resource.name.strip_prefix("claim:") {
            Some(name) => (
                items(&resources.claims)
                    .iter()
                    .any(|claim| match text(&claim.request) {
                        "" => claim.name == name,
                        request => format!("{}/{request}", claim.name) == name,
                    }),
                "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
            ),
            None => (
                entry(&resources.requests, &resource.name).is_some(),
                "must match one of the container's resource requests",
            ),
        };
        if !found {
            errors.push(FieldError::invalid(
                &path.child("name"),
                &resource.name,
                detail,
            ));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, health) in items(&resource.resources).iter().enumerate() {
        let path = path.child("resources").index(index);
        one_of(
            errors,
            &path.child("health"),
            text(&health.health),
            &["Healthy", "Unhealthy", "Unknown"],
        );
        match health.message.as_deref() {
            Some("") => errors.push(FieldError::required(
                &path.child("message"),
                "must be non-empty if specified",
            )),
            Some(message) if message.len() > MESSAGE_MAX => {
                errors.push(FieldError::too_long(&path.child("message"), MESSAGE_MAX));
            }
            _ => {}
        }
        if !seen.insert(health.resource_id.as_str()) {
            errors.push(FieldError::duplicate(
                &path.child("resourceID"),
                &health.resource_id,
            ));
        }
    }
}
