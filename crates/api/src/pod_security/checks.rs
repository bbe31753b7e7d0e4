//! The rules of the levels, each with the releases from which a form of it holds.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    HTTPGetAction, LifecycleHandler, Probe, SELinuxOptions, TCPSocketAction, Volume,
};

use super::subject::{Names, Subject, plural, quoted, quoted_set, setters};
use super::{Level, Standard, Version, Violation};

/// Judges a pod by one rule.
pub(super) type Rule = fn(&Subject<'_>) -> Option<Violation>;

/// A rule with its history.
struct Check {
    id: &'static str,
    level: Level,
    /// From which minor release on which form holds.
    forms: &'static [(u32, Rule)],
    /// The rule of the lower level that this one makes needless where it holds.
    replaces: Option<&'static str>,
}

const fn baseline(id: &'static str, forms: &'static [(u32, Rule)]) -> Check {
    Check {
        id,
        level: Level::Baseline,
        forms,
        replaces: None,
    }
}

const fn restricted(
    id: &'static str,
    forms: &'static [(u32, Rule)],
    replaces: Option<&'static str>,
) -> Check {
    Check {
        id,
        level: Level::Restricted,
        forms,
        replaces,
    }
}

/// All rules, in the order in which they are told.
const CHECKS: &[Check] = &[
    baseline("appArmorProfile", &[(0, app_armor)]),
    baseline("capabilities_baseline", &[(0, capabilities_baseline)]),
    baseline("hostNamespaces", &[(0, host_namespaces)]),
    baseline("hostPathVolumes", &[(0, host_path_volumes)]),
    baseline("hostPorts", &[(0, host_ports)]),
    baseline("hostProbesAndHostLifecycle", &[(34, host_probes)]),
    baseline("privileged", &[(0, privileged)]),
    baseline(
        "procMount",
        &[
            (0, proc_mount),
            (35, |pod| unless_user_namespace(pod, proc_mount)),
        ],
    ),
    baseline(
        "seLinuxOptions",
        &[
            (0, |pod| selinux(pod, &SELINUX_TYPES[..4])),
            (31, |pod| selinux(pod, &SELINUX_TYPES)),
        ],
    ),
    baseline(
        "seccompProfile_baseline",
        &[(0, seccomp_annotations), (19, seccomp_baseline)],
    ),
    baseline(
        "sysctls",
        &[
            (0, |pod| sysctls(pod, &SYSCTLS[..5])),
            (27, |pod| sysctls(pod, &SYSCTLS[..6])),
            (29, |pod| sysctls(pod, &SYSCTLS[..10])),
            (32, |pod| sysctls(pod, &SYSCTLS)),
        ],
    ),
    baseline("windowsHostProcess", &[(0, windows_host_process)]),
    restricted(
        "allowPrivilegeEscalation",
        &[
            (8, privilege_escalation),
            (25, |pod| unless_windows(pod, privilege_escalation)),
        ],
        None,
    ),
    restricted(
        "capabilities_restricted",
        &[
            (22, capabilities_restricted),
            (25, |pod| unless_windows(pod, capabilities_restricted)),
        ],
        Some("capabilities_baseline"),
    ),
    restricted(
        "procMount_restricted",
        &[(35, proc_mount)],
        Some("procMount"),
    ),
    restricted(
        "restrictedVolumes",
        &[(0, restricted_volumes)],
        Some("hostPathVolumes"),
    ),
    restricted(
        "runAsNonRoot",
        &[
            (0, run_as_non_root),
            (35, |pod| unless_user_namespace(pod, run_as_non_root)),
        ],
        None,
    ),
    restricted(
        "runAsUser",
        &[
            (23, run_as_user),
            (35, |pod| unless_user_namespace(pod, run_as_user)),
        ],
        None,
    ),
    restricted(
        "seccompProfile_restricted",
        &[
            (19, seccomp_restricted),
            (25, |pod| unless_windows(pod, seccomp_restricted)),
        ],
        Some("seccompProfile_baseline"),
    ),
];

/// The form of a check that holds in a release.
fn form(check: &Check, version: Version) -> Option<Rule> {
    let holds = |minor: u32| match version {
        Version::Latest => true,
        Version::Minor(asked) => minor <= asked,
    };
    let form = check.forms.iter().rev().find(|(minor, _)| holds(*minor));
    form.map(|(_, rule)| *rule)
}

/// The rules of a standard, in the order in which they are told.
pub(super) fn rules(standard: Standard) -> impl Iterator<Item = Rule> {
    let Standard { level, version } = standard;
    let holding = move |check: &&Check| check.level <= level && form(check, version).is_some();
    let replaced: BTreeSet<&str> = CHECKS
        .iter()
        .filter(holding)
        .filter_map(|check| check.replaces)
        .collect();
    CHECKS
        .iter()
        .filter(holding)
        .filter(move |check| !replaced.contains(check.id))
        .filter_map(move |check| form(check, version))
}

fn unless_windows(pod: &Subject<'_>, rule: Rule) -> Option<Violation> {
    if pod.for_windows() { None } else { rule(pod) }
}

fn unless_user_namespace(pod: &Subject<'_>, rule: Rule) -> Option<Violation> {
    if pod.in_user_namespace() {
        None
    } else {
        rule(pod)
    }
}

fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

fn app_armor(pod: &Subject<'_>) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut bad = |kind: Option<&String>| match kind {
        Some(kind) if !["RuntimeDefault", "Localhost"].contains(&kind.as_str()) => {
            values.insert(kind.clone());
            true
        }
        _ => false,
    };
    let profile = pod
        .security()
        .and_then(|all| all.app_armor_profile.as_ref());
    let pod_sets = bad(profile.map(|profile| &profile.type_));
    let containers = pod.offenders(|one| {
        let profile = one.security.and_then(|all| all.app_armor_profile.as_ref());
        bad(profile.map(|profile| &profile.type_))
    });
    let annotations: Vec<String> = pod
        .annotations
        .into_iter()
        .flatten()
        .filter(|(key, value)| {
            key.starts_with(APP_ARMOR_ANNOTATION)
                && !value.is_empty()
                && *value != "runtime/default"
                && !value.starts_with("localhost/")
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    let mut who: Vec<String> = setters(pod_sets, &containers).into_iter().collect();
    if !annotations.is_empty() {
        who.push(plural("annotation", annotations.len()));
    }
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    let reason = match values.len() {
        1 => "forbidden AppArmor profile",
        _ => "forbidden AppArmor profiles",
    };
    let (who, values) = (who.join(" and "), quoted(&values));
    violation(
        reason,
        format!("{who} must not set AppArmor profile type to {values}"),
    )
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Who adds capabilities other than the allowed ones, and which, in words; `None` for nobody.
fn adds_capabilities(pod: &Subject<'_>, allowed: &[&str]) -> Option<String> {
    let mut added = BTreeSet::new();
    let containers = pod.offenders(|one| {
        let capabilities = one.security.and_then(|all| all.capabilities.as_ref());
        let all = capabilities.and_then(|all| all.add.as_ref()).into_iter();
        let bad: Vec<&String> = all
            .flatten()
            .filter(|name| !allowed.contains(&name.as_str()))
            .collect();
        added.extend(bad.iter().map(|name| (*name).clone()));
        !bad.is_empty()
    });
    (!containers.is_empty()).then(|| {
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers.after("container"),
            quoted_set(&added)
        )
    })
}

fn capabilities_baseline(pod: &Subject<'_>) -> Option<Violation> {
    let detail = adds_capabilities(pod, &DEFAULT_CAPABILITIES)?;
    violation("non-default capabilities", detail)
}

fn capabilities_restricted(pod: &Subject<'_>) -> Option<Violation> {
    let keeps = pod.offenders(|one| {
        let capabilities = one.security.and_then(|all| all.capabilities.as_ref());
        let mut dropped = capabilities
            .and_then(|all| all.drop.as_ref())
            .into_iter()
            .flatten();
        !dropped.any(|name| name == "ALL")
    });
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            keeps.after("container")
        ));
    }
    details.extend(adds_capabilities(pod, &["NET_BIND_SERVICE"]));
    if details.is_empty() {
        return None;
    }
    violation("unrestricted capabilities", details.join("; "))
}

