//! Deployments: move pods from one template to the next, a few at a time, and back.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, Error};
use skiff_base::SharedClock;
use skiff_client::failure::message;
use skiff_client::{
    ApiFailure, Event, EventRecorder, EventType, LabelMatcher, ObjectKey, Outcome, ReconcileError,
    Reconciler, SharedCache, is_already_exists,
};

use crate::deletion::delete_seen;
use crate::deployment_plan::{Observed, Plan, REVISION, Shape, plan, same_template, wanted};
use crate::deployment_status::{has_deadline, set_progressing};
use crate::gate::WriteGate;
use crate::ownership::{
    claim, controller_of, is_controlled_by, lives, queue_owners, selects, settle,
};
use crate::seen_pod::Pod;
use crate::{Context, pods};

/// The name of this controller.
pub const NAME: &str = "deployment-controller";

const WORKERS: usize = 5;
const CATCH_UP: Duration = Duration::from_secs(1);

struct Deployments {
    client: Client,
    deployments: SharedCache<Deployment>,
    sets: SharedCache<ReplicaSet>,
    pods: SharedCache<Pod>,
    gate: WriteGate,
    recorder: EventRecorder,
    clock: SharedClock,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let deployments = context.caches.of::<Deployment>();
    let sets = context.caches.of::<ReplicaSet>();
    let pods = context.caches.of::<Pod>();
    sets.index_owners();
    pods.index_owners();
    let queue = context.queue();
    deployments.wait_synced().await;
    sets.wait_synced().await;
    pods.wait_synced().await;
    let _deployments = {
        let queue = queue.clone();
        deployments.on_event(move |event| queue.add(ObjectKey::of(&event.object().metadata)))
    };
    let _sets = {
        let (queue, deployments) = (queue.clone(), deployments.clone());
        sets.on_event(move |event| queue_owners(event, &deployments, wants, &queue))
    };
    // Recreate waits for the last pod of the old template to go.
    let _pods = {
        let (queue, sets, deployments) = (queue.clone(), sets.clone(), deployments.clone());
        pods.on_event(move |event| {
            if let Event::Deleted(pod) = event
                && let Some(key) = deployment_of(pod, &sets)
                && deployments
                    .get(&key)
                    .is_some_and(|found| !Shape::of(&found).rolling)
            {
                queue.add(key);
            }
        })
    };
    let reconciler = Deployments {
        client: context.client(NAME),
        deployments,
        sets,
        pods,
        gate: WriteGate::default(),
        recorder: context.recorder(NAME, NAME),
        clock: context.clock.clone(),
    };
    context.run(reconciler, queue, WORKERS).await;
}

fn deployment_of(pod: &Pod, sets: &SharedCache<ReplicaSet>) -> Option<ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref()?;
    let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet")?;
    let set = sets.get_named(namespace, &owner.name)?;
    let owner = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment")?;
    Some(ObjectKey::new(namespace, &owner.name))
}

fn wants(deployment: &Deployment, meta: &ObjectMeta) -> bool {
    selects(deployment.spec.as_ref().map(|spec| &spec.selector), meta)
}

#[async_trait]
impl Reconciler for Deployments {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "deployment"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(deployment) = self.deployments.get(key) else {
            self.gate.forget(key);
            return Ok(Outcome::Done);
        };
        if !self.gate.is_open(key, &self.sets) {
            return Ok(Outcome::After(CATCH_UP));
        }
        let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
        if selector == Some(&LabelSelector::default()) {
            return self.refuse_everything(&deployment).await;
        }
        let Ok(selector) = LabelMatcher::from_selector(selector) else {
            return Ok(Outcome::Done);
        };
        let sets = self.claim(&deployment, &selector).await?;
        let with_pods = self.with_pods(&deployment, &sets);
        let now = skiff_client::timestamp(&*self.clock);
        let plan = plan(&Observed {
            deployment: &deployment,
            sets: &sets,
            with_pods: &with_pods,
            now: &now,
        });
        self.carry_out(key, &deployment, plan).await
    }
}

