//! The one thread that writes: it takes all requests that wait, decides them, makes them durable with one
//! sync, and only then lets anyone see them.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use skiff_base::Random;
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::file::{DataFile, Place, failed};
use super::frame::{FrameBuilder, Record};
use super::recovery::new_log;
use super::snapshot::{self, Snapshot, Task};
use super::{event, key_value};
use crate::history::{History, Version};
use crate::plan::{Answer, Effect, Plan, Request};
use crate::{Event, KeyValue, Result, StoreError};

/// A request and where its answer goes.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Result<Answer>>,
}

/// No more requests than this share a sync.
const GROUP_REQUESTS: usize = 1024;
/// When a group holds this many bytes it is written.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// What a state costs on disk beside key and value.
const RECORD_OVERHEAD: u64 = 33;

/// The writer's own state.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) directory: PathBuf,
    pub(super) random: Random,
    pub(super) log: Arc<DataFile>,
    /// Everything before this is whole and durable.
    pub(super) log_len: u64,
    /// Something may lie behind `log_len` that must go before the next write.
    pub(super) dirty: bool,
    /// Snapshot and closed logs.
    pub(super) sealed: Vec<(PathBuf, u64)>,
    /// What the states that can be read would cost on disk.
    pub(super) live: u64,
    pub(super) slack: u64,
    pub(super) frame: FrameBuilder,
    pub(super) snapshot: Option<JoinHandle<Option<Snapshot>>>,
}

/// What a state costs on disk.
pub(super) fn cost(key: &str, version: &Version<Place>) -> u64 {
    let value = version.value.as_ref().map_or(0, |place| place.len);
    RECORD_OVERHEAD + key.len() as u64 + u64::from(value)
}

