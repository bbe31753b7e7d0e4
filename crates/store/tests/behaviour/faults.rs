//! An etcd that dies, comes back, or cannot be heard: nothing is lost, nothing comes twice, and nothing is claimed that is not known.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use skiff_base::SystemClock;
use skiff_store::{
    EtcdOptions, EtcdStore, EtcdTls, Event, Revision, Store, StoreError, WatchItem, WatchStream,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::etcd_options;
use crate::etcd_server::TestEtcd;

const PASS: u8 = 0;
/// Questions pass, answers are swallowed.
const MUTE: u8 = 1;
/// Nobody is let in.
const CLOSED: u8 = 2;

/// A wire between a store and its etcd that can be cut.
struct Proxy {
    url: String,
    mode: Arc<AtomicU8>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    listening: AbortHandle,
}

impl Proxy {
    async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mode = Arc::new(AtomicU8::new(PASS));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (m, c) = (mode.clone(), connections.clone());
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if m.load(Ordering::SeqCst) == CLOSED {
                    continue;
                }
                let task = tokio::spawn(carry(client, target, m.clone()));
                c.lock().push(task.abort_handle());
            }
        });
        Self {
            url,
            mode,
            connections,
            listening: listening.abort_handle(),
        }
    }

    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }

    fn cut(&self) {
        self.connections.lock().drain(..).for_each(|c| c.abort());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
        self.cut();
    }
}

