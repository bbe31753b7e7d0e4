//! What happens when there is not enough, or too much: preemption, quotas, finished Jobs, load that comes and goes.

use serde_json::Value;

use crate::cluster::{Cluster, cannot_run, eventually, text};
use crate::observe::condition;

const CLASSES: &str = r#"
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: urgent}
value: 1000
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: patient}
value: 900
preemptionPolicy: Never
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: leisurely}
value: -10
---
apiVersion: v1
kind: Namespace
metadata: {name: small}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: room, namespace: small}
spec: {hard: {pods: "2", requests.memory: 64Mi}}
"#;

/// Asks for most of the node's CPU. `low` does not end before it is told to.
const BIG: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  priorityClassName: CLASS
  containers:
  - name: c
    image: "BUSYBOX"
    command: [sh, -c, "trap exit TERM; while true; do sleep 0.1; done"]
    lifecycle: {preStop: {exec: {command: [sh, -c, "while test -e /stay; do sleep 0.1; done"]}}}
    resources: {requests: {cpu: CPU}}
"#;

const SMALL: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: many, namespace: small}
spec:
  replicas: 3
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: "BUSYBOX", command: [sleep, "3600"], resources: {requests: {memory: 16Mi}}}]
"#;

const JOBS: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: soon}
spec:
  ttlSecondsAfterFinished: 3
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: "BUSYBOX", command: ["true"]}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: kept}
spec:
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: "BUSYBOX", command: ["true"]}]}}
"#;

const LOAD: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: skiff.local/demo
        resources: {requests: {cpu: 20m}, limits: {cpu: 100m}}
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: shop}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: shop}
  minReplicas: 1
  maxReplicas: 2
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 100}}}]
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
"#;

/// One cluster for all: what takes its time runs beside the others.
#[test]
fn a_node_that_is_too_small_a_quota_and_load() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("press");
    cluster.import_busybox();
    cluster.apply(CLASSES);
    eventually("the service accounts", || {
        let there = |namespace: &str| {
            let account = ["get", "serviceaccount", "default", "-n", namespace];
            cluster.kubectl(&account).status.success()
        };
        there("default") && there("small")
    });
    cluster.make(LOAD);
    cluster.make(JOBS);
    let shop = under_load(&cluster);
    quota(&cluster);
    jobs_go(&cluster);
    load_goes(&cluster, &shop);
    preemption(&cluster);
    measured(&cluster);
}

fn field(cluster: &Cluster, what: &str, path: &str) -> String {
    let path = format!("jsonpath={{{path}}}");
    cluster.ask(&["get", what, "-o", &path])
}

fn post(cluster: &Cluster, pod: &str, path: &str) {
    let path = format!("/api/v1/namespaces/default/pods/{pod}:8080/proxy/{path}");
    cluster.ask(&["create", "--raw", &path, "-f", "/dev/null"]);
}

/// Has the only pod of the shop burn, until there is a second one. Tells the first one's name.
fn under_load(cluster: &Cluster) -> String {
    cluster.ask(&["rollout", "status", "deployment/shop", "--timeout=60s"]);
    let pod = cluster.ask(&["get", "pods", "-l", "app=shop", "-o", "name"]);
    let pod = pod.trim().trim_start_matches("pod/").to_owned();
    post(cluster, &pod, "burn/3600");
    pod
}

/// The load is answered with a second pod, and when it is over that goes again.
fn load_goes(cluster: &Cluster, shop: &str) {
    let replicas = || field(cluster, "deployment/shop", ".spec.replicas");
    eventually("a second pod", || replicas() == "2");
    cluster.ask(&["rollout", "status", "deployment/shop", "--timeout=60s"]);
    post(cluster, shop, "recover");
    eventually("one pod again", || replicas() == "1");
    eventually("it is told", || {
        let told = cluster.ask(&["describe", "hpa", "shop"]);
        told.contains(
            "New size: 2; reason: cpu resource utilization (percentage of request) above target",
        ) && told.contains("New size: 1; reason: All metrics below target")
    });
}

fn quota(cluster: &Cluster) {
    cluster.make(SMALL);
    let ask = |words: &[&str]| cluster.ask(&[&["-n", "small"], words].concat());
    let failure = "jsonpath={.status.conditions[?(@.type==\"ReplicaFailure\")].message}";
    let refused = "exceeded quota: room, requested: pods=1, used: pods=2, limited: pods=2";
    eventually("the third pod is refused", || {
        ask(&["get", "deployment", "many", "-o", failure]).contains(refused)
    });
    let used = || {
        let path = "jsonpath={.status.used.pods} {.status.used.requests\\.memory}";
        ask(&["get", "resourcequota", "room", "-o", path])
    };
    assert_eq!(used(), "2 32Mi");
    let by_hand = ["run", "own", "-n", "small", "--image=x", "--restart=Never"];
    let answer = cluster.kubectl(&by_hand);
    let answer = text(&answer);
    assert!(
        answer.contains("(Forbidden)") && answer.contains("must specify requests.memory"),
        "{answer}"
    );
    // What goes gives its room back.
    ask(&["scale", "deployment", "many", "--replicas=1"]);
    eventually("one is left", || used() == "1 16Mi");
    ask(&["scale", "deployment", "many", "--replicas=2"]);
    ask(&["rollout", "status", "deployment/many", "--timeout=60s"]);
    assert_eq!(used(), "2 32Mi");
}

