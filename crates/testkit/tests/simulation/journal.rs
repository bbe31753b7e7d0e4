//! Writes down every change in the order of the store's revisions, and lets each rule look at each.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use parking_lot::Mutex;
use skiff_base::SharedClock;
use skiff_store::{Event, Store, WatchItem};

use crate::histories::number;
use crate::scene::{Change, Object, Scene};

/// So many of the last lines are shown when a rule is broken, if `SKIFF_SIMULATION_LINES` does not say otherwise.
const TAIL: u64 = 80;
/// A history of so many changes does not come to an end: somebody answers somebody without end.
const MOST: i64 = 20_000;

/// Something that holds at every revision.
pub trait Rule: Send {
    /// Looks at one change; `scene` is what is after it.
    fn see(&mut self, scene: &Scene, change: &Change<'_>) -> Result<(), String>;

    /// What must be so in the end besides.
    fn at_end(&self, _scene: &Scene) -> Result<(), String> {
        Ok(())
    }
}

#[derive(Default)]
struct Inner {
    scene: Scene,
    rules: Vec<Box<dyn Rule>>,
    /// Every change, to the last byte.
    whole: String,
    /// The same in a few words each, and what was done to the cluster.
    brief: Vec<String>,
}

/// The history so far.
#[derive(Clone)]
pub struct Journal(Arc<Mutex<Inner>>, SharedClock);

impl Journal {
    pub fn new(clock: SharedClock, rules: Vec<Box<dyn Rule>>) -> Self {
        let inner = Inner {
            rules,
            ..Inner::default()
        };
        Self(Arc::new(Mutex::new(inner)), clock)
    }

    /// Follows a store from its beginning, for ever.
    pub async fn follow(self, store: Arc<dyn Store>) {
        let mut changes = store.watch("/registry/", 0).await.unwrap();
        while let Some(item) = changes.next().await {
            if let WatchItem::Events(events) = item.unwrap() {
                for event in &events {
                    let broken = self.note(event);
                    // After the lock was given back: the last words are read from this journal.
                    assert!(broken.is_none(), "{}", broken.unwrap_or_default());
                }
            }
        }
        panic!("the store's watch ended");
    }

    /// Writes one change down; answers with the first rule that it breaks.
    fn note(&self, event: &Event) -> Option<String> {
        let now = self.1.monotonic();
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        let (revision, key, value) = match event {
            Event::Put { current, .. } => (current.mod_revision, &current.key, &*current.value),
            Event::Delete { revision, previous } => (*revision, &previous.key, &b""[..]),
        };
        let text = String::from_utf8_lossy(value);
        let _ = writeln!(inner.whole, "{revision} {now:?} {key} {text}");
        let after = Object::read(key, value);
        // Heartbeats and reports would hide the rest.
        if !["/leases/", "/minions/", "/events/"]
            .iter()
            .any(|kind| key.contains(kind))
        {
            let what = match &after {
                Some(after) => after.brief(),
                None if value.is_empty() => "gone".to_owned(),
                None => "written".to_owned(),
            };
            let line = format!("{revision:5} {:9.3} {key} {what}", now.as_secs_f64());
            inner.brief.push(line);
        }
        inner.scene.now = now;
        inner.scene.note_node(key, after.is_some());
        let before = match after {
            Some(after) => inner.scene.objects.insert(key.to_string(), after),
            None => inner.scene.objects.remove(&**key),
        };
        let change = Change {
            before: before.as_ref(),
            after: inner.scene.objects.get(&**key),
        };
        if change.before.is_none() && change.after.is_none() {
            return None;
        }
        if i64::try_from(revision).unwrap_or(MOST) >= MOST {
            return Some("there is no end of changes".to_owned());
        }
        let mut rules = inner.rules.iter_mut();
        rules.find_map(|rule| rule.see(&inner.scene, &change).err())
    }

    /// Notes what was done to the cluster.
    pub fn remark(&self, text: &str) {
        let now = self.1.monotonic().as_secs_f64();
        self.0.lock().brief.push(format!("      {now:9.3} {text}"));
    }

    /// Looks at everything as it is.
    pub fn scene<T>(&self, look: impl FnOnce(&Scene) -> T) -> T {
        look(&self.0.lock().scene)
    }

    /// What is still missing, by the rules.
    pub fn at_end(&self) -> Result<(), String> {
        let inner = self.0.lock();
        let mut rules = inner.rules.iter();
        rules.try_for_each(|rule| rule.at_end(&inner.scene))
    }

    pub fn change_scene(&self, change: impl FnOnce(&mut Scene, Duration)) {
        let now = self.1.monotonic();
        change(&mut self.0.lock().scene, now);
    }

    /// Notes all pods and nodes as they are.
    pub fn remark_all(&self) {
        let all: Vec<String> = self.scene(|scene| {
            let shown = scene
                .objects
                .values()
                .filter(|object| object.kind != "configmaps");
            shown
                .map(|object| format!("{} {}: {}", object.kind, object.name, object.brief()))
                .collect()
        });
        all.iter().for_each(|text| self.remark(text));
    }

    /// The whole history.
    pub fn whole(&self) -> String {
        self.0.lock().whole.clone()
    }

    /// The end of the history, for people.
    pub fn tail(&self) -> String {
        let Some(inner) = self.0.try_lock() else {
            return "(the journal is being written)".to_owned();
        };
        let lines = number("SKIFF_SIMULATION_LINES", TAIL) as usize;
        let first = inner.brief.len().saturating_sub(lines);
        inner.brief[first..].join("\n")
    }
}
