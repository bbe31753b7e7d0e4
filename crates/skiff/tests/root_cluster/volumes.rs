//! Volumes of every type, what keeps them up to date, and containers' logs.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, cannot_run, eventually, text};
use crate::observe::{container, waiting};

const SHOWN: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: files}
data: {a.txt: one, b.txt: two}
binaryData: {bin: AAEC}
---
apiVersion: v1
kind: Secret
metadata: {name: creds}
stringData: {user: ann, word: pw}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: fixed}
immutable: true
data: {k: forever}
---
apiVersion: v1
kind: Pod
metadata: {name: vols, labels: {app: vols}}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: files, configMap: {name: files}}
  - {name: items, configMap: {name: files, items: [{key: a.txt, path: deep/er, mode: 0400}, {key: b.txt, path: b}], defaultMode: 0600}}
  - {name: creds, secret: {secretName: creds, defaultMode: 0440}}
  - {name: fixed, configMap: {name: fixed}}
  - {name: maybe, configMap: {name: none, optional: true}}
  - name: down
    downwardAPI:
      items:
      - {path: labels, fieldRef: {fieldPath: metadata.labels}}
      - {path: name, fieldRef: {fieldPath: metadata.name}}
      - {path: cpu, resourceFieldRef: {containerName: c, resource: limits.cpu, divisor: 1m}}
  - name: all
    projected:
      defaultMode: 0444
      sources:
      - serviceAccountToken: {path: token, audience: vault, expirationSeconds: 600}
      - configMap: {name: files, items: [{key: b.txt, path: cm}]}
      - secret: {name: creds, items: [{key: user, path: sub/user}]}
      - downwardAPI: {items: [{path: ns, fieldRef: {fieldPath: metadata.namespace}}]}
  containers:
  - name: c
    image: "BUSYBOX"
    command: [sleep, "1000"]
    resources: {limits: {cpu: 250m}}
    env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: memory, mountPath: /memory}
    - {name: files, mountPath: /files}
    - {name: items, mountPath: /items}
    - {name: creds, mountPath: /creds}
    - {name: fixed, mountPath: /fixed}
    - {name: maybe, mountPath: /maybe}
    - {name: down, mountPath: /down}
    - {name: all, mountPath: /all}
    - {name: files, mountPath: /etc/single.txt, subPath: a.txt}
    - {name: disk, mountPath: /sub, subPath: x/y}
    - {name: disk, mountPath: /expr, subPathExpr: "$(NAME)/z"}
"#;

