//! Unpacks an image layer into a directory that overlayfs takes as a lower layer.
//!
//! A layer comes from a stranger. Nothing it says may reach outside of its directory: names with
//! `..` or a leading slash and parents that are symbolic links are refused, and every step opens
//! relative to directory descriptors with `openat2`, so that the kernel checks it too. Sizes and
//! counts are limited.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawMode, ResolveFlags, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use super::guard::HeaderGuard;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS_PRIVATE: &[u8] = b".wh..wh.";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// How much a layer may unpack to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes in regular files, all together.
    pub bytes: u64,
    /// Files, directories, links and devices, all together.
    pub entries: u64,
    /// Bytes that stay free on the disk.
    pub keep_free: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 2_000_000,
            keep_free: 64 << 20,
        }
    }
}

/// The disk's room is looked at whenever so many bytes more were written.
const CHECKED: u64 = 16 << 20;

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is damaged, or the disk is.
    #[error("cannot unpack layer: {0}")]
    Io(#[from] io::Error),
    /// A step failed for one entry.
    #[error("cannot unpack {path:?}: {source}")]
    Entry {
        /// Name in the archive.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name that would lead out of the layer.
    #[error("layer entry {path:?} refused: {reason}")]
    Refused {
        /// Name in the archive.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// It is larger than allowed.
    #[error("layer is too large: more than {limit} {what}")]
    TooLarge {
        /// The limit.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// The disk is full.
    #[error("no space left for image layers: less than {0} bytes would stay free")]
    DiskFull(u64),
}

/// What a layer came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes in regular files.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

/// Unpacks the tar stream `reader` into `root`, an empty directory.
pub fn unpack(reader: impl Read, root: &Path, limits: &Limits) -> Result<Unpacked, UnpackError> {
    let mut unpacker = Unpacker::open(root, *limits)?;
    let mut archive = tar::Archive::new(HeaderGuard::new(reader));
    archive.set_ignore_zeros(false);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        unpacker.entry(&mut entry, &path)?;
    }
    unpacker.finish()?;
    // The digest of the layer covers what comes after the last entry too.
    let mut rest = archive.into_inner().into_inner();
    let padding = io::copy(&mut rest.by_ref().take(1 << 20), &mut io::sink())?;
    if padding == 1 << 20 {
        return Err(UnpackError::TooLarge {
            limit: 1 << 20,
            what: "bytes after the end of the archive",
        });
    }
    Ok(unpacker.done)
}

struct Unpacker {
    root: OwnedFd,
    limits: Limits,
    done: Unpacked,
    /// The directory that the last entry was in: entries come sorted.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Directories get their times when nothing is added to them any more.
    times: HashMap<PathBuf, i64>,
    unchecked: u64,
}

impl Unpacker {
    fn open(root: &Path, limits: Limits) -> io::Result<Self> {
        let root = rustix::fs::open(
            root,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        )?;
        Ok(Self {
            root,
            limits,
            done: Unpacked::default(),
            parent: None,
            times: HashMap::new(),
            unchecked: 0,
        })
    }

    fn entry<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        path: &Path,
    ) -> Result<(), UnpackError> {
        self.done.entries += 1;
        if self.done.entries > self.limits.entries {
            return Err(UnpackError::TooLarge {
                limit: self.limits.entries,
                what: "entries",
            });
        }
        let clean = clean(path).map_err(|reason| refused(path, reason))?;
        let Some(name) = clean.file_name().map(OsStr::to_owned) else {
            return self.root_directory(entry).map_err(at(path));
        };
        let parent = self.parent_of(&clean, path)?;
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return whiteout(parent.as_fd(), name.as_bytes(), hidden, path);
        }
        self.create(entry, parent.as_fd(), &name, &clean, path)
    }

    fn root_directory<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
        if entry.header().entry_type().is_dir() {
            let root = self.root.try_clone()?;
            let header = entry.header();
            rustix::fs::fchown(
                &root,
                Some(rustix::fs::Uid::from_raw(number(header.uid()?)?)),
                Some(rustix::fs::Gid::from_raw(number(header.gid()?)?)),
            )?;
            rustix::fs::fchmod(&root, mode(header.mode()?))?;
        }
        Ok(())
    }

    fn create<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        clean: &Path,
        path: &Path,
    ) -> Result<(), UnpackError> {
        use tar::EntryType;
        let kind = entry.header().entry_type();
        let replaced = make_room(parent, name, kind.is_dir()).map_err(at(path))?;
        let special = |file_type, device| {
            rustix::fs::mknodat(parent, name, file_type, Mode::from_raw_mode(0o600), device)
                .map_err(io::Error::from)
                .map_err(at(path))
        };
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(entry, parent, name, path)?;
            }
            EntryType::Directory => {
                directory(parent, name, replaced == Replaced::Whiteout).map_err(at(path))?;
                let mtime = entry.header().mtime().unwrap_or(0);
                self.times.insert(clean.to_owned(), mtime as i64);
            }
            EntryType::Symlink => {
                let target = link_name(entry, path)?;
                rustix::fs::symlinkat(target.as_os_str(), parent, name)
                    .map_err(io::Error::from)
                    .map_err(at(path))?;
            }
            EntryType::Link => {
                let target = link_name(entry, path)?;
                // A hard link shares owner, mode and times with its target.
                return self.hard_link(&target, parent, name, path);
            }
            EntryType::Char => {
                special(FileType::CharacterDevice, device(entry).map_err(at(path))?)?
            }
            EntryType::Block => special(FileType::BlockDevice, device(entry).map_err(at(path))?)?,
            EntryType::Fifo => special(FileType::Fifo, 0)?,
            // Global headers speak about the archive (git writes them); nothing to make.
            EntryType::XGlobalHeader => return Ok(()),
            _ => return Err(refused(path, "unknown kind of entry")),
        }
        metadata(entry, parent, name, kind).map_err(at(path))
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), UnpackError> {
        self.foresee(entry.size())?;
        let fd = rustix::fs::openat(
            parent,
            name,
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .map_err(io::Error::from)
        .map_err(at(path))?;
        let mut file = File::from(fd);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = entry.read(&mut buffer).map_err(at(path))?;
            if count == 0 {
                return Ok(());
            }
            self.account(count as u64)?;
            file.write_all(&buffer[..count]).map_err(at(path))?;
        }
    }

    /// Refuses a file whose declared size cannot fit before a byte of it is written.
    fn foresee(&self, size: u64) -> Result<(), UnpackError> {
        if self.done.bytes.saturating_add(size) > self.limits.bytes {
            return Err(UnpackError::TooLarge {
                limit: self.limits.bytes,
                what: "bytes",
            });
        }
        if size >= CHECKED {
            let stat = rustix::fs::fstatvfs(&self.root).map_err(io::Error::from)?;
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            if free.saturating_sub(self.limits.keep_free) < size {
                return Err(UnpackError::DiskFull(self.limits.keep_free));
            }
        }
        Ok(())
    }

    fn account(&mut self, count: u64) -> Result<(), UnpackError> {
        self.done.bytes += count;
        if self.done.bytes > self.limits.bytes {
            return Err(UnpackError::TooLarge {
                limit: self.limits.bytes,
                what: "bytes",
            });
        }
        self.unchecked += count;
        if self.unchecked >= CHECKED {
            self.unchecked = 0;
            let stat = rustix::fs::fstatvfs(&self.root).map_err(io::Error::from)?;
            if stat.f_bavail.saturating_mul(stat.f_frsize) < self.limits.keep_free {
                return Err(UnpackError::DiskFull(self.limits.keep_free));
            }
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        target: &Path,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), UnpackError> {
        let target = clean(target).map_err(|reason| refused(path, reason))?;
        let Some(target_name) = target.file_name() else {
            return Err(refused(path, "a hard link to a directory"));
        };
        let beneath = target.parent().unwrap_or(Path::new(""));
        let dir =
            open_beneath(self.root.as_fd(), beneath).map_err(|errno| symlinked(errno, path))?;
        let stat = rustix::fs::statat(&dir, target_name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io::Error::from)
            .map_err(at(path))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(refused(path, "a hard link to a directory"));
        }
        rustix::fs::linkat(&dir, target_name, parent, name, AtFlags::empty())
            .map_err(io::Error::from)
            .map_err(at(path))
    }

    /// The directory of an entry; missing ones are made.
    fn parent_of(&mut self, clean: &Path, path: &Path) -> Result<OwnedFd, UnpackError> {
        let dir = clean.parent().unwrap_or(Path::new(""));
        if let Some((known, fd)) = &self.parent
            && known == dir
        {
            return Ok(fd.try_clone()?);
        }
        let fd = match open_beneath(self.root.as_fd(), dir) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => self.make_parents(dir, path)?,
            Err(errno) => return Err(symlinked(errno, path)),
        };
        self.parent = Some((dir.to_owned(), fd.try_clone()?));
        Ok(fd)
    }

    fn make_parents(&self, dir: &Path, path: &Path) -> Result<OwnedFd, UnpackError> {
        let mut fd = self.root.try_clone()?;
        for component in dir.components() {
            let name = component.as_os_str();
            match rustix::fs::mkdirat(&fd, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(at(path)(errno.into())),
            }
            fd = open_beneath(fd.as_fd(), Path::new(name))
                .map_err(|errno| symlinked(errno, path))?;
        }
        Ok(fd)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.parent = None;
        for (path, mtime) in &self.times {
            let Ok(dir) = open_beneath(self.root.as_fd(), path) else {
                // Replaced by something else later on.
                continue;
            };
            rustix::fs::futimens(&dir, &times(*mtime))?;
        }
        Ok(())
    }
}

