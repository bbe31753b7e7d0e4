//! Puts right what addresses of services and their `IPAddress` objects say of each other, and tells people of what only
//! they can put right.
//!
//! Nothing runs while nothing changes. Whatever is found wrong is looked at once more before it is touched: a write that
//! was under way at the first look is through at the second.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use http::{Method, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use serde_json::{Value, json};
use skiff_api::ApiResult;
use skiff_store::WatchItem;

use crate::kubernetes_service::call;
use crate::query::Freshness;
use crate::request::UserInfo;
use crate::server::ApiServer;
use crate::service_ranges::{AddressRange, service_cidrs, stored};
use crate::services::{addresses, node_ports};

/// The time between looks, at least.
const PAUSE: Duration = Duration::from_secs(5);
/// Looking takes no more than one in so many parts of the time.
const SHARE: u32 = 200;
/// An address is taken before its service is written; a request that takes longer has timed out.
const GRACE: Duration = Duration::from_secs(60);
const PREFIXES: [&str; 3] = [
    "/registry/services/specs/",
    "/registry/ipaddresses/",
    "/registry/servicecidrs/",
];
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGER: &str = "ipallocator.k8s.io";
const ADDRESSES: &str = "ipallocator-repair-controller";
const PORTS: &str = "portallocator-repair-controller";

/// What is to be done about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Deed {
    /// Only people can help.
    Tell,
    Create,
    Recreate,
    Delete,
}

/// Whom an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Service(String, String),
    Address(String),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Fault {
    subject: Subject,
    /// The address, or the port.
    about: String,
    deed: Deed,
    /// Empty where nobody is told.
    reason: &'static str,
    note: String,
}

struct World<'a> {
    services: &'a [Service],
    records: &'a [IPAddress],
    ranges: &'a [ServiceCIDR],
    configured: AddressRange,
    ports: (u16, u16),
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn key(service: &Service) -> (&str, &str) {
    let meta = &service.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    (namespace, meta.name.as_deref().unwrap_or_default())
}

fn parent(record: &IPAddress) -> Option<(&str, &str)> {
    let parent = &record.spec.parent_ref;
    let is_service =
        parent.group.as_deref().unwrap_or_default().is_empty() && parent.resource == "services";
    is_service.then(|| {
        (
            parent.namespace.as_deref().unwrap_or_default(),
            &*parent.name,
        )
    })
}

fn label<'a>(record: &'a IPAddress, name: &str) -> Option<&'a str> {
    let labels = record.metadata.labels.as_ref()?;
    labels.get(name).map(String::as_str)
}

fn age(record: &IPAddress, now: Timestamp) -> Duration {
    let made = record.metadata.creation_timestamp.as_ref();
    let age = made.map(|made| made.0.duration_until(now));
    age.and_then(|age| Duration::try_from(age).ok())
        .unwrap_or_default()
}

