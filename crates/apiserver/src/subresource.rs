//! Subresources, and kinds that are asked but not stored: an explicit table from path to handler.

use std::sync::Arc;

use axum::body::Body;
use http::{Method, Response};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};
use skiff_api::{ApiError, ApiResult, Object, ObjectExt};

use crate::content;
use crate::dispatch::method_not_allowed;
use crate::query::WriteOptions;
use crate::registry::{Resource, ServedKind};
use crate::server::{ApiServer, Call};
use crate::write::{Part, decode_kind, parse_body};

mod access_review;
mod approval;
mod binding;
mod eviction;
mod finalize;
mod pod_parts;
pub(crate) mod scale;
mod token;

/// Answers a request for a subresource.
pub(crate) async fn answer(
    call: Call,
    resource: Arc<Resource>,
    body: Body,
) -> ApiResult<Response<Body>> {
    let entry = resource
        .subresource(&call.info.subresource)
        .ok_or_else(ApiError::no_such_path)?;
    let method = call.parts.method.clone();
    match (&*resource.kind.plural, entry.name, &method) {
        (_, "status", &Method::PUT) => {
            crate::update::replace(&call, &resource, Part::Status, body).await
        }
        (_, "status", &Method::PATCH) => {
            crate::patch::patch(&call, &resource, Part::Status, body).await
        }
        (
            _,
            "status" | "ephemeralcontainers" | "resize" | "approval",
            &Method::GET | &Method::HEAD,
        ) => crate::read::get(&call, &resource).await,
        (_, "scale", _) => scale::answer(&call, &resource, body).await,
        ("pods", "binding", &Method::POST) => {
            let name = call.info.name.clone();
            binding::bind(&call, &resource, &name, body).await
        }
        ("pods", "eviction", &Method::POST) => eviction::evict(&call, &resource, body).await,
        ("pods", "ephemeralcontainers", &Method::PUT | &Method::PATCH) => {
            pod_parts::change(&call, &resource, pod_parts::keep_ephemeral_containers, body).await
        }
        ("pods", "resize", &Method::PUT | &Method::PATCH) => {
            pod_parts::change(&call, &resource, pod_parts::keep_resources, body).await
        }
        ("certificatesigningrequests", "approval", &Method::PUT | &Method::PATCH) => {
            approval::change(&call, &resource, body).await
        }
        ("namespaces", "finalize", &Method::PUT) => {
            finalize::finalize(&call, &resource, body).await
        }
        ("serviceaccounts", "token", &Method::POST) => token::issue(&call, &resource, body).await,
        ("pods", "log" | "exec" | "attach" | "portforward" | "proxy", _)
        | ("services" | "nodes", "proxy", _) => crate::connect::answer(call, resource, body).await,
        _ => Err(method_not_allowed()),
    }
}

/// Answers a POST of a kind that is not stored.
pub(crate) async fn create(
    call: &Call,
    resource: &Resource,
    body: Body,
) -> ApiResult<Response<Body>> {
    if resource.kind.kind == "Binding" {
        let registry = call.server.registry.load_full();
        let pods = registry
            .stored("", "pods")
            .ok_or_else(ApiError::no_such_path)?;
        return binding::bind(call, pods, "", body).await;
    }
    access_review::review(call, resource, body).await
}

/// A body of a kind, defaulted, as its own type.
pub(crate) async fn body_as<T: Clone + 'static>(
    call: &Call,
    kind: &ServedKind,
    options: &WriteOptions,
    body: Body,
) -> ApiResult<T> {
    let body = ApiServer::read_body(body).await?;
    let value = parse_body(call, kind, &body, options.field_validation)?;
    let object = decode_kind(kind, value)?;
    object
        .downcast_ref::<T>()
        .cloned()
        .ok_or_else(|| ApiError::internal("body of another kind"))
}

/// A kind by its version and name, those of subresources included.
pub(crate) fn kind_of(api_version: &str, kind: &str) -> ApiResult<ServedKind> {
    skiff_api::kinds()
        .iter()
        .chain(skiff_api::subresource_kinds())
        .find(|entry| entry.kind == kind && entry.api_version() == api_version)
        .map(ServedKind::from)
        .ok_or_else(ApiError::no_such_path)
}

/// An answer of an object that is not stored.
pub(crate) fn object_answer(
    call: &Call,
    code: u16,
    object: &dyn Object,
) -> ApiResult<Response<Body>> {
    let accepted = content::negotiate_whole(call)?;
    Ok(content::json_response(
        call,
        accepted,
        code,
        object.to_bytes().into(),
    ))
}

/// `Status` of success.
pub(crate) fn success(call: &Call, code: u16) -> ApiResult<Response<Body>> {
    let accepted = content::negotiate(call, false)?;
    let mut status: Value =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if code != 200 {
        status["code"] = code.into();
    }
    Ok(content::value_response(call, accepted, code, &status))
}

/// A label selector in the text form of queries; empty when there is none.
pub(crate) fn selector_text(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else {
        return String::new();
    };
    let mut terms: Vec<(String, String)> = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), format!("{key}={value}")))
        .collect();
    for expression in selector.match_expressions.iter().flatten() {
        let key = &expression.key;
        let mut values = expression.values.clone().unwrap_or_default();
        values.sort();
        let values = values.join(",");
        let term = match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            _ => format!("!{key}"),
        };
        terms.push((key.clone(), term));
    }
    terms.sort();
    terms
        .into_iter()
        .map(|(_, term)| term)
        .collect::<Vec<_>>()
        .join(",")
}
