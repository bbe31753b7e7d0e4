//! Control groups, version 1 and 2: where they are mounted, what a group uses, and its removal.
//!
//! libcontainer sets the limits of containers when it creates them; what happens before, after and
//! around that is here.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The controllers that we use where they exist.
const CONTROLLERS: [&str; 10] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "pids",
    "devices",
    "freezer",
    "blkio",
    "hugetlb",
    "perf_event",
];

/// The control group hierarchies of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchies {
    /// One hierarchy for all controllers.
    V2(PathBuf),
    /// Hierarchies by controller.
    V1(BTreeMap<String, PathBuf>),
}

/// What a group uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory, page cache included.
    pub memory: u64,
    /// Memory without the page cache that can be dropped.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// The limit, if there is one.
    pub memory_limit: Option<u64>,
    /// Page faults.
    pub faults: u64,
    /// Page faults that needed the disk.
    pub major_faults: u64,
    /// Swap.
    pub swap: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// Limits to set on an existing group. What is none stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Relative weight, in cgroup v1's unit (1024 is normal).
    pub cpu_shares: Option<u64>,
    /// Microseconds of processor time in each period; -1 for no limit.
    pub cpu_quota: Option<i64>,
    /// The period in microseconds.
    pub cpu_period: Option<u64>,
    /// Bytes; -1 for no limit.
    pub memory: Option<i64>,
    /// Memory and swap together; -1 for no limit.
    pub memory_swap: Option<i64>,
    /// Processors that may be used.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that may be used.
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1 for no limit.
    pub pids: Option<i64>,
    /// Further files of cgroup v2.
    pub unified: BTreeMap<String, String>,
}

