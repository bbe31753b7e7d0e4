//! What is measured of scheduling, under upstream's names.
//!
//! Each profile carries its own [`Measures`], which cost an addition; what the queue and the world know anyway is counted
//! when somebody asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skiff_base::{SharedClock, SystemClock};
use skiff_client::measure::{Histogram, exponential, head, sample};

use crate::framework::plugin;
use crate::profile::Profile;
use crate::queue::{EVENTS, PLACES};
use crate::state::{Known, State};

static ATTEMPTS: [f64; 15] = exponential(0.001, 2.0);
static POINTS_TIMES: [f64; 12] = exponential(0.0001, 2.0);
static UNTIL_BOUND: [f64; 20] = exponential(0.01, 2.0);
static VICTIMS: [f64; 7] = exponential(1.0, 2.0);
static TRIES: [f64; 5] = exponential(1.0, 2.0);
/// Pods that were tried so often or more share a label.
const MANY: usize = 16;

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Outcome {
    /// The pod is bound.
    Scheduled,
    /// No node does.
    Unschedulable,
    /// Something went wrong.
    Error,
}

/// A point at which plugins are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Point {
    /// Before any node is looked at.
    PreFilter,
    /// Which nodes do.
    Filter,
    /// Whether there is another way.
    PostFilter,
    /// Which node is best.
    Score,
    /// What is to be done before binding.
    PreBind,
    /// Binding.
    Bind,
}

const RESULTS: [&str; 3] = ["scheduled", "unschedulable", "error"];
const STATUSES: [&str; 3] = ["Success", "Unschedulable", "Error"];
const POINTS: [&str; 6] = [
    "PreFilter",
    "Filter",
    "PostFilter",
    "Score",
    "PreBind",
    "Bind",
];

/// What is measured of one profile.
#[derive(Debug)]
pub struct Measures {
    clock: SharedClock,
    attempts: [Histogram; RESULTS.len()],
    algorithm: Histogram,
    points: [[Histogram; STATUSES.len()]; POINTS.len()],
    preemptions: AtomicU64,
    victims: Histogram,
    tries: Histogram,
    until_bound: [Histogram; MANY],
}

impl Measures {
    fn new(clock: SharedClock) -> Self {
        let point = |_| std::array::from_fn(|_| Histogram::new(&POINTS_TIMES));
        Self {
            clock,
            attempts: std::array::from_fn(|_| Histogram::new(&ATTEMPTS)),
            algorithm: Histogram::new(&ATTEMPTS),
            points: std::array::from_fn(point),
            preemptions: AtomicU64::new(0),
            victims: Histogram::new(&VICTIMS),
            tries: Histogram::new(&TRIES),
            until_bound: std::array::from_fn(|_| Histogram::new(&UNTIL_BOUND)),
        }
    }

    /// The time, for the measurements below.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Plugins were asked at a point since then.
    pub fn asked(&self, point: Point, status: Outcome, since: Duration) {
        let took = self.now().saturating_sub(since);
        if let Some(histogram) = self
            .points
            .get(point as usize)
            .and_then(|point| point.get(status as usize))
        {
            histogram.took(took);
        }
    }

    /// Plugins have decided since then.
    pub fn decided(&self, since: Duration) {
        self.algorithm.took(self.now().saturating_sub(since));
    }

    /// An attempt has ended.
    pub fn ended(&self, attempt: Attempt, outcome: Outcome) {
        let now = self.now();
        if let Some(histogram) = self.attempts.get(outcome as usize) {
            histogram.took(now.saturating_sub(attempt.begun));
        }
        if outcome == Outcome::Scheduled {
            self.tries.counted(attempt.number);
            let at = (attempt.number.max(1) as usize).min(MANY) - 1;
            if let Some(histogram) = self.until_bound.get(at) {
                histogram.took(now.saturating_sub(attempt.waits_since));
            }
        }
    }

    /// Room was looked for.
    pub fn looked_for_room(&self) {
        self.preemptions.fetch_add(1, Ordering::Relaxed);
    }

