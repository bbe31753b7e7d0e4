//! Executes the steps of a plan: volumes, sandbox, images, containers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use skiff_runtime::cri;

use crate::container::config::{self, Making};
use crate::container::environment::{self, Objects, RefKind, Source};
use crate::container::mounts::{self, Place};
use crate::container::security;
use crate::context::Context;
use crate::images::{Wanted, status_text};
use crate::pod::observed::{ObservedPod, State};
use crate::pod::plan::{self, Bookkeeping, Step, Waiting};
use crate::pod::spec::{self, Kind};
use crate::runtime::ImageFacts;
use crate::volumes;
use crate::worker::{hooks, stop};

/// What came of executing a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Containers that were started.
    pub started: Vec<String>,
    /// Restarts that count for the back-off: key, end of the container before.
    pub restarts: Vec<(String, Timestamp)>,
    /// Containers that could not be started: name, why, when to try again.
    pub errors: Vec<(String, Waiting, Duration)>,
    /// The sandbox or the volumes failed: nothing of the pod can be started.
    pub pod_failed: bool,
    /// When volumes must be set up again.
    pub refresh_after: Option<Duration>,
    /// The volumes were set up.
    pub volumes_ready: bool,
    /// Containers whose resources were changed: id, name.
    pub resized: Vec<(String, String)>,
}

/// A container that could not be started.
struct Failed {
    waiting: Waiting,
    retry_after: Duration,
}

/// A failed start is tried again after this long, and up to half as much more.
const RETRY: Duration = Duration::from_secs(10);

/// Executes the steps of one plan.
pub struct Execution {
    /// What all share.
    pub context: Arc<Context>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// What the plan was made from.
    pub observed: ObservedPod,
    /// The steps.
    pub steps: Vec<Step>,
}

impl Execution {
    /// Executes the steps in order. A container that fails does not hold up the others.
    pub async fn run(self) -> Outcome {
        let mut outcome = Outcome::default();
        let starts = self
            .steps
            .iter()
            .any(|s| matches!(s, Step::Start { .. } | Step::CreateSandbox { .. }));
        let mut volumes = BTreeMap::new();
        if starts {
            match self.volumes().await {
                Some(ready) => {
                    outcome.refresh_after = ready.refresh_after;
                    outcome.volumes_ready = true;
                    volumes = ready.paths;
                }
                None => {
                    outcome.pod_failed = true;
                    self.only_stops().await;
                    return outcome;
                }
            }
        }
        for step in &self.steps {
            match step {
                Step::Start {
                    kind,
                    index,
                    attempt,
                } => {
                    let Some(container) = spec::container_at(&self.pod, *kind, *index) else {
                        continue;
                    };
                    self.start(*kind, &container, *attempt, &volumes, &mut outcome)
                        .await;
                }
                Step::CreateSandbox { attempt } => {
                    if !self.observed.sandboxes.is_empty() {
                        let message = "Pod sandbox changed, it will be killed and re-created.";
                        let (context, pod) = (&self.context, &self.pod);
                        context.pod_event(pod, false, "SandboxChanged", message);
                    }
                    if !self.create_sandbox(*attempt).await {
                        outcome.pod_failed = true;
                        return outcome;
                    }
                }
                Step::Resize { id, name } => {
                    if self.resize(id, name).await {
                        outcome.resized.push((id.clone(), name.clone()));
                    } else {
                        outcome.pod_failed = true;
                    }
                }
                Step::Reset { id } => {
                    if !self.reset(id).await {
                        outcome.pod_failed = true;
                        return outcome;
                    }
                }
                other => self.stop_step(other).await,
            }
        }
        outcome
    }

