//! Who somebody is and what they may do, where it was once broken elsewhere: a test for each CVE.

use std::fmt::Write as _;
use std::sync::Arc;

use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;
use skiff_apiserver::authn::{Authentication, Tokens};
use skiff_apiserver::authz::Authorization;
use skiff_base::{Random, SystemClock};
use skiff_testkit::TestCluster;
use tower::ServiceExt as _;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

struct Asker {
    cluster: TestCluster,
    authorization: Arc<Authorization>,
}

fn admin() -> UserInfo {
    UserInfo::new("admin", &["system:masters", "system:authenticated"])
}

fn kubelet(node: &str) -> UserInfo {
    UserInfo::new(
        &format!("system:node:{node}"),
        &["system:nodes", "system:authenticated"],
    )
}

impl Asker {
    async fn new() -> Self {
        let cluster = TestCluster::start().await.unwrap();
        let (store, clock) = (cluster.store.clone(), SystemClock::shared());
        let authorization = Arc::new(Authorization::new(store, clock, Random::seeded(1)));
        cluster.server.set_authorizer(authorization.clone());
        Self {
            cluster,
            authorization,
        }
    }

    async fn ask(&self, user: UserInfo, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let content = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .body(http_body_util::Full::new(bytes::Bytes::from(
                body.to_string(),
            )))
            .unwrap();
        let service = self.cluster.server.in_process(user);
        let answer = service.oneshot(request).await.unwrap();
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// As the administrator; must succeed.
    async fn make(&self, path: &str, body: Value) -> Value {
        let (code, made) = self.ask(admin(), "POST", path, &body).await;
        assert!(code < 300, "{path}: {made}");
        made
    }

    async fn refused(&self, user: UserInfo, method: &str, path: &str, body: &Value, why: &str) {
        let (code, answer) = self.ask(user, method, path, body).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert_eq!(code, 403, "{method} {path}: {answer}");
        assert!(message.contains(why), "{message}");
    }
}

async fn with_node() -> (Asker, Value) {
    let asker = Asker::new().await;
    let node = json!({"metadata": {"name": "n1", "labels": {"team": "a"}}});
    let node = asker.make("/api/v1/nodes", node).await;
    asker.authorization.load().await.unwrap();
    (asker, node)
}

/// A kubelet that relabels its node would draw pods to it that are not for it, by whichever path it writes.
#[tokio::test]
async fn cve_2021_25735_a_kubelet_does_not_relabel_its_node() {
    let (asker, node) = with_node().await;
    let label = "node-restriction.kubernetes.io/zone";
    let patch = json!({"metadata": {"labels": {label: "secret"}}});
    let why = "is not allowed to modify labels: node-restriction.kubernetes.io/zone";
    for path in ["/api/v1/nodes/n1", "/api/v1/nodes/n1/status"] {
        asker
            .refused(kubelet("n1"), "PATCH", path, &patch, why)
            .await;
        let mut whole = node.clone();
        whole["metadata"]["labels"][label] = "secret".into();
        asker.refused(kubelet("n1"), "PUT", path, &whole, why).await;
    }
    let role = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
    let why = "is not allowed to modify labels: node-role.kubernetes.io/control-plane";
    let path = "/api/v1/nodes/n1";
    asker
        .refused(kubelet("n1"), "PATCH", path, &role, why)
        .await;
    let taints = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    let why = "node \"n1\" is not allowed to modify taints";
    asker
        .refused(kubelet("n1"), "PATCH", path, &taints, why)
        .await;
    // What is its own it may write, and another kubelet may write nothing of it.
    let own = json!({"metadata": {"labels": {"team": "b", "kubelet.kubernetes.io/x": "1"}}});
    let (code, answer) = asker.ask(kubelet("n1"), "PATCH", path, &own).await;
    assert_eq!(code, 200, "{answer}");
    let why = "node \"n2\" is not allowed to modify node \"n1\"";
    asker.refused(kubelet("n2"), "PATCH", path, &own, why).await;
}

fn mirror_pod(node: &Value, spec: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": "static-n1", "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "controller": true,
                "uid": node["metadata"]["uid"]}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

/// A kubelet that makes a mirror pod which names an object would get rights on the object.
#[tokio::test]
async fn cve_2025_4563_a_mirror_pod_names_no_resource_claim() {
    let (asker, node) = with_node().await;
    let pods = "/api/v1/namespaces/default/pods";
    for (spec, what) in [
        (
            json!({"resourceClaims": [{"name": "r", "resourceClaimName": "gpu"}]}),
            "resourceclaims",
        ),
        (json!({"imagePullSecrets": [{"name": "s"}]}), "secrets"),
        (
            json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}),
            "persistentvolumeclaims",
        ),
    ] {
        let why = format!("node \"n1\" can not create pods that reference {what}");
        let pod = mirror_pod(&node, spec);
        asker.refused(kubelet("n1"), "POST", pods, &pod, &why).await;
    }
    let mut foreign = mirror_pod(&node, json!({}));
    foreign["metadata"]["ownerReferences"][0]["uid"] = "another".into();
    let why = "node n1 UID mismatch: expected another got ";
    asker
        .refused(kubelet("n1"), "POST", pods, &foreign, why)
        .await;
    let mut plain = mirror_pod(&node, json!({}));
    plain["metadata"]["annotations"] = json!({});
    let why = "node \"n1\" can only create mirror pods";
    asker
        .refused(kubelet("n1"), "POST", pods, &plain, why)
        .await;
    let pod = mirror_pod(&node, json!({}));
    let (code, answer) = asker.ask(kubelet("n1"), "POST", pods, &pod).await;
    assert_eq!(code, 201, "{answer}");
}

