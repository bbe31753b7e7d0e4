//! Simulated nodes beside the real one.

use anyhow::Result;
use serde_json::{Value, json};
use skiff_apiserver::{UserInfo, bootstrap};
use skiff_simulation::SimulationConfig;

use super::control_plane::{self, ControlPlane};
use super::{Context, Running, identity};

/// Who watches pods and nodes for all of them. What a node writes, it writes under its own name.
const READER: &str = "skiff:simulated-nodes";

fn policy() -> [Value; 2] {
    let reader = json!({"kind": "User", "name": READER, "apiGroup": "rbac.authorization.k8s.io"});
    let rules =
        json!([{"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["list", "watch"]}]);
    bootstrap::role_of(&reader, READER, rules)
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
