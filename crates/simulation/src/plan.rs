//! What a simulated node says of itself, and what becomes of a pod on it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use skiff_client::ObjectKey;

use crate::SimulationConfig;

/// The label that simulated nodes have.
pub const LABEL: &str = "simulation.skiff.local/node";
/// A node with this annotation falls silent: no lease, no status, nothing moves on it.
pub const SILENT: &str = "simulation.skiff.local/silent";
/// A pod with this annotation ends by itself after so many seconds (`1.5`) of running.
pub const RUN_FOR: &str = "simulation.skiff.local/run-for";
/// What its containers exit with then; 0 without it.
pub const EXIT_CODE: &str = "simulation.skiff.local/exit-code";
/// With this annotation only such a share of pods (`0.3`), drawn by name, exits with that code (1 if none is given); others with 0.
pub const FAILS: &str = "simulation.skiff.local/fails";
/// A pod with this annotation runs and never becomes ready.
pub const UNREADY: &str = "simulation.skiff.local/unready";

/// How often a lease is renewed, as kubelets do.
pub const LEASE_EVERY: Duration = Duration::from_secs(10);
/// How often the status is sent when it does not change, as kubelets do.
pub const STATUS_EVERY: Duration = Duration::from_secs(300);
/// How soon a node says so when the API takes it for less than ready: as often kubelets compare.
pub const STATUS_LOOK: Duration = Duration::from_secs(10);

/// The version that nodes say they run.
const VERSION: &str = "v1.36.2";

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The uid: what is done is done to this pod, not to another of the name.
    pub uid: String,
    /// The number of its node.
    pub node: u32,
    /// The generation, which statuses carry.
    pub generation: Option<i64>,
    /// Names and images of init containers and containers.
    pub containers: [Vec<(String, String)>; 2],
    /// `Always`, `OnFailure` or `Never`.
    pub restart_policy: String,
    /// The seconds that it may take to end; `None`: nobody deleted it.
    pub ending: Option<u64>,
    /// Where it stands.
    pub stage: Stage,
    /// When it ends by itself, after its start, and the exit code.
    pub run_for: Option<(Duration, i32)>,
    /// It never becomes ready.
    pub unready: bool,
    /// The API says that it is not ready, as it does when its node was lost for a while.
    pub doubted: bool,
    /// How often its containers were started anew.
    pub restarts: i32,
    /// The address that it has, or gets.
    pub ip: String,
    /// When it started.
    pub started: Option<Timestamp>,
}

/// Where a pod stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not started.
    Bound,
    /// Its containers run.
    Running,
    /// Its containers have ended.
    Over,
}

/// What is to be done with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Say that it runs.
    Run,
    /// Say that its containers ended with this code and were started again.
    Restart(i32),
    /// Say that its containers ended with this code.
    Finish(i32),
    /// Remove it from the API.
    Remove,
}

