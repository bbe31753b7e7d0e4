//! Pod sandboxes: making, stopping and removing them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tonic::Status;

use super::network::AttachRequest;
use super::record::{Sandbox, SandboxState};
use super::shim_client::{self, ShimConnection};
use super::{EmbeddedRuntime, blocking, internal, shims_group};
use crate::cri::{self, NamespaceMode};
use crate::shim::protocol::{Reply, Request, ShimConfig};

impl EmbeddedRuntime {
    pub(super) async fn run_sandbox(
        &self,
        request: cri::RunPodSandboxRequest,
    ) -> Result<String, Status> {
        let config = request
            .config
            .ok_or_else(|| Status::invalid_argument("a pod sandbox needs a configuration"))?;
        if !request.runtime_handler.is_empty() {
            return Err(Status::not_found(format!(
                "no runtime for {:?} is configured",
                request.runtime_handler
            )));
        }
        let name = sandbox_name(&config);
        if !self.0.names.lock().insert(name.clone()) {
            return Err(Status::already_exists(format!(
                "failed to reserve sandbox name {name:?}: name is reserved"
            )));
        }
        let outcome = self.make_sandbox(config).await;
        if outcome.is_err() {
            self.0.names.lock().remove(&name);
        }
        outcome
    }

    async fn make_sandbox(&self, config: cri::PodSandboxConfig) -> Result<String, Status> {
        let id = self.new_id();
        let state = SandboxState {
            created_at: self.now(),
            cgroup: self.pod_cgroup(&config),
            ..SandboxState::default()
        };
        let sandbox = Arc::new(Sandbox::new(
            id.clone(),
            config,
            self.sandbox_dir(&id),
            self.run_dir(&id),
            state,
        ));
        let _guard = sandbox.changing.lock().await;
        // Known from the beginning: who gives up on it can remove it, and waits for this guard.
        self.0.sandboxes.write().insert(id.clone(), sandbox.clone());
        let up = match self.bring_up(&sandbox).await {
            Ok(()) => self.watch(&sandbox).await.map_err(internal),
            Err(status) => Err(status),
        };
        if let Err(status) = up {
            self.tear_down(&sandbox).await?;
            self.delete_sandbox_files(&sandbox).await?;
            self.0.sandboxes.write().remove(&id);
            return Err(status);
        }
        self.announce(&id, &id, cri::ContainerEventType::ContainerCreatedEvent);
        self.announce(&id, &id, cri::ContainerEventType::ContainerStartedEvent);
        Ok(id)
    }

    async fn bring_up(&self, sandbox: &Arc<Sandbox>) -> Result<(), Status> {
        let prepared = sandbox.clone();
        let shares_ipc = sandbox.namespaces().ipc() != NamespaceMode::Node;
        blocking(move || prepare_files(&prepared, shares_ipc))
            .await
            .map_err(|error| Status::unknown(format!("failed to prepare pod sandbox: {error}")))?;
        // From here on a server that comes back knows that there is something to clean up.
        sandbox.change(|_| {}).map_err(internal)?;
        let config = self.shim_config(sandbox);
        if config.shared_pid {
            self.0
                .cgroups
                .create(&pause_group(sandbox))
                .map_err(internal)?;
        }
        let pid = shim_client::spawn(&self.0.shim_program, &sandbox.run_dir, &config)
            .await
            .map_err(|error| Status::unknown(format!("failed to start sandbox: {error}")))?;
        let hello = shim_client::call(&sandbox.run_dir, &Request::Hello)
            .await
            .map_err(internal)?;
        let pause = match hello {
            Reply::Hello { pause_pid, .. } => pause_pid,
            _ => None,
        };
        sandbox
            .change(|state| {
                state.shim_pid = pid;
                state.pause_pid = pause;
                state.attached = config.own_network;
            })
            .map_err(internal)?;
        let mut ips = Vec::new();
        if config.own_network {
            let attachment = self
                .0
                .config
                .network
                .attach(attach_request(sandbox, pid))
                .await
                .map_err(|error| {
                    Status::unknown(format!(
                        "failed to setup network for sandbox {:?}: {error}",
                        sandbox.id
                    ))
                })?;
            ips = attachment.ips.iter().map(ToString::to_string).collect();
        }
        sandbox
            .change(|state| {
                state.ips = ips;
                state.ready = true;
            })
            .map_err(internal)?;
        Ok(())
    }

    fn pod_cgroup(&self, config: &cri::PodSandboxConfig) -> String {
        let asked = config
            .linux
            .as_ref()
            .map(|linux| linux.cgroup_parent.as_str())
            .filter(|parent| !parent.is_empty());
        match asked {
            Some(parent) => parent.to_owned(),
            None => {
                let uid = config
                    .metadata
                    .as_ref()
                    .map_or("", |meta| meta.uid.as_str());
                let parent = self.0.config.cgroup_parent.trim_end_matches('/');
                // A group's name comes from outside: only what a UID may have.
                let uid: String = uid
                    .chars()
                    .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
                    .collect();
                format!("{parent}/pod{uid}")
            }
        }
    }

