//! Manifests as users write them: what is stored, what is refused and in which words, and how it runs.

use serde_json::{Value, json};

use crate::cluster::{Cluster, cannot_run, eventually, fetch, text};
use crate::image::BUSYBOX;

/// What kubectl says when it refuses or is refused; the test fails when the manifest is accepted.
fn refusal(cluster: &Cluster, manifest: &str) -> String {
    let file = cluster.data().join("refused.yaml");
    std::fs::write(&file, manifest).unwrap();
    let output = cluster.kubectl(&["create", "-f", &file.to_string_lossy()]);
    assert!(!output.status.success(), "accepted: {manifest}");
    text(&output)
}

fn stored(cluster: &Cluster, kind: &str, name: &str) -> Value {
    serde_json::from_str(&cluster.ask(&["get", kind, name, "-o", "json"])).unwrap()
}

fn field(cluster: &Cluster, pod: &str, path: &str) -> String {
    cluster.ask(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")])
}

/// A pod of one busybox container; `more` goes into the container, in flow style.
fn pod(name: &str, script: &str, more: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  {spec}
  containers:
  - {{name: main, image: '{BUSYBOX}', command: [sh, -c, '{script}'], {more}}}
"
    )
}

#[test]
fn manifests_are_stored_refused_and_run() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("mani");
    cluster.import_busybox();
    eventually("the service account", || {
        let account = ["get", "serviceaccount", "default"];
        cluster.kubectl(&account).status.success()
    });
    start_what_takes_time(&cluster);
    defaults_are_stored(&cluster);
    refusals_name_the_fields(&cluster);
    early_versions_are_unknown(&cluster);
    settings_reach_the_containers(&cluster);
    hooks_and_volumes(&cluster);
    placement(&cluster);
    probes(&cluster);
    waiting_for_a_service(&cluster);
    claims_wait_for_their_pods(&cluster);
    how_pods_end(&cluster);
    services_are_variables_and_addresses(&cluster);
    a_file_becomes_a_pod(&cluster);
}

/// Pods whose checks need some seconds to come true.
fn start_what_takes_time(cluster: &Cluster) {
    let wait = format!(
        "initContainers: [{{name: wait, image: '{BUSYBOX}', command: [sh, -c, 'until nslookup store.default.svc.cluster.local; do sleep 1; done']}}]"
    );
    cluster.apply(&pod("waiter", "sleep 1000", "", &wait));
    cluster.apply(&pod(
        "sick",
        "sleep 1000",
        "livenessProbe: {exec: {command: [cat, /tmp/well]}, periodSeconds: 1, failureThreshold: 2}",
        "",
    ));
    cluster.apply(&pod(
        "shy",
        "mkdir /tmp/w; httpd -f -p 8000 -h /tmp/w",
        "ports: [{name: web, containerPort: 8000}], readinessProbe: {httpGet: {path: /open, port: web}, periodSeconds: 1}",
        "",
    ));
    cluster.apply(
        "apiVersion: v1
kind: Service
metadata: {name: shy}
spec: {selector: {app: shy}, ports: [{port: 80, targetPort: web}]}",
    );
}

fn defaults_are_stored(cluster: &Cluster) {
    cluster.apply(
        "apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 0
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      containers:
      - name: shop
        image: example.org/shop
        livenessProbe: {httpGet: {port: 80}, failureThreshold: 0}
        resources: {limits: {cpu: 0.5, memory: 1024Mi}}",
    );
    let shop = stored(cluster, "deployment", "shop");
    let spec = &shop["spec"];
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!(spec["revisionHistoryLimit"], 10);
    assert_eq!(spec["progressDeadlineSeconds"], 600);
    let container = &spec["template"]["spec"]["containers"][0];
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(
        container["livenessProbe"],
        json!({
            "httpGet": {"path": "/", "port": 80, "scheme": "HTTP"},
            "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
        })
    );
    assert_eq!(
        container["resources"]["limits"],
        json!({"cpu": "500m", "memory": "1Gi"})
    );

    cluster.apply(
        "apiVersion: v1
kind: ReplicationController
metadata: {name: old}
spec:
  replicas: 0
  template:
    metadata: {labels: {app: old}}
    spec: {containers: [{name: c, image: 'example.org/old:7'}]}",
    );
    let old = stored(cluster, "replicationcontroller", "old");
    assert_eq!(old["spec"]["selector"], json!({"app": "old"}));
    assert_eq!(old["metadata"]["labels"], json!({"app": "old"}));
    let container = &old["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");

    let shy = stored(cluster, "service", "shy");
    assert_eq!(shy["spec"]["type"], "ClusterIP");
    assert_eq!(shy["spec"]["sessionAffinity"], "None");
    assert_eq!(shy["spec"]["ports"][0]["protocol"], "TCP");
    assert_eq!(shy["spec"]["clusterIPs"], json!([shy["spec"]["clusterIP"]]));
}

