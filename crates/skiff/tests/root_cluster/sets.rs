//! StatefulSets with claims of the default class, and DaemonSets, on real containers.

use crate::cluster::{Cluster, cannot_run, eventually, text};
use crate::image::BUSYBOX;

const SETS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}], publishNotReadyAddresses: true}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  selector: {matchLabels: {app: db}}
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Retain}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsUser: 1000}
      containers:
      - name: c
        image: BUSYBOX
        command: [sh, -c, 'hostname >> /data/starts; exec sleep 3600']
        env: [{name: COLOUR, value: red}]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: BUSYBOX
        command: [sleep, "3600"]
        env: [{name: COLOUR, value: red}]
"#;

fn rolled_out(cluster: &Cluster, what: &str) {
    cluster.ask(&["rollout", "status", what, "--timeout=60s"]);
}

fn colours(cluster: &Cluster, app: &str) -> String {
    let selector = format!("app={app}");
    let path = "jsonpath={range .items[*]}{.spec.containers[0].env[0].value} {end}";
    cluster.ask(&["get", "pods", "-l", &selector, "-o", path])
}

/// A new template is rolled out, and the old one comes back by `kubectl rollout undo`.
fn there_and_back(cluster: &Cluster, what: &str, app: &str, back: &str) {
    rolled_out(cluster, what);
    cluster.ask(&["set", "env", what, "COLOUR=blue"]);
    rolled_out(cluster, what);
    eventually("only blue pods", || {
        colours(cluster, app) == back.replace("red", "blue")
    });
    let history = cluster.ask(&["rollout", "history", what]);
    assert!(
        history.contains("\n1 ") && history.contains("\n2 "),
        "{history}"
    );
    cluster.ask(&["rollout", "undo", what]);
    rolled_out(cluster, what);
    eventually("only red pods", || colours(cluster, app) == back);
    let history = cluster.ask(&["rollout", "history", what]);
    assert!(
        history.contains("\n3 ") && !history.contains("\n1 "),
        "{history}"
    );
}

/// The directories of the node's volumes.
fn directories(cluster: &Cluster) -> Vec<String> {
    let folder = cluster.data().join("kubelet/local-volumes");
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.collect()
}

#[test]
fn sets_keep_what_is_theirs_and_roll_out_and_back() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("sets");
    cluster.import_busybox();
    eventually("the service account", || {
        let account = ["get", "serviceaccount", "default"];
        cluster.kubectl(&account).status.success()
    });
    cluster.apply(&SETS.replace("BUSYBOX", BUSYBOX));
    there_and_back(&cluster, "daemonset/agent", "agent", "red ");
    rolled_out(&cluster, "statefulset/db");
    assert_eq!(directories(&cluster).len(), 2);

    // A pod that is killed comes back under its name with its data; another one is found by its name.
    let starts = |pod: &str| cluster.kubectl(&["exec", pod, "--", "cat", "/data/starts"]);
    cluster.ask(&["delete", "pod", "db-0"]);
    eventually("db-0 has its data", || {
        text(&starts("db-0")) == "db-0\ndb-0\n"
    });
    rolled_out(&cluster, "statefulset/db");
    assert_eq!(text(&starts("db-1")), "db-1\n");
    eventually("db-1 has an address", || {
        let name = "db-1.db.default.svc.cluster.local";
        let output = cluster.kubectl(&["exec", "db-0", "--", "nslookup", name]);
        output.status.success()
    });
    // So it is when the server is killed too.
    let server = nix::unistd::Pid::from_raw(cluster.process());
    nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGKILL).unwrap();
    // The signal is delivered some time after it was sent.
    eventually("the end of the server", || {
        !cluster.skiff(&["status"]).status.success()
    });
    assert!(cluster.up().status.success());
    there_and_back(&cluster, "statefulset/db", "db", "red red ");
    assert_eq!(text(&starts("db-1")), "db-1\ndb-1\ndb-1\n");
    let claims = cluster.ask(&[
        "get",
        "pvc",
        "data-db-1",
        "-o",
        "jsonpath={.status.phase} {.spec.storageClassName}",
    ]);
    assert_eq!(claims, "Bound local-dir");

    // With the set go its claims, the volumes, and the directories.
    cluster.ask(&["delete", "statefulset", "db"]);
    eventually("no volumes", || {
        cluster.ask(&["get", "pv,pvc", "-o", "name"]).is_empty()
    });
    eventually("no directories", || directories(&cluster).is_empty());
    cluster.ask(&["delete", "daemonset", "agent"]);
    eventually("no pods", || {
        cluster.ask(&["get", "pods", "-o", "name"]).is_empty()
    });
}
