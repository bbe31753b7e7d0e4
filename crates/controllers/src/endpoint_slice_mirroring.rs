//! Mirrors Endpoints that people write by hand, for Services without a selector, into EndpointSlices, which is what the
//! service proxy reads.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use kube::core::ObjectMeta;
use skiff_client::{
    ApiFailure, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler,
    SharedCache,
};

use crate::Context;
use crate::deletion::delete_seen;
use crate::endpoint_slice::{MANAGED_BY, SERVICE_NAME, port_key, service_of};
use crate::gate::WriteGate;
use crate::ownership::controller_reference;

/// The name of this controller.
pub const NAME: &str = "endpointslicemirroring-controller";

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that a mirror does not get.
const NOT_COPIED: [&str; 2] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
];
/// More addresses of one subset are not mirrored.
const CAPACITY: usize = 1000;
/// The index of mirrors by their Endpoints.
const MIRROR_INDEX: &str = "mirror";
const WORKERS: usize = 2;

struct Mirroring {
    client: Client,
    services: SharedCache<Service>,
    endpoints: SharedCache<Endpoints>,
    slices: SharedCache<EndpointSlice>,
    gate: WriteGate,
    recorder: EventRecorder,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let services = context.caches.of::<Service>();
    let endpoints = context.caches.of::<Endpoints>();
    let slices = context.caches.of::<EndpointSlice>();
    slices.add_index(MIRROR_INDEX, |slice: &EndpointSlice| {
        let key = service_of(slice, MANAGER).map(|key| key.to_string());
        key.into_iter().collect()
    });
    let queue = context.queue();
    services.wait_synced().await;
    endpoints.wait_synced().await;
    slices.wait_synced().await;
    let _endpoints = {
        let queue = queue.clone();
        endpoints.on_event(move |event| queue.add(ObjectKey::of(&event.object().metadata)))
    };
    let _services = {
        let queue = queue.clone();
        services.on_event(move |event| queue.add(ObjectKey::of(&event.object().metadata)))
    };
    let _slices = {
        let queue = queue.clone();
        slices.on_event(move |event| {
            let key = service_of(event.object(), MANAGER);
            key.into_iter().for_each(|key| queue.add(key));
        })
    };
    let reconciler = Mirroring {
        client: context.client(NAME),
        services,
        endpoints,
        slices,
        gate: WriteGate::default(),
        recorder: context.recorder(NAME, NAME),
    };
    context.run(reconciler, queue, WORKERS).await;
}

/// Whether these Endpoints are written by hand for a Service that has no other.
fn wants_mirror(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let meta = &endpoints.metadata;
    let labels = meta.labels.as_ref();
    let skipped = labels.is_some_and(|labels| labels.get(SKIP).is_some_and(|skip| skip == "true"));
    let annotations = meta.annotations.as_ref();
    let elects = annotations.is_some_and(|annotations| annotations.contains_key(LEADER));
    let by_hand = |service: &Service| {
        let spec = service.spec.as_ref();
        spec.is_none_or(|spec| spec.selector.is_none())
    };
    !skipped && !elects && meta.deletion_timestamp.is_none() && service.is_some_and(by_hand)
}

/// What was left out of the mirrors.
#[derive(Debug, Default, PartialEq)]
struct Left {
    /// Addresses that are none.
    invalid: usize,
    /// Addresses beyond the capacity of a subset.
    excess: usize,
}

#[derive(Debug, Default, PartialEq)]
struct Plan {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
    left: Left,
}

/// An address as it is grouped: the same address of several subsets has the ports of all.
type Address = (IpAddr, bool, String);

fn plan(endpoints: &Endpoints, existing: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    let mut existing: Vec<Arc<EndpointSlice>> = existing.to_vec();
    for ((family, _), (ports, addresses)) in groups(endpoints, &mut plan.left) {
        let wanted = slice(endpoints, family, ports, addresses);
        let key = port_key(wanted.ports.as_ref());
        let same = |found: &Arc<EndpointSlice>| {
            found.address_type == family && port_key(found.ports.as_ref()) == key
        };
        match existing.iter().position(same) {
            None => plan.create.push(wanted),
            Some(index) => {
                let old = existing.swap_remove(index);
                let mut new = (*old).clone();
                new.metadata.labels = wanted.metadata.labels;
                new.metadata.annotations = wanted.metadata.annotations;
                new.endpoints = wanted.endpoints;
                if new != *old {
                    plan.update.push(new);
                }
            }
        }
    }
    plan.delete = existing;
    plan
}

