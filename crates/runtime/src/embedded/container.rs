//! Containers: making, starting, stopping and removing them.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use super::record::{Container, ContainerFacts, ContainerState, EXIT, Phase, Sandbox};
use super::sandbox::{node_name, remove_dir};
use super::shim_client;
use super::{EmbeddedRuntime, blocking, internal};
use crate::cgroup::Hierarchies;
use crate::cri::{self, NamespaceMode};
use crate::image::user::{self, Identity};
use crate::image::{Execution, ImageStore, StoredImage};
use crate::shim::make_directory;
use crate::shim::protocol::{Event, Exit, Reply, Request, StartContainer};
use crate::spec::{self, Plan, PodFiles, capabilities};

/// The exit code of a container that could not be started: containerd's.
const START_FAILED: i32 = 128;
/// The exit code of a container of which nobody knows how it ended.
const UNKNOWN: i32 = 255;

impl EmbeddedRuntime {
    pub(super) async fn create_container(
        &self,
        request: cri::CreateContainerRequest,
    ) -> Result<String, Status> {
        let sandbox = self.sandbox(&request.pod_sandbox_id)?;
        let config = request
            .config
            .ok_or_else(|| Status::invalid_argument("a container needs a configuration"))?;
        // Who stops the sandbox waits, and finds the container.
        let _guard = sandbox.changing.lock().await;
        if !sandbox.state().ready {
            return Err(Status::failed_precondition(format!(
                "sandbox container {:?} is not running",
                sandbox.id
            )));
        }
        let name = container_name(&config, &sandbox.id);
        if !self.0.names.lock().insert(name.clone()) {
            return Err(Status::already_exists(format!(
                "failed to reserve container name {name:?}: name is reserved"
            )));
        }
        let outcome = self.make_container(&sandbox, config).await;
        if outcome.is_err() {
            self.0.names.lock().remove(&name);
        }
        outcome
    }

    async fn make_container(
        &self,
        sandbox: &Arc<Sandbox>,
        config: cri::ContainerConfig,
    ) -> Result<String, Status> {
        let id = self.new_id();
        let named = config.image.clone().unwrap_or_default().image;
        let image = self.0.images.find(&named).ok_or_else(|| {
            Status::not_found(format!("failed to resolve image {named:?}: not found"))
        })?;
        let target_pid = self.pid_namespace_of(sandbox, &config)?;
        let state = ContainerState {
            created_at: self.now(),
            ..ContainerState::default()
        };
        let work = Work {
            id: id.clone(),
            dir: self.container_dir(&id),
            rootfs: sandbox.run_dir.join("rootfs").join(&id),
            images: self.0.images.clone(),
            cgroups: self.0.cgroups.clone(),
            sandbox: sandbox.clone(),
            config,
            image,
            target_pid,
            state,
        };
        let dir = work.dir.clone();
        let container = match tokio::task::spawn_blocking(move || work.run())
            .await
            .map_err(internal)?
        {
            Ok(container) => Arc::new(container),
            Err(status) => {
                blocking(move || remove_dir(&dir)).await.map_err(internal)?;
                return Err(status);
            }
        };
        self.0.containers.write().insert(id.clone(), container);
        self.announce(
            &id,
            &sandbox.id,
            cri::ContainerEventType::ContainerCreatedEvent,
        );
        Ok(id)
    }

    /// The process whose process namespace a container is to join.
    fn pid_namespace_of(
        &self,
        sandbox: &Sandbox,
        config: &cri::ContainerConfig,
    ) -> Result<Option<i32>, Status> {
        let options = namespaces(config);
        match options.pid() {
            NamespaceMode::Pod => Ok(sandbox.state().pause_pid),
            NamespaceMode::Target => {
                let target = self.container(&options.target_id)?;
                let state = target.state();
                if state.phase != Phase::Running || target.facts.sandbox_id != sandbox.id {
                    return Err(Status::failed_precondition(format!(
                        "container {:?} is not running in the same pod",
                        options.target_id
                    )));
                }
                Ok(Some(state.pid))
            }
            NamespaceMode::Container | NamespaceMode::Node => Ok(None),
        }
    }

