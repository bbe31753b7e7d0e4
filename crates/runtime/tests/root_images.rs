//! Layers as overlayfs sees them, archives in and out, and what strangers try. Needs root.

mod support;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use skiff_runtime::image::unpack::{UnpackError, unpack};
use skiff_runtime::image::{Execution, ImageReference, ImageStore, LayerBuilder, Limits};
use support::possible;

struct Entry<'a> {
    name: &'a str,
    kind: tar::EntryType,
    link: &'a str,
    content: &'a [u8],
    mode: u32,
}

fn entry<'a>(name: &'a str, kind: tar::EntryType, link: &'a str) -> Entry<'a> {
    Entry {
        name,
        kind,
        link,
        content: b"",
        mode: 0o755,
    }
}

fn file<'a>(name: &'a str, content: &'a [u8]) -> Entry<'a> {
    Entry {
        content,
        ..entry(name, tar::EntryType::Regular, "")
    }
}

/// An archive with names that honest tools would not write.
fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        header.as_old_mut().linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(1234);
        header.set_gid(5678);
        header.set_mtime(1_000_000);
        header.set_size(entry.content.len() as u64);
        header.set_cksum();
        tar.append(&header, entry.content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn unpack_entries(dir: &Path, entries: &[Entry<'_>]) -> Result<(), UnpackError> {
    unpack(archive(entries).as_slice(), dir, &Limits::default()).map(drop)
}

#[test]
fn escapes_are_refused() {
    if !possible() {
        return;
    }
    use tar::EntryType::{Directory, Link, Symlink};
    let cases: [&[Entry<'_>]; 8] = [
        &[file("../out", b"x")],
        &[file("/etc/out", b"x")],
        &[file("a/../../out", b"x")],
        &[entry("dir", Symlink, "/tmp"), file("dir/out", b"x")],
        &[entry("dir", Symlink, ".."), file("dir/out", b"x")],
        &[entry("link", Link, "../../etc/passwd")],
        &[
            entry("etc", Symlink, "/etc"),
            entry("link", Link, "etc/passwd"),
        ],
        &[entry("d", Directory, ""), entry("d/.wh...", Directory, "")],
    ];
    for (number, case) in cases.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("layer");
        fs::create_dir(&root).unwrap();
        let error = unpack_entries(&root, case).unwrap_err();
        assert!(
            matches!(error, UnpackError::Refused { .. }),
            "case {number}: {error}"
        );
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "case {number}"
        );
    }
}

#[test]
fn bombs_are_stopped() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        bytes: 1000,
        entries: 3,
        ..Limits::default()
    };
    let large = vec![0; 2000];
    let too_large = unpack(
        archive(&[file("a", &large)]).as_slice(),
        dir.path(),
        &limits,
    );
    assert!(matches!(too_large, Err(UnpackError::TooLarge { .. })));
    let many: Vec<_> = ["b", "c", "d", "e"].iter().map(|n| file(n, b"")).collect();
    let too_many = unpack(archive(&many).as_slice(), dir.path(), &limits);
    assert!(matches!(too_many, Err(UnpackError::TooLarge { .. })));
    let mut broken = archive(&[file("x", &large)]);
    broken.truncate(1500);
    assert!(unpack(broken.as_slice(), dir.path(), &Limits::default()).is_err());
}

#[test]
fn layers_keep_owners_modes_links_and_whiteouts() {
    if !possible() {
        return;
    }
    use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink};
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    unpack_entries(
        root,
        &[
            entry("opaque", Directory, ""),
            entry("opaque/.wh..wh..opq", Regular, ""),
            entry("gone/.wh.file", Regular, ""),
            Entry {
                mode: 0o4755,
                ..file("setuid", b"program")
            },
            entry("hard", Link, "setuid"),
            entry("soft", Symlink, "/anywhere/at/all"),
            entry("pipe", Fifo, ""),
            file("twice", b"old"),
            file("twice", b"new"),
            entry("replaced", Symlink, "/etc/passwd"),
            file("replaced", b"a file"),
        ],
    )
    .unwrap();
    let meta = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!(
        xattr::get(root.join("opaque"), "trusted.overlay.opaque").unwrap(),
        Some(b"y".to_vec())
    );
    let whiteout = meta("gone/file");
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(meta("setuid").permissions().mode() & 0o7777, 0o4755);
    assert_eq!((meta("setuid").uid(), meta("setuid").gid()), (1234, 5678));
    assert_eq!(meta("setuid").mtime(), 1_000_000);
    assert_eq!(meta("hard").ino(), meta("setuid").ino());
    assert_eq!(
        fs::read_link(root.join("soft")).unwrap(),
        Path::new("/anywhere/at/all")
    );
    assert_eq!(meta("soft").uid(), 1234);
    assert!(meta("pipe").file_type().is_fifo());
    assert_eq!(fs::read(root.join("twice")).unwrap(), b"new");
    assert_eq!(fs::read(root.join("replaced")).unwrap(), b"a file");
    assert_ne!(fs::read("/etc/passwd").unwrap(), b"a file");
}

fn store(dir: &Path) -> ImageStore {
    ImageStore::open(dir, Limits::default()).unwrap()
}

#[test]
fn images_travel_as_archives() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let from = store(&dir.path().join("a"));
    let name: ImageReference = "example.com/thing:1".parse().unwrap();
    let layer =
        LayerBuilder::new()
            .directory("etc", 0o755)
            .file("etc/passwd", 0o644, b"root:x:0:0::/:/\n");
    let execution = Execution {
        cmd: vec!["/x".into()],
        ..Execution::default()
    };
    let built = from.build(&name, &layer, execution.clone(), false).unwrap();
    let mut bytes = Vec::new();
    from.export("example.com/thing:1", &mut bytes).unwrap();

    let mut compressed = Vec::new();
    let mut encoder = flate2::write::GzEncoder::new(&mut compressed, flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &bytes).unwrap();
    encoder.finish().unwrap();
    let zstd = zstd::encode_all(bytes.as_slice(), 1).unwrap();
    for (number, archive) in [bytes.clone(), compressed, zstd].into_iter().enumerate() {
        let to = store(&dir.path().join(format!("to-{number}")));
        let images = to
            .import(archive.as_slice(), None, &HashSet::new())
            .unwrap();
        assert_eq!(images[0].id, built.id);
        let found = to.get("example.com/thing:1").unwrap();
        assert_eq!(to.config(&found).unwrap().config, execution);
        let passwd = to.read_file(&found, "etc/passwd").unwrap().unwrap();
        assert_eq!(passwd, b"root:x:0:0::/:/\n");
        to.remove("example.com/thing:1", &HashSet::new()).unwrap();
        assert_eq!(fs::read_dir(to.layers_dir()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(to.dir().join("blobs")).unwrap().count(), 0);
    }
    // A blob that is not what its name says.
    let at = bytes.windows(4).rposition(|w| w == b"root").unwrap();
    bytes[at] = b'R';
    let to = store(&dir.path().join("damaged"));
    assert!(to.import(bytes.as_slice(), None, &HashSet::new()).is_err());
    assert!(to.list().is_empty());
    assert_eq!(fs::read_dir(to.dir().join("blobs")).unwrap().count(), 0);
    // Nothing of the kind.
    let other = archive(&[file("readme", b"hello")]);
    let error = to
        .import(other.as_slice(), None, &HashSet::new())
        .unwrap_err();
    assert!(
        error.to_string().contains("not an image archive"),
        "{error}"
    );
}
