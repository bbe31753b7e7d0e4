//! What people do with kubectl beside running things: apply, edit, ask who may do what, explain.

use crate::cluster::{Cluster, cannot_run, text};

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {tier: front}}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: main
        image: skiff.local/demo
        ports: [{containerPort: 8080}]
";

/// Manager, operation and subresource of each entry of an object's record.
const OWNERS: &str = "jsonpath={range .metadata.managedFields[*]}{.manager} {.operation} {.subresource}{\"\\n\"}{end}";

#[test]
fn kubectl_against_a_cluster() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("kctl");
    server_side_apply(&cluster);
    client_side_apply_and_edits(&cluster);
    who_may_do_what(&cluster);
    health_and_documents(&cluster);
}

fn file(cluster: &Cluster, name: &str, manifest: &str) -> String {
    let path = cluster.data().join(name);
    std::fs::write(&path, manifest).unwrap();
    path.to_string_lossy().into_owned()
}

fn owners(cluster: &Cluster, object: &str) -> Vec<String> {
    let text = cluster.ask(&["get", object, "--show-managed-fields", "-o", OWNERS]);
    text.lines().map(|line| line.trim().to_owned()).collect()
}

fn refused(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.kubectl(arguments);
    assert!(!output.status.success(), "{arguments:?}: {}", text(&output));
    text(&output)
}

