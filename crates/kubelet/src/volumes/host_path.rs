//! `hostPath`: a file or directory of the node.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use crate::volumes::{Ready, SetUp, VolumeError, VolumePlugin};

/// The type.
pub struct HostPath;

#[async_trait]
impl VolumePlugin for HostPath {
    fn folder(&self) -> &'static str {
        "kubernetes.io~host-path"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.host_path.is_some()
    }

    async fn set_up(&self, set_up: &SetUp<'_>) -> Result<Ready, VolumeError> {
        let source = set_up.volume.host_path.clone().unwrap_or_default();
        let path = Path::new(&source.path).to_owned();
        check(&path, source.type_.as_deref().unwrap_or_default())?;
        Ok(Ready {
            path,
            refresh_after: None,
        })
    }
}

/// Checks that the path is of its type, and makes it where the type says so.
pub fn check(path: &Path, kind: &str) -> Result<(), VolumeError> {
    let wrong = |what: &str| {
        let path = path.display();
        Err(VolumeError::HostPathType(format!("{path} is not {what}")))
    };
    let found = fs::metadata(path).ok().map(|meta| meta.file_type());
    match (kind, found) {
        // A missing path of no type becomes a directory, as container runtimes make it.
        ("", None) => fs::create_dir_all(path).map_err(VolumeError::io("mkdir", path)),
        ("", Some(_)) => Ok(()),
        ("DirectoryOrCreate", None) => {
            fs::create_dir_all(path).map_err(VolumeError::io("mkdir", path))?;
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(path, mode).map_err(VolumeError::io("chmod", path))
        }
        ("FileOrCreate", None) => {
            fs::File::create(path).map_err(VolumeError::io("create", path))?;
            let mode = fs::Permissions::from_mode(0o644);
            fs::set_permissions(path, mode).map_err(VolumeError::io("chmod", path))
        }
        ("Directory" | "DirectoryOrCreate", Some(t)) if t.is_dir() => Ok(()),
        ("File" | "FileOrCreate", Some(t)) if t.is_file() => Ok(()),
        ("Socket", Some(t)) if t.is_socket() => Ok(()),
        ("CharDevice", Some(t)) if t.is_char_device() => Ok(()),
        ("BlockDevice", Some(t)) if t.is_block_device() => Ok(()),
        ("Directory" | "DirectoryOrCreate", _) => wrong("a directory"),
        ("File" | "FileOrCreate", _) => wrong("a file"),
        ("Socket", _) => wrong("a socket file"),
        ("CharDevice", _) => wrong("a character device"),
        ("BlockDevice", _) => wrong("a block device"),
        _ => wrong(&format!("an invalid volume type \"{kind}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("f");
        let new_directory = root.path().join("d/e");
        check(&file, "FileOrCreate").unwrap();
        check(&new_directory, "DirectoryOrCreate").unwrap();
        for (path, kind, good) in [
            (root.path(), "Directory", true),
            (root.path(), "File", false),
            (root.path(), "FileOrCreate", false),
            (&file, "File", true),
            (&file, "Directory", false),
            (&file, "Socket", false),
            (Path::new("/dev/null"), "CharDevice", true),
            (&root.path().join("any"), "", true),
            (Path::new("/nope"), "Directory", false),
            (&new_directory, "Directory", true),
        ] {
            assert_eq!(check(path, kind).is_ok(), good, "{} {kind}", path.display());
        }
    }
}