    pub(super) async fn start_container(&self, id: &str) -> Result<(), Status> {
        let container = self.container(id)?;
        let _guard = container.changing.lock().await;
        let state = container.state();
        if state.phase != Phase::Created || state.removing {
            return Err(Status::failed_precondition(format!(
                "container {:?} is in {:?} state",
                container.id, state.phase
            )));
        }
        let sandbox = self.sandbox(&container.facts.sandbox_id)?;
        let _sandbox_guard = sandbox.changing.lock().await;
        if !sandbox.state().ready {
            return Err(Status::failed_precondition(format!(
                "sandbox container {:?} is not running",
                sandbox.id
            )));
        }
        let request = Request::Start(Box::new(self.start_request(&sandbox, &container)));
        let outcome = shim_client::call(&sandbox.run_dir, &request).await;
        match outcome {
            Ok(Reply::Started { pid, at }) => {
                // A short-lived container may be reported as ended before it is known as started.
                container
                    .change(|state| {
                        state.pid = pid;
                        state.started_at = at;
                        if state.phase == Phase::Created {
                            state.phase = Phase::Running;
                        }
                    })
                    .map_err(internal)?;
                self.announce(
                    &container.id,
                    &sandbox.id,
                    cri::ContainerEventType::ContainerStartedEvent,
                );
                Ok(())
            }
            Ok(_) => Err(internal("the pod's shim answered nonsense")),
            Err(error) => {
                let message = format!("failed to start container {id:?}: {error}");
                self.start_failed(&container, &message).await?;
                Err(Status::unknown(message))
            }
        }
    }

    async fn start_failed(&self, container: &Arc<Container>, message: &str) -> Result<(), Status> {
        let at = self.now();
        container
            .change(|state| {
                state.phase = Phase::Exited;
                state.reason = "StartError".into();
                state.message = message.to_owned();
                state.exit = Some(Exit {
                    code: START_FAILED,
                    at,
                    oom_killed: false,
                });
            })
            .map_err(internal)?;
        self.remove_group(&container.facts.cgroup).await;
        Ok(())
    }

    fn start_request(&self, sandbox: &Sandbox, container: &Container) -> StartContainer {
        let facts = &container.facts;
        StartContainer {
            id: container.id.clone(),
            bundle: container.dir.clone(),
            rootfs: sandbox.run_dir.join("rootfs").join(&container.id),
            layers_dir: self.0.images.layers_dir().to_owned(),
            layers: facts.layers.clone(),
            upper: container.dir.join("upper"),
            work: container.dir.join("work"),
            state_dir: sandbox.run_dir.join("oci"),
            log: container.log.clone(),
            tty: container.config.tty,
            stdin: container.config.stdin,
            stdin_once: container.config.stdin_once,
            exit_file: container.dir.join(EXIT),
            memory_cgroup: self.0.cgroups.dir("memory", &facts.cgroup),
            processes_cgroup: self.0.cgroups.processes_dir(&facts.cgroup),
            own_pid: facts.own_pid,
            uid: facts.uid,
            cwd: facts.cwd.clone(),
            finish: facts.finish.clone(),
        }
    }

    /// What a shim tells.
    pub(super) fn on_event(&self, event: Event) {
        let Event::Exited { container, exit } = event;
        if let Some(container) = self.find_container(&container)
            && let Err(error) = self.settle(&container, Some(exit))
        {
            tracing::error!(container = container.id, %error, "cannot note the end of a container");
        }
    }

    /// The containers of a pod that run as far as is known.
    pub(super) fn running_in(&self, sandbox: &Sandbox) -> HashSet<String> {
        let containers = self.containers_of(&sandbox.id).into_iter();
        let running = containers.filter(|container| container.state().phase == Phase::Running);
        running.map(|container| container.id.clone()).collect()
    }

    /// Compares what was known before a shim was asked with what it says runs.
    pub(super) fn compare(&self, sandbox: &Sandbox, known: &HashSet<String>, hello: &Reply) {
        let Reply::Hello { running, .. } = hello else {
            return;
        };
        for container in self.containers_of(&sandbox.id) {
            let found = running.iter().find(|running| running.id == container.id);
            let phase = container.state().phase;
            let outcome = match (found, phase) {
                (Some(running), Phase::Created) => container
                    .change(|state| {
                        // The server ended between the start and its record.
                        state.phase = Phase::Running;
                        state.pid = running.pid;
                        state.started_at = self.now();
                    })
                    .map(drop),
                (None, Phase::Running) if known.contains(&container.id) => {
                    self.settle(&container, None)
                }
                _ => Ok(()),
            };
            if let Err(error) = outcome {
                tracing::error!(container = container.id, %error, "cannot note the state of a container");
            }
        }
    }

