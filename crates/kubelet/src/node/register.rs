//! Registers the node and keeps its status in the API.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerImage, Node, NodeStatus, ObjectReference};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use serde_json::json;
use skiff_base::{Backoff, Shutdown};
use skiff_client::{ApiFailure, is_already_exists};
use skiff_runtime::cri;
use tokio::sync::watch;
use tonic::Request;

use crate::cluster::Notice;
use crate::context::Context;
use crate::node::object::{self, Observed};

/// How often the status is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// A status that did not change is still written this often.
const REPORT: Duration = Duration::from_secs(300);
/// So many images are listed.
const MAX_IMAGES: usize = 50;

/// What presses on the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Memory is short.
    pub memory: bool,
    /// Disk is short.
    pub disk: bool,
    /// Process numbers are short.
    pub pids: bool,
}

/// Keeps the Node object.
pub struct NodeKeeper {
    /// What all share.
    pub context: Arc<Context>,
    /// The API.
    pub client: Client,
    /// The port that the kubelet serves on.
    pub port: u16,
    /// What presses on the node.
    pub pressure: watch::Receiver<Pressure>,
}

impl NodeKeeper {
    /// Registers the node, then keeps its status until `shutdown`.
    pub async fn run(mut self, shutdown: Shutdown) {
        let clock = self.context.clock.clone();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(7));
        let mut last: Option<(NodeStatus, Duration)> = None;
        let mut registered = false;
        loop {
            let outcome = if registered {
                self.report(&mut last).await
            } else {
                self.register().await.map(|()| registered = true)
            };
            let pause = match outcome {
                Ok(()) if registered && last.is_none() => Duration::ZERO,
                Ok(()) => {
                    backoff.reset();
                    LOOK
                }
                Err(error) => {
                    if error.code() == Some(404) {
                        registered = false;
                        last = None;
                    }
                    tracing::warn!(%error, "cannot write the node's status");
                    backoff.next(&self.context.random)
                }
            };
            tokio::select! {
                () = clock.sleep(pause) => {}
                Ok(()) = self.pressure.changed() => {}
                () = shutdown.triggered() => return,
            }
        }
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    async fn register(&self) -> Result<(), Error> {
        let config = &self.context.config;
        let mut node = object::initial(config);
        let observed = self.observe().await;
        node.status = Some(self.status(&observed, None));
        let created = self.nodes().create(&PostParams::default(), &node).await;
        match created {
            Ok(_) => {
                tracing::info!(node = config.node_name, "registered the node");
            }
            Err(error) if is_already_exists(&error) => {
                let labels = object::labels(config);
                let patch =
                    json!({"metadata": {"labels": labels, "annotations": config.annotations}});
                let params = PatchParams::default();
                let name = &config.node_name;
                let patch = Patch::Strategic(patch);
                self.nodes().patch(name, &params, &patch).await?;
            }
            Err(error) => return Err(error),
        }
        self.tell("Starting", "Starting kubelet.");
        Ok(())
    }

    fn tell(&self, reason: &str, message: &str) {
        let name = &self.context.config.node_name;
        self.context.cluster.notify(Notice {
            about: ObjectReference {
                kind: Some("Node".into()),
                name: Some(name.clone()),
                // Upstream's kubelet names its node by name here as well.
                uid: Some(name.clone()),
                ..ObjectReference::default()
            },
            warning: false,
            reason: reason.to_owned(),
            message: message.to_owned(),
        });
    }

    fn now(&self) -> Timestamp {
        self.context.cluster.now()
    }

    fn status(&self, observed: &Observed, old: Option<&NodeStatus>) -> NodeStatus {
        let context = &self.context;
        object::status(&context.config, &context.machine, observed, old, self.now())
    }