    /// Ends a container without any delay and removes it; whether that worked.
    async fn reset(&self, id: &str) -> bool {
        let (runtime, pod) = (&self.context.runtime, &self.pod);
        let Some(seen) = self.observed.containers.iter().find(|c| c.id == id) else {
            return true;
        };
        let running = matches!(seen.state, State::Running | State::Unknown);
        let mut done = Ok(());
        if running {
            if let Some((kind, _)) = spec::container_named(pod, &seen.name) {
                let named = (kind, seen.name.as_str());
                self.context
                    .container_event(pod, named, false, "Killing", "killing");
            }
            done = runtime.stop_container(id, Duration::ZERO).await;
        }
        if done.is_ok() {
            done = runtime.remove_container(id).await;
        }
        if let Err(status) = &done {
            tracing::warn!(pod = spec::display(pod), %status, "cannot take a container away");
        }
        done.is_ok()
    }

    /// Volumes that are not ready hold up starts, never stops.
    async fn only_stops(&self) {
        for step in &self.steps {
            self.stop_step(step).await;
        }
    }

    async fn stop_step(&self, step: &Step) {
        let (context, pod) = (&self.context, &self.pod);
        match step {
            Step::KillPod => {
                let grace = stop::grace_period(pod);
                stop::stop_and_tell(context, pod, &self.observed, grace).await;
            }
            Step::Kill {
                id,
                message,
                reason,
                ..
            } => {
                let Some(seen) = self.observed.containers.iter().find(|c| c.id == *id) else {
                    return;
                };
                let grace = match spec::container_named(pod, &seen.name) {
                    Some((_, container)) => stop::grace_for(pod, &container, *reason),
                    None => stop::grace_period(pod),
                };
                let now = std::future::ready(());
                let stopped = stop::stop_container(context, pod, seen, message, grace, now).await;
                if let Err(status) = stopped {
                    tracing::warn!(pod = spec::display(pod), %status, "cannot stop container");
                }
            }
            Step::Remove { id } => {
                if let Err(status) = context.runtime.remove_container(id).await {
                    tracing::warn!(pod = spec::display(pod), %status, "cannot remove container");
                }
            }
            Step::RemoveSandbox { id } => {
                if let Err(status) = context.runtime.remove_sandbox(id).await {
                    tracing::warn!(pod = spec::display(pod), %status, "cannot remove sandbox");
                }
            }
            Step::CreateSandbox { .. }
            | Step::Start { .. }
            | Step::Resize { .. }
            | Step::Reset { .. } => {}
        }
    }

    /// Gives a running container its new resources; whether that worked.
    async fn resize(&self, id: &str, name: &str) -> bool {
        let (context, pod) = (&self.context, &self.pod);
        let Some((kind, container)) = spec::container_named(pod, name) else {
            return true;
        };
        let kernel = context.kernel_resources(pod, &container);
        let changed = match context.cgroups.ensure(pod) {
            Ok(()) => {
                let resources = config::linux_resources(&kernel);
                context.runtime.update_resources(id, resources).await
            }
            Err(error) => Err(tonic::Status::internal(error.to_string())),
        };
        if let Err(status) = &changed {
            let message = format!("Error: {}", status.message());
            context.container_event(pod, (kind, name), true, "ResizeError", message);
        }
        changed.is_ok()
    }

    async fn volumes(&self) -> Option<volumes::ReadyVolumes> {
        set_up_volumes(&self.context, &self.pod, &self.observed).await
    }

