//! The node: its object and lease, static pods, a kubelet alone, and how it is taken down.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::cluster::{Cluster, cannot_run, eventually, mounts_below, run, text};
use crate::observe::{condition, container};

impl Cluster {
    fn node(&self) -> Value {
        let list = self.ask(&["get", "nodes", "-o", "json"]);
        let list: Value = serde_json::from_str(&list).unwrap();
        list["items"][0].clone()
    }
}

#[test]
fn a_node_and_its_own_pods() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("node");
    cluster.import_busybox();
    let lease = renewed(&cluster);
    let node = cluster.node();
    node_object(&cluster, &node);
    static_pod(&cluster, &node);
    eventually("a renewed lease", || renewed(&cluster) > lease);
    let owner = "jsonpath={.items[0].metadata.ownerReferences[0].uid}";
    let owner = cluster.ask(&["get", "leases", "-n", "kube-node-lease", "-o", owner]);
    assert_eq!(node["metadata"]["uid"], owner);
    taken_down(&cluster);
}

fn renewed(cluster: &Cluster) -> String {
    let leases = ["get", "leases", "-n", "kube-node-lease", "-o", "json"];
    let leases: Value = serde_json::from_str(&cluster.ask(&leases)).unwrap();
    let lease = &leases["items"][0];
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);
    assert_eq!(lease["spec"]["holderIdentity"], lease["metadata"]["name"]);
    let time = lease["spec"]["renewTime"].as_str();
    time.unwrap_or_default().to_owned()
}

/// What upstream's `kubectl describe node` has a line for.
fn node_object(cluster: &Cluster, node: &Value) {
    let name = node["metadata"]["name"].as_str().unwrap();
    let text = |pointer: &str| {
        let value = node.pointer(pointer).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let labels = &node["metadata"]["labels"];
    for (label, value) in [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", &text("/status/nodeInfo/architecture")),
    ] {
        assert_eq!(labels[label], value, "{label}");
    }
    for (kind, status, reason, message) in [
        (
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        (
            "DiskPressure",
            "False",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        (
            "PIDPressure",
            "False",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        (
            "Ready",
            "True",
            "KubeletReady",
            "kubelet is posting ready status",
        ),
    ] {
        let found = condition(node, kind);
        let told =
            ["status", "reason", "message"].map(|field| found[field].as_str().unwrap_or_default());
        assert_eq!(told, [status, reason, message]);
    }
    let addresses = node["status"]["addresses"].as_array().unwrap();
    let kinds: Vec<&str> = addresses
        .iter()
        .filter_map(|a| a["type"].as_str())
        .collect();
    assert_eq!(kinds, ["InternalIP", "Hostname"]);
    let info = &node["status"]["nodeInfo"];
    for field in [
        "machineID",
        "systemUUID",
        "bootID",
        "kernelVersion",
        "osImage",
    ] {
        assert!(
            info[field].as_str().is_some_and(|value| !value.is_empty()),
            "{field}: {info}"
        );
    }
    assert_eq!(info["operatingSystem"], "linux");
    assert!(text("/status/nodeInfo/kubeletVersion").starts_with("v1.36."));
    assert!(text("/status/nodeInfo/containerRuntimeVersion").starts_with("skiff://"));
    for resource in [
        "cpu",
        "memory",
        "ephemeral-storage",
        "pods",
        "hugepages-2Mi",
    ] {
        for list in ["capacity", "allocatable"] {
            assert!(
                node["status"][list][resource].is_string(),
                "{list} {resource}"
            );
        }
    }
    assert_eq!(node["status"]["capacity"]["pods"], "110");
    let described = cluster.ask(&["describe", "node", name]);
    for words in [
        "Taints:             <none>",
        "Unschedulable:      false",
        "KubeletReady                 kubelet is posting ready status",
        "Non-terminated Pods:",
        "Starting kubelet.",
        "Registered Node",
    ] {
        assert!(described.contains(words), "{words}: {described}");
    }
}

const STATIC: &str = "
apiVersion: v1
kind: Pod
metadata: {name: still, labels: {app: still}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: BUSYBOX, command: [sh, -c, 'echo here; sleep 1000']}]
";

/// A manifest in the directory is run, its mirror cannot be deleted for good, and both go with the file.
fn static_pod(cluster: &Cluster, node: &Value) {
    let file = cluster.data().join("manifests/still.yaml");
    let manifest = STATIC.replace("BUSYBOX", crate::image::BUSYBOX);
    std::fs::write(&file, &manifest).unwrap();
    let name = format!("still-{}", node["metadata"]["name"].as_str().unwrap());
    let pod = cluster.until_ready(&name);
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(
        annotations["kubernetes.io/config.mirror"],
        annotations["kubernetes.io/config.hash"]
    );
    assert_eq!(
        pod["metadata"]["ownerReferences"][0]["uid"],
        node["metadata"]["uid"]
    );
    assert_eq!(condition(&pod, "PodScheduled")["status"], "True");
    assert_eq!(cluster.ask(&["logs", &name]), "here\n");
    // Its deletion hides it for a moment; the container does not even notice.
    for more in [&["--wait=false"][..], &["--force", "--grace-period=0"]] {
        let uid = cluster.pod(&name)["metadata"]["uid"].clone();
        cluster.ask(&[&["delete", "pod", &name], more].concat());
        let again = cluster.until(&name, "another mirror", |pod| {
            pod["metadata"]["uid"].is_string()
                && pod["metadata"]["uid"] != uid
                && condition(pod, "Ready")["status"] == "True"
        });
        let id = |pod: &Value| container(pod, "c")["containerID"].clone();
        assert_eq!(id(&again), id(&pod));
    }
    std::fs::write(&file, manifest.replace("here", "there")).unwrap();
    eventually("the new version", || {
        let output = cluster.kubectl(&["logs", &name]);
        String::from_utf8_lossy(&output.stdout) == "there\n"
    });
    std::fs::remove_file(&file).unwrap();
    cluster.until_gone(&name);
    eventually("the end of its container", || {
        cluster.footprint().shims.is_empty()
    });
}

const ENDING: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: ending}
spec:
  terminationGracePeriodSeconds: 100
  volumes: [{name: h, hostPath: {path: HOST, type: DirectoryOrCreate}}]
  containers:
  - name: kind
    image: "BUSYBOX"
    command: [sh, -c, "trap 'echo term >> /h/log; sleep 1; echo end >> /h/log; exit 0' TERM; echo start >> /h/log; while true; do sleep 0.1; done"]
    lifecycle: {preStop: {exec: {command: [sh, -c, "echo prestop >> /h/log; sleep 1"]}}}
    volumeMounts: [{name: h, mountPath: /h}]
  - name: stubborn
    image: "BUSYBOX"
    command: [sh, -c, "trap '' TERM; while true; do sleep 0.1; done"]
"#;

/// `skiff down` is no `kill -9` to pods: hooks run and grace periods count, up to a limit. The next `up` runs them again.
fn taken_down(cluster: &Cluster) {
    let host = cluster.data().join("host");
    cluster.make(&ENDING.replace("HOST", &host.to_string_lossy()));
    cluster.until_ready("ending");
    let started = std::time::Instant::now();
    let said = text(&cluster.skiff(&["down", "--no-kubeconfig", "--grace-period", "5"]));
    let lasted = started.elapsed().as_secs();
    assert!(said.contains("stopped 1 pods"), "{said}");
    assert!((5..40).contains(&lasted), "{lasted}: {said}");
    let log = || std::fs::read_to_string(host.join("log")).unwrap();
    assert_eq!(log(), "start\nprestop\nterm\nend\n");
    let footprint = cluster.footprint();
    assert!(footprint.shims.is_empty() && footprint.processes.is_empty());
    let output = cluster.up();
    assert!(output.status.success(), "{}", text(&output));
    eventually("the pod runs again", || log().ends_with("end\nstart\n"));
    let pod = cluster.until_ready("ending");
    assert_eq!(container(&pod, "kind")["restartCount"], 1);
}

/// A kubelet of its own; it goes with the test, also with one that fails.
struct Alone<'a> {
    cluster: &'a Cluster,
    process: std::process::Child,
    folder: std::path::PathBuf,
}

impl Alone<'_> {
    fn down(&self) -> String {
        text(&run(Command::new(env!("CARGO_BIN_EXE_skiff"))
            .args(["down", "--purge", "--data-dir"])
            .arg(&self.folder)
            .env("HOME", self.cluster.data())))
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.down();
        }
    }
}