    fn shim_config(&self, sandbox: &Sandbox) -> ShimConfig {
        let namespaces = sandbox.namespaces();
        let own_network = namespaces.network() != NamespaceMode::Node;
        let shared_pid = namespaces.pid() == NamespaceMode::Pod;
        let mut sysctls = BTreeMap::new();
        if own_network {
            // Every process may listen on low ports and send echo requests: nobody else is there.
            sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
            sysctls.insert("net.ipv4.ping_group_range".into(), "0 2147483647".into());
        }
        if let Some(linux) = &sandbox.config.linux {
            sysctls.extend(linux.sysctls.clone());
        }
        let shims = shims_group(&self.0.config.cgroup_parent);
        ShimConfig {
            sandbox_id: sandbox.id.clone(),
            hostname: own_network.then(|| sandbox.config.hostname.clone()),
            own_network,
            own_ipc: namespaces.ipc() != NamespaceMode::Node,
            shared_pid,
            sysctls,
            shim_cgroups: self.0.cgroups.dirs(&shims),
            pause_cgroups: if shared_pid {
                self.0.cgroups.dirs(&pause_group(sandbox))
            } else {
                Vec::new()
            },
        }
    }

    /// Hears of what happens in a pod, for as long as its shim lives.
    ///
    /// It returns when the shim has answered: a container that is started later cannot be missing from that answer,
    /// and its end cannot go unheard.
    pub(super) async fn watch(&self, sandbox: &Arc<Sandbox>) -> io::Result<()> {
        let mut connection = ShimConnection::open(&sandbox.run_dir)?;
        // What starts after the question is not in the answer, and has not ended.
        let known = self.running_in(sandbox);
        let hello = connection.call(&Request::Watch, &[]).await?;
        self.compare(sandbox, &known, &hello);
        let weak = Arc::downgrade(&self.0);
        let sandbox = sandbox.clone();
        tokio::spawn(async move {
            loop {
                match connection.receive().await {
                    Ok(Some(event)) => match weak.upgrade() {
                        Some(inner) => EmbeddedRuntime(inner).on_event(event),
                        None => return,
                    },
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(sandbox = sandbox.id, %error, "lost the connection to a shim");
                        break;
                    }
                }
            }
            if let Some(inner) = weak.upgrade() {
                EmbeddedRuntime(inner).on_shim_gone(&sandbox).await;
            }
        });
        Ok(())
    }

    async fn on_shim_gone(&self, sandbox: &Arc<Sandbox>) {
        if !sandbox.state().ready {
            return;
        }
        tracing::warn!(sandbox = sandbox.id, "a pod's shim has ended unexpectedly");
        // The burial comes first: who stops the sandbox may be waiting for its containers to end.
        let outcome = match self.bury(sandbox).await {
            Ok(()) => {
                let _guard = sandbox.changing.lock().await;
                self.tear_down(sandbox).await
            }
            Err(error) => Err(internal(error)),
        };
        if let Err(error) = outcome {
            tracing::error!(sandbox = sandbox.id, %error, "cannot clean up after a lost shim");
        }
        self.announce(
            &sandbox.id,
            &sandbox.id,
            cri::ContainerEventType::ContainerStoppedEvent,
        );
    }

    /// A pod whose shim is dead: what is left of its containers ends too.
    pub(super) async fn bury(&self, sandbox: &Arc<Sandbox>) -> io::Result<()> {
        sandbox.change(|state| state.ready = false)?;
        let cgroups = self.0.cgroups.clone();
        let mut groups: Vec<String> = self
            .containers_of(&sandbox.id)
            .iter()
            .map(|container| container.facts.cgroup.clone())
            .collect();
        groups.push(pause_group(sandbox));
        blocking(move || groups.iter().try_for_each(|group| cgroups.remove(group))).await?;
        for container in self.containers_of(&sandbox.id) {
            self.settle(&container, None)?;
        }
        Ok(())
    }

    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<(), Status> {
        // A sandbox that is not there is stopped.
        let Some(sandbox) = self.find_sandbox(id) else {
            return Ok(());
        };
        let _guard = sandbox.changing.lock().await;
        if !self.0.sandboxes.read().contains_key(&sandbox.id) {
            // Its making failed, or another removal was faster.
            return Ok(());
        }
        let was_ready = sandbox.state().ready;
        for container in self.containers_of(&sandbox.id) {
            self.stop_container(&container, 0).await?;
        }
        self.tear_down(&sandbox).await?;
        if was_ready {
            self.announce(
                &sandbox.id,
                &sandbox.id,
                cri::ContainerEventType::ContainerStoppedEvent,
            );
        }
        Ok(())
    }

    /// Takes a pod off the network and ends its shim.
    pub(super) async fn tear_down(&self, sandbox: &Arc<Sandbox>) -> Result<(), Status> {
        let state = sandbox.state();
        if state.attached {
            let netns = netns(state.shim_pid);
            self.0
                .config
                .network
                .detach(&sandbox.id, Some(netns).filter(|path| path.exists()))
                .await
                .map_err(|error| {
                    Status::unknown(format!(
                        "failed to destroy network for sandbox {:?}: {error}",
                        sandbox.id
                    ))
                })?;
        }
        sandbox
            .change(|state| {
                state.ready = false;
                state.attached = false;
                state.ips.clear();
            })
            .map_err(internal)?;
        match shim_client::call(&sandbox.run_dir, &Request::Shutdown).await {
            Ok(_) => {}
            // It has ended already.
            Err(error) => tracing::debug!(sandbox = sandbox.id, %error, "no shim to shut down"),
        }
        let sandbox = sandbox.clone();
        let cgroups = self.0.cgroups.clone();
        blocking(move || {
            super::unmount_below(&sandbox.run_dir)?;
            cgroups.remove(&pause_group(&sandbox))
        })
        .await
        .map_err(internal)
    }

    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        let Some(sandbox) = self.find_sandbox(id) else {
            return Ok(());
        };
        self.stop_sandbox(&sandbox.id).await?;
        for container in self.containers_of(&sandbox.id) {
            self.remove_container(&container).await?;
        }
        let _guard = sandbox.changing.lock().await;
        self.delete_sandbox_files(&sandbox).await?;
        self.0.names.lock().remove(&sandbox_name(&sandbox.config));
        if self.0.sandboxes.write().remove(&sandbox.id).is_some() {
            self.announce(
                &sandbox.id,
                &sandbox.id,
                cri::ContainerEventType::ContainerDeletedEvent,
            );
        }
        Ok(())
    }

    pub(super) async fn delete_sandbox_files(&self, sandbox: &Arc<Sandbox>) -> Result<(), Status> {
        let dirs = [sandbox.run_dir.clone(), sandbox.dir.clone()];
        let own_group = sandbox
            .config
            .linux
            .as_ref()
            .is_none_or(|linux| linux.cgroup_parent.is_empty());
        let group = own_group.then(|| sandbox.state().cgroup);
        let cgroups = self.0.cgroups.clone();
        blocking(move || {
            dirs.iter().try_for_each(|dir| remove_dir(dir))?;
            group.map_or(Ok(()), |group| cgroups.remove(&group))
        })
        .await
        .map_err(internal)
    }
}

