//! Throughput and latency of the API server alone: reads, durable writes, watches.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Method;

use crate::bare::Bare;
use crate::cluster::{Cluster, cpu_ticks, memory};
use crate::figures::Figures;
use crate::load::{Outcome, closed_loop};

/// The ConfigMaps of the namespace `default`.
pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A ConfigMap of about a KiB.
pub fn config_map(name: &str) -> Bytes {
    let object = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"app": "bench"}},
        "data": {"key": "v".repeat(900)},
    });
    Bytes::from(object.to_string())
}

fn get(path: &str) -> impl Fn(usize, usize) -> (Method, String, Bytes) + Clone + Send + 'static {
    let path = path.to_owned();
    move |_, _| (Method::GET, path.clone(), Bytes::new())
}

/// The CPU time that a server used for each answer, in microseconds.
fn each(before: u64, after: u64, outcome: &Outcome) -> f64 {
    // A clock tick is 10 ms.
    (after - before) as f64 * 1e4 / outcome.latencies.len().max(1) as f64
}

/// A closed loop on the server and on a bare one that answers with as many bytes.
async fn beside(cluster: &Cluster, clients: usize, time: Duration, path: &str) -> Result<String> {
    let target = cluster.target()?;
    let (code, body) = target.connect().await?.get(path).await?;
    ensure!(code == 200, "GET {path} answers {code}");
    let bare = Bare::start(body.len()).await?;
    let process = cluster.process()?;
    let start = cpu_ticks(process)?;
    let own = closed_loop(&target, clients, time, get(path)).await?;
    let own_each = each(start, cpu_ticks(process)?, &own);
    let start = cpu_ticks(bare.process())?;
    let yard = closed_loop(&bare.target, clients, time, get("/")).await?;
    let bare_each = each(start, cpu_ticks(bare.process())?, &yard);
    Ok(format!(
        "{} ({:.0} MB/s), {own_each:.1} us CPU each; bare server {:.0}/s, {bare_each:.1} us: {:.0} %",
        own.text(),
        own.bytes / 1e6,
        yard.rate,
        100.0 * own.rate / yard.rate
    ))
}

/// What of the API server's figures is wanted; without any, all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Durable creates
    Create,
    /// GET of one object
    Get,
    /// LIST of 2,000
    List,
    /// Watches
    Watch,
    /// Server-side apply
    Apply,
    /// Memory with 10,000 pods and 100 watchers
    Memory,
}

/// Runs the parts on one server; memory, which wants a fresh one, on another.
pub async fn measure(
    skiff: &Path,
    seconds: u64,
    parts: &[Part],
    figures: &mut Figures,
) -> Result<()> {
    let time = Duration::from_secs(seconds);
    let wanted = |part| parts.is_empty() || parts.contains(&part);
    if parts != [Part::Memory] {
        let cluster = server(skiff).await?;
        let target = cluster.target()?;
        if wanted(Part::Create) {
            create(&cluster, time, figures).await?;
        }
        if wanted(Part::Get) || wanted(Part::List) {
            read(&cluster, time, &wanted, figures).await?;
        }
        if wanted(Part::Watch) {
            crate::watches::measure(&target, figures).await?;
        }
        if wanted(Part::Apply) {
            apply(&cluster, time, figures).await?;
        }
        let (resident, _) = memory(cluster.process()?)?;
        figures.add(
            "resident memory of the API server after all this",
            format!("{} MiB", resident / 1024),
            "",
        );
    }
    if wanted(Part::Memory) {
        crowd(&server(skiff).await?, figures).await?;
    }
    Ok(())
}

async fn server(skiff: &Path) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(skiff)?;
    cluster
        .serve(&["--disable", "scheduler,controllers,kubelet,proxy,dns"])
        .await?;
    Ok(cluster)
}

async fn create(cluster: &Cluster, time: Duration, figures: &mut Figures) -> Result<()> {
    let process = cluster.process()?;
    let before = cpu_ticks(process)?;
    let creates = closed_loop(&cluster.target()?, 16, time, |client, number| {
        let name = format!("m-{client}-{number}");
        (Method::POST, MAPS.to_owned(), config_map(&name))
    })
    .await?;
    let cpu = each(before, cpu_ticks(process)?, &creates);
    figures.add(
        "create 1-KiB ConfigMaps, durable, 16 clients",
        format!("{}, {cpu:.0} us CPU each", creates.text()),
        "10x upstream's 787-908/s",
    );
    Ok(())
}

