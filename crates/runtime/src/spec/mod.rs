//! What a container is to be, as an OCI runtime description: worked out from the CRI request, the
//! image and the pod, without touching anything.

pub mod capabilities;
mod devices;
mod mounts;
mod seccomp;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::cri;
use crate::image::Execution;
use crate::image::user::Identity;
use crate::shim::protocol::{CapabilityMasks, Finish};

pub use devices::{HostDevice, host_devices};
pub use mounts::PodFiles;
pub use seccomp::{SeccompError, program as seccomp_program};

/// Where programs are looked up when neither the image nor the pod says it.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All that a container's description depends on.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Container id.
    pub id: &'a str,
    /// The request.
    pub config: &'a cri::ContainerConfig,
    /// The pod.
    pub sandbox: &'a cri::PodSandboxConfig,
    /// What the image says.
    pub image: &'a Execution,
    /// The user to run as.
    pub identity: &'a Identity,
    /// Host name to tell in the environment.
    pub hostname: &'a str,
    /// Where the root file system will be mounted.
    pub rootfs: &'a Path,
    /// The container's control group.
    pub cgroup: &'a str,
    /// Files that the runtime provides for the pod.
    pub files: &'a PodFiles,
    /// The process whose process namespace the container joins, when it has none of its own.
    pub pid_namespace_of: Option<i32>,
    /// Devices of the node that the container gets.
    pub devices: &'a [HostDevice],
    /// Subdirectories of /sys/fs/cgroup with cgroup v1; none with v2.
    pub cgroup_v1_mounts: &'a [String],
    /// All capabilities that the kernel knows and this process has.
    pub all_capabilities: u64,
    /// Where the seccomp program lies, if there is one.
    pub seccomp: Option<PathBuf>,
}

/// Why there can be no such container.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Neither the image nor the pod says what to run.
    #[error("no command specified")]
    NoCommand,
    /// An unknown capability.
    #[error("unknown capability {0:?}")]
    Capability(String),
    /// A mount that makes no sense.
    #[error("mount {path:?}: {reason}")]
    Mount {
        /// Path in the container.
        path: String,
        /// Why.
        reason: &'static str,
    },
}

/// A container's description, and the steps that libcontainer does not do.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// `config.json`.
    pub spec: Value,
    /// The last steps before the program runs.
    pub finish: Finish,
    /// Working directory, made when the image does not have it.
    pub cwd: String,
}

