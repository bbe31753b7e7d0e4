//! Upstream's shapes through the real API server: pods are created over TLS, the scheduler of the same process binds them.
//!
//! As in upstream's `scheduler_perf` there are no controllers and no kubelets, and the same admission plugins are off.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cluster::{Cluster, cpu_ticks};
use crate::figures::Figures;
use crate::load::Target;
use crate::nodes::make;
use crate::scheduler::{Churn, SHAPES, Shape, churning, node, pod, scaled};

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/namespaces/bench/pods";
const SERVICES: &str = "/api/v1/namespaces/bench/services";
/// Who sees no pod bound for so long has seen them all.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures all shapes whose names contain `only`, at a share of their size.
pub async fn measure(skiff: &Path, only: &str, scale: f64, figures: &mut Figures) -> Result<()> {
    for shape in SHAPES.iter().filter(|shape| shape.name.contains(only)) {
        let (rate, cpu) = run(skiff, shape, scale)
            .await
            .with_context(|| shape.name.to_owned())?;
        let text = format!("{rate:.0} pods/s, {cpu:.2} ms of the server's CPU each");
        figures.add(&format!("bound: {}", shape.name), text, shape.budget);
    }
    Ok(())
}

/// Pods bound a second, and the CPU time of the server for each in milliseconds.
async fn run(skiff: &Path, shape: &'static Shape, scale: f64) -> Result<(f64, f64)> {
    let mut cluster = Cluster::prepare(skiff)?;
    let flags = [
        "--disable",
        "controllers,kubelet,proxy,dns",
        "--disable-admission-plugins",
        "ServiceAccount,TaintNodesByCondition,Priority",
    ];
    cluster.serve(&flags).await?;
    let (process, target) = (cluster.process()?, cluster.target()?);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}});
    post(&target, "/api/v1/namespaces", &namespace).await?;
    make(&target, NODES, scaled(shape.nodes, scale), node).await?;
    let before = scaled(shape.before, scale);
    let first = |number: usize, spec: fn(usize) -> Value| named("first", number, &spec(number));
    make(&target, PODS, before, move |number| {
        first(number, shape.first)
    })
    .await?;
    let found = bound(&target, "first-", before).await?;
    if found < before / 2 {
        bail!("only {found} of {before} pods were bound at first");
    }
    let count = scaled(shape.measured, scale);
    let churn = tokio::spawn(disturb(target.clone(), shape.churn));
    let ticks = cpu_ticks(process)?;
    let begun = Instant::now();
    let watching = {
        let target = target.clone();
        tokio::spawn(async move { bound(&target, "pod-", count).await })
    };
    make(&target, PODS, count, move |number| {
        named("pod", number, &(shape.then)(number))
    })
    .await?;
    let found = watching.await??;
    let took = begun.elapsed().as_secs_f64();
    churn.abort();
    if found < count {
        bail!("only {found} of {count} pods were bound");
    }
    let cpu = (cpu_ticks(process)? - ticks) as f64 * 10.0 / count as f64;
    Ok((count as f64 / took, cpu))
}

fn named(name: &str, number: usize, spec: &Value) -> Value {
    let mut pod = pod(&format!("{name}-{number}"), spec);
    // Nobody runs it: it has to go at once when it makes room.
    pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
    pod
}

/// What goes on meanwhile, for ever.
async fn disturb(target: Target, churn: Churn) -> Result<()> {
    let Some(spec) = churning(churn) else {
        return Ok(());
    };
    let every = if churn == Churn::Mixed { 1000 } else { 200 };
    let mut connection = target.connect().await?;
    for number in 0.. {
        post(&target, PODS, &named("churn", number, &spec)).await?;
        if churn == Churn::Mixed {
            let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "churn"},
                "spec": {"selector": {"color": "blue"}, "ports": [{"port": 80}]}});
            post(&target, SERVICES, &service).await?;
            let mut node = node(number);
            node["metadata"]["name"] = json!("churn");
            post(&target, NODES, &node).await?;
        }
        tokio::time::sleep(Duration::from_millis(every)).await;
        if churn == Churn::Mixed {
            let pod = format!("{PODS}/churn-{number}");
            for path in [
                &pod,
                &format!("{SERVICES}/churn"),
                &format!("{NODES}/churn"),
            ] {
                connection
                    .exchange(Method::DELETE, path, Bytes::new())
                    .await?;
            }
        }
    }
    Ok(())
}

async fn post(target: &Target, path: &str, object: &Value) -> Result<()> {
    let mut connection = target.connect().await?;
    let body = object.to_string().into();
    let (code, _) = connection.exchange(Method::POST, path, body).await?;
    if code != 201 {
        bail!("POST {path} was answered with {code}");
    }
    Ok(())
}

#[derive(Deserialize)]
struct Event {
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

/// Waits until so many pods of that name have had a node, or none more for a long while; tells how many had.
async fn bound(target: &Target, prefix: &str, count: usize) -> Result<usize> {
    let path = format!("{PODS}?watch=1&fieldSelector=spec.nodeName!%3D");
    let mut watcher = target.connect().await?;
    let mut events = watcher.send(Method::GET, &path, Bytes::new()).await?;
    let (mut found, mut rest) = (HashSet::new(), Vec::new());
    while found.len() < count {
        let Ok(frame) = tokio::time::timeout(PATIENCE, events.body_mut().frame()).await else {
            break;
        };
        let frame = frame.context("watch ended")??;
        rest.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        let whole = rest
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        for line in rest[..whole].split(|&byte| byte == b'\n') {
            if let Ok(event) = serde_json::from_slice::<Event>(line)
                && event.object.metadata.name.starts_with(prefix)
            {
                found.insert(event.object.metadata.name);
            }
        }
        rest.drain(..whole);
    }
    Ok(found.len())
}
