//! Content negotiation: what a client sends and what it wants to get.

use axum::body::Body;
use bytes::Bytes;
use http::header::{
    ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, VARY, WARNING,
};
use http::{HeaderName, Response};
use serde_json::Value;
use skiff_api::schema::body::{Format, parse_yaml};
use skiff_api::{ApiError, ApiResult};

use crate::server::Call;

/// Bodies from this size on are compressed for clients that accept it, as upstream does.
pub const GZIP_FROM: usize = 128 << 10;

/// Kubernetes' own encoding.
const PROTOBUF: &str = skiff_api::protobuf::MEDIA_TYPE;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// What an answer shows of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The objects themselves.
    Object,
    /// A table; with the version asked for.
    Table(&'static str),
    /// Their metadata.
    Metadata,
}

/// What the client wants to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// How it is written.
    pub encoding: Encoding,
    /// What is shown.
    pub shape: Shape,
    /// Whether it is indented.
    pub pretty: bool,
}

impl Accepted {
    /// Plain JSON.
    pub const JSON: Self = Self {
        encoding: Encoding::Json,
        shape: Shape::Object,
        pretty: false,
    };
}

/// Chooses the first of the client's media types that the server can answer; `list`: the answer is a list or watch.
pub fn negotiate(call: &Call, list: bool) -> ApiResult<Accepted> {
    let header = call.header(ACCEPT);
    let pretty = call.query.flag("pretty");
    let custom = header.contains(PROTOBUF) && is_custom(call);
    let accepted = choose(header, list, custom).ok_or_else(|| match custom {
        true => ApiError::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json, application/yaml",
        ),
        false => not_acceptable(),
    })?;
    Ok(Accepted { pretty, ..accepted })
}

/// The same for an answer that is no stored object (a review): it is shown as it is or not at all.
pub fn negotiate_whole(call: &Call) -> ApiResult<Accepted> {
    let accepted = negotiate(call, false)?;
    match accepted.shape {
        Shape::Object => Ok(accepted),
        Shape::Table(_) | Shape::Metadata => Err(not_acceptable()),
    }
}

fn not_acceptable() -> ApiError {
    ApiError::new(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    )
}

/// Whether a request is for a custom resource, whose objects have no protobuf form.
fn is_custom(call: &Call) -> bool {
    let (registry, info) = (call.server.registry.load(), &call.info);
    let resource = registry.get(&info.group, &info.version, &info.resource);
    info.subresource != "scale"
        && resource.is_some_and(|resource| resource.kind.as_custom().is_some())
}

fn choose(header: &str, list: bool, custom: bool) -> Option<Accepted> {
    if matches!(header.trim(), "" | "application/json" | "*/*") {
        return Some(Accepted::JSON);
    }
    let mut clauses: Vec<(f32, usize, &str)> = Vec::new();
    for (index, clause) in header.split(',').enumerate() {
        let quality = parameters(clause)
            .find(|(name, _)| *name == "q")
            .and_then(|(_, value)| value.parse::<f32>().ok())
            .unwrap_or(1.0);
        clauses.push((quality, index, clause));
    }
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    clauses
        .iter()
        .filter(|(quality, ..)| *quality > 0.0)
        .filter_map(|(_, _, clause)| accept(clause, list))
        .find(|accepted| {
            let plain = accepted.shape == Shape::Object;
            !(custom && plain && accepted.encoding == Encoding::Protobuf)
        })
}

fn parameters(clause: &str) -> impl Iterator<Item = (&str, &str)> {
    clause.split(';').skip(1).filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        Some((name.trim(), value.trim().trim_matches('"')))
    })
}

fn accept(clause: &str, list: bool) -> Option<Accepted> {
    let media = clause.split(';').next().unwrap_or_default().trim();
    let encoding = match media {
        "application/json" | "*/*" | "application/*" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        PROTOBUF => Encoding::Protobuf,
        _ => return None,
    };
    let mut shape = Shape::Object;
    let (mut group, mut version, mut name) = ("", "", "");
    for (parameter, value) in parameters(clause) {
        match parameter {
            "as" => name = value,
            "g" => group = value,
            "v" => version = value,
            _ => {}
        }
    }
    if !name.is_empty() {
        let version = match version {
            "v1" => "meta.k8s.io/v1",
            "v1beta1" => "meta.k8s.io/v1beta1",
            _ => return None,
        };
        shape = match (group, name) {
            ("meta.k8s.io", "Table") => Shape::Table(version),
            ("meta.k8s.io", "PartialObjectMetadata") if !list => Shape::Metadata,
            // Watches of metadata ask for single objects.
            ("meta.k8s.io", "PartialObjectMetadataList" | "PartialObjectMetadata") if list => {
                Shape::Metadata
            }
            _ => return None,
        };
    }
    // Tables have no protobuf form.
    if encoding == Encoding::Protobuf && matches!(shape, Shape::Table(_)) {
        return None;
    }
    Some(Accepted {
        encoding,
        shape,
        pretty: false,
    })
}

/// A request body as text that [`skiff_api::schema::decode`] reads (protobuf becomes JSON); 415 for other types.
pub fn body_text(call: &Call, body: &Bytes) -> ApiResult<(Bytes, Format)> {
    let header = call.header(CONTENT_TYPE);
    let media = header.split(';').next().unwrap_or_default().trim();
    match media {
        "" | "application/json" => Ok((body.clone(), Format::Json)),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok((body.clone(), Format::Yaml)),
        PROTOBUF if is_custom(call) => Err(ApiError::new(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml",
        )),
        PROTOBUF => serde_json::to_vec(&skiff_api::protobuf::decode(body)?)
            .map(|json| (Bytes::from(json), Format::Json))
            .map_err(ApiError::internal),
        _ => Err(unsupported_media_type()),
    }
}