impl Plan<'_> {
    fn linux(&self) -> Option<&cri::LinuxContainerConfig> {
        self.config.linux.as_ref()
    }

    fn security(&self) -> Option<&cri::LinuxContainerSecurityContext> {
        self.linux()?.security_context.as_ref()
    }

    fn namespaces(&self) -> cri::NamespaceOption {
        self.security()
            .and_then(|security| security.namespace_options.clone())
            .unwrap_or_default()
    }

    fn privileged(&self) -> bool {
        self.security().is_some_and(|security| security.privileged)
    }

    /// Works out the description.
    pub fn make(&self) -> Result<Planned, PlanError> {
        let cwd = self.cwd();
        let (capabilities, finish) = self.capabilities()?;
        let read_only = self.security().is_some_and(|s| s.readonly_rootfs);
        let mut linux = Map::new();
        linux.insert("cgroupsPath".into(), json!(self.cgroup));
        linux.insert("namespaces".into(), self.namespace_list());
        linux.insert(
            "rootfsPropagation".into(),
            json!(mounts::propagation(self.config)),
        );
        linux.insert("resources".into(), self.resources());
        linux.insert("devices".into(), devices::list(self.devices));
        let (masked, protected) = self.hidden_paths();
        linux.insert("maskedPaths".into(), json!(masked));
        linux.insert("readonlyPaths".into(), json!(protected));
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": self.config.tty,
                "user": {
                    "uid": self.identity.uid,
                    "gid": self.identity.gid,
                    "additionalGids": self.identity.groups,
                },
                "args": self.args()?,
                "env": self.env(),
                "cwd": cwd,
                "capabilities": capabilities,
                "noNewPrivileges": self.security().is_some_and(|s| s.no_new_privs),
                "oomScoreAdj": self.oom_score_adj(),
            },
            "root": { "path": self.rootfs, "readonly": read_only },
            "mounts": mounts::list(self)?,
            "linux": linux,
        });
        Ok(Planned { spec, finish, cwd })
    }

    fn args(&self) -> Result<Vec<String>, PlanError> {
        let config = self.config;
        // The image's arguments belong to the image's program.
        let (program, args) = if config.command.is_empty() {
            let args = if config.args.is_empty() {
                &self.image.cmd
            } else {
                &config.args
            };
            (&self.image.entrypoint, args)
        } else {
            (&config.command, &config.args)
        };
        let all: Vec<String> = program.iter().chain(args).cloned().collect();
        if all.is_empty() {
            return Err(PlanError::NoCommand);
        }
        Ok(all)
    }

    fn env(&self) -> Vec<String> {
        let mut env: Vec<String> = Vec::new();
        let mut set = |entry: String| {
            let key = entry.split('=').next().unwrap_or_default();
            let same = |known: &&mut String| known.split('=').next() == Some(key);
            match env.iter_mut().find(same) {
                Some(known) => *known = entry,
                None => env.push(entry),
            }
        };
        set(DEFAULT_PATH.to_owned());
        set(format!("HOSTNAME={}", self.hostname));
        if self.config.tty {
            set("TERM=xterm".to_owned());
        }
        self.image.env.iter().cloned().for_each(&mut set);
        for entry in &self.config.envs {
            set(format!(
                "{}={}",
                entry.key,
                String::from_utf8_lossy(&entry.value)
            ));
        }
        env
    }

    fn cwd(&self) -> String {
        let wanted = [&self.config.working_dir, &self.image.working_dir];
        let found = wanted.into_iter().find(|dir| !dir.is_empty());
        match found {
            Some(dir) if dir.starts_with('/') => dir.clone(),
            Some(dir) => format!("/{dir}"),
            None => "/".into(),
        }
    }

    fn oom_score_adj(&self) -> i64 {
        let wanted = self
            .linux()
            .and_then(|linux| linux.resources.as_ref())
            .map_or(0, |resources| resources.oom_score_adj);
        // Without the capability a process can only make itself a likelier victim.
        if self.all_capabilities & capabilities::SYS_RESOURCE == 0 {
            wanted.max(0)
        } else {
            wanted
        }
    }

    fn capabilities(&self) -> Result<(Value, Finish), PlanError> {
        let privileged = self.privileged();
        let none = cri::Capability::default();
        let wanted = self
            .security()
            .and_then(|security| security.capabilities.as_ref())
            .unwrap_or(&none);
        let masks = if privileged {
            CapabilityMasks {
                bounding: self.all_capabilities,
                permitted: self.all_capabilities,
                ambient: 0,
            }
        } else {
            capabilities::masks(wanted, self.all_capabilities)?
        };
        let no_new_privs = self.security().is_some_and(|s| s.no_new_privs);
        let mut finish = Finish {
            seccomp: self.seccomp.clone(),
            capabilities: None,
        };
        let mut given = masks;
        // Without `no_new_privs` only CAP_SYS_ADMIN may install a seccomp program: the process
        // keeps it until then.
        if finish.seccomp.is_some() && !no_new_privs {
            let extra = capabilities::SYS_ADMIN | capabilities::SETPCAP;
            given.bounding |= extra;
            given.permitted |= extra;
            finish.capabilities = Some(masks);
        }
        Ok((capabilities::describe(&given), finish))
    }

    fn namespace_list(&self) -> Value {
        // Network, IPC and host name are the shim's: its children are in them already.
        let mut list = vec![json!({ "type": "mount" })];
        match self.pid_namespace_of {
            Some(pid) => {
                list.push(json!({ "type": "pid", "path": format!("/proc/{pid}/ns/pid") }));
            }
            None if self.namespaces().pid() == cri::NamespaceMode::Node => {}
            None => list.push(json!({ "type": "pid" })),
        }
        if !self.privileged() {
            list.push(json!({ "type": "cgroup" }));
        }
        Value::Array(list)
    }

    fn resources(&self) -> Value {
        let none = cri::LinuxContainerResources::default();
        let wanted = self
            .linux()
            .and_then(|linux| linux.resources.as_ref())
            .unwrap_or(&none);
        let mut resources = resources(wanted);
        resources.insert(
            "devices".into(),
            devices::rules(self.privileged(), self.devices),
        );
        Value::Object(resources)
    }

    fn hidden_paths(&self) -> (Vec<String>, Vec<String>) {
        let Some(security) = self.security() else {
            return (Vec::new(), Vec::new());
        };
        if security.privileged {
            return (Vec::new(), Vec::new());
        }
        let mut protected = security.readonly_paths.clone();
        // libcontainer mounts these writable, and a container must not raise its own limits.
        protected.extend(
            self.cgroup_v1_mounts
                .iter()
                .map(|name| format!("/sys/fs/cgroup/{name}")),
        );
        (security.masked_paths.clone(), protected)
    }
}

/// CRI resources as OCI resources.
fn resources(wanted: &cri::LinuxContainerResources) -> Map<String, Value> {
    let mut cpu = Map::new();
    let mut memory = Map::new();
    let number = |map: &mut Map<String, Value>, key: &str, value: i64| {
        if value != 0 {
            map.insert(key.into(), json!(value));
        }
    };
    number(&mut cpu, "shares", wanted.cpu_shares.max(0));
    number(&mut cpu, "quota", wanted.cpu_quota);
    number(&mut cpu, "period", wanted.cpu_period.max(0));
    number(&mut memory, "limit", wanted.memory_limit_in_bytes);
    number(&mut memory, "swap", wanted.memory_swap_limit_in_bytes);
    for (key, value) in [("cpus", &wanted.cpuset_cpus), ("mems", &wanted.cpuset_mems)] {
        if !value.is_empty() {
            cpu.insert(key.into(), json!(value));
        }
    }
    let mut resources = Map::new();
    if !cpu.is_empty() {
        resources.insert("cpu".into(), Value::Object(cpu));
    }
    if !memory.is_empty() {
        resources.insert("memory".into(), Value::Object(memory));
    }
    let huge: Vec<Value> = wanted
        .hugepage_limits
        .iter()
        .filter(|limit| limit.limit > 0)
        .map(|limit| json!({ "pageSize": limit.page_size, "limit": limit.limit }))
        .collect();
    if !huge.is_empty() {
        resources.insert("hugepageLimits".into(), Value::Array(huge));
    }
    if !wanted.unified.is_empty() {
        resources.insert("unified".into(), json!(wanted.unified));
    }
    resources
}

#[cfg(test)]
mod tests;
