//! `certificatesigningrequests/approval`: changes the conditions of a request for a certificate.

use axum::body::Body;
use http::Response;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use skiff_api::certificates::certificate_signing_request::stamp;
use skiff_api::validation::certificates::{
    Settable, validate_certificate_signing_request_status_update,
};
use skiff_api::validation::meta::validate_object_meta_update;
use skiff_api::{ApiError, ApiResult, Object, ObjectExt, Path};

use super::pod_parts::changed_body;
use crate::query::WriteOptions;
use crate::registry::Resource;
use crate::server::{ApiServer, Call};
use crate::write::{self, Current, Part, Target, written_response};

/// Answers a PUT or PATCH.
pub(crate) async fn change(
    call: &Call,
    resource: &Resource,
    body: Body,
) -> ApiResult<Response<Body>> {
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let body = ApiServer::read_body(body).await?;
    let make = changed_body(call, resource, &options, &body)?;
    let now = call.server.now();
    let target = Target {
        call,
        resource,
        namespace: "",
        name: &call.info.name,
        subresource: "approval",
        options: &options,
    };
    let mut change = |current: &Current| {
        let wanted = make(current)?;
        let mut object = current.object.clone_box();
        let (Some(request), Some(wanted)) = (
            object.downcast_mut::<CertificateSigningRequest>(),
            wanted.downcast_ref::<CertificateSigningRequest>(),
        ) else {
            return Err(ApiError::internal("no request for a certificate"));
        };
        let before = request.clone();
        let (meta, asked) = (&mut request.metadata, &wanted.metadata);
        meta.labels.clone_from(&asked.labels);
        meta.annotations.clone_from(&asked.annotations);
        let mut errors =
            validate_object_meta_update(meta, &before.metadata, &Path::new("metadata"));
        meta.resource_version.clone_from(&asked.resource_version);
        meta.managed_fields.clone_from(&asked.managed_fields);
        let status = |request: &CertificateSigningRequest| {
            let status = request.status.as_ref();
            status
                .and_then(|status| status.conditions.clone())
                .unwrap_or_default()
        };
        let mut conditions = status(wanted);
        stamp(&mut conditions, &status(&before), now);
        request.status.get_or_insert_default().conditions =
            Some(conditions).filter(|list| !list.is_empty());
        errors.extend(validate_certificate_signing_request_status_update(
            request,
            &before,
            Settable::Verdict,
        ));
        if !errors.is_empty() {
            return Err(target.invalid(&errors));
        }
        Ok::<Box<dyn Object>, ApiError>(object)
    };
    let written = write::update(&target, Part::Own, &mut change).await?;
    written_response(call, resource, &written)
}
