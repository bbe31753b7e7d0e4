//! What pods and containers use, from their control groups.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::EmbeddedRuntime;
use super::record::{Container, Phase, Sandbox};
use super::status::has_labels;
use crate::cgroup::Usage;
use crate::cri;

/// For how long a measured directory size is good enough.
const DISK_FRESH: Duration = Duration::from_secs(60);

/// When it was measured, bytes and files.
type DiskSample = (Duration, (u64, u64));

/// Earlier samples: rates need two.
#[derive(Default)]
pub struct Samples {
    cpu: Mutex<HashMap<String, (i64, u64)>>,
    disk: Mutex<HashMap<String, DiskSample>>,
}

impl Samples {
    /// Drops what is known of a container.
    pub fn forget(&self, id: &str) {
        self.cpu.lock().remove(id);
        self.disk.lock().remove(id);
    }

    /// Nanoseconds of processor time in a second, since the last sample.
    fn rate(&self, id: &str, at: i64, cpu: u64) -> Option<u64> {
        let (before, used) = self.cpu.lock().insert(id.to_owned(), (at, cpu))?;
        let passed = u64::try_from(at - before).ok().filter(|ns| *ns > 0)?;
        Some(cpu.saturating_sub(used).saturating_mul(1_000_000_000) / passed)
    }
}

fn number(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

impl EmbeddedRuntime {
    pub(super) async fn stats_of(&self, container: &Arc<Container>) -> cri::ContainerStats {
        let at = self.now();
        let cgroups = self.0.cgroups.clone();
        let group = container.facts.cgroup.clone();
        let usage = tokio::task::spawn_blocking(move || cgroups.usage(&group))
            .await
            .ok()
            .flatten()
            .unwrap_or_default();
        let upper = container.dir.join("upper");
        let disk = self.disk_usage(&container.id, &upper).await;
        cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: container.id.clone(),
                metadata: container.config.metadata.clone(),
                labels: container.config.labels.clone(),
                annotations: container.config.annotations.clone(),
            }),
            cpu: Some(self.cpu(&container.id, at, &usage)),
            memory: Some(memory(at, &usage)),
            writable_layer: Some(cri::FilesystemUsage {
                timestamp: at,
                fs_id: Some(self.image_filesystem()),
                used_bytes: number(disk.0),
                inodes_used: number(disk.1),
            }),
            swap: Some(cri::SwapUsage {
                timestamp: at,
                swap_available_bytes: None,
                swap_usage_bytes: number(usage.swap),
            }),
            io: None,
        }
    }

    fn cpu(&self, id: &str, at: i64, usage: &Usage) -> cri::CpuUsage {
        cri::CpuUsage {
            timestamp: at,
            usage_core_nano_seconds: number(usage.cpu_ns),
            usage_nano_cores: self
                .0
                .samples
                .rate(id, at, usage.cpu_ns)
                .map(|value| cri::UInt64Value { value }),
            psi: None,
        }
    }

    pub(super) fn image_filesystem(&self) -> cri::FilesystemIdentifier {
        cri::FilesystemIdentifier {
            mountpoint: self.0.images.dir().to_string_lossy().into_owned(),
        }
    }

    /// Bytes and files below a directory, measured once in a while.
    pub(super) async fn disk_usage(&self, key: &str, dir: &Path) -> (u64, u64) {
        let now = self.0.config.clock.monotonic();
        let known = self.0.samples.disk.lock().get(key).copied();
        if let Some((at, usage)) = known
            && now.saturating_sub(at) < DISK_FRESH
        {
            return usage;
        }
        let dir = dir.to_owned();
        let usage = tokio::task::spawn_blocking(move || measure(&dir))
            .await
            .unwrap_or_default();
        self.0
            .samples
            .disk
            .lock()
            .insert(key.to_owned(), (now, usage));
        usage
    }

    pub(super) async fn list_stats(
        &self,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Vec<cri::ContainerStats> {
        let filter = filter.unwrap_or_default();
        let containers: Vec<_> = self
            .0
            .containers
            .read()
            .values()
            .filter(|c| c.state().phase == Phase::Running)
            .filter(|c| c.id.starts_with(&filter.id))
            .filter(|c| c.facts.sandbox_id.starts_with(&filter.pod_sandbox_id))
            .filter(|c| has_labels(&c.config.labels, &filter.label_selector))
            .cloned()
            .collect();
        let mut all = Vec::with_capacity(containers.len());
        for container in &containers {
            all.push(self.stats_of(container).await);
        }
        all
    }

    pub(super) async fn sandbox_stats(&self, sandbox: &Arc<Sandbox>) -> cri::PodSandboxStats {
        let at = self.now();
        let state = sandbox.state();
        let cgroups = self.0.cgroups.clone();
        let pid = state.shim_pid;
        let (usage, interfaces) =
            tokio::task::spawn_blocking(move || (cgroups.usage(&state.cgroup), interfaces(pid)))
                .await
                .unwrap_or_default();
        let usage = usage.unwrap_or_default();
        let filter = cri::ContainerStatsFilter {
            pod_sandbox_id: sandbox.id.clone(),
            ..Default::default()
        };
        cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes {
                id: sandbox.id.clone(),
                metadata: sandbox.config.metadata.clone(),
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
            }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu: Some(self.cpu(&sandbox.id, at, &usage)),
                memory: Some(memory(at, &usage)),
                network: Some(cri::NetworkUsage {
                    timestamp: at,
                    default_interface: interfaces.first().cloned(),
                    interfaces,
                }),
                process: Some(cri::ProcessUsage {
                    timestamp: at,
                    process_count: number(usage.pids),
                }),
                containers: self.list_stats(Some(filter)).await,
                io: None,
            }),
        }
    }

    pub(super) async fn list_pod_stats(
        &self,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Vec<cri::PodSandboxStats> {
        let filter = filter.unwrap_or_default();
        let sandboxes: Vec<_> = self
            .0
            .sandboxes
            .read()
            .values()
            .filter(|s| s.state().ready)
            .filter(|s| s.id.starts_with(&filter.id))
            .filter(|s| has_labels(&s.config.labels, &filter.label_selector))
            .cloned()
            .collect();
        let mut all = Vec::with_capacity(sandboxes.len());
        for sandbox in &sandboxes {
            all.push(self.sandbox_stats(sandbox).await);
        }
        all
    }
}

