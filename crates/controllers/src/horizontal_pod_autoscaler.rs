//! HorizontalPodAutoscalers: give a workload as many replicas as its metrics ask for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus, MetricStatus,
};
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use parking_lot::Mutex;
use skiff_base::SharedClock;
use skiff_client::failure::message;
use skiff_client::{
    ApiFailure, Event, EventRecorder, EventType, LabelMatcher, ObjectKey, Outcome, ReconcileError,
    Reconciler, SharedCache, is_conflict,
};

use crate::Context;
use crate::discovery::{ApiResource, discover};
use crate::hpa_behavior::{History, normalize};
use crate::hpa_metrics::{Asked, Invalid, ask};
use crate::hpa_readings::MetricsReader;
use crate::hpa_status::{set_condition, tolerances};
use crate::seen_pod::Pod;

/// The name of this controller.
pub const NAME: &str = "horizontal-pod-autoscaler";

const WORKERS: usize = 5;
/// Metrics do not tell of their changes: each autoscaler is looked at this often.
const PERIOD: Duration = Duration::from_secs(15);
const TRIES: usize = 5;

/// Runs the controller.
pub async fn run(context: Context) {
    let autoscalers = context.caches.of::<HorizontalPodAutoscaler>();
    let pods = context.caches.of::<Pod>();
    let queue = context.queue();
    autoscalers.wait_synced().await;
    pods.wait_synced().await;
    let _autoscalers = {
        let queue = queue.clone();
        autoscalers.on_event(move |event| {
            let found = event.object();
            let key = ObjectKey::of(&found.metadata);
            match event {
                // Our own writes.
                Event::Updated { old, .. } if old.spec == found.spec => {}
                _ => queue.add(key),
            }
        })
    };
    let reconciler = Autoscalers {
        client: context.client(NAME),
        reader: MetricsReader::new(context.client(NAME)),
        autoscalers,
        pods,
        known: Mutex::default(),
        resources: Mutex::default(),
        recorder: context.recorder(NAME, NAME),
        clock: context.clock.clone(),
    };
    context.run(reconciler, queue, WORKERS).await;
}

/// What is remembered of an autoscaler.
#[derive(Default)]
struct Known {
    history: History,
    selector: Option<LabelMatcher>,
}

struct Autoscalers {
    client: Client,
    reader: MetricsReader,
    autoscalers: SharedCache<HorizontalPodAutoscaler>,
    pods: SharedCache<Pod>,
    known: Mutex<BTreeMap<ObjectKey, Known>>,
    /// The resource of each kind that was scaled, by group and kind.
    resources: Mutex<HashMap<(String, String), ApiResource>>,
    recorder: EventRecorder,
    clock: SharedClock,
}

/// What one look at an autoscaler has at hand.
struct Look<'a> {
    key: &'a ObjectKey,
    object: &'a HorizontalPodAutoscaler,
    status: HorizontalPodAutoscalerStatus,
    now: Timestamp,
}

impl Look<'_> {
    fn condition(&mut self, type_: &str, status: &str, reason: &str, message: impl Into<String>) {
        let message = message.into();
        set_condition(&mut self.status, type_, status, reason, message, self.now);
    }
}

#[async_trait]
impl Reconciler for Autoscalers {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "horizontalpodautoscaler"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(object) = self.autoscalers.get(key) else {
            self.known.lock().remove(key);
            return Ok(Outcome::Done);
        };
        let mut look = Look {
            key,
            object: &object,
            status: object.status.clone().unwrap_or_default(),
            now: Timestamp::try_from(self.clock.now()).unwrap_or_default(),
        };
        if let Err(why) = self.look(&mut look).await {
            tracing::debug!(%key, why, "autoscaler could not do all");
        }
        if object.status.as_ref() != Some(&look.status) {
            let updated = HorizontalPodAutoscaler {
                status: Some(look.status),
                ..HorizontalPodAutoscaler::clone(&object)
            };
            let api: Api<HorizontalPodAutoscaler> =
                Api::namespaced(self.client.clone(), key.namespace());
            let written = api
                .replace_status(key.name(), &PostParams::default(), &updated)
                .await;
            if let Err(error) = written
                && !is_conflict(&error)
                && error.code() != Some(404)
            {
                self.tell(
                    &object,
                    EventType::Warning,
                    "FailedUpdateStatus",
                    message(&error),
                );
            }
        }
        Ok(Outcome::After(PERIOD))
    }
}

impl Autoscalers {
    fn tell(
        &self,
        object: &HorizontalPodAutoscaler,
        type_: EventType,
        reason: &str,
        text: impl Into<String>,
    ) {
        self.recorder.about(object, type_, reason, text);
    }

