//! Defaults of Pods, pod templates and the specs in both.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, Pod, PodSpec, PodTemplate, PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::container::{
    default_container, default_ephemeral_container, default_resource_list, default_resources,
};
use super::volume::default_volume;
use crate::validation::absent::{count, default_text, default_value, entries, items, set, text};
use crate::validation::quantity::Amount;

type ResourceList = BTreeMap<String, Quantity>;

/// Annotations of long ago that the server no longer keeps.
const DROPPED_ANNOTATIONS: [&str; 4] = [
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];

fn drop_annotations(meta: &mut ObjectMeta) {
    if let Some(annotations) = &mut meta.annotations {
        annotations.retain(|key, _| !DROPPED_ANNOTATIONS.contains(&key.as_str()));
        if annotations.is_empty() {
            meta.annotations = None;
        }
    }
}

/// A Pod. Some defaults are for pods alone, not for templates: requests from limits, service links, host ports.
pub fn default_pod(pod: &mut Pod) {
    drop_annotations(&mut pod.metadata);
    let spec = pod.spec.get_or_insert_with(PodSpec::default);
    let containers = spec.containers.iter_mut();
    for container in containers.chain(spec.init_containers.iter_mut().flatten()) {
        requests_from_limits(container);
    }
    pod_level_hugepage_limits(spec);
    pod_level_requests(spec);
    default_value(&mut spec.enable_service_links, true);
    if set(spec.host_network) {
        let containers = spec.containers.iter_mut();
        for container in containers.chain(spec.init_containers.iter_mut().flatten()) {
            host_ports(container);
        }
    }
    default_pod_spec(spec);
    let status = pod.status.get_or_insert_with(Default::default);
    for statuses in [
        &mut status.init_container_statuses,
        &mut status.container_statuses,
        &mut status.ephemeral_container_statuses,
    ] {
        statuses
            .iter_mut()
            .flatten()
            .for_each(default_container_status);
    }
    default_resource_list(&mut status.allocated_resources);
    if let Some(resources) = &mut status.resources {
        default_resources(resources);
    }
}

/// A PodTemplate object.
pub fn default_pod_template(template: &mut PodTemplate) {
    default_pod_template_spec(template.template.get_or_insert_with(Default::default));
}

/// The template in a workload's spec.
pub fn default_pod_template_spec(template: &mut PodTemplateSpec) {
    drop_annotations(template.metadata.get_or_insert_with(Default::default));
    default_pod_spec(template.spec.get_or_insert_with(Default::default));
}

/// What pods and templates share.
pub fn default_pod_spec(spec: &mut PodSpec) {
    default_text(&mut spec.dns_policy, "ClusterFirst");
    default_text(&mut spec.restart_policy, "Always");
    default_value(&mut spec.security_context, Default::default());
    default_value(&mut spec.termination_grace_period_seconds, 30);
    default_text(&mut spec.scheduler_name, "default-scheduler");
    // The old and the new name of one field.
    if text(&spec.service_account_name).is_empty() {
        spec.service_account_name = spec.service_account.take();
    }
    spec.service_account = spec.service_account_name.clone();
    spec.volumes.iter_mut().flatten().for_each(default_volume);
    spec.init_containers
        .iter_mut()
        .flatten()
        .for_each(default_container);
    spec.containers.iter_mut().for_each(default_container);
    spec.ephemeral_containers
        .iter_mut()
        .flatten()
        .for_each(default_ephemeral_container);
    default_resource_list(&mut spec.overhead);
    if let Some(resources) = &mut spec.resources {
        default_resources(resources);
    }
}

fn default_container_status(status: &mut ContainerStatus) {
    default_value(&mut status.state, Default::default());
    default_value(&mut status.last_state, Default::default());
    default_resource_list(&mut status.allocated_resources);
    if let Some(resources) = &mut status.resources {
        default_resources(resources);
    }
}

fn requests_from_limits(container: &mut Container) {
    let Some(resources) = &mut container.resources else {
        return;
    };
    let Some(limits) = resources.limits.clone() else {
        return;
    };
    let requests = resources.requests.get_or_insert_with(BTreeMap::new);
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
    if requests.is_empty() {
        resources.requests = None;
    }
}

fn host_ports(container: &mut Container) {
    for port in container.ports.iter_mut().flatten() {
        if port.host_port.unwrap_or(0) == 0 {
            port.host_port = Some(port.container_port);
        }
    }
}

fn is_hugepage(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// The resources that a pod as a whole may ask for.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_hugepage(name)
}

fn add(total: &mut BTreeMap<String, Amount>, more: &BTreeMap<String, Amount>) {
    for (name, amount) in more {
        let sum = total
            .get(name)
            .copied()
            .unwrap_or(Amount::ZERO)
            .plus(*amount);
        total.insert(name.clone(), sum);
    }
}

fn raise(total: &mut BTreeMap<String, Amount>, other: BTreeMap<String, Amount>) {
    for (name, amount) in other {
        if total.get(&name).is_none_or(|current| *current < amount) {
            total.insert(name, amount);
        }
    }
}

