//! Kubernetes quantities: `500m`, `1Gi`, `1e3`.

use std::cmp::Ordering;
use std::sync::Arc;

use super::opaque::Opaque;
use crate::declare::Row;
use crate::error::EvalError;
use crate::value::Value;

type Result<'v> = std::result::Result<Value<'v>, EvalError>;

pub(crate) const TABLE: &[Row] = &[
    (
        "quantity",
        "string_to_quantity",
        "(string) -> kubernetes.Quantity",
        quantity,
    ),
    (
        "isQuantity",
        "is_quantity_string",
        "(string) -> bool",
        is_quantity,
    ),
    (
        "sign",
        "quantity_sign",
        "(kubernetes.Quantity) -> int",
        sign,
    ),
    (
        "sign",
        "quantity_sign_member",
        "kubernetes.Quantity.() -> int",
        sign,
    ),
    (
        "isGreaterThan",
        "quantity_is_greater_than",
        "kubernetes.Quantity.(kubernetes.Quantity) -> bool",
        is_greater,
    ),
    (
        "isLessThan",
        "quantity_is_less_than",
        "kubernetes.Quantity.(kubernetes.Quantity) -> bool",
        is_less,
    ),
    (
        "compareTo",
        "quantity_compare_to",
        "kubernetes.Quantity.(kubernetes.Quantity) -> int",
        compare_to,
    ),
    (
        "asApproximateFloat",
        "quantity_get_float",
        "kubernetes.Quantity.() -> double",
        as_float,
    ),
    (
        "asInteger",
        "quantity_get_int",
        "kubernetes.Quantity.() -> int",
        as_integer,
    ),
    (
        "isInteger",
        "quantity_is_integer",
        "kubernetes.Quantity.() -> bool",
        is_integer,
    ),
    (
        "add",
        "quantity_add",
        "kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity",
        add,
    ),
    (
        "add",
        "quantity_add_int",
        "kubernetes.Quantity.(int) -> kubernetes.Quantity",
        add,
    ),
    (
        "sub",
        "quantity_sub",
        "kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity",
        sub,
    ),
    (
        "sub",
        "quantity_sub_int",
        "kubernetes.Quantity.(int) -> kubernetes.Quantity",
        sub,
    ),
];

const NANO: i128 = 1_000_000_000;
const WRONG_FORMAT: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const WRONG_SUFFIX: &str = "unable to parse quantity's suffix";

/// A quantity, exact to a billionth; larger ones than fit count as the largest.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    binary: bool,
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl std::fmt::Display for Quantity {
    /// As short as can be, in the notation it came in.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.binary && self.nanos % NANO == 0 {
            let value = self.nanos / NANO;
            let units = ["Ei", "Pi", "Ti", "Gi", "Mi", "Ki"];
            for (index, unit) in units.iter().enumerate() {
                let scale = 1_i128 << (10 * (units.len() - index));
                if value % scale == 0 {
                    return write!(f, "{}{unit}", value / scale);
                }
            }
            return write!(f, "{value}");
        }
        let units = ["E", "P", "T", "G", "M", "k", "", "m", "u", "n"];
        let mut scale = 10_i128.pow(27);
        for unit in units {
            if self.nanos % scale == 0 {
                return write!(f, "{}{unit}", self.nanos / scale);
            }
            scale /= 1000;
        }
        Ok(())
    }
}

/// What a suffix multiplies by, as a ratio.
fn suffix_scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "n" => (1, NANO),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "" => (1, 1),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (NANO, 1),
        "T" => (NANO * 1_000, 1),
        "P" => (NANO * 1_000_000, 1),
        "E" => (NANO * NANO, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let exponent: i32 = exponent.parse().ok()?;
            let size = 10_i128.checked_pow(exponent.unsigned_abs().min(38))?;
            if exponent >= 0 { (size, 1) } else { (1, size) }
        }
    })
}

