//! The control plane alone, as the design's base line was measured: nodes are mere objects that nobody answers for.
//!
//! Node health is judged as ever, so that all has to be over before nodes count as lost, 50 seconds after they were made.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::Result;
use serde_json::Value;

use crate::cluster::{Cluster, cpu_ticks, memory};
use crate::figures::Figures;
use crate::load::Target;
use crate::nodes::{NAMESPACES, crowd_pod, follow, make, make_namespace};
use crate::scheduler::node;

/// Pods on nodes, create to bound, memory with them; and pending pods that a scheduler finds when it starts.
pub async fn measure(skiff: &Path, nodes: usize, pods: usize, figures: &mut Figures) -> Result<()> {
    create_to_bound(skiff, nodes, pods, figures).await?;
    drained(skiff, nodes, pods, figures).await
}

async fn serve(skiff: &Path, disabled: &str, nodes: usize) -> Result<(Cluster, Target)> {
    let mut cluster = Cluster::prepare(skiff)?;
    cluster
        .serve(&["--disable", disabled, "--pod-cidr", "10.0.0.0/9"])
        .await?;
    let target = cluster.target()?;
    make_namespace(&target, "crowd").await?;
    make(&target, "/api/v1/nodes", nodes, node).await?;
    // New nodes are tainted until their health is known, and are given a range and an annotation meanwhile: all that is not what
    // is measured here.
    follow(&target, "/api/v1/nodes", nodes, |node| {
        let annotations = &node["metadata"]["annotations"];
        node["spec"]["taints"].is_null()
            && node["spec"]["podCIDR"].is_string()
            && annotations["node.alpha.kubernetes.io/ttl"].is_string()
    })
    .await?;
    Ok((cluster, target))
}

async fn create_to_bound(
    skiff: &Path,
    nodes: usize,
    pods: usize,
    figures: &mut Figures,
) -> Result<()> {
    let (cluster, target) = serve(skiff, "kubelet,proxy,dns", nodes).await?;
    let process = cluster.process()?;
    let resident =
        || -> Result<String> { Ok(format!("{:.0} MiB", memory(process)?.0 as f64 / 1024.0)) };
    figures.add(
        &format!("control plane with {nodes} nodes"),
        resident()?,
        "",
    );
    let before = cpu_ticks(process)?;
    let begun = Instant::now();
    let watching = tokio::spawn(all_bound(target.clone(), pods));
    make(&target, &collection(), pods, crowd_pod).await?;
    watching.await??;
    let took = begun.elapsed().as_secs_f64();
    let used = (cpu_ticks(process)? - before) as f64 * 10.0 / pods as f64;
    figures.add(
        &format!("{pods} pods on {nodes} nodes, create to bound (control plane alone)"),
        format!("{:.0} pods/s, {used:.2} ms of CPU each", pods as f64 / took),
        "10 times upstream's 154-206 pods/s",
    );
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    let what = format!("control plane with {nodes} nodes and {pods} pods");
    figures.add(&what, resident()?, "120 MiB (upstream 1,080)");
    Ok(())
}

fn collection() -> String {
    format!("{NAMESPACES}/crowd/pods")
}

async fn all_bound(target: Target, pods: usize) -> Result<()> {
    let has_node = |pod: &Value| pod["spec"]["nodeName"].is_string();
    follow(&target, &collection(), pods, has_node).await
}

/// A scheduler that is a process of its own, stopped when dropped.
struct Scheduler(Child);

impl Drop for Scheduler {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn drained(skiff: &Path, nodes: usize, pods: usize, figures: &mut Figures) -> Result<()> {
    let (cluster, target) = serve(skiff, "scheduler,kubelet,proxy,dns", nodes).await?;
    make(&target, &collection(), pods, crowd_pod).await?;
    let begun = Instant::now();
    let watching = tokio::spawn(all_bound(target.clone(), pods));
    let process = std::process::Command::new(skiff)
        .args(["scheduler", "--kubeconfig"])
        .arg(cluster.data.path().join("admin.kubeconfig"))
        .env("HOME", cluster.data.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let scheduler = Scheduler(process);
    watching.await??;
    let took = begun.elapsed().as_secs_f64();
    let used = cpu_ticks(i32::try_from(scheduler.0.id())?)? as f64 * 10.0 / pods as f64;
    figures.add(
        &format!("{pods} pending pods drained by a scheduler that starts, a process of its own"),
        format!(
            "{:.0} pods/s, {used:.2} ms of its CPU each, its TLS included",
            pods as f64 / took
        ),
        "10 times upstream's 242 pods/s; 0.15 ms of its CPU each",
    );
    Ok(())
}
