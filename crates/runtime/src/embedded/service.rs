//! CRI's runtime service over the embedded runtime: requests unpacked, answers packed.

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use tonic::{Request, Response, Status};

use crate::cgroup::Limits;
use crate::cri::{self, MessageStream, RuntimeService};
use crate::shim::protocol;

use super::record::Phase;
use super::{EmbeddedRuntime, blocking, internal, shim_client};

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Result<Response<MessageStream<T>>, Status>;

fn answer<T>(value: T) -> Answer<T> {
    Ok(Response::new(value))
}

/// A whole list as the only message of a stream.
fn once<T: Send + 'static>(value: T) -> Streamed<T> {
    Ok(Response::new(stream::iter([Ok(value)]).boxed()))
}

/// Streams come from the kubelet's own server, which calls the runtime directly.
fn no_streaming_server<T>() -> Answer<T> {
    Err(Status::unimplemented(
        "this runtime has no streaming server; its kubelet streams in process",
    ))
}

impl EmbeddedRuntime {
    fn conditions() -> Vec<cri::RuntimeCondition> {
        let good = |kind: &str| cri::RuntimeCondition {
            r#type: kind.to_owned(),
            status: true,
            ..Default::default()
        };
        vec![good("RuntimeReady"), good("NetworkReady")]
    }

    async fn update_resources(
        &self,
        request: cri::UpdateContainerResourcesRequest,
    ) -> Result<(), Status> {
        let container = self.container(&request.container_id)?;
        let resources = request
            .linux
            .ok_or_else(|| Status::invalid_argument("no resources are given"))?;
        let limits = Limits::of(&resources);
        let (inner, group) = (self.0.clone(), container.facts.cgroup.clone());
        blocking(move || inner.cgroups.set(&group, &limits))
            .await
            .map_err(internal)
    }

    async fn reopen_log(&self, id: &str) -> Result<(), Status> {
        let container = self.container(id)?;
        if container.state().phase != Phase::Running {
            return Err(Status::unknown("container is not running"));
        }
        let request = protocol::Request::ReopenLog {
            container: container.id.clone(),
        };
        let dir = self.run_dir(&container.facts.sandbox_id);
        match shim_client::call(&dir, &request).await.map_err(internal)? {
            protocol::Reply::Failed { message, .. } => Err(Status::unknown(message)),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl RuntimeService for EmbeddedRuntime {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        answer(cri::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "skiff".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self, _: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let handler = cri::RuntimeHandler {
            name: String::new(),
            features: Some(cri::RuntimeHandlerFeatures::default()),
        };
        answer(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: Self::conditions(),
            }),
            runtime_handlers: vec![handler],
            ..Default::default()
        })
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        let linux = cri::LinuxRuntimeConfiguration {
            cgroup_driver: cri::CgroupDriver::Cgroupfs.into(),
        };
        answer(cri::RuntimeConfigResponse { linux: Some(linux) })
    }

    async fn update_runtime_config(
        &self,
        _: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        // The pod network takes its range from its own configuration.
        answer(cri::UpdateRuntimeConfigResponse {})
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        let pod_sandbox_id = self.run_sandbox(request.into_inner()).await?;
        answer(cri::RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        self.stop_sandbox(&request.into_inner().pod_sandbox_id)
            .await?;
        answer(cri::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        self.remove_sandbox(&request.into_inner().pod_sandbox_id)
            .await?;
        answer(cri::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let sandbox = self.sandbox(&request.into_inner().pod_sandbox_id)?;
        answer(cri::PodSandboxStatusResponse {
            status: Some(self.sandbox_status(&sandbox)),
            ..Default::default()
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        answer(cri::ListPodSandboxResponse {
            items: self.list_sandboxes(request.into_inner().filter),
        })
    }

    async fn update_pod_sandbox_resources(
        &self,
        _: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        // The kubelet owns the pods' control groups.
        answer(cri::UpdatePodSandboxResourcesResponse {})
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let container_id = EmbeddedRuntime::create_container(self, request.into_inner()).await?;
        answer(cri::CreateContainerResponse { container_id })
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        EmbeddedRuntime::start_container(self, &request.into_inner().container_id).await?;
        answer(cri::StartContainerResponse {})
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        let request = request.into_inner();
        // One that is gone is stopped.
        if let Some(container) = self.find_container(&request.container_id) {
            EmbeddedRuntime::stop_container(self, &container, request.timeout).await?;
        }
        answer(cri::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        if let Some(container) = self.find_container(&request.into_inner().container_id) {
            EmbeddedRuntime::remove_container(self, &container).await?;
        }
        answer(cri::RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        answer(cri::ListContainersResponse {
            containers: self.list_containers_by(request.into_inner().filter),
        })
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let container = self.container(&request.into_inner().container_id)?;
        answer(cri::ContainerStatusResponse {
            status: Some(self.container_status_of(&container)),
            ..Default::default()
        })
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        self.update_resources(request.into_inner()).await?;
        answer(cri::UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        self.reopen_log(&request.into_inner().container_id).await?;
        answer(cri::ReopenContainerLogResponse {})
    }

    async fn checkpoint_container(
        &self,
        _: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        Err(Status::unimplemented("checkpoints are not supported"))
    }

    async fn exec_sync(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Answer<cri::ExecSyncResponse> {
        answer(self.run_exec_sync(request.into_inner()).await?)
    }

    async fn exec(&self, _: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        no_streaming_server()
    }

    async fn attach(&self, _: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        no_streaming_server()
    }

    async fn port_forward(
        &self,
        _: Request<cri::PortForwardRequest>,
    ) -> Answer<cri::PortForwardResponse> {
        no_streaming_server()
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        let container = self.container(&request.into_inner().container_id)?;
        answer(cri::ContainerStatsResponse {
            stats: Some(self.stats_of(&container).await),
        })
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        answer(cri::ListContainerStatsResponse {
            stats: self.list_stats(request.into_inner().filter).await,
        })
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let sandbox = self.sandbox(&request.into_inner().pod_sandbox_id)?;
        answer(cri::PodSandboxStatsResponse {
            stats: Some(self.sandbox_stats(&sandbox).await),
        })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        answer(cri::ListPodSandboxStatsResponse {
            stats: self.list_pod_stats(request.into_inner().filter).await,
        })
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        answer(cri::ListMetricDescriptorsResponse::default())
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        answer(cri::ListPodSandboxMetricsResponse::default())
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Streamed<cri::StreamPodSandboxesResponse> {
        once(cri::StreamPodSandboxesResponse {
            pod_sandboxes: self.list_sandboxes(request.into_inner().filter),
        })
    }

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Streamed<cri::StreamContainersResponse> {
        once(cri::StreamContainersResponse {
            containers: self.list_containers_by(request.into_inner().filter),
        })
    }

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Streamed<cri::StreamContainerStatsResponse> {
        once(cri::StreamContainerStatsResponse {
            container_stats: self.list_stats(request.into_inner().filter).await,
        })
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Streamed<cri::StreamPodSandboxStatsResponse> {
        once(cri::StreamPodSandboxStatsResponse {
            pod_sandbox_stats: self.list_pod_stats(request.into_inner().filter).await,
        })
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Streamed<cri::StreamPodSandboxMetricsResponse> {
        once(cri::StreamPodSandboxMetricsResponse::default())
    }

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Streamed<cri::ContainerEventResponse> {
        Ok(Response::new(self.events()))
    }
}
