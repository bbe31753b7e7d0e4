//! Makes a pod go because of a taint: first its status says why, then it is deleted.

use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodCondition};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;
use skiff_client::{ObjectKey, ReconcileError, is_not_found};

/// Writes `condition` into the status of the pod and deletes it. One that is gone by then is fine.
pub async fn evict(
    client: &Client,
    key: &ObjectKey,
    pod: &Pod,
    condition: PodCondition,
) -> Result<(), ReconcileError> {
    let patch =
        json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
    let api: Api<Pod> = Api::namespaced(client.clone(), key.namespace());
    let parameters = PatchParams::default();
    let marked = api
        .patch_status(key.name(), &parameters, &Patch::Strategic(patch))
        .await;
    let deleted = match marked {
        Ok(_) => api
            .delete(key.name(), &DeleteParams::default())
            .await
            .map(drop),
        Err(error) => Err(error),
    };
    match deleted {
        Err(error) if !is_not_found(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// What events of the eviction are about: the pod by its name, as it may be gone already.
#[must_use]
pub fn regarding(key: &ObjectKey) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(key.namespace().to_owned()),
        name: Some(key.name().to_owned()),
        ..ObjectReference::default()
    }
}
