//! What the container runtime says about one pod.

use jiff::Timestamp;

/// The sandboxes and containers of one pod, each newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedPod {
    /// Every sandbox that the runtime still knows.
    pub sandboxes: Vec<ObservedSandbox>,
    /// Every container that the runtime still knows, of all sandboxes.
    pub containers: Vec<ObservedContainer>,
}

/// One pod sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedSandbox {
    /// The runtime's id.
    pub id: String,
    /// How many sandboxes the pod had before this one.
    pub attempt: u32,
    /// Whether containers can run in it.
    pub ready: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its addresses, the primary one first; empty on the host network.
    pub ips: Vec<String>,
    /// Whether it lives in the host's network namespace.
    pub host_network: bool,
}

/// What a container does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Made, never started.
    #[default]
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime cannot tell.
    Unknown,
}

/// One container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedContainer {
    /// The runtime's id.
    pub id: String,
    /// The name in the pod's spec.
    pub name: String,
    /// How many containers of this name the pod had before.
    pub attempt: u32,
    /// The sandbox that it belongs to.
    pub sandbox_id: String,
    /// What it does.
    pub state: State,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How it ended.
    pub exit_code: i32,
    /// The runtime's word for how it ended (`Completed`, `Error`, `OOMKilled`).
    pub reason: String,
    /// The termination message.
    pub message: String,
    /// The image as the runtime names it.
    pub image: String,
    /// The image by digest.
    pub image_id: String,
    /// What of the spec it was made from; another value means that the container must be made anew.
    pub spec_hash: String,
    /// The user it was started as: uid, gid, supplemental groups.
    pub user: Option<(i64, i64, Vec<i64>)>,
    /// Where its log is.
    pub log_path: String,
    /// What the kernel allows it, if the runtime tells.
    pub resources: Option<AppliedResources>,
}

/// What the kernel allows a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedResources {
    /// cgroup cpu shares.
    pub cpu_shares: i64,
    /// Microseconds per period; 0 is no limit.
    pub cpu_quota: i64,
    /// Bytes; 0 is no limit.
    pub memory_limit: i64,
}

impl ObservedPod {
    /// The newest container of this name.
    #[must_use]
    pub fn latest(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest sandbox.
    #[must_use]
    pub fn current_sandbox(&self) -> Option<&ObservedSandbox> {
        self.sandboxes.first()
    }

    /// Whether anything of the pod may still run.
    #[must_use]
    pub fn anything_running(&self) -> bool {
        self.containers
            .iter()
            .any(|c| matches!(c.state, State::Running | State::Unknown))
    }

    /// Sorts newest first, which everything else relies on: by attempt, for the clock may have been set back in between.
    pub fn sort(&mut self) {
        use std::cmp::Reverse;
        self.sandboxes
            .sort_by_key(|s| Reverse((s.attempt, s.created_at)));
        self.containers
            .sort_by_key(|c| Reverse((c.attempt, c.created_at)));
    }
}
