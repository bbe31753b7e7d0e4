//! Functions on lists.

use std::cmp::Ordering;

use super::arithmetic;
use super::compare::{equal, order};
use crate::declare::Row;
use crate::error::EvalError;
use crate::value::{List, Value};

type Result<'v> = std::result::Result<Value<'v>, EvalError>;

/// The longest list that a function makes out of a number: more costs more than any evaluation may.
const MAX_RANGE: i64 = 2_000_000;

macro_rules! typed {
    ($rest:tt; $($name:literal $sig:literal),*; $($sum:literal $sum_sig:literal $zero:ident),*) => {
        typed!(@ $rest $($name $sig)*; $($sum $sum_sig $zero)*)
    };
    (@ [$($rest:expr),*] $($name:literal $sig:literal)*; $($sum:literal $sum_sig:literal $zero:ident)*) => {
        &[
            $($rest,)*
            $(
                ("isSorted", concat!("list_", $name, "_is_sorted_bool"), concat!("list(", $sig, ").() -> bool"), is_sorted),
                ("max", concat!("list_", $name, "_max_", $name), concat!("list(", $sig, ").() -> ", $sig), max),
                ("min", concat!("list_", $name, "_min_", $name), concat!("list(", $sig, ").() -> ", $sig), min),
                ("sort", concat!("list_", $name, "_sort"), concat!("list(", $sig, ").() -> list(", $sig, ")"), sort),
                ("@sortByAssociatedKeys", concat!("list_", $name, "_sortByAssociatedKeys"), concat!("list(T).(list(", $sig, ")) -> list(T)"), sort_by),
            )*
            $(
                ("sum", concat!("list_", $sum, "_sum_", $sum), concat!("list(", $sum_sig, ").() -> ", $sum_sig), $zero),
            )*
        ]
    };
}

pub(crate) const TABLE: &[Row] = typed!(
    [
        ("indexOf", "list_a_index_of_int", "list(A).(A) -> int", index_of),
        ("lastIndexOf", "list_a_last_index_of_int", "list(A).(A) -> int", last_index_of),
        ("slice", "list_slice", "list(T).(int, int) -> list(T)", slice),
        ("flatten", "list_flatten", "list(list(T)).() -> list(T)", flatten),
        ("flatten", "list_flatten_int", "list(dyn).(int) -> list(dyn)", flatten),
        ("lists.range", "lists_range", "(int) -> list(int)", range),
        ("reverse", "list_reverse", "list(T).() -> list(T)", reverse),
        ("distinct", "list_distinct", "list(T).() -> list(T)", distinct)
    ];
    "int" "int", "uint" "uint", "double" "double", "bool" "bool",
    "google.protobuf.Duration" "duration", "google.protobuf.Timestamp" "timestamp",
    "string" "string", "bytes" "bytes";
    "int" "int" sum_int, "uint" "uint" sum_uint, "double" "double" sum_double,
    "google.protobuf.Duration" "duration" sum_duration
);

fn list<'a, 'v>(args: &'a [Value<'v>]) -> std::result::Result<&'a List<'v>, EvalError> {
    match args.first() {
        Some(Value::List(list)) => Ok(list),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn compared(a: &Value<'_>, b: &Value<'_>) -> std::result::Result<Ordering, EvalError> {
    order(a, b).ok_or_else(EvalError::no_such_overload)
}

fn is_sorted<'v>(args: &[Value<'v>]) -> Result<'v> {
    let values = list(args)?.to_vec()?;
    for pair in values.windows(2) {
        if let [a, b] = pair
            && compared(a, b)? == Ordering::Greater
        {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn sum<'v>(args: &[Value<'v>], zero: Value<'v>) -> Result<'v> {
    let mut total = zero;
    for value in list(args)?.iter() {
        total = arithmetic::add(&[total, value?])?;
    }
    Ok(total)
}

fn sum_int<'v>(args: &[Value<'v>]) -> Result<'v> {
    // What is summed up decides the type where it is only known now.
    match list(args)?.get(0) {
        Some(Ok(Value::Uint(_))) => sum(args, Value::Uint(0)),
        Some(Ok(Value::Double(_))) => sum(args, Value::Double(0.0)),
        Some(Ok(Value::Duration(_))) => sum(args, Value::Duration(0)),
        _ => sum(args, Value::Int(0)),
    }
}

fn sum_uint<'v>(args: &[Value<'v>]) -> Result<'v> {
    sum(args, Value::Uint(0))
}

fn sum_double<'v>(args: &[Value<'v>]) -> Result<'v> {
    sum(args, Value::Double(0.0))
}

fn sum_duration<'v>(args: &[Value<'v>]) -> Result<'v> {
    sum(args, Value::Duration(0))
}

