//! PodDisruptionBudgets: how many of their pods may be evicted just now.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join;
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIResourceList, OwnerReference};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::Resource;
use kube::{Client, Error};
use parking_lot::Mutex;
use serde_json::json;
use skiff_base::SharedClock;
use skiff_client::failure::message;
use skiff_client::reflect::Watched;
use skiff_client::{
    ApiFailure, Event, EventRecorder, EventType, LabelMatcher, ObjectKey, Outcome, ReconcileError,
    Reconciler, SharedCache, WorkQueue, is_conflict, is_not_found,
};

use crate::Context;
use crate::discovery::{ApiResource, discover};
use crate::disruption_plan::{
    Judged, Measure, failed, judge, measure, shown_selector, until_stale,
};
use crate::ownership::controller_of;
use crate::pods;
use crate::seen_pod::Pod;

/// The name of this controller.
pub const NAME: &str = "disruption-controller";
/// What its events say that they come from.
const SOURCE: &str = "controllermanager";

const WORKERS: usize = 2;

/// Runs the controller.
pub async fn run(context: Context) {
    let budgets = context.caches.of::<PodDisruptionBudget>();
    let pods = context.caches.of::<Pod>();
    let owners = Owners {
        client: context.client(NAME),
        sets: context.caches.of(),
        deployments: context.caches.of(),
        controllers: context.caches.of(),
        resources: Mutex::default(),
    };
    budgets.wait_synced().await;
    pods.wait_synced().await;
    owners.sets.wait_synced().await;
    owners.deployments.wait_synced().await;
    owners.controllers.wait_synced().await;
    let (queue, stale) = (context.queue(), context.queue());
    let recorder = context.recorder(NAME, SOURCE);
    let _budgets = {
        let queue = queue.clone();
        budgets.on_event(move |event| queue.add(ObjectKey::of(&event.object().metadata)))
    };
    let _pods = {
        let watch = Watch {
            budgets: budgets.clone(),
            queue: queue.clone(),
            stale: stale.clone(),
            recorder: recorder.clone(),
            clock: context.clock.clone(),
        };
        pods.on_event(move |event| watch.on_pod(event))
    };
    let conditions = StaleConditions {
        client: context.client(NAME),
        pods: pods.clone(),
        clock: context.clock.clone(),
    };
    let reconciler = Budgets {
        client: context.client(NAME),
        budgets,
        pods,
        owners,
        recorder,
        clock: context.clock.clone(),
    };
    join(
        context.run(reconciler, queue, WORKERS),
        context.run(conditions, stale, WORKERS),
    )
    .await;
}

fn now(clock: &SharedClock) -> Timestamp {
    Timestamp::try_from(clock.now()).unwrap_or_default()
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    LabelMatcher::from_selector(selector)
        .is_ok_and(|selector| selector.matches(pod.metadata.labels.as_ref()))
}

/// Turns what happens to pods into budgets to look at.
struct Watch {
    budgets: SharedCache<PodDisruptionBudget>,
    queue: WorkQueue<ObjectKey>,
    stale: WorkQueue<ObjectKey>,
    recorder: EventRecorder,
    clock: SharedClock,
}

