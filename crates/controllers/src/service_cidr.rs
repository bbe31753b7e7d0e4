//! Says which ServiceCIDRs addresses may be taken from, and keeps those that are to go until no address needs them.
//!
//! The default one, `kubernetes`, is made by the API server, which also gives out the addresses.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use skiff_api::validation::net::Network;
use skiff_base::SharedClock;
use skiff_client::{
    Event, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache,
    is_not_found,
};

use crate::Context;

/// The name of this controller's account.
pub const NAME: &str = "service-cidrs-controller";
/// Under which name it applies, and what its events come from.
const COMPONENT: &str = "service-cidr-controller";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// A range that is to go stays this long, so that every server has heard of it and takes nothing from it any more.
const GRACE: Duration = Duration::from_secs(10);
/// While addresses hold a range that is to go, they are looked at so often. Nothing is looked at otherwise: a lasting
/// watch of all addresses would cost more than these few lists ever will.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The next step for one range.
#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    /// Put the finalizer on, then say that it is ready.
    Protect,
    Ready,
    /// Addresses would be left without a range.
    Blocked,
    Wait(Duration),
    Release,
}

fn networks(range: &ServiceCIDR) -> impl Iterator<Item = Network> {
    let ranges = range
        .spec
        .iter()
        .flat_map(|spec| spec.cidrs.iter().flatten());
    ranges.filter_map(|text| Network::parse(text))
}

fn cut(address: IpAddr, prefix: u8) -> IpAddr {
    Network { address, prefix }.base()
}

fn holds(outer: &Network, address: IpAddr) -> bool {
    outer.address.is_ipv4() == address.is_ipv4() && cut(address, outer.prefix) == outer.base()
}

/// Whether a service may have the address: not the first one of the range, nor of IPv4 the last.
fn gives(outer: &Network, address: IpAddr) -> bool {
    let last = match address {
        IpAddr::V4(address) => {
            let hosts = u32::MAX.checked_shr(u32::from(outer.prefix)).unwrap_or(0);
            u32::from(address) & hosts == hosts
        }
        IpAddr::V6(_) => false,
    };
    holds(outer, address) && address != outer.base() && !last
}

fn within(inner: &Network, outer: &Network) -> bool {
    inner.prefix >= outer.prefix && holds(outer, inner.base())
}

/// Whether every address of the range can be had from others, whole.
fn is_covered(range: &ServiceCIDR, others: &[&ServiceCIDR]) -> bool {
    networks(range).all(|inner| {
        let mut outer = others.iter().flat_map(|other| networks(other));
        outer.any(|outer| within(&inner, &outer))
    })
}

/// Whether the address comes from this range and from no other.
fn depends(address: IpAddr, range: &ServiceCIDR, others: &[&ServiceCIDR]) -> bool {
    let given_by = |range: &ServiceCIDR| networks(range).any(|network| gives(&network, address));
    given_by(range) && !others.iter().any(|other| given_by(other))
}

fn condition(range: &ServiceCIDR) -> Option<&Condition> {
    let status = range.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == "Ready")
}

fn has_finalizer(range: &ServiceCIDR) -> bool {
    let mut finalizers = range.metadata.finalizers.iter().flatten();
    finalizers.any(|name| name == FINALIZER)
}

const READY: (&str, &str, &str) = ("True", "", "Kubernetes Service CIDR is ready");
const BLOCKED: (&str, &str, &str) = (
    "False",
    "Terminating",
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
);

fn says(range: &ServiceCIDR, (status, reason, message): (&str, &str, &str)) -> bool {
    condition(range).is_some_and(|known| {
        known.status == status && known.reason == reason && known.message == message
    })
}

