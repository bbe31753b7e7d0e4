//! DefaultStorageClass and DefaultIngressClass: a claim or an ingress that names no class gets the default one.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::{ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};

const CLAIM_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";
const DEFAULT_STORAGE: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
const DEFAULT_INGRESS: [&str; 1] = ["ingressclass.kubernetes.io/is-default-class"];

pub(crate) struct DefaultStorageClass;
pub(crate) struct DefaultIngressClass;

fn annotated(meta: &ObjectMeta, key: &str) -> Option<String> {
    meta.annotations.as_ref()?.get(key).cloned()
}

/// The newest of the classes that are marked as the default; of several made in the same second the first by name.
fn newest(classes: impl Iterator<Item = ObjectMeta>, marks: &[&str]) -> Option<String> {
    let marked = |meta: &ObjectMeta| {
        let mut marks = marks.iter();
        marks.any(|mark| annotated(meta, mark).as_deref() == Some("true"))
    };
    let made = |meta: &ObjectMeta| meta.creation_timestamp.as_ref().map(|time| time.0);
    classes
        .filter(marked)
        .min_by(|a, b| made(b).cmp(&made(a)).then_with(|| a.name.cmp(&b.name)))
        .and_then(|meta| meta.name)
}

#[async_trait]
impl Admission for DefaultStorageClass {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if request.operation != Operation::Create || !request.is("", "persistentvolumeclaims") {
            return Ok(());
        }
        let Some(claim) = object.downcast_mut::<PersistentVolumeClaim>() else {
            return Ok(());
        };
        let spec = claim.spec.get_or_insert_default();
        if spec.storage_class_name.is_none() && annotated(&claim.metadata, CLAIM_CLASS).is_none() {
            let classes: Vec<StorageClass> =
                request.list("storage.k8s.io", "storageclasses", "").await?;
            let classes = classes.into_iter().map(|class| class.metadata);
            spec.storage_class_name = newest(classes, &DEFAULT_STORAGE);
        }
        Ok(())
    }
}

#[async_trait]
impl Admission for DefaultIngressClass {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if request.operation != Operation::Create || !request.is("networking.k8s.io", "ingresses") {
            return Ok(());
        }
        let Some(ingress) = object.downcast_mut::<Ingress>() else {
            return Ok(());
        };
        let spec = ingress.spec.get_or_insert_default();
        if spec.ingress_class_name.is_none()
            && annotated(&ingress.metadata, INGRESS_CLASS).is_none()
        {
            let classes: Vec<IngressClass> = request
                .list("networking.k8s.io", "ingressclasses", "")
                .await?;
            let classes = classes.into_iter().map(|class| class.metadata);
            spec.ingress_class_name = newest(classes, &DEFAULT_INGRESS);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_default_wins_then_the_first_name() {
        let class = |name: &str, minute: u8, mark: &str| -> ObjectMeta {
            serde_json::from_value(json!({"name": name,
                "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z"),
                "annotations": {DEFAULT_STORAGE[1]: mark}}))
            .unwrap()
        };
        let classes = [
            class("old", 1, "true"),
            class("z", 2, "true"),
            class("y", 2, "true"),
            class("no", 3, "false"),
        ];
        let of = |count: usize| newest(classes[..count].iter().cloned(), &DEFAULT_STORAGE);
        assert_eq!(of(4).as_deref(), Some("y"));
        assert_eq!(of(2).as_deref(), Some("z"));
        assert_eq!(of(1).as_deref(), Some("old"));
        assert_eq!(newest(classes[3..].iter().cloned(), &DEFAULT_STORAGE), None);
    }
}
