//! `namespaces/finalize`: takes finalizers from a namespace's spec; without any, a deleted namespace goes.

use axum::body::Body;
use http::Response;
use k8s_openapi::api::core::v1::Namespace;
use skiff_api::{ApiError, ApiResult, Object, ObjectExt};

use super::body_as;
use crate::query::WriteOptions;
use crate::registry::Resource;
use crate::server::Call;
use crate::update::check_name;
use crate::write::{self, Current, Part, Target, written_response};

/// Answers a PUT.
pub(crate) async fn finalize(
    call: &Call,
    resource: &Resource,
    body: Body,
) -> ApiResult<Response<Body>> {
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let wanted: Namespace = body_as(call, &resource.kind, &options, body).await?;
    check_name(&call.info.name, wanted.metadata.name.as_deref())?;
    let target = Target {
        call,
        resource,
        namespace: "",
        name: &call.info.name,
        subresource: "finalize",
        options: &options,
    };
    let mut change = |current: &Current| {
        let mut object = current.object.clone_box();
        let namespace = object
            .downcast_mut::<Namespace>()
            .ok_or_else(|| ApiError::internal("no namespace"))?;
        namespace
            .metadata
            .resource_version
            .clone_from(&wanted.metadata.resource_version);
        let finalizers = wanted
            .spec
            .as_ref()
            .and_then(|spec| spec.finalizers.clone());
        namespace.spec.get_or_insert_default().finalizers =
            finalizers.filter(|list| !list.is_empty());
        Ok::<Box<dyn Object>, ApiError>(object)
    };
    let written = write::update(&target, Part::Own, &mut change).await?;
    written_response(call, resource, &written)
}
