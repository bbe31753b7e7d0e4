//! Node pressure: what runs short, and which pod has to go for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use skiff_base::Shutdown;
use skiff_runtime::cri;
use tokio::sync::watch;
use tonic::Request;

use crate::cluster::Notice;
use crate::container::sandbox::POD_UID_LABEL;
use crate::local_storage;
use crate::manager::Manager;
use crate::node::register::Pressure;
use crate::pod::plan::Waiting;
use crate::pod::resources;
use crate::pod::spec;
use crate::quantity;

/// How often the node is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// A condition holds at least this long, so that it does not flap.
const HOLD: Duration = Duration::from_secs(300);
/// Memory that must be available: upstream's default threshold.
const MEMORY: i64 = 100 << 20;

/// What is left of the node's resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Bytes of memory.
    pub memory_available: i64,
    /// Bytes of disk.
    pub disk_available: i64,
    /// All bytes of disk.
    pub disk_capacity: i64,
    /// Inodes.
    pub inodes_free: i64,
    /// All inodes.
    pub inodes: i64,
}

/// What is short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The resource, in Kubernetes' words.
    pub resource: &'static str,
    /// How much should be left.
    pub threshold: String,
    /// How much is left.
    pub available: String,
}

/// What runs short, most pressing first.
#[must_use]
pub fn shortages(signals: &Signals) -> Vec<Shortage> {
    let mut short = Vec::new();
    if signals.memory_available < MEMORY {
        short.push(Shortage {
            resource: "memory",
            threshold: quantity::binary(MEMORY),
            available: format!("{}Ki", signals.memory_available / 1024),
        });
    }
    let disk_threshold = signals.disk_capacity / 10;
    if signals.disk_capacity > 0 && signals.disk_available < disk_threshold {
        short.push(Shortage {
            resource: "ephemeral-storage",
            threshold: disk_threshold.to_string(),
            available: format!("{}Ki", signals.disk_available / 1024),
        });
    }
    let inode_threshold = signals.inodes / 20;
    if signals.inodes > 0 && signals.inodes_free < inode_threshold {
        short.push(Shortage {
            resource: "inodes",
            threshold: inode_threshold.to_string(),
            available: signals.inodes_free.to_string(),
        });
    }
    short
}

/// What a pod uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of disk.
    pub disk: i64,
}

/// Whether a pod is never evicted: static pods and those that the node cannot do without.
fn critical(pod: &Pod) -> bool {
    spec::is_static(pod) || spec::spec(pod).priority.unwrap_or(0) >= 2_000_000_000
}

/// The pod that has to go: one that uses more than it asked for, of the lowest priority, and of those the one that
/// exceeds its request the most.
#[must_use]
pub fn victim<'a>(
    pods: &'a [Arc<Pod>],
    usage: &BTreeMap<String, Usage>,
    resource: &str,
) -> Option<&'a Arc<Pod>> {
    let key = |pod: &Arc<Pod>| {
        let used = usage.get(spec::uid(pod)).copied().unwrap_or_default();
        let used = if resource == "memory" {
            used.memory
        } else {
            used.disk
        };
        let requests = resources::pod_requests(pod);
        let requested = requests.get(resource).copied().unwrap_or(0);
        let exceeds = used > requested;
        let priority = spec::spec(pod).priority.unwrap_or(0);
        (!exceeds, priority, requested.saturating_sub(used))
    };
    let candidates = pods
        .iter()
        .filter(|pod| !critical(pod) && !spec::deleting(pod));
    candidates.min_by_key(|pod| key(pod))
}

/// The words for an evicted pod.
#[must_use]
pub fn message(shortage: &Shortage) -> String {
    let Shortage {
        resource,
        threshold,
        available,
    } = shortage;
    format!(
        "The node was low on resource: {resource}. Threshold quantity: {threshold}, available: {available}. "
    )
}

/// Looks at the node and evicts until `shutdown`.
pub async fn run(manager: Arc<Manager>, pressure: watch::Sender<Pressure>, shutdown: Shutdown) {
    let clock = manager.context().clock.clone();
    let mut last_short: BTreeMap<&'static str, Duration> = BTreeMap::new();
    loop {
        tokio::select! {
            () = clock.sleep(LOOK) => {}
            () = shutdown.triggered() => return,
        }
        let short = shortages(&signals(&manager));
        let now = clock.monotonic();
        for shortage in &short {
            last_short.insert(shortage.resource, now);
        }
        last_short.retain(|_, since| now.saturating_sub(*since) < HOLD);
        let next = Pressure {
            memory: last_short.contains_key("memory"),
            disk: last_short.contains_key("ephemeral-storage") || last_short.contains_key("inodes"),
            pids: false,
        };
        pressure.send_if_modified(|current| std::mem::replace(current, next) != next);
        if let Some(shortage) = short.first() {
            evict_one(&manager, shortage).await;
        }
        local_storage::look(&manager).await;
    }
}