/// A request body as a JSON value, unchecked.
pub fn body_value(call: &Call, body: &Bytes) -> ApiResult<Value> {
    let (text, format) = body_text(call, body)?;
    let bad = |error: String| {
        ApiError::bad_request(format!(
            "couldn't get version/kind; json parse error: {error}"
        ))
    };
    match format {
        Format::Json => serde_json::from_slice(&text).map_err(|error| bad(error.to_string())),
        Format::Yaml => parse_yaml(&text).map(|yaml| yaml.value).map_err(bad),
    }
}

/// 415 in upstream's words.
pub fn unsupported_media_type() -> ApiError {
    ApiError::new(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    )
}

/// An answer from JSON text.
pub fn json_response(call: &Call, accepted: Accepted, code: u16, json: Bytes) -> Response<Body> {
    let (media, bytes) = match (accepted.encoding, accepted.pretty) {
        (Encoding::Json, false) => ("application/json", json),
        (Encoding::Json, true) => {
            let value: Value = serde_json::from_slice(&json).unwrap_or_default();
            (
                "application/json",
                serde_json::to_vec_pretty(&value).unwrap_or_default().into(),
            )
        }
        (Encoding::Yaml, _) => {
            let value: Value = serde_json::from_slice(&json).unwrap_or_default();
            (
                "application/yaml",
                serde_saphyr::to_string(&value).unwrap_or_default().into(),
            )
        }
        (Encoding::Protobuf, _) => match protobuf(&json) {
            Some(bytes) => (PROTOBUF, bytes.into()),
            // Custom resources have none; clients find out by the media type.
            None => ("application/json", json),
        },
    };
    encoded_response(call, code, media, bytes)
}

/// An answer of bytes as they are, compressed where the client asks for it and it pays.
pub fn encoded_response(
    call: &Call,
    code: u16,
    media: &'static str,
    bytes: Bytes,
) -> Response<Body> {
    let gzip = bytes.len() >= GZIP_FROM && accepts_gzip(call);
    let mut response = response(code, media, if gzip { compress(&bytes) } else { bytes });
    if gzip {
        mark_gzip(response.headers_mut());
    }
    response
}

/// Says that a body is compressed.
pub fn mark_gzip(headers: &mut http::HeaderMap) {
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// An object or list in JSON text as protobuf, if it has such a form.
pub fn protobuf(json: &[u8]) -> Option<Vec<u8>> {
    skiff_api::protobuf::encode(&serde_json::from_slice(json).ok()?)
}

/// Whether the client takes gzip.
pub fn accepts_gzip(call: &Call) -> bool {
    call.header(http::header::ACCEPT_ENCODING)
        .split(',')
        .any(|clause| {
            clause.split(';').next().unwrap_or_default().trim() == "gzip"
                && !parameters(clause)
                    .any(|(name, value)| name == "q" && value.parse::<f32>() == Ok(0.0))
        })
}

fn compress(bytes: &[u8]) -> Bytes {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(
        Vec::with_capacity(bytes.len() / 4),
        flate2::Compression::fast(),
    );
    // Writing to a vector cannot fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default().into()
}

/// An answer from a JSON value.
pub fn value_response(call: &Call, accepted: Accepted, code: u16, value: &Value) -> Response<Body> {
    json_response(
        call,
        accepted,
        code,
        serde_json::to_vec(value).unwrap_or_default().into(),
    )
}

/// An answer.
pub fn response(code: u16, media: &'static str, bytes: Bytes) -> Response<Body> {
    let length = bytes.len();
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(
        http::header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    response
}

/// The `Status` of an error.
pub fn error_response(error: &ApiError) -> Response<Body> {
    let body = serde_json::to_vec(&error.to_status()).unwrap_or_default();
    let mut response = response(error.code, "application/json", body.into());
    let retry = error
        .details
        .as_ref()
        .and_then(|details| details.get("retryAfterSeconds"))
        .and_then(Value::as_u64);
    if let Some(seconds) = retry {
        response
            .headers_mut()
            .insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds warnings as headers: `299 - "text"`.
pub fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let mut text = String::with_capacity(warning.len() + 10);
        for c in warning.chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                c if c.is_control() => text.push(' '),
                c => text.push(c),
            }
        }
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) {
            response.headers_mut().append::<HeaderName>(WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_what_it_can_answer() {
        let table = [
            ("", true, Some((Encoding::Json, Shape::Object))),
            ("*/*", true, Some((Encoding::Json, Shape::Object))),
            (
                "application/yaml",
                false,
                Some((Encoding::Yaml, Shape::Object)),
            ),
            (
                "application/vnd.kubernetes.protobuf, application/json",
                false,
                Some((Encoding::Protobuf, Shape::Object)),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io",
                true,
                None,
            ),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                true,
                Some((Encoding::Json, Shape::Table("meta.k8s.io/v1"))),
            ),
            (
                "application/json;as=Table;v=v2;g=meta.k8s.io,application/json",
                true,
                Some((Encoding::Json, Shape::Object)),
            ),
            (
                "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
                true,
                Some((Encoding::Json, Shape::Metadata)),
            ),
            (
                "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
                false,
                Some((Encoding::Json, Shape::Metadata)),
            ),
            (
                "application/json;q=0.1,application/yaml;q=0.9",
                false,
                Some((Encoding::Yaml, Shape::Object)),
            ),
            ("text/html", false, None),
        ];
        for (header, list, expected) in table {
            let got =
                choose(header, list, false).map(|accepted| (accepted.encoding, accepted.shape));
            assert_eq!(got, expected, "{header}");
        }
    }
}
