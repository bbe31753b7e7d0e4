//! The control groups of pods: made before a pod's sandbox, limited as a whole, removed after it.
//!
//! `<root>/pod<uid>` for guaranteed pods, `<root>/burstable/pod<uid>` and `<root>/besteffort/pod<uid>` for the others. Both
//! versions of the kernel's interface are served: one tree (v2), or one per controller (v1).

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::container::sandbox::pod_cgroup;
use crate::pod::resources::{self, CPU_PERIOD};

/// Makes and removes pods' groups.
pub trait PodCgroups: Send + Sync + Debug {
    /// Makes the group of a pod, or brings its limits up to date.
    fn ensure(&self, pod: &Pod) -> io::Result<()>;
    /// Removes the group of a pod. It is fine when there is none.
    fn remove(&self, pod: &Pod) -> io::Result<()>;
    /// The UIDs of the pods that have a group.
    fn uids(&self) -> BTreeSet<String>;
}

/// No groups at all: for simulations.
#[derive(Debug, Default)]
pub struct NoCgroups;

impl PodCgroups for NoCgroups {
    fn ensure(&self, _: &Pod) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &Pod) -> io::Result<()> {
        Ok(())
    }

    fn uids(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }
}

/// The controllers that a pod's group is made for, where the kernel has one tree each.
const CONTROLLERS: [&str; 8] = [
    "cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio",
];

/// The kernel's groups.
#[derive(Debug)]
pub struct KernelCgroups {
    /// `/sys/fs/cgroup`.
    mount: PathBuf,
    /// The group of all pods, such as `/kubepods`.
    root: String,
    unified: bool,
}

impl KernelCgroups {
    /// The groups below `root` in the hierarchy that is mounted at `mount`.
    #[must_use]
    pub fn new(mount: &Path, root: &str) -> Self {
        Self {
            unified: mount.join("cgroup.controllers").exists(),
            mount: mount.to_owned(),
            root: root.to_owned(),
        }
    }

    /// The directories of a group, one per tree.
    fn directories(&self, group: &str) -> Vec<(&'static str, PathBuf)> {
        let group = group.trim_start_matches('/');
        if self.unified {
            return vec![("", self.mount.join(group))];
        }
        // Several controllers may share one tree under links of their names; then each finds the same group.
        let trees = CONTROLLERS.map(|controller| (controller, self.mount.join(controller)));
        let trees = trees.into_iter().filter(|(_, tree)| tree.exists());
        trees
            .map(|(controller, tree)| (controller, tree.join(group)))
            .collect()
    }

    /// Makes a group and those above it.
    fn make(&self, group: &str) -> io::Result<()> {
        for (controller, directory) in self.directories(group) {
            if directory.exists() {
                continue;
            }
            if self.unified {
                self.enable_on_the_way(&directory)?;
            }
            fs::create_dir_all(&directory)?;
            if controller == "cpuset" {
                self.inherit_cpuset(&directory);
            }
        }
        Ok(())
    }

    /// In one tree, every group says which controllers its children get.
    fn enable_on_the_way(&self, directory: &Path) -> io::Result<()> {
        let mut ancestors: Vec<&Path> = directory
            .ancestors()
            .skip(1)
            .take_while(|a| a.starts_with(&self.mount))
            .collect();
        ancestors.reverse();
        for ancestor in ancestors {
            fs::create_dir_all(ancestor)?;
            let available = fs::read_to_string(ancestor.join("cgroup.controllers"))?;
            for controller in available.split_whitespace() {
                let control = ancestor.join("cgroup.subtree_control");
                // One that cannot be delegated does not keep the others back.
                if let Err(error) = fs::write(control, format!("+{controller}")) {
                    tracing::debug!(controller, %error, "a controller is not delegated");
                }
            }
        }
        Ok(())
    }

