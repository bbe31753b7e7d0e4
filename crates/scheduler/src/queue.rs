//! The pods that wait for a node: those to be tried, those that rest after a failure, and those that
//! cannot be helped until something changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use skiff_client::ObjectKey;

/// The rest after the first failure; it doubles with each one.
const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(10);
/// A pod that nothing has helped for so long is tried all the same.
const HOPELESS: Duration = Duration::from_secs(300);

#[derive(Debug)]
enum Place {
    /// To be tried.
    Active((std::cmp::Reverse<i32>, u64)),
    /// Resting until then.
    Resting(Duration),
    /// Waiting for one of these events.
    Waiting { events: u8, until: Duration },
    /// Being tried or bound.
    Out,
}

#[derive(Debug)]
struct Entry {
    priority: i32,
    /// The order of arrival.
    order: u64,
    failures: u32,
    rests_until: Duration,
    place: Place,
}

/// The queue. Time is handed in.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<ObjectKey, Entry>,
    active: BTreeMap<(std::cmp::Reverse<i32>, u64), ObjectKey>,
    /// Resting and waiting pods by the time when they are looked at anyway.
    timed: BTreeSet<(Duration, ObjectKey)>,
    arrivals: u64,
}

impl Queue {
    /// Adds a pod that is to be tried, or tries it again at once if it is known and has changed.
    pub fn add(&mut self, key: &ObjectKey, priority: i32) {
        self.arrivals += 1;
        let order = self.arrivals;
        let entry = self.entries.entry(key.clone()).or_insert(Entry {
            priority,
            order,
            failures: 0,
            rests_until: Duration::ZERO,
            place: Place::Waiting {
                events: 0,
                until: Duration::ZERO,
            },
        });
        entry.priority = priority;
        self.activate(key);
    }

    fn unplace(&mut self, key: &ObjectKey) {
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        match &entry.place {
            Place::Active(rank) => drop(self.active.remove(rank)),
            Place::Resting(until) | Place::Waiting { until, .. } => {
                self.timed.remove(&(*until, key.clone()));
            }
            Place::Out => {}
        }
    }

    fn activate(&mut self, key: &ObjectKey) {
        self.unplace(key);
        if let Some(entry) = self.entries.get_mut(key) {
            let rank = (std::cmp::Reverse(entry.priority), entry.order);
            entry.place = Place::Active(rank);
            self.active.insert(rank, key.clone());
        }
    }

    fn rest(&mut self, key: &ObjectKey, now: Duration) {
        let Some(until) = self.entries.get(key).map(|entry| entry.rests_until) else {
            return;
        };
        if until <= now {
            return self.activate(key);
        }
        self.unplace(key);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.place = Place::Resting(until);
            self.timed.insert((until, key.clone()));
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

    /// The next pod to try.
    pub fn pop(&mut self, now: Duration) -> Option<ObjectKey> {
        while let Some((until, key)) = self.timed.first().cloned()
            && until <= now
        {
            self.activate(&key);
        }
        let (_, key) = self.active.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.place = Place::Out;
        }
        Some(key)
    }

    /// When [`Queue::pop`] will have something though nothing happens.
    #[must_use]
    pub fn next_time(&self) -> Option<Duration> {
        self.timed.first().map(|(until, _)| *until)
    }

    fn fail(&mut self, key: &ObjectKey, now: Duration) {
        if let Some(entry) = self.entries.get_mut(key) {
            let rest = FIRST_REST
                .saturating_mul(1 << entry.failures.min(8))
                .min(LONGEST_REST);
            entry.failures = entry.failures.saturating_add(1);
            entry.rests_until = now + rest;
        }
    }

    /// No node did: the pod waits for one of `events`.
    pub fn park(&mut self, key: &ObjectKey, events: u8, now: Duration) {
        self.fail(key, now);
        self.unplace(key);
        if let Some(entry) = self.entries.get_mut(key) {
            let until = now + HOPELESS;
            entry.place = Place::Waiting { events, until };
            self.timed.insert((until, key.clone()));
        }
    }

    /// Something went wrong: the pod is tried again after its rest.
    pub fn retry(&mut self, key: &ObjectKey, now: Duration) {
        self.fail(key, now);
        self.rest(key, now);
    }

    /// Something happened: pods that waited for it are tried when they have rested. Answers whether any did.
    pub fn wake(&mut self, events: u8, now: Duration) -> bool {
        let waits = |place: &Place| matches!(place, Place::Waiting { events: for_these, .. } if for_these & events != 0);
        let woken: Vec<ObjectKey> = self
            .entries
            .iter()
            .filter(|(_, entry)| waits(&entry.place))
            .map(|(key, _)| key.clone())
            .collect();
        woken.iter().for_each(|key| self.rest(key, now));
        !woken.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn priority_then_arrival() {
        let mut queue = Queue::default();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.add(&key(name), priority);
        }
        queue.remove(&key("a"));
        let order: Vec<_> = (0..4).map(|_| pop(&mut queue, 0)).collect();
        assert_eq!(order, ["b", "d", "c", ""]);
    }

    #[test]
    fn a_parked_pod_wakes_for_its_events_after_its_rest() {
        let mut queue = Queue::default();
        queue.add(&key("a"), 0);
        pop(&mut queue, 0);
        queue.park(&key("a"), 4, at(0));
        assert!(!queue.wake(2, at(5)));
        assert_eq!(pop(&mut queue, 5), "");
        assert!(queue.wake(6, at(5)));
        assert_eq!(pop(&mut queue, 5), "a");
        queue.park(&key("a"), 4, at(10));
        queue.wake(4, at(10));
        // The second rest is two seconds.
        assert_eq!(queue.next_time(), Some(at(12)));
        assert_eq!(
            (pop(&mut queue, 11), pop(&mut queue, 12)),
            (String::new(), "a".to_owned())
        );
        queue.park(&key("a"), 4, at(20));
        assert_eq!(
            (pop(&mut queue, 319), pop(&mut queue, 320)),
            (String::new(), "a".to_owned())
        );
    }

    #[test]
    fn a_changed_pod_is_tried_at_once() {
        let mut queue = Queue::default();
        queue.add(&key("a"), 0);
        pop(&mut queue, 0);
        queue.retry(&key("a"), at(0));
        assert_eq!(pop(&mut queue, 0), "");
        queue.add(&key("a"), 0);
        assert_eq!(
            (pop(&mut queue, 0), pop(&mut queue, 100)),
            ("a".to_owned(), String::new())
        );
    }
}
