//! Admission policies on the wire: what they refuse and change, with which words.

use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;
use skiff_testkit::TestCluster;
use tower::ServiceExt;

#[path = "policies/mutating.rs"]
mod mutating;
#[path = "policies/validating.rs"]
mod validating;
#[path = "policies/written.rs"]
mod written;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// An answer: code, body, and warnings.
struct Answer {
    code: u16,
    body: Value,
    warnings: Vec<String>,
}

impl Answer {
    fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

struct World(TestCluster);

impl World {
    async fn start() -> Self {
        Self(TestCluster::start().await.unwrap())
    }

    async fn ask_as(&self, user: UserInfo, method: Method, path: &str, body: &Value) -> Answer {
        let patch = method == Method::PATCH;
        let content = if patch {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .body(axum::body::Body::from(body.to_string()))
            .unwrap();
        let response = self
            .0
            .server
            .in_process(user)
            .oneshot(request)
            .await
            .unwrap();
        let code = response.status().as_u16();
        let warnings = response
            .headers()
            .get_all("warning")
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Answer {
            code,
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
            warnings,
        }
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Answer {
        let admin = UserInfo::new("admin", &["system:masters", "system:authenticated"]);
        self.ask_as(admin, method, path, body).await
    }

    async fn made(&self, path: &str, body: &Value) -> Value {
        let answer = self.ask(Method::POST, path, body).await;
        assert_eq!(answer.code, 201, "{path}: {}", answer.body);
        answer.body
    }

    /// Makes a policy and a binding of it.
    async fn bind(&self, sort: &str, name: &str, spec: Value, binding: Value) {
        let policies = format!("{GROUP}/{sort}admissionpolicies");
        let policy = json!({"metadata": {"name": name}, "spec": spec});
        self.made(&policies, &policy).await;
        let mut spec = binding;
        spec["policyName"] = name.into();
        let binding = json!({"metadata": {"name": format!("{name}-binding")}, "spec": spec});
        self.made(&format!("{GROUP}/{sort}admissionpolicybindings"), &binding)
            .await;
    }

    async fn try_out(&self, path: &str, body: &Value) -> Answer {
        let path = format!("{path}?dryRun=All");
        self.ask(Method::POST, &path, body).await
    }

    /// Tries out a creation until policies that were just made are in force.
    async fn until(&self, path: &str, body: &Value, wanted: impl Fn(&Answer) -> bool) -> Answer {
        for _ in 0..500 {
            let answer = self.try_out(path, body).await;
            if wanted(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let answer = self.try_out(path, body).await;
        panic!("not in force: {} {}", answer.code, answer.body);
    }

    async fn until_refused(&self, path: &str, body: &Value) -> Answer {
        self.until(path, body, |answer| answer.code >= 400).await
    }
}

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn deployment(name: &str, replicas: i64) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

fn config_map(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

fn rules(group: &str, resource: &str, operations: &[&str]) -> Value {
    json!({"resourceRules": [{"apiGroups": [group], "apiVersions": ["v1"], "operations": operations, "resources": [resource]}]})
}
