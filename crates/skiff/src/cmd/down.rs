//! `skiff down`: stops the server and its pods, and removes what they made of networks, mounts and cgroups.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::body::Body;
use http::Method;
use http_body_util::BodyExt as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skiff_base::{SharedClock, SystemClock};

use crate::cli::wait_for;
use crate::cmd::image;
use crate::instance::{Instance, Lock};
use crate::say::say;
use crate::wiring::images::socket;
use crate::{kubeconfig, wiring};

/// How long a server may take to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the lock is looked at while a server ends: another process's lock gives no event.
const GLANCE: Duration = Duration::from_millis(20);

/// Stops everything of the data directory; removes it too when `purge`. Pods get `grace` seconds to end.
pub fn run(data_dir: &Path, purge: bool, no_kubeconfig: bool, grace: u64) -> Result<()> {
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
            if grace > 0 && instance.config.runs("kubelet") {
                stop_pods(data_dir, grace, &clock).await;
            }
            end(data_dir, process, &clock).await?;
            say!("stopped the server (process {process})");
        }
        _lock = Some(Lock::take(data_dir)?);
        wiring::remove_node(&instance.config, clock.clone()).await
    })?;
    say!("removed pods, networks, mounts and cgroups");
    // A kubelet alone is no cluster: the user's context is its server's.
    let leave = no_kubeconfig || instance.server.is_some();
    if !leave && let Some(path) = kubeconfig::users_file().filter(|path| path.exists()) {
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
    say!("removed {}", data_dir.display());
    Ok(())
}

/// Has the kubelet stop the pods: hooks, TERM, their grace periods. A server that does not do it is no reason to stay.
async fn stop_pods(data_dir: &Path, grace: u64, clock: &SharedClock) {
    let path = format!("/stop-pods?seconds={grace}");
    let socket = socket(data_dir);
    let asked = async {
        let answer = image::call(&socket, Method::POST, &path, Body::empty()).await?;
        let count = answer.into_body().collect().await?.to_bytes();
        anyhow::Ok(String::from_utf8_lossy(&count).into_owned())
    };
    let limit = PATIENCE + Duration::from_secs(grace);
    tokio::select! {
        outcome = asked => match outcome {
            Ok(count) => say!("stopped {count} pods"),
            Err(error) => say!("pods are not asked to end: {error:#}"),
        },
        () = clock.sleep(limit) => say!("some pods did not end in {} s", limit.as_secs()),
    }
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
