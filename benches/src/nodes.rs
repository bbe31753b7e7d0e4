//! A cluster of simulated nodes: how fast pods are made, bound and run, and what the server needs for it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Method;
use serde_json::{Value, json};

use crate::cluster::{Cluster, cpu_ticks, memory};
use crate::figures::Figures;
use crate::load::Target;
use crate::scheduler::scaled;

/// Where namespaces are.
pub const NAMESPACES: &str = "/api/v1/namespaces";
/// So many clients make pods.
const CLIENTS: usize = 16;

/// A server with so many nodes, once they are ready.
async fn populated(skiff: &Path, nodes: usize) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(skiff)?;
    let number = nodes.to_string();
    let flags = [
        "--simulated-nodes",
        &number,
        "--disable",
        "kubelet,proxy,dns",
    ];
    let flags = [&flags[..], &["--pod-cidr", "10.0.0.0/9"]].concat();
    cluster.serve(&flags).await?;
    let is_ready = |node: &Value| {
        let conditions = node["status"]["conditions"].as_array();
        let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
        conditions.is_some_and(|all| all.iter().any(ready)) && node["spec"]["taints"].is_null()
    };
    follow(&cluster.target()?, "/api/v1/nodes", nodes, is_ready).await?;
    Ok(cluster)
}

/// Nodes that register, their heartbeats, pods by hand, and rest.
pub async fn measure(skiff: &Path, nodes: usize, pods: usize, figures: &mut Figures) -> Result<()> {
    let begun = Instant::now();
    let cluster = populated(skiff, nodes).await?;
    let (process, target) = (cluster.process()?, cluster.target()?);
    let took = begun.elapsed().as_secs_f64();
    figures.add(
        &format!("{nodes} nodes, registered and ready"),
        format!("{took:.1} s"),
        "",
    );
    at_rest(process, &format!("{nodes} nodes at rest"), figures).await?;

    make_namespace(&target, "crowd").await?;
    let collection = format!("{NAMESPACES}/crowd/pods");
    let before = cpu_ticks(process)?;
    let begun = Instant::now();
    let bound = {
        let (target, collection) = (target.clone(), collection.clone());
        let has_node = |pod: &Value| pod["spec"]["nodeName"].is_string();
        tokio::spawn(async move { follow(&target, &collection, pods, has_node).await })
    };
    make(&target, &collection, pods, crowd_pod).await?;
    let made = begun.elapsed().as_secs_f64();
    bound.await??;
    let took = begun.elapsed().as_secs_f64();
    let rate = |count: usize, seconds: f64| format!("{:.0} pods/s", count as f64 / seconds);
    let what = format!("{pods} pods on {nodes} nodes");
    figures.add(
        &format!("{what}, create to bound"),
        rate(pods, took),
        "10 times upstream's 154-206 pods/s",
    );
    figures.add("of these, created", rate(pods, made), "");
    follow(&target, &collection, pods, |pod| {
        pod["status"]["phase"] == "Running"
    })
    .await?;
    let used = (cpu_ticks(process)? - before) as f64 * 10.0 / pods as f64;
    figures.add(
        "CPU of the server for each, until it runs",
        format!("{used:.2} ms"),
        "",
    );
    at_rest(process, &what, figures).await?;

    Ok(())
}

/// So many nodes bear what the controllers are measured with.
const BEARING: usize = 200;

/// The controllers: a Deployment scaled up, a rollout of many, and a namespace that goes, at a share of their size.
pub async fn controllers(skiff: &Path, scale: f64, figures: &mut Figures) -> Result<()> {
    let cluster = populated(skiff, scaled(BEARING, scale)).await?;
    let (process, target) = (cluster.process()?, cluster.target()?);
    scale_up(&target, scaled(10_000, scale), process, figures).await?;
    roll_out(&target, scaled(1000, scale), process, figures).await?;
    remove_namespace(&target, scaled(20_000, scale), process, figures).await
}

