//! The embedded container runtime: pods and containers without containerd, runc or a daemon.
//!
//! [`EmbeddedRuntime`] implements CRI's two services. Each pod has a shim ([`crate::shim`]) that
//! outlives the server; what the runtime knows is in `record`, on disk as well, so that a server
//! that comes back finds the same pods and containers.

mod container;
mod events;
mod exec;
mod image_service;
mod network;
mod port_forward;
mod record;
mod recover;
mod sandbox;
mod service;
mod shim_client;
mod stats;
mod status;
#[cfg(test)]
mod watch_tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use parking_lot::{Mutex, RwLock};
use skiff_base::{Random, SharedClock};
use tokio::sync::{broadcast, watch};
use tonic::Status;

use crate::cgroup::Hierarchies;
use crate::cri;
use crate::image::{ImageError, ImageStore, Limits};

pub use exec::{ExecStreams, FdStream, Resize};
pub use network::{AttachRequest, Attachment, NetworkError, NoNetwork, PodNetwork};
pub use port_forward::PortStream;

use record::{Container, Sandbox};

/// How an embedded runtime is set up.
pub struct RuntimeConfig {
    /// Persistent files: images, writable layers, records.
    pub root: PathBuf,
    /// Sockets and mount points; may be lost when the machine restarts.
    pub run: PathBuf,
    /// The control group that everything is in that names no other.
    pub cgroup_parent: String,
    /// The pod network.
    pub network: Arc<dyn PodNetwork>,
    /// Time.
    pub clock: SharedClock,
    /// Randomness, for ids.
    pub random: Random,
    /// The program whose `shim` argument runs [`crate::shim_main`].
    pub shim_program: PathBuf,
    /// How large images may be.
    pub limits: Limits,
    /// Turns true when the built-in images are there; until then whoever asks for one that is missing waits.
    pub built_in: Option<watch::Receiver<bool>>,
    /// Registries and how to talk to them.
    pub registries: crate::image::Registries,
}

impl RuntimeConfig {
    /// A runtime in `root` and `run` with everything else as usual: the shim is this program.
    #[must_use]
    pub fn new(
        root: PathBuf,
        run: PathBuf,
        network: Arc<dyn PodNetwork>,
        clock: SharedClock,
        random: Random,
    ) -> Self {
        Self {
            root,
            run,
            cgroup_parent: "/skiff".into(),
            network,
            clock,
            random,
            shim_program: "/proc/self/exe".into(),
            limits: Limits::default(),
            built_in: None,
            registries: crate::image::Registries::default(),
        }
    }
}

/// Why the runtime does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or directory.
    #[error("container runtime: {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The image store.
    #[error("container runtime: {0}")]
    Image(#[from] ImageError),
}

/// The runtime. Clones share everything.
#[derive(Clone)]
pub struct EmbeddedRuntime(Arc<Inner>);

struct Inner {
    config: RuntimeConfig,
    shim_program: PathBuf,
    images: Arc<ImageStore>,
    cgroups: Hierarchies,
    sandboxes: RwLock<HashMap<String, Arc<Sandbox>>>,
    containers: RwLock<HashMap<String, Arc<Container>>>,
    events: broadcast::Sender<cri::ContainerEventResponse>,
    /// Names that are taken: a pod's attempt and a container's attempt exist once.
    names: Mutex<HashSet<String>>,
    samples: stats::Samples,
}

