//! Counts what the objects of a namespace use up of its resource quotas. Admission adds what comes; here it is found out
//! anew when limits change and when objects go.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;
use kube::api::{Api, ListParams, ObjectList, PartialObjectMeta, PostParams};
use parking_lot::Mutex;
use skiff_api::pod_resources::Amounts;
use skiff_api::quota::{claim_usage, in_scope, pod_usage, service_usage, tracks};
use skiff_api::validation::quantity::Amount;
use skiff_client::reflect::{Metadata, Watched};
use skiff_client::{
    Event, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache, Subscription, WatchSpec,
    WorkQueue, is_conflict, is_not_found,
};

use crate::discovery::{ApiResource, discover};
use crate::seen_pod::Pod;
use crate::{Context, pods};

/// The name of this controller.
pub const NAME: &str = "resourcequota-controller";

/// After this time all is counted again: who was charged and then not made is found out only so.
const AGAIN: Duration = Duration::from_secs(300);
/// So it is while a kind is counted that nobody serves: it may come with a definition. Its objects are charged for at once
/// then, but what they used is given back only by counting.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(30);
const QUOTAS: &str = "resourcequotas";
/// How long to wait for a cache that has not shown everything yet.
const CATCH_UP: Duration = Duration::from_millis(200);
/// What quotas count under names of their own.
const NAMED: [&str; 4] = ["configmaps", "secrets", "replicationcontrollers", QUOTAS];

/// The objects of a kind that some quota counts, by their metadata.
struct Counted {
    resource: ApiResource,
    objects: SharedCache<Metadata>,
    _subscription: Subscription,
}

/// What was found to be used up of a quota.
struct Usage {
    sum: Amounts,
    /// Whether all kinds that it counts are served.
    all_served: bool,
}

struct Quotas {
    context: Context,
    client: Client,
    queue: WorkQueue<ObjectKey>,
    quotas: SharedCache<ResourceQuota>,
    pods: SharedCache<Pod>,
    services: SharedCache<Service>,
    claims: SharedCache<PersistentVolumeClaim>,
    /// By the name under which they are counted (`deployments.apps`).
    counted: Mutex<HashMap<String, Arc<Counted>>>,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let quotas = context.caches.of::<ResourceQuota>();
    let pods = context.caches.of::<Pod>();
    let services = context.caches.of::<Service>();
    let claims = context.caches.of::<PersistentVolumeClaim>();
    let queue = context.queue();
    quotas.wait_synced().await;
    pods.wait_synced().await;
    services.wait_synced().await;
    claims.wait_synced().await;
    let _quotas = {
        let (queue, all) = (queue.clone(), quotas.clone());
        quotas.on_event(move |event| {
            let quota = event.object();
            if matches!(event, Event::Deleted(_)) {
                // The others may count quotas.
                let namespace = quota.metadata.namespace.as_deref();
                for other in all.list_in(namespace.unwrap_or_default()) {
                    queue.add(ObjectKey::of(&other.metadata));
                }
            }
            let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
            let shown = quota.status.as_ref().and_then(|it| it.hard.as_ref());
            let same = |old: &ResourceQuota| old.spec == quota.spec && shown == hard;
            match event {
                // What admission wrote. Limits that somebody else wrote into the status are put right.
                Event::Updated { old, .. } if same(old) => {}
                _ => queue.add(ObjectKey::of(&quota.metadata)),
            }
        })
    };
    let _pods = on_change(&pods, &quotas, &queue, |old, new| {
        pods::is_terminal(old) != pods::is_terminal(new)
            || old.spec.as_ref().map(|spec| &spec.containers)
                != new.spec.as_ref().map(|spec| &spec.containers)
    });
    let _services = on_change(&services, &quotas, &queue, |old, new| old.spec != new.spec);
    let _claims = on_change(&claims, &quotas, &queue, |old, new| old.spec != new.spec);
    let reconciler = Quotas {
        client: context.client(NAME),
        queue: queue.clone(),
        quotas,
        pods,
        services,
        claims,
        counted: Mutex::default(),
        context: context.clone(),
    };
    context.run(reconciler, queue, 2).await;
}

/// Queues the quotas of the namespace where an object went, or changed so that it matters. What comes was charged for
/// before: who counts then may have seen less than was charged, and would give it away twice.
fn on_change<K: Watched>(
    cache: &SharedCache<K>,
    quotas: &SharedCache<ResourceQuota>,
    queue: &WorkQueue<ObjectKey>,
    matters: fn(&K, &K) -> bool,
) -> Subscription {
    let (quotas, queue) = (quotas.clone(), queue.clone());
    cache.on_event(move |event| {
        match event {
            Event::Added(_) => return,
            Event::Updated { old, new } if !matters(old, new) => return,
            Event::Updated { .. } | Event::Deleted(_) => {}
        }
        let namespace = event.object().metadata().namespace.as_deref();
        for quota in quotas.list_in(namespace.unwrap_or_default()) {
            queue.add(ObjectKey::of(&quota.metadata));
        }
    })
}

