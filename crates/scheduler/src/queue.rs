//! The pods that wait for a node: those to be tried, those that rest after a failure, those that cannot be helped
//! until something changes, and those that somebody holds back.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use skiff_client::ObjectKey;

use crate::framework::{event, wakes_on};

/// A pod that nothing has helped for so long is tried all the same.
const HOPELESS: Duration = Duration::from_secs(300);

type Rank = (Reverse<i32>, u64);

/// Upstream's names of what brings pods into a queue: what happens in the cluster, in the order of its bits, then the others.
pub const EVENTS: [&str; event::KINDS + 6] = [
    "NodeAdd",
    "NodeUpdateNodeLabel",
    "NodeUpdateNodeTaint",
    "NodeUpdateNodeAllocatable",
    "AssignedPodDelete",
    "AssignedPodAdd",
    "AssignedPodUpdatePodLabel",
    "AssignedPodUpdatePodScaleDown",
    "PersistentVolumeClaimUpdate",
    "PersistentVolumeUpdate",
    "storage.k8s.io/StorageClassUpdate",
    "storage.k8s.io/CSINodeUpdate",
    "storage.k8s.io/CSIDriverUpdate",
    "storage.k8s.io/CSIStorageCapacityUpdate",
    "storage.k8s.io/VolumeAttachmentDelete",
    "NamespaceUpdate",
    "resource.k8s.io/ResourceClaimUpdate",
    "resource.k8s.io/ResourceSliceUpdate",
    "resource.k8s.io/DeviceClassUpdate",
    "NodeUpdateNodeDeclaredFeature",
    "UnschedulablePodAdd",
    "UnschedulablePodUpdate",
    "ScheduleAttemptFailure",
    "BackoffComplete",
    "PopFromBackoffQ",
    "UnschedulableTimeout",
];
const POD_ADD: usize = event::KINDS;
const POD_UPDATE: usize = POD_ADD + 1;
const FAILURE: usize = POD_ADD + 2;
const RESTED: usize = POD_ADD + 3;
const EARLY: usize = POD_ADD + 4;
const TIMEOUT: usize = POD_ADD + 5;

/// Upstream's names of the queues that pods come into.
pub const PLACES: [&str; 3] = ["active", "backoff", "unschedulable"];
const ACTIVE: usize = 0;
const BACKOFF: usize = 1;
const UNSCHEDULABLE: usize = 2;

#[derive(Debug)]
enum Place {
    /// To be tried.
    Active(Rank),
    /// Resting until then; it may be tried before if there is nothing else to do.
    Resting(Duration),
    /// Resting until then after something went wrong.
    Recovering(Duration),
    /// Waiting for something to happen, or for that time.
    Waiting(Duration),
    /// Held back.
    Gated,
    /// Being tried or bound.
    Out,
}

#[derive(Debug)]
struct Entry {
    priority: i32,
    /// The order of arrival.
    order: u64,
    failures: u32,
    /// How often it was tried.
    tries: u32,
    /// When it was to be tried for the first time.
    since: Option<Duration>,
    rests_until: Duration,
    place: Place,
    /// The plugins that refused it.
    refused_by: u32,
    /// What happened while it was being tried.
    missed: u32,
    /// Room is being made for it: it waits for that to end.
    held: bool,
    /// What happened meanwhile.
    woken: u32,
}

/// How long pods rest after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rests {
    /// After the first; it doubles with each one.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Default for Rests {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(10),
        }
    }
}

