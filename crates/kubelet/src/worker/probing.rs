//! The probe tasks of a pod's running containers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::task::AbortHandle;

use crate::context::Context;
use crate::pod::observed::{ObservedContainer, ObservedPod, State};
use crate::pod::plan::Verdict;
use crate::pod::restart::elapsed;
use crate::pod::spec::{self, Kind};
use crate::probes::judge::Judge;
use crate::probes::{self, Attempt, ProbeKind, Target};
use crate::worker::Mailbox;

/// How often an attempt that cannot be made is made again at once.
const RETRIES: usize = 3;

/// The probe tasks of one pod. They end when this is dropped.
#[derive(Default)]
pub struct Probing {
    tasks: BTreeMap<(String, ProbeKind), AbortHandle>,
}

impl Drop for Probing {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

impl Probing {
    /// Starts tasks for running containers that have none, and ends those of containers that do not run.
    pub fn follow(
        &mut self,
        context: &Arc<Context>,
        mailbox: &Arc<Mailbox>,
        pod: &Arc<Pod>,
        observed: &ObservedPod,
    ) {
        let running: BTreeMap<&str, &ObservedContainer> = observed
            .containers
            .iter()
            .filter(|c| c.state == State::Running)
            .map(|c| (c.id.as_str(), c))
            .collect();
        self.tasks.retain(|(id, _), task| {
            let keep = running.contains_key(id.as_str()) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        mailbox.keep_probes(|id| running.contains_key(id));
        let pod_ip = pod_ip(context, pod, observed);
        for (id, seen) in running {
            let Some((kind, container)) = spec::container_named(pod, &seen.name) else {
                continue;
            };
            for probe_kind in ProbeKind::ALL {
                let Some(probe) = probe_kind.of(&container) else {
                    continue;
                };
                let key = (id.to_owned(), probe_kind);
                let passed = probe_kind == ProbeKind::Startup
                    && mailbox.verdicts(id).startup == Some(Verdict::Success);
                if self.tasks.contains_key(&key) || passed {
                    continue;
                }
                let task = Task {
                    context: context.clone(),
                    mailbox: mailbox.clone(),
                    pod: pod.clone(),
                    container: container.clone(),
                    list: kind,
                    kind: probe_kind,
                    probe: probe.clone(),
                    started_at: seen.started_at.unwrap_or(seen.created_at),
                    target: Target {
                        container_id: id.to_owned(),
                        pod_ip: pod_ip.clone(),
                    },
                };
                self.tasks
                    .insert(key, tokio::spawn(task.run()).abort_handle());
            }
        }
    }

    /// Ends all tasks: the pod goes down.
    pub fn end(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
        self.tasks.clear();
    }
}

fn pod_ip(context: &Context, pod: &Pod, observed: &ObservedPod) -> String {
    let ips = if spec::host_network(pod) {
        &context.config.node_ips
    } else {
        match observed.current_sandbox() {
            Some(sandbox) => &sandbox.ips,
            None => return String::new(),
        }
    };
    ips.first().cloned().unwrap_or_default()
}

struct Task {
    context: Arc<Context>,
    mailbox: Arc<Mailbox>,
    pod: Arc<Pod>,
    container: Container,
    list: Kind,
    kind: ProbeKind,
    probe: Probe,
    started_at: Timestamp,
    target: Target,
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    let value = value.and_then(|v| u64::try_from(v).ok());
    Duration::from_secs(value.unwrap_or(default))
}

impl Task {
    /// Probes until the container ends or the probe has nothing more to find out.
    async fn run(self) {
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let delay = seconds(self.probe.initial_delay_seconds, 0);
        let age = elapsed(self.started_at, self.context.cluster.now());
        // A container that was adopted is probed soon, but not all of them at once.
        if age > period {
            let wait = period
                .mul_f64(self.context.random.fraction())
                .min(Duration::from_secs(1));
            self.context.clock.sleep(wait).await;
        }
        self.context.clock.sleep(delay.saturating_sub(age)).await;
        if self.kind != ProbeKind::Startup && self.container.startup_probe.is_some() {
            self.mailbox.startup_passed(&self.target.container_id).await;
        }
        let mut judge = Judge::new(&self.probe);
        loop {
            if let Some(passed) = self.attempt().await
                && let Some(verdict) = judge.see(passed)
            {
                self.mailbox
                    .verdict(&self.target.container_id, self.kind, verdict);
                let settled = match self.kind {
                    ProbeKind::Startup => true,
                    ProbeKind::Liveness => verdict == Verdict::Failure,
                    ProbeKind::Readiness => false,
                };
                if settled {
                    // The container goes on with this, or is killed for it: no more to find out.
                    std::future::pending::<()>().await;
                }
            }
            self.context.clock.sleep(period).await;
        }
    }

    /// Whether the attempt passed; `None` when it could not be made.
    async fn attempt(&self) -> Option<bool> {
        let word = self.kind.word();
        let mut outcome = Attempt::Error(String::new());
        for _ in 0..RETRIES {
            let runtime = &self.context.runtime;
            outcome = probes::attempt(&self.probe, &self.container, &self.target, runtime).await;
            if !matches!(outcome, Attempt::Error(_)) {
                break;
            }
        }
        match outcome {
            Attempt::Success => Some(true),
            Attempt::Warning(output) => {
                self.tell("ProbeWarning", format!("{word} probe warning: {output}"));
                Some(true)
            }
            Attempt::Failure(output) => {
                self.tell("Unhealthy", format!("{word} probe failed: {output}"));
                Some(false)
            }
            Attempt::Error(error) => {
                let message =
                    format!("{word} probe errored and resulted in unknown state: {error}");
                self.tell("Unhealthy", message);
                None
            }
        }
    }

    fn tell(&self, reason: &str, message: String) {
        let named = (self.list, self.container.name.as_str());
        self.context
            .container_event(&self.pod, named, true, reason, message);
    }
}