    async fn report(&self, last: &mut Option<(NodeStatus, Duration)>) -> Result<(), Error> {
        let observed = self.observe().await;
        let monotonic = self.context.clock.monotonic();
        if let Some((old, at)) = last {
            let new = self.status(&observed, Some(old));
            if !object::differs(old, &new) && monotonic.saturating_sub(*at) < REPORT {
                return Ok(());
            }
        }
        let name = &self.context.config.node_name;
        let current = self.nodes().get(name).await?;
        let old = current.status.unwrap_or_default();
        let mut new = self.status(&observed, Some(&old));
        self.tell_changes(&old, &new);
        new.conditions = new.conditions.map(|list| {
            // Merged by type: the ones of others are left alone.
            list.into_iter().filter(|c| is_ours(&c.type_)).collect()
        });
        let mut value = serde_json::to_value(&new).unwrap_or_default();
        if let Some(addresses) = value.get_mut("addresses").and_then(|a| a.as_array_mut()) {
            addresses.insert(0, json!({"$patch": "replace"}));
        }
        let patch = Patch::Strategic(json!({"status": value}));
        let params = PatchParams::default();
        let answer = self.nodes().patch_status(name, &params, &patch).await?;
        *last = Some((answer.status.unwrap_or_default(), monotonic));
        Ok(())
    }

    fn tell_changes(&self, old: &NodeStatus, new: &NodeStatus) {
        let word = |status: &NodeStatus, kind: &str| {
            let list = status.conditions.as_deref().unwrap_or_default();
            let found = list.iter().find(|c| c.type_ == kind);
            found.map(|c| (c.status.clone(), c.reason.clone().unwrap_or_default()))
        };
        let name = &self.context.config.node_name;
        for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
            let (before, after) = (word(old, kind), word(new, kind));
            let Some((status, reason)) = after else {
                continue;
            };
            if before.is_some_and(|(old_status, _)| old_status == status) {
                continue;
            }
            let reason = match (kind, status.as_str()) {
                ("Ready", "True") => "NodeReady".to_owned(),
                ("Ready", _) => "NodeNotReady".to_owned(),
                _ => reason,
            };
            self.tell(&reason, &format!("Node {name} status is now: {reason}"));
        }
    }

    async fn observe(&self) -> Observed {
        let runtime = &self.context.runtime;
        let status = runtime
            .service
            .status(Request::new(cri::StatusRequest::default()))
            .await;
        let not_ready = match status {
            Ok(answer) => {
                let conditions = answer.into_inner().status.unwrap_or_default().conditions;
                let bad: Vec<String> = conditions
                    .iter()
                    .filter(|c| !c.status)
                    .map(|c| match c.r#type.as_str() {
                        "NetworkReady" => format!(
                            "container runtime network not ready: NetworkReady=false reason:{} message:{}",
                            c.reason, c.message
                        ),
                        kind => format!(
                            "container runtime not ready: {kind}=false reason:{} message:{}",
                            c.reason, c.message
                        ),
                    })
                    .collect();
                (!bad.is_empty()).then(|| bad.join(", "))
            }
            Err(error) => Some(format!("container runtime is down: {}", error.message())),
        };
        let version = runtime
            .service
            .version(Request::new(cri::VersionRequest::default()))
            .await;
        let version = version.map(tonic::Response::into_inner).unwrap_or_default();
        let pressure = *self.pressure.borrow();
        Observed {
            not_ready,
            memory_pressure: pressure.memory,
            disk_pressure: pressure.disk,
            pid_pressure: pressure.pids,
            runtime_version: format!("{}://{}", version.runtime_name, version.runtime_version),
            images: self.images().await,
            port: self.port,
        }
    }

    /// The largest images, as upstream lists them.
    async fn images(&self) -> Vec<ContainerImage> {
        let request = Request::new(cri::ListImagesRequest::default());
        let answer = self.context.runtime.images.list_images(request).await;
        let mut images = answer.map(|a| a.into_inner().images).unwrap_or_default();
        images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
        images
            .into_iter()
            .take(MAX_IMAGES)
            .map(|image| ContainerImage {
                names: Some(
                    image
                        .repo_digests
                        .into_iter()
                        .chain(image.repo_tags)
                        .collect(),
                ),
                size_bytes: i64::try_from(image.size).ok(),
            })
            .collect()
    }
}

fn is_ours(kind: &str) -> bool {
    matches!(
        kind,
        "MemoryPressure" | "DiskPressure" | "PIDPressure" | "Ready"
    )
}