    async fn create_sandbox(&self, attempt: u32) -> bool {
        let (context, pod) = (&self.context, &self.pod);
        let (config, warnings) = context.sandbox_config(pod, attempt);
        for warning in warnings {
            context.pod_event(pod, true, "DNSConfigForming", warning);
        }
        if let Err(error) = context.cgroups.ensure(pod) {
            let message = format!("unable to ensure pod container exists: {error}");
            context.pod_event(pod, true, "FailedCreatePodContainer", message);
            return false;
        }
        let logs = context.config.log_directory(pod);
        let made = match (std::fs::create_dir_all(&logs), self.runtime_handler().await) {
            (Ok(()), Ok(handler)) => {
                let made = context.runtime.run_sandbox(config, &handler).await;
                made.map(drop).map_err(|status| status_text(&status))
            }
            (Err(error), _) => Err(error.to_string()),
            (_, Err(error)) => Err(error),
        };
        match made {
            Ok(()) => true,
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {error}");
                context.pod_event(pod, true, "FailedCreatePodSandBox", message);
                false
            }
        }
    }

    /// The runtime's name for the pod's runtime class.
    async fn runtime_handler(&self) -> Result<String, String> {
        let class = spec::spec(&self.pod).runtime_class_name.as_deref();
        let Some(class) = class.filter(|class| !class.is_empty()) else {
            return Ok(String::new());
        };
        match self.context.cluster.runtime_handler(class).await {
            Ok(Some(handler)) => Ok(handler),
            Ok(None) => Err(format!("RuntimeClass \"{class}\" not found")),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn start(
        &self,
        kind: Kind,
        container: &Container,
        attempt: u32,
        volumes: &BTreeMap<String, PathBuf>,
        outcome: &mut Outcome,
    ) {
        let name = container.name.clone();
        let before = self
            .observed
            .containers
            .iter()
            .find(|c| c.name == name && c.state == State::Exited);
        let restart = before.and_then(|c| c.finished_at);
        match self.try_start(kind, container, attempt, volumes).await {
            Ok(()) => {
                outcome.started.push(name);
                let key = plan::backoff_key(container);
                outcome.restarts.extend(restart.map(|end| (key, end)));
            }
            Err(Failed {
                waiting,
                retry_after,
            }) => outcome.errors.push((name, waiting, retry_after)),
        }
    }

    async fn try_start(
        &self,
        kind: Kind,
        container: &Container,
        attempt: u32,
        volumes: &BTreeMap<String, PathBuf>,
    ) -> Result<(), Failed> {
        let (context, pod) = (&self.context, &self.pod);
        let named = (kind, container.name.as_str());
        let Some(sandbox) = self.observed.current_sandbox() else {
            return Err(self.failed("CreateContainerError", "the pod has no sandbox".into()));
        };
        let (sandbox_config, _) = context.sandbox_config(pod, sandbox.attempt);
        let name = container.image.as_deref().unwrap_or_default();
        let policy = container.image_pull_policy.as_deref();
        let image = self
            .image((kind, container), name, policy, &sandbox_config)
            .await?;
        let images = self.image_volumes(kind, container, &sandbox_config).await?;
        let tell = |reason: &str, message: String| {
            let text = format!("Error: {message}");
            context.container_event(pod, named, true, "Failed", text);
            self.failed(reason, message)
        };
        let environment = self
            .environment(container, &sandbox.ips, volumes)
            .await
            .map_err(|error| tell("CreateContainerConfigError", error))?;
        security::check_non_root(pod, container, &image.user)
            .map_err(|error| tell("CreateContainerConfigError", error.to_string()))?;
        let directory = context.pod_directory(pod);
        let mounts = mounts::mounts(&Place {
            pod,
            directory: &directory,
            container,
            attempt,
            pod_ips: &sandbox.ips,
            names: &context.host_name(pod),
            volumes,
            images: &images,
            environment: &environment,
            mounter: context.mounter.as_ref(),
        })
        .map_err(|error| tell("CreateContainerConfigError", error.to_string()))?;
        let config = config::config(Making {
            pod,
            container,
            attempt,
            image_ref: &image.id,
            image_user: &image.user,
            environment: &environment,
            mounts,
            node_memory: context.machine.memory,
            node_cpu_milli: context.machine.cpus * 1000,
            seccomp_root: &context.config.root_dir.join("seccomp").to_string_lossy(),
            target_id: self.target_of(container),
        });
        let id = context
            .runtime
            .create_container(&sandbox.id, config, sandbox_config)
            .await
            .map_err(|status| tell("CreateContainerError", status.message().to_owned()))?;
        context.container_event(pod, named, false, "Created", "Container created");
        context
            .runtime
            .start_container(&id)
            .await
            .map_err(|status| {
                // The runtime names the container by its id: every attempt would make an event of its own.
                let message = status.message().replace(&id, &container.name);
                tell("RunContainerError", message)
            })?;
        context.container_event(pod, named, false, "Started", "Container started");
        self.post_start(kind, container, &id, &sandbox.ips).await
    }

    /// For an ephemeral container: the container whose processes it sees.
    fn target_of(&self, container: &Container) -> Option<String> {
        let ephemeral = spec::ephemeral_containers(&self.pod);
        let own = ephemeral.iter().find(|e| e.name == container.name)?;
        let target = own.target_container_name.as_deref()?;
        let seen = self.observed.latest(target)?;
        Some(seen.id.clone())
    }

    async fn post_start(
        &self,
        kind: Kind,
        container: &Container,
        id: &str,
        ips: &[String],
    ) -> Result<(), Failed> {
        let (context, pod) = (&self.context, &self.pod);
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|l| l.post_start.as_ref());
        let Some(hook) = hook else {
            return Ok(());
        };
        let ip = ips.first().map(String::as_str).unwrap_or_default();
        let Err(message) = hooks::run(context, pod, container, id, hook, ip).await else {
            return Ok(());
        };
        let named = (kind, container.name.as_str());
        context.container_event(
            pod,
            named,
            true,
            "FailedPostStartHook",
            "PostStartHook failed",
        );
        let message_of_kill = "FailedPostStartHook";
        context.container_event(pod, named, false, "Killing", message_of_kill);
        let grace = stop::grace_period(pod);
        if let Err(status) = context.runtime.stop_container(id, grace).await {
            tracing::warn!(pod = spec::display(pod), %status, "cannot stop container");
        }
        Err(self.failed("PostStartHookError", message))
    }

    fn failed(&self, reason: &str, message: String) -> Failed {
        let jitter = self.context.random.fraction() * 0.5;
        Failed {
            waiting: Waiting {
                reason: reason.to_owned(),
                message,
            },
            retry_after: RETRY.mul_f64(1.0 + jitter),
        }
    }

    async fn image(
        &self,
        (kind, container): (Kind, &Container),
        image: &str,
        policy: Option<&str>,
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<ImageFacts, Failed> {
        let (context, pod) = (&self.context, &self.pod);
        let default = if crate::images::with_default_tag(image).ends_with(":latest") {
            "Always"
        } else {
            "IfNotPresent"
        };
        let about = crate::cluster::pod_reference(
            pod,
            Some(crate::cluster::container_path(kind, &container.name)),
        );
        let secrets = self.pull_secrets().await;
        let wanted = Wanted {
            pod_uid: spec::uid(pod),
            about,
            image,
            policy: policy.unwrap_or(default),
            secrets: &secrets,
            sandbox: sandbox.clone(),
        };
        context.images.ensure(wanted).await.map_err(|missing| {
            let message = format!("Error: {}", missing.waiting.reason);
            context.container_event(pod, (kind, &container.name), true, "Failed", message);
            Failed {
                waiting: missing.waiting,
                retry_after: missing.retry_after,
            }
        })
    }

    /// The images that the container mounts as volumes.
    async fn image_volumes(
        &self,
        kind: Kind,
        container: &Container,
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<BTreeMap<String, String>, Failed> {
        let mounted = container.volume_mounts.iter().flatten();
        let mounted: Vec<&str> = mounted.map(|m| m.name.as_str()).collect();
        let mut images = BTreeMap::new();
        for volume in spec::spec(&self.pod).volumes.iter().flatten() {
            let Some(source) = &volume.image else {
                continue;
            };
            if !mounted.contains(&volume.name.as_str()) {
                continue;
            }
            let name = source.reference.as_deref().unwrap_or_default();
            let policy = source.pull_policy.as_deref();
            let image = self.image((kind, container), name, policy, sandbox).await?;
            images.insert(volume.name.clone(), image.id);
        }
        Ok(images)
    }

    async fn pull_secrets(&self) -> Vec<Arc<Secret>> {
        let (context, pod) = (&self.context, &self.pod);
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for reference in spec::spec(pod).image_pull_secrets.iter().flatten() {
            let name = &reference.name;
            match context.cluster.secret(spec::namespace(pod), name).await {
                Ok(Some(secret)) => found.push(secret),
                _ => missing.push(name.as_str()),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            context.pod_event(pod, true, "FailedToRetrieveImagePullSecret", message);
        }
        found
    }

    async fn environment(
        &self,
        container: &Container,
        ips: &[String],
        volumes: &BTreeMap<String, PathBuf>,
    ) -> Result<Vec<(String, String)>, String> {
        let (context, pod) = (&self.context, &self.pod);
        let objects = self.objects().await?;
        let facts = context.facts(pod, ips);
        let files = |volume: &str, path: &str, key: &str| {
            let volume = volumes.get(volume).ok_or_else(|| {
                format!("cannot find the volume \"{volume}\" referenced by FileKeyRef")
            })?;
            crate::container::env_file::value(volume, path, key)
        };
        environment::environment(&Source {
            pod,
            container,
            objects: &objects,
            facts: &facts,
            files: &files,
        })
        .map_err(|error| error.to_string())
    }

    /// What the containers' environments refer to.
    async fn objects(&self) -> Result<Objects, String> {
        let (context, pod) = (&self.context, &self.pod);
        let namespace = spec::namespace(pod);
        let mut objects = Objects::default();
        for (kind, name) in environment::references(pod) {
            match kind {
                RefKind::ConfigMap => {
                    let map = context.cluster.config_map(namespace, &name).await;
                    let map = map.map_err(|error| error.to_string())?;
                    objects.config_maps.extend(map.map(|map| (name, map)));
                }
                RefKind::Secret => {
                    let secret = context.cluster.secret(namespace, &name).await;
                    let secret = secret.map_err(|error| error.to_string())?;
                    objects.secrets.extend(secret.map(|secret| (name, secret)));
                }
            }
        }
        let links = spec::spec(pod).enable_service_links != Some(false);
        let failed = |error: crate::cluster::ClusterError| error.to_string();
        let master = context.cluster.services("default").await.map_err(failed)?;
        let is_master = |name: Option<&str>| name == Some("kubernetes");
        if links {
            objects.services = context.cluster.services(namespace).await.map_err(failed)?;
        }
        if namespace != "default" || !links {
            let named = objects.services.iter();
            let own = named
                .filter(|s| is_master(s.metadata.name.as_deref()))
                .count();
            let master = master
                .into_iter()
                .filter(|s| is_master(s.metadata.name.as_deref()));
            // A namespace's own service of that name hides the cluster's.
            objects.services.extend(master.filter(|_| own == 0));
        }
        Ok(objects)
    }
}

/// Makes or updates the pod's volumes, and tells when one fails.
pub async fn set_up_volumes(
    context: &Context,
    pod: &Pod,
    observed: &ObservedPod,
) -> Option<volumes::ReadyVolumes> {
    let ips = observed.current_sandbox().map(|s| s.ips.clone());
    let facts = context.facts(pod, &ips.unwrap_or_default());
    let directory = context.pod_directory(pod);
    let cluster = context.cluster.as_ref();
    let mounter = context.mounter.as_ref();
    match volumes::set_up_all(pod, &directory, cluster, &facts, mounter).await {
        Ok(ready) => Some(ready),
        Err(failures) => {
            for error in failures {
                context.pod_event(pod, true, "FailedMount", error.to_string());
            }
            None
        }
    }
}

/// Notes the outcome in the books.
pub fn note(books: &mut Bookkeeping, outcome: &Outcome, now: Timestamp) {
    for name in &outcome.started {
        books.start_errors.remove(name);
        books.held.remove(name);
    }
    for (key, end) in &outcome.restarts {
        books.delays.advance(key, *end);
    }
    for (name, waiting, retry_after) in &outcome.errors {
        books.start_errors.insert(name.clone(), waiting.clone());
        let until = now.checked_add(*retry_after).unwrap_or(now);
        books.held.insert(name.clone(), until);
    }
}
