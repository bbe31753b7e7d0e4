//! What was acknowledged survives: the writing process is killed, files are cut short, bits are flipped.

#![allow(
    clippy::disallowed_types,
    reason = "the process that is killed is this one started anew"
)]

mod scratch;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use skiff_base::{Random, SystemClock};
use skiff_store::{EmbeddedOptions, EmbeddedStore, Event, Revision, Store, StoreError, WatchItem};

const CHILD: &str = "SKIFF_STORE_TEST_CHILD";
const WRITERS: u64 = 6;
const SLOTS: u64 = 4;
const ROUNDS: usize = 300;

fn open(directory: &Path) -> Result<EmbeddedStore, StoreError> {
    let options = EmbeddedOptions {
        // Little, so that snapshots are made all the time and are killed as well.
        slack: 32 * 1024,
        ..EmbeddedOptions::new(SystemClock::shared())
    };
    EmbeddedStore::open(directory, options)
}

fn key(writer: u64, number: u64) -> String {
    format!("/w/{writer}/{}", number % SLOTS)
}

/// A value that tells who wrote it, and of which each byte can be checked.
fn value(writer: u64, number: u64) -> Bytes {
    let length = (writer * 7919 + number * 104_729) % 3000;
    let mut text = format!("{writer} {number} ").into_bytes();
    text.extend((0..length).map(|i| b'a' + ((i + number) % 26) as u8));
    text.into()
}

fn parse(value: &[u8]) -> (u64, u64) {
    let text = std::str::from_utf8(value).unwrap();
    let mut words = text.split(' ');
    let writer = words.next().unwrap().parse().unwrap();
    (writer, words.next().unwrap().parse().unwrap())
}

/// Every event that the store still knows; checks that nothing in it is torn or out of order.
async fn history(store: &dyn Store, after: Revision) -> BTreeMap<Revision, (u64, u64)> {
    let until = store.revision().await.unwrap();
    let mut stream = store.watch("/", after).await.unwrap();
    let mut seen = BTreeMap::new();
    let mut last = after;
    loop {
        match stream.next().await.unwrap().unwrap() {
            WatchItem::Events(events) => {
                for event in events {
                    let Event::Put { current, .. } = event else {
                        panic!("{event:?}")
                    };
                    last += 1;
                    assert_eq!(current.mod_revision, last, "a revision is missing");
                    let (writer, number) = parse(&current.value);
                    assert_eq!(*current.key, *key(writer, number));
                    assert_eq!(current.value, value(writer, number), "a value is torn");
                    seen.insert(last, (writer, number));
                }
            }
            WatchItem::Progress(revision) => {
                assert_eq!((revision, last), (until, until));
                return seen;
            }
        }
    }
}

/// The last number that each writer has in the store.
async fn last_numbers(store: &dyn Store) -> BTreeMap<u64, u64> {
    let mut last = BTreeMap::new();
    let all = store.range("/w/", None, 0, None).await.unwrap();
    for item in all.items {
        let (writer, number) = parse(&item.value);
        let entry = last.entry(writer).or_insert(number);
        *entry = number.max(*entry);
    }
    last
}

async fn write_one(store: &dyn Store, writer: u64, number: u64) -> Revision {
    let key = key(writer, number);
    let value = value(writer, number);
    match store.get(&key, None).await.unwrap() {
        None => store.create(&key, value, 0).await.unwrap(),
        Some(old) => store
            .update(&key, value, old.mod_revision, 0)
            .await
            .unwrap(),
    }
}

/// Not a test of its own: the process that is killed. It does nothing unless it is told where to write.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(directory) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Arc::new(open(&directory).unwrap());
        let last = last_numbers(&*store).await;
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let store = store.clone();
            let first = last.get(&writer).map_or(0, |last| last + 1);
            tasks.spawn(async move {
                for number in first.. {
                    let revision = write_one(&*store, writer, number).await;
                    // One write call each, so that the parent never reads half a line of a dead child as whole.
                    let line = format!("\nack {writer} {number} {revision}.\n");
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                    std::io::stdout().flush().unwrap();
                    if number % 40 == 39 {
                        store.compact(revision.saturating_sub(150)).await.unwrap();
                    }
                }
            });
        }
        tasks.join_all().await;
    });
}

