//! Puts right what addresses of services and their `IPAddress` objects say of each other, and tells people of what only
//! they can put right.
//!
//! Nothing runs while nothing changes, and only what changed is looked at. Whatever is found wrong is looked at once more
//! before it is touched: a write that was under way at the first look is through at the second.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kubernetes_service::call;
use crate::request::UserInfo;
use crate::server::ApiServer;
use crate::service_holdings::{
    FAMILY, Held, Holder, Holdings, MANAGED_BY, MANAGER, Parent, Record, Watched, family,
};
use crate::service_ranges::AddressRange;

/// The time between looks, at least.
const PAUSE: Duration = Duration::from_secs(5);
/// An address is taken before its service is written; a request that takes longer has timed out.
const GRACE: Duration = Duration::from_secs(60);
const ADDRESSES: &str = "ipallocator-repair-controller";
const PORTS: &str = "portallocator-repair-controller";

/// What is to be done about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// Only people can help.
    Tell,
    Create,
    Recreate,
    Delete,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    /// The service that an event is about; none: the `IPAddress`.
    service: Option<Arc<str>>,
    deed: Deed,
    /// Empty where nobody is told.
    reason: &'static str,
    note: String,
}

/// What is wrong with an address or a port, and when to look again though nothing changes.
fn judge(
    holdings: &Holdings,
    held: Held,
    node_ports: (u16, u16),
    now: Timestamp,
) -> (Vec<Fault>, Option<Duration>) {
    let address = match held {
        Held::Port(port, _) => return (of_port(holdings, held, port, node_ports), None),
        Held::Address(address) => address,
    };
    let holders = holdings.holders(held);
    let mut faults: Vec<Fault> = holders
        .filter_map(|(key, _)| of_service(holdings, key, address))
        .collect();
    let renewed = faults.iter().any(|fault| fault.deed == Deed::Recreate);
    let record = holdings.record(address).filter(|_| !renewed);
    let verdict = record.map(|record| of_record(holdings, address, record, now));
    match verdict.unwrap_or(Verdict::Good) {
        Verdict::Good => (faults, None),
        Verdict::Early(left) => (faults, Some(left)),
        Verdict::Bad(fault) => {
            faults.push(fault);
            (faults, None)
        }
    }
}

fn of_service(holdings: &Holdings, key: &Arc<str>, address: IpAddr) -> Option<Fault> {
    let family = family(address);
    let fault = |deed, reason, note: String| {
        Some(Fault {
            service: Some(key.clone()),
            deed,
            reason,
            note,
        })
    };
    if !holdings.in_range(address) {
        let note = format!(
            "Cluster IP [{family}]: {address} is not within any configured Service CIDR; please recreate service"
        );
        return fault(Deed::Tell, "ClusterIPOutOfRange", note);
    }
    let Some(record) = holdings.record(address) else {
        let note = format!("Cluster IP [{family}]: {address} is not allocated; repairing");
        return fault(Deed::Create, "ClusterIPNotAllocated", note);
    };
    let wrong = || {
        let note = format!(
            "the ClusterIP [{family}]: {address} for Service {key} has a wrong reference; repairing"
        );
        fault(Deed::Recreate, "ClusterIPNotAllocated", note)
    };
    let Parent::Service(other) = &record.parent else {
        return wrong();
    };
    if other != key {
        return match holdings.service(other) {
            Some(holder) if holder.addresses.contains(&address) => {
                let note = format!(
                    "Cluster IP [{family}]:{address} was assigned to multiple services; please recreate service"
                );
                fault(Deed::Tell, "ClusterIPAlreadyAllocated", note)
            }
            _ => wrong(),
        };
    }
    if record.labelled {
        None
    } else {
        fault(Deed::Recreate, "", String::new())
    }
}

/// What is wrong with a port: it is outside of the range, or of several services, the first of which keeps it.
fn of_port(holdings: &Holdings, held: Held, port: u16, (low, high): (u16, u16)) -> Vec<Fault> {
    let mut holders: Vec<(&Arc<str>, &Holder)> = holdings.holders(held).collect();
    holders.sort_by_key(|(_, holder)| holder.created);
    let (keep, reason, note) = if (low..=high).contains(&port) {
        let note =
            format!("Port {port} was assigned to multiple services; please recreate service");
        (1, "PortAlreadyAllocated", note)
    } else {
        let note = format!(
            "Port {port} is not within the port range {low}-{high}; please recreate service"
        );
        (0, "PortOutOfRange", note)
    };
    let wrong = holders.into_iter().skip(keep).map(|(key, _)| Fault {
        service: Some(key.clone()),
        deed: Deed::Tell,
        reason,
        note: note.clone(),
    });
    wrong.collect()
}

enum Verdict {
    Good,
    /// Its service may still come.
    Early(Duration),
    Bad(Fault),
}

