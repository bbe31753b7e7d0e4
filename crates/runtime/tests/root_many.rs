//! Many pods at once, and nothing left of them. Needs root.

mod support;

use std::time::Instant;

use support::{Bench, command, possible};

/// Private memory of a process, in KiB.
fn private(pid: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

/// A shim leads its session; a child of it that is starting a container does not.
fn is_shim(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.split(' ').collect();
    fields.get(1) == Some(&"(skiff-shim)") && fields.get(5) == Some(&pid)
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_come_and_go_together() {
    if !possible() {
        return;
    }
    let bench = std::sync::Arc::new(Bench::start("many").await);
    for round in 0..2 {
        let started = Instant::now();
        let mut tasks = Vec::new();
        for number in 0..20 {
            let bench = bench.clone();
            tasks.push(tokio::spawn(async move {
                let begun = Instant::now();
                let pod = bench.sandbox(&format!("p{round}-{number}")).await;
                let id = bench.run(&pod, command("c", &["sleep", "1000"])).await;
                (pod, id, begun.elapsed())
            }));
        }
        let mut pods = Vec::new();
        for task in tasks {
            pods.push(task.await.unwrap());
        }
        let slowest = pods.iter().map(|(_, _, time)| *time).max().unwrap();
        let shims: Vec<u64> = bench
            .processes()
            .iter()
            .filter(|pid| is_shim(pid))
            .map(|pid| private(pid))
            .collect();
        assert_eq!(shims.len(), 20);
        println!(
            "20 pods in {:?}, slowest {slowest:?}, private memory of a shim {} KiB",
            started.elapsed(),
            shims.iter().max().unwrap()
        );
        let started = Instant::now();
        let mut removals = Vec::new();
        for (pod, id, _) in pods {
            let bench = bench.clone();
            removals.push(tokio::spawn(async move {
                bench.stop(&id, 0).await;
                assert_eq!(bench.status(&id).await.exit_code, 137);
                bench.remove_sandbox(&pod).await;
            }));
        }
        for removal in removals {
            removal.await.unwrap();
        }
        println!("removed in {:?}", started.elapsed());
        assert_eq!(bench.processes().len(), 0);
    }
    std::sync::Arc::into_inner(bench).unwrap().finish().await;
}
