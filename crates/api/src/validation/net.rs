//! IP addresses and address ranges in objects: strict (no leading zeros, no IPv4 in IPv6), with upstream's texts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::field::{ErrorList, FieldError, Path};

/// Reads an IPv4 address whose octets may have leading zeros.
fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|c| c.is_ascii_digit()) {
            return None;
        }
        let part = part.trim_start_matches('0');
        *octet = if part.is_empty() {
            0
        } else {
            part.parse().ok()?
        };
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// Reads an address as upstream's lenient parser does; an IPv4 address within IPv6 becomes IPv4.
#[must_use]
pub fn parse_sloppy(text: &str) -> Option<IpAddr> {
    if !text.contains(':') {
        return parse_v4(text).map(IpAddr::V4);
    }
    let v6 = match text.rsplit_once(':') {
        // An IPv4 tail with leading zeros.
        Some((head, tail)) if tail.contains('.') => format!("{head}:{}", parse_v4(tail)?)
            .parse::<Ipv6Addr>()
            .ok()?,
        _ => text.parse::<Ipv6Addr>().ok()?,
    };
    Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4))
}

fn is_mapped(text: &str) -> bool {
    text.parse::<Ipv6Addr>()
        .is_ok_and(|ip| ip.to_ipv4_mapped().is_some())
}

/// The address in the form Go prints: RFC 5952.
#[must_use]
pub fn canonical(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => {
            // Rust prints IPv4-compatible addresses with dots, Go with hexadecimal groups.
            let text = ip.to_string();
            if text.contains('.') {
                let [.., a, b] = ip.segments();
                match (a, b) {
                    (0, b) => format!("::{b:x}"),
                    (a, b) => format!("::{a:x}:{b:x}"),
                }
            } else {
                text
            }
        }
    }
}

fn strict(path: &Path, text: &str, errors: &mut ErrorList) -> Option<IpAddr> {
    let Some(ip) = parse_sloppy(text) else {
        errors.push(FieldError::invalid(
            path,
            text,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ));
        return None;
    };
    if text.parse::<IpAddr>().is_err() {
        errors.push(FieldError::invalid(path, text, "must not have leading 0s"));
    }
    if is_mapped(text) {
        errors.push(FieldError::invalid(
            path,
            text,
            "must not be an IPv4-mapped IPv6 address",
        ));
    }
    Some(ip)
}

/// An address in a field that is older than canonical form; `kept` are the old object's values, which pass.
#[must_use]
pub fn legacy_ip(path: &Path, text: &str, kept: &[&str]) -> ErrorList {
    let mut errors = ErrorList::new();
    if !kept.contains(&text) {
        strict(path, text, &mut errors);
    }
    errors
}

/// An address in canonical form.
#[must_use]
pub fn ip(path: &Path, text: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(ip) = strict(path, text, &mut errors)
        && errors.is_empty()
        && canonical(ip) != text
    {
        let detail = format!("must be in canonical form ({:?})", canonical(ip));
        errors.push(FieldError::invalid(path, text, &detail));
    }
    errors
}

/// The network of an address and a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The address as it was written.
    pub address: IpAddr,
    /// How many of its bits are the network's.
    pub prefix: u8,
}

impl Network {
    /// Reads `address/prefix`; leading zeros and host bits are allowed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let v6 = address.contains(':');
        let address = parse_sloppy(address)?;
        if prefix.is_empty() || !prefix.bytes().all(|c| c.is_ascii_digit()) {
            return None;
        }
        let digits = prefix.trim_start_matches('0');
        let prefix: u8 = if digits.is_empty() {
            0
        } else {
            digits.parse().ok()?
        };
        (prefix <= if v6 { 128 } else { 32 }).then_some(Self { address, prefix })
    }

    /// The first address of the network.
    #[must_use]
    pub fn base(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(ip) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.prefix.min(32)))
                    .unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(ip) & mask))
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix.min(128)))
                    .unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(ip) & mask))
            }
        }
    }

    /// The network in canonical form.
    #[must_use]
    pub fn canonical(&self) -> String {
        format!("{}/{}", canonical(self.base()), self.prefix)
    }

    /// Whether the address lies in the network.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.address.is_ipv4() == ip.is_ipv4()
            && Self {
                address: ip,
                prefix: self.prefix,
            }
            .base()
                == self.base()
    }
}

fn strict_cidr(path: &Path, text: &str, errors: &mut ErrorList) -> Option<Network> {
    let Some(network) = Network::parse(text) else {
        errors.push(FieldError::invalid(
            path,
            text,
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ));
        return None;
    };
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    let detail =
        if address.parse::<IpAddr>().is_err() || (prefix.len() > 1 && prefix.starts_with('0')) {
            "must not have leading 0s in IP or prefix length"
        } else if is_mapped(address) {
            "must not have an IPv4-mapped IPv6 address"
        } else if network.base() != network.address {
            "must not have bits set beyond the prefix length"
        } else {
            return Some(network);
        };
    errors.push(FieldError::invalid(path, text, detail));
    Some(network)
}