async fn carry(client: TcpStream, target: u16, mode: Arc<AtomicU8>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let forth = async {
        tokio::io::copy(&mut from_client, &mut to_server)
            .await
            .map(drop)
    };
    let back = async {
        let mut buffer = vec![0; 4096];
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            if mode.load(Ordering::SeqCst) == PASS {
                to_client.write_all(&buffer[..read]).await?;
            }
        }
    };
    let ended: Result<(), std::io::Error> = tokio::select! {
        ended = forth => ended,
        ended = back => ended,
    };
    drop(ended);
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Reads until `count` changes came, and checks that each comes once and in order.
async fn puts(stream: &mut WatchStream, count: usize) -> Vec<Revision> {
    let mut seen: Vec<Revision> = Vec::new();
    while seen.len() < count {
        let item = tokio::time::timeout(Duration::from_secs(30), stream.next()).await;
        match item.expect("the watch said nothing for long").unwrap() {
            Ok(WatchItem::Events(events)) => {
                for event in events {
                    let Event::Put { current, .. } = event else {
                        panic!("{event:?}")
                    };
                    assert!(seen.last().is_none_or(|last| *last < current.mod_revision));
                    seen.push(current.mod_revision);
                }
            }
            Ok(WatchItem::Progress(revision)) => {
                // Nothing before it may follow.
                assert!(seen.last().is_none_or(|last| *last <= revision));
            }
            Err(error) => panic!("{error}"),
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_watches_live_through_cut_connections() {
    let Some(etcd) = TestEtcd::start() else {
        return;
    };
    let proxy = Proxy::start(etcd.port()).await;
    let watching = EtcdStore::connect(EtcdOptions {
        endpoints: vec![proxy.url.clone()],
        ..etcd_options(&etcd, "/cut")
    })
    .await
    .unwrap();
    let writing = EtcdStore::connect(etcd_options(&etcd, "/cut"))
        .await
        .unwrap();
    let begin = writing.revision().await.unwrap();
    let mut live = watching.watch("/k/", begin).await.unwrap();
    let writer = tokio::spawn(async move {
        let mut written = Vec::new();
        for i in 0..600 {
            let key = format!("/k/{i}");
            written.push(writing.create(&key, value("x"), 0).await.unwrap());
            if i % 20 == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        written
    });
    let cutter = tokio::spawn(async move {
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            proxy.cut();
        }
        proxy
    });
    let seen = puts(&mut live, 600).await;
    let written = writer.await.unwrap();
    assert_eq!(seen, written);
    let _proxy = cutter.await.unwrap();
    // A look at history from the middle is taken up again likewise.
    let mut late = watching.watch("/k/", written[99]).await.unwrap();
    assert_eq!(puts(&mut late, 500).await, written[100..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_that_is_killed_and_comes_back_keeps_what_was_acknowledged() {
    let Some(mut etcd) = TestEtcd::start() else {
        return;
    };
    let store = Arc::new(
        EtcdStore::connect(etcd_options(&etcd, "/kill"))
            .await
            .unwrap(),
    );
    let begin = store.revision().await.unwrap();
    let mut live = store.watch("/k/", begin).await.unwrap();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            let (mut acknowledged, mut unknown) = (Vec::new(), 0);
            for i in 0.. {
                match store.create(&format!("/k/{i:05}"), value("x"), 0).await {
                    Ok(revision) => acknowledged.push(revision),
                    Err(StoreError::Unknown(_)) => unknown += 1,
                    Err(error) => panic!("{error}"),
                }
                if i > 300 && acknowledged.len() > 200 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (acknowledged, unknown)
        })
    };
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        etcd.kill();
        tokio::time::sleep(Duration::from_millis(200)).await;
        etcd.restart();
    }
    let (acknowledged, unknown) = writer.await.unwrap();
    assert!(unknown < 20, "{unknown} outcomes unknown of two kills");
    let stored = store.range("/k/", None, 0, None).await.unwrap();
    let revisions: Vec<_> = stored.items.iter().map(|kv| kv.mod_revision).collect();
    for revision in &acknowledged {
        assert!(revisions.contains(revision), "{revision} was lost");
    }
    assert_eq!(puts(&mut live, revisions.len()).await, revisions);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_write_whose_answer_is_lost_is_unknown_and_done_once() {
    let Some(etcd) = TestEtcd::start() else {
        return;
    };
    let proxy = Proxy::start(etcd.port()).await;
    let store = EtcdStore::connect(EtcdOptions {
        endpoints: vec![proxy.url.clone()],
        ..etcd_options(&etcd, "/mute")
    })
    .await
    .unwrap();
    let first = store.create("/k", value("1"), 0).await.unwrap();
    proxy.set(MUTE);
    let write = store.update("/k", value("2"), first, 0);
    let cut = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.set(PASS);
        proxy.cut();
    };
    let (outcome, ()) = tokio::join!(write, cut);
    assert!(
        matches!(outcome, Err(StoreError::Unknown(_))),
        "{outcome:?}"
    );
    let now = store.get("/k", None).await.unwrap().unwrap();
    assert_eq!((&now.value[..], now.mod_revision), (&b"2"[..], first + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_write_that_never_left_is_sent_again() {
    let Some(mut etcd) = TestEtcd::start() else {
        return;
    };
    let store = EtcdStore::connect(etcd_options(&etcd, "/down"))
        .await
        .unwrap();
    etcd.kill();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (created, ()) = tokio::join!(store.create("/k", value("1"), 0), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        tokio::task::block_in_place(|| etcd.restart());
    });
    created.unwrap();
    assert!(store.get("/k", None).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_compacted_behind_our_back_ends_watches_with_the_reason() {
    let Some(etcd) = TestEtcd::start() else {
        return;
    };
    let proxy = Proxy::start(etcd.port()).await;
    let watching = EtcdStore::connect(EtcdOptions {
        endpoints: vec![proxy.url.clone()],
        ..etcd_options(&etcd, "/behind")
    })
    .await
    .unwrap();
    let other = EtcdStore::connect(etcd_options(&etcd, "/behind"))
        .await
        .unwrap();
    let begin = other.revision().await.unwrap();
    let mut live = watching.watch("/", begin).await.unwrap();
    other.create("/a", value("x"), 0).await.unwrap();
    assert_eq!(puts(&mut live, 1).await, [begin + 1]);
    proxy.set(CLOSED);
    proxy.cut();
    for i in 0..10 {
        other
            .create(&format!("/b/{i}"), value("x"), 0)
            .await
            .unwrap();
    }
    let now = other.revision().await.unwrap();
    other.compact(now).await.unwrap();
    proxy.set(PASS);
    let end = loop {
        match tokio::time::timeout(Duration::from_secs(20), live.next())
            .await
            .unwrap()
            .unwrap()
        {
            Ok(WatchItem::Progress(revision)) => assert!(revision <= begin + 1),
            Ok(item) => panic!("{item:?}"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(end, StoreError::Compacted(oldest) if oldest == now),
        "{end:?}"
    );
    // A new one goes on from what can be read.
    let mut again = watching.watch("/", now).await.unwrap();
    other.create("/c", value("x"), 0).await.unwrap();
    assert_eq!(puts(&mut again, 1).await, [now + 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_that_comes_back_with_other_data_ends_watches() {
    let Some(mut etcd) = TestEtcd::start() else {
        return;
    };
    let store = EtcdStore::connect(etcd_options(&etcd, "/lost"))
        .await
        .unwrap();
    for i in 0..5 {
        store.create(&format!("/{i}"), value("x"), 0).await.unwrap();
    }
    let now = store.revision().await.unwrap();
    let mut live = store.watch("/", now).await.unwrap();
    etcd.restart_empty();
    let end = loop {
        match tokio::time::timeout(Duration::from_secs(20), live.next())
            .await
            .unwrap()
            .unwrap()
        {
            Ok(WatchItem::Progress(_)) => {}
            Ok(item) => panic!("{item:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(end, StoreError::Failed(_)), "{end:?}");
    assert!(matches!(
        store.watch("/", now).await.err(),
        Some(StoreError::Future(_))
    ));
}

#[tokio::test]
async fn etcd_leases_end_by_themselves_unless_kept_alive() {
    let Some(etcd) = TestEtcd::start() else {
        return;
    };
    let store = EtcdStore::connect(etcd_options(&etcd, "/lease"))
        .await
        .unwrap();
    let short = store.grant_lease(Duration::from_secs(2)).await.unwrap();
    let kept = store.grant_lease(Duration::from_secs(2)).await.unwrap();
    store.create("/a", value("x"), short).await.unwrap();
    store.create("/b", value("x"), short).await.unwrap();
    let last = store.create("/c", value("x"), kept).await.unwrap();
    let mut stream = store.watch("/", last).await.unwrap();
    let begun = Instant::now();
    let gone = loop {
        let item = tokio::time::timeout(Duration::from_millis(500), stream.next()).await;
        store.keep_alive(kept).await.unwrap();
        match item {
            Ok(Some(Ok(WatchItem::Events(events)))) => break events,
            Ok(Some(Ok(_))) | Err(_) => assert!(begun.elapsed() < Duration::from_secs(20)),
            Ok(other) => panic!("{other:?}"),
        }
    };
    let gone: Vec<_> = gone
        .iter()
        .map(|event| match event {
            Event::Delete { revision, previous } => (*revision, &*previous.key),
            Event::Put { .. } => panic!("{event:?}"),
        })
        .collect();
    assert_eq!(gone, [(last + 1, "/a"), (last + 1, "/b")]);
    assert!(store.get("/c", None).await.unwrap().is_some());
    assert!(matches!(
        store.keep_alive(short).await,
        Err(StoreError::NoLease)
    ));
    store.revoke_lease(kept).await.unwrap();
    assert!(store.get("/c", None).await.unwrap().is_none());
}

#[tokio::test]
async fn etcd_ranges_longer_than_a_page_are_whole() {
    let Some(etcd) = TestEtcd::start() else {
        return;
    };
    let store = Arc::new(
        EtcdStore::connect(etcd_options(&etcd, "/long"))
            .await
            .unwrap(),
    );
    futures::stream::iter(0..4500)
        .for_each_concurrent(64, |i| {
            let store = store.clone();
            async move {
                let key = format!("/k/{i:05}");
                store.create(&key, value("x"), 0).await.unwrap();
            }
        })
        .await;
    for (limit, from, items, more) in [
        (0, None, 4500, false),
        (4500, None, 4500, false),
        (4499, None, 4499, true),
        (2000, None, 2000, true),
        (0, Some("/k/01000"), 3500, false),
    ] {
        let range = store.range("/k/", from, limit, None).await.unwrap();
        assert_eq!(
            (range.items.len(), range.more),
            (items, more),
            "{limit} {from:?}"
        );
        assert!(range.items.is_sorted_by(|a, b| a.key < b.key));
    }
    assert!(store.size().await.unwrap() > 4500);
}

#[tokio::test]
async fn etcd_is_found_over_tls_and_past_a_dead_member() {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let signed = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params =
            rcgen::CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])
                .unwrap();
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (
            write(&format!("{name}.crt"), certificate.pem()),
            write(&format!("{name}.key"), key.serialize_pem()),
        )
    };
    let authority = write("ca.crt", authority_pem);
    let (server, client) = (signed("server"), signed("client"));
    let Some(etcd) = TestEtcd::start_with_tls(Some([&authority, &server.0, &server.1])) else {
        return;
    };
    let dead = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let options = |identity| EtcdOptions {
        endpoints: vec![format!("https://{dead}"), etcd.url()],
        tls: EtcdTls {
            authority: Some(authority.clone()),
            identity,
        },
        ..EtcdOptions::new(Vec::new(), SystemClock::shared())
    };
    let store = EtcdStore::connect(options(Some(client))).await.unwrap();
    let revision = store.create("/registry/a", value("x"), 0).await.unwrap();
    let mut stream = store.watch("/registry/", revision - 1).await.unwrap();
    assert_eq!(puts(&mut stream, 1).await, [revision]);
    let refused = EtcdStore::connect(options(None)).await;
    assert!(matches!(refused, Err(StoreError::Failed(_))));
    let missing = Some((directory.path().join("none"), directory.path().join("none")));
    let error = EtcdStore::connect(options(missing)).await.unwrap_err();
    assert!(error.to_string().contains("/none"), "{error}");
}
