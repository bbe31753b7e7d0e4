//! What a Deployment's controller does next: which ReplicaSet it makes, scales or deletes, and the new
//! status. Pure.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::deployment_status::{self as status, set_progressing};
use crate::ownership::controller_reference;
use crate::template_hash;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of the Deployment that its ReplicaSets do not get.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
/// The history annotation is cut to so many letters.
const HISTORY_LETTERS: usize = 2000;
/// The longest name of an object.
const LONGEST_NAME: usize = 253;

/// What the plan is made from.
pub struct Observed<'a> {
    pub deployment: &'a Deployment,
    /// The ReplicaSets that the Deployment owns.
    pub sets: &'a [Arc<ReplicaSet>],
    /// The uids of owned ReplicaSets that have pods which have not ended; read for `Recreate` only.
    pub with_pods: &'a [String],
    pub now: &'a Time,
}

/// What to do, in this order.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub create: Option<ReplicaSet>,
    /// Each with its state before.
    pub update: Vec<(Arc<ReplicaSet>, ReplicaSet)>,
    pub delete: Vec<Arc<ReplicaSet>>,
    /// The Deployment with new annotations or status.
    pub deployment: Option<Deployment>,
    /// When to look again though nothing changes.
    pub again: Option<Duration>,
}

/// A Deployment's numbers, with the defaults that the server would have filled in.
pub struct Shape {
    pub replicas: i32,
    pub rolling: bool,
    pub max_surge: i32,
    pub max_unavailable: i32,
}

impl Shape {
    pub fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let strategy = spec.and_then(|spec| spec.strategy.as_ref());
        let rolling = strategy.and_then(|s| s.type_.as_deref()) != Some("Recreate");
        let update = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = scaled(
            update.and_then(|update| update.max_surge.as_ref()),
            replicas,
            true,
        );
        let limit = update.and_then(|update| update.max_unavailable.as_ref());
        let mut unavailable = scaled(limit, replicas, false);
        if surge == 0 && unavailable == 0 {
            // Percentages that round to nothing must not stop the rollout.
            unavailable = 1;
        }
        if !rolling || replicas == 0 {
            unavailable = 0;
        }
        Self {
            replicas,
            rolling,
            max_surge: if rolling { surge } else { 0 },
            max_unavailable: unavailable.min(replicas),
        }
    }

    fn max_total(&self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }

    fn min_available(&self) -> i32 {
        self.replicas - self.max_unavailable
    }
}

/// A number, or a percentage of `total`; what cannot be read counts as 0.
pub fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent = text
                .strip_suffix('%')
                .and_then(|number| number.parse::<i64>().ok());
            let product = percent.unwrap_or(0).saturating_mul(i64::from(total));
            let share = if round_up {
                product.saturating_add(99).div_euclid(100)
            } else {
                product.div_euclid(100)
            };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

/// One ReplicaSet while the plan is made.
struct Working {
    original: Option<Arc<ReplicaSet>>,
    set: ReplicaSet,
}

impl Working {
    fn wanted(&self) -> i32 {
        wanted(&self.set)
    }
    fn available(&self) -> i32 {
        available(&self.set)
    }
    /// The available pods that will stay: of what is beyond the wanted number the status only has not heard yet.
    fn staying(&self) -> i32 {
        self.available().min(self.wanted())
    }
}

pub fn wanted(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

pub fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

struct Planner<'a> {
    observed: &'a Observed<'a>,
    shape: Shape,
    deployment: Deployment,
    sets: Vec<Working>,
    /// The ReplicaSet of the current template.
    new: Option<usize>,
    delete: Vec<Arc<ReplicaSet>>,
}

