//! Containers of a pod: regular, init, sidecar and ephemeral ones.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerResizePolicy, ContainerRestartRule, EphemeralContainer,
    PodOS, PodSpec, ResourceRequirements,
};

use super::handlers::{self, Role};
use super::mounts::{self, Volumes};
use super::rules::PodRules;
use super::{env, security};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{items, set, text};
use crate::validation::core::resources::{Level, ResourceRules, requirements};
use crate::validation::names;
use crate::validation::values::{all_invalid, json, one_of, required_one_of};

/// What containers are judged against.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub rules: &'a PodRules,
    pub spec: &'a PodSpec,
    pub volumes: &'a Volumes<'a>,
    pub claims: &'a BTreeSet<&'a str>,
}

impl Surroundings<'_> {
    fn grace_period(&self) -> Option<i64> {
        self.spec.termination_grace_period_seconds
    }

    fn os(&self) -> Option<&PodOS> {
        self.spec.os.as_ref()
    }

    fn host_users(&self) -> bool {
        self.spec.host_users.unwrap_or(true)
    }
}

/// An init container that runs beside the regular ones.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    text(&container.restart_policy) == "Always"
}

/// An ephemeral container as if it were a regular one.
pub(crate) fn as_container(container: &EphemeralContainer) -> Container {
    let container = container.clone();
    Container {
        args: container.args,
        command: container.command,
        env: container.env,
        env_from: container.env_from,
        image: container.image,
        image_pull_policy: container.image_pull_policy,
        lifecycle: container.lifecycle,
        liveness_probe: container.liveness_probe,
        name: container.name,
        ports: container.ports,
        readiness_probe: container.readiness_probe,
        resize_policy: container.resize_policy,
        resources: container.resources,
        restart_policy: container.restart_policy,
        restart_policy_rules: container.restart_policy_rules,
        security_context: container.security_context,
        startup_probe: container.startup_probe,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        termination_message_path: container.termination_message_path,
        termination_message_policy: container.termination_message_policy,
        tty: container.tty,
        volume_devices: container.volume_devices,
        volume_mounts: container.volume_mounts,
        working_dir: container.working_dir,
    }
}

/// Every container with its path: init containers, regular ones, ephemeral ones.
pub(crate) fn visit(spec: &PodSpec, path: &Path, mut visitor: impl FnMut(&Container, &Path)) {
    let init = path.child("initContainers");
    for (index, container) in items(&spec.init_containers).iter().enumerate() {
        visitor(container, &init.index(index));
    }
    let regular = path.child("containers");
    for (index, container) in spec.containers.iter().enumerate() {
        visitor(container, &regular.index(index));
    }
    let ephemeral = path.child("ephemeralContainers");
    for (index, container) in items(&spec.ephemeral_containers).iter().enumerate() {
        visitor(&as_container(container), &ephemeral.index(index));
    }
}

/// The regular containers.
pub(super) fn regular(errors: &mut ErrorList, around: Surroundings<'_>, path: &Path) {
    let containers = &around.spec.containers;
    if containers.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        shared(errors, container, around, &path);
        if !seen.insert(container.name.as_str()) {
            errors.push(FieldError::duplicate(&path.child("name"), &container.name));
        }
        hooks_and_probes(errors, container, around, &path);
        restart_policy(errors, container, &path);
    }
    host_ports(errors, containers, path);
}

fn hooks_and_probes(
    errors: &mut ErrorList,
    container: &Container,
    around: Surroundings<'_>,
    path: &Path,
) {
    handlers::lifecycle(
        errors,
        container.lifecycle.as_ref(),
        around.grace_period(),
        around.os(),
        &path.child("lifecycle"),
    );
    for (name, role, probe) in [
        ("livenessProbe", Role::Liveness, &container.liveness_probe),
        (
            "readinessProbe",
            Role::Readiness,
            &container.readiness_probe,
        ),
        ("startupProbe", Role::Startup, &container.startup_probe),
    ] {
        handlers::probe(errors, probe.as_ref(), role, &path.child(name));
    }
}

