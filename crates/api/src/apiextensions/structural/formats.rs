//! The formats of strings that schemas may ask for; others are not looked at, as upstream has it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use regex::Regex;

/// The formats that strings are checked against, and those of numbers.
const KNOWN: [&str; 28] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
    "int32",
    "int64",
];

/// Formats of numbers beside those.
const NUMBERS: [&str; 4] = ["int32", "int64", "float", "double"];

fn plain(format: &str) -> String {
    format.replace('-', "")
}

/// Whether the format is looked at.
#[must_use]
pub fn is_known(format: &str) -> bool {
    KNOWN.contains(&plain(format).as_str()) || NUMBERS.contains(&format)
}

/// Whether the format is one that upstream does not warn of.
#[must_use]
pub fn is_recognized(ty: &str, format: &str) -> bool {
    match ty {
        "string" => KNOWN.contains(&plain(format).as_str()) && !NUMBERS.contains(&format),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => true,
    }
}

/// Whether a text has a format; formats of numbers and unknown ones fit any.
#[must_use]
pub fn fits(format: &str, text: &str) -> bool {
    let matches = |regex: &LazyLock<Regex>| regex.is_match(text);
    match plain(format).as_str() {
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|c| c.is_ascii_hexdigit()),
        "uri" => is_uri(text),
        "email" => is_email(text),
        "hostname" => text.len() <= 255 && is_hostname(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => matches(&SSN),
        "hexcolor" => matches(&HEX_COLOR),
        "rgbcolor" => matches(&RGB_COLOR),
        "byte" => is_base64(text),
        "date" => is_date(text),
        "duration" => is_duration(text),
        "datetime" => is_datetime(text),
        "k8sshortname" => crate::validation::names::dns_label(text).is_empty(),
        "k8slongname" => crate::validation::names::dns_subdomain(text).is_empty(),
        _ => true,
    }
}

macro_rules! patterns {
    ($($name:ident = $text:expr;)*) => { $(
        #[allow(clippy::unwrap_used, reason = "the pattern is a constant")]
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($text).unwrap());
    )* };
}

patterns! {
    SSN = r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$";
    HEX_COLOR = r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$";
    RGB_COLOR = r"^rgb\(\s*(0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])\s*\)$";
    DATE_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]+)?([Zz]|[+-][0-9]{2}:?[0-9]{2})?$";
    GO_DURATION = r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))*$";
    WORD_DURATION = r"^([0-9]+) *(ns|nanos?|nanoseconds?|us|µs|micros?|microseconds?|ms|millis?|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|wks?|weeks?)$";
    CARD = r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$";
}

fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|c| c.is_ascii_control() || c == b' ') {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

fn is_email(text: &str) -> bool {
    let address = match (text.rfind('<'), text.strip_suffix('>')) {
        (Some(at), Some(rest)) => rest.get(at + 1..).unwrap_or_default(),
        _ => text,
    };
    address.rsplit_once('@').is_some_and(|(local, domain)| {
        let plain = |part: &str| {
            !part.is_empty()
                && !part.contains(|c: char| {
                    c.is_whitespace() || c.is_control() || "()<>[]:;@\\,\"".contains(c)
                })
        };
        let dots =
            |part: &str| !part.starts_with('.') && !part.ends_with('.') && !part.contains("..");
        plain(local) && plain(domain) && dots(local) && dots(domain)
    })
}

fn is_hostname(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    !text.is_empty()
        && text.split('.').all(|label| {
            let edge = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            label.len() <= 63
                && edge(label.chars().next())
                && edge(label.chars().next_back())
                && label
                    .chars()
                    .all(|c| c.is_alphanumeric() || c == '-' || c == '_')
        })
}

fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, bits)| {
        let digits = !bits.is_empty() && bits.bytes().all(|c| c.is_ascii_digit());
        let bits: u8 = bits.parse().unwrap_or(u8::MAX);
        digits
            && match address.parse::<std::net::IpAddr>() {
                Ok(std::net::IpAddr::V4(_)) => bits <= 32,
                Ok(std::net::IpAddr::V6(_)) => bits <= 128,
                Err(_) => false,
            }
    })
}

