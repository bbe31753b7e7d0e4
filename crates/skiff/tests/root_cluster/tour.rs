//! The tour of the README, what a kill leaves alone, and what `skiff down` leaves behind.

use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, cannot_run, eventually, fetch, mounts_below, text};

/// Three replicas of the demo behind a service; the service's address.
pub fn deploy_hello(cluster: &Cluster) -> String {
    cluster.ask(&[
        "create",
        "deployment",
        "hello",
        "--image=skiff.local/demo",
        "--replicas=3",
    ]);
    cluster.ask(&[
        "expose",
        "deployment",
        "hello",
        "--port=80",
        "--target-port=8080",
        "--type=NodePort",
    ]);
    cluster.ask(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    cluster.ask(&[
        "get",
        "service",
        "hello",
        "-o",
        "jsonpath={.spec.clusterIP}",
    ])
}

#[test]
fn the_tour() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("tour");
    assert!(text(&cluster.up()).contains("runs already"));
    let service = deploy_hello(&cluster);
    eventually("the service", || {
        fetch(&format!("{service}:80"), "/text").is_some_and(|page| page.contains("pod: hello-"))
    });
    let node = cluster.ask(&[
        "get",
        "nodes",
        "-o",
        "jsonpath={.items[0].status.addresses[0].address}",
    ]);
    let port = cluster.ask(&[
        "get",
        "service",
        "hello",
        "-o",
        "jsonpath={.spec.ports[0].nodePort}",
    ]);
    assert!(
        fetch(&format!("{node}:{port}"), "/text").is_some_and(|page| page.contains("pod: hello-"))
    );

    assert!(
        cluster
            .ask(&["logs", "deployment/hello"])
            .contains("demo listens on port 8080")
    );
    assert!(
        cluster
            .ask(&["exec", "deployment/hello", "--", "/app", "version"])
            .contains("Kubernetes API")
    );
    cluster.ask(&["scale", "deployment/hello", "--replicas=5"]);
    cluster.ask(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    cluster.ask(&["set", "env", "deployment/hello", "COLOUR=blue"]);
    cluster.ask(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    eventually("the new environment", || {
        fetch(&format!("{service}:80"), "/text")
            .is_some_and(|page| page.contains("env COLOUR=blue"))
    });
    cluster.ask(&["rollout", "undo", "deployment/hello"]);
    cluster.ask(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    assert!(
        cluster
            .ask(&["rollout", "history", "deployment/hello"])
            .contains('3')
    );
    cluster.ask(&["delete", "service,deployment", "hello"]);
    eventually("an empty namespace", || {
        cluster.ask(&["get", "pods", "-o", "name"]).is_empty()
    });
}

#[test]
fn killing_the_server_leaves_the_containers_alone() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("kill");
    deploy_hello(&cluster);
    let before = cluster.containers();
    let good = before.lines().count() == 3
        && before
            .lines()
            .all(|line| line.contains("skiff://") && line.ends_with(" 0"));
    assert!(good, "{before}\n{}", cluster.ask(&["describe", "pods"]));
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(cluster.process()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    // The signal is delivered some time after it was sent.
    eventually("the end of the server", || {
        !cluster.skiff(&["status"]).status.success()
    });
    let output = cluster.up();
    assert!(output.status.success(), "{}", text(&output));
    cluster.ask(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    assert_eq!(cluster.containers(), before);
}

#[test]
fn down_leaves_nothing_behind() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("down");
    deploy_hello(&cluster);
    let output = cluster.skiff(&["down", "--purge"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(mounts_below(cluster.data()), Vec::<String>::new());
    assert!(!cluster.data().join("pki").exists());
    let interfaces: Vec<PathBuf> = std::fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(
        !interfaces.iter().any(|path| path
            .to_string_lossy()
            .contains(&format!("/{}", cluster.name()))),
        "{interfaces:?}"
    );
    for folder in ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"] {
        let group = Path::new(folder).join(cluster.name());
        assert!(!group.exists(), "{group:?}");
    }
}
