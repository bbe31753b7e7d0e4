//! What controllers ask about pods.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use skiff_client::SharedCache;

use crate::ownership::controller_of;
use crate::seen_pod::Pod;

/// The phase; empty where none is known yet.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// Whether all its containers have ended for good.
#[must_use]
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether it is on its way out.
#[must_use]
pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether it counts as a replica: neither ended nor on its way out.
#[must_use]
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_deleting(pod)
}

/// The node it is bound to; empty for none.
#[must_use]
pub fn node_name(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

/// The condition of that type.
#[must_use]
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|found| found.type_ == type_)
}

/// Whether the Ready condition is true.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when it is ready; none if it is not.
#[must_use]
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// How long until it counts as available, in seconds from `now`; 0 if it does, none if it is not ready.
#[must_use]
pub fn seconds_until_available(pod: &Pod, min_ready: i32, now: Timestamp) -> Option<i64> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready == 0 {
        return Some(0);
    }
    let since = ready_since(pod)?;
    let available = since.as_second().saturating_add(i64::from(min_ready));
    Some((available - now.as_second()).max(0))
}

/// A pod from a template, as a controller makes it: the name is left to the server.
#[must_use]
pub fn from_template(
    template: &PodTemplateSpec,
    owner_name: &str,
    owner: OwnerReference,
) -> v1::Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    v1::Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{owner_name}-")),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The index of pods by their node.
const NODE_INDEX: &str = "node";

/// Adds the index that [`on_node`] reads.
pub fn index_nodes(pods: &SharedCache<Pod>) {
    pods.add_index(NODE_INDEX, |pod| match node_name(pod) {
        "" => Vec::new(),
        node => vec![node.to_owned()],
    });
}

/// The pods that are bound to a node. Needs [`index_nodes`].
#[must_use]
pub fn on_node(pods: &SharedCache<Pod>, node: &str) -> Vec<Arc<Pod>> {
    pods.by_index(NODE_INDEX, node)
}

/// The index of pods that nobody manages, by namespace.
const ORPHAN_INDEX: &str = "orphans";

/// Adds the index that [`orphans_in`] reads.
pub fn index_orphans(pods: &SharedCache<Pod>) {
    pods.add_index(ORPHAN_INDEX, |pod| {
        if controller_of(&pod.metadata).is_some() {
            return Vec::new();
        }
        pod.metadata.namespace.clone().into_iter().collect()
    });
}

/// The pods of a namespace that nobody manages. Needs [`index_orphans`].
#[must_use]
pub fn orphans_in(pods: &SharedCache<Pod>, namespace: &str) -> Vec<Arc<Pod>> {
    pods.by_index(ORPHAN_INDEX, namespace)
}

/// The condition that says why a pod is made to go, as it is to be patched into the pod's status.
#[must_use]
pub fn disruption_target(pod: &Pod, reason: &str, message: &str, now: &Time) -> PodCondition {
    let since = condition(pod, "DisruptionTarget")
        .filter(|known| known.status == "True")
        .and_then(|known| known.last_transition_time.clone());
    PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
        ..PodCondition::default()
    }
}
