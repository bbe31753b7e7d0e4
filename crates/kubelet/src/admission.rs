//! The node's last word on a pod that was bound to it: whether it fits here at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm, Pod};

use crate::pod::plan::Waiting;
use crate::pod::resources::{self, Amounts};
use crate::pod::spec;

/// The reason that the node's labels give: a look at a newer node may take it away.
pub const NODE_AFFINITY: &str = "NodeAffinity";

/// Why the node cannot take `pod` beside `others`; `None` when it can. Of several reasons it is upstream's first.
#[must_use]
pub fn refuse(
    pod: &Pod,
    others: &[Arc<Pod>],
    allocatable: &Amounts,
    node: Option<&Node>,
) -> Option<Waiting> {
    if let Some(os) = spec::spec(pod).os.as_ref()
        && os.name != "linux"
    {
        return Some(Waiting {
            reason: "PodOSNotSupported".into(),
            message: "Failed to admit pod as the OS field doesn't match node OS".into(),
        });
    }
    resources_short(pod, others, allocatable)
        .or_else(|| labels_differ(pod, node?))
        .or_else(|| ports_taken(pod, others))
}

fn labels_differ(pod: &Pod, node: &Node) -> Option<Waiting> {
    (!matches_node(pod, node)).then(|| Waiting {
        reason: NODE_AFFINITY.into(),
        message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
            .into(),
    })
}

fn resources_short(pod: &Pod, others: &[Arc<Pod>], allocatable: &Amounts) -> Option<Waiting> {
    let mut used = Amounts::from([("pods".to_owned(), 0)]);
    for other in others {
        *used.entry("pods".to_owned()).or_default() += 1;
        for (name, amount) in resources::pod_requests(other) {
            *used.entry(name).or_default() += amount;
        }
    }
    let mut wanted = resources::pod_requests(pod);
    wanted.insert("pods".to_owned(), 1);
    for (name, requested) in wanted {
        // What others advertise for the node is theirs to count, and the scheduler's.
        if is_extended(&name) && !allocatable.contains_key(&name) {
            continue;
        }
        let used = used.get(&name).copied().unwrap_or(0);
        let capacity = allocatable.get(&name).copied().unwrap_or(0);
        if requested > 0 && requested + used > capacity {
            return Some(Waiting {
                reason: format!("OutOf{name}"),
                message: format!(
                    "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
                ),
            });
        }
    }
    None
}

/// Whether a resource is none of Kubernetes' own.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// A port of the host: address (empty for all), protocol, number.
type HostPort = (String, String, i32);

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let sidecars = spec::init_containers(pod)
        .iter()
        .filter(|c| spec::is_sidecar(c));
    let containers = spec::containers(pod).iter().chain(sidecars);
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|p| *p > 0)?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let address = port.host_ip.clone().unwrap_or_default();
            let address = if address == "0.0.0.0" {
                String::new()
            } else {
                address
            };
            Some((address, protocol, number))
        })
        .collect()
}

fn clash(a: &HostPort, b: &HostPort) -> bool {
    let same_address = a.0 == b.0 || a.0.is_empty() || b.0.is_empty();
    same_address && a.1 == b.1 && a.2 == b.2
}

fn ports_taken(pod: &Pod, others: &[Arc<Pod>]) -> Option<Waiting> {
    let wanted = host_ports(pod);
    if wanted.is_empty() {
        return None;
    }
    let mut used = others.iter().flat_map(|other| host_ports(other));
    used.any(|used| wanted.iter().any(|wanted| clash(wanted, &used))).then(|| Waiting {
        reason: "NodePorts".into(),
        message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".into(),
    })
}

/// Whether the pod's node selector and required node affinity fit the node.
fn matches_node(pod: &Pod, node: &Node) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let pod_spec = spec::spec(pod);
    let selected = pod_spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let required = pod_spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| {
            a.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    let affine = required.is_none_or(|r| {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        r.node_selector_terms
            .iter()
            .any(|term| term_fits(term, labels, name))
    });
    selected && affine
}

