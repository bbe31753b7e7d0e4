//! The controllers: each looks at one kind of object and brings the world one step closer to what it
//! asks for.
//!
//! Every controller is one file that plans with pure functions and acts through the API with an identity
//! of its own. [`component`] runs them all.

pub mod attach_detach;
mod attach_plan;
pub mod bootstrap_signer;
pub mod certificate_authority;
pub mod certificate_request;
pub mod cluster_role_aggregation;
pub mod context;
pub mod cron_job;
mod cron_plan;
pub mod csr_approving;
pub mod csr_cleaner;
pub mod csr_signing;
pub mod daemon_set;
mod daemon_set_plan;
mod deletion;
pub mod deployment;
mod deployment_plan;
mod deployment_status;
pub mod device_taint_eviction;
pub mod dir_provisioner;
pub mod discovery;
pub mod disruption;
mod disruption_plan;
pub mod endpoint_slice;
pub mod endpoint_slice_mirroring;
pub mod endpoints;
pub mod ephemeral_volume;
pub mod garbage_collector;
mod garbage_graph;
mod garbage_watch;
pub mod gate;
mod history;
pub mod horizontal_pod_autoscaler;
mod hpa_behavior;
mod hpa_metrics;
mod hpa_readings;
mod hpa_replicas;
mod hpa_status;
pub mod job;
mod job_backoff;
mod job_indexes;
mod job_plan;
mod job_pod;
mod job_policy;
pub mod legacy_token_cleaner;
mod metrics_openapi;
mod metrics_samples;
pub mod metrics_server;
pub mod namespace;
mod node_health;
pub mod node_ipam;
pub mod node_lifecycle;
mod node_selector;
pub mod node_ttl;
pub mod ownership;
mod pod_control;
mod pod_eviction;
pub mod pod_garbage;
pub mod pods;
mod policy_types;
pub mod replica_set;
mod replicas;
pub mod resource_claim;
mod resource_claim_plan;
pub mod resource_quota;
pub mod root_ca;
mod seen_pod;
pub mod service_account;
pub mod service_cidr;
mod service_endpoints;
pub mod stateful_set;
mod stateful_set_claims;
mod stateful_set_plan;
pub mod taint_eviction;
pub mod template_hash;
pub mod token_cleaner;
pub mod token_secrets;
pub mod ttl_after_finished;
pub mod validating_admission_policy_status;
pub mod volume_binder;
pub mod volume_expand;
mod volume_plan;
pub mod volume_protection;
mod volume_recycle;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use kube::Client;
use skiff_base::lifecycle::ComponentError;
use skiff_base::{Component, Random, SharedClock, Shutdown};
use skiff_client::Caches;

pub use context::{ClientFactory, Context, ControllersConfig, TokenSigner};

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;
type Start = fn(Context) -> Running;