fn memory(at: i64, usage: &Usage) -> cri::MemoryUsage {
    cri::MemoryUsage {
        timestamp: at,
        working_set_bytes: number(usage.working_set),
        available_bytes: usage
            .memory_limit
            .and_then(|limit| number(limit.saturating_sub(usage.working_set))),
        usage_bytes: number(usage.memory),
        rss_bytes: number(usage.rss),
        page_faults: number(usage.faults),
        major_page_faults: number(usage.major_faults),
        psi: None,
    }
}

/// The interfaces of a process's network namespace, without the loopback.
fn interfaces(pid: i32) -> Vec<cri::NetworkInterfaceUsage> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    parse_interfaces(&table)
}

fn parse_interfaces(table: &str) -> Vec<cri::NetworkInterfaceUsage> {
    table
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            let numbers: Vec<u64> = rest
                .split_whitespace()
                .filter_map(|text| text.parse().ok())
                .collect();
            let name = name.trim();
            if name == "lo" || numbers.len() < 11 {
                return None;
            }
            Some(cri::NetworkInterfaceUsage {
                name: name.to_owned(),
                rx_bytes: number(numbers[0]),
                rx_errors: number(numbers[2]),
                tx_bytes: number(numbers[8]),
                tx_errors: number(numbers[10]),
            })
        })
        .collect()
}

/// Bytes on disk and files below `dir`.
pub(super) fn measure(dir: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let mut total = (0, 0);
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        // What vanishes meanwhile does not count.
        let Ok(entries) = std::fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            if let Ok(meta) = entry.metadata() {
                total.0 += meta.blocks() * 512;
                total.1 += 1;
                if meta.is_dir() {
                    open.push(entry.path());
                }
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read() {
        let table = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    5000      40    1    0    0     0          0         0     7000      50    2    0    0     0       0          0
";
        let found = parse_interfaces(table);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "eth0");
        assert_eq!(found[0].rx_bytes, number(5000));
        assert_eq!(found[0].tx_errors, number(2));
    }

    #[test]
    fn rates_need_two_samples() {
        let samples = Samples::default();
        assert_eq!(samples.rate("c", 1_000_000_000, 5), None);
        assert_eq!(
            samples.rate("c", 3_000_000_000, 1_000_000_005),
            Some(500_000_000)
        );
        assert_eq!(samples.rate("c", 3_000_000_000, 1_000_000_005), None);
    }
}
