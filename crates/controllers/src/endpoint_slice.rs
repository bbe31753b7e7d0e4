//! EndpointSlices: the pods behind a Service, in slices of at most a hundred, which the service proxy reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use kube::core::ObjectMeta;
use skiff_client::failure::message;
use skiff_client::{
    ApiFailure, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler,
    SharedCache,
};

use crate::Context;
use crate::deletion::delete_seen;
use crate::gate::WriteGate;
use crate::ownership::controller_reference;
use crate::pods;
use crate::seen_pod::Pod;
use crate::service_endpoints::{
    HEADLESS, addresses, hostname, is_headless, is_reachable, pods_of, selector, target_port, watch,
};

/// The name of this controller.
pub const NAME: &str = "endpointslice-controller";

const WORKERS: usize = 5;
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";
/// So many endpoints fit into a slice.
const CAPACITY: usize = 100;
const SERVICE_INDEX: &str = "service";

struct Slices {
    client: Client,
    services: SharedCache<Service>,
    slices: SharedCache<EndpointSlice>,
    pods: SharedCache<Pod>,
    nodes: SharedCache<Node>,
    gate: WriteGate,
    recorder: EventRecorder,
}

/// The Service that a slice of this manager belongs to; none of another's slices.
pub(crate) fn service_of(slice: &EndpointSlice, manager: &str) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    if labels.get(MANAGED_BY).map(String::as_str) != Some(manager) {
        return None;
    }
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    Some(ObjectKey::new(namespace, labels.get(SERVICE_NAME)?))
}

/// Runs the controller.
pub async fn run(context: Context) {
    let services = context.caches.of::<Service>();
    let slices = context.caches.of::<EndpointSlice>();
    let pods = context.caches.of::<Pod>();
    let nodes = context.caches.of::<Node>();
    slices.add_index(SERVICE_INDEX, |slice: &EndpointSlice| {
        service_of(slice, MANAGER)
            .map(|key| key.to_string())
            .into_iter()
            .collect()
    });
    let queue = context.queue();
    services.wait_synced().await;
    slices.wait_synced().await;
    pods.wait_synced().await;
    nodes.wait_synced().await;
    let _watches = watch(&services, &pods, &queue);
    let _slices = {
        let queue = queue.clone();
        slices.on_event(move |event| {
            service_of(event.object(), MANAGER)
                .into_iter()
                .for_each(|key| queue.add(key));
        })
    };
    let reconciler = Slices {
        client: context.client(NAME),
        services,
        slices,
        pods,
        nodes,
        gate: WriteGate::default(),
        recorder: context.recorder(NAME, NAME),
    };
    context.run(reconciler, queue, WORKERS).await;
}

/// What to do about the slices of one Service.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

/// A pod with the ports and the endpoint that it contributes.
type Member = (Vec<EndpointPort>, Endpoint);

fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    zone_of: &dyn Fn(&str) -> Option<String>,
    existing: &[Arc<EndpointSlice>],
) -> Plan {
    let mut plan = Plan::default();
    let families = families(service);
    for slice in existing {
        if !families.contains(&slice.address_type.as_str()) {
            plan.delete.push(slice.clone());
        }
    }
    for family in families {
        let existing: Vec<_> = existing
            .iter()
            .filter(|slice| slice.address_type == family)
            .cloned()
            .collect();
        let members = pods
            .iter()
            .filter(|pod| is_reachable(pod, true))
            .filter_map(|pod| member(service, pod, family, zone_of))
            .collect();
        plan_family(service, family, members, existing, &mut plan);
    }
    plan
}

fn families(service: &Service) -> Vec<&'static str> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let known = |family: &String| match family.as_str() {
        "IPv4" => Some("IPv4"),
        "IPv6" => Some("IPv6"),
        _ => None,
    };
    let families: Vec<_> = spec
        .ip_families
        .iter()
        .flatten()
        .filter_map(known)
        .collect();
    if !families.is_empty() {
        return families;
    }
    let ipv6 = spec.cluster_ip.as_ref().is_some_and(|ip| ip.contains(':'));
    vec![if ipv6 { "IPv6" } else { "IPv4" }]
}

