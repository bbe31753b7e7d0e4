//! Decides what to do next for one pod: a pure function from what is wanted and what runs to a list of steps.
//!
//! The worker executes the steps in order, looks again and plans again, until there is nothing left to do.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pod::observed::{AppliedResources, ObservedContainer, ObservedPod, State};
use crate::pod::restart::{self, Delays};
use crate::pod::restart_all;
use crate::pod::spec::{self, Kind};

/// How many ended containers of one name are kept for their logs and last state.
const KEPT_PER_NAME: usize = 1;

/// What a probe of a container says, after its thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Success,
    /// It failed.
    Failure,
}

/// What the probes say of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// The startup probe.
    pub startup: Option<Verdict>,
    /// The liveness probe.
    pub liveness: Option<Verdict>,
    /// The readiness probe.
    pub readiness: Option<Verdict>,
}

/// Why a container does not run yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// A word such as `ErrImagePull`.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// What the kubelet remembers about a pod beyond the runtime's state.
#[derive(Clone, Debug, Default)]
pub struct Bookkeeping {
    /// Back-off of restarts, by [`backoff_key`].
    pub delays: Delays,
    /// Probe results by container id.
    pub probes: BTreeMap<String, Verdicts>,
    /// Why the last start of a container failed, by name.
    pub start_errors: BTreeMap<String, Waiting>,
    /// Restart counts that the API knows, for containers that the runtime forgot.
    pub known_restarts: BTreeMap<String, u32>,
    /// Containers whose start failed are not tried again before these times, by name.
    pub held: BTreeMap<String, Timestamp>,
    /// What the kernel shall allow each container, by name.
    pub wanted_resources: BTreeMap<String, AppliedResources>,
    /// What running containers were last given, by id: the kernel may round it.
    pub resized: BTreeMap<String, AppliedResources>,
    /// Nothing of the pod is started before this time: its sandbox or its volumes failed.
    pub pod_held: Option<Timestamp>,
}

impl Bookkeeping {
    /// These containers will be removed and started anew: how often each was started stays known, why it waited does not.
    pub fn begin_anew(&mut self, observed: &ObservedPod) {
        for seen in &observed.containers {
            self.start_errors.remove(&seen.name);
            self.held.remove(&seen.name);
            let known = self.known_restarts.entry(seen.name.clone()).or_default();
            *known = seen.attempt.max(*known);
        }
    }
}

/// The key of a container's back-off: another image starts over.
#[must_use]
pub fn backoff_key(container: &Container) -> String {
    format!("{}/{}", container.name, spec::spec_hash(container))
}

/// Why a container is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// Its definition changed.
    Changed,
    /// A startup probe failed.
    StartupProbe,
    /// A liveness probe failed.
    LivenessProbe,
    /// The runtime cannot tell its state.
    Unknown,
    /// Its resources changed in a way that it must be restarted for.
    Resize,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Stop what runs of the pod, and its sandboxes.
    KillPod,
    /// Make a sandbox.
    CreateSandbox {
        /// How many sandboxes the pod had before.
        attempt: u32,
    },
    /// Stop one container.
    Kill {
        /// The runtime's id.
        id: String,
        /// Its name.
        name: String,
        /// The sentence for the event.
        message: String,
        /// Why.
        reason: KillReason,
    },
    /// Make and start a container.
    Start {
        /// In which list of the spec.
        kind: Kind,
        /// At which place.
        index: usize,
        /// How many containers of this name there were before.
        attempt: u32,
    },
    /// Change what the kernel allows a running container.
    Resize {
        /// The runtime's id.
        id: String,
        /// Its name.
        name: String,
    },
    /// End a container at once and remove it: all of the pod's start anew. Nothing is done after one that fails.
    Reset {
        /// The runtime's id.
        id: String,
    },
    /// Remove an ended container.
    Remove {
        /// The runtime's id.
        id: String,
    },
    /// Remove a sandbox that another one has replaced.
    RemoveSandbox {
        /// The runtime's id.
        id: String,
    },
}

/// What to do next for a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodPlan {
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// Containers held by their back-off: name, message.
    pub backoffs: BTreeMap<String, Waiting>,
    /// When to plan again if nothing happens before.
    pub wake_after: Option<Duration>,
    /// The pod has done what it was made for: nothing of it will run again.
    pub finished: bool,
}