    /// So many pods are to go.
    pub fn chose_victims(&self, count: usize) {
        self.victims
            .counted(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

/// The measurements of a profile; clones of the profile share them, and they make no profile another one.
#[derive(Clone, Debug)]
pub struct Measured(Arc<Measures>);

impl Measured {
    /// Goes by that clock.
    #[must_use]
    pub fn by(clock: SharedClock) -> Self {
        Self(Arc::new(Measures::new(clock)))
    }
}

impl Default for Measured {
    fn default() -> Self {
        Self::by(SystemClock::shared())
    }
}

impl PartialEq for Measured {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl std::ops::Deref for Measured {
    type Target = Measures;

    fn deref(&self) -> &Measures {
        &self.0
    }
}

/// One attempt to schedule a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// When it began.
    pub begun: Duration,
    /// When the pod was first to be tried.
    pub waits_since: Duration,
    /// 1 for the first.
    pub number: u32,
}

impl State {
    /// The attempt at the pod that was decided about last, which began then.
    pub(crate) fn attempt_of_last(&self, begun: Duration) -> Attempt {
        let (waits_since, number) = self.read(|known| known.queue.last());
        Attempt {
            begun,
            waits_since,
            number,
        }
    }
}

/// Writes what Prometheus reads. Without a state the scheduler does not work now.
pub(crate) fn write(text: &mut String, profiles: &[Profile], state: Option<&State>) {
    attempts(text, profiles);
    points(text, profiles);
    let of = |profile: &Profile| profile.measured.preemptions.load(Ordering::Relaxed);
    let name = "scheduler_preemption_attempts_total";
    head(
        text,
        name,
        "counter",
        "[STABLE] How often room was looked for.",
    );
    sample(text, name, "", profiles.iter().map(of).sum::<u64>());
    if let Some(state) = state {
        state.read(|known| look(text, known));
    }
}

/// A histogram of upstream's that has no label for profiles: they are told apart here.
type Single = (
    &'static str,
    &'static str,
    for<'a> fn(&'a Measures) -> &'a Histogram,
);

const SINGLE: [Single; 3] = [
    (
        "scheduler_scheduling_algorithm_duration_seconds",
        "[ALPHA] How long it took to decide about a pod.",
        |measures| &measures.algorithm,
    ),
    (
        "scheduler_preemption_victims",
        "[STABLE] How many pods had to go to make room for one.",
        |measures| &measures.victims,
    ),
    (
        "scheduler_pod_scheduling_attempts",
        "[STABLE] How often a pod was tried until it was bound.",
        |measures| &measures.tries,
    ),
];

fn attempts(text: &mut String, profiles: &[Profile]) {
    let each = |write: &mut dyn FnMut(&str, &Histogram)| {
        for profile in profiles {
            for (result, histogram) in RESULTS.iter().zip(&profile.measured.attempts) {
                if histogram.count() > 0 {
                    let labels = format!("profile={:?},result=\"{result}\"", profile.name);
                    write(&labels, histogram);
                }
            }
        }
    };
    let name = "scheduler_schedule_attempts_total";
    let help = "[STABLE] Attempts to schedule pods, by what they came to.";
    head(text, name, "counter", help);
    each(&mut |labels, histogram| sample(text, name, labels, histogram.count()));
    let name = "scheduler_scheduling_attempt_duration_seconds";
    let help = "[STABLE] How long attempts to schedule pods took, binding included.";
    head(text, name, "histogram", help);
    each(&mut |labels, histogram| histogram.write(text, name, labels));
    for (name, help, of) in SINGLE {
        head(text, name, "histogram", help);
        match profiles {
            [only] => of(&only.measured).write(text, name, ""),
            several => {
                for profile in several {
                    let labels = format!("profile={:?}", profile.name);
                    of(&profile.measured).write(text, name, &labels);
                }
            }
        }
    }
    let name = "scheduler_pod_scheduling_sli_duration_seconds";
    let help = "[BETA] How long pods waited until they were bound, by how often they were tried.";
    head(text, name, "histogram", help);
    for profile in profiles {
        for (at, histogram) in profile.measured.until_bound.iter().enumerate() {
            if histogram.count() == 0 {
                continue;
            }
            let more = if at + 1 == MANY { "+" } else { "" };
            let mut labels = format!("attempts=\"{}{more}\"", at + 1);
            if profiles.len() > 1 {
                labels.push_str(&format!(",profile={:?}", profile.name));
            }
            histogram.write(text, name, &labels);
        }
    }
}

fn points(text: &mut String, profiles: &[Profile]) {
    let name = "scheduler_framework_extension_point_duration_seconds";
    let help = "[STABLE] How long all plugins of a point took together.";
    head(text, name, "histogram", help);
    for profile in profiles {
        for (point, histograms) in POINTS.iter().zip(&profile.measured.points) {
            for (status, histogram) in STATUSES.iter().zip(histograms) {
                if histogram.count() > 0 {
                    let labels = format!(
                        "extension_point=\"{point}\",profile={:?},status=\"{status}\"",
                        profile.name
                    );
                    histogram.write(text, name, &labels);
                }
            }
        }
    }
}

/// What is known anyway.
fn look(text: &mut String, known: &Known) {
    let name = "scheduler_pending_pods";
    let help = "[STABLE] Pods without a node, by the queue they are in.";
    head(text, name, "gauge", help);
    let queues = ["active", "backoff", "unschedulable", "gated"];
    for (queue, size) in queues.iter().zip(known.queue.sizes()) {
        sample(text, name, &format!("queue=\"{queue}\""), size);
    }
    let name = "scheduler_queue_incoming_pods_total";
    let help = "[STABLE] Pods that came into a queue, by what brought them there.";
    head(text, name, "counter", help);
    for (place, counts) in PLACES.iter().zip(known.queue.incoming()) {
        for (event, count) in EVENTS.iter().zip(counts) {
            if *count > 0 {
                let labels = format!("event=\"{event}\",queue=\"{place}\"");
                sample(text, name, &labels, count);
            }
        }
    }
    let name = "scheduler_unschedulable_pods";
    let help = "[BETA] Pods that no node does for, by the plugins that refused them.";
    head(text, name, "gauge", help);
    for ((plugin, profile), count) in refusals(known) {
        let labels = format!("plugin=\"{plugin}\",profile={profile:?}");
        sample(text, name, &labels, count);
    }
    let name = "scheduler_scheduler_cache_size";
    let help = "[ALPHA] What is known: nodes, pods on them, and those of them that are not seen there yet.";
    head(text, name, "gauge", help);
    let placed = &known.world.cluster.placed;
    let assumed = placed.keys().filter(|key| known.is_assumed(key)).count();
    let sizes = [
        ("assumed_pods", assumed),
        ("nodes", known.world.cluster.ready),
        ("pods", placed.len()),
    ];
    for (kind, size) in sizes {
        sample(text, name, &format!("type=\"{kind}\""), size);
    }
}

fn refusals(known: &Known) -> BTreeMap<(&'static str, &str), usize> {
    let mut counts = BTreeMap::new();
    for (key, refused_by) in known.queue.refused() {
        let Some(pod) = known.pending.get(key) else {
            continue;
        };
        for number in 0..u32::BITS as usize {
            if refused_by & (1 << number) != 0
                && let Some(plugin) = plugin(number)
            {
                *counts.entry((plugin.name, &*pod.scheduler)).or_insert(0) += 1;
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{cpu, node, pod};
    use crate::queue::Rests;
    use crate::state::State;
    use serde_json::json;
    use skiff_base::{Clock as _, Random, SimulatedClock};
    use std::time::SystemTime;

    #[test]
    fn what_happened_is_told() {
        let clock = SimulatedClock::new(SystemTime::UNIX_EPOCH);
        let profile = Profile {
            measured: Measured::by(clock.clone()),
            ..Profile::default()
        };
        let profiles = vec![profile.clone()];
        let state = State::new(
            profiles.clone(),
            Rests::default(),
            clock.clone(),
            Random::seeded(1),
        );
        let text = || {
            let mut text = String::new();
            write(&mut text, &profiles, Some(&state));
            text
        };
        let told = |lines: &[&str]| {
            let text = text();
            for line in lines {
                assert!(text.lines().any(|found| found == *line), "{line}\n{text}");
            }
        };
        state.apply_node(&node("n", json!({})));
        state.apply_pod(&pod("fits", cpu("1")));
        state.apply_pod(&pod("large", cpu("1000")));
        told(&["scheduler_pending_pods{queue=\"active\"} 2"]);
        clock.advance(Duration::from_secs(3));
        let begun = clock.monotonic();
        assert!(matches!(
            state.decide(),
            Some(crate::decision::Decision::Bind(_))
        ));
        let attempt = state.attempt_of_last(begun);
        assert_eq!(
            attempt,
            Attempt {
                begun,
                waits_since: begun - Duration::from_secs(3),
                number: 1
            }
        );
        clock.advance(Duration::from_millis(1500));
        profile.measured.ended(attempt, Outcome::Scheduled);
        assert!(matches!(
            state.decide(),
            Some(crate::decision::Decision::Report(_))
        ));
        told(&[
            "scheduler_pending_pods{queue=\"active\"} 0",
            "scheduler_pending_pods{queue=\"unschedulable\"} 1",
            "scheduler_queue_incoming_pods_total{event=\"UnschedulablePodAdd\",queue=\"active\"} 2",
            "scheduler_queue_incoming_pods_total{event=\"ScheduleAttemptFailure\",queue=\"unschedulable\"} 1",
            "scheduler_unschedulable_pods{plugin=\"NodeResourcesFit\",profile=\"default-scheduler\"} 1",
            "scheduler_scheduler_cache_size{type=\"assumed_pods\"} 1",
            "scheduler_scheduler_cache_size{type=\"nodes\"} 1",
            "scheduler_scheduler_cache_size{type=\"pods\"} 1",
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_sum{profile=\"default-scheduler\",result=\"scheduled\"} 1.5",
            "scheduler_pod_scheduling_sli_duration_seconds_sum{attempts=\"1\"} 4.5",
            "scheduler_pod_scheduling_attempts_count 1",
            "scheduler_preemption_attempts_total 1",
            "scheduler_framework_extension_point_duration_seconds_count{extension_point=\"Filter\",profile=\"default-scheduler\",status=\"Success\"} 1",
            "scheduler_framework_extension_point_duration_seconds_count{extension_point=\"Filter\",profile=\"default-scheduler\",status=\"Unschedulable\"} 1",
            "scheduler_framework_extension_point_duration_seconds_count{extension_point=\"PostFilter\",profile=\"default-scheduler\",status=\"Unschedulable\"} 1",
        ]);
    }
}
