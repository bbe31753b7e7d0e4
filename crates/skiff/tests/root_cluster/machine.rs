//! What a cluster has on this machine: processes, namespaces, interfaces, mounts, cgroups, rules and files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::cluster::{Cluster, mounts_below, run};

/// What pods have of the machine. The server itself is not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Shims, by the id of their pod sandbox.
    pub shims: BTreeSet<String>,
    /// First processes and children of containers: process id and command line.
    pub processes: BTreeMap<u32, String>,
    /// Network namespaces other than the machine's own.
    pub network_namespaces: BTreeSet<String>,
    /// Host ends of pods' cables.
    pub cables: BTreeSet<String>,
    /// Mounts below the data directory.
    pub mounts: BTreeSet<String>,
    /// Control groups of pods and containers.
    pub cgroups: BTreeSet<String>,
    /// Elements of the pod network's nftables sets; empty where no `nft` is installed.
    pub elements: BTreeSet<String>,
    /// Addresses that are written down as taken.
    pub addresses: BTreeSet<String>,
    /// Records of pod sandboxes.
    pub sandboxes: BTreeSet<String>,
    /// Records of containers.
    pub containers: BTreeSet<String>,
    /// Directories of pods' volumes.
    pub pod_directories: BTreeSet<String>,
    /// Directories of pods' logs.
    pub log_directories: BTreeSet<String>,
}

fn names(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return BTreeSet::new();
    };
    let entries = entries.flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn directories_below(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            directories_below(&entry.path(), found);
            found.insert(entry.path());
        }
    }
}

/// Every file and directory below `folder`.
pub fn files_below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}

impl Cluster {
    /// What this cluster's pods have of the machine now.
    pub fn footprint(&self) -> Footprint {
        let data = self.data();
        let mut footprint = Footprint {
            cables: names(Path::new("/sys/class/net"))
                .into_iter()
                .filter(|name| name.starts_with(&format!("{}0v", self.name())))
                .collect(),
            mounts: mounts_below(data)
                .iter()
                .filter_map(|line| line.split(' ').nth(4))
                .map(str::to_owned)
                .filter(|point| {
                    *point != data.join("run").to_string_lossy()
                        && *point != data.join("run/shim").to_string_lossy()
                })
                .collect(),
            elements: self.elements(),
            addresses: names(&data.join("network/addresses")),
            sandboxes: names(&data.join("containers/sandboxes")),
            containers: names(&data.join("containers/containers")),
            pod_directories: names(&data.join("kubelet/pods")),
            log_directories: names(&data.join("kubelet/logs")),
            ..Footprint::default()
        };
        self.find_processes(&mut footprint);
        for root in [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/memory",
            "/sys/fs/cgroup/pids",
        ] {
            let root = Path::new(root).join(self.name()).join("pods");
            let mut found = BTreeSet::new();
            directories_below(&root, &mut found);
            footprint.cgroups.extend(
                found
                    .iter()
                    .filter(|path| !path.ends_with("besteffort") && !path.ends_with("burstable"))
                    .map(|path| path.to_string_lossy().into_owned()),
            );
        }
        footprint
    }

    fn find_processes(&self, footprint: &mut Footprint) {
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let shims = format!("{}/run/s/", self.data().display());
        let group = format!(":/{}/", self.name());
        for process in names(Path::new("/proc")) {
            let Ok(id) = process.parse::<u32>() else {
                continue;
            };
            let folder = Path::new("/proc").join(&process);
            let line = fs::read(folder.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let groups = fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
            if let Some((_, sandbox)) = line.split_once(&shims) {
                footprint.shims.insert(sandbox.trim().to_owned());
            } else if groups.contains(&group) {
                footprint.processes.insert(id, line);
            } else {
                continue;
            }
            if let Ok(namespace) = fs::read_link(folder.join("ns/net"))
                && namespace != own
            {
                footprint
                    .network_namespaces
                    .insert(namespace.to_string_lossy().into_owned());
            }
        }
    }

    fn elements(&self) -> BTreeSet<String> {
        let table = format!("{}-pods", self.name());
        let installed = Command::new("nft").arg("--version").output().is_ok();
        if !installed {
            eprintln!("NOT CHECKED: the elements of nftables sets: no nft is installed");
            return BTreeSet::new();
        }
        let output = run(Command::new("nft").args(["-j", "list", "table", "ip", &table]));
        let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let sets = listed["nftables"].as_array().cloned().unwrap_or_default();
        sets.iter()
            .flat_map(|item| [&item["set"]["elem"], &item["map"]["elem"]])
            .filter_map(Value::as_array)
            .flatten()
            .map(Value::to_string)
            .collect()
    }

    /// The pods of all namespaces.
    pub fn pods(&self) -> Vec<Value> {
        let list = self.ask(&["get", "pods", "--all-namespaces", "-o", "json"]);
        let list: Value = serde_json::from_str(&list).unwrap();
        list["items"].as_array().cloned().unwrap_or_default()
    }
}

/// Compares what the API says with what the machine has; `pods` are running pods with one container and a network of their own each.
pub fn differences(footprint: &Footprint, pods: &[Value]) -> Vec<String> {
    let strings = |of: &dyn Fn(&Value) -> Option<&str>| -> BTreeSet<String> {
        pods.iter()
            .filter_map(|pod| of(pod).map(str::to_owned))
            .collect()
    };
    let uids = strings(&|pod| pod["metadata"]["uid"].as_str());
    let addresses = strings(&|pod| pod["status"]["podIP"].as_str());
    let containers = strings(&|pod| {
        pod["status"]["containerStatuses"][0]["containerID"]
            .as_str()?
            .strip_prefix("skiff://")
    });
    let mut found = Vec::new();
    let mut same = |what: &str, have: &BTreeSet<String>, want: &BTreeSet<String>| {
        if have != want {
            let extra: Vec<_> = have.difference(want).collect();
            let missing: Vec<_> = want.difference(have).collect();
            found.push(format!("{what}: too many {extra:?}, missing {missing:?}"));
        }
    };
    same("addresses", &footprint.addresses, &addresses);
    same("containers", &footprint.containers, &containers);
    same("volume directories", &footprint.pod_directories, &uids);
    same("shims", &footprint.shims, &footprint.sandboxes);
    let uid_of = |name: &String| name.rsplit('_').next().map(str::to_owned);
    let logs = footprint.log_directories.iter().filter_map(uid_of);
    same("log directories", &logs.collect(), &uids);
    let mut number = |what: &str, have: usize, want: usize| {
        if have != want {
            found.push(format!("{what}: {have} instead of {want}"));
        }
    };
    let count = pods.len();
    number("different addresses", addresses.len(), count);
    number("pod sandboxes", footprint.sandboxes.len(), count);
    number("processes in containers", footprint.processes.len(), count);
    number(
        "network namespaces",
        footprint.network_namespaces.len(),
        count,
    );
    number("cables", footprint.cables.len(), count);
    if !footprint.elements.is_empty() {
        number("nftables elements", footprint.elements.len(), count);
    }
    // Shared memory, and the token's volume.
    number("mounts", footprint.mounts.len(), 2 * count);
    let is_ours = |group: &&String| !uids.iter().any(|uid| group.contains(uid.as_str()));
    let stray: Vec<_> = footprint.cgroups.iter().filter(is_ours).collect();
    if !stray.is_empty() {
        found.push(format!("control groups of nobody: {stray:?}"));
    }
    found
}
