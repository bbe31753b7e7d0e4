//! Security contexts: users, groups, sysctls, seccomp and AppArmor profiles.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, Sysctl,
};

use super::rules::PodRules;
use super::{paths, windows};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{items, set, text};
use crate::validation::names;
use crate::validation::values::{Bare, json, one_of};

fn id(errors: &mut ErrorList, id: Option<i64>, path: &Path) {
    if let Some(id) = id {
        for message in names::user_id(id) {
            errors.push(FieldError::invalid(path, id, &message));
        }
    }
}

/// The context of a container.
pub(super) fn container(
    errors: &mut ErrorList,
    context: &SecurityContext,
    host_users: bool,
    path: &Path,
) {
    id(errors, context.run_as_user, &path.child("runAsUser"));
    id(errors, context.run_as_group, &path.child("runAsGroup"));
    if let Some(mount) = &context.proc_mount {
        let path = path.child("procMount");
        one_of(errors, &path, mount, &["Default", "Unmasked"]);
        if host_users && mount == "Unmasked" {
            let detail = "`hostUsers` must be false to use `Unmasked`";
            errors.push(FieldError::invalid(&path, mount, detail));
        }
    }
    seccomp(
        errors,
        context.seccomp_profile.as_ref(),
        &path.child("seccompProfile"),
    );
    if context.allow_privilege_escalation == Some(false) {
        if set(context.privileged) {
            errors.push(FieldError::invalid(
                path,
                shown(context),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ));
        }
        let added = context
            .capabilities
            .as_ref()
            .map_or(&[][..], |c| items(&c.add));
        for _ in added
            .iter()
            .filter(|capability| *capability == "CAP_SYS_ADMIN")
        {
            errors.push(FieldError::invalid(
                path,
                shown(context),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ));
        }
    }
    windows::options(
        errors,
        context.windows_options.as_ref(),
        &path.child("windowsOptions"),
    );
    app_armor(
        errors,
        context.app_armor_profile.as_ref(),
        &path.child("appArmorProfile"),
    );
}

/// A container's context as upstream prints it: its internal type, every field.
fn shown(context: &SecurityContext) -> Bare {
    let profile = |type_: &str, local: &Option<String>| {
        format!(
            "{{\"Type\":{},\"LocalhostProfile\":{}}}",
            json(type_).0,
            json(local).0
        )
    };
    let null = || "null".to_owned();
    let capabilities = context.capabilities.as_ref().map_or_else(null, |c| {
        format!(
            "{{\"Add\":{},\"Drop\":{}}}",
            json(&c.add).0,
            json(&c.drop).0
        )
    });
    let se_linux = context.se_linux_options.as_ref().map_or_else(null, |o| {
        format!(
            "{{\"User\":{},\"Role\":{},\"Type\":{},\"Level\":{}}}",
            json(text(&o.user)).0,
            json(text(&o.role)).0,
            json(text(&o.type_)).0,
            json(text(&o.level)).0
        )
    });
    let windows = context.windows_options.as_ref().map_or_else(null, |o| {
        format!(
            "{{\"GMSACredentialSpecName\":{},\"GMSACredentialSpec\":{},\"RunAsUserName\":{},\"HostProcess\":{}}}",
            json(&o.gmsa_credential_spec_name).0,
            json(&o.gmsa_credential_spec).0,
            json(&o.run_as_user_name).0,
            json(&o.host_process).0
        )
    });
    let seccomp = context
        .seccomp_profile
        .as_ref()
        .map_or_else(null, |p| profile(&p.type_, &p.localhost_profile));
    let app_armor = context
        .app_armor_profile
        .as_ref()
        .map_or_else(null, |p| profile(&p.type_, &p.localhost_profile));
    let fields = [
        ("Capabilities", capabilities),
        ("Privileged", json(&context.privileged).0),
        ("SELinuxOptions", se_linux),
        ("WindowsOptions", windows),
        ("RunAsUser", json(&context.run_as_user).0),
        ("RunAsGroup", json(&context.run_as_group).0),
        ("RunAsNonRoot", json(&context.run_as_non_root).0),
        (
            "ReadOnlyRootFilesystem",
            json(&context.read_only_root_filesystem).0,
        ),
        (
            "AllowPrivilegeEscalation",
            json(&context.allow_privilege_escalation).0,
        ),
        ("ProcMount", json(&context.proc_mount).0),
        ("SeccompProfile", seccomp),
        ("AppArmorProfile", app_armor),
    ];
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    Bare(format!("{{{}}}", fields.join(",")))
}