fn refusals_name_the_fields(cluster: &Cluster) {
    let base = "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: ";
    let cases = [
        (
            "{containers: [{name: c, image: i, imagePullPolice: Always}]}",
            "strict decoding error: unknown field \"spec.containers[0].imagePullPolice\"",
        ),
        (
            "{containers: [{name: c, image: i, ports: [{containerPort: 70000}]}]}",
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            "{containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /v}]}]}",
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            "{containers: [{name: c, image: i, livenessProbe: {tcpSocket: {port: 1}, successThreshold: 2}}]}",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            "{restartPolicy: Sometimes, containers: [{name: c, image: i}]}",
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            "{volumes: [{name: v, emptyDir: {}, hostPath: {path: /}}], containers: [{name: c, image: i}]}",
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            "{tolerations: [{key: k, effect: NoRun}], containers: [{name: c, image: i}]}",
            "spec.tolerations[0].effect: Unsupported value: \"NoRun\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ),
        (
            "{containers: [{name: c, image: i, resources: {requests: {cpu: 2}, limits: {cpu: 1}}}]}",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        ("{containers: []}", "spec.containers: Required value"),
    ];
    for (spec, said) in cases {
        let answer = refusal(cluster, &format!("{base}{spec}"));
        assert!(
            answer.contains(said),
            "{spec}\nwanted {said}\ngot    {answer}"
        );
    }
    let answer = refusal(
        cluster,
        "apiVersion: v1
kind: Service
metadata: {name: bad}
spec: {type: NodePort, ports: [{port: 80, nodePort: 80}]}",
    );
    assert!(
        answer.contains("spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is "),
        "{answer}"
    );
    let answer = refusal(
        cluster,
        "apiVersion: v1
kind: Service
metadata: {name: bad}
spec: {ports: [{port: 80}, {port: 81}]}",
    );
    assert!(
        answer
            .contains("* spec.ports[0].name: Required value\n* spec.ports[1].name: Required value"),
        "{answer}"
    );
    let answer = refusal(
        cluster,
        "apiVersion: apps/v1
kind: Deployment
metadata: {name: bad}
spec:
  selector: {matchLabels: {app: one}}
  template:
    metadata: {labels: {app: two}}
    spec: {restartPolicy: Never, containers: [{name: c, image: i}]}",
    );
    for said in [
        "spec.template.metadata.labels: Invalid value: {\"app\":\"two\"}: `selector` does not match template `labels`",
        "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
    ] {
        assert!(answer.contains(said), "{answer}");
    }
    assert_eq!(
        cluster
            .ask(&["get", "pods,services,deployments", "-o", "name"])
            .lines()
            .filter(|line| line.ends_with("/bad"))
            .count(),
        0
    );
}

/// What upstream says of versions that it no longer serves.
fn early_versions_are_unknown(cluster: &Cluster) {
    let answer = refusal(
        cluster,
        "apiVersion: extensions/v1beta1
kind: Deployment
metadata: {name: early}
spec: {template: {metadata: {labels: {app: early}}, spec: {containers: [{name: c, image: i}]}}}",
    );
    assert!(
        answer.contains("no matches for kind \"Deployment\" in version \"extensions/v1beta1\"\nensure CRDs are installed first"),
        "{answer}"
    );
}

fn settings_reach_the_containers(cluster: &Cluster) {
    cluster.ask(&[
        "create",
        "configmap",
        "settings",
        "--from-literal=colour=blue",
        "--from-literal=size=7",
    ]);
    let name = "env: [{name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}, {name: SELF, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: BOTH, value: $(SELF)-$(COLOUR)}], envFrom: [{configMapRef: {name: settings}, prefix: S_}]";
    cluster.apply(&pod("settings", "env | sort", name, "restartPolicy: Never"));
    eventually("the end of the pod", || {
        field(cluster, "settings", ".status.phase") == "Succeeded"
    });
    let log = cluster.ask(&["logs", "settings"]);
    for line in [
        "COLOUR=blue",
        "BOTH=settings-blue",
        "S_colour=blue",
        "S_size=7",
    ] {
        assert!(log.lines().any(|said| said == line), "{line}: {log}");
    }
}

fn hooks_and_volumes(cluster: &Cluster) {
    cluster.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: pair}}
spec:
  terminationGracePeriodSeconds: 5
  volumes: [{{name: shared, emptyDir: {{}}}}, {{name: kept, hostPath: {{path: {data}/kept, type: DirectoryOrCreate}}}}]
  containers:
  - name: writer
    image: '{BUSYBOX}'
    command: [sh, -c, 'sleep 1000']
    volumeMounts: [{{name: shared, mountPath: /out}}, {{name: kept, mountPath: /kept}}]
    lifecycle:
      postStart: {{exec: {{command: [sh, -c, 'echo started > /out/page']}}}}
      preStop: {{exec: {{command: [sh, -c, 'echo stopped > /kept/end']}}}}
  - name: reader
    image: '{BUSYBOX}'
    command: [httpd, -f, -p, '8080', -h, /in]
    volumeMounts: [{{name: shared, mountPath: /in, readOnly: true}}]
",
        data = cluster.data().display()
    ));
    cluster.ask(&["wait", "pod/pair", "--for=condition=Ready", "--timeout=60s"]);
    let address = field(cluster, "pair", ".status.podIP");
    eventually("the page that the hook wrote", || {
        fetch(&format!("{address}:8080"), "/page").is_some_and(|page| page.ends_with("started\n"))
    });
    // One network: the writer reaches the reader as itself.
    let same = [
        "exec",
        "pair",
        "-c",
        "writer",
        "--",
        "wget",
        "-qO-",
        "http://127.0.0.1:8080/page",
    ];
    assert_eq!(cluster.ask(&same), "started\n");
    cluster.ask(&["delete", "pod", "pair"]);
    let end = std::fs::read_to_string(cluster.data().join("kept/end")).unwrap();
    assert_eq!(end, "stopped\n");
}

