//! One part alone, against an API server elsewhere.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use skiff_base::{Component, Random, Shutdown, SystemClock, supervise};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;

use super::leading::{self, Candidate, Office};
use super::{Running, accounts, control_plane, node, tls};

/// Runs `part` against the API server `target` until TERM or INT.
pub async fn run(part: &str, config: Config, target: kube::Config) -> Result<()> {
    let (clock, random) = (SystemClock::shared(), Random::from_system());
    let shutdown = Shutdown::new();
    let mut beside = Running::default();
    let client = kube::Client::try_from(target.clone()).context("reading the kubeconfig")?;
    let mut held = None;
    let component: Arc<dyn Component> = match part {
        "scheduler" => {
            let settings = control_plane::scheduler_config(&config)?;
            let office = Office::of_scheduler(&config, &settings.leader_election);
            let candidate = Candidate::of_part(&config, &office, &clock, &random)
                .context("the scheduler's leader election")?;
            let component = skiff_scheduler::component(
                leading::fenced(candidate.as_deref(), client.clone()),
                settings,
                clock.clone(),
                random.clone(),
            );
            leading::elected(candidate, component, || client)
        }
        "controllers" => {
            let office = Office::of_controllers(&config);
            let candidate = Candidate::of_part(&config, &office, &clock, &random)?;
            let accounts = accounts::clients(&target, &client, &clock)?;
            let lease = candidate.clone();
            let component = skiff_controllers::component(
                leading::fenced(candidate.as_deref(), client.clone()),
                Arc::new(move |name| leading::fenced(lease.as_deref(), accounts(name))),
                control_plane::controllers_config(&config, authority(&target)),
                clock.clone(),
                random.clone(),
            );
            leading::elected(candidate, component, || client)
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
            held = Some(node::claim(&config, &target, &clock)?);
            let outside = (&clock, &random);
            let authority = authority(&target);
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
    drop(held);
    Ok(())
}

/// The authority that the API server is verified with, PEM.
fn authority(target: &kube::Config) -> String {
    let certificates = target.root_cert.iter().flatten();
    certificates
        .map(|der| tls::pem("CERTIFICATE", der))
        .collect()
}
