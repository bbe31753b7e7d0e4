//! The servers that share one store: each says under `/registry/masterleases/` where it is, as upstream's do, for as long
//! as it lives, so that the service `kubernetes` leads to all of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skiff_store::{LeaseId, StoreError};

use crate::server::ApiServer;

/// Where they are written down. Upstream's keys and values.
pub(crate) const PREFIX: &str = "/registry/masterleases/";
/// A server that says nothing for this long is gone.
const LIFE: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_secs(5);

/// Says where this server is until it stops.
pub(crate) async fn announce(server: Arc<ApiServer>, own: SocketAddr) {
    let mut lease: LeaseId = 0;
    loop {
        if let Err(error) = refresh(&server, own, &mut lease).await {
            tracing::debug!(%error, "other servers could not be told of this one");
            lease = 0;
        }
        tokio::select! {
            () = server.clock.sleep(AGAIN) => {}
            () = server.shutdown.triggered() => break,
        }
    }
    if lease != 0
        && let Err(error) = server.store.revoke_lease(lease).await
    {
        tracing::debug!(%error, "other servers could not be told that this one stops");
    }
}

async fn refresh(
    server: &ApiServer,
    own: SocketAddr,
    lease: &mut LeaseId,
) -> Result<(), StoreError> {
    if *lease != 0 {
        return server.store.keep_alive(*lease).await;
    }
    let new = server.store.grant_lease(LIFE).await?;
    let key = format!("{PREFIX}{}", own.ip());
    let value = json!({
        "kind": "Endpoints", "apiVersion": "v1", "metadata": {},
        "subsets": [{"addresses": [{"ip": own.ip()}], "ports": [{"port": own.port()}]}],
    });
    let value = serde_json::to_vec(&value).unwrap_or_default();
    let written = match server.store.get(&key, None).await? {
        // Left by the run before this one.
        Some(old) => {
            let store = &server.store;
            store
                .update(&key, value.into(), old.mod_revision, new)
                .await
        }
        None => server.store.create(&key, value.into(), new).await,
    };
    written?;
    *lease = new;
    Ok(())
}

/// All servers, this one included.
pub(crate) async fn all(server: &ApiServer, own: SocketAddr) -> BTreeMap<IpAddr, u16> {
    let found = server.store.range(PREFIX, None, 0, None).await;
    let items = found.map(|found| found.items).unwrap_or_default();
    let mut peers: BTreeMap<IpAddr, u16> = items
        .iter()
        .filter_map(|item| {
            let address = item.key.strip_prefix(PREFIX)?.parse().ok()?;
            Some((address, port(&item.value).unwrap_or(own.port())))
        })
        .collect();
    // Two on one machine share its address: what is written down counts for both.
    peers.entry(own.ip()).or_insert(own.port());
    peers
}

fn port(value: &[u8]) -> Option<u16> {
    let value: Value = serde_json::from_slice(value).ok()?;
    let port = value.pointer("/subsets/0/ports/0/port")?.as_u64()?;
    u16::try_from(port).ok()
}

/// What all of them agree on as the endpoints: those that listen where the first one does, as endpoints share a port.
pub(crate) fn endpoints(peers: &BTreeMap<IpAddr, u16>) -> (Vec<IpAddr>, u16) {
    let first = peers.iter().next();
    let Some((first, port)) = first.map(|(first, port)| (*first, *port)) else {
        return (Vec::new(), 0);
    };
    let same = peers
        .iter()
        .filter(|(address, other)| **other == port && address.is_ipv4() == first.is_ipv4());
    (same.map(|(address, _)| *address).collect(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_agree_on_what_leads_to_them() {
        let peers = |list: &[(&str, u16)]| -> BTreeMap<IpAddr, u16> {
            let parsed = list.iter().map(|(ip, port)| (ip.parse().unwrap(), *port));
            parsed.collect()
        };
        let shown = |list: &[(&str, u16)]| {
            let (addresses, port) = endpoints(&peers(list));
            let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            format!("{}:{port}", addresses.join(","))
        };
        assert_eq!(shown(&[("10.0.0.1", 6443)]), "10.0.0.1:6443");
        let three = [("10.0.0.3", 6443), ("10.0.0.1", 6443), ("10.0.0.2", 7443)];
        assert_eq!(shown(&three), "10.0.0.1,10.0.0.3:6443");
        assert_eq!(
            port(br#"{"subsets":[{"ports":[{"port":6443}]}]}"#),
            Some(6443)
        );
        assert_eq!(port(b"{}"), None);
    }
}