impl Hierarchies {
    /// Finds the hierarchies in this process's mount table.
    pub fn find() -> io::Result<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        Self::from_mountinfo(&table)
            .ok_or_else(|| io::Error::other("no control group hierarchy is mounted"))
    }

    fn from_mountinfo(table: &str) -> Option<Self> {
        let mut v1 = BTreeMap::new();
        let mut v2 = None;
        for line in table.lines() {
            let (left, right) = line.split_once(" - ")?;
            let point = PathBuf::from(left.split(' ').nth(4)?);
            let mut right = right.split(' ');
            match right.next()? {
                "cgroup" => {
                    for option in right.nth(1)?.split(',') {
                        if CONTROLLERS.contains(&option) {
                            v1.entry(option.to_owned()).or_insert_with(|| point.clone());
                        }
                    }
                }
                "cgroup2" => v2 = v2.or(Some(point)),
                _ => {}
            }
        }
        if v1.is_empty() {
            v2.map(Self::V2)
        } else {
            Some(Self::V1(v1))
        }
    }

    /// The group's directories, one for each hierarchy.
    #[must_use]
    pub fn dirs(&self, group: &str) -> Vec<PathBuf> {
        let group = group.trim_start_matches('/');
        match self {
            Self::V2(root) => vec![root.join(group)],
            Self::V1(roots) => {
                let mut dirs: Vec<_> = roots.values().map(|root| root.join(group)).collect();
                dirs.sort();
                dirs.dedup();
                dirs
            }
        }
    }

    /// The group's directory for one controller.
    #[must_use]
    pub fn dir(&self, controller: &str, group: &str) -> Option<PathBuf> {
        let group = group.trim_start_matches('/');
        match self {
            Self::V2(root) => Some(root.join(group)),
            Self::V1(roots) => roots.get(controller).map(|root| root.join(group)),
        }
    }

    /// A directory that lists the processes of the group.
    #[must_use]
    pub fn processes_dir(&self, group: &str) -> Option<PathBuf> {
        ["pids", "devices", "memory", "cpu"]
            .iter()
            .find_map(|controller| self.dir(controller, group))
    }

    /// Makes a group in all hierarchies, with its parents.
    pub fn create(&self, group: &str) -> io::Result<()> {
        if let Self::V2(root) = self {
            return create_v2(root, group);
        }
        for dir in self.dirs(group) {
            fs::create_dir_all(&dir)?;
        }
        if let Self::V1(roots) = self
            && let Some(root) = roots.get("cpuset")
        {
            inherit_cpuset(root, group)?;
        }
        Ok(())
    }

    /// Kills what runs in a group and below it, and removes it. A group that is not there is fine.
    pub fn remove(&self, group: &str) -> io::Result<()> {
        let mut outcome = Ok(());
        for dir in self.dirs(group) {
            if let Err(error) = remove_tree(&dir) {
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Whether a group has processes, in itself or below.
    #[must_use]
    pub fn has_processes(&self, group: &str) -> bool {
        self.processes_dir(group)
            .is_some_and(|dir| !processes(&dir).is_empty())
    }

    /// What a group uses; none when it is not there.
    #[must_use]
    pub fn usage(&self, group: &str) -> Option<Usage> {
        match self {
            Self::V2(root) => usage_v2(&root.join(group.trim_start_matches('/'))),
            Self::V1(_) => self.usage_v1(group),
        }
    }

    fn usage_v1(&self, group: &str) -> Option<Usage> {
        let memory = self.dir("memory", group)?;
        let stat = keyed(&memory.join("memory.stat"))?;
        let get = |key: &str| stat.get(key).copied().unwrap_or(0);
        let used = value(&memory.join("memory.usage_in_bytes"))?;
        let limit = value(&memory.join("memory.limit_in_bytes"));
        let cpu = self.dir("cpuacct", group);
        let pids = self.dir("pids", group);
        Some(Usage {
            cpu_ns: cpu
                .and_then(|dir| value(&dir.join("cpuacct.usage")))
                .unwrap_or(0),
            memory: used,
            working_set: used.saturating_sub(get("total_inactive_file")),
            rss: get("total_rss"),
            // The largest number stands for no limit, rounded to pages.
            memory_limit: limit.filter(|limit| *limit < i64::MAX as u64 - 65_536),
            faults: get("total_pgfault"),
            major_faults: get("total_pgmajfault"),
            swap: get("total_swap"),
            pids: pids
                .and_then(|dir| value(&dir.join("pids.current")))
                .unwrap_or(0),
        })
    }

    /// Sets limits on an existing group.
    pub fn set(&self, group: &str, limits: &Limits) -> io::Result<()> {
        match self {
            Self::V2(root) => set_v2(&root.join(group.trim_start_matches('/')), limits),
            Self::V1(_) => self.set_v1(group, limits),
        }
    }

    fn set_v1(&self, group: &str, limits: &Limits) -> io::Result<()> {
        let write = |controller: &str, file: &str, text: &str| -> io::Result<()> {
            match self.dir(controller, group) {
                Some(dir) => fs::write(dir.join(file), text),
                None => Ok(()),
            }
        };
        if let Some(shares) = limits.cpu_shares {
            write("cpu", "cpu.shares", &shares.max(2).to_string())?;
        }
        if let Some(period) = limits.cpu_period {
            write("cpu", "cpu.cfs_period_us", &period.to_string())?;
        }
        if let Some(quota) = limits.cpu_quota {
            write("cpu", "cpu.cfs_quota_us", &quota.to_string())?;
        }
        if let Some(memory) = limits.memory {
            let swap = limits.memory_swap.unwrap_or(memory).to_string();
            let set_swap = |text: &str| match write("memory", "memory.memsw.limit_in_bytes", text) {
                // The kernel may not account swap.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            };
            // Memory may never be above memory and swap: raising and lowering differ in order.
            if write("memory", "memory.limit_in_bytes", &memory.to_string()).is_err() {
                set_swap(&swap)?;
                write("memory", "memory.limit_in_bytes", &memory.to_string())?;
            } else {
                set_swap(&swap)?;
            }
        }
        if let Some(cpus) = &limits.cpuset_cpus {
            write("cpuset", "cpuset.cpus", cpus)?;
        }
        if let Some(mems) = &limits.cpuset_mems {
            write("cpuset", "cpuset.mems", mems)?;
        }
        if let Some(pids) = limits.pids {
            write("pids", "pids.max", &max_or(pids))?;
        }
        Ok(())
    }
}

fn max_or(value: i64) -> String {
    if value < 0 {
        "max".into()
    } else {
        value.to_string()
    }
}

/// The weight of cgroup v2 for a share of v1: 2..262144 onto 1..10000.
#[must_use]
pub fn weight_of(shares: u64) -> u64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9999) / 262_142
}

fn set_v2(dir: &Path, limits: &Limits) -> io::Result<()> {
    let write = |file: &str, text: &str| fs::write(dir.join(file), text);
    if let Some(shares) = limits.cpu_shares {
        write("cpu.weight", &weight_of(shares).to_string())?;
    }
    if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
        let quota = limits.cpu_quota.filter(|quota| *quota > 0);
        let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
        let period = limits.cpu_period.unwrap_or(100_000);
        write("cpu.max", &format!("{quota} {period}"))?;
    }
    if let Some(memory) = limits.memory {
        write("memory.max", &max_or(memory))?;
    }
    if let (Some(both), Some(memory)) = (limits.memory_swap, limits.memory) {
        let swap = if both < 0 { -1 } else { (both - memory).max(0) };
        match write("memory.swap.max", &max_or(swap)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        write("cpuset.cpus", cpus)?;
    }
    if let Some(mems) = &limits.cpuset_mems {
        write("cpuset.mems", mems)?;
    }
    if let Some(pids) = limits.pids {
        write("pids.max", &max_or(pids))?;
    }
    for (file, text) in &limits.unified {
        if file.contains('/') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("not a control group file: {file}"),
            ));
        }
        write(file, text)?;
    }
    Ok(())
}

