//! The OpenAPI documents that are served: those of built-in kinds with what custom resources and other servers add.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use http::Response;
use http::header::{ACCEPT, CONTENT_ENCODING, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_api::schema::openapi::{self, BuiltIn, Extra, Format, Part};
use skiff_api::{ApiError, ApiResult, Kind};

use crate::aggregation::discovery as aggregation;
use crate::aggregation::openapi_v2;
use crate::content;
use crate::documents::discovery;
use crate::registry::Registry;
use crate::served_kind::ServedKind;
use crate::server::Call;

/// What clients ask for. It is no media type: the answer's is [`V2_PROTOBUF`], since clients refuse what they cannot parse.
const V2_PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// A document of the API.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum OpenApi {
    V2(Format),
    V3(String, String),
}

/// Documents that were made, and what goes into each that is still to be made.
#[derive(Default)]
pub(crate) struct OpenApiDocuments {
    /// Each with what tells its state from others.
    documents: Mutex<HashMap<OpenApi, (u64, openapi::Document)>>,
    built_in: [OnceLock<BuiltIn>; 2],
}

impl OpenApiDocuments {
    fn built_in(&self, kinds: &'static [Kind], format: Format) -> &BuiltIn {
        self.built_in[format as usize].get_or_init(|| BuiltIn::new(kinds, format))
    }
}

/// What distinguishes a document: the program, and the custom resources in it.
fn document_hash(custom: u64) -> String {
    match custom {
        0 => openapi::built_in_hash(),
        custom => format!("{}{custom:016X}", openapi::built_in_hash()),
    }
}

/// What `/openapi/v3` says: where the documents are.
pub(crate) fn index(call: &Call) -> Value {
    let versions = discovery(call).documents().into_iter();
    let versions: Vec<(String, String, String)> = versions
        .map(|(group, version, custom)| (group, version, document_hash(custom)))
        .collect();
    let mut index = openapi::v3_index(&versions);
    aggregation::add_openapi(&mut index, &call.server.aggregation);
    index
}

/// A version of a custom resource as documents describe it.
fn describe<'k>(
    kind: &'k ServedKind,
    schema: Option<&'k JSONSchemaProps>,
    selectable: &'k [String],
) -> openapi::custom::Custom<'k> {
    openapi::custom::Custom {
        group: &kind.group,
        version: &kind.version,
        kind: &kind.kind,
        list_kind: &kind.list_kind,
        plural: &kind.plural,
        scope: kind.scope,
        subresources: kind.subresources,
        schema,
        selectable,
    }
}

/// What custom resources add to the document of their group and version.
fn custom_v3(registry: &Registry, kinds: &'static [Kind], group: &str, version: &str) -> Extra {
    let mut extra = Extra {
        kinds: Some(kinds),
        ..Extra::default()
    };
    for resource in registry.customs() {
        let kind = &resource.kind;
        if kind.group != group || kind.version != version {
            continue;
        }
        let Some(custom) = kind.as_custom() else {
            continue;
        };
        let schema = custom.definition().schema_of(&kind.version);
        let selectable: Vec<String> = kind.fields.iter().map(ToString::to_string).collect();
        let described = describe(kind, schema.as_ref(), &selectable);
        extra.extend(openapi::custom::v3(&described));
    }
    extra
}

/// What a version of a custom resource adds to the document of all.
fn custom_v2(kind: &ServedKind) -> Option<Extra> {
    let schema = kind.as_custom()?.definition().schema_of(&kind.version);
    Some(openapi::custom::v2(&describe(kind, schema.as_ref(), &[])))
}

/// What is put together to `/openapi/v2`: a definition that did not change adds what was made of it before.
fn v2_parts(registry: &Registry, format: Format) -> Vec<Arc<Part>> {
    let mut parts = Vec::new();
    for resource in registry.customs() {
        let kind = &resource.kind;
        let definition = kind.as_custom().map(|custom| custom.definition());
        let version = definition.and_then(|definition| definition.version(&kind.version));
        let Some(version) = version else {
            continue;
        };
        let made = || {
            let extra = custom_v2(kind).unwrap_or_default();
            Arc::new(Part::new(&extra, format))
        };
        parts.push(
            version.openapi_v2[format as usize]
                .get_or_init(made)
                .clone(),
        );
    }
    parts
}

