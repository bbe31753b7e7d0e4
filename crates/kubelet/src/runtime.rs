//! The container runtime as the kubelet sees it: CRI calls turned into what plans and statuses are made from.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use skiff_runtime::cri::{self, SharedImages, SharedRuntime};
use tonic::{Request, Status};

use crate::container::config::{
    HASH_ANNOTATION, MESSAGE_PATH_ANNOTATION, MESSAGE_POLICY_ANNOTATION,
};
use crate::container::sandbox::{CONTAINER_NAME_LABEL, POD_UID_LABEL};
use crate::container::security::ImageUser;
use crate::pod::observed::{
    AppliedResources, ObservedContainer, ObservedPod, ObservedSandbox, State,
};
use crate::termination;

/// The runtime and its images.
#[derive(Clone)]
pub struct Runtime {
    /// Sandboxes and containers.
    pub service: SharedRuntime,
    /// Images.
    pub images: SharedImages,
}

/// What an image is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// Its id.
    pub id: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its user.
    pub user: ImageUser,
}

/// The end of a command in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutcome {
    /// Its exit code.
    pub exit_code: i32,
    /// What it wrote.
    pub output: Vec<u8>,
}

fn labels(uid: &str) -> HashMap<String, String> {
    HashMap::from([(POD_UID_LABEL.to_owned(), uid.to_owned())])
}

fn time(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default()
}

fn set_time(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| time(nanoseconds))
}

impl Runtime {
    /// Everything that the runtime knows of a pod. Termination messages are read from below `pod_directory`.
    pub async fn observe(&self, uid: &str, pod_directory: &Path) -> Result<ObservedPod, Status> {
        let mut observed = ObservedPod::default();
        for sandbox in self.sandboxes(Some(uid)).await? {
            match self.sandbox(&sandbox.id).await {
                Ok(status) => observed.sandboxes.extend(status.map(observed_sandbox)),
                Err(gone) if gone.code() == tonic::Code::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for container in self.containers(Some(uid)).await? {
            match self.container(&container.id).await {
                Ok(Some(status)) => observed.containers.push(observed_container(
                    status,
                    &container.pod_sandbox_id,
                    pod_directory,
                )),
                Ok(None) => {}
                Err(gone) if gone.code() == tonic::Code::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        observed.sort();
        Ok(observed)
    }

    /// The sandboxes of one pod, or of all.
    pub async fn sandboxes(&self, uid: Option<&str>) -> Result<Vec<cri::PodSandbox>, Status> {
        let filter = uid.map(|uid| cri::PodSandboxFilter {
            label_selector: labels(uid),
            ..Default::default()
        });
        let request = Request::new(cri::ListPodSandboxRequest { filter });
        Ok(self
            .service
            .list_pod_sandbox(request)
            .await?
            .into_inner()
            .items)
    }

    /// The containers of one pod, or of all.
    pub async fn containers(&self, uid: Option<&str>) -> Result<Vec<cri::Container>, Status> {
        let filter = uid.map(|uid| cri::ContainerFilter {
            label_selector: labels(uid),
            ..Default::default()
        });
        let request = Request::new(cri::ListContainersRequest { filter });
        let answer = self.service.list_containers(request).await?;
        Ok(answer.into_inner().containers)
    }

    /// One sandbox.
    pub async fn sandbox(&self, id: &str) -> Result<Option<cri::PodSandboxStatus>, Status> {
        let request = Request::new(cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        });
        Ok(self
            .service
            .pod_sandbox_status(request)
            .await?
            .into_inner()
            .status)
    }

    /// One container.
    pub async fn container(&self, id: &str) -> Result<Option<cri::ContainerStatus>, Status> {
        let request = Request::new(cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        });
        Ok(self
            .service
            .container_status(request)
            .await?
            .into_inner()
            .status)
    }

    /// Makes a sandbox and returns its id.
    pub async fn run_sandbox(
        &self,
        config: cri::PodSandboxConfig,
        handler: &str,
    ) -> Result<String, Status> {
        let request = Request::new(cri::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler.to_owned(),
        });
        let answer = self.service.run_pod_sandbox(request).await?;
        Ok(answer.into_inner().pod_sandbox_id)
    }

    /// Stops a sandbox and what runs in it.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), Status> {
        let request = Request::new(cri::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        });
        gone_is_fine(self.service.stop_pod_sandbox(request).await)
    }

    /// Removes a sandbox and its containers.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        let request = Request::new(cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        });
        gone_is_fine(self.service.remove_pod_sandbox(request).await)
    }

    /// Makes a container and returns its id.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = Request::new(cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        });
        let answer = self.service.create_container(request).await?;
        Ok(answer.into_inner().container_id)
    }

    /// Starts a container.
    pub async fn start_container(&self, id: &str) -> Result<(), Status> {
        let request = Request::new(cri::StartContainerRequest {
            container_id: id.to_owned(),
        });
        self.service.start_container(request).await.map(drop)
    }

    /// Stops a container: the signal, then after `grace` the end.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Status> {
        let request = Request::new(cri::StopContainerRequest {
            container_id: id.to_owned(),
            // Whole seconds, and never less than the grace period.
            timeout: i64::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i64::MAX),
        });
        gone_is_fine(self.service.stop_container(request).await)
    }

    /// Changes what the kernel allows a running container.
    pub async fn update_resources(
        &self,
        id: &str,
        resources: cri::LinuxContainerResources,
    ) -> Result<(), Status> {
        let request = Request::new(cri::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            ..Default::default()
        });
        self.service
            .update_container_resources(request)
            .await
            .map(drop)
    }

    /// Removes a container that has ended.
    pub async fn remove_container(&self, id: &str) -> Result<(), Status> {
        let request = Request::new(cri::RemoveContainerRequest {
            container_id: id.to_owned(),
        });
        gone_is_fine(self.service.remove_container(request).await)
    }

    /// Runs a command in a container.
    pub async fn exec(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutcome, Status> {
        let request = Request::new(cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        });
        let answer = self.service.exec_sync(request).await?.into_inner();
        let mut output = answer.stdout;
        output.extend(answer.stderr);
        Ok(ExecOutcome {
            exit_code: answer.exit_code,
            output,
        })
    }

    /// An image, if the runtime has it.
    pub async fn image(&self, name: &str) -> Result<Option<ImageFacts>, Status> {
        let request = Request::new(cri::ImageStatusRequest {
            image: Some(image_spec(name)),
            verbose: false,
        });
        let image = self.images.image_status(request).await?.into_inner().image;
        Ok(image.map(|image| ImageFacts {
            id: image.id,
            size: image.size,
            user: ImageUser {
                uid: image.uid.map(|uid| uid.value),
                name: image.username,
            },
        }))
    }

    /// Fetches an image and returns the reference to run it by.
    pub async fn pull(
        &self,
        name: &str,
        auth: Option<cri::AuthConfig>,
        sandbox: cri::PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = Request::new(cri::PullImageRequest {
            image: Some(image_spec(name)),
            auth,
            sandbox_config: Some(sandbox),
        });
        Ok(self
            .images
            .pull_image(request)
            .await?
            .into_inner()
            .image_ref)
    }
}

