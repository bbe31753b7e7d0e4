//! Makes a pod go: first its status says why, then it is deleted.

use k8s_openapi::api::core::v1::{ObjectReference, PodCondition};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use skiff_client::{ObjectKey, ReconcileError, is_not_found};

use crate::deletion::delete_seen;
use crate::seen_pod::Pod;

/// Writes `condition` into the status of the pod and deletes it. One that is gone by then is fine.
pub async fn evict(
    client: &Client,
    key: &ObjectKey,
    pod: &Pod,
    condition: PodCondition,
) -> Result<(), ReconcileError> {
    let status = json!({"conditions": [condition]});
    remove(client, key, pod, Some(status), &DeleteParams::default()).await
}

/// The same with whatever `status` says, if anything.
pub async fn remove(
    client: &Client,
    key: &ObjectKey,
    pod: &Pod,
    status: Option<Value>,
    how: &DeleteParams,
) -> Result<(), ReconcileError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), key.namespace());
    let mut marked = Ok(());
    if let Some(status) = status {
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
        let (parameters, patch) = (PatchParams::default(), Patch::Strategic(patch));
        marked = api
            .patch_status(key.name(), &parameters, &patch)
            .await
            .map(drop);
    }
    match marked {
        Err(error) if is_not_found(&error) => return Ok(()),
        marked => marked?,
    }
    delete_seen(&api, &pod.metadata, how.clone()).await?;
    Ok(())
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
