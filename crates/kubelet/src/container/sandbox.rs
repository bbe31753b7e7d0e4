//! What the runtime is told about a pod's sandbox.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use skiff_runtime::cri;

use crate::container::dns::Resolver;
use crate::container::hosts::HostName;
use crate::container::security;
use crate::pod::resources::{self, QosClass};
use crate::pod::spec;

/// The label with the pod's name.
pub const POD_NAME_LABEL: &str = "io.kubernetes.pod.name";
/// The label with the pod's namespace.
pub const POD_NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// The label with the pod's uid.
pub const POD_UID_LABEL: &str = "io.kubernetes.pod.uid";
/// The label with the container's name.
pub const CONTAINER_NAME_LABEL: &str = "io.kubernetes.container.name";

/// What is known about the node when a sandbox is made.
#[derive(Clone, Debug)]
pub struct SandboxPlace<'a> {
    /// Where the pod's logs go.
    pub log_directory: &'a str,
    /// The cgroup of all pods, in the notation of the runtime (`/kubepods`).
    pub cgroup_root: &'a str,
    /// Names.
    pub host_name: &'a HostName,
    /// Resolver.
    pub resolver: &'a Resolver,
}

/// The labels that find a pod's sandboxes and containers again.
#[must_use]
pub fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = HashMap::new();
    labels.insert(POD_NAME_LABEL.into(), spec::name(pod).into());
    labels.insert(POD_NAMESPACE_LABEL.into(), spec::namespace(pod).into());
    labels.insert(POD_UID_LABEL.into(), spec::uid(pod).into());
    labels
}

/// The cgroup of a pod below the root of all pods, by QoS class as upstream lays them out.
#[must_use]
pub fn pod_cgroup(pod: &Pod, root: &str) -> String {
    let uid = spec::uid(pod);
    match resources::qos_class(pod) {
        QosClass::Guaranteed => format!("{root}/pod{uid}"),
        QosClass::Burstable => format!("{root}/burstable/pod{uid}"),
        QosClass::BestEffort => format!("{root}/besteffort/pod{uid}"),
    }
}

/// The settings of the sandbox.
#[must_use]
pub fn config(pod: &Pod, attempt: u32, place: &SandboxPlace<'_>) -> cri::PodSandboxConfig {
    let mut labels: HashMap<String, String> = pod
        .metadata
        .labels
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    labels.extend(pod_labels(pod));
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let sysctls = spec::spec(pod)
        .security_context
        .as_ref()
        .and_then(|c| c.sysctls.as_ref())
        .into_iter()
        .flatten()
        .map(|s| (s.name.replace('/', "."), s.value.clone()));
    let on_host = spec::host_network(pod);
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: spec::name(pod).into(),
            uid: spec::uid(pod).into(),
            namespace: spec::namespace(pod).into(),
            attempt,
        }),
        // On the host's network the host keeps its name.
        hostname: if on_host {
            String::new()
        } else {
            place.host_name.kernel.clone()
        },
        log_directory: place.log_directory.to_owned(),
        dns_config: Some(cri::DnsConfig {
            servers: place.resolver.servers.clone(),
            searches: place.resolver.searches.clone(),
            options: place.resolver.options.clone(),
        }),
        port_mappings: port_mappings(pod),
        labels,
        annotations: annotations.into_iter().collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: pod_cgroup(pod, place.cgroup_root),
            security_context: Some(security::sandbox_context(pod)),
            sysctls: sysctls.collect(),
            overhead: None,
            resources: Some(pod_resources(pod)),
        }),
    }
}

/// The pod's resources as a whole, for its cgroup.
fn pod_resources(pod: &Pod) -> cri::LinuxContainerResources {
    let requests = resources::pod_requests(pod);
    let limits = resources::pod_limits(pod);
    let amount = |sums: &resources::Amounts, name| sums.get(name).copied().unwrap_or(0);
    cri::LinuxContainerResources {
        cpu_period: resources::CPU_PERIOD,
        cpu_quota: resources::cpu_quota(amount(&limits, "cpu")),
        cpu_shares: resources::cpu_shares(amount(&requests, "cpu")),
        memory_limit_in_bytes: amount(&limits, "memory"),
        ..Default::default()
    }
}

/// The ports of the host that lead into the pod.
fn port_mappings(pod: &Pod) -> Vec<cri::PortMapping> {
    if spec::host_network(pod) {
        return Vec::new();
    }
    let sidecars = spec::init_containers(pod)
        .iter()
        .filter(|c| spec::is_sidecar(c));
    let containers: Vec<&Container> = spec::containers(pod).iter().chain(sidecars).collect();
    let ports = containers
        .into_iter()
        .flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let host_port = port.host_port.filter(|p| *p > 0)?;
            Some(cri::PortMapping {
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => cri::Protocol::Udp as i32,
                    Some("SCTP") => cri::Protocol::Sctp as i32,
                    _ => cri::Protocol::Tcp as i32,
                },
                container_port: port.container_port,
                host_port,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ContainerPort, PodSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn pod(host_network: bool) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some("p".into()),
                uid: Some("u".into()),
                labels: Some([("app".into(), "x".into())].into()),
                ..Default::default()
            },
            spec: Some(PodSpec {
                host_network: Some(host_network),
                containers: vec![Container {
                    ports: Some(vec![
                        ContainerPort {
                            container_port: 80,
                            host_port: Some(8080),
                            ..Default::default()
                        },
                        ContainerPort {
                            container_port: 81,
                            ..Default::default()
                        },
                    ]),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn own_network_and_host_network() {
        let names = HostName {
            name: "p".into(),
            domain: String::new(),
            kernel: "p".into(),
        };
        let place = SandboxPlace {
            log_directory: "/logs",
            cgroup_root: "/kubepods",
            host_name: &names,
            resolver: &Resolver::default(),
        };
        let own = config(&pod(false), 2, &place);
        assert_eq!(own.hostname, "p");
        assert_eq!(own.port_mappings.len(), 1);
        assert_eq!(own.labels["app"], "x");
        assert_eq!(own.labels[POD_UID_LABEL], "u");
        assert_eq!(own.metadata.unwrap().attempt, 2);
        let linux = own.linux.unwrap();
        assert_eq!(linux.cgroup_parent, "/kubepods/besteffort/podu");
        let host = config(&pod(true), 0, &place);
        assert_eq!(host.hostname, "");
        assert!(host.port_mappings.is_empty());
        let options = host.linux.unwrap().security_context.unwrap();
        let options = options.namespace_options.unwrap();
        assert_eq!(options.network, cri::NamespaceMode::Node as i32);
    }
}
