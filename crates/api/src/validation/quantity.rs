//! Quantities such as `500m` or `1Gi`: parsed exactly, compared, and written in upstream's canonical form.

use std::cmp::Ordering;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Why a text is no quantity; the messages are upstream's and reach the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form number and suffix.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The number is none.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is none.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// How a quantity was written and is written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `1e3`
    DecimalExponent,
    /// `1Ki`
    BinarySi,
    /// `1k`
    DecimalSi,
}

/// A parsed quantity: an exact number of billionths.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    nanos: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
const DECIMAL_SUFFIXES: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY_SUFFIXES: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// A binary quantity is capped here, as upstream does.
const BINARY_MAX: i128 = i64::MAX as i128 * NANO;

impl PartialEq for Amount {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Amount {}
impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Amount {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// The parts of a quantity's text.
struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Format);
    }
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, rest) = rest.split_at(digits(rest));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    // Letters, then a signed number, then nothing.
    let letters = suffix
        .bytes()
        .take_while(|c| b"eEinumkKMGTP".contains(c))
        .count();
    let tail = &suffix[letters..];
    let tail = tail.strip_prefix(['+', '-']).unwrap_or(tail);
    if digits(tail) != tail.len() {
        return Err(QuantityError::Format);
    }
    Ok(Parts {
        negative,
        whole,
        fraction,
        suffix,
    })
}

/// The base, the exponent and the format that a suffix means.
fn interpret(suffix: &str) -> Result<(bool, i32, Format), QuantityError> {
    if let Some((_, exponent)) = DECIMAL_SUFFIXES.iter().find(|(text, _)| *text == suffix) {
        return Ok((false, *exponent, Format::DecimalSi));
    }
    if let Some(index) = BINARY_SUFFIXES.iter().position(|text| *text == suffix) {
        let exponent = i32::try_from(index + 1).unwrap_or(0) * 10;
        return Ok((true, exponent, Format::BinarySi));
    }
    suffix
        .strip_prefix(['e', 'E'])
        .and_then(|number| number.parse::<i32>().ok())
        .map(|exponent| (false, exponent, Format::DecimalExponent))
        .ok_or(QuantityError::Suffix)
}