/// Whether a new sandbox is needed, and the attempt number that it gets (or the current one has).
#[must_use]
pub fn sandbox_changed(pod: &Pod, observed: &ObservedPod) -> (bool, u32) {
    let Some(latest) = observed.current_sandbox() else {
        return (true, 0);
    };
    let ready = observed.sandboxes.iter().filter(|s| s.ready).count();
    let changed = ready != 1
        || !latest.ready
        || latest.host_network != spec::host_network(pod)
        || (!latest.host_network && latest.ips.is_empty());
    let attempt = latest.attempt + u32::from(changed);
    (changed, attempt)
}

/// The plan for a pod that shall run.
#[must_use]
pub fn plan(pod: &Pod, observed: &ObservedPod, books: &Bookkeeping, now: Timestamp) -> PodPlan {
    let mut planner = Planner {
        pod,
        observed,
        books,
        now,
        plan: PodPlan::default(),
    };
    planner.run();
    planner.hold();
    planner.plan
}

struct Planner<'a> {
    pod: &'a Pod,
    observed: &'a ObservedPod,
    books: &'a Bookkeeping,
    now: Timestamp,
    plan: PodPlan,
}

/// How a container got its new resources.
enum Resized {
    /// In place, or nothing changed.
    Kept,
    /// It must be restarted for them.
    Restart,
}

/// What the init containers allow.
enum Initialization {
    Done,
    InProgress,
    Failed,
}

