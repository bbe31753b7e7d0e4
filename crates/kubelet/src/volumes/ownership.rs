//! Gives a volume to the pod's `fsGroup`.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// Makes `group` own everything below `root`, able to read it and, unless `read_only`, to write it. New entries
/// inherit the group.
pub fn give_to_group(root: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let meta = fs::symlink_metadata(root)?;
    if meta.file_type().is_symlink() {
        return lchown(root, None, Some(group));
    }
    if meta.gid() != group {
        lchown(root, None, Some(group))?;
    }
    let wanted = wanted_mode(meta.mode(), meta.is_dir(), read_only);
    if wanted != meta.mode() & 0o7777 {
        fs::set_permissions(root, fs::Permissions::from_mode(wanted))?;
    }
    if meta.is_dir() {
        for entry in fs::read_dir(root)? {
            give_to_group(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}

fn wanted_mode(mode: u32, directory: bool, read_only: bool) -> u32 {
    let access = if read_only { 0o440 } else { 0o660 };
    let through = if directory { 0o2110 } else { 0 };
    (mode & 0o7777) | access | through
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(wanted_mode(0o100_600, false, true), 0o640);
        assert_eq!(wanted_mode(0o100_600, false, false), 0o660);
        assert_eq!(wanted_mode(0o040_755, true, false), 0o2775);
    }
}
