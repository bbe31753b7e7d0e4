//! PodTopologyLabels: a pod carries the zone and the region of its node as labels.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Binding, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
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
        if request.operation != Operation::Create {
            return Ok(());
        }
        let Some((node, meta)) = place(object).filter(|(node, _)| !node.is_empty()) else {
            return Ok(());
        };
        let registry = request.call.server.registry.load_full();
        let Some(nodes) = registry.stored("", "nodes") else {
            return Ok(());
        };
        if let Some(entry) = request.find_entry("", "nodes", "", &node).await? {
            let labels = entry.labels(&nodes.storage);
            for (key, value) in LABELS.iter().filter_map(|key| labels.get_key_value(*key)) {
                let own = meta.labels.get_or_insert_default();
                own.insert(key.clone(), value.clone());
            }
        }
        Ok(())
    }
}

/// The node of a pod, or of what binds one (its labels become the pod's), and the metadata that the labels go into.
fn place(object: &mut dyn Object) -> Option<(String, &mut ObjectMeta)> {
    if object.downcast_ref::<Binding>().is_some() {
        let binding = object.downcast_mut::<Binding>()?;
        return Some((binding.target.name.clone()?, &mut binding.metadata));
    }
    let pod = object.downcast_mut::<Pod>()?;
    Some((pod.spec.as_ref()?.node_name.clone()?, &mut pod.metadata))
}
