//! What objects use up of a namespace's resource quotas, and whether there is enough.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, PodAffinityTerm, ResourceQuota, ResourceQuotaSpec,
    ScopedResourceSelectorRequirement, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod_resources::{self, Amounts};
use crate::validation::core::pod::qos_class;
use crate::validation::quantity::Amount;
use crate::{Object, ObjectExt};

const OF_CLASS: &str = ".storageclass.storage.k8s.io/";
/// What each container must ask for when a quota limits it.
const DEMANDED: [&str; 6] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];

/// The name under which objects of a resource are counted: `count/deployments.apps`.
#[must_use]
pub fn count_name(group: &str, plural: &str) -> String {
    if group.is_empty() {
        format!("count/{plural}")
    } else {
        format!("count/{plural}.{group}")
    }
}

/// Whether objects of the resource `plural` can use up what a quota calls `name`.
#[must_use]
pub fn tracks(group: &str, plural: &str, name: &str) -> bool {
    if name == count_name(group, plural) {
        return true;
    }
    match (group, plural) {
        ("", "pods") => {
            let requested = name.strip_prefix("requests.");
            matches!(name, "pods" | "cpu" | "memory" | "ephemeral-storage")
                || name.starts_with("hugepages-")
                || matches!(
                    name,
                    "limits.cpu" | "limits.memory" | "limits.ephemeral-storage"
                )
                || requested.is_some_and(|name| name != "storage")
        }
        ("", "services") => matches!(
            name,
            "services" | "services.nodeports" | "services.loadbalancers"
        ),
        ("", "persistentvolumeclaims") => {
            matches!(name, "persistentvolumeclaims" | "requests.storage") || name.contains(OF_CLASS)
        }
        ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => {
            name == plural
        }
        _ => false,
    }
}

/// What an object uses up.
#[must_use]
pub fn usage(group: &str, plural: &str, object: &dyn Object, now: Timestamp) -> Amounts {
    if let Some(pod) = object.downcast_ref::<Pod>() {
        return pod_usage(pod, now);
    }
    if let Some(service) = object.downcast_ref::<Service>() {
        return service_usage(service);
    }
    if let Some(claim) = object.downcast_ref::<PersistentVolumeClaim>() {
        return claim_usage(claim);
    }
    let mut used = one([count_name(group, plural)]);
    if tracks(group, plural, plural) {
        used.extend(one([plural.to_owned()]));
    }
    used
}

fn one(names: impl IntoIterator<Item = String>) -> Amounts {
    let names = names.into_iter();
    names.map(|name| (name, Amount::whole(1))).collect()
}

/// What a pod uses up: nothing but its number once it has ended, or once its end is overdue.
#[must_use]
pub fn pod_usage(pod: &Pod, now: Timestamp) -> Amounts {
    let mut used = one(["count/pods".to_owned()]);
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let meta = &pod.metadata;
    let overdue = match (&meta.deletion_timestamp, meta.deletion_grace_period_seconds) {
        (Some(since), Some(grace)) => now.as_second() > since.0.as_second().saturating_add(grace),
        _ => false,
    };
    let Some(spec) = &pod.spec else { return used };
    if matches!(phase, Some("Succeeded" | "Failed")) || overdue {
        return used;
    }
    used.extend(one(["pods".to_owned()]));
    let (mut requests, mut limits) = (pod_resources::requests(spec), pod_resources::limits(spec));
    for (name, quantity) in spec.overhead.iter().flatten() {
        let extra = Amount::of(quantity);
        let sum = requests.entry(name.clone()).or_insert(Amount::ZERO);
        *sum = sum.plus(extra);
        if let Some(sum) = limits.get_mut(name) {
            *sum = sum.plus(extra);
        }
    }
    for (name, amount) in requests {
        let own = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
            || name.starts_with("hugepages-");
        used.insert(format!("requests.{name}"), amount);
        if own {
            used.insert(name, amount);
        }
    }
    for (name, amount) in limits {
        used.insert(format!("limits.{name}"), amount);
    }
    used
}