    /// Looks at metrics and scales; fills the status in.
    async fn look(&self, look: &mut Look<'_>) -> Result<(), String> {
        let (path, mut scale) = match self.scale(look).await {
            Ok(found) => found,
            Err(why) => {
                self.tell(
                    look.object,
                    EventType::Warning,
                    "FailedGetScale",
                    why.as_str(),
                );
                let text = format!(
                    "the HPA controller was unable to get the target's current scale: {why}"
                );
                look.condition("AbleToScale", "False", "FailedGetScale", text);
                return Err(why);
            }
        };
        let text = "the HPA controller was able to get the target's current scale";
        look.condition("AbleToScale", "True", "SucceededGetScale", text);
        let current = scale
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(0);
        let least = look.object.spec.min_replicas.unwrap_or(1);
        let most = look.object.spec.max_replicas;
        {
            let mut known = self.known.lock();
            let known = known.entry(look.key.clone()).or_default();
            known.history.begin(current, look.now);
        }
        let mut metrics = None;
        let (desired, reason) = if current == 0 {
            let text = "scaling is disabled since the replica count of the target is zero";
            look.condition("ScalingActive", "False", "ScalingDisabled", text);
            (0, String::new())
        } else if current > most {
            let reason = "Current number of replicas above Spec.MaxReplicas";
            (most, reason.to_owned())
        } else if current < least {
            let reason = "Current number of replicas below Spec.MinReplicas";
            (least, reason.to_owned())
        } else {
            match self.wish(look, &scale, current).await {
                Ok((wish, reason, statuses)) => {
                    metrics = Some(statuses);
                    (wish, reason)
                }
                Err((why, statuses)) => {
                    look.status.current_replicas = Some(current);
                    look.status.current_metrics = statuses;
                    let reason = "FailedComputeMetricsReplicas";
                    self.tell(look.object, EventType::Warning, reason, why.as_str());
                    return Err(why);
                }
            }
        };
        look.status.current_metrics = metrics;
        look.status.current_replicas = Some(current);
        if desired == current {
            look.status.desired_replicas = current;
            return Ok(());
        }
        if let Err(error) = self.rescale(&path, &mut scale, desired).await {
            let error = message(&error);
            let text = format!("New size: {desired}; reason: {reason}; error: {error}");
            self.tell(look.object, EventType::Warning, "FailedRescale", text);
            let text = format!("the HPA controller was unable to update the target scale: {error}");
            look.condition("AbleToScale", "False", "FailedUpdateScale", text);
            return Err(error);
        }
        let text = format!("the HPA controller was able to update the target scale to {desired}");
        look.condition("AbleToScale", "True", "SucceededRescale", text);
        let text = format!("New size: {desired}; reason: {reason}");
        self.tell(look.object, EventType::Normal, "SuccessfulRescale", text);
        if let Some(known) = self.known.lock().get_mut(look.key) {
            known.history.scaled(current, desired, look.now);
        }
        look.status.desired_replicas = desired;
        look.status.last_scale_time = Some(skiff_client::timestamp(&*self.clock));
        Ok(())
    }

    /// What the metrics ask for, within what is allowed, and why; or why nothing can be said.
    async fn wish(
        &self,
        look: &mut Look<'_>,
        scale: &Scale,
        current: i32,
    ) -> Result<(i32, String, Vec<MetricStatus>), (String, Option<Vec<MetricStatus>>)> {
        let selector = scale
            .status
            .as_ref()
            .and_then(|status| status.selector.as_deref());
        let selector = selector.unwrap_or_default();
        let pods = self.selected(look, selector).map_err(|why| (why, None))?;
        let asked = ask(&Asked {
            reader: &self.reader,
            object: look.object,
            pods: &pods,
            selector,
            replicas: current,
            counted: scale.status.as_ref().map_or(0, |status| status.replicas),
            tolerances: tolerances(look.object),
            now: look.now,
        })
        .await;
        let specs = asked.statuses.len();
        for Invalid { reason, error, .. } in &asked.invalid {
            self.tell(look.object, EventType::Warning, reason, error.as_str());
        }
        if let Some(first) = asked.invalid.first() {
            let count = asked.invalid.len();
            if count >= specs || asked.replicas < current {
                let text = format!(
                    "the HPA was unable to compute the replica count: {}",
                    first.error
                );
                look.condition("ScalingActive", "False", first.reason, text);
                let why = format!(
                    "invalid metrics ({count} invalid out of {specs}), first error is: {}",
                    first.context
                );
                return Err((why, Some(asked.statuses)));
            }
        }
        let text = format!(
            "the HPA was able to successfully calculate a replica count from {}",
            asked.metric
        );
        look.condition("ScalingActive", "True", "ValidMetricFound", text);
        let reason = match asked.replicas.cmp(&current) {
            std::cmp::Ordering::Greater => format!("{} above target", asked.metric),
            std::cmp::Ordering::Less => "All metrics below target".to_owned(),
            std::cmp::Ordering::Equal => String::new(),
        };
        let done = {
            let mut known = self.known.lock();
            let known = known.entry(look.key.clone()).or_default();
            let spec = &look.object.spec;
            normalize(spec, &mut known.history, current, asked.replicas, look.now)
        };
        look.condition("AbleToScale", "True", done.able.0, done.able.1);
        let limited = if done.limited { "True" } else { "False" };
        look.condition("ScalingLimited", limited, done.limit.0, done.limit.1);
        Ok((done.replicas, reason, asked.statuses))
    }

