//! What the runtime knows of pods and containers, in memory and on disk.
//!
//! The request goes to `config.pb` once; what changes goes to `state.json`, written whole. The exit
//! status is written by the shim (`exit.json`): it happens while the server may be away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use prost::Message;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::cri;
use crate::shim::protocol::{Exit, Finish};

const CONFIG: &str = "config.pb";
const STATE: &str = "state.json";
/// The file that a container's exit status is in.
pub const EXIT: &str = "exit.json";

/// What changes about a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxState {
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Whether containers can run in it.
    pub ready: bool,
    /// Its addresses, the primary first.
    pub ips: Vec<String>,
    /// Its shim.
    pub shim_pid: i32,
    /// The process that holds a shared process namespace.
    pub pause_pid: Option<i32>,
    /// The control group that its containers' groups are in.
    pub cgroup: String,
    /// Whether it has to be taken off the network.
    pub attached: bool,
    /// Which runtime handler was asked for.
    pub handler: String,
}

/// A pod sandbox.
#[derive(Debug)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// The request.
    pub config: cri::PodSandboxConfig,
    /// Where its persistent files are.
    pub dir: PathBuf,
    /// Where its shim is.
    pub run_dir: PathBuf,
    state: Mutex<SandboxState>,
    /// Held while it is made, stopped or removed.
    pub changing: tokio::sync::Mutex<()>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Made, not started.
    #[default]
    Created,
    /// Its first process runs.
    Running,
    /// It has ended, or could not be started.
    Exited,
}

/// What changes about a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Nanoseconds since the epoch; 0 before.
    pub started_at: i64,
    /// Where it is in its life.
    pub phase: Phase,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Why it ended, when the exit does not tell.
    pub reason: String,
    /// In words.
    pub message: String,
    /// Its first process.
    pub pid: i32,
    /// Whether its removal has begun.
    #[serde(default)]
    pub removing: bool,
}

/// What is fixed about a container besides the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// Its sandbox.
    pub sandbox_id: String,
    /// Image id.
    pub image_id: String,
    /// Directory names of the image's layers, the topmost first.
    pub layers: Vec<String>,
    /// Its control group.
    pub cgroup: String,
    /// User it runs as.
    pub uid: u32,
    /// Group it runs as.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The signal that asks it to end.
    pub stop_signal: i32,
    /// Whether it has a process namespace of its own.
    pub own_pid: bool,
    /// Where it starts.
    pub cwd: String,
    /// The last steps before its program runs.
    pub finish: Finish,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// The request.
    pub config: cri::ContainerConfig,
    /// What else is fixed.
    pub facts: ContainerFacts,
    /// Where its persistent files are.
    pub dir: PathBuf,
    /// Where its log is; none when it has none.
    pub log: Option<PathBuf>,
    state: Mutex<ContainerState>,
    /// Changes with the phase.
    phase: watch::Sender<Phase>,
    /// The resources as last set.
    pub resources: Mutex<Option<cri::LinuxContainerResources>>,
    /// Held while it is started or removed.
    pub changing: tokio::sync::Mutex<()>,
}

impl Sandbox {
    /// A new sandbox. Nothing is written yet.
    #[must_use]
    pub fn new(
        id: String,
        config: cri::PodSandboxConfig,
        dir: PathBuf,
        run_dir: PathBuf,
        state: SandboxState,
    ) -> Self {
        Self {
            id,
            config,
            dir,
            run_dir,
            state: Mutex::new(state),
            changing: tokio::sync::Mutex::new(()),
        }
    }

    /// Reads a sandbox back; none when it was never finished.
    pub fn load(dir: &Path, run_dir: PathBuf) -> io::Result<Option<Self>> {
        let id = file_name(dir);
        let config = read_message(&dir.join(CONFIG))?;
        let state = read_json(&dir.join(STATE))?;
        Ok(config
            .zip(state)
            .map(|(config, state)| Self::new(id, config, dir.to_owned(), run_dir, state)))
    }

    /// Writes the request.
    pub fn save_config(&self) -> io::Result<()> {
        write(&self.dir.join(CONFIG), &self.config.encode_to_vec())
    }

