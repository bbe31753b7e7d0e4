//! LimitPodHardAntiAffinityTopology: pods may keep others off a node, not off a whole zone.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use skiff_api::{ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};

const HOSTNAME: &str = "kubernetes.io/hostname";

pub(crate) struct LimitPodHardAntiAffinityTopology;

#[async_trait]
impl Admission for LimitPodHardAntiAffinityTopology {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if !matches!(request.operation, Operation::Create | Operation::Update)
            || !request.is("", "pods")
        {
            return Ok(());
        }
        let pod = object.and_then(|object| object.downcast_ref::<Pod>());
        let affinity = pod.and_then(|pod| pod.spec.as_ref()?.affinity.as_ref());
        let terms = affinity
            .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
            .and_then(|anti| {
                anti.required_during_scheduling_ignored_during_execution
                    .as_ref()
            });
        let wide = terms
            .into_iter()
            .flatten()
            .find(|term| term.topology_key != HOSTNAME);
        match wide {
            None => Ok(()),
            Some(term) => Err(request.forbidden(&format!(
                "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {} but only key {HOSTNAME} is allowed",
                term.topology_key
            ))),
        }
    }
}