impl Planner<'_> {
    fn run(&mut self) {
        self.plan.steps = restart_all::steps(self.pod, self.observed);
        if !self.plan.steps.is_empty() {
            return;
        }
        let (changed, attempt) = sandbox_changed(self.pod, self.observed);
        if changed {
            self.new_sandbox(attempt);
            return;
        }
        for (index, e) in spec::ephemeral_containers(self.pod).iter().enumerate() {
            if self.observed.latest(&e.name).is_none() {
                self.start(Kind::Ephemeral, index, &spec::ephemeral_as_container(e));
            }
        }
        let regular_active = spec::containers(self.pod).iter().any(|c| {
            self.observed
                .latest(&c.name)
                .is_some_and(|c| matches!(c.state, State::Created | State::Running))
        });
        match self.init_containers(regular_active) {
            Initialization::Failed => self.finish(),
            Initialization::InProgress => self.remove_dead(),
            Initialization::Done => {
                if self.regular_containers() {
                    self.remove_dead();
                } else {
                    self.finish();
                }
            }
        }
    }

    /// Nothing will run again: stop the rest.
    fn finish(&mut self) {
        self.plan = PodPlan {
            finished: true,
            ..PodPlan::default()
        };
        if self.observed.anything_running() {
            self.plan.steps.push(Step::KillPod);
        }
    }

    fn new_sandbox(&mut self, attempt: u32) {
        let pod_spec = spec::spec(self.pod);
        if pod_spec.restart_policy.as_deref() == Some("Never")
            && attempt != 0
            && !self.observed.containers.is_empty()
        {
            self.finish();
            return;
        }
        let to_start: Vec<usize> = (0..pod_spec.containers.len())
            .filter(|&index| !self.succeeded_for_good(&pod_spec.containers[index]))
            .collect();
        let initialized = pod_spec
            .containers
            .iter()
            .any(|c| self.observed.latest(&c.name).is_some());
        if to_start.is_empty() && initialized {
            self.finish();
            return;
        }
        if self.observed.anything_running() || self.observed.sandboxes.iter().any(|s| s.ready) {
            self.plan.steps.push(Step::KillPod);
        }
        // Init containers run again in a new sandbox; what they left says nothing about it.
        for container in spec::init_containers(self.pod) {
            let stale = self
                .observed
                .containers
                .iter()
                .filter(|c| c.name == container.name);
            let ids: Vec<String> = stale.map(|c| c.id.clone()).collect();
            self.plan
                .steps
                .extend(ids.into_iter().map(|id| Step::Remove { id }));
        }
        self.plan.steps.push(Step::CreateSandbox { attempt });
        // The containers follow from the next look at the pod.
    }

    fn succeeded_for_good(&self, container: &Container) -> bool {
        let policy = container
            .restart_policy
            .as_deref()
            .or(spec::spec(self.pod).restart_policy.as_deref());
        policy == Some("OnFailure")
            && self
                .observed
                .latest(&container.name)
                .is_some_and(|c| c.state == State::Exited && c.exit_code == 0)
    }

    fn init_containers(&mut self, regular_active: bool) -> Initialization {
        let containers = spec::init_containers(self.pod);
        let reached = containers
            .iter()
            .rposition(|c| self.observed.latest(&c.name).is_some());
        if regular_active {
            for (index, container) in containers.iter().enumerate() {
                if spec::is_sidecar(container) {
                    self.keep_sidecar(index, container);
                }
            }
            return Initialization::Done;
        }
        let Some(reached) = reached else {
            return match containers.first() {
                None => Initialization::Done,
                Some(first) => {
                    self.start(Kind::Init, 0, first);
                    Initialization::InProgress
                }
            };
        };
        for (index, container) in containers.iter().enumerate().take(reached) {
            if spec::is_sidecar(container) {
                self.keep_sidecar(index, container);
            }
        }
        let container = &containers[reached];
        let passed = if spec::is_sidecar(container) {
            self.keep_sidecar(reached, container)
        } else {
            match self.judge_init(reached, container) {
                Some(passed) => passed,
                None => return Initialization::Failed,
            }
        };
        if !passed {
            return Initialization::InProgress;
        }
        match containers.get(reached + 1) {
            None => Initialization::Done,
            Some(next) => {
                self.start(Kind::Init, reached + 1, next);
                Initialization::InProgress
            }
        }
    }

    /// Whether the init container at `index` has done its work; `None` when it failed for good.
    fn judge_init(&mut self, index: usize, container: &Container) -> Option<bool> {
        let seen = self.observed.latest(&container.name)?;
        match seen.state {
            State::Running => Some(false),
            State::Exited if seen.exit_code == 0 => Some(true),
            State::Created => {
                self.start(Kind::Init, index, container);
                Some(false)
            }
            State::Exited => {
                if !restart::should_restart(container, spec::spec(self.pod), seen.exit_code) {
                    return None;
                }
                self.start(Kind::Init, index, container);
                Some(false)
            }
            State::Unknown => {
                if !restart::may_replace(container, spec::spec(self.pod)) {
                    return None;
                }
                self.kill(
                    seen,
                    unknown_message("Init container is"),
                    KillReason::Unknown,
                );
                self.start(Kind::Init, index, container);
                Some(false)
            }
        }
    }

    /// Keeps a sidecar running; whether it has started, so that the next container may.
    fn keep_sidecar(&mut self, index: usize, container: &Container) -> bool {
        let name = &container.name;
        let Some(seen) = self.observed.latest(name) else {
            self.start(Kind::Init, index, container);
            return false;
        };
        match seen.state {
            State::Created | State::Exited => {
                self.start(Kind::Init, index, container);
                false
            }
            State::Unknown => {
                self.kill(
                    seen,
                    unknown_message("Init container is"),
                    KillReason::Unknown,
                );
                self.start(Kind::Init, index, container);
                false
            }
            State::Running => {
                let verdicts = self.verdicts(seen);
                let started =
                    container.startup_probe.is_none() || verdicts.startup == Some(Verdict::Success);
                let trouble = if verdicts.startup == Some(Verdict::Failure) {
                    Some(("failed startup probe", KillReason::StartupProbe))
                } else if changed(container, seen) {
                    Some(("definition changed", KillReason::Changed))
                } else if verdicts.liveness == Some(Verdict::Failure) {
                    Some(("failed liveness probe", KillReason::LivenessProbe))
                } else {
                    match self.resize(container, seen) {
                        Resized::Restart => Some(("resize requires restart", KillReason::Resize)),
                        Resized::Kept => None,
                    }
                };
                if let Some((what, reason)) = trouble {
                    self.kill(seen, format!("Init container {name} {what}"), reason);
                    self.start(Kind::Init, index, container);
                }
                started
            }
        }
    }

    /// Plans for the regular containers; whether any of them runs or will.
    fn regular_containers(&mut self) -> bool {
        let pod_spec = spec::spec(self.pod);
        let mut alive = false;
        for (index, container) in pod_spec.containers.iter().enumerate() {
            let Some(seen) = self.observed.latest(&container.name) else {
                self.start(Kind::Regular, index, container);
                alive = true;
                continue;
            };
            match seen.state {
                State::Running => alive |= self.keep_regular(index, container, seen),
                State::Exited => {
                    if restart::should_restart(container, pod_spec, seen.exit_code) {
                        self.start(Kind::Regular, index, container);
                        alive = true;
                    }
                }
                State::Created => {
                    self.start(Kind::Regular, index, container);
                    alive = true;
                }
                State::Unknown => {
                    self.kill(seen, unknown_message("Container is"), KillReason::Unknown);
                    self.start(Kind::Regular, index, container);
                    alive = true;
                }
            }
        }
        alive
    }

    fn keep_regular(
        &mut self,
        index: usize,
        container: &Container,
        seen: &ObservedContainer,
    ) -> bool {
        let verdicts = self.verdicts(seen);
        let (what, reason, restart) = if changed(container, seen) {
            ("definition changed", KillReason::Changed, true)
        } else {
            let restart = restart::may_replace(container, spec::spec(self.pod));
            if verdicts.liveness == Some(Verdict::Failure) {
                ("failed liveness probe", KillReason::LivenessProbe, restart)
            } else if verdicts.startup == Some(Verdict::Failure) {
                ("failed startup probe", KillReason::StartupProbe, restart)
            } else {
                match self.resize(container, seen) {
                    Resized::Restart => ("resize requires restart", KillReason::Resize, true),
                    Resized::Kept => return true,
                }
            }
        };
        let name = &container.name;
        let tail = if restart { ", will be restarted" } else { "" };
        self.kill(seen, format!("Container {name} {what}{tail}"), reason);
        if restart {
            self.start(Kind::Regular, index, container);
        }
        // What was just killed is looked at again before the pod is called finished.
        true
    }

    /// Brings a running container's resources up to its spec, in place if its policy allows.
    fn resize(&mut self, container: &Container, seen: &ObservedContainer) -> Resized {
        let wanted = self.books.wanted_resources.get(&container.name);
        let applied = self.books.resized.get(&seen.id).or(seen.resources.as_ref());
        let (Some(wanted), Some(applied)) = (wanted, applied) else {
            return Resized::Kept;
        };
        if wanted == applied {
            return Resized::Kept;
        }
        let cpu = wanted.cpu_shares != applied.cpu_shares || wanted.cpu_quota != applied.cpu_quota;
        let memory = wanted.memory_limit != applied.memory_limit;
        let policies = container.resize_policy.iter().flatten();
        let mut restarting = policies.filter(|p| p.restart_policy == "RestartContainer");
        let restart = restarting.any(|p| match p.resource_name.as_str() {
            "cpu" => cpu,
            "memory" => memory,
            _ => false,
        });
        if restart {
            return Resized::Restart;
        }
        self.plan.steps.push(Step::Resize {
            id: seen.id.clone(),
            name: container.name.clone(),
        });
        Resized::Kept
    }

    fn verdicts(&self, container: &ObservedContainer) -> Verdicts {
        self.books
            .probes
            .get(&container.id)
            .copied()
            .unwrap_or_default()
    }

    fn kill(&mut self, container: &ObservedContainer, message: String, reason: KillReason) {
        self.plan.steps.push(Step::Kill {
            id: container.id.clone(),
            name: container.name.clone(),
            message,
            reason,
        });
    }

    /// Starts a container, or holds it while its back-off lasts.
    fn start(&mut self, kind: Kind, index: usize, container: &Container) {
        let name = &container.name;
        let held = self.books.held.get(name);
        if let Some(left) = held.and_then(|until| restart::left_until(*until, self.now)) {
            self.wake(left);
            return;
        }
        let last_end = self
            .observed
            .containers
            .iter()
            .find(|c| c.name == *name && c.state == State::Exited)
            .and_then(|c| c.finished_at);
        let held = last_end.and_then(|end| {
            self.books
                .delays
                .pending(&backoff_key(container), end, self.now)
        });
        if let Some((delay, left)) = held {
            let message = format!(
                "back-off {} restarting failed container={name} pod={}",
                restart::display(delay),
                spec::display(self.pod)
            );
            let reason = "CrashLoopBackOff".to_owned();
            self.plan
                .backoffs
                .insert(name.clone(), Waiting { reason, message });
            self.wake(left);
            return;
        }
        let attempt = match self.observed.latest(name) {
            // It was made and never started: a kubelet ended in between. That is no restart, and nobody needs its logs.
            Some(seen) if seen.state == State::Created => {
                let (id, attempt) = (seen.id.clone(), seen.attempt);
                self.plan.steps.push(Step::Remove { id });
                attempt
            }
            Some(seen) => seen.attempt + 1,
            None => self.books.known_restarts.get(name).map_or(0, |n| n + 1),
        };
        self.plan.steps.push(Step::Start {
            kind,
            index,
            attempt,
        });
    }

    fn wake(&mut self, after: Duration) {
        let sooner = self.plan.wake_after.map_or(after, |w| w.min(after));
        self.plan.wake_after = Some(sooner);
    }

    /// A pod whose sandbox or volumes failed a moment ago starts nothing yet.
    fn hold(&mut self) {
        let until = self.books.pod_held;
        let Some(left) = until.and_then(|until| restart::left_until(until, self.now)) else {
            return;
        };
        let before = self.plan.steps.len();
        self.plan
            .steps
            .retain(|step| !matches!(step, Step::CreateSandbox { .. } | Step::Start { .. }));
        if self.plan.steps.len() < before {
            self.wake(left);
        }
    }

    /// Ended containers beyond those that are kept for their logs.
    fn remove_dead(&mut self) {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for container in &self.observed.containers {
            let known = spec::container_named(self.pod, &container.name).is_some();
            let count = seen.entry(&container.name).or_default();
            let latest = *count == 0;
            *count += 1;
            let ended = matches!(container.state, State::Exited | State::Created);
            let surplus = !latest && *count > KEPT_PER_NAME + 1;
            if ended && (surplus || !known) {
                let id = container.id.clone();
                self.plan.steps.push(Step::Remove { id });
            }
        }
        // A sandbox stays as long as a container of it does.
        for sandbox in self.observed.sandboxes.iter().skip(1) {
            let mut containers = self.observed.containers.iter();
            if !sandbox.ready && !containers.any(|c| c.sandbox_id == sandbox.id) {
                let id = sandbox.id.clone();
                self.plan.steps.push(Step::RemoveSandbox { id });
            }
        }
    }
}