/// Makes the plan.
pub fn plan(observed: &Observed) -> Plan {
    let mut sets = observed.sets.to_vec();
    sets.sort_by_key(|set| age_and_name(set));
    let template = observed.deployment.spec.as_ref().map(|spec| &spec.template);
    let same = |set: &Arc<ReplicaSet>| {
        let found = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        matches!((template, found), (Some(wanted), Some(found)) if same_template(wanted, found))
    };
    let new = sets.iter().position(same);
    let working = |set: Arc<ReplicaSet>| Working {
        set: (*set).clone(),
        original: Some(set),
    };
    let planner = Planner {
        observed,
        shape: Shape::of(observed.deployment),
        deployment: observed.deployment.clone(),
        sets: sets.into_iter().map(working).collect(),
        new,
        delete: Vec::new(),
    };
    planner.run()
}

fn age_and_name(set: &ReplicaSet) -> (Option<Time>, Option<String>) {
    (
        set.metadata.creation_timestamp.clone(),
        set.metadata.name.clone(),
    )
}

/// Whether two templates are the same but for the label that carries the hash.
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let normal = |template: &PodTemplateSpec| {
        let mut meta = template.metadata.clone().unwrap_or_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(template_hash::LABEL);
        }
        meta.labels = meta.labels.filter(|labels| !labels.is_empty());
        meta.annotations = meta
            .annotations
            .filter(|annotations| !annotations.is_empty());
        meta.creation_timestamp = None;
        meta
    };
    a.spec == b.spec && normal(a) == normal(b)
}

