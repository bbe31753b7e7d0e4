//! Reads Kubernetes quantities (`500m`, `64Mi`, `1e3`) as whole numbers.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A quantity in thousandths of its unit, rounded up; `None` when it cannot be read or does not fit.
#[must_use]
pub fn milli(text: &str) -> Option<i64> {
    scaled(text, 1000)
}

/// A quantity in whole units, rounded up.
#[must_use]
pub fn whole(text: &str) -> Option<i64> {
    scaled(text, 1)
}

/// A quantity multiplied by `scale`, rounded away from zero.
fn scaled(text: &str, scale: i128) -> Option<i64> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits_end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(digits_end);
    let (integer, fraction) = number.split_once('.').unwrap_or((number, ""));
    if integer.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let fraction = fraction.get(..fraction.len().min(15))?;
    let mantissa: i128 = format!("{integer}{fraction}").parse().ok()?;
    let decimals = u32::try_from(fraction.len()).ok()?;
    let (factor, divisor): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => exponent(suffix)?,
    };
    let divisor = divisor.checked_mul(10i128.checked_pow(decimals)?)?;
    let product = mantissa.checked_mul(factor)?.checked_mul(scale)?;
    let rounded = product / divisor + i128::from(product % divisor != 0);
    i64::try_from(if negative { -rounded } else { rounded }).ok()
}

fn exponent(suffix: &str) -> Option<(i128, i128)> {
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let magnitude = 10i128.checked_pow(power.unsigned_abs())?;
    Some(if power < 0 {
        (1, magnitude)
    } else {
        (magnitude, 1)
    })
}

/// A list of resources by name, as Kubernetes objects carry it.
pub type ResourceList = BTreeMap<String, Quantity>;

/// One resource of a list in the unit that the node counts it in: thousandths for `cpu`, whole units
/// otherwise. Unset and unreadable entries are `None`.
#[must_use]
pub fn amount(list: Option<&ResourceList>, resource: &str) -> Option<i64> {
    let quantity = list?.get(resource)?;
    if resource == "cpu" {
        milli(&quantity.0)
    } else {
        whole(&quantity.0)
    }
}

/// The text of an amount made by [`amount`].
#[must_use]
pub fn to_quantity(resource: &str, amount: i64) -> Quantity {
    if resource == "cpu" && amount % 1000 != 0 {
        Quantity(format!("{amount}m"))
    } else if resource == "cpu" {
        Quantity((amount / 1000).to_string())
    } else {
        Quantity(binary(amount))
    }
}

/// Bytes with the largest binary suffix that loses nothing.
#[must_use]
pub fn binary(bytes: i64) -> String {
    const SUFFIXES: [(&str, u32); 4] = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    for (suffix, shift) in SUFFIXES {
        if bytes != 0 && bytes % (1i64 << shift) == 0 {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_users_write() {
        for (text, milli_value, whole_value) in [
            ("0", 0, 0),
            ("1", 1000, 1),
            ("100m", 100, 1),
            ("0.5", 500, 1),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("64Mi", 67_108_864_000, 67_108_864),
            ("1e3", 1_000_000, 1000),
            ("1n", 1, 1),
            ("2k", 2_000_000, 2000),
            (".5", 500, 1),
            ("-1", -1000, -1),
        ] {
            assert_eq!(milli(text), Some(milli_value), "{text}");
            assert_eq!(whole(text), Some(whole_value), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_none() {
        for text in ["", "Mi", "1.2.3", "1Q", "1e99", "abc", "--1"] {
            assert_eq!(whole(text), None, "{text}");
        }
    }

    #[test]
    fn writes_with_binary_suffixes() {
        assert_eq!(binary(67_108_864), "64Mi");
        assert_eq!(binary(1000), "1000");
        assert_eq!(to_quantity("cpu", 1500).0, "1500m");
        assert_eq!(to_quantity("cpu", 2000).0, "2");
    }
}
