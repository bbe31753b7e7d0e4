//! A whole node at rest and with pods.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Method;
use serde_json::{Value, json};

use crate::cluster::{Cluster, cpu_ticks, memory, shims};
use crate::figures::{Figures, percentile};
use crate::load::Target;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Idle memory and CPU, pods one after another, then memory with them.
pub async fn measure(skiff: &Path, count: usize, idle: u64, figures: &mut Figures) -> Result<()> {
    let cluster = Cluster::prepare(skiff)?;
    cluster.up()?;
    let process = cluster.process()?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = cpu_ticks(process)?;
    tokio::time::sleep(Duration::from_secs(idle)).await;
    let share = (cpu_ticks(process)? - before) as f64 / idle as f64;
    figures.add("CPU idle", format!("{share:.2} % of a core"), "0.5 %");
    let (empty, _) = memory(process)?;
    figures.add(
        "resident memory idle, whole node",
        format!("{:.1} MiB", empty as f64 / 1024.0),
        "60 MiB",
    );

    let target = cluster.target()?;
    let mut alone = Vec::new();
    for number in 0..count {
        let times = start_pods(&target, &[format!("one-{number}")]).await?;
        alone.extend(times);
    }
    report("pod start, one after another", &mut alone, figures);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (full, _) = memory(process)?;
    let shims = shims(cluster.data.path());
    let shares = shims.iter().filter_map(|&shim| memory(shim).ok());
    let shares: Vec<(u64, u64)> = shares.collect();
    let own: u64 = shares.iter().map(|(_, proportional)| proportional).sum();
    let resident: u64 = shares.iter().map(|(resident, _)| resident).sum();
    let per = |total: u64| total as f64 / 1024.0 / count as f64;
    figures.add(
        &format!("resident memory with {count} pods"),
        format!(
            "server {:.1} MiB; shims {:.2} MiB a pod (PSS; RSS {:.2}); {:.2} MiB a pod in all",
            full as f64 / 1024.0,
            per(own),
            per(resident),
            per(own + full.saturating_sub(empty)),
        ),
        "3 MiB a pod",
    );
    delete_all(&target).await?;

    let names: Vec<String> = (0..count).map(|number| format!("all-{number}")).collect();
    let started = Instant::now();
    let mut together = start_pods(&target, &names).await?;
    let elapsed = started.elapsed().as_secs_f64();
    report(
        &format!("pod start, {count} at once"),
        &mut together,
        figures,
    );
    figures.add(
        "rate of that",
        format!("{:.0} pods/s", count as f64 / elapsed),
        "",
    );
    delete_all(&target).await
}

fn report(what: &str, times: &mut [Duration], figures: &mut Figures) {
    times.sort_unstable();
    let millis = |share| percentile(times, share).as_secs_f64() * 1e3;
    figures.add(
        what,
        format!("p50 {:.0} ms, p99 {:.0} ms", millis(0.5), millis(0.99)),
        "p50 150 ms, p99 500 ms",
    );
}

/// Creates pods and waits until all run; the time from each create's sending to the event that says Running.
async fn start_pods(target: &Target, names: &[String]) -> Result<Vec<Duration>> {
    let mut connection = target.connect().await?;
    let (_, list) = connection.get(&format!("{PODS}?limit=1")).await?;
    let list: Value = serde_json::from_slice(&list)?;
    let version = list["metadata"]["resourceVersion"].as_str();
    let version = version.context("a list without a version")?.to_owned();
    let mut watcher = target.connect().await?;
    let path = format!("{PODS}?watch=1&resourceVersion={version}");
    let mut events = watcher.send(Method::GET, &path, Bytes::new()).await?;
    let mut sent = BTreeMap::new();
    for name in names {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "skiff.local/demo", "imagePullPolicy": "IfNotPresent"}],
            },
        });
        sent.insert(name.clone(), Instant::now());
        connection
            .exchange(Method::POST, PODS, pod.to_string().into())
            .await?;
    }
    let (mut times, mut rest) = (Vec::new(), Vec::new());
    while !sent.is_empty() {
        let frame = events.body_mut().frame().await.context("watch ended")??;
        rest.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let event: Value = serde_json::from_slice(&rest[..end])?;
            rest.drain(..=end);
            let object = &event["object"];
            if object["status"]["phase"] == "Running"
                && let Some(begun) = sent.remove(object["metadata"]["name"].as_str().unwrap_or(""))
            {
                times.push(begun.elapsed());
            }
        }
    }
    Ok(times)
}

/// Deletes all pods and waits until none is left.
async fn delete_all(target: &Target) -> Result<()> {
    let mut connection = target.connect().await?;
    connection
        .exchange(Method::DELETE, PODS, Bytes::new())
        .await?;
    loop {
        let (_, list) = connection.get(PODS).await?;
        let list: Value = serde_json::from_slice(&list)?;
        if list["items"].as_array().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
