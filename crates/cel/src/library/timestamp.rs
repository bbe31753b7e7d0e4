//! Points in time as text, and their parts.

use jiff::civil::Weekday;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

use crate::declare::Row;
use crate::error::EvalError;
use crate::value::Value;

type Result<'v> = std::result::Result<Value<'v>, EvalError>;

macro_rules! parts {
    ($($name:literal $id:literal $act:ident),*; $($span:literal $span_id:literal $span_act:ident),*) => {
        &[
            $(
                ($name, $id, "timestamp.() -> int", $act),
                ($name, concat!($id, "_with_tz"), "timestamp.(string) -> int", $act),
            )*
            $(($span, $span_id, "duration.() -> int", $span_act),)*
        ]
    };
}

pub(crate) const TABLE: &[Row] = parts!(
    "getFullYear" "timestamp_to_year" year,
    "getMonth" "timestamp_to_month" month,
    "getDayOfYear" "timestamp_to_day_of_year" day_of_year,
    "getDayOfMonth" "timestamp_to_day_of_month" day_of_month,
    "getDate" "timestamp_to_day_of_month_1_based" date,
    "getDayOfWeek" "timestamp_to_day_of_week" day_of_week,
    "getHours" "timestamp_to_hours_tz" hours,
    "getMinutes" "timestamp_to_minutes" minutes,
    "getSeconds" "timestamp_to_seconds_tz" seconds,
    "getMilliseconds" "timestamp_to_milliseconds" milliseconds;
    "getHours" "duration_to_hours" span_hours,
    "getMinutes" "duration_to_minutes" span_minutes,
    "getSeconds" "duration_to_seconds" span_seconds,
    "getMilliseconds" "duration_to_milliseconds" span_milliseconds
);

const FIRST_SECOND: i64 = -62_135_596_800;
const LAST_SECOND: i64 = 253_402_300_799;

/// Whether the language can hold this point in time: years 1 to 9999.
pub(crate) fn in_range(at: Timestamp) -> bool {
    (FIRST_SECOND..=LAST_SECOND).contains(&at.as_second())
}

/// Reads RFC 3339.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let shaped = bytes.len() >= 20
        && [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18]
            .into_iter()
            .all(digit)
        && matches!(
            (
                bytes.get(4),
                bytes.get(7),
                bytes.get(10),
                bytes.get(13),
                bytes.get(16)
            ),
            (Some(b'-'), Some(b'-'), Some(b'T'), Some(b':'), Some(b':'))
        );
    if !shaped || text.contains('[') {
        return None;
    }
    text.parse().ok()
}

/// Reads what OpenAPI's format `date-time` allows.
pub(crate) fn parse_lenient(text: &str) -> Option<Timestamp> {
    parse(&text.to_ascii_uppercase()).or_else(|| {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        civil
            .to_zoned(TimeZone::UTC)
            .ok()
            .map(|zoned| zoned.timestamp())
    })
}

/// Reads a day: `2024-02-29`.
pub(crate) fn parse_date(text: &str) -> Option<Timestamp> {
    if text.len() != 10 {
        return None;
    }
    let date: jiff::civil::Date = text.parse().ok()?;
    date.to_zoned(TimeZone::UTC)
        .ok()
        .map(|zoned| zoned.timestamp())
}

/// The point in time as RFC 3339 in UTC, with as many fractional digits as it needs.
pub(crate) fn text(at: Timestamp) -> String {
    at.to_string()
}

fn zone(name: &str) -> std::result::Result<TimeZone, EvalError> {
    if let Some((hours, minutes)) = name.split_once(':') {
        let parse = || -> Option<i32> {
            let sign = if hours.starts_with('-') { -1 } else { 1 };
            let hours: i32 = hours.trim_start_matches(['+', '-']).parse().ok()?;
            let minutes: i32 = minutes.parse().ok()?;
            (0..=25).contains(&hours).then_some(())?;
            (0..60)
                .contains(&minutes)
                .then_some(sign * (hours * 3600 + minutes * 60))
        };
        return parse()
            .and_then(|seconds| Offset::from_seconds(seconds).ok())
            .map(Offset::to_time_zone)
            .ok_or_else(|| EvalError::fault(format!("invalid time zone {name:?}")));
    }
    match name {
        "" | "UTC" => Ok(TimeZone::UTC),
        _ => TimeZone::get(name).map_err(|_| EvalError::fault(format!("unknown time zone {name}"))),
    }
}

fn part<'v>(args: &[Value<'v>], of: impl Fn(&Zoned) -> i64) -> Result<'v> {
    let (at, zone) = match args {
        [Value::Timestamp(at)] => (at, TimeZone::UTC),
        [Value::Timestamp(at), Value::String(name)] => (at, zone(name)?),
        _ => return Err(EvalError::no_such_overload()),
    };
    Ok(Value::Int(of(&at.to_zoned(zone))))
}

fn year<'v>(args: &[Value<'v>]) -> Result<'v> {
    part(args, |at| at.year().into())
}

fn month<'v>(args: &[Value<'v>]) -> Result<'v> {
    part(args, |at| i64::from(at.month()) - 1)
}

fn day_of_year<'v>(args: &[Value<'v>]) -> Result<'v> {
    part(args, |at| i64::from(at.day_of_year()) - 1)
}

fn day_of_month<'v>(args: &[Value<'v>]) -> Result<'v> {
    part(args, |at| i64::from(at.day()) - 1)
}

fn date<'v>(args: &[Value<'v>]) -> Result<'v> {
    part(args, |at| at.day().into())
}

fn day_of_week<'v>(args: &[Value<'v>]) -> Result<'v> {
    part(args, |at| weekday(at.weekday()))
}

fn weekday(day: Weekday) -> i64 {
    day.to_sunday_zero_offset().into()
}

fn hours<'v>(args: &[Value<'v>]) -> Result<'v> {
    part(args, |at| at.hour().into())
}

fn minutes<'v>(args: &[Value<'v>]) -> Result<'v> {
    part(args, |at| at.minute().into())
}

fn seconds<'v>(args: &[Value<'v>]) -> Result<'v> {
    part(args, |at| at.second().into())
}

fn milliseconds<'v>(args: &[Value<'v>]) -> Result<'v> {
    part(args, |at| at.millisecond().into())
}

fn span<'v>(args: &[Value<'v>], unit: i64) -> Result<'v> {
    match args {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / unit)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn span_hours<'v>(args: &[Value<'v>]) -> Result<'v> {
    span(args, 3_600_000_000_000)
}

fn span_minutes<'v>(args: &[Value<'v>]) -> Result<'v> {
    span(args, 60_000_000_000)
}

fn span_seconds<'v>(args: &[Value<'v>]) -> Result<'v> {
    span(args, 1_000_000_000)
}

fn span_milliseconds<'v>(args: &[Value<'v>]) -> Result<'v> {
    span(args, 1_000_000)
}