fn host_namespaces(pod: &Subject<'_>) -> Option<Violation> {
    let spec = pod.spec;
    let shared: Vec<&str> = [
        (spec.host_network, "hostNetwork=true"),
        (spec.host_pid, "hostPID=true"),
        (spec.host_ipc, "hostIPC=true"),
    ]
    .into_iter()
    .filter_map(|(on, text)| (on == Some(true)).then_some(text))
    .collect();
    if shared.is_empty() {
        return None;
    }
    violation("host namespaces", shared.join(", "))
}

fn host_path_volumes(pod: &Subject<'_>) -> Option<Violation> {
    let volumes = pod.spec.volumes.iter().flatten();
    let bad = volumes.filter(|volume| volume.host_path.is_some());
    let bad = Names(bad.map(|volume| volume.name.as_str()).collect());
    if bad.is_empty() {
        return None;
    }
    violation("hostPath volumes", bad.after("volume"))
}

fn host_ports(pod: &Subject<'_>) -> Option<Violation> {
    let mut ports: BTreeSet<String> = BTreeSet::new();
    let containers = pod.offenders(|one| {
        let taken = one.ports.iter().filter_map(|port| port.host_port);
        let taken: Vec<i32> = taken.filter(|port| *port != 0).collect();
        ports.extend(taken.iter().map(ToString::to_string));
        !taken.is_empty()
    });
    if containers.is_empty() {
        return None;
    }
    let list: Vec<&str> = ports.iter().map(String::as_str).collect();
    violation(
        "hostPort",
        format!(
            "{} {} {} {}",
            containers.after("container"),
            containers.uses(),
            plural("hostPort", ports.len()),
            list.join(", ")
        ),
    )
}