impl EmbeddedRuntime {
    /// Opens a runtime and finds what an earlier one left running.
    pub async fn open(config: RuntimeConfig) -> Result<Self, OpenError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| OpenError::Io { what, source }
        };
        for dir in [
            config.root.join("sandboxes"),
            config.root.join("containers"),
            config.run.join("s"),
        ] {
            std::fs::create_dir_all(&dir)
                .map_err(failed(&format!("cannot make {}", dir.display())))?;
        }
        let cgroups = Hierarchies::find().map_err(failed("cannot find control groups"))?;
        cgroups
            .create(&shims_group(&config.cgroup_parent))
            .map_err(failed("cannot make control groups"))?;
        private_mount(&config.run).map_err(failed("cannot mount the runtime directory"))?;
        let shim_program = protect_program(&config.shim_program, &config.run)
            .map_err(failed("cannot prepare the shim program"))?;
        let images = ImageStore::open(&config.root.join("images"), config.limits)?;
        let runtime = Self(Arc::new(Inner {
            config,
            shim_program,
            images: Arc::new(images),
            cgroups,
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
            events: broadcast::Sender::new(1024),
            names: Mutex::default(),
            samples: stats::Samples::default(),
        }));
        runtime
            .recover()
            .await
            .map_err(failed("cannot read what runs"))?;
        Ok(runtime)
    }

    /// Returns when the built-in images have been made, or nobody makes them.
    pub async fn built_in_images(&self) {
        if let Some(made) = &self.0.config.built_in {
            // When their maker has gone without them, waiting is over as well.
            let _ = made.clone().wait_for(|made| *made).await;
        }
    }

    /// The image store.
    #[must_use]
    pub fn images(&self) -> &Arc<ImageStore> {
        &self.0.images
    }

    fn now(&self) -> i64 {
        self.0
            .config
            .clock
            .now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |duration| duration.as_nanos() as i64)
    }

    fn new_id(&self) -> String {
        (0..64)
            .map(|_| {
                let digit = self.0.config.random.below(16) as u32;
                char::from_digit(digit, 16).unwrap_or('0')
            })
            .collect()
    }

    fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.0.config.root.join("sandboxes").join(id)
    }

    fn container_dir(&self, id: &str) -> PathBuf {
        self.0.config.root.join("containers").join(id)
    }

    fn run_dir(&self, sandbox: &str) -> PathBuf {
        self.0.config.run.join("s").join(sandbox)
    }

    fn find_sandbox(&self, id: &str) -> Option<Arc<Sandbox>> {
        find(&self.0.sandboxes.read(), id)
    }

    fn find_container(&self, id: &str) -> Option<Arc<Container>> {
        find(&self.0.containers.read(), id)
    }

    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Status> {
        self.find_sandbox(id).ok_or_else(|| {
            Status::not_found(format!(
                "an error occurred when try to find sandbox {id:?}: not found"
            ))
        })
    }

    fn container(&self, id: &str) -> Result<Arc<Container>, Status> {
        self.find_container(id).ok_or_else(|| {
            Status::not_found(format!(
                "an error occurred when try to find container {id:?}: not found"
            ))
        })
    }

    fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.0
            .containers
            .read()
            .values()
            .filter(|container| container.facts.sandbox_id == sandbox)
            .cloned()
            .collect()
    }

    /// Directory names of the layers that containers use.
    #[must_use]
    pub fn layers_in_use(&self) -> HashSet<String> {
        self.0
            .containers
            .read()
            .values()
            .flat_map(|container| container.facts.layers.iter().cloned())
            .collect()
    }

    /// Stops and removes every pod and gives back every mount and control group. The images stay.
    pub async fn remove_everything(&self) -> Result<(), Status> {
        let sandboxes: Vec<_> = self.0.sandboxes.read().keys().cloned().collect();
        let mut outcome = Ok(());
        for id in sandboxes {
            if let Err(status) = self.remove_sandbox(&id).await {
                tracing::warn!(sandbox = id, error = %status, "cannot remove pod sandbox");
                outcome = Err(status);
            }
        }
        let inner = self.0.clone();
        blocking(move || {
            inner.cgroups.remove(&inner.config.cgroup_parent)?;
            unmount_below(&inner.config.run)?;
            match std::fs::remove_dir_all(inner.config.run.join("s")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
        .await
        .map_err(internal)?;
        outcome
    }
}

fn find<T>(map: &HashMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if let Some(found) = map.get(id) {
        return Some(found.clone());
    }
    // People type the first digits.
    if id.is_empty() {
        return None;
    }
    let mut matching = map.iter().filter(|(key, _)| key.starts_with(id));
    match (matching.next(), matching.next()) {
        (Some((_, found)), None) => Some(found.clone()),
        _ => None,
    }
}

/// The control group of the shims: not the pods', whose limits are not theirs, and not the
/// server's, with which a service manager would end them.
fn shims_group(parent: &str) -> String {
    format!("{}/skiff-shims", parent.trim_end_matches('/'))
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "made to be passed to map_err"
)]
fn internal(error: impl std::fmt::Display) -> Status {
    Status::unknown(error.to_string())
}

/// Mounts `dir` on itself, private: what containers' namespaces have below it does not spread to
/// the node.
fn private_mount(dir: &Path) -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
    let dir = dir.canonicalize()?;
    if !mounts_below(&dir)?.contains(&dir) {
        mount_bind(&dir, &dir)?;
    }
    mount_change(&dir, MountPropagationFlags::PRIVATE)?;
    Ok(())
}

/// Mounts the shim's program read-only: a container that gets hold of it by `/proc/<pid>/exe`
/// cannot write to the node's file.
fn protect_program(program: &Path, run: &Path) -> io::Result<PathBuf> {
    use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
    let target = run.canonicalize()?.join("shim");
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&target)
        .map(drop)
        .or_else(|error| match error.raw_os_error() {
            // Mounted by an earlier run.
            Some(libc::EROFS | libc::ETXTBSY) => Ok(()),
            _ => Err(error),
        })?;
    while mounts_below(run)?.contains(&target) {
        // Shims that run from it keep it.
        unmount(&target, UnmountFlags::DETACH)?;
    }
    mount_bind(program.canonicalize()?, &target)?;
    mount_remount(
        &target,
        MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID,
        "",
    )?;
    Ok(target)
}

/// Mount points at and below `dir`, in the order in which they were mounted.
fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let dir = dir.canonicalize()?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescaped(point)))
        .filter(|point| point.starts_with(&dir))
        .collect())
}

/// The mount table writes blanks and backslashes as octal numbers.
fn unescaped(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, character)| {
            text.replace(code, character)
        })
}

fn unmount_below(dir: &Path) -> io::Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    if !dir.exists() {
        return Ok(());
    }
    for point in mounts_below(dir)?.into_iter().rev() {
        match unmount(&point, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_be_cut_short_when_they_stay_clear() {
        let map: HashMap<String, Arc<u8>> = [("abc1", 1), ("abd2", 2)]
            .into_iter()
            .map(|(id, value)| (id.to_owned(), Arc::new(value)))
            .collect();
        assert_eq!(find(&map, "abc1").as_deref(), Some(&1));
        assert_eq!(find(&map, "abd").as_deref(), Some(&2));
        assert_eq!(find(&map, "ab"), None);
        assert_eq!(find(&map, ""), None);
    }

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescaped("/a\\040b\\134c"), "/a b\\c");
    }
}
