//! Of several candidates one leads, whatever becomes of it: none writes any more once another may have begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use kube::client::Body;
use skiff_base::lifecycle::ComponentError;
use skiff_base::{Component, Random, SharedClock, Shutdown, SystemClock};
use skiff_client::{Elected, ElectionConfig, Fence, Fenced};
use skiff_testkit::TestCluster;

use crate::running::{told, until};

/// Writes its name again and again, and never stops by itself.
struct Scribe {
    name: &'static str,
    client: Client,
    clock: SharedClock,
    heeds: bool,
}

#[async_trait]
impl Component for Scribe {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn run(&self, shutdown: Shutdown) -> Result<(), ComponentError> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), "default");
        while !self.heeds || !shutdown.is_triggered() {
            let map = ConfigMap {
                metadata: ObjectMeta {
                    generate_name: Some(format!("{}-", self.name)),
                    ..ObjectMeta::default()
                },
                ..ConfigMap::default()
            };
            // Refused once the lease is lost.
            let _ = maps.create(&PostParams::default(), &map).await;
            self.clock.sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

struct Candidate {
    /// Its requests about the lease hang.
    stuck: Arc<AtomicBool>,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<()>,
}

fn candidate(cluster: &TestCluster, name: &'static str, seed: u64, heeds: bool) -> Candidate {
    let (clock, fence) = (SystemClock::shared(), Fence::closed());
    let passing = |client: Client, stuck: Arc<AtomicBool>| {
        tower::service_fn(move |request: http::Request<Body>| {
            let (client, stuck) = (client.clone(), stuck.clone());
            async move {
                if stuck.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                client.send(request).await
            }
        })
    };
    let stuck = Arc::new(AtomicBool::new(false));
    let own = Client::new(passing(cluster.client(), stuck.clone()), "default");
    let way = passing(cluster.client(), Arc::default());
    let client = Client::new(Fenced::new(way, fence.clone(), clock.clone()), "default");
    let scribe = Arc::new(Scribe {
        name,
        client,
        clock: clock.clone(),
        heeds,
    });
    let config = ElectionConfig {
        lease_duration: Duration::from_secs(3),
        renew_deadline: Duration::from_millis(1500),
        retry_period: Duration::from_millis(200),
        ..ElectionConfig::new("kube-system", "test", name)
    };
    let random = Random::seeded(seed);
    let elected = Elected::component(scribe, own, config, fence, clock, random);
    let shutdown = Shutdown::new();
    let signal = shutdown.clone();
    let task = tokio::spawn(async move {
        let _ = elected.run(signal).await;
    });
    Candidate {
        stuck,
        shutdown,
        task,
    }
}

/// Who wrote, in the order of the writes.
async fn writes(cluster: &TestCluster) -> Vec<String> {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "default");
    let list = maps.list(&ListParams::default()).await.unwrap();
    let mut written: Vec<(u64, String)> = list
        .items
        .into_iter()
        .filter_map(|map| {
            let name = map.metadata.name?;
            let writer = name.split_once('-')?.0.to_owned();
            let revision = map.metadata.resource_version?.parse().ok()?;
            (writer == "a" || writer == "b").then_some((revision, writer))
        })
        .collect();
    written.sort();
    written.into_iter().map(|(_, writer)| writer).collect()
}

async fn writes_of(cluster: &TestCluster, name: &str, count: usize) {
    until(&format!("{name} writes"), || async {
        let written = writes(cluster).await;
        (written.iter().filter(|writer| *writer == name).count() >= count).then_some(())
    })
    .await;
}

async fn lease(cluster: &TestCluster) -> LeaseSpec {
    let leases: Api<Lease> = Api::namespaced(cluster.client(), "kube-system");
    leases.get("test").await.unwrap().spec.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_stuck_writes_nothing_after_its_successor() {
    let cluster = TestCluster::start().await.unwrap();
    // It does not even heed the signal that it has lost.
    let a = candidate(&cluster, "a", 1, false);
    writes_of(&cluster, "a", 3).await;
    let b = candidate(&cluster, "b", 2, true);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!writes(&cluster).await.contains(&"b".to_owned()));
    assert_eq!(lease(&cluster).await.holder_identity.as_deref(), Some("a"));
    a.stuck.store(true, Ordering::SeqCst);
    writes_of(&cluster, "b", 20).await;
    // Awake again, it writes on, as far as it is concerned.
    a.stuck.store(false, Ordering::SeqCst);
    writes_of(&cluster, "b", 40).await;
    let written = writes(&cluster).await;
    let first = written.iter().position(|writer| writer == "b").unwrap();
    assert!(
        written[first..].iter().all(|writer| writer == "b"),
        "{written:?}"
    );
    let spec = lease(&cluster).await;
    assert_eq!(spec.holder_identity.as_deref(), Some("b"));
    assert_eq!(
        (spec.lease_duration_seconds, spec.lease_transitions),
        (Some(3), Some(1))
    );
    for text in ["a became leader", "b became leader"] {
        let event = told(&cluster.client(), "kube-system", text).await;
        assert_eq!(event.reason.as_deref(), Some("LeaderElection"));
        assert_eq!(event.involved_object.kind.as_deref(), Some("Lease"));
    }
    a.task.abort();
    b.shutdown.trigger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_goes_hands_over_and_one_that_dies_is_waited_for() {
    let cluster = TestCluster::start().await.unwrap();
    let a = candidate(&cluster, "a", 1, true);
    writes_of(&cluster, "a", 3).await;
    let b = candidate(&cluster, "b", 2, true);
    a.shutdown.trigger();
    a.task.await.unwrap();
    let spec = lease(&cluster).await;
    assert_ne!(spec.holder_identity.as_deref(), Some("a"));
    writes_of(&cluster, "b", 3).await;
    let again = candidate(&cluster, "a", 3, true);
    let before = lease(&cluster).await;
    b.task.abort();
    let dead = std::time::Instant::now();
    let count = writes(&cluster)
        .await
        .iter()
        .filter(|name| *name == "a")
        .count();
    writes_of(&cluster, "a", count + 1).await;
    assert!(
        dead.elapsed() > Duration::from_secs(2),
        "{:?}",
        dead.elapsed()
    );
    let after = lease(&cluster).await;
    assert_eq!(
        after.lease_transitions,
        before.lease_transitions.map(|count| count + 1)
    );
    again.shutdown.trigger();
}
