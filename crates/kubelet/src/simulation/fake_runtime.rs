//! A container runtime in memory: containers run until a test ends them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use skiff_base::SharedClock;
use skiff_runtime::cri::{self, *};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

#[derive(Default)]
pub struct State {
    pub sandboxes: BTreeMap<String, cri::PodSandboxStatus>,
    pub containers: BTreeMap<String, cri::ContainerStatus>,
    pub sandbox_of: HashMap<String, String>,
    pub configs: HashMap<String, cri::ContainerConfig>,
    pub images: BTreeSet<String>,
    /// Exit codes of commands, by the command's first word; 0 for all others.
    pub exec_codes: HashMap<String, i32>,
    /// What was done, in order.
    pub log: Vec<String>,
    /// Containers of these names do not end when they are stopped.
    pub stubborn: BTreeSet<String>,
    /// Containers with these images cannot be started.
    pub broken_images: BTreeSet<String>,
    next: u32,
}

pub struct FakeRuntime {
    pub state: Mutex<State>,
    clock: SharedClock,
    events: broadcast::Sender<cri::ContainerEventResponse>,
}

impl FakeRuntime {
    pub fn new(clock: SharedClock) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            clock,
            events: broadcast::channel(1024).0,
        })
    }

    fn now(&self) -> i64 {
        let since = self.clock.now().duration_since(SystemTime::UNIX_EPOCH);
        i64::try_from(since.unwrap().as_nanos()).unwrap()
    }

    fn tell(&self, state: &State, sandbox: &str) {
        let event = cri::ContainerEventResponse {
            pod_sandbox_status: state.sandboxes.get(sandbox).cloned(),
            ..Default::default()
        };
        let _ = self.events.send(event);
    }

    fn id(state: &mut State, what: &str) -> String {
        state.next += 1;
        format!("{what}{:04}", state.next)
    }

    /// The newest container of this name.
    pub fn container(&self, name: &str) -> Option<cri::ContainerStatus> {
        let state = self.state.lock();
        let named = state.containers.values();
        let named = named.filter(|c| c.metadata.as_ref().unwrap().name == name);
        named
            .max_by_key(|c| c.metadata.as_ref().unwrap().attempt)
            .cloned()
    }

    /// Ends the newest container of this name.
    pub fn exit(&self, name: &str, code: i32) {
        let id = self.container(name).unwrap().id;
        self.end(&id, code);
    }

    fn end(&self, id: &str, code: i32) {
        let now = self.now();
        let mut state = self.state.lock();
        let container = state.containers.get_mut(id).unwrap();
        if container.state == ContainerState::ContainerExited as i32 {
            return;
        }
        container.state = ContainerState::ContainerExited as i32;
        container.exit_code = code;
        container.finished_at = now;
        container.reason = if code == 0 { "Completed" } else { "Error" }.into();
        let sandbox = state.sandbox_of[id].clone();
        self.tell(&state, &sandbox);
    }

    pub fn log(&self) -> Vec<String> {
        self.state.lock().log.clone()
    }
}

fn fits(labels: &HashMap<String, String>, wanted: Option<&HashMap<String, String>>) -> bool {
    wanted.is_none_or(|w| w.iter().all(|(k, v)| labels.get(k) == Some(v)))
}

