//! What every part of one kubelet shares.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use skiff_base::{Random, SharedClock};
use skiff_runtime::cri;

use crate::cgroups::PodCgroups;
use crate::cluster::{Cluster, Notice, container_path, pod_reference};
use crate::config::KubeletConfig;
use crate::container::dns;
use crate::container::fields::Facts;
use crate::container::hosts::{self, HostName};
use crate::container::sandbox::{self, SandboxPlace};
use crate::images::Images;
use crate::node::machine::Machine;
use crate::pod::resources::{self, LinuxResources};
use crate::pod::spec::{self, Kind};
use crate::runtime::Runtime;
use crate::volumes::mounter::Mounter;

/// What every part of one kubelet shares.
pub struct Context {
    /// Settings.
    pub config: KubeletConfig,
    /// The API.
    pub cluster: Arc<dyn Cluster>,
    /// The runtime.
    pub runtime: Runtime,
    /// The runtime's name, as container ids carry it.
    pub runtime_name: String,
    /// Images.
    pub images: Images,
    /// Mounts.
    pub mounter: Arc<dyn Mounter>,
    /// Control groups of pods.
    pub cgroups: Arc<dyn PodCgroups>,
    /// Time.
    pub clock: SharedClock,
    /// Randomness.
    pub random: Random,
    /// The machine.
    pub machine: Machine,
}

impl Context {
    /// Tells people something about a pod.
    pub fn pod_event(&self, pod: &Pod, warning: bool, reason: &str, message: impl Into<String>) {
        self.cluster.notify(Notice {
            about: pod_reference(pod, None),
            warning,
            reason: reason.to_owned(),
            message: message.into(),
        });
    }

    /// Tells people something about a container.
    pub fn container_event(
        &self,
        pod: &Pod,
        (kind, name): (Kind, &str),
        warning: bool,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.cluster.notify(Notice {
            about: pod_reference(pod, Some(container_path(kind, name))),
            warning,
            reason: reason.to_owned(),
            message: message.into(),
        });
    }

    /// The directory of a pod.
    #[must_use]
    pub fn pod_directory(&self, pod: &Pod) -> PathBuf {
        self.config.pod_directory(spec::uid(pod))
    }

    /// What the downward API of a pod with these addresses shows.
    #[must_use]
    pub fn facts(&self, pod: &Pod, pod_ips: &[String]) -> Facts {
        let on_host = spec::host_network(pod);
        let allocatable = self.machine.allocatable(&self.config);
        let amount = |name: &str| allocatable.get(name).copied().unwrap_or(0);
        Facts {
            pod_ips: if on_host {
                self.config.node_ips.clone()
            } else {
                pod_ips.to_vec()
            },
            host_ips: self.config.node_ips.clone(),
            allocatable_cpu_milli: amount("cpu"),
            allocatable_memory: amount("memory"),
            allocatable_storage: amount("ephemeral-storage"),
        }
    }

    /// What the kernel shall allow a container.
    #[must_use]
    pub fn kernel_resources(&self, pod: &Pod, container: &Container) -> LinuxResources {
        let Machine { memory, cpus, .. } = self.machine;
        resources::container_resources(pod, container, memory, cpus * 1000)
    }

    /// The names of a pod.
    #[must_use]
    pub fn host_name(&self, pod: &Pod) -> HostName {
        hosts::host_name(pod, &self.config.cluster_dns.domain)
    }

    /// The settings of a pod's sandbox, and warnings about its resolver.
    #[must_use]
    pub fn sandbox_config(&self, pod: &Pod, attempt: u32) -> (cri::PodSandboxConfig, Vec<String>) {
        let host = std::fs::read_to_string(&self.config.resolv_conf).unwrap_or_default();
        let host = dns::parse(&host);
        let (resolver, warnings) = dns::pod_resolver(pod, &host, &self.config.cluster_dns);
        let names = self.host_name(pod);
        let logs = self.config.log_directory(pod);
        let place = SandboxPlace {
            log_directory: &logs.to_string_lossy(),
            cgroup_root: &self.config.cgroup_root,
            host_name: &names,
            resolver: &resolver,
        };
        (sandbox::config(pod, attempt, &place), warnings)
    }
}