    /// Notes that a container has ended.
    pub(super) fn settle(&self, container: &Arc<Container>, exit: Option<Exit>) -> io::Result<()> {
        let before = container.state().phase;
        if before == Phase::Exited {
            return Ok(());
        }
        let written = match exit {
            Some(exit) => Some(exit),
            None => container.read_exit()?,
        };
        if before == Phase::Created && written.is_none() {
            return Ok(());
        }
        let lost = written.is_none();
        let exit = written.unwrap_or_else(|| Exit {
            code: UNKNOWN,
            at: self.now(),
            oom_killed: false,
        });
        container.change(|state| {
            state.phase = Phase::Exited;
            if lost {
                state.reason = "Unknown".into();
            }
            if state.started_at == 0 {
                state.started_at = exit.at;
            }
            state.exit = Some(exit);
        })?;
        let group = container.facts.cgroup.clone();
        let runtime = self.clone();
        tokio::spawn(async move { runtime.remove_group(&group).await });
        self.announce(
            &container.id,
            &container.facts.sandbox_id,
            cri::ContainerEventType::ContainerStoppedEvent,
        );
        Ok(())
    }

    pub(super) async fn remove_group(&self, group: &str) {
        let cgroups = self.0.cgroups.clone();
        let name = group.to_owned();
        if let Err(error) = blocking(move || cgroups.remove(&name)).await {
            tracing::warn!(cgroup = group, %error, "cannot remove a control group");
        }
    }

    /// Asks a container to end, and kills it after `timeout` seconds.
    pub(super) async fn stop_container(
        &self,
        container: &Arc<Container>,
        timeout: i64,
    ) -> Result<(), Status> {
        if container.state().phase != Phase::Running {
            return Ok(());
        }
        let sandbox = self.sandbox(&container.facts.sandbox_id)?;
        let clock = &self.0.config.clock;
        if timeout > 0 {
            self.signal(&sandbox, container, container.facts.stop_signal, false)
                .await?;
            let patience = Duration::from_secs(timeout.unsigned_abs());
            tokio::select! {
                () = container.ended() => return Ok(()),
                () = clock.sleep(patience) => {}
            }
        }
        self.signal(&sandbox, container, libc::SIGKILL, true)
            .await?;
        // The kernel ends a killed process soon, unless it hangs in a driver or a file system.
        tokio::select! {
            () = container.ended() => Ok(()),
            () = clock.sleep(Duration::from_secs(30)) => Err(Status::deadline_exceeded(format!(
                "container {:?} does not end after SIGKILL",
                container.id
            ))),
        }
    }

    async fn signal(
        &self,
        sandbox: &Sandbox,
        container: &Container,
        signal: i32,
        all: bool,
    ) -> Result<(), Status> {
        let request = Request::Signal {
            container: container.id.clone(),
            signal,
            all,
        };
        match shim_client::call(&sandbox.run_dir, &request).await {
            Ok(_) => Ok(()),
            // The shim has gone: its watcher notes the end of the containers.
            Err(_) if !sandbox.state().ready => Ok(()),
            Err(error) => Err(Status::unknown(format!(
                "failed to signal container {:?}: {error}",
                container.id
            ))),
        }
    }

    pub(super) async fn remove_container(&self, container: &Arc<Container>) -> Result<(), Status> {
        let _guard = container.changing.lock().await;
        if container.state().phase == Phase::Running {
            self.stop_container(container, 0).await?;
        }
        container
            .change(|state| state.removing = true)
            .map_err(internal)?;
        self.remove_group(&container.facts.cgroup).await;
        let run = self.run_dir(&container.facts.sandbox_id);
        let dirs = [
            run.join("rootfs").join(&container.id),
            run.join("oci").join(&container.id),
            container.dir.clone(),
        ];
        blocking(move || dirs.iter().try_for_each(|dir| remove_dir(dir)))
            .await
            .map_err(internal)?;
        self.0.names.lock().remove(&container_name(
            &container.config,
            &container.facts.sandbox_id,
        ));
        self.0.samples.forget(&container.id);
        if self.0.containers.write().remove(&container.id).is_some() {
            self.announce(
                &container.id,
                &container.facts.sandbox_id,
                cri::ContainerEventType::ContainerDeletedEvent,
            );
        }
        Ok(())
    }
}

