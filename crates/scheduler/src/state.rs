//! All that the scheduler knows, behind one lock: the world, the pods that wait and the decisions under way.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use skiff_base::{Random, SharedClock};
use skiff_client::ObjectKey;
use tokio::sync::{Notify, oneshot, watch};

use crate::decision::{Assignment, Decision, Failure, Nomination, Preemption, Tried};
use crate::diagnosis::Diagnosis;
use crate::framework::{Cycle, Happening, event, may_help};
use crate::plugins::default_preemption::{self, Outcome};
use crate::plugins::dynamic_resources::Bookings;
use crate::plugins::{dynamic_resources, node_affinity, volume_binding};
use crate::profile::Profile;
use crate::queue::{Queue, Rests};
use crate::rows::{PodRow, Shapes};
use crate::schedule::{Search, best, find, scores};
use crate::world::World;

/// What the lock holds.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) world: World,
    pub(crate) profiles: Arc<[Profile]>,
    pub(crate) queue: Queue,
    shapes: Shapes,
    /// Pods without a node.
    pub(crate) pending: HashMap<ObjectKey, Arc<PodRow>>,
    /// Pods that were given a node but are not seen there yet. With a pod its sender goes, which tells who waits for that.
    assumed: HashMap<ObjectKey, Option<oneshot::Sender<()>>>,
    /// The nodes that room is being made on.
    nominated: HashMap<ObjectKey, Arc<str>>,
    next_start: usize,
    /// Pods that are to leave their nodes.
    leaving: Vec<(Arc<PodRow>, Arc<str>)>,
    /// Pending pods with device claims.
    pub(crate) with_device_claims: HashSet<ObjectKey>,
    /// Collections that were not listed yet, as bits.
    pub(crate) missing: u32,
}

/// The state, shared by the watches and the scheduling loop.
pub struct State {
    pub(crate) known: Mutex<Known>,
    changed: Notify,
    storage: watch::Sender<()>,
    devices: watch::Sender<()>,
    pub(crate) clock: SharedClock,
    random: Random,
    /// Whether others are to be asked about a pod before it is given a node.
    consults: Box<dyn Fn(&PodRow) -> bool + Send + Sync>,
    /// The same before others are pushed out for it.
    negotiates: Box<dyn Fn(&PodRow) -> bool + Send + Sync>,
}

impl Known {
    pub(crate) fn is_assumed(&self, key: &ObjectKey) -> bool {
        self.assumed.contains_key(key)
    }

    pub(crate) fn profile(&self, pod: &PodRow) -> Option<usize> {
        let mut all = self.profiles.iter();
        all.position(|profile| profile.name == pod.scheduler)
    }

    /// Something happened: pods that it may help are to be tried.
    pub(crate) fn wake(&mut self, events: u32, what: Happening, now: Duration) {
        if events == 0 {
            return;
        }
        let (pending, profiles) = (&self.pending, &self.profiles);
        self.queue.wake(events, now, |key, refused_by| {
            let Some(pod) = pending.get(key) else {
                return true;
            };
            let profile = profiles.iter().find(|found| found.name == pod.scheduler);
            profile.is_none_or(|profile| may_help(profile, pod, refused_by, events, what))
        });
    }

    /// Room is being made for the pod on that node, or no longer on any.
    fn nominate(&mut self, pod: &Arc<PodRow>, node: &str) -> bool {
        let old = self.nominated.remove(&pod.key);
        let old = old.and_then(|name| self.world.cluster.find(&name));
        if let Some(row) = old.and_then(|index| self.world.cluster.nodes.get_mut(index)) {
            row.nominated.retain(|other| other.key != pod.key);
        }
        let new = Some(node)
            .filter(|name| !name.is_empty())
            .and_then(|name| self.world.cluster.find(name));
        if let Some(row) = new.and_then(|index| self.world.cluster.nodes.get_mut(index)) {
            row.nominated.push(pod.clone());
            self.nominated.insert(pod.key.clone(), row.name.clone());
        }
        old.is_some()
    }

