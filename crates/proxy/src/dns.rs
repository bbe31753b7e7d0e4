//! Cluster DNS: keeps the records in step with the API and serves them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::core::PartialObjectMeta;
use parking_lot::{Mutex, RwLock};
use skiff_base::lifecycle::ComponentError;
use skiff_base::{Component, Random, SharedClock, Shutdown};
use skiff_client::reflect::{Reflector, Watched};
use skiff_client::{ObjectKey, WatchSpec};
use skiff_network::dns::{DnsServer, DnsServerConfig, Records, Resolvers};
use skiff_network::pod::hold_address;
use skiff_network::proxy::ServiceId;
use tokio::sync::watch;

use crate::feed::Feed;
use crate::rows::{dns_service, dns_slice, slice_service};
use crate::services::{EndOfRun, id_of};

/// How cluster DNS works.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// The cluster DNS address (10.96.0.10).
    pub address: Ipv4Addr,
    /// The port; 53 except in tests.
    pub port: u16,
    /// The interface that this host holds the address on; none if it has the address already.
    pub interface: Option<String>,
    /// The cluster's domain (`cluster.local`).
    pub domain: String,
    /// The resolvers for names outside the cluster.
    pub resolvers: Resolvers,
}

/// Cluster DNS of one node.
pub struct ClusterDns {
    client: Client,
    config: DnsConfig,
    clock: SharedClock,
    random: Random,
    ready: watch::Sender<bool>,
}

/// Cluster DNS of one node, in the network namespace of the threads that run it.
#[must_use]
pub fn dns(
    client: Client,
    config: DnsConfig,
    clock: SharedClock,
    random: Random,
) -> Arc<ClusterDns> {
    Arc::new(ClusterDns {
        client,
        config,
        clock,
        random,
        ready: watch::Sender::new(false),
    })
}

/// Which service each slice belongs to; a slice that goes does not say.
type Owners = Mutex<HashMap<ObjectKey, ServiceId>>;

impl ClusterDns {
    /// Turns true once questions are answered from complete records.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    async fn serve(&self, shutdown: &Shutdown) -> Result<(), ComponentError> {
        let address = self.config.address;
        if let Some(interface) = &self.config.interface {
            hold_address(interface, address).await?;
        }
        let records = Records::new(&self.config.domain, IpAddr::V4(address));
        let records = Arc::new(RwLock::new(records));
        let server = DnsServer::bind(
            DnsServerConfig {
                listen: (address, self.config.port).into(),
                resolvers: self.config.resolvers.clone(),
            },
            records.clone(),
            self.clock.clone(),
            self.random.clone(),
        )
        .await?;
        self.fill(&records, shutdown).await;
        // Questions that came in before now wait in the sockets.
        self.ready.send_replace(true);
        Ok(server.run(shutdown.clone()).await?)
    }

    /// Starts to watch; returns when everything is known.
    async fn fill(&self, records: &Arc<RwLock<Records>>, shutdown: &Shutdown) {
        let services = {
            let records = records.clone();
            Arc::new(Feed::<Service>::new(move |key, service| {
                let row = service.and_then(dns_service);
                records.write().set_service(&id_of(key), row);
            }))
        };
        let slices = {
            let (records, owners) = (records.clone(), Owners::default());
            Arc::new(Feed::<EndpointSlice>::new(move |key, slice| {
                set_slice(&records, &owners, key, slice);
            }))
        };
        let namespaces = {
            let records = records.clone();
            Arc::new(Feed::<PartialObjectMeta<Namespace>>::new(
                move |key, namespace| {
                    records
                        .write()
                        .set_namespace(key.name(), namespace.is_some());
                },
            ))
        };
        self.watch(&services, shutdown);
        self.watch(&slices, shutdown);
        self.watch(&namespaces, shutdown);
        services.wait_synced().await;
        slices.wait_synced().await;
        namespaces.wait_synced().await;
    }

    fn watch<K>(&self, feed: &Arc<Feed<K>>, shutdown: &Shutdown)
    where
        K: Watched + kube::Resource<DynamicType = ()>,
    {
        let reflector = Reflector::new(
            self.client.clone(),
            WatchSpec::all::<K>(),
            feed.clone(),
            self.clock.clone(),
            self.random.clone(),
        );
        tokio::spawn(reflector.run(shutdown.clone()));
    }
}

fn set_slice(
    records: &RwLock<Records>,
    owners: &Owners,
    key: &ObjectKey,
    slice: Option<&EndpointSlice>,
) {
    let row = slice.and_then(|slice| Some((slice_service(key.namespace(), slice)?, slice)));
    let mut owners = owners.lock();
    let mut records = records.write();
    let new = row.as_ref().map(|(id, _)| id);
    let old = match new {
        Some(id) => owners.insert(key.clone(), id.clone()),
        None => owners.remove(key),
    };
    if let Some(old) = old.filter(|old| Some(old) != new) {
        records.set_slice(&old, key.name(), None);
    }
    if let Some((id, slice)) = row {
        records.set_slice(&id, key.name(), Some(dns_slice(slice)));
    }
}

#[async_trait]
impl Component for ClusterDns {
    fn name(&self) -> &'static str {
        "dns"
    }

    async fn run(&self, shutdown: Shutdown) -> Result<(), ComponentError> {
        // The watches end with this run, however it ends.
        let watches = shutdown.child();
        let _end = EndOfRun(watches.clone());
        let outcome = tokio::select! {
            outcome = self.serve(&watches) => outcome,
            () = shutdown.triggered() => Ok(()),
        };
        self.ready.send_replace(false);
        outcome
    }
}
