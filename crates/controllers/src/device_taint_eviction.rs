//! Evicts pods whose devices got NoExecute taints that their claims do not bear, or no longer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::resource::v1::{
    Device, DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim,
    ResourceSlice,
};
use kube::Client;
use parking_lot::Mutex;
use skiff_base::SharedClock;
use skiff_client::{
    Event, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache,
    Subscription, WorkQueue,
};

use crate::resource_claim_plan::{ClaimName, is_made_for, is_reserved, name_of};
use crate::seen_pod::Pod;
use crate::{Context, pod_eviction, pods};

/// The name of this controller.
pub const NAME: &str = "device-taint-eviction-controller";

const WORKERS: usize = 2;
const REASON: &str = "DeviceTaintManagerEviction";
/// Slices by driver and pool.
const POOLS: &str = "resource pools";

fn pool_of(slice: &ResourceSlice) -> String {
    format!("{}/{}", slice.spec.driver, slice.spec.pool.name)
}

fn evicting(device: &Device) -> impl Iterator<Item = &DeviceTaint> {
    let taints = device.taints.iter().flatten();
    taints.filter(|taint| taint.effect == "NoExecute")
}

/// The devices of a slice that have taints which evict, with these.
fn tainted(slice: &ResourceSlice) -> Vec<(&str, Vec<&DeviceTaint>)> {
    let devices = slice.spec.devices.iter().flatten();
    let devices = devices.map(|device| (&*device.name, evicting(device).collect::<Vec<_>>()));
    devices.filter(|(_, taints)| !taints.is_empty()).collect()
}

fn results(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let allocation = claim
        .status
        .as_ref()
        .and_then(|status| status.allocation.as_ref());
    let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
    devices
        .into_iter()
        .flat_map(|devices| devices.results.iter().flatten())
}

/// The pods that hold a claim.
fn holders(claim: &ResourceClaim) -> impl Iterator<Item = ObjectKey> {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let status = claim.status.as_ref();
    let all = status
        .into_iter()
        .flat_map(|status| status.reserved_for.iter().flatten());
    let pods = all.filter(|holder| holder.resource == "pods");
    pods.map(move |holder| ObjectKey::new(namespace, &holder.name))
}

fn bears(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    if toleration.effect.as_deref() != Some("NoExecute") || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default()
        }
        Some(_) => false,
    }
}

/// When a pod has to go because of a taint of a device that it has: never if it bears the taint for ever.
fn goes_at(result: &DeviceRequestAllocationResult, taint: &DeviceTaint) -> Option<Timestamp> {
    let since = taint
        .time_added
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let tolerations = result.tolerations.iter().flatten();
    let mut shortest: Option<i64> = None;
    for toleration in tolerations.filter(|toleration| bears(toleration, taint)) {
        let seconds = toleration.toleration_seconds?.max(0);
        shortest = Some(shortest.map_or(seconds, |known| known.min(seconds)));
    }
    let at = since.as_second().saturating_add(shortest.unwrap_or(0));
    Some(Timestamp::from_second(at).unwrap_or(Timestamp::MAX))
}

/// When a pod with this claim has to go.
fn claim_goes_at(
    claim: &ResourceClaim,
    pool: impl Fn(&str) -> Vec<Arc<ResourceSlice>>,
) -> Option<Timestamp> {
    let mut first: Option<Timestamp> = None;
    for result in results(claim) {
        let slices = pool(&format!("{}/{}", result.driver, result.pool));
        let newest = slices.iter().map(|slice| slice.spec.pool.generation).max();
        let current = slices
            .iter()
            .filter(|slice| Some(slice.spec.pool.generation) == newest);
        let devices = current.flat_map(|slice| slice.spec.devices.iter().flatten());
        let own = devices.filter(|device| device.name == result.device);
        let times = own
            .flat_map(evicting)
            .filter_map(|taint| goes_at(result, taint));
        first = times.chain(first).min();
    }
    first
}

struct Evictions {
    client: Client,
    pods: SharedCache<Pod>,
    claims: SharedCache<ResourceClaim>,
    slices: SharedCache<ResourceSlice>,
    /// Pods that are to go later.
    due: Due,
    recorder: EventRecorder,
    clock: SharedClock,
}

type Due = Arc<Mutex<HashSet<ObjectKey>>>;

/// Runs the controller.
pub async fn run(context: Context) {
    let pods = context.caches.of::<Pod>();
    let claims = context.caches.of::<ResourceClaim>();
    let slices = context.caches.of::<ResourceSlice>();
    slices.add_index(POOLS, |slice| vec![pool_of(slice)]);
    let queue = context.queue();
    pods.wait_synced().await;
    claims.wait_synced().await;
    slices.wait_synced().await;
    let evictions = Evictions {
        client: context.client(NAME),
        pods: pods.clone(),
        claims: claims.clone(),
        slices: slices.clone(),
        due: Due::default(),
        recorder: context.recorder(NAME, NAME),
        clock: context.clock.clone(),
    };
    let _watches = watch(&evictions, &queue);
    context.run(evictions, queue, WORKERS).await;
}

