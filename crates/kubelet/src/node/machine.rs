//! What the machine has: processors, memory, disk, identity.

use std::fs;
use std::path::Path;

use crate::config::KubeletConfig;
use crate::pod::resources::Amounts;

/// The memory that is kept back from pods so that eviction can act: 100 MiB, as upstream's threshold.
const EVICTION_MEMORY: i64 = 100 << 20;

/// The machine as it was found at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Processors.
    pub cpus: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of the file system that pods' directories are on.
    pub disk: i64,
    /// The identity of the machine.
    pub machine_id: String,
    /// The identity of the hardware.
    pub system_uuid: String,
    /// The identity of this boot.
    pub boot_id: String,
    /// The kernel's version.
    pub kernel: String,
    /// The distribution's name.
    pub os_image: String,
    /// The host's name.
    pub host_name: String,
}

fn line(path: impl AsRef<Path>) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// The first of these files that says anything, as cAdvisor looks for it.
fn first_line(paths: &[&str]) -> String {
    let mut lines = paths.iter().map(line);
    lines.find(|line| !line.is_empty()).unwrap_or_default()
}

impl Machine {
    /// Looks at the machine.
    #[must_use]
    pub fn inspect(config: &KubeletConfig) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = fs::read_to_string(config.proc_dir.join("meminfo")).unwrap_or_default();
        let uname = nix::sys::utsname::uname();
        let text = |value: &std::ffi::OsStr| value.to_string_lossy().into_owned();
        let (kernel, host_name) = match &uname {
            Ok(uname) => (text(uname.release()), text(uname.nodename())),
            Err(_) => (String::new(), String::new()),
        };
        Self {
            cpus: i64::try_from(cpus).unwrap_or(1),
            memory: total_memory(&memory),
            disk: disk_size(&config.root_dir),
            machine_id: line("/etc/machine-id"),
            system_uuid: first_line(&[
                "/sys/class/dmi/id/product_uuid",
                "/proc/device-tree/vm,uuid",
                "/etc/machine-id",
            ]),
            boot_id: line(config.proc_dir.join("sys/kernel/random/boot_id")),
            kernel,
            os_image: pretty_name(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
            host_name,
        }
    }

    /// What the machine has, in the units of [`crate::quantity::amount`].
    #[must_use]
    pub fn capacity(&self, config: &KubeletConfig) -> Amounts {
        Amounts::from([
            ("cpu".to_owned(), self.cpus * 1000),
            ("memory".to_owned(), self.memory),
            ("ephemeral-storage".to_owned(), self.disk),
            ("pods".to_owned(), i64::from(config.max_pods)),
            ("hugepages-1Gi".to_owned(), 0),
            ("hugepages-2Mi".to_owned(), 0),
        ])
    }

    /// What of it pods may have.
    #[must_use]
    pub fn allocatable(&self, config: &KubeletConfig) -> Amounts {
        let mut amounts = self.capacity(config);
        for (name, amount) in &mut amounts {
            let mut kept = config.reserved.get(name).copied().unwrap_or(0);
            match name.as_str() {
                "memory" => kept += EVICTION_MEMORY,
                "ephemeral-storage" => kept += *amount / 10,
                _ => {}
            }
            *amount = (*amount - kept).max(0);
        }
        amounts
    }
}

fn total_memory(meminfo: &str) -> i64 {
    let total = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = total
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<i64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The size of the file system that `path` (or its nearest parent that exists) is on.
fn disk_size(path: &Path) -> i64 {
    let existing = path.ancestors().find(|p| p.exists());
    let stat = existing.and_then(|p| nix::sys::statvfs::statvfs(p).ok());
    let size = stat.map(|s| u128::from(s.blocks()) * u128::from(s.fragment_size()));
    size.and_then(|s| i64::try_from(s).ok()).unwrap_or(0)
}

fn pretty_name(os_release: &str) -> String {
    let name = os_release
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_words() {
        assert_eq!(
            total_memory("MemTotal:   2048 kB\nMemFree: 1 kB\n"),
            2 << 20
        );
        assert_eq!(pretty_name("A=b\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        assert!(disk_size(Path::new("/nowhere/at/all")) > 0);
    }

    #[test]
    fn some_is_kept_back() {
        let machine = Machine {
            cpus: 2,
            memory: 1 << 30,
            disk: 1000,
            ..Machine::default()
        };
        let config = KubeletConfig::new("n", "1.1.1.1", Path::new("/x"));
        let allocatable = machine.allocatable(&config);
        assert_eq!(allocatable["cpu"], 2000);
        assert_eq!(allocatable["memory"], (1 << 30) - (100 << 20));
        assert_eq!(allocatable["ephemeral-storage"], 900);
        assert_eq!(allocatable["pods"], 110);
    }
}
