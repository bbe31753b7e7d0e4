//! Lists as sets.

use super::compare::equal;
use crate::declare::Row;
use crate::error::EvalError;
use crate::value::{List, Value};

type Result<'v> = std::result::Result<Value<'v>, EvalError>;

pub(crate) const TABLE: &[Row] = &[
    (
        "sets.contains",
        "list_sets_contains_list",
        "(list(T), list(T)) -> bool",
        contains,
    ),
    (
        "sets.equivalent",
        "list_sets_equivalent_list",
        "(list(T), list(T)) -> bool",
        equivalent,
    ),
    (
        "sets.intersects",
        "list_sets_intersects_list",
        "(list(T), list(T)) -> bool",
        intersects,
    ),
];

fn has(values: &[Value<'_>], wanted: &Value<'_>) -> std::result::Result<bool, EvalError> {
    for value in values {
        if equal(value, wanted)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn within(all: &List<'_>, part: &List<'_>) -> std::result::Result<bool, EvalError> {
    let all = all.to_vec()?;
    for value in part.iter() {
        if !has(&all, &value?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn contains<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::List(all), Value::List(part)] => within(all, part).map(Value::Bool),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn equivalent<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::List(a), Value::List(b)] => Ok(Value::Bool(within(a, b)? && within(b, a)?)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn intersects<'v>(args: &[Value<'v>]) -> Result<'v> {
    let [Value::List(a), Value::List(b)] = args else {
        return Err(EvalError::no_such_overload());
    };
    let a = a.to_vec()?;
    for value in b.iter() {
        if has(&a, &value?)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}
