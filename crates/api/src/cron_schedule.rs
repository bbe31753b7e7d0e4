//! Cron schedules: five fields or a shorthand, what is wrong with one, and when it is due.
//!
//! The rules are those of robfig's standard parser, which upstream uses.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

/// The least and the most that a field holds, and the names it knows.
struct Field {
    least: u64,
    most: u64,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &[
    "", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field {
        least: 0,
        most: 59,
        names: &[],
    },
    Field {
        least: 0,
        most: 23,
        names: &[],
    },
    Field {
        least: 1,
        most: 31,
        names: &[],
    },
    Field {
        least: 1,
        most: 12,
        names: MONTHS,
    },
    Field {
        least: 0,
        most: 6,
        names: DAYS,
    },
];
const SHORTHANDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
/// A schedule that is not due for so many years never is (29 February, at the worst).
const YEARS_AHEAD: i16 = 5;

/// The numbers that a field allows, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Allowed {
    bits: u64,
    /// Whether it is `*`: of the two fields of days, one that is does not widen the other.
    any: bool,
}

impl Allowed {
    fn has(self, number: i8) -> bool {
        u32::try_from(number).is_ok_and(|number| self.bits >> number & 1 == 1)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Due {
    /// So many seconds after the last time.
    Every(i64),
    /// In these minutes, hours, days of the month, months and days of the week.
    At([Allowed; 5]),
}

/// When something is to happen, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    zone: Option<String>,
    due: Due,
}

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn parse(schedule: &str) -> Result<Self, String> {
        if schedule.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let (mut rest, mut in_zone) = (schedule, None);
        if rest.starts_with("TZ=") || rest.starts_with("CRON_TZ=") {
            let (zone, after) = rest.split_once(' ').unwrap_or((rest, ""));
            let zone = zone.split_once('=').map_or("", |(_, zone)| zone);
            if !is_zone(zone) {
                return Err(format!(
                    "provided bad location {zone}: unknown time zone {zone}"
                ));
            }
            in_zone = Some(zone.to_owned());
            rest = after.trim();
        }
        let due = if rest.starts_with('@') {
            shorthand(rest)?
        } else {
            fields(rest)?
        };
        Ok(Self { zone: in_zone, due })
    }

    /// The time from one run to the next, where it is always the same and counts from the last run.
    #[must_use]
    pub fn period(&self) -> Option<SignedDuration> {
        match &self.due {
            Due::Every(seconds) => Some(SignedDuration::from_secs(*seconds)),
            Due::At(_) => None,
        }
    }

    /// The first time after `after` at which it is due; none if there is none in the next years. `zone` is
    /// whose clocks count where the schedule does not say.
    #[must_use]
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let after = Timestamp::from_second(after.as_second()).ok()?;
        let fields = match &self.due {
            Due::Every(seconds) => {
                return after.checked_add(SignedDuration::from_secs(*seconds)).ok();
            }
            Due::At(fields) => fields,
        };
        let zone = match &self.zone {
            Some(name) => time_zone(name)?,
            None => zone.clone(),
        };
        let mut at = after.to_zoned(zone);
        let last_year = at.year().saturating_add(YEARS_AHEAD);
        at = later(&at, 60 - i64::from(at.second()))?;
        while at.year() <= last_year {
            match step(fields, &at)? {
                None => return Some(at.timestamp()),
                Some(next) => at = next,
            }
        }
        None
    }
}

/// Where to look next when `at`, the start of a minute, is not a time that the fields allow; by the clocks
/// of its zone, but counting hours and minutes as they pass: an hour that is skipped does not come, and one
/// that comes twice comes twice.
fn step(fields: &[Allowed; 5], at: &Zoned) -> Option<Option<Zoned>> {
    let [minute, hour, day, month, weekday] = *fields;
    if !month.has(at.month()) {
        let next = at.last_of_month().and_then(|at| at.tomorrow());
        return Some(Some(next.and_then(|at| at.start_of_day()).ok()?));
    }
    let in_month = day.has(at.day());
    let in_week = weekday.has(at.weekday().to_sunday_zero_offset());
    let day_fits = if day.any || weekday.any {
        in_month && in_week
    } else {
        in_month || in_week
    };
    if !day_fits {
        let next = at.tomorrow().and_then(|at| at.start_of_day());
        return Some(Some(next.ok()?));
    }
    if !hour.has(at.hour()) {
        return Some(Some(later(at, 60 * (60 - i64::from(at.minute())))?));
    }
    if !minute.has(at.minute()) {
        return Some(Some(later(at, 60)?));
    }
    Some(None)
}

