//! What `transformMap` and `transformMapEntry` gather with; expressions cannot name it.

use crate::declare::Row;
use crate::error::EvalError;
use crate::value::Value;

pub(crate) const TABLE: &[Row] = &[
    (
        "cel.@mapInsert",
        "@mapInsert_map_key_value",
        "(map(K, V), K, V) -> map(K, V)",
        in_loops_only,
    ),
    (
        "cel.@mapInsert",
        "@mapInsert_map_map",
        "(map(K, V), map(K, V)) -> map(K, V)",
        in_loops_only,
    ),
];

/// The evaluator adds to the map in place.
fn in_loops_only<'v>(_: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    Err(EvalError::no_such_overload())
}
