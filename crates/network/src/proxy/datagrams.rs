//! UDP flows that connection tracking must forget, because their pod is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The address and port that clients use; no address for a node port.
pub type Place = (Option<Ipv4Addr>, u16);

/// The address and port of an endpoint.
pub type Backend = (Ipv4Addr, u16);

/// Where the UDP flows of a service may lead, by address and port that clients use; no address means
/// every address of the node (a node port).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Datagrams(pub BTreeMap<Place, BTreeSet<Backend>>);

/// Flows to one address and port that may only lead to the backends that are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleFlows {
    /// The address that clients use; none for every address of the node.
    pub ip: Option<Ipv4Addr>,
    /// The port that clients use.
    pub port: u16,
    /// Where flows may lead.
    pub keep: BTreeSet<Backend>,
}

impl Datagrams {
    /// What to forget when a service's flows may lead to `new` places instead of these.
    #[must_use]
    pub fn stale(&self, new: &Self) -> Vec<StaleFlows> {
        let nowhere = BTreeSet::new();
        let places: BTreeSet<_> = self.0.keys().chain(new.0.keys()).collect();
        places
            .into_iter()
            .filter_map(|place| {
                let old = self.0.get(place).unwrap_or(&nowhere);
                let keep = new.0.get(place).unwrap_or(&nowhere);
                // A flow from before the first backend leads nowhere; one to a backend that went, too.
                let first = old.is_empty() && !keep.is_empty();
                let gone = !old.is_subset(keep);
                (first || gone).then(|| StaleFlows {
                    ip: place.0,
                    port: place.1,
                    keep: keep.clone(),
                })
            })
            .collect()
    }
}

impl StaleFlows {
    /// Whether a tracked flow from a client to `to`, answered by `from`, must be forgotten.
    #[must_use]
    pub fn covers(&self, to: Backend, from: Backend) -> bool {
        let ours = self.port == to.1 && self.ip.is_none_or(|ip| ip == to.0);
        ours && !self.keep.contains(&from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flows(backends: &[u8]) -> Datagrams {
        let backends = backends
            .iter()
            .map(|n| (Ipv4Addr::new(10, 0, 0, *n), 53))
            .collect();
        Datagrams(BTreeMap::from([(
            (Some(Ipv4Addr::new(10, 96, 0, 10)), 53),
            backends,
        )]))
    }

    #[test]
    fn only_lost_or_first_backends_make_flows_stale() {
        assert!(flows(&[1, 2]).stale(&flows(&[1, 2])).is_empty());
        assert!(flows(&[1]).stale(&flows(&[1, 2])).is_empty());
        let stale = flows(&[1, 2]).stale(&flows(&[2]));
        let to = (Ipv4Addr::new(10, 96, 0, 10), 53);
        assert_eq!(stale.len(), 1);
        assert!(stale[0].covers(to, (Ipv4Addr::new(10, 0, 0, 1), 53)));
        assert!(!stale[0].covers(to, (Ipv4Addr::new(10, 0, 0, 2), 53)));
        assert!(!stale[0].covers((to.0, 54), (Ipv4Addr::new(10, 0, 0, 1), 53)));
        // Sent before there was a backend: the flow is tracked to the service address itself.
        let first = flows(&[]).stale(&flows(&[1]));
        assert!(first[0].covers(to, to));
        assert_eq!(flows(&[1]).stale(&Datagrams::default()).len(), 1);
    }
}
