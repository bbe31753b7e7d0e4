//! `skiff kubectl`: hands over to an installed kubectl, until there is one of our own.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Becomes kubectl. Without a kubeconfig of the user's it is given the administrator's.
pub fn run(arguments: &[String]) -> Result<()> {
    let ourselves = std::env::current_exe()
        .and_then(|path| path.canonicalize())
        .ok();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(kubectl) = find(
        &std::env::split_paths(&path).collect::<Vec<_>>(),
        ourselves.as_deref(),
    ) else {
        bail!("no kubectl is installed; install one (any from 1.27 on), skiff's own comes later");
    };
    #[allow(clippy::disallowed_types, reason = "the process becomes kubectl")]
    let mut command = std::process::Command::new(&kubectl);
    let admin = PathBuf::from(
        std::env::var_os("SKIFF_DATA_DIR").unwrap_or_else(|| "/var/lib/skiff".into()),
    )
    .join("admin.kubeconfig");
    let users = crate::kubeconfig::users_file().is_some_and(|file| file.exists());
    if !users && std::fs::File::open(&admin).is_ok() {
        command.env("KUBECONFIG", admin);
    }
    Err(command.args(arguments).exec()).with_context(|| format!("running {}", kubectl.display()))
}

fn find(folders: &[PathBuf], ourselves: Option<&Path>) -> Option<PathBuf> {
    folders
        .iter()
        .map(|folder| folder.join("kubectl"))
        .find(|path| {
            path.canonicalize()
                .is_ok_and(|real| Some(real.as_path()) != ourselves)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_ourselves_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::create_dir_all(&ours).unwrap();
        std::fs::create_dir_all(&theirs).unwrap();
        let skiff = folder.path().join("skiff");
        std::fs::write(&skiff, "").unwrap();
        std::os::unix::fs::symlink(&skiff, ours.join("kubectl")).unwrap();
        assert_eq!(find(std::slice::from_ref(&ours), Some(&skiff)), None);
        std::fs::write(theirs.join("kubectl"), "").unwrap();
        assert_eq!(
            find(&[ours, theirs.clone()], Some(&skiff)),
            Some(theirs.join("kubectl"))
        );
    }
}