/// `others` are all other ranges; `addresses` those that the server gave out, asked for only where they matter.
fn plan(
    range: &ServiceCIDR,
    others: &[&ServiceCIDR],
    addresses: Option<&[IpAddr]>,
    now: Timestamp,
) -> Plan {
    let Some(deleted) = &range.metadata.deletion_timestamp else {
        return match (has_finalizer(range), says(range, READY)) {
            (false, _) => Plan::Protect,
            (true, false) => Plan::Ready,
            (true, true) => Plan::Nothing,
        };
    };
    let mut addresses = addresses.unwrap_or_default().iter();
    if addresses.any(|address| depends(*address, range, others)) {
        return Plan::Blocked;
    }
    let over = deleted.0.checked_add(GRACE).unwrap_or(deleted.0);
    match Duration::try_from(now.duration_until(over)) {
        Ok(left) if !left.is_zero() => Plan::Wait(left),
        _ if has_finalizer(range) => Plan::Release,
        _ => Plan::Nothing,
    }
}

struct Ranges {
    client: Client,
    ranges: SharedCache<ServiceCIDR>,
    recorder: EventRecorder,
    clock: SharedClock,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let ranges = context.caches.of::<ServiceCIDR>();
    let queue = context.queue();
    ranges.wait_synced().await;
    let _ranges = {
        let (queue, all) = (queue.clone(), ranges.clone());
        ranges.on_event(move |event| {
            let own = event.object();
            if !matches!(event, Event::Deleted(_)) {
                queue.add(ObjectKey::of(&own.metadata));
            }
            // One that comes may take over the addresses of one that is to go.
            for other in all.list() {
                if other.metadata.deletion_timestamp.is_some() {
                    queue.add(ObjectKey::of(&other.metadata));
                }
            }
        })
    };
    let reconciler = Ranges {
        client: context.client(NAME),
        ranges,
        recorder: context.recorder(NAME, COMPONENT),
        clock: context.clock.clone(),
    };
    context.run(reconciler, queue, 1).await;
}

#[async_trait]
impl Reconciler for Ranges {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn queue(&self) -> &'static str {
        "ipaddresses"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(range) = self.ranges.get(key) else {
            return Ok(Outcome::Done);
        };
        let all = self.ranges.list();
        let others: Vec<&ServiceCIDR> = all
            .iter()
            .map(AsRef::as_ref)
            .filter(|other| other.metadata.name != range.metadata.name)
            .collect();
        let addresses =
            if range.metadata.deletion_timestamp.is_some() && !is_covered(&range, &others) {
                Some(self.addresses().await?)
            } else {
                None
            };
        let now = Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::UNIX_EPOCH);
        let plan = plan(&range, &others, addresses.as_deref(), now);
        match self.carry_out(&range, plan).await {
            Err(ReconcileError::Api(error)) if is_not_found(&error) => Ok(Outcome::Done),
            done => done,
        }
    }
}

impl Ranges {
    /// The addresses that the server gave to services.
    async fn addresses(&self) -> Result<Vec<IpAddr>, ReconcileError> {
        let api: Api<IPAddress> = Api::all(self.client.clone());
        let managed = "ipaddress.kubernetes.io/managed-by=ipallocator.k8s.io";
        let list = api
            .list_metadata(&ListParams::default().labels(managed))
            .await?;
        let names = list.items.into_iter().filter_map(|item| item.metadata.name);
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }

    async fn carry_out(&self, range: &ServiceCIDR, plan: Plan) -> Result<Outcome, ReconcileError> {
        let finalizers = |list: &str| json!({"metadata": {list: [FINALIZER]}});
        match plan {
            Plan::Nothing => {}
            Plan::Wait(time) => return Ok(Outcome::After(time)),
            Plan::Protect => {
                self.patch(range, finalizers("finalizers")).await?;
                return self.ready(range).await;
            }
            Plan::Ready => return self.ready(range).await,
            Plan::Blocked => {
                self.say(range, BLOCKED).await?;
                return Ok(Outcome::After(LOOK_AGAIN));
            }
            Plan::Release => {
                let patch = finalizers("$deleteFromPrimitiveList/finalizers");
                self.patch(range, patch).await?;
            }
        }
        Ok(Outcome::Done)
    }

