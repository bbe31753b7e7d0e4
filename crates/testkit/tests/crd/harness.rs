//! Requests as clients make them, and definitions to begin with.

use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Request};
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;
use skiff_testkit::TestCluster;
use tower::ServiceExt;

/// An answer.
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    pub fn ok(self) -> Value {
        assert!(
            (200..300).contains(&self.code),
            "{} {}",
            self.code,
            self.text
        );
        self.body
    }

    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or(&self.text)
    }

    pub fn warnings(&self) -> Vec<String> {
        let all = self.headers.get_all("warning").iter();
        all.map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }
}

/// One request with headers; a body that is a JSON string is sent as that text.
pub async fn send(
    cluster: &TestCluster,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let text = match body {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let user = UserInfo::new("admin", &["system:masters", "system:authenticated"]);
    let service = cluster.server.in_process(user);
    let request = request.body(Body::from(text)).unwrap();
    let response = service.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    Answer {
        code: parts.status.as_u16(),
        headers: parts.headers,
        body: serde_json::from_slice(&bytes).unwrap_or_default(),
        text: String::from_utf8_lossy(&bytes).into_owned(),
    }
}

pub async fn get(cluster: &TestCluster, path: &str) -> Answer {
    send(cluster, "GET", path, &[], &Value::Null).await
}

pub async fn post(cluster: &TestCluster, path: &str, body: &Value) -> Answer {
    send(cluster, "POST", path, &[], body).await
}

pub async fn put(cluster: &TestCluster, path: &str, body: &Value) -> Answer {
    send(cluster, "PUT", path, &[], body).await
}

pub async fn delete(cluster: &TestCluster, path: &str) -> Answer {
    send(cluster, "DELETE", path, &[], &Value::Null).await
}

pub async fn merge(cluster: &TestCluster, path: &str, body: &Value) -> Answer {
    let kind = [("content-type", "application/merge-patch+json")];
    send(cluster, "PATCH", path, &kind, body).await
}

pub const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A definition of `plural` in `group` with these versions.
pub fn definition(group: &str, plural: &str, kind: &str, versions: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced", "versions": versions,
            "names": {"plural": plural, "kind": kind},
        },
    })
}

/// The one version of a definition.
pub fn version(schema: Value) -> Value {
    json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}})
}

/// Makes a definition and waits until it is established.
pub async fn install(cluster: &TestCluster, crd: &Value) {
    post(cluster, CRDS, crd).await.ok();
    let name = crd["metadata"]["name"].as_str().unwrap();
    until(cluster, &format!("{CRDS}/{name}"), |body| {
        condition(body, "Established") == "True"
    })
    .await;
}

pub fn condition<'a>(crd: &'a Value, kind: &str) -> &'a str {
    let conditions = crd["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind)
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or_default()
}

/// Asks until the answer is as wanted.
pub async fn until(cluster: &TestCluster, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..500 {
        let answer = get(cluster, path).await;
        if wanted(&answer.body) {
            return answer.body;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path}: {}", get(cluster, path).await.text);
}

/// Waits until nothing is there.
pub async fn gone(cluster: &TestCluster, path: &str) {
    for _ in 0..500 {
        if get(cluster, path).await.code == 404 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still there: {path}");
}
