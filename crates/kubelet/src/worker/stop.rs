//! Stops containers and pods: hooks, the signal, the grace period, the end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::watch;

use crate::context::Context;
use crate::images::status_text;
use crate::pod::observed::{ObservedContainer, ObservedPod};
use crate::pod::plan::{self, KillReason};
use crate::pod::spec::{self, Kind};
use crate::worker::hooks;

/// Every container gets this long to end by itself, however short its grace period.
const MINIMUM: Duration = Duration::from_secs(2);

/// Upstream's grace period for pods that say none.
const DEFAULT_GRACE: i64 = 30;

/// How long the pod may take to end.
#[must_use]
pub fn grace_period(pod: &Pod) -> Duration {
    let own = spec::spec(pod).termination_grace_period_seconds;
    let wanted = pod.metadata.deletion_grace_period_seconds.or(own);
    let seconds = wanted.unwrap_or(DEFAULT_GRACE).max(1);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(1))
}

/// The grace period of a container that is killed for a reason of its own: a probe may have its own.
#[must_use]
pub fn grace_for(pod: &Pod, container: &Container, reason: KillReason) -> Duration {
    let probe = match reason {
        KillReason::StartupProbe => container.startup_probe.as_ref(),
        KillReason::LivenessProbe => container.liveness_probe.as_ref(),
        KillReason::Changed | KillReason::Unknown | KillReason::Resize => None,
    };
    let own = probe.and_then(|p| p.termination_grace_period_seconds);
    match own.and_then(|seconds| u64::try_from(seconds).ok()) {
        Some(seconds) => Duration::from_secs(seconds),
        None => grace_period(pod),
    }
}

/// Stops one container.
pub async fn stop_container(
    context: &Context,
    pod: &Pod,
    seen: &ObservedContainer,
    message: &str,
    grace: Duration,
    turn: impl Future<Output = ()>,
) -> Result<(), tonic::Status> {
    let (kind, container) = spec::container_named(pod, &seen.name).unwrap_or_else(|| {
        let container = Container {
            name: seen.name.clone(),
            ..Container::default()
        };
        (Kind::Regular, container)
    });
    let named = (kind, seen.name.as_str());
    context.container_event(pod, named, false, "Killing", message);
    let started = context.clock.monotonic();
    let left = || grace.saturating_sub(context.clock.monotonic().saturating_sub(started));
    let hook = container
        .lifecycle
        .as_ref()
        .and_then(|l| l.pre_stop.as_ref());
    if let Some(hook) = hook.filter(|_| !grace.is_zero()) {
        let pod_ip = pod.status.as_ref().and_then(|s| s.pod_ip.as_deref());
        let run = hooks::run(
            context,
            pod,
            &container,
            &seen.id,
            hook,
            pod_ip.unwrap_or_default(),
        );
        tokio::select! {
            outcome = run => {
                if let Err(error) = outcome {
                    tracing::debug!(pod = spec::display(pod), %error, "preStop hook failed");
                    context.container_event(pod, named, true, "FailedPreStopHook", "PreStopHook failed");
                }
            }
            () = context.clock.sleep(left()) => {}
        }
    }
    tokio::select! {
        () = turn => {}
        () = context.clock.sleep(left()) => {}
    }
    context
        .runtime
        .stop_container(&seen.id, left().max(MINIMUM))
        .await
}

/// Stops everything of a pod: containers in their order, then its sandboxes.
pub async fn stop_pod(
    context: &Context,
    pod: &Pod,
    observed: &ObservedPod,
    grace: Duration,
) -> Result<(), tonic::Status> {
    let groups = plan::termination_order(pod, observed);
    let left: Vec<AtomicUsize> = groups.iter().map(|g| AtomicUsize::new(g.len())).collect();
    let (done, _) = watch::channel(0usize);
    let stops = groups.iter().enumerate().flat_map(|(number, group)| {
        let (done, left) = (&done, &left);
        group.iter().map(move |container| async move {
            let mut groups_done = done.subscribe();
            let turn = async move {
                // The sender lives as long as this future.
                let _ = groups_done.wait_for(|count| *count >= number).await;
            };
            let message = format!("Stopping container {}", container.name);
            let outcome = stop_container(context, pod, container, &message, grace, turn).await;
            if left
                .get(number)
                .is_some_and(|l| l.fetch_sub(1, Ordering::AcqRel) == 1)
            {
                done.send_modify(|count| *count = (*count).max(number + 1));
            }
            outcome
        })
    });
    let mut first_error = Ok(());
    for outcome in join_all(stops).await {
        if first_error.is_ok() {
            first_error = outcome;
        }
    }
    first_error?;
    for sandbox in observed.sandboxes.iter().filter(|s| s.ready) {
        context.runtime.stop_sandbox(&sandbox.id).await?;
    }
    Ok(())
}

/// Stops a pod and tells when that fails; whether it did.
pub async fn stop_and_tell(
    context: &Context,
    pod: &Pod,
    observed: &ObservedPod,
    grace: Duration,
) -> bool {
    match stop_pod(context, pod, observed, grace).await {
        Ok(()) => true,
        Err(status) => {
            let error = status_text(&status);
            context.pod_event(
                pod,
                true,
                "FailedKillPod",
                format!("error killing pod: {error}"),
            );
            false
        }
    }
}
