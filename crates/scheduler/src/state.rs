//! All that the scheduler knows: nodes, pods and the queue, changed by deltas as the watches deliver them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use skiff_base::{Random, SharedClock};
use skiff_client::{Change, ObjectKey, WatchSink};
use tokio::sync::Notify;

use crate::framework::{Cycle, Diagnosis, Verdict, event, schedule};
use crate::plugins::inter_pod_affinity::has_anti_affinity;
use crate::queue::Queue;
use crate::rows::{NodeFacts, NodeRow, PodRow};

/// A pod that was given a node, or for which there is none.
#[derive(Debug)]
pub enum Decision {
    /// Bind it to that node.
    Bind(Arc<PodRow>, Arc<str>),
    /// Tell why there is none.
    Report(Arc<PodRow>, Diagnosis),
}

#[derive(Default)]
struct Known {
    nodes: Vec<NodeRow>,
    by_name: HashMap<Arc<str>, usize>,
    /// Pods without a node.
    pending: HashMap<ObjectKey, Arc<PodRow>>,
    /// Where each pod with a node is.
    placed: HashMap<ObjectKey, usize>,
    /// Pods that were given a node but are not seen there yet.
    assumed: HashSet<ObjectKey>,
    /// How many placed pods have affinity to or against others.
    choosy: usize,
    queue: Queue,
    next_start: usize,
}

/// The state, shared by the watches and the scheduling loop.
pub struct State {
    known: Mutex<Known>,
    changed: Notify,
    clock: SharedClock,
    random: Random,
    /// Pods that name another scheduler are none of ours.
    scheduler_name: String,
}

impl Known {
    fn node(&mut self, name: &str) -> usize {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let (name, index): (Arc<str>, usize) = (name.into(), self.nodes.len());
        self.nodes.push(NodeRow {
            name: name.clone(),
            ..NodeRow::default()
        });
        self.by_name.insert(name, index);
        index
    }

    fn place(&mut self, row: Arc<PodRow>, index: usize) {
        self.unplace(&row.key);
        self.choosy += usize::from(has_anti_affinity(&row));
        self.placed.insert(row.key.clone(), index);
        if let Some(node) = self.nodes.get_mut(index) {
            node.add(row);
        }
    }

    fn unplace(&mut self, key: &ObjectKey) -> Option<Arc<PodRow>> {
        let index = self.placed.remove(key)?;
        let node = self.nodes.get_mut(index)?;
        let row = node.remove(key)?;
        self.choosy -= usize::from(has_anti_affinity(&row));
        if node.facts.is_none() && node.pods.is_empty() {
            self.drop_node(index);
        }
        Some(row)
    }

    fn drop_node(&mut self, index: usize) {
        if index >= self.nodes.len() {
            return;
        }
        let gone = self.nodes.swap_remove(index);
        self.by_name.remove(&gone.name);
        if let Some(moved) = self.nodes.get(index) {
            self.by_name.insert(moved.name.clone(), index);
            for key in moved.pods.keys() {
                self.placed.insert(key.clone(), index);
            }
        }
    }