impl Watch {
    fn on_pod(&self, event: &Event<Pod>) {
        let pod = event.object();
        let gone = matches!(event, Event::Deleted(_));
        if !gone && let Some(left) = until_stale(pod, now(&self.clock)) {
            self.stale.add_after(ObjectKey::of(&pod.metadata), left);
        }
        let counted = |pod: &Pod| {
            (
                pods::is_ready(pod),
                pods::is_deleting(pod),
                pod.metadata.labels.clone(),
                controller_of(&pod.metadata).map(|owner| owner.uid.clone()),
            )
        };
        let mut seen = vec![pod];
        if let Event::Updated { old, .. } = event {
            if counted(old) == counted(pod) {
                return;
            }
            seen.push(old);
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let budgets = self.budgets.list_in(namespace).into_iter();
        let found: Vec<_> = budgets
            .filter(|budget| seen.iter().any(|pod| selects(budget, pod)))
            .collect();
        if let (Event::Added(_), [first, _, ..]) = (event, found.as_slice()) {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let first = first.metadata.name.as_deref().unwrap_or_default();
            let text = format!(
                "Pod {namespace:?}/{name:?} matches multiple PodDisruptionBudgets.  Chose {first:?} arbitrarily."
            );
            self.recorder.about(
                &**pod,
                EventType::Warning,
                "MultiplePodDisruptionBudgets",
                text,
            );
        }
        for budget in found {
            self.queue.add(ObjectKey::of(&budget.metadata));
        }
    }
}

/// How many pods the managers of pods want.
struct Owners {
    client: Client,
    sets: SharedCache<ReplicaSet>,
    deployments: SharedCache<Deployment>,
    controllers: SharedCache<ReplicationController>,
    /// What the server serves, as of the last time a kind was not found.
    resources: Mutex<Arc<Vec<ApiResource>>>,
}

/// A manager's uid and how many pods it wants.
type Wanted = (String, i32);

/// Why a budget cannot be judged.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error("{}", message(.0))]
    Api(#[from] Error),
    #[error("{0}")]
    Owner(String),
}

fn by_reference<K: Resource<DynamicType = ()> + Watched>(
    cache: &SharedCache<K>,
    owner: &OwnerReference,
    namespace: &str,
) -> Option<Arc<K>> {
    let group = owner
        .api_version
        .split_once('/')
        .map_or("", |(group, _)| group);
    if owner.kind != K::kind(&()) || group != K::group(&()) {
        return None;
    }
    let found = cache.get_named(namespace, &owner.name)?;
    (found.meta().uid.as_ref() == Some(&owner.uid)).then_some(found)
}

impl Owners {
    async fn wanted(
        &self,
        owner: &OwnerReference,
        namespace: &str,
    ) -> Result<Option<Wanted>, Unknown> {
        let replicas = |replicas: Option<Option<i32>>| replicas.flatten().unwrap_or(1);
        if let Some(found) = by_reference(&self.controllers, owner, namespace) {
            let spec = found.spec.as_ref();
            return Ok(Some((
                owner.uid.clone(),
                replicas(spec.map(|s| s.replicas)),
            )));
        }
        if let Some(set) = by_reference(&self.sets, owner, namespace) {
            // A Deployment stands for all its ReplicaSets.
            return match controller_of(&set.metadata).filter(|above| above.kind == "Deployment") {
                Some(above) => Ok(
                    by_reference(&self.deployments, above, namespace).map(|found| {
                        let spec = found.spec.as_ref();
                        (above.uid.clone(), replicas(spec.map(|s| s.replicas)))
                    }),
                ),
                None => {
                    let spec = set.spec.as_ref();
                    Ok(Some((
                        owner.uid.clone(),
                        replicas(spec.map(|s| s.replicas)),
                    )))
                }
            };
        }
        self.scale(owner, namespace).await
    }

