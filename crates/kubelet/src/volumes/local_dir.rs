//! Directories of this node that are persistent volumes: made when a pod mounts them, removed when the cluster asks.
//!
//! The controllers' `dir_provisioner` makes the volumes. What it wants removed stands in annotations of the node; the
//! answer goes there too, as a kubelet may write to no other object. Only names of volumes are believed, never paths.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use skiff_base::Shutdown;
use skiff_client::Event;
use tokio::sync::mpsc;

use crate::volumes::VolumeError;
use crate::volumes::mounter::Mounter;

/// The annotation by which the node names the directory of its volumes.
pub const NODE_DIRECTORY: &str = "skiff.local/volumes-directory";
/// What comes before a volume's name in the annotations about its removal.
const REMOVAL: &str = "volumes.skiff.local/";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const PROVISIONER: &str = "skiff.local/dir";
/// The last part of the directory's path, and the longest name of a file.
const FOLDER: &str = "local-volumes";
const LONGEST: usize = 255;

/// Where the volumes of a kubelet with this root directory are.
#[must_use]
pub fn directory(root: &Path) -> PathBuf {
    root.join(FOLDER)
}

/// Whether this can be the name of a volume, and is one of a file too that leads nowhere else.
fn is_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    name.len() <= LONGEST
        && bytes.first().is_some_and(|byte| letter(*byte))
        && bytes
            .iter()
            .all(|byte| letter(*byte) || matches!(byte, b'-' | b'.'))
}

