//! What is served beside resources: discovery, health, version.

use axum::body::Body;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, VARY};
use http::{Method, Response};
use serde_json::{Value, json};
use skiff_api::{ApiError, ApiResult, discovery_documents};

use crate::aggregation::discovery as aggregation;
use crate::content::{self, Accepted};
use crate::crd::discovery::Discovery;
use crate::dispatch::method_not_allowed;
use crate::openapi;
use crate::server::Call;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers a request for a path that is no resource.
pub(crate) async fn answer(call: &Call) -> ApiResult<Response<Body>> {
    if !matches!(call.parts.method, Method::GET | Method::HEAD) {
        return Err(method_not_allowed());
    }
    let path = call.info.path.trim_end_matches('/');
    let segments: Vec<&str> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    if segments
        .first()
        .is_some_and(|first| matches!(*first, "apis" | "openapi"))
    {
        // A server that has just started may not have read the definitions of custom resources yet.
        call.server.definitions.synced().await;
    }
    match segments.as_slice() {
        [] => Ok(json_answer(call, &json!({"paths": paths(call)}))),
        ["version"] => Ok(json_answer(call, &version(call))),
        ["debug", "api_priority_and_fairness", page] => {
            let text = call
                .server
                .flow
                .dump(page)
                .ok_or_else(ApiError::no_such_path)?;
            let media = "text/plain; charset=utf-8";
            Ok(content::response(200, media, text.into()))
        }
        ["api" | "apis"] if wants_aggregated(call) => Ok(aggregated(call, segments == ["api"])),
        ["api"] => {
            let address = call.header(http::header::HOST);
            Ok(json_answer(
                call,
                &discovery_documents::core_versions(discovery(call).group(""), address),
            ))
        }
        ["apis"] => {
            let document = discovery(call).apis(&call.server.aggregation);
            let accepted = content::negotiate(call, false).unwrap_or(Accepted::JSON);
            Ok(content::json_response(call, accepted, 200, document))
        }
        ["apis", group] => {
            let own = discovery_documents::group(discovery(call).group(group), group);
            let apis = call.server.aggregation.apis();
            match aggregation::with_group(own, group, &apis) {
                Some(document) => Ok(json_answer(call, &document)),
                None => Ok(unknown_group()),
            }
        }
        ["api", version] => found(
            call,
            discovery_documents::resource_list(discovery(call).group(""), "", version),
        ),
        ["apis", group, version] => {
            let discovery = discovery(call);
            let resources = discovery.group(group);
            if resources.is_empty() {
                return Ok(unknown_group());
            }
            found(
                call,
                discovery_documents::resource_list(resources, group, version),
            )
        }
        ["openapi", "v2"] => openapi::v2(call).await,
        ["openapi", "v3"] => Ok(json_answer(call, &openapi::index(call))),
        ["openapi", "v3", "api", version] => openapi::v3(call, "", version).await,
        ["openapi", "v3", "apis", group, version] => openapi::v3(call, group, version).await,
        ["openid", "v1", "jwks"] => openid(call, Issued::Keys),
        [".well-known", "openid-configuration"] => openid(call, Issued::Configuration),
        ["metrics"] => Ok(crate::metrics::answer(&call.server)),
        ["metrics", "slis"] => Ok(crate::health::indicators(&call.server).await),
        ["statusz" | "flagz"] => {
            crate::zpages::answer(call, &segments).unwrap_or_else(|| Err(ApiError::no_such_path()))
        }
        _ => crate::health::answer(call, &segments)
            .await
            .ok_or_else(ApiError::no_such_path),
    }
}

/// What those need who check service-account tokens themselves.
enum Issued {
    Keys,
    Configuration,
}

fn openid(call: &Call, which: Issued) -> ApiResult<Response<Body>> {
    let issuer = call
        .server
        .token_issuer()
        .ok_or_else(ApiError::no_such_path)?;
    let (media, document) = match which {
        Issued::Keys => ("application/jwk-set+json", issuer.key_set()),
        Issued::Configuration => {
            let address = match call.server.config.advertise {
                Some(address) => address.to_string(),
                None => call.header(http::header::HOST).to_owned(),
            };
            let keys = format!("https://{address}/openid/v1/jwks");
            ("application/json", issuer.openid_configuration(&keys))
        }
    };
    let document = document.ok_or_else(ApiError::no_such_path)?;
    let bytes = serde_json::to_vec(&document).map_err(ApiError::internal)?;
    let mut response = content::response(200, media, bytes.into());
    response.headers_mut().insert(
        http::header::CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=3600"),
    );
    Ok(response)
}

pub(crate) fn discovery(call: &Call) -> std::sync::Arc<Discovery> {
    let server = &call.server;
    server
        .discovery
        .of(&server.registry.load(), server.config.kinds)
}

/// Upstream's router knows no such group, and answers before any API machinery.
fn unknown_group() -> Response<Body> {
    let text = bytes::Bytes::from_static(b"404 page not found\n");
    content::response(404, "text/plain; charset=utf-8", text)
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
    let discovery = discovery(call);
    let document = match core {
        true => discovery_documents::aggregated(discovery.group(""), true)
            .to_string()
            .into(),
        false => discovery.aggregated(&call.server.aggregation),
    };
    let mut response = content::json_response(call, Accepted::JSON, 200, document);
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
        "/openapi/v3/",
        "/flagz",
        "/metrics/slis",
        "/statusz",
        "/.well-known/openid-configuration",
        "/openid/v1/jwks",
        "/metrics",
    ]
    .map(str::to_owned)
    .to_vec();
    for resource in call.server.registry.load().iter() {
        let kind = &resource.kind;
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
