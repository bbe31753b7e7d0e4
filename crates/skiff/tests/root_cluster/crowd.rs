//! Two hundred pods on the node, made and deleted again and again: nothing stays behind, and the server's memory comes back.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::{Cluster, cannot_run};
use crate::machine::{Footprint, files_below};

const PODS: usize = 200;
const ROUNDS: usize = 3;
/// How much more memory the server may have after the last round than after the one before, in percent.
const GROWTH: u64 = 10;
/// The windows of recent changes that watches start from are bounded by time and size. They fill up in the first rounds,
/// on a slow machine in the first few; what still grows in the last of these is lost.
const MOST_ROUNDS: usize = 7;

/// Waits until `good` holds, looking often; two hundred pods may take longer than other things.
fn wait(what: &str, mut good: impl FnMut() -> Result<(), String>) {
    let started = Instant::now();
    while let Err(why) = good() {
        assert!(
            started.elapsed() < Duration::from_secs(180),
            "{what} did not come to be: {why}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Resident memory of the server in KiB: what is its own, without the pages of its program file.
fn memory(cluster: &Cluster) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.process())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse().unwrap()
}

/// Files that pods leave; the database, certificates and log are the server's own.
fn files(cluster: &Cluster) -> BTreeSet<PathBuf> {
    [
        "containers/sandboxes",
        "containers/containers",
        "kubelet",
        "network",
        "run",
    ]
    .iter()
    .flat_map(|folder| files_below(&cluster.data().join(folder)))
    .collect()
}

fn manifest() -> String {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "crowd"},
        "spec": {
            "replicas": PODS, "selector": {"matchLabels": {"app": "crowd"}},
            "template": {"metadata": {"labels": {"app": "crowd"}}, "spec": {"containers": [{
                "name": "demo", "image": "skiff.local/demo", "imagePullPolicy": "IfNotPresent",
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
            }]}},
        },
    })
    .to_string()
}

#[test]
fn two_hundred_pods_again_and_again_leave_nothing_behind() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start_with("crowd", &["--max-pods", "250"]);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "crowd"},
        "spec": {"selector": {"app": "crowd"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    cluster.apply(&service.to_string());
    let files_before = files(&cluster);
    assert_eq!(cluster.footprint(), Footprint::default());
    println!("{:>8} KiB before the first round", memory(&cluster));
    let mut after = Vec::new();
    let grows = |after: &[u64]| match after {
        [.., before, last] => *last > before + before * GROWTH / 100,
        _ => true,
    };
    for round in 1..=MOST_ROUNDS {
        if round > ROUNDS && !grows(&after) {
            break;
        }
        let started = Instant::now();
        cluster.apply(&manifest());
        wait("two hundred ready pods", || {
            let path = "jsonpath={.status.readyReplicas}";
            let ready = cluster.ask(&["get", "deployment", "crowd", "-o", path]);
            (ready == PODS.to_string()).then_some(()).ok_or(ready)
        });
        let up = started.elapsed().as_secs_f64();
        let full = memory(&cluster);
        let footprint = cluster.footprint();
        assert_eq!(footprint.addresses.len(), PODS);
        assert_eq!(footprint.shims.len(), PODS);
        assert_eq!(footprint.network_namespaces.len(), PODS);
        let started = Instant::now();
        cluster.ask(&["delete", "deployment", "crowd", "--wait=false"]);
        wait("an empty node", || {
            let pods = cluster.ask(&["get", "pods", "-o", "name"]).lines().count();
            (pods == 0).then_some(()).ok_or(format!("{pods} pods"))
        });
        wait("an empty machine", || {
            let footprint = cluster.footprint();
            let empty = footprint == Footprint::default();
            empty.then_some(()).ok_or(format!("{footprint:#?}"))
        });
        let down = started.elapsed().as_secs_f64();
        // Events are objects that are kept for an hour; they are not what is measured here.
        cluster.ask(&["delete", "--raw", "/api/v1/namespaces/default/events"]);
        after.push(memory(&cluster));
        println!(
            "round {round}: {PODS} pods up in {up:.1} s ({:.1}/s), down in {down:.1} s; {full} KiB full, {} KiB empty",
            PODS as f64 / up,
            after[round - 1]
        );
    }
    let left: Vec<PathBuf> = files(&cluster).difference(&files_before).cloned().collect();
    assert!(left.is_empty(), "files stay: {left:?}");
    assert!(!grows(&after), "memory grows: {after:?} KiB");
}