type Groups = BTreeMap<(&'static str, String), (Vec<EndpointPort>, Vec<Endpoint>)>;

/// The addresses by family and ports.
fn groups(endpoints: &Endpoints, left: &mut Left) -> Groups {
    let mut by_address: BTreeMap<Address, (Vec<EndpointPort>, EndpointAddress)> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset.ports.iter().flatten().map(port).collect();
        let ready = subset.addresses.iter().flatten().map(|found| (found, true));
        let others = subset.not_ready_addresses.iter().flatten();
        let mut room = CAPACITY;
        for (address, ready) in ready.chain(others.map(|found| (found, false))) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                left.invalid += 1;
                continue;
            };
            if room == 0 {
                left.excess += 1;
                continue;
            }
            room -= 1;
            let target = address.target_ref.as_ref();
            let uid = target.and_then(|target| target.uid.clone());
            let (known, _) = by_address
                .entry((ip, ready, uid.unwrap_or_default()))
                .or_insert_with(|| (Vec::new(), address.clone()));
            for port in &ports {
                if !known.contains(port) {
                    known.push(port.clone());
                }
            }
        }
    }
    let mut groups = Groups::new();
    for ((ip, ready, _), (ports, address)) in by_address {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let endpoint = Endpoint {
            addresses: vec![ip.to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(ready),
                ..EndpointConditions::default()
            }),
            hostname: address.hostname.filter(|name| !name.is_empty()),
            node_name: address.node_name,
            target_ref: address.target_ref,
            ..Endpoint::default()
        };
        let key = (family, port_key(Some(&ports)));
        let (_, group) = groups.entry(key).or_insert_with(|| (ports, Vec::new()));
        group.push(endpoint);
    }
    groups
}

fn port(port: &k8s_openapi::api::core::v1::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    }
}

