//! What on this host keeps packets from pods, although our own rules let them through.
//!
//! A packet has to pass every chain that hangs on a hook: no rule of ours can undo another chain's drop. All that is left is
//! to find such chains and to say what to add to them.

use std::collections::BTreeMap;
use std::fmt;

use nlink::Connection;
use nlink::netlink::Nftables;
use nlink::netlink::nftables::{ChainInfo, Family};

use crate::Cidr;

/// The hook for packets that this host forwards.
const FORWARD: u32 = 2;
/// The policy of a chain whose packets are dropped unless a rule accepts them.
const DROP: u32 = 0;
/// The attribute that holds a value to compare with.
const DATA_VALUE: u16 = 1;

/// A chain of somebody else that drops what is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppingChain {
    /// `ip` or `inet`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
}

impl fmt::Display for DroppingChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.chain)
    }
}

impl DroppingChain {
    /// The commands that let packets from and to `range` through.
    #[must_use]
    pub fn remedy(&self, range: Cidr) -> String {
        let commands = [("-s", "saddr"), ("-d", "daddr")].map(|(flag, field)| {
            // What iptables made, iptables should change.
            if self.family == "ip" && self.chain == "FORWARD" {
                format!("iptables -I FORWARD {flag} {range} -j ACCEPT")
            } else {
                format!("nft insert rule {self} ip {field} {range} accept")
            }
        });
        commands.join("; ")
    }
}

/// The chains that drop what is forwarded and whose table has no rule about `range`. A kernel that does not answer has none.
pub async fn dropping_chains(range: Cidr) -> Vec<DroppingChain> {
    let Ok(connection) = Connection::<Nftables>::new() else {
        return Vec::new();
    };
    let chains = connection.list_chains().await.unwrap_or_default();
    let mut rules = BTreeMap::new();
    let mut found = Vec::new();
    for chain in chains.iter().filter(|chain| drops(chain)) {
        let family = match chain.family {
            Family::Ip => "ip",
            Family::Inet => "inet",
            _ => continue,
        };
        let table = (family, chain.table.clone());
        if !rules.contains_key(&table) {
            let listed = connection.list_rules(&chain.table, chain.family).await;
            rules.insert(table.clone(), listed.unwrap_or_default());
        }
        let known = rules.get(&table).into_iter().flatten();
        if !known
            .map(|rule| &rule.expression_bytes)
            .any(|rule| names(rule, range))
        {
            found.push(DroppingChain {
                family,
                table: chain.table.clone(),
                chain: chain.name.clone(),
            });
        }
    }
    found
}

fn drops(chain: &ChainInfo) -> bool {
    chain.hook == Some(FORWARD) && chain.policy == Some(DROP)
}

/// Whether a rule compares something with the range: all of its address, or the whole bytes of its prefix.
fn names(rule: &[u8], range: Cidr) -> bool {
    let address = range.address().octets();
    let length = match range.prefix() {
        prefix if prefix % 8 == 0 => usize::from(prefix / 8),
        _ => address.len(),
    };
    let Some(value) = address.get(..length) else {
        return false;
    };
    let size = u16::try_from(length + 4).unwrap_or_default();
    let mut wanted = [size.to_ne_bytes(), DATA_VALUE.to_ne_bytes()].concat();
    wanted.extend_from_slice(value);
    rule.windows(wanted.len()).any(|bytes| bytes == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_fits_the_tool_that_made_the_chain() {
        let range: Cidr = "10.42.0.0/16".parse().unwrap();
        let mut chain = DroppingChain {
            family: "ip",
            table: "filter".into(),
            chain: "FORWARD".into(),
        };
        assert_eq!(
            chain.remedy(range),
            "iptables -I FORWARD -s 10.42.0.0/16 -j ACCEPT; iptables -I FORWARD -d 10.42.0.0/16 -j ACCEPT"
        );
        chain.family = "inet";
        assert!(
            chain
                .remedy(range)
                .starts_with("nft insert rule inet filter FORWARD ip saddr 10.42.0.0/16 accept;")
        );
    }

    #[test]
    fn a_range_is_found_in_a_rule() {
        let value = |bytes: &[u8]| {
            let size = u16::try_from(bytes.len() + 4).unwrap().to_ne_bytes();
            [
                &[9, 9][..],
                &size,
                &DATA_VALUE.to_ne_bytes(),
                bytes,
                &[0, 0],
            ]
            .concat()
        };
        let range = |text: &str| text.parse::<Cidr>().unwrap();
        assert!(names(&value(&[10, 42]), range("10.42.0.0/16")));
        assert!(names(&value(&[10, 42, 16, 0]), range("10.42.16.0/20")));
        assert!(!names(&value(&[10, 43]), range("10.42.0.0/16")));
        assert!(!names(&[], range("10.42.0.0/16")));
    }
}
