//! Probes of every kind, and what follows from them.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use crate::cluster::{Cluster, cannot_run, eventually};
use crate::observe::{condition, container};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: live-exec}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: "BUSYBOX"
    command: [sh, -c, "touch /tmp/ok; sleep 3; rm /tmp/ok; sleep 1000"]
    livenessProbe: {exec: {command: [cat, /tmp/ok]}, periodSeconds: 1, failureThreshold: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: live-http}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: skiff.local/demo
    ports: [{name: web, containerPort: 8080}]
    livenessProbe: {httpGet: {path: /healthz, port: web}, periodSeconds: 1, failureThreshold: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: ready-http}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: skiff.local/demo
    readinessProbe: {httpGet: {path: /healthz, port: 8080, httpHeaders: [{name: X-Probe, value: mine}]}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: tcp}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: open
    image: skiff.local/demo
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
  - name: closed
    image: "BUSYBOX"
    command: [sleep, "1000"]
    readinessProbe: {tcpSocket: {port: 8081}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: grpc}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: skiff.local/demo
    readinessProbe: {grpc: {port: 8080, service: demo}, periodSeconds: 1, failureThreshold: 1}
  - name: plain
    image: "BUSYBOX"
    command: [httpd, -f, -p, "8081"]
    readinessProbe: {grpc: {port: 8081}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: startup}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: slow
    image: "BUSYBOX"
    command: [sh, -c, "sleep 3; touch /tmp/up; sleep 1000"]
    startupProbe: {exec: {command: [cat, /tmp/up]}, periodSeconds: 1, failureThreshold: 30}
    livenessProbe: {exec: {command: [cat, /tmp/up]}, periodSeconds: 1, failureThreshold: 1}
  - name: never
    image: "BUSYBOX"
    command: [sleep, "1000"]
    startupProbe: {exec: {command: ["false"]}, periodSeconds: 1, failureThreshold: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: hanging}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: "BUSYBOX"
    command: [sleep, "1000"]
    readinessProbe: {exec: {command: [sleep, "20"]}, periodSeconds: 2, timeoutSeconds: 1}
"#;

/// Tells a demo pod something.
fn post(cluster: &Cluster, pod: &str, path: &str) {
    let address = cluster.pod(pod)["status"]["podIP"].clone();
    let address = format!("{}:8080", address.as_str().unwrap_or_default());
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn probes_of_every_kind() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("probe");
    cluster.import_busybox();
    cluster.make(PODS);
    readiness_by_http(&cluster);
    readiness_by_grpc(&cluster);
    readiness_by_tcp(&cluster);
    liveness_by_http(&cluster);
    liveness_by_exec(&cluster);
    startup(&cluster);
    cluster.happened(
        "hanging",
        "Warning/Unhealthy: Readiness probe failed: command timed out: \"sleep 20\" timed out after 1s",
    );
    assert_eq!(container(&cluster.pod("hanging"), "c")["restartCount"], 0);
}

fn readiness_by_http(cluster: &Cluster) {
    cluster.until_ready("ready-http");
    post(cluster, "ready-http", "/fail");
    let pod = cluster.until("ready-http", "it is not ready", |pod| {
        condition(pod, "Ready")["status"] == "False"
    });
    let ready = condition(&pod, "Ready");
    assert_eq!(ready["reason"], "ContainersNotReady");
    assert_eq!(ready["message"], "containers with unready status: [c]");
    assert_eq!(pod["status"]["phase"], "Running");
    cluster.happened(
        "ready-http",
        "spec.containers{c} Warning/Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 500",
    );
    post(cluster, "ready-http", "/recover");
    let pod = cluster.until_ready("ready-http");
    assert_eq!(container(&pod, "c")["restartCount"], 0);
}

fn readiness_by_grpc(cluster: &Cluster) {
    let ready = |wanted: bool| {
        cluster.until("grpc", &format!("ready is {wanted}"), |pod| {
            container(pod, "c")["ready"] == wanted
        })
    };
    ready(true);
    post(cluster, "grpc", "/fail");
    ready(false);
    cluster.happened(
        "grpc",
        "spec.containers{c} Warning/Unhealthy: Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")",
    );
    post(cluster, "grpc", "/recover");
    let pod = ready(true);
    assert_eq!(container(&pod, "plain")["ready"], false);
    cluster.happened(
        "grpc",
        "spec.containers{plain} Warning/Unhealthy: Readiness probe failed: ",
    );
}

fn readiness_by_tcp(cluster: &Cluster) {
    let pod = cluster.until("tcp", "the open port", |pod| {
        container(pod, "open")["ready"] == true
    });
    assert_eq!(container(&pod, "closed")["ready"], false);
    let address = pod["status"]["podIP"].as_str().unwrap_or_default();
    cluster.happened(
        "tcp",
        &format!(
            "spec.containers{{closed}} Warning/Unhealthy: Readiness probe failed: dial tcp {address}:8081: connect: connection refused"
        ),
    );
}

fn liveness_by_http(cluster: &Cluster) {
    cluster.until_ready("live-http");
    post(cluster, "live-http", "/fail");
    let pod = cluster.until("live-http", "the restart", |pod| {
        container(pod, "c")["restartCount"] == 1
    });
    assert!(container(&pod, "c")["lastState"]["terminated"].is_object());
    cluster.happened(
        "live-http",
        "spec.containers{c} Warning/Unhealthy: Liveness probe failed: HTTP probe failed with statuscode: 500",
    );
    cluster.happened(
        "live-http",
        "spec.containers{c} Normal/Killing: Container c failed liveness probe, will be restarted",
    );
    cluster.until_ready("live-http");
}

fn liveness_by_exec(cluster: &Cluster) {
    cluster.until("live-exec", "the restart", |pod| {
        container(pod, "c")["restartCount"].as_i64() >= Some(1)
    });
    cluster.happened(
        "live-exec",
        "spec.containers{c} Warning/Unhealthy: Liveness probe failed: cat: can't open '/tmp/ok': No such file or directory",
    );
    cluster.happened(
        "live-exec",
        "Normal/Killing: Container c failed liveness probe, will be restarted",
    );
}

/// Until it has started a container is not ready and not asked whether it lives; one that never starts is killed.
fn startup(cluster: &Cluster) {
    let pod = cluster.until("startup", "the start", |pod| {
        let slow = container(pod, "slow");
        assert_eq!(slow["ready"], slow["started"]);
        slow["started"] == true
    });
    assert_eq!(container(&pod, "slow")["restartCount"], 0);
    cluster.happened(
        "startup",
        "spec.containers{never} Normal/Killing: Container never failed startup probe, will be restarted",
    );
    eventually("the restart of what does not start", || {
        container(&cluster.pod("startup"), "never")["restartCount"].as_i64() >= Some(1)
    });
    assert_eq!(
        container(&cluster.pod("startup"), "slow")["restartCount"],
        0
    );
}