fn placement(cluster: &Cluster) {
    let node = cluster.ask(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    cluster.apply(&pod(
        "picky",
        "sleep 1000",
        "",
        "nodeSelector: {disk: fast}",
    ));
    eventually("the scheduler's complaint", || {
        cluster
            .ask(&[
                "get",
                "events",
                "--field-selector",
                "involvedObject.name=picky",
            ])
            .contains(
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            )
    });
    cluster.ask(&["label", "node", &node, "disk=fast"]);
    cluster.ask(&[
        "wait",
        "pod/picky",
        "--for=condition=Ready",
        "--timeout=60s",
    ]);
    cluster.ask(&["taint", "node", &node, "closed=yes:NoSchedule"]);
    cluster.apply(&pod("outside", "sleep 1000", "", ""));
    cluster.apply(&pod(
        "inside",
        "sleep 1000",
        "",
        "tolerations: [{key: closed, operator: Equal, value: 'yes', effect: NoSchedule}]",
    ));
    cluster.ask(&[
        "wait",
        "pod/inside",
        "--for=condition=Ready",
        "--timeout=60s",
    ]);
    assert_eq!(field(cluster, "outside", ".status.phase"), "Pending");
    cluster.ask(&["taint", "node", &node, "closed-"]);
    cluster.ask(&[
        "wait",
        "pod/outside",
        "--for=condition=Ready",
        "--timeout=60s",
    ]);
}

fn probes(cluster: &Cluster) {
    let restarts = ".status.containerStatuses[0].restartCount";
    eventually("a restart of the sick container", || {
        field(cluster, "sick", restarts)
            .parse::<u32>()
            .is_ok_and(|count| count > 0)
    });
    let events = |name: &str| {
        let about = format!("involvedObject.name={name}");
        cluster.ask(&["get", "events", "--field-selector", &about])
    };
    assert!(events("sick").contains("Container main failed liveness probe, will be restarted"));
    cluster.ask(&["delete", "pod", "sick", "--wait=false"]);

    eventually("the failing readiness probe", || {
        events("shy").contains("Readiness probe failed: HTTP probe failed with statuscode: 404")
    });
    let endpoints = || {
        let path = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}";
        let selector = "kubernetes.io/service-name=shy";
        cluster.ask(&["get", "endpointslices", "-l", selector, "-o", path])
    };
    assert_eq!(endpoints(), "");
    cluster.ask(&["exec", "shy", "--", "touch", "/tmp/w/open"]);
    eventually("the pod among the endpoints", || {
        endpoints() == field(cluster, "shy", ".status.podIP")
    });
    assert_eq!(field(cluster, "shy", restarts), "0");
}

fn waiting_for_a_service(cluster: &Cluster) {
    assert!(cluster.ask(&["get", "pod", "waiter"]).contains("Init:0/1"));
    cluster.apply(
        "apiVersion: v1
kind: Service
metadata: {name: store}
spec: {selector: {app: store}, ports: [{port: 80}]}",
    );
    cluster.ask(&[
        "wait",
        "pod/waiter",
        "--for=condition=Ready",
        "--timeout=60s",
    ]);
}

