//! PUT: replaces an object or its status.

use axum::body::Body;
use http::Response;
use skiff_api::{ApiError, ApiResult};

use crate::content;
use crate::query::WriteOptions;
use crate::registry::Resource;
use crate::server::Call;
use crate::write::{self, Part, Target, check_namespace, decode, parse_body, written_response};

/// Answers a PUT of an object, or of its status.
pub(crate) async fn replace(
    call: &Call,
    resource: &Resource,
    part: Part,
    body: Body,
) -> ApiResult<Response<Body>> {
    content::negotiate(call, false)?;
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let body = crate::server::ApiServer::read_body(body).await?;
    let value = parse_body(call, &resource.kind, &body, options.field_validation)?;
    let mut object = decode(resource, value)?;
    let namespace = if resource.namespaced() {
        call.info.namespace.as_str()
    } else {
        ""
    };
    check_namespace(resource, namespace, object.metadata_mut())?;
    check_name(&call.info.name, object.metadata().name.as_deref())?;
    let target = Target {
        call,
        resource,
        namespace,
        name: &call.info.name,
        subresource: &call.info.subresource,
        options: &options,
    };
    if part == Part::Main
        && resource.storage.ops.allow_create_on_update()
        && target.current().await?.is_none()
    {
        // A version or uid names an object that is not there any more.
        let meta = object.metadata_mut();
        if meta
            .resource_version
            .as_deref()
            .is_some_and(|version| !version.is_empty())
        {
            return Err(target.not_found());
        }
        call.server.authorize_create(call).await?;
        let written =
            crate::create::create_object(call, resource, namespace, object, &options).await?;
        return written_response(call, resource, &written);
    }
    let written = write::update(&target, part, &mut |_| Ok(object.clone_box())).await?;
    written_response(call, resource, &written)
}

/// The name in the path must be the object's.
pub(crate) fn check_name(wanted: &str, name: Option<&str>) -> ApiResult<()> {
    match name {
        None | Some("") => Err(ApiError::bad_request(format!(
            "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
        ))),
        Some(name) if name == wanted => Ok(()),
        Some(name) => Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({wanted})"
        ))),
    }
}
