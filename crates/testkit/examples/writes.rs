//! How long writes take: creates of pods, updates of a pod's status and of a lease, each a thousand times by a function
//! call on a memory store. Prints microseconds for one of each.

use std::time::Instant;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::json;
use skiff_testkit::TestCluster;

const TIMES: usize = 1000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cluster = TestCluster::start().await?;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let leases: Api<Lease> = Api::default_namespaced(cluster.client());
    let options = PostParams::default();
    let pod = |name: &str| -> anyhow::Result<Pod> {
        Ok(serde_json::from_value(
            json!({"metadata": {"name": name, "labels": {"app": "web", "hash": "x"}},
            "spec": {"containers": [{"name": "main", "image": "nginx", "ports": [{"containerPort": 80}],
                "env": [{"name": "A", "value": "b"}], "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}}),
        )?)
    };
    let each = |started: Instant| started.elapsed().as_micros() / (TIMES as u128);

    let started = Instant::now();
    for n in 0..TIMES {
        pods.create(&options, &pod(&format!("p{n}"))?).await?;
    }
    println!("create a pod: {} us", each(started));

    let mut current = pods.get("p0").await?;
    let started = Instant::now();
    for n in 0..TIMES {
        current.status = Some(serde_json::from_value(json!({
            "phase": "Running", "podIP": format!("10.0.0.{n}"), "startTime": "2026-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{"name": "main", "ready": true, "restartCount": n, "image": "nginx", "imageID": "x",
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
        }))?);
        current = pods.replace_status("p0", &options, &current).await?;
    }
    println!("update a pod's status: {} us", each(started));

    let lease = |n: usize| -> anyhow::Result<Lease> {
        Ok(serde_json::from_value(
            json!({"metadata": {"name": "node"}, "spec": {
            "holderIdentity": "node", "leaseDurationSeconds": 40, "leaseTransitions": n}}),
        )?)
    };
    leases.create(&options, &lease(0)?).await?;
    let started = Instant::now();
    for n in 1..=TIMES {
        let mut next = lease(n)?;
        next.metadata.resource_version = leases.get("node").await?.metadata.resource_version;
        leases.replace("node", &options, &next).await?;
    }
    println!("get and update a lease: {} us", each(started));
    Ok(())
}