/// Lets a child write for a while, kills it, and gives what it acknowledged.
fn killed_writer(directory: &Path, random: &Random) -> BTreeMap<Revision, (u64, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child_that_writes_until_it_is_killed",
            "--nocapture",
        ])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut acknowledged = BTreeMap::new();
        for line in output.lines() {
            let line = line.unwrap();
            if let Some(text) = line.strip_prefix("ack ").and_then(|l| l.strip_suffix('.')) {
                let n: Vec<u64> = text.split(' ').map(|n| n.parse().unwrap()).collect();
                acknowledged.insert(n[2], (n[0], n[1]));
            }
        }
        acknowledged
    });
    std::thread::sleep(Duration::from_micros(3_000 + random.below(60_000)));
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_writer_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let random = Random::seeded(42);
    let mut total = 0;
    let mut snapshots = 0;
    let mut before: Revision = 0;
    for round in 0..ROUNDS {
        let acknowledged = killed_writer(directory.path(), &random);
        total += acknowledged.len();
        let store = open(directory.path()).unwrap();
        let revision = store.revision().await.unwrap();
        assert!(revision >= before, "round {round}: the revision went back");
        let oldest = match store.watch("/", 0).await {
            Ok(_) => 0,
            Err(StoreError::Compacted(oldest)) => oldest,
            Err(error) => panic!("{error}"),
        };
        let seen = history(&store, oldest).await;
        for (revision, write) in acknowledged {
            let found = seen.get(&revision);
            assert!(
                found == Some(&write) || (found.is_none() && revision <= oldest),
                "round {round}: {write:?} was acknowledged at {revision}, there is {found:?}"
            );
        }
        let last = last_numbers(&store).await;
        for (writer, number) in seen.values() {
            assert!(
                last[writer] >= *number,
                "round {round}: a newer state is lost"
            );
        }
        before = revision;
        drop(store);
        let names = std::fs::read_dir(directory.path()).unwrap();
        snapshots += names
            .filter(|entry| entry.as_ref().unwrap().path().extension() == Some("snap".as_ref()))
            .count();
    }
    assert!(
        total > ROUNDS,
        "only {total} writes: the test tests nothing"
    );
    assert!(
        snapshots > 0,
        "no snapshot was made: the test misses something"
    );
    println!("{total} acknowledged writes in {ROUNDS} rounds");
}

/// A database with a snapshot and logs behind it, and everything that is in it.
async fn sample(directory: &Path) -> (Revision, BTreeMap<Revision, (u64, u64)>) {
    let store = open(directory).unwrap();
    for number in 0..200 {
        for writer in 0..2 {
            write_one(&store, writer, number).await;
        }
        if number == 120 {
            store.compact(150).await.unwrap();
        }
    }
    let all = history(&store, 150).await;
    (150, all)
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some())
        .collect();
    files.sort();
    files
}

/// The damaged database is refused, or holds the sample up to some revision. Answers that revision.
async fn is_prefix(
    directory: &Path,
    oldest: Revision,
    all: &BTreeMap<Revision, (u64, u64)>,
) -> Option<Revision> {
    let store = match open(directory) {
        Ok(store) => store,
        Err(StoreError::Corrupt(_)) => return None,
        Err(error) => panic!("{error}"),
    };
    let revision = store.revision().await.unwrap();
    if revision < oldest {
        return Some(revision);
    }
    let seen = history(&store, oldest).await;
    let expected: BTreeMap<_, _> = all.range(..=revision).map(|(r, w)| (*r, *w)).collect();
    assert_eq!(seen, expected);
    // It goes on from there.
    let number = last_numbers(&store).await.get(&0).map_or(0, |n| n + 1);
    assert_eq!(write_one(&store, 0, number).await, revision + 1);
    drop(store);
    let again = open(directory).unwrap();
    assert_eq!(again.revision().await.unwrap(), revision + 1);
    Some(revision)
}