/// A finished Job goes after its time with its pods, one without a time stays until it gets one.
fn jobs_go(cluster: &Cluster) {
    let names = || cluster.ask(&["get", "jobs", "-o", "name"]);
    let pods = || {
        cluster.ask(&[
            "get",
            "pods",
            "-l",
            "batch.kubernetes.io/job-name",
            "-o",
            "name",
        ])
    };
    eventually("a Job is gone after its time", || {
        names() == "job.batch/kept\n"
    });
    eventually("its pod is gone", || !pods().contains("/soon-"));
    eventually("the other has ended", || {
        field(cluster, "job/kept", ".status.succeeded") == "1"
    });
    let patch = r#"{"spec":{"ttlSecondsAfterFinished":0}}"#;
    cluster.ask(&["patch", "job", "kept", "-p", patch]);
    eventually("no Jobs", || names().is_empty());
    eventually("no pods of Jobs", || pods().is_empty());
}

/// CPU in thousandths of a core.
fn millis(quantity: &str) -> u64 {
    match quantity.strip_suffix('m') {
        Some(millis) => millis.parse().unwrap(),
        None => quantity.parse::<u64>().unwrap() * 1000,
    }
}

fn preemption(cluster: &Cluster) {
    let node = cluster.ask(&["get", "nodes", "-o", "json"]);
    let node: Value = serde_json::from_str(&node).unwrap();
    let node = &node["items"][0];
    let cpu = node["status"]["allocatable"]["cpu"].as_str().unwrap();
    let cpu = format!("{}m", millis(cpu) * 2 / 3);
    let node = node["metadata"]["name"].as_str().unwrap();
    let big = |name: &str, class: &str| {
        let pod = BIG.replace("NAME", name).replace("CLASS", class);
        cluster.make(&pod.replace("CPU", &cpu));
    };
    big("low", "leisurely");
    cluster.until_ready("low");
    cluster.exec("low", "touch /stay");

    // One that may not push others out waits, and says so.
    big("modest", "patient");
    cluster.happened(
        "modest",
        "preemption: not eligible due to preemptionPolicy=Never.",
    );
    assert_eq!(
        cluster.pod("modest")["status"]["nominatedNodeName"],
        Value::Null
    );

    // One that may has a node that room is being made on.
    big("high", "urgent");
    cluster.until("high", "its nomination", |pod| {
        pod["status"]["nominatedNodeName"] == node
    });
    cluster.happened(
        "high",
        "/FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu.",
    );
    let wide = cluster.ask(&["get", "pod", "high", "-o", "wide", "--no-headers"]);
    assert_eq!(wide.split_whitespace().nth(7), Some(node), "{wide}");
    let low = cluster.until("low", "its end", |pod| {
        !pod["metadata"]["deletionTimestamp"].is_null()
    });
    let target = condition(&low, "DisruptionTarget");
    assert_eq!(
        (&target["reason"], &target["message"]),
        (
            &Value::from("PreemptionByScheduler"),
            &Value::from("default-scheduler: preempting to accommodate a higher priority pod")
        )
    );
    let by = cluster.pod("high")["metadata"]["uid"].clone();
    let by = by.as_str().unwrap();
    cluster.happened(
        "low",
        &format!("Normal/Preempted: Preempted by pod {by} on node {node}"),
    );
    cluster.exec("low", "rm /stay");
    cluster.until_gone("low");
    let high = cluster.until_ready("high");
    assert_eq!(high["spec"]["priority"], 1000);
    assert_eq!(cluster.pod("modest")["status"]["phase"], "Pending");
}

/// What became of all that, as Prometheus reads it.
fn measured(cluster: &Cluster) {
    let text = cluster.ask(&["get", "--raw", "/metrics"]);
    let value = |sample: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(sample));
        let line = line.unwrap_or_else(|| panic!("{sample} is not told:\n{text}"));
        line.trim().parse::<f64>().unwrap()
    };
    let attempts = "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=";
    assert!(value(&format!("{attempts}\"scheduled\"}}")) >= 8.0);
    assert!(value(&format!("{attempts}\"unschedulable\"}}")) >= 2.0);
    let times = "scheduler_scheduling_attempt_duration_seconds_sum{profile=\"default-scheduler\",result=\"scheduled\"}";
    assert!(value(times) > 0.0);
    assert_eq!(value("scheduler_preemption_victims_sum"), 1.0);
    assert_eq!(
        value("scheduler_pending_pods{queue=\"unschedulable\"}"),
        1.0
    );
    assert_eq!(
        value(
            "scheduler_unschedulable_pods{plugin=\"NodeResourcesFit\",profile=\"default-scheduler\"}"
        ),
        1.0
    );
    assert!(value("workqueue_adds_total{name=\"deployment\"}") >= 2.0);
    assert!(value("workqueue_work_duration_seconds_count{name=\"job\"}") >= 2.0);
    assert_eq!(
        value("workqueue_depth{name=\"resourcequota_primary\"}"),
        0.0
    );
}
