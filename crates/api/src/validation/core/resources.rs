//! Resource names, quantities, and what containers and pods ask for.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ResourceClaim, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{entries, entry, items, text};
use crate::validation::names;
use crate::validation::quantity::Amount;
use crate::validation::values::{NEGATIVE, all_invalid};

/// Counted things: a quota on them is a whole number.
const OBJECTS: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const MEASURED: [&str; 10] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

pub(crate) fn is_hugepage(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_quota_hugepage(name: &str) -> bool {
    is_hugepage(name) || name.starts_with("requests.hugepages-")
}

/// Whether quotas know the name.
pub(crate) fn is_standard_quota(name: &str) -> bool {
    OBJECTS.contains(&name) || MEASURED.contains(&name) || is_quota_hugepage(name)
}

fn is_standard(name: &str) -> bool {
    name == "storage" || is_standard_quota(name)
}

fn is_standard_for_containers(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_hugepage(name)
}

/// Whether the resource is Kubernetes' own.
pub(crate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether the resource is someone else's (`vendor.example/gpu`).
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether requests may be less than limits.
pub(crate) fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_hugepage(name)
}

/// A resource's name wherever one is written.
pub(crate) fn resource_name(errors: &mut ErrorList, name: &str, path: &Path) {
    let wrong = names::qualified_name(name);
    if !wrong.is_empty() {
        all_invalid(errors, path, name, wrong);
    } else if !name.contains('/') && !is_standard(name) {
        errors.push(FieldError::invalid(
            path,
            name,
            "must be a standard resource type or fully qualified",
        ));
    }
}

/// The name of a resource that a container may ask for.
pub(crate) fn container_resource_name(errors: &mut ErrorList, name: &str, path: &Path) {
    resource_name(errors, name, path);
    if !name.contains('/') {
        if !is_standard_for_containers(name) {
            errors.push(FieldError::invalid(
                path,
                name,
                "must be a standard resource for containers",
            ));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(FieldError::invalid(
            path,
            name,
            "doesn't follow extended resource name standard",
        ));
    }
}

fn pod_resource_name(errors: &mut ErrorList, name: &str, path: &Path) {
    let before = errors.len();
    resource_name(errors, name, path);
    if errors.len() == before && !matches!(name, "cpu" | "memory") && !is_hugepage(name) {
        errors.push(FieldError::not_supported(
            path,
            name,
            &["cpu", "hugepages-", "memory"],
        ));
    }
}

/// A quantity of a resource: not negative, and whole where the resource is counted.
pub(crate) fn resource_quantity(
    errors: &mut ErrorList,
    name: &str,
    quantity: &Quantity,
    path: &Path,
) {
    let amount = Amount::of(quantity);
    if amount.is_negative() {
        errors.push(FieldError::invalid(path, &quantity.0, NEGATIVE));
    }
    if (OBJECTS.contains(&name) || is_extended(name)) && amount.milli_value() % 1000 != 0 {
        errors.push(FieldError::invalid(path, &quantity.0, "must be an integer"));
    }
}

/// Whether the value is a multiple of the page size in the name.
pub(crate) fn is_whole_pages(name: &str, quantity: &Quantity) -> bool {
    let size = name
        .strip_prefix("hugepages-")
        .and_then(|size| Amount::parse(size).ok())
        .filter(|size| *size > Amount::ZERO && size.is_whole());
    size.is_some_and(|size| {
        Amount::of(quantity)
            .value()
            .checked_rem(size.value())
            .is_some_and(|rest| rest == 0)
    })
}

/// Whose resources are judged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// A container's.
    Container,
    /// A pod's as a whole.
    Pod,
}

/// What a judgement of resources needs to know besides.
#[derive(Clone, Copy)]
pub(crate) struct ResourceRules<'a> {
    pub level: Level,
    pub allow_partial_pages: bool,
    pub pod_claims: &'a BTreeSet<&'a str>,
}

type List = Option<BTreeMap<String, Quantity>>;