/// Every controller: its name and how it starts.
const CONTROLLERS: &[(&str, Start)] = &[
    (replica_set::REPLICA_SET, |c| {
        Box::pin(replica_set::run_replica_sets(c))
    }),
    (replica_set::REPLICATION, |c| {
        Box::pin(replica_set::run_replication_controllers(c))
    }),
    (endpoint_slice::NAME, |c| Box::pin(endpoint_slice::run(c))),
    (endpoint_slice_mirroring::NAME, |c| {
        Box::pin(endpoint_slice_mirroring::run(c))
    }),
    (endpoints::NAME, |c| Box::pin(endpoints::run(c))),
    (deployment::NAME, |c| Box::pin(deployment::run(c))),
    (daemon_set::NAME, |c| Box::pin(daemon_set::run(c))),
    (stateful_set::NAME, |c| Box::pin(stateful_set::run(c))),
    (job::NAME, |c| Box::pin(job::run(c))),
    (disruption::NAME, |c| Box::pin(disruption::run(c))),
    (horizontal_pod_autoscaler::NAME, |c| {
        Box::pin(horizontal_pod_autoscaler::run(c))
    }),
    (cron_job::NAME, |c| Box::pin(cron_job::run(c))),
    (ttl_after_finished::NAME, |c| {
        Box::pin(ttl_after_finished::run(c))
    }),
    (namespace::NAME, |c| Box::pin(namespace::run(c))),
    (service_account::NAME, |c| Box::pin(service_account::run(c))),
    (root_ca::NAME, |c| Box::pin(root_ca::run(c))),
    (garbage_collector::NAME, |c| {
        Box::pin(garbage_collector::run(c))
    }),
    (node_lifecycle::NAME, |c| Box::pin(node_lifecycle::run(c))),
    (taint_eviction::NAME, |c| Box::pin(taint_eviction::run(c))),
    (device_taint_eviction::NAME, |c| {
        Box::pin(device_taint_eviction::run(c))
    }),
    (pod_garbage::NAME, |c| Box::pin(pod_garbage::run(c))),
    (node_ipam::NAME, |c| Box::pin(node_ipam::run(c))),
    (node_ttl::NAME, |c| Box::pin(node_ttl::run(c))),
    (token_secrets::NAME, |c| Box::pin(token_secrets::run(c))),
    (legacy_token_cleaner::NAME, |c| {
        Box::pin(legacy_token_cleaner::run(c))
    }),
    (token_cleaner::NAME, |c| Box::pin(token_cleaner::run(c))),
    (bootstrap_signer::NAME, |c| {
        Box::pin(bootstrap_signer::run(c))
    }),
    (service_cidr::NAME, |c| Box::pin(service_cidr::run(c))),
    (cluster_role_aggregation::NAME, |c| {
        Box::pin(cluster_role_aggregation::run(c))
    }),
    (csr_signing::NAME, |c| Box::pin(csr_signing::run(c))),
    ("csrapproving", |c| Box::pin(csr_approving::run(c))),
    ("csrcleaner", |c| Box::pin(csr_cleaner::run(c))),
    (resource_claim::NAME, |c| Box::pin(resource_claim::run(c))),
    (resource_quota::NAME, |c| Box::pin(resource_quota::run(c))),
    (validating_admission_policy_status::NAME, |c| {
        Box::pin(validating_admission_policy_status::run(c))
    }),
    (volume_binder::NAME, |c| Box::pin(volume_binder::run(c))),
    (volume_expand::NAME, |c| Box::pin(volume_expand::run(c))),
    (attach_detach::NAME, |c| Box::pin(attach_detach::run(c))),
    (ephemeral_volume::NAME, |c| {
        Box::pin(ephemeral_volume::run(c))
    }),
    (dir_provisioner::NAME, |c| Box::pin(dir_provisioner::run(c))),
    (volume_protection::CLAIMS, |c| {
        Box::pin(volume_protection::run_claims(c))
    }),
    (volume_protection::VOLUMES, |c| {
        Box::pin(volume_protection::run_volumes(c))
    }),
    (volume_protection::CLASSES, |c| {
        Box::pin(volume_protection::run_classes(c))
    }),
];

/// The names of all controllers.
pub fn names() -> impl Iterator<Item = &'static str> {
    CONTROLLERS.iter().map(|(name, _)| *name)
}

struct Controllers {
    client: Client,
    clients: ClientFactory,
    config: Arc<ControllersConfig>,
    clock: SharedClock,
    random: Random,
}

/// All controllers as one component. `client` reads for the shared caches (upstream's
/// `system:kube-controller-manager`), `clients` makes the client that each controller acts with.
#[must_use]
pub fn component(
    client: Client,
    clients: ClientFactory,
    config: ControllersConfig,
    clock: SharedClock,
    random: Random,
) -> Arc<dyn Component> {
    Arc::new(Controllers {
        client,
        clients,
        config: Arc::new(config),
        clock,
        random,
    })
}

#[async_trait]
impl Component for Controllers {
    fn name(&self) -> &'static str {
        "controllers"
    }

    async fn run(&self, shutdown: Shutdown) -> Result<(), ComponentError> {
        let caches = Caches::new(
            self.client.clone(),
            self.clock.clone(),
            self.random.clone(),
            &shutdown,
        )
        .trimming(seen_pod::trim);
        let context = Context {
            caches: Arc::new(caches),
            manager: self.client.clone(),
            clients: self.clients.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
            config: self.config.clone(),
            shutdown: shutdown.child(),
        };
        let mut running = tokio::task::JoinSet::new();
        for (name, start) in CONTROLLERS {
            let (work, stop) = (start(context.clone()), context.shutdown.clone());
            running.spawn(async move {
                // A controller that still waits for its caches would wait for ever: they are not read any more.
                tokio::select! {
                    () = work => {}
                    () = stop.triggered() => {}
                }
                *name
            });
        }
        let ended = running.join_next().await;
        if !shutdown.is_triggered() {
            // One that ends early takes the others with it: the supervisor starts all anew.
            context.shutdown.trigger();
            running.join_all().await;
            return Err(match ended {
                Some(Ok(name)) => format!("{name} ended early").into(),
                Some(Err(error)) => error.into(),
                None => "no controllers".into(),
            });
        }
        running.join_all().await;
        Ok(())
    }
}
