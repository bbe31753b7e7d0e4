//! CRI's runtime service on the embedded runtime.

use std::collections::HashMap;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use tonic::{Request, Response, Status};

use super::record::Phase;
use super::{EmbeddedRuntime, internal, shim_client};
use crate::cgroup::Limits;
use crate::cri::{self, MessageStream, RuntimeService};
use crate::shim::protocol::Request as ShimRequest;

type Answer<T> = Result<Response<T>, Status>;

fn one<T: Send + 'static>(item: T) -> Response<MessageStream<T>> {
    Response::new(stream::iter([Ok(item)]).boxed())
}

fn condition(kind: &str, outcome: Result<(), String>, reason: &str) -> cri::RuntimeCondition {
    cri::RuntimeCondition {
        r#type: kind.into(),
        status: outcome.is_ok(),
        reason: if outcome.is_ok() { "" } else { reason }.into(),
        message: outcome.err().unwrap_or_default(),
    }
}

/// CRI's limits as a control group's: what is zero is not asked for.
fn limits(wanted: &cri::LinuxContainerResources) -> Limits {
    let some = |value: i64| (value != 0).then_some(value);
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let text = |value: &String| (!value.is_empty()).then(|| value.clone());
    Limits {
        cpu_shares: positive(wanted.cpu_shares),
        cpu_quota: some(wanted.cpu_quota),
        cpu_period: positive(wanted.cpu_period),
        memory: some(wanted.memory_limit_in_bytes),
        memory_swap: some(wanted.memory_swap_limit_in_bytes),
        cpuset_cpus: text(&wanted.cpuset_cpus),
        cpuset_mems: text(&wanted.cpuset_mems),
        pids: None,
        unified: wanted.unified.clone().into_iter().collect(),
    }
}

/// The resources after an update: what the update does not name stays.
fn merged(
    old: Option<cri::LinuxContainerResources>,
    new: cri::LinuxContainerResources,
) -> cri::LinuxContainerResources {
    let old = old.unwrap_or_default();
    let number = |new: i64, old: i64| if new != 0 { new } else { old };
    let text = |new: String, old: String| if new.is_empty() { old } else { new };
    cri::LinuxContainerResources {
        cpu_period: number(new.cpu_period, old.cpu_period),
        cpu_quota: number(new.cpu_quota, old.cpu_quota),
        cpu_shares: number(new.cpu_shares, old.cpu_shares),
        memory_limit_in_bytes: number(new.memory_limit_in_bytes, old.memory_limit_in_bytes),
        oom_score_adj: number(new.oom_score_adj, old.oom_score_adj),
        cpuset_cpus: text(new.cpuset_cpus, old.cpuset_cpus),
        cpuset_mems: text(new.cpuset_mems, old.cpuset_mems),
        hugepage_limits: if new.hugepage_limits.is_empty() {
            old.hugepage_limits
        } else {
            new.hugepage_limits
        },
        unified: old.unified.into_iter().chain(new.unified).collect(),
        memory_swap_limit_in_bytes: number(
            new.memory_swap_limit_in_bytes,
            old.memory_swap_limit_in_bytes,
        ),
    }
}

