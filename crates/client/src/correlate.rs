//! Decides what becomes of an event that a component reports: a new object, a higher count on an old
//! one, or nothing because there are too many.
//!
//! The limits are upstream's: of ten different messages for one reason within ten minutes the rest are
//! combined; 25 events about one object at once, then one in five minutes.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;

/// How many records of each sort are kept.
const CAPACITY: usize = 4096;
/// From so many different messages on, they are combined.
const COMBINE_FROM: usize = 10;
/// Different messages are counted together while they come at least this often.
const COMBINE_WITHIN: Duration = Duration::from_secs(600);
/// So many events about one object may come at once.
const BURST: f64 = 25.0;
/// Then one more in this time.
const REFILL: f64 = 300.0;

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Occurrence {
    /// The object.
    pub regarding: ObjectReference,
    /// `Normal` or `Warning`.
    pub event_type: &'static str,
    /// The machine-readable reason.
    pub reason: String,
    /// The text for people.
    pub message: String,
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Too many: nothing.
    Drop,
    /// A new event.
    Create(Record),
    /// A higher count, and a newer message and time, on the event of that name.
    Raise(Record),
}

/// The state of one event object.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The name of the object.
    pub name: String,
    /// How often it happened.
    pub count: i32,
    /// When it first happened.
    pub first: Timestamp,
    /// When it last happened.
    pub last: Timestamp,
    /// The text, which combined events change.
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ObjectId {
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    field: Option<String>,
    event_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct EventId {
    object: ObjectId,
    reason: String,
    /// None: the event that combines several messages.
    message: Option<String>,
}

struct Messages {
    seen: HashSet<String>,
    last: Timestamp,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

/// The memory of one recorder.
#[derive(Default)]
pub struct Correlator {
    buckets: Bounded<ObjectId, Bucket>,
    messages: Bounded<(ObjectId, String), Messages>,
    records: Bounded<EventId, Record>,
}

impl Correlator {
    /// What to do about `occurrence`, which happened at `now`.
    pub fn observe(&mut self, occurrence: &Occurrence, now: Timestamp) -> Verdict {
        let object = object_id(occurrence);
        let (id, message) = self.combine(occurrence, &object, now);
        if !self.admit(object, now) {
            return Verdict::Drop;
        }
        if let Some(record) = self.records.get_mut(&id) {
            record.count = record.count.saturating_add(1);
            record.last = now;
            record.message = message;
            return Verdict::Raise(record.clone());
        }
        let record = Record {
            name: event_name(&occurrence.regarding, now),
            count: 1,
            first: now,
            last: now,
            message,
        };
        self.records.insert(id, record.clone());
        Verdict::Create(record)
    }

    /// Whether the message counts for itself or goes into the event that combines several.
    fn combine(
        &mut self,
        occurrence: &Occurrence,
        object: &ObjectId,
        now: Timestamp,
    ) -> (EventId, String) {
        let group = (object.clone(), occurrence.reason.clone());
        let fresh = || Messages {
            seen: HashSet::new(),
            last: now,
        };
        let messages = self.messages.get_or_insert(group, fresh);
        if since(messages.last, now) > COMBINE_WITHIN.as_secs_f64() {
            *messages = fresh();
        }
        messages.last = now;
        let known = messages.seen.contains(&occurrence.message);
        let combined = messages.seen.len() + usize::from(!known) >= COMBINE_FROM;
        if !combined {
            messages.seen.insert(occurrence.message.clone());
        }
        let id = |message| EventId {
            object: object.clone(),
            reason: occurrence.reason.clone(),
            message,
        };
        if combined {
            let message = format!("(combined from similar events): {}", occurrence.message);
            (id(None), message)
        } else {
            let message = occurrence.message.clone();
            (id(Some(message.clone())), message)
        }
    }

    fn admit(&mut self, object: ObjectId, now: Timestamp) -> bool {
        let bucket = self.buckets.get_or_insert(object, || Bucket {
            tokens: BURST,
            at: now,
        });
        bucket.tokens = (bucket.tokens + since(bucket.at, now) / REFILL).min(BURST);
        bucket.at = now;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
    }
}

fn since(then: Timestamp, now: Timestamp) -> f64 {
    now.duration_since(then).as_secs_f64().max(0.0)
}

fn object_id(occurrence: &Occurrence) -> ObjectId {
    let object = &occurrence.regarding;
    ObjectId {
        kind: object.kind.clone(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        uid: object.uid.clone(),
        field: object.field_path.clone(),
        event_type: occurrence.event_type,
    }
}

/// The name of an event: the object's, and the time in nanoseconds, in hexadecimal.
#[must_use]
pub fn event_name(regarding: &ObjectReference, now: Timestamp) -> String {
    let name = regarding.name.as_deref().unwrap_or_default();
    format!("{name}.{:x}", now.as_nanosecond())
}

/// A map that forgets the older half of its entries when it is full.
struct Bounded<K, V> {
    entries: HashMap<K, (u64, V)>,
    tick: u64,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            tick: 0,
        }
    }
}

impl<K: Eq + Hash + Clone, V> Bounded<K, V> {
    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.tick += 1;
        let (used, value) = self.entries.get_mut(key)?;
        *used = self.tick;
        Some(value)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.entries.len() >= CAPACITY {
            let mut ticks: Vec<u64> = self.entries.values().map(|(used, _)| *used).collect();
            let middle = ticks.len() / 2;
            let (_, median, _) = ticks.select_nth_unstable(middle);
            let median = *median;
            self.entries.retain(|_, (used, _)| *used >= median);
        }
        self.tick += 1;
        self.entries.insert(key, (self.tick, value));
    }

    fn get_or_insert(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        if !self.entries.contains_key(&key) {
            self.insert(key.clone(), value());
        }
        self.tick += 1;
        let tick = self.tick;
        let (used, value) = self
            .entries
            .entry(key)
            .or_insert_with(|| unreachable!("inserted above"));
        *used = tick;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(name: &str, message: &str) -> Occurrence {
        Occurrence {
            regarding: ObjectReference {
                kind: Some("Pod".into()),
                name: Some(name.into()),
                ..ObjectReference::default()
            },
            event_type: "Warning",
            reason: "BackOff".into(),
            message: message.into(),
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn equal_events_raise_the_count() {
        let mut correlator = Correlator::default();
        let Verdict::Create(first) = correlator.observe(&occurrence("web", "m"), at(0)) else {
            panic!("the first is created");
        };
        let Verdict::Raise(second) = correlator.observe(&occurrence("web", "m"), at(7)) else {
            panic!("the second is counted");
        };
        assert_eq!((second.count, second.first, second.last), (2, at(0), at(7)));
        assert_eq!(first.name, second.name);
        assert!(matches!(
            correlator.observe(&occurrence("db", "m"), at(7)),
            Verdict::Create(_)
        ));
    }

    #[test]
    fn many_messages_are_combined() {
        let mut correlator = Correlator::default();
        for n in 0..9 {
            let verdict = correlator.observe(&occurrence("web", &n.to_string()), at(n));
            assert!(matches!(verdict, Verdict::Create(_)));
        }
        let Verdict::Create(record) = correlator.observe(&occurrence("web", "ten"), at(10)) else {
            panic!("the combined event is new");
        };
        assert_eq!(record.message, "(combined from similar events): ten");
        let Verdict::Raise(record) = correlator.observe(&occurrence("web", "more"), at(11)) else {
            panic!("the combined event counts");
        };
        assert_eq!(
            (record.count, record.message.as_str()),
            (2, "(combined from similar events): more")
        );
        let verdict = correlator.observe(&occurrence("web", "much later"), at(700));
        assert!(matches!(verdict, Verdict::Create(record) if record.message == "much later"));
    }

    #[test]
    fn a_flood_is_dropped_and_slowly_let_in_again() {
        let mut correlator = Correlator::default();
        let written = |correlator: &mut Correlator, count: usize, second| {
            (0..count)
                .filter(|_| {
                    correlator.observe(&occurrence("web", "m"), at(second)) != Verdict::Drop
                })
                .count()
        };
        assert_eq!(written(&mut correlator, 100, 0), 25);
        assert_eq!(written(&mut correlator, 100, 299), 0);
        assert_eq!(written(&mut correlator, 100, 600), 2);
    }

    #[test]
    fn memory_is_bounded() {
        let mut map = Bounded::default();
        for n in 0..20_000 {
            map.insert(n, ());
            assert!(map.entries.len() <= CAPACITY);
        }
        assert!(map.get_mut(&19_999).is_some());
        assert!(map.get_mut(&0).is_none());
    }
}