    /// Takes in a pod.
    pub(crate) fn apply_pod(&mut self, pod: &Pod, now: Duration) {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return self.remove_pod(&ObjectKey::of(&pod.metadata), now);
        }
        let row = Arc::new(PodRow::of(pod, &mut self.shapes));
        if row.node.is_empty() {
            self.apply_pending(row, now);
        } else {
            self.apply_placed(row, now);
        }
    }

    fn apply_placed(&mut self, row: Arc<PodRow>, now: Duration) {
        if self.pending.remove(&row.key).is_some() {
            self.nominate(&row, "");
            self.with_device_claims.remove(&row.key);
        }
        self.queue.remove(&row.key);
        let assumed = self.assumed.remove(&row.key).is_some();
        let old = self.world.cluster.pod(&row.key).cloned();
        self.world.place(row.clone(), &row.node);
        if row.shape.during_execution {
            let index = self.world.cluster.find(&row.node);
            index
                .into_iter()
                .for_each(|index| self.send_strangers_away(index, Some(&row.key)));
        }
        match old.filter(|_| !assumed) {
            None => self.wake(event::POD_ADDED, Happening::Pod(None, Some(&row)), now),
            Some(old) => {
                let mut events = 0;
                if old.requests != row.requests {
                    events |= event::POD_SHRUNK;
                }
                if !Arc::ptr_eq(&old.shape, &row.shape) || old.deleting != row.deleting {
                    events |= event::POD_CHANGED;
                }
                self.wake(events, Happening::Pod(Some(&old), Some(&row)), now);
            }
        }
    }

    fn apply_pending(&mut self, row: Arc<PodRow>, now: Duration) {
        let Some(profile) = self.profile(&row).filter(|_| !row.deleting) else {
            return self.remove_pod(&row.key, now);
        };
        // An assumed pod is on its way: what we see is older than what we did.
        let placed = self.world.cluster.pod(&row.key);
        if self.is_assumed(&row.key) && placed.is_some_and(|old| old.uid == row.uid) {
            return;
        }
        self.assumed.remove(&row.key);
        if let Some(old) = self.world.unplace(&row.key) {
            self.wake(event::POD_REMOVED, Happening::Pod(Some(&old), None), now);
        }
        let key = row.key.clone();
        let old = self.pending.insert(key.clone(), row.clone());
        let replaced = old.as_ref().is_some_and(|old| old.uid != row.uid);
        if replaced {
            self.queue.remove(&key);
        }
        let seen = self.nominated.get(&key).map_or("", AsRef::as_ref);
        let moved = old
            .as_ref()
            .is_none_or(|old| replaced || old.nominated != row.nominated);
        if moved || seen.is_empty() {
            self.nominate(&row, &row.nominated);
        } else {
            let seen = seen.to_owned();
            self.nominate(&row, &seen);
        }
        self.note_device_claims(&row);
        let gated = self.is_gated(profile, &row);
        if gated {
            return self.queue.gate(&key, row.priority);
        }
        let same = old.is_some_and(|old| old.asks_the_same(&row));
        if !same || !self.queue.contains(&key) || self.queue.is_gated(&key) {
            self.queue.add(&key, row.priority, now);
        }
    }

    pub(crate) fn remove_pod(&mut self, key: &ObjectKey, now: Duration) {
        let pending = self.pending.remove(key);
        self.with_device_claims.remove(key);
        self.queue.remove(key);
        self.assumed.remove(key);
        let nominated = pending.filter(|pod| self.nominate(pod, ""));
        if let Some(gone) = self.world.unplace(key).or(nominated) {
            self.wake(event::POD_REMOVED, Happening::Pod(Some(&gone), None), now);
        }
    }

    /// How many different makes of pods are remembered.
    #[cfg(test)]
    pub(crate) fn shapes(&self) -> usize {
        self.shapes.len()
    }

    pub(crate) fn pod_keys(&self) -> Vec<ObjectKey> {
        let placed = self.world.cluster.placed.keys();
        self.pending.keys().chain(placed).cloned().collect()
    }

    pub(crate) fn apply_node(&mut self, node: &Node, now: Duration) {
        let change = self.world.set_node(node);
        if change.events == 0 {
            return;
        }
        let row = self.world.cluster.nodes.get(change.index);
        let Some((name, facts)) = row.and_then(|row| Some((row.name.clone(), row.facts.clone()?)))
        else {
            return;
        };
        if change.events & (event::NODE_LABELS | event::NODE_ADDED) != 0 {
            self.send_strangers_away(change.index, None);
        }
        let what = Happening::Node(change.old.as_ref(), &name, &facts);
        self.wake(change.events, what, now);
    }

    /// Pods that want it so leave a node that is no longer what they require: all of them, or that one.
    fn send_strangers_away(&mut self, index: usize, only: Option<&ObjectKey>) {
        let Some(row) = self.world.cluster.nodes.get(index) else {
            return;
        };
        let Some(facts) = &row.facts else {
            return;
        };
        let strangers = row.pods.values().filter(|pod| {
            pod.shape.during_execution
                && only.is_none_or(|key| *key == pod.key)
                && !pod.deleting
                && !pod.node.is_empty()
                && !node_affinity::allows(&pod.shape.wants, &row.name, facts)
        });
        let strangers = strangers.map(|pod| (pod.clone(), row.name.clone()));
        self.leaving.extend(strangers);
    }

    /// Gives the pod a node and notes at once what it takes up there.
    pub(crate) fn assume(
        &mut self,
        pod: Arc<PodRow>,
        profile: usize,
        index: usize,
        devices: Bookings,
    ) -> Option<Assignment> {
        let row = self.world.cluster.nodes.get(index)?;
        let (name, facts) = (row.name.clone(), row.facts.as_ref()?);
        let volumes = match volume_binding::claims(&pod, &self.world.volumes) {
            Ok(found) => {
                volume_binding::plan(&found, &self.world.volumes, &name, facts).unwrap_or_default()
            }
            Err(_) => volume_binding::Plan::default(),
        };
        for (volume, claim) in &volumes.bindings {
            let chosen = &mut self.world.volumes.chosen;
            chosen.insert(volume.clone(), claim.clone());
        }
        for claim in &volumes.provisions {
            let placed = &mut self.world.volumes.placed;
            placed.insert(claim.clone(), (&*name).into());
        }
        self.hold_devices(&devices);
        self.pending.remove(&pod.key);
        self.nominate(&pod, "");
        self.assumed.insert(pod.key.clone(), None);
        self.world.place(pod.clone(), &name);
        Some(Assignment {
            pod,
            node: name,
            profile,
            volumes,
            devices,
        })
    }

    fn forget_volumes(&mut self, plan: &volume_binding::Plan) {
        for (volume, _) in &plan.bindings {
            self.world.volumes.chosen.remove(volume);
        }
        for claim in &plan.provisions {
            self.world.volumes.placed.remove(claim);
        }
    }
}

