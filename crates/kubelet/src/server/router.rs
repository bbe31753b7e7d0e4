//! The paths of the kubelet's server.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use kube::Client;
use serde_json::{Value, json};

use crate::manager::Manager;
use crate::server::authenticate::{self, Identity};
use crate::server::authorize::{self, Authorizer};
use crate::server::streams::StreamRuntime;
use crate::server::target::Refusal;
use crate::server::{container_logs, remote, summary};

/// What all requests share.
pub struct Shared {
    /// The pods.
    pub manager: Arc<Manager>,
    /// Asks whether clients may do what they ask for.
    pub authorizer: Authorizer,
    /// Reviews tokens.
    pub client: Client,
    /// Holds streams of containers.
    pub streams: Arc<dyn StreamRuntime>,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.code, self.message).into_response()
    }
}

type Server = State<Arc<Shared>>;
type Parameters = Query<HashMap<String, String>>;

/// The server's paths. A request carries the identity of its client certificate as an extension, if it has one.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(pods))
        .route("/runningpods/", get(pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs))
        .route("/stats/summary", get(stats))
        .route("/metrics/resource", get(resource_metrics))
        .route("/metrics/cadvisor", get(cadvisor_metrics))
        .merge(remote::routes())
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Lets nobody through whom the API server does not know, and nothing that they may not do.
async fn guard(State(shared): Server, request: Request, next: Next) -> Response {
    let known = match request.extensions().get::<Identity>() {
        Some(identity) => Some(identity.clone()),
        None => match bearer(&request) {
            Some(token) => authenticate::of_token(&shared.client, &token).await,
            None => None,
        },
    };
    let Some(identity) = known else {
        return (StatusCode::UNAUTHORIZED, "Unauthorized").into_response();
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if !shared.authorizer.allowed(&identity, &method, &path).await {
        let message = format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{}])\n",
            identity.user,
            authorize::verb(&method),
            authorize::subresource(&path)
        );
        return (StatusCode::FORBIDDEN, message).into_response();
    }
    next.run(request).await
}

fn bearer(request: &Request) -> Option<String> {
    let value = request.headers().get(header::AUTHORIZATION)?;
    let token = value.to_str().ok()?.strip_prefix("Bearer ")?;
    Some(token.trim().to_owned())
}

fn json_answer(value: &Value) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, value.to_string()).into_response()
}

async fn pods(State(shared): Server) -> Response {
    let pods = shared.manager.pods_with_status();
    json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}))
}

async fn logs(
    State(shared): Server,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Parameters,
) -> Result<http::Response<Body>, Refusal> {
    let names = (namespace.as_str(), pod.as_str(), container.as_str());
    container_logs::answer(&shared.manager, names, &query).await
}

async fn stats(State(shared): Server) -> Result<Response, Refusal> {
    let summary = summary::summary(shared.manager.context()).await;
    let summary = summary.map_err(|status| Refusal::internal(status.message()))?;
    Ok(json_answer(&summary))
}

async fn resource_metrics(State(shared): Server) -> Result<Response, Refusal> {
    samples(summary::resource_metrics(shared.manager.context()).await)
}

async fn cadvisor_metrics(State(shared): Server) -> Result<Response, Refusal> {
    samples(summary::cadvisor_metrics(shared.manager.context()).await)
}

fn samples(text: Result<String, tonic::Status>) -> Result<Response, Refusal> {
    let text = text.map_err(|status| Refusal::internal(status.message()))?;
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    Ok((kind, text).into_response())
}
