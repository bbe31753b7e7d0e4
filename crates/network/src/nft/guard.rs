//! Notices when somebody else takes a table away.
//!
//! A reload of the host's own firewall begins with `nft flush ruleset` on many machines: it takes every table, ours too.

use futures::StreamExt as _;
use nlink::Connection;
use nlink::netlink::nftables::{Family, NftablesEvent};
use nlink::netlink::{Nftables, OwnedEventStream};

use super::execute::NftError;

/// Watches one table, in the network namespace of the thread that began to.
pub struct TableGuard {
    name: String,
    /// None once the kernel tells nothing more.
    events: Option<OwnedEventStream<Nftables>>,
    lookup: Connection<Nftables>,
    /// Something happened that has not been looked at.
    suspicion: bool,
}

impl TableGuard {
    /// Begins to watch the IPv4 table `name`, which may be missing still.
    ///
    /// # Errors
    /// Netlink sockets cannot be opened.
    pub async fn watch(name: &str) -> Result<Self, NftError> {
        let connection = Connection::<Nftables>::new().map_err(NftError::Open)?;
        connection.subscribe_all().map_err(NftError::Open)?;
        Ok(Self {
            name: name.to_owned(),
            events: Some(connection.into_events().await),
            lookup: Connection::<Nftables>::new().map_err(NftError::Open)?,
            suspicion: false,
        })
    }

    /// Returns when the table has been taken away; one that is replaced in the same step is still there. It may be dropped and
    /// called again at any time.
    pub async fn lost(&mut self) {
        loop {
            while !self.suspicion {
                let Some(events) = &mut self.events else {
                    return std::future::pending().await;
                };
                match events.next().await {
                    Some(Ok(NftablesEvent::DelTable(table))) => {
                        self.suspicion = table.name == self.name && table.family == Family::Ip;
                    }
                    Some(Ok(_)) => {}
                    // More happened than the socket could hold.
                    Some(Err(_)) => self.suspicion = true,
                    None => self.events = None,
                }
            }
            let tables = self.lookup.list_tables_in(Family::Ip).await;
            self.suspicion = false;
            // When the kernel does not answer, the table counts as there: the next change will tell.
            if tables.is_ok_and(|tables| tables.iter().all(|table| table.name != self.name)) {
                return;
            }
        }
    }
}
