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
    use crate::volumes::mounter::{KernelMounter, NoMounts};
    use crate::volumes::subpath;

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

    /// Needs root: the kernel really mounts.
    #[test]
    fn root_takes_real_mounts_away_and_nothing_else() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside");
        fs::create_dir_all(outside.join("kept")).unwrap();
        fs::write(outside.join("kept/file"), "x").unwrap();
        let pod = root.path().join("pod");
        let memory = pod.join("volumes/memory");
        fs::create_dir_all(&memory).unwrap();
        let mounter = KernelMounter;
        mounter.memory(&memory, Some(1 << 20)).unwrap();
        mounter.memory(&memory, Some(1 << 20)).unwrap();
        fs::write(memory.join("secret"), "y").unwrap();
        let target = pod.join("volume-subpaths/v/c/0");
        for _ in 0..2 {
            subpath::prepare(&outside, "kept", &target, &mounter).unwrap();
        }
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "x");
        assert_eq!(mounter.below(&pod).unwrap().len(), 2);
        remove_pod_directory(&pod, &mounter).unwrap();
        assert!(!pod.exists());
        assert!(mounter.below(root.path()).unwrap().is_empty());
        assert_eq!(fs::read_to_string(outside.join("kept/file")).unwrap(), "x");
    }
}