/// Limits, requests and claims of a container or a pod.
pub(crate) fn requirements(
    errors: &mut ErrorList,
    requirements: &ResourceRequirements,
    rules: ResourceRules<'_>,
    path: &Path,
) {
    let (limits, requests) = (&requirements.limits, &requirements.requests);
    let limits_path = path.child("limits");
    for (name, quantity) in entries(limits) {
        let path = limits_path.key(name);
        named(errors, name, quantity, rules, &path);
        pages(errors, name, quantity, rules, &path);
    }
    let requests_path = path.child("requests");
    for (name, quantity) in entries(requests) {
        let path = requests_path.key(name);
        named(errors, name, quantity, rules, &path);
        against_limit(
            errors,
            name,
            quantity,
            limits,
            (&limits_path, &requests_path),
        );
        pages(errors, name, quantity, rules, &path);
    }
    let any = |list: &List, what: fn(&str) -> bool| entries(list).any(|(name, _)| what(name));
    let compute = |name: &str| matches!(name, "cpu" | "memory");
    if !any(limits, compute)
        && !any(requests, compute)
        && (any(limits, is_hugepage) || any(requests, is_hugepage))
    {
        errors.push(FieldError::forbidden(
            path,
            "HugePages require cpu or memory",
        ));
    }
    claims(
        errors,
        items(&requirements.claims),
        rules.pod_claims,
        &path.child("claims"),
    );
}

fn named(
    errors: &mut ErrorList,
    name: &str,
    quantity: &Quantity,
    rules: ResourceRules<'_>,
    path: &Path,
) {
    match rules.level {
        Level::Container => container_resource_name(errors, name, path),
        Level::Pod => pod_resource_name(errors, name, path),
    }
    resource_quantity(errors, name, quantity, path);
}

fn pages(
    errors: &mut ErrorList,
    name: &str,
    quantity: &Quantity,
    rules: ResourceRules<'_>,
    path: &Path,
) {
    if is_hugepage(name) && !rules.allow_partial_pages && !is_whole_pages(name, quantity) {
        let detail = format!("{} is not positive integer multiple of {name}", quantity.0);
        errors.push(FieldError::invalid(path, &quantity.0, &detail));
    }
}

fn against_limit(
    errors: &mut ErrorList,
    name: &str,
    quantity: &Quantity,
    limits: &List,
    (limits_path, requests_path): (&Path, &Path),
) {
    let Some(limit) = entry(limits, name) else {
        if !may_overcommit(name) {
            errors.push(FieldError::required(
                limits_path,
                "Limit must be set for non overcommitable resources",
            ));
        }
        return;
    };
    let (request, most) = (Amount::of(quantity), Amount::of(limit));
    let relation = if request != most && !may_overcommit(name) {
        "equal to"
    } else if request > most {
        "less than or equal to"
    } else {
        return;
    };
    let detail = format!("must be {relation} {name} limit of {}", limit.0);
    errors.push(FieldError::invalid(requests_path, &quantity.0, &detail));
}

fn claims(
    errors: &mut ErrorList,
    claims: &[ResourceClaim],
    pod_claims: &BTreeSet<&str>,
    path: &Path,
) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (index, claim) in claims.iter().enumerate() {
        let path = path.index(index);
        let (name, request) = (claim.name.as_str(), text(&claim.request));
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
            continue;
        }
        if seen.contains(name) {
            errors.push(FieldError::duplicate(&path, name));
        } else {
            let key = if request.is_empty() {
                name.to_owned()
            } else {
                let path = path.child("request");
                all_invalid(errors, &path, request, names::dns_label(request));
                format!("{name}/{request}")
            };
            if seen.contains(&key) {
                errors.push(FieldError::duplicate(&path, &key));
            } else if request.is_empty() {
                let requests = seen
                    .iter()
                    .filter(|key| key.split_once('/').is_some_and(|(claim, _)| claim == name));
                for _ in requests {
                    errors.push(FieldError::duplicate(&path, name));
                }
            }
            seen.insert(key);
        }
        if !pod_claims.contains(name) {
            let known = pod_claims.iter().copied().collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {known}")
            };
            let mut error = FieldError::not_found(&path, name);
            error.body = format!(
                "{}: must be one of the names in pod.spec.resourceClaims{known}",
                error.body
            );
            errors.push(error);
        }
    }
}
