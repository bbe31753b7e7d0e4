//! The Node object: what it says at registration and how its status is kept.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::config::{KubeletConfig, VERSION};
use crate::node::machine::Machine;
use crate::pod::resources::Amounts;
use crate::pod::restart_all;
use crate::pod::status::seconds;
use crate::quantity;

/// What the node's status is made from.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What keeps the runtime from running pods, if anything.
    pub not_ready: Option<String>,
    /// Memory is short.
    pub memory_pressure: bool,
    /// Disk is short.
    pub disk_pressure: bool,
    /// Process numbers are short.
    pub pid_pressure: bool,
    /// `name://version` of the runtime.
    pub runtime_version: String,
    /// Images on the node.
    pub images: Vec<ContainerImage>,
    /// The port that the kubelet serves on.
    pub port: u16,
}

/// The architecture in Go's words, which labels use.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "arm",
        "riscv64" => "riscv64",
        other => other,
    }
}

/// The labels that every node has.
#[must_use]
pub fn labels(config: &KubeletConfig) -> BTreeMap<String, String> {
    let mut labels = config.labels.clone();
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        labels.insert(format!("{prefix}/os"), "linux".to_owned());
        labels.insert(format!("{prefix}/arch"), architecture().to_owned());
    }
    let name = config.node_name.clone();
    labels.insert("kubernetes.io/hostname".to_owned(), name);
    labels
}

/// The object that the node registers with.
#[must_use]
pub fn initial(config: &KubeletConfig) -> Node {
    let marked = "volumes.kubernetes.io/controller-managed-attach-detach".to_owned();
    let mut annotations = config.annotations.clone();
    annotations.insert(marked, "true".to_owned());
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config)),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!config.taints.is_empty()).then(|| config.taints.clone()),
            ..NodeSpec::default()
        }),
        ..Node::default()
    }
}

fn quantities(amounts: &Amounts) -> BTreeMap<String, Quantity> {
    let list = amounts.iter();
    list.map(|(name, amount)| {
        let text = match name.as_str() {
            "memory" | "ephemeral-storage" => format!("{}Ki", amount / 1024),
            "pods" => amount.to_string(),
            _ => return (name.clone(), quantity::to_quantity(name, *amount)),
        };
        (name.clone(), Quantity(text))
    })
    .collect()
}

/// The status of the node.
#[must_use]
pub fn status(
    config: &KubeletConfig,
    machine: &Machine,
    observed: &Observed,
    old: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let address = |kind: &str, address: &str| NodeAddress {
        type_: kind.to_owned(),
        address: address.to_owned(),
    };
    let mut addresses: Vec<NodeAddress> = config
        .node_ips
        .iter()
        .map(|ip| address("InternalIP", ip))
        .collect();
    addresses.push(address("Hostname", &config.node_name));
    let mut allocatable = machine.allocatable(config);
    let capacity = machine.capacity(config);
    if let Some(disk) = allocatable.get_mut("ephemeral-storage") {
        *disk -= *disk % 1024;
    }
    let mut status = NodeStatus {
        addresses: Some(addresses),
        capacity: Some(quantities(&capacity)),
        allocatable: Some(quantities(&allocatable)),
        conditions: Some(conditions(observed, old, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(observed.port),
            }),
        }),
        images: Some(observed.images.clone()),
        node_info: Some(system_info(machine, observed)),
        declared_features: Some(vec![restart_all::FEATURE.to_owned()]),
        ..NodeStatus::default()
    };
    if let Some(old) = old {
        status.volumes_attached.clone_from(&old.volumes_attached);
        status.volumes_in_use.clone_from(&old.volumes_in_use);
    }
    status
}

fn system_info(machine: &Machine, observed: &Observed) -> NodeSystemInfo {
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: observed.runtime_version.clone(),
        kernel_version: machine.kernel.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: VERSION.to_owned(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image: machine.os_image.clone(),
        system_uuid: machine.system_uuid.clone(),
        ..NodeSystemInfo::default()
    }
}

