//! Admission policies as kubectl meets them: refused, warned, changed, and told what does not fit.

use serde_json::Value;

use crate::cluster::{Cluster, cannot_run, eventually, text};

/// A control plane without a node: no pod needs to run.
const NO_NODE: [&str; 2] = ["--disable", "kubelet,proxy,dns"];

const REPLICAS: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: replicas.example.com}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments, deployments/scale]}
  paramKind: {apiVersion: v1, kind: ConfigMap}
  variables:
  - {name: max, expression: "int(params.data.max)"}
  validations:
  - expression: "object.spec.replicas <= variables.max"
    messageExpression: "'at most ' + string(variables.max) + ' in ' + namespaceObject.metadata.name"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: replicas}
spec:
  policyName: replicas.example.com
  validationActions: [Deny]
  paramRef: {name: limits, parameterNotFoundAction: Allow}
  matchResources:
    namespaceSelector: {matchLabels: {limited: "yes"}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: team.example.com}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}
  matchConditions:
  - {name: limited, expression: "request.namespace == 'limited'"}
  reinvocationPolicy: Never
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: "Object{metadata: Object.metadata{annotations: {'team': 'of ' + request.userInfo.username}}}"
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: team}
spec: {policyName: team.example.com}
---
apiVersion: v1
kind: Namespace
metadata: {name: limited, labels: {limited: "yes"}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: limits, namespace: limited}
data: {max: "2"}
"#;

const CONFUSED: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: confused}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}
  validations:
  - expression: "object.spec.replicas > '1'"
    messageExpression: "'wants replicas > 1, got ' + object.spec.replicas"
"#;

fn deployment(cluster: &Cluster, replicas: &str) -> std::process::Output {
    cluster.kubectl(&[
        "-n",
        "limited",
        "create",
        "deployment",
        "web",
        "--image=none",
        "--replicas",
        replicas,
    ])
}

#[test]
fn policies_refuse_and_change_what_kubectl_sends_and_have_their_types_checked() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start_with("poli", &NO_NODE);
    refuses_and_changes(&cluster);
    checks_types(&cluster);
}

fn refuses_and_changes(cluster: &Cluster) {
    cluster.apply(REPLICAS);
    eventually("the policy to be in force", || {
        let output = deployment(cluster, "3");
        if output.status.success() {
            cluster.ask(&["-n", "limited", "delete", "deployment", "web", "--wait"]);
        }
        text(&output).contains(
            "deployments.apps \"web\" is forbidden: ValidatingAdmissionPolicy 'replicas.example.com' with binding 'replicas' denied request: at most 2 in limited",
        )
    });
    assert!(deployment(cluster, "2").status.success());
    let made = cluster.ask(&["-n", "limited", "get", "deployment", "web", "-o", "json"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let team = made["metadata"]["annotations"]["team"].as_str().unwrap();
    assert!(team.starts_with("of "), "{team}");

    let scaled = cluster.kubectl(&[
        "-n",
        "limited",
        "scale",
        "deployment",
        "web",
        "--replicas=5",
    ]);
    assert!(!scaled.status.success());
    assert!(
        text(&scaled).contains("at most 2 in limited"),
        "{}",
        text(&scaled)
    );

    cluster.ask(&[
        "patch",
        "validatingadmissionpolicybinding",
        "replicas",
        "--type=merge",
        "-p",
        r#"{"spec":{"validationActions":["Warn"]}}"#,
    ]);
    eventually("a warning in the place of a refusal", || {
        let output = cluster.kubectl(&[
            "-n",
            "limited",
            "scale",
            "deployment",
            "web",
            "--replicas=4",
        ]);
        output.status.success()
            && text(&output).contains("Warning: Validation failed for ValidatingAdmissionPolicy 'replicas.example.com' with binding 'replicas': at most 2 in limited")
    });
}

fn checks_types(cluster: &Cluster) {
    cluster.apply(CONFUSED);
    let status = || -> Value {
        let text = cluster.ask(&["get", "validatingadmissionpolicy", "confused", "-o", "json"]);
        serde_json::from_str::<Value>(&text).unwrap()["status"].clone()
    };
    eventually("the type check", || !status()["typeChecking"].is_null());
    let warnings = &status()["typeChecking"]["expressionWarnings"];
    for (index, field, words) in [
        (
            0,
            "expression",
            "found no matching overload for '_>_' applied to '(int, string)'",
        ),
        (
            1,
            "messageExpression",
            "found no matching overload for '_+_' applied to '(string, int)'",
        ),
    ] {
        assert_eq!(
            warnings[index]["fieldRef"],
            format!("spec.validations[0].{field}")
        );
        assert!(
            warnings[index]["warning"].as_str().unwrap().contains(words),
            "{warnings}"
        );
    }
    cluster.ask(&[
        "patch",
        "validatingadmissionpolicy",
        "confused",
        "--type=json",
        "-p",
        r#"[{"op":"replace","path":"/spec/validations/0","value":{"expression":"object.spec.replicas > 1"}}]"#,
    ]);
    eventually("the type check of the next generation", || {
        status()["observedGeneration"] == 2
    });
    assert_eq!(status()["typeChecking"]["expressionWarnings"], Value::Null);
}