impl World<'_> {
    fn in_range(&self, address: IpAddr) -> bool {
        let added = self.ranges.iter().flat_map(|range| range.spec.iter());
        let added = added.flat_map(|spec| spec.cidrs.iter().flatten());
        let mut added = added.filter_map(|text| AddressRange::parse(text));
        self.configured.usable(address) || added.any(|range| range.usable(address))
    }

    /// What is wrong, and when to look again though nothing changes.
    fn faults(&self, now: Timestamp) -> (Vec<Fault>, Option<Duration>) {
        let services: HashMap<(&str, &str), &Service> = self
            .services
            .iter()
            .map(|service| (key(service), service))
            .collect();
        let records: HashMap<&str, &IPAddress> = self
            .records
            .iter()
            .map(|record| (record.metadata.name.as_deref().unwrap_or_default(), record))
            .collect();
        let mut faults = Vec::new();
        for service in self.services {
            for address in addresses(service) {
                faults.extend(self.of_service(service, address, &records, &services));
            }
        }
        self.of_ports(&mut faults);
        let mut next: Option<Duration> = None;
        let renewed: HashSet<String> = faults
            .iter()
            .filter(|fault| fault.deed == Deed::Recreate)
            .map(|fault| fault.about.clone())
            .collect();
        let left = self.records.iter().filter(|record| {
            let name = record.metadata.name.as_ref();
            name.is_none_or(|name| !renewed.contains(name))
        });
        for record in left {
            match of_record(record, &services, now) {
                Verdict::Good => {}
                Verdict::Early(left) => next = Some(next.map_or(left, |next| next.min(left))),
                Verdict::Bad(fault) => faults.push(fault),
            }
        }
        (faults, next)
    }

    fn of_service(
        &self,
        service: &Service,
        address: IpAddr,
        records: &HashMap<&str, &IPAddress>,
        services: &HashMap<(&str, &str), &Service>,
    ) -> Option<Fault> {
        let (namespace, name) = key(service);
        let (ip, family) = (address.to_string(), family(address));
        let fault = |deed, reason, note: String| {
            Some(Fault {
                subject: Subject::Service(namespace.to_owned(), name.to_owned()),
                about: ip.clone(),
                deed,
                reason,
                note,
            })
        };
        if !self.in_range(address) {
            let note = format!(
                "Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please recreate service"
            );
            return fault(Deed::Tell, "ClusterIPOutOfRange", note);
        }
        let Some(record) = records.get(&*ip) else {
            let note = format!("Cluster IP [{family}]: {ip} is not allocated; repairing");
            return fault(Deed::Create, "ClusterIPNotAllocated", note);
        };
        let wrong = || {
            let note = format!(
                "the ClusterIP [{family}]: {ip} for Service {namespace}/{name} has a wrong reference; repairing"
            );
            fault(Deed::Recreate, "ClusterIPNotAllocated", note)
        };
        let Some(other) = parent(record) else {
            return wrong();
        };
        if other != (namespace, name) {
            return match services.get(&other) {
                Some(holder) if addresses(holder).contains(&address) => {
                    let note = format!(
                        "Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service"
                    );
                    fault(Deed::Tell, "ClusterIPAlreadyAllocated", note)
                }
                _ => wrong(),
            };
        }
        let labelled =
            label(record, FAMILY) == Some(family) && label(record, MANAGED_BY) == Some(MANAGER);
        if labelled {
            None
        } else {
            fault(Deed::Recreate, "", String::new())
        }
    }

    fn of_ports(&self, faults: &mut Vec<Fault>) {
        let (low, high) = self.ports;
        let mut holders: BTreeMap<(u16, &str), &Service> = BTreeMap::new();
        // The one that was first keeps it.
        let mut services: Vec<&Service> = self.services.iter().collect();
        services.sort_by_key(|service| {
            service
                .metadata
                .creation_timestamp
                .as_ref()
                .map(|time| time.0)
        });
        for service in services {
            for (port, protocol) in service.spec.iter().flat_map(node_ports) {
                let first = *holders.entry((port, protocol)).or_insert(service);
                let (reason, note) = if !(low..=high).contains(&port) {
                    let note = format!(
                        "Port {port} is not within the port range {low}-{high}; please recreate service"
                    );
                    ("PortOutOfRange", note)
                } else if key(first) != key(service) {
                    let note = format!(
                        "Port {port} was assigned to multiple services; please recreate service"
                    );
                    ("PortAlreadyAllocated", note)
                } else {
                    continue;
                };
                let (namespace, name) = key(service);
                faults.push(Fault {
                    subject: Subject::Service(namespace.to_owned(), name.to_owned()),
                    about: format!("{port}/{protocol}"),
                    deed: Deed::Tell,
                    reason,
                    note,
                });
            }
        }
    }
}

enum Verdict {
    Good,
    /// Its service may still come.
    Early(Duration),
    Bad(Fault),
}

