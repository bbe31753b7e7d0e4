//! `kill -9` of the server at random moments during rolling updates: the cluster ends as it should, and nothing leaks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use skiff_base::Random;

use crate::cluster::{Cluster, cannot_run, eventually, text};
use crate::machine::differences;

const KILLS: u64 = 20;
const REPLICAS: usize = 20;
/// A kill comes at most so long after the update that it hits.
const LATEST_KILL: u64 = 2200;

/// The number that all else follows from: `SKIFF_SEED`, else another one each time.
pub fn seed() -> u64 {
    let given = std::env::var("SKIFF_SEED").ok();
    let seed = given.map_or_else(
        || Random::from_system().below(1 << 32),
        |text| text.parse().expect("SKIFF_SEED is a number"),
    );
    println!("SKIFF_SEED={seed}");
    seed
}

/// Writes objects one after the other, whatever happens to the server, and remembers which writes were acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged: Arc<Mutex<Vec<String>>> = Arc::default();
        let file = cluster.data().join("admin.kubeconfig");
        let (stopped, noted) = (stop.clone(), acknowledged.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let _ = rustls::crypto::ring::default_provider().install_default();
                let kubeconfig = kube::config::Kubeconfig::read_from(file).unwrap();
                let options = kube::config::KubeConfigOptions::default();
                let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
                let client = kube::Client::try_from(config.unwrap()).unwrap();
                let objects: Api<ConfigMap> = Api::default_namespaced(client);
                let parameters = PostParams::default();
                let mut number = 0;
                while !stopped.load(Ordering::Relaxed) {
                    number += 1;
                    let name = format!("w{number}");
                    let object = json!({"metadata": {"name": name, "labels": {"written": "yes"}}});
                    let object: ConfigMap = serde_json::from_value(object).unwrap();
                    let written = objects.create(&parameters, &object);
                    match tokio::time::timeout(Duration::from_secs(2), written).await {
                        Ok(Ok(_)) => noted.lock().unwrap().push(name),
                        // The server is away; the write may or may not have happened.
                        _ => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        });
        Self {
            stop,
            acknowledged,
            thread,
        }
    }

    /// The names of the objects whose writes were acknowledged.
    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.acknowledged.lock().unwrap().clone()
    }
}

fn kill_server(cluster: &Cluster) {
    kill(Pid::from_raw(cluster.process()), Signal::SIGKILL).unwrap();
    // The signal is delivered some time after it was sent.
    eventually("the end of the server", || {
        !cluster.skiff(&["status"]).status.success()
    });
}

/// Running pods that are to stay, by their UID: address and container.
fn lasting(pods: &[Value]) -> BTreeMap<String, (String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let lasting = pods.iter().filter(|pod| {
        pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] == "Running"
    });
    let fields = lasting.map(|pod| {
        let container = &pod["status"]["containerStatuses"][0]["containerID"];
        let place = (text(&pod["status"]["podIP"]), text(container));
        (text(&pod["metadata"]["uid"]), place)
    });
    fields.collect()
}

/// No two pods have one address, and what ran before runs on under its address in its container.
fn compare(
    round: u64,
    before: &BTreeMap<String, (String, String)>,
    after: &BTreeMap<String, (String, String)>,
    pods: &[Value],
) {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for (uid, (address, _)) in after {
        let other = owners.insert(address, uid);
        assert_eq!(
            other, None,
            "round {round}: {address} is used twice, by {uid}"
        );
    }
    for (uid, place) in after {
        let was = before.get(uid).unwrap_or(place);
        let pod = pods
            .iter()
            .find(|pod| pod["metadata"]["uid"] == uid.as_str());
        assert_eq!(was, place, "round {round}: pod {uid} has moved: {pod:#?}");
    }
}

fn manifest() -> String {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"},
        "spec": {
            "replicas": REPLICAS, "selector": {"matchLabels": {"app": "many"}},
            "template": {"metadata": {"labels": {"app": "many"}}, "spec": {"containers": [{
                "name": "demo", "image": "skiff.local/demo", "imagePullPolicy": "IfNotPresent",
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
                "env": [{"name": "ROUND", "value": "0"}],
            }]}},
        },
    })
    .to_string()
}

#[test]
fn twenty_kills_during_rolling_updates_lose_and_leak_nothing() {
    if cannot_run() {
        return;
    }
    let random = Random::seeded(seed());
    let cluster = Cluster::start("kills");
    cluster.apply(&manifest());
    cluster.ask(&["rollout", "status", "deployment/many", "--timeout=60s"]);
    let writer = Writer::start(&cluster);
    let started = Instant::now();
    for round in 1..=KILLS {
        let value = format!("ROUND={round}");
        cluster.ask(&["set", "env", "deployment/many", &value]);
        let delay = Duration::from_millis(random.below(LATEST_KILL));
        std::thread::sleep(delay);
        let before = lasting(&cluster.pods());
        kill_server(&cluster);
        let output = cluster.up();
        assert!(output.status.success(), "round {round}: {}", text(&output));
        println!(
            "{:>6.1} s  kill {round} came {} ms after the update; {} pods ran",
            started.elapsed().as_secs_f64(),
            delay.as_millis(),
            before.len()
        );
        let pods = cluster.pods();
        compare(round, &before, &lasting(&pods), &pods);
        let path = "jsonpath={.spec.template.spec.containers[0].env[0].value}";
        let found = cluster.ask(&["get", "deployment", "many", "-o", path]);
        assert_eq!(found, round.to_string(), "the update was acknowledged");
    }
    cluster.ask(&["rollout", "status", "deployment/many", "--timeout=90s"]);
    let acknowledged = writer.end();

    let mut last = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let pods = cluster.pods();
        last.clear();
        if pods.len() == REPLICAS {
            last = differences(&cluster.footprint(), &pods);
        } else {
            last.push(format!("{} pods", pods.len()));
        }
        if last.is_empty() {
            let restarts =
                |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_i64();
            let rounds = |pod: &Value| pod["spec"]["containers"][0]["env"][0]["value"].clone();
            for pod in &pods {
                assert_eq!(restarts(pod), Some(0), "{pod}");
                assert_eq!(rounds(pod), KILLS.to_string(), "{pod}");
            }
            break;
        }
        assert!(Instant::now() < deadline, "{}", last.join("\n"));
        std::thread::sleep(Duration::from_millis(200));
    }

    let listed = cluster.ask(&["get", "configmaps", "-l", "written=yes", "-o", "name"]);
    let listed: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split('/').nth(1))
        .collect();
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|name| !listed.contains(&name.as_str()))
        .collect();
    assert!(lost.is_empty(), "acknowledged writes are lost: {lost:?}");
    println!(
        "{} writes were acknowledged, all are there",
        acknowledged.len()
    );
    assert!(acknowledged.len() > 100, "the writer wrote hardly anything");
}
