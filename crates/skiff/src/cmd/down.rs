//! `skiff down`: stops the server and its pods, and removes what they made of networks, mounts and cgroups.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skiff_base::{SharedClock, SystemClock};

use crate::cli::wait_for;
use crate::instance::{Instance, Lock};
use crate::{kubeconfig, wiring};

/// How long a server may take to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the lock is looked at while a server ends: another process's lock gives no event.
const GLANCE: Duration = Duration::from_millis(20);

/// Stops everything of the data directory; removes it too when `purge`.
pub fn run(data_dir: &Path, purge: bool, no_kubeconfig: bool) -> Result<()> {
    let Some(instance) = Instance::read(data_dir)? else {
        if purge && data_dir.join("pki").is_dir() {
            return remove(data_dir);
        }
        bail!("there is no cluster in {}", data_dir.display());
    };
    let clock = SystemClock::shared();
    // Nobody starts a server on it, or takes it down as well, while it is being taken apart.
    let mut _lock = None;
    wait_for(async {
        if let Some(process) = Lock::is_held(data_dir)? {
            end(data_dir, process, &clock).await?;
            println!("stopped the server (process {process})");
        }
        _lock = Some(Lock::take(data_dir)?);
        wiring::remove_node(&instance.config, clock.clone()).await
    })?;
    println!("removed pods, networks, mounts and cgroups");
    if !no_kubeconfig && let Some(path) = kubeconfig::users_file().filter(|path| path.exists()) {
        kubeconfig::write(
            &path,
            &kubeconfig::without(kubeconfig::read(&path)?, &instance.config.cluster_name),
        )?;
    }
    if purge {
        remove(data_dir)?;
    }
    Ok(())
}

fn remove(data_dir: &Path) -> Result<()> {
    fs::remove_dir_all(data_dir).with_context(|| format!("removing {}", data_dir.display()))?;
    println!("removed {}", data_dir.display());
    Ok(())
}

async fn end(data_dir: &Path, process: i32, clock: &SharedClock) -> Result<()> {
    if process <= 1 {
        bail!(
            "the server's process is not known; its lock is {}",
            data_dir.join("server.lock").display()
        );
    }
    kill(Pid::from_raw(process), Signal::SIGTERM)
        .with_context(|| format!("stopping process {process}"))?;
    let started = clock.monotonic();
    while Lock::is_held(data_dir)? == Some(process) {
        if clock.monotonic().saturating_sub(started) > PATIENCE {
            bail!(
                "process {process} did not end within {} s; end it with kill -9 {process} and run `skiff down` again",
                PATIENCE.as_secs()
            );
        }
        clock.sleep(GLANCE).await;
    }
    Ok(())
}
