//! NamespaceExists and NamespaceAutoProvision: a write into a namespace that does not exist is refused, or makes it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Namespace;
use skiff_api::{ApiError, ApiResult, Object};

use super::{Admission, AdmissionRequest, Operation};
use crate::query::WriteOptions;

/// Whether the write is into a namespace (and is not to a namespace).
fn applies(request: &AdmissionRequest<'_>) -> bool {
    !request.namespace.is_empty() && request.resource.namespaced()
}

async fn exists(request: &AdmissionRequest<'_>) -> ApiResult<bool> {
    let found = request.find_entry("", "namespaces", "", request.namespace);
    Ok(found.await?.is_some())
}

pub(crate) struct NamespaceExists;

#[async_trait]
impl Admission for NamespaceExists {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        _object: Option<&dyn Object>,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if request.operation == Operation::Connect || !applies(request) || exists(request).await? {
            return Ok(());
        }
        Err(ApiError::not_found("", "namespaces", request.namespace))
    }
}

pub(crate) struct NamespaceAutoProvision;

#[async_trait]
impl Admission for NamespaceAutoProvision {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        _object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if request.operation != Operation::Create
            || request.dry_run
            || !applies(request)
            || exists(request).await?
        {
            return Ok(());
        }
        let registry = request.call.server.registry.load_full();
        let Some(namespaces) = registry.stored("", "namespaces") else {
            return Ok(());
        };
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(request.namespace.to_owned());
        let mut namespace: Box<dyn Object> = Box::new(namespace);
        namespaces.storage.ops.default(&mut *namespace);
        let options = WriteOptions::parse(&crate::query::Query::parse(None), "CreateOptions")?;
        let made = Box::pin(crate::create::create_object(
            request.call,
            namespaces,
            "",
            namespace,
            &options,
        ));
        match made.await {
            Err(error) if error.reason != "AlreadyExists" => Err(request.forbidden(&error.message)),
            _ => Ok(()),
        }
    }
}

/// The labels and annotations of a selector in text, `a=b,c=d`.
pub(super) fn selector_map(text: &str) -> Result<BTreeMap<String, String>, ApiError> {
    let wrong = |why: String| ApiError::new(500, "", why);
    let mut map = BTreeMap::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let mut halves = part.split('=');
        let (Some(key), Some(value), None) = (halves.next(), halves.next(), halves.next()) else {
            return Err(wrong(format!("invalid selector: {part}")));
        };
        map.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    Ok(map)
}
