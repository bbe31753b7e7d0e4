//! Particular situations that every store must handle.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::StreamExt;
use skiff_base::SimulatedClock;
use skiff_store::{
    EmbeddedOptions, EmbeddedStore, EtcdOptions, EtcdStore, Event, MemoryStore, Revision, Store,
    StoreError, WatchItem, WatchLimits,
};

use crate::etcd_server::TestEtcd;
use crate::{etcd_options, scratch};

/// A store that can be handed around, and what must live as long as it.
struct Subject {
    store: Arc<dyn Store>,
    /// None: it goes by the machine's.
    clock: Option<Arc<SimulatedClock>>,
    /// The revision before anything was written.
    base: Revision,
    _keep: Box<dyn Any>,
}

async fn subjects(limits: WatchLimits) -> Vec<Subject> {
    let mut subjects = local_subjects(limits);
    if let Some(etcd) = TestEtcd::start() {
        let options = EtcdOptions {
            watch_limits: limits,
            ..etcd_options(&etcd, "/behaviour")
        };
        let store = EtcdStore::connect(options).await.unwrap();
        // What was written before the store's own watch runs would come in one batch.
        store.create("/first", value("x"), 0).await.unwrap();
        store.delete("/first", None).await.unwrap();
        store.request_progress().await.unwrap();
        subjects.push(Subject {
            base: store.revision().await.unwrap(),
            store: Arc::new(store),
            clock: None,
            _keep: Box::new(etcd),
        });
    }
    subjects
}

