//! Blocks of IPv4 addresses (`10.244.0.0/24`) and arithmetic on them.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 block: an address with the host bits zero, and a prefix length of at most 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: Ipv4Addr,
    prefix: u8,
}

/// The text is not an IPv4 block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 block such as 10.244.0.0/24")]
pub struct InvalidCidr(String);

impl Cidr {
    /// The block of `prefix` bits that holds `address`; `prefix` over 32 counts as 32.
    #[must_use]
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self {
            address: Ipv4Addr::from(u32::from(address) & mask(prefix)),
            prefix,
        }
    }

    /// The first address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The prefix length.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The mask as an address (255.255.255.0).
    #[must_use]
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from(mask(self.prefix))
    }

    /// How many addresses the block has.
    #[must_use]
    pub fn size(&self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// Whether the block holds `address`.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == u32::from(self.address)
    }

    /// Whether the two blocks share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The address at `offset` from the first; none past the end.
    #[must_use]
    pub fn nth(&self, offset: u64) -> Option<Ipv4Addr> {
        (offset < self.size()).then(|| {
            // The offset is below 2^32 and the sum stays inside the block.
            Ipv4Addr::from(u32::from(self.address).wrapping_add(offset as u32))
        })
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidCidr(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        if prefix > 32 {
            return Err(invalid());
        }
        Ok(Self::new(address, prefix))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for Cidr {
    type Error = InvalidCidr;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_masks_and_prints() {
        let cidr: Cidr = "10.244.3.7/24".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.244.3.0/24");
        assert_eq!(cidr.size(), 256);
        assert_eq!(cidr.mask(), Ipv4Addr::new(255, 255, 255, 0));
        assert!(cidr.contains(Ipv4Addr::new(10, 244, 3, 255)));
        assert!(!cidr.contains(Ipv4Addr::new(10, 244, 4, 0)));
        assert_eq!(cidr.nth(1), Some(Ipv4Addr::new(10, 244, 3, 1)));
        assert_eq!(cidr.nth(256), None);
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "::/0", "a/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_whole_space_and_a_single_address() {
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains(Ipv4Addr::BROADCAST));
        assert_eq!(all.size(), 1 << 32);
        let one: Cidr = "10.0.0.9/32".parse().unwrap();
        assert_eq!(one.size(), 1);
        assert!(one.overlaps(&all) && all.overlaps(&one));
        assert!(!one.overlaps(&"10.0.0.8/32".parse().unwrap()));
    }
}