fn member(
    service: &Service,
    pod: &Pod,
    family: &str,
    zone_of: &dyn Fn(&str) -> Option<String>,
) -> Option<Member> {
    let spec = service.spec.as_ref()?;
    let own: Vec<String> = addresses(pod)
        .into_iter()
        .filter(|ip| ip.contains(':') == (family == "IPv6"))
        .map(str::to_owned)
        .collect();
    if own.is_empty() {
        return None;
    }
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target_port(pod, port)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    let (serving, terminating) = (pods::is_ready(pod), pods::is_deleting(pod));
    let ready = spec.publish_not_ready_addresses == Some(true) || (serving && !terminating);
    let node = pods::node_name(pod);
    let mut endpoint = Endpoint {
        addresses: own,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(pod, service).map(str::to_owned),
        node_name: (!node.is_empty()).then(|| node.to_owned()),
        zone: zone_of(node),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    };
    endpoint.hints = hints(spec.traffic_distribution.as_deref(), &endpoint);
    Some((ports.collect(), endpoint))
}

/// Who is to use the endpoint first, as the service's `trafficDistribution` asks for; one that is not ready serves whom it
/// must. Without a wish there are no hints, whoever wrote them.
fn hints(wish: Option<&str>, endpoint: &Endpoint) -> Option<EndpointHints> {
    let by_node = match wish {
        Some("PreferSameNode") => true,
        Some("PreferClose" | "PreferSameZone") => false,
        _ => return None,
    };
    let ready = endpoint
        .conditions
        .as_ref()
        .and_then(|conditions| conditions.ready);
    if ready != Some(true) {
        return None;
    }
    let zone = endpoint.zone.clone().map(|name| vec![ForZone { name }]);
    let node = endpoint.node_name.clone().filter(|_| by_node);
    let hints = EndpointHints {
        for_zones: zone,
        for_nodes: node.map(|name| vec![ForNode { name }]),
    };
    (hints != EndpointHints::default()).then_some(hints)
}

/// Sorted text of ports, by which slices of equal ports are found.
pub(crate) fn port_key(ports: Option<&Vec<EndpointPort>>) -> String {
    let mut all: Vec<String> = ports
        .into_iter()
        .flatten()
        .map(|port| {
            format!(
                "{:?}/{:?}/{:?}/{:?}",
                port.name, port.port, port.protocol, port.app_protocol
            )
        })
        .collect();
    all.sort();
    all.join(",")
}

fn endpoints_of(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or_default()
}

fn identity(endpoint: &Endpoint) -> Option<String> {
    endpoint.target_ref.as_ref()?.uid.clone()
}

fn plan_family(
    service: &Service,
    family: &str,
    members: Vec<Member>,
    existing: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    let mut groups: BTreeMap<String, (Vec<EndpointPort>, BTreeMap<String, Endpoint>)> =
        BTreeMap::new();
    for (ports, endpoint) in members {
        let (_, group) = groups
            .entry(port_key(Some(&ports)))
            .or_insert_with(|| (ports, BTreeMap::new()));
        group.insert(identity(&endpoint).unwrap_or_default(), endpoint);
    }
    let (mut kept, before) = (0, plan.create.len());
    let mut unused = Vec::new();
    let mut of_ports: BTreeMap<String, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        let key = port_key(slice.ports.as_ref());
        if groups.contains_key(&key) {
            of_ports.entry(key).or_default().push(slice);
        } else {
            unused.push(slice);
        }
    }
    for (key, (ports, wanted)) in groups {
        let slices = of_ports.remove(&key).unwrap_or_default();
        kept += plan_group(service, family, ports, wanted, slices, plan, &mut unused);
    }
    if kept == 0 && plan.create.len() == before {
        // There is always one slice, if need be an empty one, so that readers see that there is nothing.
        let placeholder = new_slice(service, family, Vec::new(), Vec::new());
        let same = |slice: &Arc<EndpointSlice>| {
            endpoints_of(slice).is_empty()
                && slice.ports.as_ref().is_none_or(Vec::is_empty)
                && slice.metadata.labels == placeholder.metadata.labels
        };
        match unused.iter().position(same) {
            Some(index) => drop(unused.remove(index)),
            None => plan.create.push(placeholder),
        }
    }
    plan.delete.extend(unused);
}

