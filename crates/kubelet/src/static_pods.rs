//! Static pods: manifests in a directory of the node, run without asking the API, shown there as mirror pods.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use notify::{RecursiveMode, Watcher};
use skiff_base::Shutdown;
use tokio::sync::mpsc;

use crate::cluster::ClusterError;
use crate::config::KubeletConfig;
use crate::images::with_default_tag;
use crate::manager::Manager;
use crate::pod::spec::{
    self, HASH_ANNOTATION, MIRROR_ANNOTATION, SEEN_ANNOTATION, SOURCE_ANNOTATION,
};

/// The directory is looked at this often even without news, and mirror pods are checked.
const LOOK: Duration = Duration::from_secs(20);
/// An editor writes a file in several steps: news is collected for this long.
const SETTLE: Duration = Duration::from_millis(100);

/// Reads the directory once.
pub fn load(manager: &Arc<Manager>) {
    let context = manager.context();
    let Some(directory) = &context.config.static_pod_dir else {
        return;
    };
    let seen = context.cluster.now().to_string();
    let pods = read_directory(directory, &context.config, &seen);
    manager.set_static(pods.into_iter().map(Arc::new).collect());
}

/// Follows the directory and keeps mirror pods until `shutdown`.
pub async fn run(manager: Arc<Manager>, shutdown: Shutdown) {
    let clock = manager.context().clock.clone();
    let Some(directory) = manager.context().config.static_pod_dir.clone() else {
        return;
    };
    let (sender, mut news) = mpsc::channel::<()>(1);
    let watcher = notify::recommended_watcher(move |_| {
        // A full channel holds news already.
        let _ = sender.try_send(());
    });
    let _watcher = watcher.and_then(|mut watcher| {
        watcher.watch(&directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    if let Err(error) = &_watcher {
        tracing::warn!(%error, "static pods are looked for every 20 s only");
    }
    loop {
        load(&manager);
        mirror(&manager).await;
        tokio::select! {
            Some(()) = news.recv() => clock.sleep(SETTLE).await,
            () = manager.statics_changed() => {}
            () = clock.sleep(LOOK) => {}
            () = shutdown.triggered() => return,
        }
    }
}

/// Makes the API show the static pods that there are, and no others.
async fn mirror(manager: &Arc<Manager>) {
    let context = manager.context();
    let statics: Vec<Arc<Pod>> = manager
        .active_pods()
        .into_iter()
        .filter(|pod| spec::is_static(pod))
        .collect();
    let mirrors = manager.mirrors();
    let same_place = |a: &Pod, b: &Pod| {
        spec::name(a) == spec::name(b) && spec::namespace(a) == spec::namespace(b)
    };
    for mirror in &mirrors {
        let current = statics.iter().any(|pod| {
            same_place(pod, mirror)
                && spec::annotation(mirror, MIRROR_ANNOTATION)
                    == spec::annotation(pod, HASH_ANNOTATION)
                && !spec::deleting(mirror)
        });
        if !current {
            let (namespace, name) = (spec::namespace(mirror), spec::name(mirror));
            let deleted = context
                .cluster
                .delete_pod(namespace, name, spec::uid(mirror))
                .await;
            if let Err(error) = deleted {
                tracing::warn!(name, %error, "cannot delete a mirror pod");
            }
        }
    }
    for pod in statics {
        if mirrors.iter().any(|mirror| same_place(&pod, mirror)) {
            continue;
        }
        let mirror = mirror_of(&pod, context.cluster.node().as_deref());
        match context.cluster.create_pod(&mirror).await {
            // A conflict: the watch has not told us yet.
            Ok(_) | Err(ClusterError::Conflict(_)) => {}
            Err(error) => {
                tracing::warn!(pod = spec::display(&pod), %error, "cannot create a mirror pod");
            }
        }
    }
}

fn mirror_of(pod: &Pod, node: Option<&k8s_openapi::api::core::v1::Node>) -> Pod {
    let mut mirror = pod.clone();
    let hash = spec::annotation(pod, HASH_ANNOTATION)
        .unwrap_or_default()
        .to_owned();
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    annotations.insert(MIRROR_ANNOTATION.to_owned(), hash);
    mirror.metadata.uid = None;
    let owner = node.and_then(|node| {
        Some(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.metadata.name.clone()?,
            uid: node.metadata.uid.clone()?,
            controller: Some(true),
            block_owner_deletion: None,
        })
    });
    mirror.metadata.owner_references = owner.map(|owner| vec![owner]);
    mirror.status = None;
    mirror
}

/// The pods of all manifests in a directory; what cannot be read is left out with a warning.
#[must_use]
pub fn read_directory(directory: &Path, config: &KubeletConfig, seen: &str) -> Vec<Pod> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or(".");
            path.is_file() && !name.starts_with('.')
        })
        .collect();
    files.sort();
    let mut pods = Vec::new();
    for path in files {
        let read = std::fs::read_to_string(&path).map_err(|e| e.to_string());
        match read.and_then(|text| parse(&text, &path, config, seen)) {
            Ok(pod) => pods.push(pod),
            Err(error) => {
                tracing::warn!(path = %path.display(), error, "not a static pod");
            }
        }
    }
    pods
}

