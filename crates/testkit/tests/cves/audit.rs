//! Audit as it is written to its log.

use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt as _;
use http::Request;
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;
use skiff_apiserver::audit::{Audit, AuditSettings, BackendSettings, LogSettings};
use skiff_base::{Shutdown, SystemClock};
use skiff_testkit::TestCluster;
use tower::ServiceExt as _;

use crate::asking::{admin, ask, send};

struct Fixture {
    cluster: TestCluster,
    log: PathBuf,
    _directory: tempfile::TempDir,
}

async fn fixture(rules: &str) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let (policy, log) = (
        directory.path().join("policy"),
        directory.path().join("audit.log"),
    );
    let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}");
    std::fs::write(&policy, text).unwrap();
    let file = LogSettings {
        path: log.clone(),
        ..LogSettings::default()
    };
    let settings = AuditSettings {
        policy_file: Some(policy),
        log: Some((file, BackendSettings::log())),
        webhook: None,
    };
    let cluster = TestCluster::start().await.unwrap();
    let audit = Audit::start(&settings, SystemClock::shared(), &Shutdown::new());
    cluster.server.set_audit(audit.unwrap().unwrap());
    Fixture {
        cluster,
        log,
        _directory: directory,
    }
}

impl Fixture {
    fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The events since the last call, once there are so many.
    async fn next(&self, seen: &mut usize, count: usize) -> Vec<Value> {
        for _ in 0..500 {
            if self.events().len() >= *seen + count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let events = self.events().split_off(*seen);
        assert_eq!(events.len(), count, "{events:#?}");
        *seen += count;
        events
    }
}

const ALL: &str = r#"
rules:
- {level: None, resources: [{group: "", resources: [namespaces]}]}
- {level: Metadata, resources: [{group: "", resources: [secrets]}]}
- {level: Request, resources: [{group: apps}]}
- {level: RequestResponse, resources: [{group: ""}], omitStages: [RequestReceived], omitManagedFields: true}
- {level: Metadata, omitStages: [RequestReceived]}
"#;

#[tokio::test]
async fn events_hold_what_their_level_says() {
    let f = fixture(ALL).await;
    let (server, mut seen) = (&f.cluster.server, 0);
    ask(server, "GET", "/api/v1/namespaces", &Value::Null).await;
    let made = json!({"metadata": {"name": "m"}, "data": {"a": "b"}});
    let path = "/api/v1/namespaces/default/configmaps";
    let answer = ask(server, "POST", path, &made).await;
    let events = f.next(&mut seen, 1).await;
    let event = &events[0];
    assert_eq!(event["level"], "RequestResponse");
    assert_eq!(event["stage"], "ResponseComplete");
    assert_eq!(event["verb"], "create");
    assert_eq!(event["requestURI"], path);
    assert_eq!(
        event["user"],
        json!({"username": "admin", "groups": ["system:masters", "system:authenticated"]})
    );
    assert_eq!(event["sourceIPs"], json!(["127.0.0.1"]));
    assert_eq!(event["userAgent"], "asking/1");
    assert_eq!(
        event["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "name": "m", "apiVersion": "v1"})
    );
    assert_eq!(
        event["responseStatus"],
        json!({"metadata": {}, "code": 201})
    );
    assert_eq!(event["requestObject"], made);
    assert_eq!(event["responseObject"]["data"], json!({"a": "b"}));
    assert!(event["responseObject"]["metadata"]["uid"].is_string());
    assert!(
        event["responseObject"]["metadata"]
            .get("managedFields")
            .is_none()
    );
    assert_eq!(
        event["annotations"],
        json!({"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""})
    );
    assert_eq!(
        answer.headers["audit-id"],
        event["auditID"].as_str().unwrap()
    );

    // Metadata: two stages, and no secret.
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    ask(
        server,
        "POST",
        "/api/v1/namespaces/default/secrets",
        &secret,
    )
    .await;
    let events = f.next(&mut seen, 2).await;
    assert_eq!(
        (&events[0]["stage"], &events[1]["stage"]),
        (&json!("RequestReceived"), &json!("ResponseComplete"))
    );
    assert_eq!(events[0]["auditID"], events[1]["auditID"]);
    assert!(events[0].get("responseStatus").is_none());
    assert_eq!(events[1]["objectRef"]["name"], "s");
    assert!(!std::fs::read_to_string(&f.log).unwrap().contains("hunter2"));

    // Request: what was asked, not what was answered. Failures carry their status.
    let patch = json!({"spec": {"replicas": 3}});
    ask(
        server,
        "PATCH",
        "/apis/apps/v1/namespaces/default/deployments/none",
        &Value::Null,
    )
    .await;
    f.next(&mut seen, 2).await;
    let request = Request::builder()
        .method("PATCH")
        .uri("/apis/apps/v1/namespaces/default/deployments/none")
        .header("content-type", "application/merge-patch+json")
        .header("audit-id", "my-own")
        .body(Body::from(patch.to_string()))
        .unwrap();
    send(server, admin(), request).await;
    let events = f.next(&mut seen, 2).await;
    assert_eq!(events[1]["auditID"], "my-own");
    assert_eq!(events[1]["requestObject"], patch);
    assert!(events[1].get("responseObject").is_none());
    let status = &events[1]["responseStatus"];
    assert_eq!(
        (&status["code"], &status["reason"], &status["status"]),
        (&json!(404), &json!("NotFound"), &json!("Failure"))
    );
    assert_eq!(status["details"]["name"], "none");
}

#[tokio::test]
async fn refusals_impersonation_and_strangers_are_recorded() {
    let f = fixture("rules: [{level: Metadata}]\nomitStages: [RequestReceived]").await;
    let (server, mut seen) = (&f.cluster.server, 0);
    let get = |headers: &[(&str, &str)]| {
        let mut request = Request::builder().uri("/api/v1/namespaces/default/pods/a");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    };
    send(
        server,
        UserInfo::new("bob", &["system:authenticated"]),
        get(&[]),
    )
    .await;
    let events = f.next(&mut seen, 1).await;
    assert_eq!(
        events[0]["annotations"]["authorization.k8s.io/decision"],
        "forbid"
    );
    assert_eq!(events[0]["responseStatus"]["code"], 403);

    send(
        server,
        admin(),
        get(&[
            ("impersonate-user", "eve"),
            ("x-forwarded-for", "9.9.9.9, 8.8.8.8"),
        ]),
    )
    .await;
    let events = f.next(&mut seen, 1).await;
    assert_eq!(events[0]["user"]["username"], "admin");
    assert_eq!(events[0]["impersonatedUser"]["username"], "eve");
    assert_eq!(
        events[0]["sourceIPs"],
        json!(["9.9.9.9", "8.8.8.8", "127.0.0.1"])
    );

    // From the network, with a token that nobody knows.
    struct Nobody;
    #[async_trait::async_trait]
    impl skiff_apiserver::Authenticator for Nobody {
        async fn authenticate(
            &self,
            _: &http::request::Parts,
            _: Option<&skiff_apiserver::PeerCertificates>,
        ) -> Result<Option<std::sync::Arc<UserInfo>>, skiff_apiserver::AuthnError> {
            Ok(None)
        }
    }
    server.set_authenticator(std::sync::Arc::new(Nobody));
    let response = server
        .service()
        .oneshot(get(&[("authorization", "Bearer secret-token")]))
        .await
        .unwrap();
    assert_eq!(response.status(), 401);
    let events = f.next(&mut seen, 1).await;
    assert_eq!(events[0]["stage"], "ResponseStarted");
    assert_eq!(
        events[0]["responseStatus"]["message"],
        "Authentication failed, attempted: bearer"
    );
    assert!(
        !std::fs::read_to_string(&f.log)
            .unwrap()
            .contains("secret-token")
    );
}

#[tokio::test]
async fn a_watch_starts_and_ends() {
    let f = fixture("rules: [{level: Metadata}]").await;
    let mut seen = 0;
    let request = Request::get("/api/v1/configmaps?watch=1")
        .body(Body::empty())
        .unwrap();
    let response = f
        .cluster
        .server
        .in_process(admin())
        .oneshot(request)
        .await
        .unwrap();
    let events = f.next(&mut seen, 2).await;
    assert_eq!(events[0]["stage"], "RequestReceived");
    assert_eq!(events[1]["stage"], "ResponseStarted");
    assert_eq!(events[1]["verb"], "watch");
    let mut body = response.into_body().into_data_stream();
    let made = json!({"metadata": {"name": "m"}});
    ask(
        &f.cluster.server,
        "POST",
        "/api/v1/namespaces/default/configmaps",
        &made,
    )
    .await;
    body.next().await.unwrap().unwrap();
    f.next(&mut seen, 2).await;
    drop(body);
    let events = f.next(&mut seen, 1).await;
    assert_eq!(
        (&events[0]["stage"], &events[0]["verb"]),
        (&json!("ResponseComplete"), &json!("watch"))
    );
    assert_eq!(events[0]["responseStatus"]["code"], 200);
}