/// Puts the endpoints of one set of ports into its slices, touching as few as possible; answers how many
/// slices stay.
fn plan_group(
    service: &Service,
    family: &str,
    ports: Vec<EndpointPort>,
    mut wanted: BTreeMap<String, Endpoint>,
    slices: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
    unused: &mut Vec<Arc<EndpointSlice>>,
) -> usize {
    let labels = labels(service);
    let mut changed = Vec::new();
    let mut unchanged = Vec::new();
    for slice in slices {
        let mut new = (*slice).clone();
        new.metadata.labels = Some(labels.clone());
        let stay = endpoints_of(&slice)
            .iter()
            .filter_map(|old| wanted.remove(&identity(old)?))
            .map(|endpoint| keep_foreign_fields(endpoint, endpoints_of(&slice)))
            .collect();
        new.endpoints = Some(stay);
        if new == *slice {
            unchanged.push((slice, new))
        } else {
            changed.push((slice, new))
        }
    }
    // New endpoints go where something is written anyway, then where there is room, then into new slices.
    let mut rest: Vec<Endpoint> = wanted.into_values().collect();
    let mut fill = |new: &mut EndpointSlice| {
        let room = CAPACITY
            .saturating_sub(endpoints_of(new).len())
            .min(rest.len());
        new.endpoints
            .get_or_insert_default()
            .extend(rest.drain(..room));
        room > 0
    };
    for (_, new) in &mut changed {
        fill(new);
    }
    for (slice, mut new) in unchanged {
        if fill(&mut new) {
            changed.push((slice, new));
        } else {
            changed.push((slice.clone(), (*slice).clone()));
        }
    }
    let mut kept = 0;
    for (slice, new) in changed {
        if endpoints_of(&new).is_empty() {
            unused.push(slice);
            continue;
        }
        kept += 1;
        if new != *slice {
            plan.update.push(new);
        }
    }
    while !rest.is_empty() {
        let some = rest.drain(..rest.len().min(CAPACITY)).collect();
        plan.create
            .push(new_slice(service, family, ports.clone(), some));
    }
    kept
}