/// What makes a container's attempt unique.
pub(super) fn container_name(config: &cri::ContainerConfig, sandbox: &str) -> String {
    let meta = config.metadata.clone().unwrap_or_default();
    format!("{}_{}_{sandbox}", meta.name, meta.attempt)
}

fn namespaces(config: &cri::ContainerConfig) -> cri::NamespaceOption {
    security(config)
        .and_then(|security| security.namespace_options.clone())
        .unwrap_or_default()
}

fn security(config: &cri::ContainerConfig) -> Option<&cri::LinuxContainerSecurityContext> {
    config.linux.as_ref()?.security_context.as_ref()
}

/// Making a container's files: the part that touches the disk.
struct Work {
    id: String,
    dir: PathBuf,
    rootfs: PathBuf,
    images: Arc<ImageStore>,
    cgroups: Hierarchies,
    sandbox: Arc<Sandbox>,
    config: cri::ContainerConfig,
    image: StoredImage,
    target_pid: Option<i32>,
    state: ContainerState,
}

impl Work {
    fn run(self) -> Result<Container, Status> {
        let failed = |error: &dyn std::fmt::Display| {
            Status::unknown(format!("failed to create containerd container: {error}"))
        };
        let execution = self
            .images
            .config(&self.image)
            .map_err(|error| failed(&error))?
            .config;
        let identity = self.identity(&execution)?;
        for name in ["upper", "work"] {
            std::fs::create_dir_all(self.dir.join(name)).map_err(|error| failed(&error))?;
        }
        let privileged = security(&self.config).is_some_and(|s| s.privileged);
        let devices =
            spec::host_devices(&self.config.devices, privileged).map_err(|error| failed(&error))?;
        let seccomp = self.seccomp(privileged)?;
        let cgroup = format!(
            "{}/{}",
            self.sandbox.state().cgroup.trim_end_matches('/'),
            self.id
        );
        let hostname = match self.sandbox.config.hostname.as_str() {
            "" => node_name(),
            name => name.to_owned(),
        };
        let planned = Plan {
            id: &self.id,
            config: &self.config,
            sandbox: &self.sandbox.config,
            image: &execution,
            identity: &identity,
            hostname: &hostname,
            rootfs: &self.rootfs,
            cgroup: &cgroup,
            files: &PodFiles {
                hostname: self.sandbox.dir.join("hostname"),
                resolv_conf: self.sandbox.dir.join("resolv.conf"),
                shm: self.sandbox.run_dir.join("shm"),
            },
            pid_namespace_of: self.target_pid,
            devices: &devices,
            cgroup_v1_mounts: &cgroup_v1_mounts(&self.cgroups),
            all_capabilities: capabilities::available(),
            seccomp,
        }
        .make()
        .map_err(|error| {
            Status::invalid_argument(format!("failed to generate container spec: {error}"))
        })?;
        make_mount_sources(&self.config).map_err(|error| failed(&error))?;
        make_working_directory(&self.config, &planned.cwd).map_err(|error| failed(&error))?;
        std::fs::write(self.dir.join("config.json"), planned.spec.to_string())
            .map_err(|error| failed(&error))?;
        let pid_mode = namespaces(&self.config).pid();
        let facts = ContainerFacts {
            sandbox_id: self.sandbox.id.clone(),
            image_id: self.image.id.clone(),
            layers: ImageStore::layer_names(&self.image),
            cgroup,
            uid: identity.uid,
            gid: identity.gid,
            groups: identity.groups,
            stop_signal: stop_signal(&self.config, &execution),
            own_pid: self.target_pid.is_none() && pid_mode != NamespaceMode::Node,
            cwd: planned.cwd,
            finish: planned.finish,
        };
        let log = log_path(&self.sandbox.config, &self.config);
        let container = Container::new(self.id, self.config, facts, self.dir, log, self.state);
        container.save_config().map_err(|error| failed(&error))?;
        container.change(|_| {}).map_err(|error| failed(&error))?;
        Ok(container)
    }

