//! Custom resources as users have them: defined, made, read, explained, changed and deleted with kubectls old and new.

use std::process::Output;

use crate::cluster::{Cluster, cannot_run, eventually, text};

const DEFINITION: &str = r#"apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}
    additionalPrinterColumns:
    - {name: Spec, type: string, jsonPath: .spec.cronSpec}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        description: A job that comes again.
        properties:
          spec:
            type: object
            description: What is wanted.
            properties:
              cronSpec: {type: string, pattern: '^[0-9* ]+$', description: When it runs.}
              replicas: {type: integer, minimum: 0, default: 1}
          status:
            type: object
            properties: {replicas: {type: integer}}
"#;

const OBJECT: &str = r#"apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: mine}
spec: {cronSpec: '* * 5'}
"#;

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", text(output));
    text(output)
}

#[test]
fn a_custom_resource_lives_under_kubectl() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("crds");
    let file = |name: &str, content: &str| {
        let path = cluster.data().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_string_lossy().into_owned()
    };
    cluster.apply(DEFINITION);
    cluster.ask(&[
        "wait",
        "--for=condition=Established",
        "crd/crontabs.stable.example.com",
        "--timeout=20s",
    ]);
    eventually("the new kind", || {
        cluster.kubectl(&["get", "ct"]).status.success()
    });
    cluster.apply(OBJECT);
    let table = cluster.ask(&["get", "ct"]);
    let mut lines = table.lines();
    let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["NAME", "SPEC", "REPLICAS", "AGE"]);
    assert!(lines.next().unwrap().starts_with("mine"), "{table}");
    assert!(
        cluster
            .ask(&["get", "all"])
            .contains("crontab.stable.example.com/mine")
    );
    let explained = cluster.ask(&["explain", "crontabs.spec"]);
    assert!(
        explained.contains("What is wanted.") && explained.contains("When it runs."),
        "{explained}"
    );
    cluster.ask(&["scale", "--replicas=3", "crontab/mine"]);
    let replicas = ["get", "ct", "mine", "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(cluster.ask(&replicas), "3");
    let patch = r#"{"spec":{"replicas":4}}"#;
    cluster.ask(&["patch", "ct", "mine", "--type=merge", "-p", patch]);
    assert_eq!(cluster.ask(&replicas), "4");
    let strategic = cluster.kubectl(&["patch", "ct", "mine", "--type=strategic", "-p", patch]);
    refused(&strategic);
    let wrong = file("wrong.yaml", &OBJECT.replace("* * 5", "never"));
    let why = refused(&cluster.kubectl(&["apply", "-f", &wrong]));
    assert!(why.contains("spec.cronSpec in body should match"), "{why}");
    let odd = file("odd.yaml", &OBJECT.replace("cronSpec", "cronSpek"));
    let why = refused(&cluster.kubectl(&["apply", "-f", &odd]));
    assert!(why.contains("unknown field \"spec.cronSpek\""), "{why}");
    let applied = file("applied.yaml", &OBJECT.replace("mine", "applied"));
    cluster.ask(&["apply", "--server-side", "-f", &applied]);
    let again = cluster.ask(&["apply", "--server-side", "-f", &applied]);
    assert!(again.contains("serverside-applied"), "{again}");
    cluster.ask(&[
        "delete",
        "crd",
        "crontabs.stable.example.com",
        "--timeout=20s",
    ]);
    // kubectl has what it discovered in its cache and asks all the same.
    let gone = refused(&cluster.kubectl(&["get", "crontabs"]));
    assert!(
        gone.contains("the server could not find the requested resource"),
        "{gone}"
    );
}