    /// Takes in a pod; answers which events that amounts to.
    fn apply_pod(&mut self, pod: &Pod, scheduler_name: &str) -> u8 {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let row = PodRow::of(pod);
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return self.remove_pod(&row.key);
        }
        if row.node.is_empty() {
            self.apply_pending(pod, row, scheduler_name);
            return 0;
        }
        self.pending.remove(&row.key);
        self.queue.remove(&row.key);
        self.assumed.remove(&row.key);
        let index = self.node(&row.node.clone());
        let old = self
            .placed
            .get(&row.key)
            .and_then(|index| self.nodes.get(*index));
        let old = old.and_then(|node| node.pods.get(&row.key));
        let events = match old {
            None => event::POD_ADDED,
            Some(old) if old.requests != row.requests => event::POD_REMOVED,
            Some(old) if old.labels != row.labels || old.deleting != row.deleting => {
                event::POD_ADDED | event::POD_REMOVED
            }
            Some(_) => 0,
        };
        self.place(Arc::new(row), index);
        events
    }

    fn apply_pending(&mut self, pod: &Pod, row: PodRow, scheduler_name: &str) {
        let wanted = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.scheduler_name.as_deref());
        if wanted.is_some_and(|wanted| wanted != scheduler_name) || row.deleting {
            self.remove_pod(&row.key);
            return;
        }
        // An assumed pod is on its way: what we see is older than what we did.
        let assumed = self
            .placed
            .get(&row.key)
            .and_then(|index| self.nodes.get(*index));
        let assumed = assumed.and_then(|node| node.pods.get(&row.key));
        if self.assumed.contains(&row.key) && assumed.is_some_and(|old| old.uid == row.uid) {
            return;
        }
        self.assumed.remove(&row.key);
        self.unplace(&row.key);
        let old = self.pending.get(&row.key);
        let replaced = old.is_some_and(|old| old.uid != row.uid);
        let same = old.is_some_and(|old| old.asks_the_same(&row));
        let (key, priority, gated) = (row.key.clone(), row.priority, row.gated);
        self.pending.insert(key.clone(), Arc::new(row));
        if replaced || gated {
            self.queue.remove(&key);
        }
        let waits = same && self.queue.contains(&key);
        if !gated && !waits {
            self.queue.add(&key, priority);
        }
    }

    fn remove_pod(&mut self, key: &ObjectKey) -> u8 {
        self.pending.remove(key);
        self.queue.remove(key);
        self.assumed.remove(key);
        if self.unplace(key).is_some() {
            event::POD_REMOVED
        } else {
            0
        }
    }

    fn apply_node(&mut self, node: &Node) -> u8 {
        let facts = NodeFacts::of(node);
        let index = self.node(node.metadata.name.as_deref().unwrap_or_default());
        let Some(row) = self.nodes.get_mut(index) else {
            return 0;
        };
        let mut events = 0;
        match &row.facts {
            None => events = event::NODE_ADDED,
            Some(old) => {
                if old.labels != facts.labels {
                    events |= event::NODE_LABELS;
                }
                if old.taints != facts.taints || old.unschedulable != facts.unschedulable {
                    events |= event::NODE_TAINTS;
                }
                if old.allocatable != facts.allocatable || old.max_pods != facts.max_pods {
                    events |= event::NODE_ALLOCATABLE;
                }
            }
        }
        row.facts = Some(facts);
        events
    }

    fn remove_node(&mut self, name: &str) {
        let Some(index) = self.by_name.get(name).copied() else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(index) {
            node.facts = None;
            if node.pods.is_empty() {
                self.drop_node(index);
            }
        }
    }
}

impl State {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(scheduler_name: &str, clock: SharedClock, random: Random) -> Arc<Self> {
        Arc::new(Self {
            known: Mutex::new(Known::default()),
            changed: Notify::new(),
            clock,
            random,
            scheduler_name: scheduler_name.to_owned(),
        })
    }

    fn change(&self, change: impl FnOnce(&mut Known) -> u8) {
        let mut known = self.known.lock();
        let events = change(&mut known);
        if events != 0 {
            known.queue.wake(events, self.clock.monotonic());
        }
        drop(known);
        self.changed.notify_one();
    }

