//! Functions on text.

use std::sync::Arc;

use super::formatting;
use crate::declare::Row;
use crate::error::EvalError;
use crate::value::{List, Text, Value};

type Result<'v> = std::result::Result<Value<'v>, EvalError>;

/// The longest text that a function makes; upstream has no bound but memory.
const MAX_TEXT: usize = 64 << 20;

pub(crate) const TABLE: &[Row] = &[
    (
        "contains",
        "contains_string",
        "string.(string) -> bool",
        contains,
    ),
    (
        "endsWith",
        "ends_with_string",
        "string.(string) -> bool",
        ends_with,
    ),
    (
        "startsWith",
        "starts_with_string",
        "string.(string) -> bool",
        starts_with,
    ),
    (
        "charAt",
        "string_char_at_int",
        "string.(int) -> string",
        char_at,
    ),
    (
        "indexOf",
        "string_index_of_string",
        "string.(string) -> int",
        index_of,
    ),
    (
        "indexOf",
        "string_index_of_string_int",
        "string.(string, int) -> int",
        index_of,
    ),
    (
        "lastIndexOf",
        "string_last_index_of_string",
        "string.(string) -> int",
        last_index_of,
    ),
    (
        "lastIndexOf",
        "string_last_index_of_string_int",
        "string.(string, int) -> int",
        last_index_of,
    ),
    (
        "lowerAscii",
        "string_lower_ascii",
        "string.() -> string",
        lower_ascii,
    ),
    (
        "upperAscii",
        "string_upper_ascii",
        "string.() -> string",
        upper_ascii,
    ),
    (
        "replace",
        "string_replace_string_string",
        "string.(string, string) -> string",
        replace,
    ),
    (
        "replace",
        "string_replace_string_string_int",
        "string.(string, string, int) -> string",
        replace,
    ),
    (
        "split",
        "string_split_string",
        "string.(string) -> list(string)",
        split,
    ),
    (
        "split",
        "string_split_string_int",
        "string.(string, int) -> list(string)",
        split,
    ),
    (
        "substring",
        "string_substring_int",
        "string.(int) -> string",
        substring,
    ),
    (
        "substring",
        "string_substring_int_int",
        "string.(int, int) -> string",
        substring,
    ),
    ("trim", "string_trim", "string.() -> string", trim),
    (
        "format",
        "string_format",
        "string.(list(dyn)) -> string",
        formatting::format,
    ),
    (
        "strings.quote",
        "strings_quote",
        "(string) -> string",
        quote,
    ),
    ("join", "list_join", "list(string).() -> string", join),
    (
        "join",
        "list_join_string",
        "list(string).(string) -> string",
        join,
    ),
    (
        "jsonpatch.escapeKey",
        "string_jsonpatch_escapeKey_string",
        "(string) -> string",
        escape_key,
    ),
];

fn none<'v>() -> Result<'v> {
    Err(EvalError::no_such_overload())
}

fn out_of_range<'v>(index: i64) -> Result<'v> {
    Err(EvalError::fault(format!("index out of range: {index}")))
}

fn contains<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text), Value::String(part)] => Ok(text.contains(part.as_str()).into()),
        _ => none(),
    }
}

fn ends_with<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text), Value::String(part)] => Ok(text.ends_with(part.as_str()).into()),
        _ => none(),
    }
}

fn starts_with<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text), Value::String(part)] => Ok(text.starts_with(part.as_str()).into()),
        _ => none(),
    }
}

fn char_at<'v>(args: &[Value<'v>]) -> Result<'v> {
    let [Value::String(text), Value::Int(index)] = args else {
        return none();
    };
    let Ok(place) = usize::try_from(*index) else {
        return out_of_range(*index);
    };
    match text.chars().nth(place) {
        Some(c) => Ok(c.to_string().into()),
        None if place == text.chars().count() => Ok("".into()),
        None => out_of_range(*index),
    }
}

fn index_of<'v>(args: &[Value<'v>]) -> Result<'v> {
    let (text, part, offset) = match args {
        [Value::String(text), Value::String(part)] => (text, part, 0),
        [Value::String(text), Value::String(part), Value::Int(offset)] => (text, part, *offset),
        _ => return none(),
    };
    if part.is_empty() {
        return Ok(Value::Int(offset));
    }
    let Ok(skip) = usize::try_from(offset) else {
        return out_of_range(offset);
    };
    let Some((start, _)) = text.char_indices().nth(skip) else {
        return Ok(Value::Int(-1));
    };
    let found = text[start..]
        .find(part.as_str())
        .map(|at| skip + text[start..start + at].chars().count());
    Ok(Value::Int(found.map_or(-1, |at| at as i64)))
}