fn conditions(observed: &Observed, old: Option<&NodeStatus>, now: Timestamp) -> Vec<NodeCondition> {
    let pressure = |bad: bool, reasons: [&'static str; 2], messages: [&'static str; 2]| {
        let at = usize::from(!bad);
        (bad, reasons[at], messages[at].to_owned())
    };
    let memory = pressure(
        observed.memory_pressure,
        ["KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"],
        [
            "kubelet has insufficient memory available",
            "kubelet has sufficient memory available",
        ],
    );
    let disk = pressure(
        observed.disk_pressure,
        ["KubeletHasDiskPressure", "KubeletHasNoDiskPressure"],
        ["kubelet has disk pressure", "kubelet has no disk pressure"],
    );
    let pid = pressure(
        observed.pid_pressure,
        ["KubeletHasInsufficientPID", "KubeletHasSufficientPID"],
        [
            "kubelet has insufficient PID available",
            "kubelet has sufficient PID available",
        ],
    );
    let ready = match &observed.not_ready {
        None => (
            true,
            "KubeletReady",
            "kubelet is posting ready status".to_owned(),
        ),
        Some(why) => (false, "KubeletNotReady", why.clone()),
    };
    let all = [
        ("MemoryPressure", memory),
        ("DiskPressure", disk),
        ("PIDPressure", pid),
        ("Ready", ready),
    ];
    let old_conditions = old
        .and_then(|o| o.conditions.as_deref())
        .unwrap_or_default();
    let ours = all.map(|(kind, (holds, reason, message))| {
        let word = if holds { "True" } else { "False" };
        let before = old_conditions
            .iter()
            .find(|c| c.type_ == kind && c.status == word);
        let since = before.and_then(|c| c.last_transition_time.clone());
        NodeCondition {
            type_: kind.to_owned(),
            status: word.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(seconds(now)),
            last_transition_time: Some(since.unwrap_or_else(|| seconds(now))),
        }
    });
    let kinds: Vec<&str> = all_kinds().to_vec();
    let foreign = old_conditions
        .iter()
        .filter(|c| !kinds.contains(&c.type_.as_str()))
        .cloned();
    foreign.chain(ours).collect()
}

fn all_kinds() -> &'static [&'static str] {
    &["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
}

/// Whether two statuses differ in more than their heartbeats.
#[must_use]
pub fn differs(old: &NodeStatus, new: &NodeStatus) -> bool {
    let quiet = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    quiet(old) != quiet(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn status_keeps_times_and_foreign_conditions() {
        let config = KubeletConfig::new("n", "10.0.0.1", Path::new("/x"));
        let machine = Machine {
            cpus: 2,
            memory: 4 << 30,
            disk: 1 << 40,
            ..Machine::default()
        };
        let at = |s| Timestamp::from_second(s).unwrap();
        let not_ready = Observed {
            not_ready: Some("runtime is down".into()),
            ..Observed::default()
        };
        let mut first = status(&config, &machine, &not_ready, None, at(1));
        first.conditions.as_mut().unwrap().push(NodeCondition {
            type_: "NetworkUnavailable".into(),
            status: "False".into(),
            ..Default::default()
        });
        let again = status(&config, &machine, &not_ready, Some(&first), at(9));
        let mut sorted = again.clone();
        sorted.conditions.as_mut().unwrap().rotate_left(1);
        assert!(!differs(&first, &sorted));
        let ready = status(
            &config,
            &machine,
            &Observed::default(),
            Some(&again),
            at(20),
        );
        assert!(differs(&again, &ready));
        let find = |kind: &str| {
            let list = ready.conditions.as_ref().unwrap();
            list.iter().find(|c| c.type_ == kind).unwrap().clone()
        };
        assert_eq!(find("Ready").last_transition_time, Some(seconds(at(20))));
        assert_eq!(
            find("DiskPressure").last_transition_time,
            Some(seconds(at(1)))
        );
        assert_eq!(find("NetworkUnavailable").status, "False");
        assert_eq!(ready.capacity.unwrap()["memory"].0, "4194304Ki");
    }
}