fn unknown_message(subject: &str) -> String {
    format!("{subject} in \"unknown\" state, try killing it before restart")
}

fn changed(container: &Container, seen: &ObservedContainer) -> bool {
    !seen.spec_hash.is_empty() && seen.spec_hash != spec::spec_hash(container)
}

/// In what order the containers of a pod are stopped: all of one group at once, then the next.
///
/// Regular and ephemeral containers (and init containers that still work) first, then sidecars one by one, the last
/// one first, so that they serve the others to the end.
#[must_use]
pub fn termination_order(pod: &Pod, observed: &ObservedPod) -> Vec<Vec<ObservedContainer>> {
    let running = observed
        .containers
        .iter()
        .filter(|c| matches!(c.state, State::Running | State::Unknown));
    let init = spec::init_containers(pod);
    let sidecar_index = |name: &str| {
        init.iter()
            .position(|c| c.name == name && spec::is_sidecar(c))
    };
    let mut first = Vec::new();
    let mut sidecars: Vec<(usize, ObservedContainer)> = Vec::new();
    for container in running {
        match sidecar_index(&container.name) {
            Some(index) => sidecars.push((index, container.clone())),
            None => first.push(container.clone()),
        }
    }
    sidecars.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
    let groups =
        std::iter::once(first).chain(sidecars.into_iter().map(|(_, container)| vec![container]));
    groups.filter(|group| !group.is_empty()).collect()
}

#[cfg(test)]
mod tests;