/// What others wrote into an endpoint stays.
fn keep_foreign_fields(mut endpoint: Endpoint, old: &[Endpoint]) -> Endpoint {
    let id = identity(&endpoint);
    if let Some(old) = old.iter().find(|old| identity(old) == id) {
        endpoint
            .deprecated_topology
            .clone_from(&old.deprecated_topology);
    }
    endpoint
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if service.spec.as_ref().is_none_or(is_headless) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let name = service.metadata.name.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn new_slice(
    service: &Service,
    family: &str,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

#[async_trait]
impl Reconciler for Slices {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "endpoint_slice"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(service) = self.services.get(key) else {
            // The garbage collector deletes the slices of a Service that is gone.
            self.gate.forget(key);
            return Ok(Outcome::Done);
        };
        let Some(matcher) = selector(&service) else {
            return Ok(Outcome::Done);
        };
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        if !self.gate.is_open(key, &self.slices) {
            return Ok(Outcome::After(std::time::Duration::from_secs(1)));
        }
        let pods = pods_of(&service, &matcher, &self.pods);
        let existing: Vec<_> = self
            .slices
            .by_index(SERVICE_INDEX, key.as_str())
            .into_iter()
            .filter(|slice| slice.metadata.deletion_timestamp.is_none())
            .collect();
        let zone_of = |node: &str| {
            let node = self.nodes.get_named("", node)?;
            node.metadata.labels.as_ref()?.get(ZONE).cloned()
        };
        let plan = plan(&service, &pods, &zone_of, &existing);
        match self.carry_out(key, plan).await {
            Ok(()) => Ok(Outcome::Done),
            Err(error) if error.has_cause("NamespaceTerminating") => Ok(Outcome::Done),
            Err(error) => {
                if error.code() != Some(409) {
                    let text = format!(
                        "Error updating Endpoint Slices for Service {key}: {}",
                        message(&error)
                    );
                    self.recorder.about(
                        &*service,
                        EventType::Warning,
                        "FailedToUpdateEndpointSlices",
                        text,
                    );
                }
                Err(error.into())
            }
        }
    }
}

impl Slices {
    async fn carry_out(&self, key: &ObjectKey, plan: Plan) -> Result<(), kube::Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), key.namespace());
        let parameters = PostParams::default();
        for slice in &plan.update {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            let answer = api.replace(name, &parameters, slice).await?;
            self.gate.wrote(key, &answer.metadata);
        }
        for slice in &plan.create {
            let answer = api.create(&parameters, slice).await?;
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
    use proptest::prelude::*;
    use serde_json::json;

    fn pod(n: usize, ready: bool, port: i32) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": format!("p{n:04}"), "namespace": "a", "uid": format!("u{n:04}")},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.{}.{}", n / 200, n % 200)}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "s"},
            "spec": {"clusterIP": "10.43.0.9", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
                "ports": [{"port": 80, "targetPort": "http"}]},
        }))
        .unwrap()
    }

    fn make(pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> Plan {
        plan(&service(), pods, &|_| Some("z1".to_owned()), existing)
    }

    /// The slices after the plan was carried out.
    fn apply(
        mut slices: Vec<Arc<EndpointSlice>>,
        plan: Plan,
        next: &mut usize,
    ) -> Vec<Arc<EndpointSlice>> {
        for new in plan.update {
            let old = slices
                .iter_mut()
                .find(|old| old.metadata.name == new.metadata.name);
            *old.unwrap() = Arc::new(new);
        }
        slices.retain(|slice| !plan.delete.contains(slice));
        for mut new in plan.create {
            *next += 1;
            new.metadata.name = Some(format!("web-{next}"));
            slices.push(Arc::new(new));
        }
        slices
    }

    #[test]
    fn an_empty_service_has_one_placeholder() {
        let first = make(&[], &[]);
        assert_eq!(first.create.len(), 1);
        assert_eq!(
            (endpoints_of(&first.create[0]).len(), &first.create[0].ports),
            (0, &None)
        );
        let slices = apply(Vec::new(), first, &mut 0);
        assert_eq!(make(&[], &slices), Plan::default());
        let grown = make(&[pod(1, true, 80)], &slices);
        assert_eq!((grown.create.len(), grown.delete.len()), (1, 1));
    }

    #[test]
    fn endpoints_tell_conditions_zone_and_pod() {
        let mut going = (*pod(2, true, 80)).clone();
        going.metadata.deletion_timestamp = Some(
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Default::default()),
        );
        let made = make(&[pod(1, false, 80), Arc::new(going)], &[]);
        let conditions: Vec<_> = endpoints_of(&made.create[0])
            .iter()
            .map(|endpoint| {
                let found = endpoint.conditions.clone().unwrap();
                (
                    found.ready.unwrap(),
                    found.serving.unwrap(),
                    found.terminating.unwrap(),
                )
            })
            .collect();
        assert_eq!(conditions, [(false, false, false), (false, true, true)]);
        assert_eq!(endpoints_of(&made.create[0])[0].zone.as_deref(), Some("z1"));
        assert_eq!(made.create[0].ports.as_ref().unwrap()[0].port, Some(80));
    }

    #[test]
    fn hints_follow_the_wish_for_near_endpoints() {
        let hints = |wish: Option<&str>, zone: Option<&str>, ready: bool| {
            let mut service = service();
            service.spec.as_mut().unwrap().traffic_distribution = wish.map(str::to_owned);
            let zone = zone.map(str::to_owned);
            let made = plan(&service, &[pod(1, ready, 80)], &|_| zone.clone(), &[]);
            let hints = endpoints_of(&made.create[0])[0].hints.clone()?;
            let zones = hints.for_zones.into_iter().flatten().map(|zone| zone.name);
            let nodes = hints.for_nodes.into_iter().flatten().map(|node| node.name);
            Some(zones.chain(nodes).collect::<Vec<_>>().join(" "))
        };
        for (wish, zone, ready, expected) in [
            (None, Some("z1"), true, None),
            (Some("PreferClose"), Some("z1"), true, Some("z1")),
            (Some("PreferSameZone"), Some("z1"), true, Some("z1")),
            (Some("PreferSameZone"), None, true, None),
            (Some("PreferSameNode"), Some("z1"), true, Some("z1 n1")),
            (Some("PreferSameNode"), None, true, Some("n1")),
            (Some("PreferSameNode"), Some("z1"), false, None),
        ] {
            let found = hints(wish, zone, ready);
            assert_eq!(found.as_deref(), expected, "{wish:?} {zone:?} {ready}");
        }
        // A wish that is taken back takes the hints with it.
        let mut near = service();
        near.spec.as_mut().unwrap().traffic_distribution = Some("PreferClose".to_owned());
        let pods = [pod(1, true, 80)];
        let zone = |_: &str| Some("z1".to_owned());
        let slices = apply(Vec::new(), plan(&near, &pods, &zone, &[]), &mut 0);
        assert_eq!(plan(&near, &pods, &zone, &slices), Plan::default());
        let back = plan(&service(), &pods, &zone, &slices);
        assert_eq!(endpoints_of(&back.update[0])[0].hints, None);
    }

    #[test]
    fn one_pod_changes_one_slice() {
        let pods: Vec<_> = (0..250).map(|n| pod(n, true, 80)).collect();
        let slices = apply(Vec::new(), make(&pods, &[]), &mut 0);
        assert_eq!(slices.len(), 3);
        let mut changed = pods.clone();
        changed[120] = pod(120, false, 80);
        let plan = make(&changed, &slices);
        assert_eq!(
            (plan.create.len(), plan.update.len(), plan.delete.len()),
            (0, 1, 0)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Any sequence of pod sets ends with each pod in one slice of its ports, and then nothing to do.
        #[test]
        fn every_pod_is_in_exactly_one_slice(rounds in proptest::collection::vec(
            proptest::collection::btree_map(0_usize..400, (any::<bool>(), 80_i32..82), 0..300), 1..5)) {
            let (mut slices, mut next) = (Vec::new(), 0);
            for round in rounds {
                let pods: Vec<_> = round.iter().map(|(n, (ready, port))| pod(*n, *ready, *port)).collect();
                let plan = make(&pods, &slices);
                slices = apply(slices, plan, &mut next);
                let mut seen: Vec<(String, Option<i32>)> = Vec::new();
                for slice in &slices {
                    prop_assert!(endpoints_of(slice).len() <= CAPACITY);
                    let port = slice.ports.as_ref().and_then(|ports| ports[0].port);
                    seen.extend(endpoints_of(slice).iter().map(|endpoint| (identity(endpoint).unwrap(), port)));
                }
                seen.sort();
                let expected: Vec<_> =
                    round.iter().map(|(n, (_, port))| (format!("u{n:04}"), Some(*port))).collect();
                prop_assert_eq!(seen, expected);
                prop_assert_eq!(make(&pods, &slices), Plan::default());
            }
        }
    }
}
