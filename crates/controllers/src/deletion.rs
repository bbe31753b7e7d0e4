//! Deletes an object that was seen, and no other that has taken its name since.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Preconditions};
use kube::core::{Request, Resource};
use kube::{Client, Error};
use skiff_client::{is_conflict, is_not_found};

/// Deletes the object of this name and uid; answers whether it was there. Without a uid it is whatever has the name.
///
/// # Errors
/// Whatever the server answers, except that there is no such object any more.
pub async fn delete_seen<K: Clone + Resource>(
    api: &Api<K>,
    meta: &ObjectMeta,
    how: DeleteParams,
) -> Result<bool, Error> {
    delete(api.clone().into_client(), api.resource_url(), meta, how).await
}

/// The same for all kinds: what the server says of the object is not read.
async fn delete(
    client: Client,
    collection: &str,
    meta: &ObjectMeta,
    how: DeleteParams,
) -> Result<bool, Error> {
    let how = how.preconditions(Preconditions {
        uid: meta.uid.clone(),
        resource_version: None,
    });
    let name = meta.name.as_deref().unwrap_or_default();
    let request = Request::new(collection)
        .delete(name, &how)
        .map_err(Error::BuildRequest)?;
    match client.request_text(request).await {
        Ok(_) => Ok(true),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use kube::client::Body;
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    /// What comes of it when the server answers so, and what it was sent.
    async fn ask(code: u16, reason: &str) -> (Result<bool, Error>, Value) {
        let sent = Arc::new(Mutex::new(Value::Null));
        let heard = sent.clone();
        let status = if code == 200 { "Success" } else { "Failure" };
        let answer = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": status,
            "message": "", "reason": reason, "code": code});
        let server = tower::service_fn(move |request: http::Request<Body>| {
            let (heard, answer) = (heard.clone(), answer.to_string());
            async move {
                let body = request.into_body().collect_bytes().await.unwrap();
                *heard.lock() = serde_json::from_slice(&body).unwrap();
                let answer = http::Response::builder()
                    .status(code)
                    .body(Body::from(answer.into_bytes()));
                Ok::<_, Infallible>(answer.unwrap())
            }
        });
        let client = kube::Client::new(server, "a");
        let meta = ObjectMeta {
            name: Some("p".to_owned()),
            uid: Some("1".to_owned()),
            ..ObjectMeta::default()
        };
        let api: Api<Pod> = Api::namespaced(client, "a");
        let outcome = delete_seen(&api, &meta, DeleteParams::background()).await;
        let sent = sent.lock().take();
        (outcome, sent)
    }

    #[tokio::test]
    async fn only_what_was_seen_is_deleted() {
        let (outcome, sent) = ask(200, "").await;
        assert!(outcome.unwrap());
        assert_eq!(sent["preconditions"], json!({"uid": "1"}));
        assert_eq!(sent["propagationPolicy"], "Background");
        // It is gone, and perhaps another has its name.
        for (code, reason) in [(404, "NotFound"), (409, "Conflict")] {
            assert!(!ask(code, reason).await.0.unwrap());
        }
        for (code, reason) in [(403, "Forbidden"), (500, "InternalError")] {
            assert!(ask(code, reason).await.0.is_err());
        }
    }
}
