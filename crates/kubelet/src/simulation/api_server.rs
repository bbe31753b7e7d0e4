//! A very small API server behind a `kube::Client`: paths, lists, watches, and no rules at all.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::simulation::fake_cluster::merge;

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>;

/// Resource, namespace, name.
type Key = (String, String, String);

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    /// Everything that ever changed: key, kind of event, object.
    history: Vec<(Key, &'static str, Value)>,
}

#[derive(Clone)]
pub struct ApiServer {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<usize>,
}

struct Route {
    resource: String,
    namespace: String,
    name: String,
    subresource: String,
}

fn route(path: &str) -> Route {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let skip = if parts[0] == "api" { 2 } else { 3 };
    let mut rest = parts[skip..].iter().map(|s| (*s).to_owned());
    let mut first = rest.next().unwrap_or_default();
    let mut namespace = String::new();
    if first == "namespaces" {
        namespace = rest.next().unwrap_or_default();
        first = rest.next().unwrap_or_default();
    }
    Route {
        resource: first,
        namespace,
        name: rest.next().unwrap_or_default(),
        subresource: rest.next().unwrap_or_default(),
    }
}

fn json_answer(code: StatusCode, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string()));
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(body.boxed_unsync())
        .unwrap()
}

fn not_found(name: &str) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": format!("{name} not found")});
    json_answer(StatusCode::NOT_FOUND, &status)
}

impl ApiServer {
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
            changes: watch::Sender::new(0),
        }
    }

    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.handle(request).await) }
        });
        Client::new(service, "default")
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.state.lock().objects.get(&key).cloned()
    }

    pub fn list(&self, resource: &str) -> Vec<Value> {
        let state = self.state.lock();
        let all = state.objects.iter().filter(|(key, _)| key.0 == resource);
        all.map(|(_, object)| object.clone()).collect()
    }

    pub fn put(&self, resource: &str, mut object: Value) -> Value {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let meta = &object["metadata"];
        let key = (
            resource.to_owned(),
            text(&meta["namespace"]),
            text(&meta["name"]),
        );
        let mut state = self.state.lock();
        let version = state.history.len() + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", key.2));
        }
        let known = state.objects.insert(key.clone(), object.clone());
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        state.history.push((key, kind, object.clone()));
        self.changes.send_replace(version);
        object
    }

    fn delete(&self, key: &Key) -> Option<Value> {
        let mut state = self.state.lock();
        let mut object = state.objects.remove(key)?;
        let version = state.history.len() + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        state.history.push((key.clone(), "DELETED", object.clone()));
        self.changes.send_replace(version);
        Some(object)
    }

    async fn handle(&self, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let route = route(head.uri.path());
        let query = head.uri.query().unwrap_or_default();
        let key = (
            route.resource.clone(),
            route.namespace.clone(),
            route.name.clone(),
        );
        match head.method {
            Method::GET if route.name.is_empty() => self.collection(&route, query),
            Method::GET => match self.state.lock().objects.get(&key) {
                Some(object) => json_answer(StatusCode::OK, object),
                None => not_found(&route.name),
            },
            Method::POST if route.subresource == "token" => {
                let mut answer = body;
                answer["status"] =
                    json!({"token": "secret-token", "expirationTimestamp": "2030-01-01T00:00:00Z"});
                json_answer(StatusCode::CREATED, &answer)
            }
            Method::POST => {
                let mut object = body;
                if !route.namespace.is_empty() {
                    object["metadata"]["namespace"] = json!(route.namespace);
                }
                json_answer(StatusCode::CREATED, &self.put(&route.resource, object))
            }
            Method::PUT => json_answer(StatusCode::OK, &self.put(&route.resource, body)),
            Method::PATCH => self.patch(&key, &body),
            Method::DELETE => match self.delete(&key) {
                Some(object) => json_answer(StatusCode::OK, &object),
                None => not_found(&route.name),
            },
            _ => not_found("method"),
        }
    }

    fn patch(&self, key: &Key, patch: &Value) -> Answer {
        let Some(mut object) = self.state.lock().objects.get(key).cloned() else {
            return not_found(&key.2);
        };
        if patch["status"].is_object() {
            if object["status"].is_null() {
                object["status"] = json!({});
            }
            merge(&mut object["status"], &patch["status"]);
        }
        json_answer(StatusCode::OK, &self.put(&key.0, object))
    }

    fn collection(&self, route: &Route, query: &str) -> Answer {
        let parameter = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let mut found = pairs.filter(|(key, _)| *key == name);
            found.next().map(|(_, value)| value.to_owned())
        };
        let selector = parameter("fieldSelector").unwrap_or_default();
        let wanted = selector
            .strip_prefix("metadata.name%3D")
            .map(ToOwned::to_owned);
        let (resource, namespace) = (route.resource.clone(), route.namespace.clone());
        let fits = move |key: &Key| {
            key.0 == resource
                && (namespace.is_empty() || key.1 == namespace)
                && wanted.as_ref().is_none_or(|name| key.2 == *name)
        };
        if parameter("watch").is_none_or(|watch| watch == "false") {
            let state = self.state.lock();
            let items = state.objects.iter().filter(|(key, _)| fits(key));
            let items: Vec<Value> = items.map(|(_, object)| object.clone()).collect();
            let version = state.history.len().to_string();
            let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items});
            return json_answer(StatusCode::OK, &list);
        }
        let from = parameter("resourceVersion")
            .and_then(|v| v.parse().ok())
            .unwrap_or(0);
        self.watch(from, fits)
    }

    fn watch(&self, from: usize, fits: impl Fn(&Key) -> bool + Send + 'static) -> Answer {
        let start = (self.clone(), self.changes.subscribe(), from, fits);
        let lines = futures::stream::unfold(start, |(server, mut changes, at, fits)| async move {
            let _ = changes.wait_for(|count| *count > at).await;
            let line = {
                let state = server.state.lock();
                let (key, kind, object) = &state.history[at];
                let event = json!({"type": kind, "object": object});
                if fits(key) {
                    format!("{event}\n")
                } else {
                    String::new()
                }
            };
            let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(line)));
            Some((frame, (server, changes, at + 1, fits)))
        });
        let lines = lines.filter(|frame| {
            let empty = matches!(frame, Ok(f) if f.data_ref().is_some_and(Bytes::is_empty));
            std::future::ready(!empty)
        });
        let body = StreamBody::new(lines).boxed_unsync();
        Response::builder()
            .header("content-type", "application/json")
            .body(body)
            .unwrap()
    }
}