/// What other servers add to it. Their definitions get other names where ours, built in or custom, say something else.
fn aggregated_v2(
    registry: &Registry,
    kinds: &'static [Kind],
    aggregated: &[Arc<openapi_v2::Part>],
    format: Format,
) -> Option<Arc<Part>> {
    let parts = || aggregated.iter().map(|part| &**part);
    let wanted = openapi_v2::names(parts());
    if wanted.is_empty() {
        return None;
    }
    let mut own = Extra {
        kinds: Some(kinds),
        ..Extra::default()
    };
    for resource in registry.customs() {
        let kind = &resource.kind;
        let name =
            |kind_name: &str| openapi::custom::schema_name(&kind.group, &kind.version, kind_name);
        if wanted.contains(name(&kind.kind).as_str())
            || wanted.contains(name(&kind.list_kind).as_str())
        {
            own.extend(custom_v2(kind).unwrap_or_default());
        }
    }
    let mut extra = own.clone();
    openapi_v2::merge(&mut extra, parts());
    extra.paths.retain(|path, _| !own.paths.contains_key(path));
    extra
        .schemas
        .retain(|name, _| !own.schemas.contains_key(name));
    Some(Arc::new(Part::new(&extra, format)))
}

/// Answers with `/openapi/v2`.
pub(crate) async fn v2(call: &Call) -> ApiResult<Response<Body>> {
    let accept = call.header(ACCEPT);
    let protobuf = accept.contains(V2_PROTOBUF_ASKED) || accept.contains(V2_PROTOBUF);
    let format = if protobuf {
        Format::Protobuf
    } else {
        Format::Json
    };
    document(call, OpenApi::V2(format)).await
}

/// Answers with the document of a group and version.
pub(crate) async fn v3(call: &Call, group: &str, version: &str) -> ApiResult<Response<Body>> {
    document(call, OpenApi::V3(group.to_owned(), version.to_owned())).await
}

async fn document(call: &Call, which: OpenApi) -> ApiResult<Response<Body>> {
    let told = discovery(call);
    let aggregated = match &which {
        OpenApi::V2(_) => call.server.aggregation.openapi_v2(),
        OpenApi::V3(..) => Vec::new(),
    };
    let custom = match &which {
        OpenApi::V2(_) => aggregated
            .iter()
            .fold(told.all(), |hash, part| hash.rotate_left(1) ^ part.hash()),
        OpenApi::V3(group, version) => told.document(group, version),
    };
    let kept = call.server.openapi.documents.lock().get(&which).cloned();
    let document = match kept.filter(|(of, _)| *of == custom) {
        Some((_, document)) => document,
        None => {
            let (wanted, server) = (which.clone(), call.server.clone());
            // Making a document takes a while; other requests go on meanwhile.
            let made = tokio::task::spawn_blocking(move || {
                let (registry, kinds) = (server.registry.load_full(), server.config.kinds);
                match wanted {
                    OpenApi::V2(format) => {
                        let mut parts = v2_parts(&registry, format);
                        parts.extend(aggregated_v2(&registry, kinds, &aggregated, format));
                        Some(server.openapi.built_in(kinds, format).with(&parts))
                    }
                    OpenApi::V3(group, version) => {
                        let extra = custom_v3(&registry, kinds, &group, &version);
                        openapi::v3(&group, &version, &extra)
                    }
                }
            });
            let document = made
                .await
                .map_err(ApiError::internal)?
                .ok_or_else(ApiError::no_such_path)?;
            call.server
                .openapi
                .documents
                .lock()
                .insert(which.clone(), (custom, document.clone()));
            document
        }
    };
    let media = match which {
        OpenApi::V2(Format::Protobuf) => V2_PROTOBUF,
        _ => "application/json",
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