/// What a service uses up.
#[must_use]
pub fn service_usage(service: &Service) -> Amounts {
    let mut used = one(["count/services".to_owned(), "services".to_owned()]);
    let Some(spec) = &service.spec else {
        return used;
    };
    let ports = spec.ports.iter().flatten();
    let given = ports
        .clone()
        .filter(|port| port.node_port.unwrap_or(0) != 0);
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let node_ports = match spec.type_.as_deref() {
        Some("NodePort") => ports.count(),
        Some("LoadBalancer") if spec.allocate_load_balancer_node_ports == Some(false) => {
            given.count()
        }
        Some("LoadBalancer") => ports.count(),
        _ => 0,
    };
    let number = |count: usize| Amount::whole(i64::try_from(count).unwrap_or(i64::MAX));
    used.insert("services.nodeports".to_owned(), number(node_ports));
    used.insert(
        "services.loadbalancers".to_owned(),
        number(usize::from(balanced)),
    );
    used
}

/// What a claim uses up.
#[must_use]
pub fn claim_usage(claim: &PersistentVolumeClaim) -> Amounts {
    let mut used = one([
        "count/persistentvolumeclaims".to_owned(),
        "persistentvolumeclaims".to_owned(),
    ]);
    let annotations = claim.metadata.annotations.as_ref();
    let spec = claim.spec.as_ref();
    let class = annotations
        .and_then(|all| all.get("volume.beta.kubernetes.io/storage-class"))
        .or_else(|| spec?.storage_class_name.as_ref())
        .filter(|class| !class.is_empty());
    if let Some(class) = class {
        used.extend(one([format!("{class}{OF_CLASS}persistentvolumeclaims")]));
    }
    let requests = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    if let Some(size) = requests.and_then(|requests| requests.get("storage")) {
        let size = Amount::of(size);
        used.insert("requests.storage".to_owned(), size);
        if let Some(class) = class {
            used.insert(format!("{class}{OF_CLASS}requests.storage"), size);
        }
    }
    used
}

/// Whether the quota's scopes take the object in. Only pods are in any scope.
#[must_use]
pub fn in_scope(spec: &ResourceQuotaSpec, pod: Option<&Pod>) -> bool {
    let selected = spec.scope_selector.iter();
    let selected = selected.flat_map(|selector| selector.match_expressions.iter().flatten());
    let mut scopes = spec.scopes.iter().flatten();
    match pod {
        None => scopes.next().is_none() && selected.count() == 0,
        Some(pod) => {
            scopes.all(|scope| is_of_scope(pod, scope)) && {
                let mut selected = selected;
                selected.all(|requirement| satisfies(pod, requirement))
            }
        }
    }
}

fn satisfies(pod: &Pod, requirement: &ScopedResourceSelectorRequirement) -> bool {
    if requirement.scope_name != "PriorityClass" {
        return is_of_scope(pod, &requirement.scope_name);
    }
    let class = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.priority_class_name.as_ref());
    let class = class.filter(|class| !class.is_empty());
    let listed = class.is_some_and(|class| requirement.values.iter().flatten().any(|v| v == class));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => class.is_some(),
        "DoesNotExist" => class.is_none(),
        _ => false,
    }
}

fn is_of_scope(pod: &Pod, scope: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let terminating = spec
        .active_deadline_seconds
        .is_some_and(|seconds| seconds >= 0);
    let best_effort = qos_class(spec) == "BestEffort";
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => spec
            .priority_class_name
            .as_ref()
            .is_some_and(|name| !name.is_empty()),
        "CrossNamespacePodAffinity" => affinity_terms(pod).into_iter().any(|term| {
            term.namespaces.iter().flatten().next().is_some() || term.namespace_selector.is_some()
        }),
        _ => false,
    }
}

