//! A container whose end starts all containers of its pod anew.

use crate::cluster::{Cluster, cannot_run};
use crate::observe::{condition, container};

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: crew}
spec:
  restartPolicy: Never
  volumes: [{name: shared, emptyDir: {}}]
  initContainers:
  - {name: prepare, image: "BUSYBOX", command: [sh, -c, "echo prepared >> /shared/log"], volumeMounts: [{name: shared, mountPath: /shared}]}
  containers:
  - {name: worker, image: "BUSYBOX", command: [sh, -c, "echo worked >> /shared/log; sleep 3600"], volumeMounts: [{name: shared, mountPath: /shared}]}
  - name: watcher
    image: "BUSYBOX"
    command: [sh, -c, "sleep 2; test $(grep -c worked /shared/log) = 2 || exit 42; sleep 3600"]
    volumeMounts: [{name: shared, mountPath: /shared}]
    restartPolicy: Never
    restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}]
"#;

#[test]
fn one_container_restarts_all() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("all");
    cluster.import_busybox();
    let path = "jsonpath={.items[0].status.declaredFeatures[*]}";
    let declared = cluster.ask(&["get", "nodes", "-o", path]);
    assert_eq!(declared, "RestartAllContainersOnContainerExits");
    cluster.make(POD);
    let first = cluster.until_ready("crew");
    let again = cluster.until("crew", "its second life", |pod| {
        let names = ["prepare", "worker", "watcher"];
        let restarts = |name: &str| container(pod, name)["restartCount"].as_i64();
        names.iter().all(|name| restarts(name) == Some(1))
            && condition(pod, "Ready")["status"] == "True"
    });
    assert_eq!(again["status"]["podIP"], first["status"]["podIP"]);
    let log = cluster.exec("crew", "cat /shared/log");
    assert!(
        log.starts_with("prepared\nworked\nprepared\nworked\nDefaulted"),
        "{log}"
    );
    assert_eq!(
        container(&again, "worker")["lastState"]["terminated"]["reason"],
        "RestartingAllContainers"
    );
    assert_eq!(
        condition(&again, "AllContainersRestarting")["status"],
        "False"
    );
    cluster.happened("crew", "spec.containers{worker} Normal/Killing: killing");
    // Nothing of the first life is left but what it wrote.
    assert_eq!(cluster.footprint().containers.len(), 3);
}
