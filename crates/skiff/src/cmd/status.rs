//! `skiff status`: what runs.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use crate::config::PARTS;
use crate::instance::{Instance, Lock};
use crate::say::say;

/// Prints what runs; fails when nothing does.
pub fn run(data_dir: &Path) -> Result<()> {
    let Some(instance) = Instance::read(data_dir)? else {
        bail!(
            "there is no cluster in {}; start one with `skiff up`",
            data_dir.display()
        )
    };
    let Some(process) = Lock::is_held(data_dir)? else {
        bail!(
            "the server of {} does not run; start it with `skiff up`",
            data_dir.display()
        )
    };
    let config = &instance.config;
    #[allow(
        clippy::disallowed_methods,
        reason = "a command line tool tells the age of a process"
    )]
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let row = |name: &str, value: String| say!("{name:<14} {value}");
    row("version", instance.version.clone());
    row(
        "process",
        format!(
            "{process}, for {}",
            duration(now.saturating_sub(instance.started))
        ),
    );
    row(
        "memory",
        resident(process).map_or_else(
            || "unknown".into(),
            |kib| format!("{:.1} MiB", kib as f64 / 1024.0),
        ),
    );
    let own = format!("https://{}:{}", config.advertise_address, config.api_port);
    row("API server", instance.server.clone().unwrap_or(own));
    row("runs", parts(&instance));
    row(
        "node",
        format!("{} ({})", config.node_name, config.advertise_address),
    );
    let (count, kib) = shims(Path::new("/proc"), &config.data_dir);
    row(
        "pods",
        format!("{count}, with {:.1} MiB of shims", kib as f64 / 1024.0),
    );
    row(
        "addresses",
        format!(
            "pods {}, services {}, DNS {}",
            config.pod_cidr, config.service_cidr, config.cluster_dns
        ),
    );
    row("data", config.data_dir.display().to_string());
    if instance.server.is_none() {
        row(
            "kubeconfig",
            config.admin_kubeconfig().display().to_string(),
        );
    }
    Ok(())
}

/// The parts in the process, and those that were left out.
fn parts(instance: &Instance) -> String {
    if instance.server.is_some() {
        return "the kubelet alone".into();
    }
    let (runs, left_out): (Vec<&str>, Vec<&str>) = PARTS
        .into_iter()
        .partition(|part| instance.config.runs(part));
    let all = [&["API server"][..], &runs].concat().join(", ");
    match left_out.is_empty() {
        true => all,
        false => format!("{all}; without {}", left_out.join(", ")),
    }
}

/// How many pods run, going by their shims, and how many KiB those have.
fn shims(processes: &Path, data_dir: &Path) -> (usize, u64) {
    let place = format!("{}/run/s/", data_dir.display());
    let found = fs::read_dir(processes).into_iter().flatten().flatten();
    let found = found.filter_map(|entry| {
        let process: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let is_shim = String::from_utf8_lossy(&line).contains(&place);
        is_shim.then(|| resident(process).unwrap_or(0))
    });
    found.fold((0, 0), |(count, sum), kib| (count + 1, sum + kib))
}

/// Resident memory in KiB.
fn resident(process: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .trim()
            .strip_suffix(" kB")?
            .parse()
            .ok()
    })
}

fn duration(seconds: u64) -> String {
    match (
        seconds / 86400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    ) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes}m"),
        (days, hours, ..) => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let all = [5, 65, 3_700, 90_000].map(duration);
        assert_eq!(all, ["5s", "1m5s", "1h1m", "1d1h"]);
    }

    #[test]
    fn our_own_memory_is_known() {
        assert!(resident(i32::try_from(std::process::id()).unwrap()).is_some_and(|kib| kib > 100));
    }
}