/// The context of a pod.
pub(super) fn pod(
    errors: &mut ErrorList,
    context: &PodSecurityContext,
    spec: &PodSpec,
    rules: &PodRules,
    path: &Path,
) {
    id(errors, context.fs_group, &path.child("fsGroup"));
    id(errors, context.run_as_user, &path.child("runAsUser"));
    id(errors, context.run_as_group, &path.child("runAsGroup"));
    for (index, group) in items(&context.supplemental_groups).iter().enumerate() {
        id(
            errors,
            Some(*group),
            &path.child("supplementalGroups").index(index),
        );
    }
    if set(spec.share_process_namespace) && set(spec.host_pid) {
        errors.push(FieldError::invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    sysctls(
        errors,
        items(&context.sysctls),
        spec,
        rules,
        &path.child("sysctls"),
    );
    if let Some(policy) = &context.fs_group_change_policy {
        one_of(
            errors,
            &path.child("fsGroupChangePolicy"),
            policy,
            &["Always", "OnRootMismatch"],
        );
    }
    seccomp(
        errors,
        context.seccomp_profile.as_ref(),
        &path.child("seccompProfile"),
    );
    windows::options(
        errors,
        context.windows_options.as_ref(),
        &path.child("windowsOptions"),
    );
    app_armor(
        errors,
        context.app_armor_profile.as_ref(),
        &path.child("appArmorProfile"),
    );
    if let Some(policy) = &context.supplemental_groups_policy {
        one_of(
            errors,
            &path.child("supplementalGroupsPolicy"),
            policy,
            &["Merge", "Strict"],
        );
    }
    if let Some(policy) = &context.se_linux_change_policy {
        one_of(
            errors,
            &path.child("seLinuxChangePolicy"),
            policy,
            &["MountOption", "Recursive"],
        );
    }
}

fn seccomp(errors: &mut ErrorList, profile: Option<&SeccompProfile>, path: &Path) {
    let Some(profile) = profile else { return };
    let local_path = path.child("localhostProfile");
    profile_type(
        errors,
        &profile.type_,
        "type is required when seccompProfile is set",
        &path.child("type"),
    );
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => errors.push(FieldError::required(
            &local_path,
            "must be set when seccomp type is Localhost",
        )),
        ("Localhost", Some(file)) => paths::descending(errors, file, &local_path),
        (_, Some(file)) => errors.push(FieldError::invalid(
            &local_path,
            Bare(format!(
                "{{\"Type\":{},\"LocalhostProfile\":{}}}",
                json(&profile.type_).0,
                json(file).0
            )),
            "can only be set when seccomp type is Localhost",
        )),
        (_, None) => {}
    }
}

fn profile_type(errors: &mut ErrorList, kind: &str, missing: &str, path: &Path) {
    if kind.is_empty() {
        errors.push(FieldError::required(path, missing));
    } else {
        one_of(
            errors,
            path,
            kind,
            &["Localhost", "RuntimeDefault", "Unconfined"],
        );
    }
}

fn app_armor(errors: &mut ErrorList, profile: Option<&AppArmorProfile>, path: &Path) {
    const LOCAL: &str = "must be set when AppArmor type is Localhost";
    const LONGEST: usize = 4095;
    let Some(profile) = profile else { return };
    let local_path = path.child("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => errors.push(FieldError::required(&local_path, LOCAL)),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errors.push(FieldError::invalid(
                    &local_path,
                    name,
                    "must not be padded with whitespace",
                ));
            } else if name.is_empty() {
                errors.push(FieldError::required(&local_path, LOCAL));
            }
            if name.len() > LONGEST {
                errors.push(FieldError::too_long(&local_path, LONGEST));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => errors.push(FieldError::invalid(
            &local_path,
            name,
            "can only be set when AppArmor type is Localhost",
        )),
        (kind, _) => profile_type(
            errors,
            kind,
            "type is required when appArmorProfile is set",
            &path.child("type"),
        ),
    }
}

fn is_sysctl_name(name: &str) -> bool {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let segment = |segment: &str| {
        segment.bytes().all(|c| edge(c) || matches!(c, b'-' | b'_'))
            && segment.bytes().next().is_some_and(edge)
            && segment.bytes().next_back().is_some_and(edge)
    };
    name.len() <= names::SUBDOMAIN_MAX && name.split(['.', '/']).all(segment)
}

fn sysctls(
    errors: &mut ErrorList,
    sysctls: &[Sysctl],
    spec: &PodSpec,
    rules: &PodRules,
    path: &Path,
) {
    let mut seen = BTreeSet::new();
    for (index, sysctl) in sysctls.iter().enumerate() {
        let (name, path) = (sysctl.name.as_str(), path.index(index).child("name"));
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if !is_sysctl_name(name) {
            errors.push(FieldError::invalid(
                &path,
                name,
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            ));
        } else if seen.contains(name) {
            errors.push(FieldError::duplicate(&path, name));
        }
        if !rules.allow_host_sysctls
            && let Some(what) = host_namespace(name, spec)
        {
            let detail = format!("may not be specified when '{what}' is true");
            errors.push(FieldError::invalid(&path, name, &detail));
        }
        seen.insert(name);
    }
}

/// The field that makes the sysctl the host's.
fn host_namespace(sysctl: &str, spec: &PodSpec) -> Option<&'static str> {
    const IPC: [&str; 10] = [
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.shm",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.msg",
    ];
    // Where a slash comes first, dots and slashes have changed places.
    let name = match sysctl.find(['.', '/']) {
        Some(first) if sysctl.as_bytes().get(first) == Some(&b'/') => sysctl
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => sysctl.to_owned(),
    };
    let name = name.split('*').next().unwrap_or_default();
    if name.starts_with("net.") {
        set(spec.host_network).then_some("hostNetwork")
    } else if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        set(spec.host_ipc).then_some("hostIPC")
    } else {
        None
    }
}

/// Whether the pod sets a sysctl of a namespace that is the host's.
pub(super) fn has_host_sysctl(spec: &PodSpec) -> bool {
    spec.security_context
        .iter()
        .flat_map(|context| items(&context.sysctls))
        .any(|sysctl| host_namespace(&sysctl.name, spec).is_some())
}