#[async_trait]
impl RuntimeService for FakeRuntime {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(VersionResponse {
            runtime_name: "fake".into(),
            ..Default::default()
        }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Answer<RunPodSandboxResponse> {
        let config = request.into_inner().config.unwrap();
        let now = self.now();
        let mut state = self.state.lock();
        let id = Self::id(&mut state, "sandbox");
        let address = format!("10.1.0.{}", state.next);
        let context = config.linux.as_ref().unwrap().security_context.clone();
        let status = cri::PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: PodSandboxState::SandboxReady as i32,
            created_at: now,
            network: Some(cri::PodSandboxNetworkStatus {
                ip: address,
                ..Default::default()
            }),
            linux: Some(cri::LinuxPodSandboxStatus {
                namespaces: Some(cri::Namespace {
                    options: context.unwrap().namespace_options,
                }),
            }),
            labels: config.labels,
            ..Default::default()
        };
        state.sandboxes.insert(id.clone(), status);
        state.log.push("sandbox".into());
        self.tell(&state, &id);
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id: id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let inside: Vec<String> = {
            let state = self.state.lock();
            let of = state.sandbox_of.iter().filter(|(_, s)| **s == id);
            of.map(|(c, _)| c.clone()).collect()
        };
        for container in inside {
            self.end(&container, 137);
        }
        let mut state = self.state.lock();
        if let Some(sandbox) = state.sandboxes.get_mut(&id) {
            sandbox.state = PodSandboxState::SandboxNotready as i32;
        }
        self.tell(&state, &id);
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.state.lock().sandboxes.remove(&id);
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let status = self.state.lock().sandboxes.get(&id).cloned();
        Ok(Response::new(PodSandboxStatusResponse {
            status: Some(status.ok_or_else(|| Status::not_found(id))?),
            ..Default::default()
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let filter = request.into_inner().filter;
        let labels = filter.as_ref().map(|f| &f.label_selector);
        let state = self.state.lock();
        let items = state.sandboxes.values().filter(|s| fits(&s.labels, labels));
        let items = items.map(|s| cri::PodSandbox {
            id: s.id.clone(),
            metadata: s.metadata.clone(),
            state: s.state,
            created_at: s.created_at,
            labels: s.labels.clone(),
            ..Default::default()
        });
        Ok(Response::new(ListPodSandboxResponse {
            items: items.collect(),
        }))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap();
        let now = self.now();
        let logs = request.sandbox_config.unwrap().log_directory;
        let log = std::path::Path::new(&logs).join(&config.log_path);
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        let line = "2026-01-01T00:00:00.000000000Z stdout F hello\n";
        std::fs::write(&log, line).unwrap();
        let mut state = self.state.lock();
        let id = Self::id(&mut state, "container");
        let image = config.image.clone().unwrap();
        let status = cri::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: ContainerState::ContainerCreated as i32,
            created_at: now,
            image_ref: image.image.clone(),
            image: Some(image),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            log_path: log.to_string_lossy().into_owned(),
            ..Default::default()
        };
        state.containers.insert(id.clone(), status);
        state.sandbox_of.insert(id.clone(), request.pod_sandbox_id);
        state.configs.insert(id.clone(), config);
        Ok(Response::new(CreateContainerResponse { container_id: id }))
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let id = request.into_inner().container_id;
        let now = self.now();
        let mut state = self.state.lock();
        let broken = state.broken_images.clone();
        let container = state.containers.get_mut(&id).unwrap();
        let name = container.metadata.as_ref().unwrap().name.clone();
        if broken.contains(&container.image.as_ref().unwrap().user_specified_image) {
            return Err(Status::unknown("exec: no such file or directory"));
        }
        container.state = ContainerState::ContainerRunning as i32;
        container.started_at = now;
        state.log.push(format!("start {name}"));
        let sandbox = state.sandbox_of[&id].clone();
        self.tell(&state, &sandbox);
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Answer<StopContainerResponse> {
        let StopContainerRequest {
            container_id,
            timeout,
        } = request.into_inner();
        let stubborn = {
            let mut state = self.state.lock();
            let Some(container) = state.containers.get(&container_id) else {
                return Err(Status::not_found(container_id));
            };
            let name = container.metadata.as_ref().unwrap().name.clone();
            state.log.push(format!("stop {name} {timeout}"));
            state.stubborn.contains(&name)
        };
        if stubborn {
            let timeout = u64::try_from(timeout).unwrap();
            self.clock
                .sleep(std::time::Duration::from_secs(timeout))
                .await;
            self.end(&container_id, 137);
        } else {
            self.end(&container_id, 0);
        }
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        let mut state = self.state.lock();
        state.containers.remove(&id);
        state.sandbox_of.remove(&id);
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let status = self.state.lock().containers.get(&id).cloned();
        Ok(Response::new(ContainerStatusResponse {
            status: Some(status.ok_or_else(|| Status::not_found(id))?),
            ..Default::default()
        }))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let filter = request.into_inner().filter;
        let labels = filter.as_ref().map(|f| &f.label_selector);
        let state = self.state.lock();
        let items = state
            .containers
            .values()
            .filter(|c| fits(&c.labels, labels));
        let items = items.map(|c| cri::Container {
            id: c.id.clone(),
            pod_sandbox_id: state.sandbox_of[&c.id].clone(),
            metadata: c.metadata.clone(),
            state: c.state,
            created_at: c.created_at,
            labels: c.labels.clone(),
            ..Default::default()
        });
        Ok(Response::new(ListContainersResponse {
            containers: items.collect(),
        }))
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Answer<MessageStream<ContainerEventResponse>> {
        let stream = BroadcastStream::new(self.events.subscribe());
        let stream = stream.map(|event| event.map_err(|e| Status::data_loss(e.to_string())));
        Ok(Response::new(stream.boxed()))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let command = request.into_inner().cmd;
        let mut state = self.state.lock();
        state.log.push(format!("exec {}", command.join(" ")));
        let first = command.first().cloned().unwrap_or_default();
        Ok(Response::new(ExecSyncResponse {
            stdout: b"out".to_vec(),
            stderr: vec![],
            exit_code: state.exec_codes.get(&first).copied().unwrap_or(0),
        }))
    }
}

#[async_trait]
impl ImageService for FakeRuntime {
    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Answer<ImageStatusResponse> {
        let name = request.into_inner().image.unwrap().image;
        let found = self.state.lock().images.contains(&name);
        Ok(Response::new(ImageStatusResponse {
            image: found.then(|| cri::Image {
                id: name,
                size: 1234,
                ..Default::default()
            }),
            ..Default::default()
        }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let name = request.into_inner().image.unwrap().image;
        let mut state = self.state.lock();
        state.log.push(format!("pull {name}"));
        if name.starts_with("registry/") {
            state.images.insert(name.clone());
            return Ok(Response::new(PullImageResponse { image_ref: name }));
        }
        Err(Status::not_found(format!("{name}: not found")))
    }
}
