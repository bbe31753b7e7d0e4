//! Conversions between types, `size` and `type`.

use std::sync::Arc;

use super::{duration, timestamp};
use crate::declare::Row;
use crate::error::EvalError;
use crate::types::Type;
use crate::value::{Text, Value, chars};

type Result<'v> = std::result::Result<Value<'v>, EvalError>;

pub(crate) const TABLE: &[Row] = &[
    ("size", "size_bytes", "(bytes) -> int", size),
    ("size", "bytes_size", "bytes.() -> int", size),
    ("size", "size_list", "(list(A)) -> int", size),
    ("size", "list_size", "list(A).() -> int", size),
    ("size", "size_map", "(map(A, B)) -> int", size),
    ("size", "map_size", "map(A, B).() -> int", size),
    ("size", "size_string", "(string) -> int", size),
    ("size", "string_size", "string.() -> int", size),
    ("type", "type", "(A) -> type(A)", type_of),
    ("bool", "bool_to_bool", "(bool) -> bool", same),
    ("bool", "string_to_bool", "(string) -> bool", to_bool),
    ("bytes", "bytes_to_bytes", "(bytes) -> bytes", same),
    ("bytes", "string_to_bytes", "(string) -> bytes", to_bytes),
    ("double", "double_to_double", "(double) -> double", same),
    ("double", "int64_to_double", "(int) -> double", to_double),
    (
        "double",
        "string_to_double",
        "(string) -> double",
        to_double,
    ),
    ("double", "uint64_to_double", "(uint) -> double", to_double),
    (
        "duration",
        "duration_to_duration",
        "(duration) -> duration",
        same,
    ),
    (
        "duration",
        "int64_to_duration",
        "(int) -> duration",
        to_duration,
    ),
    (
        "duration",
        "string_to_duration",
        "(string) -> duration",
        to_duration,
    ),
    ("dyn", "to_dyn", "(A) -> dyn", same),
    ("int", "int64_to_int64", "(int) -> int", same),
    ("int", "double_to_int64", "(double) -> int", to_int),
    ("int", "duration_to_int64", "(duration) -> int", to_int),
    ("int", "string_to_int64", "(string) -> int", to_int),
    ("int", "timestamp_to_int64", "(timestamp) -> int", to_int),
    ("int", "uint64_to_int64", "(uint) -> int", to_int),
    ("string", "string_to_string", "(string) -> string", same),
    ("string", "bool_to_string", "(bool) -> string", to_string),
    ("string", "bytes_to_string", "(bytes) -> string", to_string),
    (
        "string",
        "double_to_string",
        "(double) -> string",
        to_string,
    ),
    (
        "string",
        "duration_to_string",
        "(duration) -> string",
        to_string,
    ),
    ("string", "int64_to_string", "(int) -> string", to_string),
    (
        "string",
        "timestamp_to_string",
        "(timestamp) -> string",
        to_string,
    ),
    ("string", "uint64_to_string", "(uint) -> string", to_string),
    ("string", "ip_to_string", "(net.IP) -> string", to_string),
    (
        "string",
        "cidr_to_string",
        "(net.CIDR) -> string",
        to_string,
    ),
    (
        "timestamp",
        "timestamp_to_timestamp",
        "(timestamp) -> timestamp",
        same,
    ),
    (
        "timestamp",
        "int64_to_timestamp",
        "(int) -> timestamp",
        to_timestamp,
    ),
    (
        "timestamp",
        "string_to_timestamp",
        "(string) -> timestamp",
        to_timestamp,
    ),
    ("uint", "uint64_to_uint64", "(uint) -> uint", same),
    ("uint", "double_to_uint64", "(double) -> uint", to_uint),
    ("uint", "int64_to_uint64", "(int) -> uint", to_uint),
    ("uint", "string_to_uint64", "(string) -> uint", to_uint),
];

fn same<'v>(args: &[Value<'v>]) -> Result<'v> {
    args.first()
        .cloned()
        .ok_or_else(EvalError::no_such_overload)
}

fn size<'v>(args: &[Value<'v>]) -> Result<'v> {
    let size = match args {
        [Value::String(text)] => chars(text),
        [Value::Bytes(bytes)] => bytes.len() as u64,
        [Value::List(list)] => list.len() as u64,
        [Value::Map(map)] => map.len() as u64,
        _ => return Err(EvalError::no_such_overload()),
    };
    Ok(Value::Int(size as i64))
}

