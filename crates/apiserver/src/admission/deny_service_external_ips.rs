//! DenyServiceExternalIPs: no service takes external addresses that it did not have.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Service;
use skiff_api::{ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};

pub(crate) struct DenyServiceExternalIps;

#[async_trait]
impl Admission for DenyServiceExternalIps {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if !matches!(request.operation, Operation::Create | Operation::Update)
            || !request.is("", "services")
        {
            return Ok(());
        }
        let addresses = |object: Option<&dyn Object>| {
            let service = object.and_then(|object| object.downcast_ref::<Service>());
            let spec = service.and_then(|service| service.spec.as_ref());
            spec.and_then(|spec| spec.external_ips.clone())
                .unwrap_or_default()
        };
        let had = addresses(old);
        if addresses(object)
            .iter()
            .all(|address| had.contains(address))
        {
            return Ok(());
        }
        Err(request.forbidden("Use of external IPs is denied by admission control"))
    }
}
