//! Figures of the embedded store: durable writes per second, and the disk space of a million updates.
//!
//! `cargo bench -p skiff-store` (`SKIFF_BENCH_DIR` says where; the default is the temporary directory).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use skiff_base::SystemClock;
use skiff_store::{EmbeddedOptions, EmbeddedStore, Store};

const WRITERS: usize = 64;

fn main() {
    let base = std::env::var_os("SKIFF_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    let directory = base.join(format!("skiff-store-bench-{}", std::process::id()));
    runtime.block_on(creates(&directory.join("creates")));
    runtime.block_on(updates(&directory.join("updates")));
    std::fs::remove_dir_all(&directory).expect("clean up");
}

fn open(directory: &Path) -> Arc<EmbeddedStore> {
    let options = EmbeddedOptions::new(SystemClock::shared());
    Arc::new(EmbeddedStore::open(directory, options).expect("open"))
}

/// 64 writers that each make keys of 1 KiB.
async fn creates(directory: &Path) {
    const EACH: usize = 1500;
    let store = open(directory);
    let value = Bytes::from(vec![b'x'; 1024]);
    let start = Instant::now();
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, value) = (store.clone(), value.clone());
            tokio::spawn(async move {
                let mut times = Vec::with_capacity(EACH);
                for i in 0..EACH {
                    let start = Instant::now();
                    let key = format!("/registry/configmaps/default/{writer}-{i}");
                    store.create(&key, value.clone(), 0).await.expect("create");
                    times.push(start.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times: Vec<Duration> = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("writer"));
    }
    let seconds = start.elapsed().as_secs_f64();
    times.sort_unstable();
    println!(
        "{WRITERS} writers x {EACH} creates of 1 KiB: {:.0} writes/s, p50 {:?}, p99 {:?}",
        times.len() as f64 / seconds,
        times[times.len() / 2],
        times[times.len() * 99 / 100],
    );
    drop(store);
    let start = Instant::now();
    let store = open(directory);
    println!(
        "opened again, {} bytes, in {:?}",
        store.size().await.expect("size"),
        start.elapsed()
    );
}

/// A million updates of a thousand keys, compacted now and then.
async fn updates(directory: &Path) {
    const UPDATES: u64 = 1_000_000;
    const KEYS: u64 = 1000;
    let store = open(directory);
    let start = Instant::now();
    let each = KEYS / WRITERS as u64 + 1;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS as u64 {
        let store = store.clone();
        let slots = each.min(KEYS.saturating_sub(writer * each));
        tasks.spawn(async move {
            let mut revisions = vec![0; slots as usize];
            for i in 0..UPDATES * slots / KEYS {
                let slot = (i % slots) as usize;
                let key = format!("/registry/configmaps/default/{writer:02}-{slot:02}");
                let value = Bytes::from(vec![b'v'; 200 + (i as usize * 37) % 824]);
                revisions[slot] = match revisions[slot] {
                    0 => store.create(&key, value, 0).await.expect("create"),
                    expected => store
                        .update(&key, value, expected, 0)
                        .await
                        .expect("update"),
                };
                if writer == 0 && i % 200 == 199 {
                    let before = revisions[slot].saturating_sub(5000);
                    store.compact(before).await.expect("compact");
                }
            }
        });
    }
    let mut most = 0;
    while !tasks.is_empty() {
        most = most.max(on_disk(directory));
        tokio::select! {
            task = tasks.join_next() => task.expect("a task").expect("writer"),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    println!(
        "{} updates of {KEYS} keys: {:.0}/s, at most {:.1} MiB on disk, {:.1} MiB at the end, {:.1} MiB resident",
        store.revision().await.expect("revision"),
        UPDATES as f64 / start.elapsed().as_secs_f64(),
        most as f64 / 1_048_576.0,
        on_disk(directory) as f64 / 1_048_576.0,
        resident() as f64 / 1024.0,
    );
}

fn on_disk(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).expect("list");
    entries
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse().ok()
        })
        .unwrap_or(0)
}
