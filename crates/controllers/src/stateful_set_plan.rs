//! What a StatefulSet's controller does next: which pods and claims it makes, mends or deletes, and in which order;
//! and the new status. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{self, PersistentVolumeClaim, PodTemplateSpec};

use crate::deployment_plan::scaled;
use crate::ownership::controller_reference;
use crate::pods;
use crate::seen_pod::Pod;
use crate::stateful_set_claims::{self as claims, Ownership};

/// The label of a pod that carries its name.
const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
/// The label of a pod that carries its ordinal.
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";
/// The label of a pod that carries the name of its revision.
pub const REVISION_LABEL: &str = "controller-revision-hash";
/// At most so many pods are made or deleted at once.
const BURST: usize = 500;

/// A revision of the set.
pub struct Version {
    pub name: String,
    pub template: PodTemplateSpec,
}

/// What the plan is made from.
pub struct Observed<'a> {
    pub set: &'a StatefulSet,
    /// The revision that the rollout comes from.
    pub current: &'a Version,
    /// The revision that it goes to: that of the set's template.
    pub update: &'a Version,
    pub collisions: i32,
    /// The pods that the set owns.
    pub pods: &'a [Arc<Pod>],
    /// The claim of that name in the set's namespace.
    pub claim: &'a dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
    pub now: Timestamp,
}

/// One thing to do. Those of one phase do not depend on each other.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Makes the claims that are missing, then the pod, unless one of the claims is on its way out.
    Create {
        pod: Box<v1::Pod>,
        missing: Vec<PersistentVolumeClaim>,
        leaving: Vec<String>,
    },
    /// Makes claims that a pod waits for.
    Supply {
        pod: Arc<Pod>,
        missing: Vec<PersistentVolumeClaim>,
        leaving: Vec<String>,
    },
    /// Writes a claim with other owners.
    Own(Box<PersistentVolumeClaim>),
    /// Tells that a claim has another manager.
    TellConflict(String),
    /// Writes a pod that has lost its identity or storage.
    Mend {
        pod: Arc<Pod>,
        ordinal: i64,
        missing: Vec<PersistentVolumeClaim>,
    },
    Delete(Arc<Pod>),
}

/// What to do, phase after phase, and the status.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub phases: Vec<Vec<Action>>,
    pub status: StatefulSetStatus,
}

/// The ordinal in a pod's name; none when the name is not that of a pod of the set.
#[must_use]
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i64> {
    let name = pod.metadata.name.as_deref()?;
    let digits = name
        .strip_prefix(set.metadata.name.as_deref()?)?
        .strip_prefix('-')?;
    let canonical = digits == "0" || !digits.starts_with(['0', '+', '-']);
    let number = digits.parse::<i32>().ok().filter(|_| canonical)?;
    Some(i64::from(number))
}

/// Gives a pod the labels and volumes that make it the replica with this ordinal.
pub fn restore(set: &StatefulSet, pod: &mut v1::Pod, ordinal: i64) {
    identify(pod, ordinal);
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
    let claim_of = |name: &str| {
        let mut volumes = volumes.into_iter().flatten();
        let volume = volumes.find(|volume| volume.name == name)?;
        Some(&*volume.persistent_volume_claim.as_ref()?.claim_name)
    };
    if !claims::storage_matches(set, ordinal, claim_of) {
        claims::update_storage(set, pod, ordinal);
    }
}

/// The revision that a pod is of.
#[must_use]
pub fn revision_of(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(REVISION_LABEL))
        .map_or("", String::as_str)
}

fn default_spec() -> &'static StatefulSetSpec {
    static DEFAULT: std::sync::LazyLock<StatefulSetSpec> =
        std::sync::LazyLock::new(StatefulSetSpec::default);
    &DEFAULT
}

fn spec(set: &StatefulSet) -> &StatefulSetSpec {
    set.spec.as_ref().unwrap_or_else(|| default_spec())
}

/// How many replicas are asked for.
#[must_use]
pub fn wanted(set: &StatefulSet) -> i64 {
    i64::from(spec(set).replicas.unwrap_or(1)).max(0)
}

fn start(set: &StatefulSet) -> i64 {
    let ordinals = spec(set).ordinals.as_ref();
    i64::from(ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0))
}

/// How long a pod must be ready to count as available.
#[must_use]
pub fn min_ready(set: &StatefulSet) -> i32 {
    spec(set).min_ready_seconds.unwrap_or(0)
}