fn affinity_terms(pod: &Pod) -> Vec<&PodAffinityTerm> {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let Some(affinity) = affinity else {
        return Vec::new();
    };
    let mut terms = Vec::new();
    if let Some(own) = &affinity.pod_affinity {
        terms.extend(
            own.required_during_scheduling_ignored_during_execution
                .iter()
                .flatten(),
        );
        let soft = own
            .preferred_during_scheduling_ignored_during_execution
            .iter()
            .flatten();
        terms.extend(soft.map(|weighted| &weighted.pod_affinity_term));
    }
    if let Some(own) = &affinity.pod_anti_affinity {
        terms.extend(
            own.required_during_scheduling_ignored_during_execution
                .iter()
                .flatten(),
        );
        let soft = own
            .preferred_during_scheduling_ignored_during_execution
            .iter()
            .flatten();
        terms.extend(soft.map(|weighted| &weighted.pod_affinity_term));
    }
    terms
}

/// What containers leave out although a quota limits it, in upstream's words.
#[must_use]
pub fn left_out<'a>(pod: &Pod, limited: impl Iterator<Item = &'a str>) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let whole = spec.resources.as_ref();
    if whole.is_some_and(|own| own.requests.is_some() || own.limits.is_some()) {
        return None;
    }
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in limited.filter(|name| DEMANDED.contains(name)) {
        for container in containers
            .clone()
            .filter(|container| !says(container, name))
        {
            missing.entry(name).or_default().insert(&container.name);
        }
    }
    if missing.is_empty() {
        return None;
    }
    let missing = missing.into_iter().map(|(name, containers)| {
        let containers = Vec::from_iter(containers);
        format!("{name} for: {}", containers.join(","))
    });
    Some(format!(
        "must specify {}",
        Vec::from_iter(missing).join("; ")
    ))
}

fn says(container: &Container, name: &str) -> bool {
    let resources = container.resources.as_ref();
    let (list, key) = match name.strip_prefix("limits.") {
        Some(key) => (resources.and_then(|own| own.limits.as_ref()), key),
        None => (
            resources.and_then(|own| own.requests.as_ref()),
            name.strip_prefix("requests.").unwrap_or(name),
        ),
    };
    list.is_some_and(|list| list.contains_key(key))
}

