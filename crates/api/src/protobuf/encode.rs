//! From JSON to protobuf.

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::messages;
use super::wire::{put_bytes, put_double, put_integer};

/// Writes the message `name` from a JSON object of that type. What does not fit its field is left out: objects come from
/// the server, which has checked them.
pub fn message(name: &str, object: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for field in messages::fields(name) {
        if field.inline {
            let inner = field
                .kind
                .trim_start_matches('p')
                .strip_prefix('m')
                .unwrap_or_default();
            put_bytes(&mut out, field.number, &message(inner, object));
            continue;
        }
        let Some(value) = object.get(field.name).filter(|value| !value.is_null()) else {
            continue;
        };
        match (field.kind.split_at(1), value) {
            (("r", element), Value::Array(list)) => list
                .iter()
                .for_each(|value| put(&mut out, field.number, element, value)),
            (("k", element), Value::Object(map)) => {
                for (key, value) in map {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, 1, key.as_bytes());
                    put(&mut entry, 2, element, value);
                    put_bytes(&mut out, field.number, &entry);
                }
            }
            (("r" | "k", _), _) => {}
            _ => put(&mut out, field.number, field.kind, value),
        }
    }
    out
}

fn put(out: &mut Vec<u8>, number: u32, kind: &str, value: &Value) {
    let Some((head, rest)) = kind.split_at_checked(1) else {
        return;
    };
    match (head, value) {
        ("p", value) => put(out, number, rest, value),
        ("s", Value::String(text)) => put_bytes(out, number, text.as_bytes()),
        ("i", Value::Number(value)) => put_integer(
            out,
            number,
            value.as_i64().unwrap_or_default().cast_unsigned(),
        ),
        ("b", Value::Bool(value)) => put_integer(out, number, u64::from(*value)),
        ("d", Value::Number(value)) => put_double(out, number, value.as_f64().unwrap_or_default()),
        ("y", Value::String(text)) => put_bytes(
            out,
            number,
            &base64::engine::general_purpose::STANDARD
                .decode(text)
                .unwrap_or_default(),
        ),
        ("Q", Value::String(text)) => put_bytes(out, number, &wrapped(1, text.as_bytes())),
        ("Q", Value::Number(value)) => {
            put_bytes(out, number, &wrapped(1, value.to_string().as_bytes()))
        }
        ("I", Value::String(text)) => {
            let mut inner = Vec::new();
            put_integer(&mut inner, 1, 1);
            put_integer(&mut inner, 2, 0);
            put_bytes(&mut inner, 3, text.as_bytes());
            put_bytes(out, number, &inner);
        }
        ("I", Value::Number(value)) => {
            let mut inner = Vec::new();
            put_integer(&mut inner, 1, 0);
            put_integer(
                &mut inner,
                2,
                value.as_i64().unwrap_or_default().cast_unsigned(),
            );
            put_bytes(&mut inner, 3, b"");
            put_bytes(out, number, &inner);
        }
        ("T" | "U", Value::String(text)) => put_bytes(out, number, &time(text)),
        ("X", value) => put_bytes(out, number, &wrapped(1, value.to_string().as_bytes())),
        ("L", Value::Array(list)) => {
            let mut inner = Vec::new();
            list.iter()
                .for_each(|value| put(&mut inner, 1, rest, value));
            put_bytes(out, number, &inner);
        }
        ("m", value) => put_nested(out, number, rest, value),
        _ => {}
    }
}

fn wrapped(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut inner = Vec::new();
    put_bytes(&mut inner, number, bytes);
    inner
}

fn put_nested(out: &mut Vec<u8>, number: u32, name: &str, value: &Value) {
    let schema = |value: &Map<String, Value>| message("apiextensions.v1.JSONSchemaProps", value);
    let mut inner = Vec::new();
    match (name, value) {
        ("apiextensions.v1.JSONSchemaPropsOrBool", Value::Bool(allows)) => {
            put_integer(&mut inner, 1, u64::from(*allows))
        }
        ("apiextensions.v1.JSONSchemaPropsOrBool", Value::Object(object)) => {
            put_integer(&mut inner, 1, 1);
            put_bytes(&mut inner, 2, &schema(object));
        }
        (
            "apiextensions.v1.JSONSchemaPropsOrArray"
            | "apiextensions.v1.JSONSchemaPropsOrStringArray",
            Value::Object(object),
        ) => {
            put_bytes(&mut inner, 1, &schema(object));
        }
        ("apiextensions.v1.JSONSchemaPropsOrArray", Value::Array(list)) => {
            list.iter()
                .filter_map(Value::as_object)
                .for_each(|object| put_bytes(&mut inner, 2, &schema(object)));
        }
        ("apiextensions.v1.JSONSchemaPropsOrStringArray", Value::Array(list)) => {
            list.iter()
                .filter_map(Value::as_str)
                .for_each(|text| put_bytes(&mut inner, 2, text.as_bytes()));
        }
        (name, Value::Object(object)) => inner = message(name, object),
        _ => return,
    }
    put_bytes(out, number, &inner);
}

fn time(text: &str) -> Vec<u8> {
    let at = text.parse::<Timestamp>().unwrap_or_default();
    let mut inner = Vec::new();
    put_integer(&mut inner, 1, at.as_second().cast_unsigned());
    put_integer(
        &mut inner,
        2,
        i64::from(at.subsec_nanosecond()).cast_unsigned(),
    );
    inner
}
