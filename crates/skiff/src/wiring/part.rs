//! One part alone, against an API server elsewhere.

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use skiff_base::{Component, Random, Shutdown, SystemClock, supervise};
use skiff_controllers::ClientFactory;
use skiff_scheduler::SchedulerConfig;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, PARTS};
use crate::instance::Lock;

use super::{Running, control_plane, node};

/// Runs `part` until TERM or INT. `authority` is the certificate that the API server is verified with.
pub async fn run(
    part: &str,
    config: Config,
    client: kube::Client,
    authority: String,
) -> Result<()> {
    let (clock, random) = (SystemClock::shared(), Random::from_system());
    let shutdown = Shutdown::new();
    let mut beside = Running::default();
    let _lock = match part {
        "kubelet" => settle(&config, clock.now())?,
        _ => None,
    };
    let component: Arc<dyn Component> = match part {
        "scheduler" => skiff_scheduler::component(
            client,
            SchedulerConfig::default(),
            clock.clone(),
            random.clone(),
        ),
        "controllers" => {
            // One kubeconfig, one identity: all controllers share it.
            let shared = client.clone();
            let clients: ClientFactory = Arc::new(move |_| shared.clone());
            skiff_controllers::component(
                client,
                clients,
                control_plane::controllers_config(&config, authority),
                clock.clone(),
                random.clone(),
            )
        }
        "proxy" => skiff_proxy::service_proxy(
            client,
            node::proxy_config(&config)?,
            clock.clone(),
            random.clone(),
        ),
        "dns" => skiff_proxy::dns(
            client,
            node::dns_config(&config),
            clock.clone(),
            random.clone(),
        ),
        "kubelet" => {
            let outside = (&clock, &random);
            node::kubelet(&config, client, &authority, outside, &shutdown, &mut beside).await?
        }
        other => bail!("{other:?} is no part"),
    };
    let running = tokio::spawn(supervise(component, clock, random, shutdown.clone()));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    shutdown.trigger();
    running.await?;
    beside.end().await;
    Ok(())
}

/// Takes the data directory for a kubelet alone, so that `skiff down` ends it and removes what it made. In the directory of
/// a server that runs, that server has it.
fn settle(config: &Config, now: SystemTime) -> Result<Option<Lock>> {
    fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("making {}", config.data_dir.display()))?;
    if Lock::is_held(&config.data_dir)?.is_some() {
        return Ok(None);
    }
    let lock = Lock::take(&config.data_dir)?;
    let mut own = config.clone();
    own.disable = PARTS
        .iter()
        .filter(|part| **part != "kubelet")
        .map(|part| (*part).to_owned())
        .collect();
    super::instance(&own, true, now).write()?;
    Ok(Some(lock))
}