impl Planner<'_> {
    fn run(mut self) -> Plan {
        if self.deployment.metadata.deletion_timestamp.is_some() {
            self.sync_revision();
            return self.finish(false);
        }
        let paused = self.deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
        status::note_pause(&mut self.deployment, paused, self.observed.now);
        self.sync_revision();
        if paused || self.is_scaling() {
            self.scale();
            if paused {
                self.clean_up();
            }
            return self.finish(false);
        }
        if self.shape.rolling {
            self.roll();
        } else {
            self.recreate();
        }
        self.finish(true)
    }

    fn old(&self) -> impl Iterator<Item = (usize, &Working)> {
        let new = self.new;
        self.sets
            .iter()
            .enumerate()
            .filter(move |(index, _)| Some(*index) != new)
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(Working::wanted).sum()
    }

    fn max_old_revision(&self) -> i64 {
        self.old()
            .map(|(_, old)| revision(&old.set.metadata))
            .max()
            .unwrap_or(0)
    }

    /// Brings the annotations of the current ReplicaSet and the revision of the Deployment up to date.
    fn sync_revision(&mut self) {
        let next = self.max_old_revision() + 1;
        let Some(index) = self.new else {
            return;
        };
        let min_ready = self
            .deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds);
        let set = &mut self.sets[index].set;
        annotate(&self.deployment, set, next);
        if let Some(spec) = &mut set.spec
            && spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0)
        {
            spec.min_ready_seconds = min_ready;
        }
        let revision = set
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(REVISION))
            .cloned();
        let name = set.metadata.name.clone().unwrap_or_default();
        self.set_deployment_revision(revision.unwrap_or_else(|| next.to_string()));
        if status::has_deadline(&self.deployment)
            && status::find(&self.deployment, "Progressing").is_none()
        {
            let text = format!("Found new replica set {name:?}");
            set_progressing(
                &mut self.deployment,
                "True",
                "FoundNewReplicaSet",
                &text,
                self.observed.now,
            );
        }
    }

    fn set_deployment_revision(&mut self, revision: String) {
        let annotations = self.deployment.metadata.annotations.get_or_insert_default();
        annotations.insert(REVISION.to_owned(), revision);
    }

    /// Makes the ReplicaSet of the current template where there is none.
    fn ensure_new(&mut self) {
        if self.new.is_some() {
            return;
        }
        let next = self.max_old_revision() + 1;
        let Some(spec) = self.deployment.spec.clone() else {
            return;
        };
        let collisions = self
            .deployment
            .status
            .as_ref()
            .and_then(|status| status.collision_count);
        let hash = template_hash::of(&spec.template, collisions);
        let label = (template_hash::LABEL.to_owned(), hash.clone());
        let mut template = spec.template.clone();
        let meta = template.metadata.get_or_insert_default();
        meta.labels.get_or_insert_default().extend([label.clone()]);
        let labels = meta.labels.clone();
        let mut selector = spec.selector.clone();
        selector
            .match_labels
            .get_or_insert_default()
            .extend([label]);
        let room = (self.shape.max_total() - self.total()).clamp(0, self.shape.replicas);
        let replicas = if self.shape.rolling {
            room
        } else {
            self.shape.replicas
        };
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(set_name(
                    self.deployment.metadata.name.as_deref().unwrap_or_default(),
                    &hash,
                )),
                namespace: self.deployment.metadata.namespace.clone(),
                labels,
                owner_references: Some(vec![controller_reference(self.observed.deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        annotate(&self.deployment, &mut set, next);
        annotate_sizes(&mut set, &self.shape);
        self.set_deployment_revision(next.to_string());
        if status::has_deadline(&self.deployment) {
            let name = set.metadata.name.as_deref().unwrap_or_default();
            let text = format!("Created new replica set {name:?}");
            set_progressing(
                &mut self.deployment,
                "True",
                "NewReplicaSetCreated",
                &text,
                self.observed.now,
            );
        }
        self.new = Some(self.sets.len());
        self.sets.push(Working {
            original: None,
            set,
        });
    }

    /// Whether the user changed the number of replicas since the ReplicaSets were last sized.
    fn is_scaling(&self) -> bool {
        self.sets.iter().filter(|set| set.wanted() > 0).any(|set| {
            annotation_number(&set.set, DESIRED)
                .is_some_and(|desired| desired != self.shape.replicas)
        })
    }

    fn resize(&mut self, index: usize, replicas: i32) {
        let set = &mut self.sets[index].set;
        if wanted(set) != replicas {
            annotate_sizes(set, &self.shape);
            set.spec.get_or_insert_default().replicas = Some(replicas);
        }
    }

    /// Follows a change of the number of replicas without hastening or undoing a rollout.
    fn scale(&mut self) {
        let active: Vec<usize> = (0..self.sets.len())
            .filter(|index| self.sets[*index].wanted() > 0)
            .collect();
        match active.as_slice() {
            [] => {
                let newest = self.new.or_else(|| self.sets.len().checked_sub(1));
                if let Some(index) = newest {
                    self.resize(index, self.shape.replicas);
                }
            }
            [only] => self.resize(*only, self.shape.replicas),
            _ if self.new.is_some_and(|new| self.is_saturated(new)) => {
                let new = self.new;
                for index in active.into_iter().filter(|index| Some(*index) != new) {
                    self.resize(index, 0);
                }
            }
            _ if self.shape.rolling => self.scale_in_proportion(active),
            _ => {}
        }
    }

    fn is_saturated(&self, index: usize) -> bool {
        let set = &self.sets[index];
        let replicas = self.shape.replicas;
        set.wanted() == replicas
            && annotation_number(&set.set, DESIRED) == Some(replicas)
            && set.available() == replicas
    }

    /// Spreads the difference over the active ReplicaSets in proportion to their sizes.
    fn scale_in_proportion(&mut self, mut active: Vec<usize>) {
        let allowed = if self.shape.replicas > 0 {
            self.shape.max_total()
        } else {
            0
        };
        let to_add = allowed
            - active
                .iter()
                .map(|index| self.sets[*index].wanted())
                .sum::<i32>();
        // Largest first; among equals the newer first when growing, the older first when shrinking.
        // The list comes in order of age.
        if to_add > 0 {
            active.reverse();
        }
        active.sort_by_key(|index| Reverse(self.sets[*index].wanted()));
        let known_total = self
            .deployment
            .status
            .as_ref()
            .and_then(|status| status.replicas);
        let mut added = 0;
        let mut sizes = Vec::new();
        for index in &active {
            let share = self.share(*index, known_total.unwrap_or(0), to_add - added);
            added += share;
            sizes.push(self.sets[*index].wanted() + share);
        }
        if let Some(largest) = sizes.first_mut() {
            *largest = (*largest + to_add - added).max(0);
        }
        for (index, size) in active.into_iter().zip(sizes) {
            let set = &mut self.sets[index].set;
            annotate_sizes(set, &self.shape);
            set.spec.get_or_insert_default().replicas = Some(size);
        }
    }

    fn share(&self, index: usize, known_total: i32, left: i32) -> i32 {
        if left == 0 {
            return 0;
        }
        let set = &self.sets[index];
        let size = set.wanted();
        let fraction = if self.shape.replicas == 0 {
            -size
        } else {
            let before = annotation_number(&set.set, MAX).filter(|max| *max != 0);
            let before = before.unwrap_or(known_total);
            if before == 0 {
                return 0;
            }
            let grown = f64::from(size) * f64::from(self.shape.max_total()) / f64::from(before);
            grown.round() as i32 - size
        };
        if left > 0 {
            fraction.min(left)
        } else {
            fraction.max(left)
        }
    }

    fn roll(&mut self) {
        self.ensure_new();
        let Some(new) = self.new else {
            return;
        };
        let before = self.sets[new].wanted();
        let replicas = self.shape.replicas;
        if before > replicas {
            self.resize(new, replicas);
        } else {
            let room = (self.shape.max_total() - self.total()).max(0);
            self.resize(new, before + room.min(replicas - before));
        }
        if self.sets[new].wanted() != before {
            return;
        }
        if !self.shrink_old(new) && status::is_complete(&self.deployment) {
            self.clean_up();
        }
    }

    /// Scales old ReplicaSets down as far as availability allows; answers whether that was anything.
    fn shrink_old(&mut self, new: usize) -> bool {
        let old: Vec<usize> = self
            .old()
            .filter(|(_, old)| old.wanted() > 0)
            .map(|(i, _)| i)
            .collect();
        let new_unavailable = self.sets[new].wanted() - self.sets[new].staying();
        let mut spare = self.total() - self.shape.min_available() - new_unavailable;
        if old.is_empty() || spare <= 0 {
            return false;
        }
        let mut shrunk = false;
        // Pods that are not available anyway go first: they block the rollout and are missed least.
        for index in &old {
            let broken = self.sets[*index].wanted() - self.sets[*index].staying();
            let count = broken.min(spare);
            if count > 0 {
                self.resize(*index, self.sets[*index].wanted() - count);
                spare -= count;
                shrunk = true;
            }
        }
        let available: i32 = self.sets.iter().map(Working::staying).sum();
        let mut spare = available - self.shape.min_available();
        for index in &old {
            let count = self.sets[*index].wanted().min(spare);
            if count > 0 {
                self.resize(*index, self.sets[*index].wanted() - count);
                spare -= count;
                shrunk = true;
            }
        }
        shrunk
    }

    fn recreate(&mut self) {
        let old: Vec<usize> = self
            .old()
            .filter(|(_, old)| old.wanted() > 0)
            .map(|(i, _)| i)
            .collect();
        if !old.is_empty() {
            old.into_iter().for_each(|index| self.resize(index, 0));
            return;
        }
        let counted = |set: &ReplicaSet| {
            set.status
                .as_ref()
                .is_some_and(|status| status.replicas > 0)
        };
        let running = self.old().any(|(_, old)| counted(&old.set));
        let new_uid = self
            .new
            .and_then(|new| self.sets[new].set.metadata.uid.clone());
        if running
            || self
                .observed
                .with_pods
                .iter()
                .any(|uid| Some(uid) != new_uid.as_ref())
        {
            return;
        }
        self.ensure_new();
        if let Some(new) = self.new {
            self.resize(new, self.shape.replicas);
        }
        if status::is_complete(&self.deployment) {
            self.clean_up();
        }
    }

    /// Deletes the oldest of the old ReplicaSets beyond the history limit.
    fn clean_up(&mut self) {
        let limit = self
            .deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.revision_history_limit);
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else {
            return;
        };
        let mut old: Vec<Arc<ReplicaSet>> = self
            .old()
            .filter_map(|(_, old)| old.original.clone())
            .filter(|old| old.metadata.deletion_timestamp.is_none())
            .collect();
        old.sort_by_key(|set| (revision(&set.metadata), age_and_name(set)));
        let excess = old
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(0));
        let idle = |set: &Arc<ReplicaSet>| {
            let status = set.status.as_ref();
            wanted(set) == 0
                && status.is_none_or(|status| status.replicas == 0)
                && set.metadata.generation <= status.and_then(|status| status.observed_generation)
        };
        self.delete
            .extend(old.into_iter().take(excess).filter(idle));
    }

    fn finish(mut self, rollout: bool) -> Plan {
        let new = self.new.map(|new| &self.sets[new].set);
        let all: Vec<&ReplicaSet> = self.sets.iter().map(|set| &set.set).collect();
        let facts = status::Facts {
            shape: &self.shape,
            all: &all,
            new,
            now: self.observed.now,
        };
        let again = status::compute(&mut self.deployment, &facts, rollout);
        let mut plan = Plan {
            delete: self.delete,
            deployment: (self.deployment != *self.observed.deployment).then_some(self.deployment),
            ..Plan::default()
        };
        for working in self.sets {
            match working.original {
                None => plan.create = Some(working.set),
                Some(original) if *original != working.set => {
                    plan.update.push((original, working.set))
                }
                Some(_) => {}
            }
        }
        // Growth before shrinking, so that a failure in between costs no availability.
        plan.update
            .sort_by_key(|(before, after)| wanted(before) > wanted(after));
        if plan.deployment.is_none() {
            plan.again = again;
        }
        plan
    }
}