#[async_trait]
impl RuntimeService for EmbeddedRuntime {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        Ok(Response::new(cri::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "skiff".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn status(&self, _: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let network = self.0.config.network.ready().await;
        Ok(Response::new(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", Ok(()), ""),
                    condition("NetworkReady", network, "NetworkPluginNotReady"),
                ],
            }),
            info: HashMap::new(),
            runtime_handlers: vec![cri::RuntimeHandler {
                name: String::new(),
                features: Some(cri::RuntimeHandlerFeatures {
                    recursive_read_only_mounts: true,
                    user_namespaces: false,
                }),
            }],
            features: Some(cri::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
            }),
        }))
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        Ok(Response::new(cri::RuntimeConfigResponse {
            linux: Some(cri::LinuxRuntimeConfiguration {
                cgroup_driver: cri::CgroupDriver::Cgroupfs as i32,
            }),
        }))
    }

    async fn update_runtime_config(
        &self,
        _: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        // The pod network knows its addresses itself.
        Ok(Response::new(cri::UpdateRuntimeConfigResponse {}))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        // A caller that goes away must not leave half a pod: the work goes on without it.
        let runtime = self.clone();
        let pod_sandbox_id =
            tokio::spawn(async move { runtime.run_sandbox(request.into_inner()).await })
                .await
                .map_err(internal)??;
        Ok(Response::new(cri::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        self.stop_sandbox(&request.into_inner().pod_sandbox_id)
            .await?;
        Ok(Response::new(cri::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        self.remove_sandbox(&request.into_inner().pod_sandbox_id)
            .await?;
        Ok(Response::new(cri::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let sandbox = self.sandbox(&request.pod_sandbox_id)?;
        let mut info = HashMap::new();
        if request.verbose {
            let state = sandbox.state();
            let text = serde_json::json!({ "pid": state.shim_pid, "cgroup": state.cgroup });
            info.insert("info".to_owned(), text.to_string());
        }
        Ok(Response::new(cri::PodSandboxStatusResponse {
            status: Some(self.sandbox_status(&sandbox)),
            info,
            containers_statuses: self
                .containers_of(&sandbox.id)
                .iter()
                .map(|container| self.container_status_of(container))
                .collect(),
            timestamp: self.now(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        Ok(Response::new(cri::ListPodSandboxResponse {
            items: self.list_sandboxes(request.into_inner().filter),
        }))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Answer<MessageStream<cri::StreamPodSandboxesResponse>> {
        Ok(one(cri::StreamPodSandboxesResponse {
            pod_sandboxes: self.list_sandboxes(request.into_inner().filter),
        }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        // The kubelet sets the pod's own group.
        self.sandbox(&request.into_inner().pod_sandbox_id)?;
        Ok(Response::new(cri::UpdatePodSandboxResourcesResponse {}))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let runtime = self.clone();
        let container_id = tokio::spawn(async move {
            EmbeddedRuntime::create_container(&runtime, request.into_inner()).await
        })
        .await
        .map_err(internal)??;
        Ok(Response::new(cri::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        let runtime = self.clone();
        tokio::spawn(async move {
            EmbeddedRuntime::start_container(&runtime, &request.into_inner().container_id).await
        })
        .await
        .map_err(internal)??;
        Ok(Response::new(cri::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        let request = request.into_inner();
        // A container that is not there is stopped.
        if let Some(container) = self.find_container(&request.container_id) {
            EmbeddedRuntime::stop_container(self, &container, request.timeout).await?;
        }
        Ok(Response::new(cri::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        if let Some(container) = self.find_container(&id) {
            let runtime = self.clone();
            tokio::spawn(
                async move { EmbeddedRuntime::remove_container(&runtime, &container).await },
            )
            .await
            .map_err(internal)??;
        }
        Ok(Response::new(cri::RemoveContainerResponse {}))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self.container(&request.container_id)?;
        let mut info = HashMap::new();
        if request.verbose {
            let text = serde_json::json!({
                "sandboxID": container.facts.sandbox_id,
                "pid": container.state().pid,
                "cgroup": container.facts.cgroup,
            });
            info.insert("info".to_owned(), text.to_string());
        }
        Ok(Response::new(cri::ContainerStatusResponse {
            status: Some(self.container_status_of(&container)),
            info,
        }))
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        Ok(Response::new(cri::ListContainersResponse {
            containers: self.list_containers_by(request.into_inner().filter),
        }))
    }

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Answer<MessageStream<cri::StreamContainersResponse>> {
        Ok(one(cri::StreamContainersResponse {
            containers: self.list_containers_by(request.into_inner().filter),
        }))
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let container = self.container(&request.container_id)?;
        let wanted = request.linux.unwrap_or_default();
        if container.state().phase == Phase::Running {
            let cgroups = self.0.cgroups.clone();
            let group = container.facts.cgroup.clone();
            let limits = limits(&wanted);
            super::blocking(move || cgroups.set(&group, &limits))
                .await
                .map_err(|error| Status::unknown(format!("failed to update resources: {error}")))?;
        }
        let mut resources = container.resources.lock();
        let next = merged(resources.take(), wanted);
        *resources = Some(next);
        Ok(Response::new(cri::UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        let container = self.container(&request.into_inner().container_id)?;
        if container.state().phase != Phase::Running {
            return Err(Status::failed_precondition("container is not running"));
        }
        let sandbox = self.sandbox(&container.facts.sandbox_id)?;
        let request = ShimRequest::ReopenLog {
            container: container.id.clone(),
        };
        shim_client::call(&sandbox.run_dir, &request)
            .await
            .map_err(internal)?;
        Ok(Response::new(cri::ReopenContainerLogResponse {}))
    }

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Answer<MessageStream<cri::ContainerEventResponse>> {
        Ok(Response::new(self.events()))
    }

    async fn exec_sync(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Answer<cri::ExecSyncResponse> {
        Ok(Response::new(
            self.run_exec_sync(request.into_inner()).await?,
        ))
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        let container = self.container(&request.into_inner().container_id)?;
        Ok(Response::new(cri::ContainerStatsResponse {
            stats: Some(self.stats_of(&container).await),
        }))
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        Ok(Response::new(cri::ListContainerStatsResponse {
            stats: self.list_stats(request.into_inner().filter).await,
        }))
    }

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Answer<MessageStream<cri::StreamContainerStatsResponse>> {
        Ok(one(cri::StreamContainerStatsResponse {
            container_stats: self.list_stats(request.into_inner().filter).await,
        }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let sandbox = self.sandbox(&request.into_inner().pod_sandbox_id)?;
        Ok(Response::new(cri::PodSandboxStatsResponse {
            stats: Some(EmbeddedRuntime::sandbox_stats(self, &sandbox).await),
        }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        Ok(Response::new(cri::ListPodSandboxStatsResponse {
            stats: self.list_pod_stats(request.into_inner().filter).await,
        }))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Answer<MessageStream<cri::StreamPodSandboxStatsResponse>> {
        Ok(one(cri::StreamPodSandboxStatsResponse {
            pod_sandbox_stats: self.list_pod_stats(request.into_inner().filter).await,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_what_it_does_not_name() {
        let old = cri::LinuxContainerResources {
            cpu_shares: 512,
            memory_limit_in_bytes: 10,
            ..Default::default()
        };
        let new = cri::LinuxContainerResources {
            memory_limit_in_bytes: 20,
            ..Default::default()
        };
        let merged = merged(Some(old), new);
        assert_eq!((merged.cpu_shares, merged.memory_limit_in_bytes), (512, 20));
    }
}
