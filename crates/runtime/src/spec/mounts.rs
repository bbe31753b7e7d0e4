//! What is mounted in a container, in which order.

use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::{Plan, PlanError};
use crate::cri::{self, MountPropagation, NamespaceMode};

/// Files and directories that the runtime makes for a pod.
#[derive(Clone, Debug, Default)]
pub struct PodFiles {
    /// Becomes /etc/hostname.
    pub hostname: PathBuf,
    /// Becomes /etc/resolv.conf.
    pub resolv_conf: PathBuf,
    /// Becomes /dev/shm: shared by the pod, or the node's.
    pub shm: PathBuf,
}

struct Entry {
    destination: PathBuf,
    value: Value,
}

fn entry(destination: &str, kind: &str, source: &str, options: &[&str]) -> Entry {
    Entry {
        destination: destination.into(),
        value: json!({
            "destination": destination,
            "type": kind,
            "source": source,
            "options": options,
        }),
    }
}

fn bind(destination: &str, source: &Path, options: &[&str]) -> Entry {
    Entry {
        destination: destination.into(),
        value: json!({
            "destination": destination,
            "type": "bind",
            "source": source,
            "options": options,
        }),
    }
}

/// All mounts of a container: parents before what is mounted in them.
pub fn list(plan: &Plan<'_>) -> Result<Value, PlanError> {
    let mut entries = standard(plan);
    entries.extend(of_the_pod(plan));
    let mut wanted = Vec::new();
    for mount in &plan.config.mounts {
        wanted.push(requested(mount)?);
    }
    // What the pod asks for replaces what would be there anyway, and what lies below it.
    entries.retain(|entry| {
        !wanted
            .iter()
            .any(|other| covers(&other.destination, &entry.destination))
    });
    entries.extend(wanted);
    entries.sort_by_key(|entry| entry.destination.components().count());
    Ok(entries.into_iter().map(|entry| entry.value).collect())
}

fn covers(wanted: &Path, standard: &Path) -> bool {
    // A volume on /dev replaces /dev, but /dev/shm and the terminals are needed all the same.
    wanted == standard
        || (standard.starts_with(wanted)
            && (wanted.starts_with("/sys") || wanted.starts_with("/proc")))
}

fn standard(plan: &Plan<'_>) -> Vec<Entry> {
    let sys_options: &[&str] = if plan.privileged() {
        &["nosuid", "noexec", "nodev", "rw"]
    } else {
        &["nosuid", "noexec", "nodev", "ro"]
    };
    let cgroup_options: &[&str] = if plan.privileged() {
        &["nosuid", "noexec", "nodev", "relatime", "rw"]
    } else {
        &["nosuid", "noexec", "nodev", "relatime", "ro"]
    };
    vec![
        entry("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        entry(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        entry(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        entry(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        entry("/sys", "sysfs", "sysfs", sys_options),
        entry("/sys/fs/cgroup", "cgroup", "cgroup", cgroup_options),
    ]
}

fn of_the_pod(plan: &Plan<'_>) -> Vec<Entry> {
    let read_only = plan.security().is_some_and(|s| s.readonly_rootfs);
    let access = if read_only { "ro" } else { "rw" };
    let files = plan.files;
    let shm = if plan.namespaces().ipc() == NamespaceMode::Node {
        bind("/dev/shm", Path::new("/dev/shm"), &["rbind", "rw"])
    } else {
        bind("/dev/shm", &files.shm, &["rbind", "rw"])
    };
    vec![
        bind("/etc/hostname", &files.hostname, &["rbind", access]),
        bind("/etc/resolv.conf", &files.resolv_conf, &["rbind", access]),
        shm,
    ]
}

fn requested(mount: &cri::Mount) -> Result<Entry, PlanError> {
    let refuse = |reason| PlanError::Mount {
        path: mount.container_path.clone(),
        reason,
    };
    let destination = Path::new(&mount.container_path);
    let climbs = destination
        .components()
        .any(|component| component == Component::ParentDir);
    if mount.container_path.is_empty() || climbs {
        return Err(refuse("the path in the container is invalid"));
    }
    if destination == Path::new("/") {
        return Err(refuse("the root of the container cannot be mounted over"));
    }
    if !mount.host_path.starts_with('/') {
        return Err(refuse("the path on the node is not absolute"));
    }
    let absolute = Path::new("/").join(destination);
    let propagation = match mount.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    };
    let access = match (mount.readonly, mount.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    Ok(bind(
        &absolute.to_string_lossy(),
        Path::new(&mount.host_path),
        &["rbind", propagation, access],
    ))
}

/// How mounts travel between the node and the container: as far as its most demanding volume asks.
pub fn propagation(config: &cri::ContainerConfig) -> &'static str {
    let asked = |wanted: MountPropagation| {
        config
            .mounts
            .iter()
            .any(|mount| mount.propagation() == wanted)
    };
    if asked(MountPropagation::PropagationBidirectional) {
        "shared"
    } else if asked(MountPropagation::PropagationHostToContainer) {
        "slave"
    } else {
        "private"
    }
}
