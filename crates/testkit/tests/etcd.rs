//! Two API servers on one etcd: what was written through one is read through the other, at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use proptest::prelude::*;
use skiff_base::SystemClock;
use skiff_store::{EtcdOptions, EtcdStore, Store};
use skiff_testkit::{TestCluster, TestEtcd, TestOptions};

async fn server(etcd: &TestEtcd, prefix: &str, seed: u64) -> TestCluster {
    let options = EtcdOptions {
        prefix: prefix.into(),
        ..EtcdOptions::new(vec![etcd.url()], SystemClock::shared())
    };
    let options = TestOptions {
        store: Some(Arc::new(EtcdStore::connect(options).await.unwrap())),
        seed,
        ..TestOptions::default()
    };
    TestCluster::start_with(options).await.unwrap()
}

fn config_maps(cluster: &TestCluster) -> Api<ConfigMap> {
    Api::namespaced(cluster.client(), "default")
}

fn holding(name: &str, number: u64) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("n".into(), number.to_string())])),
        ..ConfigMap::default()
    }
}

fn number(object: &ConfigMap) -> u64 {
    object.data.as_ref().unwrap()["n"].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_what_one_server_wrote_the_other_lists() {
    let Some(etcd) = TestEtcd::start() else {
        return;
    };
    let (one, two) = (
        server(&etcd, "/registry", 1).await,
        server(&etcd, "/registry", 2).await,
    );
    let servers = [config_maps(&one), config_maps(&two)];
    // Somebody else's keys move etcd's revision without a change for either server.
    let other = EtcdOptions {
        root: "/other".into(),
        prefix: "/other".into(),
        ..EtcdOptions::new(vec![etcd.url()], SystemClock::shared())
    };
    let other = EtcdStore::connect(other).await.unwrap();
    for turn in 0..150_usize {
        let (writer, reader) = (&servers[turn % 2], &servers[(turn + 1) % 2]);
        let name = format!("c{turn}");
        let post = PostParams::default();
        writer.create(&post, &holding(&name, 1)).await.unwrap();
        if turn % 5 == 0 {
            let key = format!("/other/{turn}");
            other.create(&key, "x".into(), 0).await.unwrap();
        }
        let listed = reader.list(&ListParams::default()).await.unwrap();
        let names = listed.items.iter().flat_map(|c| c.metadata.name.as_deref());
        assert!(names.clone().any(|listed| listed == name), "turn {turn}");
        let patch = Patch::Merge(serde_json::json!({"data": {"n": "2"}}));
        let params = PatchParams::default();
        writer.patch(&name, &params, &patch).await.unwrap();
        assert_eq!(number(&reader.get(&name).await.unwrap()), 2, "turn {turn}");
        if turn % 3 == 0 {
            let delete = DeleteParams::default();
            reader.delete(&name, &delete).await.unwrap();
            assert!(
                writer.get_opt(&name).await.unwrap().is_none(),
                "turn {turn}"
            );
        }
    }
}

/// Each writer counts up in an object of its own, through a server of its choice; each reader looks through the other.
async fn count(servers: [Api<ConfigMap>; 2], writers: usize, writes: u64, readers: usize) {
    let acknowledged: Arc<Vec<AtomicU64>> =
        Arc::new((0..writers).map(|_| AtomicU64::new(0)).collect());
    let mut writing = Vec::new();
    for (at, api) in servers.iter().cycle().take(writers).enumerate() {
        let (api, acknowledged) = (api.clone(), acknowledged.clone());
        writing.push(tokio::spawn(async move {
            let name = format!("w{at}");
            let post = PostParams::default();
            api.create(&post, &holding(&name, 0)).await.unwrap();
            for n in 1..=writes {
                let patch = Patch::Merge(serde_json::json!({"data": {"n": n.to_string()}}));
                let params = PatchParams::default();
                api.patch(&name, &params, &patch).await.unwrap();
                acknowledged[at].store(n, Ordering::SeqCst);
            }
        }));
    }
    let mut reading = Vec::new();
    for api in servers.iter().cycle().take(readers) {
        let (api, acknowledged) = (api.clone(), acknowledged.clone());
        reading.push(tokio::spawn(async move {
            let read = |at: usize| acknowledged[at].load(Ordering::SeqCst);
            loop {
                let before: Vec<_> = (0..writers).map(read).collect();
                let listed = api.list(&ListParams::default()).await.unwrap();
                for object in &listed.items {
                    let name = object.metadata.name.as_deref().unwrap_or_default();
                    if let Some(at) = name
                        .strip_prefix('w')
                        .and_then(|at| at.parse::<usize>().ok())
                    {
                        assert!(number(object) >= before[at], "{name} is stale");
                    }
                }
                if before.iter().all(|n| *n == writes) {
                    assert!(listed.items.len() >= writers);
                    return;
                }
            }
        }));
    }
    for task in writing.into_iter().chain(reading) {
        task.await.unwrap();
    }
}

#[test]
fn etcd_concurrent_writers_never_make_a_list_stale() {
    let Some(etcd) = TestEtcd::start() else {
        return;
    };
    let cases = AtomicU64::new(0);
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(6)
    };
    proptest!(config, |(writers in 1..6usize, writes in 1..40u64, readers in 1..5usize)| {
        let prefix = format!("/case{}", cases.fetch_add(1, Ordering::Relaxed));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (one, two) = (server(&etcd, &prefix, 1).await, server(&etcd, &prefix, 2).await);
            count([config_maps(&one), config_maps(&two)], writers, writes, readers).await;
        });
    });
}