#[tokio::test]
async fn a_file_that_is_cut_short_loses_its_tail_only() {
    let origin = scratch::directory();
    let (oldest, all) = sample(origin.path()).await;
    let full = *all.keys().last().unwrap();
    let newest = files(origin.path()).pop().unwrap();
    assert!(newest.extension() == Some("log".as_ref()));
    let length = std::fs::metadata(&newest).unwrap().len();
    let random = Random::seeded(7);
    let mut kept = Vec::new();
    for i in 0..200 {
        let scratch = scratch::directory();
        copy(origin.path(), scratch.path());
        let cut = if i < 40 { i } else { random.below(length) };
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(scratch.path().join(newest.file_name().unwrap()))
            .unwrap();
        file.set_len(cut).unwrap();
        // The newest file is never refused for being short: that is what a crash leaves.
        kept.push((cut, is_prefix(scratch.path(), oldest, &all).await.unwrap()));
    }
    kept.sort_unstable();
    assert!(kept.iter().all(|(_, revision)| *revision < full));
    assert!(kept.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    assert!(kept.last().unwrap().1 > full - 20);
}

#[tokio::test]
async fn an_older_file_that_is_cut_short_or_missing_is_refused() {
    let origin = scratch::directory();
    let (oldest, all) = sample(origin.path()).await;
    let mut old = files(origin.path());
    old.pop();
    assert!(!old.is_empty());
    for file in old {
        let name = file.file_name().unwrap();
        let length = std::fs::metadata(&file).unwrap().len();
        for cut in [0, 10, 28, length / 2, length - 1] {
            let scratch = scratch::directory();
            copy(origin.path(), scratch.path());
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(scratch.path().join(name))
                .unwrap();
            file.set_len(cut).unwrap();
            let outcome = is_prefix(scratch.path(), oldest, &all).await;
            assert_eq!(outcome, None, "{name:?} cut to {cut}");
        }
        let scratch = scratch::directory();
        copy(origin.path(), scratch.path());
        std::fs::remove_file(scratch.path().join(name)).unwrap();
        assert_eq!(is_prefix(scratch.path(), oldest, &all).await, None);
    }
}

#[tokio::test]
async fn a_flipped_bit_is_found_at_the_start() {
    let origin = scratch::directory();
    let (oldest, all) = sample(origin.path()).await;
    let random = Random::seeded(11);
    for i in 0..300 {
        let scratch = scratch::directory();
        copy(origin.path(), scratch.path());
        let files = files(scratch.path());
        let file = &files[random.below(files.len() as u64) as usize];
        let mut bytes = std::fs::read(file).unwrap();
        let at = random.below(bytes.len() as u64) as usize;
        let at = if i < 80 { i % bytes.len() } else { at };
        bytes[at] ^= 1 << random.below(8);
        std::fs::write(file, bytes).unwrap();
        let outcome = is_prefix(scratch.path(), oldest, &all).await;
        assert_eq!(outcome, None, "byte {at} of {}", file.display());
    }
}

#[tokio::test]
async fn a_value_that_is_damaged_while_open_is_not_served() {
    let directory = scratch::directory();
    let store = open(directory.path()).unwrap();
    write_one(&store, 0, 1).await;
    write_one(&store, 0, 2).await;
    let log = files(directory.path()).pop().unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let second = value(0, 2);
    let at = bytes
        .windows(second.len())
        .position(|window| window == second)
        .unwrap();
    bytes[at] ^= 1;
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::OpenOptions::new().write(true).open(&log).unwrap(),
        &bytes,
        0,
    )
    .unwrap();
    let error = store.get(&key(0, 2), None).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    assert!(store.range("/", None, 0, None).await.is_err());
    let good = store.get(&key(0, 1), None).await.unwrap().unwrap();
    assert_eq!(good.value, value(0, 1));
    drop(store);
    let error = open(directory.path()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("0000000001.log") && text.contains("byte"),
        "{text}"
    );
}

#[tokio::test]
async fn a_second_open_is_refused() {
    let directory = scratch::directory();
    let first = open(directory.path()).unwrap();
    let error = open(directory.path()).unwrap_err();
    let process = std::process::id().to_string();
    assert!(error.to_string().contains("in use"), "{error}");
    assert!(error.to_string().contains(&process), "{error}");
    drop(first);
    open(directory.path()).unwrap();
}

#[tokio::test]
async fn revision_and_leases_survive_a_restart() {
    let directory = scratch::directory();
    let store = open(directory.path()).unwrap();
    let lease = store.grant_lease(Duration::from_secs(100)).await.unwrap();
    store
        .create("/a", Bytes::from_static(b"x"), lease)
        .await
        .unwrap();
    store
        .create("/b", Bytes::from_static(b"x"), 0)
        .await
        .unwrap();
    let revision = store.delete("/b", None).await.unwrap();
    store.compact(revision).await.unwrap();
    drop(store);
    let store = open(directory.path()).unwrap();
    assert_eq!(store.revision().await.unwrap(), revision);
    assert!(store.grant_lease(Duration::from_secs(1)).await.unwrap() > lease);
    store.keep_alive(lease).await.unwrap();
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(store.get("/a", None).await.unwrap(), None);
}
