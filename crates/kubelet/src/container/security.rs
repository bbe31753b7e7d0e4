//! What a container may do: pod and container security contexts merged for the runtime.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext,
};
use skiff_runtime::cri;

use crate::pod::spec;

/// Paths under /proc that containers do not see.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths under /proc that containers cannot write.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The user that an image names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageUser {
    /// Its number, when the image says one.
    pub uid: Option<i64>,
    /// Its name, when the image says one.
    pub name: String,
}

/// A container that must not run as it is asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    /// `runAsNonRoot` with `runAsUser: 0`.
    #[error("container's runAsUser breaks non-root policy (pod: \"{0}\", container: {1})")]
    UserIsRoot(String, String),
    /// `runAsNonRoot` with an image of root.
    #[error("container has runAsNonRoot and image will run as root (pod: \"{0}\", container: {1})")]
    ImageIsRoot(String, String),
    /// `runAsNonRoot` with an image whose user has only a name.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({2}), cannot verify user is non-root (pod: \"{0}\", container: {1})"
    )]
    NotNumeric(String, String, String),
}

fn pod_context(pod: &Pod) -> Option<&PodSecurityContext> {
    spec::spec(pod).security_context.as_ref()
}

/// Where the pod's processes find each other: network, processes, shared memory.
#[must_use]
pub fn namespaces(pod: &Pod) -> cri::NamespaceOption {
    let pod_spec = spec::spec(pod);
    let mode = |host: Option<bool>, own: cri::NamespaceMode| {
        if host == Some(true) {
            cri::NamespaceMode::Node as i32
        } else {
            own as i32
        }
    };
    let pid = if pod_spec.share_process_namespace == Some(true) {
        cri::NamespaceMode::Pod
    } else {
        cri::NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: mode(pod_spec.host_network, cri::NamespaceMode::Pod),
        pid: mode(pod_spec.host_pid, pid),
        ipc: mode(pod_spec.host_ipc, cri::NamespaceMode::Pod),
        ..Default::default()
    }
}

/// The sandbox's context.
#[must_use]
pub fn sandbox_context(pod: &Pod) -> cri::LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    let containers = spec::lasting_containers(pod);
    let privileged = containers
        .filter_map(|c| c.security_context.as_ref())
        .any(|c| c.privileged == Some(true));
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: context.and_then(|c| number(c.run_as_user)),
        run_as_group: context.and_then(|c| number(c.run_as_group)),
        privileged,
        supplemental_groups: groups(context),
        seccomp: Some(profile(
            cri::security_profile::ProfileType::RuntimeDefault,
            "",
        )),
        supplemental_groups_policy: groups_policy(context),
        ..Default::default()
    }
}

/// The container's context.
#[must_use]
pub fn container_context(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
    seccomp_root: &str,
) -> cri::LinuxContainerSecurityContext {
    let of_pod = pod_context(pod);
    let own = container.security_context.clone().unwrap_or_default();
    let run_as_user = own.run_as_user.or(of_pod.and_then(|c| c.run_as_user));
    let run_as_group = own.run_as_group.or(of_pod.and_then(|c| c.run_as_group));
    let privileged = own.privileged == Some(true);
    let image_has_user = run_as_user.is_none();
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| -> Vec<String> {
        if unmasked || privileged {
            return Vec::new();
        }
        list.iter().map(|p| (*p).to_owned()).collect()
    };
    let seccomp = own
        .seccomp_profile
        .as_ref()
        .or(of_pod.and_then(|c| c.seccomp_profile.as_ref()));
    let apparmor = own
        .app_armor_profile
        .as_ref()
        .or(of_pod.and_then(|c| c.app_armor_profile.as_ref()));
    cri::LinuxContainerSecurityContext {
        capabilities: capabilities(&own),
        privileged,
        namespace_options: Some(namespaces(pod)),
        selinux_options: selinux(&own, of_pod),
        run_as_user: number(run_as_user.or(image_user.uid.filter(|_| image_has_user))),
        run_as_username: if image_has_user && image_user.uid.is_none() {
            image_user.name.clone()
        } else {
            String::new()
        },
        run_as_group: number(run_as_group),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(of_pod),
        supplemental_groups_policy: groups_policy(of_pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp_profile(seccomp, seccomp_root)),
        apparmor: apparmor.map(apparmor_profile),
        ..Default::default()
    }
}

fn number(value: Option<i64>) -> Option<cri::Int64Value> {
    value.map(|value| cri::Int64Value { value })
}

fn groups(context: Option<&PodSecurityContext>) -> Vec<i64> {
    let Some(context) = context else {
        return Vec::new();
    };
    let more = context.supplemental_groups.iter().flatten().copied();
    context.fs_group.into_iter().chain(more).collect()
}

fn groups_policy(context: Option<&PodSecurityContext>) -> i32 {
    let strict = context.and_then(|c| c.supplemental_groups_policy.as_deref()) == Some("Strict");
    if strict {
        cri::SupplementalGroupsPolicy::Strict as i32
    } else {
        cri::SupplementalGroupsPolicy::Merge as i32
    }
}

fn capabilities(own: &SecurityContext) -> Option<cri::Capability> {
    let wanted = own.capabilities.as_ref()?;
    Some(cri::Capability {
        add_capabilities: wanted.add.clone().unwrap_or_default(),
        drop_capabilities: wanted.drop.clone().unwrap_or_default(),
        ..Default::default()
    })
}

