//! What a request may cost: how long it may take, how large it may be.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http::header::{CONNECTION, HeaderValue, RETRY_AFTER};
use http::request::Parts;
use skiff_api::{ApiError, ApiResult};

use crate::request::{RequestInfo, query_value};

/// The largest body of a request, as upstream.
pub(crate) const MAX_BODY: usize = 3 << 20;

/// What the server allows its clients.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// How long a request may take that is not long-running, when it does not ask for less.
    pub request_timeout: Duration,
    /// How many reading requests are answered at once; with the next, the capacity that priority levels share.
    pub max_requests_inflight: u32,
    /// How many writing requests are answered at once.
    pub max_mutating_requests_inflight: u32,
    /// The chance that a request over HTTP/2 makes its connection be closed, so that clients spread over servers.
    pub goaway_chance: f64,
    /// How long requests are still taken after the server says that it is not ready any more.
    pub shutdown_delay: Duration,
    /// Whether requests on connections that are still open get 429 then, so that clients go elsewhere at once.
    pub send_retry_after: bool,
    /// Whether priority levels share the capacity; otherwise the two numbers above are all there is.
    pub fairness: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(60),
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
            goaway_chance: 0.0,
            shutdown_delay: Duration::ZERO,
            send_retry_after: false,
            fairness: true,
        }
    }
}

/// Whether a request may take as long as it likes: watches, streams and proxied requests, as upstream.
pub(crate) fn is_long_running(info: &RequestInfo) -> bool {
    if !info.is_resource {
        return info.path.starts_with("/debug/pprof/");
    }
    info.verb == "watch"
        || info.verb == "proxy"
        || matches!(
            info.subresource.as_str(),
            "attach" | "exec" | "proxy" | "log" | "portforward"
        )
}

/// How long a request may take: what it asks for, at most what the server allows. `None`: it is long-running.
pub(crate) fn deadline(
    limits: &Limits,
    info: &RequestInfo,
    parts: &Parts,
) -> ApiResult<Option<Duration>> {
    if is_long_running(info) {
        return Ok(None);
    }
    let asked = parts
        .uri
        .query()
        .filter(|query| query.contains("timeout="))
        .and_then(|query| query_value(Some(query), "timeout"))
        .filter(|text| !text.is_empty());
    let Some(asked) = asked else {
        return Ok(Some(limits.request_timeout));
    };
    let bad = || {
        ApiError::bad_request(format!(
            "invalid timeout specified in the request URL - time: invalid duration {asked:?}"
        ))
    };
    let wanted = crate::duration::parse(&asked).ok_or_else(bad)?;
    Ok(Some(if wanted.is_zero() {
        limits.request_timeout
    } else {
        wanted.min(limits.request_timeout)
    }))
}

/// 504 for a request that took too long.
pub(crate) fn timed_out(info: &RequestInfo) -> ApiError {
    let writes = matches!(
        info.verb.as_str(),
        "create" | "update" | "patch" | "delete" | "deletecollection"
    );
    let text = if writes && info.is_resource {
        "Timeout: request did not complete within requested timeout - context deadline exceeded"
    } else {
        "Timeout: request did not complete within the allotted timeout"
    };
    ApiError {
        details: Some(serde_json::json!({})),
        ..ApiError::new(504, "Timeout", text)
    }
}

/// 429 for a request that comes while the server stops.
pub(crate) fn shutting_down() -> Response<Body> {
    let text = Bytes::from_static(b"The apiserver is shutting down, please try again later.\n");
    let mut response = crate::content::response(429, "text/plain; charset=utf-8", text);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// 413 for a body that is too large.
pub(crate) fn too_large() -> ApiError {
    ApiError::new(
        413,
        "RequestEntityTooLarge",
        format!("Request entity too large: limit is {MAX_BODY}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(path: &str) -> (RequestInfo, Parts) {
        let (parts, ()) = http::Request::get(path).body(()).unwrap().into_parts();
        let info = RequestInfo::resolve(&parts.method, parts.uri.path(), parts.uri.query());
        (info, parts)
    }

    #[test]
    fn requests_that_are_not_long_running_have_a_deadline() {
        let limits = Limits::default();
        for (path, seconds) in [
            ("/api/v1/pods", Some(60)),
            ("/api/v1/pods?timeout=5s", Some(5)),
            ("/api/v1/pods?timeout=5m", Some(60)),
            ("/api/v1/pods?timeout=0", Some(60)),
            ("/api/v1/pods?watch=1", None),
            ("/api/v1/namespaces/a/pods/b/log?follow=true", None),
            ("/api/v1/namespaces/a/pods/b/exec", None),
            ("/api/v1/namespaces/a/services/b/proxy/x?timeout=1s", None),
            ("/version", Some(60)),
        ] {
            let (info, parts) = case(path);
            let found = deadline(&limits, &info, &parts).unwrap();
            assert_eq!(found, seconds.map(Duration::from_secs), "{path}");
        }
        let (info, parts) = case("/api/v1/pods?timeout=soon");
        let error = deadline(&limits, &info, &parts).unwrap_err();
        assert_eq!(error.code, 400);
    }
}
