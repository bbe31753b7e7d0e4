//! Gives every node a range of pod addresses of its own, cut from the cluster's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use skiff_client::{
    Event, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache,
};

use crate::{Context, node_lifecycle};

/// The name of this controller. It acts as the node controller.
pub const NAME: &str = "node-ipam-controller";

/// How long to wait for a node to leave when no range is free.
const WAIT: Duration = Duration::from_secs(30);

/// One range of the cluster, cut into ranges of nodes.
#[derive(Debug)]
struct Pool {
    base: u128,
    v4: bool,
    prefix: u8,
    node_prefix: u8,
    /// By number of the range: the node that has it.
    taken: HashMap<u128, String>,
    /// Where the search for a free one starts: a range that was just freed is used again last.
    next: u128,
}

impl Pool {
    /// From `address/prefix`; `size` is the length of a node's prefix, 0 for upstream's default.
    fn parse(range: &str, size: u8) -> Option<Self> {
        let (address, prefix) = range.trim().split_once('/')?;
        let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
        let (bits, v4) = match address {
            IpAddr::V4(address) => (u128::from(u32::from(address)), true),
            IpAddr::V6(address) => (u128::from(address), false),
        };
        let (width, default) = if v4 { (32, 24) } else { (128, 64) };
        let node_prefix = if size == 0 { default } else { size }.max(prefix);
        if prefix > width || node_prefix > width {
            return None;
        }
        let host = u32::from(width - prefix);
        let base = bits.checked_shr(host).unwrap_or(0);
        Some(Self {
            base: base.checked_shl(host).unwrap_or(0),
            v4,
            prefix,
            node_prefix,
            taken: HashMap::new(),
            next: 0,
        })
    }

    fn width(&self) -> u8 {
        if self.v4 { 32 } else { 128 }
    }

    /// How many nodes it serves; at most 65536, as upstream limits IPv6 ranges.
    fn count(&self) -> u128 {
        1 << u32::from(self.node_prefix - self.prefix).min(16)
    }

    fn range(&self, number: u128) -> String {
        let shift = u32::from(self.width() - self.node_prefix);
        let bits = self.base + number.checked_shl(shift).unwrap_or(0);
        let address = if self.v4 {
            IpAddr::from(u32::try_from(bits).unwrap_or_default().to_be_bytes())
        } else {
            IpAddr::from(bits.to_be_bytes())
        };
        format!("{address}/{}", self.node_prefix)
    }

    /// The number of a node's range; none if it is not one of ours.
    fn number(&self, range: &str) -> Option<u128> {
        let other = Self::parse(range, self.node_prefix)?;
        let shift = u32::from(self.width() - self.node_prefix);
        let number = other.base.checked_sub(self.base)?.checked_shr(shift)?;
        (other.v4 == self.v4 && number < self.count()).then_some(number)
    }

    fn take(&mut self, range: &str, node: &str) {
        if let Some(number) = self.number(range) {
            self.taken.entry(number).or_insert_with(|| node.to_owned());
        }
    }

    fn free(&mut self, node: &str) {
        self.taken.retain(|_, taken| taken != node);
    }

    fn give(&mut self, node: &str) -> Option<String> {
        let known = self.taken.iter().find(|(_, taken)| *taken == node);
        if let Some((number, _)) = known {
            return Some(self.range(*number));
        }
        let count = self.count();
        let number = (0..count)
            .map(|n| (self.next + n) % count)
            .find(|number| !self.taken.contains_key(number))?;
        self.taken.insert(number, node.to_owned());
        self.next = (number + 1) % count;
        Some(self.range(number))
    }
}

struct Allocator {
    client: Client,
    nodes: SharedCache<Node>,
    pools: Arc<Mutex<Vec<Pool>>>,
    recorder: EventRecorder,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let size = context.config.node_cidr_mask_size;
    let ranges = context.config.cluster_cidr.split(',');
    let pools: Vec<Pool> = ranges
        .filter_map(|range| Pool::parse(range, size))
        .collect();
    if pools.is_empty() {
        context.shutdown.triggered().await;
        return;
    }
    let nodes = context.caches.of::<Node>();
    let queue = context.queue();
    nodes.wait_synced().await;
    let pools = Arc::new(Mutex::new(pools));
    let _nodes = {
        let (queue, pools) = (queue.clone(), pools.clone());
        // Nodes that are there are all told before a worker runs: their ranges are taken before one is given.
        nodes.on_event(move |event| {
            let node = event.object();
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let mut pools = pools.lock();
            if matches!(event, Event::Deleted(_)) {
                pools.iter_mut().for_each(|pool| pool.free(name));
                return;
            }
            for range in ranges_of(node) {
                pools.iter_mut().for_each(|pool| pool.take(range, name));
            }
            if ranges_of(node).is_empty() {
                queue.add(ObjectKey::of(&node.metadata));
            }
        })
    };
    let allocator = Allocator {
        client: context.client(node_lifecycle::NAME),
        nodes,
        pools,
        recorder: context.recorder(node_lifecycle::NAME, "cidrAllocator"),
    };
    context.run(allocator, queue, 1).await;
}