fn slice(
    endpoints: &Endpoints,
    family: &str,
    ports: Vec<EndpointPort>,
    members: Vec<Endpoint>,
) -> EndpointSlice {
    let meta = &endpoints.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![controller_reference(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(members),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

#[async_trait]
impl Reconciler for Mirroring {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "endpoint_slice_mirroring"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        if !self.gate.is_open(key, &self.slices) {
            return Ok(Outcome::After(Duration::from_secs(1)));
        }
        let existing: Vec<_> = self
            .slices
            .by_index(MIRROR_INDEX, key.as_str())
            .into_iter()
            .filter(|slice| slice.metadata.deletion_timestamp.is_none())
            .collect();
        let service = self.services.get(key);
        let endpoints = self
            .endpoints
            .get(key)
            .filter(|endpoints| wants_mirror(endpoints, service.as_deref()));
        let plan = match &endpoints {
            Some(endpoints) => plan(endpoints, &existing),
            None => Plan {
                delete: existing,
                ..Plan::default()
            },
        };
        let changes = !(plan.create.is_empty() && plan.update.is_empty());
        if let Some(endpoints) = endpoints.filter(|_| changes) {
            self.tell(&endpoints, &plan.left);
        }
        match self.carry_out(key, plan).await {
            Err(error) if error.has_cause("NamespaceTerminating") => Ok(Outcome::Done),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(Outcome::Done),
        }
    }
}

impl Mirroring {
    fn tell(&self, endpoints: &Endpoints, left: &Left) {
        if left.invalid > 0 {
            let text = format!(
                "Skipped {} invalid IP addresses when mirroring to EndpointSlices",
                left.invalid
            );
            self.recorder
                .about(endpoints, EventType::Warning, "InvalidIPAddress", text);
        }
        if left.excess > 0 {
            let text = format!(
                "A max of {CAPACITY} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                left.excess + left.invalid
            );
            self.recorder.about(
                endpoints,
                EventType::Warning,
                "TooManyAddressesToMirror",
                text,
            );
        }
    }

    async fn carry_out(&self, key: &ObjectKey, plan: Plan) -> Result<(), kube::Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), key.namespace());
        let parameters = PostParams::default();
        for slice in &plan.create {
            let made = api.create(&parameters, slice).await?;
            self.gate.wrote(key, &made.metadata);
        }
        for slice in &plan.update {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            let answer = api.replace(name, &parameters, slice).await?;
            self.gate.wrote(key, &answer.metadata);
        }
        for slice in &plan.delete {
            if delete_seen(&api, &slice.metadata, DeleteParams::default()).await? {
                self.gate.deleted(key, &slice.metadata);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn endpoints(subsets: serde_json::Value) -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "a", "uid": "e", "labels": {"app": "db"},
                "annotations": {"note": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "subsets": subsets,
        }))
        .unwrap()
    }

    fn addresses(slice: &EndpointSlice) -> String {
        let endpoints = slice.endpoints.iter().flatten();
        let text = |endpoint: &Endpoint| {
            let ready = endpoint.conditions.as_ref().and_then(|found| found.ready);
            format!("{}:{}", endpoint.addresses[0], ready == Some(true))
        };
        endpoints.map(text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn addresses_are_grouped_by_family_and_ports() {
        let subsets = json!([
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "nonsense"}],
                "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"name": "a", "port": 1}]},
            {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "b", "port": 2}]},
        ]);
        let endpoints = endpoints(subsets);
        let made = plan(&endpoints, &[]);
        let told: Vec<String> = made
            .create
            .iter()
            .map(|slice| {
                let ports = slice.ports.iter().flatten().filter_map(|port| port.port);
                let ports: Vec<String> = ports.map(|port| port.to_string()).collect();
                format!(
                    "{} {} {}",
                    slice.address_type,
                    ports.join(","),
                    addresses(slice)
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                "IPv4 1 10.0.0.2:false",
                "IPv4 1,2 10.0.0.1:true",
                "IPv6 1 fd00::1:true"
            ]
        );
        assert_eq!(
            made.left,
            Left {
                invalid: 1,
                excess: 0
            }
        );
        let meta = &made.create[0].metadata;
        assert_eq!(meta.annotations.as_ref().unwrap().len(), 1);
        let labels = meta.labels.as_ref().unwrap();
        assert_eq!((&*labels["app"], &*labels[SERVICE_NAME]), ("db", "db"));
        let mirrors: Vec<_> = made.create.into_iter().map(Arc::new).collect();
        let again = plan(&endpoints, &mirrors);
        assert_eq!(
            (again.create.len(), again.update.len(), again.delete.len()),
            (0, 0, 0)
        );
        let one = json!([{"addresses": [{"ip": "10.0.0.3"}], "ports": [{"name": "a", "port": 1}]}]);
        let fewer = plan(&self::endpoints(one), &mirrors);
        assert_eq!(
            (fewer.create.len(), fewer.update.len(), fewer.delete.len()),
            (0, 1, 2)
        );
        assert_eq!(addresses(&fewer.update[0]), "10.0.0.3:true");
    }

    #[test]
    fn only_endpoints_by_hand_of_a_service_without_selector_are_mirrored() {
        let service = |selector: serde_json::Value| -> Service {
            serde_json::from_value(json!({"spec": {"selector": selector}})).unwrap()
        };
        let (by_hand, other) = (service(json!(null)), service(json!({"app": "x"})));
        let plain = endpoints(json!([]));
        assert!(wants_mirror(&plain, Some(&by_hand)));
        assert!(!wants_mirror(&plain, Some(&other)) && !wants_mirror(&plain, None));
        let mut skipped = plain.clone();
        let labels = skipped.metadata.labels.get_or_insert_default();
        labels.insert(SKIP.to_owned(), "true".to_owned());
        assert!(!wants_mirror(&skipped, Some(&by_hand)));
        let mut leader = plain;
        let annotations = leader.metadata.annotations.get_or_insert_default();
        annotations.insert(LEADER.to_owned(), String::new());
        assert!(!wants_mirror(&leader, Some(&by_hand)));
    }
}