/// Whether a service has the address that the record says it has. Records of others are theirs.
fn of_record(
    record: &IPAddress,
    services: &HashMap<(&str, &str), &Service>,
    now: Timestamp,
) -> Verdict {
    if label(record, MANAGED_BY) != Some(MANAGER) {
        return Verdict::Good;
    }
    let ip = record.metadata.name.clone().unwrap_or_default();
    let bad = |reason, note| {
        Verdict::Bad(Fault {
            subject: Subject::Address(ip.clone()),
            about: ip.clone(),
            deed: Deed::Delete,
            reason,
            note,
        })
    };
    let Some((namespace, name)) = parent(record) else {
        let other = &record.spec.parent_ref;
        let note = format!(
            "IPAddress {ip} appears to have been modified, not referencing a Service &ParentReference{{Group:{},Resource:{},Namespace:{},Name:{},}}: cleaning up",
            other.group.as_deref().unwrap_or_default(),
            other.resource,
            other.namespace.as_deref().unwrap_or_default(),
            other.name,
        );
        return bad("IPAddressNotAllocated", note);
    };
    let left = GRACE.saturating_sub(age(record, now));
    let service = services.get(&(namespace, name));
    let holds = service.is_some_and(|service| {
        addresses(service)
            .iter()
            .any(|address| address.to_string() == ip)
    });
    let Some(service) = service else {
        if !left.is_zero() {
            return Verdict::Early(left);
        }
        let note = format!(
            "IPAddress: {ip} for Service {namespace}/{name} appears to have leaked: cleaning up"
        );
        return bad("IPAddressNotAllocated", note);
    };
    if holds {
        return Verdict::Good;
    }
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    if kind == Some("ExternalName") && !left.is_zero() {
        return Verdict::Early(left);
    }
    let note = format!(
        "IPAddress: {ip} for Service {namespace}/{name} has a wrong reference; cleaning up"
    );
    bad("IPAddressWrongReference", note)
}

