//! Pods for Windows: what they may not set, and what only they may.

use k8s_openapi::api::core::v1::{
    PodSecurityContext, PodSpec, SecurityContext, WindowsSecurityContextOptions,
};

use super::containers::visit;
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{items, set};
use crate::validation::names;
use crate::validation::values::all_invalid;

const CREDENTIAL_SPEC_MAX: usize = 64 * 1024;

/// The Windows part of a security context.
pub(super) fn options(
    errors: &mut ErrorList,
    options: Option<&WindowsSecurityContextOptions>,
    path: &Path,
) {
    let Some(options) = options else { return };
    if let Some(name) = &options.gmsa_credential_spec_name {
        all_invalid(
            errors,
            &path.child("gmsaCredentialSpecName"),
            name,
            names::dns_subdomain(name),
        );
    }
    if let Some(spec) = &options.gmsa_credential_spec {
        let detail = if spec.is_empty() {
            "gmsaCredentialSpec cannot be an empty string"
        } else if spec.len() > CREDENTIAL_SPEC_MAX {
            "gmsaCredentialSpec size must be under 64 KiB"
        } else {
            ""
        };
        if !detail.is_empty() {
            errors.push(FieldError::invalid(
                &path.child("gmsaCredentialSpec"),
                spec,
                detail,
            ));
        }
    }
    if let Some(user) = &options.run_as_user_name {
        let details = user_name_details(user).into_iter().map(str::to_owned);
        all_invalid(errors, &path.child("runAsUserName"), user, details);
    }
}

/// What is wrong with `DOMAIN\user`.
fn user_name_details(name: &str) -> Vec<&'static str> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string"];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters"];
    }
    let (domain, user) = match name.split('\\').collect::<Vec<_>>().as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec!["runAsUserName cannot contain more than one backslash"],
    };
    let mut details = Vec::new();
    let mut check = |bad: bool, detail: &'static str| {
        if bad {
            details.push(detail);
        }
    };
    check(
        domain.is_some_and(|domain| domain.len() >= 256),
        "runAsUserName's Domain length must be under 256 characters",
    );
    check(
        domain.is_some_and(|domain| !is_net_bios(domain) && !is_dns(domain)),
        "runAsUserName's Domain doesn't match the NetBios nor the DNS format",
    );
    check(user.is_empty(), "runAsUserName's User cannot be empty");
    check(
        user.len() > 104,
        "runAsUserName's User length must not be longer than 104 characters",
    );
    check(
        !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')),
        "runAsUserName's User cannot contain only periods or spaces",
    );
    check(
        user.contains(|c: char| "\"/\\:;|=,+*?<>@[]".contains(c)),
        "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]",
    );
    details
}

fn is_net_bios(domain: &str) -> bool {
    let count = domain.chars().count();
    (1..=15).contains(&count)
        && !domain.starts_with('.')
        && !domain.contains(|c: char| "\\/:*?\"<>|".contains(c))
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-')
    })
}

/// Containers that run as processes of the host: all of a pod or none.
pub(super) fn host_process(errors: &mut ErrorList, spec: &PodSpec, path: &Path) {
    let pod = spec
        .security_context
        .as_ref()
        .and_then(|context| context.windows_options.as_ref()?.host_process);
    let (mut all, mut on_host) = (0, 0);
    visit(spec, path, |container, path| {
        all += 1;
        let own = container
            .security_context
            .as_ref()
            .and_then(|context| context.windows_options.as_ref()?.host_process);
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let detail =
                format!("pod hostProcess value must be identical if both are specified, was {pod}");
            let path = path
                .child("securityContext")
                .child("windowsOptions")
                .child("hostProcess");
            errors.push(FieldError::invalid(&path, own, &detail));
        }
        on_host += usize::from(own.or(pod) == Some(true));
    });
    if on_host == 0 {
        return;
    }
    if on_host != all {
        errors.push(FieldError::invalid(
            path,
            "",
            "If pod contains any hostProcess containers then all containers must be HostProcess containers",
        ));
    }
    if !set(spec.host_network) {
        errors.push(FieldError::invalid(
            &path.child("hostNetwork"),
            false,
            "hostNetwork must be true if pod contains any hostProcess containers",
        ));
    }
}