/// The init containers, sidecars among them.
pub(super) fn init(errors: &mut ErrorList, around: Surroundings<'_>, path: &Path) {
    let mut seen: BTreeSet<&str> = around
        .spec
        .containers
        .iter()
        .map(|container| container.name.as_str())
        .collect();
    for (index, container) in items(&around.spec.init_containers).iter().enumerate() {
        let item = path.index(index);
        shared(errors, container, around, &item);
        init_restart_policy(errors, container, &item);
        if seen.contains(container.name.as_str()) {
            errors.push(FieldError::duplicate(&item.child("name"), &container.name));
        } else if !container.name.is_empty() {
            seen.insert(&container.name);
        }
        // Init containers run one after another: their host ports collide only with their own. Upstream names
        // the first element's path for each.
        host_ports(errors, std::slice::from_ref(container), path);
        if is_sidecar(container) {
            hooks_and_probes(errors, container, around, &item);
            continue;
        }
        for (name, there) in [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ] {
            if there {
                errors.push(FieldError::forbidden(
                    &item.child(name),
                    "may not be set for init containers without restartPolicy=Always",
                ));
            }
        }
        if around.rules.allow_restarting_init_containers {
            continue;
        }
        for (index, policy) in items(&container.resize_policy).iter().enumerate() {
            if policy.restart_policy == "RestartContainer" {
                errors.push(FieldError::invalid(
                    &item
                        .child("resizePolicy")
                        .index(index)
                        .child("restartPolicy"),
                    &policy.restart_policy,
                    "must not be set to 'RestartContainer' for non-sidecar initContainers",
                ));
            }
        }
    }
}

/// The ephemeral containers.
pub(super) fn ephemeral(errors: &mut ErrorList, around: Surroundings<'_>, path: &Path) {
    let spec = around.spec;
    let others: BTreeSet<&str> = spec
        .containers
        .iter()
        .chain(items(&spec.init_containers))
        .map(|container| container.name.as_str())
        .collect();
    let mut seen = others.clone();
    for (index, container) in items(&spec.ephemeral_containers).iter().enumerate() {
        let path = path.index(index);
        let common = as_container(container);
        shared(errors, &common, around, &path);
        image_spaces(errors, &common, &path);
        if !seen.insert(container.name.as_str()) {
            errors.push(FieldError::duplicate(&path.child("name"), &container.name));
        }
        let target = text(&container.target_container_name);
        if !target.is_empty() && !others.contains(target) {
            errors.push(FieldError::not_found(
                &path.child("targetContainerName"),
                target,
            ));
        }
        not_for_ephemeral(errors, container, &path);
    }
}

fn not_for_ephemeral(errors: &mut ErrorList, container: &EphemeralContainer, path: &Path) {
    const DETAIL: &str = "cannot be set for an Ephemeral Container";
    let resources = container
        .resources
        .as_ref()
        .is_some_and(|resources| *resources != ResourceRequirements::default());
    for (name, there) in [
        ("ports", container.ports.is_some()),
        ("resources", resources),
        ("resizePolicy", container.resize_policy.is_some()),
        ("restartPolicy", container.restart_policy.is_some()),
        (
            "restartPolicyRules",
            container.restart_policy_rules.is_some(),
        ),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ] {
        if there {
            errors.push(FieldError::forbidden(&path.child(name), DETAIL));
        }
    }
    for (index, mount) in items(&container.volume_mounts).iter().enumerate() {
        let path = path.child("volumeMounts").index(index);
        for (name, value) in [
            ("subPath", &mount.sub_path),
            ("subPathExpr", &mount.sub_path_expr),
        ] {
            if !text(value).is_empty() {
                errors.push(FieldError::forbidden(&path.child(name), DETAIL));
            }
        }
    }
}

