//! Bad days: what is wrong is said in a clear message, and nothing is lost.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::cluster::{Cluster, cannot_run, eventually, run, text};
use crate::image::{busybox_root, docker_archive};

/// A control plane without a node: it needs no root and little room.
const NO_NODE: [&str; 2] = ["--disable", "kubelet,proxy,dns"];

fn refused(output: &Output, words: &[&str]) {
    let said = text(output);
    assert!(!output.status.success(), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    println!("{said}");
}

fn stop(cluster: &Cluster, signal: Signal) {
    kill(Pid::from_raw(cluster.process()), signal).unwrap();
    eventually("the end of the server", || {
        !cluster.skiff(&["status"]).status.success()
    });
}

#[test]
fn what_is_missing_is_said_before_anything_is_changed() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::prepare("early", &[]);
    let nobody = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(nobody.path(), Some(65534), Some(65534)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_skiff"));
    command
        .args(["up", "--data-dir"])
        .arg(nobody.path().join("data"));
    command.args(cluster.settings()).env("HOME", nobody.path());
    command.env_remove("KUBECONFIG").uid(65534).gid(65534);
    refused(
        &run(&mut command),
        &["not root", "sudo", "nothing was changed"],
    );
    assert!(!nobody.path().join("data").exists());

    let settings = cluster.settings();
    let port = settings[3].as_str();
    let taken = TcpListener::bind(format!("0.0.0.0:{port}")).unwrap();
    let said = cluster.up();
    refused(&said, &[port, "another program listens", "--api-port"]);
    assert!(!cluster.data().join("pki").exists());
    drop(taken);

    let with = |more: &[&str]| {
        let mut arguments = vec!["up"];
        arguments.extend(settings.iter().map(String::as_str));
        arguments.extend(more);
        cluster.skiff(&arguments)
    };
    refused(&with(&["--max-pots", "3"]), &["--max-pots", "--max-pods"]);
    let file = cluster.data().join("skiff.yaml");
    std::fs::write(&file, "maxPots: 3\n").unwrap();
    let config = file.to_string_lossy().into_owned();
    refused(&with(&["--config", &config]), &["skiff.yaml", "maxPots"]);
}

#[test]
fn one_server_for_a_data_directory_and_one_cluster_for_a_range() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("range");
    let process = cluster.process().to_string();
    let mut arguments = vec!["server".to_owned()];
    arguments.extend(cluster.settings());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    refused(
        &cluster.skiff(&arguments),
        &["runs a server on it already", &process],
    );

    // The cluster's pods have their addresses on an interface of its own, which another cluster finds.
    cluster.ask(&["create", "deployment", "web", "--image=skiff.local/demo"]);
    cluster.ask(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let other = Cluster::prepare("other", &[]);
    let theirs = cluster.settings();
    let mut arguments = vec!["check".to_owned()];
    arguments.extend(other.settings());
    let range = arguments
        .iter()
        .position(|word| word == "--pod-cidr")
        .unwrap();
    arguments[range + 1].clone_from(&theirs[7]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    refused(
        &other.skiff(&arguments),
        &["addresses of pods", "choose another range with --pod-cidr"],
    );
}

fn largest_file(folder: &Path) -> PathBuf {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let files = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file());
    files
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap()
}

#[test]
fn a_damaged_database_is_found_and_not_served() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start_with("dmg", &NO_NODE);
    cluster.ask(&["create", "configmap", "kept", "--from-literal=a=b"]);
    stop(&cluster, Signal::SIGTERM);
    let file = largest_file(&cluster.data().join("db"));
    let good = std::fs::read(&file).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 0x10;
    std::fs::write(&file, &bad).unwrap();
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    refused(&cluster.up(), &["damaged", &name, "at byte", "restore"]);
    assert!(!cluster.kubectl(&["get", "configmaps"]).status.success());
    assert_eq!(std::fs::read(&file).unwrap(), bad, "evidence is left alone");
    std::fs::write(&file, &good).unwrap();
    let output = cluster.up();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(
        cluster.ask(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]),
        "b"
    );
}

/// A small file system, unmounted when dropped.
struct SmallDisk(Option<PathBuf>);