/// The pod of one manifest, with what a static pod is given.
pub fn parse(text: &str, path: &Path, config: &KubeletConfig, seen: &str) -> Result<Pod, String> {
    // By way of a value: YAML straight into a pod would be one more copy of the code that reads each of its fields.
    let value: serde_json::Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    let mut pod: Pod = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let name = spec::name(&pod).to_owned();
    if name.is_empty() || spec::containers(&pod).is_empty() {
        return Err("no name or no containers".to_owned());
    }
    let node = &config.node_name;
    let hash = hash(&[text, &path.to_string_lossy(), node]);
    pod.metadata.name = Some(format!("{name}-{}", node.to_lowercase()));
    pod.metadata
        .namespace
        .get_or_insert_with(|| "default".to_owned());
    pod.metadata.uid = Some(hash.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(SOURCE_ANNOTATION.to_owned(), "file".to_owned());
    annotations.insert(SEEN_ANNOTATION.to_owned(), seen.to_owned());
    annotations.insert(HASH_ANNOTATION.to_owned(), hash);
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.node_name = Some(node.clone());
    pod_spec
        .restart_policy
        .get_or_insert_with(|| "Always".to_owned());
    pod_spec
        .dns_policy
        .get_or_insert_with(|| "ClusterFirst".to_owned());
    pod_spec.termination_grace_period_seconds.get_or_insert(30);
    pod_spec.enable_service_links.get_or_insert(true);
    let every = Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    };
    let tolerations = pod_spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&every) {
        tolerations.push(every);
    }
    let init = pod_spec.init_containers.iter_mut().flatten();
    for container in pod_spec.containers.iter_mut().chain(init) {
        fill(container);
    }
    Ok(pod)
}

fn fill(container: &mut Container) {
    let image = container.image.clone().unwrap_or_default();
    container.image_pull_policy.get_or_insert_with(|| {
        let latest = with_default_tag(&image).ends_with(":latest");
        if latest { "Always" } else { "IfNotPresent" }.to_owned()
    });
    container
        .termination_message_path
        .get_or_insert_with(|| "/dev/termination-log".to_owned());
    container
        .termination_message_policy
        .get_or_insert_with(|| "File".to_owned());
}

/// 32 hexadecimal digits from texts: two rounds of FNV-1a with different beginnings.
fn hash(texts: &[&str]) -> String {
    let round = |mut state: u64| {
        for byte in texts.iter().flat_map(|t| t.bytes().chain([0])) {
            state ^= u64::from(byte);
            state = state.wrapping_mul(0x0000_0100_0000_01b3);
        }
        state
    };
    format!(
        "{:016x}{:016x}",
        round(0xcbf2_9ce4_8422_2325),
        round(0x6c62_272e_07bb_0142)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: c\n    image: img:1\n";

    #[test]
    fn a_manifest_becomes_a_pod() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.yaml"), MANIFEST).unwrap();
        std::fs::write(root.path().join("b.yaml"), "kind: Nonsense").unwrap();
        std::fs::write(root.path().join(".hidden"), MANIFEST).unwrap();
        let config = KubeletConfig::new("Node1", "1.1.1.1", root.path());
        let pods = read_directory(root.path(), &config, "now");
        assert_eq!(pods.len(), 1);
        let pod = &pods[0];
        assert_eq!(spec::name(pod), "web-node1");
        assert_eq!(spec::namespace(pod), "default");
        assert!(spec::is_static(pod));
        assert_eq!(spec::uid(pod).len(), 32);
        let container = &spec::containers(pod)[0];
        assert_eq!(container.image_pull_policy.as_deref(), Some("IfNotPresent"));
        let changed = MANIFEST.replace("img:1", "img:2");
        let path = root.path().join("a.yaml");
        let other = parse(&changed, &path, &config, "now").unwrap();
        assert_ne!(spec::uid(&other), spec::uid(pod));
        let mirror = mirror_of(pod, None);
        assert!(spec::is_mirror(&mirror) && mirror.metadata.uid.is_none());
    }
}