fn watch(all: &Evictions, queue: &WorkQueue<ObjectKey>) -> [Subscription; 3] {
    let of_slices = {
        let (claims, queue) = (all.claims.clone(), queue.clone());
        all.slices.on_event(move |event| {
            let changed = match event {
                Event::Added(slice) | Event::Deleted(slice) => !tainted(slice).is_empty(),
                Event::Updated { old, new } => tainted(old) != tainted(new),
            };
            if !changed {
                return;
            }
            let spec = &event.object().spec;
            let uses = |claim: &&Arc<ResourceClaim>| {
                results(claim).any(|one| one.driver == spec.driver && one.pool == spec.pool.name)
            };
            let claims = claims.list();
            claims
                .iter()
                .filter(uses)
                .flat_map(|claim| holders(claim))
                .for_each(|pod| queue.add(pod));
        })
    };
    let of_claims = {
        let queue = queue.clone();
        all.claims.on_event(move |event| {
            let changed = match event {
                Event::Added(_) | Event::Deleted(_) => true,
                Event::Updated { old, new } => old.status != new.status,
            };
            if changed {
                holders(event.object()).for_each(|pod| queue.add(pod));
            }
        })
    };
    let (queue, due) = (queue.clone(), all.due.clone());
    let of_pods = all.pods.on_event(move |event| {
        let names = |pod: &Pod| {
            let status = pod.status.as_ref();
            status.and_then(|status| status.resource_claim_statuses.clone())
        };
        let pod = event.object();
        let key = ObjectKey::of(&pod.metadata);
        let claims = pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.resource_claims.is_some());
        let changed = match event {
            Event::Added(_) => true,
            Event::Updated { old, new } => {
                pods::node_name(old) != pods::node_name(new) || names(old) != names(new)
            }
            Event::Deleted(_) => false,
        };
        if matches!(event, Event::Deleted(_)) {
            due.lock().remove(&key);
        } else if claims && changed {
            queue.add(key);
        }
    });
    [of_slices, of_claims, of_pods]
}

#[async_trait]
impl Reconciler for Evictions {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let pod = self.pods.get(key).filter(|pod| !pods::is_deleting(pod));
        let at = pod.as_ref().and_then(|pod| self.goes_at(key, pod));
        let (Some(pod), Some(at)) = (pod, at) else {
            if self.due.lock().remove(key) {
                self.tell(key, "Cancelling deletion");
            }
            return Ok(Outcome::Done);
        };
        let now = Timestamp::try_from(self.clock.now()).unwrap_or_default();
        if at > now {
            self.due.lock().insert(key.clone());
            let seconds = at.duration_since(now);
            return Ok(Outcome::After(
                Duration::try_from(seconds).unwrap_or_default(),
            ));
        }
        self.tell(key, "Marking for deletion");
        self.evict(key, &pod).await?;
        self.due.lock().remove(key);
        Ok(Outcome::Done)
    }
}

impl Evictions {
    /// When the pod has to go; none if it may stay.
    fn goes_at(&self, key: &ObjectKey, pod: &Pod) -> Option<Timestamp> {
        if pods::node_name(pod).is_empty() {
            return None;
        }
        let used = pod.spec.as_ref()?.resource_claims.iter().flatten();
        let times = used.filter_map(|used| {
            let (name, made) = match name_of(pod, used) {
                ClaimName::Stated(name) => (name, false),
                ClaimName::Made(name) => (name, true),
                _ => return None,
            };
            let claim = self.claims.get_named(key.namespace(), name)?;
            if (made && !is_made_for(&claim, pod)) || !is_reserved(&claim, pod) {
                return None;
            }
            claim_goes_at(&claim, |pool| self.slices.by_index(POOLS, pool))
        });
        times.min()
    }

    fn tell(&self, key: &ObjectKey, text: &str) {
        let regarding = pod_eviction::regarding(key);
        let kind = EventType::Normal;
        self.recorder
            .record(regarding, kind, REASON, text.to_owned());
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<(), ReconcileError> {
        let condition = pods::disruption_target(
            pod,
            "DeletionByDeviceTaintManager",
            "Device Taint manager: deleting due to NoExecute taint",
            &skiff_client::timestamp(&*self.clock),
        );
        pod_eviction::evict(&self.client, key, pod, condition).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn slice(generation: i64, taints: Value) -> Arc<ResourceSlice> {
        let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": "d",
            "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1},
            "devices": [{"name": "x", "taints": taints}]}});
        Arc::new(serde_json::from_value(slice).unwrap())
    }

    fn claim(device: &str, tolerations: Value) -> ResourceClaim {
        serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {}, "status": {"allocation": {"devices": {
            "results": [{"driver": "d", "pool": "p", "device": device, "request": "r", "tolerations": tolerations}]}}}}))
        .unwrap()
    }

    #[test]
    fn taints_evict_unless_they_are_borne() {
        let taint = json!([{"key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
            {"key": "other", "effect": "NoSchedule", "timeAdded": "2025-01-01T00:00:00Z"}]);
        let since: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let bearing = |seconds: Value| json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        let later = Timestamp::from_second(since.as_second() + 30).unwrap();
        for (device, slices, tolerations, expected) in [
            ("x", vec![slice(1, taint.clone())], json!([]), Some(since)),
            (
                "x",
                vec![slice(1, taint.clone())],
                bearing(Value::Null),
                None,
            ),
            (
                "x",
                vec![slice(1, taint.clone())],
                bearing(30.into()),
                Some(later),
            ),
            (
                "x",
                vec![slice(1, taint.clone())],
                json!([{"operator": "Exists"}]),
                Some(since),
            ),
            ("y", vec![slice(1, taint.clone())], json!([]), None),
            (
                "x",
                vec![slice(1, taint.clone()), slice(2, json!([]))],
                json!([]),
                None,
            ),
        ] {
            let found = claim_goes_at(&claim(device, tolerations.clone()), |_| slices.clone());
            assert_eq!(found, expected, "{device} {tolerations}");
        }
    }
}
