//! Nodes without machines: they register, renew their leases and report pods as kubelets do, and run nothing.
//!
//! Controllers and scheduler cannot tell them from others, so that a cluster can be tried at a size no one machine has.
//! What a node and a pod do next is planned in [`plan`], from what the API says and numbers that the seed gives;
//! [`component`] does it when its time has come.

mod act;
pub mod plan;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use skiff_base::{Component, Random, SharedClock};

/// Makes the client that a node acts with, from the node's name.
pub type ClientFactory = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct SimulationConfig {
    /// So many nodes.
    pub nodes: u32,
    /// What their names begin with; a number follows.
    pub prefix: String,
    /// All that is drawn comes from it, and from names: the same seed and names give the same times.
    pub seed: u64,
    /// Nodes are spread over so many zones.
    pub zones: u32,
    /// What a node has, for example `("cpu", "8")`.
    pub capacity: Vec<(String, String)>,
    /// The shortest and the longest time that a pod needs to become ready.
    pub starting: (Duration, Duration),
    /// The shortest and the longest time that a pod takes to end when it is deleted, within its grace period.
    pub ending: (Duration, Duration),
}

impl SimulationConfig {
    /// So many nodes of 32 CPUs, 128 GiB and 110 pods in three zones; pods start within two seconds.
    #[must_use]
    pub fn of(nodes: u32) -> Self {
        let capacity = [
            ("cpu", "32"),
            ("memory", "128Gi"),
            ("ephemeral-storage", "500Gi"),
            ("pods", "110"),
        ];
        let amount = |(name, amount): (&str, &str)| (name.to_owned(), amount.to_owned());
        Self {
            nodes,
            prefix: "simulated-".to_owned(),
            seed: 0,
            zones: 3,
            capacity: capacity.map(amount).to_vec(),
            starting: (Duration::from_millis(200), Duration::from_secs(2)),
            ending: (Duration::from_millis(50), Duration::from_millis(500)),
        }
    }

    /// The name of a node.
    #[must_use]
    pub fn name(&self, node: u32) -> String {
        format!("{}{node:05}", self.prefix)
    }

    /// Which node has that name.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u32> {
        let number: u32 = name.strip_prefix(&self.prefix)?.parse().ok()?;
        (number < self.nodes && self.name(number) == name).then_some(number)
    }
}

/// The nodes as one component. `reader` watches pods and nodes for all of them, `clients` makes the clients that each
/// acts with.
#[must_use]
pub fn component(
    reader: Client,
    clients: ClientFactory,
    config: SimulationConfig,
    clock: SharedClock,
    random: Random,
) -> Arc<dyn Component> {
    Arc::new(act::Simulation::new(reader, clients, config, clock, random))
}
