//! PersistentVolumeClaimResize: a claim grows only when it is bound and its class allows it.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use skiff_api::validation::quantity::Amount;
use skiff_api::{ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};

pub(crate) struct PersistentVolumeClaimResize;

fn size(claim: &PersistentVolumeClaim) -> Amount {
    let spec = claim.spec.as_ref();
    let resources = spec.and_then(|spec| spec.resources.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let size = requests.and_then(|requests| requests.get("storage"));
    size.map_or(Amount::ZERO, Amount::of)
}

fn class(claim: &PersistentVolumeClaim) -> Option<&String> {
    let annotations = claim.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get("volume.beta.kubernetes.io/storage-class"))
        .or_else(|| claim.spec.as_ref()?.storage_class_name.as_ref())
        .filter(|name| !name.is_empty())
}

#[async_trait]
impl Admission for PersistentVolumeClaimResize {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if request.operation != Operation::Update || !request.is("", "persistentvolumeclaims") {
            return Ok(());
        }
        let claim = |object: Option<&dyn Object>| {
            object.and_then(|object| object.downcast_ref::<PersistentVolumeClaim>().cloned())
        };
        let (Some(new), Some(old)) = (claim(object), claim(old)) else {
            return Ok(());
        };
        if size(&new) <= size(&old) {
            return Ok(());
        }
        let status = old.status.as_ref();
        if status.and_then(|status| status.phase.as_deref()) != Some("Bound") {
            return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let mut allowed = false;
        if let Some(name) = class(&new).filter(|name| class(&old) == Some(*name)) {
            let found: Option<StorageClass> = request
                .find("storage.k8s.io", "storageclasses", "", name)
                .await?;
            allowed = found.is_some_and(|class| class.allow_volume_expansion == Some(true));
        }
        if allowed {
            return Ok(());
        }
        Err(request.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}
