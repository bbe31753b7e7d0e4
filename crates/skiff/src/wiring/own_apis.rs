//! The aggregated APIs that are built in: reached through aggregation, answered within the process.

use std::sync::Arc;

use axum::body::Body;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;
use skiff_apiserver::ApiServer;
use skiff_controllers::metrics_server::{self, MetricsServer};
use skiff_scheduler::explain::Explainer;
use skiff_scheduler::explain_api;

use super::{Context, identity};

const NAMESPACE: &str = "kube-system";

/// `metrics.k8s.io`: what nodes and pods use.
pub(crate) fn serve_metrics(server: &Arc<ApiServer>, context: &Context) {
    let client = identity::client(server, identity::kube_system(metrics_server::NAME));
    let metrics = MetricsServer::new(client, context.clock.clone());
    let answer = move |request: Request<Incoming>| {
        let metrics = metrics.clone();
        Box::pin(async move {
            let (method, uri) = (request.method(), request.uri());
            let query = uri.query().unwrap_or_default();
            respond(metrics.answer(method.as_str(), uri.path(), query).await)
        }) as _
    };
    server.stand_in_for(NAMESPACE, metrics_server::NAME, Arc::new(answer));
}

/// `scheduling.skiff.local`: why pods are pending.
pub(crate) fn serve_explanations(server: &Arc<ApiServer>, explainer: Explainer) {
    let answer = move |request: Request<Incoming>| {
        let accept = request.headers().get(ACCEPT);
        let table = accept.and_then(|accept| accept.to_str().ok());
        let table = table.is_some_and(|accept| accept.contains("as=Table"));
        let (method, path) = (request.method().as_str(), request.uri().path());
        let answer = respond(explain_api::answer(&explainer, method, path, table));
        Box::pin(async move { answer }) as _
    };
    server.stand_in_for(NAMESPACE, explain_api::SERVICE, Arc::new(answer));
}

fn respond((code, body): (u16, Value)) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
