//! The API over a [`kube::Client`], in process or over HTTPS.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Error};
use parking_lot::RwLock;
use serde_json::Value;
use skiff_base::{Random, SharedClock, Shutdown};
use skiff_client::{
    ApiFailure, EventRecorder, EventStyle, EventType, SharedCache, WatchSpec, failure,
};
use tokio::sync::mpsc;

use crate::cluster::object_watch::ObjectWatches;
use crate::cluster::tokens::Tokens;
use crate::cluster::{Cluster, ClusterError, GrantedToken, Notice, TokenWish};
use crate::container::environment::RefKind;

/// A cache that has not been filled by then is not waited for.
const FILL: Duration = Duration::from_secs(10);

/// The API over a client.
pub struct KubeCluster {
    client: Client,
    clock: SharedClock,
    objects: ObjectWatches,
    services: SharedCache<Service>,
    tokens: Tokens,
    events: EventRecorder,
    node_name: String,
    node: RwLock<Option<Arc<Node>>>,
}

/// What a client's error means here.
#[must_use]
pub fn cluster_error(error: Error) -> ClusterError {
    let message = failure::message(&error);
    match error.code() {
        Some(404) => ClusterError::NotFound(message),
        Some(409) => ClusterError::Conflict(message),
        Some(400..=499) => ClusterError::Refused(message),
        _ => ClusterError::Unavailable(message),
    }
}

impl KubeCluster {
    /// Starts the watches that every kubelet needs. `changed` is told the uids of pods whose objects changed.
    #[must_use]
    pub fn start(
        client: Client,
        node_name: &str,
        clock: SharedClock,
        random: Random,
        shutdown: Shutdown,
        changed: mpsc::UnboundedSender<String>,
    ) -> Arc<Self> {
        let services = SharedCache::start(
            client.clone(),
            WatchSpec::all::<Service>(),
            clock.clone(),
            random.clone(),
            shutdown.clone(),
        );
        let events = EventRecorder::new(
            client.clone(),
            "kubelet",
            node_name,
            EventStyle::Core,
            clock.clone(),
            random.clone(),
        );
        Arc::new(Self {
            objects: ObjectWatches::new(
                client.clone(),
                clock.clone(),
                random.clone(),
                shutdown,
                changed,
            ),
            tokens: Tokens::new(client.clone(), clock.clone(), random),
            services,
            events,
            node_name: node_name.to_owned(),
            node: RwLock::default(),
            client,
            clock,
        })
    }

    /// Notes the node object as it was last seen.
    pub fn set_node(&self, node: Arc<Node>) {
        *self.node.write() = Some(node);
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn filled<K>(&self, cache: &SharedCache<K>) -> Result<(), ClusterError>
    where
        K: skiff_client::reflect::Watched,
    {
        tokio::select! {
            () = cache.wait_synced() => Ok(()),
            () = self.clock.sleep(FILL) => {
                let message = "failed to sync cache: timed out waiting for the condition";
                Err(ClusterError::Unavailable(message.to_owned()))
            }
        }
    }
}

#[async_trait]
impl Cluster for KubeCluster {
    fn now(&self) -> Timestamp {
        Timestamp::try_from(self.clock.now()).unwrap_or_default()
    }

    fn watch_references(
        &self,
        pod_uid: &str,
        namespace: &str,
        wanted: BTreeSet<(RefKind, String)>,
    ) {
        if wanted.is_empty() {
            self.tokens.forget(pod_uid);
        }
        self.objects.set(pod_uid, namespace, &wanted);
    }

    async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ConfigMap>>, ClusterError> {
        if let Some(cache) = self.objects.config_map(namespace, name) {
            self.filled(&cache).await?;
            return Ok(cache.get_named(namespace, name));
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let found = api.get_opt(name).await.map_err(cluster_error)?;
        Ok(found.map(Arc::new))
    }

    async fn secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Secret>>, ClusterError> {
        if let Some(cache) = self.objects.secret(namespace, name) {
            self.filled(&cache).await?;
            return Ok(cache.get_named(namespace, name));
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let found = api.get_opt(name).await.map_err(cluster_error)?;
        Ok(found.map(Arc::new))
    }

    async fn services(&self, namespace: &str) -> Result<Vec<Arc<Service>>, ClusterError> {
        self.filled(&self.services).await?;
        Ok(self.services.list_in(namespace))
    }

    async fn claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<PersistentVolumeClaim>, ClusterError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        api.get_opt(name).await.map_err(cluster_error)
    }

    async fn persistent_volume(
        &self,
        name: &str,
    ) -> Result<Option<PersistentVolume>, ClusterError> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        api.get_opt(name).await.map_err(cluster_error)
    }

    async fn runtime_handler(&self, class: &str) -> Result<Option<String>, ClusterError> {
        let api: Api<RuntimeClass> = Api::all(self.client.clone());
        let found = api.get_opt(class).await.map_err(cluster_error)?;
        Ok(found.map(|class| class.handler))
    }

    async fn token(&self, wish: &TokenWish) -> Result<GrantedToken, ClusterError> {
        self.tokens.get(wish).await
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ClusterError> {
        self.pods(namespace)
            .get_opt(name)
            .await
            .map_err(cluster_error)
    }

    async fn patch_pod_status(
        &self,
        namespace: &str,
        name: &str,
        patch: Value,
    ) -> Result<Pod, ClusterError> {
        let params = PatchParams::default();
        let patch = Patch::Strategic(patch);
        let answer = self
            .pods(namespace)
            .patch_status(name, &params, &patch)
            .await;
        answer.map_err(cluster_error)
    }

    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), ClusterError> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.pods(namespace).delete(name, &params).await {
            Ok(_) => Ok(()),
            Err(error) => match cluster_error(error) {
                // It is gone, or another one has its name.
                ClusterError::NotFound(_) | ClusterError::Conflict(_) => Ok(()),
                error => Err(error),
            },
        }
    }

    async fn create_pod(&self, pod: &Pod) -> Result<Pod, ClusterError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let created = self
            .pods(namespace)
            .create(&PostParams::default(), pod)
            .await;
        created.map_err(cluster_error)
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.node.read().clone()
    }

    async fn newest_node(&self) -> Result<Node, ClusterError> {
        let api: Api<Node> = Api::all(self.client.clone());
        api.get(&self.node_name).await.map_err(cluster_error)
    }

    fn notify(&self, notice: Notice) {
        let kind = if notice.warning {
            EventType::Warning
        } else {
            EventType::Normal
        };
        self.events
            .record(notice.about, kind, &notice.reason, notice.message);
    }
}
