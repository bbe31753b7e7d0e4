//! `subPath`: a part of a volume, found without ever leaving the volume.
//!
//! A container may have planted symbolic links in the volume. So the kernel itself is asked to resolve the path
//! beneath the volume's root, and what it opened is bound to a place that no container can reach.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2};

use crate::volumes::VolumeError;
use crate::volumes::mounter::Mounter;

/// Opens `path` beneath `root`; directories that are missing are made when `create` says so.
pub fn open_beneath(root: &Path, path: &Path, create: bool) -> io::Result<OwnedFd> {
    let normal = path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !normal {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "subpath must not contain '..' or be absolute",
        ));
    }
    let root = openat(
        CWD,
        root,
        OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY,
        Mode::empty(),
    )?;
    match beneath(root.as_fd(), path) {
        Err(rustix::io::Errno::NOENT) if create => {}
        other => return Ok(other?),
    }
    let mode = Mode::from_raw_mode(fstat(&root)?.st_mode & 0o777);
    let mut reached = PathBuf::new();
    let mut directory = beneath(root.as_fd(), Path::new("."))?;
    for part in path.components() {
        reached.push(part);
        directory = match beneath(root.as_fd(), &reached) {
            Err(rustix::io::Errno::NOENT) => match mkdirat(&directory, part.as_os_str(), mode) {
                Ok(()) => {
                    let made = beneath(root.as_fd(), &reached)?;
                    set_mode(&made, mode)?;
                    made
                }
                Err(rustix::io::Errno::EXIST) => beneath(root.as_fd(), &reached)?,
                Err(error) => return Err(error.into()),
            },
            other => other?,
        };
    }
    Ok(directory)
}

/// Gives a directory that was just made the mode that it was to have, whatever the process's mask took of it.
fn set_mode(directory: &OwnedFd, mode: Mode) -> io::Result<()> {
    let stat = fstat(directory)?;
    // Somebody may have put something else in its place meanwhile: that is left alone.
    if stat.st_mode & 0o170_000 != 0o040_000 {
        return Ok(());
    }
    let directory = openat(
        directory,
        ".",
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY,
        Mode::empty(),
    )?;
    Ok(rustix::fs::fchmod(&directory, mode)?)
}

fn beneath(root: std::os::fd::BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Binds `sub_path` of the volume at `volume` to `target` and returns `target`.
pub fn prepare(
    volume: &Path,
    sub_path: &str,
    target: &Path,
    mounter: &dyn Mounter,
) -> Result<PathBuf, VolumeError> {
    let inside = Path::new(sub_path);
    let shown = volume.join(inside);
    let opened = open_beneath(volume, inside, true)
        .map_err(VolumeError::io("failed to prepare subPath", &shown))?;
    let stat = fstat(&opened).map_err(io::Error::from);
    let stat = stat.map_err(VolumeError::io("stat", &shown))?;
    let is_directory = stat.st_mode & 0o170_000 == 0o040_000;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(VolumeError::io("mkdir", parent))?;
    }
    // A restarted container gets a fresh look at the volume: the old file may have been replaced.
    let mounted = mounter.below(target).unwrap_or_default();
    for mount in mounted.iter().rev() {
        mounter
            .unmount(mount)
            .map_err(VolumeError::io("unmount", mount))?;
    }
    make_target(target, is_directory).map_err(VolumeError::io("create", target))?;
    mounter
        .bind(opened.as_fd(), target)
        .map_err(VolumeError::io("bind", target))?;
    Ok(target.to_owned())
}

fn make_target(target: &Path, directory: bool) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() == directory => return Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir(target)?,
        Ok(_) => fs::remove_file(target)?,
        Err(_) => {}
    }
    if directory {
        fs::create_dir(target)
    } else {
        fs::File::create(target).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn stays_beneath_the_volume() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("v");
        fs::create_dir_all(volume.join("real")).unwrap();
        fs::write(root.path().join("secret"), "x").unwrap();
        symlink("real", volume.join("inner")).unwrap();
        symlink("../secret", volume.join("out")).unwrap();
        symlink("/etc", volume.join("abs")).unwrap();
        for (path, good) in [
            ("real", true),
            ("inner", true),
            ("inner/new/deep", true),
            ("out", false),
            ("abs/passwd", false),
            ("abs/new", false),
            ("../secret", false),
            ("real/../../secret", false),
            ("/etc", false),
        ] {
            let opened = open_beneath(&volume, Path::new(path), true);
            assert_eq!(opened.is_ok(), good, "{path}: {opened:?}");
        }
        assert!(volume.join("real/new/deep").is_dir());
        assert!(!Path::new("/etc/new").exists());
    }
}
