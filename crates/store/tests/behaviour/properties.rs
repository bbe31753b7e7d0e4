//! Random operations: the store and the model answer the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use skiff_base::{SharedClock, SystemClock};
use skiff_store::{
    EmbeddedOptions, EmbeddedStore, EtcdStore, Event, MemoryStore, Revision, Store, StoreError,
    WatchItem,
};

use crate::etcd_server::TestEtcd;
use crate::model::{Model, Outcome, compare_all};
use crate::{etcd_options, scratch};

const KEYS: [&str; 6] = ["/a/1", "/a/2", "/a/3", "/ab/1", "/b/1", "/b/2"];
const PREFIXES: [&str; 5] = ["/", "/a", "/a/", "/b/", "/none/"];

#[derive(Clone, Debug)]
enum Op {
    Create(usize, u8, Option<usize>),
    /// The guard is right when the number is 0, else off by it.
    Update(usize, u8, u64, Option<usize>),
    Delete(usize, Option<u64>),
    Get(usize, u64),
    Range(usize, Option<usize>, usize, u64),
    Watch(usize, u64),
    Compact(u64),
    Grant,
    Revoke(usize),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..KEYS.len();
    let lease = proptest::option::weighted(0.3, 0..3usize);
    prop_oneof![
        5 => (key.clone(), any::<u8>(), lease.clone()).prop_map(|(k, v, l)| Op::Create(k, v, l)),
        8 => (key.clone(), any::<u8>(), prop_oneof![4 => Just(0u64), 1 => 1..3u64], lease)
            .prop_map(|(k, v, g, l)| Op::Update(k, v, g, l)),
        3 => (key.clone(), proptest::option::of(0..2u64)).prop_map(|(k, e)| Op::Delete(k, e)),
        2 => (key.clone(), 0..20u64).prop_map(|(k, b)| Op::Get(k, b)),
        3 => (0..PREFIXES.len(), proptest::option::of(key), 0..4usize, 0..20u64)
            .prop_map(|(p, f, l, b)| Op::Range(p, f, l, b)),
        2 => (0..PREFIXES.len(), 0..20u64).prop_map(|(p, b)| Op::Watch(p, b)),
        1 => (0..10u64).prop_map(Op::Compact),
        1 => Just(Op::Grant),
        1 => (0..3usize).prop_map(Op::Revoke),
        1 => Just(Op::Reopen),
    ]
}

/// A revision `back` steps ago; a future one for large steps at the start.
fn back(model: &Model, back: u64) -> Revision {
    model
        .revision
        .checked_sub(back)
        .unwrap_or(model.revision + 1)
}

/// Takes from a fresh watch all that has happened so far.
async fn watched(store: &dyn Store, prefix: &str, after: Revision) -> Outcome<Vec<Event>> {
    let until = store.revision().await.unwrap();
    let mut stream = match store.watch(prefix, after).await {
        Ok(stream) => stream,
        Err(error) => return Outcome::of(Err(error)),
    };
    let mut events = Vec::new();
    while let Some(item) = stream.next().await {
        match item.unwrap() {
            WatchItem::Events(batch) => events.extend(batch),
            WatchItem::Progress(revision) if revision >= until => break,
            WatchItem::Progress(_) => {}
        }
    }
    Outcome::Ok(events)
}

async fn step(store: &dyn Store, model: &mut Model, op: Op) {
    let value = |v: u8| Bytes::from(vec![v; usize::from(v)]);
    let lease = |model: &Model, l: Option<usize>| match l {
        None => 0,
        Some(l) => model.leases.get(l).copied().unwrap_or(9999),
    };
    match op {
        Op::Create(k, v, l) => {
            let l = lease(model, l);
            let got = Outcome::of(store.create(KEYS[k], value(v), l).await);
            assert_eq!(got, model.create(KEYS[k], value(v), l));
        }
        Op::Update(k, v, off, l) => {
            let l = lease(model, l);
            let expected = match model.get(KEYS[k], None) {
                Outcome::Ok(Some(kv)) => kv.mod_revision + off,
                _ => off,
            };
            let got = Outcome::of(store.update(KEYS[k], value(v), expected, l).await);
            assert_eq!(got, model.update(KEYS[k], value(v), expected, l));
        }
        Op::Delete(k, off) => {
            let expected = off.map(|off| match model.get(KEYS[k], None) {
                Outcome::Ok(Some(kv)) => kv.mod_revision + off,
                _ => off,
            });
            let got = Outcome::of(store.delete(KEYS[k], expected).await);
            assert_eq!(got, model.delete(KEYS[k], expected));
        }
        Op::Get(k, b) => {
            let at = (b > 0).then(|| back(model, b - 1));
            let got = Outcome::of(store.get(KEYS[k], at).await);
            assert_eq!(got, model.get(KEYS[k], at));
        }
        Op::Range(p, f, limit, b) => {
            let at = (b > 0).then(|| back(model, b - 1));
            let from = f.map(|f| KEYS[f]);
            let got = store.range(PREFIXES[p], from, limit, at).await;
            let got = Outcome::of(got.map(|r| (r.items, r.more, r.count, r.revision)));
            assert_eq!(got, model.range(PREFIXES[p], from, limit, at));
        }
        Op::Watch(p, b) => {
            let after = back(model, b);
            let got = watched(store, PREFIXES[p], after).await;
            assert_eq!(got, model.events(PREFIXES[p], after));
        }
        Op::Compact(b) => {
            let revision = back(model, b);
            let got = Outcome::of(store.compact(revision).await);
            assert_eq!(got, model.compact(revision));
        }
        Op::Grant => {
            let id = store.grant_lease(Duration::from_secs(3600)).await.unwrap();
            assert!(!model.leases.contains(&id) && id != 0);
            model.leases.push(id);
        }
        Op::Revoke(l) => {
            let id = lease(model, Some(l));
            assert_eq!(Outcome::of(store.revoke_lease(id).await), model.revoke(id));
        }
        Op::Reopen => {}
    }
}