/// The hosts that a probe or a hook names.
fn hosts(http: Option<&HTTPGetAction>, tcp: Option<&TCPSocketAction>) -> Vec<String> {
    let http = http.and_then(|get| get.host.clone());
    let tcp = tcp.and_then(|socket| socket.host.clone());
    [http, tcp]
        .into_iter()
        .flatten()
        .filter(|host| !host.is_empty())
        .collect()
}

fn host_probes(pod: &Subject<'_>) -> Option<Violation> {
    let probe = |probe: &Probe| hosts(probe.http_get.as_ref(), probe.tcp_socket.as_ref());
    let hook = |hook: &LifecycleHandler| hosts(hook.http_get.as_ref(), hook.tcp_socket.as_ref());
    let mut named: BTreeSet<String> = BTreeSet::new();
    let mut bad = BTreeSet::new();
    for one in &pod.containers {
        let hooks = one.lifecycle.into_iter();
        let hooks = hooks.flat_map(|all| [all.post_start.as_ref(), all.pre_stop.as_ref()]);
        let hosts = one.probes.iter().flatten().flat_map(|one| probe(one));
        let hosts: Vec<String> = hosts.chain(hooks.flatten().flat_map(hook)).collect();
        if !hosts.is_empty() {
            bad.insert(one.name);
            named.extend(hosts);
        }
    }
    if bad.is_empty() {
        return None;
    }
    let containers = Names(bad.into_iter().collect());
    violation(
        "probe or lifecycle host",
        format!(
            "{} {} {} {}",
            containers.after("container"),
            containers.uses(),
            plural("probe or lifecycle host", named.len()),
            quoted_set(&named)
        ),
    )
}

fn privileged(pod: &Subject<'_>) -> Option<Violation> {
    let bad = pod.offenders(|one| one.security.and_then(|all| all.privileged) == Some(true));
    if bad.is_empty() {
        return None;
    }
    violation(
        "privileged",
        format!(
            "{} must not set securityContext.privileged=true",
            bad.after("container")
        ),
    )
}

fn proc_mount(pod: &Subject<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let bad = pod.offenders(|one| {
        let mount = one.security.and_then(|all| all.proc_mount.as_ref());
        let mount = mount.filter(|mount| *mount != "Default");
        kinds.extend(mount.cloned());
        mount.is_some()
    });
    if bad.is_empty() {
        return None;
    }
    violation(
        "procMount",
        format!(
            "{} must not set securityContext.procMount to {}",
            bad.after("container"),
            quoted_set(&kinds)
        ),
    )
}

