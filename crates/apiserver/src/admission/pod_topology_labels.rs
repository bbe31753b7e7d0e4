//! PodTopologyLabels: a pod carries the zone and the region of its node as labels.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use skiff_api::{ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};

const LABELS: [&str; 2] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

pub(crate) struct PodTopologyLabels;

#[async_trait]
impl Admission for PodTopologyLabels {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let created = request.operation == Operation::Create && request.is("", "pods");
        // A binding arrives here as the update of the pod that it makes.
        if !created && request.subresource != "binding" {
            return Ok(());
        }
        let Some(pod) = object.downcast_mut::<Pod>() else {
            return Ok(());
        };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let Some(node) = node.filter(|node| !node.is_empty()) else {
            return Ok(());
        };
        let registry = request.call.server.registry.load_full();
        let Some(nodes) = registry.stored("", "nodes") else {
            return Ok(());
        };
        if let Some(entry) = request.find_entry("", "nodes", "", &node).await? {
            let labels = entry.labels(&nodes.storage);
            for (key, value) in LABELS.iter().filter_map(|key| labels.get_key_value(*key)) {
                let own = pod.metadata.labels.get_or_insert_default();
                own.insert(key.clone(), value.clone());
            }
        }
        Ok(())
    }
}
