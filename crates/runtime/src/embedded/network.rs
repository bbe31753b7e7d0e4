//! What the runtime asks of the pod network.

use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::cri;

/// A pod that wants to be on the network.
#[derive(Clone, Debug)]
pub struct AttachRequest {
    /// Sandbox id: what the attachment is known by.
    pub sandbox_id: String,
    /// The pod's network namespace. The loopback interface in it is up already.
    pub netns: PathBuf,
    /// Namespace of the pod.
    pub pod_namespace: String,
    /// Name of the pod.
    pub pod_name: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// Host name in the pod.
    pub hostname: String,
    /// Ports of the node that lead to the pod.
    pub port_mappings: Vec<cri::PortMapping>,
    /// Annotations of the pod (bandwidth limits, for example).
    pub annotations: std::collections::HashMap<String, String>,
}

/// A pod's place on the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Its addresses, the primary first.
    pub ips: Vec<IpAddr>,
}

/// Why a pod could not be attached or detached.
pub type NetworkError = Box<dyn std::error::Error + Send + Sync>;

/// Puts pods on the network. Both calls may come again for the same sandbox, also after a restart,
/// and then do nothing new.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives a pod its interface and addresses.
    async fn attach(&self, request: AttachRequest) -> Result<Attachment, NetworkError>;

    /// Takes back what [`PodNetwork::attach`] gave. The namespace may be gone already.
    async fn detach(&self, sandbox_id: &str, netns: Option<PathBuf>) -> Result<(), NetworkError>;

    /// Whether pods can be attached now; else why not. Shown as the node's network condition.
    async fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A network that gives pods nothing but their loopback interface: for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNetwork;

#[async_trait]
impl PodNetwork for NoNetwork {
    async fn attach(&self, _: AttachRequest) -> Result<Attachment, NetworkError> {
        Ok(Attachment::default())
    }

    async fn detach(&self, _: &str, _: Option<PathBuf>) -> Result<(), NetworkError> {
        Ok(())
    }
}