fn is_on_delete(set: &StatefulSet) -> bool {
    let strategy = spec(set).update_strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete")
}

/// The partition; none where the strategy does not state how to roll.
fn partition(set: &StatefulSet) -> Option<i64> {
    let strategy = spec(set).update_strategy.as_ref()?;
    let rolling = strategy.rolling_update.as_ref()?;
    Some(i64::from(rolling.partition.unwrap_or(0)))
}

/// The limit of unavailable pods; none where it is not stated, and pods go one at a time. The server takes the field
/// only where upstream's feature gate MaxUnavailableStatefulSet is on.
fn max_unavailable(set: &StatefulSet) -> Option<i64> {
    let strategy = spec(set).update_strategy.as_ref()?;
    let limit = strategy.rolling_update.as_ref()?.max_unavailable.as_ref()?;
    let replicas = spec(set).replicas.unwrap_or(1);
    Some(i64::from(scaled(Some(limit), replicas, false)).max(1))
}

fn is_created(pod: &Pod) -> bool {
    !pods::phase(pod).is_empty()
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

struct Planner<'a> {
    observed: &'a Observed<'a>,
    set: &'a StatefulSet,
    /// The pods among the replicas, by ordinal.
    replicas: BTreeMap<i64, Arc<Pod>>,
    /// The others, highest ordinal first.
    condemned: Vec<(i64, Arc<Pod>)>,
    /// One at a time, in order.
    ordered: bool,
    phases: Vec<Vec<Action>>,
    /// How many pods of the old revision are deleted for the rollout.
    replaced: i32,
}

/// Whether the next pod may be looked at.
#[derive(PartialEq)]
enum Next {
    GoOn,
    Wait,
}

/// Makes the plan.
#[must_use]
pub fn plan(observed: &Observed) -> Plan {
    let set = observed.set;
    let range = start(set)..start(set) + wanted(set);
    let mut replicas = BTreeMap::new();
    let mut condemned = Vec::new();
    for pod in observed.pods {
        match ordinal(set, pod) {
            Some(ordinal) if range.contains(&ordinal) => {
                replicas.insert(ordinal, pod.clone());
            }
            Some(ordinal) => condemned.push((ordinal, pod.clone())),
            None => {}
        }
    }
    condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
    let mut planner = Planner {
        observed,
        set,
        replicas,
        condemned,
        ordered: spec(set).pod_management_policy.as_deref() != Some("Parallel"),
        phases: Vec::new(),
        replaced: 0,
    };
    if set.metadata.deletion_timestamp.is_none() {
        planner.run(range);
    }
    let status = status(observed, planner.replaced);
    let mut phases = planner.phases;
    phases.retain(|phase| !phase.is_empty());
    Plan { phases, status }
}

