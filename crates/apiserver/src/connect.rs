//! Connections to kubelets, pods and services: logs, exec, attach, port-forward and proxies.

use std::sync::Arc;

use axum::body::Body;
use http::Response;
use skiff_api::{ApiError, ApiResult};

use crate::registry::Resource;
use crate::server::Call;

/// Answers a request for a subresource that is served by a kubelet, a pod or a service.
pub(crate) async fn answer(
    _call: Call,
    _resource: Arc<Resource>,
    _body: Body,
) -> ApiResult<Response<Body>> {
    Err(ApiError::no_such_path())
}
