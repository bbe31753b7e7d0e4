//! What controllers and scheduler do with workloads: rollouts, endpoints, evictions, cascades, pods that find no node.

use crate::cluster::{Cluster, cannot_run, eventually, text};
use crate::image::BUSYBOX;

impl Cluster {
    fn path(&self, what: &str, path: &str) -> String {
        let path = format!("jsonpath={path}");
        self.ask(&["get", what, "-o", &path])
    }

    fn rolled_out(&self, deployment: &str) {
        self.ask(&["rollout", "status", deployment, "--timeout=60s"]);
    }

    /// A POST to a pod, through the API server's way into it: nothing but kubectl is needed.
    fn wget(&self, from: &str, url: &str) {
        self.ask(&[
            "exec",
            from,
            "--",
            "wget",
            "-q",
            "-O",
            "-",
            "--post-data",
            "",
            url,
        ]);
    }

    fn told(&self, text: &str) {
        eventually(text, || {
            let path = "jsonpath={range .items[*]}{.reason}: {.message}{.note}{\"\\n\"}{end}";
            self.ask(&["get", "events", "-o", path]).contains(text)
        });
    }

    fn gone(&self, what: &str) {
        eventually(&format!("no {what}"), || {
            let output = self.kubectl(&["get", what]);
            !output.status.success() && text(&output).contains("NotFound")
        });
    }
}

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  progressDeadlineSeconds: 3
  revisionHistoryLimit: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: skiff.local/demo
        env: [{name: COLOUR, value: red}]
"#;

#[test]
fn rollouts_go_forth_and_back() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("roll");
    let colour = || {
        cluster.path(
            "deployment/web",
            "{.spec.template.spec.containers[0].env[0].value}",
        )
    };
    let revision = || {
        let path = r"{.metadata.annotations.deployment\.kubernetes\.io/revision}";
        cluster.path("deployment/web", path)
    };
    let colours_of_pods = || {
        let path = "{.items[*].spec.containers[0].env[0].value}";
        let colours = cluster.path("pods", path);
        let mut colours: Vec<String> = colours.split_whitespace().map(str::to_owned).collect();
        colours.sort();
        colours.dedup();
        colours.join(" ")
    };
    cluster.apply(WEB);
    cluster.rolled_out("deployment/web");
    for colour in ["COLOUR=green", "COLOUR=blue"] {
        cluster.ask(&["set", "env", "deployment/web", colour]);
        cluster.rolled_out("deployment/web");
    }
    cluster.ask(&["rollout", "undo", "deployment/web", "--to-revision=1"]);
    cluster.rolled_out("deployment/web");
    assert_eq!((&*colour(), &*revision()), ("red", "4"));
    eventually("only red pods", || colours_of_pods() == "red");
    let history = cluster.ask(&["rollout", "history", "deployment/web"]);
    let revisions: Vec<&str> = history
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| word.parse::<u8>().is_ok())
        .collect();
    assert_eq!(revisions, ["2", "3", "4"], "{history}");

    // Paused, a change waits; resumed, it is rolled out.
    cluster.ask(&["rollout", "pause", "deployment/web"]);
    cluster.ask(&["set", "env", "deployment/web", "COLOUR=white"]);
    eventually("the pause is seen", || {
        let path = "{.status.conditions[?(@.type==\"Progressing\")].reason} {.status.observedGeneration}={.metadata.generation}";
        let told = cluster.path("deployment/web", path);
        let (reason, generations) = told.split_once(' ').unwrap();
        let (observed, generation) = generations.split_once('=').unwrap();
        reason == "DeploymentPaused" && observed == generation
    });
    assert_eq!((&*revision(), &*colours_of_pods()), ("4", "red"));
    cluster.ask(&["rollout", "resume", "deployment/web"]);
    cluster.rolled_out("deployment/web");
    eventually("only white pods", || colours_of_pods() == "white");
    assert_eq!(revision(), "5");

    // A rollout that cannot get on says so, and leaves the old pods alone.
    cluster.ask(&["set", "image", "deployment/web", "c=skiff.local/none"]);
    let output = cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert!(!output.status.success());
    assert!(
        text(&output).contains("exceeded its progress deadline"),
        "{}",
        text(&output)
    );
    let message = cluster.path(
        "deployment/web",
        "{.status.conditions[?(@.type==\"Progressing\")].message}",
    );
    assert!(
        message.starts_with("ReplicaSet \"web-")
            && message.ends_with("\" has timed out progressing."),
        "{message}"
    );
    assert_eq!(
        cluster.path("deployment/web", "{.status.availableReplicas}"),
        "2"
    );
    cluster.ask(&["rollout", "undo", "deployment/web"]);
    cluster.rolled_out("deployment/web");
    recreate(&cluster);
}

