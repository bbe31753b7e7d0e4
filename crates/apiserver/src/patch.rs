//! PATCH: JSON patch, JSON merge patch, strategic merge patch and apply.

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use skiff_api::schema::body::{self, FieldValidation, parse_yaml};
use skiff_api::schema::check::{CheckError, check_value};
use skiff_api::{ApiError, ApiResult, Kind, Object};

use crate::content;
use crate::query::WriteOptions;
use crate::registry::Resource;
use crate::server::Call;
use crate::write::{self, Current, Part, Target, check_namespace, decode, written_response};

/// A patch as read from the request.
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

impl Patch {
    /// Reads the body by its content type.
    pub fn parse(call: &Call, body: &Bytes) -> ApiResult<Self> {
        let media = call
            .header(CONTENT_TYPE)
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        let value = || -> ApiResult<Value> {
            serde_json::from_slice(body)
                .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))
        };
        match media {
            "application/json-patch+json" => serde_json::from_slice(body)
                .map(Self::Json)
                .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}"))),
            "application/merge-patch+json" => value().map(Self::Merge),
            "application/strategic-merge-patch+json" => value().map(Self::Strategic),
            "application/apply-patch+yaml" => parse_yaml(body)
                .map(|yaml| Self::Apply(yaml.value))
                .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}"))),
            _ => Err(ApiError::new(
                415,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml",
            )),
        }
    }

    /// The value after the patch (not for apply).
    pub fn apply(&self, resource: &Resource, value: Value) -> ApiResult<Value> {
        self.apply_to(resource.kind, value)
    }

    /// The value after the patch, for an object of some kind.
    pub fn apply_to(&self, kind: &Kind, mut value: Value) -> ApiResult<Value> {
        match self {
            Self::Json(patch) => {
                json_patch::patch(&mut value, patch)
                    .map_err(|error| unprocessable(kind, &error.to_string()))?;
            }
            Self::Merge(patch) => json_patch::merge(&mut value, patch),
            Self::Strategic(patch) | Self::Apply(patch) => json_patch::merge(&mut value, patch),
        }
        Ok(value)
    }
}

fn unprocessable(kind: &Kind, message: &str) -> ApiError {
    ApiError {
        details: Some(json!({
            "group": kind.group, "kind": kind.plural,
            "causes": [{"reason": "UnexpectedServerResponse", "message": message}],
        })),
        ..ApiError::new(
            422,
            "Invalid",
            "the server rejected our request due to an error in our request",
        )
    }
}

/// Checks what came of a patch against the kind's schema.
pub(crate) fn check_patched(
    call: &Call,
    resource: &Resource,
    value: Value,
    validation: FieldValidation,
) -> ApiResult<Value> {
    let kind = resource.kind;
    let target = body::Target::of(kind)?;
    let checked = check_value(value, target.schema, target.root).map_err(|error| {
        let (CheckError::Syntax(message) | CheckError::Type(message)) = error;
        ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {message}",
            kind.kind, kind.version, kind.kind
        ))
    })?;
    if !checked.strict.is_empty() {
        match validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => checked.strict.iter().for_each(|text| call.warn(text)),
            FieldValidation::Strict => {
                return Err(ApiError::bad_request(format!(
                    "strict decoding error: {}",
                    checked.strict.join(", ")
                )));
            }
        }
    }
    let mut value = checked.value;
    value["apiVersion"] = kind.api_version().into();
    value["kind"] = kind.kind.into();
    Ok(value)
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
    let mut change = |current: &Current| -> ApiResult<Box<dyn Object>> {
        let value = resource.served_value(&write::with_revision(&current.stored, current.revision));
        let value = patch.apply(resource, value)?;
        let value = check_patched(call, resource, value, options.field_validation)?;
        let mut object = decode(resource, value)?;
        check_namespace(resource, namespace, object.metadata_mut())?;
        Ok(object)
    };
    let written = write::update(&target, part, &mut change).await?;
    written_response(call, resource, &written)
}