/// A kubelet that runs alone, with a data directory and so an authority of its own, serves logs and commands too.
#[test]
fn a_kubelet_alone() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start_with("alone", &["--disable", "kubelet,dns"]);
    let folder = cluster.data().join("kubelet-alone");
    let kubeconfig = cluster.data().join("admin.kubeconfig");
    let log = std::fs::File::create(cluster.data().join("kubelet.log")).unwrap();
    let process = Command::new(env!("CARGO_BIN_EXE_skiff"))
        .arg("kubelet")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(
            cluster
                .settings()
                .iter()
                .filter(|s| *s != "--disable" && *s != "kubelet,dns"),
        )
        .arg("--data-dir")
        .arg(&folder)
        .stdout(Stdio::from(log.try_clone().unwrap()))
        .stderr(Stdio::from(log))
        .spawn()
        .unwrap();
    let mut alone = Alone {
        cluster: &cluster,
        process,
        folder,
    };
    eventually("the node", || {
        condition(&cluster.node(), "Ready")["status"] == "True"
    });
    cluster.ask(&["run", "demo", "--image=skiff.local/demo"]);
    cluster.until_ready("demo");
    // Without a probe a pod is ready before its program has said anything.
    eventually("the log", || {
        cluster.ask(&["logs", "demo"]) == "demo listens on port 8080\n"
    });
    let version = cluster.ask(&["exec", "demo", "--", "/app", "version"]);
    assert!(version.starts_with("skiff "), "{version}");
    let node = cluster.node()["metadata"]["name"].clone();
    let path = format!("/api/v1/nodes/{}/proxy/healthz", node.as_str().unwrap());
    assert_eq!(cluster.ask(&["get", "--raw", &path]), "ok");
    cluster.ask(&["delete", "pod", "demo"]);
    cluster.ask(&["run", "left", "--image=skiff.local/demo"]);
    cluster.until_ready("left");
    // It goes like a server goes.
    let said = alone.down();
    assert!(said.contains("stopped 1 pods"), "{said}");
    assert!(alone.process.wait().unwrap().success());
    assert!(mounts_below(cluster.data()).is_empty());
}
