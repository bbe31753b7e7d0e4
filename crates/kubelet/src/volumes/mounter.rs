//! Mounts on the host: the seam between volumes and the kernel.

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};

/// What volumes need of the kernel.
pub trait Mounter: Send + Sync + Debug {
    /// Mounts a file system in memory at `path`, unless one is there. `size` in bytes bounds it.
    fn memory(&self, path: &Path, size: Option<u64>) -> io::Result<()>;
    /// Mounts what `source` is open on at `target`, which exists.
    fn bind(&self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()>;
    /// The mount points below `path`, `path` itself included, outermost first.
    fn below(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// Takes away the uppermost mount at `path`.
    fn unmount(&self, path: &Path) -> io::Result<()>;
}

/// The real kernel.
#[derive(Debug, Default)]
pub struct KernelMounter;

impl Mounter for KernelMounter {
    fn memory(&self, path: &Path, size: Option<u64>) -> io::Result<()> {
        if self.below(path)?.iter().any(|mount| mount == path) {
            return Ok(());
        }
        let options = size.map(|size| format!("size={size}"));
        nix::mount::mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::empty(),
            options.as_deref(),
        )?;
        Ok(())
    }

    fn bind(&self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
        let source = format!("/proc/self/fd/{}", source.as_raw_fd());
        let none: Option<&str> = None;
        nix::mount::mount(
            Some(source.as_str()),
            target,
            none,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            none,
        )?;
        Ok(())
    }

    fn below(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        Ok(mounts_below(&table, path))
    }

    fn unmount(&self, path: &Path) -> io::Result<()> {
        let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        nix::mount::umount2(path, flags)?;
        Ok(())
    }
}

/// The mount points of a `mountinfo` table that are `path` or below it.
fn mounts_below(table: &str, path: &Path) -> Vec<PathBuf> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(path))
        .collect()
}

/// The kernel writes blanks and backslashes in octal.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let octal = (byte == b'\\')
            .then(|| text.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(value) => {
                out.push(value);
                at += 4;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A kernel that mounts nothing: for tests and simulations.
#[derive(Debug, Default)]
pub struct NoMounts {
    mounted: parking_lot::Mutex<Vec<PathBuf>>,
}

impl Mounter for NoMounts {
    fn memory(&self, path: &Path, _size: Option<u64>) -> io::Result<()> {
        let mut mounted = self.mounted.lock();
        if !mounted.iter().any(|mount| mount == path) {
            mounted.push(path.to_owned());
        }
        Ok(())
    }

    fn bind(&self, _source: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
        self.mounted.lock().push(target.to_owned());
        Ok(())
    }

    fn below(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mounted = self.mounted.lock();
        Ok(mounted
            .iter()
            .filter(|m| m.starts_with(path))
            .cloned()
            .collect())
    }

    fn unmount(&self, path: &Path) -> io::Result<()> {
        let mut mounted = self.mounted.lock();
        match mounted.iter().rposition(|mount| mount == path) {
            Some(index) => {
                mounted.remove(index);
                Ok(())
            }
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_mount_table() {
        let table = "22 1 0:21 / / rw - ext4 /dev/sda rw\n\
                     30 22 0:33 / /a/b\\040c rw - tmpfs tmpfs rw\n\
                     31 30 0:34 / /a/b\\040c/d rw - tmpfs tmpfs rw\n\
                     32 22 0:35 / /a/bc rw - tmpfs tmpfs rw\n";
        let found = mounts_below(table, Path::new("/a/b c"));
        assert_eq!(found, [Path::new("/a/b c"), Path::new("/a/b c/d")]);
    }
}
