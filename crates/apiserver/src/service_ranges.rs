//! The ranges that the addresses of services are taken from: the configured one, and those of ServiceCIDRs that are ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::networking::v1::ServiceCIDR;
use skiff_api::{ApiError, ApiResult};
use skiff_base::Random;

use crate::server::ApiServer;

const GROUP: &str = "networking.k8s.io";

/// A range of addresses, `10.96.0.0/12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    base: u128,
    size: u128,
    v4: bool,
}

impl AddressRange {
    /// `10.96.0.0/12`
    pub(crate) const DEFAULT: Self = Self {
        base: 0x0a60_0000,
        size: 1 << 20,
        v4: true,
    };

    /// Reads the usual form; `None` when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let bits: u32 = bits.parse().ok()?;
        let (value, width) = match address.parse().ok()? {
            IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
            IpAddr::V6(address) => (u128::from(address), 128),
        };
        let host_bits = u32::checked_sub(width, bits)?;
        // Larger ranges are used from their beginning only, as upstream does.
        let size = 1u128 << host_bits.min(64);
        let base = if host_bits >= 128 {
            0
        } else {
            value >> host_bits << host_bits
        };
        Some(Self {
            base,
            size,
            v4: width == 32,
        })
    }

    /// The address at an offset.
    #[must_use]
    pub fn address(&self, offset: u128) -> IpAddr {
        let value = self.base + offset;
        if self.v4 {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(value).unwrap_or(u32::MAX)))
        } else {
            IpAddr::V6(Ipv6Addr::from(value))
        }
    }

    /// Whether an address can be given to a service: in the range, neither the first nor, of IPv4, the last.
    #[must_use]
    pub fn usable(&self, address: IpAddr) -> bool {
        let value = match (address, self.v4) {
            (IpAddr::V4(address), true) => u128::from(u32::from(address)),
            (IpAddr::V6(address), false) => u128::from(address),
            _ => return false,
        };
        value > self.base && value < self.base + self.size - u128::from(self.v4)
    }

    /// A free address: first from the part above the one kept for those who choose their address themselves. At most `most`
    /// are taken.
    pub(crate) fn free(
        &self,
        is_taken: impl Fn(IpAddr) -> bool,
        most: usize,
        random: &Random,
    ) -> Option<IpAddr> {
        let end = self.size - u128::from(self.v4);
        let reserved = (self.size / 16).clamp(16, 256).min(end);
        for (from, to) in [(reserved, end), (1, reserved)] {
            let width = u64::try_from(to.saturating_sub(from)).unwrap_or(u64::MAX);
            let start = random.below(width);
            let tries = width.min(most as u64 + 1);
            let found = (0..tries)
                .map(|step| self.address(from + u128::from((start + step) % width)))
                .find(|address| !is_taken(*address));
            if found.is_some() {
                return found;
            }
        }
        None
    }

    pub(crate) fn family(&self) -> &'static str {
        if self.v4 { "IPv4" } else { "IPv6" }
    }
}

/// Whether addresses may be taken from it.
fn is_ready(range: &ServiceCIDR) -> bool {
    let conditions = range
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions
        .into_iter()
        .any(|found| found.type_ == "Ready" && found.status == "True");
    ready && range.metadata.deletion_timestamp.is_none()
}

/// The networks of a range, those that can be read.
pub(crate) fn networks(range: &ServiceCIDR) -> impl Iterator<Item = AddressRange> {
    let ranges = range
        .spec
        .iter()
        .flat_map(|spec| spec.cidrs.iter().flatten());
    ranges.filter_map(|text| AddressRange::parse(text))
}

/// The configured range first, unless what stands for it is on its way out, then those that were added, by name. Only
/// those of the cluster's family count.
fn choose(configured: AddressRange, all: &[ServiceCIDR]) -> Vec<AddressRange> {
    let going = |range: &ServiceCIDR| range.metadata.deletion_timestamp.is_some();
    let mut stand_ins = all
        .iter()
        .filter(|range| networks(range).any(|net| net == configured));
    let first = stand_ins.clone().next().is_none() || stand_ins.any(|range| !going(range));
    let mut chosen: Vec<AddressRange> = first.then_some(configured).into_iter().collect();
    for network in all
        .iter()
        .filter(|range| is_ready(range))
        .flat_map(networks)
    {
        if network.family() == configured.family() && !chosen.contains(&network) {
            chosen.push(network);
        }
    }
    chosen
}