async fn evict_one(manager: &Manager, shortage: &Shortage) {
    let context = manager.context();
    let resource = shortage.resource;
    tracing::warn!(
        resource,
        available = shortage.available,
        "the node runs short"
    );
    let node = context.config.node_name.clone();
    context.cluster.notify(Notice {
        about: ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.clone()),
            uid: Some(node),
            ..ObjectReference::default()
        },
        warning: true,
        reason: "EvictionThresholdMet".into(),
        message: format!("Attempting to reclaim {resource}"),
    });
    if resource != "memory" && crate::image_gc::collect(context, true).await > 0 {
        return;
    }
    let pods = manager.active_pods();
    let usage = usage(manager).await;
    let Some(pod) = victim(&pods, &usage, resource) else {
        return;
    };
    let message = message(shortage);
    context.pod_event(pod, true, "Evicted", message.clone());
    let reason = "Evicted".to_owned();
    manager.evict(spec::uid(pod), Waiting { reason, message });
}

fn signals(manager: &Manager) -> Signals {
    let config = &manager.context().config;
    let meminfo = std::fs::read_to_string(config.proc_dir.join("meminfo")).unwrap_or_default();
    let available = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|l| l.split_whitespace().next());
    let kib = kib.and_then(|k| k.parse::<i64>().ok());
    let mut signals = Signals {
        // What cannot be read is not short.
        memory_available: kib.map_or(i64::MAX, |kib| kib * 1024),
        ..Signals::default()
    };
    if let Ok(stat) = nix::sys::statvfs::statvfs(&config.root_dir) {
        let bytes = |blocks: u64| {
            let bytes = blocks.saturating_mul(stat.fragment_size());
            i64::try_from(bytes).unwrap_or(i64::MAX)
        };
        signals.disk_available = bytes(stat.blocks_available());
        signals.disk_capacity = bytes(stat.blocks());
        signals.inodes_free = i64::try_from(stat.files_available()).unwrap_or(i64::MAX);
        signals.inodes = i64::try_from(stat.files()).unwrap_or(0);
    }
    signals
}

async fn usage(manager: &Manager) -> BTreeMap<String, Usage> {
    let service = &manager.context().runtime.service;
    let request = Request::new(cri::ListContainerStatsRequest::default());
    let stats = match service.list_container_stats(request).await {
        Ok(stats) => stats.into_inner().stats,
        Err(error) => {
            tracing::warn!(%error, "cannot read what containers use");
            return BTreeMap::new();
        }
    };
    let mut usage: BTreeMap<String, Usage> = BTreeMap::new();
    for one in stats {
        let labels = one.attributes.unwrap_or_default().labels;
        let uid = labels.get(POD_UID_LABEL).cloned().unwrap_or_default();
        let number = |n: Option<cri::UInt64Value>| {
            i64::try_from(n.map_or(0, |n| n.value)).unwrap_or(i64::MAX)
        };
        let sum = usage.entry(uid).or_default();
        sum.memory += number(one.memory.and_then(|m| m.working_set_bytes));
        sum.disk += number(one.writable_layer.and_then(|w| w.used_bytes));
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn pod(uid: &str, priority: i32, memory: &str) -> Arc<Pod> {
        Arc::new(Pod {
            metadata: ObjectMeta {
                uid: Some(uid.into()),
                ..Default::default()
            },
            spec: Some(PodSpec {
                priority: Some(priority),
                containers: vec![Container {
                    resources: Some(ResourceRequirements {
                        requests: Some([("memory".to_owned(), Quantity(memory.into()))].into()),
                        ..Default::default()
                    }),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    #[test]
    fn thresholds() {
        let plenty = Signals {
            memory_available: 1 << 30,
            disk_available: 50,
            disk_capacity: 100,
            inodes_free: 50,
            inodes: 100,
        };
        assert!(shortages(&plenty).is_empty());
        let short = Signals {
            memory_available: 50 << 20,
            disk_available: 5,
            ..plenty
        };
        let found = shortages(&short);
        assert_eq!(found[0].resource, "memory");
        assert_eq!(found[1].resource, "ephemeral-storage");
        assert_eq!(
            message(&found[0]),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51200Ki. "
        );
    }

    #[test]
    fn who_goes() {
        let usage = |entries: &[(&str, i64)]| -> BTreeMap<String, Usage> {
            let entries = entries.iter();
            entries
                .map(|(uid, memory)| {
                    let usage = Usage {
                        memory: memory << 20,
                        disk: 0,
                    };
                    ((*uid).to_owned(), usage)
                })
                .collect()
        };
        let pods = [
            pod("a", 0, "100Mi"),
            pod("b", 0, "10Mi"),
            pod("c", 5, "1Mi"),
        ];
        let who = |entries: &[(&str, i64)]| {
            victim(&pods, &usage(entries), "memory").map(|p| spec::uid(p).to_owned())
        };
        assert_eq!(
            who(&[("a", 90), ("b", 50), ("c", 500)]).as_deref(),
            Some("b")
        );
        assert_eq!(
            who(&[("a", 190), ("b", 50), ("c", 500)]).as_deref(),
            Some("a")
        );
        assert_eq!(
            who(&[("a", 90), ("b", 5), ("c", 500)]).as_deref(),
            Some("c")
        );
        let critical = [pod("k", 2_000_000_000, "1Mi")];
        assert_eq!(victim(&critical, &usage(&[("k", 9)]), "memory"), None);
    }
}