    fn identity(&self, execution: &Execution) -> Result<Identity, Status> {
        let read = |path: &str| {
            self.images
                .read_file(&self.image, path)
                .map(|bytes| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
                .map_err(|error| {
                    Status::unknown(format!("cannot read the image's {path}: {error}"))
                })
        };
        let passwd = read("etc/passwd")?;
        let group = read("etc/group")?;
        identity(&self.config, &execution.user, &passwd, &group)
            .map_err(|error| Status::unknown(format!("failed to resolve the user: {error}")))
    }

    /// The file with the container's seccomp program, if it is to have one.
    fn seccomp(&self, privileged: bool) -> Result<Option<PathBuf>, Status> {
        use cri::security_profile::ProfileType;
        let profile = security(&self.config).and_then(|security| security.seccomp.as_ref());
        let Some(profile) = profile.filter(|_| !privileged) else {
            return Ok(None);
        };
        match profile.profile_type() {
            ProfileType::Unconfined => Ok(None),
            ProfileType::RuntimeDefault => {
                let none = cri::Capability::default();
                let wanted = security(&self.config)
                    .and_then(|security| security.capabilities.as_ref())
                    .unwrap_or(&none);
                let masks = capabilities::masks(wanted, capabilities::available())
                    .map_err(|error| Status::invalid_argument(error.to_string()))?;
                let program = spec::seccomp_program(masks.permitted).map_err(internal)?;
                let path = self.dir.join("seccomp.bpf");
                std::fs::write(&path, program).map_err(internal)?;
                Ok(Some(path))
            }
            ProfileType::Localhost => Err(Status::invalid_argument(format!(
                "localhost seccomp profiles are not supported: {:?}",
                profile.localhost_ref
            ))),
        }
    }
}

fn identity(
    config: &cri::ContainerConfig,
    image_user: &str,
    passwd: &str,
    group: &str,
) -> Result<Identity, user::UserError> {
    let security = security(config);
    let uid = security
        .and_then(|s| s.run_as_user.as_ref())
        .map(|uid| uid.value);
    let gid = security
        .and_then(|s| s.run_as_group.as_ref())
        .map(|gid| gid.value);
    let name = security.map_or("", |s| s.run_as_username.as_str());
    let asked = match (uid, name) {
        (Some(uid), _) => uid.to_string(),
        (None, "") => image_user.to_owned(),
        (None, name) => name.to_owned(),
    };
    let mut identity = user::resolve(&asked, passwd, group)?;
    if let Some(gid) = gid {
        identity.gid = gid as u32;
    }
    let Some(security) = security else {
        return Ok(identity);
    };
    if security.supplemental_groups_policy() == cri::SupplementalGroupsPolicy::Strict {
        identity.groups.clear();
    }
    identity
        .groups
        .extend(security.supplemental_groups.iter().map(|gid| *gid as u32));
    identity.groups.push(identity.gid);
    identity.groups.sort_unstable();
    identity.groups.dedup();
    Ok(identity)
}

fn cgroup_v1_mounts(cgroups: &Hierarchies) -> Vec<String> {
    let Hierarchies::V1(roots) = cgroups else {
        return Vec::new();
    };
    let mut names: Vec<String> = roots
        .values()
        .filter_map(|root| Some(root.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.push("systemd".into());
    names.sort();
    names.dedup();
    names
}

/// A volume whose directory is not there yet gets one, as with other runtimes.
fn make_mount_sources(config: &cri::ContainerConfig) -> io::Result<()> {
    for mount in &config.mounts {
        let source = Path::new(&mount.host_path);
        if !source.exists() {
            std::fs::create_dir_all(source)?;
        }
    }
    Ok(())
}

/// A working directory that lies in a volume is made there, as runc does it. One in the image's own tree is made when
/// the container starts.
fn make_working_directory(config: &cri::ContainerConfig, cwd: &str) -> io::Result<()> {
    let holding = config.mounts.iter().filter_map(|mount| {
        let inside = Path::new(cwd).strip_prefix(&mount.container_path).ok()?;
        Some((mount, inside))
    });
    // The innermost mount is the one that the process will see.
    let Some((mount, inside)) = holding.min_by_key(|(_, inside)| inside.components().count())
    else {
        return Ok(());
    };
    let source = Path::new(&mount.host_path);
    if mount.readonly || mount.image.is_some() || !source.is_dir() {
        return Ok(());
    }
    make_directory(source, inside)
}

fn log_path(sandbox: &cri::PodSandboxConfig, config: &cri::ContainerConfig) -> Option<PathBuf> {
    if sandbox.log_directory.is_empty() || config.log_path.is_empty() {
        return None;
    }
    Some(Path::new(&sandbox.log_directory).join(&config.log_path))
}

/// The signal that asks a container to end: the pod's word, then the image's, then SIGTERM.
fn stop_signal(config: &cri::ContainerConfig, execution: &Execution) -> i32 {
    let asked = match config.stop_signal() {
        cri::Signal::RuntimeDefault => None,
        signal => signal_number(signal.as_str_name()),
    };
    asked
        .or_else(|| signal_number(&execution.stop_signal))
        .unwrap_or(libc::SIGTERM)
}

/// The number of a signal's name (`SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `SIGRTMINPLUS3`).
fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str| text.parse::<i32>().ok().filter(|n| (0..=15).contains(n));
    for (prefix, base, sign) in [
        ("RTMINPLUS", 34, 1),
        ("RTMIN+", 34, 1),
        ("RTMAXMINUS", 64, -1),
        ("RTMAX-", 64, -1),
    ] {
        if let Some(rest) = short.strip_prefix(prefix) {
            return offset(rest).map(|n| base + sign * n);
        }
    }
    match short {
        "RTMIN" => Some(34),
        "RTMAX" => Some(64),
        "CLD" => Some(libc::SIGCHLD),
        "IOT" => Some(libc::SIGABRT),
        "POLL" => Some(libc::SIGIO),
        _ => format!("SIG{short}")
            .parse::<nix::sys::signal::Signal>()
            .ok()
            .map(|signal| signal as i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers() {
        for (name, number) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("SIGRTMINPLUS3", Some(37)),
            ("SIGRTMAXMINUS1", Some(63)),
            ("SIGQUIT", Some(3)),
            ("", None),
            ("0", None),
            ("SIGNONSENSE", None),
            ("SIGRTMIN+99", None),
        ] {
            assert_eq!(signal_number(name), number, "{name}");
        }
        for number in 1..=65 {
            if let Ok(signal) = cri::Signal::try_from(number) {
                assert!(signal_number(signal.as_str_name()).is_some(), "{signal:?}");
            }
        }
    }

    #[test]
    fn the_user_is_the_pods_then_the_images() {
        let passwd = "root:x:0:0::/:/bin/sh\nweb:x:101:102::/:/bin/sh\n";
        let group = "logs:x:103:web\n";
        let with = |security: cri::LinuxContainerSecurityContext| cri::ContainerConfig {
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(security),
                resources: None,
            }),
            ..Default::default()
        };
        let number = |value| Some(cri::Int64Value { value });
        let of = |config: &cri::ContainerConfig| identity(config, "web", passwd, group).unwrap();
        let plain = of(&cri::ContainerConfig::default());
        assert_eq!((plain.uid, plain.gid, plain.groups), (101, 102, vec![103]));
        let asked = of(&with(cri::LinuxContainerSecurityContext {
            run_as_user: number(1000),
            run_as_group: number(3000),
            supplemental_groups: vec![4000],
            ..Default::default()
        }));
        assert_eq!((asked.uid, asked.gid), (1000, 3000));
        assert_eq!(asked.groups, [3000, 4000]);
        let strict = of(&with(cri::LinuxContainerSecurityContext {
            supplemental_groups_policy: cri::SupplementalGroupsPolicy::Strict as i32,
            supplemental_groups: vec![7],
            ..Default::default()
        }));
        assert_eq!(strict.groups, [7, 102]);
    }

    #[test]
    fn a_working_directory_is_made_in_the_innermost_volume() {
        let root = tempfile::tempdir().unwrap();
        let (outer, inner) = (root.path().join("outer"), root.path().join("inner"));
        for folder in [&outer, &inner] {
            std::fs::create_dir(folder).unwrap();
        }
        std::os::unix::fs::symlink("/", inner.join("out")).unwrap();
        let mount = |path: &str, source: &Path, readonly: bool| cri::Mount {
            container_path: path.into(),
            host_path: source.to_string_lossy().into_owned(),
            readonly,
            ..Default::default()
        };
        let mut config = cri::ContainerConfig {
            mounts: vec![mount("/v", &outer, false), mount("/v/w", &inner, false)],
            ..Default::default()
        };
        for cwd in ["/v/w/a/b", "/v/c", "/srv", "/v/w/out/made"] {
            make_working_directory(&config, cwd).unwrap();
        }
        assert!(inner.join("a/b").is_dir() && outer.join("c").is_dir());
        assert!(inner.join("made").is_dir() && !Path::new("/made").exists());
        assert!(!outer.join("w").exists());
        config.mounts[0].readonly = true;
        make_working_directory(&config, "/v/d").unwrap();
        assert!(!outer.join("d").exists());
    }
}
