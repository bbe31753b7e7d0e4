//! `"%s is %d".format([..])`.

use crate::error::EvalError;
use crate::library::{convert, duration, timestamp};
use crate::value::Value;

type Text = std::result::Result<String, EvalError>;

const DEFAULT_PRECISION: usize = 6;
/// The most digits after the point that can be asked for.
const MAX_PRECISION: usize = 1_000;
const MAX_TEXT: usize = 64 << 20;

pub(crate) fn format<'v>(args: &[Value<'v>]) -> std::result::Result<Value<'v>, EvalError> {
    let [Value::String(pattern), Value::List(values)] = args else {
        return Err(EvalError::no_such_overload());
    };
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    let mut next = 0;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.as_str().starts_with('%') {
            chars.next();
            out.push('%');
            continue;
        }
        if chars.as_str().is_empty() {
            return Err(EvalError::fault("unexpected end of string"));
        }
        let value = values
            .get(next)
            .ok_or_else(|| EvalError::fault(format!("index {next} out of range")))??;
        next += 1;
        let precision = precision(&mut chars)?;
        let verb = chars
            .next()
            .ok_or_else(|| EvalError::fault("unexpected end of string"))?;
        out.push_str(&clause(verb, precision, &value)?);
        if out.len() > MAX_TEXT {
            return Err(EvalError::CostExceeded);
        }
    }
    Ok(out.into())
}

fn precision(chars: &mut std::str::Chars<'_>) -> std::result::Result<Option<usize>, EvalError> {
    let Some(rest) = chars.as_str().strip_prefix('.') else {
        return Ok(None);
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    if digits == rest.len() {
        return Err(EvalError::fault(
            "error while parsing precision: could not find end of precision specifier",
        ));
    }
    let (number, rest) = rest.split_at(digits);
    let precision = number.parse().ok().filter(|n| *n <= MAX_PRECISION).ok_or_else(|| {
        EvalError::fault(format!(
            "error while parsing precision: error while converting precision to integer: strconv.Atoi: parsing {number:?}: invalid syntax"
        ))
    })?;
    *chars = rest.chars();
    Ok(Some(precision))
}

fn refused(what: &str, only: &str, value: &Value<'_>) -> EvalError {
    EvalError::fault(format!(
        "{what} clause can only be used on {only}, was given {}",
        value.type_of().runtime_name()
    ))
}

fn clause(verb: char, precision: Option<usize>, value: &Value<'_>) -> Text {
    match verb {
        's' => string(value),
        'd' => match value {
            Value::Int(i) => Ok(i.to_string()),
            Value::Uint(u) => Ok(u.to_string()),
            _ => Err(refused("decimal", "integers", value)),
        },
        'f' => fixed(
            float(value, "fixed-point")?,
            precision.unwrap_or(DEFAULT_PRECISION),
        ),
        'e' => Ok(scientific(
            float(value, "scientific")?,
            precision.unwrap_or(DEFAULT_PRECISION),
        )),
        'b' => match value {
            Value::Int(i) => Ok(signed(*i, |n| format!("{n:b}"))),
            Value::Uint(u) => Ok(format!("{u:b}")),
            Value::Bool(b) => Ok(u8::from(*b).to_string()),
            _ => Err(EvalError::fault(format!(
                "only integers and bools can be formatted as binary, was given {}",
                value.type_of().runtime_name()
            ))),
        },
        'o' => match value {
            Value::Int(i) => Ok(signed(*i, |n| format!("{n:o}"))),
            Value::Uint(u) => Ok(format!("{u:o}")),
            _ => Err(refused("octal", "integers", value)),
        },
        'x' => hex(value),
        'X' => hex(value).map(|text| text.to_ascii_uppercase()),
        other => Err(EvalError::fault(format!(
            "could not parse formatting clause: unrecognized formatting clause \"{other}\""
        ))),
    }
}

fn signed(i: i64, show: impl Fn(u64) -> String) -> String {
    let sign = if i < 0 { "-" } else { "" };
    format!("{sign}{}", show(i.unsigned_abs()))
}

fn hex(value: &Value<'_>) -> Text {
    let bytes = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
    match value {
        Value::Int(i) => Ok(signed(*i, |n| format!("{n:x}"))),
        Value::Uint(u) => Ok(format!("{u:x}")),
        Value::String(text) => Ok(bytes(text.as_bytes())),
        Value::Bytes(value) => Ok(bytes(value)),
        _ => Err(EvalError::fault(format!(
            "only integers, byte buffers, and strings can be formatted as hex, was given {}",
            value.type_of().runtime_name()
        ))),
    }
}

fn float(value: &Value<'_>, what: &str) -> std::result::Result<f64, EvalError> {
    match value {
        Value::Double(d) => Ok(*d),
        Value::String(text) => match text.as_str() {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            _ => Err(refused(what, "doubles", value)),
        },
        _ => Err(refused(what, "doubles", value)),
    }
}

fn special(d: f64) -> Option<&'static str> {
    if d.is_nan() {
        Some("NaN")
    } else if d == f64::INFINITY {
        Some("∞")
    } else if d == f64::NEG_INFINITY {
        Some("-∞")
    } else {
        None
    }
}

