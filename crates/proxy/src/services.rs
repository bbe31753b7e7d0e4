//! The service proxy: keeps the node's nftables table in step with services and their endpoints.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::core::PartialObjectMeta;
use parking_lot::Mutex;
use skiff_base::lifecycle::ComponentError;
use skiff_base::{Backoff, Component, Random, SharedClock, Shutdown};
use skiff_client::reflect::Reflector;
use skiff_client::{ObjectKey, WatchSpec};
use skiff_network::Cidr;
use skiff_network::nft::TableGuard;
use skiff_network::proxy::{
    NodeRow, ServiceId, ServicePlan, ServiceRow, ServiceTable, SliceRow, plan_service,
};
use tokio::sync::{Notify, watch};

use crate::feed::Feed;
use crate::rows::{proxy_service, proxy_slice, slice_service};

/// The label of a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// How the service proxy of a node works.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The node's name, to tell its own endpoints.
    pub node_name: String,
    /// The nftables table; each cluster on a machine has its own.
    pub table_name: String,
    /// The range of all pods: traffic from elsewhere to a cluster address is masqueraded.
    pub cluster_cidr: Cidr,
    /// The range of service addresses.
    pub service_cidr: Option<Cidr>,
    /// Service addresses that this host answers itself (the cluster DNS address).
    pub held: Vec<Ipv4Addr>,
    /// The bit of the packet mark that means "masquerade", 0 to 31; upstream's is 14.
    pub masquerade_bit: u8,
}

/// The service proxy of one node.
pub struct ServiceProxy {
    client: Client,
    config: ProxyConfig,
    clock: SharedClock,
    random: Random,
    ready: watch::Sender<bool>,
}

/// The service proxy of one node, in the network namespace of the threads that run it. When it stops,
/// the table stays and goes on working.
#[must_use]
pub fn service_proxy(
    client: Client,
    config: ProxyConfig,
    clock: SharedClock,
    random: Random,
) -> Arc<ServiceProxy> {
    Arc::new(ServiceProxy {
        client,
        config,
        clock,
        random,
        ready: watch::Sender::new(false),
    })
}

impl ServiceProxy {
    /// Turns true once the table holds all services.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    fn watch<K>(&self, spec: WatchSpec, feed: &Arc<Feed<K>>, shutdown: &Shutdown)
    where
        K: skiff_client::reflect::Watched,
    {
        let reflector = Reflector::new(
            self.client.clone(),
            spec,
            feed.clone(),
            self.clock.clone(),
            self.random.clone(),
        );
        tokio::spawn(reflector.run(shutdown.clone()));
    }

    async fn follow(&self, shutdown: &Shutdown) -> Result<(), ComponentError> {
        let node = NodeRow {
            cluster_cidr: self.config.cluster_cidr,
            service_cidr: self.config.service_cidr,
            held: self.config.held.clone(),
            masquerade_bit: 1u32
                .checked_shl(u32::from(self.config.masquerade_bit))
                .ok_or("the masquerade bit must be 0 to 31")?,
            masquerade_all: false,
            zone: "".into(),
        };
        let mut table = ServiceTable::open(&self.config.table_name, &node)?;
        let view = Arc::new(View::default());
        let services = {
            let view = view.clone();
            Arc::new(Feed::<Service>::new(move |key, service| {
                view.set_service(&id_of(key), service.and_then(proxy_service));
            }))
        };
        let slices = {
            let (view, name) = (view.clone(), self.config.node_name.clone());
            Arc::new(Feed::<EndpointSlice>::new(move |key, slice| {
                let row = slice.and_then(|slice| {
                    let service = slice_service(key.namespace(), slice)?;
                    Some((service, proxy_slice(slice, &name)?))
                });
                view.set_slice(key, row);
            }))
        };
        self.watch(WatchSpec::all::<Service>(), &services, shutdown);
        self.watch(WatchSpec::all::<EndpointSlice>(), &slices, shutdown);
        // Nobody waits for the zone: it is said late, or never.
        let nodes = {
            let view = view.clone();
            Arc::new(Feed::<PartialObjectMeta<Node>>::new(move |_, node| {
                let labels = node.and_then(|node| node.metadata.labels.as_ref());
                let zone = labels.and_then(|labels| labels.get(ZONE));
                view.set_zone(zone.map_or("", String::as_str));
            }))
        };
        let own = format!("metadata.name={}", self.config.node_name);
        let spec = WatchSpec::all::<PartialObjectMeta<Node>>().fields(own);
        self.watch(spec, &nodes, shutdown);
        services.wait_synced().await;
        slices.wait_synced().await;
        self.keep_in_step(&view, &mut table, &node).await
    }