fn is_mac(text: &str) -> bool {
    let (separator, width) = match text {
        _ if text.contains(':') => (':', 2),
        _ if text.contains('-') => ('-', 2),
        _ => ('.', 4),
    };
    let groups: Vec<&str> = text.split(separator).collect();
    let octets = groups.len() * width / 2;
    matches!(octets, 6 | 8 | 20)
        && groups
            .iter()
            .all(|group| group.len() == width && group.bytes().all(|c| c.is_ascii_hexdigit()))
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let groups: Vec<&str> = text.split('-').collect();
    let shape = match groups.as_slice() {
        [_] => true,
        groups => {
            let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
            lengths == [8, 4, 4, 4, 12]
        }
    };
    let at = |index: usize| digits.chars().nth(index).unwrap_or_default();
    shape
        && digits.len() == 32
        && digits.bytes().all(|c| c.is_ascii_hexdigit())
        && version.is_none_or(|version| {
            at(12) == version && (version == '3' || "89abAB".contains(at(16)))
        })
}

fn isbn_digits(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '-' | ' ')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let digits = isbn_digits(text);
    let mut sum = 0;
    for (index, c) in digits.chars().enumerate() {
        let value = match (c, index) {
            ('X' | 'x', 9) => 10,
            _ => match c.to_digit(10) {
                Some(value) => value,
                None => return false,
            },
        };
        sum += value * (10 - u32::try_from(index).unwrap_or(10).min(10));
    }
    digits.len() == 10 && sum % 11 == 0
}

fn is_isbn13(text: &str) -> bool {
    let digits = isbn_digits(text);
    let values: Vec<u32> = digits.chars().filter_map(|c| c.to_digit(10)).collect();
    let weighted = values
        .iter()
        .enumerate()
        .map(|(index, value)| value * if index % 2 == 0 { 1 } else { 3 });
    values.len() == 13 && digits.len() == 13 && weighted.sum::<u32>() % 10 == 0
}

fn is_credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let luhn: u32 = digits
        .chars()
        .rev()
        .filter_map(|c| c.to_digit(10))
        .enumerate()
        .map(|(index, value)| match (index % 2, value * 2) {
            (0, _) => value,
            (_, double) if double > 9 => double - 9,
            (_, double) => double,
        })
        .sum();
    CARD.is_match(&digits) && luhn.is_multiple_of(10)
}

fn is_base64(text: &str) -> bool {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .is_ok()
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_duration(text: &str) -> bool {
    text == "0" || GO_DURATION.is_match(text) || WORD_DURATION.is_match(text)
}

fn is_datetime(text: &str) -> bool {
    let Some(parts) = DATE_TIME.captures(text) else {
        return false;
    };
    let number = |index: usize| -> u32 {
        let part = parts.get(index).map(|part| part.as_str());
        part.and_then(|part| part.parse().ok()).unwrap_or(99)
    };
    text.get(..10).is_some_and(is_date) && number(1) < 24 && number(2) < 60 && number(3) < 60
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_their_formats_or_not() {
        let table = [
            ("ipv4", "10.0.0.1", true),
            ("ipv4", "10.0.0", false),
            ("ipv6", "::1", true),
            ("cidr", "10.0.0.0/8", true),
            ("cidr", "10.0.0.0", false),
            ("date", "2026-02-28", true),
            ("date", "2026-02-30", false),
            ("date-time", "2014-12-15T19:30:20.000Z", true),
            ("date-time", "2014-12-15", false),
            ("duration", "1h30m", true),
            ("duration", "22 ns", true),
            ("duration", "soon", false),
            ("uuid", "3296d34c-42b9-4830-9dac-1b33ca782d29", true),
            ("uuid4", "3296d34c-42b9-3830-9dac-1b33ca782d29", false),
            ("uri", "https://e.com/x", true),
            ("uri", "no uri", false),
            ("email", "a@e.com", true),
            ("email", "a", false),
            ("hostname", "a.e.com", true),
            ("hostname", "-a", false),
            ("mac", "00:11:22:33:44:55", true),
            ("mac", "00:11", false),
            ("byte", "aGk=", true),
            ("byte", "!", false),
            ("isbn10", "0321751043", true),
            ("isbn13", "978-0321751041", true),
            ("isbn13", "978-0321751042", false),
            ("hexcolor", "#FFFFFF", true),
            ("rgbcolor", "rgb(255,255,255)", true),
            ("k8s-short-name", "a-b", true),
            ("k8s-short-name", "A", false),
            ("whatever", "x", true),
        ];
        for (format, text, expected) in table {
            assert_eq!(fits(format, text), expected, "{format} {text}");
        }
    }
}
