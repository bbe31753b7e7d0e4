//! `skiff status`: what runs.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

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
    if instance.server.is_some() {
        row("runs", "the kubelet alone".into());
    }
    row(
        "node",
        format!("{} ({})", config.node_name, config.advertise_address),
    );
    row("pods", config.pod_cidr.to_string());
    row(
        "services",
        format!("{}, DNS {}", config.service_cidr, config.cluster_dns),
    );
    row("data", config.data_dir.display().to_string());
    if instance.server.is_none() {
        row(
            "kubeconfig",
            config.admin_kubeconfig().display().to_string(),
        );
    }
    if !config.disable.is_empty() {
        row("left out", config.disable.join(", "));
    }
    Ok(())
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
