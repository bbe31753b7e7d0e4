//! helm against a cluster: a chart with definitions, hooks and a test is installed, upgraded, rolled back and taken away.
//!
//! Runs with the helm of `SKIFF_TEST_HELM` or of the PATH, and says so when there is none.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::cluster::{Cluster, cannot_run, run, text};

const DEFINITION: &str = r"apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: wares.shop.example.com}
spec:
  group: shop.example.com
  scope: Namespaced
  names: {plural: wares, singular: ware, kind: Ware}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              price: {type: integer, minimum: 1}
              colour: {type: string, default: grey}
";

const OBJECTS: &str = r"apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-settings}
data: {colour: {{ .Values.colour }}}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec:
  selector: {app: {{ .Release.Name }}}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata:
      labels: {app: {{ .Release.Name }}}
      annotations: {colour: {{ .Values.colour }}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: shop, image: skiff.local/demo}]
---
apiVersion: shop.example.com/v1
kind: Ware
metadata: {name: {{ .Release.Name }}}
spec: {price: {{ .Values.price }}}
";

/// A hook that notes with which revision it ran.
fn note(hook: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{{{ .Release.Name }}}}-{hook}\n  annotations: {{helm.sh/hook: {hook}}}\n\
         data: {{revision: \"{{{{ .Release.Revision }}}}\"}}\n"
    )
}

/// A hook that runs to its end.
fn program(name: &str, hooks: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {{{{ .Release.Name }}}}-{name}\n  annotations:\n    helm.sh/hook: {hooks}\n\
         \x20   helm.sh/hook-delete-policy: before-hook-creation\nspec:\n  restartPolicy: Never\n\
         \x20 containers: [{{name: v, image: skiff.local/demo, command: [/app, version]}}]\n"
    )
}

fn write_chart(folder: &Path) {
    let write = |name: &str, content: &str| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    write(
        "Chart.yaml",
        "apiVersion: v2\nname: shop\nversion: 0.1.0\nappVersion: '1'\n",
    );
    write("values.yaml", "replicas: 1\ncolour: blue\nprice: 3\n");
    write("crds/wares.yaml", DEFINITION);
    write("templates/objects.yaml", OBJECTS);
    for hook in ["pre-install", "post-install", "pre-upgrade", "post-delete"] {
        write(&format!("templates/{hook}.yaml"), &note(hook));
    }
    write(
        "templates/before.yaml",
        &program("before", "pre-install,pre-upgrade"),
    );
    write("templates/tests/works.yaml", &program("works", "test"));
}

/// The helm to run, if there is one.
fn helm() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SKIFF_TEST_HELM") {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("helm"))
        .find(|helm| helm.is_file())
}

struct Helm {
    program: PathBuf,
    cluster: Cluster,
    chart: String,
}

impl Helm {
    fn try_to(&self, arguments: &[&str]) -> Output {
        run(Command::new(&self.program)
            .args(arguments)
            .env("KUBECONFIG", self.cluster.data().join("admin.kubeconfig"))
            .env("HOME", self.cluster.data().join("home")))
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let output = self.try_to(arguments);
        assert!(
            output.status.success(),
            "helm {arguments:?}: {}",
            text(&output)
        );
        text(&output)
    }

    fn upgrade(&self, release: &str, more: &[&str]) {
        let waiting = ["--wait", "--timeout", "60s"];
        self.ask(&[&["upgrade", release, &self.chart], &waiting[..], more].concat());
    }

    fn field(&self, object: &str, path: &str) -> String {
        let path = format!("jsonpath={{{path}}}");
        self.cluster.ask(&["get", object, "-o", &path])
    }
}

#[test]
fn a_chart_is_installed_upgraded_rolled_back_and_uninstalled() {
    if cannot_run() {
        return;
    }
    let Some(program) = helm() else {
        eprintln!("NOT RUN: no helm on the PATH, and SKIFF_TEST_HELM names none");
        return;
    };
    let cluster = Cluster::start("helm");
    let folder = cluster.data().join("chart");
    write_chart(&folder);
    let chart = folder.to_string_lossy().into_owned();
    let helm = Helm {
        program,
        cluster,
        chart,
    };
    installed(&helm);
    upgraded(&helm);
    taken_back(&helm);
    merged_by_the_client(&helm);
}

