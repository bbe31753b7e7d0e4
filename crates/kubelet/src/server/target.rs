//! Finds what a request is about: the pod, the container, its log.

use std::path::PathBuf;
use std::sync::Arc;

use http::StatusCode;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use crate::manager::Manager;
use crate::pod::observed::{ObservedContainer, State};
use crate::pod::spec;

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: StatusCode,
    /// The text.
    pub message: String,
}

impl Refusal {
    /// A refusal with this text.
    pub fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 400.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }
}

/// A pod that somebody asks for.
pub struct PodTarget {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its status.
    pub status: Arc<PodStatus>,
}

/// The pod of this name.
pub fn pod(manager: &Manager, namespace: &str, name: &str) -> Result<PodTarget, Refusal> {
    match manager.find(namespace, name) {
        Some((pod, status)) => Ok(PodTarget { pod, status }),
        None => Err(Refusal::not_found(format!(
            "pod \"{name}_{namespace}\" not found"
        ))),
    }
}

impl PodTarget {
    /// The status of one of its containers.
    #[must_use]
    pub fn container_status(&self, name: &str) -> Option<&ContainerStatus> {
        let lists = [
            &self.status.container_statuses,
            &self.status.init_container_statuses,
            &self.status.ephemeral_container_statuses,
        ];
        lists
            .into_iter()
            .flatten()
            .flatten()
            .find(|s| s.name == name)
    }

    /// What the runtime knows of a container, newest first.
    pub async fn containers(
        &self,
        manager: &Manager,
        name: &str,
    ) -> Result<Vec<ObservedContainer>, Refusal> {
        let context = manager.context();
        let directory = context.pod_directory(&self.pod);
        let seen = context
            .runtime
            .observe(spec::uid(&self.pod), &directory)
            .await;
        let seen = seen.map_err(|status| Refusal::internal(status.message()))?;
        Ok(seen
            .containers
            .into_iter()
            .filter(|c| c.name == name)
            .collect())
    }

    /// The id of a container that runs.
    pub async fn running(&self, manager: &Manager, name: &str) -> Result<String, Refusal> {
        let seen = self.containers(manager, name).await?;
        match seen.into_iter().next() {
            Some(container) if container.state == State::Running => Ok(container.id),
            _ => Err(Refusal::not_found(format!(
                "container not found (\"{name}\")"
            ))),
        }
    }

    /// The log of a container, or of the one before it.
    pub async fn log(
        &self,
        manager: &Manager,
        name: &str,
        previous: bool,
    ) -> Result<(String, PathBuf), Refusal> {
        let pod_name = spec::name(&self.pod);
        if spec::container_named(&self.pod, name).is_none() {
            return Err(Refusal::not_found(format!(
                "container \"{name}\" not found in pod \"{pod_name}\""
            )));
        }
        let seen = self.containers(manager, name).await?;
        let waiting = self
            .container_status(name)
            .and_then(|s| s.state.as_ref())
            .and_then(|s| s.waiting.as_ref())
            .and_then(|w| w.reason.clone());
        let mut logs = seen.into_iter().filter(|c| c.state != State::Created);
        let found = if previous {
            let mut ended = logs.filter(|c| c.state == State::Exited);
            let last = ended.next();
            // While a container runs, or has ended for good, the one before it is the previous one.
            let current_ended = last.as_ref().is_some_and(|last| {
                waiting.is_none()
                    && self.container_status(name).is_some_and(|s| {
                        s.container_id
                            .as_deref()
                            .is_some_and(|id| id.ends_with(&last.id))
                    })
            });
            if current_ended { ended.next() } else { last }
        } else {
            logs.next()
        };
        match found {
            Some(container) => Ok((container.id, PathBuf::from(container.log_path))),
            None if previous => Err(Refusal::bad(format!(
                "previous terminated container \"{name}\" in pod \"{pod_name}\" not found"
            ))),
            None => {
                let reason = waiting.unwrap_or_else(|| "ContainerCreating".to_owned());
                Err(Refusal::bad(format!(
                    "container \"{name}\" in pod \"{pod_name}\" is waiting to start: {}",
                    waiting_words(&reason)
                )))
            }
        }
    }
}

/// What people are told of a reason.
fn waiting_words(reason: &str) -> &str {
    match reason {
        "ErrImagePull" => "image can't be pulled",
        "ImagePullBackOff" => "trying and failing to pull image",
        other => other,
    }
}