impl SmallDisk {
    fn mount(&mut self, at: &Path) {
        let options = Some("size=96m");
        let none = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("small"), at, Some("tmpfs"), none, options).unwrap();
        self.0 = Some(at.to_owned());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Some(at) = &self.0 {
            nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH).unwrap();
            // The test's folder could not be removed while it was a mount point.
            let _ = std::fs::remove_dir(at);
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_and_recovers() {
    if cannot_run() {
        return;
    }
    let mut disk = SmallDisk(None);
    let cluster = Cluster::prepare("full", &NO_NODE);
    disk.mount(cluster.data());
    let output = cluster.up();
    assert!(output.status.success(), "{}", text(&output));
    cluster.ask(&["create", "configmap", "kept", "--from-literal=a=b"]);

    let filler = cluster.data().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let block = vec![7u8; 4096];
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    drop(file);
    let mut written = Vec::new();
    let value = format!("--from-literal=v={}", "x".repeat(100_000));
    let answer = loop {
        let name = format!("c{}", written.len());
        let output = cluster.kubectl(&["create", "configmap", &name, &value]);
        if !output.status.success() {
            break text(&output);
        }
        written.push(name);
        assert!(written.len() < 500, "the disk does not fill up");
    };
    assert!(answer.contains("database space exceeded"), "{answer}");
    assert_eq!(
        cluster.ask(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]),
        "b"
    );

    std::fs::remove_file(&filler).unwrap();
    eventually("room for writes", || {
        let again = ["create", "configmap", "again", "--from-literal=a=b"];
        cluster.kubectl(&again).status.success()
    });
    let listed = cluster.ask(&["get", "configmaps", "-o", "name"]);
    for name in written.iter().map(String::as_str).chain(["kept", "again"]) {
        let line = format!("configmap/{name}");
        assert!(listed.lines().any(|found| found == line), "{name} is lost");
    }
    stop(&cluster, Signal::SIGKILL);
    assert!(cluster.up().status.success());
    assert_eq!(cluster.ask(&["get", "configmaps", "-o", "name"]), listed);
}

#[test]
fn term_lets_watches_end_and_pods_stay() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("term");
    cluster.ask(&["create", "deployment", "web", "--image=skiff.local/demo"]);
    cluster.ask(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let before = cluster.containers();
    let footprint = cluster.footprint();
    let watch = Command::new("kubectl")
        .args(["get", "pods", "--watch"])
        .env("KUBECONFIG", cluster.data().join("admin.kubeconfig"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    stop(&cluster, Signal::SIGTERM);
    let output = watch.wait_with_output().unwrap();
    let said = text(&output);
    assert!(!said.contains("reset by peer"), "{said}");
    assert_eq!(cluster.footprint(), footprint, "pods go on");
    assert!(cluster.up().status.success());
    assert_eq!(cluster.containers(), before);
}

fn pod(name: &str, container: &serde_json::Value, volumes: &serde_json::Value) -> String {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 1}})
    .to_string()
}

#[test]
fn pods_that_cannot_start_say_why() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("why");
    let demo = |more: serde_json::Value| {
        let mut container =
            json!({"name": "c", "image": "skiff.local/demo", "imagePullPolicy": "IfNotPresent"});
        container
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        container
    };
    let none = json!([]);
    cluster.apply(&pod(
        "nocmd",
        &demo(json!({"command": ["/no/such/program"]})),
        &none,
    ));
    let mounts = demo(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    let volume = json!([{"name": "v", "configMap": {"name": "absent"}}]);
    cluster.apply(&pod("novolume", &mounts, &volume));
    // Nobody listens on this port.
    let away = json!({"name": "c", "image": "127.0.0.1:9/some/image:1"});
    cluster.apply(&pod("noregistry", &away, &none));
    let describe = |name: &str| cluster.ask(&["describe", "pod", name]);
    eventually("the reason of the missing command", || {
        let text = describe("nocmd");
        text.contains("/no/such/program") && text.contains("RunContainerError")
            || text.contains("CrashLoopBackOff")
            || text.contains("StartError")
    });
    eventually("the reason of the missing volume", || {
        let text = describe("novolume");
        text.contains("FailedMount") && text.contains("configmap \"absent\" not found")
    });
    eventually("the reason of the missing registry", || {
        let text = describe("noregistry");
        text.contains("Failed to pull image \"127.0.0.1:9/some/image:1\"")
            && text.contains("refused")
            && text.contains("ErrImagePull")
            && text.contains("ImagePullBackOff")
    });
    cluster.ask(&["create", "configmap", "absent", "--from-literal=a=b"]);
    eventually("the pod whose volume came", || {
        cluster.ask(&["get", "pod", "novolume", "-o", "jsonpath={.status.phase}"]) == "Running"
    });
    cluster.ask(&["delete", "pod", "--all", "--wait=false"]);
}