fn type_of<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [value] => Ok(Value::Type(value.type_of())),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn range(kind: &str) -> EvalError {
    super::arithmetic::overflow(kind)
}

/// The fault of a text that does not convert.
fn unconvertible(text: &str, to: Type) -> EvalError {
    let _ = text;
    EvalError::fault(format!(
        "type conversion error from 'string' to '{}'",
        to.runtime_name()
    ))
}

fn to_bool<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text)] => match text.as_str() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
            other => Err(unconvertible(other, Type::Bool)),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_bytes<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text)] => Ok(Value::Bytes(Arc::from(text.as_bytes()))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_double<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::Int(i)] => Ok(Value::Double(*i as f64)),
        [Value::Uint(u)] => Ok(Value::Double(*u as f64)),
        [Value::String(text)] => text
            .parse()
            .map(Value::Double)
            .map_err(|_| unconvertible(text, Type::Double)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_int<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        // The bounds are those of upstream: the ends of the range are not exact as doubles.
        [Value::Double(d)] if *d > -9.223_372_036_854_775e18 && *d < 9.223_372_036_854_775e18 => {
            Ok(Value::Int(*d as i64))
        }
        [Value::Double(_)] => Err(range("integer")),
        [Value::Uint(u)] => i64::try_from(*u)
            .map(Value::Int)
            .map_err(|_| range("integer")),
        [Value::Duration(nanos)] => Ok(Value::Int(*nanos)),
        [Value::Timestamp(at)] => Ok(Value::Int(at.as_second())),
        [Value::String(text)] => text
            .parse()
            .map(Value::Int)
            .map_err(|_| unconvertible(text, Type::Int)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_uint<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::Double(d)] if *d >= 0.0 && *d < 1.844_674_407_370_955_2e19 => {
            Ok(Value::Uint(*d as u64))
        }
        [Value::Double(_)] => Err(range("unsigned integer")),
        [Value::Int(i)] => u64::try_from(*i)
            .map(Value::Uint)
            .map_err(|_| range("unsigned integer")),
        [Value::String(text)] => text
            .parse()
            .map(Value::Uint)
            .map_err(|_| unconvertible(text, Type::Uint)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_duration<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::Int(nanos)] => Ok(Value::Duration(*nanos)),
        [Value::String(text)] => duration::parse(text)
            .map(Value::Duration)
            .map_err(|_| unconvertible(text, Type::Duration)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_timestamp<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::Int(seconds)] => jiff::Timestamp::from_second(*seconds)
            .ok()
            .filter(|at| timestamp::in_range(*at))
            .map(Value::Timestamp)
            .ok_or_else(|| range("timestamp")),
        [Value::String(text)] => match timestamp::parse(text) {
            Some(at) if timestamp::in_range(at) => Ok(Value::Timestamp(at)),
            Some(_) => Err(range("timestamp")),
            None => Err(unconvertible(text, Type::Timestamp)),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_string<'v>(args: &[Value<'v>]) -> Result<'v> {
    let text = match args {
        [Value::String(_)] => return same(args),
        [Value::Opaque(opaque)] => match opaque.to_json()? {
            serde_json::Value::String(text) => text,
            _ => return Err(EvalError::no_such_overload()),
        },
        [value] => text_of(value)?,
        _ => return Err(EvalError::no_such_overload()),
    };
    Ok(Value::String(Text::Shared(Arc::from(text))))
}

/// What `string(x)` says.
pub(crate) fn text_of(value: &Value<'_>) -> std::result::Result<String, EvalError> {
    Ok(match value {
        Value::String(text) => text.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) => double_text(*d),
        Value::Bytes(bytes) => std::str::from_utf8(bytes)
            .map_err(|_| EvalError::fault("invalid UTF-8 in bytes, cannot convert to string"))?
            .to_owned(),
        Value::Duration(nanos) => duration::seconds_text(*nanos),
        Value::Timestamp(at) => timestamp::text(*at),
        Value::Type(ty) => ty.runtime_name().to_owned(),
        _ => return Err(EvalError::no_such_overload()),
    })
}

/// A double as Go's `%g` prints it: with an exponent from 1e21 on and below 1e-4.
pub(crate) fn double_text(d: f64) -> String {
    if d.is_nan() {
        return "NaN".to_owned();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let size = d.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        let text = format!("{d:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = match exponent.strip_prefix('-') {
            Some(digits) => ('-', digits),
            None => ('+', exponent),
        };
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    format!("{d}")
}