fn local_subjects(limits: WatchLimits) -> Vec<Subject> {
    let clock = SimulatedClock::new(SystemTime::UNIX_EPOCH);
    let memory = Subject {
        store: Arc::new(MemoryStore::with_limits(clock.clone(), limits)),
        clock: Some(clock),
        base: 0,
        _keep: Box::new(()),
    };
    let clock = SimulatedClock::new(SystemTime::UNIX_EPOCH);
    let directory = scratch::directory();
    let options = EmbeddedOptions {
        watch_limits: limits,
        ..EmbeddedOptions::new(clock.clone())
    };
    let embedded = Subject {
        store: Arc::new(EmbeddedStore::open(directory.path(), options).unwrap()),
        clock: Some(clock),
        base: 0,
        _keep: Box::new(directory),
    };
    vec![memory, embedded]
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn next(stream: &mut skiff_store::WatchStream) -> Result<WatchItem, StoreError> {
    tokio::time::timeout(Duration::from_secs(10), stream.next())
        .await
        .expect("the watch said nothing for ten seconds")
        .expect("the watch ended without a reason")
}

#[tokio::test]
async fn a_watch_goes_from_history_to_live_without_a_gap() {
    for Subject {
        store, base, _keep, ..
    } in subjects(WatchLimits::default()).await
    {
        let writer = {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..3000 {
                    store
                        .create(&format!("/k/{i:05}"), value("x"), 0)
                        .await
                        .unwrap();
                }
            })
        };
        let mut watches = Vec::new();
        for _ in 0..4 {
            let at = base + (store.revision().await.unwrap() - base) / 2;
            watches.push((at, store.watch("/k/", at).await.unwrap()));
            tokio::task::yield_now().await;
        }
        for (at, mut stream) in watches {
            let mut expected = at;
            while expected < base + 3000 {
                if let WatchItem::Events(events) = next(&mut stream).await.unwrap() {
                    for event in events {
                        let Event::Put { current, .. } = event else {
                            panic!("{event:?}")
                        };
                        expected += 1;
                        assert_eq!(current.mod_revision, expected);
                    }
                }
            }
        }
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_slow_watcher_is_cut_off_and_holds_nobody_up() {
    let limits = WatchLimits {
        events: 10,
        bytes: 1 << 20,
    };
    for Subject {
        store, base, _keep, ..
    } in subjects(limits).await
    {
        let mut slow = store.watch("/", base).await.unwrap();
        let mut other = store.watch("/other/", base).await.unwrap();
        assert_eq!(next(&mut slow).await.unwrap(), WatchItem::Progress(base));
        assert_eq!(next(&mut other).await.unwrap(), WatchItem::Progress(base));
        for i in 0..30 {
            store
                .create(&format!("/k/{i}"), value("x"), 0)
                .await
                .unwrap();
        }
        store.create("/other/k", value("x"), 0).await.unwrap();
        // By then the slow one's line has all that it can hold.
        assert!(matches!(
            next(&mut other).await.unwrap(),
            WatchItem::Events(events) if events.len() == 1
        ));
        let mut seen = 0;
        let end = loop {
            match next(&mut slow).await {
                Ok(WatchItem::Events(events)) => seen += events.len(),
                Ok(WatchItem::Progress(_)) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(end, StoreError::Slow), "{end:?}");
        assert_eq!(seen, 10, "what was waiting is still delivered");
        assert!(slow.next().await.is_none());
    }
}

#[tokio::test]
async fn a_watch_that_compaction_overtakes_says_so() {
    for Subject {
        store, base, _keep, ..
    } in subjects(WatchLimits::default()).await
    {
        for i in 0..5 {
            store.create(&format!("/{i}"), value("x"), 0).await.unwrap();
        }
        // A watch hears what comes from now on; it did not yet read what was before.
        store.request_progress().await.unwrap();
        let mut overtaken = store.watch("/", base + 1).await.unwrap();
        let fourth = base + 4;
        store.compact(fourth).await.unwrap();
        assert!(matches!(
            next(&mut overtaken).await,
            Err(StoreError::Compacted(oldest)) if oldest == fourth
        ));
        assert!(matches!(
            store.watch("/", base + 3).await.err(),
            Some(StoreError::Compacted(oldest)) if oldest == fourth
        ));
        assert!(store.watch("/", fourth).await.is_ok());
        assert!(matches!(
            store.watch("/", base + 6).await.err(),
            Some(StoreError::Future(now)) if now == base + 5
        ));
    }
}

#[tokio::test]
async fn progress_comes_in_silence_and_on_request() {
    for Subject {
        store,
        clock,
        base,
        _keep,
    } in subjects(WatchLimits::default()).await
    {
        let mut stream = store.watch("/a/", base).await.unwrap();
        assert_eq!(next(&mut stream).await.unwrap(), WatchItem::Progress(base));
        store.create("/b/1", value("x"), 0).await.unwrap();
        store.request_progress().await.unwrap();
        assert_eq!(
            next(&mut stream).await.unwrap(),
            WatchItem::Progress(base + 1)
        );
        store.create("/b/2", value("x"), 0).await.unwrap();
        let waiting = tokio::spawn(async move { next(&mut stream).await });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished());
        if let Some(clock) = clock {
            clock.advance(Duration::from_secs(10));
        }
        assert_eq!(
            waiting.await.unwrap().unwrap(),
            WatchItem::Progress(base + 2)
        );
    }
}

#[tokio::test]
async fn leases_end_by_the_clock_and_take_their_keys_along() {
    for Subject {
        store,
        clock,
        _keep,
        ..
    } in local_subjects(WatchLimits::default())
    {
        let clock = clock.unwrap();
        let short = store.grant_lease(Duration::from_secs(10)).await.unwrap();
        let long = store.grant_lease(Duration::from_secs(60)).await.unwrap();
        store.create("/a", value("x"), short).await.unwrap();
        store.create("/b", value("x"), short).await.unwrap();
        store.create("/c", value("x"), long).await.unwrap();
        let moved = store.create("/d", value("x"), short).await.unwrap();
        store.update("/d", value("y"), moved, 0).await.unwrap();
        let mut stream = store.watch("/", 5).await.unwrap();
        assert_eq!(next(&mut stream).await.unwrap(), WatchItem::Progress(5));

        clock.advance(Duration::from_secs(9));
        store.keep_alive(short).await.unwrap();
        clock.advance(Duration::from_secs(9));
        assert!(store.get("/a", None).await.unwrap().is_some());

        clock.advance(Duration::from_secs(2));
        let events = loop {
            match next(&mut stream).await.unwrap() {
                WatchItem::Progress(_) => {}
                WatchItem::Events(events) => break events,
            }
        };
        let gone: Vec<_> = events
            .iter()
            .map(|event| match event {
                Event::Delete { revision, previous } => (*revision, &*previous.key),
                Event::Put { .. } => panic!("{event:?}"),
            })
            .collect();
        assert_eq!(gone, [(6, "/a"), (6, "/b")]);
        let left = store.range("/", None, 0, None).await.unwrap();
        assert_eq!(left.count, 2);
        assert!(matches!(
            store.keep_alive(short).await,
            Err(StoreError::NoLease)
        ));
        assert!(matches!(
            store.create("/e", value("x"), short).await,
            Err(StoreError::NoLease)
        ));
        store.revoke_lease(long).await.unwrap();
        assert!(store.get("/c", None).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_watch_ends_with_a_reason_when_the_store_goes() {
    for Subject {
        store, base, _keep, ..
    } in subjects(WatchLimits::default()).await
    {
        let mut stream = store.watch("/", base).await.unwrap();
        assert_eq!(next(&mut stream).await.unwrap(), WatchItem::Progress(base));
        drop(store);
        assert!(next(&mut stream).await.is_err());
        assert!(stream.next().await.is_none());
    }
}

#[tokio::test]
async fn only_one_of_many_guarded_updates_wins() {
    for Subject { store, _keep, .. } in subjects(WatchLimits::default()).await {
        let first = store.create("/k", value("0"), 0).await.unwrap();
        let racers: Vec<_> = (0..20)
            .map(|i| {
                let store = store.clone();
                tokio::spawn(
                    async move { store.update("/k", value(&i.to_string()), first, 0).await },
                )
            })
            .collect();
        let mut won = 0;
        for racer in racers {
            match racer.await.unwrap() {
                Ok(_) => won += 1,
                Err(StoreError::Conflict(Some(kv))) => assert_eq!(kv.mod_revision, first + 1),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won, 1);
    }
}
