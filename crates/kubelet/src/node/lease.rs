//! The node's lease: a sign of life every ten seconds.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use skiff_base::{Backoff, Shutdown};
use skiff_client::{is_not_found, micro_timestamp};

use crate::context::Context;

/// Without a sign of life for this long the node counts as lost.
const SECONDS: i32 = 40;
/// How often the lease is renewed.
const RENEW: Duration = Duration::from_secs(10);
/// Where the leases of nodes are.
const NAMESPACE: &str = "kube-node-lease";

/// Renews the lease until `shutdown`.
pub async fn run(context: Arc<Context>, client: Client, shutdown: Shutdown) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let mut known: Option<Lease> = None;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(7));
    loop {
        let renewed = renew(&context, &client, &leases, known.take()).await;
        let pause = match renewed {
            Ok(lease) => {
                known = Some(lease);
                backoff.reset();
                RENEW
            }
            Err(error) => {
                tracing::warn!(%error, "cannot renew the node's lease");
                backoff.next(&context.random)
            }
        };
        tokio::select! {
            () = context.clock.sleep(pause) => {}
            () = shutdown.triggered() => return,
        }
    }
}

async fn renew(
    context: &Context,
    client: &Client,
    leases: &Api<Lease>,
    known: Option<Lease>,
) -> Result<Lease, Error> {
    let name = &context.config.node_name;
    let now = Some(micro_timestamp(context.clock.as_ref()));
    let current = match known {
        Some(lease) => Some(lease),
        None => leases.get_opt(name).await?,
    };
    let Some(mut lease) = current else {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(NAMESPACE.to_owned()),
                owner_references: owner(client, name).await.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name.clone()),
                lease_duration_seconds: Some(SECONDS),
                renew_time: now,
                ..LeaseSpec::default()
            }),
        };
        return leases.create(&PostParams::default(), &lease).await;
    };
    if lease.metadata.owner_references.is_none() {
        lease.metadata.owner_references = owner(client, name).await.map(|owner| vec![owner]);
    }
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(name.clone());
    spec.lease_duration_seconds = Some(SECONDS);
    spec.renew_time = now;
    match leases.replace(name, &PostParams::default(), &lease).await {
        Err(error) if is_not_found(&error) => {
            lease.metadata.resource_version = None;
            lease.metadata.uid = None;
            leases.create(&PostParams::default(), &lease).await
        }
        other => other,
    }
}

/// The lease goes with its node.
async fn owner(client: &Client, name: &str) -> Option<OwnerReference> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = nodes.get_opt(name).await.ok()??;
    Some(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: node.metadata.uid?,
        ..OwnerReference::default()
    })
}
