//! Equality, order, membership and logic.

use std::cmp::Ordering;

use serde_json::Value as Json;

use crate::declare::Row;
use crate::error::EvalError;
use crate::schema::{ListKind, Schema, Shape};
use crate::value::{Key, List, Map, Value};

macro_rules! ordered {
    ($($op:literal $prefix:literal $act:ident),*) => {
        &[
            ("_?_:_", "conditional", "(bool, A, A) -> A", unreachable),
            ("_&&_", "logical_and", "(bool, bool) -> bool", unreachable),
            ("_||_", "logical_or", "(bool, bool) -> bool", unreachable),
            ("!_", "logical_not", "(bool) -> bool", not),
            ("@not_strictly_false", "not_strictly_false", "(bool) -> bool", unreachable),
            ("_==_", "equals", "(A, A) -> bool", equals),
            ("_!=_", "not_equals", "(A, A) -> bool", differs),
            ("@in", "in_list", "(A, list(A)) -> bool", contains),
            ("@in", "in_map", "(A, map(A, B)) -> bool", contains),
            ("_[_]", "index_list", "(list(A), int) -> A", unreachable),
            ("_[_]", "index_map", "(map(A, B), A) -> B", unreachable),
            $(
                ($op, concat!($prefix, "_bool"), "(bool, bool) -> bool", $act),
                ($op, concat!($prefix, "_int64"), "(int, int) -> bool", $act),
                ($op, concat!($prefix, "_int64_double"), "(int, double) -> bool", $act),
                ($op, concat!($prefix, "_int64_uint64"), "(int, uint) -> bool", $act),
                ($op, concat!($prefix, "_uint64"), "(uint, uint) -> bool", $act),
                ($op, concat!($prefix, "_uint64_double"), "(uint, double) -> bool", $act),
                ($op, concat!($prefix, "_uint64_int64"), "(uint, int) -> bool", $act),
                ($op, concat!($prefix, "_double"), "(double, double) -> bool", $act),
                ($op, concat!($prefix, "_double_int64"), "(double, int) -> bool", $act),
                ($op, concat!($prefix, "_double_uint64"), "(double, uint) -> bool", $act),
                ($op, concat!($prefix, "_string"), "(string, string) -> bool", $act),
                ($op, concat!($prefix, "_bytes"), "(bytes, bytes) -> bool", $act),
                ($op, concat!($prefix, "_timestamp"), "(timestamp, timestamp) -> bool", $act),
                ($op, concat!($prefix, "_duration"), "(duration, duration) -> bool", $act),
            )*
        ]
    };
}

pub(crate) const TABLE: &[Row] = ordered!(
    "_<_" "less" less,
    "_<=_" "less_equals" less_equals,
    "_>_" "greater" greater,
    "_>=_" "greater_equals" greater_equals
);

/// Stands for what the evaluator does itself, because not all operands are evaluated.
fn unreachable<'v>(_: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    Err(EvalError::no_such_overload())
}

fn not<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(!b)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn equals<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match args {
        [a, b] => equal(a, b).map(Value::Bool),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn differs<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match args {
        [a, b] => equal(a, b).map(|same| Value::Bool(!same)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn less<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    by_order(args, |order| order == Some(Ordering::Less))
}

fn less_equals<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    by_order(args, |order| {
        matches!(order, Some(Ordering::Less | Ordering::Equal))
    })
}

fn greater<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    by_order(args, |order| order == Some(Ordering::Greater))
}

fn greater_equals<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    by_order(args, |order| {
        matches!(order, Some(Ordering::Greater | Ordering::Equal))
    })
}

fn by_order<'v>(
    args: &[Value<'v>],
    holds: impl Fn(Option<Ordering>) -> bool,
) -> Result<Value<'v>, EvalError> {
    let [a, b] = args else {
        return Err(EvalError::no_such_overload());
    };
    let (a_nan, b_nan) = (is_nan(a), is_nan(b));
    if a_nan || b_nan {
        return Err(EvalError::fault("NaN values cannot be ordered"));
    }
    match order(a, b) {
        Some(order) => Ok(Value::Bool(holds(Some(order)))),
        None => Err(EvalError::no_such_overload()),
    }
}

fn is_nan(value: &Value<'_>) -> bool {
    matches!(value, Value::Double(d) if d.is_nan())
}

/// Which of two values comes first; `None` where they cannot be compared.
pub(crate) fn order(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    Some(match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Uint(a), Value::Uint(b)) => a.cmp(b),
        (Value::Double(a), Value::Double(b)) => return a.partial_cmp(b),
        (Value::Int(a), Value::Uint(b)) => i128::from(*a).cmp(&i128::from(*b)),
        (Value::Uint(a), Value::Int(b)) => i128::from(*a).cmp(&i128::from(*b)),
        (Value::Int(a), Value::Double(b)) => {
            return double_order(*b, i128::from(*a)).map(Ordering::reverse);
        }
        (Value::Uint(a), Value::Double(b)) => {
            return double_order(*b, i128::from(*a)).map(Ordering::reverse);
        }
        (Value::Double(a), Value::Int(b)) => return double_order(*a, i128::from(*b)),
        (Value::Double(a), Value::Uint(b)) => return double_order(*a, i128::from(*b)),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        (Value::Duration(a), Value::Duration(b)) => a.cmp(b),
        _ => return None,
    })
}

