//! Tells kubelets, by an annotation of their node, for how long they may keep what they have read of secrets and
//! ConfigMaps: the more nodes there are, the longer.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use skiff_client::{
    Event, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache, is_not_found,
};

use crate::Context;

/// The name of this controller.
pub const NAME: &str = "ttl-controller";

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// The nodes down to which and up to which a step holds, and its seconds. Steps overlap, so that a node that comes and
/// goes does not change all the others each time.
const STEPS: [(usize, usize, u32); 5] = [
    (0, 100, 0),
    (90, 500, 15),
    (450, 1000, 30),
    (900, 2000, 60),
    (1800, usize::MAX, 300),
];

/// The step for so many nodes, coming from a step.
fn step(from: usize, nodes: usize) -> usize {
    let mut step = from.min(STEPS.len() - 1);
    while nodes > STEPS[step].1 {
        step += 1;
    }
    while nodes < STEPS[step].0 {
        step -= 1;
    }
    step
}

struct NodeTtl {
    client: Client,
    nodes: SharedCache<Node>,
    step: Mutex<usize>,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let nodes = context.caches.of::<Node>();
    let queue = context.queue();
    nodes.wait_synced().await;
    let _nodes = {
        let (queue, cache) = (queue.clone(), nodes.clone());
        let reached = Mutex::new(0);
        nodes.on_event(move |event| {
            if !matches!(event, Event::Updated { .. }) {
                let mut reached = reached.lock();
                let next = step(*reached, cache.len());
                if next != *reached {
                    *reached = next;
                    for node in cache.list() {
                        queue.add(ObjectKey::of(&node.metadata));
                    }
                }
            }
            let meta = &event.object().metadata;
            let same = |old: &Node| old.metadata.annotations == meta.annotations;
            match event {
                Event::Updated { old, .. } if same(old) => {}
                _ => queue.add(ObjectKey::of(meta)),
            }
        })
    };
    let reconciler = NodeTtl {
        client: context.client(NAME),
        nodes,
        step: Mutex::new(0),
    };
    context.run(reconciler, queue, 1).await;
}

#[async_trait]
impl Reconciler for NodeTtl {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "ttlcontroller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let seconds = {
            let mut reached = self.step.lock();
            *reached = step(*reached, self.nodes.len());
            STEPS[*reached].2.to_string()
        };
        let Some(node) = self.nodes.get(key) else {
            return Ok(Outcome::Done);
        };
        let annotations = node.metadata.annotations.as_ref();
        if annotations.and_then(|all| all.get(ANNOTATION)) == Some(&seconds) {
            return Ok(Outcome::Done);
        }
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Strategic(json!({"metadata": {"annotations": {ANNOTATION: seconds}}}));
        match api.patch(key.name(), &PatchParams::default(), &patch).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(Outcome::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_left_late() {
        for (from, nodes, seconds) in [
            (0, 1, 0),
            (0, 100, 0),
            (0, 101, 15),
            (1, 90, 15),
            (1, 89, 0),
            (0, 5000, 300),
            (4, 1800, 300),
            (4, 1799, 60),
            (4, 3, 0),
        ] {
            assert_eq!(STEPS[step(from, nodes)].2, seconds, "{from} {nodes}");
        }
    }
}
