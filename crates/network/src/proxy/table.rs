//! The proxy's table in the kernel, changed by deltas.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use nlink::Connection;
use nlink::netlink::Netfilter;
use nlink::netlink::netfilter::{ConntrackEntry, ConntrackFilter, ConntrackTuple, IpProtocol};

use super::base::base;
use super::datagrams::{Datagrams, StaleFlows};
use super::plan::ServicePlan;
use super::rows::{NodeRow, ServiceId};
use crate::nft::{Assembly, KernelTable, NftError, Transaction};

/// What went wrong with the service proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// nftables.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// Connection tracking.
    #[error("cannot clean up UDP flows of removed endpoints")]
    Conntrack(#[source] nlink::Error),
}

/// The service proxy of one node, in the network namespace of the thread that opens it.
pub struct ServiceTable {
    kernel: KernelTable,
    conntrack: Connection<Netfilter>,
    assembly: Assembly<ServiceId>,
    datagrams: BTreeMap<ServiceId, Datagrams>,
    /// Whether the kernel's table follows the assembly; if not, the next change rebuilds it.
    in_step: bool,
}

impl ServiceTable {
    /// Opens the table `name`; nothing changes until the first [`apply`](Self::apply), which replaces
    /// whatever an earlier process left, in one step.
    ///
    /// # Errors
    /// Netlink sockets cannot be opened.
    pub fn open(name: &str, node: &NodeRow) -> Result<Self, ProxyError> {
        Ok(Self {
            kernel: KernelTable::open(name)?,
            conntrack: Connection::<Netfilter>::new().map_err(ProxyError::Conntrack)?,
            assembly: Assembly::new(base(node)),
            datagrams: BTreeMap::new(),
            in_step: false,
        })
    }

    /// Sets the plans of these services (none: the service is gone) in one transaction.
    ///
    /// # Errors
    /// The kernel refuses. The plans are kept; the next call tries to make the whole table anew.
    pub async fn apply(
        &mut self,
        changes: Vec<(ServiceId, Option<ServicePlan>)>,
    ) -> Result<(), ProxyError> {
        let mut transaction = Transaction::default();
        let mut stale = Vec::new();
        for (id, plan) in changes {
            let (fragment, datagrams) = match plan {
                Some(plan) => (Some(plan.fragment), plan.datagrams),
                None => (None, Datagrams::default()),
            };
            transaction.append(self.assembly.replace(&id, fragment));
            let nothing = Datagrams::default();
            stale.extend(
                self.datagrams
                    .get(&id)
                    .unwrap_or(&nothing)
                    .stale(&datagrams),
            );
            if datagrams.0.is_empty() {
                self.datagrams.remove(&id);
            } else {
                self.datagrams.insert(id, datagrams);
            }
        }
        self.commit(&transaction).await?;
        self.forget(&stale).await
    }

    /// Removes the table.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove(&mut self) -> Result<(), ProxyError> {
        self.in_step = false;
        Ok(self.kernel.remove().await?)
    }

    /// Somebody else has taken the table away: the next [`apply`](Self::apply) makes it anew.
    pub fn is_lost(&mut self) {
        self.in_step = false;
    }

    /// Services that have a plan.
    pub fn services(&self) -> impl Iterator<Item = &ServiceId> {
        self.assembly.owners()
    }

    async fn commit(&mut self, transaction: &Transaction) -> Result<(), ProxyError> {
        if self.in_step {
            match self.kernel.commit(transaction).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    // Someone else changed the table: make it whole again.
                    tracing::warn!(%error, "rebuilding the service proxy's nftables table");
                    self.in_step = false;
                }
            }
        }
        self.kernel.reset(&self.assembly.whole()).await?;
        self.in_step = true;
        Ok(())
    }

    /// Makes connection tracking forget UDP flows to backends that are gone, so that clients who keep
    /// their port reach another one.
    async fn forget(&self, stale: &[StaleFlows]) -> Result<(), ProxyError> {
        if stale.is_empty() {
            return Ok(());
        }
        let filter = ConntrackFilter::new()
            .family(nlink::netlink::types::AddressFamily::Inet)
            .proto(IpProtocol::Udp);
        let flows = self
            .conntrack
            .get_conntrack_matching(&filter)
            .await
            .map_err(ProxyError::Conntrack)?;
        for flow in flows.iter().filter(|flow| is_stale(flow, stale)) {
            match self.conntrack.del_conntrack_entry(flow).await {
                Err(error) if !error.is_not_found() => return Err(ProxyError::Conntrack(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_stale(flow: &ConntrackEntry, stale: &[StaleFlows]) -> bool {
    let Some(to) = destination(&flow.orig) else {
        return false;
    };
    let Some(from) = source(&flow.reply) else {
        return false;
    };
    stale.iter().any(|stale| stale.covers(to, from))
}

fn destination(tuple: &ConntrackTuple) -> Option<(Ipv4Addr, u16)> {
    Some((v4(tuple.dst_ip?)?, tuple.dst_port?))
}

fn source(tuple: &ConntrackTuple) -> Option<(Ipv4Addr, u16)> {
    Some((v4(tuple.src_ip?)?, tuple.src_port?))
}

fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}