/// Looks whenever something changed, until the server stops.
pub(crate) async fn keep(server: Arc<ApiServer>) {
    let work = async {
        let user = Arc::new(UserInfo::new("system:apiserver", &["system:masters"]));
        let mut memory = Memory::default();
        loop {
            let changes = changes(&server).await;
            let began = server.clock.monotonic();
            let next = match memory.look(&server, &user).await {
                Ok(next) => next,
                Err(error) => {
                    tracing::debug!(
                        error = error.message,
                        "the addresses of services could not be read"
                    );
                    Some(PAUSE)
                }
            };
            let took = server.clock.monotonic().saturating_sub(began);
            server.clock.sleep(PAUSE.max(took * SHARE)).await;
            let changed = async {
                if let Some(mut changes) = changes {
                    changes.next().await;
                }
            };
            let due = async {
                match next {
                    Some(next) => server.clock.sleep(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! { () = changed => {}, () = due => {} }
        }
    };
    tokio::select! {
        () = work => {}
        () = server.shutdown.triggered() => {}
    }
}

async fn changes(server: &ApiServer) -> Option<impl futures::Stream<Item = ()> + Unpin + use<>> {
    let revision = server.store.revision().await.ok()?;
    let mut watches = Vec::new();
    for prefix in PREFIXES {
        watches.push(server.store.watch(prefix, revision).await.ok()?);
    }
    let changes = futures::stream::select_all(watches);
    Some(Box::pin(changes.filter_map(async |item| {
        let progress = matches!(item, Ok(WatchItem::Progress(_)));
        (!progress).then_some(())
    })))
}

#[derive(Default)]
struct Memory {
    /// Wrong at the last look.
    seen: HashSet<Fault>,
    /// Told to people, and still so.
    told: HashSet<Fault>,
}

impl Memory {
    /// One look; answers when the next one is due though nothing changes.
    async fn look(
        &mut self,
        server: &Arc<ApiServer>,
        user: &Arc<UserInfo>,
    ) -> ApiResult<Option<Duration>> {
        server.wait_fresh(Freshness::Newest).await?;
        let registry = server.registry.load_full();
        let services = registry
            .stored("", "services")
            .ok_or_else(skiff_api::ApiError::no_such_path)?;
        let cache = server.hub_cache(services).await?;
        let services: Vec<Service> = cache
            .list(&services.prefix(""), None, 0)
            .0
            .iter()
            .filter_map(|entry| entry.decode())
            .collect();
        let records = stored(server, "ipaddresses").await?;
        let records: Vec<IPAddress> = records.iter().filter_map(|entry| entry.decode()).collect();
        let ranges = service_cidrs(server).await?;
        let world = World {
            services: &services,
            records: &records,
            ranges: &ranges,
            configured: server.service_range,
            ports: server.config.node_ports,
        };
        let now = Timestamp::try_from(server.clock.now()).unwrap_or(Timestamp::UNIX_EPOCH);
        let (faults, mut next) = world.faults(now);
        let (again, new): (Vec<Fault>, Vec<Fault>) = faults
            .into_iter()
            .partition(|fault| self.seen.contains(fault));
        for fault in &again {
            self.mend(server, user, fault, &services).await;
        }
        self.told.retain(|fault| again.contains(fault));
        if !new.is_empty() {
            next = Some(Duration::ZERO);
        }
        self.seen = again.into_iter().chain(new).collect();
        Ok(next)
    }

    async fn mend(
        &mut self,
        server: &Arc<ApiServer>,
        user: &Arc<UserInfo>,
        fault: &Fault,
        services: &[Service],
    ) {
        if fault.deed == Deed::Tell && !self.told.insert(fault.clone()) {
            return;
        }
        if !fault.reason.is_empty() {
            tell(server, user, fault, services).await;
        }
        let collection = "/apis/networking.k8s.io/v1/ipaddresses";
        let path = format!("{collection}/{}", fault.about);
        if matches!(fault.deed, Deed::Recreate | Deed::Delete) {
            let (code, answer) = call(server, user, Method::DELETE, &path, None).await;
            if !code.is_success() && code != StatusCode::NOT_FOUND {
                tracing::warn!(address = fault.about, why = %answer["message"], "an IPAddress could not be removed");
                return;
            }
        }
        if let (Deed::Create | Deed::Recreate, Subject::Service(namespace, name)) =
            (fault.deed, &fault.subject)
        {
            let family = if fault.about.contains(':') {
                "IPv6"
            } else {
                "IPv4"
            };
            let record = json!({
                "metadata": {"name": fault.about, "labels": {FAMILY: family, MANAGED_BY: MANAGER}},
                "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": name}},
            });
            let (code, answer) = call(server, user, Method::POST, collection, Some(&record)).await;
            if !code.is_success() {
                tracing::warn!(address = fault.about, why = %answer["message"], "an IPAddress could not be made");
            }
        }
    }
}

/// An event, as upstream's server makes it.
async fn tell(server: &Arc<ApiServer>, user: &Arc<UserInfo>, fault: &Fault, services: &[Service]) {
    let ports = fault.reason.starts_with("Port");
    let component = if ports { PORTS } else { ADDRESSES };
    let (namespace, regarding, action) = match &fault.subject {
        Subject::Service(namespace, name) => {
            let meta = services
                .iter()
                .find(|service| key(service) == (namespace, name));
            let meta = meta
                .map(|service| service.metadata.clone())
                .unwrap_or_default();
            let regarding = json!({"apiVersion": "v1", "kind": "Service", "namespace": namespace, "name": name,
                "uid": meta.uid, "resourceVersion": meta.resource_version});
            let action = if ports {
                "PortAllocation"
            } else {
                "ClusterIPAllocation"
            };
            (namespace.as_str(), regarding, action)
        }
        Subject::Address(name) => {
            let regarding =
                json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "name": name});
            ("default", regarding, "IPAddressAllocation")
        }
    };
    let now = Timestamp::try_from(server.clock.now()).unwrap_or(Timestamp::UNIX_EPOCH);
    let event: Value = json!({
        "metadata": {"generateName": "service-repair-", "namespace": namespace},
        "eventTime": format!("{now:.6}"), "reportingController": component, "reportingInstance": component,
        "action": action, "reason": fault.reason, "note": fault.note, "type": "Warning", "regarding": regarding,
    });
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let (code, answer) = call(server, user, Method::POST, &path, Some(&event)).await;
    if !code.is_success() {
        tracing::debug!(why = %answer["message"], "an event of a service's address was not written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, ips: &[&str], ports: &[u16]) -> Service {
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| json!({"port": 80, "protocol": "TCP", "nodePort": port}))
            .collect();
        serde_json::from_value(json!({"metadata": {"namespace": "n", "name": name,
            "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"type": "ClusterIP", "clusterIP": ips.first(), "clusterIPs": ips, "ports": ports}}))
        .unwrap()
    }

    fn record(ip: &str, name: &str, change: Value) -> IPAddress {
        let mut record = json!({"metadata": {"name": ip, "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {FAMILY: "IPv4", MANAGED_BY: MANAGER}},
            "spec": {"parentRef": {"group": "", "resource": "services", "namespace": "n", "name": name}}});
        for (path, value) in change.as_object().into_iter().flatten() {
            *record.pointer_mut(path).unwrap() = value.clone();
        }
        serde_json::from_value(record).unwrap()
    }

    fn found(
        services: &[Service],
        records: &[IPAddress],
        seconds: i64,
    ) -> (Vec<String>, Option<Duration>) {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let world = World {
            services,
            records,
            ranges: &[],
            configured: AddressRange::parse("10.0.0.0/24").unwrap(),
            ports: (30000, 32767),
        };
        let now = Timestamp::from_second(start.as_second() + seconds).unwrap();
        let (faults, next) = world.faults(now);
        let shown = faults
            .iter()
            .map(|fault| format!("{:?} {} {}", fault.deed, fault.about, fault.reason));
        (shown.collect(), next)
    }

    #[test]
    fn services_and_records_agree() {
        let (s, t) = (
            service("s", &["10.0.0.5"], &[]),
            service("t", &["10.0.0.5"], &[]),
        );
        let good = record("10.0.0.5", "s", json!({}));
        let gateway = record(
            "10.0.0.5",
            "s",
            json!({"/spec/parentRef/resource": "gateways"}),
        );
        let unlabelled = record(
            "10.0.0.5",
            "s",
            json!({"/metadata/labels": {MANAGED_BY: MANAGER}}),
        );
        let strays = record("10.0.0.6", "s", json!({}));
        let leaked = record("10.0.0.7", "gone", json!({}));
        let foreign = record("10.0.0.7", "gone", json!({"/metadata/labels": {}}));
        let outside = service("s", &["10.9.0.5"], &[]);
        let headless = service("s", &["None"], &[]);
        for (case, services, records, expected) in [
            ("fine", vec![s.clone()], vec![good.clone()], vec![]),
            ("headless", vec![headless], vec![], vec![]),
            (
                "missing",
                vec![s.clone()],
                vec![],
                vec!["Create 10.0.0.5 ClusterIPNotAllocated"],
            ),
            (
                "twice",
                vec![s.clone(), t.clone()],
                vec![good.clone()],
                vec!["Tell 10.0.0.5 ClusterIPAlreadyAllocated"],
            ),
            (
                "of another that is gone",
                vec![t.clone()],
                vec![good.clone()],
                vec!["Recreate 10.0.0.5 ClusterIPNotAllocated"],
            ),
            (
                "of no service",
                vec![s.clone()],
                vec![gateway],
                vec!["Recreate 10.0.0.5 ClusterIPNotAllocated"],
            ),
            (
                "unlabelled",
                vec![s.clone()],
                vec![unlabelled],
                vec!["Recreate 10.0.0.5 "],
            ),
            (
                "astray",
                vec![s.clone()],
                vec![good.clone(), strays],
                vec!["Delete 10.0.0.6 IPAddressWrongReference"],
            ),
            (
                "leaked",
                vec![],
                vec![leaked],
                vec!["Delete 10.0.0.7 IPAddressNotAllocated"],
            ),
            ("somebody else's", vec![], vec![foreign], vec![]),
            (
                "out of range",
                vec![outside],
                vec![],
                vec!["Tell 10.9.0.5 ClusterIPOutOfRange"],
            ),
        ] {
            assert_eq!(found(&services, &records, 3600).0, expected, "{case}");
        }
        // A service may be about to be written, or to change its type.
        let fresh = record("10.0.0.7", "soon", json!({}));
        let left = Some(Duration::from_secs(50));
        assert_eq!(found(&[], std::slice::from_ref(&fresh), 10), (vec![], left));
        let mut named = service("soon", &[], &[]);
        named.spec.as_mut().unwrap().type_ = Some("ExternalName".to_owned());
        assert_eq!(
            found(
                std::slice::from_ref(&named),
                std::slice::from_ref(&fresh),
                10
            ),
            (vec![], left)
        );
        assert_eq!(
            found(&[named], &[fresh], 60).0,
            ["Delete 10.0.0.7 IPAddressWrongReference"]
        );
    }

    #[test]
    fn node_ports_are_told_of() {
        let services = [
            service("a", &["None"], &[30001, 29999]),
            service("b", &["None"], &[30001]),
        ];
        let (faults, _) = found(&services, &[], 0);
        assert_eq!(
            faults,
            [
                "Tell 29999/TCP PortOutOfRange",
                "Tell 30001/TCP PortAlreadyAllocated"
            ]
        );
    }
}
