//! What is served beside resources: discovery, health, version.

use axum::body::Body;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, VARY};
use http::{Method, Response};
use serde_json::{Value, json};
use skiff_api::{ApiError, ApiResult, discovery_documents};

use crate::content::{self, Accepted};
use crate::dispatch::method_not_allowed;
use crate::server::Call;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers a request for a path that is no resource.
pub(crate) fn answer(call: &Call) -> ApiResult<Response<Body>> {
    if !matches!(call.parts.method, Method::GET | Method::HEAD) {
        return Err(method_not_allowed());
    }
    let path = call.info.path.trim_end_matches('/');
    let segments: Vec<&str> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    match segments.as_slice() {
        [] => Ok(json_answer(call, &json!({"paths": paths(call)}))),
        ["version"] => Ok(json_answer(call, &version(call))),
        ["api" | "apis"] if wants_aggregated(call) => Ok(aggregated(call, segments == ["api"])),
        ["api"] => {
            let address = call.header(http::header::HOST);
            Ok(json_answer(
                call,
                &discovery_documents::core_versions(&resources(), address),
            ))
        }
        ["apis"] => Ok(json_answer(
            call,
            &discovery_documents::groups(&resources()),
        )),
        ["apis", group] => found(call, discovery_documents::group(&resources(), group)),
        ["api", version] => found(
            call,
            discovery_documents::resource_list(&resources(), "", version),
        ),
        ["apis", group, version] => found(
            call,
            discovery_documents::resource_list(&resources(), group, version),
        ),
        _ => crate::health::answer(call, &segments).ok_or_else(ApiError::no_such_path),
    }
}

fn resources() -> Vec<discovery_documents::Resource> {
    discovery_documents::built_in()
}

fn json_answer(call: &Call, value: &Value) -> Response<Body> {
    let accepted = content::negotiate(call, false).unwrap_or(Accepted::JSON);
    content::value_response(call, accepted, 200, value)
}

fn found(call: &Call, document: Option<Value>) -> ApiResult<Response<Body>> {
    document
        .map(|document| json_answer(call, &document))
        .ok_or_else(ApiError::no_such_path)
}

fn wants_aggregated(call: &Call) -> bool {
    call.header(ACCEPT).split(',').any(|clause| {
        let has = |parameter: &str| clause.split(';').any(|part| part.trim() == parameter);
        has("application/json")
            && has("g=apidiscovery.k8s.io")
            && has("v=v2")
            && has("as=APIGroupDiscoveryList")
    })
}

fn aggregated(call: &Call, core: bool) -> Response<Body> {
    let document = discovery_documents::aggregated(&resources(), core);
    let mut response = content::value_response(call, Accepted::JSON, 200, &document);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    response
        .headers_mut()
        .append(VARY, HeaderValue::from_static("Accept"));
    response
}

fn version(call: &Call) -> Value {
    let git_version = &call.server.config.version;
    let mut numbers = git_version.trim_start_matches('v').split('.');
    let mut next = || numbers.next().unwrap_or("0").to_owned();
    let (major, minor) = (next(), next());
    json!({
        "major": major, "minor": minor,
        "emulationMajor": major, "emulationMinor": minor,
        "gitVersion": git_version, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_architecture()),
    })
}

/// The machine's architecture as Go names it, which is what clients expect.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn paths(call: &Call) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        "/version",
        "/openapi/v2",
        "/openapi/v3",
        "/metrics",
    ]
    .map(str::to_owned)
    .to_vec();
    for resource in call.server.registry.load().iter() {
        let kind = resource.kind;
        if !kind.group.is_empty() {
            paths.push(format!("/apis/{}", kind.group));
            paths.push(format!("/apis/{}/{}", kind.group, kind.version));
        }
    }
    paths.extend(crate::health::paths());
    paths.sort();
    paths.dedup();
    paths
}