fn claims_wait_for_their_pods(cluster: &Cluster) {
    let node = cluster.ask(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    cluster.apply(
        "apiVersion: v1
kind: PersistentVolume
metadata: {name: shelf}
spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], nfs: {server: nowhere.example.org, path: /}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: wish}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 8Gi}}}",
    );
    assert_eq!(
        stored(cluster, "pv", "shelf")["spec"]["persistentVolumeReclaimPolicy"],
        "Retain"
    );
    cluster.apply(&pod(
        "wisher",
        "sleep 1000",
        "volumeMounts: [{name: w, mountPath: /w}]",
        &format!(
            "nodeName: {node}\n  volumes: [{{name: w, persistentVolumeClaim: {{claimName: wish}}}}]"
        ),
    ));
    cluster.ask(&["delete", "pvc", "wish", "--wait=false"]);
    assert!(cluster.ask(&["get", "pvc", "wish"]).contains("Terminating"));
    cluster.ask(&["delete", "pod", "wisher"]);
    // Returns when they are gone.
    cluster.ask(&["wait", "pvc/wish", "--for=delete", "--timeout=60s"]);
    cluster.ask(&["delete", "pv", "shelf", "--timeout=60s"]);
}

fn how_pods_end(cluster: &Cluster) {
    let never = "restartPolicy: Never";
    cluster.apply(&pod("good", "exit 0", "", "restartPolicy: OnFailure"));
    cluster.apply(&pod("poor", "exit 3", "", never));
    cluster.apply(&pod(
        "greedy",
        "sleep 1; tail /dev/zero",
        "resources: {limits: {memory: 32Mi}}",
        never,
    ));
    cluster.apply(&pod("again", "exit 3", "", ""));
    for (name, phase) in [
        ("good", "Succeeded"),
        ("poor", "Failed"),
        ("greedy", "Failed"),
    ] {
        eventually(name, || field(cluster, name, ".status.phase") == phase);
    }
    let end = ".status.containerStatuses[0].state.terminated";
    assert_eq!(field(cluster, "poor", &format!("{end}.exitCode")), "3");
    assert_eq!(field(cluster, "greedy", &format!("{end}.exitCode")), "137");
    assert_eq!(
        field(cluster, "greedy", &format!("{end}.reason")),
        "OOMKilled"
    );
    eventually("the back-off", || {
        cluster
            .ask(&["get", "pod", "again"])
            .contains("CrashLoopBackOff")
    });
    assert_eq!(field(cluster, "again", ".status.phase"), "Running");
    cluster.ask(&["delete", "pod", "good", "poor", "greedy", "again"]);
}

fn services_are_variables_and_addresses(cluster: &Cluster) {
    cluster.apply(
        "apiVersion: v1
kind: Service
metadata: {name: front-desk}
spec: {selector: {app: nobody}, ports: [{name: web, port: 80}, {name: admin-port, port: 81}]}",
    );
    let address = stored(cluster, "service", "front-desk")["spec"]["clusterIP"].clone();
    let address = address.as_str().unwrap();
    // Variables are of services that the kubelet knows when the container starts.
    let script = "env | sort; wget -qO- http://front-desk/";
    let mut number = 0;
    eventually("the variables", || {
        number += 1;
        let name = format!("asker{number}");
        cluster.apply(&pod(&name, script, "", "restartPolicy: Never"));
        eventually("the end of the pod", || {
            field(cluster, &name, ".status.phase") == "Failed"
        });
        let log = cluster.ask(&["logs", &name]);
        let said = |line: &str| log.lines().any(|said| said == line);
        said(&format!("FRONT_DESK_SERVICE_HOST={address}"))
            && said("FRONT_DESK_SERVICE_PORT_ADMIN_PORT=81")
            && said(&format!("FRONT_DESK_PORT_80_TCP=tcp://{address}:80"))
            // Nobody is behind it: refused at once.
            && log.contains(&format!("can't connect to remote host ({address}): Connection refused"))
    });
}

fn a_file_becomes_a_pod(cluster: &Cluster) {
    let node = cluster.ask(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let (name, file) = (
        format!("fixed-{node}"),
        cluster.data().join("manifests/fixed.yaml"),
    );
    let ready = format!("pod/{name}");
    std::fs::write(&file, pod("fixed", "sleep 1000", "", "")).unwrap();
    let there = || cluster.kubectl(&["get", "pod", &name]).status.success();
    eventually("the mirror", there);
    cluster.ask(&["wait", &ready, "--for=condition=Ready", "--timeout=60s"]);
    let uid = field(cluster, &name, ".metadata.uid");
    cluster.ask(&["delete", "pod", &name]);
    eventually("another mirror", || {
        there() && field(cluster, &name, ".metadata.uid") != uid
    });
    std::fs::remove_file(&file).unwrap();
    eventually("the end of the mirror", || !there());
}
