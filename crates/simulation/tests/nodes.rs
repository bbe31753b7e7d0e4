//! Simulated nodes under the real API server, scheduler and controllers: what becomes of workloads on them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_base::{FastClock, Random, Shutdown};
use skiff_controllers::ControllersConfig;
use skiff_scheduler::SchedulerConfig;
use skiff_simulation::{SimulationConfig, plan};
use skiff_testkit::{TestCluster, TestOptions};

/// So many times faster than the machine's clock.
const SPEED: u32 = 60;

struct World {
    cluster: TestCluster,
    shutdown: Shutdown,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl World {
    async fn start(nodes: u32) -> Self {
        // Long ago, so that no certificate of today is in force; nothing here needs one.
        let clock = FastClock::shared(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30), SPEED);
        let options = TestOptions {
            clock: Some(clock.clone()),
            ..TestOptions::default()
        };
        let cluster = TestCluster::start_with(options).await.unwrap();
        let client = cluster.client();
        let (own, of_node) = (client.clone(), client.clone());
        let random = Random::seeded(1);
        let parts = [
            skiff_controllers::component(
                client.clone(),
                Arc::new(move |_: &str| own.clone()),
                ControllersConfig::default(),
                clock.clone(),
                random.clone(),
            ),
            skiff_scheduler::component(
                client.clone(),
                SchedulerConfig::default(),
                clock.clone(),
                random.clone(),
            ),
            skiff_simulation::component(
                client,
                Arc::new(move |_: &str| of_node.clone()),
                SimulationConfig::of(nodes),
                clock,
                random,
            ),
        ];
        let shutdown = Shutdown::new();
        for part in parts {
            let signal = shutdown.clone();
            tokio::spawn(async move { part.run(signal).await });
        }
        Self { cluster, shutdown }
    }

    fn client(&self) -> Client {
        self.cluster.client()
    }

    async fn make<K>(&self, object: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
        K: DeserializeOwned + serde::Serialize + Clone + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        let api: Api<K> = Api::namespaced(self.client(), "default");
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    async fn pods(&self) -> Vec<Pod> {
        let api: Api<Pod> = Api::namespaced(self.client(), "default");
        api.list(&ListParams::default()).await.unwrap().items
    }

    /// Waits until the pods are so; the limit only ends a test that has failed.
    async fn until(&self, what: &str, holds: impl Fn(&[Pod]) -> bool) -> Vec<Pod> {
        let seen = async {
            loop {
                let pods = self.pods().await;
                if holds(&pods) {
                    return pods;
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), seen).await {
            Ok(pods) => pods,
            Err(_) => panic!("{what}: {:#?}", self.pods().await),
        }
    }
}

fn node_of(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_leave_a_node_that_falls_silent() {
    let world = World::start(6).await;
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 30, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    world.make::<Deployment>(deployment).await;
    let ready = |pods: &[Pod]| pods.iter().filter(|pod| is_ready(pod)).count();
    let pods = world.until("all are ready", |pods| ready(pods) == 30).await;
    let lost = "simulated-00002";
    assert!(pods.iter().any(|pod| node_of(pod) == lost));

    let nodes: Api<Node> = Api::all(world.client());
    let silence = json!({"metadata": {"annotations": {(plan::SILENT): "true"}}});
    nodes
        .patch(lost, &PatchParams::default(), &Patch::Merge(silence))
        .await
        .unwrap();
    // Their tolerations of 300 seconds pass, and others take their places.
    world
        .until("they are replaced", |pods| {
            let elsewhere = pods
                .iter()
                .filter(|pod| node_of(pod) != lost && is_ready(pod));
            elsewhere.count() == 30
        })
        .await;
    // It comes back: what was deleted there goes at last.
    let speak = json!({"metadata": {"annotations": {(plan::SILENT): null}}});
    nodes
        .patch(lost, &PatchParams::default(), &Patch::Merge(speak))
        .await
        .unwrap();
    let pods = world
        .until("its old pods are gone", |pods| pods.len() == 30)
        .await;
    assert_eq!(ready(&pods), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_end_as_their_annotations_say() {
    let world = World::start(2).await;
    for (name, policy, code) in [
        ("good", "Never", "0"),
        ("bad", "Never", "4"),
        ("again", "OnFailure", "4"),
    ] {
        let pod = json!({
            "metadata": {"name": name, "annotations": {(plan::RUN_FOR): "5", (plan::EXIT_CODE): code}},
            "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]},
        });
        world.make::<Pod>(pod).await;
    }
    let restarts = |pod: &Pod| {
        let statuses = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.as_deref());
        statuses
            .unwrap_or_default()
            .iter()
            .map(|c| c.restart_count)
            .sum::<i32>()
    };
    world
        .until("each comes to its end", |pods| {
            let is = |name: &str, wanted: &str| {
                pods.iter()
                    .any(|pod| pod.metadata.name.as_deref() == Some(name) && phase(pod) == wanted)
            };
            let again = pods
                .iter()
                .find(|pod| pod.metadata.name.as_deref() == Some("again"));
            is("good", "Succeeded")
                && is("bad", "Failed")
                && again.is_some_and(|pod| restarts(pod) >= 2)
        })
        .await;
    let api: Api<Pod> = Api::namespaced(world.client(), "default");
    api.delete("again", &DeleteParams::default()).await.unwrap();
    world.until("it is gone", |pods| pods.len() == 2).await;
}
