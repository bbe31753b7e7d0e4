//! Removes a pod's directory, and nothing else: mounts below it are taken away first.

use std::fs;
use std::io;
use std::path::Path;

use crate::volumes::VolumeError;
use crate::volumes::mounter::Mounter;

/// Takes away all mounts below the directory and removes it. It is fine when there is none.
pub fn remove_pod_directory(directory: &Path, mounter: &dyn Mounter) -> Result<(), VolumeError> {
    let list = |path: &Path| {
        mounter
            .below(path)
            .map_err(VolumeError::io("list mounts of", path))
    };
    // Innermost first; a mount over a mount is listed twice.
    for mount in list(directory)?.iter().rev() {
        mounter
            .unmount(mount)
            .map_err(VolumeError::io("unmount", mount))?;
    }
    if let Some(left) = list(directory)?.first() {
        // Never remove what lies in a mount.
        let error = io::Error::other("still mounted");
        return Err(VolumeError::io("unmount", left)(error));
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(VolumeError::io("remove", directory)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::mounter::NoMounts;

    #[test]
    fn unmounts_then_removes() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("pod");
        let volume = directory.join("volumes/x");
        fs::create_dir_all(&volume).unwrap();
        let mounter = NoMounts::default();
        mounter.memory(&volume, None).unwrap();
        remove_pod_directory(&directory, &mounter).unwrap();
        assert!(!directory.exists());
        assert!(mounter.below(root.path()).unwrap().is_empty());
        remove_pod_directory(&directory, &mounter).unwrap();
    }
}