/// What an attempt under the lock came to.
enum Attempt {
    Node(usize, Bookings),
    Ask(Search, Vec<i64>),
    Nowhere(Box<Tried>),
    Broken(String),
}

impl State {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(profiles: Vec<Profile>, rests: Rests, clock: SharedClock, random: Random) -> Self {
        Self {
            known: Mutex::new(Known {
                profiles: profiles.into(),
                queue: Queue::new(rests),
                ..Known::default()
            }),
            changed: Notify::new(),
            storage: watch::Sender::new(()),
            devices: watch::Sender::new(()),
            clock,
            random,
            consults: Box::new(|_| false),
            negotiates: Box::new(|_| false),
        }
    }

    /// Others are asked about pods for which `consults` answers yes.
    #[must_use]
    pub fn consulting(
        mut self,
        consults: impl Fn(&PodRow) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.consults = Box::new(consults);
        self
    }

    /// Others are asked before pods are pushed out for those for which `negotiates` answers yes.
    #[must_use]
    pub fn negotiating(
        mut self,
        negotiates: impl Fn(&PodRow) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.negotiates = Box::new(negotiates);
        self
    }

    /// Nothing is decided until these collections, as bits, have been listed.
    pub(crate) fn expect(&self, missing: u32) {
        self.known.lock().missing = missing;
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Known, Duration) -> T) -> T {
        let now = self.clock.monotonic();
        let answer = change(&mut self.known.lock(), now);
        self.changed.notify_one();
        answer
    }

    /// Something about storage changed.
    pub(crate) fn storage_changed(&self) {
        self.storage.send_replace(());
    }

    /// Something about devices changed.
    pub(crate) fn devices_changed(&self) {
        self.devices.send_replace(());
    }

    /// Tells of changes of devices.
    pub(crate) fn devices(&self) -> watch::Receiver<()> {
        self.devices.subscribe()
    }

    /// Tells of changes of storage.
    pub(crate) fn storage(&self) -> watch::Receiver<()> {
        self.storage.subscribe()
    }

    /// Looks into what is known; what counters keep may change by that, and nothing else.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.known.lock())
    }

    /// Reads what is known.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Known) -> T) -> T {
        read(&self.known.lock())
    }

    /// Takes in a pod.
    pub fn apply_pod(&self, pod: &Pod) {
        self.change(|known, now| known.apply_pod(pod, now));
    }

    /// A pod is gone.
    pub fn remove_pod(&self, key: &ObjectKey) {
        self.change(|known, now| known.remove_pod(key, now));
    }

    /// Takes in a node.
    pub fn apply_node(&self, node: &Node) {
        self.change(|known, now| known.apply_node(node, now));
    }

    /// A node is gone.
    pub fn remove_node(&self, name: &str) {
        self.change(|known, _| known.world.remove_node(name));
    }

    /// Changes what is known of anything else, for tests and measurements.
    pub fn with_world(&self, change: impl FnOnce(&mut World)) {
        self.change(|known, _| change(&mut known.world));
    }

    pub(crate) fn pick(&self, count: usize) -> usize {
        usize::try_from(self.random.below((count as u64).max(1))).unwrap_or(0)
    }

    /// Tries the next pod; none if none is to be tried now.
    pub fn decide(&self) -> Option<Decision> {
        let now = self.clock.monotonic();
        let mut guard = self.known.lock();
        let known = &mut *guard;
        if known.missing != 0 {
            return None;
        }
        if let Some((pod, node)) = known.leaving.pop() {
            let profile = known.profile(&pod).unwrap_or_default();
            let volumes = volume_binding::Plan::default();
            return Some(Decision::Evict(Assignment {
                pod,
                node,
                profile,
                volumes,
                devices: Bookings::default(),
            }));
        }
        loop {
            let key = known.queue.pop(now)?;
            let pod = known.pending.get(&key).cloned();
            let Some((pod, number)) = pod
                .and_then(|pod| Some((known.profile(&pod)?, pod)))
                .map(|(number, pod)| (pod, number))
            else {
                known.queue.remove(&key);
                continue;
            };
            let profiles = known.profiles.clone();
            let Some(profile) = profiles.get(number) else {
                continue;
            };
            if pod.devices.is_some() {
                known.world.devices.now = skiff_client::timestamp(&*self.clock).0.as_second();
            }
            let asked = known.world.ask(&pod, profile);
            let cycle = Cycle::new(&pod, &known.world, profile, &asked);
            let (attempt, next) = self.attempt(cycle, known.next_start);
            known.next_start = next;
            match attempt {
                Attempt::Broken(why) => {
                    known.queue.retry(&pod.key, now);
                    return Some(Decision::Report(Failure::error(pod, number, why)));
                }
                Attempt::Node(index, devices) => match known.assume(pod, number, index, devices) {
                    Some(assignment) => return Some(Decision::Bind(assignment)),
                    None => continue,
                },
                Attempt::Ask(search, totals) => {
                    let name = |index: &usize| {
                        known
                            .world
                            .cluster
                            .nodes
                            .get(*index)
                            .map(|row| row.name.clone())
                    };
                    let names: Vec<Arc<str>> = search.feasible.iter().filter_map(name).collect();
                    return Some(Decision::Consult {
                        pod,
                        profile: number,
                        nodes: names.into_iter().zip(totals).collect(),
                        diagnosis: search.diagnosis,
                    });
                }
                Attempt::Nowhere(tried) if self.has_to_negotiate(&pod, &tried) => {
                    return Some(Decision::Negotiate {
                        offers: known.offers(&tried),
                        pod,
                        profile: number,
                        tried,
                    });
                }
                Attempt::Nowhere(tried) => {
                    let failure = self.fail(known, &pod, number, *tried, now);
                    return Some(Decision::Report(failure));
                }
            }
        }
    }

    fn has_to_negotiate(&self, pod: &PodRow, tried: &Tried) -> bool {
        matches!(tried.preemption, Some(Outcome::Candidates(_))) && (self.negotiates)(pod)
    }

    fn attempt(&self, mut cycle: Cycle, start: usize) -> (Attempt, usize) {
        let search = find(&mut cycle, start);
        let next = search.next;
        if let Some(why) = cycle.devices.fault() {
            return (Attempt::Broken(why), next);
        }
        let consults = (self.consults)(cycle.pod);
        let attempt = match search.feasible.as_slice() {
            [] => {
                let preemption = self.post_filter(&cycle, &search.diagnosis);
                Attempt::Nowhere(Box::new(Tried {
                    devices: dynamic_resources::give_up(&cycle),
                    diagnosis: search.diagnosis,
                    preemption,
                }))
            }
            [only] if !consults => Attempt::Node(*only, self.reserve(cycle, *only)),
            several => {
                let totals = scores(&mut cycle, several);
                if consults {
                    Attempt::Ask(search, totals)
                } else {
                    let pick = |count| self.pick(count);
                    let index = best(several, &totals, pick).unwrap_or_default();
                    Attempt::Node(index, self.reserve(cycle, index))
                }
            }
        };
        (attempt, next)
    }

    pub(crate) fn reserve(&self, cycle: Cycle, node: usize) -> Bookings {
        let asks = Profile::asks(&cycle.profile.reserves, "DynamicResources");
        if cycle.pod.devices.is_none() || !asks {
            return Bookings::default();
        }
        dynamic_resources::reserve(cycle.devices, node, &self.random)
    }

    fn post_filter(&self, cycle: &Cycle, diagnosis: &Diagnosis) -> Option<Outcome> {
        let asks = Profile::asks(&cycle.profile.post_filters, "DefaultPreemption");
        if !asks || diagnosis.total == 0 {
            return None;
        }
        Some(default_preemption::look(cycle, diagnosis, |count| {
            self.pick(count)
        }))
    }

    pub(crate) fn fail(
        &self,
        known: &mut Known,
        pod: &Arc<PodRow>,
        profile: usize,
        tried: Tried,
        now: Duration,
    ) -> Failure {
        let (mut diagnosis, mut give_up) = (tried.diagnosis, None);
        known.queue.park(&pod.key, diagnosis.refused_by, now);
        let mut after: Vec<String> = Vec::new();
        let devices = |profile: &Profile| Profile::asks(&profile.post_filters, "DynamicResources");
        if diagnosis.total > 0 && known.profiles.get(profile).is_some_and(devices) {
            after.push(tried.devices.0.to_owned());
            give_up = tried.devices.1;
        }
        let (mut nomination, mut preemption) = (Nomination::Clear, None);
        match tried.preemption {
            None if diagnosis.total > 0 => nomination = Nomination::Clear,
            None => {}
            Some(Outcome::NotEligible(why)) => {
                after.push(format!("preemption: {why}"));
                nomination = Nomination::Keep;
            }
            Some(Outcome::None(why)) => after.push(format!("preemption: {why}")),
            Some(Outcome::Candidates(candidates)) => {
                if let Some(chosen) = default_preemption::cheapest(candidates) {
                    preemption = known.make_room(pod, &chosen);
                    after.clear();
                }
            }
        }
        diagnosis.after = after.join(", ");
        if let Some(preemption) = &preemption {
            nomination = Nomination::Set(preemption.node.clone());
        }
        known.note_nomination(pod, &nomination);
        Failure {
            pod: pod.clone(),
            profile,
            reason: "Unschedulable",
            message: diagnosis.message(),
            nomination,
            preemption,
            give_up,
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

    /// The pod could not be bound; it waits again unless it is gone. Answers whether it does.
    pub fn binding_failed(&self, assignment: &Assignment) -> bool {
        self.change(|known, now| {
            known.forget_volumes(&assignment.volumes);
            known.forget_devices(&assignment.devices);
            let pod = &assignment.pod;
            if known.assumed.remove(&pod.key).is_none() {
                return false;
            }
            known.world.unplace(&pod.key);
            known.pending.insert(pod.key.clone(), pod.clone());
            known.queue.retry(&pod.key, now);
            known.note_device_claims(pod);
            known.wake(event::POD_REMOVED, Happening::Pod(Some(pod), None), now);
            if !assignment.devices.is_empty() {
                known.wake(event::DEVICE_CLAIM, Happening::Other, now);
            }
            true
        })
    }

    /// The pod is bound: what is left to do is to see it so.
    pub fn bound(&self, assignment: &Assignment) {
        let mut known = self.known.lock();
        known.queue.remove(&assignment.pod.key);
        known.forget_volumes(&assignment.volumes);
        known.forget_devices(&assignment.devices);
    }

    /// A pod could not be sent away: it is tried again unless it is gone or may stay now.
    pub fn leave_again(&self, found: &Assignment) {
        self.change(|known, _| {
            let cluster = &known.world.cluster;
            if cluster.placed.contains_key(&found.pod.key)
                && let Some(index) = cluster.find(&found.node)
            {
                known.send_strangers_away(index, Some(&found.pod.key));
            }
        });
    }

    /// Making room for a pod has ended. Victims that were sent away are on their way out, though that may not have been seen yet:
    /// else the next attempt would send them away again.
    pub fn room_made(&self, key: &ObjectKey, victims: &[Arc<PodRow>], failed: bool) {
        self.change(|known, now| {
            let sent = if failed { &[] } else { victims };
            let mut more = false;
            for victim in sent {
                let there = known.world.cluster.pod(&victim.key).cloned();
                let Some(there) = there.filter(|there| there.uid == victim.uid) else {
                    continue;
                };
                more = true;
                if !there.deleting {
                    let mut going = PodRow::clone(&there);
                    (going.deleting, going.preempted) = (true, true);
                    known.apply_placed(Arc::new(going), now);
                }
            }
            known.queue.release(key, failed, more, now);
        });
    }

    /// Waits until the pod is no longer about to be bound: it is gone, has ended, or is seen with a node.
    pub(crate) async fn no_longer_assumed(&self, pod: &PodRow) {
        let left = {
            let mut known = self.known.lock();
            let Some(listener) = known.assumed.get_mut(&pod.key) else {
                return;
            };
            let (sender, left) = oneshot::channel();
            *listener = Some(sender);
            left
        };
        // Nothing is ever sent.
        let _ = left.await;
    }

    /// Whether the pod's volumes are as they were planned; an error if they never will be.
    pub fn volumes_ready(&self, assignment: &Assignment) -> Result<bool, String> {
        let known = self.known.lock();
        let cluster = &known.world.cluster;
        let index = cluster.find(&assignment.node);
        let facts = index.and_then(|index| cluster.nodes.get(index)?.facts.as_ref());
        volume_binding::progress(
            &assignment.volumes,
            &known.world.volumes,
            &assignment.node,
            facts,
        )
    }
}

impl Known {
    /// Decides on the victims: those that are on their way out already need not be told.
    fn make_room(
        &mut self,
        pod: &Arc<PodRow>,
        chosen: &default_preemption::Candidate,
    ) -> Option<Preemption> {
        let row = self.world.cluster.nodes.get(chosen.node)?;
        let node = row.name.clone();
        let lesser = row.nominated.iter();
        let lesser: Vec<Arc<PodRow>> = lesser
            .filter(|other| other.priority < pod.priority)
            .cloned()
            .collect();
        let victims = chosen.victims.iter().filter(|victim| !victim.deleting);
        let victims: Vec<Arc<PodRow>> = victims.cloned().collect();
        for other in &lesser {
            self.note_nomination(other, &Nomination::Clear);
        }
        if !victims.is_empty() {
            self.queue.hold(&pod.key);
        }
        Some(Preemption {
            node,
            victims,
            denominated: lesser,
        })
    }

    fn note_nomination(&mut self, pod: &Arc<PodRow>, nomination: &Nomination) {
        let name = match nomination {
            Nomination::Keep => return,
            Nomination::Clear => "",
            Nomination::Set(name) => name,
        };
        let mut row = PodRow::clone(pod);
        if *row.nominated != *name {
            row.nominated = name.into();
        }
        let row = Arc::new(row);
        self.nominate(&row, name);
        if let Some(known) = self.pending.get_mut(&pod.key) {
            *known = row;
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
