//! Marks the secret of a token that does not expire with the day of its last use.

use std::sync::Arc;

use axum::body::Body;
use http::{Request, StatusCode};
use serde_json::json;
use tower::ServiceExt as _;

use super::tokens::LAST_USED;
use crate::request::UserInfo;
use crate::server::ApiServer;

/// Writes the label. When that fails, the next request with the token tries again.
pub(crate) async fn mark(server: Arc<ApiServer>, namespace: String, name: String) {
    let day = server.now().strftime("%Y-%m-%d").to_string();
    let patch = json!({"metadata": {"labels": {LAST_USED: day}}});
    let request = Request::patch(format!("/api/v1/namespaces/{namespace}/secrets/{name}"))
        .header("content-type", "application/merge-patch+json")
        .header("user-agent", "kube-apiserver")
        .body(Body::from(patch.to_string()));
    let Ok(request) = request else { return };
    let own = UserInfo::new("system:apiserver", &["system:masters"]);
    // A boxed call: the handler of requests is what started us.
    let Ok(response) = server.in_process(own).oneshot(request).await;
    if response.status() != StatusCode::OK {
        let status = response.status().as_u16();
        tracing::debug!(
            namespace,
            name,
            status,
            "a token's secret was not marked as used"
        );
    }
}