/// Whether a service has the address that the record says it has. Records of others are theirs.
fn of_record(holdings: &Holdings, ip: IpAddr, record: &Record, now: Timestamp) -> Verdict {
    if !record.managed {
        return Verdict::Good;
    }
    let bad = |reason, note| {
        Verdict::Bad(Fault {
            service: None,
            deed: Deed::Delete,
            reason,
            note,
        })
    };
    let key = match &record.parent {
        Parent::Service(key) => key,
        Parent::Other(other) => {
            let note = format!(
                "IPAddress {ip} appears to have been modified, not referencing a Service {other}: cleaning up"
            );
            return bad("IPAddressNotAllocated", note);
        }
    };
    let age = record.created.map(|made| made.duration_until(now));
    let age = age.and_then(|age| Duration::try_from(age).ok());
    let left = GRACE.saturating_sub(age.unwrap_or_default());
    let Some(service) = holdings.service(key) else {
        if !left.is_zero() {
            return Verdict::Early(left);
        }
        let note = format!("IPAddress: {ip} for Service {key} appears to have leaked: cleaning up");
        return bad("IPAddressNotAllocated", note);
    };
    if service.addresses.contains(&ip) {
        return Verdict::Good;
    }
    if service.is_external_name && !left.is_zero() {
        return Verdict::Early(left);
    }
    let note = format!("IPAddress: {ip} for Service {key} has a wrong reference; cleaning up");
    bad("IPAddressWrongReference", note)
}