    /// Tries the next pod; none if none is to be tried now.
    pub fn decide(&self) -> Option<Decision> {
        let now = self.clock.monotonic();
        let mut guard = self.known.lock();
        let known = &mut *guard;
        loop {
            let key = known.queue.pop(now)?;
            let Some(pod) = known.pending.get(&key).cloned() else {
                known.queue.remove(&key);
                continue;
            };
            let cycle = Cycle::new(&pod, &known.nodes, known.choosy > 0);
            let pick = |count: usize| usize::try_from(self.random.below(count as u64)).unwrap_or(0);
            let (verdict, next_start) = schedule(&cycle, known.next_start, pick);
            known.next_start = next_start;
            match verdict {
                Verdict::Fits(index) => {
                    let Some(name) = known.nodes.get(index).map(|node| node.name.clone()) else {
                        continue;
                    };
                    known.pending.remove(&key);
                    known.assumed.insert(key);
                    known.place(pod.clone(), index);
                    return Some(Decision::Bind(pod, name));
                }
                Verdict::Unfit(diagnosis) => {
                    known.queue.park(&key, diagnosis.wakes_on, now);
                    return Some(Decision::Report(pod, diagnosis));
                }
            }
        }
    }

    /// Returns when there may be something to decide.
    pub async fn wait(&self) {
        let changed = self.changed.notified();
        let next = self.known.lock().queue.next_time();
        match next {
            None => changed.await,
            Some(at) => {
                let delay = at.saturating_sub(self.clock.monotonic());
                tokio::select! {
                    () = changed => {}
                    () = self.clock.sleep(delay) => {}
                }
            }
        }
    }

    /// The pod could not be bound; it waits again unless it is gone.
    pub fn binding_failed(&self, pod: &Arc<PodRow>) {
        self.change(|known| {
            if !known.assumed.remove(&pod.key) {
                return 0;
            }
            known.unplace(&pod.key);
            known.pending.insert(pod.key.clone(), pod.clone());
            let now = self.clock.monotonic();
            known.queue.retry(&pod.key, now);
            event::POD_REMOVED
        });
    }

    /// The pod is bound: what is left to do is to see it so.
    pub fn bound(&self, key: &ObjectKey) {
        self.known.lock().queue.remove(key);
    }
}

/// Takes in pods.
pub struct PodSink(pub Arc<State>);

impl WatchSink<Pod> for PodSink {
    fn replace(&self, items: Vec<Pod>, _: &str) {
        self.0.change(|known| {
            let listed: HashSet<ObjectKey> = items
                .iter()
                .map(|pod| ObjectKey::of(&pod.metadata))
                .collect();
            let all = known.pending.keys().chain(known.placed.keys());
            let gone: Vec<ObjectKey> = all.filter(|key| !listed.contains(*key)).cloned().collect();
            let mut events = 0;
            for key in gone {
                events |= known.remove_pod(&key);
            }
            for pod in &items {
                events |= known.apply_pod(pod, &self.0.scheduler_name);
            }
            events
        });
    }

    fn apply(&self, change: Change<Pod>) {
        self.0.change(|known| match &change {
            Change::Applied(pod) => known.apply_pod(pod, &self.0.scheduler_name),
            Change::Deleted(pod) => known.remove_pod(&ObjectKey::of(&pod.metadata)),
        });
    }

    fn progress(&self, _: &str) {}
}

/// Takes in nodes.
pub struct NodeSink(pub Arc<State>);

impl WatchSink<Node> for NodeSink {
    fn replace(&self, items: Vec<Node>, _: &str) {
        self.0.change(|known| {
            let listed: HashSet<&str> = items
                .iter()
                .filter_map(|node| node.metadata.name.as_deref())
                .collect();
            let gone: Vec<Arc<str>> = known
                .by_name
                .keys()
                .filter(|name| !listed.contains(&***name))
                .cloned()
                .collect();
            gone.iter().for_each(|name| known.remove_node(name));
            items
                .iter()
                .fold(0, |events, node| events | known.apply_node(node))
        });
    }

    fn apply(&self, change: Change<Node>) {
        self.0.change(|known| match &change {
            Change::Applied(node) => known.apply_node(node),
            Change::Deleted(node) => {
                known.remove_node(node.metadata.name.as_deref().unwrap_or_default());
                0
            }
        });
    }

    fn progress(&self, _: &str) {}
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
