//! Audit as its webhook gets it, and what webhooks and policies add to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Json;
use axum::routing::post;
use base64::Engine as _;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_apiserver::audit::{
    Audit, AuditSettings, BackendSettings, BatchSettings, Mode, WebhookSettings,
};
use skiff_base::{Shutdown, SystemClock};
use skiff_testkit::{HttpsServer, TestCluster};

use crate::asking::ask;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Recorded {
    cluster: TestCluster,
    /// The batches, each one an `EventList`.
    batches: Arc<Mutex<Vec<Value>>>,
    /// So many requests came.
    asked: Arc<AtomicUsize>,
    _service: HttpsServer,
    _directory: tempfile::TempDir,
}

/// A cluster whose audit webhook fails that many times first.
async fn recorded(mode: Mode, failures: usize) -> Recorded {
    let batches: Arc<Mutex<Vec<Value>>> = Arc::default();
    let asked: Arc<AtomicUsize> = Arc::default();
    let (kept, counted) = (batches.clone(), asked.clone());
    let take = move |Json(list): Json<Value>| async move {
        if counted.fetch_add(1, Ordering::SeqCst) < failures {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        kept.lock().push(list);
        StatusCode::OK
    };
    let routes = axum::Router::new().route("/audit", post(take));
    let service = HttpsServer::start(&["127.0.0.1"], routes).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    std::fs::write(file("ca.crt"), &service.certificate_pem).unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://{}/audit", service.address), "certificate-authority": file("ca.crt")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(file("kubeconfig"), kubeconfig.to_string()).unwrap();
    // Only what is recorded on arrival can be refused.
    let omitted = match mode {
        Mode::BlockingStrict => "",
        _ => "RequestReceived",
    };
    let policy = format!(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [{omitted}]\nrules:\n\
         - level: Metadata\n  resources: [{{group: \"\", resources: [configmaps]}}]\n- level: None\n"
    );
    std::fs::write(file("policy"), policy).unwrap();
    let backend = BackendSettings {
        mode,
        batch: BatchSettings {
            max_wait: Duration::from_millis(200),
            ..BackendSettings::webhook().batch
        },
        truncate: None,
    };
    let settings = AuditSettings {
        policy_file: Some(file("policy")),
        log: None,
        webhook: Some(WebhookSettings {
            config_file: file("kubeconfig"),
            initial_backoff: Duration::from_millis(5),
            backend,
        }),
    };
    let cluster = TestCluster::start().await.unwrap();
    let audit = Audit::start(&settings, SystemClock::shared(), &Shutdown::new());
    cluster.server.set_audit(audit.unwrap().unwrap());
    Recorded {
        cluster,
        batches,
        asked,
        _service: service,
        _directory: directory,
    }
}

impl Recorded {
    fn events(&self) -> Vec<Value> {
        let batches = self.batches.lock();
        let items = batches
            .iter()
            .flat_map(|list| list["items"].as_array().unwrap().clone());
        items.collect()
    }

    /// The events, once there are so many.
    async fn some(&self, count: usize) -> Vec<Value> {
        for _ in 0..1000 {
            let events = self.events();
            if events.len() >= count {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} events: {:?}", count, self.events());
    }

    async fn make(&self, name: &str) -> u16 {
        ask(
            &self.cluster.server,
            "POST",
            MAPS,
            &json!({"metadata": {"name": name}}),
        )
        .await
        .code
    }
}

#[tokio::test]
async fn a_webhook_gets_events_together_and_is_asked_again_when_it_fails() {
    let recorded = recorded(Mode::Batch, 2).await;
    for name in ["a", "b", "c"] {
        assert_eq!(recorded.make(name).await, 201);
    }
    let events = recorded.some(3).await;
    let names: Vec<&str> = events
        .iter()
        .map(|event| event["objectRef"]["name"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(names, ["a", "b", "c"], "once each, in order");
    assert!(
        recorded.asked.load(Ordering::SeqCst) >= 3,
        "two failures and a success"
    );
    let first = recorded.batches.lock()[0].clone();
    assert_eq!(
        (&first["kind"], &first["apiVersion"]),
        (&json!("EventList"), &json!("audit.k8s.io/v1"))
    );
    assert_eq!(first["items"].as_array().unwrap().len(), 3, "one batch");
    assert_eq!(
        (
            &events[0]["stage"],
            &events[0]["level"],
            &events[0]["verb"],
            &events[0]["responseStatus"]["code"]
        ),
        (
            &json!("ResponseComplete"),
            &json!("Metadata"),
            &json!("create"),
            &json!(201)
        )
    );
}

#[tokio::test]
async fn a_webhook_that_blocks_is_waited_for() {
    let recorded = recorded(Mode::Blocking, 0).await;
    assert_eq!(recorded.make("a").await, 201);
    assert_eq!(recorded.events().len(), 1, "before the answer");
}

#[tokio::test]
async fn what_cannot_be_recorded_is_refused_if_that_is_wanted() {
    let strict = recorded(Mode::BlockingStrict, usize::MAX).await;
    let body = json!({"metadata": {"name": "a"}});
    let refused = ask(&strict.cluster.server, "POST", MAPS, &body).await;
    assert_eq!(refused.code, 500, "{}", refused.text);
    assert!(
        refused.text.contains("failed to store audit event"),
        "{}",
        refused.text
    );
    let key = "/registry/configmaps/default/a";
    assert!(strict.cluster.store.get(key, None).await.unwrap().is_none());
    // Where it is not wanted, the request goes on.
    let lenient = recorded(Mode::Blocking, usize::MAX).await;
    assert_eq!(lenient.make("a").await, 201);
    // And where it can be recorded, both its arrival and its end are.
    let strict = recorded(Mode::BlockingStrict, 0).await;
    assert_eq!(strict.make("a").await, 201);
    let stages: Vec<Value> = strict
        .events()
        .iter()
        .map(|event| event["stage"].clone())
        .collect();
    assert_eq!(stages, ["RequestReceived", "ResponseComplete"]);
}

#[tokio::test]
async fn webhooks_and_policies_add_annotations() {
    let recorded = recorded(Mode::Blocking, 0).await;
    let server = &recorded.cluster.server;
    let answer = |Json(review): Json<Value>| async move {
        Json(
            json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": {
            "uid": review["request"]["uid"], "allowed": true, "auditAnnotations": {"seen": "yes"}}}),
        )
    };
    let routes = axum::Router::new().route("/", post(answer));
    let hook = HttpsServer::start(&["127.0.0.1"], routes).await.unwrap();
    let bundle = base64::engine::general_purpose::STANDARD.encode(&hook.certificate_pem);
    let webhook = json!({
        "name": "hook.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://{}/", hook.address), "caBundle": bundle},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
    });
    let registration = "/apis/admissionregistration.k8s.io/v1";
    let configuration = json!({"metadata": {"name": "hooks"}, "webhooks": [webhook]});
    let policy = json!({"metadata": {"name": "policy"}, "spec": {
        "matchConstraints": {"resourceRules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "validations": [{"expression": "false", "message": "never"}],
        "auditAnnotations": [{"key": "named", "valueExpression": "'it is ' + object.metadata.name"}]}});
    let binding = json!({"metadata": {"name": "binding"}, "spec": {"policyName": "policy", "validationActions": ["Audit"]}});
    for (plural, object) in [
        ("mutatingwebhookconfigurations", &configuration),
        ("validatingwebhookconfigurations", &configuration),
        ("validatingadmissionpolicies", &policy),
        ("validatingadmissionpolicybindings", &binding),
    ] {
        let made = ask(server, "POST", &format!("{registration}/{plural}"), object).await;
        assert_eq!(made.code, 201, "{}", made.text);
    }
    let wanted = [
        (
            "mutation.webhook.admission.k8s.io/round_0_index_0",
            json!({
            "configuration": "hooks", "webhook": "hook.example.com", "mutated": false})
            .to_string(),
        ),
        ("hook.example.com/seen", "yes".to_owned()),
        ("policy/named", "it is m".to_owned()),
    ];
    let mut last = Value::Null;
    for at in 0..300 {
        assert_eq!(recorded.make(&format!("m{at}")).await, 201);
        let event = recorded.events().pop().unwrap();
        last = event["annotations"].clone();
        let as_wanted = |(key, value): &(&str, String)| {
            let told = last[*key].as_str().unwrap_or_default();
            let read = |text: &str| serde_json::from_str::<Value>(text).ok();
            match read(value) {
                Some(value) => read(told) == Some(value),
                None => told.starts_with(value.as_str()),
            }
        };
        let failures = "validation.policy.admission.k8s.io/validation_failure";
        if wanted.iter().all(as_wanted) && last[failures].is_string() {
            let told: Value = serde_json::from_str(last[failures].as_str().unwrap()).unwrap();
            assert_eq!(
                (
                    &told[0]["message"],
                    &told[0]["policy"],
                    &told[0]["binding"],
                    &told[0]["validationActions"]
                ),
                (
                    &json!("never"),
                    &json!("policy"),
                    &json!("binding"),
                    &json!(["Audit"])
                )
            );
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{last}");
}
