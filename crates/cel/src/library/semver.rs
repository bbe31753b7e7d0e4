//! Semantic versions.

use std::cmp::Ordering;
use std::sync::Arc;

use super::opaque::Opaque;
use crate::declare::Row;
use crate::error::EvalError;
use crate::value::Value;

type Result<'v> = std::result::Result<Value<'v>, EvalError>;

pub(crate) const TABLE: &[Row] = &[
    (
        "semver",
        "string_to_semver",
        "(string) -> kubernetes.Semver",
        version,
    ),
    (
        "semver",
        "string_bool_to_semver",
        "(string, bool) -> kubernetes.Semver",
        version,
    ),
    (
        "isSemver",
        "is_semver_string",
        "(string) -> bool",
        is_version,
    ),
    (
        "isSemver",
        "is_semver_string_bool",
        "(string, bool) -> bool",
        is_version,
    ),
    (
        "isGreaterThan",
        "semver_is_greater_than",
        "kubernetes.Semver.(kubernetes.Semver) -> bool",
        is_greater,
    ),
    (
        "isLessThan",
        "semver_is_less_than",
        "kubernetes.Semver.(kubernetes.Semver) -> bool",
        is_less,
    ),
    (
        "compareTo",
        "semver_compare_to",
        "kubernetes.Semver.(kubernetes.Semver) -> int",
        compare_to,
    ),
    (
        "major",
        "semver_major",
        "kubernetes.Semver.() -> int",
        major,
    ),
    (
        "minor",
        "semver_minor",
        "kubernetes.Semver.() -> int",
        minor,
    ),
    (
        "patch",
        "semver_patch",
        "kubernetes.Semver.() -> int",
        patch,
    ),
];

/// What is wrong with a version, in the words of the library that upstream uses.
fn fault(text: &str) -> String {
    if text.is_empty() {
        return "Version string empty".to_owned();
    }
    let parts: Vec<&str> = text.splitn(3, '.').collect();
    let [major, minor, patch] = parts.as_slice() else {
        return "No Major.Minor.Patch elements found".to_owned();
    };
    let patch = patch.split(['-', '+']).next().unwrap_or_default();
    for (name, part) in [("major", major), ("minor", minor), ("patch", &patch)] {
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            let capital = format!("{}{}", name[..1].to_uppercase(), &name[1..]);
            return format!(
                "Invalid character(s) found in {} number {part:?}",
                if name == "patch" {
                    capital
                } else {
                    name.to_owned()
                }
            );
        }
        if part.len() > 1 && part.starts_with('0') {
            let capital = format!("{}{}", name[..1].to_uppercase(), &name[1..]);
            return format!("{capital} number must not contain leading zeroes {part:?}");
        }
    }
    "Invalid character(s) found in prerelease or build metadata".to_owned()
}

fn parse(text: &str) -> std::result::Result<semver::Version, String> {
    semver::Version::parse(text).map_err(|_| fault(text))
}

/// Takes a leading `v` and leading zeros away and fills up what is missing.
fn normalized(text: &str) -> std::result::Result<String, String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text
        .splitn(3, '.')
        .map(|part| {
            if part.len() <= 1 {
                return part.to_owned();
            }
            let trimmed = part.trim_start_matches('0');
            if trimmed.starts_with(|c: char| c.is_ascii_digit()) {
                trimmed.to_owned()
            } else {
                format!("0{trimmed}")
            }
        })
        .collect();
    if parts.len() < 3 {
        if parts.last().is_some_and(|last| last.contains(['+', '-'])) {
            return Err("short version cannot contain PreRelease/Build meta data".to_owned());
        }
        parts.resize(3, "0".to_owned());
    }
    Ok(parts.join("."))
}

fn read(
    args: &[Value<'_>],
) -> std::result::Result<std::result::Result<semver::Version, String>, EvalError> {
    match args {
        [Value::String(text)] | [Value::String(text), Value::Bool(false)] => Ok(parse(text)),
        [Value::String(text), Value::Bool(true)] => {
            Ok(normalized(text).and_then(|text| parse(&text)))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn version<'v>(args: &[Value<'v>]) -> Result<'v> {
    read(args)?
        .map(|version| Value::Opaque(Opaque::Semver(Arc::new(version))))
        .map_err(EvalError::fault)
}

fn is_version<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok(read(args)?.is_ok().into())
}

fn of<'a>(value: Option<&'a Value<'_>>) -> std::result::Result<&'a semver::Version, EvalError> {
    match value {
        Some(Value::Opaque(Opaque::Semver(version))) => Ok(version),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// By precedence: build metadata does not count.
fn compared(args: &[Value<'_>]) -> std::result::Result<Ordering, EvalError> {
    Ok(of(args.first())?.cmp_precedence(of(args.get(1))?))
}

fn is_greater<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok((compared(args)? == Ordering::Greater).into())
}

fn is_less<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok((compared(args)? == Ordering::Less).into())
}

fn compare_to<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok(Value::Int(compared(args)? as i64))
}

fn major<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok(Value::Int(of(args.first())?.major as i64))
}

fn minor<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok(Value::Int(of(args.first())?.minor as i64))
}

fn patch<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok(Value::Int(of(args.first())?.patch as i64))
}