fn set_name(deployment: &str, hash: &str) -> String {
    let room = LONGEST_NAME.saturating_sub(hash.len() + 1);
    let name: String = deployment.chars().take(room).collect();
    format!("{name}-{hash}")
}

fn revision(meta: &ObjectMeta) -> i64 {
    let annotation = meta.annotations.as_ref().and_then(|all| all.get(REVISION));
    annotation.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn annotation_number(set: &ReplicaSet, name: &str) -> Option<i32> {
    let text = set.metadata.annotations.as_ref()?.get(name)?;
    text.parse().ok().filter(|number| *number >= 0)
}

fn annotate_sizes(set: &mut ReplicaSet, shape: &Shape) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), shape.replicas.to_string());
    annotations.insert(MAX.to_owned(), shape.max_total().to_string());
}

/// Copies the Deployment's annotations to its current ReplicaSet and raises the revision, keeping the
/// revisions that it had before.
fn annotate(deployment: &Deployment, set: &mut ReplicaSet, next: i64) {
    let copied = deployment.metadata.annotations.iter().flatten();
    let copied = copied.filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()));
    let copied: Vec<_> = copied
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let old = set
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(REVISION))
        .cloned();
    let old_number = old
        .as_deref()
        .map_or(Some(0), |text| text.parse::<i64>().ok());
    let raise = old_number.is_some_and(|old| old < next);
    if copied.is_empty() && !raise {
        return;
    }
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.extend(copied);
    if !raise {
        return;
    }
    annotations.insert(REVISION.to_owned(), next.to_string());
    if let Some(old) = old {
        let history = annotations
            .get(REVISION_HISTORY)
            .cloned()
            .unwrap_or_default();
        let mut revisions: Vec<&str> = history.split(',').filter(|text| !text.is_empty()).collect();
        revisions.push(&old);
        while revisions.len() > 1 && revisions.join(",").len() > HISTORY_LETTERS {
            revisions.remove(0);
        }
        annotations.insert(REVISION_HISTORY.to_owned(), revisions.join(","));
    }
}

#[cfg(test)]
#[path = "deployment_tests.rs"]
mod tests;
