//! The disk: it may be full, and compaction must give space back.

#![allow(
    clippy::disallowed_types,
    reason = "mount and umount come with every system, and only this test needs them"
)]

mod scratch;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use skiff_base::SystemClock;
use skiff_store::{EmbeddedOptions, EmbeddedStore, Store, StoreError};

fn open(directory: &Path) -> EmbeddedStore {
    EmbeddedStore::open(directory, EmbeddedOptions::new(SystemClock::shared())).unwrap()
}

/// A file system of a few MiB.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` when this process may not mount.
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "skiff-store-test"])
            .arg(directory.path())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_recovers() {
    let Some(disk) = SmallDisk::new() else {
        eprintln!("SKIPPED a_full_disk_refuses_writes_and_recovers: mounting a tmpfs needs root");
        return;
    };
    let directory = disk.0.path().join("db");
    let filler = disk.0.path().join("filler");
    std::fs::write(&filler, vec![1; 1024 * 1024]).unwrap();
    let store = open(&directory);
    let value = Bytes::from(vec![b'x'; 10_000]);
    let mut written = 0;
    let refused = loop {
        match store
            .create(&format!("/k/{written:04}"), value.clone(), 0)
            .await
        {
            Ok(revision) => {
                written += 1;
                assert_eq!(revision, written);
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::NoSpace), "{refused}");
    assert!(written > 50);
    for _ in 0..20 {
        let again = store.create("/k/again", value.clone(), 0).await;
        assert!(matches!(again, Err(StoreError::NoSpace)));
    }
    // Reads go on, and nothing of the refused write is to be seen.
    let all = store.range("/k/", None, 0, None).await.unwrap();
    assert_eq!((all.count, all.revision), (written, written));

    std::fs::remove_file(&filler).unwrap();
    let revision = store.create("/k/again", value.clone(), 0).await.unwrap();
    assert_eq!(revision, written + 1);
    drop(store);

    // A full disk is no hindrance to starting, either.
    let left = Command::new("dd")
        .args(["if=/dev/zero", "bs=1k", "status=none"])
        .arg(format!("of={}", filler.display()))
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(!left.success(), "the disk should be full by now");
    let store = open(&directory);
    let all = store.range("/k/", None, 0, None).await.unwrap();
    assert_eq!(all.count, written + 1);
    assert!(all.items.iter().all(|item| item.value == value));
    let refused = store.create("/k/more", value.clone(), 0).await;
    assert!(matches!(refused, Err(StoreError::NoSpace)));
    // No room for the compacted copy: tried again later, nothing is lost meanwhile.
    std::fs::remove_file(&filler).unwrap();
    assert!(store.create("/k/more", value, 0).await.is_ok());
}

fn on_disk(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap();
    entries
        .filter_map(|entry| entry.unwrap().metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// The full million is in `benches/write.rs`; this is a tenth of it with a tenth of the bound, less the slack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_bounds_the_disk() {
    const WRITERS: u64 = 50;
    const UPDATES: u64 = 100_000;
    let directory = scratch::directory();
    let options = EmbeddedOptions {
        slack: 2 * 1024 * 1024,
        ..EmbeddedOptions::new(SystemClock::shared())
    };
    let store = Arc::new(EmbeddedStore::open(directory.path(), options).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        tasks.spawn(async move {
            let mut revisions = [0; 20];
            for i in 0..UPDATES / WRITERS {
                let slot = (i % 20) as usize;
                let key = format!("/registry/configmaps/default/{writer:02}-{slot:02}");
                let value = Bytes::from(vec![b'v'; 200 + (i as usize * 37) % 824]);
                revisions[slot] = match revisions[slot] {
                    0 => store.create(&key, value, 0).await.unwrap(),
                    expected => store.update(&key, value, expected, 0).await.unwrap(),
                };
                // The first writer may be far ahead of the others: then there is nothing to compact yet.
                if writer == 0 && i % 40 == 39 && revisions[slot] > 500 {
                    store.compact(revisions[slot] - 500).await.unwrap();
                }
            }
        });
    }
    let mut most = 0;
    while !tasks.is_empty() {
        most = most.max(on_disk(directory.path()));
        let pause = tokio::time::sleep(std::time::Duration::from_millis(20));
        tokio::select! {
            _ = tasks.join_next() => {}
            () = pause => {}
        }
    }
    assert_eq!(store.revision().await.unwrap(), UPDATES);
    assert!(most < 10 * 1024 * 1024, "{most} bytes on disk");
    let size = store.size().await.unwrap();
    assert!(size <= most, "{size} is more than {most}");
    let Ok(store) = Arc::try_unwrap(store) else {
        panic!("someone still has the store")
    };
    drop(store);
    let store = open(directory.path());
    assert_eq!(store.revision().await.unwrap(), UPDATES);
    let all = store.range("/", None, 0, None).await.unwrap();
    assert_eq!(all.count, 1000);
}