    async fn keep_in_step(
        &self,
        view: &View,
        table: &mut ServiceTable,
        node: &NodeRow,
    ) -> Result<(), ComponentError> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        let mut guard = TableGuard::watch(&self.config.table_name).await?;
        loop {
            let changes = view.take_changes(node);
            let count = changes.len();
            let started = self.clock.monotonic();
            match table.apply(changes).await {
                Ok(()) => {
                    let took = self.clock.monotonic().saturating_sub(started);
                    tracing::debug!(services = count, ?took, "synced service rules");
                    backoff.reset();
                    self.ready
                        .send_if_modified(|ready| !std::mem::replace(ready, true));
                    tokio::select! {
                        () = view.changed.notified() => {}
                        () = guard.lost() => {
                            tracing::warn!("somebody removed the service rules: making them anew");
                            table.is_lost();
                        }
                    }
                }
                Err(error) => {
                    // The plans are kept: the next round makes the whole table.
                    complain(&error);
                    self.clock.sleep(backoff.next(&self.random)).await;
                }
            }
        }
    }
}

#[async_trait]
impl Component for ServiceProxy {
    fn name(&self) -> &'static str {
        "proxy"
    }

    async fn run(&self, shutdown: Shutdown) -> Result<(), ComponentError> {
        // The watches end with this run, however it ends.
        let watches = shutdown.child();
        let _end = EndOfRun(watches.clone());
        let outcome = tokio::select! {
            outcome = self.follow(&watches) => outcome,
            () = shutdown.triggered() => Ok(()),
        };
        self.ready.send_replace(false);
        outcome
    }
}

