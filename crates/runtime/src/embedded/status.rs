//! What is known of pods and containers, in CRI's words, and the filters of lists.

use std::collections::HashMap;

use super::EmbeddedRuntime;
use super::record::{Container, Phase, Sandbox};
use crate::cri;
use crate::image::ImageReference;

impl EmbeddedRuntime {
    pub(super) fn sandbox_status(&self, sandbox: &Sandbox) -> cri::PodSandboxStatus {
        let state = sandbox.state();
        let mut ips = state.ips.iter().cloned();
        cri::PodSandboxStatus {
            id: sandbox.id.clone(),
            metadata: sandbox.config.metadata.clone(),
            state: sandbox_state(state.ready) as i32,
            created_at: state.created_at,
            network: Some(cri::PodSandboxNetworkStatus {
                ip: ips.next().unwrap_or_default(),
                additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
            }),
            linux: Some(cri::LinuxPodSandboxStatus {
                namespaces: Some(cri::Namespace {
                    options: Some(sandbox.namespaces()),
                }),
            }),
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
            runtime_handler: state.handler,
        }
    }

    pub(super) fn list_sandboxes(
        &self,
        filter: Option<cri::PodSandboxFilter>,
    ) -> Vec<cri::PodSandbox> {
        let filter = filter.unwrap_or_default();
        let sandboxes: Vec<_> = self.0.sandboxes.read().values().cloned().collect();
        let mut items: Vec<cri::PodSandbox> = sandboxes
            .iter()
            .filter(|sandbox| sandbox.id.starts_with(&filter.id))
            .filter(|sandbox| has_labels(&sandbox.config.labels, &filter.label_selector))
            .map(|sandbox| {
                let state = sandbox.state();
                cri::PodSandbox {
                    id: sandbox.id.clone(),
                    metadata: sandbox.config.metadata.clone(),
                    state: sandbox_state(state.ready) as i32,
                    created_at: state.created_at,
                    labels: sandbox.config.labels.clone(),
                    annotations: sandbox.config.annotations.clone(),
                    runtime_handler: state.handler,
                }
            })
            .filter(|item| filter.state.is_none_or(|wanted| wanted.state == item.state))
            .collect();
        items.sort_by_key(|item| std::cmp::Reverse(item.created_at));
        items
    }

    pub(super) fn container_status_of(&self, container: &Container) -> cri::ContainerStatus {
        let state = container.state();
        let (image, image_ref) = self.image_of(container);
        let exit = state.exit.clone();
        let reason = match (&exit, state.reason.as_str()) {
            (Some(exit), _) if exit.oom_killed => "OOMKilled".to_owned(),
            (Some(exit), "") if exit.code == 0 => "Completed".to_owned(),
            (Some(_), "") => "Error".to_owned(),
            (_, reason) => reason.to_owned(),
        };
        let facts = &container.facts;
        cri::ContainerStatus {
            id: container.id.clone(),
            metadata: container.config.metadata.clone(),
            state: container_state(state.phase) as i32,
            created_at: state.created_at,
            started_at: state.started_at,
            finished_at: exit.as_ref().map_or(0, |exit| exit.at),
            exit_code: exit.as_ref().map_or(0, |exit| exit.code),
            image: Some(image),
            image_ref,
            reason,
            message: state.message,
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
            mounts: container.config.mounts.clone(),
            log_path: container
                .log
                .as_ref()
                .map(|path| path.to_string_lossy().into_owned())
                .unwrap_or_default(),
            resources: container
                .resources
                .lock()
                .clone()
                .map(|linux| cri::ContainerResources { linux: Some(linux) }),
            image_id: facts.image_id.clone(),
            user: Some(cri::ContainerUser {
                linux: Some(cri::LinuxContainerUser {
                    uid: facts.uid.into(),
                    gid: facts.gid.into(),
                    supplemental_groups: facts.groups.iter().map(|gid| (*gid).into()).collect(),
                }),
            }),
            stop_signal: container.config.stop_signal,
        }
    }

    /// The image's name and digest as the status shows them.
    fn image_of(&self, container: &Container) -> (cri::ImageSpec, String) {
        let mut spec = container.config.image.clone().unwrap_or_default();
        let id = &container.facts.image_id;
        let Some(image) = self.0.images.find(id) else {
            return (spec, id.clone());
        };
        let asked = [&spec.user_specified_image, &spec.image]
            .into_iter()
            .filter_map(|name| name.parse::<ImageReference>().ok())
            .map(|reference| reference.to_string())
            .find(|name| image.tags.contains(name));
        if let Some(name) = asked.or_else(|| image.tags.first().cloned()) {
            spec.image = name;
        }
        let reference = image.digests.first().cloned();
        (spec, reference.unwrap_or_else(|| id.clone()))
    }

    pub(super) fn list_containers_by(
        &self,
        filter: Option<cri::ContainerFilter>,
    ) -> Vec<cri::Container> {
        let filter = filter.unwrap_or_default();
        let containers: Vec<_> = self.0.containers.read().values().cloned().collect();
        let mut items: Vec<cri::Container> = containers
            .iter()
            .filter(|container| container.id.starts_with(&filter.id))
            .filter(|container| {
                container
                    .facts
                    .sandbox_id
                    .starts_with(&filter.pod_sandbox_id)
            })
            .filter(|container| has_labels(&container.config.labels, &filter.label_selector))
            .map(|container| self.list_item(container))
            .filter(|item| filter.state.is_none_or(|wanted| wanted.state == item.state))
            .collect();
        items.sort_by_key(|item| std::cmp::Reverse(item.created_at));
        items
    }

    fn list_item(&self, container: &Container) -> cri::Container {
        let state = container.state();
        let (image, image_ref) = self.image_of(container);
        cri::Container {
            id: container.id.clone(),
            pod_sandbox_id: container.facts.sandbox_id.clone(),
            metadata: container.config.metadata.clone(),
            image: Some(image),
            image_ref,
            state: container_state(state.phase) as i32,
            created_at: state.created_at,
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
            image_id: container.facts.image_id.clone(),
        }
    }
}

fn sandbox_state(ready: bool) -> cri::PodSandboxState {
    if ready {
        cri::PodSandboxState::SandboxReady
    } else {
        cri::PodSandboxState::SandboxNotready
    }
}

fn container_state(phase: Phase) -> cri::ContainerState {
    match phase {
        Phase::Created => cri::ContainerState::ContainerCreated,
        Phase::Running => cri::ContainerState::ContainerRunning,
        Phase::Exited => cri::ContainerState::ContainerExited,
    }
}

/// Whether all of `wanted` are among `labels`.
pub(super) fn has_labels(
    labels: &HashMap<String, String>,
    wanted: &HashMap<String, String>,
) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
