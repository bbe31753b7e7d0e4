//! Throughput and latency of the API server alone: reads, durable writes, watches.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Method;

use crate::bare::Bare;
use crate::cluster::{Cluster, memory};
use crate::figures::Figures;
use crate::load::{Outcome, Target, closed_loop};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A ConfigMap of about a KiB.
fn config_map(name: &str) -> Bytes {
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

fn beside(own: &Outcome, bare: &Outcome) -> String {
    format!(
        "{} ({:.0} MB/s); bare server {:.0}/s: {:.0} %",
        own.text(),
        own.bytes / 1e6,
        bare.rate,
        100.0 * own.rate / bare.rate
    )
}

/// Runs all of it on one server.
pub async fn measure(skiff: &Path, seconds: u64, figures: &mut Figures) -> Result<()> {
    let time = Duration::from_secs(seconds);
    let mut cluster = Cluster::prepare(skiff)?;
    cluster
        .serve(&["--disable", "scheduler,controllers,kubelet,proxy,dns"])
        .await?;
    let target = cluster.target()?;

    let creates = closed_loop(&target, 16, time, |client, number| {
        let name = format!("m-{client}-{number}");
        (Method::POST, MAPS.to_owned(), config_map(&name))
    })
    .await?;
    figures.add(
        "create 1-KiB ConfigMaps, durable, 16 clients",
        creates.text(),
        "10x upstream's 787-908/s",
    );

    let mut connection = target.connect().await?;
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

    let one = format!("{list}/l-7");
    let (_, body) = connection.get(&one).await?;
    let bare = Bare::start(body.len()).await?;
    let own = closed_loop(&target, 16, time, get(&one)).await?;
    let yard = closed_loop(&bare.target, 16, time, get("/")).await?;
    let budget = "10x upstream's 1,637-2,361/s; 60 % of the bare server";
    figures.add("GET one, 16 clients", beside(&own, &yard), budget);

    let (_, body) = connection.get(list).await?;
    let bare = Bare::start(body.len()).await?;
    let own = closed_loop(&target, 4, time, get(list)).await?;
    let yard = closed_loop(&bare.target, 4, time, get("/")).await?;
    let label = format!("LIST 2,000 ({:.2} MB), 4 clients", body.len() as f64 / 1e6);
    let budget = "10x upstream's 39-52/s; 85 % of the bare server";
    figures.add(&label, beside(&own, &yard), budget);

    let rate = fan_out(&target, 100, 500).await?;
    figures.add(
        "100 watchers x 500 updates",
        format!("{rate:.0} events/s delivered"),
        "10x upstream's 31,500-44,700/s",
    );
    let (resident, _) = memory(cluster.process()?)?;
    figures.add(
        "resident memory of the API server after all this",
        format!("{} MiB", resident / 1024),
        "",
    );
    Ok(())
}

/// Watchers of one object that is updated again and again; events delivered a second.
async fn fan_out(target: &Target, watchers: usize, updates: usize) -> Result<f64> {
    let mut connection = target.connect().await?;
    let path = format!("{MAPS}/watched");
    connection
        .exchange(Method::POST, MAPS, config_map("watched"))
        .await?;
    let (_, body) = connection.get(&path).await?;
    let object: serde_json::Value = serde_json::from_slice(&body)?;
    let version = object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or("0");
    let watch =
        format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Dwatched&resourceVersion={version}");
    let seen = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..watchers {
        let mut connection = target.connect().await?;
        let mut response = connection.send(Method::GET, &watch, Bytes::new()).await?;
        let seen = seen.clone();
        tasks.push(tokio::spawn(async move {
            let mut own = 0;
            while own < updates {
                let Some(Ok(frame)) = response.body_mut().frame().await else {
                    break;
                };
                let data = frame.data_ref().cloned().unwrap_or_default();
                let lines = data.iter().filter(|&&byte| byte == b'\n').count();
                own += lines;
                seen.fetch_add(lines, Ordering::Relaxed);
            }
            drop(connection);
        }));
    }
    let started = Instant::now();
    for number in 0..updates {
        let object = serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "watched"},
            "data": {"key": "v".repeat(900), "number": number.to_string()},
        });
        let (code, _) = connection
            .exchange(Method::PUT, &path, object.to_string().into())
            .await?;
        ensure!(code == 200, "update answers {code}");
    }
    for task in tasks {
        task.await?;
    }
    let elapsed = started.elapsed().as_secs_f64();
    let seen = seen.load(Ordering::Relaxed);
    ensure!(seen == watchers * updates, "{seen} events came");
    Ok(seen as f64 / elapsed)
}