impl Deployments {
    fn sets_api(&self, deployment: &Deployment) -> Api<ReplicaSet> {
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.client.clone(), namespace)
    }

    fn api(&self, deployment: &Deployment) -> Api<Deployment> {
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn refuse_everything(&self, deployment: &Deployment) -> Result<Outcome, ReconcileError> {
        let text = "This deployment is selecting all pods. A non-empty selector is required.";
        self.recorder
            .about(deployment, EventType::Warning, "SelectingAll", text);
        let mut changed = deployment.clone();
        let status = changed.status.get_or_insert_default();
        if status.observed_generation < deployment.metadata.generation {
            status.observed_generation = deployment.metadata.generation;
            self.write_deployment(&changed).await?;
        }
        Ok(Outcome::Done)
    }

    /// The ReplicaSets of the Deployment, after adopting and releasing.
    async fn claim(
        &self,
        deployment: &Deployment,
        selector: &LabelMatcher,
    ) -> Result<Vec<Arc<ReplicaSet>>, Error> {
        let meta = &deployment.metadata;
        let candidates = self
            .sets
            .list_in(meta.namespace.as_deref().unwrap_or_default());
        let claims = claim(meta, selector, candidates);
        settle(&self.client, deployment, claims).await
    }

    /// The ReplicaSets whose pods have not all ended.
    fn with_pods(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Vec<String> {
        if Shape::of(deployment).rolling {
            return Vec::new();
        }
        let uids = sets.iter().filter_map(|set| set.metadata.uid.clone());
        uids.filter(|uid| {
            self.pods
                .owned_by(uid)
                .iter()
                .any(|pod| !pods::is_terminal(pod))
        })
        .collect()
    }

    async fn carry_out(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        plan: Plan,
    ) -> Result<Outcome, ReconcileError> {
        let api = self.sets_api(deployment);
        if let Some(set) = &plan.create
            && let Some(outcome) = self.create(key, deployment, &api, set).await?
        {
            return Ok(outcome);
        }
        for (before, after) in &plan.update {
            let name = after.metadata.name.as_deref().unwrap_or_default();
            let answer = api.replace(name, &PostParams::default(), after).await?;
            self.gate.wrote(key, &answer.metadata);
            self.tell_scaling(deployment, name, wanted(before), wanted(after));
        }
        for set in &plan.delete {
            if delete_seen(&api, &set.metadata, DeleteParams::default()).await? {
                self.gate.deleted(key, &set.metadata);
            }
        }
        if let Some(changed) = &plan.deployment {
            self.write_deployment(changed).await?;
        }
        Ok(plan.again.map_or(Outcome::Done, Outcome::After))
    }

    fn tell_scaling(&self, deployment: &Deployment, name: &str, before: i32, after: i32) {
        if before != after {
            let direction = if before < after { "up" } else { "down" };
            let text = format!("Scaled {direction} replica set {name} from {before} to {after}");
            self.recorder
                .about(deployment, EventType::Normal, "ScalingReplicaSet", text);
        }
    }

    /// Makes the new ReplicaSet; an outcome means that the rest of the plan must wait.
    async fn create(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        api: &Api<ReplicaSet>,
        set: &ReplicaSet,
    ) -> Result<Option<Outcome>, ReconcileError> {
        // What is made for one that is gone the garbage collector takes away, and what it takes would be made again: without
        // end, until the watch of Deployments has caught up.
        if !lives(&self.client, deployment).await? {
            return Ok(Some(Outcome::Done));
        }
        let name = set.metadata.name.as_deref().unwrap_or_default();
        match api.create(&PostParams::default(), set).await {
            Ok(created) => {
                self.gate.wrote(key, &created.metadata);
                self.tell_scaling(deployment, name, 0, wanted(set));
                Ok(None)
            }
            Err(error) if is_already_exists(&error) => {
                self.collide(deployment, api, set).await.map(Some)
            }
            Err(error) if error.has_cause("NamespaceTerminating") => Ok(Some(Outcome::Done)),
            Err(error) => {
                let text = format!(
                    "Failed to create new replica set {name:?}: {}",
                    message(&error)
                );
                self.recorder.about(
                    deployment,
                    EventType::Warning,
                    "ReplicaSetCreateError",
                    text.clone(),
                );
                if has_deadline(deployment) {
                    let mut changed = deployment.clone();
                    let now = skiff_client::timestamp(&*self.clock);
                    set_progressing(&mut changed, "False", "ReplicaSetCreateError", &text, &now);
                    if changed != *deployment {
                        self.write_deployment(&changed).await?;
                    }
                }
                Err(error.into())
            }
        }
    }

    /// The name is taken: by our own ReplicaSet that the cache does not show yet, or by a stranger of the
    /// same hash, in which case another hash is tried.
    async fn collide(
        &self,
        deployment: &Deployment,
        api: &Api<ReplicaSet>,
        set: &ReplicaSet,
    ) -> Result<Outcome, ReconcileError> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let Some(found) = api.get_opt(name).await? else {
            return Ok(Outcome::Retry);
        };
        let template = found.spec.as_ref().and_then(|spec| spec.template.as_ref());
        let wanted = deployment.spec.as_ref().map(|spec| &spec.template);
        let same = matches!((template, wanted), (Some(a), Some(b)) if same_template(a, b));
        if is_controlled_by(&found.metadata, &deployment.metadata) && same {
            return Ok(Outcome::Retry);
        }
        let mut changed = deployment.clone();
        let count = &mut changed.status.get_or_insert_default().collision_count;
        *count = Some(count.unwrap_or(0).saturating_add(1));
        self.write_deployment(&changed).await?;
        Ok(Outcome::Retry)
    }

    /// Writes status and annotations. The status subresource takes both from this controller upstream; a
    /// server that takes the status only gets the annotations by an ordinary update.
    async fn write_deployment(&self, changed: &Deployment) -> Result<(), Error> {
        let name = changed.metadata.name.as_deref().unwrap_or_default();
        let api = self.api(changed);
        let mut written = api
            .replace_status(name, &PostParams::default(), changed)
            .await?;
        let revision = |deployment: &Deployment| {
            let annotations = deployment.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get(REVISION)).cloned()
        };
        if revision(&written) != revision(changed) {
            written
                .metadata
                .annotations
                .clone_from(&changed.metadata.annotations);
            api.replace(name, &PostParams::default(), &written).await?;
        }
        Ok(())
    }
}