fn complain(error: &(dyn std::error::Error + 'static)) {
    tracing::error!(error, "cannot sync service rules");
}

/// Ends the watches of a run.
pub(crate) struct EndOfRun(pub Shutdown);

impl Drop for EndOfRun {
    fn drop(&mut self) {
        self.0.trigger();
    }
}

pub(crate) fn id_of(key: &ObjectKey) -> ServiceId {
    ServiceId::new(key.namespace(), key.name())
}

/// What is known of services and slices, and which services have to be planned anew.
#[derive(Default)]
struct View {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// The zone of the node.
    zone: Box<str>,
    services: HashMap<ServiceId, ServiceRow>,
    slices: HashMap<ServiceId, BTreeMap<ObjectKey, SliceRow>>,
    owners: HashMap<ObjectKey, ServiceId>,
    dirty: BTreeSet<ServiceId>,
}

impl View {
    fn set_service(&self, id: &ServiceId, row: Option<ServiceRow>) {
        let mut state = self.state.lock();
        if state.services.get(id) == row.as_ref() {
            return;
        }
        match row {
            Some(row) => state.services.insert(id.clone(), row),
            None => state.services.remove(id),
        };
        state.dirty.insert(id.clone());
        self.changed.notify_one();
    }

    fn set_slice(&self, key: &ObjectKey, row: Option<(ServiceId, SliceRow)>) {
        let mut state = self.state.lock();
        let new_owner = row.as_ref().map(|(id, _)| id.clone());
        let old_owner = match &new_owner {
            Some(id) => state.owners.insert(key.clone(), id.clone()),
            None => state.owners.remove(key),
        };
        if let Some(old) = old_owner.filter(|old| Some(old) != new_owner.as_ref()) {
            state.put_slice(&old, key, None);
        }
        if let Some((id, row)) = row {
            state.put_slice(&id, key, Some(row));
        }
        if !state.dirty.is_empty() {
            self.changed.notify_one();
        }
    }

    /// The node is in another zone: services whose endpoints are hinted to zones are planned anew.
    fn set_zone(&self, zone: &str) {
        let mut state = self.state.lock();
        if *state.zone == *zone {
            return;
        }
        state.zone = zone.into();
        let State { slices, dirty, .. } = &mut *state;
        let hinted = slices.iter().filter(|(_, slices)| {
            let mut endpoints = slices.values().flat_map(|slice| &slice.endpoints);
            endpoints.any(|endpoint| endpoint.hints.is_some())
        });
        dirty.extend(hinted.map(|(id, _)| id.clone()));
        self.changed.notify_one();
    }

    /// The plans of the services that changed since the last call.
    fn take_changes(&self, node: &NodeRow) -> Vec<(ServiceId, Option<ServicePlan>)> {
        let mut state = self.state.lock();
        let dirty = std::mem::take(&mut state.dirty);
        let node = &NodeRow {
            zone: state.zone.clone(),
            ..node.clone()
        };
        dirty
            .into_iter()
            .map(|id| {
                let plan = state.services.get(&id).map(|service| {
                    let slices = state.slices.get(&id);
                    let slices: Vec<&SliceRow> =
                        slices.into_iter().flat_map(BTreeMap::values).collect();
                    plan_service(&id, service, &slices, node)
                });
                (id, plan)
            })
            .collect()
    }
}

impl State {
    fn put_slice(&mut self, id: &ServiceId, key: &ObjectKey, row: Option<SliceRow>) {
        let slices = self.slices.entry(id.clone()).or_default();
        let changed = slices.get(key) != row.as_ref();
        match row {
            Some(row) => slices.insert(key.clone(), row),
            None => slices.remove(key),
        };
        if slices.is_empty() {
            self.slices.remove(id);
        }
        if changed {
            self.dirty.insert(id.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_network::proxy::{Endpoint, Hints};

    fn node() -> NodeRow {
        NodeRow {
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: None,
            held: vec![],
            masquerade_bit: 0x4000,
            masquerade_all: false,
            zone: "".into(),
        }
    }

    fn changed(view: &View) -> Vec<(String, bool)> {
        let changes = view.take_changes(&node());
        let changes = changes.into_iter();
        changes
            .map(|(id, plan)| (id.to_string(), plan.is_some()))
            .collect()
    }

    #[test]
    fn another_zone_concerns_services_with_hints() {
        let view = View::default();
        let (web, api) = (ServiceId::new("d", "web"), ServiceId::new("d", "api"));
        for (id, hints) in [(&web, Some(Hints::default())), (&api, None)] {
            let row = ServiceRow {
                cluster_ips: vec![[10, 96, 0, 1].into()],
                ..ServiceRow::default()
            };
            view.set_service(id, Some(row));
            let slice = SliceRow {
                endpoints: vec![Endpoint {
                    ip: [10, 244, 0, 1].into(),
                    local: true,
                    ready: true,
                    serving: true,
                    terminating: false,
                    hints,
                }],
                ..SliceRow::default()
            };
            let key = ObjectKey::new("d", &format!("{}-1", id.name));
            view.set_slice(&key, Some((id.clone(), slice)));
        }
        assert_eq!(changed(&view).len(), 2);
        view.set_zone("z");
        assert_eq!(changed(&view), [("d/web".to_owned(), true)]);
        view.set_zone("z");
        assert!(changed(&view).is_empty());
    }

    #[test]
    fn only_services_that_changed_are_planned() {
        let view = View::default();
        let (web, api) = (ServiceId::new("d", "web"), ServiceId::new("d", "api"));
        let row = ServiceRow {
            cluster_ips: vec![[10, 96, 0, 1].into()],
            ..ServiceRow::default()
        };
        view.set_service(&web, Some(row.clone()));
        view.set_service(&api, Some(row.clone()));
        assert_eq!(changed(&view).len(), 2);
        view.set_service(&web, Some(row));
        assert!(changed(&view).is_empty());

        let slice = ObjectKey::new("d", "slice-1");
        let content = SliceRow::default();
        view.set_slice(&slice, Some((web.clone(), content.clone())));
        assert_eq!(changed(&view), [("d/web".to_owned(), true)]);
        view.set_slice(&slice, Some((web.clone(), content.clone())));
        assert!(changed(&view).is_empty());
        // The slice moves to another service: both are planned.
        view.set_slice(&slice, Some((api, content)));
        assert_eq!(changed(&view).len(), 2);
        view.set_slice(&slice, None);
        assert_eq!(changed(&view), [("d/api".to_owned(), true)]);
        view.set_service(&web, None);
        assert_eq!(changed(&view), [("d/web".to_owned(), false)]);
        let state = view.state.lock();
        assert!(state.slices.is_empty() && state.owners.is_empty());
    }
}
