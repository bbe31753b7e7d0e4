//! NamespaceLifecycle: nothing is made in a namespace that does not exist or is going away.

use async_trait::async_trait;
use serde_json::json;
use skiff_api::{ApiError, ApiResult, Object};

use super::{Admission, AdmissionRequest, Operation};

/// Namespaces that may not be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(crate) struct NamespaceLifecycle;

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Namespace {
    metadata: Metadata,
    status: Status,
}

#[derive(serde::Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    deletion_timestamp: Option<String>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Status {
    phase: String,
}

#[async_trait]
impl Admission for NamespaceLifecycle {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        _object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if request.operation != Operation::Create
            || request.namespace.is_empty()
            || !request.resource.namespaced()
        {
            return Ok(());
        }
        // Access reviews tell nothing about the namespace.
        if request.resource.kind.group == "authorization.k8s.io" {
            return Ok(());
        }
        let server = &request.call.server;
        let registry = server.registry.load();
        let Some(namespaces) = registry.stored("", "namespaces") else {
            return Ok(());
        };
        let entry = server
            .lookup(namespaces, "", request.namespace)
            .await?
            .ok_or_else(|| ApiError::not_found("", "namespaces", request.namespace))?;
        let namespace: Namespace = entry.decode().unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none()
            && namespace.status.phase != "Terminating"
        {
            return Ok(());
        }
        let kind = &request.resource.kind;
        let mut error = ApiError::forbidden(
            &kind.group,
            &kind.plural,
            request.name,
            &format!(
                "unable to create new content in namespace {} because it is being terminated",
                request.namespace
            ),
        );
        if let Some(details) = &mut error.details {
            details["causes"] = json!([{
                "reason": "NamespaceTerminating",
                "message": format!("namespace {} is being terminated", request.namespace),
                "field": "metadata.namespace",
            }]);
        }
        Err(error)
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        _object: Option<&dyn Object>,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if request.operation == Operation::Delete
            && request.is("", "namespaces")
            && IMMORTAL.contains(&request.name)
        {
            return Err(ApiError::forbidden(
                "",
                "namespaces",
                request.name,
                "this namespace may not be deleted",
            ));
        }
        Ok(())
    }
}
