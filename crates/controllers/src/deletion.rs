//! Deletes an object that was seen, and no other that has taken its name since.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Error;
use kube::api::{Api, DeleteParams, Preconditions};
use serde::de::DeserializeOwned;
use skiff_client::{is_conflict, is_not_found};

/// Deletes the object of this name and uid; answers whether it was there. Without a uid it is whatever has the name.
///
/// # Errors
/// Whatever the server answers, except that there is no such object any more.
pub async fn delete_seen<K>(
    api: &Api<K>,
    meta: &ObjectMeta,
    how: DeleteParams,
) -> Result<bool, Error>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let how = how.preconditions(Preconditions {
        uid: meta.uid.clone(),
        resource_version: None,
    });
    let name = meta.name.as_deref().unwrap_or_default();
    match api.delete(name, &how).await {
        Ok(_) => Ok(true),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(false),
        Err(error) => Err(error),
    }
}