/// The last one came with 1.31.
const SELINUX_TYPES: [&str; 5] = [
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
];

fn selinux(pod: &Subject<'_>, allowed: &[&str]) -> Option<Violation> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |options: Option<&SELinuxOptions>| {
        let Some(options) = options else { return false };
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let bad_type = !allowed.contains(&text(&options.type_).as_str());
        if bad_type {
            types.insert(text(&options.type_));
        }
        let (sets_user, sets_role) = (
            !text(&options.user).is_empty(),
            !text(&options.role).is_empty(),
        );
        user |= sets_user;
        role |= sets_role;
        bad_type || sets_user || sets_role
    };
    let pod_sets = bad(pod.security().and_then(|all| all.se_linux_options.as_ref()));
    let containers =
        pod.offenders(|one| bad(one.security.and_then(|all| all.se_linux_options.as_ref())));
    let who = setters(pod_sets, &containers)?;
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!(
            "{} {}",
            plural("type", types.len()),
            quoted_set(&types)
        ));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    violation(
        "seLinuxOptions",
        format!(
            "{who} set forbidden securityContext.seLinuxOptions: {}",
            what.join("; ")
        ),
    )
}

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

fn seccomp_annotations(pod: &Subject<'_>) -> Option<Violation> {
    let keys = pod
        .containers
        .iter()
        .map(|one| format!("{SECCOMP_CONTAINER}{}", one.name))
        .chain([SECCOMP_POD.to_owned()]);
    let bad: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = pod.annotations?.get(&key)?;
            let good = ["runtime/default", "docker/default"].contains(&value.as_str())
                || value.starts_with("localhost/");
            (!good).then(|| format!("{key}={value:?}"))
        })
        .collect();
    if bad.is_empty() {
        return None;
    }
    let list: Vec<&str> = bad.iter().map(String::as_str).collect();
    violation(
        "seccompProfile",
        format!(
            "forbidden {} {}",
            plural("annotation", bad.len()),
            list.join(", ")
        ),
    )
}

fn good_seccomp(kind: &str) -> bool {
    ["Localhost", "RuntimeDefault"].contains(&kind)
}

fn seccomp_baseline(pod: &Subject<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let mut bad = |kind: Option<&String>| {
        let bad = kind.filter(|kind| !good_seccomp(kind));
        kinds.extend(bad.cloned());
        bad.is_some()
    };
    let profile = pod.security().and_then(|all| all.seccomp_profile.as_ref());
    let pod_sets = bad(profile.map(|profile| &profile.type_));
    let containers = pod.offenders(|one| {
        let profile = one.security.and_then(|all| all.seccomp_profile.as_ref());
        bad(profile.map(|profile| &profile.type_))
    });
    let who = setters(pod_sets, &containers)?;
    violation(
        "seccompProfile",
        format!(
            "{who} must not set securityContext.seccompProfile.type to {}",
            quoted_set(&kinds)
        ),
    )
}

fn seccomp_restricted(pod: &Subject<'_>) -> Option<Violation> {
    let explicit = seccomp_baseline(pod);
    if explicit.is_some() {
        return explicit;
    }
    let set = pod
        .security()
        .is_some_and(|all| all.seccomp_profile.is_some());
    let unset =
        pod.offenders(|one| !set && one.security.is_none_or(|all| all.seccomp_profile.is_none()));
    if unset.is_empty() {
        return None;
    }
    violation(
        "seccompProfile",
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            unset.after("container")
        ),
    )
}

/// In the order of their coming: five at first, one with 1.27, four with 1.29, two with 1.32.
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn sysctls(pod: &Subject<'_>, allowed: &[&str]) -> Option<Violation> {
    let all = pod.security().and_then(|all| all.sysctls.as_ref());
    let names = all.into_iter().flatten().map(|one| one.name.as_str());
    let bad: Vec<&str> = names.filter(|name| !allowed.contains(name)).collect();
    if bad.is_empty() {
        return None;
    }
    violation("forbidden sysctls", bad.join(", "))
}