fn refused(path: &Path, reason: &'static str) -> UnpackError {
    UnpackError::Refused {
        path: path.to_owned(),
        reason,
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> UnpackError + '_ {
    move |source| UnpackError::Entry {
        path: path.to_owned(),
        source,
    }
}

fn symlinked(errno: Errno, path: &Path) -> UnpackError {
    match errno {
        Errno::LOOP | Errno::XDEV => refused(path, "its parent is a symbolic link"),
        Errno::NOTDIR => refused(path, "its parent is not a directory"),
        errno => at(path)(errno.into()),
    }
}

/// The name without `./`, if it stays below the layer's root.
fn clean(path: &Path) -> Result<PathBuf, &'static str> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > libc::PATH_MAX as usize {
        return Err("its name is too long");
    }
    if bytes.contains(&0) {
        return Err("its name contains NUL");
    }
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err("its name contains .."),
            Component::RootDir | Component::Prefix(_) => return Err("its name is absolute"),
        }
    }
    Ok(clean)
}

fn open_beneath(root: BorrowedFd<'_>, dir: &Path) -> Result<OwnedFd, Errno> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    rustix::fs::openat2(
        root,
        dir,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

fn link_name<R: Read>(entry: &tar::Entry<'_, R>, path: &Path) -> Result<PathBuf, UnpackError> {
    let name = entry
        .link_name_bytes()
        .ok_or_else(|| refused(path, "a link without a target"))?;
    if name.is_empty() || name.contains(&0) {
        return Err(refused(path, "a link without a target"));
    }
    Ok(PathBuf::from(OsStr::from_bytes(&name)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Replaced {
    Nothing,
    Whiteout,
    Other,
}

/// Removes what an earlier entry of the same name left; a directory stays for a directory.
fn make_room(parent: BorrowedFd<'_>, name: &OsStr, for_directory: bool) -> io::Result<Replaced> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Replaced::Nothing),
        Err(errno) => return Err(errno.into()),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if for_directory => {}
        FileType::Directory => remove_tree(parent, name)?,
        kind => {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
                return Ok(Replaced::Whiteout);
            }
        }
    }
    Ok(Replaced::Other)
}

fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let dir = open_beneath(parent, Path::new(name))?;
    let names: Vec<OsString> = rustix::fs::Dir::read_from(&dir)?
        .filter_map(Result::ok)
        .map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())
        .filter(|name| name != "." && name != "..")
        .collect();
    for child in names {
        let stat = rustix::fs::statat(&dir, &child, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            remove_tree(dir.as_fd(), &child)?;
        } else {
            rustix::fs::unlinkat(&dir, &child, AtFlags::empty())?;
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

fn directory(parent: BorrowedFd<'_>, name: &OsStr, opaque: bool) -> io::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    if opaque {
        make_opaque(open_beneath(parent, Path::new(name))?.as_fd())?;
    }
    Ok(())
}

fn make_opaque(dir: BorrowedFd<'_>) -> io::Result<()> {
    rustix::fs::fsetxattr(dir, OPAQUE_XATTR, b"y", XattrFlags::empty())?;
    Ok(())
}

/// A name that hides something of the layers below.
fn whiteout(
    parent: BorrowedFd<'_>,
    name: &[u8],
    hidden: &[u8],
    path: &Path,
) -> Result<(), UnpackError> {
    if name == OPAQUE {
        return make_opaque(parent).map_err(at(path));
    }
    if name.starts_with(AUFS_PRIVATE) {
        return Ok(());
    }
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return Err(refused(path, "a whiteout of nothing"));
    }
    let hidden = OsStr::from_bytes(hidden);
    let make = || -> io::Result<()> {
        match rustix::fs::mknodat(
            parent,
            hidden,
            FileType::CharacterDevice,
            Mode::empty(),
            rustix::fs::makedev(0, 0),
        ) {
            Ok(()) => Ok(()),
            // This layer has the name itself: only what lies below it is hidden.
            Err(Errno::EXIST) => match open_beneath(parent, Path::new(hidden)) {
                Ok(dir) => make_opaque(dir.as_fd()),
                Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(errno) => Err(errno.into()),
            },
            Err(errno) => Err(errno.into()),
        }
    };
    make().map_err(at(path))
}

fn device<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<u64> {
    let header = entry.header();
    let major = header.device_major()?.unwrap_or(0);
    let minor = header.device_minor()?.unwrap_or(0);
    Ok(rustix::fs::makedev(major, minor))
}

fn number(value: u64) -> io::Result<u32> {
    u32::try_from(value).map_err(|_| io::Error::other("user or group id out of range"))
}

fn mode(value: u32) -> Mode {
    Mode::from_raw_mode((value & 0o7777) as RawMode)
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn metadata<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    parent: BorrowedFd<'_>,
    name: &OsStr,
    kind: tar::EntryType,
) -> io::Result<()> {
    let (uid, gid) = (
        number(entry.header().uid()?)?,
        number(entry.header().gid()?)?,
    );
    rustix::fs::chownat(
        parent,
        name,
        Some(rustix::fs::Uid::from_raw(uid)),
        Some(rustix::fs::Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    if !kind.is_symlink() {
        // The last component was made by us a moment ago and is no symbolic link.
        rustix::fs::chmodat(parent, name, mode(entry.header().mode()?), AtFlags::empty())?;
        attributes(entry, parent, name)?;
    }
    if !kind.is_dir() {
        let mtime = entry.header().mtime().unwrap_or(0) as i64;
        rustix::fs::utimensat(parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Extended attributes: file capabilities and user attributes. Others would speak to the kernel of
/// the node (`trusted.overlay.*` redirects to other layers, `security.selinux` is the node's).
fn attributes<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    parent: BorrowedFd<'_>,
    name: &OsStr,
) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else {
        return Ok(());
    };
    for extension in extensions {
        let extension = extension?;
        let Some(key) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") else {
            continue;
        };
        if key != b"security.capability" && !key.starts_with(b"user.") {
            continue;
        }
        let key = CString::new(key).map_err(|_| io::Error::other("NUL in an attribute's name"))?;
        // There is no *at call for attributes: go by the directory's descriptor.
        let path = Path::new("/proc/self/fd")
            .join(parent.as_raw_fd().to_string())
            .join(name);
        match rustix::fs::lsetxattr(&path, &key, extension.value_bytes(), XattrFlags::empty()) {
            Ok(()) => {}
            // The file system or the kind of file does not carry it.
            Err(Errno::NOTSUP | Errno::PERM) if key.as_bytes().starts_with(b"user.") => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