impl Writer {
    /// Works until nobody can send any more.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        self.maybe_snapshot();
        let mut group = Vec::new();
        while let Some(job) = jobs.blocking_recv() {
            let mut bytes = request_bytes(&job.request);
            group.push(job);
            while group.len() < GROUP_REQUESTS
                && bytes < GROUP_BYTES
                && let Ok(job) = jobs.try_recv()
            {
                bytes += request_bytes(&job.request);
                group.push(job);
            }
            self.group(&mut group);
        }
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(snapshot) = self.snapshot.take() {
            let _ = snapshot.join();
        }
    }

    fn group(&mut self, group: &mut Vec<Job>) {
        let (answers, effects) = {
            let state = self.shared.state.read();
            let mut plan = Plan::new(&state);
            let answers: Vec<_> = group
                .drain(..)
                .map(|job| (plan.decide(job.request), job.answer))
                .collect();
            (answers, plan.effects)
        };
        let written = if effects.is_empty() {
            Ok(())
        } else {
            self.append(&effects)
                .map(|places| self.publish(&effects, places))
        };
        for (answer, to) in answers {
            // Refusals hold too when the group could not be written: they may rest on a write of the same
            // group, though, so they share its fate.
            let _ = to.send(written.clone().map(|()| answer));
        }
        if effects
            .iter()
            .any(|effect| matches!(effect, Effect::Compact(_)))
        {
            self.maybe_snapshot();
        }
    }

    /// Writes effects as one frame and syncs it. When that fails, nothing of it is left.
    fn append(&mut self, effects: &[Effect]) -> Result<Vec<Option<Place>>> {
        self.repair()?;
        self.frame.reset();
        let places = effects
            .iter()
            .map(|effect| {
                let at = self.frame.effect(effect);
                match effect {
                    Effect::Put { value, .. } => Some(Place {
                        file: self.log.clone(),
                        offset: self.log_len + at,
                        len: u32::try_from(value.len()).unwrap_or(u32::MAX),
                        crc: crc32fast::hash(value),
                    }),
                    _ => None,
                }
            })
            .collect();
        self.append_frame()?;
        Ok(places)
    }

    fn append_frame(&mut self) -> Result<()> {
        let frame = self.frame.finish(self.log.salt, self.log_len);
        let len = frame.len() as u64;
        let written = self
            .log
            .file
            .write_all_at(frame, self.log_len)
            .and_then(|()| self.log.file.sync_data());
        match written {
            Ok(()) => {
                self.log_len += len;
                self.shared.size.fetch_add(len, Ordering::SeqCst);
                Ok(())
            }
            Err(error) => {
                self.dirty = true;
                let error = failed(&self.log.path, "write", &error);
                match self.repair() {
                    Ok(()) => Err(error),
                    Err(_) => Err(StoreError::Unknown(error.to_string())),
                }
            }
        }
    }

    /// Takes away what a failed write left.
    fn repair(&mut self) -> Result<()> {
        if self.dirty {
            self.log
                .file
                .set_len(self.log_len)
                .and_then(|()| self.log.file.sync_all())
                .map_err(|error| failed(&self.log.path, "repair", &error))?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Lets readers and watchers see what is durable now.
    fn publish(&mut self, effects: &[Effect], places: Vec<Option<Place>>) {
        let shared = self.shared.clone();
        let subscriptions = shared.hub.subscriptions();
        let mut events = self.events(effects);
        let mut state = shared.state.write();
        if shared.hub.subscriptions() != subscriptions {
            // Someone came meanwhile; nobody can any more.
            events = self.events_of(effects, &state.history);
        }
        for (effect, place) in effects.iter().zip(places) {
            let live = &mut self.live;
            let added = state.apply(effect, place, |key, gone| {
                *live = live.saturating_sub(cost(key, gone));
            });
            if let Some(added) = added {
                let value = added.value.as_ref().map_or(0, bytes::Bytes::len);
                *live += RECORD_OVERHEAD + (added.key.len() + value) as u64;
            }
        }
        shared.hub.publish(&events);
    }

    fn events(&self, effects: &[Effect]) -> Vec<(Arc<str>, Result<Event>)> {
        self.events_of(effects, &self.shared.state.read().history)
    }

    /// The events that somebody watches, with the states before them.
    fn events_of(
        &self,
        effects: &[Effect],
        history: &History<Place>,
    ) -> Vec<(Arc<str>, Result<Event>)> {
        let mut before: HashMap<&str, Option<KeyValue>> = HashMap::new();
        let mut events = Vec::new();
        for effect in effects {
            let (key, current, revision) = match effect {
                Effect::Put {
                    key,
                    value,
                    create,
                    revision,
                    lease,
                } => {
                    let current = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision: *create,
                        mod_revision: *revision,
                        lease: *lease,
                    };
                    (key, Some(current), *revision)
                }
                Effect::Delete { key, revision } => (key, None, *revision),
                _ => continue,
            };
            if !self.shared.hub.is_watched(key) {
                continue;
            }
            let previous = match before.insert(key, current.clone()) {
                Some(previous) => Ok(previous),
                None => match history.get(key, None) {
                    Ok(Some(found)) => key_value(found).map(Some),
                    Ok(None) => Ok(None),
                    Err(error) => Err(error),
                },
            };
            let made = previous.and_then(|previous| event(key, revision, current, previous));
            events.push((key.clone(), made));
        }
        events
    }

    /// Starts a snapshot when less than half of the disk space holds something that can be read.
    fn maybe_snapshot(&mut self) {
        if let Some(running) = self.snapshot.take_if(|running| running.is_finished()) {
            self.finish_snapshot(running);
        }
        let size = self.shared.size.load(Ordering::SeqCst);
        if self.snapshot.is_some() || size < 2 * self.live + self.slack {
            return;
        }
        if let Err(error) = self.rotate() {
            tracing::warn!(%error, "no new log could be begun; trying again later");
            return;
        }
        self.snapshot = snapshot::start(Task {
            shared: self.shared.clone(),
            directory: self.directory.clone(),
            random: self.random.clone(),
            covered: self.log.id - 1,
            replaced: self.sealed.clone(),
        });
    }

    fn finish_snapshot(&mut self, running: JoinHandle<Option<Snapshot>>) {
        if let Ok(Some(done)) = running.join() {
            self.sealed
                .retain(|(path, _)| !done.replaced.contains(path));
            self.sealed.insert(0, (done.path, done.len));
        }
    }

    /// Closes the log and begins the next one.
    fn rotate(&mut self) -> Result<()> {
        self.repair()?;
        let before = self.log_len;
        self.frame.reset();
        self.frame.add(&Record::Seal);
        self.append_frame()?;
        match new_log(&self.directory, self.log.id + 1, &self.random) {
            Ok((log, len)) => {
                self.sealed.push((self.log.path.clone(), self.log_len));
                self.log = log;
                self.log_len = len;
                self.shared.size.fetch_add(len, Ordering::SeqCst);
                Ok(())
            }
            Err(error) => {
                // The log goes on, so its end must go.
                let seal = self.log_len - before;
                self.shared.size.fetch_sub(seal, Ordering::SeqCst);
                self.log_len = before;
                self.dirty = true;
                self.repair()?;
                Err(error)
            }
        }
    }
}

fn request_bytes(request: &Request) -> usize {
    match request {
        Request::Create { value, .. } | Request::Update { value, .. } => value.len(),
        _ => 0,
    }
}
