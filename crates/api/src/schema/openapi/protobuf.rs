//! OpenAPI v2 as protobuf: the messages of `openapi.v2` (gnostic), as far as our documents use them.

use serde_json::{Map, Value};

/// A message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u32, message: &Self) {
        self.bytes(field, &message.0);
    }

    /// A text, left out when it is empty or no text.
    fn text(&mut self, field: u32, value: Option<&Value>) {
        if let Some(text) = value
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
        {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u32, value: Option<&Value>) {
        for text in value
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            self.bytes(field, text.as_bytes());
        }
    }

    fn flag(&mut self, field: u32, value: Option<&Value>) {
        if value.and_then(Value::as_bool) == Some(true) {
            self.varint(u64::from(field) << 3);
            self.varint(1);
        }
    }

    /// An `Any`: the value as YAML, of which JSON is a part.
    fn any(&mut self, field: u32, value: &Value) {
        let mut any = Self::default();
        any.bytes(2, format!("{value}\n").as_bytes());
        self.message(field, &any);
    }

    /// The `x-` entries of an object.
    fn extensions(&mut self, field: u32, object: &Map<String, Value>) {
        for (name, value) in object.iter().filter(|(name, _)| name.starts_with("x-")) {
            let mut named = Self::default();
            named.bytes(1, name.as_bytes());
            named.any(2, value);
            self.message(field, &named);
        }
    }
}

fn named(name: &str, value: &Message) -> Message {
    let mut message = Message::default();
    message.bytes(1, name.as_bytes());
    message.message(2, value);
    message
}

fn wrapped(field: u32, inner: &Message) -> Message {
    let mut message = Message::default();
    message.message(field, inner);
    message
}

/// The beginning of a document. Paths and definitions follow in any order: a message that comes in pieces is merged.
pub(super) fn head(title: &str, version: &str) -> Vec<u8> {
    let mut info = Message::default();
    info.bytes(1, title.as_bytes());
    info.bytes(2, version.as_bytes());
    let mut document = Message::default();
    document.bytes(1, b"2.0");
    document.message(2, &info);
    document.0
}

/// A piece of a document: one path.
pub(super) fn path(name: &str, item: &Value) -> Vec<u8> {
    let mut value = Message::default();
    for (field, method) in [
        (2, "get"),
        (3, "put"),
        (4, "post"),
        (5, "delete"),
        (6, "options"),
        (7, "head"),
        (8, "patch"),
    ] {
        if let Some(Value::Object(found)) = item.get(method) {
            value.message(field, &operation(found));
        }
    }
    for parameter in item
        .get("parameters")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        value.message(9, &parameters_item(parameter));
    }
    wrapped(8, &wrapped(2, &named(name, &value))).0
}

/// A piece of a document: one definition.
pub(super) fn definition(name: &str, value: &Value) -> Vec<u8> {
    wrapped(9, &wrapped(1, &named(name, &schema(value)))).0
}

fn operation(operation: &Map<String, Value>) -> Message {
    let mut message = Message::default();
    message.text(3, operation.get("description"));
    message.text(5, operation.get("operationId"));
    message.texts(6, operation.get("produces"));
    message.texts(7, operation.get("consumes"));
    for parameter in operation
        .get("parameters")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        message.message(8, &parameters_item(parameter));
    }
    let mut responses = Message::default();
    for (code, response) in operation
        .get("responses")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let mut value = Message::default();
        value.text(1, response.get("description"));
        if let Some(found) = response.get("schema") {
            value.message(2, &wrapped(1, &schema(found)));
        }
        responses.message(1, &named(code, &wrapped(1, &value)));
    }
    message.message(9, &responses);
    message.texts(10, operation.get("schemes"));
    message.extensions(13, operation);
    message
}

fn parameters_item(parameter: &Value) -> Message {
    let place = parameter
        .get("in")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if place == "body" {
        let mut body = Message::default();
        body.text(1, parameter.get("description"));
        body.text(2, parameter.get("name"));
        body.text(3, parameter.get("in"));
        body.flag(4, parameter.get("required"));
        if let Some(found) = parameter.get("schema") {
            body.message(5, &schema(found));
        }
        return wrapped(1, &wrapped(1, &body));
    }
    let mut value = Message::default();
    value.flag(1, parameter.get("required"));
    value.text(2, parameter.get("in"));
    value.text(3, parameter.get("description"));
    value.text(4, parameter.get("name"));
    // A query parameter may be empty, which takes a field; all after it moves by one.
    let (kind, ty, unique) = if place == "path" {
        (4, 5, 19)
    } else {
        (3, 6, 20)
    };
    value.text(ty, parameter.get("type"));
    value.flag(unique, parameter.get("uniqueItems"));
    wrapped(1, &wrapped(2, &wrapped(kind, &value)))
}

fn schema(value: &Value) -> Message {
    let mut message = Message::default();
    let Value::Object(object) = value else {
        return message;
    };
    message.text(1, object.get("$ref"));
    message.text(2, object.get("format"));
    message.text(4, object.get("description"));
    if let Some(default) = object.get("default") {
        message.any(5, default);
    }
    message.texts(19, object.get("required"));
    for value in object
        .get("enum")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        message.any(20, value);
    }
    match object.get("additionalProperties") {
        Some(Value::Bool(true)) => {
            let mut item = Message::default();
            item.flag(2, Some(&Value::Bool(true)));
            message.message(21, &item);
        }
        Some(inner @ Value::Object(_)) => message.message(21, &wrapped(1, &schema(inner))),
        _ => {}
    }
    if let Some(Value::String(ty)) = object.get("type") {
        let mut item = Message::default();
        item.bytes(1, ty.as_bytes());
        message.message(22, &item);
    }
    if let Some(items) = object.get("items") {
        message.message(23, &wrapped(1, &schema(items)));
    }
    for part in object
        .get("allOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        message.message(24, &schema(part));
    }
    if let Some(Value::Object(properties)) = object.get("properties") {
        let mut list = Message::default();
        for (name, property) in properties {
            list.message(1, &named(name, &schema(property)));
        }
        message.message(25, &list);
    }
    message.extensions(31, object);
    message
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_definition_is_encoded_field_by_field() {
        let bytes = definition(
            "A",
            &json!({"type": "object", "description": "d", "x-b": 1}),
        );
        // definitions(9) { 1 { name "A", value { description(4), type(22) { 1 }, extension(31) { name, any { yaml } } } } }
        let schema = [
            &b"\x22\x01d\xb2\x01\x08\x0a\x06object"[..],
            &b"\xfa\x01\x0b\x0a\x03x-b\x12\x04\x12\x021\n"[..],
        ]
        .concat();
        let mut expected = vec![0x0a, 0x01, b'A', 0x12, u8::try_from(schema.len()).unwrap()];
        expected.extend(&schema);
        let expected = [
            &[0x0a, u8::try_from(expected.len()).unwrap()][..],
            &expected,
        ]
        .concat();
        let expected = [
            &[0x4a, u8::try_from(expected.len()).unwrap()][..],
            &expected,
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn long_lengths_take_several_bytes() {
        let mut message = Message::default();
        message.bytes(1, &[b'x'; 300]);
        assert_eq!(message.0.get(..3), Some(&[0x0a, 0xac, 0x02][..]));
    }
}
