//! What a service that judges images is asked about.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::routing::post;
use http::Request;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_apiserver::audit::{Audit, AuditSettings, BackendSettings, LogSettings};
use skiff_apiserver::{AdmissionChain, ApiServerConfig};
use skiff_base::{Shutdown, SystemClock};
use skiff_testkit::{HttpsServer, TestCluster, TestOptions};

use crate::asking::{Answer, admin, ask, send};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A service that refuses images called `bad`, and a cluster that asks it.
struct Judged {
    cluster: TestCluster,
    asked: Arc<Mutex<Vec<Value>>>,
    service: Option<HttpsServer>,
    directory: tempfile::TempDir,
}

async fn judged(default_allow: bool) -> Judged {
    let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
    let seen = asked.clone();
    let judge = move |Json(review): Json<Value>| async move {
        let images = review["spec"]["containers"].as_array().unwrap().clone();
        let bad = images.iter().any(|image| image["image"] == "bad");
        seen.lock().push(review);
        Json(
            json!({"apiVersion": "imagepolicy.k8s.io/v1alpha1", "kind": "ImageReview", "status": {
            "allowed": !bad, "reason": if bad { "it is bad" } else { "" },
            "auditAnnotations": {"looked-at": images.len().to_string()}}}),
        )
    };
    let routes = axum::Router::new().route("/images", post(judge));
    let service = HttpsServer::start(&["127.0.0.1"], routes).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    std::fs::write(file("ca.crt"), &service.certificate_pem).unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://{}/images", service.address), "certificate-authority": file("ca.crt")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(file("kubeconfig"), kubeconfig.to_string()).unwrap();
    let plugin = json!({"ImagePolicyWebhook": {"imagePolicy": {
        "kubeConfigFile": file("kubeconfig"), "allowTTL": 50, "denyTTL": -1, "retryBackoff": 1,
        "defaultAllow": default_allow}}});
    let plugin = serde_json::from_value(plugin).unwrap();
    let admission = AdmissionChain::new(&["ImagePolicyWebhook".to_owned()], &[], &plugin).unwrap();
    let config = ApiServerConfig {
        admission,
        ..ApiServerConfig::default()
    };
    let options = TestOptions {
        config,
        ..TestOptions::default()
    };
    let cluster = TestCluster::start_with(options).await.unwrap();
    std::fs::write(
        file("policy"),
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n",
    )
    .unwrap();
    let log = LogSettings {
        path: file("audit.log"),
        ..LogSettings::default()
    };
    let settings = AuditSettings {
        policy_file: Some(file("policy")),
        log: Some((log, BackendSettings::log())),
        webhook: None,
    };
    let audit = Audit::start(&settings, SystemClock::shared(), &Shutdown::new());
    cluster.server.set_audit(audit.unwrap().unwrap());
    Judged {
        cluster,
        asked,
        service: Some(service),
        directory,
    }
}

impl Judged {
    async fn make(&self, name: &str, image: &str) -> Answer {
        let pod = json!({
            "metadata": {"name": name, "annotations": {"mine.image-policy.k8s.io/ticket": "7", "other": "x"}},
            "spec": {"containers": [{"name": "c", "image": image}],
                "initContainers": [{"name": "i", "image": "first"}]}});
        ask(&self.cluster.server, "POST", PODS, &pod).await
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("audit.log")).unwrap_or_default()
    }

    async fn audited(&self, what: &str) {
        for _ in 0..500 {
            if self.log().contains(what) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never recorded: {what}: {}", self.log());
    }
}

/// CVE-2023-2727: images of ephemeral containers were not judged.
#[tokio::test]
async fn cve_2023_2727_images_of_ephemeral_containers_are_judged() {
    let judged = judged(false).await;
    let made = judged.make("p", "good").await;
    assert_eq!(made.code, 201, "{}", made.text);
    let add = async |image: &str| {
        let body = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": image}]}});
        let request = Request::patch(format!("{PODS}/p/ephemeralcontainers"))
            .header("content-type", "application/strategic-merge-patch+json")
            .body(body.to_string().into())
            .unwrap();
        send(&judged.cluster.server, admin(), request).await
    };
    let refused = add("bad").await;
    assert_eq!(
        (refused.code, refused.message().as_str()),
        (
            403,
            "pods \"p\" is forbidden: image policy webhook backend denied one or more images: it is bad"
        )
    );
    assert_eq!(add("fine").await.code, 200);
    let last = judged.asked.lock().last().unwrap().clone();
    assert_eq!(last["spec"]["containers"], json!([{"image": "fine"}]));
}

#[tokio::test]
async fn images_are_judged_once_and_the_judgement_is_recorded() {
    let judged = judged(false).await;
    assert_eq!(judged.make("a", "good").await.code, 201);
    assert_eq!(judged.make("b", "good").await.code, 201);
    let asked = judged.asked.lock().clone();
    assert_eq!(asked.len(), 1, "the answer is kept");
    assert_eq!(
        (
            &asked[0]["apiVersion"],
            &asked[0]["kind"],
            &asked[0]["spec"]
        ),
        (
            &json!("imagepolicy.k8s.io/v1alpha1"),
            &json!("ImageReview"),
            &json!({
            "containers": [{"image": "good"}, {"image": "first"}],
            "annotations": {"mine.image-policy.k8s.io/ticket": "7"}, "namespace": "default"})
        )
    );
    for _ in 0..2 {
        assert_eq!(judged.make("c", "bad").await.code, 403);
    }
    assert_eq!(judged.asked.lock().len(), 3, "refusals are not kept here");
    judged
        .audited("\"imagepolicywebhook.image-policy.k8s.io/looked-at\":\"2\"")
        .await;
}

#[tokio::test]
async fn without_the_judge_the_configuration_decides() {
    let mut closed = judged(false).await;
    closed.service = None;
    let refused = closed.make("p", "good").await;
    assert_eq!(refused.code, 403, "{}", refused.text);
    assert!(
        refused
            .message()
            .starts_with("pods \"p\" is forbidden: Post \"https://127.0.0.1:"),
        "{}",
        refused.message()
    );
    let mut open = judged(true).await;
    open.service = None;
    let made = open.make("p", "good").await;
    assert_eq!(made.code, 201, "{}", made.text);
    let stored: Value = serde_json::from_str(&made.text).unwrap();
    assert_eq!(
        stored["metadata"]["annotations"],
        json!({"alpha.image-policy.k8s.io/failed-open": "true", "mine.image-policy.k8s.io/ticket": "7", "other": "x"})
    );
    open.audited("\"imagepolicywebhook.image-policy.k8s.io/failed-open\":\"true\"")
        .await;
}