fn selinux(
    own: &SecurityContext,
    of_pod: Option<&PodSecurityContext>,
) -> Option<cri::SeLinuxOption> {
    let options = own
        .se_linux_options
        .as_ref()
        .or(of_pod.and_then(|c| c.se_linux_options.as_ref()))?;
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    Some(cri::SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    })
}

fn profile(kind: cri::security_profile::ProfileType, local: &str) -> cri::SecurityProfile {
    cri::SecurityProfile {
        profile_type: kind as i32,
        localhost_ref: local.to_owned(),
    }
}

fn seccomp_profile(wanted: Option<&SeccompProfile>, root: &str) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    match wanted.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => profile(ProfileType::RuntimeDefault, ""),
        Some("Localhost") => {
            let file = wanted.and_then(|p| p.localhost_profile.as_deref());
            let path = format!("{root}/{}", file.unwrap_or_default());
            profile(ProfileType::Localhost, &path)
        }
        _ => profile(ProfileType::Unconfined, ""),
    }
}

fn apparmor_profile(wanted: &AppArmorProfile) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    match wanted.type_.as_str() {
        "Localhost" => profile(
            ProfileType::Localhost,
            wanted.localhost_profile.as_deref().unwrap_or_default(),
        ),
        "Unconfined" => profile(ProfileType::Unconfined, ""),
        _ => profile(ProfileType::RuntimeDefault, ""),
    }
}

/// Refuses a container that is to run as anybody but root and would run as root.
pub fn check_non_root(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
) -> Result<(), SecurityError> {
    let own = container.security_context.as_ref();
    let of_pod = pod_context(pod);
    let non_root = own
        .and_then(|c| c.run_as_non_root)
        .or(of_pod.and_then(|c| c.run_as_non_root));
    if non_root != Some(true) {
        return Ok(());
    }
    let names = || (spec::display(pod), container.name.clone());
    let user = own
        .and_then(|c| c.run_as_user)
        .or(of_pod.and_then(|c| c.run_as_user));
    let (pod_name, name) = names();
    match (user, image_user.uid) {
        (Some(0), _) => Err(SecurityError::UserIsRoot(pod_name, name)),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(SecurityError::ImageIsRoot(pod_name, name)),
        (None, Some(_)) => Ok(()),
        (None, None) if image_user.name.is_empty() => {
            Err(SecurityError::ImageIsRoot(pod_name, name))
        }
        (None, None) => Err(SecurityError::NotNumeric(
            pod_name,
            name,
            image_user.name.clone(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Capabilities, PodSpec};

    fn pod(context: PodSecurityContext) -> Pod {
        Pod {
            spec: Some(PodSpec {
                security_context: Some(context),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn container(context: SecurityContext) -> Container {
        Container {
            name: "c".into(),
            security_context: Some(context),
            ..Default::default()
        }
    }

    #[test]
    fn the_container_wins_over_the_pod() {
        let pod = pod(PodSecurityContext {
            run_as_user: Some(1000),
            run_as_group: Some(2000),
            fs_group: Some(3000),
            supplemental_groups: Some(vec![4000]),
            ..Default::default()
        });
        let own = container(SecurityContext {
            run_as_user: Some(0),
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                add: Some(vec!["NET_ADMIN".into()]),
                drop: None,
            }),
            ..Default::default()
        });
        let context = container_context(&pod, &own, &ImageUser::default(), "/seccomp");
        assert_eq!(context.run_as_user.unwrap().value, 0);
        assert_eq!(context.run_as_group.unwrap().value, 2000);
        assert_eq!(context.supplemental_groups, [3000, 4000]);
        assert!(context.no_new_privs);
        assert!(context.masked_paths.contains(&"/proc/kcore".to_owned()));
        let caps = context.capabilities.unwrap();
        assert_eq!(caps.add_capabilities, ["NET_ADMIN"]);
    }

    #[test]
    fn the_image_says_the_user_when_nobody_else_does() {
        let user = ImageUser {
            uid: None,
            name: "nginx".into(),
        };
        let plain = container(SecurityContext::default());
        let context = container_context(&Pod::default(), &plain, &user, "");
        assert_eq!(context.run_as_username, "nginx");
        assert!(context.run_as_user.is_none());
    }

    #[test]
    fn non_root() {
        let image = |uid: Option<i64>, name: &str| ImageUser {
            uid,
            name: name.into(),
        };
        let with_user = |user: Option<i64>| {
            container(SecurityContext {
                run_as_non_root: Some(true),
                run_as_user: user,
                ..Default::default()
            })
        };
        let pod = Pod::default();
        let check = |user, image: ImageUser| check_non_root(&pod, &with_user(user), &image);
        assert!(check(Some(5), image(Some(0), "")).is_ok());
        assert!(check(None, image(Some(5), "")).is_ok());
        assert!(matches!(
            check(Some(0), image(Some(5), "")),
            Err(SecurityError::UserIsRoot(..))
        ));
        assert!(matches!(
            check(None, image(Some(0), "")),
            Err(SecurityError::ImageIsRoot(..))
        ));
        let error = check(None, image(None, "app")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root (pod: \"_default()\", container: c)"
        );
    }
}