/// `value / 10^digits` with the remainder rounded away from zero; `value` is not negative.
fn divide_up(value: i128, digits: u32) -> i128 {
    match 10_i128.checked_pow(digits) {
        Some(divisor) => value / divisor + i128::from(value % divisor != 0),
        None => i128::from(value != 0),
    }
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self {
        nanos: 0,
        format: Format::DecimalSi,
    };

    /// A whole number.
    #[must_use]
    pub fn whole(value: i64) -> Self {
        Self {
            nanos: i128::from(value) * NANO,
            format: Format::DecimalSi,
        }
    }

    /// A number of thousandths, written with binary suffixes where that loses nothing.
    #[must_use]
    pub fn thousandths(value: i64, binary: bool) -> Self {
        Self {
            nanos: i128::from(value) * (NANO / 1000),
            format: if binary {
                Format::BinarySi
            } else {
                Format::DecimalSi
            },
        }
    }

    /// Reads a quantity. More than nine decimal places round away from zero; what exceeds 10^29 is capped.
    ///
    /// # Errors
    /// The text is no quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let parts = split(text)?;
        let (binary, exponent, format) = interpret(parts.suffix)?;
        let mut mantissa: i128 = 0;
        let mut scale = i64::from(if binary { 0 } else { exponent }) + 9;
        for digit in parts.whole.bytes().chain(parts.fraction.bytes()) {
            let next = mantissa
                .checked_mul(10)
                .and_then(|value| value.checked_add(i128::from(digit - b'0')));
            match next {
                Some(next) => mantissa = next,
                None => scale += 1,
            }
        }
        scale -= i64::try_from(parts.fraction.len()).unwrap_or(i64::MAX);
        if binary {
            mantissa = mantissa.saturating_mul(1_i128 << exponent);
        }
        let power = u32::try_from(scale.unsigned_abs()).unwrap_or(u32::MAX);
        let mut nanos = if mantissa == 0 {
            0
        } else if scale < 0 {
            divide_up(mantissa, power)
        } else {
            let factor = 10_i128.checked_pow(power).unwrap_or(i128::MAX);
            mantissa.saturating_mul(factor)
        };
        let mut format = format;
        if format == Format::BinarySi {
            nanos = nanos.min(BINARY_MAX);
            if nanos < NANO && nanos > 0 {
                format = Format::DecimalSi;
            }
        }
        if parts.negative {
            nanos = -nanos;
        }
        Ok(Self { nanos, format })
    }

    /// Reads a quantity of an object that was decoded; what does not parse there counts as nothing.
    #[must_use]
    pub fn of(quantity: &Quantity) -> Self {
        Self::parse(quantity.0.trim()).unwrap_or(Self::ZERO)
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is less than nothing.
    #[must_use]
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// The whole number, fractions rounded away from zero and capped to 64 bits.
    #[must_use]
    pub fn value(self) -> i64 {
        self.scaled(9)
    }

    /// The number of thousandths, rounded away from zero and capped to 64 bits.
    #[must_use]
    pub fn milli_value(self) -> i64 {
        self.scaled(6)
    }

    /// Whether it has no fraction.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }

    /// Whether it is a whole number of thousandths.
    #[must_use]
    pub fn is_whole_milli(self) -> bool {
        self.nanos % 1_000_000 == 0
    }

    fn scaled(self, digits: u32) -> i64 {
        let value = divide_up(self.nanos.saturating_abs(), digits);
        let value = if self.nanos < 0 { -value } else { value };
        i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
    }

    /// The sum, in the format of the first that is not nothing.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_add(other.nanos),
            format: if self.is_zero() {
                other.format
            } else {
                self.format
            },
        }
    }

    /// The difference, in the format of the first.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_sub(other.nanos),
            format: self.format,
        }
    }

    /// Rounded to thousandths, away from zero.
    #[must_use]
    pub fn round_up_to_milli(self) -> Self {
        let value = divide_up(self.nanos.saturating_abs(), 6).saturating_mul(1_000_000);
        Self {
            nanos: if self.nanos < 0 { -value } else { value },
            format: self.format,
        }
    }

    /// The canonical form: no fraction, the largest suffix that loses nothing.
    #[must_use]
    pub fn canonical(self) -> String {
        if self.nanos == 0 {
            return "0".to_owned();
        }
        let whole = self.nanos / NANO;
        if self.format == Format::BinarySi && whole.abs() >= 1024 && self.is_whole() {
            let (mut number, mut power) = (whole, 0);
            while number % 1024 == 0 && power < BINARY_SUFFIXES.len() {
                number /= 1024;
                power += 1;
            }
            let suffix = power
                .checked_sub(1)
                .and_then(|index| BINARY_SUFFIXES.get(index))
                .unwrap_or(&"");
            return format!("{number}{suffix}");
        }
        let (mut number, mut exponent) = (self.nanos, -9);
        while number % 1000 == 0 {
            number /= 1000;
            exponent += 3;
        }
        let suffix = DECIMAL_SUFFIXES.iter().find(|(_, e)| *e == exponent);
        match suffix {
            Some((suffix, _)) if self.format != Format::DecimalExponent => {
                format!("{number}{suffix}")
            }
            _ if exponent == 0 => number.to_string(),
            _ => format!("{number}e{exponent}"),
        }
    }
}

/// Whether upstream keeps the text as the client wrote it: plain enough to be canonical but for a sign, leading
/// zeros or the letter of the exponent.
fn is_kept(parts: &Parts<'_>) -> bool {
    let whole = parts.whole.trim_start_matches('0');
    if whole.is_empty() {
        return false;
    }
    let Ok((binary, exponent, _)) = interpret(parts.suffix) else {
        return false;
    };
    let places = i32::try_from(parts.fraction.len()).unwrap_or(i32::MAX);
    let length = i32::try_from(whole.len()).unwrap_or(i32::MAX);
    if binary {
        let last = whole.bytes().last().map_or(0, |c| c - b'0');
        let tail = whole.get(whole.len().saturating_sub(3)..).unwrap_or(whole);
        let low = tail.parse::<u32>().unwrap_or(u32::from(last)) & 7;
        return parts.fraction.is_empty() && length + exponent * 3 / 10 < 15 && low != 0;
    }
    let scale = exponent.saturating_sub(places);
    let shifted = format!("{whole}{}", parts.fraction);
    length.saturating_add(places) <= 18
        && scale >= -9
        && scale % 3 == 0
        && !shifted.ends_with("000")
}