/// Updates so many Deployments of one pod, all at once.
async fn roll_out(
    target: &Target,
    count: usize,
    process: i32,
    figures: &mut Figures,
) -> Result<()> {
    make_namespace(target, "many").await?;
    let path = "/apis/apps/v1/namespaces/many/deployments";
    make(target, path, count, |number| {
        let labels = json!({"app": format!("d-{number}")});
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": format!("d-{number}")},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels}, "spec": {"containers": [container()]}}}})
    })
    .await?;
    let through = |deployment: &Value, generation: i64| {
        let status = &deployment["status"];
        status["observedGeneration"].as_i64() >= Some(generation)
            && status["updatedReplicas"] == 1
            && status["availableReplicas"] == 1
            && status["replicas"] == 1
    };
    follow(target, path, count, |deployment| through(deployment, 1)).await?;
    let work = Work::begin(process)?;
    each(target, Method::PATCH, count, |number| {
        let template = json!({"metadata": {"annotations": {"rolled": "out"}}});
        let patch = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": format!("d-{number}")},
            "spec": {"template": template}});
        (format!("/d-{number}?fieldManager=bench&force=true"), patch)
    }, path)
    .await?;
    follow(target, path, count, |deployment| through(deployment, 2)).await?;
    let what = format!("a rollout of {count} Deployments of one pod");
    work.note(&what, count, "Deployments", figures)
}

/// Deletes a namespace with so many objects: half ConfigMaps, a quarter Secrets, a quarter pods that run.
async fn remove_namespace(
    target: &Target,
    count: usize,
    process: i32,
    figures: &mut Figures,
) -> Result<()> {
    make_namespace(target, "full").await?;
    let namespace = format!("{NAMESPACES}/full");
    let settings = |number: usize, kind: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": format!("o-{number}")}});
    let of = |kind: &str| format!("{namespace}/{kind}");
    make(target, &of("configmaps"), count / 2, move |number| {
        settings(number, "ConfigMap")
    })
    .await?;
    make(target, &of("secrets"), count / 4, move |number| {
        settings(number, "Secret")
    })
    .await?;
    make(target, &of("pods"), count / 4, crowd_pod).await?;
    follow(target, &of("pods"), count / 4, |pod| {
        pod["status"]["phase"] == "Running"
    })
    .await?;
    let work = Work::begin(process)?;
    let mut connection = target.connect().await?;
    connection
        .exchange(Method::DELETE, &namespace, Bytes::new())
        .await?;
    while connection.get(&namespace).await?.0 != 404 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let what = format!("a namespace with {count} objects deleted");
    work.note(&what, count, "objects", figures)
}

/// A Deployment from none to so many.
async fn scale_up(target: &Target, pods: usize, process: i32, figures: &mut Figures) -> Result<()> {
    make_namespace(target, "scaled").await?;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": pods, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container()]}}},
    });
    let work = Work::begin(process)?;
    let mut connection = target.connect().await?;
    let path = "/apis/apps/v1/namespaces/scaled/deployments";
    let (code, _) = connection
        .exchange(Method::POST, path, deployment.to_string().into())
        .await?;
    if code != 201 {
        bail!("it was answered with {code}");
    }
    let wanted = json!(pods);
    follow(target, path, 1, move |deployment| {
        deployment["status"]["availableReplicas"] == wanted
    })
    .await?;
    let what = format!("a Deployment from 0 to {pods} available");
    work.note(&what, pods, "pods", figures)
}

/// Some work of the server, since it began.
struct Work {
    process: i32,
    ticks: u64,
    begun: Instant,
}

impl Work {
    fn begin(process: i32) -> Result<Self> {
        Ok(Self {
            process,
            ticks: cpu_ticks(process)?,
            begun: Instant::now(),
        })
    }

    /// Notes how long it took in all, and what it cost for each of so many things.
    fn note(self, what: &str, count: usize, things: &str, figures: &mut Figures) -> Result<()> {
        let took = self.begun.elapsed().as_secs_f64();
        let each = (cpu_ticks(self.process)? - self.ticks) as f64 * 10.0 / count as f64;
        let rate = count as f64 / took;
        let text = format!("{took:.1} s, {rate:.0} {things}/s, {each:.2} ms of CPU each");
        figures.add(what, text, "");
        Ok(())
    }
}

