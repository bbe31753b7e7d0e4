//! Images from a registry: by command and by pods, with credentials, and when the registry has a bad day.

use std::process::{Command, Output};

use serde_json::json;
use skiff_testkit::{FakeRegistry, Fault};

use crate::cluster::{Cluster, cannot_run, eventually, run, text};
use crate::image::{busybox_root, docker_archive};

fn pull(cluster: &Cluster, name: &str, user: Option<(&str, &str)>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skiff"));
    command
        .args(["image", "pull", name, "--data-dir"])
        .arg(cluster.data());
    if let Some((user, password)) = user {
        command
            .args(["--user", user])
            .env("SKIFF_PASSWORD", password);
    }
    run(&mut command)
}

fn must_pull(cluster: &Cluster, name: &str, user: Option<(&str, &str)>) {
    let output = pull(cluster, name, user);
    let said = text(&output);
    assert!(output.status.success() && said.contains("pulled"), "{said}");
    assert!(
        !said.contains('\u{1b}'),
        "no bars where nobody looks: {said}"
    );
}

fn pod(name: &str, image: &str, secret: Option<&str>) -> String {
    let secrets: Vec<_> = secret.iter().map(|name| json!({"name": name})).collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 0, "imagePullSecrets": secrets,
        "containers": [{"name": "c", "image": image, "command": ["sleep", "1000"]}]}})
    .to_string()
}

#[test]
fn images_come_from_a_registry_also_after_a_bad_day() {
    if cannot_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    busybox_root(folder.path());
    docker_archive(folder.path(), "unused");
    let layer = std::fs::read(folder.path().join("layer.tar")).unwrap();
    let registry = FakeRegistry::start().unwrap();
    let digest = registry.push("test/box", "1", layer.clone()).unwrap();
    let host = registry.host();
    let name = |rest: &str| format!("{host}/test/box{rest}");
    let cluster = Cluster::start("reg");

    registry.set_fault(Fault::CutBlobs);
    let output = pull(&cluster, &name(":1"), None);
    assert!(!output.status.success(), "{}", text(&output));
    registry.set_fault(Fault::None);
    let output = pull(&cluster, &name(":2"), None);
    assert!(text(&output).contains("not found"), "{}", text(&output));
    must_pull(&cluster, &name(":1"), None);
    must_pull(&cluster, &name(&format!("@{digest}")), None);
    let listed = text(&cluster.skiff(&["image", "ls"]));
    assert!(listed.contains("test/box"), "{listed}");

    registry.push("test/late", "1", layer).unwrap();
    registry.set_fault(Fault::Unavailable);
    let late = format!("{host}/test/late:1");
    cluster.apply(&pod("late", &late, None));
    let describe = |name: &str| cluster.ask(&["describe", "pod", name]);
    eventually("the registry's failure", || {
        let text = describe("late");
        text.contains("ErrImagePull") && text.contains("Back-off pulling image")
    });
    registry.set_fault(Fault::None);
    let running = |name: &str| {
        cluster.ask(&["get", "pod", name, "-o", "jsonpath={.status.phase}"]) == "Running"
    };
    eventually("the pod after the registry's return", || running("late"));

    registry.require("anna", "secret");
    let output = pull(&cluster, &name(":1"), None);
    assert!(!output.status.success(), "{}", text(&output));
    assert!(
        !pull(&cluster, &name(":1"), Some(("anna", "wrong")))
            .status
            .success()
    );
    must_pull(&cluster, &name(":1"), Some(("anna", "secret")));
    let server = format!("--docker-server={host}");
    let secret = [
        "create",
        "secret",
        "docker-registry",
        "key",
        &server,
        "--docker-username=anna",
        "--docker-password=secret",
    ];
    cluster.ask(&secret);
    let always = |name: &str, secret| {
        pod(name, &format!("{host}/test/box:1"), secret).replace(
            "\"name\":\"c\"",
            "\"name\":\"c\",\"imagePullPolicy\":\"Always\"",
        )
    };
    cluster.apply(&always("stranger", None));
    cluster.apply(&always("friend", Some("key")));
    eventually("the pod with the secret", || running("friend"));
    eventually("the refusal without it", || {
        describe("stranger").contains("ErrImagePull")
    });
}
