//! TaintNodesByCondition: a new node takes no pods until it says that it is ready.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Taint};
use skiff_api::{ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(crate) struct TaintNodesByCondition;

#[async_trait]
impl Admission for TaintNodesByCondition {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if request.operation != Operation::Create || !request.is("", "nodes") {
            return Ok(());
        }
        if let Some(node) = object.downcast_mut::<Node>() {
            let taints = node
                .spec
                .get_or_insert_default()
                .taints
                .get_or_insert_default();
            if !taints
                .iter()
                .any(|taint| taint.key == NOT_READY && taint.effect == "NoSchedule")
            {
                taints.push(Taint {
                    key: NOT_READY.to_owned(),
                    effect: "NoSchedule".to_owned(),
                    ..Taint::default()
                });
            }
        }
        Ok(())
    }
}