/// Memory, CPU and writing while nobody asks for anything.
async fn at_rest(process: i32, what: &str, figures: &mut Figures) -> Result<()> {
    const SECONDS: u64 = 30;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (ticks, bytes) = (cpu_ticks(process)?, written(process)?);
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let share = (cpu_ticks(process)? - ticks) as f64 / SECONDS as f64;
    let an_hour = (written(process)? - bytes) as f64 * 3600.0 / SECONDS as f64 / (1 << 20) as f64;
    let (resident, _) = memory(process)?;
    figures.add(
        what,
        format!(
            "{:.0} MiB, {share:.1} % of a core, {an_hour:.0} MiB written an hour",
            resident as f64 / 1024.0
        ),
        "120 MiB with 1,000 nodes and 5,000 pods",
    );
    Ok(())
}

/// Bytes that a process has had written to disk.
fn written(process: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/io"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.context("no write_bytes")?.parse()?)
}

/// A namespace with the service account that its pods need.
pub async fn make_namespace(target: &Target, name: &str) -> Result<()> {
    let mut connection = target.connect().await?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    connection
        .exchange(Method::POST, NAMESPACES, namespace.to_string().into())
        .await?;
    // Its service account, which pods need.
    let accounts = format!("{NAMESPACES}/{name}/serviceaccounts");
    follow(target, &accounts, 1, |account| {
        account["metadata"]["name"] == "default"
    })
    .await
}

fn container() -> Value {
    json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}})
}

/// A pod of one small container.
pub fn crowd_pod(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("p-{number}"), "labels": {"app": "crowd"}}, "spec": {"containers": [container()]}})
}

/// Makes so many objects, with several clients at once.
pub async fn make<F>(target: &Target, collection: &str, count: usize, object: F) -> Result<()>
where
    F: Fn(usize) -> Value + Copy + Send + 'static,
{
    each(
        target,
        Method::POST,
        count,
        move |number| (String::new(), object(number)),
        collection,
    )
    .await
}

/// Sends a request for each number up to `count`, with several clients at once: below `collection`, with what `request` says.
async fn each<F>(
    target: &Target,
    method: Method,
    count: usize,
    request: F,
    collection: &str,
) -> Result<()>
where
    F: Fn(usize) -> (String, Value) + Copy + Send + 'static,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (next, target, collection) = (next.clone(), target.clone(), collection.to_owned());
        let method = method.clone();
        clients.spawn(async move {
            let mut connection = target.connect().await?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(());
                }
                let (name, body) = request(number);
                let path = format!("{collection}{name}");
                let (code, _) = connection
                    .exchange(method.clone(), &path, body.to_string().into())
                    .await?;
                if !(200..300).contains(&code) {
                    bail!("{method} {path} was answered with {code}");
                }
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    Ok(())
}

/// Waits until so many objects of a collection are as wanted, by one watch from the beginning.
pub async fn follow(
    target: &Target,
    collection: &str,
    count: usize,
    holds: impl Fn(&Value) -> bool,
) -> Result<()> {
    let mut watcher = target.connect().await?;
    let path = format!("{collection}?watch=1");
    let mut events = watcher.send(Method::GET, &path, Bytes::new()).await?;
    let mut found = std::collections::HashSet::new();
    let mut rest = Vec::new();
    loop {
        let frame = events.body_mut().frame().await.context("watch ended")??;
        rest.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        let mut start = 0;
        while let Some(length) = rest[start..].iter().position(|&byte| byte == b'\n') {
            let event: Value = serde_json::from_slice(&rest[start..start + length])?;
            start += length + 1;
            let object = &event["object"];
            if holds(object) {
                found.insert(
                    object["metadata"]["name"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                );
                if found.len() >= count {
                    return Ok(());
                }
            }
        }
        rest.drain(..start);
    }
}