/// What simulated nodes need to know of a pod; `None`: it is on none of them.
#[must_use]
pub fn row(config: &SimulationConfig, pod: &Pod) -> Option<Row> {
    let spec = pod.spec.as_ref()?;
    let node = config.number(spec.node_name.as_deref()?)?;
    let status = pod.status.as_ref();
    let annotation = |name: &str| pod.metadata.annotations.as_ref()?.get(name);
    let named = |list: &[k8s_openapi::api::core::v1::Container]| {
        let of = |c: &k8s_openapi::api::core::v1::Container| {
            (c.name.clone(), c.image.clone().unwrap_or_default())
        };
        list.iter().map(of).collect()
    };
    let run_for = annotation(RUN_FOR)
        .and_then(|text| text.parse::<f64>().ok())
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let exit_code = annotation(EXIT_CODE).and_then(|text| text.parse().ok());
    let key = ObjectKey::of(&pod.metadata);
    let share = annotation(FAILS).and_then(|text| text.parse::<f64>().ok());
    let exit_code = match share {
        Some(share) if draw(config, &key, "fails") < share => exit_code.or(Some(1)),
        Some(_) => None,
        None => exit_code,
    };
    let deleted = pod.metadata.deletion_timestamp.is_some();
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    let containers = status.and_then(|status| status.container_statuses.as_deref());
    let restarts = containers.and_then(|list| list.iter().map(|c| c.restart_count).max());
    Some(Row {
        node,
        uid: pod.metadata.uid.clone()?,
        generation: pod.metadata.generation,
        containers: [
            named(spec.init_containers.as_deref().unwrap_or_default()),
            named(&spec.containers),
        ],
        restart_policy: spec.restart_policy.clone().unwrap_or_default(),
        ending: deleted.then(|| u64::try_from(grace).unwrap_or(0)),
        stage: match status.and_then(|status| status.phase.as_deref()) {
            Some("Succeeded" | "Failed") => Stage::Over,
            Some("Running") => Stage::Running,
            _ => Stage::Bound,
        },
        run_for: run_for.map(|after| (after, exit_code.unwrap_or(0))),
        unready: annotation(UNREADY).is_some(),
        doubted: status.is_some_and(|status| {
            let mut conditions = status.conditions.iter().flatten();
            conditions.any(|c| c.type_ == "Ready" && c.status == "False")
        }),
        restarts: restarts.unwrap_or(0),
        ip: status
            .and_then(|status| status.pod_ip.clone())
            .unwrap_or_else(|| address(config, &key)),
        started: status.and_then(|status| Some(status.start_time.as_ref()?.0)),
        key,
    })
}

/// How often a kubelet looks at a pod's status without being told to.
const LOOK: Duration = Duration::from_secs(1);

/// The next step of a pod, and how long after now it is due; `None`: it rests.
#[must_use]
pub fn next(config: &SimulationConfig, row: &Row, now: Timestamp) -> Option<(Duration, Step)> {
    let drawn = |(least, most): (Duration, Duration), what: &str| {
        least
            + most
                .saturating_sub(least)
                .mul_f64(draw(config, &row.key, what))
    };
    match (row.ending, row.stage) {
        (Some(_), Stage::Over) => Some((Duration::ZERO, Step::Remove)),
        (Some(grace), Stage::Bound | Stage::Running) => {
            let most = Duration::from_secs(grace);
            Some((drawn(config.ending, "ending").min(most), Step::Finish(143)))
        }
        (None, Stage::Over) => None,
        (None, Stage::Bound) => Some((drawn(config.starting, "starting"), Step::Run)),
        // Kubelets put right what others have written of their pods, when they look next: at once, it would be a race
        // without end against who takes the node for lost.
        (None, Stage::Running) if row.doubted && !row.unready => Some((LOOK, Step::Run)),
        (None, Stage::Running) => {
            let (after, code) = row.run_for?;
            let runs = row.started.map_or(Duration::ZERO, |started| {
                Duration::try_from(now.duration_since(started)).unwrap_or_default()
            });
            let again = match row.restart_policy.as_str() {
                "Never" => false,
                "OnFailure" => code != 0,
                _ => true,
            };
            // Each start counts from the first.
            let due = after * u32::try_from(row.restarts + 1).unwrap_or(u32::MAX);
            let step = if again {
                Step::Restart(code)
            } else {
                Step::Finish(code)
            };
            Some((due.saturating_sub(runs), step))
        }
    }
}

