//! `pods/log`.

use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use skiff_api::{ApiError, ApiResult, FieldError, Path};

use super::backend::forward;
use super::container_of;
use super::kubelet::{self, encode};
use crate::content;
use crate::query::Query;
use crate::server::Call;

/// So much of a kubelet's error is shown.
const ERROR_LENGTH: usize = 2048;

/// Answers a GET of a container's log.
pub(crate) async fn answer(call: &Call, pod: &Pod) -> ApiResult<Response<Body>> {
    let errors = check(&call.query)?;
    if !errors.is_empty() {
        return Err(ApiError::invalid(
            "",
            "PodLogOptions",
            &call.info.name,
            &errors,
        ));
    }
    let container = container_of(pod, call.query.get("container"))?;
    let node = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.clone())
        .unwrap_or_default();
    if node.is_empty() {
        // A pod that is on no node has written nothing.
        return Ok(content::response(200, "text/plain", Bytes::new()));
    }
    let endpoint = kubelet::endpoint(&call.server, &node).await?;
    let path = path(call, &container);
    let (mut parts, ()) = Request::new(()).into_parts();
    let mut response = forward(&mut parts, Body::empty(), &endpoint, &path).await?;
    if !response.status().is_success() {
        return Err(failure(call, response).await);
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

fn path(call: &Call, container: &str) -> String {
    let query = &call.query;
    let mut pairs: Vec<String> = ["follow", "previous", "timestamps"]
        .iter()
        .filter(|name| query.flag(name))
        .map(|name| format!("{name}=true"))
        .collect();
    for name in [
        "sinceSeconds",
        "sinceTime",
        "tailLines",
        "limitBytes",
        "stream",
    ] {
        if !query.get(name).is_empty() {
            pairs.push(format!("{name}={}", encode(query.get(name))));
        }
    }
    format!(
        "/containerLogs/{}/{}/{container}?{}",
        call.info.namespace,
        call.info.name,
        pairs.join("&")
    )
}

fn check(query: &Query) -> ApiResult<Vec<FieldError>> {
    let mut errors = Vec::new();
    let positive = "must be greater than 0";
    if let Some(lines) = query.number("tailLines")?.filter(|lines| *lines < 0) {
        errors.push(FieldError::invalid(
            &Path::new("tailLines"),
            lines,
            "must be greater than or equal to 0",
        ));
    }
    if let Some(bytes) = query.number("limitBytes")?.filter(|bytes| *bytes < 1) {
        errors.push(FieldError::invalid(
            &Path::new("limitBytes"),
            bytes,
            positive,
        ));
    }
    let since = query.number("sinceSeconds")?;
    if since.is_some() && !query.get("sinceTime").is_empty() {
        errors.push(FieldError::forbidden(
            &Path::nameless(),
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    } else if let Some(seconds) = since.filter(|seconds| *seconds < 1) {
        errors.push(FieldError::invalid(
            &Path::new("sinceSeconds"),
            seconds,
            positive,
        ));
    }
    let stream = query.get("stream");
    if !matches!(stream, "" | "All" | "Stdout" | "Stderr") {
        errors.push(FieldError::not_supported(
            &Path::new("stream"),
            stream,
            &["All", "Stdout", "Stderr"],
        ));
    } else if !matches!(stream, "" | "All") && query.has("tailLines") {
        errors.push(FieldError::forbidden(
            &Path::nameless(),
            "`tailLines` and specific `stream` are mutually exclusive for now",
        ));
    }
    Ok(errors)
}

/// A kubelet's error as a `Status`.
async fn failure(call: &Call, response: Response<Body>) -> ApiError {
    let code = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), 64 << 10)
        .await
        .unwrap_or_default();
    let text = String::from_utf8_lossy(body.get(..ERROR_LENGTH).unwrap_or(&body))
        .trim()
        .to_owned();
    let name = &call.info.name;
    let error = match code {
        400 => ApiError::bad_request(text.clone()),
        404 => ApiError::new(
            404,
            "NotFound",
            format!("the server could not find the requested resource ( pods/log {name})"),
        ),
        _ => ApiError::new(
            code,
            "InternalError",
            format!(
                "an error on the server ({text:?}) has prevented the request from succeeding ( pods/log {name})"
            ),
        ),
    };
    if code == 400 {
        return error;
    }
    let causes = json!([{"reason": "UnexpectedServerResponse", "message": text}]);
    ApiError {
        details: Some(json!({"name": name, "kind": "pods/log", "causes": causes})),
        ..error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let table = [
            ("", 0),
            ("tailLines=10&follow=true", 0),
            ("tailLines=-1", 1),
            ("limitBytes=0", 1),
            ("sinceSeconds=0", 1),
            ("sinceSeconds=5&sinceTime=2026-01-01T00:00:00Z", 1),
            ("stream=x", 1),
            ("stream=Stdout&tailLines=1", 1),
        ];
        for (query, count) in table {
            assert_eq!(
                check(&Query::parse(Some(query))).unwrap().len(),
                count,
                "{query}"
            );
        }
        assert_eq!(
            check(&Query::parse(Some("tailLines=x"))).unwrap_err().code,
            400
        );
    }
}
