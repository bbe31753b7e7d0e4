//! Values that may be absent.

use std::sync::Arc;

use crate::declare::Row;
use crate::error::EvalError;
use crate::value::Value;

type Result<'v> = std::result::Result<Value<'v>, EvalError>;

pub(crate) const TABLE: &[Row] = &[
    ("optional.of", "optional_of", "(V) -> optional(V)", of),
    (
        "optional.ofNonZeroValue",
        "optional_ofNonZeroValue",
        "(V) -> optional(V)",
        of_non_zero,
    ),
    ("optional.none", "optional_none", "() -> optional(V)", none),
    ("value", "optional_value", "optional(V).() -> V", value),
    (
        "hasValue",
        "optional_hasValue",
        "optional(V).() -> bool",
        has_value,
    ),
    // The evaluator does these three itself: the other side is looked at only where it is wanted.
    (
        "or",
        "optional_or_optional",
        "optional(V).(optional(V)) -> optional(V)",
        lazily,
    ),
    (
        "orValue",
        "optional_orValue_value",
        "optional(V).(V) -> V",
        lazily,
    ),
    (
        "_[?_]",
        "list_optindex_optional_int",
        "(list(V), int) -> optional(V)",
        lazily,
    ),
    (
        "_[?_]",
        "optional_list_optindex_optional_int",
        "(optional(list(V)), int) -> optional(V)",
        lazily,
    ),
    (
        "_[?_]",
        "map_optindex_optional_value",
        "(map(K, V), K) -> optional(V)",
        lazily,
    ),
    (
        "_[?_]",
        "optional_map_optindex_optional_value",
        "(optional(map(K, V)), K) -> optional(V)",
        lazily,
    ),
    (
        "_[_]",
        "optional_list_index_int",
        "(optional(list(V)), int) -> optional(V)",
        lazily,
    ),
    (
        "_[_]",
        "optional_map_index_value",
        "(optional(map(K, V)), K) -> optional(V)",
        lazily,
    ),
    ("last", "list_last", "list(V).() -> optional(V)", last),
    ("first", "list_first", "list(V).() -> optional(V)", first),
    (
        "optional.unwrap",
        "optional_unwrap",
        "(list(optional(V))) -> list(V)",
        unwrap,
    ),
    (
        "unwrapOpt",
        "optional_unwrapOpt",
        "list(optional(V)).() -> list(V)",
        unwrap,
    ),
];

fn lazily<'v>(_: &[Value<'v>]) -> Result<'v> {
    Err(EvalError::no_such_overload())
}

fn some(value: Value<'_>) -> Value<'_> {
    Value::Optional(Some(Arc::new(value)))
}

fn of<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [value] => Ok(some(value.clone())),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn of_non_zero<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [value] if value.is_zero() => Ok(Value::Optional(None)),
        _ => of(args),
    }
}

fn none<'v>(_: &[Value<'v>]) -> Result<'v> {
    Ok(Value::Optional(None))
}

fn value<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::Optional(Some(value))] => Ok(Value::clone(value)),
        [Value::Optional(None)] => Err(EvalError::fault("optional.none() dereference")),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn has_value<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn at_end<'v>(args: &[Value<'v>], last: bool) -> Result<'v> {
    let [Value::List(list)] = args else {
        return Err(EvalError::no_such_overload());
    };
    let index = if last {
        list.len().saturating_sub(1)
    } else {
        0
    };
    Ok(match list.get(index) {
        Some(value) => some(value?),
        None => Value::Optional(None),
    })
}

fn last<'v>(args: &[Value<'v>]) -> Result<'v> {
    at_end(args, true)
}

fn first<'v>(args: &[Value<'v>]) -> Result<'v> {
    at_end(args, false)
}

fn unwrap<'v>(args: &[Value<'v>]) -> Result<'v> {
    let [Value::List(list)] = args else {
        return Err(EvalError::no_such_overload());
    };
    let mut out = Vec::new();
    for value in list.iter() {
        match value? {
            Value::Optional(Some(value)) => out.push(Value::clone(&value)),
            Value::Optional(None) => {}
            other => {
                return Err(EvalError::fault(format!(
                    "value {} is not optional",
                    super::formatting::shown(&other)
                )));
            }
        }
    }
    Ok(Value::list(out))
}