fn add(sum: &mut Amounts, more: Amounts) {
    for (name, amount) in more {
        let entry = sum.entry(name).or_insert(Amount::ZERO);
        *entry = entry.plus(amount);
    }
}

/// The kind, as `plural.group`, that is only counted under this name; none for what pods, services and claims use.
fn counted_kind(name: &str) -> Option<&str> {
    let kind = name.strip_prefix("count/");
    let kind = kind.or_else(|| NAMED.contains(&name).then_some(name))?;
    (!matches!(kind, "pods" | "services" | "persistentvolumeclaims")).then_some(kind)
}

/// The status as it should be, of what is used altogether.
fn status(spec: &ResourceQuotaSpec, sum: &Amounts) -> ResourceQuotaStatus {
    let hard = spec.hard.clone().unwrap_or_default();
    let used: BTreeMap<String, Quantity> = hard
        .keys()
        .map(|name| {
            let amount = sum.get(name).copied().unwrap_or(Amount::ZERO);
            (name.clone(), Quantity(amount.canonical()))
        })
        .collect();
    ResourceQuotaStatus {
        hard: Some(hard),
        used: Some(used),
    }
}

fn amounts(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let list = list.into_iter().flatten();
    list.map(|(name, quantity)| (name.clone(), Amount::of(quantity)))
        .collect()
}

/// Whether two statuses say the same in whatever form.
fn agree(a: &ResourceQuotaStatus, b: &ResourceQuotaStatus) -> bool {
    let list = |list: &Option<BTreeMap<String, Quantity>>| amounts(list.as_ref());
    list(&a.hard) == list(&b.hard) && list(&a.used) == list(&b.used)
}

impl Quotas {
    /// What all objects of the namespace use up of what the quota limits; none while a cache is behind the server.
    async fn usage(
        &self,
        namespace: &str,
        spec: &ResourceQuotaSpec,
        charged: &Amounts,
    ) -> Result<Option<Usage>, ReconcileError> {
        let (mut sum, mut all_served) = (Amounts::new(), true);
        let names = || spec.hard.iter().flatten().map(|(name, _)| name.as_str());
        let of = |plural: &str| names().any(|name| tracks("", plural, name));
        let mut cached: Vec<(&str, usize)> = Vec::new();
        if of("pods") {
            let (pods, now) = (self.pods.list_in(namespace), self.context.now().0);
            cached.push(("pods", pods.len()));
            for pod in pods {
                let pod = pod.counted();
                if in_scope(spec, Some(&pod)) {
                    add(&mut sum, pod_usage(&pod, now));
                }
            }
        }
        let all = in_scope(spec, None);
        if all && of("services") {
            let services = self.services.list_in(namespace);
            cached.push(("services", services.len()));
            for service in services {
                add(&mut sum, service_usage(&service));
            }
        }
        if all && of("persistentvolumeclaims") {
            let claims = self.claims.list_in(namespace);
            cached.push(("persistentvolumeclaims", claims.len()));
            for claim in claims {
                add(&mut sum, claim_usage(&claim));
            }
        }
        for (plural, cached) in cached {
            let less = |name: &str| {
                let used = sum.get(name).copied().unwrap_or(Amount::ZERO);
                charged.get(name).is_some_and(|charged| used < *charged)
            };
            // What was charged for objects that the cache does not show yet would be given away twice.
            if names().any(|name| tracks("", plural, name) && less(name)) {
                let path = format!("/api/v1/namespaces/{namespace}/{plural}");
                let there = self.count(path).await?;
                if usize::try_from(there) != Ok(cached) {
                    return Ok(None);
                }
            }
        }
        if !all {
            return Ok(Some(Usage { sum, all_served }));
        }
        for name in names() {
            let Some(kind) = counted_kind(name) else {
                continue;
            };
            if kind == QUOTAS {
                // From the cache that brought the quota which counts itself: another may not have it yet.
                let count = self.quotas.list_in(namespace).len();
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                sum.insert(name.to_owned(), Amount::whole(count));
            } else if let Some(counted) = self.counted(kind).await? {
                let count = counted.objects.list_in(namespace).len();
                let mut count = Amount::whole(i64::try_from(count).unwrap_or(i64::MAX));
                // Another kind's change may have led here while the watch of this one is behind: what was charged since
                // would be given away twice.
                if charged.get(name).is_some_and(|charged| count < *charged) {
                    let path = counted.resource.path(namespace);
                    count = Amount::whole(self.count(path).await?);
                }
                sum.insert(name.to_owned(), count);
            } else {
                all_served = false;
            }
        }
        Ok(Some(Usage { sum, all_served }))
    }