/// All ServiceCIDRs, as fresh as the caches are.
pub(crate) async fn service_cidrs(server: &ApiServer) -> ApiResult<Vec<ServiceCIDR>> {
    let registry = server.registry.load_full();
    let resource = registry
        .stored(GROUP, "servicecidrs")
        .ok_or_else(ApiError::no_such_path)?;
    let cache = server.hub_cache(resource).await?;
    let entries = cache.list(&resource.prefix(""), None, 0).0;
    Ok(entries.iter().filter_map(|entry| entry.decode()).collect())
}

/// The ranges that addresses can be taken from now.
pub(crate) async fn usable_ranges(server: &ApiServer) -> ApiResult<Vec<AddressRange>> {
    Ok(choose(server.service_range, &service_cidrs(server).await?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use serde_json::json;

    #[test]
    fn ranges_give_free_addresses() {
        let range = AddressRange::parse("10.0.0.0/28").unwrap();
        let random = Random::seeded(1);
        let mut taken = BTreeSet::new();
        while let Some(address) = range.free(|one| taken.contains(&one), taken.len(), &random) {
            assert!(range.usable(address), "{address}");
            assert!(taken.insert(address));
        }
        assert_eq!(taken.len(), 14);
        assert!(
            !range.usable("10.0.0.0".parse().unwrap())
                && !range.usable("10.0.0.15".parse().unwrap())
        );
        assert!(!range.usable("10.0.1.1".parse().unwrap()));
        assert_eq!(
            AddressRange::parse("fd00::/108")
                .unwrap()
                .address(1)
                .to_string(),
            "fd00::1"
        );
        assert_eq!(AddressRange::parse("10.0.0.0/40"), None);
    }

    #[test]
    fn added_ranges_count_once_they_are_ready() {
        let range = |cidrs: &[&str], ready: &str, going: bool| -> ServiceCIDR {
            let mut range = json!({"metadata": {"name": "r"}, "spec": {"cidrs": cidrs}, "status": {"conditions":
                [{"type": "Ready", "status": ready, "reason": "", "message": "", "lastTransitionTime": null}]}});
            range["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T00:00:00Z");
            if going {
                range["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            serde_json::from_value(range).unwrap()
        };
        let own = AddressRange::parse("10.96.0.0/12").unwrap();
        let default = |going| range(&["10.96.0.0/12"], "True", going);
        for (case, all, expected) in [
            ("none yet", vec![], "10.96.0.0"),
            (
                "not ready yet",
                vec![range(&["10.96.0.0/12"], "False", false)],
                "10.96.0.0",
            ),
            (
                "another",
                vec![default(false), range(&["10.1.0.0/24"], "True", false)],
                "10.96.0.0 10.1.0.0",
            ),
            (
                "not ready",
                vec![default(false), range(&["10.1.0.0/24"], "False", false)],
                "10.96.0.0",
            ),
            (
                "going",
                vec![default(false), range(&["10.1.0.0/24"], "True", true)],
                "10.96.0.0",
            ),
            (
                "the default goes",
                vec![default(true), range(&["10.1.0.0/24"], "True", false)],
                "10.1.0.0",
            ),
            (
                "its copy stays",
                vec![default(true), default(false)],
                "10.96.0.0",
            ),
            (
                "both families",
                vec![range(&["fd00::/112", "10.1.0.0/24"], "True", false)],
                "10.96.0.0 10.1.0.0",
            ),
        ] {
            let chosen = choose(own, &all);
            let names: Vec<String> = chosen
                .iter()
                .map(|range| range.address(0).to_string())
                .collect();
            assert_eq!(names.join(" "), expected, "{case}");
        }
    }
}