/// With Recreate there is no moment with pods of both templates.
fn recreate(cluster: &Cluster) {
    let strategy = r#"{"spec":{"strategy":{"type":"Recreate","rollingUpdate":null}}}"#;
    cluster.ask(&["patch", "deployment", "web", "-p", strategy]);
    cluster.rolled_out("deployment/web");
    cluster.ask(&["set", "env", "deployment/web", "COLOUR=black"]);
    eventually("the new pods", || {
        let path = "{range .items[*]}{.spec.containers[0].env[0].value}{\"\\n\"}{end}";
        let pods = cluster.path("pods", path);
        assert!(
            !(pods.contains("white") && pods.contains("black")),
            "{pods}"
        );
        pods == "black\nblack\n"
    });
    cluster.rolled_out("deployment/web");
    cluster.told("Scaled down replica set web-");
}

const CONTROLLER: &str = r#"
apiVersion: v1
kind: ReplicationController
metadata: {name: old}
spec:
  replicas: 2
  selector: {app: old}
  template:
    metadata: {labels: {app: old}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: skiff.local/demo
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Service
metadata: {name: old}
spec: {selector: {app: old}, ports: [{name: web, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: tool}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "BUSYBOX", command: [sleep, "3600"]}]
"#;

#[test]
fn pods_serve_while_they_are_ready_and_stay_where_they_are_tolerated() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("place");
    cluster.import_busybox();
    cluster.apply(&CONTROLLER.replace("BUSYBOX", BUSYBOX));
    let ready = || cluster.path("endpoints/old", "{.subsets[*].addresses[*].ip}");
    let waiting = || cluster.path("endpoints/old", "{.subsets[*].notReadyAddresses[*].ip}");
    let count = |text: String| text.split_whitespace().count();
    cluster.ask(&[
        "wait",
        "pod",
        "--all",
        "--for=condition=Ready",
        "--timeout=60s",
    ]);
    eventually("two endpoints", || count(ready()) == 2);
    let one = ready().split_whitespace().next().unwrap().to_owned();
    cluster.wget("tool", &format!("http://{one}:8080/fail"));
    eventually("the failing pod is out", || {
        waiting() == one && count(ready()) == 1
    });
    let slices = [
        "get",
        "endpointslices",
        "-l",
        "kubernetes.io/service-name=old",
        "-o",
    ];
    let path =
        format!("jsonpath={{.items[*].endpoints[?(@.addresses[0]==\"{one}\")].conditions.ready}}");
    let told = cluster.ask(&[&slices[..], &[&path]].concat());
    assert_eq!(told, "false");
    cluster.wget("tool", &format!("http://{one}:8080/recover"));
    eventually("it is back", || count(ready()) == 2);
    cluster.ask(&["scale", "rc/old", "--replicas=1"]);
    eventually("one replica", || count(ready()) == 1);
    assert_eq!(cluster.path("rc/old", "{.status.readyReplicas}"), "1");

    what_controllers_write(&cluster);
    evictions(&cluster);
    waits_for_a_node(&cluster);
}