/// Reads a quantity.
pub(crate) fn parse(text: &str) -> std::result::Result<Quantity, &'static str> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let length = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(length);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(WRONG_FORMAT);
    }
    if !suffix
        .bytes()
        .all(|b| b.is_ascii_digit() || b"eEinumkKMGTP+-".contains(&b))
    {
        return Err(WRONG_FORMAT);
    }
    let (multiply, divide) = suffix_scale(suffix).ok_or(WRONG_SUFFIX)?;
    let nanos = scaled(whole, fraction, multiply, divide);
    Ok(Quantity {
        nanos: if negative { -nanos } else { nanos },
        binary: suffix.ends_with('i'),
    })
}

/// The number in billionths, rounded up; the largest where it does not fit.
fn scaled(whole: &str, fraction: &str, multiply: i128, divide: i128) -> i128 {
    const LARGEST: i128 = i64::MAX as i128 * NANO;
    let exact = || -> Option<i128> {
        let fraction = fraction.trim_end_matches('0');
        let fraction = fraction.get(..fraction.len().min(20))?;
        let digits = format!("{whole}{fraction}");
        let mantissa: i128 = digits
            .trim_start_matches('0')
            .parse()
            .or_else(|_| {
                if digits.bytes().all(|b| b == b'0') {
                    Ok(0)
                } else {
                    Err(())
                }
            })
            .ok()?;
        let point = 10_i128.checked_pow(fraction.len() as u32)?;
        // Take out what divides before multiplying, so that little overflows.
        let (mut up, mut down) = (multiply.checked_mul(NANO), point.checked_mul(divide)?);
        if up.is_none() {
            up = Some(multiply);
            down /= NANO.min(down);
        }
        let up = up?;
        let common = gcd(up, down);
        let (up, down) = (up / common, down / common);
        let product = mantissa.checked_mul(up)?;
        Some(product / down + i128::from(product % down != 0))
    };
    exact().map_or(LARGEST, |nanos| nanos.min(LARGEST))
}

fn gcd(a: i128, b: i128) -> i128 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

fn quantity<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text)] => parse(text).map(wrapped).map_err(EvalError::fault),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn wrapped<'v>(quantity: Quantity) -> Value<'v> {
    Value::Opaque(Opaque::Quantity(Arc::new(quantity)))
}

fn is_quantity<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text)] => Ok(parse(text).is_ok().into()),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn of(value: Option<&Value<'_>>) -> std::result::Result<Quantity, EvalError> {
    match value {
        Some(Value::Opaque(Opaque::Quantity(quantity))) => Ok(**quantity),
        Some(Value::Int(i)) => Ok(Quantity {
            nanos: i128::from(*i) * NANO,
            binary: false,
        }),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn sign<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok(Value::Int(of(args.first())?.nanos.signum() as i64))
}

fn compared(args: &[Value<'_>]) -> std::result::Result<Ordering, EvalError> {
    Ok(of(args.first())?.nanos.cmp(&of(args.get(1))?.nanos))
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

fn as_float<'v>(args: &[Value<'v>]) -> Result<'v> {
    let nanos = of(args.first())?.nanos;
    // Whole and fraction apart: both are exact, the sum is rounded once.
    let (whole, rest) = (nanos / NANO, nanos % NANO);
    Ok(Value::Double(whole as f64 + rest as f64 / NANO as f64))
}

fn whole(quantity: Quantity) -> Option<i64> {
    if quantity.nanos % NANO != 0 {
        return None;
    }
    i64::try_from(quantity.nanos / NANO).ok()
}

fn as_integer<'v>(args: &[Value<'v>]) -> Result<'v> {
    whole(of(args.first())?)
        .map(Value::Int)
        .ok_or_else(|| EvalError::fault("cannot convert value to integer"))
}

fn is_integer<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok(whole(of(args.first())?).is_some().into())
}

fn added<'v>(args: &[Value<'v>], sign: i128) -> Result<'v> {
    let (a, b) = (of(args.first())?, of(args.get(1))?);
    Ok(wrapped(Quantity {
        nanos: a.nanos.saturating_add(sign * b.nanos),
        binary: if a.nanos == 0 { b.binary } else { a.binary },
    }))
}

fn add<'v>(args: &[Value<'v>]) -> Result<'v> {
    added(args, 1)
}

fn sub<'v>(args: &[Value<'v>]) -> Result<'v> {
    added(args, -1)
}
