//! StorageObjectInUseProtection: new claims and volumes get the finalizer that keeps them while they are in use.

use async_trait::async_trait;
use skiff_api::{ApiResult, Object};

use super::{Admission, AdmissionRequest, Operation};

const FINALIZERS: [(&str, &str, &str); 3] = [
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    (
        "storage.k8s.io",
        "volumeattributesclasses",
        "kubernetes.io/vac-protection",
    ),
];

pub(crate) struct StorageObjectInUseProtection;

#[async_trait]
impl Admission for StorageObjectInUseProtection {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if request.operation != Operation::Create {
            return Ok(());
        }
        let mut kinds = FINALIZERS.iter();
        let Some((.., finalizer)) = kinds.find(|(group, plural, _)| request.is(group, plural))
        else {
            return Ok(());
        };
        let finalizers = object.metadata_mut().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|name| name == finalizer) {
            finalizers.push((*finalizer).to_owned());
        }
        Ok(())
    }
}