const WAITING: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: late}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: v, configMap: {name: latecomer}}, {name: s, secret: {secretName: latecomer}}]
  containers: [{name: c, image: "BUSYBOX", command: [sleep, "1000"], volumeMounts: [{name: v, mountPath: /v}, {name: s, mountPath: /s}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: nokey}
spec:
  volumes: [{name: v, configMap: {name: files, items: [{key: nokey, path: p}]}}]
  containers: [{name: c, image: "BUSYBOX", command: [sleep, "1000"], volumeMounts: [{name: v, mountPath: /v}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: wrong}
spec:
  volumes: [{name: v, hostPath: {path: HOST/known, type: Directory}}, {name: w, hostPath: {path: HOST/nothing, type: Socket}}]
  containers: [{name: c, image: "BUSYBOX", command: [sleep, "1000"], volumeMounts: [{name: v, mountPath: /v}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: hosts}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: dir, hostPath: {path: HOST/dir, type: DirectoryOrCreate}}
  - {name: file, hostPath: {path: HOST/file, type: FileOrCreate}}
  - {name: known, hostPath: {path: HOST/known, type: File}}
  - {name: folder, hostPath: {path: HOST, type: Directory}}
  - {name: socket, hostPath: {path: HOST/socket, type: Socket}}
  - {name: device, hostPath: {path: /dev/null, type: CharDevice}}
  containers:
  - name: c
    image: "BUSYBOX"
    command: [sh, -c, "cat /known; test -S /socket && echo socket; echo x > /dir/made; echo y > /file; sleep 1000"]
    volumeMounts:
    - {name: dir, mountPath: /dir}
    - {name: file, mountPath: /file}
    - {name: known, mountPath: /known, readOnly: true}
    - {name: folder, mountPath: /folder}
    - {name: socket, mountPath: /socket}
    - {name: device, mountPath: /null}
---
apiVersion: v1
kind: Pod
metadata: {name: planter}
spec:
  restartPolicy: Never
  volumes: [{name: v, hostPath: {path: HOST/shared, type: DirectoryOrCreate}}]
  containers:
  - name: c
    image: "BUSYBOX"
    command: [sh, -c, "mkdir /v/real; echo fine > /v/real/f; ln -s real /v/inside; ln -s /etc /v/absolute; ln -s ../../../../../../etc /v/upwards"]
    volumeMounts: [{name: v, mountPath: /v}]
---
apiVersion: v1
kind: Pod
metadata: {name: talk}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: "BUSYBOX"
    command: [sh, -c, "for i in 1 2 3 4 5; do echo line $i; done; echo err >&2; printf partial; sleep 2; exit 1"]
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]
  containers:
  - name: c
    image: "BUSYBOX"
    command: [sh, -c, "dd if=/dev/zero of=/v/x bs=1M count=2; sleep 1000"]
    volumeMounts: [{name: v, mountPath: /v}]
---
apiVersion: v1
kind: Pod
metadata: {name: flood}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: "BUSYBOX"
    command: [sh, -c, "dd if=/dev/zero bs=1M count=11 2>/dev/null | tr '\\0' x | fold -w 1000; echo; until test -f /tmp/go; do sleep 0.1; done; echo after; sleep 1000"]
"#;

/// A pod whose container mounts a part of the volume in which another container planted links.
fn victim(name: &str, host: &Path, part: &str) -> String {
    format!(
        r#"---
           {{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{
             terminationGracePeriodSeconds: 1,
             volumes: [{{name: v, hostPath: {{path: "{}/shared"}}}}],
             containers: [{{name: c, image: "BUSYBOX", command: [sleep, "1000"],
               volumeMounts: [{{name: v, mountPath: /w, subPath: {part}}}]}}]}}}}"#,
        host.display()
    )
}

#[test]
fn volumes_and_logs() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("vols");
    cluster.import_busybox();
    let host = cluster.data().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("known"), "known\n").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(host.join("socket")).unwrap();
    cluster.make(SHOWN);
    cluster.make(&WAITING.replace("HOST", &host.to_string_lossy()));
    contents(&cluster);
    updates(&cluster);
    what_is_missing(&cluster);
    paths_of_the_host(&cluster, &host);
    planted_links(&cluster, &host);
    logs(&cluster);
    rotation(&cluster);
    let pod = cluster.until_phase("greedy", "Failed");
    assert_eq!(pod["status"]["reason"], "Evicted");
    let words = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
    assert_eq!(pod["status"]["message"], words);
    cluster.happened("greedy", &format!("Warning/Evicted: {words}"));
}

fn contents(cluster: &Cluster) {
    cluster.until_ready("vols");
    let lines = |command: &str| cluster.exec("vols", command);
    let modes = "cd /; for f in files/a.txt files/bin items/deep/er items/b creds/user fixed/k down/name all/token all/sub/user; \
                 do stat -L -c '%n %u:%g %a' $f; done; stat -c '%n %a' disk disk/x disk/x/y disk/vols/z files creds all memory";
    assert_eq!(
        lines(modes),
        "files/a.txt 0:0 644\nfiles/bin 0:0 644\nitems/deep/er 0:0 400\nitems/b 0:0 600\ncreds/user 0:0 440\nfixed/k 0:0 644\n\
         down/name 0:0 644\nall/token 0:0 444\nall/sub/user 0:0 444\n\
         disk 777\ndisk/x 777\ndisk/x/y 777\ndisk/vols/z 777\nfiles 777\ncreds 1777\nall 1777\nmemory 777\n"
    );
    let shown = "cat /files/a.txt /items/b /creds/word /fixed/k /down/name /down/cpu /all/cm /all/ns /etc/single.txt; ls /maybe; \
                 od -An -tx1 /files/bin";
    assert_eq!(
        lines(shown),
        "onetwopwforevervols250twodefaultone 00 01 02\n"
    );
    // What the kubelet writes, containers only read.
    for path in ["files", "creds", "down", "all"] {
        let refused = lines(&format!("echo x > /{path}/mine"));
        assert!(
            refused.contains("Read-only file system"),
            "{path}: {refused}"
        );
    }
    let refused = lines("dd if=/dev/zero of=/memory/x bs=1M count=2; df -k /memory | tail -1");
    assert!(refused.contains("No space left on device"), "{refused}");
    assert!(refused.contains(" 1024 "), "{refused}");
    let mounts = lines("cat /proc/mounts");
    for path in ["/memory", "/creds", "/all", "/down"] {
        assert!(mounts.contains(&format!("tmpfs {path} tmpfs")), "{mounts}");
    }
    let claims = lines(
        "p=$(cut -d. -f2 /all/token | tr '_-' '/+'); while [ $((${#p} % 4)) != 0 ]; do p=$p=; done; echo $p | base64 -d",
    );
    let claims: serde_json::Value = serde_json::from_str(&claims).unwrap();
    assert_eq!(claims["aud"][0], "vault");
    assert_eq!(claims["sub"], "system:serviceaccount:default:default");
    assert_eq!(claims["kubernetes.io"]["pod"]["name"], "vols");
    let (from, to) = (claims["iat"].as_i64(), claims["exp"].as_i64());
    assert_eq!(to.zip(from).map(|(to, from)| to - from), Some(600));
}

/// A change of what a volume shows is there within moments; an open file and a `subPath` stay as they were.
fn updates(cluster: &Cluster) {
    let started = Instant::now();
    let patch =
        |kind: &str, name: &str, patch: &str| cluster.ask(&["patch", kind, name, "-p", patch]);
    patch(
        "configmap",
        "files",
        r#"{"data":{"a.txt":"changed","c.txt":"new"}}"#,
    );
    patch("secret", "creds", r#"{"stringData":{"user":"bob"}}"#);
    cluster.ask(&["label", "pod", "vols", "extra=1"]);
    cluster.ask(&["create", "configmap", "none", "--from-literal=now=there"]);
    let shown = "cat /files/a.txt /files/c.txt /items/deep/er /creds/user /all/sub/user; echo; cat /down/labels; echo; cat /maybe/now";
    eventually("the new contents", || {
        cluster.exec("vols", shown) == "changednewchangedbobbob\napp=\"vols\"\nextra=\"1\"\nthere"
    });
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(cluster.exec("vols", "cat /etc/single.txt"), "one");
    let output = cluster.kubectl(&["patch", "configmap", "fixed", "-p", r#"{"data":{"k":"x"}}"#]);
    assert!(
        text(&output).contains("field is immutable when `immutable` is set"),
        "{}",
        text(&output)
    );
}

fn what_is_missing(cluster: &Cluster) {
    let setup = "Warning/FailedMount: MountVolume.SetUp failed for volume";
    cluster.happened(
        "late",
        &format!("{setup} \"v\" : configmap \"latecomer\" not found"),
    );
    cluster.happened(
        "late",
        &format!("{setup} \"s\" : secret \"latecomer\" not found"),
    );
    assert_eq!(waiting(&cluster.pod("late"), "c").0, "ContainerCreating");
    cluster.ask(&["create", "configmap", "latecomer", "--from-literal=k=v"]);
    cluster.ask(&[
        "create",
        "secret",
        "generic",
        "latecomer",
        "--from-literal=k=v",
    ]);
    cluster.until_ready("late");
    cluster.happened(
        "nokey",
        &format!("{setup} \"v\" : references non-existent config key: nokey"),
    );
}

fn paths_of_the_host(cluster: &Cluster, host: &Path) {
    cluster.until_ready("hosts");
    eventually("what the container wrote", || {
        host.join("dir/made").exists()
            && std::fs::read_to_string(host.join("file")).is_ok_and(|text| text == "y\n")
    });
    assert_eq!(cluster.ask(&["logs", "hosts"]), "known\nsocket\n");
    let refused = cluster.exec("hosts", "echo z > /known");
    assert!(refused.contains("Read-only file system"), "{refused}");
    for (volume, words) in [
        ("v", "known is not a directory"),
        ("w", "nothing is not a socket file"),
    ] {
        cluster.happened(
            "wrong",
            &format!(
                "Warning/FailedMount: MountVolume.SetUp failed for volume \"{volume}\" : hostPath type check failed: {}/{words}",
                host.display()
            ),
        );
    }
    // It goes with its pod, the host's files stay.
    cluster.ask(&["delete", "pod", "hosts"]);
    assert!(host.join("dir/made").exists());
}

/// A container cannot lead the kubelet out of a volume by links: a later `subPath` through them is refused.
fn planted_links(cluster: &Cluster, host: &Path) {
    cluster.until_phase("planter", "Succeeded");
    for (name, part) in [
        ("inward", "inside"),
        ("absolute", "absolute"),
        ("passwd", "absolute/passwd"),
        ("upward", "upwards"),
        ("makes", "absolute/skiff-made-this"),
    ] {
        cluster.make(&victim(name, host, part));
    }
    cluster.until_ready("inward");
    assert_eq!(cluster.exec("inward", "cat /w/f"), "fine\n");
    for name in ["absolute", "passwd", "upward", "makes"] {
        let pod = cluster.until(name, "the refusal", |pod| {
            waiting(pod, "c").0 == "CreateContainerConfigError"
        });
        let words = "failed to prepare subPath for volumeMount \"v\" of container \"c\"";
        assert_eq!(waiting(&pod, "c").1, words);
        cluster.happened(name, &format!("Warning/Failed: Error: {words}"));
    }
    assert!(!Path::new("/etc/skiff-made-this").exists());
}

/// `kubectl logs` in its ways, and the file that it reads.
fn logs(cluster: &Cluster) {
    cluster.until("talk", "a restart", |pod| {
        container(pod, "c")["restartCount"].as_i64() >= Some(1)
    });
    let log = |more: &[&str]| cluster.ask(&[&["logs", "talk"], more].concat());
    let whole = "line 1\nline 2\nline 3\nline 4\nline 5\nerr\npartial";
    assert_eq!(log(&["--previous"]), whole);
    assert_eq!(log(&["--previous", "--tail=2"]), "err\npartial");
    assert_eq!(log(&["--previous", "--limit-bytes=6"]), "line 1");
    assert_eq!(log(&["--previous", "--since=1h"]), whole);
    assert_eq!(
        log(&["--previous", "--since-time=2200-01-01T00:00:00Z"]),
        ""
    );
    let timed = log(&["--previous", "--timestamps", "--tail=1"]);
    assert!(
        timed.len() == "2026-01-01T00:00:00.000000000Z partial".len()
            && timed.ends_with("Z partial"),
        "{timed}"
    );
    // A follower has all and ends with the container.
    cluster.until("talk", "another run", |pod| {
        container(pod, "c")["restartCount"].as_i64() >= Some(2)
            && container(pod, "c")["state"]["running"].is_object()
    });
    assert_eq!(log(&["-f"]), whole);
    let folders = cluster.footprint().log_directories;
    let folder = folders
        .iter()
        .find(|name| name.starts_with("default_talk_"));
    let file = cluster
        .data()
        .join("kubelet/logs")
        .join(folder.unwrap())
        .join("c/0.log");
    let file = std::fs::read_to_string(file).unwrap();
    let lines: Vec<Vec<&str>> = file
        .lines()
        .map(|line| line.splitn(4, ' ').collect())
        .collect();
    for (line, wanted) in [
        (&lines[0], ["stdout", "F", "line 1"]),
        (&lines[5], ["stderr", "F", "err"]),
        (&lines[6], ["stdout", "P", "partial"]),
    ] {
        assert_eq!(line[1..], wanted, "{file}");
        assert!(line[0].len() == 30 && line[0].ends_with('Z'), "{file}");
    }
}

/// A log that has grown too long is put aside, and its reader sees what comes after.
fn rotation(cluster: &Cluster) {
    let folder = || {
        let folders = cluster.footprint().log_directories;
        let folder = folders
            .iter()
            .find(|name| name.starts_with("default_flood_"));
        cluster
            .data()
            .join("kubelet/logs")
            .join(folder.unwrap())
            .join("c")
    };
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(folder()).unwrap().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    eventually("a log that was put aside", || names().len() == 2);
    let names = names();
    assert!(
        names[0] == "0.log" && names[1].starts_with("0.log.20"),
        "{names:?}"
    );
    cluster.exec("flood", "touch /tmp/go");
    eventually("the line after", || {
        cluster.ask(&["logs", "flood", "--tail=1"]) == "after\n"
    });
}