/// Compares a floating point number with a whole one without rounding either.
fn double_order(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    if a >= 2e19 {
        return Some(Ordering::Greater);
    }
    if a <= -2e19 {
        return Some(Ordering::Less);
    }
    // Within these bounds truncation is exact.
    Some(
        (a.trunc() as i128)
            .cmp(&b)
            .then_with(|| a.fract().partial_cmp(&0.0).unwrap_or(Ordering::Equal)),
    )
}

/// Whether two values are equal. Values of different types are not, numbers of different types may be.
pub(crate) fn equal(a: &Value<'_>, b: &Value<'_>) -> Result<bool, EvalError> {
    Ok(match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::List(a), Value::List(b)) => return lists_equal(a, b),
        (Value::Map(a), Value::Map(b)) => return maps_equal(a, b),
        (Value::Object(a), Value::Object(b)) => {
            if a.type_name != b.type_name || a.fields.len() != b.fields.len() {
                return Ok(false);
            }
            for (name, value) in &a.fields {
                match b.fields.iter().find(|(other, _)| other == name) {
                    Some((_, other)) if equal(value, other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Optional(None), Value::Optional(None)) => true,
        (Value::Optional(Some(a)), Value::Optional(Some(b))) => return equal(a, b),
        (Value::Type(a), Value::Type(b)) => a.runtime_name() == b.runtime_name(),
        (Value::Opaque(a), Value::Opaque(b)) => a.equals(b),
        _ => order(a, b) == Some(Ordering::Equal),
    })
}

fn lists_equal(a: &List<'_>, b: &List<'_>) -> Result<bool, EvalError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    match a.kind() {
        ListKind::Atomic => {
            for (x, y) in a.iter().zip(b.iter()) {
                if !equal(&x?, &y?)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        ListKind::Set => sets_equal(a, b),
        ListKind::Map(keys) => keyed_equal(a, b, keys),
    }
}

fn sets_equal(a: &List<'_>, b: &List<'_>) -> Result<bool, EvalError> {
    let have: Option<std::collections::HashSet<Key<'_>>> = a
        .iter()
        .map(|value| value.ok().as_ref().and_then(Key::new))
        .collect();
    let Some(have) = have else {
        return unordered_equal(a, b);
    };
    for value in b.iter() {
        let value = value?;
        if !Key::new(&value).is_some_and(|key| have.contains(&key)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn unordered_equal(a: &List<'_>, b: &List<'_>) -> Result<bool, EvalError> {
    let values = a.to_vec()?;
    for other in b.iter() {
        let other = other?;
        let mut found = false;
        for value in &values {
            found = found || equal(value, &other)?;
        }
        if !found {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What tells the elements of a keyed list apart.
fn list_key<'v>(value: &Value<'v>, keys: &[String]) -> Result<Vec<Option<Key<'v>>>, EvalError> {
    keys.iter()
        .map(|key| match value {
            Value::Map(map) => {
                let name = crate::escape::escape(key).unwrap_or_else(|| key.clone());
                Ok(map.get(&name).transpose()?.as_ref().and_then(Key::new))
            }
            _ => Ok(None),
        })
        .collect()
}

pub(crate) fn same_key(a: &Value<'_>, b: &Value<'_>, keys: &[String]) -> Result<bool, EvalError> {
    Ok(list_key(a, keys)? == list_key(b, keys)?)
}

fn keyed_equal(a: &List<'_>, b: &List<'_>, keys: &[String]) -> Result<bool, EvalError> {
    let mut have = std::collections::HashMap::new();
    for value in a.iter() {
        let value = value?;
        have.insert(list_key(&value, keys)?, value);
    }
    for other in b.iter() {
        let other = other?;
        match have.get(&list_key(&other, keys)?) {
            Some(value) if equal(value, &other)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn maps_equal(a: &Map<'_>, b: &Map<'_>) -> Result<bool, EvalError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    if let (Map::Json(a, schema), Map::Json(b, _)) = (a, b)
        && matches!(schema.shape, Shape::Object(_))
    {
        return objects_equal(a, b, schema);
    }
    for key in a.keys() {
        match (a.find(&key)?, b.find(&key)?) {
            (Some(x), Some(y)) if equal(&x, &y)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Objects are compared by their schema where it knows a field, and as plain JSON where it does not.
fn objects_equal(
    a: &serde_json::Map<String, Json>,
    b: &serde_json::Map<String, Json>,
    schema: &Schema,
) -> Result<bool, EvalError> {
    for (name, x) in a {
        let known = crate::escape::escape(name).and_then(|name| schema.field(&name).cloned());
        let y = b.get(name);
        let same = match (known, y) {
            (_, None) | (_, Some(Json::Null)) => x.is_null(),
            (Some(_), Some(_)) if x.is_null() => false,
            (Some(field), Some(y)) => equal(
                &crate::json::read(x, &field)?,
                &crate::json::read(y, &field)?,
            )?,
            (None, Some(y)) => x == y,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) fn contains<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match args {
        [needle, Value::List(list)] => {
            for value in list.iter() {
                if equal(&value?, needle)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        [needle, Value::Map(map)] => Ok(Value::Bool(map.find(needle)?.is_some())),
        _ => Err(EvalError::no_such_overload()),
    }
}
