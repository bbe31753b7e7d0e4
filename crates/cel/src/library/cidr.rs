//! Ranges of IP addresses.

use std::net::IpAddr;

use super::ip;
use super::opaque::Opaque;
use crate::declare::Row;
use crate::error::EvalError;
use crate::value::Value;

type Result<'v> = std::result::Result<Value<'v>, EvalError>;

pub(crate) const TABLE: &[Row] = &[
    ("cidr", "string_to_cidr", "(string) -> net.CIDR", cidr),
    (
        "containsIP",
        "cidr_contains_ip_string",
        "net.CIDR.(string) -> bool",
        contains_ip,
    ),
    (
        "containsIP",
        "cidr_contains_ip_ip",
        "net.CIDR.(net.IP) -> bool",
        contains_ip,
    ),
    (
        "containsCIDR",
        "cidr_contains_cidr_string",
        "net.CIDR.(string) -> bool",
        contains_cidr,
    ),
    (
        "containsCIDR",
        "cidr_contains_cidr",
        "net.CIDR.(net.CIDR) -> bool",
        contains_cidr,
    ),
    ("ip", "cidr_ip", "net.CIDR.() -> net.IP", address),
    (
        "prefixLength",
        "cidr_prefix_length",
        "net.CIDR.() -> int",
        prefix_length,
    ),
    ("masked", "cidr_masked", "net.CIDR.() -> net.CIDR", masked),
    ("isCIDR", "is_cidr", "(string) -> bool", is_cidr),
];

/// An address and how many of its leading bits make the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address as it was written.
    pub address: IpAddr,
    /// The number of leading bits.
    pub prefix: u8,
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

fn mask(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl Cidr {
    fn contains(&self, other: IpAddr) -> bool {
        let ((a, a_width), (b, b_width)) = (bits(self.address), bits(other));
        a_width == b_width && (a ^ b) & mask(self.prefix) == 0
    }

    fn masked(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let kept = (mask(self.prefix) >> 96) as u32;
                IpAddr::V4((v4.to_bits() & kept).into())
            }
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & mask(self.prefix)).into()),
        };
        Self {
            address,
            prefix: self.prefix,
        }
    }
}

fn parse(text: &str) -> std::result::Result<Cidr, String> {
    let failed = |why: &str| {
        format!(
            "network address parse error during conversion from string: netip.ParsePrefix({text:?}): {why}"
        )
    };
    let (address, length) = text.rsplit_once('/').ok_or_else(|| failed("no '/'"))?;
    if address.contains('%') {
        return Err(failed("IPv6 zones cannot be present in a prefix"));
    }
    let parsed: IpAddr = address
        .parse()
        .map_err(|_| failed(&format!("ParseAddr({address:?}): unable to parse IP")))?;
    if ip::parse(address).is_err() {
        return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
    }
    let (_, width) = bits(parsed);
    let bad = || failed(&format!("bad bits after slash: {length:?}"));
    if length.len() > 3 || (length.len() > 1 && length.starts_with('0')) || length.starts_with('+')
    {
        return Err(bad());
    }
    let prefix: u8 = length.parse().map_err(|_| bad())?;
    if prefix > width {
        return Err(failed("prefix length out of range"));
    }
    Ok(Cidr {
        address: parsed,
        prefix,
    })
}

fn cidr<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text)] => parse(text)
            .map(|cidr| Value::Opaque(Opaque::Cidr(cidr)))
            .map_err(EvalError::fault),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn is_cidr<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text)] => Ok(parse(text).is_ok().into()),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn contains_ip<'v>(args: &[Value<'v>]) -> Result<'v> {
    let [Value::Opaque(Opaque::Cidr(cidr)), other] = args else {
        return Err(EvalError::no_such_overload());
    };
    let other = match other {
        Value::Opaque(Opaque::Ip(ip)) => *ip,
        Value::String(text) => ip::parse(text).map_err(EvalError::fault)?,
        _ => return Err(EvalError::no_such_overload()),
    };
    Ok(cidr.contains(other).into())
}

fn contains_cidr<'v>(args: &[Value<'v>]) -> Result<'v> {
    let [Value::Opaque(Opaque::Cidr(cidr)), other] = args else {
        return Err(EvalError::no_such_overload());
    };
    let other = match other {
        Value::Opaque(Opaque::Cidr(other)) => *other,
        Value::String(text) => parse(text).map_err(EvalError::fault)?,
        _ => return Err(EvalError::no_such_overload()),
    };
    Ok((cidr.prefix <= other.prefix && cidr.contains(other.address)).into())
}

fn of<'a>(args: &'a [Value<'_>]) -> std::result::Result<&'a Cidr, EvalError> {
    match args {
        [Value::Opaque(Opaque::Cidr(cidr))] => Ok(cidr),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn address<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok(Value::Opaque(Opaque::Ip(of(args)?.address)))
}

fn prefix_length<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok(Value::Int(of(args)?.prefix.into()))
}

fn masked<'v>(args: &[Value<'v>]) -> Result<'v> {
    Ok(Value::Opaque(Opaque::Cidr(of(args)?.masked())))
}