/// What all sorts of containers are held to.
fn shared(errors: &mut ErrorList, container: &Container, around: Surroundings<'_>, path: &Path) {
    let name_path = path.child("name");
    if container.name.is_empty() {
        errors.push(FieldError::required(&name_path, ""));
    } else {
        all_invalid(
            errors,
            &name_path,
            &container.name,
            names::dns_label(&container.name),
        );
    }
    if text(&container.image).is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    }
    required_one_of(
        errors,
        &path.child("terminationMessagePolicy"),
        text(&container.termination_message_policy),
        &["File", "FallbackToLogsOnError"],
    );
    ports(errors, items(&container.ports), &path.child("ports"));
    env::variables(errors, items(&container.env), &path.child("env"));
    env::sources(errors, items(&container.env_from), &path.child("envFrom"));
    mounts::mounts(
        errors,
        container,
        around.volumes,
        &path.child("volumeMounts"),
    );
    mounts::devices(
        errors,
        container,
        around.volumes,
        &path.child("volumeDevices"),
    );
    pull_policy(
        errors,
        &container.image_pull_policy,
        &path.child("imagePullPolicy"),
    );
    if let Some(resources) = &container.resources {
        let rules = ResourceRules {
            level: Level::Container,
            allow_partial_pages: around.rules.allow_partial_pages,
            pod_claims: around.claims,
        };
        requirements(errors, resources, rules, &path.child("resources"));
    }
    resize_policy(
        errors,
        items(&container.resize_policy),
        text(&around.spec.restart_policy),
        &path.child("resizePolicy"),
    );
    if let Some(context) = &container.security_context {
        let path = path.child("securityContext");
        security::container(errors, context, around.host_users(), &path);
    }
}

/// When an image is pulled.
pub(super) fn pull_policy(errors: &mut ErrorList, policy: &Option<String>, path: &Path) {
    required_one_of(
        errors,
        path,
        text(policy),
        &["Always", "IfNotPresent", "Never"],
    );
}

/// What is checked of pods but not of templates, for compatibility.
pub(super) fn image_spaces(errors: &mut ErrorList, container: &Container, path: &Path) {
    let image = text(&container.image);
    if image.trim() != image {
        errors.push(FieldError::invalid(
            &path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
}

fn ports(errors: &mut ErrorList, ports: &[ContainerPort], path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let (name, name_path) = (text(&port.name), path.child("name"));
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if !wrong.is_empty() {
                all_invalid(errors, &name_path, name, wrong);
            } else if !seen.insert(name) {
                errors.push(FieldError::duplicate(&name_path, name));
            }
        }
        if port.container_port == 0 {
            errors.push(FieldError::required(&path.child("containerPort"), ""));
        }
        for (name, number) in [
            ("containerPort", port.container_port),
            ("hostPort", port.host_port.unwrap_or(0)),
        ] {
            if number != 0 {
                for message in names::port_number(number) {
                    errors.push(FieldError::invalid(&path.child(name), number, &message));
                }
            }
        }
        protocol(errors, text(&port.protocol), &path.child("protocol"));
    }
}

/// The protocol of a port.
pub(crate) fn protocol(errors: &mut ErrorList, protocol: &str, path: &Path) {
    required_one_of(errors, path, protocol, &["SCTP", "TCP", "UDP"]);
}

fn host_ports(errors: &mut ErrorList, containers: &[Container], path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index).child("ports");
        for (index, port) in items(&container.ports).iter().enumerate() {
            let number = port.host_port.unwrap_or(0);
            if number == 0 {
                continue;
            }
            let key = format!("{}/{}/{number}", text(&port.protocol), text(&port.host_ip));
            if !seen.insert(key.clone()) {
                let path = path.index(index).child("hostPort");
                errors.push(FieldError::duplicate(&path, &key));
            }
        }
    }
}

fn resize_policy(
    errors: &mut ErrorList,
    policies: &[ContainerResizePolicy],
    pod_restart_policy: &str,
    path: &Path,
) {
    let mut seen = BTreeSet::new();
    for (index, policy) in policies.iter().enumerate() {
        let (resource, restart) = (&policy.resource_name, &policy.restart_policy);
        if !seen.insert(resource.as_str()) {
            errors.push(FieldError::duplicate(&path.index(index), resource));
        }
        required_one_of(errors, path, resource, &["cpu", "memory"]);
        required_one_of(errors, path, restart, &["NotRequired", "RestartContainer"]);
        if pod_restart_policy == "Never" && restart != "NotRequired" {
            errors.push(FieldError::invalid(
                path,
                restart,
                "must be 'NotRequired' when pod `restartPolicy` is 'Never'",
            ));
        }
    }
}

