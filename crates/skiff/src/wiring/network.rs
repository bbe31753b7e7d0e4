//! The pod network as the container runtime asks for it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use skiff_base::Shutdown;
use skiff_network::pod::{self, PodNetworkConfig, PortMapping, Protocol};
use skiff_runtime::cri;
use skiff_runtime::{AttachRequest, Attachment, NetworkError, PodNetwork};

/// The node's pod network.
#[derive(Clone)]
pub struct Network(Arc<pod::PodNetwork>);

impl Network {
    /// Sets the network up, or finds it as it was.
    pub async fn open(config: PodNetworkConfig) -> Result<Self> {
        Ok(Self(Arc::new(pod::PodNetwork::open(config).await?)))
    }

    /// Mends it when somebody else breaks it, until `shutdown`.
    pub async fn keep(self, shutdown: Shutdown) {
        tokio::select! {
            outcome = self.0.keep() => {
                if let Err(error) = outcome {
                    tracing::error!(error = &error as &dyn std::error::Error, "nobody watches over the pod network's rules");
                }
            }
            () = shutdown.triggered() => {}
        }
    }

    /// Removes it with everything in it.
    pub async fn remove_all(&self) -> Result<()> {
        Ok(self.0.remove_all().await?)
    }
}

fn mapping(mapping: &cri::PortMapping) -> Option<PortMapping> {
    let protocol = match mapping.protocol() {
        cri::Protocol::Tcp => Protocol::Tcp,
        cri::Protocol::Udp => Protocol::Udp,
        cri::Protocol::Sctp => Protocol::Sctp,
    };
    Some(PortMapping {
        protocol,
        host_ip: mapping
            .host_ip
            .parse()
            .ok()
            .filter(|address: &std::net::Ipv4Addr| !address.is_unspecified()),
        host_port: u16::try_from(mapping.host_port)
            .ok()
            .filter(|port| *port > 0)?,
        container_port: u16::try_from(mapping.container_port).ok()?,
    })
}

#[async_trait]
impl PodNetwork for Network {
    async fn attach(&self, request: AttachRequest) -> Result<Attachment, NetworkError> {
        let attachment = self
            .0
            .attach(pod::AttachRequest {
                id: request.sandbox_id,
                netns: request.netns,
                hostname: request.hostname,
                ports: request.port_mappings.iter().filter_map(mapping).collect(),
            })
            .await?;
        Ok(Attachment {
            ips: vec![attachment.ip.into()],
        })
    }

    async fn detach(&self, sandbox_id: &str, _: Option<PathBuf>) -> Result<(), NetworkError> {
        Ok(self.0.detach(sandbox_id).await?)
    }
}
