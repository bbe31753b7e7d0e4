//! Limits of a pod's local storage: pods that write more than they may are evicted.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use skiff_runtime::cri;
use tonic::Request;

use crate::container::sandbox::{CONTAINER_NAME_LABEL, POD_UID_LABEL};
use crate::manager::Manager;
use crate::pod::plan::Waiting;
use crate::pod::resources;
use crate::pod::spec;
use crate::quantity;
use crate::volumes::{VolumePlugin as _, empty_dir::EmptyDir};

/// The resource's name.
const STORAGE: &str = "ephemeral-storage";

/// Bytes on disk that a pod has written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// By volume: `emptyDir`s only.
    pub volumes: BTreeMap<String, i64>,
    /// By container: its own layer and its logs.
    pub containers: BTreeMap<String, i64>,
}

/// The size limits of the pod's `emptyDir` volumes: name, bytes, as it was written.
fn volume_limits(pod: &Pod) -> impl Iterator<Item = (&str, i64, &str)> {
    let volumes = spec::spec(pod).volumes.iter().flatten();
    volumes.filter_map(|volume| {
        let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
        let bytes = quantity::whole(&limit.0).filter(|bytes| *bytes > 0)?;
        Some((volume.name.as_str(), bytes, limit.0.as_str()))
    })
}

/// The storage limits of the pod's containers: name, bytes, as it was written.
fn container_limits(pod: &Pod) -> impl Iterator<Item = (&str, i64, &str)> {
    spec::containers(pod).iter().filter_map(|container| {
        let limits = container.resources.as_ref()?.limits.as_ref()?;
        let limit = limits.get(STORAGE)?;
        let bytes = quantity::whole(&limit.0).filter(|bytes| *bytes > 0)?;
        Some((container.name.as_str(), bytes, limit.0.as_str()))
    })
}

/// Whether anything of the pod has a limit.
fn limited(pod: &Pod) -> bool {
    volume_limits(pod).next().is_some() || container_limits(pod).next().is_some()
}

/// Which limit the pod exceeds, in upstream's words.
#[must_use]
pub fn exceeded(pod: &Pod, written: &Written) -> Option<String> {
    let of = |map: &BTreeMap<String, i64>, name: &str| map.get(name).copied().unwrap_or(0);
    for (name, bytes, limit) in volume_limits(pod) {
        if of(&written.volumes, name) > bytes {
            return Some(format!(
                "Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". "
            ));
        }
    }
    if let Some(limit) = resources::pod_limits(pod).get(STORAGE).copied() {
        let all = written.volumes.values().chain(written.containers.values());
        if all.sum::<i64>() > limit {
            let limit = quantity::binary(limit);
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
            ));
        }
    }
    for (name, bytes, limit) in container_limits(pod) {
        if of(&written.containers, name) > bytes {
            return Some(format!(
                "Container {name} exceeded its local ephemeral storage limit \"{limit}\". "
            ));
        }
    }
    None
}

/// Evicts the pods that have written more than they may.
pub async fn look(manager: &Manager) {
    let context = manager.context();
    let pods: Vec<Arc<Pod>> = manager.active_pods();
    let pods = pods
        .into_iter()
        .filter(|pod| limited(pod) && !spec::deleting(pod) && !spec::is_static(pod));
    let pods: Vec<Arc<Pod>> = pods.collect();
    if pods.is_empty() {
        return;
    }
    let mut layers = layers(manager).await;
    for pod in pods {
        let (volumes, logs) = (
            context.pod_directory(&pod),
            context.config.log_directory(&pod),
        );
        let looked_at = pod.clone();
        let measured =
            tokio::task::spawn_blocking(move || measure(&looked_at, &volumes, &logs)).await;
        let Ok(mut written) = measured else {
            continue;
        };
        for (name, bytes) in layers.remove(spec::uid(&pod)).unwrap_or_default() {
            *written.containers.entry(name).or_default() += bytes;
        }
        let Some(message) = exceeded(&pod, &written) else {
            continue;
        };
        context.pod_event(&pod, true, "Evicted", message.clone());
        let reason = "Evicted".to_owned();
        manager.evict(spec::uid(&pod), Waiting { reason, message });
    }
}