/// The queue. Time is handed in.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<ObjectKey, Entry>,
    active: BTreeMap<Rank, ObjectKey>,
    resting: BTreeSet<(Duration, ObjectKey)>,
    /// Recovering and waiting pods by the time when they are looked at anyway.
    timed: BTreeSet<(Duration, ObjectKey)>,
    /// Waiting pods by what may help them.
    waiting: [HashSet<ObjectKey>; event::KINDS],
    out: HashSet<ObjectKey>,
    arrivals: u64,
    rests: Rests,
    /// Since when the pod waits that was given out last, and how often it was.
    last: (Duration, u32),
    /// How many pods came into each of [`PLACES`] by each of [`EVENTS`].
    incoming: [[u64; EVENTS.len()]; PLACES.len()],
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(rests: Rests) -> Self {
        Self {
            rests,
            ..Self::default()
        }
    }

    /// Adds a pod that is to be tried, or tries it again at once if it is known and has changed.
    pub fn add(&mut self, key: &ObjectKey, priority: i32, now: Duration) {
        let why = self.enter(key, priority);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.since.get_or_insert(now);
        }
        self.activate(key, why);
    }

    /// Adds a pod that is held back.
    pub fn gate(&mut self, key: &ObjectKey, priority: i32) {
        let why = self.enter(key, priority);
        self.unplace(key);
        self.count(UNSCHEDULABLE, why);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.place = Place::Gated;
        }
    }

    fn count(&mut self, place: usize, why: usize) {
        let counts = self.incoming.get_mut(place);
        if let Some(count) = counts.and_then(|counts| counts.get_mut(why)) {
            *count += 1;
        }
    }

    fn next_order(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    /// Answers whether it is a new one or a known one that has changed.
    fn enter(&mut self, key: &ObjectKey, priority: i32) -> usize {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.priority = priority;
            return POD_UPDATE;
        }
        let order = self.next_order();
        self.entries.insert(
            key.clone(),
            Entry {
                priority,
                order,
                failures: 0,
                tries: 0,
                since: None,
                rests_until: Duration::ZERO,
                place: Place::Gated,
                refused_by: 0,
                missed: 0,
                held: false,
                woken: 0,
            },
        );
        POD_ADD
    }

    fn unplace(&mut self, key: &ObjectKey) {
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        match &entry.place {
            Place::Active(rank) => drop(self.active.remove(rank)),
            Place::Resting(until) => drop(self.resting.remove(&(*until, key.clone()))),
            Place::Recovering(until) => drop(self.timed.remove(&(*until, key.clone()))),
            Place::Waiting(until) => {
                self.timed.remove(&(*until, key.clone()));
                let events = wakes_on(entry.refused_by);
                for (bit, waiting) in self.waiting.iter_mut().enumerate() {
                    if events & (1 << bit) != 0 {
                        waiting.remove(key);
                    }
                }
            }
            Place::Gated => {}
            Place::Out => drop(self.out.remove(key)),
        }
    }

    fn activate(&mut self, key: &ObjectKey, why: usize) {
        self.unplace(key);
        self.count(ACTIVE, why);
        if let Some(entry) = self.entries.get_mut(key) {
            let rank = (Reverse(entry.priority), entry.order);
            entry.place = Place::Active(rank);
            self.active.insert(rank, key.clone());
        }
    }

    fn rest(&mut self, key: &ObjectKey, now: Duration, why: usize) {
        let Some(until) = self.entries.get(key).map(|entry| entry.rests_until) else {
            return;
        };
        if until <= now {
            return self.activate(key, why);
        }
        self.unplace(key);
        self.count(BACKOFF, why);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.place = Place::Resting(until);
            self.resting.insert((until, key.clone()));
        }
    }

    /// Forgets a pod that is bound or gone.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.unplace(key);
        self.entries.remove(key);
    }

    /// Whether the pod is known.
    #[must_use]
    pub fn contains(&self, key: &ObjectKey) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether somebody holds the pod back.
    #[must_use]
    pub fn is_gated(&self, key: &ObjectKey) -> bool {
        let entry = self.entries.get(key);
        entry.is_some_and(|entry| matches!(entry.place, Place::Gated))
    }

    /// The next pod to try.
    pub fn pop(&mut self, now: Duration) -> Option<ObjectKey> {
        while let Some((until, key)) = self.timed.first().cloned()
            && until <= now
        {
            let entry = self.entries.get(&key);
            let waited = entry.is_some_and(|entry| matches!(entry.place, Place::Waiting(_)));
            self.activate(&key, if waited { TIMEOUT } else { RESTED });
        }
        while let Some((until, key)) = self.resting.first().cloned()
            && until <= now
        {
            self.activate(&key, RESTED);
        }
        let first = self.active.first_key_value().map(|(_, key)| key.clone());
        let key = match first {
            Some(key) => key,
            None => {
                let key = self.resting.first().map(|(_, key)| key.clone())?;
                self.count(ACTIVE, EARLY);
                key
            }
        };
        self.unplace(&key);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.place = Place::Out;
            entry.missed = 0;
            entry.tries = entry.tries.saturating_add(1);
            self.last = (entry.since.unwrap_or(now), entry.tries);
            self.out.insert(key.clone());
        }
        Some(key)
    }

    /// When [`Queue::pop`] will have something though nothing happens.
    #[must_use]
    pub fn next_time(&self) -> Option<Duration> {
        self.timed.first().map(|(until, _)| *until)
    }

    fn fail(&mut self, key: &ObjectKey, now: Duration) {
        let order = self.next_order();
        let rests = self.rests;
        if let Some(entry) = self.entries.get_mut(key) {
            let rest = rests
                .first
                .saturating_mul(1 << entry.failures.min(8))
                .min(rests.longest);
            entry.order = order;
            entry.failures = entry.failures.saturating_add(1);
            entry.rests_until = now + rest;
        }
    }

    /// These plugins found no node for the pod: it waits for something that may help.
    pub fn park(&mut self, key: &ObjectKey, refused_by: u32, now: Duration) {
        self.fail(key, now);
        self.unplace(key);
        self.count(UNSCHEDULABLE, FAILURE);
        let events = wakes_on(refused_by);
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let missed = std::mem::take(&mut entry.missed);
        entry.refused_by = refused_by;
        let until = now + HOPELESS;
        entry.place = Place::Waiting(until);
        self.timed.insert((until, key.clone()));
        for (bit, waiting) in self.waiting.iter_mut().enumerate() {
            if events & (1 << bit) != 0 {
                waiting.insert(key.clone());
            }
        }
        if missed & events != 0 {
            self.rest(key, now, first_bit(missed & events));
        }
    }

    /// Something went wrong: the pod is tried again after its rest.
    pub fn retry(&mut self, key: &ObjectKey, now: Duration) {
        self.fail(key, now);
        self.unplace(key);
        self.count(BACKOFF, FAILURE);
        if let Some(entry) = self.entries.get_mut(key) {
            let until = entry.rests_until;
            entry.place = Place::Recovering(until);
            self.timed.insert((until, key.clone()));
        }
    }

    /// Room is being made for the pod: whatever happens, it waits until that has ended.
    pub fn hold(&mut self, key: &ObjectKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.held = true;
            entry.woken = 0;
        }
    }

    /// That has ended; `failed` if the room was not made. `more` says that what is on its way out is not all gone: until the last
    /// of it is, it makes no difference that some of it went.
    pub fn release(&mut self, key: &ObjectKey, failed: bool, more: bool, now: Duration) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.held) else {
            return;
        };
        entry.held = false;
        let woken = std::mem::take(&mut entry.woken);
        if !matches!(entry.place, Place::Waiting(_)) {
            return;
        }
        if failed {
            self.activate(key, FAILURE);
        } else if woken & !event::POD_REMOVED != 0 || woken != 0 && !more {
            self.rest(key, now, first_bit(woken));
        }
    }

    /// Something happened: pods that it may help are tried when they have rested. `helps` looks closer, knowing
    /// which plugins refused.
    pub fn wake(&mut self, events: u32, now: Duration, helps: impl Fn(&ObjectKey, u32) -> bool) {
        for key in &self.out {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.missed |= events;
            }
        }
        let mut keys: Vec<ObjectKey> = Vec::new();
        for (bit, waiting) in self.waiting.iter().enumerate() {
            if events & (1 << bit) != 0 {
                keys.extend(waiting.iter().cloned());
            }
        }
        for key in keys {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            if !helps(&key, entry.refused_by) {
                continue;
            }
            if entry.held {
                entry.woken |= events;
            } else {
                self.rest(&key, now, first_bit(events));
            }
        }
    }

    /// Since when the pod that was given out last had waited, and how often it was given out.
    #[must_use]
    pub fn last(&self) -> (Duration, u32) {
        self.last
    }

    /// How many pods came into each of [`PLACES`] by each of [`EVENTS`].
    pub fn incoming(&self) -> impl Iterator<Item = &[u64]> {
        self.incoming.iter().map(<[u64; EVENTS.len()]>::as_slice)
    }

    /// The pods that no node does for, with the plugins that refused them.
    pub fn refused(&self) -> impl Iterator<Item = (&ObjectKey, u32)> {
        let waits = |entry: &Entry| matches!(entry.place, Place::Waiting(_));
        let all = self.entries.iter().filter(move |(_, entry)| waits(entry));
        all.map(|(key, entry)| (key, entry.refused_by))
    }

    /// How many pods are to be tried, rest, wait and are held back.
    #[must_use]
    pub fn sizes(&self) -> [usize; 4] {
        let waits = |entry: &&Entry| matches!(entry.place, Place::Waiting(_));
        let rests =
            |entry: &&Entry| matches!(entry.place, Place::Resting(_) | Place::Recovering(_));
        let gated = |entry: &&Entry| matches!(entry.place, Place::Gated);
        let all = || self.entries.values();
        [
            self.active.len(),
            all().filter(rests).count(),
            all().filter(waits).count(),
            all().filter(gated).count(),
        ]
    }
}

