//! What is served beside resources: discovery, health, version.

use axum::body::Body;
use http::header::{
    ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY,
};
use http::{Method, Response};
use serde_json::{Value, json};
use skiff_api::schema::openapi;
use skiff_api::{ApiError, ApiResult, discovery_documents};

use crate::aggregation::discovery as aggregation;
use crate::aggregation::openapi_v2;
use crate::content::{self, Accepted};
use crate::crd::discovery::Discovery;
use crate::dispatch::method_not_allowed;
use crate::registry::Registry;
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
            let apis = call.server.aggregation.apis();
            let mut document = discovery(call).apis();
            if !apis.is_empty() {
                let mut with = serde_json::from_slice(&document).unwrap_or_default();
                aggregation::add_groups(&mut with, &apis);
                document = with.to_string().into();
            }
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
        ["openapi", "v2"] => {
            let accept = call.header(ACCEPT);
            let protobuf = accept.contains(V2_PROTOBUF_ASKED) || accept.contains(V2_PROTOBUF);
            openapi(
                call,
                if protobuf {
                    OpenApi::V2Protobuf
                } else {
                    OpenApi::V2
                },
            )
            .await
        }
        ["openapi", "v3"] => {
            let mut index = openapi_index(call);
            aggregation::add_openapi(&mut index, &call.server.aggregation);
            Ok(json_answer(call, &index))
        }
        ["openapi", "v3", "api", version] => {
            openapi(call, OpenApi::V3(String::new(), (*version).to_owned())).await
        }
        ["openapi", "v3", "apis", group, version] => {
            openapi(
                call,
                OpenApi::V3((*group).to_owned(), (*version).to_owned()),
            )
            .await
        }
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

/// What clients ask for. It is no media type: the answer's is [`V2_PROTOBUF`], since clients refuse what they cannot parse.
const V2_PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// A document of the API.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum OpenApi {
    V2,
    V2Protobuf,
    V3(String, String),
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

/// What distinguishes a document: the program, and the custom resources in it.
fn document_hash(custom: u64) -> String {
    match custom {
        0 => openapi::built_in_hash(),
        custom => format!("{}{custom:016X}", openapi::built_in_hash()),
    }
}

fn openapi_index(call: &Call) -> Value {
    let versions = discovery(call).documents().into_iter();
    let versions: Vec<(String, String, String)> = versions
        .map(|(group, version, custom)| (group, version, document_hash(custom)))
        .collect();
    openapi::v3_index(&versions)
}

/// What the custom resources of a group and version (`None`: all of them) add to a document.
fn custom_parts(
    registry: &Registry,
    kinds: &'static [skiff_api::Kind],
    of: Option<(&str, &str)>,
) -> openapi::Extra {
    let mut extra = openapi::Extra {
        kinds: Some(kinds),
        ..openapi::Extra::default()
    };
    for resource in registry.customs() {
        let kind = &resource.kind;
        let wanted =
            of.is_none_or(|(group, version)| kind.group == group && kind.version == version);
        let Some(custom) = kind.as_custom().filter(|_| wanted) else {
            continue;
        };
        let schema = custom.definition().schema_of(&kind.version);
        let selectable: Vec<String> = kind.fields.iter().map(ToString::to_string).collect();
        let described = openapi::custom::Custom {
            group: &kind.group,
            version: &kind.version,
            kind: &kind.kind,
            list_kind: &kind.list_kind,
            plural: &kind.plural,
            scope: kind.scope,
            subresources: kind.subresources,
            schema: schema.as_ref(),
            selectable: &selectable,
        };
        extra.extend(match of {
            None => openapi::custom::v2(&described),
            Some(_) => openapi::custom::v3(&described),
        });
    }
    extra
}

async fn openapi(call: &Call, which: OpenApi) -> ApiResult<Response<Body>> {
    let told = discovery(call);
    let aggregated = match &which {
        OpenApi::V2 | OpenApi::V2Protobuf => call.server.aggregation.openapi_v2(),
        OpenApi::V3(..) => Vec::new(),
    };
    let custom = match &which {
        OpenApi::V2 | OpenApi::V2Protobuf => aggregated
            .iter()
            .fold(told.all(), |hash, part| hash.rotate_left(1) ^ part.hash()),
        OpenApi::V3(group, version) => told.document(group, version),
    };
    let kept = call.server.openapi.lock().get(&which).cloned();
    let document = match kept.filter(|(of, _)| *of == custom) {
        Some((_, document)) => document,
        None => {
            let wanted = which.clone();
            let registry = call.server.registry.load_full();
            let kinds = call.server.config.kinds;
            // Making a document takes a while; other requests go on meanwhile.
            let whole = move |registry: &Registry| {
                let mut extra = custom_parts(registry, kinds, None);
                openapi_v2::merge(&mut extra, aggregated.iter().map(|part| &**part));
                extra
            };
            let made = tokio::task::spawn_blocking(move || match wanted {
                OpenApi::V2 => Some(openapi::v2_json(&whole(&registry))),
                OpenApi::V2Protobuf => Some(openapi::v2_protobuf(&whole(&registry))),
                OpenApi::V3(group, version) => {
                    let extra = match custom {
                        0 => openapi::Extra {
                            kinds: Some(kinds),
                            ..openapi::Extra::default()
                        },
                        _ => custom_parts(&registry, kinds, Some((&group, &version))),
                    };
                    openapi::v3(&group, &version, &extra)
                }
            });
            let document = made
                .await
                .map_err(ApiError::internal)?
                .ok_or_else(ApiError::no_such_path)?;
            call.server
                .openapi
                .lock()
                .insert(which.clone(), (custom, document.clone()));
            document
        }
    };
    let media = if which == OpenApi::V2Protobuf {
        V2_PROTOBUF
    } else {
        "application/json"
    };
    let etag = HeaderValue::from_str(&format!("\"{}\"", document_hash(custom))).ok();
    let unchanged = etag.is_some() && call.parts.headers.get(IF_NONE_MATCH) == etag.as_ref();
    let mut response = if unchanged {
        content::response(304, media, bytes::Bytes::new())
    } else if content::accepts_gzip(call) {
        let mut response = content::response(200, media, document.gzip);
        response
            .headers_mut()
            .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        let mut plain = Vec::with_capacity(document.length);
        std::io::Read::read_to_end(
            &mut flate2::read::GzDecoder::new(&*document.gzip),
            &mut plain,
        )
        .map_err(ApiError::internal)?;
        content::response(200, media, plain.into())
    };
    let headers = response.headers_mut();
    if let Some(etag) = etag {
        headers.insert(ETAG, etag);
    }
    headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.append(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

fn discovery(call: &Call) -> std::sync::Arc<Discovery> {
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
    let mut document = match core {
        true => discovery_documents::aggregated(discovery.group(""), true)
            .to_string()
            .into(),
        false => discovery.aggregated(),
    };
    if !core && !call.server.aggregation.apis().is_empty() {
        let mut with = serde_json::from_slice(&document).unwrap_or_default();
        aggregation::add_aggregated(&mut with, &call.server.aggregation);
        document = with.to_string().into();
    }
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
