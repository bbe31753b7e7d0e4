//! Endpoints: the older list of the pods behind a Service, one object for each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Service,
};
use kube::api::{Api, DeleteParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Client, Error};
use skiff_client::failure::message;
use skiff_client::selector::Labels;
use skiff_client::{
    ApiFailure, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler,
    SharedCache, is_already_exists,
};

use crate::Context;
use crate::deletion::delete_seen;
use crate::ownership::label;
use crate::pods;
use crate::seen_pod::Pod;
use crate::service_endpoints::{
    HEADLESS, addresses, hostname, is_headless, is_reachable, pods_of, selector, target_port, watch,
};

/// The name of this controller.
pub const NAME: &str = "endpoint-controller";

const WORKERS: usize = 3;
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// More addresses than these are left out.
const CAPACITY: usize = 1000;

struct EndpointsController {
    client: Client,
    services: SharedCache<Service>,
    endpoints: SharedCache<Endpoints>,
    pods: SharedCache<Pod>,
    recorder: EventRecorder,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let services = context.caches.of::<Service>();
    let endpoints = context.caches.of::<Endpoints>();
    let pods = context.caches.of::<Pod>();
    let queue = context.queue();
    services.wait_synced().await;
    endpoints.wait_synced().await;
    pods.wait_synced().await;
    let _watches = watch(&services, &pods, &queue);
    let _endpoints = {
        let queue = queue.clone();
        endpoints.on_event(move |event| {
            let labels = event.object().metadata.labels.as_ref();
            if labels.is_some_and(|labels| labels.contains_key(MANAGED_BY)) {
                queue.add(ObjectKey::of(&event.object().metadata));
            }
        })
    };
    let reconciler = EndpointsController {
        client: context.client(NAME),
        services,
        endpoints,
        pods,
        recorder: context.recorder(NAME, NAME),
    };
    context.run(reconciler, queue, WORKERS).await;
}

/// The Endpoints as they should be; none if they are so already.
fn plan(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Option<Endpoints> {
    let mut subsets = subsets(service, pods);
    let total: usize = subsets.iter().map(size).sum();
    let over = total > CAPACITY;
    if over {
        truncate(&mut subsets);
    }
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if service.spec.as_ref().is_none_or(is_headless) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), NAME.to_owned());
    let mut wanted = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        ..Endpoints::default()
    });
    wanted.metadata.labels = Some(labels);
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    let mut annotations: Labels = wanted.metadata.annotations.take().unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if over {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    wanted.metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    (current != Some(&wanted)).then_some(wanted)
}

fn size(subset: &EndpointSubset) -> usize {
    let count = |addresses: &Option<Vec<EndpointAddress>>| addresses.as_ref().map_or(0, Vec::len);
    count(&subset.addresses) + count(&subset.not_ready_addresses)
}

/// Keeps ready addresses before those that are not.
fn truncate(subsets: &mut Vec<EndpointSubset>) {
    let mut room = CAPACITY;
    let mut cut = |addresses: &mut Option<Vec<EndpointAddress>>| {
        if let Some(list) = addresses {
            list.truncate(room);
            room -= list.len();
        }
        *addresses = addresses.take().filter(|list| !list.is_empty());
    };
    subsets
        .iter_mut()
        .for_each(|subset| cut(&mut subset.addresses));
    subsets
        .iter_mut()
        .for_each(|subset| cut(&mut subset.not_ready_addresses));
    subsets.retain(|subset| size(subset) > 0);
}

type Port = (String, i32, String, Option<String>);
/// An address, in the order in which they are listed, and whether it is ready.
type Member = (String, String, bool, usize);

/// Ports that lead to the same pods make one subset.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let publish_all = spec.publish_not_ready_addresses == Some(true);
    let ports = spec.ports.clone().unwrap_or_default();
    let ipv6 = spec
        .ip_families
        .iter()
        .flatten()
        .next()
        .is_some_and(|family| family == "IPv6");
    let mut by_port: BTreeMap<Option<Port>, BTreeSet<Member>> = BTreeMap::new();
    for (index, pod) in pods.iter().enumerate() {
        let address = addresses(pod)
            .into_iter()
            .find(|ip| ip.contains(':') == ipv6);
        let Some(ip) = address.filter(|_| is_reachable(pod, publish_all)) else {
            continue;
        };
        let ready = publish_all || pods::is_ready(pod);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let member = (ip.to_owned(), uid, ready, index);
        if ports.is_empty() && is_headless(spec) {
            by_port.entry(None).or_default().insert(member.clone());
        }
        for port in &ports {
            if let Some(number) = target_port(pod, port) {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                let name = port.name.clone().unwrap_or_default();
                let key = (name, number, protocol, port.app_protocol.clone());
                by_port.entry(Some(key)).or_default().insert(member.clone());
            }
        }
    }
    let mut by_members: BTreeMap<BTreeSet<Member>, Vec<Port>> = BTreeMap::new();
    for (port, members) in by_port {
        by_members.entry(members).or_default().extend(port);
    }
    by_members
        .into_iter()
        .map(|(members, ports)| subset(service, pods, members, ports))
        .collect()
}

