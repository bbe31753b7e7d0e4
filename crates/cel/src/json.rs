//! JSON into values, guided by a schema and as late as possible, and values back into JSON.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::Value as Json;

use crate::error::EvalError;
use crate::library::{duration, timestamp};
use crate::schema::{Schema, Shape};
use crate::value::{Key, List, Map, Text, Value};

/// The value of `json` where `schema` says what it is.
pub(crate) fn read<'a>(json: &'a Json, schema: &'a Schema) -> Result<Value<'a>, EvalError> {
    if json.is_null() && !matches!(schema.shape, Shape::Dyn | Shape::Other(_)) {
        return if schema.nullable {
            Ok(Value::Null)
        } else {
            Err(EvalError::fault(
                "invalid data, got null for schema with nullable=false",
            ))
        };
    }
    Ok(match (&schema.shape, json) {
        (Shape::Dyn | Shape::Other(_), _) => untyped(json, schema),
        (Shape::IntOrString, Json::String(text)) => Value::String(Text::Borrowed(text)),
        (Shape::IntOrString | Shape::Int, Json::Number(number)) if whole(number).is_some() => {
            Value::Int(whole(number).unwrap_or_default())
        }
        (Shape::IntOrString, _) => {
            return Err(EvalError::fault(
                "invalid data, expected XIntOrString value to be either a string or integer",
            ));
        }
        (Shape::Uint, Json::Number(number)) if number.is_u64() => {
            Value::Uint(number.as_u64().unwrap_or_default())
        }
        (Shape::Double, Json::Number(number)) => Value::Double(number.as_f64().unwrap_or_default()),
        (Shape::Bool, Json::Bool(b)) => Value::Bool(*b),
        (Shape::List(..), Json::Array(items)) => Value::List(List::Json(items, schema)),
        (Shape::Map(_) | Shape::Object(_), Json::Object(fields)) => {
            Value::Map(Map::Json(fields, schema))
        }
        (Shape::String, Json::String(text)) => Value::String(Text::Borrowed(text)),
        (_, Json::String(text)) if is_text(&schema.shape) => formatted(text, &schema.shape)?,
        _ => return Err(mismatch(json, &schema.shape)),
    })
}

fn is_text(shape: &Shape) -> bool {
    matches!(
        shape,
        Shape::Bytes | Shape::Duration | Shape::Date | Shape::DateTime
    )
}

/// A number that Go's decoder keeps as an integer.
fn whole(number: &serde_json::Number) -> Option<i64> {
    number.as_i64()
}

fn untyped<'a>(json: &'a Json, schema: &'a Schema) -> Value<'a> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(number) => match whole(number) {
            Some(int) => Value::Int(int),
            None => Value::Double(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::String(Text::Borrowed(text)),
        Json::Array(items) => Value::List(List::Json(items, schema)),
        Json::Object(fields) => Value::Map(Map::Json(fields, schema)),
    }
}

fn formatted<'a>(text: &str, shape: &Shape) -> Result<Value<'a>, EvalError> {
    match shape {
        Shape::Bytes => STANDARD
            .decode(text)
            .or_else(|_| URL_SAFE.decode(text))
            .map(|bytes| Value::Bytes(Arc::from(bytes)))
            .map_err(|error| {
                EvalError::fault(format!("Invalid byte formatted string {text}: {error}"))
            }),
        Shape::Duration => duration::parse_lenient(text)
            .map(Value::Duration)
            .map_err(|error| EvalError::fault(format!("Invalid duration {text}: {error}"))),
        Shape::Date => timestamp::parse_date(text)
            .map(Value::Timestamp)
            .ok_or_else(|| {
                EvalError::fault(format!(
                    "Invalid date formatted string {text}: unable to parse date"
                ))
            }),
        _ => timestamp::parse_lenient(text)
            .map(Value::Timestamp)
            .ok_or_else(|| {
                EvalError::fault(format!(
                    "Invalid date-time formatted string {text}: unable to parse date-time"
                ))
            }),
    }
}

fn mismatch(json: &Json, shape: &Shape) -> EvalError {
    let got = match json {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.is_f64() => "float64",
        Json::Number(_) => "int64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    };
    let text = match shape {
        Shape::List(..) => {
            "invalid data, expected an array for the provided schema with type=array".to_owned()
        }
        Shape::Map(_) | Shape::Object(_) => {
            "invalid data, expected a map for the provided schema with type=object".to_owned()
        }
        Shape::Int | Shape::Uint => format!("invalid data, expected int, got {got}"),
        Shape::Double => format!("invalid data, expected float, got {got}"),
        Shape::Bool => format!("invalid data, expected bool, got {got}"),
        _ => format!("invalid data, expected string, got {got}"),
    };
    EvalError::fault(text)
}

/// `value` as JSON.
pub(crate) fn write(value: &Value<'_>) -> Result<Json, EvalError> {
    Ok(match value {
        Value::Null | Value::Optional(None) => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(i) => Json::from(*i),
        Value::Uint(u) => Json::from(*u),
        Value::Double(d) => serde_json::Number::from_f64(*d)
            .map(Json::Number)
            .ok_or_else(|| EvalError::fault(format!("{d} is no JSON number")))?,
        Value::String(text) => Json::String(text.to_string()),
        Value::Bytes(bytes) => Json::String(STANDARD.encode(bytes)),
        Value::Duration(nanos) => Json::String(duration::seconds_text(*nanos)),
        Value::Timestamp(at) => Json::String(timestamp::text(*at)),
        Value::List(List::Json(items, _)) => Json::Array(items.to_vec()),
        Value::List(List::Shared(items)) => {
            Json::Array(items.iter().map(write).collect::<Result<_, _>>()?)
        }
        Value::Map(Map::Json(fields, _)) => Json::Object(serde_json::Map::clone(fields)),
        Value::Map(Map::Shared(entries)) => {
            let mut out = serde_json::Map::new();
            for (key, (_, value)) in entries.iter() {
                let Key::String(key) = key else {
                    return Err(EvalError::fault("map keys must be strings"));
                };
                out.insert(key.to_string(), write(value)?);
            }
            Json::Object(out)
        }
        Value::Object(object) => {
            let mut out = serde_json::Map::new();
            for (name, value) in &object.fields {
                let name = crate::escape::unescape(name).unwrap_or_else(|| name.to_string());
                out.insert(name, write(value)?);
            }
            Json::Object(out)
        }
        Value::Optional(Some(value)) => write(value)?,
        Value::Opaque(opaque) => opaque.to_json()?,
        Value::Type(ty) => {
            return Err(EvalError::fault(format!(
                "type conversion error from 'type' to JSON: {ty}"
            )));
        }
    })
}