/// What containers have written into their own layers, by pod and name.
async fn layers(manager: &Manager) -> BTreeMap<String, BTreeMap<String, i64>> {
    let service = &manager.context().runtime.service;
    let request = Request::new(cri::ListContainerStatsRequest::default());
    let stats = match service.list_container_stats(request).await {
        Ok(stats) => stats.into_inner().stats,
        Err(error) => {
            tracing::warn!(%error, "cannot read what containers use");
            return BTreeMap::new();
        }
    };
    let mut layers: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    for one in stats {
        let labels = one.attributes.unwrap_or_default().labels;
        let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
        let used = one.writable_layer.and_then(|layer| layer.used_bytes);
        let used = i64::try_from(used.map_or(0, |used| used.value)).unwrap_or(i64::MAX);
        let of_pod = layers.entry(label(POD_UID_LABEL)).or_default();
        of_pod.insert(label(CONTAINER_NAME_LABEL), used);
    }
    layers
}

/// What lies on disk of the pod's volumes and logs.
fn measure(pod: &Pod, directory: &Path, logs: &Path) -> Written {
    let volumes = directory.join("volumes").join(EmptyDir.folder());
    let mut written = Written::default();
    for volume in spec::spec(pod).volumes.iter().flatten() {
        let on_disk = |source: &k8s_openapi::api::core::v1::EmptyDirVolumeSource| {
            source.medium.as_deref() != Some("Memory")
        };
        if volume.empty_dir.as_ref().is_some_and(on_disk) {
            let bytes = size(volumes.join(&volume.name));
            written.volumes.insert(volume.name.clone(), bytes);
        }
    }
    for container in spec::containers(pod) {
        let bytes = size(logs.join(&container.name));
        written.containers.insert(container.name.clone(), bytes);
    }
    written
}

/// The bytes that a directory takes on its own file system; 0 for what is not there.
fn size(directory: PathBuf) -> i64 {
    let Ok(root) = std::fs::symlink_metadata(&directory) else {
        return 0;
    };
    let mut bytes = 0u64;
    let mut open = vec![directory];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            // It may have been removed meanwhile.
            let Ok(meta) = entry.metadata() else {
                continue;
            };
            if meta.dev() != root.dev() {
                continue;
            }
            bytes = bytes.saturating_add(meta.blocks() * 512);
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_in_upstreams_words() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {
                "containers": [
                    {"name": "a", "resources": {"limits": {"ephemeral-storage": "1Mi"}}},
                    {"name": "b", "resources": {"limits": {"ephemeral-storage": "2Mi"}}},
                ],
                "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "10Mi"}}, {"name": "w", "emptyDir": {}}],
            }
        }))
        .unwrap();
        assert!(limited(&pod) && !limited(&Pod::default()));
        let said = |volume: i64, a: i64, b: i64| {
            let written = Written {
                volumes: [("v".to_owned(), volume)].into(),
                containers: [("a".to_owned(), a), ("b".to_owned(), b)].into(),
            };
            exceeded(&pod, &written)
        };
        let mebi = 1 << 20;
        assert_eq!(said(mebi, mebi, mebi), None);
        assert_eq!(
            said(10 * mebi + 1, 0, 0).as_deref(),
            Some("Usage of EmptyDir volume \"v\" exceeds the limit \"10Mi\". ")
        );
        assert_eq!(
            said(3 * mebi, 1, 0).as_deref(),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. ")
        );
        assert_eq!(
            said(0, mebi + 1, 0).as_deref(),
            Some("Container a exceeded its local ephemeral storage limit \"1Mi\". ")
        );
    }

    #[test]
    fn what_lies_on_disk() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(size(root.path().join("none")), 0);
        std::fs::create_dir(root.path().join("d")).unwrap();
        std::fs::write(root.path().join("d/f"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", root.path().join("d/out")).unwrap();
        let bytes = size(root.path().to_owned());
        assert!((100_000..1_000_000).contains(&bytes), "{bytes}");
    }
}
