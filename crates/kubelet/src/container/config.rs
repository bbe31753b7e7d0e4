//! What the runtime is told about a container.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, Pod};
use skiff_runtime::cri;

use crate::container::expand::expand;
use crate::container::sandbox::{CONTAINER_NAME_LABEL, pod_labels};
use crate::container::security::{self, ImageUser};
use crate::pod::resources::{self, CPU_PERIOD, LinuxResources};
use crate::pod::spec;

/// The annotation with what of the spec the container was made from.
pub const HASH_ANNOTATION: &str = "io.kubernetes.container.hash";
/// The annotation with the restart count.
pub const RESTARTS_ANNOTATION: &str = "io.kubernetes.container.restartCount";
/// The annotation with the path of the termination message inside the container.
pub const MESSAGE_PATH_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePath";
/// The annotation with where the termination message comes from.
pub const MESSAGE_POLICY_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePolicy";
/// The annotation with the pod's grace period, for a pod whose spec is gone.
pub const GRACE_ANNOTATION: &str = "io.kubernetes.pod.terminationGracePeriod";
/// The annotation with the preStop hook, for a pod whose spec is gone.
pub const PRE_STOP_ANNOTATION: &str = "io.kubernetes.container.preStopHandler";

/// What a container is made with beyond its spec.
pub struct Making<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Its restart count.
    pub attempt: u32,
    /// The image as it is to be run, by reference.
    pub image_ref: &'a str,
    /// The user that the image names.
    pub image_user: &'a ImageUser,
    /// Its environment.
    pub environment: &'a [(String, String)],
    /// Its mounts.
    pub mounts: Vec<cri::Mount>,
    /// The node's memory in bytes.
    pub node_memory: i64,
    /// The node's processor time in thousandths.
    pub node_cpu_milli: i64,
    /// Where seccomp profiles are.
    pub seccomp_root: &'a str,
    /// For an ephemeral container: the container whose processes it sees.
    pub target_id: Option<String>,
}

/// The settings of the container.
#[must_use]
pub fn config(making: Making<'_>) -> cri::ContainerConfig {
    let (pod, container) = (making.pod, making.container);
    let variables: BTreeMap<String, String> = making.environment.iter().cloned().collect();
    let words = |list: &Option<Vec<String>>| -> Vec<String> {
        let list = list.iter().flatten();
        list.map(|word| expand(word, &variables)).collect()
    };
    let mut labels = pod_labels(pod);
    labels.insert(CONTAINER_NAME_LABEL.into(), container.name.clone());
    let mut security =
        security::container_context(pod, container, making.image_user, making.seccomp_root);
    if let (Some(target), Some(options)) = (making.target_id, security.namespace_options.as_mut()) {
        options.pid = cri::NamespaceMode::Target as i32;
        options.target_id = target;
    }
    let kernel =
        resources::container_resources(pod, container, making.node_memory, making.node_cpu_milli);
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: container.name.clone(),
            attempt: making.attempt,
        }),
        image: Some(cri::ImageSpec {
            image: making.image_ref.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: words(&container.command),
        args: words(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: making
            .environment
            .iter()
            .map(|(key, value)| cri::KeyValue {
                key: key.clone(),
                value: value.clone().into_bytes(),
            })
            .collect(),
        mounts: making.mounts,
        labels,
        annotations: annotations(pod, container, making.attempt),
        log_path: log_path(&container.name, making.attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(linux_resources(&kernel)),
            security_context: Some(security),
        }),
        stop_signal: stop_signal(container),
        ..Default::default()
    }
}

/// What the runtime is told that the kernel shall allow.
#[must_use]
pub fn linux_resources(kernel: &LinuxResources) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_quota: kernel.cpu_quota,
        cpu_shares: kernel.cpu_shares,
        memory_limit_in_bytes: kernel.memory_limit,
        oom_score_adj: kernel.oom_score_adj,
        ..Default::default()
    }
}

/// The log of a container below its pod's log directory.
#[must_use]
pub fn log_path(name: &str, attempt: u32) -> String {
    format!("{name}/{attempt}.log")
}

fn stop_signal(container: &Container) -> i32 {
    let wanted = container
        .lifecycle
        .as_ref()
        .and_then(|l| l.stop_signal.as_deref());
    wanted
        .and_then(cri::Signal::from_str_name)
        .unwrap_or(cri::Signal::RuntimeDefault) as i32
}

fn annotations(pod: &Pod, container: &Container, attempt: u32) -> HashMap<String, String> {
    let mut all = HashMap::new();
    all.insert(HASH_ANNOTATION.to_owned(), spec::spec_hash(container));
    all.insert(RESTARTS_ANNOTATION.to_owned(), attempt.to_string());
    let path = container.termination_message_path.clone();
    all.insert(MESSAGE_PATH_ANNOTATION.to_owned(), path.unwrap_or_default());
    let policy = container.termination_message_policy.clone();
    let policy = policy.unwrap_or_else(|| "File".to_owned());
    all.insert(MESSAGE_POLICY_ANNOTATION.to_owned(), policy);
    if let Some(grace) = spec::spec(pod).termination_grace_period_seconds {
        all.insert(GRACE_ANNOTATION.to_owned(), grace.to_string());
    }
    let hook = container
        .lifecycle
        .as_ref()
        .and_then(|l| l.pre_stop.as_ref());
    if let Some(text) = hook.and_then(|hook| serde_json::to_string(hook).ok()) {
        all.insert(PRE_STOP_ANNOTATION.to_owned(), text);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_see_the_environment() {
        let container = Container {
            name: "c".into(),
            command: Some(vec!["run".into(), "$(HOST)".into(), "$(NONE)".into()]),
            tty: Some(true),
            ..Default::default()
        };
        let config = config(Making {
            pod: &Pod::default(),
            container: &container,
            attempt: 3,
            image_ref: "sha256:1",
            image_user: &ImageUser::default(),
            environment: &[("HOST".to_owned(), "h".to_owned())],
            mounts: vec![],
            node_memory: 1 << 30,
            node_cpu_milli: 2000,
            seccomp_root: "/seccomp",
            target_id: Some("t".into()),
        });
        assert_eq!(config.command, ["run", "h", "$(NONE)"]);
        assert_eq!(config.log_path, "c/3.log");
        assert_eq!(
            config.annotations[HASH_ANNOTATION],
            spec::spec_hash(&container)
        );
        assert!(config.tty && !config.stdin);
        let security = config.linux.unwrap().security_context.unwrap();
        assert_eq!(security.namespace_options.unwrap().target_id, "t");
    }
}