const WRITTEN: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: robot, annotations: {kubernetes.io/service-account.name: default}}
type: kubernetes.io/service-account-token
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: outside}
subsets: [{addresses: [{ip: 192.0.2.77}], ports: [{port: 80}]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: more-view, labels: {rbac.authorization.k8s.io/aggregate-to-view: "true"}}
rules: [{apiGroups: [example.com], resources: [boats], verbs: [get]}]
"#;

/// What is written by controllers under identities of their own, which have no more rights than they need.
fn what_controllers_write(cluster: &Cluster) {
    cluster.apply(WRITTEN);
    eventually("the token", || {
        !cluster.path("secret/robot", "{.data.token}").is_empty()
    });
    let token = cluster.ask(&[
        "get",
        "secret",
        "robot",
        "-o",
        "go-template={{.data.token | base64decode}}",
    ]);
    // The administrator's certificate would win over the token: a configuration without one.
    let config = cluster.data().join("token.kubeconfig");
    let path = "jsonpath={.clusters[0].cluster}";
    let known = cluster.ask(&["config", "view", "--raw", "-o", path]);
    let document = format!(
        r#"{{"apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{{"name": "u", "user": {{"token": "{token}"}}}}],
        "clusters": [{{"name": "c", "cluster": {known}}}],
        "contexts": [{{"name": "c", "context": {{"cluster": "c", "user": "u"}}}}]}}"#
    );
    std::fs::write(&config, document).unwrap();
    let config = format!("--kubeconfig={}", config.display());
    let path = "jsonpath={.status.userInfo.username}";
    let name = cluster.ask(&["auth", "whoami", "-o", path, &config]);
    assert_eq!(name, "system:serviceaccount:default:default");
    eventually("the mirror", || {
        let selector = "kubernetes.io/service-name=outside";
        let path = "jsonpath={.items[*].endpoints[*].addresses[0]}";
        cluster.ask(&["get", "endpointslices", "-l", selector, "-o", path]) == "192.0.2.77"
    });
    eventually("the aggregated rule", || {
        cluster
            .path("clusterrole/view", "{.rules[*].resources}")
            .contains("boats")
    });
    let range = cluster.path("nodes", "{.items[0].spec.podCIDR}");
    let address = cluster.path("pod/tool", "{.status.podIP}");
    let network = range.strip_suffix(".0/24").unwrap();
    assert!(address.starts_with(network), "{address} {range}");
    let log = std::fs::read_to_string(cluster.data().join("server.log")).unwrap();
    assert!(!log.contains("forbidden"), "{log}");
}

fn pod(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers: [{{name: c, image: skiff.local/demo}}]\n{more}\n---\n"
    )
}

fn evictions(cluster: &Cluster) {
    cluster.ask(&["delete", "rc", "old"]);
    let bears = |seconds: &str| {
        format!("  tolerations: [{{key: mine, operator: Exists, effect: NoExecute{seconds}}}]")
    };
    cluster.apply(&format!(
        "{}{}{}",
        pod("plain", ""),
        pod("brief", &bears(", tolerationSeconds: 2")),
        pod("firm", &bears("")),
    ));
    cluster.ask(&[
        "wait",
        "pod",
        "--all",
        "--for=condition=Ready",
        "--timeout=60s",
    ]);
    let node = cluster.path("nodes", "{.items[0].metadata.name}");
    cluster.ask(&["taint", "node", &node, "mine=x:NoExecute"]);
    cluster.gone("pod/plain");
    cluster.gone("pod/brief");
    cluster.gone("pod/tool");
    assert_eq!(cluster.path("pod/firm", "{.status.phase}"), "Running");
    cluster.told("TaintManagerEviction: Marking for deletion Pod default/plain");
    cluster.told("TaintManagerEviction: Marking for deletion Pod default/brief");
    // A taint that goes in time changes the mind of those who wait.
    cluster.ask(&["taint", "node", &node, "mine-"]);
    cluster.apply(&pod("patient", &bears(", tolerationSeconds: 60")));
    cluster.ask(&[
        "wait",
        "pod/patient",
        "--for=condition=Ready",
        "--timeout=60s",
    ]);
    cluster.ask(&["taint", "node", &node, "mine=x:NoExecute"]);
    cluster.ask(&["taint", "node", &node, "mine-"]);
    cluster.told("TaintManagerEviction: Cancelling deletion of Pod default/patient");
    cluster.ask(&["delete", "pod", "patient", "firm"]);
}

