//! IP addresses.

use std::net::{IpAddr, Ipv6Addr};

use super::opaque::Opaque;
use crate::declare::Row;
use crate::error::EvalError;
use crate::value::Value;

type Result<'v> = std::result::Result<Value<'v>, EvalError>;

pub(crate) const TABLE: &[Row] = &[
    ("ip", "string_to_ip", "(string) -> net.IP", ip),
    ("family", "ip_family", "net.IP.() -> int", family),
    (
        "ip.isCanonical",
        "ip_is_canonical",
        "(string) -> bool",
        is_canonical,
    ),
    (
        "isUnspecified",
        "ip_is_unspecified",
        "net.IP.() -> bool",
        is_unspecified,
    ),
    (
        "isLoopback",
        "ip_is_loopback",
        "net.IP.() -> bool",
        is_loopback,
    ),
    (
        "isLinkLocalMulticast",
        "ip_is_link_local_multicast",
        "net.IP.() -> bool",
        is_link_local_multicast,
    ),
    (
        "isLinkLocalUnicast",
        "ip_is_link_local_unicast",
        "net.IP.() -> bool",
        is_link_local_unicast,
    ),
    (
        "isGlobalUnicast",
        "ip_is_global_unicast",
        "net.IP.() -> bool",
        is_global_unicast,
    ),
    ("isIP", "is_ip", "(string) -> bool", is_ip),
];

/// Reads an address, without zones and without IPv4 in IPv6's clothes.
pub(crate) fn parse(text: &str) -> std::result::Result<IpAddr, String> {
    if text.contains('%') {
        return Err(format!(
            "IP address {text:?} with zone value is not allowed"
        ));
    }
    let address: IpAddr = text.parse().map_err(|_| {
        format!("IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP")
    })?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        _ => Ok(address),
    }
}

fn ip<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text)] => parse(text)
            .map(|ip| Value::Opaque(Opaque::Ip(ip)))
            .map_err(EvalError::fault),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn is_ip<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text)] => Ok(parse(text).is_ok().into()),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn is_canonical<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text)] => {
            let ip = parse(text).map_err(EvalError::fault)?;
            Ok((ip.to_string() == text.as_str()).into())
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn of<'v>(args: &[Value<'v>], holds: impl Fn(IpAddr) -> bool) -> Result<'v> {
    match args {
        [Value::Opaque(Opaque::Ip(ip))] => Ok(holds(*ip).into()),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn family<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::Opaque(Opaque::Ip(ip))] => Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn is_unspecified<'v>(args: &[Value<'v>]) -> Result<'v> {
    of(args, |ip| ip.is_unspecified())
}

fn is_loopback<'v>(args: &[Value<'v>]) -> Result<'v> {
    of(args, |ip| ip.is_loopback())
}

fn link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => matches!(v4.octets(), [224, 0, 0, _]),
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => Ipv6Addr::is_unicast_link_local(&v6),
    }
}

fn is_link_local_multicast<'v>(args: &[Value<'v>]) -> Result<'v> {
    of(args, link_local_multicast)
}

fn is_link_local_unicast<'v>(args: &[Value<'v>]) -> Result<'v> {
    of(args, link_local_unicast)
}

fn is_global_unicast<'v>(args: &[Value<'v>]) -> Result<'v> {
    of(args, |ip| {
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        !broadcast
            && !ip.is_unspecified()
            && !ip.is_loopback()
            && !ip.is_multicast()
            && !link_local_unicast(ip)
    })
}
