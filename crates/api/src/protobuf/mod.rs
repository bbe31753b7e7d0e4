//! The protobuf form of objects (`application/vnd.kubernetes.protobuf`): to and from JSON, driven by one table.
//!
//! The table (`table.txt`) holds the field numbers that upstream publishes. Nothing is generated: a message is read field by
//! field into the JSON value that the rest of the server works on, so protobuf costs no second set of types.

mod decode;
mod encode;
mod messages;
mod wire;

use serde_json::{Map, Value};

use crate::status::{ApiError, ApiResult};

pub use wire::WireError;

/// What every protobuf body starts with.
pub const MAGIC: &[u8; 4] = b"k8s\0";
/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

fn malformed(error: &WireError) -> ApiError {
    ApiError::bad_request(format!("the object is no valid protobuf: {error}"))
}

/// The name of a kind's message in the table.
fn message_name(api_version: &str, kind: &str) -> Option<&'static str> {
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let group = group.split('.').next().unwrap_or(group);
    let own = messages::find(&format!("{group}.{version}.{kind}"));
    own.or_else(|| messages::find(&format!("meta.v1.{kind}")))
        .map(|(name, _)| name)
}

/// Reads a body with its envelope into JSON with `apiVersion` and `kind`.
pub fn decode(bytes: &[u8]) -> ApiResult<Value> {
    let Some(envelope) = bytes.strip_prefix(MAGIC) else {
        return Err(ApiError::bad_request(
            "the object is no Kubernetes protobuf: it does not start with k8s\\0",
        ));
    };
    let (api_version, kind, raw) = unwrap(envelope).map_err(|error| malformed(&error))?;
    let Some(name) = message_name(&api_version, &kind) else {
        return Err(ApiError::bad_request(format!(
            "no kind {kind:?} is registered for version {api_version:?}"
        )));
    };
    let mut object = decode::message(name, raw, 0).map_err(|error| malformed(&error))?;
    let mut whole = Map::new();
    whole.insert("apiVersion".into(), api_version.into());
    whole.insert("kind".into(), kind.into());
    whole.append(&mut object);
    Ok(Value::Object(whole))
}

fn unwrap(envelope: &[u8]) -> Result<(String, String, &[u8]), WireError> {
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in wire::Fields::new(envelope) {
        let (number, value) = field?;
        match number {
            1 => {
                for field in wire::Fields::new(value.bytes()?) {
                    match field? {
                        (1, text) => api_version = text.text()?.to_owned(),
                        (2, text) => kind = text.text()?.to_owned(),
                        _ => {}
                    }
                }
            }
            2 => raw = value.bytes()?,
            _ => {}
        }
    }
    Ok((api_version, kind, raw))
}

/// Writes an object with its envelope; `None` when its kind has no protobuf form (custom resources).
#[must_use]
pub fn encode(object: &Value) -> Option<Vec<u8>> {
    let (api_version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
    let body = encode::message(message_name(api_version, kind)?, object.as_object()?);
    Some(enveloped(api_version, kind, &body))
}

fn enveloped(api_version: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let mut meta = Vec::new();
    wire::put_bytes(&mut meta, 1, api_version.as_bytes());
    wire::put_bytes(&mut meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(body.len() + meta.len() + 24);
    out.extend_from_slice(MAGIC);
    wire::put_bytes(&mut out, 1, &meta);
    wire::put_bytes(&mut out, 2, body);
    wire::put_bytes(&mut out, 3, b"");
    wire::put_bytes(&mut out, 4, b"");
    out
}

/// Writes a list as [`encode`] does, from its items one after another: they are not all decoded at once. `kind` is the
/// list's own; `None` when it has no protobuf form.
#[must_use]
pub fn encode_list(
    api_version: &str,
    kind: &str,
    metadata: &Value,
    items: impl Iterator<Item = Value>,
) -> Option<Vec<u8>> {
    let name = message_name(api_version, kind)?;
    let field = messages::fields(name).find(|field| field.name == "items")?;
    let element = field.kind.strip_prefix('r')?.trim_start_matches('p');
    let element = element.strip_prefix('m')?;
    let mut head = Map::new();
    head.insert("metadata".into(), metadata.clone());
    let mut body = encode::message(name, &head);
    for item in items {
        let item = encode::message(element, item.as_object()?);
        wire::put_bytes(&mut body, field.number, &item);
    }
    Some(enveloped(api_version, kind, &body))
}

/// A frame of a watch: the length in four bytes, then an event with an object as [`encode`] writes it. The event itself
/// has no envelope.
#[must_use]
pub fn watch_frame(event: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(object.len() + 8);
    wire::put_bytes(&mut raw, 1, object);
    let mut out = vec![0; 4];
    wire::put_bytes(&mut out, 1, event.as_bytes());
    wire::put_bytes(&mut out, 2, &raw);
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    if let Some(head) = out.get_mut(..4) {
        head.copy_from_slice(&length.to_be_bytes());
    }
    out
}

#[cfg(test)]
mod tests;