fn waits_for_a_node(cluster: &Cluster) {
    let node = cluster.path("nodes", "{.items[0].metadata.name}");
    cluster.apply(&format!(
        "{}{}",
        pod("choosy", "  nodeSelector: {disk: fast}"),
        pod("huge", "").replace("demo}]", "demo, resources: {requests: {cpu: 500}}}]"),
    ));
    cluster.told(
        "FailedScheduling: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
         no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
    );
    cluster.told(
        "FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu. \
         no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
    );
    let scheduled = "{.status.conditions[?(@.type==\"PodScheduled\")].reason}";
    assert_eq!(cluster.path("pod/choosy", scheduled), "Unschedulable");
    cluster.ask(&["label", "node", &node, "disk=fast"]);
    cluster.ask(&[
        "wait",
        "pod/choosy",
        "--for=condition=Ready",
        "--timeout=60s",
    ]);
    cluster.told(&format!(
        "Scheduled: Successfully assigned default/choosy to {node}"
    ));
    assert_eq!(cluster.path("pod/huge", "{.status.phase}"), "Pending");
}

#[test]
fn deletions_take_what_they_should() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("del");
    cluster.ask(&["create", "namespace", "team"]);
    for namespace in ["default", "team"] {
        cluster.ask(&[
            "create",
            "deployment",
            "web",
            "--image=skiff.local/demo",
            "-n",
            namespace,
        ]);
    }
    cluster.ask(&["expose", "deployment", "web", "--port=80", "-n", "team"]);
    cluster.ask(&["create", "configmap", "held", "-n", "team"]);
    let hold = r#"{"metadata":{"finalizers":["example.com/hold"]}}"#;
    cluster.ask(&["patch", "configmap", "held", "-n", "team", "-p", hold]);
    cluster.rolled_out("deployment/web");
    cluster.ask(&["rollout", "status", "deployment/web", "-n", "team"]);
    cluster.ask(&["delete", "namespace", "team", "--wait=false"]);
    eventually("the namespace says what holds it", || {
        let path = "{range .status.conditions[?(@.status==\"True\")]}{.message}{\"\\n\"}{end}";
        let told = cluster.path("namespace/team", path);
        told.contains("Some resources are remaining: configmaps. has 1 resource instances")
            && told.contains("example.com/hold in 1 resource instances")
    });
    let refused = cluster.kubectl(&["create", "configmap", "late", "-n", "team"]);
    assert!(
        text(&refused).contains("because it is being terminated"),
        "{}",
        text(&refused)
    );
    let let_go = r#"{"metadata":{"finalizers":null}}"#;
    cluster.ask(&["patch", "configmap", "held", "-n", "team", "-p", let_go]);
    cluster.gone("namespace/team");

    // Orphans stay, and are adopted by the next that wants them; with them the pod.
    let container = cluster.containers();
    cluster.ask(&["delete", "deployment", "web", "--cascade=orphan"]);
    let set = cluster.path("replicasets", "{.items[0].metadata.name}");
    let set = format!("replicaset/{set}");
    assert_eq!(cluster.path(&set, "{.metadata.ownerReferences}"), "");
    cluster.ask(&["create", "deployment", "web", "--image=skiff.local/demo"]);
    eventually("the adoption", || {
        cluster.path(&set, "{.metadata.ownerReferences[0].name}") == "web"
    });
    cluster.rolled_out("deployment/web");
    assert_eq!(cluster.containers(), container);

    // In the foreground the owner goes last.
    cluster.ask(&["delete", "deployment", "web", "--cascade=foreground"]);
    assert_eq!(cluster.ask(&["get", "replicasets,pods", "-o", "name"]), "");
}
