//! From protobuf to JSON.

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::messages::{self, Field};
use super::wire::{Fields, Raw, WireError};

/// Deeper nesting than any schema of a CustomResourceDefinition needs.
const MAX_DEPTH: usize = 200;

/// Reads the fields of the message `name`. Fields that the table does not know are left out, as upstream does.
pub fn message(name: &str, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, WireError> {
    let mut object = Map::new();
    read_into(&mut object, name, bytes, depth)?;
    Ok(object)
}

fn read_into(
    object: &mut Map<String, Value>,
    name: &str,
    bytes: &[u8],
    depth: usize,
) -> Result<(), WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::TooDeep);
    }
    let table: Vec<Field> = messages::fields(name).collect();
    for field in Fields::new(bytes) {
        let (number, raw) = field?;
        let Some(field) = table.iter().find(|field| field.number == number) else {
            continue;
        };
        if field.inline {
            let inner = field
                .kind
                .trim_start_matches('p')
                .strip_prefix('m')
                .unwrap_or_default();
            read_into(object, inner, raw.bytes()?, depth + 1)?;
            continue;
        }
        match field.kind.split_at(1) {
            ("r", element) => {
                let value = single(element, raw, depth)?;
                let list = object
                    .entry(field.name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                if let (Some(list), Some(value)) = (list.as_array_mut(), value) {
                    list.push(value);
                }
            }
            ("k", element) => {
                let (key, value) = entry(element, raw.bytes()?, depth)?;
                let map = object
                    .entry(field.name)
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Some(map) = map.as_object_mut() {
                    map.insert(key, value);
                }
            }
            _ => {
                let (kind, optional) = field
                    .kind
                    .strip_prefix('p')
                    .map_or((field.kind, false), |kind| (kind, true));
                let value = single(kind, raw, depth)?;
                match value {
                    // Upstream writes fields that are no pointers also when they are empty; JSON leaves those out.
                    Some(value) if optional || field.always || !is_zero(&value) => {
                        object.insert(field.name.to_owned(), value);
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(list) => list.is_empty(),
        Value::Object(_) | Value::Null => false,
    }
}

fn entry(kind: &str, bytes: &[u8], depth: usize) -> Result<(String, Value), WireError> {
    let (mut key, mut value) = (String::new(), None);
    for field in Fields::new(bytes) {
        match field? {
            (1, raw) => key = raw.text()?.to_owned(),
            (2, raw) => value = single(kind, raw, depth + 1)?,
            _ => {}
        }
    }
    // An entry without a value holds its type's empty value.
    let empty = || match kind.as_bytes().first() {
        Some(b's' | b'y' | b'Q') => Value::String(String::new()),
        Some(b'i') => 0.into(),
        Some(b'b') => false.into(),
        Some(b'r' | b'L') => Value::Array(Vec::new()),
        _ => Value::Object(Map::new()),
    };
    Ok((key, value.unwrap_or_else(empty)))
}

/// One value of a type that is neither list nor map; `None` for a time that is not set.
fn single(kind: &str, raw: Raw<'_>, depth: usize) -> Result<Option<Value>, WireError> {
    let (head, rest) = kind.split_at_checked(1).ok_or(WireError::BadType)?;
    Ok(Some(match head {
        "p" => return single(rest, raw, depth),
        "s" => raw.text()?.into(),
        // Negative numbers are sign-extended to 64 bits on the wire.
        "i" => (raw.integer()?.cast_signed()).into(),
        "b" => (raw.integer()? != 0).into(),
        "d" => match raw {
            Raw::Fixed(bits) => f64::from_bits(bits).into(),
            _ => return Err(WireError::BadType),
        },
        "y" => base64::engine::general_purpose::STANDARD
            .encode(raw.bytes()?)
            .into(),
        "Q" => first(raw.bytes()?, 1)?.map_or(Ok(""), Raw::text)?.into(),
        "I" => int_or_string(raw.bytes()?)?,
        "T" | "U" => return time(raw.bytes()?, head == "U"),
        "D" => return Ok(None),
        "X" => match first(raw.bytes()?, 1)?.map_or(Ok(&[][..]), Raw::bytes)? {
            [] => return Ok(None),
            json => serde_json::from_slice(json).map_err(|_| WireError::BadValue)?,
        },
        "L" => {
            let mut list = Vec::new();
            for field in Fields::new(raw.bytes()?) {
                if let (1, element) = field? {
                    list.extend(single(rest, element, depth + 1)?);
                }
            }
            list.into()
        }
        "m" => nested(rest, raw.bytes()?, depth + 1)?,
        _ => return Err(WireError::BadType),
    }))
}

/// A message, or the shape that JSON has for the few that are unions of a schema and something simpler.
fn nested(name: &str, bytes: &[u8], depth: usize) -> Result<Value, WireError> {
    let schema = |raw: Raw<'_>| {
        Ok(Value::Object(message(
            "apiextensions.v1.JSONSchemaProps",
            raw.bytes()?,
            depth + 1,
        )?))
    };
    let all = |number: u32| {
        Fields::new(bytes)
            .filter(move |field| !matches!(field, Ok((other, _)) if *other != number))
            .map(|field| field.map(|(_, raw)| raw))
    };
    match name {
        "apiextensions.v1.JSONSchemaPropsOrBool" => match first(bytes, 2)? {
            Some(raw) => schema(raw),
            None => Ok((first(bytes, 1)?.map_or(Ok(0), Raw::integer)? != 0).into()),
        },
        "apiextensions.v1.JSONSchemaPropsOrArray" => match first(bytes, 1)? {
            Some(raw) => schema(raw),
            None => all(2).map(|raw| schema(raw?)).collect(),
        },
        "apiextensions.v1.JSONSchemaPropsOrStringArray" => match first(bytes, 1)? {
            Some(raw) => schema(raw),
            None => all(2).map(|raw| Ok(Value::from(raw?.text()?))).collect(),
        },
        _ => Ok(Value::Object(message(name, bytes, depth)?)),
    }
}

fn first(bytes: &[u8], number: u32) -> Result<Option<Raw<'_>>, WireError> {
    for field in Fields::new(bytes) {
        let (found, raw) = field?;
        if found == number {
            return Ok(Some(raw));
        }
    }
    Ok(None)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, WireError> {
    if first(bytes, 1)?.map_or(Ok(0), Raw::integer)? == 0 {
        Ok(first(bytes, 2)?
            .map_or(Ok(0), Raw::integer)?
            .cast_signed()
            .into())
    } else {
        Ok(first(bytes, 3)?.map_or(Ok(""), Raw::text)?.into())
    }
}

fn time(bytes: &[u8], micro: bool) -> Result<Option<Value>, WireError> {
    let Some(seconds) = first(bytes, 1)?.map(Raw::integer).transpose()? else {
        return Ok(None);
    };
    let nanos = first(bytes, 2)?.map_or(Ok(0), Raw::integer)?.cast_signed();
    let at = Timestamp::new(
        seconds.cast_signed(),
        i32::try_from(nanos).map_err(|_| WireError::BadValue)?,
    )
    .map_err(|_| WireError::BadValue)?;
    let text = if micro {
        at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
    } else {
        at.strftime("%Y-%m-%dT%H:%M:%SZ")
    };
    Ok(Some(text.to_string().into()))
}
