//! What scenarios are told in: a machine, a cluster, a clock.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use skiff_base::{Random, Shutdown, SimulatedClock};

use crate::cgroups::NoCgroups;
use crate::cluster::Cluster;
use crate::config::KubeletConfig;
use crate::context::Context;
use crate::images::Images;
use crate::manager::Manager;
use crate::node::machine::Machine;
use crate::runtime::Runtime;
use crate::runtime_events;
use crate::simulation::fake_cluster::FakeCluster;
use crate::simulation::fake_runtime::FakeRuntime;
use crate::volumes::mounter::NoMounts;

pub struct World {
    pub runtime: Arc<FakeRuntime>,
    pub cluster: Arc<FakeCluster>,
    pub clock: Arc<SimulatedClock>,
    pub root: tempfile::TempDir,
    pub manager: Arc<Manager>,
    mounter: Arc<NoMounts>,
    shutdown: Shutdown,
}

/// How long (of real time) a scenario waits for what must happen without the clock moving.
const PATIENCE: Duration = Duration::from_secs(10);

impl World {
    pub fn new() -> Self {
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let clock = SimulatedClock::new(epoch);
        let runtime = FakeRuntime::new(clock.clone());
        runtime.state.lock().images.insert("img:1".into());
        let cluster = FakeCluster::new(clock.clone());
        let root = tempfile::tempdir().unwrap();
        let mounter = Arc::new(NoMounts::default());
        let shutdown = Shutdown::new();
        let manager = Self::start(&runtime, &cluster, &clock, &root, &mounter, &shutdown);
        Self {
            runtime,
            cluster,
            clock,
            root,
            manager,
            mounter,
            shutdown,
        }
    }

    fn start(
        runtime: &Arc<FakeRuntime>,
        cluster: &Arc<FakeCluster>,
        clock: &Arc<SimulatedClock>,
        root: &tempfile::TempDir,
        mounter: &Arc<NoMounts>,
        shutdown: &Shutdown,
    ) -> Arc<Manager> {
        let both = Runtime {
            service: runtime.clone(),
            images: runtime.clone(),
        };
        let context = Arc::new(Context {
            config: KubeletConfig::new("node", "192.168.0.1", root.path()),
            cluster: cluster.clone(),
            images: Images::new(both.clone(), cluster.clone(), clock.clone()),
            runtime: both,
            runtime_name: "fake".into(),
            mounter: mounter.clone(),
            cgroups: Arc::new(NoCgroups),
            clock: clock.clone(),
            random: Random::seeded(1),
            machine: Machine {
                cpus: 4,
                memory: 8 << 30,
                disk: 100 << 30,
                ..Machine::default()
            },
        });
        let manager = Manager::new(context, shutdown.clone());
        cluster.connect(manager.clone());
        tokio::spawn(runtime_events::run(manager.clone(), shutdown.clone()));
        manager
    }

    /// The kubelet goes away; containers stay.
    pub fn stop_kubelet(&mut self) {
        self.shutdown.trigger();
        self.cluster.disconnect();
    }

    /// A new kubelet process starts: it knows only what the API and the runtime tell it.
    pub async fn start_kubelet(&mut self) {
        self.shutdown = Shutdown::new();
        self.manager = Self::start(
            &self.runtime,
            &self.cluster,
            &self.clock,
            &self.root,
            &self.mounter,
            &self.shutdown,
        );
        let pods: Vec<Pod> = self.cluster.state.lock().pods.values().cloned().collect();
        for pod in pods {
            self.manager.apply(Arc::new(pod));
        }
        self.manager.adopt_orphans().await.unwrap();
    }

    /// Creates a pod with this spec.
    pub fn create(&self, name: &str, spec: Value) {
        let pod = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "generation": 1},
            "spec": spec,
        });
        self.cluster.put(serde_json::from_value(pod).unwrap());
    }

    /// A pod with one container `c` of `img:1`, with these fields set beside it.
    pub fn create_simple(&self, name: &str, container: Value, more: Value) {
        let mut c = json!({"name": "c", "image": "img:1", "imagePullPolicy": "IfNotPresent"});
        for (k, v) in container.as_object().unwrap() {
            c[k] = v.clone();
        }
        let mut spec = json!({"containers": [c]});
        for (k, v) in more.as_object().unwrap() {
            spec[k] = v.clone();
        }
        self.create(name, spec);
    }

    /// Asks for a pod to be deleted.
    pub fn delete(&self, name: &str, grace: i64) {
        let mut pod = self.pod(name).unwrap();
        pod.metadata.deletion_timestamp = Some(Time(self.cluster.now()));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.cluster.put(pod);
    }

    pub fn pod(&self, name: &str) -> Option<Pod> {
        self.cluster.state.lock().pods.get(name).cloned()
    }

    pub fn phase(&self, name: &str) -> String {
        let status = self.pod(name).and_then(|p| p.status);
        status.and_then(|s| s.phase).unwrap_or_default()
    }

    pub fn ready(&self, name: &str) -> bool {
        let status = self.pod(name).and_then(|p| p.status).unwrap_or_default();
        let ready = status.conditions.iter().flatten();
        ready
            .filter(|c| c.type_ == "Ready")
            .any(|c| c.status == "True")
    }

    pub fn status(&self, name: &str, container: &str) -> Option<ContainerStatus> {
        let status = self.pod(name)?.status?;
        let all = status.container_statuses.into_iter().flatten();
        let mut all = all.chain(status.init_container_statuses.into_iter().flatten());
        all.find(|s| s.name == container)
    }

    /// Why a container waits.
    pub fn waiting(&self, name: &str, container: &str) -> String {
        let state = self.status(name, container).and_then(|s| s.state);
        let waiting = state.and_then(|s| s.waiting);
        waiting.and_then(|w| w.reason).unwrap_or_default()
    }

    pub fn restarts(&self, name: &str, container: &str) -> i32 {
        self.status(name, container).map_or(-1, |s| s.restart_count)
    }

    /// The events so far, as `Reason: message`.
    pub fn events(&self) -> Vec<String> {
        let state = self.cluster.state.lock();
        let notices = state.notices.iter();
        notices
            .map(|n| format!("{}: {}", n.reason, n.message))
            .collect()
    }

    pub fn told(&self, text: &str) -> bool {
        self.events().iter().any(|event| event.contains(text))
    }

    /// Waits until something holds; the clock stands still meanwhile.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let pods = serde_json::to_string_pretty(&self.cluster.state.lock().pods).unwrap();
            panic!(
                "waited in vain: {what}\nevents: {:#?}\nruntime: {:#?}\n{pods}",
                self.events(),
                self.runtime.log()
            );
        }
    }

    /// Moves the clock in steps, so that every sleeper acts in its time.
    pub async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.clock.advance(Duration::from_secs(1));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    pub async fn until_running(&self, name: &str) {
        self.until("running", |w| w.phase(name) == "Running" && w.ready(name))
            .await;
    }
}
