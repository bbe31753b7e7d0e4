//! An API server, scheduler, controllers and simulated nodes, on a clock that runs fast.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::Value;
use skiff_base::{Component, FastClock, Random, Shutdown};
use skiff_controllers::ControllersConfig;
use skiff_scheduler::SchedulerConfig;
use skiff_simulation::SimulationConfig;
use skiff_testkit::{TestCluster, TestOptions};
use tokio::task::JoinHandle;

/// So many times faster than the machine's clock.
const SPEED: u32 = 60;

pub struct World {
    cluster: TestCluster,
    parts: Vec<Running>,
}

/// A component, and its run.
struct Running {
    component: Arc<dyn Component>,
    shutdown: Shutdown,
    run: JoinHandle<()>,
}

impl Running {
    fn start(component: Arc<dyn Component>) -> Self {
        let shutdown = Shutdown::new();
        let (part, signal) = (component.clone(), shutdown.clone());
        let run = tokio::spawn(async move { part.run(signal).await.unwrap() });
        Self {
            component,
            shutdown,
            run,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.parts.iter().for_each(|part| part.shutdown.trigger());
    }
}

/// The parts that can be restarted.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    Controllers,
    Scheduler,
    Nodes,
}

impl World {
    pub async fn start(nodes: u32, seed: u64) -> Self {
        // Long ago, so that no certificate of today is in force; nothing here needs one.
        let clock = FastClock::shared(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30), SPEED);
        let options = TestOptions {
            seed,
            clock: Some(clock.clone()),
            ..TestOptions::default()
        };
        let cluster = TestCluster::start_with(options).await.unwrap();
        let client = cluster.client();
        let (own, of_node) = (client.clone(), client.clone());
        let random = Random::seeded(seed);
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
                SimulationConfig {
                    seed,
                    ..SimulationConfig::of(nodes)
                },
                clock,
                random,
            ),
        ];
        Self {
            cluster,
            parts: parts.into_iter().map(Running::start).collect(),
        }
    }

    /// Ends a part in the middle of what it does, and starts it again.
    pub async fn restart(&mut self, part: Part) {
        let running = &mut self.parts[part as usize];
        running.shutdown.trigger();
        let old = std::mem::replace(running, Running::start(running.component.clone()));
        tokio::time::timeout(Duration::from_secs(30), old.run)
            .await
            .expect("it does not end")
            .unwrap();
    }

    pub fn client(&self) -> Client {
        self.cluster.client()
    }

    pub async fn make<K>(&self, object: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
        K: DeserializeOwned + serde::Serialize + Clone + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        let api: Api<K> = Api::namespaced(self.client(), "default");
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    pub async fn pods(&self) -> Vec<Pod> {
        let api: Api<Pod> = Api::namespaced(self.client(), "default");
        api.list(&ListParams::default()).await.unwrap().items
    }

    /// Waits until the pods are so; the limit only ends a test that has failed.
    pub async fn until(&self, what: &str, holds: impl Fn(&[Pod]) -> bool) -> Vec<Pod> {
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

pub fn node_of(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}