    /// How many objects the server has in a collection, without having it send them.
    async fn count(&self, path: String) -> Result<i64, ReconcileError> {
        let request = kube::core::Request::new(path)
            .list(&ListParams::default().limit(1))
            .map_err(kube::Error::BuildRequest)?;
        let page: ObjectList<PartialObjectMeta> = self.client.request(request).await?;
        let sent = i64::try_from(page.items.len()).unwrap_or(i64::MAX);
        Ok(sent.saturating_add(page.metadata.remaining_item_count.unwrap_or(0)))
    }

    /// The objects of a kind; none where the server knows no such kind.
    async fn counted(&self, kind: &str) -> Result<Option<Arc<Counted>>, ReconcileError> {
        let known = self.counted.lock().get(kind).cloned();
        let counted = if let Some(counted) = known {
            counted
        } else {
            let (plural, group) = kind.split_once('.').unwrap_or((kind, ""));
            let served = discover(&self.client).await?;
            let mut served = served.iter();
            let Some(resource) = served.find(|one| one.plural == plural && one.group == group)
            else {
                return Ok(None);
            };
            let spec = WatchSpec::path(resource.path("")).metadata();
            let objects = self.context.caches.watch::<Metadata>(spec);
            let subscription = on_change(&objects, &self.quotas, &self.queue, |_, _| false);
            let counted = Arc::new(Counted {
                resource: resource.clone(),
                objects,
                _subscription: subscription,
            });
            let mut all = self.counted.lock();
            all.entry(kind.to_owned()).or_insert(counted).clone()
        };
        counted.objects.wait_synced().await;
        Ok(Some(counted))
    }
}

#[async_trait]
impl Reconciler for Quotas {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "resourcequota_primary"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(quota) = self.quotas.get(key) else {
            return Ok(Outcome::Done);
        };
        let spec = quota.spec.clone().unwrap_or_default();
        let charged = amounts(
            quota
                .status
                .as_ref()
                .and_then(|status| status.used.as_ref()),
        );
        let usage = self.usage(key.namespace(), &spec, &charged);
        let Some(Usage { sum, all_served }) = usage.await? else {
            return Ok(Outcome::After(CATCH_UP));
        };
        let again = if all_served { AGAIN } else { UNKNOWN_AGAIN };
        self.queue.add_after(key.clone(), again);
        let wanted = status(&spec, &sum);
        if quota
            .status
            .as_ref()
            .is_some_and(|found| agree(found, &wanted))
        {
            return Ok(Outcome::Done);
        }
        let mut quota = (*quota).clone();
        quota.status = Some(wanted);
        let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), key.namespace());
        let parameters = PostParams::default();
        match api.replace_status(key.name(), &parameters, &quota).await {
            // Charged meanwhile: counted again, as its event alone would not bring it here.
            Err(error) if is_conflict(&error) => Err(error.into()),
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(Outcome::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_all_that_is_limited() {
        let spec: ResourceQuotaSpec =
            serde_json::from_value(serde_json::json!({"hard": {"pods": "2", "cpu": "1000m"}}))
                .unwrap();
        let sum = Amounts::from([("pods".to_owned(), Amount::whole(1))]);
        let made = status(&spec, &sum);
        assert_eq!(made.used.as_ref().unwrap()["cpu"].0, "0");
        assert_eq!(made.used.as_ref().unwrap()["pods"].0, "1");
        let other: ResourceQuotaStatus = serde_json::from_value(
            serde_json::json!({"hard": {"pods": "2", "cpu": "1"}, "used": {"pods": "1", "cpu": "0"}}),
        )
        .unwrap();
        assert!(agree(&made, &other));
        assert!(!agree(&made, &ResourceQuotaStatus::default()));
    }

    #[test]
    fn what_is_counted_by_kind() {
        assert_eq!(
            counted_kind("count/deployments.apps"),
            Some("deployments.apps")
        );
        assert_eq!(counted_kind("secrets"), Some("secrets"));
        for name in ["count/pods", "pods", "cpu", "services.nodeports"] {
            assert_eq!(counted_kind(name), None, "{name}");
        }
    }
}