    async fn patch(
        &self,
        range: &ServiceCIDR,
        patch: serde_json::Value,
    ) -> Result<(), ReconcileError> {
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        let name = range.metadata.name.as_deref().unwrap_or_default();
        let patch = Patch::Strategic(patch);
        api.patch(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    async fn ready(&self, range: &ServiceCIDR) -> Result<Outcome, ReconcileError> {
        let said = self.say(range, READY).await;
        if said.is_err() {
            let text = "The ServiceCIDR Status can not be set to Ready=True";
            self.recorder.about(
                range,
                EventType::Warning,
                "KubernetesServiceCIDRError",
                text,
            );
        }
        said.map(|()| Outcome::Done)
    }

    async fn say(
        &self,
        range: &ServiceCIDR,
        wanted: (&str, &str, &str),
    ) -> Result<(), ReconcileError> {
        if says(range, wanted) {
            return Ok(());
        }
        let (status, reason, message) = wanted;
        let name = range.metadata.name.as_deref().unwrap_or_default();
        let time = skiff_client::timestamp(&*self.clock);
        let patch = Patch::Apply(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": status, "reason": reason,
                "message": message, "lastTransitionTime": time}]},
        }));
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        let parameters = PatchParams::apply(COMPONENT).force();
        api.patch_status(name, &parameters, &patch).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn range(name: &str, cidrs: &[&str], more: Value) -> ServiceCIDR {
        let mut object = json!({"metadata": {"name": name, "finalizers": [FINALIZER]},
            "spec": {"cidrs": cidrs}, "status": {"conditions": [{"type": "Ready", "status": "True",
            "reason": "", "message": READY.2, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        for (key, value) in more.as_object().into_iter().flatten() {
            match object.pointer_mut(key) {
                Some(place) => *place = value.clone(),
                None => object["metadata"][key.trim_start_matches("/metadata/")] = value.clone(),
            }
        }
        serde_json::from_value(object).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_is_protected_then_ready() {
        let now = at("2026-01-01T00:00:00Z");
        let fresh = range("a", &["10.0.0.0/24"], json!({"/metadata/finalizers": []}));
        assert_eq!(plan(&fresh, &[], None, now), Plan::Protect);
        let silent = range("a", &["10.0.0.0/24"], json!({"/status": {}}));
        assert_eq!(plan(&silent, &[], None, now), Plan::Ready);
        let done = range("a", &["10.0.0.0/24"], json!({}));
        assert_eq!(plan(&done, &[], None, now), Plan::Nothing);
    }

    #[test]
    fn a_range_that_is_to_go_waits_for_its_addresses_and_ten_seconds() {
        let going = json!({"/metadata/deletionTimestamp": "2026-01-01T00:00:00Z"});
        let own = range("a", &["10.0.0.0/24", "fd00::/112"], going);
        let wider = range("wide", &["10.0.0.0/16"], json!({}));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (early, late) = (at("2026-01-01T00:00:04Z"), at("2026-01-01T00:00:10Z"));
        for (addresses, others, now, expected) in [
            (vec![], vec![], early, Plan::Wait(Duration::from_secs(6))),
            (vec![], vec![], late, Plan::Release),
            (vec!["10.0.0.7"], vec![], late, Plan::Blocked),
            (vec!["fd00::7"], vec![&wider], late, Plan::Blocked),
            (vec!["10.0.0.7"], vec![&wider], late, Plan::Release),
            (vec!["10.0.1.7"], vec![], late, Plan::Release),
            // Neither end of a range is given to anybody.
            (vec!["10.0.0.0", "10.0.0.255"], vec![], late, Plan::Release),
        ] {
            let given: Vec<IpAddr> = addresses.iter().map(|text| address(text)).collect();
            let plan = plan(&own, &others, Some(&given), now);
            assert_eq!(plan, expected, "{addresses:?} {now}");
        }
    }

    #[test]
    fn covered_means_each_of_its_networks() {
        let own = range("a", &["10.0.0.0/24", "fd00::/112"], json!({}));
        let same = range("b", &["10.0.0.0/24", "fd00::/64"], json!({}));
        let half = range("c", &["10.0.0.0/16"], json!({}));
        let narrow = range("d", &["10.0.0.0/25", "fd00::/64"], json!({}));
        assert!(is_covered(&own, &[&same]));
        assert!(!is_covered(&own, &[&half]) && !is_covered(&own, &[&narrow]));
        assert!(!is_covered(&own, &[]));
    }
}
