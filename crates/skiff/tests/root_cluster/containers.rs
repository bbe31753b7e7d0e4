//! What a container is given: environment, user, rights, resources, the host's network.

use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, cannot_run, eventually, fetch};
use crate::observe::container;

const PODS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {COLOUR: red, SIZE: "10"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {PASSWORD: hidden}
---
apiVersion: v1
kind: Service
metadata: {name: back-end}
spec: {ports: [{name: web, port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: user}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000, supplementalGroups: [4000]}
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - {name: c, image: "BUSYBOX", command: [sh, -c, "id -u; id -g; id -G; touch /v/f; stat -c '%u %g %a' /v /v/f"], volumeMounts: [{name: v, mountPath: /v}]}
  - {name: own, image: "BUSYBOX", command: [sh, -c, "id -u; id -g"], securityContext: {runAsUser: 101, runAsGroup: 102, runAsNonRoot: true}}
---
apiVersion: v1
kind: Pod
metadata: {name: rights}
spec:
  restartPolicy: Never
  containers:
  - {name: plain, image: "BUSYBOX", command: [sh, -c, "grep CapEff /proc/self/status; touch /x && echo wrote; mount -t tmpfs t /tmp 2>&1"]}
  - {name: changed, image: "BUSYBOX", command: [sh, -c, "grep CapEff /proc/self/status"], securityContext: {capabilities: {drop: [ALL], add: [NET_ADMIN, SYS_TIME]}}}
  - {name: fewer, image: "BUSYBOX", command: [sh, -c, "grep CapEff /proc/self/status"], securityContext: {capabilities: {drop: [CHOWN, KILL]}}}
  - {name: privileged, image: "BUSYBOX", command: [sh, -c, "mount -t tmpfs t /tmp && echo mounted; test -e /dev/kmsg && echo devices"], securityContext: {privileged: true}}
  - {name: readonly, image: "BUSYBOX", command: [sh, -c, "touch /x 2>&1; echo x > /dev/shm/x && echo shm"], securityContext: {readOnlyRootFilesystem: true}}
  - {name: confined, image: "BUSYBOX", command: [sh, -c, "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status"], securityContext: {allowPrivilegeEscalation: false, seccompProfile: {type: RuntimeDefault}}}
---
apiVersion: v1
kind: Pod
metadata: {name: limits}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: "BUSYBOX", command: [sleep, "1000"], resources: {requests: {cpu: 100m, memory: 20Mi}, limits: {cpu: 500m, memory: 32Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: together}
spec:
  terminationGracePeriodSeconds: 1
  shareProcessNamespace: true
  containers:
  - {name: a, image: "BUSYBOX", command: [sleep, "1000"]}
  - {name: b, image: "BUSYBOX", command: [sleep, "98765"]}
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "BUSYBOX", command: [sh, -c, "hostname; readlink /proc/self/ns/net; sleep 1000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: hostport}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: skiff.local/demo, ports: [{containerPort: 8080, hostPort: HOSTPORT}]}]
"#;

const ENVIRONMENT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: env, labels: {app: env}, annotations: {note: words}}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: "BUSYBOX"
    command: [sh, -c, 'echo "args=$*"; env', "$(COLOUR)"]
    args: ["$(GREETING)", "$$(GREETING)", "$(NOT_THERE)"]
    resources: {requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 1500m, memory: 64Mi}}
    envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: keys}, prefix: S_}, {configMapRef: {name: none, optional: true}}]
    env:
    - {name: GREETING, value: "hello $(COLOUR)"}
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: APP, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: MILLI, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: requests.memory, divisor: 1Mi}}}
    - {name: KEY, valueFrom: {configMapKeyRef: {name: settings, key: SIZE}}}
    - {name: SECRET, valueFrom: {secretKeyRef: {name: keys, key: PASSWORD}}}
    - {name: MAYBE, valueFrom: {secretKeyRef: {name: keys, key: NONE, optional: true}}}
"#;

#[test]
fn what_containers_are_given() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("given");
    cluster.import_busybox();
    // A port that is the cluster's own: nothing else listens on its range of node ports.
    let settings = cluster.settings();
    let range = settings
        .iter()
        .position(|s| s == "--node-port-range")
        .unwrap();
    let last = settings[range + 1].split('-').next_back().unwrap();
    cluster.make(&PODS.replace("HOSTPORT", last));
    // Service variables are those of the services that there are.
    cluster.make(ENVIRONMENT);
    environment(&cluster);
    users(&cluster);
    rights(&cluster);
    resources(&cluster);
    cluster.until_ready("together");
    // A process that belongs to none of them is the first; each sees the others.
    let ask = |command: &str| {
        let exec = ["exec", "together", "-c", "a", "--", "sh", "-c", command];
        cluster.ask(&exec)
    };
    assert_eq!(ask("tr -d '\\0' < /proc/1/cmdline"), "/pause");
    assert!(ask("ps").contains("sleep 98765"));
    let pod = cluster.until_ready("host");
    assert_eq!(pod["status"]["podIP"], pod["status"]["hostIP"]);
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    eventually("the words of the pod in the host's network", || {
        let log = cluster.ask(&["logs", "host"]);
        log.lines().nth(1) == Some(&*own.to_string_lossy())
    });
    let pod = cluster.until_ready("hostport");
    let address = pod["status"]["hostIP"].as_str().unwrap_or_default();
    let address = format!("{address}:{last}");
    eventually("the host port", || {
        fetch(&address, "/hostname").is_some_and(|answer| answer.ends_with("hostport"))
    });
    cluster.ask(&["delete", "pod", "hostport"]);
    eventually("the host port is free", || fetch(&address, "/").is_none());
}

