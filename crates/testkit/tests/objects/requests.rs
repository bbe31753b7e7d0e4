//! Plain requests, with the code, the warnings and the object of their answers.

use http::{Method, Request};
use serde_json::Value;
use skiff_testkit::TestCluster;
use tower::Service;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub warnings: Vec<String>,
    pub object: Value,
}

impl Answer {
    /// The code and the message of an error.
    pub fn error(&self) -> (u16, &str) {
        (
            self.code,
            self.object["message"].as_str().unwrap_or_default(),
        )
    }
}

/// Sends JSON as the administrator.
pub async fn send(cluster: &TestCluster, method: Method, path: &str, body: &Value) -> Answer {
    let content = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let user = skiff_apiserver::UserInfo::new("admin", &["system:masters"]);
    let mut service = cluster.server.in_process(user);
    let body = match body {
        Value::Null => Vec::new(),
        body => body.to_string().into_bytes(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Content-Type", content)
        .body(axum::body::Body::from(body))
        .unwrap();
    let answer = service.call(request).await.unwrap();
    let code = answer.status().as_u16();
    let warnings = answer
        .headers()
        .get_all("Warning")
        .iter()
        .map(|value| value.to_str().unwrap().to_owned())
        .collect();
    let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX)
        .await
        .unwrap();
    Answer {
        code,
        warnings,
        object: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    }
}

/// Makes an object.
pub async fn post(cluster: &TestCluster, path: &str, body: Value) -> Answer {
    send(cluster, Method::POST, path, &body).await
}

/// Changes an object by a merge patch.
pub async fn patch(cluster: &TestCluster, path: &str, body: Value) -> Answer {
    send(cluster, Method::PATCH, path, &body).await
}

/// Reads an object.
pub async fn get(cluster: &TestCluster, path: &str) -> Answer {
    send(cluster, Method::GET, path, &Value::Null).await
}