/// A pod that says it is for Linux has no Windows options.
pub(super) fn linux_pod(errors: &mut ErrorList, spec: &PodSpec, path: &Path) {
    const DETAIL: &str = "windows options cannot be set for a linux pod";
    let mut check = |options: Option<&WindowsSecurityContextOptions>, path: &Path| {
        if options.is_some() {
            let path = path.child("securityContext").child("windowsOptions");
            errors.push(FieldError::forbidden(&path, DETAIL));
        }
    };
    let context = spec.security_context.as_ref();
    check(
        context.and_then(|context| context.windows_options.as_ref()),
        path,
    );
    visit(spec, path, |container, path| {
        let context = container.security_context.as_ref();
        check(
            context.and_then(|context| context.windows_options.as_ref()),
            path,
        );
    });
}

/// A pod that says it is for Windows has none of Linux' options.
pub(super) fn windows_pod(errors: &mut ErrorList, spec: &PodSpec, path: &Path) {
    if let Some(context) = &spec.security_context {
        pod_fields(errors, spec, context, path);
    }
    visit(spec, path, |container, path| {
        if let Some(context) = &container.security_context {
            container_fields(errors, context, &path.child("securityContext"));
        }
    });
}

fn forbid(errors: &mut ErrorList, fields: &[(&str, bool)], path: &Path) {
    for (name, there) in fields {
        if *there {
            let path = path.child(name);
            errors.push(FieldError::forbidden(
                &path,
                "cannot be set for a windows pod",
            ));
        }
    }
}

fn pod_fields(errors: &mut ErrorList, spec: &PodSpec, context: &PodSecurityContext, path: &Path) {
    let inner = path.child("securityContext");
    forbid(
        errors,
        &[
            ("appArmorProfile", context.app_armor_profile.is_some()),
            ("seLinuxOptions", context.se_linux_options.is_some()),
        ],
        &inner,
    );
    forbid(
        errors,
        &[
            ("hostUsers", spec.host_users.is_some()),
            ("hostPID", set(spec.host_pid)),
            ("hostIPC", set(spec.host_ipc)),
        ],
        path,
    );
    forbid(
        errors,
        &[
            ("seccompProfile", context.seccomp_profile.is_some()),
            ("fsGroup", context.fs_group.is_some()),
            (
                "fsGroupChangePolicy",
                context.fs_group_change_policy.is_some(),
            ),
            ("sysctls", !items(&context.sysctls).is_empty()),
        ],
        &inner,
    );
    let shared = spec.share_process_namespace.is_some();
    forbid(errors, &[("shareProcessNamespace", shared)], path);
    forbid(
        errors,
        &[
            ("runAsUser", context.run_as_user.is_some()),
            ("runAsGroup", context.run_as_group.is_some()),
            ("supplementalGroups", context.supplemental_groups.is_some()),
            (
                "supplementalGroupsPolicy",
                context.supplemental_groups_policy.is_some(),
            ),
            (
                "seLinuxChangePolicy",
                context.se_linux_change_policy.is_some(),
            ),
        ],
        &inner,
    );
}

fn container_fields(errors: &mut ErrorList, context: &SecurityContext, path: &Path) {
    forbid(
        errors,
        &[
            ("appArmorProfile", context.app_armor_profile.is_some()),
            ("seLinuxOptions", context.se_linux_options.is_some()),
            ("seccompProfile", context.seccomp_profile.is_some()),
            ("capabilities", context.capabilities.is_some()),
            (
                "readOnlyRootFilesystem",
                context.read_only_root_filesystem.is_some(),
            ),
            ("privileged", context.privileged.is_some()),
            (
                "allowPrivilegeEscalation",
                context.allow_privilege_escalation.is_some(),
            ),
            ("procMount", context.proc_mount.is_some()),
            ("runAsUser", context.run_as_user.is_some()),
            ("runAsGroup", context.run_as_group.is_some()),
        ],
        path,
    );
}