impl Planner<'_> {
    fn run(&mut self, range: std::ops::Range<i64>) {
        self.phases.push(Vec::new());
        for ordinal in range {
            if self.replica(ordinal) == Next::Wait && self.ordered {
                return;
            }
            if self.phases.last().is_some_and(|phase| phase.len() >= BURST) {
                return;
            }
        }
        self.phases.push(Vec::new());
        for (ordinal, pod) in self.condemned.clone() {
            self.mend_claims(ordinal, &pod, true);
        }
        self.phases.push(Vec::new());
        if self.shrink() == Next::Wait && self.ordered {
            return;
        }
        if !is_on_delete(self.set) {
            self.phases.push(Vec::new());
            self.roll();
        }
    }

    fn act(&mut self, action: Action) {
        // Of what is done in order, each step waits for the one before.
        if self.ordered {
            self.phases.push(vec![action]);
        } else if let Some(phase) = self.phases.last_mut() {
            phase.push(action);
        }
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        !self.is_available(pod) || pods::is_deleting(pod)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::seconds_until_available(pod, min_ready(self.set), self.observed.now) == Some(0)
    }

    /// Looks after one replica.
    fn replica(&mut self, ordinal: i64) -> Next {
        let Some(pod) = self.replicas.get(&ordinal).cloned() else {
            return self.create(ordinal);
        };
        if pods::is_terminal(&pod) {
            // Whatever its containers said, it is made anew once it is gone.
            if !pods::is_deleting(&pod) {
                self.act(Action::Delete(pod));
            }
            return Next::Wait;
        }
        if pods::phase(&pod) == "Pending" {
            let (missing, leaving) = self.claims_to_make(ordinal);
            if !missing.is_empty() || !leaving.is_empty() {
                self.act(Action::Supply {
                    pod: pod.clone(),
                    missing,
                    leaving,
                });
            }
            self.mend_claims(ordinal, &pod, false);
        }
        let settled =
            !pods::is_deleting(&pod) && is_running_and_ready(&pod) && self.is_available(&pod);
        if self.ordered && !settled {
            return Next::Wait;
        }
        if pods::phase(&pod) != "Pending" {
            self.mend_claims(ordinal, &pod, false);
        }
        self.mend(ordinal, &pod);
        Next::GoOn
    }

    /// Makes the pod, once its claims are not about to go with a pod or set of the same name that was before.
    fn create(&mut self, ordinal: i64) -> Next {
        let pod = self.new_pod(ordinal);
        let (missing, mut leaving) = self.claims_to_make(ordinal);
        for name in claims::names(self.set, ordinal) {
            let stale = (self.observed.claim)(&name)
                .is_some_and(|claim| claims::is_stale(self.set, &pod, &claim));
            if stale && !leaving.contains(&name) {
                leaving.push(name);
            }
        }
        self.act(Action::Create {
            pod: Box::new(pod),
            missing,
            leaving,
        });
        Next::Wait
    }

    /// The claims of a pod that are not there, and the names of those that are on their way out.
    fn claims_to_make(&self, ordinal: i64) -> (Vec<PersistentVolumeClaim>, Vec<String>) {
        let (mut missing, mut leaving) = (Vec::new(), Vec::new());
        for claim in claims::claims(self.set, ordinal) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            match (self.observed.claim)(&name) {
                None => missing.push(claim),
                Some(found) if found.metadata.deletion_timestamp.is_some() => leaving.push(name),
                Some(_) => {}
            }
        }
        (missing, leaving)
    }

    /// Gives the pod's claims the owners of the set's policy.
    fn mend_claims(&mut self, ordinal: i64, pod: &Pod, condemned: bool) {
        for name in claims::names(self.set, ordinal) {
            let Some(claim) = (self.observed.claim)(&name) else {
                continue;
            };
            let owners = match claims::ownership(self.set, pod, condemned, &claim) {
                Ownership::Fine => continue,
                Ownership::Change(owners) => owners,
                Ownership::Withdraw(owners) => {
                    self.act(Action::TellConflict(name));
                    owners
                }
            };
            let mut claim = (*claim).clone();
            claim.metadata.owner_references = (!owners.is_empty()).then_some(owners);
            self.act(Action::Own(Box::new(claim)));
        }
    }

    /// Restores the labels and volumes that make the pod this replica.
    fn mend(&mut self, ordinal: i64, pod: &Arc<Pod>) {
        let labels = pod.metadata.labels.as_ref();
        let named = labels.and_then(|labels| labels.get(NAME_LABEL));
        let identity = named.is_some() && named == pod.metadata.name.as_ref();
        let storage = claims::storage_matches(self.set, ordinal, |name| pod.claim_of(name));
        if identity && storage {
            return;
        }
        let missing = match storage {
            true => Vec::new(),
            false => self.claims_to_make(ordinal).0,
        };
        self.act(Action::Mend {
            pod: pod.clone(),
            ordinal,
            missing,
        });
    }

    /// The pod with this ordinal, of the revision that it is to be of.
    fn new_pod(&self, ordinal: i64) -> v1::Pod {
        let index = ordinal - start(self.set);
        let status = self.set.status.as_ref();
        let of_current = match partition(self.set) {
            Some(partition) => index < partition,
            None if is_on_delete(self.set) => false,
            None => {
                let current = status.and_then(|status| status.current_replicas);
                index < i64::from(current.unwrap_or(0))
            }
        };
        let version = if of_current {
            self.observed.current
        } else {
            self.observed.update
        };
        let name = self.set.metadata.name.as_deref().unwrap_or_default();
        let owner = controller_reference(self.set);
        let mut pod = pods::from_template(&version.template, name, owner);
        let pod_name = format!("{name}-{ordinal}");
        pod.metadata.name = Some(pod_name.clone());
        pod.metadata
            .namespace
            .clone_from(&self.set.metadata.namespace);
        identify(&mut pod, ordinal);
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(REVISION_LABEL.to_owned(), version.name.clone());
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(pod_name);
        spec.subdomain
            .clone_from(&self::spec(self.set).service_name);
        claims::update_storage(self.set, &mut pod, ordinal);
        pod
    }

    /// Deletes what is beyond the replicas; in order, one that is healthy, or the lowest that is not, at a time.
    fn shrink(&mut self) -> Next {
        let first_unhealthy = self
            .condemned
            .iter()
            .rev()
            .find(|(_, pod)| self.is_unavailable(pod))
            .map(|(ordinal, _)| *ordinal);
        let mut next = Next::GoOn;
        for (ordinal, pod) in self.condemned.clone() {
            if pods::is_deleting(&pod) {
                if self.ordered {
                    return Next::Wait;
                }
                continue;
            }
            let healthy = is_running_and_ready(&pod) && self.is_available(&pod);
            // One that has ended will not get better: unlike upstream, nobody waits for it.
            let ended = pods::is_terminal(&pod);
            if self.ordered && !healthy && !ended && first_unhealthy != Some(ordinal) {
                return Next::Wait;
            }
            self.act(Action::Delete(pod));
            next = Next::Wait;
            if self.ordered {
                return next;
            }
        }
        next
    }

    /// Deletes pods of other revisions, highest ordinal first, so that they come back of the new one.
    fn roll(&mut self) {
        let first = partition(self.set).unwrap_or(0);
        let unavailable = wanted(self.set)
            - i64::try_from(
                self.replicas
                    .values()
                    .filter(|pod| !self.is_unavailable(pod))
                    .count(),
            )
            .unwrap_or(i64::MAX);
        let mut budget = match max_unavailable(self.set) {
            Some(limit) => limit - unavailable,
            None => 1,
        };
        let one_at_a_time = max_unavailable(self.set).is_none();
        for index in (first..wanted(self.set)).rev() {
            if budget <= 0 {
                return;
            }
            let Some(pod) = self.replicas.get(&(start(self.set) + index)).cloned() else {
                if one_at_a_time {
                    return;
                }
                continue;
            };
            let outdated = revision_of(&pod) != self.observed.update.name;
            if outdated && !pods::is_deleting(&pod) && !pods::is_terminal(&pod) {
                if revision_of(&pod) == self.observed.current.name {
                    self.replaced += 1;
                }
                self.act(Action::Delete(pod));
                budget -= 1;
            } else if one_at_a_time && self.is_unavailable(&pod) {
                return;
            }
        }
    }
}

