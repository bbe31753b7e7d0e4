//! Kubernetes' protobuf encoding of request bodies, read into JSON by a table of its messages.

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine;
use serde_json::{Map, Value, json};
use skiff_api::{ApiError, ApiResult};

/// What every encoded object begins with.
const MAGIC: &[u8] = b"k8s\0";
const MAX_DEPTH: usize = 64;

struct Field {
    number: u64,
    name: &'static str,
    omit_empty: bool,
    pointer: bool,
    list: bool,
    map: bool,
    inline: bool,
    kind: &'static str,
}

type Messages = HashMap<&'static str, Vec<Field>>;

/// The table, read on first use: most servers never see protobuf.
fn messages() -> &'static Messages {
    static MESSAGES: OnceLock<Messages> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        let mut messages = Messages::new();
        let mut current = "";
        for line in include_str!("protobuf/messages.txt").lines() {
            if line.starts_with('#') {
                continue;
            }
            let Some(field) = line.strip_prefix(' ') else {
                current = line;
                messages.entry(current).or_default();
                continue;
            };
            let mut words = field.split(' ');
            let mut next = || words.next().unwrap_or_default();
            let (number, name, flags, kind) = (next(), next(), next(), next());
            messages.entry(current).or_default().push(Field {
                number: number.parse().unwrap_or(0),
                name,
                omit_empty: flags.contains('?'),
                pointer: flags.contains('*'),
                list: flags.contains('['),
                map: flags.contains('{'),
                inline: flags.contains('~'),
                kind,
            });
        }
        messages
    })
}