/// A range in a field that is older than canonical form; `kept` are the old object's values, which pass.
#[must_use]
pub fn legacy_cidr(path: &Path, text: &str, kept: &[&str]) -> ErrorList {
    let mut errors = ErrorList::new();
    if !kept.contains(&text) {
        strict_cidr(path, text, &mut errors);
    }
    errors
}

/// A range in canonical form.
#[must_use]
pub fn cidr(path: &Path, text: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(network) = strict_cidr(path, text, &mut errors)
        && errors.is_empty()
        && network.canonical() != text
    {
        let detail = format!("must be in canonical form ({:?})", network.canonical());
        errors.push(FieldError::invalid(path, text, &detail));
    }
    errors
}

/// Warnings for an address that passed [`legacy_ip`] but is not written as it should be.
#[must_use]
pub fn ip_warnings(path: &Path, text: &str) -> Vec<String> {
    let Some(ip) = parse_sloppy(text) else {
        return Vec::new();
    };
    let form = canonical(ip);
    if text.parse::<IpAddr>().is_err() || is_mapped(text) {
        return vec![format!(
            "{path}: non-standard IP address {text:?} is invalid: use {form:?}"
        )];
    }
    if ip.is_ipv6() && form != text {
        return vec![format!(
            "{path}: IPv6 address {text:?} should be in RFC 5952 canonical format ({form:?})"
        )];
    }
    Vec::new()
}

/// Warnings for a range that passed [`legacy_cidr`] but is not written as it should be.
#[must_use]
pub fn cidr_warnings(path: &Path, text: &str) -> Vec<String> {
    let Some(network) = Network::parse(text) else {
        return Vec::new();
    };
    let form = network.canonical();
    let mut warnings = Vec::new();
    if network.base() != network.address {
        let bits = if network.address.is_ipv4() { 32 } else { 128 };
        let single = format!("{}/{bits}", canonical(network.address));
        warnings.push(format!(
            "{path}: CIDR value {text:?} is ambiguous in this context (should be {form:?} or {single:?}?)"
        ));
    }
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    if address.parse::<IpAddr>().is_err()
        || is_mapped(address)
        || (prefix.len() > 1 && prefix.starts_with('0'))
    {
        warnings.push(format!(
            "{path}: non-standard CIDR value {text:?} is invalid: use {form:?}"
        ));
    }
    if warnings.is_empty() && network.address.is_ipv6() && form != text {
        warnings.push(format!(
            "{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({form:?})"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses() {
        let path = Path::new("ip");
        let table: [(&str, &[&str]); 5] = [
            ("10.0.0.1", &[]),
            (
                "10.0.0.01",
                &["ip: Invalid value: \"10.0.0.01\": must not have leading 0s"],
            ),
            (
                "::ffff:1.2.3.4",
                &["ip: Invalid value: \"::ffff:1.2.3.4\": must not be an IPv4-mapped IPv6 address"],
            ),
            (
                "fd00:0::1",
                &["ip: Invalid value: \"fd00:0::1\": must be in canonical form (\"fd00::1\")"],
            ),
            (
                "10.0.0",
                &[
                    "ip: Invalid value: \"10.0.0\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ],
            ),
        ];
        for (text, errors) in table {
            assert_eq!(details(&ip(&path, text)), errors, "{text}");
        }
        assert!(legacy_ip(&path, "fd00:0::1", &[]).is_empty());
        assert!(legacy_ip(&path, "10.0.0.01", &["10.0.0.01"]).is_empty());
        assert_eq!(
            ip_warnings(&path, "fd00:0::1"),
            ["ip: IPv6 address \"fd00:0::1\" should be in RFC 5952 canonical format (\"fd00::1\")"]
        );
    }

    #[test]
    fn ranges() {
        let path = Path::new("cidr");
        for (text, detail) in [
            ("10.0.0.0/8", ""),
            ("fd00::/64", ""),
            (
                "10.0.0.1/8",
                "must not have bits set beyond the prefix length",
            ),
            (
                "10.0.0.0/08",
                "must not have leading 0s in IP or prefix length",
            ),
            (
                "10.0.0.0/33",
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            ("fd00:0::/64", "must be in canonical form (\"fd00::/64\")"),
        ] {
            let errors = cidr(&path, text);
            match errors.as_slice() {
                [] => assert_eq!(detail, "", "{text}"),
                [error] => assert_eq!(error.body, format!("Invalid value: {text:?}: {detail}")),
                more => panic!("{text}: {more:?}"),
            }
        }
        let network = Network::parse("10.96.0.0/12");
        let inside = |ip: &str| {
            network
                .zip(parse_sloppy(ip))
                .is_some_and(|(n, ip)| n.contains(ip))
        };
        assert!(inside("10.111.255.255") && !inside("10.112.0.0") && !inside("fd00::1"));
    }
}