fn later(at: &Zoned, seconds: i64) -> Option<Zoned> {
    at.checked_add(SignedDuration::from_secs(seconds)).ok()
}

fn fields(text: &str) -> Result<Due, String> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            parts.len(),
            parts.join(" ")
        ));
    }
    let mut all = [Allowed::default(); 5];
    for ((text, field), allowed) in parts.iter().zip(&FIELDS).zip(&mut all) {
        for range in text.split(',').filter(|range| !range.is_empty()) {
            let more = read_range(range, field)?;
            allowed.bits |= more.bits;
            allowed.any |= more.any;
        }
    }
    Ok(Due::At(all))
}

fn shorthand(text: &str) -> Result<Due, String> {
    if let Some((_, meant)) = SHORTHANDS.iter().find(|(name, _)| *name == text) {
        return fields(meant);
    }
    match text.strip_prefix("@every ") {
        Some(duration) => match seconds(duration) {
            Some(seconds) => Ok(Due::Every(seconds.max(1))),
            None => Err(format!(
                "failed to parse duration {text}: time: invalid duration {duration:?}"
            )),
        },
        None => Err(format!("unrecognized descriptor: {text}")),
    }
}

/// The whole seconds of a duration like `1h30m`: numbers with units.
fn seconds(text: &str) -> Option<i64> {
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let after = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let amount: f64 = rest.strip_suffix(after)?.parse().ok()?;
        let units = [
            ("ns", 1e-9),
            ("us", 1e-6),
            ("\u{b5}s", 1e-6),
            ("\u{3bc}s", 1e-6),
            ("ms", 1e-3),
            ("s", 1.0),
            ("m", 60.0),
            ("h", 3600.0),
        ];
        // The longest unit that fits.
        let (unit, worth) = units
            .iter()
            .filter(|(unit, _)| after.starts_with(unit))
            .max_by_key(|(unit, _)| unit.len())?;
        total += amount * worth;
        rest = after.strip_prefix(unit)?;
    }
    // As far as Go's durations go: 292 years.
    if total > 9.2e9 {
        return None;
    }
    // The rounding of sums like 0.1 + 0.2.
    #[expect(clippy::cast_possible_truncation, reason = "bounded above")]
    let total = (total + 1e-7).floor() as i64;
    Some(if negative { -total } else { total })
}

fn number(text: &str) -> Result<u64, String> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Err(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => Ok(number.unsigned_abs()),
        Err(_) => Err(format!(
            "failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"
        )),
    }
}

fn number_or_name(text: &str, field: &Field) -> Result<u64, String> {
    let lower = text.to_lowercase();
    let position = field
        .names
        .iter()
        .position(|name| !name.is_empty() && *name == lower);
    match position {
        Some(position) => Ok(u64::try_from(position).unwrap_or_default()),
        None => number(text),
    }
}