/// Adds to what is used of a quota, as far as it limits it, or says what there is not enough of.
///
/// # Errors
/// The refusal in upstream's words.
pub fn charge(quota: &mut ResourceQuota, more: &Amounts) -> Result<(), String> {
    let name = quota.metadata.name.clone().unwrap_or_default();
    let status = quota.status.get_or_insert_default();
    let hard = status.hard.clone().unwrap_or_default();
    let used = status.used.get_or_insert_default();
    let mut exceeded = [Vec::new(), Vec::new(), Vec::new()];
    for (resource, amount) in more {
        let Some(limit) = hard.get(resource) else {
            continue;
        };
        let before = used.get(resource).cloned();
        let sum = before
            .as_ref()
            .map_or(Amount::ZERO, Amount::of)
            .plus(*amount);
        if sum > Amount::of(limit) {
            let before = before.map_or_else(|| "0".to_owned(), |before| before.0);
            exceeded[0].push(format!("{resource}={}", amount.canonical()));
            exceeded[1].push(format!("{resource}={before}"));
            exceeded[2].push(format!("{resource}={}", limit.0));
        }
        used.insert(resource.clone(), Quantity(sum.canonical()));
    }
    if exceeded[0].is_empty() {
        return Ok(());
    }
    let [requested, used, limited] = exceeded.map(|list| list.join(","));
    Err(format!(
        "exceeded quota: {name}, requested: {requested}, used: {used}, limited: {limited}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn of<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn text(amounts: &Amounts) -> String {
        let all = amounts
            .iter()
            .map(|(name, amount)| format!("{name}={}", amount.canonical()));
        Vec::from_iter(all).join(" ")
    }

    #[test]
    fn what_objects_use() {
        let pod: Pod = of(
            json!({"spec": {"overhead": {"cpu": "1"}, "containers": [{"name": "c", "resources": {
            "requests": {"cpu": "1", "example.org/gpu": "2"}, "limits": {"memory": "1Gi"}}}]}}),
        );
        assert_eq!(
            text(&pod_usage(&pod, Timestamp::UNIX_EPOCH)),
            "count/pods=1 cpu=2 limits.memory=1Gi pods=1 requests.cpu=2 requests.example.org/gpu=2"
        );
        let mut ended = pod.clone();
        ended.status = of(json!({"phase": "Succeeded"}));
        assert_eq!(
            text(&pod_usage(&ended, Timestamp::UNIX_EPOCH)),
            "count/pods=1"
        );
        let mut overdue = pod.clone();
        overdue.metadata = of(
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}),
        );
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(pod_usage(&overdue, at("2026-01-01T00:00:30Z")).len(), 6);
        assert_eq!(pod_usage(&overdue, at("2026-01-01T00:00:31Z")).len(), 1);
        let service: Service =
            of(json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}}));
        assert_eq!(
            text(&service_usage(&service)),
            "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2"
        );
        let claim: PersistentVolumeClaim = of(
            json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}}),
        );
        let used = claim_usage(&claim);
        assert_eq!(
            used["gold.storageclass.storage.k8s.io/requests.storage"].canonical(),
            "1Gi"
        );
        for name in used.keys() {
            assert!(tracks("", "persistentvolumeclaims", name), "{name}");
        }
        for name in pod_usage(&pod, Timestamp::UNIX_EPOCH).keys() {
            assert!(tracks("", "pods", name), "{name}");
        }
    }

    #[test]
    fn scopes_take_pods_in() {
        let plain: Pod = of(json!({"spec": {"containers": []}}));
        let batch: Pod = of(
            json!({"spec": {"containers": [], "activeDeadlineSeconds": 5, "priorityClassName": "high"}}),
        );
        let spec = |value: Value| -> ResourceQuotaSpec { of(value) };
        let high = |operator: &str| {
            spec(json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]}}))
        };
        for (spec, in_plain, in_batch, in_others) in [
            (spec(json!({})), true, true, true),
            (spec(json!({"scopes": ["Terminating"]})), false, true, false),
            (
                spec(json!({"scopes": ["NotTerminating", "BestEffort"]})),
                true,
                false,
                false,
            ),
            (
                spec(json!({"scopes": ["NotBestEffort"]})),
                false,
                false,
                false,
            ),
            (high("In"), false, true, false),
            (high("NotIn"), true, false, false),
        ] {
            let found = [
                in_scope(&spec, Some(&plain)),
                in_scope(&spec, Some(&batch)),
                in_scope(&spec, None),
            ];
            assert_eq!(found, [in_plain, in_batch, in_others], "{spec:?}");
        }
    }

    #[test]
    fn charges_and_refusals() {
        let mut quota: ResourceQuota = of(json!({"metadata": {"name": "q"}, "status": {
            "hard": {"pods": "2", "cpu": "1"}, "used": {"pods": "1", "cpu": "600m"}}}));
        let more = |cpu: &str| {
            Amounts::from([
                ("cpu".to_owned(), Amount::parse(cpu).unwrap()),
                ("pods".to_owned(), Amount::whole(1)),
                ("memory".to_owned(), Amount::whole(1)),
            ])
        };
        assert_eq!(
            charge(&mut quota.clone(), &more("500m")).unwrap_err(),
            "exceeded quota: q, requested: cpu=500m, used: cpu=600m, limited: cpu=1"
        );
        charge(&mut quota, &more("400m")).unwrap();
        let used = quota.status.unwrap().used.unwrap();
        assert_eq!(
            (used["cpu"].0.as_str(), used["pods"].0.as_str(), used.len()),
            ("1", "2", 2)
        );
        let pod: Pod = of(json!({"spec": {"containers": [{"name": "b"}, {"name": "a"},
            {"name": "c", "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1"}}}]}}));
        assert_eq!(
            left_out(&pod, ["cpu", "limits.memory", "pods"].into_iter()).unwrap(),
            "must specify cpu for: a,b; limits.memory for: a,b"
        );
    }
}