fn server_side_apply(cluster: &Cluster) {
    let manifest = file(cluster, "web.yaml", DEPLOYMENT);
    let apply = ["apply", "--server-side", "-f", &manifest];
    assert!(cluster.ask(&apply).contains("serverside-applied"));
    cluster.ask(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let version = || {
        let path = "jsonpath={.metadata.resourceVersion}";
        cluster.ask(&["get", "deployment/web", "-o", path])
    };
    let before = version();
    cluster.ask(&apply);
    assert_eq!(version(), before);
    assert_eq!(
        owners(cluster, "deployment/web"),
        ["kubectl Apply", "kube-controller-manager Update status"]
    );
    let pods = cluster.ask(&[
        "get",
        "pods",
        "-l",
        "app=web",
        "--show-managed-fields",
        "-o",
        "yaml",
    ]);
    assert!(pods.contains("manager: kubelet") && pods.contains("manager: kube-controller-manager"));

    let changed = DEPLOYMENT.replace("replicas: 1", "replicas: 2");
    let changed = file(cluster, "changed.yaml", &changed);
    let other = [
        "apply",
        "--server-side",
        "--field-manager=other",
        "-f",
        &changed,
    ];
    let conflict = refused(cluster, &other);
    let wanted = "Apply failed with 1 conflict: conflict with \"kubectl\": .spec.replicas";
    assert!(conflict.contains(wanted), "{conflict}");
    let forced = [&other[..], &["--force-conflicts"]].concat();
    cluster.ask(&forced);
    cluster.ask(&["scale", "deployment/web", "--replicas=1"]);
    assert!(owners(cluster, "deployment/web").contains(&"kubectl Update scale".to_owned()));
    let unknown = file(
        cluster,
        "bad.yaml",
        &DEPLOYMENT.replace("image:", "imagine:"),
    );
    let refusal = refused(cluster, &["apply", "--server-side", "-f", &unknown]);
    let wanted = ".spec.template.spec.containers[0].imagine: field not declared in schema";
    assert!(refusal.contains(wanted), "{refusal}");
    cluster.ask(&["delete", "deployment", "web"]);
}

fn client_side_apply_and_edits(cluster: &Cluster) {
    let manifest = file(cluster, "web.yaml", DEPLOYMENT);
    let changed = DEPLOYMENT.replace("tier: front", "tier: back");
    let changed = file(cluster, "changed.yaml", &changed);
    cluster.ask(&["apply", "-f", &manifest]);
    assert!(
        cluster
            .ask(&["apply", "-f", &manifest])
            .contains("unchanged")
    );
    let diff = refused(cluster, &["diff", "-f", &changed]);
    assert!(
        diff.contains("-    tier: front") && diff.contains("+    tier: back"),
        "{diff}"
    );
    cluster.ask(&["apply", "--server-side", "--dry-run=server", "-f", &changed]);
    // kubectl takes over what its client-side apply had.
    cluster.ask(&["apply", "--server-side", "-f", &changed]);
    assert!(
        !owners(cluster, "deployment/web").contains(&"kubectl-client-side-apply Update".to_owned())
    );
    for arguments in [
        &["label", "deployment/web", "a=b"][..],
        &["annotate", "deployment/web", "c=d"],
        &["set", "env", "deployment/web", "X=y"],
        &[
            "patch",
            "deployment/web",
            "--type=merge",
            "-p",
            r#"{"spec":{"minReadySeconds":1}}"#,
        ],
    ] {
        cluster.ask(arguments);
    }
    let have = owners(cluster, "deployment/web");
    for manager in [
        "kubectl-label",
        "kubectl-annotate",
        "kubectl-set",
        "kubectl-patch",
    ] {
        assert!(have.contains(&format!("{manager} Update")), "{have:?}");
    }
    let shown = cluster.ask(&["get", "deployment/web", "-o", "yaml"]);
    assert!(!shown.contains("managedFields"));
    // Without a version: controllers write the status meanwhile, and a conflict would be right.
    let unversioned = |line: &&str| !line.trim_start().starts_with("resourceVersion:");
    let shown: Vec<&str> = shown.lines().filter(unversioned).collect();
    let changed = shown.join("\n").replace("tier: back", "tier: middle");
    let edited = file(cluster, "edited.yaml", &changed);
    assert!(
        cluster
            .ask(&["replace", "-f", &edited])
            .contains("replaced")
    );
    cluster.ask(&["delete", "deployment", "web"]);
}

fn who_may_do_what(cluster: &Cluster) {
    assert!(
        cluster
            .ask(&["auth", "whoami"])
            .contains("kubernetes-admin")
    );
    let account = "system:serviceaccount:default:default";
    let review = cluster.ask(&["auth", "whoami", "--as", account]);
    assert!(
        review.contains(
            "[system:serviceaccounts system:serviceaccounts:default system:authenticated]"
        )
    );
    assert_eq!(
        refused(cluster, &["auth", "can-i", "list", "pods", "--as", "jane"]).trim(),
        "no"
    );
    let refusal = refused(cluster, &["get", "pods", "--as", "jane"]);
    let wanted = "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"";
    assert!(refusal.contains(wanted), "{refusal}");
    cluster.ask(&[
        "create",
        "role",
        "reader",
        "--verb=get,list",
        "--resource=pods",
    ]);
    cluster.ask(&[
        "create",
        "rolebinding",
        "reader",
        "--role=reader",
        "--user=jane",
    ]);
    cluster.ask(&[
        "create",
        "role",
        "keeper",
        "--verb=create",
        "--resource=roles,rolebindings",
    ]);
    cluster.ask(&[
        "create",
        "rolebinding",
        "keeper",
        "--role=keeper",
        "--user=jane",
    ]);
    crate::cluster::eventually("jane's rights", || {
        cluster
            .kubectl(&["get", "pods", "--as", "jane"])
            .status
            .success()
            && cluster
                .kubectl(&["auth", "can-i", "create", "roles", "--as", "jane"])
                .status
                .success()
    });
    let list = cluster.ask(&["auth", "can-i", "--list", "--as", "jane"]);
    assert!(
        list.lines()
            .any(|line| line.starts_with("pods ") && line.contains("[get list]")),
        "{list}"
    );
    let escalation = [
        "create",
        "role",
        "writer",
        "--verb=delete",
        "--resource=pods",
        "--as",
        "jane",
    ];
    let refusal = refused(cluster, &escalation);
    let wanted = "user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held";
    assert!(refusal.contains(wanted), "{refusal}");
}

fn health_and_documents(cluster: &Cluster) {
    for (path, wanted) in [
        ("/version", "\"gitVersion\""),
        ("/livez?verbose", "livez check passed"),
        ("/readyz?verbose", "readyz check passed"),
        ("/openid/v1/jwks", "\"keys\""),
        ("/.well-known/openid-configuration", "\"jwks_uri\""),
    ] {
        let answer = cluster.ask(&["get", "--raw", path]);
        assert!(answer.contains(wanted), "{path}: {answer}");
    }
    assert!(
        cluster
            .ask(&["get", "componentstatuses"])
            .contains("etcd-0")
    );
    assert!(
        cluster
            .ask(&["get", "flowschemas"])
            .contains("system-leader-election")
    );
    let resources = cluster.ask(&["api-resources", "--no-headers"]);
    assert!(resources.lines().count() > 60, "{resources}");
    for line in resources.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(name), Some(version)) = (words.first(), words.iter().rev().nth(2)) else {
            panic!("{line}");
        };
        let version = format!("--api-version={version}");
        let text = cluster.ask(&["explain", name, "--recursive", &version]);
        assert!(
            text.contains("FIELDS:") && text.contains("metadata"),
            "{name}: {text}"
        );
    }
}