async fn read(
    cluster: &Cluster,
    time: Duration,
    wanted: &impl Fn(Part) -> bool,
    figures: &mut Figures,
) -> Result<()> {
    let mut connection = cluster.target()?.connect().await?;
    let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"list"}}"#;
    connection
        .exchange(Method::POST, "/api/v1/namespaces", namespace.into())
        .await?;
    let list = "/api/v1/namespaces/list/configmaps";
    for number in 0..2000 {
        let (code, _) = connection
            .exchange(Method::POST, list, config_map(&format!("l-{number}")))
            .await?;
        ensure!(code == 201, "create answers {code}");
    }
    if wanted(Part::Get) {
        let text = beside(cluster, 16, time, &format!("{list}/l-7")).await?;
        let budget = "10x upstream's 1,637-2,361/s; 60 % of the bare server";
        figures.add("GET one, 16 clients", text, budget);
    }
    if wanted(Part::List) {
        let (_, body) = connection.get(list).await?;
        let text = beside(cluster, 4, time, list).await?;
        let label = format!("LIST 2,000 ({:.2} MB), 4 clients", body.len() as f64 / 1e6);
        let budget = "10x upstream's 39-52/s; 85 % of the bare server";
        figures.add(&label, text, budget);
    }
    Ok(())
}

/// Server-side apply of an object with 1,000 fields, of which each apply changes one.
async fn apply(cluster: &Cluster, time: Duration, figures: &mut Figures) -> Result<()> {
    let (process, target) = (cluster.process()?, cluster.target()?);
    for (what, changing) in [("one changed", true), ("none changed", false)] {
        let before = cpu_ticks(process)?;
        let applied = closed_loop(&target, 1, time, move |_, number| {
            let changed = if changing { number } else { 0 };
            let data: serde_json::Map<_, _> = (0..1000)
                .map(|field| {
                    let value = if field == 7 { changed } else { field };
                    (format!("field-{field}"), value.to_string().into())
                })
                .collect();
            let object = serde_json::json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": data,
            });
            let path = format!("{MAPS}/applied?fieldManager=bench&force=true");
            (Method::PATCH, path, object.to_string().into())
        })
        .await?;
        figures.add(
            &format!("apply of an object with 1,000 fields, {what}, 1 client"),
            format!(
                "{}, {:.0} us CPU each",
                applied.text(),
                each(before, cpu_ticks(process)?, &applied)
            ),
            "",
        );
    }
    Ok(())
}

/// What 10,000 pods and 100 watchers of all of them cost.
async fn crowd(cluster: &Cluster, figures: &mut Figures) -> Result<()> {
    const PODS: usize = 10_000;
    const CLIENTS: usize = 16;
    let target = cluster.target()?;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
    let mut connection = target.connect().await?;
    connection
        .exchange(Method::POST, accounts, account.into())
        .await?;
    let resident = || anyhow::Ok(memory(cluster.process()?)?.0 as f64 / 1024.0);
    let empty = resident()?;
    let started = Instant::now();
    let mut tasks = Vec::new();
    for client in 0..CLIENTS {
        let mut connection = target.connect().await?;
        tasks.push(tokio::spawn(async move {
            for number in (client..PODS).step_by(CLIENTS) {
                let (code, _) = connection
                    .exchange(Method::POST, "/api/v1/namespaces/default/pods", pod(number))
                    .await?;
                ensure!(code == 201, "a pod's create answers {code}");
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    let rate = PODS as f64 / started.elapsed().as_secs_f64();
    let (_, body) = connection.get("/api/v1/pods").await?;
    let size = body.len() as f64 / f64::from(1 << 20);
    drop(body);
    let full = resident()?;
    let mut watchers = Vec::new();
    for _ in 0..100 {
        let mut connection = target.connect().await?;
        let watch = "/api/v1/pods?watch=1&resourceVersion=0";
        let mut response = connection.send(Method::GET, watch, Bytes::new()).await?;
        let mut seen = 0;
        while seen < PODS {
            let frame = response.body_mut().frame().await;
            let frame = frame.ok_or_else(|| anyhow::anyhow!("a watch ended"))??;
            let data = frame.data_ref().map_or(&[][..], |data| data);
            seen += data.iter().filter(|&&byte| byte == b'\n').count();
        }
        watchers.push((connection, response));
    }
    let watched = resident()?;
    figures.add(
        "resident memory of the API server with 10,000 pods and 100 watchers",
        format!(
            "{watched:.0} MiB; {full:.0} with the pods alone ({size:.0} MiB as one list), {empty:.0} before; pods were created at {rate:.0}/s"
        ),
        "",
    );
    Ok(())
}

/// A pod as a Deployment makes it, bound to one of 100 nodes.
fn pod(number: usize) -> Bytes {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("web-7f657456f7-{number:05}"),
            "labels": {"app": "web", "pod-template-hash": "7f657456f7"},
        },
        "spec": {
            "nodeName": format!("node-{}", number % 100),
            "containers": [{
                "name": "web", "image": "registry.example/web:1.2.3",
                "env": [{"name": "COLOUR", "value": "blue"}],
                "ports": [{"containerPort": 8080}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}},
            }],
        },
    });
    Bytes::from(object.to_string())
}
