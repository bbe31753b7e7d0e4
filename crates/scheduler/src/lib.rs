//! The scheduler: finds a node for each pod that has none.
//!
//! Watches feed rows of pods and nodes into one [`state`]; one loop takes the next pod, asks the plugins
//! ([`framework`]), notes the pod on its node at once and binds it in the background.

pub mod framework;
pub mod plugins;
pub mod queue;
pub mod resources;
pub mod rows;
pub mod state;

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams};
use kube::core::Resource;
use kube::{Client, Error};
use serde_json::json;
use skiff_base::lifecycle::ComponentError;
use skiff_base::{Component, Random, SharedClock, Shutdown};
use skiff_client::failure::message;
use skiff_client::reflect::Reflector;
use skiff_client::{EventRecorder, EventStyle, EventType, ObjectKey, WatchSpec, is_not_found};
use tokio::sync::Semaphore;

use crate::framework::Diagnosis;
use crate::rows::PodRow;
use crate::state::{Decision, NodeSink, PodSink, State};

/// So many bindings are under way at once.
const BINDINGS: usize = 64;
/// After so many decisions in a row others get their turn.
const BREATH: u32 = 32;
/// Longer messages are cut in events.
const LONGEST_NOTE: usize = 1024;

/// Settings of the scheduler.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// The name that pods choose it by.
    pub scheduler_name: String,
    /// The name of the host, which events carry.
    pub host: String,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            scheduler_name: "default-scheduler".to_owned(),
            host: String::new(),
        }
    }
}

struct Scheduler {
    client: Client,
    config: SchedulerConfig,
    clock: SharedClock,
    random: Random,
}

/// The scheduler as a component.
#[must_use]
pub fn component(
    client: Client,
    config: SchedulerConfig,
    clock: SharedClock,
    random: Random,
) -> Arc<dyn Component> {
    Arc::new(Scheduler {
        client,
        config,
        clock,
        random,
    })
}

#[async_trait]
impl Component for Scheduler {
    fn name(&self) -> &'static str {
        "scheduler"
    }

    async fn run(&self, shutdown: Shutdown) -> Result<(), ComponentError> {
        let (clock, random) = (self.clock.clone(), self.random.clone());
        let state = State::new(&self.config.scheduler_name, clock.clone(), random.clone());
        let nodes = Reflector::new(
            self.client.clone(),
            WatchSpec::all::<Node>(),
            Arc::new(NodeSink(state.clone())),
            clock.clone(),
            random.clone(),
        );
        // Pods that have ended are none of our business.
        let pods = Reflector::new(
            self.client.clone(),
            WatchSpec::all::<Pod>().fields("status.phase!=Succeeded,status.phase!=Failed"),
            Arc::new(PodSink(state.clone())),
            clock.clone(),
            random.clone(),
        );
        let executor = Arc::new(Executor {
            recorder: EventRecorder::new(
                self.client.clone(),
                &self.config.scheduler_name,
                &self.config.host,
                EventStyle::Series,
                clock.clone(),
                random,
            ),
            client: self.client.clone(),
            clock,
            state,
            bindings: Arc::new(Semaphore::new(BINDINGS)),
        });
        tokio::select! {
            () = nodes.run(shutdown.clone()) => {}
            () = pods.run(shutdown.clone()) => {}
            () = executor.work() => {}
            () = shutdown.triggered() => {}
        }
        Ok(())
    }
}

struct Executor {
    client: Client,
    state: Arc<State>,
    recorder: EventRecorder,
    clock: SharedClock,
    bindings: Arc<Semaphore>,
}

impl Executor {
    async fn work(self: Arc<Self>) {
        let mut decided = 0_u32;
        loop {
            // The semaphore is never closed.
            let Ok(permit) = self.bindings.clone().acquire_owned().await else {
                return;
            };
            let Some(decision) = self.state.decide() else {
                drop(permit);
                self.state.wait().await;
                continue;
            };
            let executor = self.clone();
            tokio::spawn(async move {
                match decision {
                    Decision::Bind(pod, node) => executor.bind(pod, &node).await,
                    Decision::Report(pod, diagnosis) => {
                        executor.report(&pod, "Unschedulable", &diagnosis).await;
                    }
                }
                drop(permit);
            });
            decided = decided.wrapping_add(1);
            if decided.is_multiple_of(BREATH) {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn bind(&self, pod: Arc<PodRow>, node: &str) {
        match self.post_binding(&pod, node).await {
            Ok(()) => {
                self.state.bound(&pod.key);
                let text = format!("Successfully assigned {} to {node}", pod.key);
                self.tell(&pod, EventType::Normal, "Scheduled", "Binding", text);
            }
            Err(error) => {
                self.state.binding_failed(&pod);
                if is_not_found(&error) {
                    return;
                }
                let diagnosis = Diagnosis {
                    message: format!("binding rejected: {}", message(&error)),
                    ..Diagnosis::default()
                };
                self.report(&pod, "SchedulerError", &diagnosis).await;
            }
        }
    }

    async fn post_binding(&self, pod: &PodRow, node: &str) -> Result<(), Error> {
        let (namespace, name) = (pod.key.namespace(), pod.key.name());
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                uid: Some(pod.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let body = serde_json::to_vec(&binding).map_err(Error::SerdeError)?;
        let path = format!("{}/{name}/binding", Pod::url_path(&(), Some(namespace)));
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(Error::HttpError)?;
        self.client.request_text(request).await.map(drop)
    }

    /// Tells by event and condition why the pod has no node.
    async fn report(&self, pod: &PodRow, reason: &str, diagnosis: &Diagnosis) {
        let note: String = diagnosis.message.chars().take(LONGEST_NOTE).collect();
        self.tell(
            pod,
            EventType::Warning,
            "FailedScheduling",
            "Scheduling",
            note,
        );
        let old = &pod.condition;
        if old.status == "False" && old.reason == reason && old.message == diagnosis.message {
            return;
        }
        let now = skiff_client::timestamp(&*self.clock);
        let since = old
            .since
            .clone()
            .filter(|_| old.status == "False")
            .unwrap_or(now);
        let mut condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason,
            "message": diagnosis.message, "lastProbeTime": null, "lastTransitionTime": since,
        });
        if let Some(generation) = pod.generation {
            condition["observedGeneration"] = generation.into();
        }
        let patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.key.namespace());
        let outcome = api
            .patch_status(
                pod.key.name(),
                &PatchParams::default(),
                &Patch::Strategic(patch),
            )
            .await;
        if let Err(error) = outcome {
            tracing::debug!(pod = %pod.key, error = message(&error), "condition was not written");
        }
    }

    fn tell(&self, pod: &PodRow, event_type: EventType, reason: &str, action: &str, text: String) {
        self.recorder.record_action(
            reference(&pod.key, pod),
            None,
            event_type,
            reason,
            action,
            text,
        );
    }
}

fn reference(key: &ObjectKey, pod: &PodRow) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(key.namespace().to_owned()),
        name: Some(key.name().to_owned()),
        uid: Some(pod.uid.clone()),
        resource_version: Some(pod.resource_version.clone()),
        ..ObjectReference::default()
    }
}