/// The place of the first of these events in [`EVENTS`].
fn first_bit(events: u32) -> usize {
    events.trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::number;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("a", name)
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn pop(queue: &mut Queue, now: u64) -> String {
        queue
            .pop(at(now))
            .map(|key| key.name().to_owned())
            .unwrap_or_default()
    }

    fn fit() -> u32 {
        1 << number("NodeResourcesFit").unwrap()
    }

    #[test]
    fn priority_then_arrival() {
        let mut queue = Queue::default();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.add(&key(name), priority, at(0));
        }
        queue.remove(&key("a"));
        let order: Vec<_> = (0..4).map(|_| pop(&mut queue, 0)).collect();
        assert_eq!(order, ["b", "d", "c", ""]);
    }

    #[test]
    fn a_parked_pod_wakes_for_what_may_help() {
        let mut queue = Queue::default();
        queue.add(&key("a"), 0, at(0));
        pop(&mut queue, 0);
        queue.park(&key("a"), fit(), at(0));
        queue.wake(event::NODE_TAINTS, at(5), |_, _| true);
        assert_eq!(pop(&mut queue, 5), "");
        queue.wake(event::POD_REMOVED, at(5), |_, _| false);
        assert_eq!(pop(&mut queue, 5), "");
        queue.wake(event::POD_REMOVED, at(5), |_, refused_by| {
            refused_by == fit()
        });
        assert_eq!(pop(&mut queue, 5), "a");
        queue.park(&key("a"), fit(), at(20));
        assert_eq!(
            (pop(&mut queue, 319), pop(&mut queue, 320)),
            (String::new(), "a".to_owned())
        );
    }

    #[test]
    fn resting_pods_come_after_all_others() {
        let mut queue = Queue::default();
        queue.add(&key("a"), 9, at(0));
        pop(&mut queue, 0);
        queue.park(&key("a"), fit(), at(0));
        queue.wake(event::POD_REMOVED, at(0), |_, _| true);
        queue.add(&key("b"), 0, at(0));
        assert_eq!(
            (pop(&mut queue, 0), pop(&mut queue, 0)),
            ("b".to_owned(), "a".to_owned())
        );
    }

    #[test]
    fn after_an_error_a_pod_rests_its_time() {
        let mut queue = Queue::default();
        queue.add(&key("a"), 0, at(0));
        for (now, rests) in [(0, 1), (10, 2), (20, 4), (30, 8), (40, 10), (60, 10)] {
            assert_eq!(pop(&mut queue, now), "a");
            queue.retry(&key("a"), at(now));
            assert_eq!(queue.next_time(), Some(at(now + rests)));
            assert_eq!(pop(&mut queue, now), "");
        }
        queue.add(&key("a"), 0, at(0));
        assert_eq!(pop(&mut queue, 60), "a");
    }

    #[test]
    fn what_happens_during_an_attempt_is_not_missed() {
        let mut queue = Queue::default();
        queue.add(&key("a"), 0, at(0));
        pop(&mut queue, 0);
        queue.wake(event::POD_REMOVED, at(0), |_, _| true);
        queue.park(&key("a"), fit(), at(0));
        assert_eq!(pop(&mut queue, 0), "a");
    }

    #[test]
    fn a_pod_that_room_is_made_for_waits_for_that() {
        let mut queue = Queue::default();
        queue.add(&key("a"), 0, at(0));
        pop(&mut queue, 0);
        queue.park(&key("a"), fit(), at(0));
        queue.hold(&key("a"));
        queue.wake(event::POD_REMOVED, at(0), |_, _| true);
        assert_eq!(pop(&mut queue, 100), "");
        queue.release(&key("a"), false, false, at(100));
        assert_eq!(pop(&mut queue, 100), "a");
        queue.park(&key("a"), fit(), at(100));
        queue.hold(&key("a"));
        queue.release(&key("a"), false, false, at(100));
        assert_eq!(pop(&mut queue, 101), "");
        queue.hold(&key("a"));
        queue.release(&key("a"), true, false, at(101));
        assert_eq!(pop(&mut queue, 101), "a");
        // As long as not all has gone it makes no difference that some has; anything else may.
        queue.park(&key("a"), fit(), at(101));
        queue.hold(&key("a"));
        queue.wake(event::POD_REMOVED, at(101), |_, _| true);
        queue.release(&key("a"), false, true, at(101));
        assert_eq!(pop(&mut queue, 200), "");
        queue.hold(&key("a"));
        queue.wake(event::NODE_ADDED, at(200), |_, _| true);
        queue.release(&key("a"), false, true, at(200));
        assert_eq!(pop(&mut queue, 300), "a");
    }

    #[test]
    fn gated_pods_are_not_tried() {
        let mut queue = Queue::default();
        queue.gate(&key("a"), 0);
        assert_eq!(pop(&mut queue, 0), "");
        assert!(queue.is_gated(&key("a")));
        queue.add(&key("a"), 0, at(0));
        assert_eq!(pop(&mut queue, 0), "a");
    }
}