fn usage_v2(dir: &Path) -> Option<Usage> {
    let memory = keyed(&dir.join("memory.stat"))?;
    let get = |key: &str| memory.get(key).copied().unwrap_or(0);
    let cpu = keyed(&dir.join("cpu.stat")).unwrap_or_default();
    let used = value(&dir.join("memory.current"))?;
    Some(Usage {
        cpu_ns: cpu.get("usage_usec").copied().unwrap_or(0) * 1000,
        memory: used,
        working_set: used.saturating_sub(get("inactive_file")),
        rss: get("anon"),
        memory_limit: value(&dir.join("memory.max")),
        faults: get("pgfault"),
        major_faults: get("pgmajfault"),
        swap: value(&dir.join("memory.swap.current")).unwrap_or(0),
        pids: value(&dir.join("pids.current")).unwrap_or(0),
    })
}

fn create_v2(root: &Path, group: &str) -> io::Result<()> {
    let wanted = fs::read_to_string(root.join("cgroup.controllers"))?;
    let mut dir = root.to_owned();
    for part in group.trim_start_matches('/').split('/') {
        for controller in wanted.split_whitespace() {
            // A parent with processes of its own cannot pass controllers on; the limits of those
            // then fail with a clear message.
            let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        dir.push(part);
        fs::create_dir_all(&dir)?;
    }
    Ok(())
}

/// A new v1 cpuset is empty, and nothing can run in it until it is filled.
fn inherit_cpuset(root: &Path, group: &str) -> io::Result<()> {
    let mut dir = root.to_owned();
    for part in group.trim_start_matches('/').split('/') {
        let parent = dir.clone();
        dir.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(dir.join(file))?.trim().is_empty() {
                fs::write(
                    dir.join(file),
                    fs::read_to_string(parent.join(file))?.trim(),
                )?;
            }
        }
    }
    Ok(())
}

fn value(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn keyed(path: &Path) -> Option<BTreeMap<String, u64>> {
    let text = fs::read_to_string(path).ok()?;
    Some(
        text.lines()
            .filter_map(|line| {
                let (key, number) = line.split_once(' ')?;
                Some((key.to_owned(), number.trim().parse().ok()?))
            })
            .collect(),
    )
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn processes(dir: &Path) -> Vec<i32> {
    let mut pids: Vec<i32> = fs::read_to_string(dir.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    for child in children(dir) {
        pids.extend(processes(&child));
    }
    pids
}

/// Removes a group's directory and those below. Processes are killed; the kernel needs a moment
/// to let go of them.
fn remove_tree(dir: &Path) -> io::Result<()> {
    for attempt in 0..50u64 {
        for pid in processes(dir).into_iter().filter(|pid| *pid > 0) {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        for child in children(dir) {
            // Tried again below when it still has processes.
            let _ = remove_tree_once(&child);
        }
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(std::time::Duration::from_millis(attempt.min(10)));
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!(
        "control group {} stays busy",
        dir.display()
    )))
}

fn remove_tree_once(dir: &Path) -> io::Result<()> {
    for child in children(dir) {
        remove_tree_once(&child)?;
    }
    fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found() {
        let v1 = "\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
        let found = Hierarchies::from_mountinfo(v1).unwrap();
        assert_eq!(
            found.dirs("/a/b"),
            [
                PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/a/b"),
                PathBuf::from("/sys/fs/cgroup/memory/a/b")
            ]
        );
        assert_eq!(
            found.dir("cpuacct", "a"),
            Some(PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/a"))
        );
        assert_eq!(found.dir("pids", "a"), None);
        let v2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            Hierarchies::from_mountinfo(v2),
            Some(Hierarchies::V2("/sys/fs/cgroup".into()))
        );
        assert_eq!(Hierarchies::from_mountinfo(""), None);
    }

    #[test]
    fn shares_become_weights() {
        assert_eq!(weight_of(2), 1);
        assert_eq!(weight_of(1024), 39);
        assert_eq!(weight_of(262_144), 10_000);
        assert_eq!(weight_of(0), 1);
    }

    #[test]
    fn usage_of_a_v2_group() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("memory.stat", "anon 100\ninactive_file 30\npgfault 7\n");
        write("memory.current", "150\n");
        write("memory.max", "max\n");
        write("cpu.stat", "usage_usec 5\n");
        let usage = usage_v2(dir.path()).unwrap();
        assert_eq!(usage.working_set, 120);
        assert_eq!(usage.cpu_ns, 5000);
        assert_eq!(usage.memory_limit, None);
    }
}
