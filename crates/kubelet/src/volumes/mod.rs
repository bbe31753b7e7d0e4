//! Volumes: directories and files that are made for a pod's containers before they start.
//!
//! One file per type; the table [`PLUGINS`] lists them. Setting up a volume is idempotent: it is done again before
//! every container start and whenever an object that it shows has changed.

pub mod atomic;
pub mod config_map;
pub mod downward_api;
pub mod empty_dir;
pub mod host_path;
pub mod image;
pub mod local_dir;
pub mod mounter;
pub mod ownership;
pub mod payload;
pub mod persistent;
pub mod projected;
pub mod secret;
pub mod subpath;
pub mod teardown;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::cluster::{Cluster, ClusterError};
use crate::container::environment::RefKind;
use crate::container::fields::{Facts, FieldError};
use crate::pod::spec;
use crate::volumes::mounter::Mounter;

/// Every volume type that the kubelet knows.
pub const PLUGINS: [&dyn VolumePlugin; 8] = [
    &empty_dir::EmptyDir,
    &host_path::HostPath,
    &config_map::ConfigMapVolume,
    &secret::SecretVolume,
    &downward_api::DownwardApi,
    &projected::Projected,
    &persistent::Persistent,
    &image::ImageVolume,
];

/// A volume that cannot be set up now.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// An object that it shows does not exist.
    #[error("{kind} \"{name}\" not found")]
    NotFound {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// The object.
        name: String,
    },
    /// An object lacks a key that is asked for.
    #[error("references non-existent {kind} key: {key}")]
    NoKey {
        /// `config` or `secret`.
        kind: &'static str,
        /// The key.
        key: String,
    },
    /// A claim has no volume yet.
    #[error("PersistentVolumeClaim is not bound: \"{0}\"")]
    NotBound(String),
    /// A path leads out of its volume.
    #[error("invalid path: {0}")]
    Path(String),
    /// A `subPath` does not lead to anything in its volume.
    #[error("failed to prepare subPath for volumeMount \"{mount}\" of container \"{container}\"")]
    SubPath {
        /// The volume.
        mount: String,
        /// The container.
        container: String,
    },
    /// A path on the host is not what the volume says.
    #[error("hostPath type check failed: {0}")]
    HostPathType(String),
    /// A field cannot be shown.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The API did not answer.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The file system refused.
    #[error("{what}: {error}")]
    Io {
        /// What was done.
        what: String,
        /// What it said.
        error: std::io::Error,
    },
    /// The type is not served here.
    #[error("no volume plugin matched")]
    Unsupported,
}

impl VolumeError {
    /// An error of the file system at a path.
    pub fn io(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let what = format!("{what} {}", path.display());
        move |error| Self::Io { what, error }
    }
}

/// What a volume is set up with.
pub struct SetUp<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The volume.
    pub volume: &'a Volume,
    /// The volume's own directory.
    pub directory: PathBuf,
    /// The API.
    pub cluster: &'a dyn Cluster,
    /// Values of the downward API.
    pub facts: &'a Facts,
    /// Mounts.
    pub mounter: &'a dyn Mounter,
}

/// A volume that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// What is mounted into containers.
    pub path: PathBuf,
    /// When it must be set up again at the latest (a token runs out).
    pub refresh_after: Option<Duration>,
}

/// One type of volume.
#[async_trait]
pub trait VolumePlugin: Send + Sync {
    /// The folder of its volumes below a pod's directory, as upstream names it.
    fn folder(&self) -> &'static str;
    /// Whether `volume` is of this type.
    fn handles(&self, volume: &Volume) -> bool;
    /// Whether containers may only read it, whatever they ask for: its content is the kubelet's.
    fn read_only(&self) -> bool {
        false
    }
    /// The objects that it shows.
    fn references(&self, _volume: &Volume) -> Vec<(RefKind, String)> {
        Vec::new()
    }
    /// Makes or updates it.
    async fn set_up(&self, set_up: &SetUp<'_>) -> Result<Ready, VolumeError>;
}

/// The plugin of a volume.
#[must_use]
pub fn plugin_of(volume: &Volume) -> Option<&'static dyn VolumePlugin> {
    PLUGINS.into_iter().find(|plugin| plugin.handles(volume))
}

/// The ConfigMaps and Secrets that the pod's volumes show.
#[must_use]
pub fn references(pod: &Pod) -> BTreeSet<(RefKind, String)> {
    let volumes = spec::spec(pod).volumes.iter().flatten();
    volumes
        .filter_map(|volume| plugin_of(volume).map(|plugin| plugin.references(volume)))
        .flatten()
        .collect()
}

/// A volume that could not be set up, by name.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {error}")]
pub struct SetUpError {
    /// The volume.
    pub volume: String,
    /// Why.
    #[source]
    pub error: VolumeError,
}

/// The volumes of a pod that are ready, by name.
#[derive(Clone, Debug, Default)]
pub struct ReadyVolumes {
    /// Where they are.
    pub paths: BTreeMap<String, PathBuf>,
    /// When the first of them must be set up again.
    pub refresh_after: Option<Duration>,
}

/// Makes or updates all volumes of a pod; one that fails does not hold up the others.
pub async fn set_up_all(
    pod: &Pod,
    pod_directory: &Path,
    cluster: &dyn Cluster,
    facts: &Facts,
    mounter: &dyn Mounter,
) -> Result<ReadyVolumes, Vec<SetUpError>> {
    let mut ready = ReadyVolumes::default();
    let mut failures = Vec::new();
    for volume in spec::spec(pod).volumes.iter().flatten() {
        let failed = |error| SetUpError {
            volume: volume.name.clone(),
            error,
        };
        let Some(plugin) = plugin_of(volume) else {
            failures.push(failed(VolumeError::Unsupported));
            continue;
        };
        let directory = pod_directory
            .join("volumes")
            .join(plugin.folder())
            .join(&volume.name);
        let set_up = SetUp {
            pod,
            volume,
            directory,
            cluster,
            facts,
            mounter,
        };
        let one = match plugin.set_up(&set_up).await {
            Ok(one) => one,
            Err(error) => {
                failures.push(failed(error));
                continue;
            }
        };
        ready.paths.insert(volume.name.clone(), one.path);
        ready.refresh_after = match (ready.refresh_after, one.refresh_after) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    if !failures.is_empty() {
        return Err(failures);
    }
    Ok(ready)
}

/// The group that owns the pod's volumes.
#[must_use]
pub fn fs_group(pod: &Pod) -> Option<u32> {
    let context = spec::spec(pod).security_context.as_ref()?;
    context.fs_group.and_then(|group| u32::try_from(group).ok())
}

/// The user that all containers of the pod run as, if it is one.
#[must_use]
pub fn common_user(pod: &Pod) -> Option<u32> {
    let of_pod = spec::spec(pod).security_context.as_ref();
    let of_pod = of_pod.and_then(|c| c.run_as_user);
    let containers = spec::lasting_containers(pod);
    let mut users = containers.map(|c| {
        let own = c.security_context.as_ref().and_then(|s| s.run_as_user);
        own.or(of_pod)
    });
    let first = users.next()??;
    users
        .all(|user| user == Some(first))
        .then(|| u32::try_from(first).ok())?
}
