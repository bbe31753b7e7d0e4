//! NodeRestriction: a kubelet writes its own node, its own pods and what belongs to them, nothing else.

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Node, Pod};
use skiff_api::{ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};

const MIRROR: &str = "kubernetes.io/config.mirror";

pub(crate) struct NodeRestriction;

/// The node that the user is the kubelet of.
fn node_of<'a>(request: &'a AdmissionRequest<'_>) -> Option<&'a str> {
    let user = &request.call.user;
    user.in_group("system:nodes")
        .then(|| user.name.strip_prefix("system:node:"))
        .flatten()
}

#[async_trait]
impl Admission for NodeRestriction {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let Some(node) = node_of(request) else {
            return Ok(());
        };
        let kind = &request.resource.kind;
        let refusal = match (&*kind.group, &*kind.plural, request.subresource) {
            ("", "pods", sub) => pods(request, node, sub, object, old),
            ("", "nodes", _) => nodes(request, node, object, old),
            ("", "serviceaccounts", "token") => token(object),
            ("coordination.k8s.io", "leases", _) | ("storage.k8s.io", "csinodes", _) => {
                let what = if kind.plural == "leases" {
                    "lease"
                } else {
                    "CSINode"
                };
                let own = request.name == node
                    && (kind.plural != "leases" || request.namespace == "kube-node-lease");
                (!own).then(|| {
                    format!("can only access {what} with the same name as the requesting node")
                })
            }
            _ => None,
        };
        match refusal {
            Some(why) => Err(request.forbidden(&why)),
            None => Ok(()),
        }
    }
}

fn pod_node(object: Option<&dyn Object>) -> Option<&str> {
    object?
        .downcast_ref::<Pod>()?
        .spec
        .as_ref()?
        .node_name
        .as_deref()
}

fn pods(
    request: &AdmissionRequest<'_>,
    node: &str,
    subresource: &str,
    object: Option<&dyn Object>,
    old: Option<&dyn Object>,
) -> Option<String> {
    match (request.operation, subresource) {
        (Operation::Create, "") => {
            let pod = object?.downcast_ref::<Pod>()?;
            let mirror = pod
                .metadata
                .annotations
                .as_ref()
                .is_some_and(|map| map.contains_key(MIRROR));
            if !mirror {
                let name = pod.metadata.name.clone().unwrap_or_default();
                return Some(format!(
                    "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods: {name}"
                ));
            }
            (pod_node(object) != Some(node)).then(|| {
                format!("node {node:?} can only create pods with spec.nodeName set to itself")
            })
        }
        (Operation::Delete, "") => (pod_node(old) != Some(node)).then(|| {
            format!("node {node:?} can only delete pods with spec.nodeName set to itself")
        }),
        (Operation::Update, "status") => (pod_node(old) != Some(node)).then(|| {
            format!(
                "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
            )
        }),
        (Operation::Create, "eviction") => None,
        (Operation::Connect, _) => None,
        _ => Some(format!(
            "unexpected operation on pods/{subresource} by node {node:?}"
        )),
    }
}

fn nodes(
    request: &AdmissionRequest<'_>,
    node: &str,
    object: Option<&dyn Object>,
    old: Option<&dyn Object>,
) -> Option<String> {
    if request.name != node {
        return Some(format!(
            "node {node:?} is not allowed to modify node {:?}",
            request.name
        ));
    }
    if request.operation != Operation::Update {
        return None;
    }
    let (new, old) = (
        object?.downcast_ref::<Node>()?,
        old?.downcast_ref::<Node>()?,
    );
    let taints = |node: &Node| {
        node.spec
            .as_ref()
            .and_then(|spec| spec.taints.clone())
            .unwrap_or_default()
    };
    if taints(new) != taints(old) {
        return Some(format!("node {node:?} is not allowed to modify taints"));
    }
    if new.metadata.owner_references != old.metadata.owner_references {
        return Some(format!(
            "node {node:?} is not allowed to modify ownerReferences"
        ));
    }
    let labels = |node: &Node| node.metadata.labels.clone().unwrap_or_default();
    let (new, old) = (labels(new), labels(old));
    let mut changed: Vec<&str> = new
        .keys()
        .chain(old.keys())
        .filter(|key| {
            new.get(*key) != old.get(*key) && key.contains("node-restriction.kubernetes.io/")
        })
        .map(String::as_str)
        .collect();
    changed.sort_unstable();
    changed.dedup();
    (!changed.is_empty())
        .then(|| format!("is not allowed to modify labels: {}", changed.join(", ")))
}

fn token(object: Option<&dyn Object>) -> Option<String> {
    let request = object?.downcast_ref::<TokenRequest>()?;
    let reference = request
        .spec
        .as_ref()
        .and_then(|spec| spec.bound_object_ref.as_ref());
    let bound = reference.is_some_and(|reference| reference.kind.as_deref() == Some("Pod"));
    (!bound).then(|| "node requested token not bound to a pod".to_owned())
}
