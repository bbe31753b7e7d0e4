//! The lives of pods: order of containers, restarts, images that are not there, hooks, ends.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, cannot_run, eventually};
use crate::observe::{condition, container, waiting};

/// Every pod is made at once; each has a check of its own below.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: order}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - name: first
    image: "BUSYBOX"
    command: [sh, -c, "until nslookup gate.default.svc.cluster.local; do sleep 0.2; done >/dev/null 2>&1; echo first >> /v/log"]
    volumeMounts: [{name: v, mountPath: /v}]
  - name: side
    image: "BUSYBOX"
    restartPolicy: Always
    command: [sh, -c, "trap 'echo side-stops $(cat /v/main); exit 0' TERM; echo side >> /v/log; while true; do sleep 0.1; done"]
    startupProbe: {exec: {command: [grep, side, /v/log]}, periodSeconds: 1}
    volumeMounts: [{name: v, mountPath: /v}]
  - {name: second, image: "BUSYBOX", command: [sh, -c, "echo second >> /v/log"], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - {name: main, image: "BUSYBOX", command: [sh, -c, "cat /v/log; sleep 1; echo done > /v/main"], volumeMounts: [{name: v, mountPath: /v}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shared}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: server
    image: "BUSYBOX"
    command: [sh, -c, "echo hello > /v/index.html; exec httpd -f -p 8080 -h /v"]
    volumeMounts: [{name: v, mountPath: /v}]
  - name: client
    image: "BUSYBOX"
    workingDir: /v/deep/er
    command: [sh, -c, "pwd; until wget -q -O - http://localhost:8080/; do sleep 0.1; done; hostname; sleep 1000"]
    volumeMounts: [{name: v, mountPath: /v}]
---
apiVersion: v1
kind: Pod
metadata: {name: always}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "BUSYBOX", command: [sh, -c, "exit 3"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: onfailure}
spec:
  restartPolicy: OnFailure
  volumes: [{name: v, emptyDir: {}}]
  containers: [{name: c, image: "BUSYBOX", command: [sh, -c, "test -f /v/x && exit 0; touch /v/x; exit 1"], volumeMounts: [{name: v, mountPath: /v}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: never}
spec:
  restartPolicy: Never
  containers: [{name: c, image: "BUSYBOX", command: [sh, -c, "echo last words > /dev/termination-log; exit 7"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: fromlogs}
spec:
  restartPolicy: Never
  containers:
  - name: log
    image: "BUSYBOX"
    command: [sh, -c, "echo one; echo two; exit 1"]
    terminationMessagePolicy: FallbackToLogsOnError
  - name: file
    image: "BUSYBOX"
    command: [sh, -c, "echo ignored; echo written > /tmp/message; exit 1"]
    terminationMessagePolicy: FallbackToLogsOnError
    terminationMessagePath: /tmp/message
---
apiVersion: v1
kind: Pod
metadata: {name: oom}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: "BUSYBOX", command: [sh, -c, "tail /dev/zero"], resources: {limits: {memory: 16Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: hook}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: "BUSYBOX"
    command: [sleep, "1000"]
    lifecycle: {postStart: {exec: {command: [sh, -c, "echo no; exit 4"]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: nocommand}
spec:
  restartPolicy: Never
  containers: [{name: c, image: "BUSYBOX", command: [/nonesuch]}]
---
apiVersion: v1
kind: Pod
metadata: {name: orphaned}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "BUSYBOX", command: [sleep, "76543"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: refused}
spec:
  os: {name: windows}
  containers: [{name: c, image: "BUSYBOX"}]
---
apiVersion: v1
kind: Pod
metadata: {name: images}
spec:
  containers:
  - {name: absent, image: "skiff.local/none"}
  - {name: never, image: "skiff.test/none:1", imagePullPolicy: Never}
  - {name: invalid, image: "skiff.local/NONE"}
---
apiVersion: v1
kind: Pod
metadata: {name: noconfig}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: "BUSYBOX", command: [sh, -c, "echo $K"], env: [{name: K, valueFrom: {configMapKeyRef: {name: late, key: k}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: nonroot}
spec:
  containers:
  - {name: c, image: "BUSYBOX", command: [id], securityContext: {runAsNonRoot: true}}
"#;

/// Pods that are asked to end in several ways. `HOST` is a folder of the test's.
const ENDING: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: graceful}
spec:
  terminationGracePeriodSeconds: 20
  volumes: [{name: h, hostPath: {path: HOST, type: DirectoryOrCreate}}]
  containers:
  - name: c
    image: "BUSYBOX"
    command: [sh, -c, "trap 'echo term >> /h/log; sleep 1; echo end >> /h/log; exit 0' TERM; while true; do sleep 0.1; done"]
    lifecycle:
      postStart: {exec: {command: [sh, -c, "echo poststart >> /h/log"]}}
      preStop: {exec: {command: [sh, -c, "echo prestop >> /h/log; sleep 1; echo prestop-done >> /h/log"]}}
    volumeMounts: [{name: h, mountPath: /h}]
---
apiVersion: v1
kind: Pod
metadata: {name: stubborn}
spec:
  terminationGracePeriodSeconds: 4
  containers:
  - {name: c, image: "BUSYBOX", command: [sh, -c, "trap '' TERM; while true; do sleep 0.1; done"]}
---
apiVersion: v1
kind: Pod
metadata: {name: forced}
spec:
  terminationGracePeriodSeconds: 100
  containers:
  - {name: c, image: "BUSYBOX", command: [sh, -c, "trap '' TERM; while true; do sleep 0.1; done", forced-end-mark]}
---
apiVersion: v1
kind: Pod
metadata: {name: badhook}
spec:
  terminationGracePeriodSeconds: 20
  containers:
  - name: c
    image: "BUSYBOX"
    command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 0.1; done"]
    lifecycle: {preStop: {exec: {command: ["false"]}}}
"#;

#[test]
fn lives_of_pods() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("pods");
    cluster.import_busybox();
    let host = cluster.data().join("host");
    cluster.make(PODS);
    cluster.make(&ENDING.replace("HOST", &host.to_string_lossy()));
    back_off(&cluster, &[10]);
    containers_in_order(&cluster);
    containers_share(&cluster);
    ends_and_last_words(&cluster);
    starts_that_fail(&cluster);
    refusals(&cluster);
    a_shim_that_dies(&cluster);
    images_that_are_not_there(&cluster);
    settings_that_are_not_there(&cluster);
    graceful_end(&cluster, &host);
    other_ends(&cluster);
    back_off(&cluster, &[20, 40]);
}

/// Init containers wait for a service that comes later; a sidecar runs from before the main container to after it.
fn containers_in_order(cluster: &Cluster) {
    let pod = cluster.until("order", "the first init container", |pod| {
        container(pod, "first")["state"]["running"].is_object()
    });
    assert_eq!(pod["status"]["phase"], "Pending");
    let initialized = condition(&pod, "Initialized");
    assert_eq!(initialized["reason"], "ContainersNotInitialized");
    assert_eq!(
        initialized["message"],
        "containers with incomplete status: [first side second]"
    );
    assert_eq!(waiting(&pod, "main").0, "PodInitializing");
    let listed = cluster.ask(&["get", "pod", "order"]);
    assert!(listed.contains("Init:0/3"), "{listed}");
    cluster.make(
        "---\n{apiVersion: v1, kind: Service, metadata: {name: gate}, spec: {ports: [{port: 80}]}}",
    );
    let pod = cluster.until_phase("order", "Succeeded");
    assert_eq!(condition(&pod, "Initialized")["reason"], "PodCompleted");
    assert_eq!(condition(&pod, "Ready")["reason"], "PodCompleted");
    assert_eq!(
        container(&pod, "side")["state"]["terminated"]["exitCode"],
        0
    );
    assert_eq!(
        cluster.ask(&["logs", "order", "-c", "main"]),
        "first\nside\nsecond\n"
    );
    assert_eq!(
        cluster.ask(&["logs", "order", "-c", "side"]),
        "side-stops done\n"
    );
    cluster.happened(
        "order",
        "spec.initContainers{side} Normal/Killing: Stopping container side",
    );
}

/// Containers of a pod share network and volumes; the kubelet tells what it does in upstream's words.
fn containers_share(cluster: &Cluster) {
    let pod = cluster.until_ready("shared");
    eventually("the page", || {
        cluster.ask(&["logs", "shared", "-c", "client"]) == "/v/deep/er\nhello\nshared\n"
    });
    for kind in [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ] {
        assert_eq!(condition(&pod, kind)["status"], "True", "{kind}");
    }
    assert_eq!(pod["status"]["podIP"], pod["status"]["podIPs"][0]["ip"]);
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    cluster.happened("shared", "spec.containers{client} Normal/Started");
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let events = cluster.events("shared");
    let present = "already present on machine and can be accessed by the pod";
    for words in [
        format!(" Normal/Scheduled: Successfully assigned default/shared to {node}"),
        format!(
            "spec.containers{{server}} Normal/Pulled: Container image \"{}\" {present}",
            crate::image::BUSYBOX
        ),
        "spec.containers{server} Normal/Created: Container created".to_owned(),
        "spec.containers{server} Normal/Started: Container started".to_owned(),
    ] {
        assert_eq!(
            events.iter().filter(|event| **event == words).count(),
            1,
            "{words}: {events:#?}"
        );
    }
}

fn ends_and_last_words(cluster: &Cluster) {
    let pod = cluster.until_phase("onfailure", "Succeeded");
    assert_eq!(container(&pod, "c")["restartCount"], 1);
    let ended = |pod: &str, name: &str| {
        let pod = cluster.until_phase(pod, "Failed");
        let end = container(&pod, name)["state"]["terminated"].clone();
        let text = |field: &str| end[field].as_str().unwrap_or_default().to_owned();
        (end["exitCode"].as_i64(), text("reason"), text("message"))
    };
    let error = "Error".to_owned();
    assert_eq!(
        ended("never", "c"),
        (Some(7), error.clone(), "last words\n".to_owned())
    );
    assert_eq!(
        ended("fromlogs", "log"),
        (Some(1), error.clone(), "one\ntwo\n".to_owned())
    );
    assert_eq!(
        ended("fromlogs", "file"),
        (Some(1), error, "written\n".to_owned())
    );
    let (code, reason, _) = ended("oom", "c");
    assert_eq!((code, &*reason), (Some(137), "OOMKilled"));
}

fn starts_that_fail(cluster: &Cluster) {
    let pod = cluster.until_phase("nocommand", "Failed");
    let end = &container(&pod, "c")["state"]["terminated"];
    assert_eq!(
        (&end["exitCode"], &end["reason"]),
        (&128.into(), &"StartError".into())
    );
    let words = "exec: \"/nonesuch\": stat /nonesuch: no such file or directory";
    assert!(
        end["message"].as_str().is_some_and(|m| m.ends_with(words)),
        "{end}"
    );
    cluster.happened(
        "nocommand",
        "spec.containers{c} Warning/Failed: Error: failed to start container \"c\": OCI runtime create failed",
    );
    let pod = cluster.until("hook", "the failed hook", |pod| {
        waiting(pod, "c").0 == "PostStartHookError"
    });
    let message = waiting(&pod, "c").1;
    assert!(
        message.contains("command 'sh -c echo no; exit 4' exited with 4: , message: \"no\\n\""),
        "{message}"
    );
    cluster.happened("hook", "Warning/FailedPostStartHook: PostStartHook failed");
    cluster.happened("hook", "Normal/Killing: FailedPostStartHook");
}

/// The node's last word on a pod that was bound to it.
fn refusals(cluster: &Cluster) {
    let pod = cluster.until_phase("refused", "Failed");
    let words = "Failed to admit pod as the OS field doesn't match node OS";
    assert_eq!(pod["status"]["reason"], "PodOSNotSupported");
    assert_eq!(
        pod["status"]["message"],
        format!("Pod was rejected: {words}")
    );
    assert!(container(&pod, "c").is_null());
    let listed = cluster.ask(&["get", "pod", "refused"]);
    assert!(listed.contains(" PodOSNotSupported "), "{listed}");
    cluster.happened("refused", &format!("Warning/PodOSNotSupported: {words}"));
}

/// The process that holds a pod together is killed: the pod is made anew, and nothing of the old one is left.
fn a_shim_that_dies(cluster: &Cluster) {
    let before = cluster.until_ready("orphaned");
    let sleepers = || -> Vec<u32> {
        let processes = cluster.footprint().processes.into_iter();
        let sleepers = processes.filter(|(_, line)| line.trim() == "sleep 76543");
        sleepers.map(|(id, _)| id).collect()
    };
    let [sleeper] = sleepers()[..] else {
        panic!("one process was expected");
    };
    let status = std::fs::read_to_string(format!("/proc/{sleeper}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let parent = parent.and_then(|id| id.trim().parse().ok()).unwrap();
    let parent = nix::unistd::Pid::from_raw(parent);
    nix::sys::signal::kill(parent, nix::sys::signal::Signal::SIGKILL).unwrap();
    let after = cluster.until("orphaned", "another life", |pod| {
        container(pod, "c")["restartCount"] == 1 && condition(pod, "Ready")["status"] == "True"
    });
    assert_ne!(
        container(&after, "c")["containerID"],
        container(&before, "c")["containerID"]
    );
    let words = "Normal/SandboxChanged: Pod sandbox changed, it will be killed and re-created.";
    cluster.happened("orphaned", words);
    assert_eq!(sleepers().len(), 1);
}

fn images_that_are_not_there(cluster: &Cluster) {
    let pod = cluster.until("images", "the back-off", |pod| {
        waiting(pod, "absent").0 == "ImagePullBackOff"
    });
    let pull = "rpc error: code = NotFound desc = failed to pull and unpack image \"skiff.local/none:latest\": \
                failed to resolve reference \"skiff.local/none:latest\": skiff.local/none:latest: not found";
    assert_eq!(
        waiting(&pod, "absent").1,
        format!("Back-off pulling image \"skiff.local/none\": ErrImagePull: {pull}")
    );
    let never = "Container image \"skiff.test/none:1\" is not present with pull policy of Never";
    assert_eq!(waiting(&pod, "never"), ("ErrImageNeverPull", never));
    let invalid = "Failed to apply default image tag \"skiff.local/NONE\": couldn't parse image name \"skiff.local/NONE\": \
                   invalid reference format";
    assert_eq!(waiting(&pod, "invalid").0, "InvalidImageName");
    assert!(waiting(&pod, "invalid").1.starts_with(invalid));
    for words in [
        "spec.containers{absent} Normal/Pulling: Pulling image \"skiff.local/none\"",
        &format!(
            "spec.containers{{absent}} Warning/Failed: Failed to pull image \"skiff.local/none\": {pull}"
        ),
        "spec.containers{absent} Warning/Failed: Error: ErrImagePull",
        "spec.containers{absent} Normal/BackOff: Back-off pulling image \"skiff.local/none\"",
        "spec.containers{absent} Warning/Failed: Error: ImagePullBackOff",
        &format!("spec.containers{{never}} Warning/ErrImageNeverPull: {never}"),
        "spec.containers{never} Warning/Failed: Error: ErrImageNeverPull",
        &format!("spec.containers{{invalid}} Warning/InspectFailed: {invalid}"),
        "spec.containers{invalid} Warning/Failed: Error: InvalidImageName",
    ] {
        cluster.happened("images", words);
    }
}

fn settings_that_are_not_there(cluster: &Cluster) {
    let pod = cluster.until("nonroot", "the refusal", |pod| {
        waiting(pod, "c").0 == "CreateContainerConfigError"
    });
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let words = format!(
        "container has runAsNonRoot and image will run as root (pod: \"nonroot_default({uid})\", container: c)"
    );
    assert_eq!(waiting(&pod, "c").1, words);
    cluster.happened("nonroot", &format!("Warning/Failed: Error: {words}"));
    let pod = cluster.until("noconfig", "the refusal", |pod| {
        waiting(pod, "c").0 == "CreateContainerConfigError"
    });
    assert_eq!(waiting(&pod, "c").1, "configmap \"late\" not found");
    cluster.ask(&["create", "configmap", "late", "--from-literal=k=came"]);
    cluster.until_phase("noconfig", "Succeeded");
    assert_eq!(cluster.ask(&["logs", "noconfig"]), "came\n");
}

/// The hook runs, then TERM comes, then the container has the rest of its grace period.
fn graceful_end(cluster: &Cluster, host: &std::path::Path) {
    cluster.until_ready("graceful");
    cluster.ask(&["delete", "pod", "graceful", "--wait=false"]);
    let listed = cluster.ask(&["get", "pod", "graceful"]);
    assert!(listed.contains("Terminating"), "{listed}");
    cluster.until_gone("graceful");
    let log = std::fs::read_to_string(host.join("log")).unwrap();
    assert_eq!(log, "poststart\nprestop\nprestop-done\nterm\nend\n");
    cluster.happened("graceful", "Normal/Killing: Stopping container c");
}

fn other_ends(cluster: &Cluster) {
    for pod in ["stubborn", "forced", "badhook"] {
        cluster.until_ready(pod);
    }
    let started = Instant::now();
    cluster.ask(&["delete", "pod", "stubborn", "badhook", "--wait=false"]);
    cluster.until_gone("badhook");
    cluster.happened("badhook", "Warning/FailedPreStopHook: PreStopHook failed");
    cluster.until_gone("stubborn");
    let lasted = started.elapsed();
    let allowed = Duration::from_secs(4)..Duration::from_secs(20);
    assert!(allowed.contains(&lasted), "{lasted:?}");
    let runs = || {
        let footprint = cluster.footprint();
        let mut lines = footprint.processes.values();
        lines.any(|line| line.contains("forced-end-mark"))
    };
    assert!(runs());
    cluster.ask(&["delete", "pod", "forced", "--force", "--grace-period=0"]);
    assert!(cluster.pod("forced").is_null());
    eventually("the end of the process", || !runs());
}

/// The first restart comes at once, then after pauses of 10 s, 20 s, and so on. Waits for one of these `pauses`.
fn back_off(cluster: &Cluster, pauses: &[u32]) {
    let told = |pod: &serde_json::Value| {
        let (reason, message) = waiting(pod, "c");
        let mut told = pauses
            .iter()
            .filter(|pause| message.starts_with(&format!("back-off {pause}s ")));
        told.next()
            .filter(|_| reason == "CrashLoopBackOff")
            .copied()
    };
    let pod = cluster.until("always", &format!("a pause of {pauses:?} s"), |pod| {
        told(pod).is_some()
    });
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let place = format!("always_default({uid})");
    let pause = told(&pod).unwrap();
    assert_eq!(
        waiting(&pod, "c").1,
        format!("back-off {pause}s restarting failed container=c pod={place}")
    );
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(condition(&pod, "Ready")["reason"], "ContainersNotReady");
    let end = &container(&pod, "c")["lastState"]["terminated"];
    assert_eq!(end["exitCode"], 3);
    cluster.happened(
        "always",
        &format!("Warning/BackOff: Back-off restarting failed container c in pod {place}"),
    );
}
