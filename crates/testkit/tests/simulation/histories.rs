//! Random workloads and faults: whatever happens on the way, the end is what was asked for, and the rules of rollouts hold.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Error;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use skiff_base::Random;
use skiff_simulation::plan;

use crate::world::{Part, World, is_ready};

const NODES: u32 = 5;
const STEPS: usize = 25;
/// What Deployments may have beyond the wanted number.
const SURGE: usize = 2;

/// What was asked for of each workload: replicas and image.
type Wanted = BTreeMap<String, (u64, u64)>;

fn labels(name: &str) -> Value {
    json!({"app": name})
}

fn template(name: &str, image: u64) -> Value {
    json!({"metadata": {"labels": labels(name)}, "spec": {
        "terminationGracePeriodSeconds": 5, "containers": [{"name": "c", "image": format!("i:{image}")}]}})
}

async fn make(world: &World, name: &str, (replicas, image): (u64, u64)) {
    let mut spec = json!({"replicas": replicas, "selector": {"matchLabels": labels(name)}, "template": template(name, image)});
    if name.starts_with('d') {
        spec["strategy"] = json!({"rollingUpdate": {"maxSurge": SURGE, "maxUnavailable": 1}});
        world
            .make::<Deployment>(json!({"metadata": {"name": name}, "spec": spec}))
            .await;
    } else {
        spec["serviceName"] = "s".into();
        if name.ends_with('p') {
            spec["podManagementPolicy"] = "Parallel".into();
        }
        world
            .make::<StatefulSet>(json!({"metadata": {"name": name}, "spec": spec}))
            .await;
    }
}

async fn change(world: &World, name: &str, (replicas, image): (u64, u64)) {
    let patch = json!({"spec": {"replicas": replicas, "template": template(name, image)}});
    let (patch, params) = (Patch::Strategic(patch), PatchParams::default());
    if name.starts_with('d') {
        let api: Api<Deployment> = Api::namespaced(world.client(), "default");
        api.patch(name, &params, &patch).await.unwrap();
    } else {
        let api: Api<StatefulSet> = Api::namespaced(world.client(), "default");
        api.patch(name, &params, &patch).await.unwrap();
    }
}

fn app(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get("app"))
        .map_or("", String::as_str)
}

fn lives(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
}

fn runs(pod: &Pod, image: u64) -> bool {
    let spec = pod.spec.as_ref();
    let image = format!("i:{image}");
    spec.is_some_and(|spec| spec.containers[0].image.as_deref() == Some(&image))
}

/// No Deployment ever has more living pods than it may: the most that was asked for of late, and the surge.
fn check(pods: &[Pod], most: &BTreeMap<String, u64>) {
    for (name, most) in most.iter().filter(|(name, _)| name.starts_with('d')) {
        let count = pods
            .iter()
            .filter(|pod| app(pod) == name && lives(pod))
            .count();
        assert!(
            count <= *most as usize + SURGE,
            "{name} has {count} pods of at most {most}"
        );
    }
}

/// Everything is as wanted and nothing is left over.
fn is_settled(pods: &[Pod], wanted: &Wanted) -> bool {
    let total: u64 = wanted.values().map(|(replicas, _)| replicas).sum();
    let fine = |pod: &Pod| {
        let image = wanted.get(app(pod)).map(|(_, image)| *image);
        lives(pod) && is_ready(pod) && image.is_some_and(|image| runs(pod, image))
    };
    pods.len() as u64 == total
        && pods.iter().all(fine)
        && wanted.iter().all(|(name, (replicas, _))| {
            pods.iter().filter(|pod| app(pod) == name).count() as u64 == *replicas
        })
}

async fn silence(world: &World, node: u64, silent: bool) {
    let nodes: Api<Node> = Api::all(world.client());
    let value = if silent { json!("true") } else { Value::Null };
    let patch = Patch::Merge(json!({"metadata": {"annotations": {(plan::SILENT): value}}}));
    match nodes
        .patch(
            &format!("simulated-{node:05}"),
            &PatchParams::default(),
            &patch,
        )
        .await
    {
        Ok(_) => {}
        // It has not registered yet.
        Err(Error::Api(status)) if status.code == 404 => {}
        Err(error) => panic!("{error}"),
    }
}

/// One thing that a user or fate does.
async fn step(
    world: &mut World,
    draw: &Random,
    wanted: &mut Wanted,
    most: &mut BTreeMap<String, u64>,
) {
    let names: Vec<String> = wanted.keys().cloned().collect();
    let name = names[draw.below(names.len() as u64) as usize].clone();
    match draw.below(10) {
        0..=3 => {
            let next = (draw.below(7), wanted[&name].1);
            wanted.insert(name.clone(), next);
            let most = most.entry(name.clone()).or_default();
            *most = (*most).max(next.0);
            change(world, &name, next).await;
        }
        4 | 5 => {
            let next = (wanted[&name].0, wanted[&name].1 + 1);
            wanted.insert(name.clone(), next);
            change(world, &name, next).await;
        }
        6 => {
            let api: Api<Pod> = Api::namespaced(world.client(), "default");
            let pods = api.list(&ListParams::default()).await.unwrap().items;
            if let Some(pod) = pods.get(draw.below(pods.len() as u64) as usize) {
                let name = pod.metadata.name.as_deref().unwrap();
                // It may have gone meanwhile.
                let _ = api.delete(name, &DeleteParams::default()).await;
            }
        }
        7 => silence(world, draw.below(u64::from(NODES)), draw.below(2) == 0).await,
        8 => world.restart(Part::Controllers).await,
        _ => {
            let part = [Part::Scheduler, Part::Nodes][draw.below(2) as usize];
            world.restart(part).await;
        }
    }
}

async fn live(seed: u64) {
    let mut world = World::start(NODES, seed).await;
    let draw = Random::seeded(seed);
    let mut wanted = Wanted::new();
    for name in ["da", "db", "so", "sp"] {
        let first = (draw.below(5), 1);
        wanted.insert(name.to_owned(), first);
        make(&world, name, first).await;
    }
    let mut most: BTreeMap<String, u64> = wanted
        .iter()
        .map(|(name, (count, _))| (name.clone(), *count))
        .collect();
    for _ in 0..STEPS {
        step(&mut world, &draw, &mut wanted, &mut most).await;
        for _ in 0..=draw.below(3) {
            check(&world.pods().await, &most);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    for node in 0..u64::from(NODES) {
        silence(&world, node, false).await;
    }
    let what = format!("seed {seed}: all is as wanted in the end: {wanted:?}");
    world
        .until(&what, |pods| {
            check(pods, &most);
            is_settled(pods, &wanted)
        })
        .await;
}

/// `SKIFF_SIMULATION_SEEDS` is how many histories are lived through, from `SKIFF_SIMULATION_SEED` on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_history_ends_as_wanted() {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |text| text.parse().expect(name))
    };
    let first = number("SKIFF_SIMULATION_SEED", 1);
    for seed in first..first + number("SKIFF_SIMULATION_SEEDS", 5) {
        let begun = std::time::Instant::now();
        live(seed).await;
        eprintln!("seed {seed}: {:?}", begun.elapsed());
    }
}