fn read_range(text: &str, field: &Field) -> Result<Allowed, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts
        .first()
        .copied()
        .unwrap_or_default()
        .split('-')
        .collect();
    let (start, mut end) = match ends.as_slice() {
        ["*" | "?", ..] => (field.least, field.most),
        [only] => {
            let start = number_or_name(only, field)?;
            (start, start)
        }
        [start, end] => (number_or_name(start, field)?, number_or_name(end, field)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match parts.as_slice() {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            if ends.len() == 1 {
                end = field.most;
            }
            step
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if start < field.least {
        return Err(format!(
            "beginning of range ({start}) below minimum ({}): {text}",
            field.least
        ));
    }
    if end > field.most {
        return Err(format!(
            "end of range ({end}) above maximum ({}): {text}",
            field.most
        ));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {text}"
        ));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let mut allowed = Allowed {
        bits: 0,
        any: matches!(ends.first(), Some(&("*" | "?"))) && step == 1,
    };
    let mut number = start;
    while number <= end {
        allowed.bits |= 1 << number;
        number = number.saturating_add(step);
    }
    Ok(allowed)
}

/// Whether the name is that of a time zone.
#[must_use]
pub fn is_zone(name: &str) -> bool {
    time_zone(name).is_some()
}

/// The time zone of that name.
#[must_use]
pub fn time_zone(name: &str) -> Option<TimeZone> {
    match name {
        "UTC" => Some(TimeZone::UTC),
        name => TimeZone::get(name).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn table() {
        for (schedule, error) in [
            ("*/5 0-6 1,15 jan-MAR sun", ""),
            ("@daily", ""),
            ("@every 1h30m", ""),
            (
                "@every 1x",
                "failed to parse duration @every 1x: time: invalid duration \"1x\"",
            ),
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            (
                "5-1 * * * *",
                "beginning of range (5) beyond end of range (1): 5-1",
            ),
            (
                "*/0 * * * *",
                "step of range should be a positive number: */0",
            ),
            (
                "a * * * *",
                "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax",
            ),
            ("@often", "unrecognized descriptor: @often"),
        ] {
            assert_eq!(
                Schedule::parse(schedule).err().unwrap_or_default(),
                error,
                "{schedule}"
            );
        }
    }

    fn due(schedule: &str, zone: &str, after: &str, times: usize) -> Vec<String> {
        let (schedule, zone) = (Schedule::parse(schedule).unwrap(), time_zone(zone).unwrap());
        let mut at: Timestamp = after.parse().unwrap();
        let mut found = Vec::new();
        for _ in 0..times {
            match schedule.next(at, &zone) {
                Some(next) => at = next,
                None => break,
            }
            found.push(at.to_string());
        }
        found
    }

    #[test]
    fn due_times() {
        let utc = |schedule, after, times| due(schedule, "UTC", after, times);
        for (schedule, after, expected) in [
            (
                "*/15 * * * *",
                "2026-01-01T00:07:30Z",
                "2026-01-01T00:15:00Z 2026-01-01T00:30:00Z",
            ),
            (
                "5 0 * 8 *",
                "2026-01-01T00:00:00Z",
                "2026-08-01T00:05:00Z 2026-08-02T00:05:00Z",
            ),
            // Either of the two days, unless one of them is any.
            (
                "0 0 13 * 5",
                "2026-11-10T00:00:00Z",
                "2026-11-13T00:00:00Z 2026-11-20T00:00:00Z",
            ),
            (
                "0 0 13 * *",
                "2026-11-10T00:00:00Z",
                "2026-11-13T00:00:00Z 2026-12-13T00:00:00Z",
            ),
            (
                "0 0 */2 * 5",
                "2026-11-10T00:00:00Z",
                "2026-11-11T00:00:00Z 2026-11-13T00:00:00Z",
            ),
            (
                "0 12 29 2 *",
                "2026-01-01T00:00:00Z",
                "2028-02-29T12:00:00Z 2032-02-29T12:00:00Z",
            ),
            ("0 0 31 2 *", "2026-01-01T00:00:00Z", ""),
            (
                "@weekly",
                "2026-11-21T10:00:00Z",
                "2026-11-22T00:00:00Z 2026-11-29T00:00:00Z",
            ),
            (
                "30 5-7/2 * jan sun,MON",
                "2026-11-21T10:00:00Z",
                "2027-01-03T05:30:00Z 2027-01-03T07:30:00Z",
            ),
            (
                "@every 90s",
                "2026-01-01T00:00:00.7Z",
                "2026-01-01T00:01:30Z 2026-01-01T00:03:00Z",
            ),
            (
                "@every 1.5h10m",
                "2026-01-01T00:00:00Z",
                "2026-01-01T01:40:00Z 2026-01-01T03:20:00Z",
            ),
            (
                "TZ=Asia/Tokyo 0 9 * * *",
                "2026-01-01T00:00:00Z",
                "2026-01-02T00:00:00Z 2026-01-03T00:00:00Z",
            ),
        ] {
            assert_eq!(utc(schedule, after, 2).join(" "), expected, "{schedule}");
        }
    }

    #[test]
    fn clocks_that_are_changed() {
        let berlin = |schedule, after, times| due(schedule, "Europe/Berlin", after, times);
        // 2:30 does not come on the last Sunday of March, and twice on that of October.
        assert_eq!(
            berlin("30 2 * * *", "2026-03-28T00:00:00Z", 2),
            ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z"]
        );
        assert_eq!(
            berlin("30 2 * * *", "2026-10-24T12:00:00Z", 3),
            [
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-26T01:30:00Z"
            ]
        );
        assert_eq!(
            berlin("0 12 * * *", "2026-03-28T00:00:00Z", 2),
            ["2026-03-28T11:00:00Z", "2026-03-29T10:00:00Z"]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in "[-*/,@?0-9a-z ]{0,30}") {
            if let Ok(schedule) = Schedule::parse(&text) {
                let after: Timestamp = "2026-02-27T10:17:03Z".parse().unwrap();
                let next = schedule.next(after, &TimeZone::UTC);
                prop_assert!(next.is_none_or(|next| next > after));
            }
        }
    }
}