/// A number in `[0, 1)` that depends on the seed, the name, and what it is for.
fn draw(config: &SimulationConfig, key: &ObjectKey, what: &str) -> f64 {
    let mut hasher = DefaultHasher::new();
    (config.seed, key.as_str(), what).hash(&mut hasher);
    // The upper 53 bits, which a double holds.
    (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64
}

/// An address out of 100.64.0.0/10, which is nobody's. Two pods in four million may get the same one.
fn address(config: &SimulationConfig, key: &ObjectKey) -> String {
    let number = (draw(config, key, "address") * f64::from(1 << 22)) as u32;
    std::net::Ipv4Addr::from(0x6440_0000 | number).to_string()
}

/// The status that a step leaves, as a strategic merge patch. `None` for [`Step::Remove`].
#[must_use]
pub fn patch(row: &Row, step: &Step, now: Timestamp) -> Option<Value> {
    let time = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let started = time(row.started.unwrap_or(now));
    let now = time(now);
    let ended = |code: i32| {
        json!({"terminated": {"exitCode": code, "startedAt": started, "finishedAt": now, "containerID": "",
        "reason": if code == 0 { "Completed" } else { "Error" }}})
    };
    let (phase, state, restarts, last) = match step {
        Step::Remove => return None,
        Step::Run => (
            "Running",
            json!({"running": {"startedAt": now}}),
            row.restarts,
            json!({}),
        ),
        Step::Restart(code) => (
            "Running",
            json!({"running": {"startedAt": now}}),
            row.restarts + 1,
            ended(*code),
        ),
        Step::Finish(0) => ("Succeeded", ended(0), row.restarts, json!({})),
        Step::Finish(code) => ("Failed", ended(*code), row.restarts, json!({})),
    };
    let runs = phase == "Running";
    let ready = runs && !row.unready;
    let container = |(name, image): &(String, String), state: &Value, ready: bool| {
        json!({"name": name, "image": image, "imageID": format!("simulated/{image}"), "ready": ready, "started": runs,
            "restartCount": restarts, "state": state, "lastState": last,
            "containerID": format!("simulated://{}/{name}", row.uid)})
    };
    let [init, main] = &row.containers;
    let done = json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": started, "finishedAt": started, "containerID": ""}});
    let init: Vec<Value> = init.iter().map(|c| container(c, &done, true)).collect();
    let main: Vec<Value> = main.iter().map(|c| container(c, &state, ready)).collect();
    let condition = |kind: &str, holds: bool, why: &str, since: &str| {
        let mut condition = json!({"type": kind, "status": if holds { "True" } else { "False" },
            "lastProbeTime": null, "lastTransitionTime": since, "reason": null, "observedGeneration": row.generation});
        if !holds && !why.is_empty() {
            condition["reason"] = why.into();
        }
        condition
    };
    let why = match phase {
        "Running" => "ContainersNotReady",
        "Succeeded" => "PodCompleted",
        _ => "PodFailed",
    };
    let mut status = json!({
        "phase": phase, "startTime": started, "observedGeneration": row.generation,
        "hostIP": host(row.node), "hostIPs": [{"ip": host(row.node)}],
        "podIP": row.ip, "podIPs": [{"ip": row.ip}],
        "conditions": [condition("PodReadyToStartContainers", runs, "", &now), condition("Initialized", true, "", &started),
            condition("Ready", ready, why, &now), condition("ContainersReady", ready, why, &now)],
        "containerStatuses": main,
    });
    if !init.is_empty() {
        status["initContainerStatuses"] = init.into();
    }
    Some(json!({"metadata": {"uid": row.uid}, "status": status}))
}

/// A node's own address, out of 172.16.0.0/12.
fn host(node: u32) -> String {
    std::net::Ipv4Addr::from(0xac10_0000 | (node + 1) & 0xf_ffff).to_string()
}

/// The object that a node registers with.
#[must_use]
pub fn node(config: &SimulationConfig, number: u32) -> Node {
    let name = config.name(number);
    let zone = format!("zone-{}", number % config.zones.max(1));
    let labels: BTreeMap<&str, String> = BTreeMap::from([
        ("kubernetes.io/hostname", name.clone()),
        ("kubernetes.io/os", "linux".to_owned()),
        ("kubernetes.io/arch", "amd64".to_owned()),
        ("topology.kubernetes.io/zone", zone),
        ("topology.kubernetes.io/region", "simulated".to_owned()),
        (LABEL, "true".to_owned()),
    ]);
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    // It is made of what the type has.
    serde_json::from_value(node).unwrap_or_default()
}

/// A node's status, as a strategic merge patch.
#[must_use]
pub fn node_status(
    config: &SimulationConfig,
    number: u32,
    since: Timestamp,
    now: Timestamp,
) -> Value {
    let time = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": time(now), "lastTransitionTime": time(since)})
    };
    let capacity: BTreeMap<&str, &str> = config
        .capacity
        .iter()
        .map(|(name, amount)| (name.as_str(), amount.as_str()))
        .collect();
    json!({"status": {
        "capacity": capacity, "allocatable": capacity,
        "addresses": [{"type": "InternalIP", "address": host(number)}, {"type": "Hostname", "address": config.name(number)}],
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux", "kubeletVersion": VERSION, "kubeProxyVersion": "",
            "bootID": "", "machineID": "", "systemUUID": "", "kernelVersion": "simulated", "osImage": "simulated",
            "containerRuntimeVersion": "simulated://0"},
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn pod(changes: &[(&str, Value)]) -> Pod {
        let mut pod = json!({
            "metadata": {"namespace": "default", "name": "p", "uid": "u", "annotations": {}},
            "spec": {"nodeName": "simulated-00001", "restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Pending"},
        });
        for (pointer, value) in changes {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap()[field.replace("~1", "/")] = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    fn planned(changes: &[(&str, Value)]) -> Option<(Duration, Step)> {
        let config = SimulationConfig::of(3);
        next(&config, &row(&config, &pod(changes))?, at(100))
    }

    #[test]
    fn only_pods_of_simulated_nodes_are_ours() {
        let config = SimulationConfig::of(3);
        for (name, number) in [
            ("simulated-00002", Some(2)),
            ("simulated-00003", None),
            ("simulated-2", None),
            ("simulated-", None),
            ("other", None),
        ] {
            assert_eq!(config.number(name), number, "{name}");
            let row = row(&config, &pod(&[("/spec/nodeName", name.into())]));
            assert_eq!(row.map(|row| row.node), number, "{name}");
        }
    }

    #[test]
    fn a_pod_goes_through_its_life() {
        let running = ("/status/phase", json!("Running"));
        let started = ("/status/startTime", json!("1970-01-12T13:48:10Z"));
        let runs_for = (
            "/metadata/annotations/simulation.skiff.local~1run-for",
            json!("20.5"),
        );
        let fails = (
            "/metadata/annotations/simulation.skiff.local~1exit-code",
            json!("3"),
        );
        let policy = |policy: &str| ("/spec/restartPolicy", json!(policy));
        let deleted = ("/metadata/deletionTimestamp", json!("1970-01-12T13:46:40Z"));
        let grace = |seconds: u64| ("/metadata/deletionGracePeriodSeconds", json!(seconds));
        let seconds = Duration::from_secs_f64;

        let (delay, step) = planned(&[]).unwrap();
        assert_eq!(step, Step::Run);
        assert!(delay >= seconds(0.2) && delay <= seconds(2.0));
        assert_eq!(planned(std::slice::from_ref(&running)), None);
        assert_eq!(planned(&[("/status/phase", json!("Failed"))]), None);
        // Its node was lost for a while.
        let doubted = (
            "/status/conditions",
            json!([{"type": "Ready", "status": "False"}]),
        );
        let report = Some((LOOK, Step::Run));
        assert_eq!(planned(&[running.clone(), doubted.clone()]), report);
        let unready = (
            "/metadata/annotations/simulation.skiff.local~1unready",
            json!(""),
        );
        assert_eq!(planned(&[running.clone(), doubted, unready]), None);

        // It has run for ten seconds of its twenty.
        let ends = |extra: (&'static str, Value)| {
            planned(&[running.clone(), started.clone(), runs_for.clone(), extra])
        };
        assert_eq!(
            ends(policy("Never")),
            Some((seconds(10.5), Step::Finish(0)))
        );
        assert_eq!(
            ends(policy("OnFailure")),
            Some((seconds(10.5), Step::Finish(0)))
        );
        assert_eq!(
            ends(policy("Always")),
            Some((seconds(10.5), Step::Restart(0)))
        );
        let failing = planned(&[
            running.clone(),
            started.clone(),
            runs_for.clone(),
            fails,
            policy("OnFailure"),
        ]);
        assert_eq!(failing, Some((seconds(10.5), Step::Restart(3))));
        let share = |share: &str| {
            (
                "/metadata/annotations/simulation.skiff.local~1fails",
                json!(share),
            )
        };
        for (all, code) in [("0", 0), ("1", 1)] {
            let drawn = planned(&[
                running.clone(),
                started.clone(),
                runs_for.clone(),
                policy("Never"),
                share(all),
            ]);
            assert_eq!(drawn, Some((seconds(10.5), Step::Finish(code))));
        }

        let (delay, step) = planned(&[running.clone(), deleted.clone(), grace(30)]).unwrap();
        assert_eq!(step, Step::Finish(143));
        assert!(delay <= seconds(0.5));
        let at_once = planned(&[running, deleted.clone(), grace(0)]).unwrap();
        assert_eq!(at_once, (Duration::ZERO, Step::Finish(143)));
        let over = planned(&[("/status/phase", json!("Failed")), deleted, grace(30)]);
        assert_eq!(over, Some((Duration::ZERO, Step::Remove)));
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let draws = |seed: u64| {
            let config = SimulationConfig {
                seed,
                ..SimulationConfig::of(1)
            };
            let draw = |name: String| draw(&config, &ObjectKey::new("default", &name), "starting");
            (0..1000)
                .map(|n| draw(format!("p{n}")))
                .collect::<Vec<f64>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        let mean = draws(1).iter().sum::<f64>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }

    #[test]
    fn statuses_are_what_kubelets_say() {
        let config = SimulationConfig::of(3);
        let row = row(&config, &pod(&[])).unwrap();
        let says = |step: Step, pointer: &str| {
            patch(&row, &step, at(0))
                .unwrap()
                .pointer(pointer)
                .cloned()
                .unwrap()
        };
        assert_eq!(says(Step::Run, "/status/phase"), "Running");
        assert_eq!(says(Step::Run, "/status/conditions/2/status"), "True");
        assert_eq!(says(Step::Run, "/status/containerStatuses/0/ready"), true);
        assert_eq!(says(Step::Finish(0), "/status/phase"), "Succeeded");
        assert_eq!(
            says(Step::Finish(0), "/status/conditions/2/reason"),
            "PodCompleted"
        );
        assert_eq!(says(Step::Finish(2), "/status/phase"), "Failed");
        let ended = "/status/containerStatuses/0/state/terminated/exitCode";
        assert_eq!(says(Step::Finish(2), ended), 2);
        assert_eq!(says(Step::Restart(2), "/status/phase"), "Running");
        assert_eq!(
            says(Step::Restart(2), "/status/containerStatuses/0/restartCount"),
            1
        );
        assert_eq!(patch(&row, &Step::Remove, at(0)), None);
    }

    #[test]
    fn nodes_register_with_what_the_type_has() {
        let config = SimulationConfig::of(5);
        let node = node(&config, 4);
        assert_eq!(node.metadata.name.as_deref(), Some("simulated-00004"));
        let zone = &node.metadata.labels.unwrap()["topology.kubernetes.io/zone"];
        assert_eq!(zone, "zone-1");
        let status = node_status(&config, 4, at(0), at(5));
        let status: k8s_openapi::api::core::v1::NodeStatus =
            serde_json::from_value(status["status"].clone()).unwrap();
        assert_eq!(status.capacity, status.allocatable);
        assert_eq!(status.addresses.unwrap()[0].address, "172.16.0.5");
    }
}