/// Everything is there, hooks ran in their order, and what was waited for is ready.
fn installed(helm: &Helm) {
    let said = helm.ask(&["install", "shop", &helm.chart, "--wait", "--timeout", "60s"]);
    assert!(said.contains("STATUS: deployed"), "{said}");
    assert_eq!(helm.field("deployment/shop", ".status.readyReplicas"), "1");
    assert_eq!(
        helm.field("ware/shop", ".spec"),
        r#"{"colour":"grey","price":3}"#
    );
    assert_eq!(helm.field("pod/shop-before", ".status.phase"), "Succeeded");
    for hook in ["pre-install", "post-install"] {
        assert_eq!(
            helm.field(&format!("cm/shop-{hook}"), ".data.revision"),
            "1"
        );
    }
    let again = helm.try_to(&["install", "shop", &helm.chart]);
    assert!(
        text(&again).contains("a name that is still in use"),
        "{}",
        text(&again)
    );
}

/// Values change by server-side apply, then by helm's own three-way merge, then not at all.
fn upgraded(helm: &Helm) {
    helm.upgrade("shop", &["--set", "colour=red,replicas=2,price=4"]);
    assert_eq!(helm.field("cm/shop-settings", ".data.colour"), "red");
    assert_eq!(helm.field("deployment/shop", ".status.readyReplicas"), "2");
    assert_eq!(helm.field("ware/shop", ".spec.price"), "4");
    assert_eq!(helm.field("cm/shop-pre-upgrade", ".data.revision"), "2");
    // What somebody else set and the chart does not speak of stays.
    helm.cluster
        .ask(&["annotate", "deployment/shop", "example.com/own=kept"]);
    helm.upgrade(
        "shop",
        &["--set", "colour=green,replicas=2", "--server-side=false"],
    );
    assert_eq!(helm.field("cm/shop-settings", ".data.colour"), "green");
    let own = ".metadata.annotations.example\\.com/own";
    assert_eq!(helm.field("deployment/shop", own), "kept");
    let before = helm.field("deployment/shop", ".metadata.generation");
    helm.upgrade("shop", &["--set", "colour=green,replicas=2"]);
    assert_eq!(
        helm.field("deployment/shop", ".metadata.generation"),
        before
    );
    let bad = helm.try_to(&["upgrade", "shop", &helm.chart, "--set", "price=0"]);
    assert!(
        text(&bad).contains("should be greater than or equal to 1"),
        "{}",
        text(&bad)
    );
}

fn taken_back(helm: &Helm) {
    helm.ask(&["rollback", "shop", "1", "--wait", "--timeout", "60s"]);
    assert_eq!(helm.field("cm/shop-settings", ".data.colour"), "blue");
    assert_eq!(helm.field("deployment/shop", ".status.readyReplicas"), "1");
    let history = helm.ask(&["history", "shop"]);
    let states: Vec<&str> = history
        .lines()
        .filter(|line| line.contains("shop-0.1.0"))
        .map(|line| {
            ["superseded", "deployed", "failed"]
                .into_iter()
                .find(|state| line.contains(state))
                .unwrap_or("?")
        })
        .collect();
    assert_eq!(
        states,
        [
            "superseded",
            "superseded",
            "superseded",
            "superseded",
            "failed",
            "deployed"
        ],
        "{history}"
    );
    let tested = helm.ask(&["test", "shop"]);
    assert!(tested.contains("Succeeded"), "{tested}");
    helm.ask(&["uninstall", "shop", "--wait", "--timeout", "60s"]);
    let kinds = "deployments,services,wares,configmaps";
    let left = helm.cluster.ask(&["get", kinds, "-o", "name"]);
    for gone in [
        "deployment.apps/shop",
        "service/shop",
        "ware.shop",
        "shop-settings",
    ] {
        assert!(!left.contains(gone), "{left}");
    }
    assert!(left.contains("configmap/shop-post-delete"), "{left}");
    // helm leaves definitions, and everybody's objects of them.
    helm.cluster.ask(&["get", "crd", "wares.shop.example.com"]);
}

/// What was made by helm's three-way merge goes over to server-side apply, and back.
fn merged_by_the_client(helm: &Helm) {
    let (chart, wait) = (&helm.chart, ["--wait", "--timeout", "60s"]);
    helm.ask(&[&["install", "two", chart, "--server-side=false"], &wait[..]].concat());
    helm.upgrade("two", &["--set", "colour=red", "--server-side=true"]);
    assert_eq!(helm.field("cm/two-settings", ".data.colour"), "red");
    helm.upgrade("two", &["--set", "colour=green", "--server-side=false"]);
    assert_eq!(helm.field("cm/two-settings", ".data.colour"), "green");
    helm.ask(&["uninstall", "two"]);
}
