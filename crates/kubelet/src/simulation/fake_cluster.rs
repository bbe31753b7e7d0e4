//! An API server in memory, as far as a kubelet sees one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_base::SharedClock;

use crate::cluster::{Cluster, ClusterError, GrantedToken, Notice, TokenWish};
use crate::container::environment::RefKind;
use crate::manager::Manager;
use crate::pod::spec;

#[derive(Default)]
pub struct State {
    pub pods: BTreeMap<String, Pod>,
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub secrets: BTreeMap<String, Arc<Secret>>,
    pub notices: Vec<Notice>,
    pub references: BTreeMap<String, BTreeSet<(RefKind, String)>>,
    pub patches: usize,
    pub tokens: u32,
    /// The node as the watch told of it.
    pub node_seen: Option<Arc<Node>>,
    /// The node as the server has it.
    pub node: Option<Node>,
    version: u64,
}

pub struct FakeCluster {
    pub state: Mutex<State>,
    clock: SharedClock,
    manager: Mutex<OnceLock<Arc<Manager>>>,
}

impl FakeCluster {
    pub fn new(clock: SharedClock) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            clock,
            manager: Mutex::default(),
        })
    }

    /// Sends news to this kubelet from now on.
    pub fn connect(&self, manager: Arc<Manager>) {
        let slot = OnceLock::new();
        let _ = slot.set(manager);
        *self.manager.lock() = slot;
    }

    /// Nobody listens.
    pub fn disconnect(&self) {
        *self.manager.lock() = OnceLock::new();
    }

    fn manager(&self) -> Option<Arc<Manager>> {
        self.manager.lock().get().cloned()
    }

    /// Stores a pod and tells the kubelet.
    pub fn put(&self, mut pod: Pod) -> Pod {
        {
            let mut state = self.state.lock();
            state.version += 1;
            pod.metadata.resource_version = Some(state.version.to_string());
            state.pods.insert(spec::name(&pod).to_owned(), pod.clone());
        }
        if let Some(manager) = self.manager() {
            manager.apply(Arc::new(pod.clone()));
        }
        pod
    }

    /// Removes a pod and tells the kubelet.
    pub fn drop_pod(&self, name: &str) {
        let pod = self.state.lock().pods.remove(name);
        if let (Some(pod), Some(manager)) = (pod, self.manager()) {
            manager.remove(&Arc::new(pod));
        }
    }

    pub fn put_config_map(&self, name: &str, data: &[(&str, &str)]) {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let map = ConfigMap {
            data: Some(data.collect()),
            ..Default::default()
        };
        self.state
            .lock()
            .config_maps
            .insert(name.to_owned(), Arc::new(map));
        let key = (RefKind::ConfigMap, name.to_owned());
        let users: Vec<String> = {
            let state = self.state.lock();
            let users = state
                .references
                .iter()
                .filter(|(_, refs)| refs.contains(&key));
            users.map(|(uid, _)| uid.clone()).collect()
        };
        for uid in users {
            self.manager().unwrap().objects_changed(&uid);
        }
    }
}

/// A strategic merge as far as pod statuses need it.
pub fn merge(status: &mut Value, patch: &Value) {
    for (field, value) in patch.as_object().unwrap() {
        match field.as_str() {
            "conditions" => {
                let list = status
                    .as_object_mut()
                    .unwrap()
                    .entry("conditions")
                    .or_insert(json!([]))
                    .as_array_mut()
                    .unwrap();
                for condition in value.as_array().unwrap() {
                    let mut condition = condition.clone();
                    condition
                        .as_object_mut()
                        .unwrap()
                        .retain(|_, v| !v.is_null());
                    list.retain(|c| c["type"] != condition["type"]);
                    list.push(condition);
                }
            }
            "podIPs" | "hostIPs" if value.is_array() => {
                let items = value.as_array().unwrap().iter();
                let items: Vec<_> = items
                    .filter(|i| i.get("$patch").is_none())
                    .cloned()
                    .collect();
                status[field] = Value::Array(items);
            }
            _ if value.is_null() => {
                status.as_object_mut().unwrap().remove(field);
            }
            _ => status[field] = value.clone(),
        }
    }
}

#[async_trait]
impl Cluster for FakeCluster {
    fn now(&self) -> Timestamp {
        Timestamp::try_from(self.clock.now()).unwrap()
    }

    fn watch_references(&self, uid: &str, _: &str, wanted: BTreeSet<(RefKind, String)>) {
        self.state.lock().references.insert(uid.to_owned(), wanted);
    }

    async fn config_map(
        &self,
        _: &str,
        name: &str,
    ) -> Result<Option<Arc<ConfigMap>>, ClusterError> {
        Ok(self.state.lock().config_maps.get(name).cloned())
    }

    async fn secret(&self, _: &str, name: &str) -> Result<Option<Arc<Secret>>, ClusterError> {
        Ok(self.state.lock().secrets.get(name).cloned())
    }

    async fn services(&self, _: &str) -> Result<Vec<Arc<Service>>, ClusterError> {
        Ok(Vec::new())
    }

    async fn claim(&self, _: &str, _: &str) -> Result<Option<PersistentVolumeClaim>, ClusterError> {
        Ok(None)
    }

    async fn persistent_volume(&self, _: &str) -> Result<Option<PersistentVolume>, ClusterError> {
        Ok(None)
    }

    async fn runtime_handler(&self, class: &str) -> Result<Option<String>, ClusterError> {
        Ok((class == "known").then(|| "handler".to_owned()))
    }

    async fn token(&self, wish: &TokenWish) -> Result<GrantedToken, ClusterError> {
        let mut state = self.state.lock();
        state.tokens += 1;
        Ok(GrantedToken {
            token: format!("token-{}-{}", wish.account, state.tokens),
            fresh_for: Duration::from_secs(100),
        })
    }

    async fn pod(&self, _: &str, name: &str) -> Result<Option<Pod>, ClusterError> {
        Ok(self.state.lock().pods.get(name).cloned())
    }

    async fn patch_pod_status(
        &self,
        _: &str,
        name: &str,
        patch: Value,
    ) -> Result<Pod, ClusterError> {
        let found = self.state.lock().pods.get(name).cloned();
        let mut pod = found.ok_or_else(|| ClusterError::NotFound(name.to_owned()))?;
        if patch["metadata"]["uid"].as_str() != Some(spec::uid(&pod)) {
            return Err(ClusterError::Conflict("uid".into()));
        }
        let mut status = serde_json::to_value(pod.status.clone().unwrap_or_default()).unwrap();
        merge(&mut status, &patch["status"]);
        pod.status = Some(serde_json::from_value(status).unwrap());
        self.state.lock().patches += 1;
        Ok(self.put(pod))
    }

    async fn delete_pod(&self, _: &str, name: &str, uid: &str) -> Result<(), ClusterError> {
        let same = {
            let state = self.state.lock();
            state
                .pods
                .get(name)
                .is_some_and(|pod| spec::uid(pod) == uid)
        };
        if same {
            self.drop_pod(name);
        }
        Ok(())
    }

    async fn create_pod(&self, pod: &Pod) -> Result<Pod, ClusterError> {
        Ok(self.put(pod.clone()))
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.state.lock().node_seen.clone()
    }

    async fn newest_node(&self) -> Result<Node, ClusterError> {
        let node = self.state.lock().node.clone();
        node.ok_or_else(|| ClusterError::Unavailable("no answer".to_owned()))
    }

    fn notify(&self, notice: Notice) {
        self.state.lock().notices.push(notice);
    }
}