/// The labels by which a replica is known.
fn identify(pod: &mut v1::Pod, ordinal: i64) {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.to_owned(), name);
    labels.insert(INDEX_LABEL.to_owned(), ordinal.to_string());
}

/// The status that is true now, less the pods that are just being replaced.
fn status(observed: &Observed, replaced: i32) -> StatefulSetStatus {
    let set = observed.set;
    let count = |test: &dyn Fn(&Pod) -> bool| {
        let counted = observed.pods.iter().filter(|pod| test(pod)).count();
        i32::try_from(counted).unwrap_or(i32::MAX)
    };
    let of = |revision: &str| {
        count(&|pod| is_created(pod) && !pods::is_deleting(pod) && revision_of(pod) == revision)
    };
    let available = |pod: &Pod| {
        is_running_and_ready(pod)
            && pods::seconds_until_available(pod, min_ready(set), observed.now) == Some(0)
    };
    let replicas = count(&is_created);
    let ready = count(&is_running_and_ready);
    let updated = of(&observed.update.name);
    let mut current = of(&observed.current.name) - replaced;
    let mut current_revision = observed.current.name.clone();
    let wanted = wanted(set);
    let complete = [updated, ready, replicas]
        .into_iter()
        .all(|count| i64::from(count) == wanted);
    if complete && !is_on_delete(set) {
        current = updated;
        current_revision.clone_from(&observed.update.name);
    }
    let some = |count: i32| (count > 0).then_some(count);
    StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas,
        ready_replicas: some(ready),
        available_replicas: Some(count(&available)),
        current_replicas: some(current),
        updated_replicas: some(updated),
        current_revision: Some(current_revision),
        update_revision: Some(observed.update.name.clone()),
        collision_count: Some(observed.collisions),
        conditions: set.status.as_ref().and_then(|old| old.conditions.clone()),
    }
}

#[cfg(test)]
#[path = "stateful_set_tests.rs"]
mod tests;
