//! `+ - * / %` and the minus sign.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::timestamp;
use crate::declare::Row;
use crate::error::EvalError;
use crate::schema::ListKind;
use crate::value::{List, Text, Value};

pub(crate) const TABLE: &[Row] = &[
    ("_+_", "add_bytes", "(bytes, bytes) -> bytes", add),
    ("_+_", "add_double", "(double, double) -> double", add),
    (
        "_+_",
        "add_duration_duration",
        "(duration, duration) -> duration",
        add,
    ),
    (
        "_+_",
        "add_duration_timestamp",
        "(duration, timestamp) -> timestamp",
        add,
    ),
    (
        "_+_",
        "add_timestamp_duration",
        "(timestamp, duration) -> timestamp",
        add,
    ),
    ("_+_", "add_int64", "(int, int) -> int", add),
    ("_+_", "add_list", "(list(A), list(A)) -> list(A)", add),
    ("_+_", "add_string", "(string, string) -> string", add),
    ("_+_", "add_uint64", "(uint, uint) -> uint", add),
    (
        "_-_",
        "subtract_double",
        "(double, double) -> double",
        subtract,
    ),
    (
        "_-_",
        "subtract_duration_duration",
        "(duration, duration) -> duration",
        subtract,
    ),
    ("_-_", "subtract_int64", "(int, int) -> int", subtract),
    (
        "_-_",
        "subtract_timestamp_duration",
        "(timestamp, duration) -> timestamp",
        subtract,
    ),
    (
        "_-_",
        "subtract_timestamp_timestamp",
        "(timestamp, timestamp) -> duration",
        subtract,
    ),
    ("_-_", "subtract_uint64", "(uint, uint) -> uint", subtract),
    (
        "_*_",
        "multiply_double",
        "(double, double) -> double",
        multiply,
    ),
    ("_*_", "multiply_int64", "(int, int) -> int", multiply),
    ("_*_", "multiply_uint64", "(uint, uint) -> uint", multiply),
    ("_/_", "divide_double", "(double, double) -> double", divide),
    ("_/_", "divide_int64", "(int, int) -> int", divide),
    ("_/_", "divide_uint64", "(uint, uint) -> uint", divide),
    ("_%_", "modulo_int64", "(int, int) -> int", modulo),
    ("_%_", "modulo_uint64", "(uint, uint) -> uint", modulo),
    ("-_", "negate_double", "(double) -> double", negate),
    ("-_", "negate_int64", "(int) -> int", negate),
];

pub(crate) fn overflow(kind: &str) -> EvalError {
    EvalError::fault(format!("{kind} overflow"))
}

fn int<'v>(result: Option<i64>) -> Result<Value<'v>, EvalError> {
    result.map(Value::Int).ok_or_else(|| overflow("integer"))
}

fn uint<'v>(result: Option<u64>) -> Result<Value<'v>, EvalError> {
    result
        .map(Value::Uint)
        .ok_or_else(|| overflow("unsigned integer"))
}

fn span<'v>(result: Option<i64>) -> Result<Value<'v>, EvalError> {
    result
        .map(Value::Duration)
        .ok_or_else(|| overflow("duration"))
}

fn moved<'v>(at: Timestamp, nanos: Option<i64>) -> Result<Value<'v>, EvalError> {
    nanos
        .and_then(|nanos| at.checked_add(SignedDuration::from_nanos(nanos)).ok())
        .filter(|at| timestamp::in_range(*at))
        .map(Value::Timestamp)
        .ok_or_else(|| overflow("timestamp"))
}

pub(crate) fn add<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match args {
        [Value::Int(a), Value::Int(b)] => int(a.checked_add(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_add(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a + b)),
        [Value::String(a), Value::String(b)] => {
            let mut text = String::with_capacity(a.len() + b.len());
            text.push_str(a);
            text.push_str(b);
            Ok(Value::String(Text::Shared(Arc::from(text))))
        }
        [Value::Bytes(a), Value::Bytes(b)] => Ok(Value::Bytes(Arc::from([&**a, &**b].concat()))),
        [Value::List(a), Value::List(b)] => concat(a, b),
        [Value::Duration(a), Value::Duration(b)] => span(a.checked_add(*b)),
        [Value::Timestamp(at), Value::Duration(nanos)]
        | [Value::Duration(nanos), Value::Timestamp(at)] => moved(*at, Some(*nanos)),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// One list after the other; sets take only what is new, lists with keys replace what has the same key.
fn concat<'v>(a: &List<'v>, b: &List<'v>) -> Result<Value<'v>, EvalError> {
    let mut out = a.to_vec()?;
    match a.kind() {
        ListKind::Atomic => out.extend(b.to_vec()?),
        ListKind::Set => {
            for value in b.iter() {
                let value = value?;
                let mut known = false;
                for other in &out {
                    known = known || super::compare::equal(other, &value)?;
                }
                if !known {
                    out.push(value);
                }
            }
        }
        ListKind::Map(keys) => {
            for value in b.iter() {
                let value = value?;
                let mut place = None;
                for (at, other) in out.iter().enumerate() {
                    if place.is_none() && super::compare::same_key(other, &value, keys)? {
                        place = Some(at);
                    }
                }
                match place.and_then(|at| out.get_mut(at)) {
                    Some(old) => *old = value,
                    None => out.push(value),
                }
            }
        }
    }
    Ok(Value::list(out))
}

fn subtract<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match args {
        [Value::Int(a), Value::Int(b)] => int(a.checked_sub(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_sub(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a - b)),
        [Value::Duration(a), Value::Duration(b)] => span(a.checked_sub(*b)),
        [Value::Timestamp(at), Value::Duration(nanos)] => moved(*at, nanos.checked_neg()),
        [Value::Timestamp(a), Value::Timestamp(b)] => {
            span(i64::try_from(a.as_nanosecond() - b.as_nanosecond()).ok())
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn multiply<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match args {
        [Value::Int(a), Value::Int(b)] => int(a.checked_mul(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_mul(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn divide<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            Err(EvalError::fault("division by zero"))
        }
        [Value::Int(a), Value::Int(b)] => int(a.checked_div(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_div(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn modulo<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            Err(EvalError::fault("modulus by zero"))
        }
        [Value::Int(a), Value::Int(b)] => int(a.checked_rem(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_rem(*b)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn negate<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match args {
        [Value::Int(a)] => int(a.checked_neg()),
        [Value::Double(a)] => Ok(Value::Double(-a)),
        [Value::Duration(a)] => span(a.checked_neg()),
        _ => Err(EvalError::no_such_overload()),
    }
}