fn init_restart_policy(errors: &mut ErrorList, container: &Container, path: &Path) {
    if container.restart_policy.is_some() {
        restart_policy(errors, container, path);
    } else if !items(&container.restart_policy_rules).is_empty() {
        errors.push(FieldError::required(
            &path.child("restartPolicy"),
            "must specify restartPolicy when restart rules are used",
        ));
    }
}

fn restart_policy(errors: &mut ErrorList, container: &Container, path: &Path) {
    let rules = items(&container.restart_policy_rules);
    let policy_path = path.child("restartPolicy");
    match &container.restart_policy {
        None if rules.is_empty() => return,
        None => errors.push(FieldError::required(
            &policy_path,
            "must specify restartPolicy when restart rules are used",
        )),
        Some(policy) => {
            one_of(
                errors,
                &policy_path,
                policy,
                &["Always", "Never", "OnFailure"],
            );
        }
    }
    let rules_path = path.child("restartPolicyRules");
    if rules.len() > 20 {
        errors.push(FieldError::too_many(&rules_path, rules.len(), 20));
    }
    for (index, rule) in rules.iter().enumerate() {
        restart_rule(errors, rule, &rules_path.index(index));
    }
}

fn restart_rule(errors: &mut ErrorList, rule: &ContainerRestartRule, path: &Path) {
    one_of(
        errors,
        &path.child("action"),
        &rule.action,
        &["Restart", "RestartAllContainers"],
    );
    let path = path.child("exitCodes");
    let Some(codes) = &rule.exit_codes else {
        errors.push(FieldError::required(&path, "must be specified"));
        return;
    };
    one_of(
        errors,
        &path.child("operator"),
        &codes.operator,
        &["In", "NotIn"],
    );
    let count = items(&codes.values).len();
    if count > 255 {
        errors.push(FieldError::too_many(&path.child("values"), count, 255));
    }
}

/// With the host's network, host ports and container ports are the same; block devices and user namespaces do not
/// go together.
pub(super) fn host_network_ports(
    errors: &mut ErrorList,
    spec: &PodSpec,
    rules: &PodRules,
    path: &Path,
) {
    if !set(spec.host_network) {
        return;
    }
    for (index, container) in spec.containers.iter().enumerate() {
        let path = path.child("containers").index(index).child("ports");
        for (index, port) in items(&container.ports).iter().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            if (rules.pod || host_port != 0) && host_port != port.container_port {
                errors.push(FieldError::invalid(
                    &path.index(index).child("hostPort"),
                    host_port,
                    "must match `containerPort` when `hostNetwork` is true",
                ));
            }
        }
    }
}

/// Files that variables are read from lie in emptyDir volumes.
pub(super) fn file_key_volumes(errors: &mut ErrorList, spec: &PodSpec, path: &Path) {
    visit(spec, path, |container, path| {
        for (index, variable) in items(&container.env).iter().enumerate() {
            let reference = variable
                .value_from
                .as_ref()
                .and_then(|from| from.file_key_ref.as_ref());
            let Some(reference) = reference else { continue };
            let name = &reference.volume_name;
            let path = path
                .child("env")
                .index(index)
                .child("valueFrom")
                .child("fileKeyRef")
                .child("volumeName");
            // The last of volumes with the same name counts.
            match items(&spec.volumes)
                .iter()
                .rev()
                .find(|volume| volume.name == *name)
            {
                None => errors.push(FieldError::not_found(&path, name)),
                Some(volume) if volume.empty_dir.is_none() => errors.push(FieldError::invalid(
                    &path,
                    name,
                    "referenced volume must be of type emptyDir",
                )),
                Some(_) => {}
            }
        }
    });
}

/// A claim on a device, as upstream prints it.
pub(super) fn shown_claim(
    claim: &k8s_openapi::api::core::v1::PodResourceClaim,
) -> crate::validation::values::Bare {
    crate::validation::values::Bare(format!(
        "{{\"Name\":{},\"ResourceClaimName\":{},\"ResourceClaimTemplateName\":{}}}",
        json(&claim.name).0,
        json(&claim.resource_claim_name).0,
        json(&claim.resource_claim_template_name).0
    ))
}