fn ranges_of(node: &Node) -> &[String] {
    let spec = node.spec.as_ref();
    spec.and_then(|spec| spec.pod_cidrs.as_deref())
        .unwrap_or_default()
}

#[async_trait]
impl Reconciler for Allocator {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "cidrallocator_node"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(node) = self.nodes.get(key) else {
            // It went before it got what was set aside for it.
            let mut pools = self.pools.lock();
            pools.iter_mut().for_each(|pool| pool.free(key.name()));
            return Ok(Outcome::Done);
        };
        if !ranges_of(&node).is_empty() {
            return Ok(Outcome::Done);
        }
        let ranges: Option<Vec<String>> = {
            let mut pools = self.pools.lock();
            pools.iter_mut().map(|pool| pool.give(key.name())).collect()
        };
        let Some(ranges) = ranges else {
            let name = key.name();
            let text = format!("Node {name} status is now: CIDRNotAvailable");
            self.recorder
                .about(&*node, EventType::Normal, "CIDRNotAvailable", text);
            return Ok(Outcome::After(WAIT));
        };
        let patch = json!({"metadata": {"uid": node.metadata.uid},
            "spec": {"podCIDR": ranges.first(), "podCIDRs": ranges}});
        let api: Api<Node> = Api::all(self.client.clone());
        api.patch(
            key.name(),
            &PatchParams::default(),
            &Patch::Strategic(patch),
        )
        .await?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn ranges_are_cut_in_order_and_used_again_last() {
        let mut pool = Pool::parse("10.42.0.0/22", 0).unwrap();
        pool.take("10.42.1.0/24", "old");
        assert_eq!(pool.give("a").as_deref(), Some("10.42.0.0/24"));
        assert_eq!(pool.give("a").as_deref(), Some("10.42.0.0/24"));
        assert_eq!(pool.give("b").as_deref(), Some("10.42.2.0/24"));
        pool.free("a");
        assert_eq!(pool.give("c").as_deref(), Some("10.42.3.0/24"));
        assert_eq!(pool.give("d").as_deref(), Some("10.42.0.0/24"));
        assert_eq!(pool.give("e"), None);
        let mut small = Pool::parse("10.42.0.0/26", 24).unwrap();
        assert_eq!(small.give("a").as_deref(), Some("10.42.0.0/26"));
        let mut six = Pool::parse("fd00::/48", 0).unwrap();
        assert_eq!(six.give("a").as_deref(), Some("fd00::/64"));
        assert_eq!(six.give("b").as_deref(), Some("fd00:0:0:1::/64"));
        assert!(Pool::parse("10.42.0.0", 0).is_none() && Pool::parse("10.0.0.0/40", 0).is_none());
    }

    #[test]
    fn ranges_of_others_are_not_ours() {
        let pool = Pool::parse("10.42.0.0/16", 24).unwrap();
        for (range, expected) in [
            ("10.42.7.0/24", Some(7)),
            ("10.43.0.0/24", None),
            ("10.41.0.0/24", None),
            ("fd00::/64", None),
            ("nonsense", None),
        ] {
            assert_eq!(pool.number(range), expected, "{range}");
        }
    }

    proptest! {
        /// No range is given to two nodes, and one is refused only when all are taken.
        #[test]
        fn no_range_is_given_twice(steps in proptest::collection::vec((any::<bool>(), 0_u8..12), 0..100)) {
            let mut pool = Pool::parse("10.0.0.0/21", 24).unwrap();
            let mut held: HashMap<u8, String> = HashMap::new();
            for (give, node) in steps {
                if give {
                    match pool.give(&node.to_string()) {
                        Some(range) => { held.insert(node, range); }
                        None => prop_assert_eq!(held.len(), 8),
                    }
                } else {
                    pool.free(&node.to_string());
                    held.remove(&node);
                }
                let distinct: HashSet<&String> = held.values().collect();
                prop_assert_eq!(distinct.len(), held.len());
            }
        }
    }
}