fn environment(cluster: &Cluster) {
    let pod = cluster.until_phase("env", "Succeeded");
    let log = cluster.ask(&["logs", "env"]);
    let service = cluster.ask(&[
        "get",
        "service",
        "back-end",
        "-o",
        "jsonpath={.spec.clusterIP}",
    ]);
    let text = |path: &str| {
        pod.pointer(path)
            .and_then(|v| v.as_str())
            .unwrap_or_default()
    };
    let expected = [
        "args=hello red $(GREETING) $(NOT_THERE)",
        "COLOUR=red",
        "SIZE=10",
        "S_PASSWORD=hidden",
        "GREETING=hello red",
        "POD_NAME=env",
        &format!("POD_IP={}", text("/status/podIP")),
        &format!("HOST_IP={}", text("/status/hostIP")),
        &format!("NODE={}", text("/spec/nodeName")),
        "ACCOUNT=default",
        "APP=env",
        "NOTE=words",
        "CPU=2",
        "MILLI=250",
        "MEMORY=32",
        "KEY=10",
        "SECRET=hidden",
        "HOSTNAME=env",
        "KUBERNETES_SERVICE_PORT=443",
        &format!("BACK_END_SERVICE_HOST={service}"),
        "BACK_END_SERVICE_PORT_WEB=80",
        &format!("BACK_END_PORT_80_TCP=tcp://{service}:80"),
    ];
    for line in expected {
        assert!(log.lines().any(|l| l == line), "{line}: {log}");
    }
    assert!(!log.contains("MAYBE"), "{log}");
}

fn users(cluster: &Cluster) {
    let pod = cluster.until_phase("user", "Succeeded");
    let log = |container: &str| cluster.ask(&["logs", "user", "-c", container]);
    assert_eq!(
        log("c"),
        "1000\n3000\n3000 2000 4000\n0 2000 2777\n1000 2000 644\n"
    );
    assert_eq!(log("own"), "101\n102\n");
    let user = &container(&pod, "c")["user"]["linux"];
    assert_eq!((&user["uid"], &user["gid"]), (&1000.into(), &3000.into()));
}

fn rights(cluster: &Cluster) {
    cluster.until("rights", "the end of all", |pod| {
        ["Succeeded", "Failed"]
            .map(Into::into)
            .contains(&pod["status"]["phase"])
    });
    let log = |container: &str| cluster.ask(&["logs", "rights", "-c", container]);
    // Upstream's default set is containerd's.
    let plain = log("plain");
    assert!(
        plain.starts_with("CapEff:\t00000000a80425fb\nwrote\n"),
        "{plain}"
    );
    assert!(plain.contains("permission denied"), "{plain}");
    assert_eq!(log("changed"), "CapEff:\t0000000002001000\n");
    assert_eq!(log("fewer"), "CapEff:\t00000000a80425da\n");
    assert_eq!(log("privileged"), "mounted\ndevices\n");
    assert_eq!(log("readonly"), "touch: /x: Read-only file system\nshm\n");
    assert_eq!(log("confined"), "NoNewPrivs:\t1\nSeccomp:\t2\n");
}

/// Directories named `name` at and below `folder`.
fn named(folder: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name() == name {
                found.push(entry.path());
            }
            named(&entry.path(), name, found);
        }
    }
}

/// The kernel's files say what the pod asked for, under either version of control groups.
fn resources(cluster: &Cluster) {
    let pod = cluster.until_ready("limits");
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    let id = container(&pod, "c")["containerID"]
        .as_str()
        .unwrap_or_default();
    let id = id.strip_prefix("skiff://").unwrap();
    let mut groups = Vec::new();
    let top = Path::new("/sys/fs/cgroup");
    for root in ["", "memory", "cpu", "cpu,cpuacct"] {
        named(&top.join(root).join(cluster.name()), id, &mut groups);
    }
    assert!(!groups.is_empty(), "no control group of {id}");
    assert!(
        groups
            .iter()
            .all(|group| group.to_string_lossy().contains("/burstable/")),
        "{groups:?}"
    );
    let value = |file: &str| {
        let mut texts = groups
            .iter()
            .filter_map(|group| std::fs::read_to_string(group.join(file)).ok());
        texts.next().map(|text| text.trim().to_owned())
    };
    let memory = value("memory.max").or_else(|| value("memory.limit_in_bytes"));
    assert_eq!(memory.as_deref(), Some("33554432"));
    let quota = value("cpu.max").or_else(|| {
        let (quota, period) = (value("cpu.cfs_quota_us")?, value("cpu.cfs_period_us")?);
        Some(format!("{quota} {period}"))
    });
    assert_eq!(quota.as_deref(), Some("50000 100000"));
    let shares = value("cpu.weight").or_else(|| value("cpu.shares"));
    assert!(
        ["102", "4", "17"].contains(&shares.as_deref().unwrap_or_default()),
        "{shares:?}"
    );
}
