//! PATCH: JSON patch, JSON merge patch, strategic merge patch and apply.

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use skiff_api::patch::{PatchType, apply_patch, strategic};
use skiff_api::schema::body::{self, FieldValidation, Format};
use skiff_api::{ApiError, ApiResult, FieldError, Kind, Object, Path};

use crate::content;
use crate::query::WriteOptions;
use crate::registry::Resource;
use crate::server::Call;
use crate::write::{
    self, Current, Part, Target, check_namespace, decode, with_revision, written_response,
};

/// A patch as sent.
pub(crate) struct Patch {
    /// `None`: apply.
    kind: Option<PatchType>,
    body: Bytes,
}

impl Patch {
    /// Finds the kind of patch by the content type.
    pub fn parse(call: &Call, body: &Bytes) -> ApiResult<Self> {
        let header = call.header(CONTENT_TYPE);
        let media = header.split(';').next().unwrap_or_default().trim();
        let kind = match media {
            "application/json-patch+json" => Some(PatchType::Json),
            "application/merge-patch+json" => Some(PatchType::Merge),
            "application/strategic-merge-patch+json" => Some(PatchType::StrategicMerge),
            "application/apply-patch+yaml" => None,
            _ => {
                return Err(ApiError::new(
                    415,
                    "UnsupportedMediaType",
                    "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml, application/apply-patch+cbor",
                ));
            }
        };
        let body = body.clone();
        Ok(Self { kind, body })
    }

    /// The object after the patch, checked against the kind's schema.
    pub fn patched(
        &self,
        call: &Call,
        kind: &'static Kind,
        current: &Value,
        validation: FieldValidation,
    ) -> ApiResult<Value> {
        let target = body::Target::of(kind)?;
        let Some(patch) = self.kind else {
            let applied = self.applied(call, kind, validation)?;
            let Value::Object(applied) = applied else {
                return Err(ApiError::internal("applied configuration is no object"));
            };
            return strategic::merge(target.schema, target.root, current.clone(), applied);
        };
        let decoded = apply_patch(&target, patch, current, &self.body, validation)?;
        decoded
            .warnings
            .into_iter()
            .for_each(|text| call.warn(text));
        Ok(decoded.value)
    }

    /// The configuration of an apply.
    fn applied(
        &self,
        call: &Call,
        kind: &'static Kind,
        validation: FieldValidation,
    ) -> ApiResult<Value> {
        let target = body::Target::of(kind)?;
        let decoded = body::decode(&target, &self.body, Format::Yaml, validation)?;
        decoded
            .warnings
            .into_iter()
            .for_each(|text| call.warn(text));
        Ok(decoded.value)
    }
}

/// Answers a PATCH of an object, or of its status.
pub(crate) async fn patch(
    call: &Call,
    resource: &Resource,
    part: Part,
    body: Body,
) -> ApiResult<Response<Body>> {
    content::negotiate(call, false)?;
    let options = WriteOptions::parse(&call.query, "PatchOptions")?;
    let body = crate::server::ApiServer::read_body(body).await?;
    let patch = Patch::parse(call, &body)?;
    check_options(&patch, &options)?;
    let namespace = if resource.namespaced() {
        call.info.namespace.as_str()
    } else {
        ""
    };
    let target = Target {
        call,
        resource,
        namespace,
        name: &call.info.name,
        subresource: &call.info.subresource,
        options: &options,
    };
    if patch.kind.is_none() && part == Part::Main && target.current().await?.is_none() {
        let value = patch.applied(call, resource.kind, options.field_validation)?;
        let mut object = decode(resource, value)?;
        let meta = object.metadata_mut();
        meta.name.get_or_insert_with(|| call.info.name.clone());
        crate::update::check_name(&call.info.name, meta.name.as_deref())?;
        match crate::create::create_object(call, resource, namespace, object, &options).await {
            // Someone else made it meanwhile: it is changed.
            Err(error) if error.reason == "AlreadyExists" => {}
            outcome => return written_response(call, resource, &outcome?),
        }
    }
    let mut change = |current: &Current| -> ApiResult<Box<dyn Object>> {
        let value = resource.served_value(&with_revision(&current.stored, current.revision));
        let value = patch.patched(call, resource.kind, &value, options.field_validation)?;
        let mut object = decode(resource, value)?;
        check_namespace(resource, namespace, object.metadata_mut())?;
        Ok(object)
    };
    let written = write::update(&target, part, &mut change).await?;
    written_response(call, resource, &written)
}

/// `fieldManager` is needed for an apply, and `force` is only for it.
fn check_options(patch: &Patch, options: &WriteOptions) -> ApiResult<()> {
    let invalid = |error| {
        Err(ApiError::invalid(
            "meta.k8s.io",
            "PatchOptions",
            "",
            &[error],
        ))
    };
    match patch.kind {
        None if options.field_manager.is_empty() => invalid(FieldError::required(
            &Path::new("fieldManager"),
            "is required for apply patch",
        )),
        Some(_) if options.force.is_some() => invalid(FieldError::forbidden(
            &Path::new("force"),
            "may not be specified for non-apply patch",
        )),
        _ => Ok(()),
    }
}