/// A kubelet that gives its node an owner which does not exist would have the node collected, and come again without
/// the labels and taints that were put on it.
#[tokio::test]
async fn cve_2025_5187_a_kubelet_gives_its_node_no_owner() {
    let (asker, node) = with_node().await;
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "1"}]);
    let patch = json!({"metadata": {"ownerReferences": owner}});
    let why = "node \"n1\" is not allowed to modify ownerReferences";
    for path in ["/api/v1/nodes/n1", "/api/v1/nodes/n1/status"] {
        let (code, answer) = asker.ask(kubelet("n1"), "PATCH", path, &patch).await;
        // By the status, owners cannot be written at all.
        let kept = code == 200 && answer["metadata"]["ownerReferences"].is_null();
        let refused = code == 403 && answer["message"].as_str().is_some_and(|m| m.contains(why));
        assert!(kept || refused, "{path}: {answer}");
    }
    let mut whole = node;
    whole["metadata"]["ownerReferences"] = owner;
    let path = "/api/v1/nodes/n1";
    asker.refused(kubelet("n1"), "PUT", path, &whole, why).await;
    let why = "cannot delete resource \"nodes\"";
    asker
        .refused(kubelet("n1"), "DELETE", path, &Value::Null, why)
        .await;
}

async fn with_bounded_account() -> Asker {
    let asker = Asker::new().await;
    let account = json!({"metadata": {"name": "bounded",
        "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
        "secrets": [{"name": "own"}], "automountServiceAccountToken": false});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    asker.make(accounts, account).await;
    asker
}

fn bounded_pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"serviceAccountName": "bounded",
        "containers": [{"name": "c", "image": "i"}]}});
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

/// Containers added to a running pod name no secrets either that its account does not list.
#[tokio::test]
async fn cve_2023_2728_ephemeral_containers_keep_to_mountable_secrets() {
    let asker = with_bounded_account().await;
    let pods = "/api/v1/namespaces/default/pods";
    asker.make(pods, bounded_pod("p", json!({}))).await;
    let path = format!("{pods}/p/ephemeralcontainers");
    let container = |secret: &str| {
        json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i",
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}]}]}})
    };
    let why = "ephemeral container e with envVar A referencing secret.secretName=\"other\" is not allowed because service account bounded does not reference that secret";
    asker
        .refused(admin(), "PATCH", &path, &container("other"), why)
        .await;
    let (code, answer) = asker.ask(admin(), "PATCH", &path, &container("own")).await;
    assert_eq!(code, 200, "{answer}");
}