fn extreme<'v>(args: &[Value<'v>], name: &str, wanted: Ordering) -> Result<'v> {
    let mut best: Option<Value<'v>> = None;
    for value in list(args)?.iter() {
        let value = value?;
        best = match best {
            Some(best) if compared(&value, &best)? != wanted => Some(best),
            _ => Some(value),
        };
    }
    best.ok_or_else(|| EvalError::fault(format!("{name} called on empty list")))
}

fn max<'v>(args: &[Value<'v>]) -> Result<'v> {
    extreme(args, "max", Ordering::Greater)
}

fn min<'v>(args: &[Value<'v>]) -> Result<'v> {
    extreme(args, "min", Ordering::Less)
}

fn position<'v>(args: &[Value<'v>], last: bool) -> Result<'v> {
    let [Value::List(list), wanted] = args else {
        return Err(EvalError::no_such_overload());
    };
    let mut found = -1;
    for (index, value) in list.iter().enumerate() {
        if equal(&value?, wanted)? {
            found = index as i64;
            if !last {
                break;
            }
        }
    }
    Ok(Value::Int(found))
}

fn index_of<'v>(args: &[Value<'v>]) -> Result<'v> {
    position(args, false)
}

fn last_index_of<'v>(args: &[Value<'v>]) -> Result<'v> {
    position(args, true)
}

fn slice<'v>(args: &[Value<'v>]) -> Result<'v> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args else {
        return Err(EvalError::no_such_overload());
    };
    let refused = |why: String| {
        Err(EvalError::fault(format!(
            "cannot slice({start}, {end}), {why}"
        )))
    };
    if *start < 0 || *end < 0 {
        return refused("negative indexes not supported".to_owned());
    }
    if start > end {
        return refused("start index must be less than or equal to end index".to_owned());
    }
    if list.len() < *end as usize {
        return refused(format!("list is length {}", list.len()));
    }
    let values = list
        .iter()
        .skip(*start as usize)
        .take((end - start) as usize)
        .collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Value::list(values))
}

fn flatten<'v>(args: &[Value<'v>]) -> Result<'v> {
    let depth = match args {
        [_, Value::Int(depth)] => *depth,
        _ => 1,
    };
    if depth < 0 {
        return Err(EvalError::fault("level must be non-negative"));
    }
    let mut out = Vec::new();
    flatten_into(list(args)?, depth, &mut out)?;
    Ok(Value::list(out))
}

fn flatten_into<'v>(
    list: &List<'v>,
    depth: i64,
    out: &mut Vec<Value<'v>>,
) -> std::result::Result<(), EvalError> {
    for value in list.iter() {
        match value? {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, out)?,
            other => out.push(other),
        }
    }
    Ok(())
}

fn range<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::Int(n)] if *n > MAX_RANGE => Err(EvalError::CostExceeded),
        [Value::Int(n)] => Ok(Value::list((0..*n).map(Value::Int).collect())),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn reverse<'v>(args: &[Value<'v>]) -> Result<'v> {
    let mut values = list(args)?.to_vec()?;
    values.reverse();
    Ok(Value::list(values))
}

fn distinct<'v>(args: &[Value<'v>]) -> Result<'v> {
    let mut out: Vec<Value<'v>> = Vec::new();
    for value in list(args)?.iter() {
        let value = value?;
        let mut known = false;
        for other in &out {
            if equal(&value, other)? {
                known = true;
                break;
            }
        }
        if !known {
            out.push(value);
        }
    }
    Ok(Value::list(out))
}

fn sort<'v>(args: &[Value<'v>]) -> Result<'v> {
    let values = list(args)?.to_vec()?;
    sorted(values.clone(), values)
}

fn sort_by<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::List(list), Value::List(keys)] => sorted(list.to_vec()?, keys.to_vec()?),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn sorted<'v>(values: Vec<Value<'v>>, keys: Vec<Value<'v>>) -> Result<'v> {
    if values.len() != keys.len() {
        return Err(EvalError::fault(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            values.len(),
            keys.len()
        )));
    }
    if let Some(first) = keys.first() {
        if order(first, first).is_none() {
            return Err(EvalError::fault("list elements must be comparable"));
        }
        let kind = std::mem::discriminant(first);
        if keys.iter().any(|key| std::mem::discriminant(key) != kind) {
            return Err(EvalError::fault("list elements must have the same type"));
        }
    }
    let mut pairs: Vec<(Value<'v>, Value<'v>)> = keys.into_iter().zip(values).collect();
    pairs.sort_by(|(a, _), (b, _)| order(a, b).unwrap_or(Ordering::Equal));
    Ok(Value::list(
        pairs.into_iter().map(|(_, value)| value).collect(),
    ))
}