fn term_fits(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let fits = |value: Option<&str>, operator: &str, values: &[String]| {
        let listed = value.is_some_and(|v| values.iter().any(|wanted| wanted == v));
        let numbers = || {
            let own: i64 = value?.parse().ok()?;
            let limit: i64 = values.first()?.parse().ok()?;
            Some((own, limit))
        };
        match operator {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => numbers().is_some_and(|(own, limit)| own > limit),
            "Lt" => numbers().is_some_and(|(own, limit)| own < limit),
            _ => false,
        }
    };
    let by_label = expressions.iter().all(|e| {
        let value = labels.get(&e.key).map(String::as_str);
        fits(value, &e.operator, e.values.as_deref().unwrap_or_default())
    });
    let by_field = fields.iter().all(|e| {
        let value = (e.key == "metadata.name").then_some(name);
        fits(value, &e.operator, e.values.as_deref().unwrap_or_default())
    });
    by_label && by_field
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec, ResourceRequirements};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn pod(cpu: &str, port: Option<i32>) -> Pod {
        Pod {
            spec: Some(PodSpec {
                containers: vec![Container {
                    resources: Some(ResourceRequirements {
                        requests: Some([("cpu".to_owned(), Quantity(cpu.into()))].into()),
                        ..Default::default()
                    }),
                    ports: Some(vec![ContainerPort {
                        container_port: 80,
                        host_port: port,
                        ..Default::default()
                    }]),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn resources_and_ports() {
        let allocatable = Amounts::from([("cpu".to_owned(), 1000), ("pods".to_owned(), 2)]);
        let others = [Arc::new(pod("600m", Some(80)))];
        let reason = |pod: &Pod, others: &[Arc<Pod>]| {
            refuse(pod, others, &allocatable, None).map(|w| (w.reason, w.message))
        };
        assert_eq!(reason(&pod("400m", None), &others), None);
        let (word, message) = reason(&pod("500m", None), &others).unwrap();
        assert_eq!(word, "OutOfcpu");
        assert_eq!(
            message,
            "Node didn't have enough resource: cpu, requested: 500, used: 600, capacity: 1000"
        );
        let (word, _) = reason(&pod("1m", Some(80)), &others).unwrap();
        assert_eq!(word, "NodePorts");
        let full = [others[0].clone(), others[0].clone()];
        let (word, _) = reason(&pod("0", None), &full).unwrap();
        assert_eq!(word, "OutOfpods");
        let asking = |name: &str| {
            let mut asking = pod("1m", None);
            let containers = &mut asking.spec.as_mut().unwrap().containers;
            let resources = containers[0].resources.as_mut().unwrap();
            let requests = resources.requests.as_mut().unwrap();
            requests.insert(name.to_owned(), Quantity("2".to_owned()));
            asking
        };
        // What somebody else advertises for the node is not this one's business; a missing one of Kubernetes' own is.
        assert_eq!(reason(&asking("example.com/gpu"), &[]), None);
        assert!(reason(&asking("hugepages-2Mi"), &[]).is_some());
    }

    #[test]
    fn selectors() {
        let node = Node {
            metadata: ObjectMeta {
                name: Some("n".into()),
                labels: Some([("disk".into(), "ssd".into())].into()),
                ..Default::default()
            },
            ..Default::default()
        };
        let allocatable = Amounts::from([("pods".to_owned(), 9), ("cpu".to_owned(), 9)]);
        let mut wants = pod("0", None);
        let selector = |value: &str| Some([("disk".to_owned(), value.to_owned())].into());
        wants.spec.as_mut().unwrap().node_selector = selector("ssd");
        assert_eq!(refuse(&wants, &[], &allocatable, Some(&node)), None);
        wants.spec.as_mut().unwrap().node_selector = selector("hdd");
        let refused = refuse(&wants, &[], &allocatable, Some(&node)).unwrap();
        assert_eq!(refused.reason, NODE_AFFINITY);
        // What newer labels cannot change comes first, a clash of ports after it.
        let full = Amounts::from([("pods".to_owned(), 0)]);
        let refused = refuse(&wants, &[], &full, Some(&node)).unwrap();
        assert_eq!(refused.reason, "OutOfpods");
        let others = [Arc::new(pod("0", Some(80)))];
        wants.spec.as_mut().unwrap().containers = pod("0", Some(80)).spec.unwrap().containers;
        let refused = refuse(&wants, &others, &allocatable, Some(&node)).unwrap();
        assert_eq!(refused.reason, NODE_AFFINITY);
    }
}
