//! A namespace's labels decide which pods it takes.

use serde_json::{Value, json};
use skiff_testkit::TestCluster;

use crate::requests::{patch, post, send};

fn pod(name: &str, spec: Value) -> Value {
    let mut whole = json!({"containers": [{"name": "a", "image": "i"}]});
    whole
        .as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole})
}

async fn namespace(cluster: &TestCluster, name: &str, labels: Value) -> (u16, String) {
    let made = post(
        cluster,
        "/api/v1/namespaces",
        json!({"metadata": {"name": name, "labels": labels}}),
    )
    .await;
    let account = format!("/api/v1/namespaces/{name}/serviceaccounts");
    post(cluster, &account, json!({"metadata": {"name": "default"}})).await;
    (made.code, made.error().1.to_owned())
}

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

#[tokio::test]
async fn pods_are_refused_and_templates_warned_of() {
    let cluster = TestCluster::start().await.unwrap();
    assert_eq!(
        namespace(&cluster, "strict", json!({ENFORCE: "restricted"}))
            .await
            .0,
        201
    );
    let refused = post(
        &cluster,
        "/api/v1/namespaces/strict/pods",
        pod("web", json!({})),
    )
    .await;
    assert_eq!(
        refused.error(),
        (
            403,
            "pods \"web\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false \
            (container \"a\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"a\" \
            must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"a\" must set \
            securityContext.runAsNonRoot=true), seccompProfile (pod or container \"a\" must set \
            securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        )
    );
    assert_eq!(refused.object["reason"], "Forbidden");
    let good = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "a", "image": "i", "securityContext":
            {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
    let made = post(
        &cluster,
        "/api/v1/namespaces/strict/pods",
        pod("good", good),
    )
    .await;
    assert_eq!((made.code, made.warnings.len()), (201, 0), "{made:?}");

    let template = json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"hostNetwork": true, "containers": [{"name": "a", "image": "i"}]}}}});
    let made = post(
        &cluster,
        "/apis/apps/v1/namespaces/strict/deployments",
        template,
    )
    .await;
    assert_eq!(made.code, 201);
    assert_eq!(made.warnings.len(), 1);
    let warning = &made.warnings[0];
    assert!(
        warning.starts_with("299 - \"would violate PodSecurity \\\"restricted:latest\\\": host namespaces (hostNetwork=true), allow"),
        "{warning}"
    );
}

#[tokio::test]
async fn labels_are_checked_and_existing_pods_told() {
    let cluster = TestCluster::start().await.unwrap();
    let (code, message) = namespace(&cluster, "bad", json!({ENFORCE: "none"})).await;
    assert_eq!(
        (code, message.as_str()),
        (
            422,
            "Namespace \"bad\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"none\": \
            must be one of privileged, baseline, restricted"
        )
    );
    namespace(&cluster, "team", json!({})).await;
    let (pods, host) = ("/api/v1/namespaces/team/pods", json!({"hostPID": true}));
    for name in ["b", "a"] {
        assert_eq!(
            post(&cluster, pods, pod(name, host.clone())).await.code,
            201
        );
    }
    let labelled = patch(
        &cluster,
        "/api/v1/namespaces/team",
        json!({"metadata": {"labels": {ENFORCE: "baseline"}}}),
    )
    .await;
    assert_eq!(
        labelled.warnings,
        [
            "299 - \"existing pods in namespace \\\"team\\\" violate the new PodSecurity enforce level \\\"baseline:latest\\\"\"",
            "299 - \"a (and 1 other pod): host namespaces\"",
        ]
    );
    // What is there stays and may change, but no other comes.
    let kept = patch(
        &cluster,
        &format!("{pods}/a"),
        json!({"metadata": {"labels": {"x": "y"}}}),
    )
    .await;
    assert_eq!(kept.code, 200);
    let mut image = kept.object;
    image["spec"]["containers"][0]["image"] = "other".into();
    let changed = send(&cluster, http::Method::PUT, &format!("{pods}/a"), &image).await;
    assert_eq!(
        changed.error(),
        (
            403,
            "pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"
        )
    );
    assert_eq!(post(&cluster, pods, pod("c", host)).await.code, 403);
}