/// Looks whenever something changed, until the server stops.
pub(crate) async fn keep(server: Arc<ApiServer>) {
    let work = async {
        let user = Arc::new(UserInfo::new("system:apiserver", &["system:masters"]));
        let (mut watched, mut memory) = (Watched::default(), Memory::new(server.service_range));
        loop {
            let next = match watched.read(&server, &mut memory.holdings).await {
                Ok(()) => {
                    let now = Timestamp::try_from(server.clock.now()).unwrap_or_default();
                    for task in memory.look(server.config.node_ports, now) {
                        task.carry_out(&server, &user).await;
                    }
                    memory.next(now)
                }
                Err(error) => {
                    tracing::debug!(
                        error = error.message,
                        "the addresses of services could not be read"
                    );
                    Some(Duration::ZERO)
                }
            };
            server.clock.sleep(PAUSE).await;
            let due = async {
                match next {
                    Some(next) => server.clock.sleep(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! { () = watched.changed() => {}, () = due => {} }
        }
    };
    tokio::select! {
        () = work => {}
        () = server.shutdown.triggered() => {}
    }
}

/// A fault that was seen.
struct Known {
    fault: Fault,
    /// Whether it was seen twice: who is to be told was.
    told: bool,
}

/// What is known of everybody's addresses and ports, and what was wrong with them at the last look.
struct Memory {
    holdings: Holdings,
    faults: HashMap<Held, Vec<Known>>,
    /// What is to be looked at again though nothing changes.
    again: BTreeSet<Held>,
    /// The same, not before that time.
    later: HashMap<Held, Timestamp>,
}

/// Something to do.
#[derive(Debug)]
struct Task {
    held: Held,
    fault: Fault,
    /// Whether people are to be told.
    tell: bool,
}

impl Memory {
    fn new(configured: AddressRange) -> Self {
        Self {
            holdings: Holdings::new(configured),
            faults: HashMap::new(),
            again: BTreeSet::new(),
            later: HashMap::new(),
        }
    }

    /// Looks at what changed, at what was wrong for the first time or is still to be put right, and at what is due.
    fn look(&mut self, node_ports: (u16, u16), now: Timestamp) -> Vec<Task> {
        let mut all = std::mem::take(&mut self.holdings.changed);
        all.append(&mut self.again);
        let due = self.later.iter().filter(|(_, at)| **at <= now);
        all.extend(due.map(|(held, _)| held));
        let mut tasks = Vec::new();
        for held in all {
            let (faults, left) = judge(&self.holdings, held, node_ports, now);
            match left {
                Some(left) => self.later.insert(held, now + left),
                None => self.later.remove(&held),
            };
            let mut before = self.faults.remove(&held).unwrap_or_default();
            for fault in faults {
                let known = before.iter().position(|known| known.fault == fault);
                let known = known.map(|at| before.swap_remove(at));
                let tell = known.as_ref().is_some_and(|known| !known.told);
                let mends = fault.deed != Deed::Tell;
                if known.is_none() || mends {
                    self.again.insert(held);
                }
                if tell || known.is_some() && mends {
                    tasks.push(Task {
                        held,
                        fault: fault.clone(),
                        tell: tell && !fault.reason.is_empty(),
                    });
                }
                let told = known.is_some();
                self.faults
                    .entry(held)
                    .or_default()
                    .push(Known { fault, told });
            }
        }
        tasks
    }

    /// When the next look is due though nothing changes.
    fn next(&self, now: Timestamp) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let first = self.later.values().min()?;
        Some(Duration::try_from(now.duration_until(*first)).unwrap_or_default())
    }
}

impl Task {
    async fn carry_out(&self, server: &Arc<ApiServer>, user: &Arc<UserInfo>) {
        if self.tell {
            self.tell(server, user).await;
        }
        let Held::Address(address) = self.held else {
            return;
        };
        let collection = "/apis/networking.k8s.io/v1/ipaddresses";
        if matches!(self.fault.deed, Deed::Recreate | Deed::Delete) {
            let path = format!("{collection}/{address}");
            let (code, answer) = call(server, user, Method::DELETE, &path, None).await;
            if !code.is_success() && code != StatusCode::NOT_FOUND {
                tracing::warn!(%address, why = %answer["message"], "an IPAddress could not be removed");
                return;
            }
        }
        let service = self.fault.service.as_deref();
        if let (Deed::Create | Deed::Recreate, Some((namespace, name))) =
            (self.fault.deed, service.and_then(|key| key.split_once('/')))
        {
            let record = json!({
                "metadata": {"name": address.to_string(), "labels": {FAMILY: family(address), MANAGED_BY: MANAGER}},
                "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": name}},
            });
            let (code, answer) = call(server, user, Method::POST, collection, Some(&record)).await;
            if !code.is_success() {
                tracing::warn!(%address, why = %answer["message"], "an IPAddress could not be made");
            }
        }
    }

    /// Makes an event, as upstream's server does.
    async fn tell(&self, server: &Arc<ApiServer>, user: &Arc<UserInfo>) {
        let ports = matches!(self.held, Held::Port(..));
        let component = if ports { PORTS } else { ADDRESSES };
        let (namespace, regarding, action) = match (&self.fault.service, self.held) {
            (Some(key), _) => {
                let (namespace, name) = key.split_once('/').unwrap_or_default();
                let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
                let (_, service) = call(server, user, Method::GET, &path, None).await;
                let meta = &service["metadata"];
                let regarding = json!({"apiVersion": "v1", "kind": "Service", "namespace": namespace, "name": name,
                    "uid": meta["uid"], "resourceVersion": meta["resourceVersion"]});
                let action = if ports {
                    "PortAllocation"
                } else {
                    "ClusterIPAllocation"
                };
                (namespace, regarding, action)
            }
            (None, Held::Address(address)) => {
                let regarding = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
                    "name": address.to_string()});
                ("default", regarding, "IPAddressAllocation")
            }
            (None, Held::Port(..)) => return,
        };
        let now = Timestamp::try_from(server.clock.now()).unwrap_or_default();
        let event: Value = json!({
            "metadata": {"generateName": "service-repair-", "namespace": namespace},
            "eventTime": format!("{now:.6}"), "reportingController": component, "reportingInstance": component,
            "action": action, "reason": self.fault.reason, "note": self.fault.note, "type": "Warning", "regarding": regarding,
        });
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let (code, answer) = call(server, user, Method::POST, &path, Some(&event)).await;
        if !code.is_success() {
            tracing::debug!(why = %answer["message"], "an event of a service's address was not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::networking::v1::IPAddress;
    use skiff_base::Random;

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

    const CONFIGURED: &str = "10.0.0.0/24";
    const NODE_PORTS: (u16, u16) = (30000, 32767);

    fn set_service(memory: &mut Memory, service: &Service) {
        let name = service.metadata.name.as_deref().unwrap();
        let key = format!("n/{name}").into();
        memory.holdings.set_service(&key, Some(Holder::of(service)));
    }

    fn set_record(memory: &mut Memory, record: &IPAddress) {
        let address = record.metadata.name.as_deref().unwrap().parse().unwrap();
        let record = Record::of(address, record);
        memory.holdings.set_record(address, Some(record));
    }

    fn empty() -> Memory {
        Memory::new(AddressRange::parse(CONFIGURED).unwrap())
    }

    fn at(seconds: i64) -> Timestamp {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        Timestamp::from_second(start.as_second() + seconds).unwrap()
    }

    fn shown(tasks: &[Task]) -> Vec<String> {
        let shown = tasks.iter().map(|task| {
            let about = match task.held {
                Held::Address(address) => address.to_string(),
                Held::Port(port, protocol) => format!("{port}/{protocol}"),
            };
            format!("{:?} {about} {}", task.fault.deed, task.fault.reason)
        });
        shown.collect()
    }

    /// What is to be done at the second look, and when the next one is due.
    fn found(
        services: &[Service],
        records: &[IPAddress],
        seconds: i64,
    ) -> (Vec<String>, Option<Duration>) {
        let mut memory = empty();
        services.iter().for_each(|it| set_service(&mut memory, it));
        records.iter().for_each(|it| set_record(&mut memory, it));
        assert_eq!(shown(&memory.look(NODE_PORTS, at(seconds))), [""; 0]);
        let again = memory.again.clone();
        let tasks = memory.look(NODE_PORTS, at(seconds));
        assert_eq!(tasks.is_empty(), again.is_empty());
        memory.again.clear();
        (shown(&tasks), memory.next(at(seconds)))
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

    #[test]
    fn only_what_changed_is_looked_at() {
        let mut memory = empty();
        for number in 1..20 {
            let (name, ip) = (format!("s{number}"), format!("10.0.0.{number}"));
            set_service(&mut memory, &service(&name, &[&ip], &[30000 + number]));
            set_record(&mut memory, &record(&ip, &name, json!({})));
        }
        assert_eq!(memory.holdings.changed.len(), 38);
        assert_eq!(shown(&memory.look(NODE_PORTS, at(0))), [""; 0]);
        assert_eq!(memory.next(at(0)), None);
        let address = |text: &str| Held::Address(text.parse().unwrap());
        // What matters is as before.
        set_service(&mut memory, &service("s1", &["10.0.0.1"], &[30001]));
        assert!(memory.holdings.changed.is_empty());
        set_service(&mut memory, &service("s1", &["10.0.0.30"], &[30001]));
        let changed: Vec<Held> = memory.holdings.changed.iter().copied().collect();
        let port = Held::Port(30001, "TCP");
        assert_eq!(changed, [address("10.0.0.1"), address("10.0.0.30"), port]);
        memory.look(NODE_PORTS, at(0));
        memory
            .holdings
            .set_record("10.0.0.2".parse().unwrap(), None);
        let changed: Vec<Held> = memory.holdings.changed.iter().copied().collect();
        assert_eq!(changed, [address("10.0.0.2")]);
        let expected = [
            "Delete 10.0.0.1 IPAddressWrongReference",
            "Create 10.0.0.30 ClusterIPNotAllocated",
        ];
        assert_eq!(shown(&memory.look(NODE_PORTS, at(5))), expected);
        // It is tried until it is done, and told once.
        let tasks = memory.look(NODE_PORTS, at(10));
        let told: Vec<bool> = tasks.iter().map(|task| task.tell).collect();
        assert_eq!(told, [false, true, false], "{tasks:?}");
    }

    /// Whatever happens in whatever order, the faults that are known are those that a look at everything finds.
    #[test]
    fn changes_add_up() {
        for seed in 0..200 {
            let random = Random::seeded(seed);
            let draw = |below| random.below(below);
            let mut memory = empty();
            let (mut services, mut records) = (HashMap::new(), HashMap::new());
            let mut added = None;
            for _ in 0..40 {
                let number = draw(4);
                let ip = format!("10.0.{}.{}", draw(4) / 3, 1 + draw(3));
                let (name, address) = (format!("s{number}"), ip.parse::<IpAddr>().unwrap());
                match draw(6) {
                    5 => {
                        let range = AddressRange::parse("10.0.1.0/24");
                        let range = range.filter(|_| draw(2) == 0);
                        added = range;
                        let key = "r".into();
                        memory
                            .holdings
                            .set_ranges(&key, range.map(|range| vec![range]));
                    }
                    0 | 1 => {
                        let ports = [29999 + u16::try_from(draw(3)).unwrap()];
                        let made = service(&name, &[&ip], &ports);
                        set_service(&mut memory, &made);
                        services.insert(name, made);
                    }
                    2 => {
                        services.remove(&name);
                        memory
                            .holdings
                            .set_service(&format!("n/{name}").into(), None);
                    }
                    3 => {
                        let made = record(&ip, &name, json!({}));
                        set_record(&mut memory, &made);
                        records.insert(ip, made);
                    }
                    _ => {
                        records.remove(&ip);
                        memory.holdings.set_record(address, None);
                    }
                }
                if draw(3) == 0 {
                    memory.look(NODE_PORTS, at(100));
                }
            }
            memory.look(NODE_PORTS, at(100));
            let mut fresh = empty();
            let added = added.map(|range| vec![range]);
            fresh.holdings.set_ranges(&"r".into(), added);
            services.values().for_each(|it| set_service(&mut fresh, it));
            records.values().for_each(|it| set_record(&mut fresh, it));
            fresh.look(NODE_PORTS, at(100));
            let all = |memory: &Memory| {
                let faults = memory.faults.iter().flat_map(|(held, faults)| {
                    faults
                        .iter()
                        .map(move |known| format!("{held:?} {:?}", known.fault))
                });
                let mut all: Vec<String> = faults.collect();
                all.sort();
                all
            };
            assert_eq!(all(&memory), all(&fresh), "seed {seed}");
        }
    }
}