    /// The pods of the target; an error if their selector is no good or another autoscaler has them as well.
    fn selected(&self, look: &mut Look<'_>, text: &str) -> Result<Vec<Arc<Pod>>, String> {
        let key = look.key;
        let mut refuse = |event: &str, reason: &str, why: String, message: String| {
            self.tell(look.object, EventType::Warning, event, why.as_str());
            look.condition("ScalingActive", "False", reason, message);
            why
        };
        if text.is_empty() {
            let message = "the HPA target's scale is missing a selector".to_owned();
            let why = "selector is required".to_owned();
            return Err(refuse("SelectorRequired", "InvalidSelector", why, message));
        }
        let selector = LabelMatcher::parse(text).map_err(|error| {
            let why = format!(
                "couldn't convert selector into a corresponding internal selector object: {error}"
            );
            refuse("InvalidSelector", "InvalidSelector", why.clone(), why)
        })?;
        let namespace = key.namespace();
        let all = self.pods.list_in(namespace).into_iter();
        let pods: Vec<_> = all
            .filter(|pod| selector.matches(pod.metadata.labels.as_ref()))
            .collect();
        let mut known = self.known.lock();
        known.entry(key.clone()).or_default().selector = Some(selector);
        let sharing = known.iter().filter(|(key, known)| {
            key.namespace() == namespace
                && known.selector.as_ref().is_some_and(|other| {
                    let mut pods = pods.iter();
                    pods.any(|pod| other.matches(pod.metadata.labels.as_ref()))
                })
        });
        let sharing: Vec<String> = sharing
            .map(|(key, _)| format!("{{{} {}}}", key.name(), key.namespace()))
            .collect();
        drop(known);
        if sharing.len() > 1 {
            let why = format!(
                "pods by selector {text} are controlled by multiple HPAs: [{}]",
                sharing.join(" ")
            );
            return Err(refuse(
                "AmbiguousSelector",
                "AmbiguousSelector",
                why.clone(),
                why,
            ));
        }
        Ok(pods)
    }

    /// The path and the state of the target's scale.
    async fn scale(&self, look: &Look<'_>) -> Result<(String, Scale), String> {
        let target = &look.object.spec.scale_target_ref;
        let version = target.api_version.as_deref().unwrap_or_default();
        if version.matches('/').count() > 1 {
            return Err(format!("unexpected GroupVersion string: {version}"));
        }
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let resource = self.resource(group, &target.kind).await?;
        let path = format!(
            "{}/{}/scale",
            resource.path(look.key.namespace()),
            target.name
        );
        let scale = self.get(&path).await.map_err(|error| message(&error))?;
        Ok((path, scale))
    }

    async fn get(&self, path: &str) -> Result<Scale, Error> {
        let request = Request::get(path)
            .body(Vec::new())
            .map_err(Error::HttpError)?;
        self.client.request(request).await
    }

    async fn resource(&self, group: &str, kind: &str) -> Result<ApiResource, String> {
        let wanted = (group.to_owned(), kind.to_owned());
        if let Some(known) = self.resources.lock().get(&wanted) {
            return Ok(known.clone());
        }
        let all = discover(&self.client)
            .await
            .map_err(|error| message(&error))?;
        let mut all = all.into_iter();
        let found = all.find(|found| found.group == group && found.kind == kind);
        let found =
            found.ok_or_else(|| format!("no matches for kind {kind:?} in group {group:?}"))?;
        self.resources.lock().insert(wanted, found.clone());
        Ok(found)
    }

    async fn rescale(&self, path: &str, scale: &mut Scale, replicas: i32) -> Result<(), Error> {
        let mut tries = TRIES;
        loop {
            scale.spec.get_or_insert_default().replicas = Some(replicas);
            let body = serde_json::to_vec(scale).map_err(Error::SerdeError)?;
            let request = Request::put(path)
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(body)
                .map_err(Error::HttpError)?;
            tries -= 1;
            match self.client.request::<Scale>(request).await {
                Err(error) if is_conflict(&error) && tries > 0 => {
                    *scale = self.get(path).await?;
                }
                outcome => return outcome.map(drop),
            }
        }
    }
}
