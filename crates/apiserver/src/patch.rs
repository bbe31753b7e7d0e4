//! PATCH: JSON patch, JSON merge patch, strategic merge patch and apply.

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use skiff_api::patch::apply::apply;
use skiff_api::patch::{PatchType, apply_patch};
use skiff_api::schema::body::{self, FieldValidation};
use skiff_api::{ApiError, ApiResult, FieldError, Object, Path};

use crate::content;
use crate::fields;
use crate::query::WriteOptions;
use crate::registry::{Resource, ServedKind};
use crate::server::Call;
use crate::write::{
    self, Current, Part, Target, Written, check_namespace, decode, written_response,
};

/// Whether a request is a server-side apply.
pub(crate) fn is_apply(call: &Call) -> bool {
    call.parts.method == http::Method::PATCH && media_type(call) == APPLY
}

const APPLY: &str = "application/apply-patch+yaml";

fn media_type(call: &Call) -> &str {
    let header = call.header(CONTENT_TYPE);
    header.split(';').next().unwrap_or_default().trim()
}

/// A patch as sent.
pub(crate) struct Patch {
    /// `None`: apply.
    kind: Option<PatchType>,
    body: Bytes,
    manager: String,
    force: bool,
    validation: FieldValidation,
}

impl Patch {
    /// Finds the kind of patch by the content type, and checks that the options are for it.
    pub fn parse(call: &Call, body: &Bytes, options: &WriteOptions) -> ApiResult<Self> {
        let kind = match media_type(call) {
            "application/json-patch+json" => Some(PatchType::Json),
            "application/merge-patch+json" => Some(PatchType::Merge),
            "application/strategic-merge-patch+json" => Some(PatchType::StrategicMerge),
            APPLY => None,
            _ => {
                return Err(ApiError::new(
                    415,
                    "UnsupportedMediaType",
                    "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml",
                ));
            }
        };
        let patch = Self {
            kind,
            body: body.clone(),
            manager: fields::manager_name(call, options),
            force: options.force == Some(true),
            validation: options.field_validation,
        };
        check_options(&patch, options)?;
        Ok(patch)
    }

    /// Whether it is an apply.
    pub const fn is_apply(&self) -> bool {
        self.kind.is_none()
    }

    /// An object of `kind` after the patch, checked against the kind's schema. An apply brings the record of owners up
    /// to date; other patches leave that to the write. `resource` is the resource that the request is for; `current` makes the
    /// object as it is now.
    pub fn patched(
        &self,
        call: &Call,
        resource: &Resource,
        kind: &ServedKind,
        current: &dyn Fn() -> Value,
    ) -> ApiResult<Value> {
        let Some(patch) = self.kind else {
            return self.applied(call, resource, kind, Some(&current()));
        };
        let target = kind.target()?;
        let decoded = apply_patch(&target, patch, current, &self.body, self.validation)?;
        decoded
            .warnings
            .into_iter()
            .for_each(|text| call.warn(text));
        Ok(decoded.value)
    }

    /// An object after the apply; `None`: it is made.
    fn applied(
        &self,
        call: &Call,
        resource: &Resource,
        kind: &ServedKind,
        current: Option<&Value>,
    ) -> ApiResult<Value> {
        let target = kind.apply_target()?;
        let yaml = body::parse_yaml(&self.body)
            .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
        let api_version = kind.api_version();
        let subresource = &call.info.subresource;
        let manager = fields::manager(call, resource, subresource, &self.manager, &api_version);
        let applied = apply(&target, current, &yaml.value, &manager, self.force)?;
        match (yaml.duplicate, self.validation) {
            (Some(duplicate), FieldValidation::Strict) => {
                let message = format!("error strict decoding YAML: {duplicate}");
                return Err(ApiError::bad_request(message));
            }
            (Some(duplicate), FieldValidation::Warn) => call.warn(duplicate),
            _ => {}
        }
        Ok(applied)
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
    let patch = Patch::parse(call, &body, &options)?;
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
    if patch.is_apply() && part == Part::Main && target.current().await?.is_none() {
        match create_by_apply(&target, &patch).await {
            // Someone else made it meanwhile: it is changed.
            Err(error) if error.reason == "AlreadyExists" => {}
            outcome => return written_response(call, resource, &outcome?),
        }
    }
    let mut change = |current: &Current| -> ApiResult<Box<dyn Object>> {
        let served = || current.served(resource);
        let value = patch.patched(call, resource, &resource.kind, &served)?;
        let mut object = decode(resource, value)?;
        check_namespace(resource, namespace, object.metadata_mut())?;
        crate::update::check_name(&call.info.name, object.metadata().name.as_deref())?;
        Ok(object)
    };
    let written = write::update(&target, part, &mut change).await?;
    written_response(call, resource, &written)
}

/// Makes the object that an apply names and that is not there.
async fn create_by_apply(target: &Target<'_>, patch: &Patch) -> ApiResult<Written> {
    let Target {
        call,
        resource,
        namespace,
        name,
        ..
    } = *target;
    let value = patch.applied(call, resource, &resource.kind, None)?;
    let mut object = decode(resource, value)?;
    let meta = object.metadata_mut();
    if let Some(uid) = meta.uid.as_ref().filter(|uid| !uid.is_empty()) {
        return Err(target.conflict(&format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        )));
    }
    crate::update::check_name(name, meta.name.as_deref())?;
    call.server.authorize_create(call).await?;
    crate::create::create_object(call, resource, namespace, object, target.options).await
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