/// What makes a pod's attempt unique.
pub(super) fn sandbox_name(config: &cri::PodSandboxConfig) -> String {
    let meta = config.metadata.clone().unwrap_or_default();
    format!(
        "{}_{}_{}_{}",
        meta.name, meta.namespace, meta.uid, meta.attempt
    )
}

/// The group of the process that holds a shared process namespace.
fn pause_group(sandbox: &Sandbox) -> String {
    format!(
        "{}/{}",
        sandbox.state().cgroup.trim_end_matches('/'),
        sandbox.id
    )
}

/// A process's network namespace.
pub(super) fn netns(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

fn attach_request(sandbox: &Sandbox, pid: i32) -> AttachRequest {
    let meta = sandbox.config.metadata.clone().unwrap_or_default();
    AttachRequest {
        sandbox_id: sandbox.id.clone(),
        netns: netns(pid),
        pod_namespace: meta.namespace,
        pod_name: meta.name,
        pod_uid: meta.uid,
        hostname: sandbox.config.hostname.clone(),
        port_mappings: sandbox.config.port_mappings.clone(),
        annotations: sandbox.config.annotations.clone(),
    }
}

fn prepare_files(sandbox: &Sandbox, shares_ipc: bool) -> io::Result<()> {
    use rustix::mount::{MountFlags, mount};
    std::fs::create_dir_all(&sandbox.dir)?;
    std::fs::create_dir_all(&sandbox.run_dir)?;
    if !sandbox.config.log_directory.is_empty() {
        std::fs::create_dir_all(&sandbox.config.log_directory)?;
    }
    sandbox.save_config()?;
    let hostname = if sandbox.config.hostname.is_empty() {
        node_name()
    } else {
        sandbox.config.hostname.clone()
    };
    std::fs::write(sandbox.dir.join("hostname"), format!("{hostname}\n"))?;
    let resolv = match &sandbox.config.dns_config {
        Some(dns) => resolv_conf(dns),
        None => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    };
    std::fs::write(sandbox.dir.join("resolv.conf"), resolv)?;
    if shares_ipc {
        let shm = sandbox.run_dir.join("shm");
        std::fs::create_dir_all(&shm)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("shm", &shm, "tmpfs", flags, c"mode=1777,size=65536k")?;
    }
    Ok(())
}

/// The node's host name.
pub(super) fn node_name() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn resolv_conf(dns: &cri::DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

pub(super) fn remove_dir(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io::Error::new(
            error.kind(),
            format!("cannot remove {}: {error}", dir.display()),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_the_usual_order() {
        let dns = cri::DnsConfig {
            servers: vec!["10.0.0.10".into(), "1.1.1.1".into()],
            searches: vec![
                "default.svc.cluster.local".into(),
                "svc.cluster.local".into(),
            ],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search default.svc.cluster.local svc.cluster.local\n\
             nameserver 10.0.0.10\nnameserver 1.1.1.1\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&cri::DnsConfig::default()), "");
    }
}