/// Makes the directory of a volume that was provisioned here, if it is missing: only its last part, which must be the
/// volume's name, and only where the rest is a directory of volumes.
pub fn make(volume: &PersistentVolume, path: &Path) -> Result<(), VolumeError> {
    let annotations = volume.metadata.annotations.as_ref();
    let ours = annotations
        .and_then(|annotations| annotations.get(PROVISIONED_BY))
        .is_some_and(|by| by == PROVISIONER);
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let in_place = path.file_name().and_then(|last| last.to_str()) == Some(name)
        && path.parent().is_some_and(|parent| parent.ends_with(FOLDER));
    if !ours || !in_place || !is_name(name) {
        return Ok(());
    }
    match fs::create_dir(path) {
        Ok(()) => {
            // Whoever the pod's containers run as may write.
            fs::set_permissions(path, fs::Permissions::from_mode(0o777))
                .map_err(VolumeError::io("chmod", path))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(VolumeError::io("mkdir", path)(error)),
    }
}

/// Removes a volume's directory and what is in it. Links in it are not followed, and it stays while something is
/// mounted in it.
fn remove(root: &Path, name: &str, mounter: &dyn Mounter) -> Result<(), String> {
    if !is_name(name) {
        return Err("not the name of a volume".to_owned());
    }
    let path = directory(root).join(name);
    let mounts = mounter.below(&path).map_err(|error| error.to_string())?;
    if let Some(mount) = mounts.first() {
        return Err(format!("{} is mounted", mount.display()));
    }
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// The volumes whose directories the node is asked to remove.
fn asked(node: &Node) -> Vec<String> {
    let annotations = node.metadata.annotations.iter().flatten();
    let asked = annotations.filter(|(_, word)| *word == "remove");
    asked
        .filter_map(|(key, _)| key.strip_prefix(REMOVAL).map(str::to_owned))
        .collect()
}

/// Removes what the node is asked to, until `shutdown`.
pub async fn run(
    client: Client,
    root: PathBuf,
    mounter: Arc<dyn Mounter>,
    mut nodes: mpsc::UnboundedReceiver<Event<Node>>,
    shutdown: Shutdown,
) {
    let api: Api<Node> = Api::all(client);
    loop {
        let event = tokio::select! {
            Some(event) = nodes.recv() => event,
            () = shutdown.triggered() => return,
        };
        let node = event.object();
        let name = node.metadata.name.as_deref().unwrap_or_default();
        for volume in asked(node) {
            let (root, mounter, what) = (root.clone(), mounter.clone(), volume.clone());
            let removal = move || remove(&root, &what, &*mounter);
            let outcome = tokio::task::spawn_blocking(removal).await;
            let answer = match outcome {
                Ok(Ok(())) => "removed".to_owned(),
                Ok(Err(error)) => format!("failed: {error}"),
                Err(error) => format!("failed: {error}"),
            };
            if answer != "removed" {
                tracing::warn!(volume, answer, "cannot remove a volume's directory");
            }
            let patch =
                json!({"metadata": {"annotations": {format!("{REMOVAL}{volume}"): answer}}});
            let patch = Patch::Merge(&patch);
            if let Err(error) = api.patch(name, &PatchParams::default(), &patch).await {
                // The next change of the node, at the latest its next report, brings it here again.
                tracing::debug!(volume, %error, "cannot tell of a removal");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::mounter::NoMounts;

    fn volume(name: &str, by: &str) -> PersistentVolume {
        serde_json::from_value(
            json!({"metadata": {"name": name, "annotations": {PROVISIONED_BY: by}}}),
        )
        .unwrap()
    }

    #[test]
    fn directories_are_made_only_in_their_place() {
        let root = tempfile::tempdir().unwrap();
        let place = directory(root.path());
        fs::create_dir(&place).unwrap();
        let path = place.join("pvc-1");
        make(&volume("pvc-1", PROVISIONER), &path).unwrap();
        make(&volume("pvc-1", PROVISIONER), &path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o777);
        for (name, by, path) in [
            ("pvc-2", "other", place.join("pvc-2")),
            ("pvc-3", PROVISIONER, place.join("other")),
            ("pvc-4", PROVISIONER, root.path().join("pvc-4")),
            ("..", PROVISIONER, place.join("..")),
        ] {
            make(&volume(name, by), &path).unwrap();
        }
        let made =
            fs::read_dir(&place).unwrap().count() + fs::read_dir(root.path()).unwrap().count();
        assert_eq!(made, 2);
        let nowhere = Path::new("/nowhere/local-volumes/pvc-5");
        assert!(make(&volume("pvc-5", PROVISIONER), nowhere).is_err());
    }

    #[test]
    fn removal_stays_in_its_place() {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside");
        let inside = directory(root.path()).join("pvc-1");
        fs::create_dir_all(outside.join("kept")).unwrap();
        fs::create_dir_all(inside.join("sub")).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("sub/link")).unwrap();
        let mounter = NoMounts::default();
        for name in [
            "",
            ".",
            "..",
            "../outside",
            "pvc-1/../../outside",
            "/etc",
            "Pvc",
            "a\0",
        ] {
            assert!(remove(root.path(), name, &mounter).is_err(), "{name:?}");
        }
        mounter.memory(&inside.join("sub"), None).unwrap();
        assert!(remove(root.path(), "pvc-1", &mounter).is_err());
        mounter.unmount(&inside.join("sub")).unwrap();
        remove(root.path(), "pvc-1", &mounter).unwrap();
        remove(root.path(), "pvc-1", &mounter).unwrap();
        assert!(!inside.exists() && outside.join("kept").exists());
        // A volume that is itself a link goes without what it leads to.
        std::os::unix::fs::symlink(&outside, directory(root.path()).join("pvc-2")).unwrap();
        let _ = remove(root.path(), "pvc-2", &mounter);
        assert!(outside.join("kept").exists());
    }

    #[test]
    fn what_the_node_is_asked() {
        let node: Node = serde_json::from_value(json!({"metadata": {"annotations": {
            "volumes.skiff.local/pvc-1": "remove", "volumes.skiff.local/pvc-2": "removed",
            "volumes.skiff.local/pvc-3": "failed: x", "other/pvc-4": "remove"}}}))
        .unwrap();
        assert_eq!(asked(&node), ["pvc-1"]);
    }
}
