//! Which pods stand behind a Service, and on which ports: what Endpoints and EndpointSlices share.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skiff_client::selector::Labels;
use skiff_client::{Event, LabelMatcher, ObjectKey, SharedCache, Subscription, WorkQueue};

use crate::pods;
use crate::seen_pod::{Container, Pod};

/// The label of what belongs to a Service without an address of its own.
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// The selector of a Service that controllers make endpoints for; none for the others.
pub fn selector(service: &Service) -> Option<LabelMatcher> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().map(LabelMatcher::equal_to)
}

/// Whether the Service is reached by the addresses of its pods only.
pub fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"))
}

/// Whether a pod has addresses that somebody may be sent to.
pub fn is_reachable(pod: &Pod, include_terminating: bool) -> bool {
    !pods::is_terminal(pod)
        && !addresses(pod).is_empty()
        && (include_terminating || !pods::is_deleting(pod))
}

/// All addresses of a pod.
pub fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let all: Vec<&str> = status
        .pod_ips
        .iter()
        .flatten()
        .map(|found| found.ip.as_str())
        .collect();
    if all.is_empty() {
        return status
            .pod_ip
            .as_deref()
            .filter(|ip| !ip.is_empty())
            .into_iter()
            .collect();
    }
    all
}

/// The host name of a pod that the Service gives a DNS name to.
pub fn hostname<'a>(pod: &'a Pod, service: &Service) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_deref().filter(|name| !name.is_empty())?;
    (spec.subdomain == service.metadata.name
        && pod.metadata.namespace == service.metadata.namespace)
        .then_some(hostname)
}

/// The port of a pod that a Service's port leads to; none where the pod has no port of that name.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let protocol = |text: &Option<String>| text.clone().unwrap_or_else(|| "TCP".to_owned());
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .find(|found| {
            found.name.as_ref() == Some(name)
                && protocol(&found.protocol) == protocol(&port.protocol)
        })
        .map(|found| found.container_port)
}

/// The pods of the Service, in the order of their names.
pub fn pods_of(
    service: &Service,
    selector: &LabelMatcher,
    pods: &SharedCache<Pod>,
) -> Vec<Arc<Pod>> {
    let mut found = pods.list_in(service.metadata.namespace.as_deref().unwrap_or_default());
    found.retain(|pod| selector.matches(pod.metadata.labels.as_ref()));
    found
}

/// Queues Services that change, and those whose pods change in a way that endpoints show.
pub fn watch(
    services: &SharedCache<Service>,
    pods: &SharedCache<Pod>,
    queue: &WorkQueue<ObjectKey>,
) -> [Subscription; 2] {
    let on_service = {
        let queue = queue.clone();
        services.on_event(move |event| queue.add(ObjectKey::of(&event.object().metadata)))
    };
    let on_pod = {
        let (queue, services) = (queue.clone(), services.clone());
        pods.on_event(move |event| {
            let pod = event.object();
            let mut labels = vec![pod.metadata.labels.as_ref()];
            if let Event::Updated { old, new } = event {
                if facts(old) == facts(new) {
                    return;
                }
                labels.push(old.metadata.labels.as_ref());
            }
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            for service in services.list_in(namespace) {
                let matcher = selector(&service);
                let selected = |labels: &Option<&Labels>| {
                    matcher
                        .as_ref()
                        .is_some_and(|matcher| matcher.matches(*labels))
                };
                if labels.iter().any(selected) {
                    queue.add(ObjectKey::of(&service.metadata));
                }
            }
        })
    };
    [on_service, on_pod]
}

/// All of a pod that endpoints depend on.
fn facts(pod: &Pod) -> impl PartialEq {
    (
        pod.metadata.labels.clone(),
        pods::is_deleting(pod),
        pods::is_terminal(pod),
        pods::is_ready(pod),
        addresses(pod)
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>(),
        pods::node_name(pod).to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_by_number_name_and_protocol() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "a", "ports": [
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "containerPort": 5353, "protocol": "TCP"}]}],
            "initContainers": [
                {"name": "once", "ports": [{"name": "once", "containerPort": 1}]},
                {"name": "side", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 2}]}],
        }}))
        .unwrap();
        for (port, expected) in [
            (json!({"port": 80}), Some(80)),
            (json!({"port": 80, "targetPort": 8080}), Some(8080)),
            (
                json!({"port": 80, "targetPort": "dns", "protocol": "UDP"}),
                Some(53),
            ),
            (
                json!({"port": 80, "targetPort": "dns", "protocol": "TCP"}),
                None,
            ),
            (json!({"port": 80, "targetPort": "dns-tcp"}), Some(5353)),
            (json!({"port": 80, "targetPort": "once"}), None),
            (json!({"port": 80, "targetPort": "side"}), Some(2)),
        ] {
            let parsed: ServicePort = serde_json::from_value(port.clone()).unwrap();
            assert_eq!(target_port(&pod, &parsed), expected, "{port}");
        }
    }
}