    /// Asks the scale subresource of any other kind.
    async fn scale(
        &self,
        owner: &OwnerReference,
        namespace: &str,
    ) -> Result<Option<Wanted>, Unknown> {
        let resource = self.resource(owner).await?;
        let path = format!("{}/{}/scale", resource.path(namespace), owner.name);
        let request = Request::get(path)
            .body(Vec::new())
            .map_err(Error::HttpError)?;
        match self.client.request::<Scale>(request).await {
            Ok(scale) => {
                let wanted = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
                let same = scale.metadata.uid.as_ref() == Some(&owner.uid);
                Ok(same.then(|| (owner.uid.clone(), wanted)))
            }
            Err(error) if is_not_found(&error) => {
                if self.has_scale(&resource).await? {
                    return Ok(None);
                }
                let ApiResource { plural, group, .. } = &resource;
                let name = if group.is_empty() {
                    plural.clone()
                } else {
                    format!("{plural}.{group}")
                };
                let why = format!("{name} does not implement the scale subresource");
                Err(Unknown::Owner(why))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn has_scale(&self, resource: &ApiResource) -> Result<bool, Unknown> {
        let root = if resource.group.is_empty() {
            "api"
        } else {
            "apis"
        };
        let request = Request::get(format!("/{root}/{}", resource.api_version()))
            .body(Vec::new())
            .map_err(Error::HttpError)?;
        let list: APIResourceList = self.client.request(request).await?;
        let name = format!("{}/scale", resource.plural);
        Ok(list.resources.iter().any(|found| found.name == name))
    }

    /// The resource of the owner's kind, in the owner's version where that is served.
    async fn resource(&self, owner: &OwnerReference) -> Result<ApiResource, Unknown> {
        let group = owner
            .api_version
            .split_once('/')
            .map_or("", |(group, _)| group);
        let find = |all: &[ApiResource]| {
            let mut all = all.iter();
            all.find(|found| found.kind == owner.kind && found.group == group)
                .cloned()
        };
        let known = self.resources.lock().clone();
        if let Some(found) = find(&known) {
            return Ok(found);
        }
        let fresh = Arc::new(discover(&self.client).await?);
        let found = find(&fresh);
        *self.resources.lock() = fresh;
        found.ok_or_else(|| {
            let OwnerReference {
                kind, api_version, ..
            } = owner;
            Unknown::Owner(format!(
                "no matches for kind {kind:?} in version {api_version:?}"
            ))
        })
    }
}

struct Budgets {
    client: Client,
    budgets: SharedCache<PodDisruptionBudget>,
    pods: SharedCache<Pod>,
    owners: Owners,
    recorder: EventRecorder,
    clock: SharedClock,
}

#[async_trait]
impl Reconciler for Budgets {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "disruption"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(budget) = self.budgets.get(key) else {
            return Ok(Outcome::Done);
        };
        let tell = |type_, reason: &str, text: String| {
            self.recorder.about(&*budget, type_, reason, text);
        };
        let pods = self.pods.list_in(key.namespace()).into_iter();
        let pods: Vec<_> = pods.filter(|pod| selects(&budget, pod)).collect();
        if pods.is_empty() {
            tell(
                EventType::Normal,
                "NoPods",
                "No matching pods found".to_owned(),
            );
        }
        let now = now(&self.clock);
        let (expected, unmanaged) = match self.expected(&budget, &pods).await {
            Ok(expected) => expected,
            Err(Unknown::Api(error)) if is_conflict(&error) => return Err(error.into()),
            Err(error) => {
                let text = format!("Failed to calculate the number of expected pods: {error}");
                tell(EventType::Warning, "CalculateExpectedPodCountFailed", text);
                tracing::debug!(%key, %error, "budget cannot be judged");
                let status = failed(&budget, &error.to_string(), now);
                self.write(key, &budget, status).await?;
                return Ok(Outcome::Done);
            }
        };
        if unmanaged {
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let text = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                shown_selector(selector)
            );
            tell(EventType::Warning, "UnmanagedPods", text);
        }
        let Judged {
            status,
            stayed,
            wake,
        } = judge(&budget, &pods, expected, now);
        for pod in stayed {
            let namespace = key.namespace();
            let text = format!(
                "Pod was expected by PDB {namespace}/{namespace} to be deleted but it wasn't"
            );
            self.recorder
                .about(&*pod, EventType::Warning, "NotDeleted", text);
        }
        self.write(key, &budget, status).await?;
        Ok(wake.map_or(Outcome::Done, Outcome::After))
    }
}

impl Budgets {
    /// How many pods are wanted, and whether there are some that nobody manages.
    async fn expected(
        &self,
        budget: &PodDisruptionBudget,
        pods: &[Arc<Pod>],
    ) -> Result<(i32, bool), Unknown> {
        match measure(budget) {
            Measure::Nothing => return Ok((0, false)),
            Measure::Pods => return Ok((i32::try_from(pods.len()).unwrap_or(i32::MAX), false)),
            Measure::Scale => {}
        }
        let mut asked: HashMap<&str, Wanted> = HashMap::new();
        let mut unmanaged = false;
        for pod in pods {
            let Some(owner) = controller_of(&pod.metadata) else {
                unmanaged = true;
                continue;
            };
            if asked.contains_key(owner.uid.as_str()) {
                continue;
            }
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let Some(wanted) = self.owners.wanted(owner, namespace).await? else {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let why = format!("found no controllers for pod {name:?}");
                return Err(Unknown::Owner(why));
            };
            asked.insert(&owner.uid, wanted);
        }
        let managers: HashMap<String, i32> = asked.into_values().collect();
        Ok((managers.into_values().sum(), unmanaged))
    }

    async fn write(
        &self,
        key: &ObjectKey,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), Error> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let updated = PodDisruptionBudget {
            status: Some(status),
            ..budget.clone()
        };
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), key.namespace());
        api.replace_status(key.name(), &PostParams::default(), &updated)
            .await
            .map(drop)
    }
}

/// Takes back what was said of pods that were to be disrupted and were not.
struct StaleConditions {
    client: Client,
    pods: SharedCache<Pod>,
    clock: SharedClock,
}

#[async_trait]
impl Reconciler for StaleConditions {
    fn name(&self) -> &'static str {
        "disruption-controller-stale-conditions"
    }

    fn queue(&self) -> &'static str {
        "stale_pod_disruption"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(pod) = self.pods.get(key) else {
            return Ok(Outcome::Done);
        };
        let moment = now(&self.clock);
        match until_stale(&pod, moment) {
            None => return Ok(Outcome::Done),
            Some(left) if !left.is_zero() => return Ok(Outcome::After(left)),
            Some(_) => {}
        }
        let since = skiff_client::timestamp(&*self.clock);
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"conditions": [{"type": "DisruptionTarget", "status": "False", "reason": null,
                "message": null, "lastTransitionTime": since}]},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), key.namespace());
        match api
            .patch_status(
                key.name(),
                &PatchParams::default(),
                &Patch::Strategic(patch),
            )
            .await
        {
            Err(error) if !is_not_found(&error) && error.code() != Some(422) => Err(error.into()),
            _ => Ok(Outcome::Done),
        }
    }
}