    /// A new cpuset group of version 1 has no processors until it is given some.
    fn inherit_cpuset(&self, directory: &Path) {
        let tree = self.mount.join("cpuset");
        let mut chain: Vec<&Path> = directory
            .ancestors()
            .take_while(|a| a.starts_with(&tree) && *a != tree)
            .collect();
        chain.reverse();
        for group in chain {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let own = fs::read_to_string(group.join(file)).unwrap_or_default();
                let above = group.parent().map(|p| p.join(file));
                let above = above.and_then(|p| fs::read_to_string(p).ok());
                if own.trim().is_empty()
                    && let Some(above) = above
                    && let Err(error) = fs::write(group.join(file), above.trim())
                {
                    tracing::debug!(file, %error, "cpuset is not inherited");
                }
            }
        }
    }

    /// Removes the group of all pods with everything in it; no process may be left there.
    pub fn remove_everything(&self) -> io::Result<()> {
        if self.root.trim_matches('/').is_empty() {
            // The kernel's own root is nobody's to remove.
            return Ok(());
        }
        for (_, directory) in self.directories(&self.root) {
            remove_tree(&directory)?;
        }
        Ok(())
    }

    fn limit(&self, group: &str, shares: i64, quota: i64, memory: i64) -> io::Result<()> {
        let set = |controller: &str, file: &str, value: String| -> io::Result<()> {
            let found = self.directories(group);
            let found = found.into_iter().find(|(name, _)| *name == controller);
            let path = found.map(|(_, directory)| directory.join(file));
            // A controller that the kernel lacks limits nothing.
            match path.filter(|path| path.exists()) {
                Some(path) => fs::write(path, value),
                None => Ok(()),
            }
        };
        if self.unified {
            let weight = 1 + (shares - 2) * 9999 / 262_142;
            set("", "cpu.weight", weight.to_string())?;
            let most = |value: i64| match value {
                0 => "max".to_owned(),
                value => value.to_string(),
            };
            set("", "cpu.max", format!("{} {CPU_PERIOD}", most(quota)))?;
            return set("", "memory.max", most(memory));
        }
        let most = |value: i64| if value == 0 { -1 } else { value };
        set("cpu", "cpu.shares", shares.to_string())?;
        set("cpu", "cpu.cfs_period_us", CPU_PERIOD.to_string())?;
        set("cpu", "cpu.cfs_quota_us", most(quota).to_string())?;
        set("memory", "memory.limit_in_bytes", most(memory).to_string())
    }
}

impl PodCgroups for KernelCgroups {
    fn ensure(&self, pod: &Pod) -> io::Result<()> {
        let group = pod_cgroup(pod, &self.root);
        self.make(&group)?;
        let requests = resources::pod_requests(pod);
        let limits = resources::pod_limits(pod);
        let amount = |sums: &resources::Amounts, name| sums.get(name).copied().unwrap_or(0);
        self.limit(
            &group,
            resources::cpu_shares(amount(&requests, "cpu")),
            resources::cpu_quota(amount(&limits, "cpu")),
            amount(&limits, "memory"),
        )
    }

    fn remove(&self, pod: &Pod) -> io::Result<()> {
        // The class may be unknown by now (a pod that was found without its spec): look in all three places.
        let uid = crate::pod::spec::uid(pod);
        if uid.is_empty() {
            return Ok(());
        }
        for class in ["", "/burstable", "/besteffort"] {
            let group = format!("{}{class}/pod{uid}", self.root);
            for (_, directory) in self.directories(&group) {
                remove_tree(&directory)?;
            }
        }
        Ok(())
    }

    fn uids(&self) -> BTreeSet<String> {
        let classes = ["", "/burstable", "/besteffort"];
        let groups = classes.map(|class| self.directories(&format!("{}{class}", self.root)));
        let entries = groups
            .iter()
            .flatten()
            .filter_map(|(_, directory)| fs::read_dir(directory).ok())
            .flatten()
            .flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names
            .filter_map(|name| name.strip_prefix("pod").map(str::to_owned))
            .collect()
    }
}

/// Removes a group and the groups in it, innermost first; the files in it are the kernel's.
fn remove_tree(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn pod(uid: &str) -> Pod {
        Pod {
            metadata: ObjectMeta {
                uid: Some(uid.into()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[test]
    fn one_tree_per_controller() {
        let mount = tempfile::tempdir().unwrap();
        for controller in ["cpu", "memory", "pids"] {
            fs::create_dir(mount.path().join(controller)).unwrap();
        }
        let groups = KernelCgroups::new(mount.path(), "/kube");
        groups.ensure(&pod("u")).unwrap();
        for controller in ["cpu", "memory", "pids"] {
            let group = mount.path().join(controller).join("kube/besteffort/podu");
            assert!(group.is_dir());
            fs::create_dir(group.join("container")).unwrap();
        }
        groups.remove(&pod("u")).unwrap();
        groups.remove(&pod("u")).unwrap();
        assert!(!mount.path().join("cpu/kube/besteffort/podu").exists());
        assert!(mount.path().join("cpu/kube/besteffort").exists());
        groups.remove_everything().unwrap();
        assert!(!mount.path().join("cpu/kube").exists());
        assert!(mount.path().join("cpu").exists());
    }

    #[test]
    fn one_tree_for_all() {
        let mount = tempfile::tempdir().unwrap();
        let controllers = |at: &str| {
            let directory = mount.path().join(at);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("cgroup.controllers"), "cpu memory").unwrap();
        };
        for at in ["", "kube", "kube/besteffort"] {
            controllers(at);
        }
        let group = mount.path().join("kube/besteffort/podu");
        let groups = KernelCgroups::new(mount.path(), "/kube");
        groups.ensure(&pod("u")).unwrap();
        assert!(group.is_dir());
        let asked = fs::read_to_string(mount.path().join("kube/cgroup.subtree_control"));
        assert_eq!(asked.unwrap(), "+memory");
        groups.remove(&pod("u")).unwrap();
        assert!(!group.exists());
    }
}
