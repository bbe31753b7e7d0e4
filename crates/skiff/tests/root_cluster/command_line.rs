//! The commands as a user types them: what they print, what they change, what they leave alone.

use std::process::Command;

use serde_json::Value;

use crate::cluster::{Cluster, cannot_run, fetch, run, text};

fn stdout(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.skiff(arguments);
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A kubeconfig that the user has already.
const USERS: &str = "apiVersion: v1
kind: Config
current-context: work
clusters: [{name: work, cluster: {server: 'https://work.example:6443'}}]
users: [{name: me, user: {token: abc}}]
contexts: [{name: work, context: {cluster: work, user: me}}]
";

fn users_file(cluster: &Cluster) -> Value {
    let file = cluster.data().join("home/.kube/config");
    let text = std::fs::read_to_string(file).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

#[test]
fn up_status_and_down() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::prepare("cmd", &[]);
    let kube = cluster.data().join("home/.kube");
    std::fs::create_dir_all(&kube).unwrap();
    std::fs::write(kube.join("config"), USERS).unwrap();
    refused(&cluster, &["status"], "skiff up");
    refused(&cluster, &["down"], "there is no cluster in");
    refused(&cluster, &["kubeconfig"], "skiff up");

    let mut arguments = vec!["up".to_owned(), "--demo".to_owned()];
    arguments.extend(cluster.settings());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = stdout(&cluster, &arguments);
    for step in [
        "certificates",
        "database",
        "API server at https://",
        "pod network",
        "container runtime",
        "service proxy",
        "cluster DNS",
        "is Ready",
    ] {
        let line = said.lines().find(|line| line.contains(step));
        assert!(
            line.is_some_and(|line| line.ends_with(" ms")),
            "{step}: {said}"
        );
    }
    for words in ["Ready after", "kubectl get nodes", "skiff down"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(
        !said.contains('\u{1b}'),
        "no escapes where nobody looks: {said}"
    );
    let url = said.split("The demo runs at http://").nth(1).unwrap();
    let address = url.split('/').next().unwrap();
    assert!(fetch(address, "/text").is_some_and(|page| page.contains("pod: demo-")));
    assert!(text(&cluster.up()).contains("runs already"));

    let theirs = users_file(&cluster);
    assert_eq!(theirs["current-context"], cluster.name());
    for (list, name) in [("clusters", "work"), ("users", "me"), ("contexts", "work")] {
        let entries = theirs[list].as_array().unwrap();
        assert_eq!(entries.len(), 2, "{theirs}");
        assert_eq!(entries[0]["name"], name);
    }
    let status = stdout(&cluster, &["status"]);
    let process = cluster.process().to_string();
    for words in [
        "Kubernetes API v1.36",
        &process,
        "MiB",
        "https://",
        "kubeconfig",
    ] {
        assert!(status.contains(words), "{words}: {status}");
    }
    let printed = stdout(&cluster, &["kubeconfig"]);
    let file = std::fs::read_to_string(cluster.data().join("admin.kubeconfig")).unwrap();
    assert_eq!(printed.trim_end(), file.trim_end());
    hand_over(&cluster);

    let said = stdout(&cluster, &["down"]);
    assert!(said.contains("stopped the server"), "{said}");
    assert!(cluster.data().join("db").exists(), "down keeps the data");
    let left = users_file(&cluster);
    assert_eq!(left["clusters"].as_array().unwrap().len(), 1);
    assert_eq!(left["users"][0]["user"]["token"], "abc");
    assert!(cluster.up().status.success());
    assert!(
        cluster
            .ask(&["get", "deployments", "-o", "name"])
            .contains("demo")
    );
    stdout(&cluster, &["down", "--purge"]);
    assert!(!cluster.data().join("db").exists());
}

fn refused(cluster: &Cluster, arguments: &[&str], words: &str) {
    let output = cluster.skiff(arguments);
    let said = text(&output);
    assert!(!output.status.success() && said.contains(words), "{said}");
}

/// `skiff kubectl`, and a link of that name.
fn hand_over(cluster: &Cluster) {
    let program = env!("CARGO_BIN_EXE_skiff");
    let ask = |command: &mut Command| {
        let output = run(command
            .env("SKIFF_DATA_DIR", cluster.data())
            .env("HOME", "/nonexistent")
            .env_remove("KUBECONFIG"));
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let nodes = ask(Command::new(program).args(["kubectl", "get", "nodes", "-o", "name"]));
    assert!(nodes.starts_with("node/"), "{nodes}");
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("kubectl");
    std::os::unix::fs::symlink(program, &link).unwrap();
    assert_eq!(
        ask(Command::new(&link).args(["get", "nodes", "-o", "name"])),
        nodes
    );
    let output = run(Command::new(&link).arg("get").env("PATH", folder.path()));
    assert!(text(&output).contains("no kubectl is installed"));
}

#[test]
fn help_and_version_need_nothing() {
    let program = env!("CARGO_BIN_EXE_skiff");
    let said = |arguments: &[&str]| {
        let output = run(Command::new(program).args(arguments));
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        text(&output)
    };
    assert!(said(&["version"]).contains("Kubernetes API v1.36"));
    assert!(said(&["--version"]).contains("skiff "));
    let help = said(&["--help"]);
    let commands = [
        "up",
        "down",
        "status",
        "check",
        "server",
        "apiserver",
        "scheduler",
        "controllers",
        "kubelet",
        "proxy",
        "dns",
        "image",
        "kubeconfig",
        "version",
    ];
    for command in commands {
        assert!(help.contains(&format!("  {command} ")), "{command}: {help}");
        let own = said(&[command, "--help"]);
        assert!(
            own.contains("Usage: skiff") && own.contains("--data-dir"),
            "{own}"
        );
    }
    for action in ["import", "pull", "ls", "rm", "export"] {
        assert!(said(&["image", action, "--help"]).contains("Usage: skiff image"));
    }
    // Every setting says its default.
    let up = said(&["up", "--help"]);
    for default in [
        "6443",
        "10250",
        "10.42.0.0/16",
        "10.96.0.0/12",
        "30000-32767",
        "110",
        "/var/lib/skiff",
    ] {
        assert!(
            up.contains(&format!("[default: {default}]")),
            "{default}: {up}"
        );
    }
}