/// What all containers need together: the sum of the running ones, or more where an init container needs more.
fn aggregate(
    spec: &PodSpec,
    list: impl Fn(&Container) -> &Option<ResourceList>,
) -> BTreeMap<String, Amount> {
    let amounts = |container: &Container| -> BTreeMap<String, Amount> {
        entries(list(container))
            .map(|(name, quantity)| (name.clone(), Amount::of(quantity)))
            .collect()
    };
    let mut total = BTreeMap::new();
    for container in &spec.containers {
        add(&mut total, &amounts(container));
    }
    let mut sidecars = BTreeMap::new();
    let mut init = BTreeMap::new();
    for container in items(&spec.init_containers) {
        let mut own = amounts(container);
        if text(&container.restart_policy) == "Always" {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut init, own);
    }
    raise(&mut total, init);
    total
}

/// What the containers of a pod request together.
pub(crate) fn total_requests(spec: &PodSpec) -> BTreeMap<String, Amount> {
    aggregate(spec, |container| {
        container
            .resources
            .as_ref()
            .map_or(&None, |resources| &resources.requests)
    })
}

/// What the containers of a pod are limited to together.
pub(crate) fn total_limits(spec: &PodSpec) -> BTreeMap<String, Amount> {
    aggregate(spec, |container| {
        container
            .resources
            .as_ref()
            .map_or(&None, |resources| &resources.limits)
    })
}

fn quantity(amount: Amount) -> Quantity {
    Quantity(amount.canonical())
}

/// Where a pod has resources of its own, its huge page limits are its containers' together.
fn pod_level_hugepage_limits(spec: &mut PodSpec) {
    let Some(resources) = &spec.resources else {
        return;
    };
    if count(&resources.limits) + count(&resources.requests) == 0 {
        return;
    }
    let total = total_limits(spec);
    let Some(resources) = &mut spec.resources else {
        return;
    };
    for (name, amount) in total {
        let requested = resources
            .requests
            .as_ref()
            .is_some_and(|list| list.contains_key(&name));
        if is_hugepage(&name) && !requested {
            let limits = resources.limits.get_or_insert_with(BTreeMap::new);
            limits.entry(name).or_insert_with(|| quantity(amount));
        }
    }
}

/// Where a pod has limits of its own, its requests are its containers' together, else its limits.
fn pod_level_requests(spec: &mut PodSpec) {
    let Some(limits) = spec
        .resources
        .as_ref()
        .and_then(|resources| resources.limits.clone())
        .filter(|limits| !limits.is_empty())
    else {
        return;
    };
    let total = total_requests(spec);
    let Some(resources) = &mut spec.resources else {
        return;
    };
    let mut requests = resources.requests.take().unwrap_or_default();
    for (name, amount) in total {
        if is_pod_level(&name) && !is_hugepage(&name) {
            requests.entry(name).or_insert_with(|| quantity(amount));
        }
    }
    for (name, limit) in limits {
        if is_pod_level(&name) {
            requests.entry(name).or_insert(limit);
        }
    }
    resources.requests = Some(requests).filter(|requests| !requests.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn defaulted(pod: Value) -> Value {
        let mut pod: Pod = serde_json::from_value(pod).unwrap_or_default();
        default_pod(&mut pod);
        let once = serde_json::to_value(&pod).unwrap_or_default();
        default_pod(&mut pod);
        assert_eq!(
            serde_json::to_value(&pod).unwrap_or_default(),
            once,
            "not idempotent"
        );
        once
    }

    #[test]
    fn a_small_pod() {
        let pod = defaulted(
            json!({"metadata": {"name": "web"}, "spec": {"containers": [{
            "name": "web", "image": "web:1", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}},
            "livenessProbe": {"httpGet": {"port": 80}}
        }], "volumes": [{"name": "work"}, {"name": "logs", "hostPath": {"path": "/var/log"}}]}}),
        );
        assert_eq!(
            pod["spec"],
            json!({
                "containers": [{
                    "name": "web", "image": "web:1", "imagePullPolicy": "IfNotPresent",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}},
                    "livenessProbe": {
                        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3
                    },
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"
                }],
                "volumes": [{"name": "work", "emptyDir": {}}, {"name": "logs", "hostPath": {"path": "/var/log", "type": ""}}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
                "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler", "enableServiceLinks": true
            })
        );
    }

    #[test]
    fn host_network_and_accounts() {
        let pod = defaulted(
            json!({"spec": {"hostNetwork": true, "serviceAccount": "robot",
            "containers": [{"name": "a", "image": "a", "ports": [{"containerPort": 80}]}]}}),
        );
        assert_eq!(pod["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(pod["spec"]["serviceAccountName"], "robot");
    }

    #[test]
    fn requests_of_the_whole_pod() {
        let pod = defaulted(json!({"spec": {
        "resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
        "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1500m"}}}],
        "containers": [
            {"name": "a", "resources": {"requests": {"cpu": "500m"}}},
            {"name": "b", "resources": {"requests": {"cpu": "250m"}}}
        ]}}));
        assert_eq!(
            pod["spec"]["resources"]["requests"],
            json!({"cpu": "1500m", "memory": "1Gi"})
        );
    }
}