fn last_index_of<'v>(args: &[Value<'v>]) -> Result<'v> {
    let (text, part, offset) = match args {
        [Value::String(text), Value::String(part)] => (text, part, None),
        [Value::String(text), Value::String(part), Value::Int(offset)] => {
            (text, part, Some(*offset))
        }
        _ => return none(),
    };
    let length = text.chars().count();
    if part.is_empty() {
        return Ok(Value::Int(offset.unwrap_or(length as i64)));
    }
    let limit = match offset {
        None => length,
        Some(offset) => match usize::try_from(offset) {
            Err(_) => return out_of_range(offset),
            Ok(offset) if offset >= length => return Ok(Value::Int(-1)),
            Ok(offset) => offset,
        },
    };
    // The match must begin at or before the limit.
    let end = text
        .char_indices()
        .nth(limit)
        .map_or(text.len(), |(at, _)| (at + part.len()).min(text.len()));
    let mut end = end;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let found = text[..end]
        .rfind(part.as_str())
        .map(|at| text[..at].chars().count());
    Ok(Value::Int(found.map_or(-1, |at| at as i64)))
}

fn lower_ascii<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text)] => Ok(text.to_ascii_lowercase().into()),
        _ => none(),
    }
}

fn upper_ascii<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text)] => Ok(text.to_ascii_uppercase().into()),
        _ => none(),
    }
}

fn replace<'v>(args: &[Value<'v>]) -> Result<'v> {
    let (text, old, new, limit) = match args {
        [Value::String(text), Value::String(old), Value::String(new)] => {
            (text, old, new, usize::MAX)
        }
        [
            Value::String(text),
            Value::String(old),
            Value::String(new),
            Value::Int(limit),
        ] => (
            text,
            old,
            new,
            usize::try_from(*limit).unwrap_or(usize::MAX),
        ),
        _ => return none(),
    };
    let count = text.matches(old.as_str()).count().min(limit);
    if count.saturating_mul(new.len()).saturating_add(text.len()) > MAX_TEXT {
        return Err(EvalError::CostExceeded);
    }
    Ok(text.replacen(old.as_str(), new, limit).into())
}

fn split<'v>(args: &[Value<'v>]) -> Result<'v> {
    let (text, separator, limit) = match args {
        [Value::String(text), Value::String(separator)] => (text, separator, -1),
        [
            Value::String(text),
            Value::String(separator),
            Value::Int(limit),
        ] => (text, separator, *limit),
        _ => return none(),
    };
    let limit = match limit {
        0 => return Ok(Value::list(Vec::new())),
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let parts: Vec<Value<'v>> = if separator.is_empty() {
        characters(text, limit)
    } else {
        text.splitn(limit, separator.as_str())
            .map(|part| part.to_owned().into())
            .collect()
    };
    Ok(Value::list(parts))
}

fn characters<'v>(text: &str, limit: usize) -> Vec<Value<'v>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if parts.len() + 1 == limit {
            break;
        }
        let (first, after) = rest.split_at(c.len_utf8());
        parts.push(first.to_owned().into());
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(rest.to_owned().into());
    }
    parts
}

fn substring<'v>(args: &[Value<'v>]) -> Result<'v> {
    let (text, start, end) = match args {
        [Value::String(text), Value::Int(start)] => (text, *start, None),
        [Value::String(text), Value::Int(start), Value::Int(end)] => (text, *start, Some(*end)),
        _ => return none(),
    };
    let length = text.chars().count() as i64;
    let end = end.unwrap_or(length);
    if start > end && args.len() == 3 {
        return Err(EvalError::fault(format!(
            "invalid substring range. start: {start}, end: {end}"
        )));
    }
    if start < 0 || start > length {
        return out_of_range(start);
    }
    if end < 0 || end > length {
        return out_of_range(end);
    }
    let part: String = text
        .chars()
        .skip(start as usize)
        .take((end - start) as usize)
        .collect();
    Ok(part.into())
}

fn trim<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(Text::Borrowed(text))] => Ok(Value::String(Text::Borrowed(text.trim()))),
        [Value::String(text)] => Ok(text.trim().to_owned().into()),
        _ => none(),
    }
}

fn join<'v>(args: &[Value<'v>]) -> Result<'v> {
    let (list, separator) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, separator.as_str()),
        _ => return none(),
    };
    joined(list, separator)
}

fn joined<'v>(list: &List<'v>, separator: &str) -> Result<'v> {
    let mut out = String::new();
    for (index, element) in list.iter().enumerate() {
        let element = element?;
        let Value::String(text) = &element else {
            return Err(EvalError::fault(format!(
                "join: invalid input: {}",
                formatting::shown(&element)
            )));
        };
        if index > 0 {
            out.push_str(separator);
        }
        out.push_str(text);
        if out.len() > MAX_TEXT {
            return Err(EvalError::CostExceeded);
        }
    }
    Ok(out.into())
}

fn quote<'v>(args: &[Value<'v>]) -> Result<'v> {
    let [Value::String(text)] = args else {
        return none();
    };
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(Value::String(Text::Shared(Arc::from(out))))
}

fn escape_key<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(key)] => Ok(key.replace('~', "~0").replace('/', "~1").into()),
        _ => none(),
    }
}