    /// What is known now.
    #[must_use]
    pub fn state(&self) -> SandboxState {
        self.state.lock().clone()
    }

    /// Changes what is known, on disk first.
    pub fn change(&self, change: impl FnOnce(&mut SandboxState)) -> io::Result<SandboxState> {
        let mut state = self.state.lock();
        let mut next = state.clone();
        change(&mut next);
        if next != *state || !self.dir.join(STATE).exists() {
            write(&self.dir.join(STATE), &serde_json::to_vec(&next)?)?;
            *state = next.clone();
        }
        Ok(next)
    }

    /// The namespace options of the request.
    #[must_use]
    pub fn namespaces(&self) -> cri::NamespaceOption {
        self.config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref())
            .and_then(|security| security.namespace_options.clone())
            .unwrap_or_default()
    }
}

impl Container {
    /// A new container. Nothing is written yet.
    #[must_use]
    pub fn new(
        id: String,
        config: cri::ContainerConfig,
        facts: ContainerFacts,
        dir: PathBuf,
        log: Option<PathBuf>,
        state: ContainerState,
    ) -> Self {
        let resources = config
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.clone());
        Self {
            id,
            config,
            facts,
            dir,
            log,
            phase: watch::Sender::new(state.phase),
            state: Mutex::new(state),
            resources: Mutex::new(resources),
            changing: tokio::sync::Mutex::new(()),
        }
    }

    /// Reads a container back; none when it was never finished.
    pub fn load(dir: &Path) -> io::Result<Option<Self>> {
        let id = file_name(dir);
        let Some(config) = read_message::<cri::ContainerConfig>(&dir.join(CONFIG))? else {
            return Ok(None);
        };
        let Some(facts) = read_json::<(ContainerFacts, Option<PathBuf>)>(&dir.join("facts.json"))?
        else {
            return Ok(None);
        };
        let Some(state) = read_json(&dir.join(STATE))? else {
            return Ok(None);
        };
        let (facts, log) = facts;
        Ok(Some(Self::new(
            id,
            config,
            facts,
            dir.to_owned(),
            log,
            state,
        )))
    }

    /// Writes what is fixed.
    pub fn save_config(&self) -> io::Result<()> {
        write(&self.dir.join(CONFIG), &self.config.encode_to_vec())?;
        write(
            &self.dir.join("facts.json"),
            &serde_json::to_vec(&(&self.facts, &self.log))?,
        )
    }

    /// What is known now.
    #[must_use]
    pub fn state(&self) -> ContainerState {
        self.state.lock().clone()
    }

    /// Changes what is known, on disk first.
    pub fn change(&self, change: impl FnOnce(&mut ContainerState)) -> io::Result<ContainerState> {
        let mut state = self.state.lock();
        let mut next = state.clone();
        change(&mut next);
        if next != *state || !self.dir.join(STATE).exists() {
            write(&self.dir.join(STATE), &serde_json::to_vec(&next)?)?;
            *state = next.clone();
        }
        self.phase.send_replace(next.phase);
        Ok(next)
    }

    /// The exit status that the shim has written.
    pub fn read_exit(&self) -> io::Result<Option<Exit>> {
        read_json(&self.dir.join(EXIT))
    }

    /// Returns when the container has ended.
    pub async fn ended(&self) {
        let mut phase = self.phase.subscribe();
        // The sender lives as long as `self`.
        let _ = phase.wait_for(|phase| *phase == Phase::Exited).await;
    }
}

fn file_name(dir: &Path) -> String {
    dir.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Replaces a file at once. It is not forced to the disk: a server that is killed finds it, and what
/// a power failure leaves does not matter, for no container outlives that.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, bytes)?;
    fs::rename(&draft, path)
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    Ok(serde_json::from_slice(&bytes)
        .map_err(|error| damaged(path, &error))
        .ok())
}

fn read_message<T: Message + Default>(path: &Path) -> io::Result<Option<T>> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    Ok(T::decode(bytes.as_slice())
        .map_err(|error| damaged(path, &error))
        .ok())
}

/// A record that a power failure cut short counts as absent.
fn damaged(path: &Path, error: &dyn std::fmt::Display) {
    tracing::warn!(path = %path.display(), %error, "runtime record is damaged");
}