/// An encoded object as JSON, `apiVersion` and `kind` included.
pub fn to_json(body: &[u8]) -> ApiResult<Value> {
    let bad =
        |why: &str| ApiError::bad_request(format!("couldn't get version/kind; protobuf: {why}"));
    let envelope = body
        .strip_prefix(MAGIC)
        .ok_or_else(|| bad("the body does not start with the expected prefix"))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Reader(envelope) {
        let (number, value) = field.ok_or_else(|| bad("malformed envelope"))?;
        match (number, value) {
            (1, Wire::Bytes(meta)) => {
                for field in Reader(meta) {
                    match field.ok_or_else(|| bad("malformed type"))? {
                        (1, Wire::Bytes(text)) => {
                            api_version = String::from_utf8_lossy(text).into_owned()
                        }
                        (2, Wire::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (group, version) = api_version
        .split_once('/')
        .unwrap_or(("core", &api_version));
    let group = group.split('.').next().unwrap_or_default();
    let wanted = format!("{group}.{version}.{kind}");
    let fallback = format!("meta.v1.{kind}");
    let message = [&wanted, &fallback]
        .into_iter()
        .find_map(|name| messages().get_key_value(name.as_str()))
        .ok_or_else(|| {
            bad(&format!(
                "no kind {kind:?} is registered for version {api_version:?}"
            ))
        })?;
    let mut object = Map::new();
    decode(message.0, raw, &mut object, 0).ok_or_else(|| bad("malformed object"))?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

enum Wire<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32,
}

/// The fields of a message; `None` in the iteration: malformed, and the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            if shift < 64 {
                value |= u64::from(byte & 0x7f) << shift;
            }
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(self.take(8)?.try_into().ok()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => return None,
        };
        Some((key >> 3, wire))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Option<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn decode(
    message: &str,
    bytes: &[u8],
    object: &mut Map<String, Value>,
    depth: usize,
) -> Option<()> {
    if depth > MAX_DEPTH {
        return None;
    }
    let fields = messages().get(message)?;
    for field in Reader(bytes) {
        let (number, wire) = field?;
        let Some(field) = fields.iter().find(|field| field.number == number) else {
            continue;
        };
        if field.inline {
            if let Wire::Bytes(bytes) = wire {
                decode(field.kind, bytes, object, depth + 1)?;
            }
        } else if field.map {
            let (key, value) = map_entry(field, &wire, depth)?;
            let map = object.entry(field.name).or_insert_with(|| json!({}));
            map.as_object_mut()?.insert(key, value);
        } else if field.list {
            let list = object.entry(field.name).or_insert_with(|| json!([]));
            let list = list.as_array_mut()?;
            match wire {
                // Packed numbers.
                Wire::Bytes(mut bytes) if matches!(field.kind, "i" | "b") => {
                    while !bytes.is_empty() {
                        let mut reader = Reader(bytes);
                        list.push(scalar(field.kind, &Wire::Varint(reader.varint()?), depth)?);
                        bytes = reader.0;
                    }
                }
                wire => list.push(scalar(field.kind, &wire, depth)?),
            }
        } else {
            let value = scalar(field.kind, &wire, depth)?;
            let empty = match &value {
                Value::Null => true,
                Value::Bool(value) => !value,
                Value::Number(number) => number.as_f64() == Some(0.0),
                Value::String(text) => text.is_empty(),
                _ => false,
            };
            if value.is_null() || (empty && field.omit_empty && !field.pointer) {
                continue;
            }
            object.insert(field.name.to_owned(), value);
        }
    }
    Some(())
}

fn map_entry(field: &Field, wire: &Wire<'_>, depth: usize) -> Option<(String, Value)> {
    let Wire::Bytes(entry) = wire else {
        return None;
    };
    let mut key = String::new();
    let mut value = None;
    for part in Reader(entry) {
        match part? {
            (1, Wire::Bytes(text)) => key = String::from_utf8(text.to_vec()).ok()?,
            (2, wire) => value = Some(scalar(field.kind, &wire, depth)?),
            _ => {}
        }
    }
    let value = match value {
        Some(value) => value,
        None => scalar(field.kind, &Wire::Bytes(&[]), depth)?,
    };
    Some((key, value))
}

/// One value; `null`: the zero time. `None`: malformed.
fn scalar(kind: &str, wire: &Wire<'_>, depth: usize) -> Option<Value> {
    let value = match (kind, wire) {
        ("i", Wire::Varint(number)) => (*number as i64).into(),
        ("b", Wire::Varint(number)) => (*number != 0).into(),
        ("d", Wire::Fixed64(bytes)) => f64::from_le_bytes(*bytes).into(),
        ("s", Wire::Bytes(text)) => std::str::from_utf8(text).ok()?.into(),
        ("y", Wire::Bytes(bytes)) => base64::engine::general_purpose::STANDARD
            .encode(bytes)
            .into(),
        ("raw", Wire::Bytes(bytes)) => raw(bytes)?,
        ("[s", Wire::Bytes(bytes)) => {
            let mut list = Vec::new();
            for field in Reader(bytes) {
                list.push(scalar("s", &field?.1, depth)?);
            }
            list.into()
        }
        ("quantity", Wire::Bytes(bytes)) => {
            let mut text = Value::String("0".to_owned());
            for field in Reader(bytes) {
                text = scalar("s", &field?.1, depth)?;
            }
            text
        }
        ("intorstring", Wire::Bytes(bytes)) => int_or_string(bytes)?,
        ("time" | "microtime" | "duration", Wire::Bytes(bytes)) => time(kind, bytes)?,
        (message, Wire::Bytes(bytes)) => {
            let mut object = Map::new();
            decode(message, bytes, &mut object, depth + 1)?;
            object.into()
        }
        _ => return None,
    };
    Some(value)
}

fn int_or_string(bytes: &[u8]) -> Option<Value> {
    let (mut is_text, mut number, mut text) = (false, Value::from(0), Value::from(""));
    for field in Reader(bytes) {
        match field? {
            (1, Wire::Varint(kind)) => is_text = kind == 1,
            (2, wire) => number = scalar("i", &wire, 0)?,
            (3, wire) => text = scalar("s", &wire, 0)?,
            _ => {}
        }
    }
    Some(if is_text { text } else { number })
}

fn time(kind: &str, bytes: &[u8]) -> Option<Value> {
    if bytes.is_empty() && kind != "duration" {
        return Some(Value::Null);
    }
    let (mut first, mut nanos) = (0i64, 0i32);
    for field in Reader(bytes) {
        match field? {
            (1, Wire::Varint(number)) => first = number as i64,
            (2, Wire::Varint(number)) => nanos = i32::try_from(number as i64).ok()?,
            _ => {}
        }
    }
    Some(match kind {
        "duration" => format!("{}s", jiff::SignedDuration::from_nanos(first).as_secs_f64()).into(),
        "time" => jiff::Timestamp::from_second(first).ok()?.to_string().into(),
        _ => format!("{:.6}", jiff::Timestamp::new(first, nanos).ok()?).into(),
    })
}

/// JSON within a message: its only field. An encoded object is read as well.
fn raw(bytes: &[u8]) -> Option<Value> {
    for field in Reader(bytes) {
        if let (1, Wire::Bytes(json)) = field? {
            if json.is_empty() {
                return Some(Value::Null);
            }
            if json.starts_with(MAGIC) {
                return to_json(json).ok();
            }
            return serde_json::from_slice(json).ok();
        }
    }
    Some(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = content.len();
        while length > 0x7f {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(content);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [
            bytes_field(1, api_version.as_bytes()),
            bytes_field(2, kind.as_bytes()),
        ]
        .concat();
        [MAGIC.to_vec(), bytes_field(1, &meta), bytes_field(2, raw)].concat()
    }

    #[test]
    fn every_message_named_in_the_table_is_in_the_table() {
        let known = [
            "s",
            "i",
            "b",
            "d",
            "y",
            "[s",
            "time",
            "microtime",
            "duration",
            "quantity",
            "intorstring",
            "raw",
        ];
        for (message, fields) in messages() {
            for field in fields {
                let resolved = known.contains(&field.kind) || messages().contains_key(field.kind);
                assert!(resolved && field.number > 0, "{message} {}", field.name);
            }
        }
        for kind in skiff_api::kinds().iter().filter(|kind| kind.is_stored()) {
            let group = if kind.group.is_empty() {
                "core"
            } else {
                kind.group.split('.').next().unwrap()
            };
            let name = format!("{group}.{}.{}", kind.version, kind.kind);
            assert!(messages().contains_key(name.as_str()), "{name}");
        }
    }

    #[test]
    fn reads_an_object() {
        let entry = [bytes_field(1, b"key"), bytes_field(2, b"value")].concat();
        let created = bytes_field(8, &[8, 60]);
        let meta = [bytes_field(1, b"a"), bytes_field(3, b""), created].concat();
        let raw = [
            bytes_field(1, &meta),
            bytes_field(2, &entry),
            vec![4 << 3, 0],
        ]
        .concat();
        assert_eq!(
            to_json(&envelope("v1", "ConfigMap", &raw)).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:01:00Z"},
                "data": {"key": "value"}, "immutable": false,
            })
        );
        assert_eq!(
            to_json(&envelope("v1", "Nothing", &raw)).unwrap_err().code,
            400
        );
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = to_json(&bytes);
            let _ = to_json(&envelope("v1", "Pod", &bytes));
        }
    }
}
