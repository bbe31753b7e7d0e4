//! ReplicaSets and ReplicationControllers: keep so many pods of one template alive.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition,
    ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, PostParams};
use kube::core::{NamespaceResourceScope, Resource};
use kube::{Client, Error};
use skiff_base::SharedClock;
use skiff_client::failure::message;
use skiff_client::reflect::Watched;
use skiff_client::selector::{InvalidSelector, Labels};
use skiff_client::{LabelMatcher, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache};

use crate::Context;
use crate::ownership::{
    claim, controller_of, controller_reference, is_controlled_by, queue_owners, settle,
};
use crate::pod_control::PodControl;
use crate::pods;
use crate::replicas::{self, Condition, Observed, Status, Step};
use crate::seen_pod::Pod;

/// The name of the ReplicaSet controller.
pub const REPLICA_SET: &str = "replicaset-controller";
/// The name of the ReplicationController's controller.
pub const REPLICATION: &str = "replication-controller";

const WORKERS: usize = 5;
/// How long to wait for a cache to show a write before looking again.
const CATCH_UP: Duration = Duration::from_secs(1);

/// A kind that keeps pods of one template.
pub(crate) trait Replicated:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Watched
    + Clone
    + serde::Serialize
    + std::fmt::Debug
{
    /// What the queue is called in metrics.
    const QUEUE: &'static str;

    fn wanted(&self) -> i32;
    fn min_ready(&self) -> i32;
    fn selector(&self) -> Result<LabelMatcher, InvalidSelector>;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn status(&self) -> Status;
    fn with_status(&self, status: Status) -> Self;
}

impl Replicated for ReplicaSet {
    const QUEUE: &'static str = "replicaset";

    fn wanted(&self) -> i32 {
        self.spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1)
    }
    fn min_ready(&self) -> i32 {
        self.spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0)
    }
    fn selector(&self) -> Result<LabelMatcher, InvalidSelector> {
        LabelMatcher::from_selector(self.spec.as_ref().map(|spec| &spec.selector))
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }
    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: status.terminating_replicas,
            observed_generation: status.observed_generation,
            conditions: conditions
                .into_iter()
                .map(|found| Condition {
                    type_: found.type_,
                    status: found.status,
                    reason: found.reason,
                    message: found.message,
                    since: found.last_transition_time,
                })
                .collect(),
        }
    }
    fn with_status(&self, status: Status) -> Self {
        let conditions = status
            .conditions
            .into_iter()
            .map(|found| ReplicaSetCondition {
                type_: found.type_,
                status: found.status,
                reason: found.reason,
                message: found.message,
                last_transition_time: found.since,
            });
        Self {
            status: Some(ReplicaSetStatus {
                replicas: status.replicas,
                fully_labeled_replicas: positive(status.fully_labeled),
                ready_replicas: positive(status.ready),
                available_replicas: positive(status.available),
                terminating_replicas: status.terminating,
                observed_generation: status.observed_generation,
                conditions: some_vec(conditions.collect()),
            }),
            ..self.clone()
        }
    }
}

impl Replicated for ReplicationController {
    const QUEUE: &'static str = "replicationmanager";

    fn wanted(&self) -> i32 {
        self.spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1)
    }
    fn min_ready(&self) -> i32 {
        self.spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0)
    }
    fn selector(&self) -> Result<LabelMatcher, InvalidSelector> {
        let labels = self.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        Ok(labels
            .filter(|labels| !labels.is_empty())
            .map_or_else(LabelMatcher::nothing, LabelMatcher::equal_to))
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }
    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: None,
            observed_generation: status.observed_generation,
            conditions: conditions
                .into_iter()
                .map(|found| Condition {
                    type_: found.type_,
                    status: found.status,
                    reason: found.reason,
                    message: found.message,
                    since: found.last_transition_time,
                })
                .collect(),
        }
    }
    fn with_status(&self, status: Status) -> Self {
        let conditions =
            status
                .conditions
                .into_iter()
                .map(|found| ReplicationControllerCondition {
                    type_: found.type_,
                    status: found.status,
                    reason: found.reason,
                    message: found.message,
                    last_transition_time: found.since,
                });
        Self {
            status: Some(ReplicationControllerStatus {
                replicas: status.replicas,
                fully_labeled_replicas: positive(status.fully_labeled),
                ready_replicas: positive(status.ready),
                available_replicas: positive(status.available),
                observed_generation: status.observed_generation,
                conditions: some_vec(conditions.collect()),
            }),
            ..self.clone()
        }
    }
}

fn positive(count: i32) -> Option<i32> {
    (count > 0).then_some(count)
}

fn some_vec<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

/// Runs the ReplicaSet controller.
pub async fn run_replica_sets(context: Context) {
    let sets = context.caches.of::<ReplicaSet>();
    sets.index_owners();
    let siblings = sets.clone();
    run(
        context,
        REPLICA_SET,
        true,
        sets,
        // Pods of other ReplicaSets of the same Deployment count for the spread over nodes.
        Box::new(move |set: &ReplicaSet| {
            controller_of(&set.metadata)
                .map(|owner| siblings.owned_by(&owner.uid))
                .unwrap_or_default()
                .iter()
                .filter_map(|sibling| sibling.metadata.uid.clone())
                .collect()
        }),
    )
    .await;
}

/// Runs the ReplicationController's controller.
pub async fn run_replication_controllers(context: Context) {
    let sets = context.caches.of::<ReplicationController>();
    run(context, REPLICATION, false, sets, Box::new(|_| Vec::new())).await;
}