/// Nor do containers by way of `envFrom`.
#[tokio::test]
async fn cve_2024_3177_env_from_keeps_to_mountable_secrets() {
    let asker = with_bounded_account().await;
    let pods = "/api/v1/namespaces/default/pods";
    let from = |secret: &str| json!([{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": secret}}]}]);
    for (field, what) in [
        ("containers", "container c"),
        ("initContainers", "init container c"),
    ] {
        let mut spec = json!({"containers": [{"name": "m", "image": "i"}]});
        spec[field] = from("other");
        let why = format!(
            "{what} with envFrom referencing secret.secretName=\"other\" is not allowed because service account bounded does not reference that secret"
        );
        asker
            .refused(admin(), "POST", pods, &bounded_pod("p", spec), &why)
            .await;
    }
    asker
        .make(pods, bounded_pod("ok", json!({"containers": from("own")})))
        .await;
    let running = format!("{pods}/ok/ephemeralcontainers");
    let container = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i",
        "envFrom": [{"secretRef": {"name": "other"}}]}]}});
    let why = "ephemeral container e with envFrom referencing";
    asker
        .refused(admin(), "PATCH", &running, &container, why)
        .await;
}

/// `jane` holds every right in the namespace default, and none outside.
async fn with_jane() -> (Asker, UserInfo) {
    let asker = Asker::new().await;
    let all = json!({"metadata": {"name": "all"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    asker.make(&format!("{RBAC}/clusterroles"), all).await;
    let binding = json!({"metadata": {"name": "jane"}, "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "all"}});
    let path = format!("{RBAC}/namespaces/default/rolebindings");
    asker.make(&path, binding).await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}});
    asker
        .make("/api/v1/namespaces/kube-system/secrets", secret)
        .await;
    asker.authorization.load().await.unwrap();
    (asker, UserInfo::new("jane", &["system:authenticated"]))
}

/// A right in a namespace is none on cluster-scoped objects, whatever the path says.
#[tokio::test]
async fn cve_2019_11247_a_namespace_in_the_path_gives_no_cluster_scoped_object() {
    let (asker, jane) = with_jane().await;
    let definition =
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"});
    for (method, path) in [
        ("GET", format!("{RBAC}/namespaces/default/clusterroles/all")),
        ("GET", format!("{RBAC}/namespaces/default/clusterroles")),
        (
            "DELETE",
            format!("{RBAC}/namespaces/default/clusterroles/all"),
        ),
        ("GET", "/api/v1/namespaces/default/nodes".to_owned()),
        (
            "GET",
            "/api/v1/namespaces/default/persistentvolumes".to_owned(),
        ),
        (
            "POST",
            "/apis/apiextensions.k8s.io/v1/namespaces/default/customresourcedefinitions".to_owned(),
        ),
    ] {
        let (code, answer) = asker.ask(jane.clone(), method, &path, &definition).await;
        assert!(
            matches!(code, 403..=405),
            "{method} {path}: {code} {answer}"
        );
        assert!(
            answer["items"].is_null() && answer["rules"].is_null(),
            "{answer}"
        );
    }
    let (code, _) = asker
        .ask(
            admin(),
            "GET",
            &format!("{RBAC}/clusterroles/all"),
            &Value::Null,
        )
        .await;
    assert_eq!(code, 200);
}

/// A right on one place or type is none on another that a path leads to by tricks.
#[tokio::test]
async fn cve_2022_3162_no_path_leads_out_of_what_was_authorized() {
    let (asker, jane) = with_jane().await;
    for path in [
        "/api/v1/namespaces/default/../kube-system/secrets/s",
        "/api/v1/namespaces/default/secrets/..%2F..%2Fkube-system%2Fsecrets%2Fs",
        "/api/v1/namespaces/default%2F..%2Fkube-system/secrets/s",
        "/api/v1/namespaces/default/secrets/..%2Fkube-system%2Fs",
        "/api/v1/namespaces/default/configmaps/..%2F..%2Fsecrets%2Fkube-system%2Fs",
        "/api/v1/secrets/kube-system%2Fs",
        "/api/v1/namespaces/default%2F/secrets",
        "/api/v1/namespaces/%2E%2E/secrets",
        "/api/v1/namespaces/*/secrets",
        "/api/v1/namespaces/default/*",
        "/api/v1/namespaces/default/secrets/*",
        "//api/v1/namespaces/kube-system/secrets/s",
    ] {
        let (code, answer) = asker.ask(jane.clone(), "GET", path, &Value::Null).await;
        assert!(matches!(code, 301 | 400..=404), "{path}: {code} {answer}");
        assert!(answer["data"].is_null(), "{path}: {answer}");
        assert!(
            answer["items"].as_array().is_none_or(Vec::is_empty),
            "{path}: {answer}"
        );
    }
    let own = "/api/v1/namespaces/default/secrets";
    let (code, _) = asker.ask(jane, "GET", own, &Value::Null).await;
    assert_eq!(code, 200);
}

/// Secrets are compared in a time that tells nothing of them, wherever a token is compared.
#[test]
fn tokens_are_compared_in_constant_time() {
    for (name, source, secret) in [
        (
            "bootstrap tokens",
            include_str!("../../../apiserver/src/authn/bootstrap_token.rs"),
            "token-secret",
        ),
        (
            "tokens in secrets",
            include_str!("../../../apiserver/src/authn/tokens.rs"),
            "token.as_bytes()",
        ),
        (
            "the token file",
            include_str!("../../../apiserver/src/authn/token_file.rs"),
            "wanted",
        ),
    ] {
        let source = source.split("#[cfg(test)]").next().unwrap();
        assert!(source.contains("ct_eq("), "{name}");
        for line in source.lines().filter(|line| line.contains(secret)) {
            let plain = line.contains("==") || line.contains("!=");
            assert!(!plain || line.contains("ct_eq"), "{name}: {line}");
        }
    }
}

/// Gathers all that is logged, at every level.
struct Log(Arc<Mutex<String>>);

struct Fields<'a>(&'a mut String);

impl tracing::field::Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        span.record(&mut Fields(&mut self.0.lock()));
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut Fields(&mut self.0.lock()));
    }
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Fields(&mut self.0.lock()));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Good tokens and bad ones: none of them, and no part of them that would do, gets into the log or into an answer.
#[tokio::test]
async fn no_token_is_logged() {
    let log = Arc::new(Mutex::new(String::new()));
    let _guard = tracing::subscriber::set_default(Log(log.clone()));
    let asker = Asker::new().await;
    let (store, clock) = (asker.cluster.store.clone(), SystemClock::shared());
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let tokens = Tokens::new(&key, "https://issuer", store.clone(), clock.clone()).unwrap();
    let tokens = Arc::new(tokens);
    asker.cluster.server.set_token_issuer(tokens.clone());
    let authentication = Authentication::new(tokens, store, clock, true);
    asker
        .cluster
        .server
        .set_authenticator(Arc::new(authentication));
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let granted = asker.make(path, json!({"spec": {}})).await;
    let good = granted["status"]["token"].as_str().unwrap().to_owned();
    let mut forged: Vec<&str> = good.split('.').collect();
    let signature = forged[2].to_owned();
    forged[2] = "Zm9yZ2Vk";
    let forged = forged.join(".");
    for token in [
        good.as_str(),
        &forged,
        "abcdef.0123456789abcdef",
        "opaque-and-unknown",
    ] {
        let request = http::Request::get("/api/v1/namespaces/default/pods")
            .header("authorization", format!("Bearer {token}"))
            .body(http_body_util::Full::new(bytes::Bytes::new()))
            .unwrap();
        let answer = asker
            .cluster
            .server
            .service()
            .oneshot(request)
            .await
            .unwrap();
        let expected = if token == good { 403 } else { 401 };
        assert_eq!(answer.status().as_u16(), expected);
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(!String::from_utf8_lossy(&bytes).contains(token));
        let review = json!({"spec": {"token": token}});
        asker
            .make("/apis/authentication.k8s.io/v1/tokenreviews", review)
            .await;
    }
    let log = log.lock();
    assert!(log.contains("authentication failed"), "nothing was logged");
    for secret in [
        &good,
        &forged,
        &signature,
        "0123456789abcdef",
        "opaque-and-unknown",
    ] {
        assert!(!log.contains(secret), "a token was logged");
    }
}
