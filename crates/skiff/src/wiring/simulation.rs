//! Simulated nodes beside the real one.

use anyhow::Result;
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;
use skiff_simulation::SimulationConfig;

use super::control_plane::{self, ControlPlane};
use super::{Context, Running, identity};

/// Who watches pods and nodes for all of them. What a node writes, it writes under its own name.
const READER: &str = "skiff:simulated-nodes";

fn policy() -> [Value; 2] {
    let group = "rbac.authorization.k8s.io";
    let metadata = json!({"name": READER});
    [
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": metadata, "rules": [
            {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["list", "watch"]}]}),
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": READER},
            "subjects": [{"kind": "User", "name": READER, "apiGroup": group}]}),
    ]
}

/// Starts the simulated nodes, if any are asked for.
pub(crate) async fn start(
    context: &Context,
    plane: &ControlPlane,
    running: &mut Running,
) -> Result<()> {
    let config = &context.config;
    if config.simulated_nodes == 0 {
        return Ok(());
    }
    for object in policy() {
        control_plane::make(&plane.server, object).await?;
    }
    let reader = UserInfo::new(READER, &["system:authenticated"]);
    let server = plane.server.clone();
    let nodes = skiff_simulation::component(
        identity::client(&plane.server, reader),
        std::sync::Arc::new(move |name| identity::client(&server, identity::node(name))),
        SimulationConfig {
            seed: config.simulation_seed,
            ..SimulationConfig::of(config.simulated_nodes)
        },
        context.clock.clone(),
        context.random.clone(),
    );
    running.start(nodes, context);
    Ok(())
}