type Siblings<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct Sets<K> {
    name: &'static str,
    counts_terminating: bool,
    client: Client,
    sets: SharedCache<K>,
    pods: SharedCache<Pod>,
    siblings: Siblings<K>,
    control: PodControl,
    clock: SharedClock,
}

async fn run<K: Replicated>(
    context: Context,
    name: &'static str,
    counts_terminating: bool,
    sets: SharedCache<K>,
    siblings: Siblings<K>,
) where
    <K as Resource>::DynamicType: Default,
{
    let pods = context.caches.of::<Pod>();
    pods.index_owners();
    pods::index_orphans(&pods);
    let queue = context.queue();
    sets.wait_synced().await;
    pods.wait_synced().await;
    let _sets = {
        let queue = queue.clone();
        sets.on_event(move |event| queue.add(ObjectKey::of(event.object().meta())))
    };
    let _pods = {
        let (queue, sets) = (queue.clone(), sets.clone());
        pods.on_event(move |event| queue_owners(event, &sets, wants, &queue))
    };
    let reconciler = Sets {
        name,
        counts_terminating,
        client: context.client(name),
        sets,
        pods,
        siblings,
        control: PodControl::new(context.client(name), context.recorder(name, name)),
        clock: context.clock.clone(),
    };
    context.run(reconciler, queue, WORKERS).await;
}

/// Whether the set's selector matches an object.
fn wants<K: Replicated>(set: &K, meta: &ObjectMeta) -> bool {
    let selector = set.selector();
    selector.is_ok_and(|selector| selector.matches(meta.labels.as_ref()))
}

#[async_trait]
impl<K: Replicated> Reconciler for Sets<K> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn queue(&self) -> &'static str {
        K::QUEUE
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(set) = self.sets.get(key) else {
            self.control.forget(key);
            return Ok(Outcome::Done);
        };
        let Ok(selector) = set.selector() else {
            return Ok(Outcome::Done);
        };
        let caught_up = self.control.is_open(key, &self.pods);
        let (active, terminating) = self.claim(&set, &selector).await?;
        let now = skiff_client::timestamp(&*self.clock);
        let mut failure = None;
        if caught_up && set.meta().deletion_timestamp.is_none() {
            let related = self.related(&set, &active);
            let step = replicas::plan(set.wanted(), &active, &related, now.0);
            failure = self.carry_out(key, &set, step).await.err();
        }
        self.write_status(&set, &active, terminating, failure.as_ref(), &now)
            .await?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        if !caught_up {
            return Ok(Outcome::After(CATCH_UP));
        }
        let next = active
            .iter()
            .filter_map(|pod| pods::seconds_until_available(pod, set.min_ready(), now.0))
            .filter(|seconds| *seconds > 0)
            .min();
        Ok(match next.and_then(|seconds| u64::try_from(seconds).ok()) {
            Some(seconds) => Outcome::After(Duration::from_secs(seconds)),
            None => Outcome::Done,
        })
    }
}

impl<K: Replicated> Sets<K> {
    /// The active pods of the set, after adopting and releasing, and how many are on their way out.
    async fn claim(
        &self,
        set: &K,
        selector: &LabelMatcher,
    ) -> Result<(Vec<Arc<Pod>>, usize), Error> {
        let meta = set.meta();
        let mine = self.pods.owned_by(meta.uid.as_deref().unwrap_or_default());
        let terminating = mine.iter().filter(|pod| {
            pods::is_deleting(pod)
                && !pods::is_terminal(pod)
                && is_controlled_by(&pod.metadata, meta)
                && selector.matches(pod.metadata.labels.as_ref())
        });
        let terminating = terminating.count();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let orphans = pods::orphans_in(&self.pods, namespace);
        let candidates = mine.into_iter().chain(orphans);
        let claims = claim(
            meta,
            selector,
            candidates.filter(|pod| pods::is_active(pod)),
        );
        Ok((settle(&self.client, set, claims).await?, terminating))
    }

    fn related(&self, set: &K, active: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let siblings = (self.siblings)(set);
        if siblings.is_empty() {
            return active.to_vec();
        }
        siblings
            .iter()
            .flat_map(|uid| self.pods.owned_by(uid))
            .collect()
    }

    async fn carry_out(&self, key: &ObjectKey, set: &K, step: Step) -> Result<(), Error> {
        match step {
            Step::Nothing => Ok(()),
            Step::Create(count) => {
                let Some(template) = set.template() else {
                    return Ok(());
                };
                let name = set.meta().name.as_deref().unwrap_or_default();
                let pod = pods::from_template(template, name, controller_reference(set));
                self.control
                    .create(key, set, count, |_| pod.clone())
                    .await
                    .1
            }
            Step::Delete(pods) => self.control.delete(key, set, &pods).await,
        }
    }

    async fn write_status(
        &self,
        set: &K,
        active: &[Arc<Pod>],
        terminating: usize,
        failure: Option<&Error>,
        now: &Time,
    ) -> Result<(), Error> {
        let old = set.status();
        let template = set
            .template()
            .and_then(|template| template.metadata.as_ref());
        let labels: Option<&Labels> = template.and_then(|meta| meta.labels.as_ref());
        let failure = failure.map(message);
        let status = replicas::status(&Observed {
            old: &old,
            generation: set.meta().generation,
            wanted: set.wanted(),
            min_ready: set.min_ready(),
            template_labels: labels,
            active,
            terminating: self.counts_terminating.then_some(terminating),
            failure: failure.as_deref(),
            now,
        });
        if status == old {
            return Ok(());
        }
        let meta = set.meta();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let name = meta.name.as_deref().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let updated = set.with_status(status);
        api.replace_status(name, &PostParams::default(), &updated)
            .await?;
        Ok(())
    }
}