/// Watches everything from the start of the store's life and checks it against the model at the end.
async fn live_watch(store: &dyn Store, after: Revision) -> tokio::task::JoinHandle<Vec<Event>> {
    let mut stream = store.watch("/", after).await.unwrap();
    tokio::spawn(async move {
        let mut events = Vec::new();
        loop {
            match stream.next().await {
                Some(Ok(WatchItem::Events(batch))) => events.extend(batch),
                Some(Ok(WatchItem::Progress(_))) => {}
                // The store was closed.
                Some(Err(StoreError::Failed(_))) | None => return events,
                Some(Err(error)) => panic!("{error}"),
            }
        }
    })
}

async fn run<F>(mut model: Model, mut open: impl FnMut() -> F, reopens: bool, ops: Vec<Op>)
where
    F: Future<Output = Arc<dyn Store>>,
{
    let mut store = open().await;
    let mut since = model.revision;
    let mut live = live_watch(&*store, since).await;
    tokio::task::yield_now().await;
    for op in ops {
        if reopens && matches!(op, Op::Reopen) {
            drop(store);
            let seen = live.await.unwrap();
            // What it did see is a prefix of what happened, without a gap.
            let expected = uncompacted(&model, since);
            assert_eq!(seen, expected[..seen.len()]);
            store = open().await;
            since = model.revision;
            live = live_watch(&*store, since).await;
            compare_all(&*store, &model, &KEYS).await;
            continue;
        }
        step(&*store, &mut model, op).await;
        // Lets the live watch run before history that it has not read is compacted away.
        settle(&*store).await;
    }
    compare_all(&*store, &model, &KEYS).await;
    drop(store);
    assert_eq!(live.await.unwrap(), uncompacted(&model, since));
}

fn uncompacted(model: &Model, since: Revision) -> Vec<Event> {
    let mut all = model.clone();
    all.compacted = 0;
    match all.events("/", since) {
        Outcome::Ok(events) => events,
        other => panic!("{other:?}"),
    }
}

/// A watch that starts now and is told how far it is: by then the one before it has been told too.
async fn settle(store: &dyn Store) {
    let now = store.revision().await.unwrap();
    store.request_progress().await.unwrap();
    assert_eq!(watched(store, "/", now).await, Outcome::Ok(vec![]));
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future);
}

fn clock() -> SharedClock {
    SystemClock::shared()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn memory_answers_as_the_model(ops in proptest::collection::vec(op(), 1..80)) {
        block_on(async {
            let open = || async { Arc::new(MemoryStore::new(clock())) as Arc<dyn Store> };
            run(Model::default(), open, false, ops).await;
        });
    }

    #[test]
    fn embedded_answers_as_the_model(
        ops in proptest::collection::vec(op(), 1..80),
        slack in prop_oneof![Just(0u64), Just(300), Just(1 << 20)],
    ) {
        let directory = scratch::directory();
        block_on(async {
            let open = || async {
                let options = EmbeddedOptions { slack, ..EmbeddedOptions::new(clock()) };
                Arc::new(EmbeddedStore::open(directory.path(), options).unwrap()) as Arc<dyn Store>
            };
            run(Model::default(), open, true, ops).await;
        });
    }
}

#[test]
fn etcd_answers_as_the_model() {
    let Some(etcd) = TestEtcd::start() else {
        return;
    };
    let cases = AtomicUsize::new(0);
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(12)
    };
    proptest!(config, |(ops in proptest::collection::vec(op(), 1..60))| {
        // Each case has a tree of its own, and begins where the last one ended.
        let prefix = format!("/case{}", cases.fetch_add(1, Ordering::Relaxed));
        block_on(async {
            let open = || async {
                let options = etcd_options(&etcd, &prefix);
                Arc::new(EtcdStore::connect(options).await.unwrap()) as Arc<dyn Store>
            };
            let store = open().await;
            let first = store.create("/before", Bytes::new(), 0).await.unwrap();
            let revision = store.delete("/before", Some(first)).await.unwrap();
            store.compact(revision).await.unwrap();
            drop(store);
            let model = Model { revision, compacted: revision, ..Model::default() };
            run(model, open, true, ops).await;
        });
    });
}
