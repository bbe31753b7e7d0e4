//! Writes the files of a volume so that a reader sees either all old or all new ones.
//!
//! The files lie in a directory with a name of its own; `..data` points to it, and the names that users see point
//! through `..data`. An update writes a new directory and turns `..data` with one rename.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::volumes::VolumeError;
use crate::volumes::ownership;
use crate::volumes::payload::Payload;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Makes `directory` show exactly `payload`. Nothing is touched when it does already.
pub fn write(
    directory: &Path,
    payload: &Payload,
    group: Option<u32>,
    now: Timestamp,
) -> Result<(), VolumeError> {
    fs::create_dir_all(directory).map_err(VolumeError::io("mkdir", directory))?;
    let current = fs::read_link(directory.join(DATA)).ok();
    let current = current.filter(|target| is_ours(target));
    let names = top_names(payload);
    if let Some(current) = &current
        && same(&directory.join(current), payload, group.is_some())
        && names.iter().all(|name| is_link(&directory.join(name)))
        && stale_names(directory, &names).is_empty()
    {
        return Ok(());
    }
    let fresh = fresh_name(directory, now);
    let target = directory.join(&fresh);
    write_all(&target, payload, group).map_err(VolumeError::io("write", &target))?;
    switch(directory, &fresh, &names).map_err(VolumeError::io("update", directory))?;
    for entry in old_directories(directory, &fresh) {
        if let Err(error) = fs::remove_dir_all(&entry) {
            tracing::warn!(path = %entry.display(), %error, "cannot remove old volume content");
        }
    }
    Ok(())
}

fn is_ours(target: &Path) -> bool {
    let mut parts = target.components();
    let first = parts.next().and_then(|p| p.as_os_str().to_str());
    parts.next().is_none() && first.is_some_and(is_timed)
}

/// Whether this is the name of a directory that [`fresh_name`] made.
fn is_timed(name: &str) -> bool {
    let rest = name.strip_prefix("..");
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_symlink())
}

/// The first components of the payload's paths: what users see in the volume.
fn top_names(payload: &Payload) -> BTreeSet<String> {
    let first = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
    payload.keys().map(first).collect()
}

/// A name that no directory has: the time, and a number where the clock stands still.
fn fresh_name(directory: &Path, now: Timestamp) -> String {
    let time = now.strftime("%Y_%m_%d_%H_%M_%S").to_string();
    let mut number = now.subsec_nanosecond();
    loop {
        let name = format!("..{time}.{number:09}");
        if !directory.join(&name).exists() {
            return name;
        }
        number += 1;
    }
}

fn same(current: &Path, payload: &Payload, of_group: bool) -> bool {
    let same_files = payload.iter().all(|(path, file)| {
        let path = current.join(path);
        let (Ok(meta), Ok(content)) = (fs::metadata(&path), fs::read(&path)) else {
            return false;
        };
        // A group that may read adds bits to the mode.
        let mode = if of_group {
            file.mode | 0o440
        } else {
            file.mode
        };
        content == file.content
            && meta.mode() & 0o777 == mode
            && meta.uid() == file.owner.unwrap_or_else(current_user)
    });
    same_files && count_files(current) == payload.len()
}

fn current_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn count_files(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => count_files(&entry.path()),
            _ => 1,
        })
        .sum()
}

fn write_all(target: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    fs::create_dir(target)?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let path = target.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
        if let Some(owner) = file.owner {
            std::os::unix::fs::chown(&path, Some(owner), None)?;
        }
    }
    match group {
        Some(group) => ownership::give_to_group(target, group, true),
        None => Ok(()),
    }
}

fn switch(directory: &Path, fresh: &str, names: &BTreeSet<String>) -> io::Result<()> {
    let new_data = directory.join(NEW_DATA);
    match fs::remove_file(&new_data) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(fresh, &new_data)?;
    fs::rename(&new_data, directory.join(DATA))?;
    for name in names {
        let link = directory.join(name);
        if !is_link(&link) {
            symlink(format!("{DATA}/{name}"), &link)?;
        }
    }
    for stale in stale_names(directory, names) {
        fs::remove_file(stale)?;
    }
    Ok(())
}

/// Links that users see and that the payload has no file for.
fn stale_names(directory: &Path, names: &BTreeSet<String>) -> Vec<PathBuf> {
    entries(directory)
        .filter(|(name, path)| !name.starts_with("..") && !names.contains(name) && is_link(path))
        .map(|(_, path)| path)
        .collect()
}

fn old_directories(directory: &Path, fresh: &str) -> Vec<PathBuf> {
    entries(directory)
        .filter(|(name, _)| is_timed(name) && name != fresh)
        .map(|(_, path)| path)
        .collect()
}

fn entries(directory: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let list = fs::read_dir(directory).into_iter().flatten().flatten();
    list.map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name, entry.path())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::payload::File;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |content: &str| File {
            content: content.into(),
            mode: 0o644,
            owner: None,
        };
        files
            .iter()
            .map(|(path, content)| ((*path).to_owned(), file(content)))
            .collect()
    }

    fn read(directory: &Path, path: &str) -> Option<String> {
        fs::read_to_string(directory.join(path)).ok()
    }

    #[test]
    fn writes_updates_and_leaves_alone() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("v");
        let now = Timestamp::UNIX_EPOCH;
        let first = payload(&[("a", "1"), ("sub/b", "2")]);
        write(&directory, &first, None, now).unwrap();
        assert_eq!(read(&directory, "a").as_deref(), Some("1"));
        assert_eq!(read(&directory, "sub/b").as_deref(), Some("2"));
        let link = fs::read_link(directory.join("..data")).unwrap();
        write(&directory, &first, None, now).unwrap();
        assert_eq!(fs::read_link(directory.join("..data")).unwrap(), link);
        write(&directory, &payload(&[("a", "9"), ("c", "3")]), None, now).unwrap();
        assert_eq!(read(&directory, "a").as_deref(), Some("9"));
        assert_eq!(read(&directory, "c").as_deref(), Some("3"));
        assert_eq!(read(&directory, "sub/b"), None);
        assert!(!directory.join("sub").exists());
        let timed = entries(&directory).filter(|(n, _)| is_timed(n)).count();
        assert_eq!(timed, 1);
        write(&directory, &Payload::new(), None, now).unwrap();
        assert_eq!(read(&directory, "a"), None);
    }

    #[test]
    fn a_changed_mode_is_an_update() {
        let root = tempfile::tempdir().unwrap();
        let mut one = payload(&[("a", "1")]);
        write(root.path(), &one, None, Timestamp::UNIX_EPOCH).unwrap();
        one.get_mut("a").unwrap().mode = 0o755;
        write(root.path(), &one, None, Timestamp::UNIX_EPOCH).unwrap();
        let mode = fs::metadata(root.path().join("a")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o755);
    }
}