fn windows_host_process(pod: &Subject<'_>) -> Option<Violation> {
    let options = pod.security().and_then(|all| all.windows_options.as_ref());
    let pod_sets = options.and_then(|all| all.host_process) == Some(true);
    let containers = pod.offenders(|one| {
        let options = one.security.and_then(|all| all.windows_options.as_ref());
        options.and_then(|all| all.host_process) == Some(true)
    });
    let who = setters(pod_sets, &containers)?;
    violation(
        "hostProcess",
        format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}

fn privilege_escalation(pod: &Subject<'_>) -> Option<Violation> {
    let bad = pod.offenders(|one| {
        one.security.and_then(|all| all.allow_privilege_escalation) != Some(false)
    });
    if bad.is_empty() {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!(
            "{} must set securityContext.allowPrivilegeEscalation=false",
            bad.after("container")
        ),
    )
}

/// What a volume is that the restricted level does not let in; `None` for one that it does.
fn restricted_type(volume: &Volume) -> Option<&'static str> {
    let allowed = volume.config_map.is_some()
        || volume.csi.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.ephemeral.is_some()
        || volume.image.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.projected.is_some()
        || volume.secret.is_some();
    if allowed {
        return None;
    }
    let types = [
        (volume.host_path.is_some(), "hostPath"),
        (volume.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (
            volume.aws_elastic_block_store.is_some(),
            "awsElasticBlockStore",
        ),
        (volume.git_repo.is_some(), "gitRepo"),
        (volume.nfs.is_some(), "nfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.glusterfs.is_some(), "glusterfs"),
        (volume.rbd.is_some(), "rbd"),
        (volume.flex_volume.is_some(), "flexVolume"),
        (volume.cinder.is_some(), "cinder"),
        (volume.cephfs.is_some(), "cephfs"),
        (volume.flocker.is_some(), "flocker"),
        (volume.fc.is_some(), "fc"),
        (volume.azure_file.is_some(), "azureFile"),
        (volume.vsphere_volume.is_some(), "vsphereVolume"),
        (volume.quobyte.is_some(), "quobyte"),
        (volume.azure_disk.is_some(), "azureDisk"),
        (
            volume.photon_persistent_disk.is_some(),
            "photonPersistentDisk",
        ),
        (volume.portworx_volume.is_some(), "portworxVolume"),
        (volume.scale_io.is_some(), "scaleIO"),
        (volume.storageos.is_some(), "storageos"),
    ];
    let found = types.into_iter().find(|(set, _)| *set);
    Some(found.map_or("unknown", |(_, name)| name))
}

fn restricted_volumes(pod: &Subject<'_>) -> Option<Violation> {
    let mut types = BTreeSet::new();
    let volumes = pod.spec.volumes.iter().flatten();
    let bad = volumes.filter(|volume| {
        let kind = restricted_type(volume);
        types.extend(kind.map(str::to_owned));
        kind.is_some()
    });
    let bad = Names(bad.map(|volume| volume.name.as_str()).collect());
    if bad.is_empty() {
        return None;
    }
    violation(
        "restricted volume types",
        format!(
            "{} {} {} {}",
            bad.after("volume"),
            bad.uses(),
            plural("restricted volume type", types.len()),
            quoted_set(&types)
        ),
    )
}

fn run_as_non_root(pod: &Subject<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let of_pod = pod.security().and_then(|all| all.run_as_non_root);
    let own = |security: Option<&k8s_openapi::api::core::v1::SecurityContext>| {
        security.and_then(|all| all.run_as_non_root)
    };
    let explicit = pod.offenders(|one| own(one.security) == Some(false));
    if let Some(who) = setters(of_pod == Some(false), &explicit) {
        return violation(
            REASON,
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        );
    }
    let unset = pod.offenders(|one| of_pod.is_none() && own(one.security).is_none());
    if unset.is_empty() {
        return None;
    }
    violation(
        REASON,
        format!(
            "pod or {} must set securityContext.runAsNonRoot=true",
            unset.after("container")
        ),
    )
}

fn run_as_user(pod: &Subject<'_>) -> Option<Violation> {
    let of_pod = pod.security().and_then(|all| all.run_as_user) == Some(0);
    let containers = pod.offenders(|one| one.security.and_then(|all| all.run_as_user) == Some(0));
    let who = setters(of_pod, &containers)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}