/// Imports a tarball made by `make` in a fresh folder; it must be refused, and leave nothing.
fn import_fails(cluster: &Cluster, words: &[&str], make: impl FnOnce(&Path) -> PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let archive = make(folder.path());
    let before = cluster.skiff(&["image", "ls"]).stdout;
    refused(
        &cluster.skiff(&["image", "import", &archive.to_string_lossy()]),
        words,
    );
    assert_eq!(cluster.skiff(&["image", "ls"]).stdout, before);
}

fn sh(folder: &Path, script: &str) {
    let output = run(Command::new("sh")
        .arg("-ec")
        .arg(script)
        .current_dir(folder));
    assert!(output.status.success(), "{script}: {}", text(&output));
}

#[test]
fn broken_huge_and_malicious_tarballs_are_refused() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("tar");
    import_fails(&cluster, &["cut short"], |folder| {
        busybox_root(folder);
        let archive = docker_archive(folder, "skiff.test/cut:1");
        sh(folder, "truncate -s 400000 image.tar");
        archive
    });
    import_fails(&cluster, &["not a tar file"], |folder| {
        sh(folder, "head -c 20000000 /dev/urandom > noise.tar");
        folder.join("noise.tar")
    });
    import_fails(&cluster, &["digest mismatch"], |folder| {
        busybox_root(folder);
        docker_archive(folder, "skiff.test/digest:1");
        // Another layer than the configuration names.
        sh(
            folder,
            "echo x > root/other; tar -C root -cf layer.tar .; tar -cf image.tar manifest.json config.json layer.tar",
        );
        folder.join("image.tar")
    });
    let layer = |script: &'static str| {
        move |folder: &Path| {
            std::fs::create_dir_all(folder.join("root")).unwrap();
            sh(folder, script);
            docker_archive_of_layer(folder)
        }
    };
    import_fails(
        &cluster,
        &[],
        layer("echo pwned > evil; tar -P -cf layer.tar --transform 's,^evil,../../evil,' evil"),
    );
    import_fails(
        &cluster,
        &[],
        layer(
            "ln -s /etc root/link; echo x > passwd; tar -cf layer.tar -C root link; tar -P -rf layer.tar --transform 's,^passwd,link/skiff-evil,' passwd",
        ),
    );
    assert!(!Path::new("/etc/skiff-evil").exists());
    // A hard link to the host's file, and a terabyte of nothing.
    import_fails(
        &cluster,
        &["refused"],
        layer(
            "echo x > root/a; ln root/a root/b; cd root; tar -P --transform='flags=h;s,^a$,../../etc/shadow,' -cf ../layer.tar a b",
        ),
    );
    import_fails(
        &cluster,
        &["layer is too large"],
        layer("truncate -s 1T root/big; tar -S -cf layer.tar -C root big; rm root/big"),
    );
    let pods = cluster.ask(&["get", "nodes", "-o", "name"]);
    assert!(pods.contains("node/"), "the server lives");
}

/// A docker archive around the `layer.tar` in `folder`.
fn docker_archive_of_layer(folder: &Path) -> PathBuf {
    sh(
        folder,
        r#"
d=$(sha256sum layer.tar | cut -d' ' -f1)
echo "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:$d\"]}}" > config.json
echo '[{"Config":"config.json","RepoTags":["skiff.test/evil:1"],"Layers":["layer.tar"]}]' > manifest.json
tar -cf image.tar manifest.json config.json layer.tar"#,
    );
    folder.join("image.tar")
}