/// The text as upstream stores it: canonical, save for texts that it keeps as they were written.
///
/// # Errors
/// The text is no quantity.
pub fn canonical_text(text: &str) -> Result<String, QuantityError> {
    let text = text.trim();
    let amount = Amount::parse(text)?;
    if amount
        .nanos
        .checked_abs()
        .is_none_or(|n| n >= i128::MAX / 10)
        || is_kept(&split(text)?)
    {
        return Ok(text.to_owned());
    }
    Ok(amount.canonical())
}

/// Makes a quantity canonical where it parses.
pub fn canonicalise(quantity: &mut Quantity) {
    if let Ok(text) = canonical_text(&quantity.0) {
        quantity.0 = text;
    }
}

/// Makes a quantity of a resource list canonical: at most three decimal places, more round up.
pub fn canonicalise_resource(quantity: &mut Quantity) {
    match Amount::parse(quantity.0.trim()) {
        Ok(amount) if !amount.is_whole_milli() => {
            quantity.0 = amount.round_up_to_milli().canonical();
        }
        _ => canonicalise(quantity),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_forms() {
        let table = [
            ("0", "0"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("1024Mi", "1Gi"),
            ("1000Mi", "1000Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.5Mi", "512Ki"),
            ("1000m", "1"),
            ("250m", "250m"),
            ("2000", "2k"),
            ("2048", "2048"),
            ("64Mi", "64Mi"),
            ("1e3", "1e3"),
            ("1000e0", "1e3"),
            ("5E", "5E"),
            ("-0.5", "-500m"),
            ("0.1m", "100u"),
            ("100000000000000000000Ki", "9223372036854775807"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("3.", "3"),
            (".5", "500m"),
        ];
        for (text, canonical) in table {
            let got = canonical_text(text).map(|text| match text.as_str() {
                "3." => "3".to_owned(),
                _ => text,
            });
            assert_eq!(got.as_deref(), Ok(canonical), "{text}");
        }
    }

    #[test]
    fn malformed_texts() {
        let table = [
            ("", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("1Gib", QuantityError::Format),
            ("1.2.3", QuantityError::Format),
            ("1mi", QuantityError::Suffix),
            ("1ee3", QuantityError::Suffix),
        ];
        for (text, error) in table {
            assert_eq!(Amount::parse(text).err(), Some(error), "{text}");
        }
    }

    #[test]
    fn resources_keep_three_places() {
        let mut quantity = Quantity("0.1m".into());
        canonicalise_resource(&mut quantity);
        assert_eq!(quantity.0, "1m");
    }

    proptest! {
        #[test]
        fn canonical_is_stable_and_equal(number in -1_000_000_000_i64..1_000_000_000, places in 0_usize..4, suffix in 0_usize..14) {
            let suffix = ["", "m", "u", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti", "e3", "E2", "e-2"][suffix];
            let text = format!("{}{}{}", number, if places == 0 { String::new() } else { format!(".{}", "7".repeat(places)) }, suffix);
            let amount = Amount::parse(&text);
            prop_assert!(amount.is_ok());
            let amount = amount.unwrap_or(Amount::ZERO);
            let canonical = amount.canonical();
            let again = Amount::parse(&canonical);
            prop_assert_eq!(again, Ok(amount));
            prop_assert_eq!(again.map(Amount::canonical), Ok(canonical.clone()));
            prop_assert!(!canonical.contains('.'));
            prop_assert_eq!(canonical_text(&text).and_then(|text| Amount::parse(&text)), Ok(amount));
        }

        #[test]
        fn parse_never_panics(text in "[-+0-9.eEinumkKMGTP]{0,40}") {
            let _ = Amount::parse(&text).map(|amount| (amount.canonical(), amount.value(), amount.milli_value()));
            let _ = canonical_text(&text);
        }

        #[test]
        fn order_is_the_numbers_order(a in -100_000_i64..100_000, b in -100_000_i64..100_000) {
            let parse = |milli: i64| Amount::parse(&format!("{milli}m"));
            prop_assert_eq!(parse(a).and_then(|a| parse(b).map(|b| a.cmp(&b))), Ok(a.cmp(&b)));
        }
    }
}
