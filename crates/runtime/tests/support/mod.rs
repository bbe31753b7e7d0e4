//! A runtime on real containers, in directories of its own, with a busybox image.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skiff_base::{Random, SystemClock};
use skiff_runtime::cri::{self, RuntimeService};
use skiff_runtime::image::{Execution, ImageReference, LayerBuilder};
use skiff_runtime::{EmbeddedRuntime, NoNetwork, RuntimeConfig};
use tonic::{Request, Status};

pub const IMAGE: &str = "skiff.local/busybox:1";

/// A runtime and where it lives.
pub struct Bench {
    pub runtime: EmbeddedRuntime,
    pub dir: PathBuf,
    pub cgroup: String,
}

/// Whether the tests can run; says why when not.
pub fn possible() -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: real containers need root");
        return false;
    }
    if !Path::new("/bin/busybox").exists() {
        eprintln!("skipped: /bin/busybox (Debian's busybox-static) is needed for the image");
        return false;
    }
    true
}

fn config(dir: &Path, cgroup: &str) -> RuntimeConfig {
    let mut config = RuntimeConfig::new(
        dir.join("root"),
        dir.join("run"),
        Arc::new(NoNetwork),
        SystemClock::shared(),
        Random::from_system(),
    );
    config.cgroup_parent = cgroup.to_owned();
    config.shim_program = env!("CARGO_BIN_EXE_skiff-shim").into();
    config
}

