//! The node: container runtime, pod network, kubelet, service proxy, DNS.

use anyhow::Result;

use super::control_plane::ControlPlane;
use super::{Context, Running};

/// Starts the node's parts; answers when the node is Ready and DNS answers.
pub(crate) async fn start(
    _context: &Context,
    _plane: &ControlPlane,
    _running: &mut Running,
) -> Result<()> {
    Ok(())
}

/// Removes what a node made: pods, networks, mounts, cgroups.
pub async fn remove(
    _config: &crate::config::Config,
    _clock: skiff_base::SharedClock,
) -> Result<()> {
    Ok(())
}
