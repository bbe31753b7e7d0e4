//! Small questions about a pod's spec that several parts ask.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

/// Which list of the spec a container is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `spec.initContainers`.
    Init,
    /// `spec.containers`.
    Regular,
    /// `spec.ephemeralContainers`.
    Ephemeral,
}

/// The pod's uid; for static pods the hash that stands for it.
#[must_use]
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The pod's name.
#[must_use]
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's namespace.
#[must_use]
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// `name_namespace(uid)`, as upstream writes a pod in messages.
#[must_use]
pub fn display(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// A value of the pod's annotations.
#[must_use]
pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

/// The spec, or an empty one.
#[must_use]
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// `spec.initContainers`.
#[must_use]
pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// `spec.containers`.
#[must_use]
pub fn containers(pod: &Pod) -> &[Container] {
    &spec(pod).containers
}

/// The regular containers, then the init containers.
pub fn lasting_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    containers(pod).iter().chain(init_containers(pod))
}

/// `spec.ephemeralContainers`.
#[must_use]
pub fn ephemeral_containers(pod: &Pod) -> &[EphemeralContainer] {
    spec(pod)
        .ephemeral_containers
        .as_deref()
        .unwrap_or_default()
}

/// An ephemeral container seen as a container: they share all fields but the target.
#[must_use]
pub fn ephemeral_as_container(e: &EphemeralContainer) -> Container {
    Container {
        args: e.args.clone(),
        command: e.command.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image: e.image.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        lifecycle: e.lifecycle.clone(),
        liveness_probe: e.liveness_probe.clone(),
        name: e.name.clone(),
        ports: e.ports.clone(),
        readiness_probe: e.readiness_probe.clone(),
        resize_policy: e.resize_policy.clone(),
        resources: e.resources.clone(),
        restart_policy: e.restart_policy.clone(),
        restart_policy_rules: e.restart_policy_rules.clone(),
        security_context: e.security_context.clone(),
        startup_probe: e.startup_probe.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        tty: e.tty,
        volume_devices: e.volume_devices.clone(),
        volume_mounts: e.volume_mounts.clone(),
        working_dir: e.working_dir.clone(),
    }
}

/// A container of the pod by place; ephemeral ones are copied.
#[must_use]
pub fn container_at(pod: &Pod, kind: Kind, index: usize) -> Option<Container> {
    match kind {
        Kind::Init => init_containers(pod).get(index).cloned(),
        Kind::Regular => containers(pod).get(index).cloned(),
        Kind::Ephemeral => ephemeral_containers(pod)
            .get(index)
            .map(ephemeral_as_container),
    }
}

/// A container of the pod by name.
#[must_use]
pub fn container_named(pod: &Pod, wanted: &str) -> Option<(Kind, Container)> {
    if let Some(c) = containers(pod).iter().find(|c| c.name == wanted) {
        return Some((Kind::Regular, c.clone()));
    }
    if let Some(c) = init_containers(pod).iter().find(|c| c.name == wanted) {
        return Some((Kind::Init, c.clone()));
    }
    ephemeral_containers(pod)
        .iter()
        .find(|c| c.name == wanted)
        .map(|c| (Kind::Ephemeral, ephemeral_as_container(c)))
}

/// Whether an init container is a sidecar: it is restarted for as long as the pod lives.
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether the pod shares the host's network namespace.
#[must_use]
pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

/// Whether the pod was asked to be deleted.
#[must_use]
pub fn deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether this is the API's picture of a static pod.
#[must_use]
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR_ANNOTATION).is_some()
}

/// Whether the pod comes from a file on this node.
#[must_use]
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE_ANNOTATION).is_some_and(|source| source != "api")
}

/// Marks the API's picture of a static pod; the value is the pod's hash.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// Where a pod comes from: `api` or `file`.
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// When the kubelet saw the static pod first.
pub const SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";
/// The hash of a static pod, which is its uid as well.
pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";

/// What of a container's spec forces a new container when it changes: its name and its image.
#[must_use]
pub fn spec_hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in container.name.bytes().chain([0]).chain(image.bytes()) {
        hash ^= u64::from(byte);
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{hash:x}")
}

/// Whether the pod's phase is one that it never leaves.
#[must_use]
pub fn phase_is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
