//! An API server and a scheduler; nobody runs the pods.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_base::{Random, SharedClock, Shutdown, SystemClock};
use skiff_scheduler::SchedulerConfig;
use skiff_testkit::TestCluster;

pub struct Running {
    pub cluster: TestCluster,
    shutdown: Shutdown,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

pub async fn start(config: SchedulerConfig) -> Running {
    start_with(config, SystemClock::shared()).await
}

/// The same with a clock of its own for the scheduler.
pub async fn start_with(config: SchedulerConfig, clock: SharedClock) -> Running {
    let cluster = TestCluster::start().await.unwrap();
    let client = cluster.client();
    let component = skiff_scheduler::component(client, config, clock, Random::seeded(1));
    let shutdown = Shutdown::new();
    let signal = shutdown.clone();
    tokio::spawn(async move { component.run(signal).await });
    Running { cluster, shutdown }
}

/// Waits until `check` gives something; the limit only ends a test that has failed.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, check: impl Fn() -> F) -> T {
    let found = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found)
        .await
        .unwrap_or_else(|_| panic!("{what}"))
}

/// Makes an object from JSON.
pub async fn make<K>(api: &Api<K>, object: Value) -> K
where
    K: DeserializeOwned + serde::Serialize + Clone + Debug,
{
    let object: K = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

impl Running {
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.cluster.client(), "default")
    }

    /// A node with so many CPUs.
    pub async fn node(&self, name: &str, cpu: &str) {
        let api: Api<Node> = Api::all(self.cluster.client());
        let labels = json!({"kubernetes.io/hostname": name});
        make(&api, json!({"metadata": {"name": name, "labels": labels}})).await;
        // New nodes are tainted until a controller has seen them ready.
        let ready = json!({"spec": {"taints": null}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(ready))
            .await
            .unwrap();
        let status = json!({"status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
            "capacity": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    /// A pod that asks for so much CPU, and what `extra` says.
    pub async fn pod(&self, name: &str, cpu: &str, extra: Value) {
        let mut object = json!({"metadata": {"name": name}, "spec": {"containers": [
            {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            object["spec"][key] = value.clone();
        }
        make(&self.pods(), object).await;
    }

    /// The node that the pod gets.
    pub async fn node_of(&self, name: &str) -> String {
        let api = self.pods();
        let last = std::sync::Mutex::new(String::new());
        let found = async {
            loop {
                let pod = api.get(name).await.unwrap();
                if let Some(node) = pod.spec.unwrap().node_name {
                    return node;
                }
                *last.lock().unwrap() = format!("{:?}", pod.status.unwrap().conditions);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), found)
            .await
            .unwrap_or_else(|_| panic!("{name} gets a node: {}", last.lock().unwrap()))
    }

    /// The message of the condition PodScheduled once it has that reason.
    pub async fn waits(&self, name: &str, reason: &str) -> String {
        let api = self.pods();
        until(&format!("{name} waits: {reason}"), || async {
            let pod = api.get(name).await.unwrap();
            let conditions = pod.status?.conditions?;
            let found = conditions
                .into_iter()
                .find(|found| found.type_ == "PodScheduled")?;
            (found.reason.as_deref() == Some(reason)).then_some(found.message?)
        })
        .await
    }

    /// The note of the event with that reason about the pod.
    pub async fn event(&self, name: &str, reason: &str) -> String {
        let api: Api<Event> = Api::namespaced(self.cluster.client(), "default");
        until(&format!("event {reason} about {name}"), || async {
            let all = api.list(&ListParams::default()).await.unwrap();
            let mut about = all.items.into_iter().filter(|event| {
                let regarding = event
                    .regarding
                    .as_ref()
                    .and_then(|found| found.name.as_deref());
                event.reason.as_deref() == Some(reason) && regarding == Some(name)
            });
            about.next().and_then(|event| event.note)
        })
        .await
    }
}