fn subset(
    service: &Service,
    pods: &[Arc<Pod>],
    members: BTreeSet<Member>,
    ports: Vec<Port>,
) -> EndpointSubset {
    let (mut ready, mut not_ready) = (Vec::new(), Vec::new());
    for (ip, _, is_ready, index) in members {
        let Some(pod) = pods.get(index) else {
            continue;
        };
        let node = pods::node_name(pod);
        let address = EndpointAddress {
            ip,
            hostname: hostname(pod, service).map(str::to_owned),
            node_name: (!node.is_empty()).then(|| node.to_owned()),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                ..ObjectReference::default()
            }),
        };
        if is_ready {
            ready.push(address)
        } else {
            not_ready.push(address)
        }
    }
    let ports = ports
        .into_iter()
        .map(|(name, port, protocol, app_protocol)| EndpointPort {
            name: (!name.is_empty()).then_some(name),
            port,
            protocol: Some(protocol),
            app_protocol,
        });
    let ports: Vec<_> = ports.collect();
    EndpointSubset {
        addresses: (!ready.is_empty()).then_some(ready),
        not_ready_addresses: (!not_ready.is_empty()).then_some(not_ready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

#[async_trait]
impl Reconciler for EndpointsController {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "endpoint"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), key.namespace());
        let current = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            let ours = current.filter(|found| label(&found.metadata, MANAGED_BY).is_some());
            if let Some(found) = ours {
                delete_seen(&api, &found.metadata, DeleteParams::default()).await?;
            }
            return Ok(Outcome::Done);
        };
        let Some(matcher) = selector(&service) else {
            return Ok(Outcome::Done);
        };
        let pods = pods_of(&service, &matcher, &self.pods);
        let Some(wanted) = plan(&service, &pods, current.as_deref()) else {
            return Ok(Outcome::Done);
        };
        self.write(&api, key, &wanted, current.is_none()).await
    }
}

impl EndpointsController {
    async fn write(
        &self,
        api: &Api<Endpoints>,
        key: &ObjectKey,
        wanted: &Endpoints,
        create: bool,
    ) -> Result<Outcome, ReconcileError> {
        let parameters = PostParams::default();
        let outcome: Result<Endpoints, Error> = if create {
            api.create(&parameters, wanted).await
        } else {
            api.replace(key.name(), &parameters, wanted).await
        };
        let error = match outcome {
            Ok(_) => return Ok(Outcome::Done),
            Err(error) => error,
        };
        if error.has_cause("NamespaceTerminating") {
            return Ok(Outcome::Done);
        }
        if error.code() == Some(409) || is_already_exists(&error) {
            return Ok(Outcome::Retry);
        }
        let (reason, text) = if create {
            let text = format!(
                "Failed to create endpoint for service {key}: {}",
                message(&error)
            );
            ("FailedToCreateEndpoint", text)
        } else {
            let text = format!("Failed to update endpoint {key}: {}", message(&error));
            ("FailedToUpdateEndpoint", text)
        };
        self.recorder
            .about(wanted, EventType::Warning, reason, text);
        Err(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, ip: &str, ready: bool, port: i32) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": name, "namespace": "a", "uid": name},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn service(ports: serde_json::Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a", "labels": {"app": "web"}},
            "spec": {"clusterIP": "10.43.0.9", "selector": {"app": "web"}, "ports": ports},
        }))
        .unwrap()
    }

    #[test]
    fn ready_and_unready_pods_of_one_port_share_a_subset() {
        let service = service(
            json!([{"port": 80, "targetPort": "http"}, {"name": "m", "port": 9, "targetPort": 9}]),
        );
        let pods = [
            pod("b", "10.0.0.2", true, 8080),
            pod("a", "10.0.0.1", false, 8080),
        ];
        let made = plan(&service, &pods, None).unwrap();
        let subsets = made.subsets.clone().unwrap();
        assert_eq!(subsets.len(), 1);
        assert_eq!(subsets[0].addresses.as_ref().unwrap()[0].ip, "10.0.0.2");
        assert_eq!(
            subsets[0].not_ready_addresses.as_ref().unwrap()[0].ip,
            "10.0.0.1"
        );
        let ports: Vec<_> = subsets[0]
            .ports
            .as_ref()
            .unwrap()
            .iter()
            .map(|port| port.port)
            .collect();
        assert_eq!(ports, [8080, 9]);
        assert_eq!(plan(&service, &pods, Some(&made)), None);
        assert_eq!(made.metadata.labels.unwrap()[MANAGED_BY], NAME);
    }

    #[test]
    fn pods_with_other_numbers_for_a_name_make_another_subset() {
        let service = service(json!([{"port": 80, "targetPort": "http"}]));
        let pods = [
            pod("a", "10.0.0.1", true, 8080),
            pod("b", "10.0.0.2", true, 9090),
        ];
        assert_eq!(
            plan(&service, &pods, None).unwrap().subsets.unwrap().len(),
            2
        );
        assert_eq!(plan(&service, &[], None).unwrap().subsets, None);
    }

    #[test]
    fn too_many_addresses_are_cut_and_that_is_told() {
        let service = service(json!([{"port": 80}]));
        let pods: Vec<_> = (0..1200)
            .map(|n| {
                pod(
                    &format!("p{n}"),
                    &format!("10.0.{}.{}", n / 250, n % 250),
                    n >= 600,
                    80,
                )
            })
            .collect();
        let made = plan(&service, &pods, None).unwrap();
        let subset = &made.subsets.unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap().len(), 600);
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 400);
        assert_eq!(
            made.metadata.annotations.unwrap()[OVER_CAPACITY],
            "truncated"
        );
    }
}