fn busybox() -> LayerBuilder {
    let mut layer = LayerBuilder::new()
        .directory("bin", 0o755)
        .directory("tmp", 0o1777)
        .directory("etc", 0o755)
        .file(
            "etc/passwd",
            0o644,
            b"root:x:0:0::/root:/bin/sh\nweb:x:101:102::/home:/bin/sh\n",
        )
        .file(
            "etc/group",
            0o644,
            b"root:x:0:\nweb:x:102:\nlogs:x:103:web\n",
        )
        .file("plain", 0o644, b"no program\n")
        .copy("bin/busybox", 0o755, Path::new("/bin/busybox"));
    for applet in [
        "sh", "sleep", "echo", "cat", "true", "false", "id", "ls", "mount", "hostname", "dd",
        "head", "stty", "ps", "touch", "kill", "env", "pwd", "mkdir", "tail", "nc", "grep",
    ] {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    layer
}

impl Bench {
    pub async fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("skiff-rt-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let cgroup = format!("/skiff-rt-{name}-{}", std::process::id());
        let runtime = EmbeddedRuntime::open(config(&dir, &cgroup)).await.unwrap();
        let execution = Execution {
            env: vec!["PATH=/bin".into()],
            cmd: vec!["sh".into()],
            ..Execution::default()
        };
        let name: ImageReference = IMAGE.parse().unwrap();
        runtime
            .images()
            .build(&name, &busybox(), execution, false)
            .unwrap();
        Self {
            runtime,
            dir,
            cgroup,
        }
    }

    /// A server that comes back: the old one is forgotten with all its connections.
    pub async fn restart(&mut self) {
        self.runtime = EmbeddedRuntime::open(config(&self.dir, &self.cgroup))
            .await
            .unwrap();
    }

    pub fn sandbox_config(&self, name: &str) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: self.dir.join("logs").join(name).to_string_lossy().into(),
            labels: HashMap::from([("app".into(), name.into())]),
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(own_pid()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub async fn sandbox(&self, name: &str) -> String {
        self.sandbox_from(self.sandbox_config(name)).await
    }

    pub async fn sandbox_from(&self, config: cri::PodSandboxConfig) -> String {
        let request = cri::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        };
        self.runtime
            .run_pod_sandbox(Request::new(request))
            .await
            .unwrap()
            .into_inner()
            .pod_sandbox_id
    }

    pub async fn remove_sandbox(&self, id: &str) {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.into(),
        };
        self.runtime
            .remove_pod_sandbox(Request::new(request))
            .await
            .unwrap();
    }

    pub async fn create(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
    ) -> Result<String, Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: None,
        };
        let answer = RuntimeService::create_container(&self.runtime, Request::new(request)).await?;
        Ok(answer.into_inner().container_id)
    }

    pub async fn start_container(&self, id: &str) -> Result<(), Status> {
        let request = cri::StartContainerRequest {
            container_id: id.into(),
        };
        RuntimeService::start_container(&self.runtime, Request::new(request))
            .await
            .map(drop)
    }

    /// Creates and starts.
    pub async fn run(&self, sandbox: &str, config: cri::ContainerConfig) -> String {
        let id = self.create(sandbox, config).await.unwrap();
        self.start_container(&id).await.unwrap();
        id
    }

    pub async fn status(&self, id: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest {
            container_id: id.into(),
            verbose: false,
        };
        self.runtime
            .container_status(Request::new(request))
            .await
            .unwrap()
            .into_inner()
            .status
            .unwrap()
    }

    /// Waits until the container has ended.
    pub async fn ended(&self, id: &str) -> cri::ContainerStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.status(id).await;
            if status.state() == cri::ContainerState::ContainerExited {
                return status;
            }
            assert!(Instant::now() < deadline, "still runs: {status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn stop(&self, id: &str, timeout: i64) {
        let request = cri::StopContainerRequest {
            container_id: id.into(),
            timeout,
        };
        RuntimeService::stop_container(&self.runtime, Request::new(request))
            .await
            .unwrap();
    }

    pub async fn exec(&self, id: &str, command: &[&str]) -> Result<cri::ExecSyncResponse, Status> {
        self.exec_within(id, command, 20).await
    }

    pub async fn exec_within(
        &self,
        id: &str,
        command: &[&str],
        timeout: i64,
    ) -> Result<cri::ExecSyncResponse, Status> {
        let request = cri::ExecSyncRequest {
            container_id: id.into(),
            cmd: command.iter().map(|text| (*text).to_owned()).collect(),
            timeout,
        };
        Ok(self
            .runtime
            .exec_sync(Request::new(request))
            .await?
            .into_inner())
    }

    pub fn log(&self, pod: &str, container: &str) -> String {
        let path = self
            .dir
            .join("logs")
            .join(pod)
            .join(format!("{container}.log"));
        std::fs::read_to_string(path).unwrap()
    }

    /// The text of a log without times.
    pub fn log_lines(&self, pod: &str, container: &str) -> Vec<String> {
        self.log(pod, container)
            .lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    /// Removes everything and checks that nothing is left.
    pub async fn finish(self) {
        let pids = self.processes();
        self.runtime.remove_everything().await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while pids
            .iter()
            .any(|pid| Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok())
        {
            assert!(Instant::now() < deadline, "processes are left: {pids:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let left: Vec<_> = mounts
            .lines()
            .filter(|line| line.contains(self.dir.to_str().unwrap()))
            .collect();
        assert!(left.is_empty(), "mounts are left: {left:?}");
        for controller in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
            let group = controller
                .unwrap()
                .path()
                .join(self.cgroup.trim_start_matches('/'));
            assert!(!group.exists(), "{} is left", group.display());
        }
        for part in ["root/sandboxes", "root/containers"] {
            let count = std::fs::read_dir(self.dir.join(part)).unwrap().count();
            assert_eq!(count, 0, "{part} is not empty");
        }
        std::fs::remove_dir_all(&self.dir).unwrap();
    }

    /// All processes in this runtime's control groups.
    pub fn processes(&self) -> Vec<String> {
        let mut pids = Vec::new();
        let mut open =
            vec![Path::new("/sys/fs/cgroup/pids").join(self.cgroup.trim_start_matches('/'))];
        while let Some(dir) = open.pop() {
            let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().map(str::to_owned));
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    open.push(entry.path());
                }
            }
        }
        pids
    }
}

/// Every container with a process namespace of its own.
pub fn own_pid() -> cri::NamespaceOption {
    cri::NamespaceOption {
        pid: cri::NamespaceMode::Container as i32,
        ..Default::default()
    }
}

/// A busybox container that runs a shell script.
pub fn script(name: &str, text: &str) -> cri::ContainerConfig {
    command(name, &["sh", "-c", text])
}

/// A busybox container that runs a command.
pub fn command(name: &str, words: &[&str]) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.into(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: IMAGE.into(),
            ..Default::default()
        }),
        command: words.iter().map(|word| (*word).to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            resources: None,
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(own_pid()),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// The security context of [`command`]'s containers.
pub fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
}
