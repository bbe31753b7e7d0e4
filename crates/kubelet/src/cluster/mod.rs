//! The kubelet's view of the API: what it reads, what it writes, behind one trait that tests replace.

pub mod kube_cluster;
pub mod object_watch;
pub mod tokens;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
};
use serde_json::Value;

use crate::container::environment::RefKind;
use crate::pod::spec;

/// The API did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// There is no such object.
    #[error("{0}")]
    NotFound(String),
    /// Somebody else was faster.
    #[error("{0}")]
    Conflict(String),
    /// It refused.
    #[error("{0}")]
    Refused(String),
    /// It could not be reached, or failed.
    #[error("{0}")]
    Unavailable(String),
}

/// A service-account token that a volume asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenWish {
    /// The pod's namespace.
    pub namespace: String,
    /// The service account.
    pub account: String,
    /// Who shall accept the token; the API server if not said.
    pub audience: Option<String>,
    /// How long it shall be valid.
    pub seconds: i64,
    /// The pod that it is bound to.
    pub pod_name: String,
    /// Its uid.
    pub pod_uid: String,
}

/// A token that was granted.
#[derive(Clone, Debug)]
pub struct GrantedToken {
    /// The token.
    pub token: String,
    /// When another one should be asked for.
    pub fresh_for: Duration,
}

/// An event for people.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// What it is about.
    pub about: ObjectReference,
    /// Whether it is a warning.
    pub warning: bool,
    /// A word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// The API, as the kubelet uses it.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// Declares which objects a pod refers to: they are watched from now on, and the pod's worker is woken when one
    /// changes. An empty set ends that.
    fn watch_references(&self, pod_uid: &str, namespace: &str, wanted: BTreeSet<(RefKind, String)>);
    /// A ConfigMap; `None` when there is none.
    async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ConfigMap>>, ClusterError>;
    /// A Secret; `None` when there is none.
    async fn secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Secret>>, ClusterError>;
    /// The services of a namespace.
    async fn services(&self, namespace: &str) -> Result<Vec<Arc<Service>>, ClusterError>;
    /// A claim; `None` when there is none.
    async fn claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<PersistentVolumeClaim>, ClusterError>;
    /// A persistent volume; `None` when there is none.
    async fn persistent_volume(&self, name: &str)
    -> Result<Option<PersistentVolume>, ClusterError>;
    /// What the container runtime calls a runtime class; `None` when there is no such class.
    async fn runtime_handler(&self, class: &str) -> Result<Option<String>, ClusterError>;
    /// A token for a pod's service account.
    async fn token(&self, wish: &TokenWish) -> Result<GrantedToken, ClusterError>;
    /// A pod, read from the server itself; `None` when there is none.
    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ClusterError>;
    /// Changes a pod's status by a strategic merge patch.
    async fn patch_pod_status(
        &self,
        namespace: &str,
        name: &str,
        patch: Value,
    ) -> Result<Pod, ClusterError>;
    /// Removes a pod at once, if its uid still is `uid`.
    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), ClusterError>;
    /// Creates a pod (a mirror of a static one).
    async fn create_pod(&self, pod: &Pod) -> Result<Pod, ClusterError>;
    /// The node object as it was last seen.
    fn node(&self) -> Option<Arc<Node>>;
    /// The node object, read from the server itself.
    async fn newest_node(&self) -> Result<Node, ClusterError>;
    /// Tells people.
    fn notify(&self, notice: Notice);
}

/// The reference to a pod, or to one of its containers, for events.
#[must_use]
pub fn pod_reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: Some(spec::uid(pod).to_owned()),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

/// The field path of a container, as events carry it.
#[must_use]
pub fn container_path(kind: spec::Kind, name: &str) -> String {
    let list = match kind {
        spec::Kind::Init => "initContainers",
        spec::Kind::Regular => "containers",
        spec::Kind::Ephemeral => "ephemeralContainers",
    };
    format!("spec.{list}{{{name}}}")
}