fn image_spec(name: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: name.to_owned(),
        user_specified_image: name.to_owned(),
        ..Default::default()
    }
}

fn gone_is_fine<T>(answer: Result<T, Status>) -> Result<(), Status> {
    match answer {
        Ok(_) => Ok(()),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        Err(status) => Err(status),
    }
}

fn observed_sandbox(status: cri::PodSandboxStatus) -> ObservedSandbox {
    let options = status
        .linux
        .and_then(|l| l.namespaces)
        .and_then(|n| n.options);
    let network = status.network.unwrap_or_default();
    let ips = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|i| i.ip));
    ObservedSandbox {
        id: status.id,
        attempt: status.metadata.map_or(0, |m| m.attempt),
        ready: status.state == cri::PodSandboxState::SandboxReady as i32,
        created_at: time(status.created_at),
        ips: ips.filter(|ip| !ip.is_empty()).collect(),
        host_network: options.is_some_and(|o| o.network == cri::NamespaceMode::Node as i32),
    }
}

fn observed_container(
    status: cri::ContainerStatus,
    sandbox_id: &str,
    pod_directory: &Path,
) -> ObservedContainer {
    let metadata = status.metadata.unwrap_or_default();
    let state = match cri::ContainerState::try_from(status.state) {
        Ok(cri::ContainerState::ContainerCreated) => State::Created,
        Ok(cri::ContainerState::ContainerRunning) => State::Running,
        Ok(cri::ContainerState::ContainerExited) => State::Exited,
        _ => State::Unknown,
    };
    let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
    let name = match status.labels.get(CONTAINER_NAME_LABEL) {
        Some(name) => name.clone(),
        None => metadata.name.clone(),
    };
    let message = if state == State::Exited {
        let path = annotation(MESSAGE_PATH_ANNOTATION);
        let file = (!path.is_empty()).then(|| message_file(pod_directory, &name, metadata.attempt));
        termination::message(&termination::Ended {
            runtime_message: &status.message,
            file: file.as_deref(),
            from_logs: annotation(MESSAGE_POLICY_ANNOTATION) == "FallbackToLogsOnError"
                && status.exit_code != 0,
            log: Path::new(&status.log_path),
        })
    } else {
        String::new()
    };
    let user = status.user.and_then(|u| u.linux);
    let resources = status.resources.and_then(|r| r.linux);
    ObservedContainer {
        id: status.id,
        name,
        attempt: metadata.attempt,
        sandbox_id: sandbox_id.to_owned(),
        state,
        created_at: time(status.created_at),
        started_at: set_time(status.started_at),
        finished_at: set_time(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason,
        message,
        image: status.image.map(|i| i.image).unwrap_or_default(),
        image_id: status.image_ref,
        spec_hash: status
            .annotations
            .get(HASH_ANNOTATION)
            .cloned()
            .unwrap_or_default(),
        user: user.map(|u| (u.uid, u.gid, u.supplemental_groups)),
        log_path: status.log_path,
        resources: resources.map(|r| AppliedResources {
            cpu_shares: r.cpu_shares,
            cpu_quota: r.cpu_quota.max(0),
            memory_limit: r.memory_limit_in_bytes.max(0),
        }),
    }
}

/// The file on the host that a container's termination message is written to.
#[must_use]
pub fn message_file(pod_directory: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_directory
        .join("containers")
        .join(container)
        .join(attempt.to_string())
}