/// With digit groups, as the locale that upstream formats in has them.
fn fixed(d: f64, precision: usize) -> Text {
    if let Some(text) = special(d) {
        return Ok(text.to_owned());
    }
    let text = format!("{d:.precision$}");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.as_str()),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut out = sign.to_owned();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    Ok(out)
}

fn scientific(d: f64, precision: usize) -> String {
    if let Some(text) = special(d) {
        return text.to_owned();
    }
    let text = format!("{d:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ("\u{207b}", digits),
        None => ("", exponent),
    };
    let raised: String = format!("{digits:0>2}")
        .chars()
        .map(|c| match c {
            '1' => '\u{b9}',
            '2' => '\u{b2}',
            '3' => '\u{b3}',
            c => c
                .to_digit(10)
                .and_then(|n| char::from_u32(0x2070 + n))
                .unwrap_or(c),
        })
        .collect();
    format!("{mantissa}\u{202f}\u{d7}\u{202f}10{sign}{raised}")
}

/// `%s`
pub(crate) fn string(value: &Value<'_>) -> Text {
    match value {
        Value::List(_) | Value::Map(_) => nested(value),
        Value::Null => Ok("null".to_owned()),
        Value::Optional(_) | Value::Object(_) | Value::Opaque(_) => Err(refused(
            "string",
            "strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps",
            value,
        )),
        value => convert::text_of(value),
    }
}

/// A value within a list or map: as a literal of the language.
fn nested(value: &Value<'_>) -> Text {
    Ok(match value {
        Value::String(text) => go_quoted(text),
        Value::Bytes(bytes) => format!("b{}", go_quoted(&String::from_utf8_lossy(bytes))),
        Value::Double(d) if !d.is_finite() => format!("\"{}\"", convert::double_text(*d)),
        Value::Double(d) => format!("{d:.6}"),
        Value::Timestamp(at) => format!("timestamp(\"{}\")", timestamp::text(*at)),
        Value::Duration(nanos) => format!("duration(\"{}\")", duration::seconds_text(*nanos)),
        Value::List(list) => {
            let parts = list
                .iter()
                .map(|element| nested(&element?))
                .collect::<std::result::Result<Vec<_>, _>>()?;
            format!("[{}]", parts.join(", "))
        }
        Value::Map(map) => {
            let mut parts = Vec::new();
            for key in map.keys() {
                let value = map
                    .find(&key)?
                    .ok_or_else(|| EvalError::fault("could not find key"))?;
                parts.push((nested(&key)?, nested(&value)?));
            }
            parts.sort();
            let parts: Vec<String> = parts.iter().map(|(k, v)| format!("{k}:{v}")).collect();
            format!("{{{}}}", parts.join(", "))
        }
        Value::Optional(_) | Value::Object(_) | Value::Opaque(_) => {
            return Err(EvalError::fault(format!(
                "no formatting function for {}",
                value.type_of().runtime_name()
            )));
        }
        other => string(other)?,
    })
}

fn go_quoted(text: &str) -> String {
    format!("{text:?}")
        .replace("\\'", "'")
        .replace("\\0", "\\x00")
}

/// A value as faults show it.
pub(crate) fn shown(value: &Value<'_>) -> String {
    string(value).unwrap_or_else(|_| value.type_of().runtime_name().to_owned())
}
